"""Adapters of models: each tuner, each door a checkpoint goes through."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from swins import FRAMEWORKS, build, images, stir
from torch import nn
from tuner_rows import TUNERS

import mmlowrank
from mmlowrank import (
    disabled,
    load_adapter,
    save_adapter,
    set_adapter,
    trainable_summary,
)
from mmlowrank.checkpoint.adapter_checks import forced
from mmlowrank.checkpoint.adapter_file import AdapterError, read, write
from mmlowrank.checkpoint.adapters import ORIGINAL

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def base(tmp_path):
    """Weights of a Swin that is not the one drawn here."""

    def write(framework):
        torch.manual_seed(42)
        path = tmp_path / f'{framework}.pth'
        stock = build(framework, 'SwinTransformer')
        tensors = {f'backbone.{n}': t for n, t in stock.state_dict().items()}
        torch.save(dict(state_dict=tensors), path)
        return ConfigDict(type='Pretrained', checkpoint=str(path))

    return write


def same(one, other, size=64):
    one.eval(), other.eval()
    x = images(size=size)
    with torch.no_grad():
        return all(map(torch.equal, one(x), other(x)))


def make(framework, kind, options, init_cfg, seed=0):
    torch.manual_seed(seed)
    model = build(framework, kind, init_cfg=init_cfg, **options)
    model.init_weights()
    return model


@pytest.mark.parametrize('row', TUNERS)
@pytest.mark.parametrize('framework', FRAMEWORKS)
def test_every_tuner_ships_what_it_trained(framework, row, base, tmp_path):
    kind, options, *_ = TUNERS[row]
    init_cfg = base(framework)
    model = make(framework, kind, options, init_cfg)
    stir(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * parameter.requires_grad
    file = tmp_path / 'a.safetensors'
    save_adapter(model, file)
    numbers = trainable_summary(model)
    assert file.stat().st_size <= 1.02 * numbers['bytes'] + 2**16
    owned = {n for n in model.state_dict() if n in model.tuner.owned()}
    assert read(file).tensors.keys() == owned
    # Another process: the same config, other random numbers, no weights yet.
    torch.manual_seed(7)
    other = build(framework, kind, init_cfg=init_cfg, **options)
    load_checkpoint(other, str(file), 'cpu', strict=True)
    assert same(model, other)
    for tensor in other.parameters():
        tensor.data.mul_(1.0 if not tensor.requires_grad else 0.5)
    assert load_adapter(other, file) == 'a'
    assert same(model, other)


@pytest.fixture
def lorand(base):
    """A LoRand Swin of mmdet with its base, on which a test trains."""
    return make('mmdet', 'mmlowrank.SwinLoRand', {}, base('mmdet'))


@pytest.fixture
def file(lorand, tmp_path):
    """What it was saved to after some training."""
    stir(lorand)
    path = tmp_path / 'boats.safetensors'
    save_adapter(lorand, path, dataset_meta=dict(classes=('boat',)))
    return path


def changed(model, file, **options):
    """Return the sentence; the model must not change."""
    before = copy.deepcopy(model.state_dict())
    sentences = []
    for load in (load_adapter, load_checkpoint):
        with pytest.raises(AdapterError) as error:
            load(model, str(file), **options)
        sentences.append(str(error.value))
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, before[name]), name
    first, second = sentences
    assert first == second
    return first


def test_another_base_is_refused(lorand, file, caplog):
    with torch.no_grad():
        lorand.patch_embed.projection.weight[0, 0, 0, 0] += 1e-3
    text = changed(lorand, file)
    assert f'{file} was trained on other frozen weights' in text
    assert 'mmdet.pth there' in text and '--force' in text
    load_adapter(lorand, file, force=True)
    with forced():
        load_checkpoint(lorand, str(file))


def test_other_arguments_are_refused(base, file):
    init_cfg = base('mmdet')
    other = make('mmdet', 'mmlowrank.SwinLoRand', dict(rank=4), init_cfg)
    text = changed(other, file)
    assert 'rank=8 there, 4 here' in text
    # Not what has no shape of its own, either; but that can be forced.
    kind = 'mmlowrank.SwinAdapter'
    one, two = (
        make('mmdet', kind, dict(hidden_dropout=p), init_cfg) for p in (0, 0.5)
    )
    save_adapter(one, file)
    assert 'hidden_dropout=0 there, 0.5 here' in changed(two, file)
    load_adapter(two, file, force=True)
    with pytest.raises(AdapterError, match='rank=8 there'):
        other_file = file.with_name('b.safetensors')
        save_adapter(lorand_of(init_cfg), other_file)
        load_adapter(other, other_file)
    # A shape is never forced.
    with pytest.raises(AdapterError, match='has shape'):
        load_adapter(other, other_file, force=True)


def lorand_of(init_cfg):
    return make('mmdet', 'mmlowrank.SwinLoRand', {}, init_cfg)


def test_a_file_may_be_older_than_an_argument(base, lorand, file):
    """What it does not name has its default."""
    lorand.tuner.arguments = dict(lorand.tuner.arguments)
    del lorand.tuner.arguments['init']
    save_adapter(lorand, file)
    load_adapter(lorand_of(base('mmdet')), file)
    options = dict(init='kaiming')
    other = make('mmdet', 'mmlowrank.SwinLoRand', options, base('mmdet'))
    assert "init=None there, 'kaiming' here" in changed(other, file)


def test_another_tuner_is_refused(base, file):
    other = make('mmdet', 'mmlowrank.SwinLoRA', dict(rank=4), base('mmdet'))
    text = changed(other, file)
    assert "{'tuner': 'LoRand'}" in text and 'a LoRA' in text
    stock = build('mmdet', 'SwinTransformer')
    with pytest.raises(AdapterError, match=r"a tuner at \['tuner'\]"):
        load_adapter(stock, file)


def forged(file, change):
    found = read(file)
    tensors = dict(found.tensors)
    change(tensors)
    write(file, tensors, found.info)


def test_other_tensors_are_refused(lorand, file):
    name = min(read(file).tensors)
    original = file.read_bytes()
    for change, sentence in (
        (lambda t: t.pop(name), f'it lacks {name}'),
        (lambda t: t.update(more=t[name]), 'the model has no more'),
        (lambda t: t.update({name: t[name][..., :1]}), 'has shape'),
        (lambda t: t.update({name: t[name].int()}), 'is of type torch.int32'),
    ):
        file.write_bytes(original)
        forged(file, change)
        assert sentence in changed(lorand, file)


def test_frozen_weights_in_a_file_are_refused(lorand, file):
    frozen = 'patch_embed.projection.weight'
    forged(file, lambda t: t.update({frozen: torch.zeros(16, 3, 4, 4)}))
    assert f'the model has no {frozen}' in changed(lorand, file)


def test_several_on_one_base(lorand, tmp_path):
    """Each computes what the model computed that it came from."""
    models, names = {}, ('boats', 'cars')
    for seed, name in enumerate(names):
        models[name] = copy.deepcopy(lorand)
        stir(models[name], seed)
        save_adapter(models[name], tmp_path / f'{name}.safetensors')
    frozen = lorand.patch_embed.projection.weight
    start = copy.deepcopy(lorand)
    for name in names:
        assert load_adapter(lorand, tmp_path / f'{name}.safetensors') == name
    assert mmlowrank.adapters(lorand) == dict(
        original=False, boats=False, cars=True
    )
    # From here on nothing is read.
    for name in names:
        (tmp_path / f'{name}.safetensors').unlink()
    for name in ('boats', 'cars', 'boats'):
        set_adapter(lorand, name)
        assert same(lorand, models[name])
    set_adapter(lorand, ORIGINAL)
    assert same(lorand, start)
    assert lorand.patch_embed.projection.weight is frozen
    with pytest.raises(KeyError, match="no adapter 'planes', but boats, cars"):
        set_adapter(lorand, 'planes')
    # Copies have their own.
    twin = pickle.loads(pickle.dumps(lorand))
    set_adapter(twin, 'cars')
    assert mmlowrank.adapters(lorand)[ORIGINAL]
    assert same(twin, models['cars'])


def test_what_trains_after_a_switch_is_kept(lorand, file):
    load_adapter(lorand, file)
    with torch.no_grad():
        for parameter in lorand.tuner.parameters():
            parameter.mul_(2)
    further = copy.deepcopy(lorand)
    set_adapter(lorand, ORIGINAL)
    set_adapter(lorand, 'boats')
    assert same(lorand, further)


class Detector(nn.Module):
    """A model around a backbone, with a head and moving statistics."""

    def __init__(self, backbone, classes=3):
        super().__init__()
        self.backbone = backbone
        self.neck = nn.BatchNorm2d(16)
        self.head = nn.Linear(16, classes)
        self.again = self.head
        self.dataset_meta = dict(classes=['a', 'b', 'c'], palette=None)


def test_neck_head_and_statistics_are_in_it(lorand, tmp_path):
    file = tmp_path / 'a.safetensors'
    model, other = Detector(lorand), Detector(copy.deepcopy(lorand))
    model.neck(torch.randn(2, 16, 4, 4))
    save_adapter(model, file)
    found = read(file)
    assert found.info['dataset_meta'] == dict(classes=['a', 'b', 'c'])
    assert found.info['aliases']['again.weight'] == 'head.weight'
    load_checkpoint(other, str(file), strict=True)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
    with pytest.raises(AdapterError, match='has shape'):
        load_adapter(Detector(copy.deepcopy(lorand), 4), file)


def test_three_lines(lorand, file, base):
    """Build, load, use: the base comes from init_cfg."""
    torch.manual_seed(11)
    model = build('mmdet', 'mmlowrank.SwinLoRand', init_cfg=base('mmdet'))
    load_adapter(model, file)
    assert same(model, lorand)
    with pytest.raises(ValueError, match="'original' is what the model had"):
        load_adapter(model, file, name='original')


def test_suffix_is_that_of_the_format(lorand, tmp_path):
    with pytest.raises(ValueError, match=r'ends in \.safetensors'):
        save_adapter(lorand, tmp_path / 'a.pth')


@pytest.mark.parametrize('row', TUNERS)
def test_disabled_is_the_stock_backbone(row, base):
    kind, options, *_ = TUNERS[row]
    init_cfg = base('mmdet')
    stock = make('mmdet', 'SwinTransformer', {}, init_cfg)
    model = make('mmdet', kind, options, init_cfg, seed=5)
    stir(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * parameter.requires_grad
    tuned = copy.deepcopy(model)
    model.eval()
    with disabled(model):
        assert same(model, stock)
    assert same(model, tuned)
    # With models around, and after an error.
    with pytest.raises(ZeroDivisionError), disabled(Detector(model)):
        assert same(model, stock)
        raise ZeroDivisionError
    assert same(model, tuned)


def test_what_was_trained_over_is_not_guessed():
    for kind, options in (('BitFit', {}), ('LoRand', {})):
        model = build('mmdet', f'mmlowrank.Swin{kind}', **options)
        if kind == 'LoRand':
            with disabled(model):
                model(images())
            continue
        with (
            pytest.raises(RuntimeError, match=r'no init_cfg names'),
            disabled(model),
        ):
            pass


def in_mmdet(config, weights, image):
    from mmdet.apis import DetInferencer

    inferencer = DetInferencer(config, weights, device='cpu')
    (found,) = inferencer(image, no_save_vis=True)['predictions']
    return found['scores'] + found['bboxes']


def in_mmseg(config, weights, image):
    from mmseg.apis import MMSegInferencer

    inferencer = MMSegInferencer(config, weights, device='cpu')
    return inferencer(image)['predictions'].tolist()


def in_mmpretrain(config, weights, image):
    from mmpretrain.apis import ImageClassificationInferencer

    inferencer = ImageClassificationInferencer(config, weights, 'cpu')
    (found,) = inferencer(image)
    return [*found['pred_scores'], found['pred_class']]


@pytest.mark.parametrize(
    'scope, leaf, infer',
    [
        ('mmdet', 'mask-rcnn_swin-mini_lorand-b4r8_800it_digits', in_mmdet),
        ('mmseg', 'upernet_swin-mini_lorand-b4r8_1200it_digits', in_mmseg),
        ('mmpretrain', 'swin-mini_lora-r8_30e_digits-turned', in_mmpretrain),
    ],
)
def test_inferencers(scope, leaf, infer, digit_swin, tmp_path, monkeypatch):
    """The same predictions as from the checkpoint, to the bit."""
    monkeypatch.setenv('DIGIT_SWIN', str(digit_swin))
    init_default_scope(scope)
    cfg = Config.fromfile(ROOT / f'configs/quickstart/{leaf}.py')
    model = MODELS.build(cfg.model)
    model.init_weights()
    stir(model.backbone)
    model.dataset_meta = dict(
        classes=[*map(str, range(10))], palette=[[i, 0, 0] for i in range(10)]
    )
    full, small = tmp_path / 'a.pth', tmp_path / 'a.safetensors'
    meta = dict(dataset_meta=model.dataset_meta)
    torch.save(dict(meta=meta, state_dict=model.state_dict()), full)
    save_adapter(model, small)
    assert small.stat().st_size < full.stat().st_size / 1.5
    config = tmp_path / 'config.py'
    cfg.dump(config)
    image = images(1)[0].permute(1, 2, 0).mul(50).byte().numpy()
    one, other = (
        infer(str(config), str(weights), image) for weights in (full, small)
    )
    assert len(one) > 0
    assert one == other
