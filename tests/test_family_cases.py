"""What families met in use: replaced norms, odd sites, what is undefined."""

import pytest
import torch
from hosts import HOSTS, build, images
from mmengine.model import revert_sync_batchnorm
from swins import stir
from test_families import MERGE, REFUSED, evaluated, like, tuned
from torch import nn

from mmlowrank import disabled, save_peft
from mmlowrank.checkpoint.adapter_file import AdapterError
from mmlowrank.families import Family, family_of
from mmlowrank.registry import FAMILIES


@pytest.mark.parametrize(
    'host, name',
    [
        *(('resnet', name) for name in ('SSF', 'RLRR', 'LoRA')),
        *(('mscan', name) for name in ('SSF', 'RLRR', 'LoRand', 'Adapter')),
    ],
)
def test_norms_that_are_replaced_change_nothing(host, name):
    """Trainers do it before a run, inferencers after ``eval()``."""
    backbone, x = tuned(host, name), images(host)
    stir(backbone)
    before = evaluated(backbone, x)
    for trained in (False, True):
        backbone = nn.SyncBatchNorm.convert_sync_batchnorm(backbone)
        backbone = revert_sync_batchnorm(backbone)
        if not trained:
            with torch.no_grad():
                out = list(backbone(x))
        else:
            backbone.train()
            out = evaluated(backbone, x)
        for one, other in zip(before, out, strict=True):
            torch.testing.assert_close(one, other)
    if name in MERGE:
        again = backbone.tuner.merge()
        plain = build(host)
        plain.load_state_dict(again)
        for one, other in zip(before, evaluated(plain, x), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    'host, tuner',
    [
        # Hooks on the backbone itself put something in place of its outputs,
        # or look for what took the place of its norms.
        ('dinov2', dict(type='E3VA', rank=3, train_fpn_norms=False)),
        ('mit', dict(type='E3VA', rank=3, train_fpn_norms=False)),
        ('mmseg-vit', dict(type='AdaptFormer', mid_channels=5)),
        ('deit3', dict(type='VPT', tokens=2)),
        ('resnet, one output', dict(type='SSF')),
        ('beit', dict(type='LoRA', rank=3)),
    ],
)
def test_disabled_is_the_stock_backbone(host, tuner):
    backbone, x = build(host, tuner), images(host)
    stir(backbone)
    before, seen = evaluated(backbone, x), []
    backbone.register_forward_hook(lambda *_: seen.append(1))
    with disabled(backbone), torch.no_grad():
        inside = evaluated(backbone, x)
    backbone.tuner.check()
    # A hook of the user's still sees it.
    assert len(seen) == 1
    with torch.no_grad():
        for one, other in zip(before, evaluated(backbone, x), strict=True):
            assert torch.equal(one, other)
    plain = like(backbone, host)
    for one, other in zip(inside, evaluated(plain, x), strict=True):
        assert torch.equal(one, other)
    assert not all(map(torch.equal, before, inside))


@pytest.mark.parametrize(
    'host', [host for host in HOSTS if 'E3VA' not in REFUSED[host]]
)
def test_stacked_highways_start_as_the_stock_model(host):
    backbone = build(host, dict(type='E3VA', rank=3, structure='stacked'))
    for one, other in zip(
        evaluated(like(backbone, host), images(host)),
        evaluated(backbone, images(host)),
        strict=True,
    ):
        # What begins a stage is added up anew.
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_what_a_highway_is_not_defined_for():
    with pytest.raises(TypeError, match="fpn_input='sum' is for outputs"):
        build('dinov2', dict(type='E3VA', fpn_input='sum'))
    arch = dict(HOSTS['swin-v2'][1]['arch'], extra_norm_every_n_blocks=1)
    with pytest.raises(TypeError, match="'stacked' is not defined where"):
        build('swin-v2', dict(type='E3VA', structure='stacked'), arch=arch)
    with pytest.raises(TypeError, match="'trainable' trains copies"):
        build('dinov2', dict(type='E3VA', reduction='trainable'))


def test_a_lora_of_standardised_convolutions_merges():
    kind = dict(conv_cfg=dict(type='ConvWS'))
    backbone = build('resnet', dict(type='LoRA', rank=2), **kind)
    stir(backbone)
    plain = build('resnet', **kind)
    plain.load_state_dict(backbone.tuner.merge())
    for one, other in zip(
        evaluated(backbone, images('resnet')),
        evaluated(plain, images('resnet')),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_sites_that_only_some_blocks_have():
    layers = dict(type='LoRA', rank=2, sites=('downsample',))
    trained = build('resnet', layers).tuner.owned()
    assert trained
    assert all('.downsample.' in name for name in trained)


@pytest.mark.parametrize('host', ['beit', 'mit', 'resnet'])
def test_peft_has_no_layout_for_other_layers(host, tmp_path):
    backbone = build(host, dict(type='LoRA', rank=2))
    with pytest.raises(AdapterError, match=r'PEFT has no layout .* updated'):
        save_peft(backbone, tmp_path / 'peft')


def test_methods_with_tensors_of_their_own_need_no_stock_ones():
    frozen = tuned('dinov2', 'E3VA', frozen_stages=3)
    assert all(name.startswith('tuner.') for name in frozen.tuner.owned())


def test_what_timm_loads_counts_as_loaded(tmp_path):
    lora, file = dict(type='LoRA', rank=2), tmp_path / 'dinov3.pth'
    plain = build('timm, dinov3', num_classes=0)
    torch.save(plain.timm_model.state_dict(), file)
    options = dict(num_classes=0, checkpoint_path=str(file))
    assert build('timm, dinov3', lora, **options).tuner.has_base()
    assert not build('timm, dinov3', lora).tuner.has_base()


def test_all_frozen_by_the_config_is_refused():
    frozen = dict(type='BN', requires_grad=False)
    with pytest.raises(ValueError, match=r'BitFit would .* norm_cfg\.requ'):
        tuned('resnet', 'BitFit', norm_cfg=frozen)


def test_sites_of_a_lora_name_layers():
    layers = dict(type='LoRA', rank=2, sites=('k', 'proj', 'fc2'))
    backbone = build('timm, eva02', layers)
    stir(backbone)
    merged, plain = backbone.tuner.merge(), build('timm, eva02')
    changed = {
        key.split('.', 4)[-1]
        for key, value in plain.state_dict().items()
        if not torch.equal(value, merged[key])
    }
    assert changed == {
        *('attn.qkv.weight', 'attn.proj.weight', 'mlp.fc2.weight')
    }
    with pytest.raises(ValueError, match=r"LoRA sites must be .*'fc1'"):
        build('timm, eva02', dict(layers, sites=('fc3',)))


def test_a_family_of_a_user():
    """Found by its parts, from any file that a config imports."""

    class Row(nn.Sequential):
        pass

    @FAMILIES.register_module()
    class Rows(Family):
        title = 'row of layers'

        @staticmethod
        def matches(backbone):
            return isinstance(backbone, Row)

        def build_stages(self):
            return []

    class Own(type(build('clip'))):
        pass

    @FAMILIES.register_module()
    class Owns(Rows):
        @staticmethod
        def matches(backbone):
            return type(backbone).__name__ == 'Own'

    own = build('clip')
    own.__class__ = Own
    try:
        assert type(family_of(Row(nn.Linear(2, 2)))) is Rows
        # Also where one of ours would match.
        assert type(family_of(own)) is Owns
    finally:
        del FAMILIES.module_dict['Rows']
        del FAMILIES.module_dict['Owns']
