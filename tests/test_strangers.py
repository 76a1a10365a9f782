"""Stock configs of strangers, tuned by ``--tuner``: two iterations of each.

On their data sets in their real layouts, with random weights, made small by
``--cfg-options`` alone.
"""

import re
import runpy
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from made_data import THIN_MASK_RCNN, write_ade, write_coco, write_image
from mmdet.datasets import CocoDataset
from mmengine.registry import MODELS
from pages import leave_layout_out

ROOT = Path(__file__).resolve().parents[1]


def loaders(*options):
    """Return options of the training data, in this process."""
    options += ('num_workers=0', 'persistent_workers=False')
    return tuple(f'train_dataloader.{option}' for option in options)


def resized(step, scale='(96,64)'):
    """Return an option for one step of the pipeline."""
    return f'dataset.pipeline.{step}={scale}'


BY_EPOCH = ('train_cfg.max_epochs=1', 'model.backbone.init_cfg=None')
BY_ITERATION = ('train_cfg.max_iters=2', 'model.backbone.init_cfg=None')
SEG_SMALL = (
    *BY_ITERATION,
    *loaders(
        'batch_size=2',
        resized('2.scale'),
        resized('3.crop_size', '(64,64)'),
    ),
    'model.data_preprocessor.size=(64,64)',
    'model.decode_head.channels=16',
    # SyncBN needs a GPU.
    'model.decode_head.norm_cfg.type=BN',
)
FOLDERS = """
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=224),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='CustomDataset', data_root='data/folders', data_prefix='train',
        pipeline=pipeline,
    ),
)
"""
# A backbone of timm gives maps, or all tokens, for which mmpretrain has no
# head.
_TIMM = """
_base_ = 'mmpretrain::vision_transformer/vit-base-p16_64xb64_in1k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='TIMMBackbone',
        model_name='vit_tiny_patch16_224',
        BACKBONE),
    neck=NECK,
    head=dict(_delete_=True, type='HEAD', num_classes=2, in_channels=192),
    train_cfg=None,
)
data_preprocessor = dict(num_classes=2)
""" + FOLDERS.replace('(\n    batch', '(\n    _delete_=True,\n    batch')
TIMM_MAPS = (
    _TIMM.replace('BACKBONE', 'features_only=True, out_indices=[11]')
    .replace('NECK', "dict(_delete_=True, type='GlobalAveragePooling')")
    .replace('HEAD', 'LinearClsHead')
)
TIMM_TOKENS = (
    _TIMM.replace('BACKBONE', '')
    .replace('NECK', 'None')
    .replace('HEAD', 'FirstTokenHead')
)
# Those of mmpretrain have no head.
DINOV2 = (
    """
_base_ = [
    'mmpretrain::dinov2/vit-small-p14_dinov2-pre_headless.py',
    'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py',
    'mmpretrain::_base_/default_runtime.py',
]
model = dict(
    head=dict(
        _delete_=True, type='LinearClsHead', num_classes=2, in_channels=384),
)
data_preprocessor = dict(num_classes=2)
# Its warm-up alone is longer than what is run here.
param_scheduler = None
test_cfg = None
"""
    + FOLDERS
)


class Stranger(NamedTuple):
    """A config that is not ours."""

    # Of a package, or the text of a file.
    config: str
    # What makes it small.
    options: tuple[str, ...]


