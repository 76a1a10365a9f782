"""LoRA in the folder of PEFT and out of it, with the real peft beside it.

Outputs are compared in float64, which holds the float32 of the folders exactly
and in which only the order of sums differs: 1e-10 of features of about 1.
"""

import copy
import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from safetensors.torch import load_file, save_file
from swins import FRAMEWORKS, VIT, VIT_ARGS, build, images, stir
from torch import nn

from mmlowrank import load_adapter, load_peft, save_adapter, save_peft
from mmlowrank.checkpoint.adapter_file import AdapterError, read
from mmlowrank.checkpoint.peft_layout import CONFIG, TENSORS

TOOL = Path(__file__).parents[1] / 'tools/model_converters/peft_layout.py'
BACKBONES = (*FRAMEWORKS, VIT)
QKV = ('q', 'k', 'v')
EXACT = dict(rtol=0, atol=1e-10)


@pytest.fixture
def peft(monkeypatch):
    # Where tools/setup_env.sh puts it, see requirements/peft.txt.
    monkeypatch.syspath_prepend(Path(sys.prefix) / 'peft')
    import peft

    return peft


def ours(kind, seed=0, **options):
    """A LoRA with numbers in it, whose frozen weights no seed changes."""
    torch.manual_seed(0)
    model = build(kind, 'mmlowrank.SwinLoRA', **options)
    stir(model, seed)
    return model


def stock(kind):
    model = build(kind, 'SwinTransformer')
    model.load_state_dict(ours(kind, rank=4).tuner.stock_state_dict())
    return model


def theirs(peft, kind, folder, **options):
    """A LoRA that peft has made and saved."""
    # Not the usual start, at which B is zero.
    settings = dict(r=6, lora_alpha=12, lora_dropout=0.1) | options
    config = peft.LoraConfig(
        target_modules=['qkv'], init_lora_weights=False, **settings
    )
    model = peft.get_peft_model(stock(kind), config)
    model.save_pretrained(folder)
    return model


def outputs(model):
    model = copy.deepcopy(model).double()
    model.eval()  # of mmpretrain's ViT returns nothing
    with torch.no_grad():
        return model(images().double())


