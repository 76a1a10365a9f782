"""``--tuner``: one word of the command line tunes a stock config."""

import argparse
import json
import runpy
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import test_lazy_configs as lazy
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS, DefaultScope
from pages import leave_layout_out

from mmlowrank.analysis.counting import build_on_meta
from mmlowrank.engine import launch, tuned_config
from mmlowrank.engine.tuned_config import read
from mmlowrank.registry import TUNERS
from mmlowrank.tuners import tuners_of

ROOT = Path(__file__).resolve().parents[1]
SWIN = 'swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'
DET = f'mmdet::{SWIN}'
SEG = 'mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_'
SEG += 'ade20k-512x512.py'
CLS = 'mmpretrain::vision_transformer/vit-base-p16_64xb64_in1k.py'
CONVNEXT = 'mmseg::convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-'
CONVNEXT += '512x512.py'
TEACHER = 'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_'
TEACHER += 'semi-0.1-coco.py'
WIDTHS = '[16,32,64,128]'
SMALL_SWIN = ['embed_dims=16', 'depths=[1,1,1,1]', 'num_heads=[1,1,2,2]']
SMALL = {
    DET: [
        *(f'model.backbone.{option}' for option in SMALL_SWIN),
        f'model.neck.in_channels={WIDTHS}',
    ],
    SEG: [
        *(f'model.backbone.{option}' for option in SMALL_SWIN),
        f'model.decode_head.in_channels={WIDTHS}',
        'model.auxiliary_head.in_channels=64',
    ],
    CLS: ['model.backbone.arch=deit-tiny', 'model.head.in_channels=192'],
}


def options(words):
    """Return words of ``--cfg-options`` as argparse hands them on."""
    pairs = (word.partition('=') for word in words)
    return {k: DictAction._parse_iterable(v) for k, _, v in pairs}


def tuned(config, tuner, *words):
    words = [*SMALL.get(config, ()), *words]
    return read(config, options(words), tuner)


def build(cfg):
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(cfg.model)


def run(monkeypatch, name, *words):
    monkeypatch.setattr(sys, 'argv', [name, *map(str, words)])
    runpy.run_path(str(ROOT / 'tools' / name), run_name='__main__')


@pytest.fixture
def printed(monkeypatch, tmp_path, capsys):
    """Call ``tools/train.py --print``; keep what it prints as a file."""
    leave_layout_out(monkeypatch)

    def call(*words):
        run(monkeypatch, 'train.py', *words, '--print')
        path = tmp_path / 'kept.py'
        path.write_text(capsys.readouterr().out)
        return path

    return call


@pytest.mark.parametrize('config', SMALL)
def test_a_stock_config_of_each_framework(config):
    """Options of the stock backbone are met before it is wrapped."""
    stock = read(config, options(SMALL[config]))
    drop = 'model.backbone.drop_path_rate=0'
    cfg = tuned(config, 'lora-r64', 'tuner.rank=16', drop)
    assert cfg.model.backbone == dict(
        type='mmlowrank.TunedBackbone',
        backbone=dict(stock.model.backbone, drop_path_rate=0),
        tuner=dict(type='LoRA', rank=16),
        stochastic_trunk=True,
    )
    assert cfg.optim_wrapper == dict(
        stock.optim_wrapper,
        constructor='mmlowrank.TunerOptimWrapperConstructor',
    )
    assert cfg.custom_hooks[-1] == dict(type='mmlowrank.FreezeAuditHook')
    for key in ('train_dataloader', 'param_scheduler', 'default_hooks'):
        assert cfg[key] == stock[key]
    backbone = build(cfg).backbone
    (tuner,) = tuners_of(backbone).values()
    assert type(tuner).__name__ == 'LoRA'
    assert tuner.arguments['rank'] == 16
    trained = {id(p) for p in backbone.parameters() if p.requires_grad}
    assert trained == {id(p) for p in tuner.parameters()}


