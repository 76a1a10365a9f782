"""What is frozen stays frozen when modules are replaced after building."""

import pytest
import torch
from mmengine.model import convert_sync_batchnorm, revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from swins import images
from test_engine import Model, construct
from torch import nn

from mmlowrank.engine import TunerDistributedDataParallel
from mmlowrank.engine.freeze_audit import audit_table
from mmlowrank.tuners import freeze_matching
from mmlowrank.tuners.roles import keeps_statistics


def resnet(tuner, norm='BN'):
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(
            dict(
                type='mmlowrank.TunedBackbone',
                backbone=dict(
                    type='ResNetV1c',
                    depth=18,
                    base_channels=4,
                    stem_channels=4,
                    norm_cfg=dict(type=norm, requires_grad=True),
                    norm_eval=False,
                ),
                tuner=dict(type=tuner),
            )
        )


def renewed(module):
    """Replace every BatchNorm by a new one, as users do."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.BatchNorm2d(child.num_features))
        else:
            renewed(child)
    return module


CHANGES = {
    'none': ('BN', lambda m: m),
    'reverted': ('SyncBN', revert_sync_batchnorm),
    'there and back': (
        'BN',
        lambda m: revert_sync_batchnorm(convert_sync_batchnorm(m)),
    ),
    'mmcv': (
        'SyncBN',
        lambda m: revert_sync_batchnorm(
            convert_sync_batchnorm(revert_sync_batchnorm(m), 'mmcv')
        ),
    ),
    'replaced': ('BN', renewed),
}
changes = pytest.mark.parametrize('change', CHANGES)


def moved(backbone):
    """Return which statistics a training step moves."""
    before = {
        n: b.clone() for n, b in backbone.named_buffers() if 'running' in n
    }
    backbone.train()
    backbone(images())
    return {
        n
        for n, b in backbone.named_buffers()
        if n in before and not torch.equal(b, before[n])
    }


@changes
def test_statistics_of_a_frozen_resnet_stay(change, group_of_one):
    norm, function = CHANGES[change]
    backbone = function(resnet('Fixed', norm))
    assert not moved(backbone)
    backbone.eval()
    backbone.train()
    assert not any(
        m.training for m in backbone.modules() if keeps_statistics(m)
    )


@pytest.mark.parametrize('tuner', ['Full', 'NormTuning', 'BitFit'])
def test_statistics_move_where_a_norm_trains_as_a_whole(tuner):
    backbone = resnet(tuner)
    owned = set(backbone.tuner.owned())
    expected = {n for n in owned if 'running' in n}
    assert moved(backbone) == expected
    assert bool(expected) == (tuner != 'BitFit')


def test_mmcvs_sync_bn_is_held_too(group_of_one):
    """It is no BatchNorm of PyTorch's."""
    backbone = convert_sync_batchnorm(resnet('Fixed'), 'mmcv')
    backbone.train()
    norms = [m for m in backbone.modules() if keeps_statistics(m)]
    assert len(norms) == 22
    assert not any(m.training for m in norms)


def test_the_audit_counts_what_moves_in_training():
    model = nn.Module()
    model.backbone, model.neck = resnet('Fixed'), nn.BatchNorm2d(3)
    model.train()
    *_, stock, neck, _ = audit_table(model, set()).splitlines()
    assert stock.split()[-1] == '0' and neck.split()[-1] == '1'


@pytest.mark.parametrize(
    'change', [k for k in CHANGES if k not in ('reverted', 'mmcv')]
)
def test_freeze_keeps_its_promise(change):
    model = Model('mmlowrank.SwinFixed')
    model.neck.append(nn.BatchNorm2d(8, affine=False))
    keys = list(model.state_dict())
    freeze_matching(model, ['neck'])
    assert list(model.state_dict()) == keys
    model = CHANGES[change][1](model)
    assert not moved(model)


def test_freeze_of_a_part_leaves_the_rest():
    model = Model('mmlowrank.SwinFixed')
    freeze_matching(model, [r'neck\.1\.bias'])
    assert moved(model) == {'neck.1.running_mean', 'neck.1.running_var'}


def test_frozen_sync_bn_under_our_wrapper(group_of_one):
    """On a CPU it turns SyncBN into BN after freezing."""
    model = Model('mmlowrank.SwinFixed')
    model.neck[1] = nn.SyncBatchNorm(8)
    wrapped = TunerDistributedDataParallel(model, freeze=['neck'])
    construct(wrapped)
    assert isinstance(wrapped.module.neck[1], nn.modules.batchnorm._BatchNorm)
    wrapped.train()
    wrapped(images())
    assert not wrapped.module.neck[1].running_mean.any()