def equal(one, other):
    for a, b in zip(outputs(one), outputs(other), strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def tensors(model):
    return {n: t.clone() for n, t in model.state_dict().items()}


def identical(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize(
    'options',
    [
        dict(rank=4),
        dict(rank=3, alpha=1, sites=QKV),
        dict(rank=5, alpha=2.5, sites=('k',), layers=(0, -1)),
    ],
    ids=str,
)
@pytest.mark.parametrize('kind', BACKBONES)
def test_peft_computes_the_same(peft, kind, options, tmp_path):
    tuned, base = ours(kind, **options), stock(kind)
    save_peft(tuned, tmp_path)
    model = peft.PeftModel.from_pretrained(base, tmp_path)
    equal(model, tuned)
    with pytest.raises(AssertionError):
        equal(stock(kind), tuned)
    merged = model.double().merge_and_unload().state_dict()
    expected = tuned.double().tuner.merge()
    assert merged.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(merged[name], tensor, **EXACT)


@pytest.mark.parametrize('root', [False, True], ids=['alpha/r', 'alpha/sqrt'])
@pytest.mark.parametrize('kind', BACKBONES)
def test_what_peft_trained_is_read(peft, kind, root, tmp_path):
    made = theirs(peft, kind, tmp_path / 'a', use_rslora=root)
    scale = 12 / 6**0.5 if root else 2
    tuned = ours(kind, rank=6, alpha=6 * scale, sites=QKV)
    load_peft(tuned, tmp_path / 'a')
    equal(tuned, made)
    # And back: another rank, the same update.
    save_peft(tuned, tmp_path / 'b')
    assert json.loads((tmp_path / 'b' / CONFIG).read_text())['r'] == 18
    again = peft.PeftModel.from_pretrained(stock(kind), tmp_path / 'b')
    equal(again, made)


@pytest.mark.parametrize('sites', [('q', 'v'), QKV, ('v',)], ids=''.join)
@pytest.mark.parametrize('kind', BACKBONES)
def test_round_trip_to_the_bit(kind, sites, tmp_path):
    options = dict(rank=4, alpha=1, sites=sites)
    tuned, other = ours(kind, **options), ours(kind, seed=5, **options)
    with torch.no_grad():  # as before any training: A must stay
        tuned.tuner.stages[0][0].B.zero_()
    save_peft(tuned, tmp_path)
    load_peft(other, tmp_path)
    identical(tensors(other), tensors(tuned))


def test_peft_writes_what_it_has_read(peft, tmp_path):
    tuned, other = ours('mmdet', rank=4), ours('mmdet', seed=5, rank=4)
    save_peft(tuned, tmp_path / 'a')
    model = peft.PeftModel.from_pretrained(stock('mmdet'), tmp_path / 'a')
    model.save_pretrained(tmp_path / 'b')
    load_peft(other, tmp_path / 'b')
    identical(tensors(other), tensors(tuned))


class Detector(nn.Module):
    def __init__(self, *backbones):
        super().__init__()
        self.backbone, *others = backbones
        self.others = nn.ModuleList(others)
        self.head = nn.Linear(16, 3)


def test_of_a_model_it_is_the_backbone(tmp_path, monkeypatch):
    # The library works without peft.
    monkeypatch.setitem(sys.modules, 'peft', None)
    model, other = (Detector(ours(VIT, seed=s, rank=4)) for s in (1, 2))
    save_peft(model, tmp_path / 'a')
    save_peft(model.backbone, tmp_path / 'b')
    for name in (CONFIG, TENSORS):
        one, two = ((tmp_path / f / name).read_bytes() for f in 'ab')
        assert one == two
    before = tensors(other.head)
    load_peft(other, tmp_path / 'a')
    identical(tensors(other.backbone), tensors(model.backbone))
    identical(tensors(other.head), before)


def test_three_lines(tmp_path):
    """Build, load, use: the frozen weights come from init_cfg."""
    tuned = ours(VIT, rank=4)
    torch.save(tuned.tuner.stock_state_dict(), tmp_path / 'base.pth')
    save_peft(tuned, tmp_path / 'lora')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'base.pth'))
    torch.manual_seed(3)
    model = build(VIT, 'mmlowrank.SwinLoRA', rank=4, init_cfg=init_cfg)
    load_peft(model, tmp_path / 'lora')
    identical(tensors(model), tensors(tuned))


def test_files_are_whole_or_as_before(tmp_path, monkeypatch):
    save_peft(ours(VIT, rank=4), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert {path.name for path in before} == {CONFIG, TENSORS}
    monkeypatch.setattr(json, 'dumps', lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_peft(ours(VIT, seed=5, rank=4), tmp_path)
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


def refused(model, folder):
    """Return the sentence; the model must not change."""
    before = tensors(model)
    with pytest.raises(AdapterError) as error:
        load_peft(model, folder)
    identical(tensors(model), before)
    return str(error.value)


@pytest.fixture
def folder(tmp_path):
    save_peft(ours(VIT, rank=4), tmp_path / 'lora')
    return tmp_path / 'lora'


@pytest.fixture
def model():
    return ours(VIT, seed=5, rank=4)


@pytest.mark.parametrize(
    'change, sentence',
    [
        (dict(use_dora=True), 'was trained with use_dora=True'),
        (dict(bias='all'), "was trained with bias='all'"),
        (dict(rank_pattern={'qkv': 3}), "rank_pattern={'qkv': 3}"),
        (dict(alpha_pattern={'qkv': 3}), "alpha_pattern={'qkv': 3}"),
        (dict(fan_in_fan_out=True), 'fan_in_fan_out=True'),
        (dict(modules_to_save=['head']), "modules_to_save=['head']"),
        (dict(init_lora_weights='pissa'), "init_lora_weights='pissa'"),
        (dict(of_next_year=1), 'of_next_year=1, which the LoRA of mmlowrank'),
        (dict(peft_type='IA3'), "peft_type='IA3', and only 'LORA'"),
        (dict(r='8'), f"{CONFIG} is damaged (its r is '8')"),
        (dict(lora_alpha=float('nan')), 'damaged (its lora_alpha is nan)'),
        (dict(r=7), 'has shape [8, 16] there and [7, 16] here'),
    ],
    ids=str,
)
def test_what_is_no_plain_lora_is_refused(change, sentence, folder, model):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | change))
    assert sentence in refused(model, folder)