def test_every_file_of_the_folder_is_a_name():
    files = [*(ROOT / 'configs/_base_/tuners').glob('*.py')]
    assert len(files) > 30
    cfg = read(CLS)
    for file in files:
        one, other = (
            tuned_config._read_tuner(str(name), {})
            for name in (file.stem, file)
        )
        assert one == other
        made = deepcopy(cfg)
        tuned_config.tune(made, dict(backbone=[one]))
        # Nothing that describes the trunk is left with the tuner.
        kind = TUNERS.get(made.model.backbone.tuner.pop('type'))
        kind(**made.model.backbone.tuner)


def test_options_change_the_tuner(tmp_path):
    words = ['tuner.type=LoRA', 'tuner.rank=4', 'tuner.stochastic_trunk=False']
    # LoRand's branches mean nothing to LoRA.
    backbone = tuned(DET, 'lorand-b2r8', *words).model.backbone
    assert backbone.tuner == dict(type='LoRA', rank=4)
    assert backbone.stochastic_trunk is False
    mine = tmp_path / 'mine.py'
    mine.write_text(
        'from mmlowrank.tuners import LoRand\n'
        "tuner = dict(type=LoRand, rank=2, memory='stock')\n"
    )
    backbone = tuned(DET, str(mine), 'tuner.branches=1').model.backbone
    assert backbone.tuner == dict(type='LoRand', rank=2, branches=1)
    assert backbone.memory == 'stock'


def test_weights_stay_where_the_stock_config_names_them():
    stock = read(DET).model.backbone.init_cfg
    backbone = tuned(DET, 'bitfit').model.backbone
    assert backbone.backbone.init_cfg == stock
    assert 'init_cfg' not in backbone
    cfg = tuned(SEG, 'bitfit', 'model.pretrained=some.pth')
    cfg.model.backbone.backbone.init_cfg = None
    found = build(cfg).backbone.init_cfg
    assert found['type'] == 'Pretrained'
    assert found['checkpoint'].endswith('some.pth')


def test_a_constructor_of_somebody_else_is_replaced(capsys):
    cfg = tuned(CONVNEXT, 'fixed')
    ours = 'mmlowrank.TunerOptimWrapperConstructor'
    assert cfg.optim_wrapper.constructor == ours
    assert 'paramwise_cfg' not in cfg.optim_wrapper
    said = capsys.readouterr().err
    assert "dropped constructor='LearningRateDecayOptimizerCon" in said
    assert 'paramwise_cfg.decay_rate, paramwise_cfg.decay_type' in said
    assert 'kept' not in said


def test_of_paramwise_cfg_stays_what_is_understood(capsys):
    kept = dict(norm_decay_mult=1.0, custom_keys=dict(neck=dict(lr_mult=2)))
    stock = dict(kept, bias_lr_mult=2.0)
    model = dict(type='A', backbone=dict(type='B'))
    cfg = Config(dict(model=model, optim_wrapper=dict(paramwise_cfg=stock)))
    tuned_config.tune(cfg, dict(backbone=[dict(type='BitFit')]))
    assert cfg.optim_wrapper.paramwise_cfg == kept
    said = capsys.readouterr().err
    assert 'dropped paramwise_cfg.bias_lr_mult; kept' in said
    # Ours is left alone, and the hook is there once.
    ours = 'mmlowrank.TunerOptimWrapperConstructor'
    wrapper = dict(constructor=ours, paramwise_cfg=kept)
    hooks = [dict(type='EMAHook'), dict(type='mmlowrank.FreezeAuditHook')]
    cfg = Config(dict(model=model, optim_wrapper=wrapper, custom_hooks=hooks))
    tuned_config.tune(cfg, dict(backbone=[dict(type='BitFit')]))
    assert cfg.optim_wrapper == wrapper
    assert cfg.custom_hooks == hooks
    assert not capsys.readouterr().err


def test_a_model_in_a_model():
    cfg = tuned(TEACHER, 'bitfit')
    assert 'backbone' not in cfg.model
    assert cfg.model.detector.backbone.tuner == dict(type='BitFit')
    inner = dict(type='A', backbone=dict(type='B'))
    cfg = Config(dict(model=dict(type='Wrapper', module=inner)))
    tuned_config.tune(cfg, dict(backbone=[dict(type='BitFit')]))
    assert cfg.model.module.backbone.type == 'mmlowrank.TunedBackbone'
    assert 'optim_wrapper' not in cfg