TIMM_SMALL = (
    *BY_EPOCH,
    'model.backbone.img_size=32',
    'train_dataloader.dataset.pipeline.1.scale=32',
)
STRANGERS = {
    'mask-rcnn_r50': Stranger(
        'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
        (
            *BY_EPOCH,
            *loaders('batch_size=1', resized('2.scale')),
            'model.neck.out_channels=16',
            *THIN_MASK_RCNN,
        ),
    ),
    'dino_r50': Stranger(
        'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
        (
            *BY_EPOCH,
            *loaders(
                'batch_size=1',
                resized('3.transforms.0.0.scales', '[(64,96)]'),
                resized('3.transforms.1.0.scales', '[(64,96)]'),
                resized('3.transforms.1.2.scales', '[(64,96)]'),
            ),
            # What the stock config freezes stays frozen, and of ResNet's
            # tensors only those of its norms are biases.
            'model.backbone.norm_cfg.requires_grad=True',
            'model.num_queries=8',
            'model.dn_cfg.group_cfg.num_dn_queries=8',
            'model.encoder.num_layers=1',
            'model.decoder.num_layers=1',
            'model.encoder.layer_cfg.ffn_cfg.feedforward_channels=32',
            'model.decoder.layer_cfg.ffn_cfg.feedforward_channels=32',
        ),
    ),
    'segformer_b0': Stranger(
        'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
        SEG_SMALL,
    ),
    'upernet_convnext': Stranger(
        'mmseg::convnext/'
        'convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py',
        (
            *SEG_SMALL,
            'model.backbone.arch=atto',
            'model.decode_head.in_channels=[40,80,160,320]',
            'model.auxiliary_head.in_channels=160',
            'model.auxiliary_head.channels=16',
            'model.auxiliary_head.norm_cfg.type=BN',
        ),
    ),
    'timm_maps': Stranger(TIMM_MAPS, TIMM_SMALL),
    'timm_tokens': Stranger(TIMM_TOKENS, TIMM_SMALL),
    'dinov2_vit': Stranger(
        DINOV2,
        (
            *BY_EPOCH,
            'model.backbone.img_size=28',
            'train_dataloader.dataset.pipeline.1.scale=28',
        ),
    ),
}
CASES = {
    'mask-rcnn_r50': ('norm-tuning', 'lora-r64'),
    'dino_r50': ('bitfit', 'bitfit encoder=lora-all-r8 decoder=lora-all-r8'),
    'segformer_b0': ('lorand-b2r8', 'e3va-r8'),
    'upernet_convnext': ('lorand-b2r8', 'e3va-r8'),
    'timm_maps': ('lora-r8_cls',),
    'timm_tokens': ('lora-r8_cls',),
    'dinov2_vit': ('rlrr_cls', 'lorand-b2r8', 'e3va-r8'),
}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A folder in which ``data`` has what the configs look for."""
    root = tmp_path_factory.mktemp('strangers')
    write_coco(root / 'data/coco', list(CocoDataset.METAINFO['classes']))
    write_ade(root / 'data/ade/ADEChallengeData2016')
    for name in ('daisy', 'rose'):
        for image in range(2):
            path = root / 'data/folders/train' / name / f'{image}.jpg'
            write_image(path)
    return root


@pytest.fixture
def train(data, tmp_path, monkeypatch):
    """Train a stranger with a tuner in this process; returns how much."""
    monkeypatch.chdir(data)
    # A card, as far as mixed precision asks for one; without one it does
    # not scale losses, and computes in bfloat16.
    place = 'mmengine.optim.optimizer.amp_optimizer_wrapper.is_cuda_available'
    monkeypatch.setattr(place, lambda: True)
    monkeypatch.setitem(
        MODELS.module_dict, 'FirstTokenHead', first_token_head()
    )
    leave_layout_out(monkeypatch)

    def call(name, tuner):
        config, options = STRANGERS[name]
        if '\n' in config:
            path = tmp_path / f'{name}.py'
            path.write_text(config)
            config = str(path)
        words = ['train.py', config, '--no-validate']
        for one in tuner.split():
            words += ['--tuner', one]
        words += ['--work-dir', str(tmp_path), '--cfg-options', *options]
        monkeypatch.setattr(sys, 'argv', words)
        runpy.run_path(str(ROOT / 'tools/train.py'), run_name='__main__')
        assert [*tmp_path.glob('*_[12].pth')]
        (log,) = tmp_path.glob('*/*.log')
        return trained_in_backbone(log.read_text())

    return call


def first_token_head():
    """Return a head of the stranger's own."""
    from mmpretrain.models import LinearClsHead

    class FirstTokenHead(LinearClsHead):
        def pre_logits(self, feats):
            return feats[-1][:, 0]

    return FirstTokenHead


def trained_in_backbone(log):
    """Return what trains in the backbone, by the table of the audit."""
    rows = re.findall(r'^backbone[. ].*?((?: +[\d,]+){4})$', log, re.M)
    assert rows
    numbers = [
        [int(number.replace(',', '')) for number in row.split()]
        for row in rows
    ]
    trained, frozen, optimized, _ = map(sum, zip(*numbers, strict=True))
    assert optimized == trained
    assert frozen > 0
    return trained


@pytest.mark.parametrize('name', STRANGERS)
def test_what_is_made_small_runs(name, train):
    """Any backbone can be frozen."""
    assert train(name, 'fixed') == 0


@pytest.mark.parametrize(
    'name, tuner', [(name, tuner) for name in CASES for tuner in CASES[name]]
)
def test_two_iterations_train(name, tuner, train):
    """The audit of the first one lets the second one begin."""
    assert train(name, tuner) > 0