FIRST = 'base_model.model.layers.0.attn.qkv.lora_A.weight'
OTHER = FIRST.replace('layers', 'backbone.layers')


@pytest.mark.parametrize(
    'change, sentence',
    [
        (lambda t: t.pop(FIRST), f'it lacks {FIRST}'),
        (lambda t: t.update(more=t[FIRST] + 1), 'the model has no more'),
        (lambda t: t.update({OTHER: t.pop(FIRST)}), f'it lacks {FIRST}'),
        (lambda t: t.update({FIRST: torch.ones(8, 4)}), 'has shape [8, 4]'),
        (lambda t: t.update({FIRST: t[FIRST].int()}), 'is of type torch.int'),
    ],
)
def test_other_layers_are_refused(change, sentence, folder, model):
    found = load_file(folder / TENSORS)
    change(found)
    save_file(found, folder / TENSORS)
    text = refused(model, folder)
    assert 'does not fit this VisionTransformer' in text
    assert sentence in text
    assert 'a LoRA of the stock backbone alone' in text


def test_damaged_folders_are_refused(folder, model, tmp_path):
    config, numbers = folder / CONFIG, folder / TENSORS
    for path, content in (
        (config, b'{"peft_type": "LORA"'),
        (config, b'[]'),
        (config, b'\xff'),
        (numbers, numbers.read_bytes()[:-1]),
        (numbers, b'\x80\x04.'),
    ):
        whole = path.read_bytes()
        path.write_bytes(content)
        assert f'{path} is damaged (' in refused(model, folder)
        path.write_bytes(whole)
    # No pickle is read, whatever is in it.
    numbers.rename(folder / 'adapter_model.bin')
    assert 'is a pickle, which is not read' in refused(model, folder)
    (folder / 'adapter_model.bin').unlink()
    assert f'{folder} has no {TENSORS}' in refused(model, folder)
    shutil.rmtree(folder)
    assert f'no folder of PEFT: it has no {CONFIG}' in refused(model, folder)


@pytest.mark.parametrize(
    'options',
    [
        dict(rank=4, alpha=1, sites=('q', 'v')),
        dict(rank=3, alpha=3, sites=('q', 'v')),
        dict(rank=4, alpha=4, sites=('k',)),
        dict(rank=4, alpha=4, sites=QKV),
    ],
    ids=str,
)
def test_the_sentence_names_what_fits(options, model, tmp_path):
    tuned = ours(VIT, seed=2, **options)
    save_peft(tuned, tmp_path)
    text = refused(model, tmp_path)
    (named,) = re.findall(r'it takes tuner=(dict\(.*\))$', text)
    assert eval(named) == dict(options, type='LoRA')
    other = ours(VIT, seed=3, **options)
    load_peft(other, tmp_path)
    identical(tensors(other), tensors(tuned))