def test_several_tuners_and_parts():
    """Options go to the one whose number they have."""
    cfg = tuned_config.read(DET, {'tuner.0.rank': 4}, ['lora-r64', 'bitfit'])
    first, second = cfg.model.backbone.tuner
    assert first == dict(type='LoRA', rank=4, stochastic_trunk=True)
    assert second == dict(type='BitFit', stochastic_trunk=True)
    cfg = tuned_config.read(
        DET, {'tuner.1.rank': 2}, ['fixed', 'neck=lora-all-r8']
    )
    assert (cfg.model.type, cfg.model.model) == (
        'mmlowrank.TunedModel',
        'MaskRCNN',
    )
    assert cfg.model.backbone.type == 'SwinTransformer'
    assert cfg.model.tuners == dict(
        backbone=dict(type='Fixed', stochastic_trunk=True),
        neck=dict(type='LoRA', rank=2, sites=('.*',)),
    )
    model = build_on_meta(cfg)
    assert {*tuners_of(model)} == {'backbone.tuner', 'neck.tuner'}


NONE = "model = dict(type='CLIP', text_backbone=dict(type='A'))\n"
STACKED = "model = dict(backbone=dict(type='mmlowrank.StackSharedViT'))\n"
LEAF = 'lorand/cascade-mask-rcnn_swin-b_lorand-b2r8_3x_coco.py'


@pytest.mark.parametrize(
    'config, tuner, words, sentence',
    [
        (DET, 'lora-r8', [], "did you mean 'lora-r8_cls'"),
        (DET, 'lorand-b2r9', [], r"did you mean 'lorand-b2r8'.*, e3va-r8, "),
        (DET, 'nothing/here.py', [], r'Known, besides paths of files: adap'),
        (DET, DET, [], 'must have a dict tuner'),
        (DET, 'bitfit', ['tuner.rank=2'], "BitFit has no argument 'rank'"),
        (DET, 'lora-r64', ['tuner.rang=2'], 'rang.*; it has .*rank'),
        (DET, 'lora-r64', ['tuner.type=Lora'], 'is not a tuner of mmlowrank'),
        (DET, None, ['tuner.rank=2'], 'add --tuner NAME'),
        (DET, 'lora-r64', ['tuner.1.rank=2'], 'names 1 of them'),
        (DET, 'lora-r64', ['tuner.0=2'], 'and the argument'),
        (
            DET,
            ['lora-r64', 'neck=lora-all-r8'],
            ['tuner.0.pretrained=x.pth'],
            'for a tuned backbone alone',
        ),
        (DET, ['bitfit', 'lora-r64'], ['tuner.rank=2'], r'tuner\.0\.rank='),
        (NONE, 'bitfit', [], 'finds no backbone.*put dict.type='),
        ("model = 'no'", 'bitfit', [], 'finds no backbone'),
        (STACKED, 'bitfit', [], "'StackSharedViT', mmlowrank's own"),
        (f'mmlowrank::{LEAF}', 'bitfit', [], "'SwinLoRand', mmlowrank's own"),
    ],
)
def test_mistakes_are_named(config, tuner, words, sentence, tmp_path):
    if '::' not in config:
        (tmp_path / 'config.py').write_text(config)
        config = str(tmp_path / 'config.py')
    with pytest.raises(SystemExit, match=sentence):
        tuned(config, tuner, *words)


def test_without_it_all_is_as_before():
    leaf = str(ROOT / 'configs' / LEAF)
    # Its base has a dict of that name.
    words = {'tuner.rank': 2, 'model.backbone.rank': 4}
    cfg = read(leaf, words)
    assert (cfg.tuner.rank, cfg.model.backbone.rank) == (2, 4)
    with pytest.raises(FileNotFoundError, match=r'no config no/such\.py'):
        read('no/such.py')


