"""Pure-Python configs, whose types are classes, in all that reads a type."""

import argparse
import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmlowrank.analysis import count_parameters
from mmlowrank.engine import MasterLoggerHook, launch
from mmlowrank.models.tuned_backbone import stock_config
from mmlowrank.registry import HOOKS, TUNERS, resolve, type_name
from mmlowrank.tuners import LoRA

ROOT = Path(__file__).resolve().parents[1]
BASE = """
from mmengine.dataset import DefaultSampler, default_collate
from mmengine.hooks import CheckpointHook, LoggerHook
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, TestLoop
from mmpretrain.evaluation import Accuracy
from mmpretrain.datasets import CustomDataset, LoadImageFromFile, PackInputs
from mmpretrain.models import (
    ClsDataPreprocessor, GlobalAveragePooling, ImageClassifier, LinearClsHead,
    SwinTransformer)
from torch.optim import AdamW
from mmlowrank.engine import FreezeAuditHook, TunerOptimWrapperConstructor
from mmlowrank.models import SwinLoRA, TunedBackbone
from mmlowrank.tuners import LoRA

default_scope = 'mmpretrain'
small = dict(
    arch=dict(embed_dims=16, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2]),
    img_size=40, window_size=5, pad_small_map=True)
model = dict(
    type=ImageClassifier,
    backbone={backbone},
    neck=dict(type=GlobalAveragePooling),
    head=dict(type=LinearClsHead, num_classes=10, in_channels=128),
    data_preprocessor=dict(type=ClsDataPreprocessor))
train_dataloader = dict(
    batch_size=16, num_workers=0,
    sampler=dict(type=DefaultSampler, shuffle=True),
    collate_fn=dict(type=default_collate),
    dataset=dict(
        type=CustomDataset, data_root={scenes!r}, data_prefix='digits/train',
        indices=[*range(0, 1297, 40)],
        pipeline=[dict(type=LoadImageFromFile), dict(type=PackInputs)]))
test_dataloader = dict(
    batch_size=16, num_workers=0,
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=default_collate),
    dataset=dict(
        type=CustomDataset, data_root={scenes!r}, data_prefix='digits/val',
        indices=4, test_mode=True,
        pipeline=[dict(type=LoadImageFromFile), dict(type=PackInputs)]))
test_evaluator = dict(type=Accuracy, topk=(1,))
test_cfg = dict(type=TestLoop)
optim_wrapper = dict(
    type=OptimWrapper, constructor=TunerOptimWrapperConstructor,
    optimizer=dict(type=AdamW, lr=1e-3))
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=1)
default_hooks = dict(
    logger=dict(type=LoggerHook, interval=1),
    checkpoint=dict(type=CheckpointHook, interval=1))
custom_hooks = [dict(type=FreezeAuditHook)]
"""
STOCK = 'dict(type=SwinTransformer, **small)'
FORMS = {
    'named': 'dict(type=SwinLoRA, rank=4, **small)',
    'general': f'dict(type=TunedBackbone, backbone={STOCK}, '
    'tuner=dict(type=LoRA, rank=4))',
    'text inside': f'dict(type=TunedBackbone, backbone={STOCK}, '
    "tuner=dict(type='mmlowrank.LoRA', rank=4))",
    'text outside': "dict(type='mmlowrank.TunedBackbone', "
    f'backbone={STOCK}, tuner=dict(type=LoRA, rank=4))',
    'texts': "dict(type='mmlowrank.SwinLoRA', rank=4, **small)",
}


@pytest.fixture(params=[(f, d) for f in FORMS for d in (False, True)], ids=str)
def config(request, tmp_path, digit_scenes):
    """A file; as it was written, or as mmengine dumps it into a run."""
    form, dumped = request.param
    path = write(tmp_path, FORMS[form], digit_scenes)
    if dumped:
        cfg, path = Config.fromfile(path), tmp_path / 'dumped.py'
        cfg.dump(path)
    return path


def write(folder, backbone, scenes):
    path = folder / 'lazy.py'
    path.write_text(BASE.format(backbone=backbone, scenes=str(scenes)))
    return path


def run(monkeypatch, tool, *words):
    monkeypatch.setattr(sys, 'argv', [tool, *map(str, words)])
    runpy.run_path(str(ROOT / tool), run_name='__main__')


def test_it_trains_merges_and_tests(config, tmp_path, monkeypatch):
    work, out = tmp_path / 'work', tmp_path / 'merged.pth'
    run(monkeypatch, 'tools/train.py', config, '--work-dir', work)
    checkpoint = work / 'epoch_1.pth'
    run(
        monkeypatch, 'tools/model_converters/merge.py', config, checkpoint, out
    )
    merged = torch.load(out, weights_only=True)['state_dict']
    init_default_scope('mmpretrain')
    cfg = Config.fromfile(config)
    stock = MODELS.build(stock_config(cfg.model.backbone))
    assert {f'backbone.{name}' for name in stock.state_dict()} < set(merged)
    # The config has no visualizer; the tool brings the framework's.
    pictures, out = tmp_path / 'pictures', tmp_path / 'found.pkl'
    words = ['--work-dir', work, '--show-dir', pictures, '--out', out]
    run(monkeypatch, 'tools/test.py', config, checkpoint, *words)
    assert len(list(pictures.rglob('*.*'))) == 4
    assert out.is_file()


def test_it_is_counted(config):
    counts = count_parameters(Config.fromfile(config))
    # Two updates of rank 4, of width to width, in each of four blocks.
    assert counts['backbone_added'] == sum(
        2 * 4 * 2 * 16 * 2**stage for stage in range(4)
    )
    assert counts['backbone_trainable'] == counts['backbone_added']


def test_one_process_writes_the_metrics(group_of_one, config):
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    launch.add_arguments(parser)
    words = [str(config), '--launcher', 'pytorch']
    cfg = launch.load_config(parser.parse_args(words))
    hook = HOOKS.build(cfg.default_hooks.logger)
    assert isinstance(hook, MasterLoggerHook)
    assert hook.interval == 1


def test_what_is_no_tuner_is_refused(tmp_path, digit_scenes):
    for kind in ('SwinTransformer', "'Lora'"):
        backbone = f'dict(type=TunedBackbone, backbone={STOCK}, '
        backbone += f'tuner=dict(type={kind}))'
        cfg = Config.fromfile(write(tmp_path, backbone, digit_scenes))
        init_default_scope('mmpretrain')
        with pytest.raises(KeyError, match='is not a tuner of mmlowrank'):
            MODELS.build(cfg.model)


def test_a_name_is_that_of_the_registry():
    for kind in ('LoRA', 'mmlowrank.LoRA', 'mmlowrank.tuners.LoRA', LoRA):
        assert resolve(kind, TUNERS) is LoRA
        assert type_name(kind, TUNERS) == 'LoRA'
    assert type_name(Path, TUNERS) == 'pathlib.Path'

    class LoRAOfSomebody:
        __qualname__ = 'LoRA'

    assert type_name(LoRAOfSomebody, TUNERS) != 'LoRA'
    assert type_name('somebody.LoRA', TUNERS) == 'somebody.LoRA'