def test_a_lora_of_peft_fits_what_is_named(peft, model, tmp_path):
    made = theirs(peft, VIT, tmp_path / 'a')
    fits = "tuner=dict(type='LoRA', rank=6, alpha=12, sites=('q', 'k', 'v'))"
    assert refused(model, tmp_path / 'a').endswith(fits)
    # The model's sites, if they are enough.
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if 'lora_B' in name:
                parameter.chunk(3)[1].zero_()
    made.save_pretrained(tmp_path / 'b')
    fits = "rank=6, alpha=12, sites=('q', 'v')"
    assert fits in refused(model, tmp_path / 'b')
    tuned = ours(VIT, rank=6, alpha=12)
    load_peft(tuned, tmp_path / 'b')
    equal(tuned, made)
    theirs(peft, VIT, tmp_path / 'c', r=20)
    assert 'a rank of 20, which is more than the width 16' in refused(
        model, tmp_path / 'c'
    )


def test_other_models_are_refused(folder):
    two = Detector(ours(VIT, rank=4), ours(VIT, rank=4))
    assert 'several tuned backbones (LoRA, LoRA)' in refused(two, folder)
    for kind in ('SwinRLRR', 'SwinFixed'):
        other = build(VIT, f'mmlowrank.{kind}')
        assert f'is {kind[4:]}, and a folder of PEFT' in refused(other, folder)
        with pytest.raises(AdapterError, match="tuner=dict\\(type='LoRA'"):
            save_peft(other, folder / 'new')
        assert not (folder / 'new').exists()
    assert 'is missing, and a folder' in refused(stock(VIT), folder)


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, 'argv', [*map(str, (TOOL, *words))])
        runpy.run_path(str(TOOL), run_name='__main__')
        return capsys.readouterr().out

    return run


def classifier(**init_cfg):
    return dict(
        type='ImageClassifier',
        backbone=dict(
            type='mmlowrank.TunedBackbone',
            backbone=dict(VIT_ARGS, type='VisionTransformer', **init_cfg),
            tuner=dict(type='LoRA', rank=4),
        ),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=16),
    )


def test_the_command_line(run, peft, tmp_path):
    base = tmp_path / 'base.pth'
    torch.save(stock(VIT).state_dict(), base)
    init_cfg = dict(type='Pretrained', checkpoint=str(base))
    model = classifier(init_cfg=init_cfg)
    cfg = Config(dict(default_scope='mmpretrain', model=model))
    config = tmp_path / 'config.py'
    cfg.dump(config)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        trained, other = MODELS.build(cfg.model), MODELS.build(cfg.model)
    trained.init_weights()
    stir(trained.backbone)
    checkpoint, adapter = tmp_path / 'a.pth', tmp_path / 'a.safetensors'
    torch.save(dict(state_dict=trained.state_dict()), checkpoint)
    save_adapter(trained, adapter)
    for weights, folder in ((checkpoint, 'one.v1'), (adapter, 'two')):
        said = run(config, weights, tmp_path / folder)
        assert 'a LoRA of 768 parameters; neck and heads are not in' in said
        model = peft.PeftModel.from_pretrained(stock(VIT), tmp_path / folder)
        equal(model, trained.backbone)
    back = tmp_path / 'b.safetensors'
    said = run(config, tmp_path / 'two', back)
    assert 'neck and heads are as the config starts them, not' in said
    load_adapter(other, back)
    identical(tensors(other.backbone), tensors(trained.backbone))
    assert read(back).info['tuners'] == read(adapter).info['tuners']


def test_mistakes_on_the_command_line(run, folder, tmp_path):
    config, out = tmp_path / 'config.py', tmp_path / 'a.safetensors'
    Config(dict(default_scope='mmpretrain', model=classifier())).dump(config)
    for words, sentence in (
        ((folder, tmp_path / 'new'), 'must end in .safetensors'),
        ((tmp_path / 'a.pth', out), 'a.safetensors must be one'),
        ((folder, out), 'names no weights of the backbone'),
        ((folder, folder), 'exists; remove it'),
    ):
        with pytest.raises(SystemExit, match=re.escape(sentence)):
            run(config, *words)
    assert not out.exists()