@pytest.mark.parametrize('config', SMALL)
def test_what_is_printed_is_the_config(config, printed):
    words = [*SMALL[config], 'tuner.rank=4']
    path = printed(config, '--tuner', 'lora-r64', '--cfg-options', *words)
    made = tuned(config, 'lora-r64', *words)
    kept = read(str(path))
    assert kept.to_dict() == made.to_dict()
    ours, theirs = (build(cfg).state_dict() for cfg in (kept, made))
    assert {k: v.shape for k, v in ours.items()} == {
        k: v.shape for k, v in theirs.items()
    }


def test_a_config_in_pure_python(tmp_path, digit_scenes, printed):
    path = lazy.write(tmp_path, lazy.STOCK, digit_scenes)
    stock = build(read(str(path))).backbone
    words = ['--tuner', 'lora-r8_cls', '--cfg-options', 'tuner.rank=4']
    kept = printed(path, *words)
    for cfg in (
        tuned(str(path), 'lora-r8_cls', 'tuner.rank=4'),
        read(str(kept)),
    ):
        backbone = build(cfg).backbone
        assert type(backbone) is type(stock)
        (tuner,) = tuners_of(backbone).values()
        assert tuner.arguments['rank'] == 4
        # It was there, as a class.
        assert len(cfg.custom_hooks) == 1


@pytest.mark.parametrize(
    'said, words, expected',
    [
        ('', [], 'work_dirs/mine_lora-r8_cls'),
        ("work_dir = 'of/stock'", [], 'of/stock_lora-r8_cls'),
        ('', ['--work-dir', 'here'], 'here'),
        ('', ['--cfg-options', 'work_dir=here'], 'here'),
    ],
)
def test_runs_are_kept_apart(said, words, expected, tmp_path):
    config = tmp_path / 'mine.py'
    config.write_text(f"model = dict(backbone=dict(type='A'))\n{said}\n")
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    launch.add_arguments(parser)
    words = [str(config), '--tuner', 'lora-r8_cls', *words]
    cfg = launch.load_config(parser.parse_args(words))
    assert cfg.work_dir == expected


def test_it_is_counted(tool):
    words = ('--tuner', 'lorand-b2r8', '--json')
    counts = json.loads(tool('count_params.py', DET, *words))
    # Swin-T in the README's table.
    assert counts['backbone_added'] == 440_256
    assert counts['backbone_trainable'] == 440_256


def test_the_tools_take_it(
    tmp_path, digit_scenes, monkeypatch, printed, capsys
):
    """Train, test and merge, by the flag and by what --print kept."""
    monkeypatch.setenv('DIGIT_SCENES', str(digit_scenes))
    monkeypatch.chdir(tmp_path)
    config = ROOT / 'configs/quickstart/pretrain_swin-mini_digits.py'
    flag = ['--tuner', 'lora-r8_cls', '--cfg-options', 'tuner.rank=2']
    short = ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1']
    short += ['train_dataloader.dataset.indices=64']
    short += [f'{s}_dataloader.dataset.indices=8' for s in ('val', 'test')]
    kept = printed(config, *flag, *short)
    run(monkeypatch, 'train.py', config, *flag, *short)
    work = Path('work_dirs/quickstart/pretrain_lora-r8_cls')
    checkpoint = work / 'epoch_1.pth'
    log = '\n'.join(path.read_text() for path in work.glob('*/*.log'))
    assert 'backbone.tuner (LoRA)' in log
    run(monkeypatch, 'test.py', config, checkpoint, *flag, *short)
    run(monkeypatch, 'test.py', kept, checkpoint)
    with pytest.raises(RuntimeError, match='not a checkpoint of this config'):
        run(monkeypatch, 'test.py', config, checkpoint)
    converters = 'model_converters'
    out = tmp_path / 'merged'
    run(monkeypatch, f'{converters}/merge.py', config, checkpoint, out, *flag)
    merged = Config.fromfile(out / 'config.py').model.backbone
    assert merged.type == Config.fromfile(config).model.backbone.type
    out = tmp_path / 'lora.safetensors'
    run(
        monkeypatch, f'{converters}/adapter.py', config, checkpoint, out, *flag
    )
    assert out.is_file()
