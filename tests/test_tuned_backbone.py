"""Building and loading: named forms, the general form, checkpoints."""

import copy
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from swins import ARGS, DEPTHS, EMBED_DIMS, FRAMEWORKS, VIT, build, images

from mmlowrank.checkpoint.swin import convert
from mmlowrank.tuners import Fixed

every = pytest.mark.parametrize('framework', FRAMEWORKS)


@every
def test_found_from_every_scope_in_a_fresh_process(framework):
    """No custom_imports, and the Swin of the scope that builds."""
    code = (
        f'from {framework}.registry import MODELS\n'
        'from swins import ARGS\n'
        'cfg = dict(type="mmlowrank.SwinLoRand", rank=4, '
        f'_scope_="{framework}", **ARGS["{framework}"])\n'
        'swin = MODELS.build(cfg)\n'
        'print(type(swin).__module__, type(swin.tuner).__name__)\n'
    )
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    assert done.returncode == 0, done.stderr
    module, tuner = done.stdout.split()[-2:]
    assert module.startswith(f'{framework}.models.backbones.swin')
    assert tuner == 'LoRand'


def test_import_needs_torch_and_mmengine_only():
    code = (
        'import sys\n'
        'class Block:\n'
        '    def find_spec(self, name, path=None, target=None):\n'
        '        top = name.split(".")[0]\n'
        '        if top in {"mmcv", "mmdet", "mmseg", "mmpretrain",'
        ' "sklearn"}:\n'
        '            raise ImportError(name)\n'
        'sys.meta_path.insert(0, Block())\n'
        'import mmlowrank, mmlowrank.nn, mmlowrank.tuners\n'
        'import mmlowrank.models\n'
    )
    subprocess.run([sys.executable, '-W', 'ignore', '-c', code], check=True)


@every
def test_general_form_equals_named_form(framework):
    torch.manual_seed(0)
    named = build(framework, 'mmlowrank.SwinLoRand', rank=4)
    cfg = dict(
        type='SwinTransformer',
        **ARGS[framework],
        window_size=4,
        drop_path_rate=0.0,
    )
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(framework):
        general = MODELS.build(
            dict(
                type='mmlowrank.TunedBackbone',
                backbone=cfg,
                tuner=dict(type='LoRand', rank=4),
            )
        )
    for (name, one), (other_name, other) in zip(
        named.state_dict().items(), general.state_dict().items(), strict=True
    ):
        assert name == other_name
        assert torch.equal(one, other)


def test_fixed_freezes_any_backbone_and_its_statistics():
    with DefaultScope.overwrite_default_scope('mmdet'):
        resnet = MODELS.build(
            dict(
                type='mmlowrank.TunedBackbone',
                backbone=dict(type='ResNet', depth=18, norm_eval=False),
                tuner=dict(type='Fixed'),
            )
        )
    resnet.train()
    before = resnet.bn1.running_mean.clone()
    resnet(images())
    assert torch.equal(resnet.bn1.running_mean, before)
    assert not any(p.requires_grad for p in resnet.parameters())


def test_a_backbone_of_no_family_is_refused_by_name():
    backbone = dict(type='CSPDarknet', deepen_factor=0.33, widen_factor=0.1)

    def tuned(name):
        return MODELS.build(
            dict(
                type='mmlowrank.TunedBackbone',
                backbone=backbone,
                tuner=dict(type=name),
            )
        )

    with DefaultScope.overwrite_default_scope('mmdet'):
        with pytest.raises(
            TypeError,
            match=r'LoRand .* CSPDarknet: it needs residual branches .*, but '
            r'it is none of those known: .*Swin .* fit this backbone: BitFit, '
            'Fixed, Full, LoRA, NormTuning, RLRR, SSF$',
        ):
            tuned('LoRand')
        assert tuned('NormTuning').tuner.owned()
        # Of all its convolutions.
        assert tuned('SSF').tuner.added()


def test_unknown_tuner_is_refused_with_the_known_ones():
    with (
        DefaultScope.overwrite_default_scope('mmdet'),
        pytest.raises(KeyError, match=r"'Lorand' .* Fixed, Full, LoRA"),
    ):
        MODELS.build(
            dict(
                type='mmlowrank.TunedBackbone',
                backbone=dict(type='SwinTransformer'),
                tuner=dict(type='Lorand'),
            )
        )


def test_no_scope_is_refused_with_the_cure():
    with pytest.raises(KeyError, match='default_scope='):
        MODELS.build(dict(type='mmlowrank.SwinLoRand'))


@every
def test_misspelt_argument_is_named_with_those_there_are(framework):
    message = "LoRand has no argument 'brunches'; it has branches, init, "
    with pytest.raises(TypeError, match=message):
        build(framework, 'mmlowrank.SwinLoRand', brunches=2)
    general = dict(
        type='mmlowrank.TunedBackbone',
        backbone=dict(type='SwinTransformer'),
        tuner=dict(type='LoRand', brunches=2),
    )
    with (
        DefaultScope.overwrite_default_scope(framework),
        pytest.raises(TypeError, match=message),
    ):
        MODELS.build(general)


def test_rank_above_width_is_refused():
    with pytest.raises(ValueError, match='rank of at most 8'):
        build('mmdet', 'mmlowrank.SwinLoRand', rank=9)


def test_two_tuners_are_refused():
    backbone = build('mmdet', 'mmlowrank.SwinLoRand', rank=4)
    with pytest.raises(ValueError, match='one tuner'):
        Fixed().attach(backbone)


def save(path, state_dict):
    torch.save(dict(state_dict=state_dict), path)
    return dict(type='Pretrained', checkpoint=str(path))


def pretrained(framework, path, **kwargs):
    """A backbone with its weights from a classifier saved whole."""
    torch.manual_seed(3)
    source = build(framework, 'SwinTransformer', **kwargs)
    state_dict = source.state_dict()
    for name in state_dict:
        if name.startswith(('norm0', 'norm1', 'norm2')):
            state_dict[name] = None
    state_dict = {
        f'backbone.{n}': t for n, t in state_dict.items() if t is not None
    }
    init_cfg = save(path, state_dict)
    if framework == 'mmpretrain':
        init_cfg['prefix'] = 'backbone.'
    return source, init_cfg


@every
@pytest.mark.parametrize('kind', ['SwinFull', 'SwinFixed', 'SwinLoRand'])
def test_pretrained_weights_arrive(framework, kind, tmp_path):
    source, init_cfg = pretrained(framework, tmp_path / 'a.pth')
    extra = dict(rank=4) if kind == 'SwinLoRand' else {}
    backbone = build(
        framework, f'mmlowrank.{kind}', init_cfg=init_cfg, **extra
    )
    backbone.init_weights()
    loaded = backbone.state_dict()
    for name, value in source.state_dict().items():
        assert torch.equal(loaded[name], value), name
    if extra:
        site = backbone.tuner.stages[0][0]['attn']
        assert not site.up_Q.any() and site.K.abs().min() > 0


@every
def test_checkpoint_of_another_width_is_refused(framework, tmp_path):
    arch = dict(embed_dims=32, depths=DEPTHS, num_heads=(1, 2, 2, 4))
    other = dict(arch=arch) if framework == 'mmpretrain' else arch
    _, init_cfg = pretrained(framework, tmp_path / 'wide.pth', **other)
    backbone = build(
        framework, 'mmlowrank.SwinLoRand', rank=4, init_cfg=init_cfg
    )
    with pytest.raises(RuntimeError, match=r'wide\.pth'):
        backbone.init_weights()


@every
def test_checkpoint_of_something_else_is_refused(framework, tmp_path):
    state_dict = {'backbone.conv1.weight': torch.zeros(1)}
    init_cfg = save(tmp_path / 'resnet.pth', state_dict)
    backbone = build(
        framework, 'mmlowrank.SwinLoRand', rank=4, init_cfg=init_cfg
    )
    with pytest.raises(ValueError, match=r'resnet\.pth is not a Swin'):
        backbone.init_weights()


def microsoft(state_dict):
    """Our state dict as the Microsoft repository would have saved it."""
    theirs = {}
    for name, value in state_dict.items():
        if re.match(r'norm[012]\.', name):
            continue
        if re.search(r'downsample\.(reduction|norm)\.', name):
            # channel-major (C, row, column) -> (column, row, C)
            grid = value.reshape(*value.shape[:-1], -1, 2, 2)
            value = grid.transpose(-1, -3).reshape(value.shape)
        for old, new in (
            ('stages', 'layers'),
            ('attn.w_msa', 'attn'),
            ('ffn.layers.0.0', 'mlp.fc1'),
            ('ffn.layers.1', 'mlp.fc2'),
            ('patch_embed.projection', 'patch_embed.proj'),
            ('norm3', 'norm'),
        ):
            name = name.replace(old, new)
        theirs[name] = value
    theirs['layers.0.blocks.1.attn_mask'] = torch.zeros(4, 16, 16)
    theirs['head.weight'] = torch.zeros(5, 8 * EMBED_DIMS)
    return theirs


@every
def test_microsoft_files_load_in_every_framework(framework, tmp_path):
    torch.manual_seed(3)
    source = build(framework, 'SwinTransformer')
    path = tmp_path / 'swin_22k.pth'
    torch.save(dict(model=microsoft(source.state_dict())), path)
    backbone = build(
        framework,
        'mmlowrank.SwinLoRand',
        rank=4,
        convert_weights=True,
        init_cfg=dict(type='Pretrained', checkpoint=str(path)),
    )
    backbone.init_weights()
    source.eval(), backbone.eval()
    with torch.no_grad():
        for one, other in zip(
            source(images()), backbone(images()), strict=True
        ):
            assert torch.equal(one, other)


def test_our_conversion_is_mmdets():
    from mmdet.models.backbones.swin import swin_converter

    torch.manual_seed(3)
    state_dict = microsoft(build('mmdet', 'SwinTransformer').state_dict())
    theirs = swin_converter(state_dict)
    for name, value in convert(state_dict).items():
        assert torch.equal(theirs[f'backbone.{name}'], value), name


@every
@pytest.mark.parametrize('convert_weights', [True, False])
def test_convert_weights_without_a_checkpoint_means_nothing(
    framework, convert_weights
):
    backbone = build(
        framework,
        'mmlowrank.SwinLoRand',
        rank=4,
        convert_weights=convert_weights,
    )
    backbone.init_weights()


@every
def test_convert_weights_can_be_switched_off(framework, tmp_path):
    source, init_cfg = pretrained(framework, tmp_path / 'a.pth')
    backbone = build(
        framework,
        'mmlowrank.SwinFixed',
        init_cfg=init_cfg,
        convert_weights=False,
    )
    backbone.init_weights()
    name = 'stages.0.downsample.reduction.weight'
    loaded = backbone.state_dict()[name]
    assert torch.equal(loaded, source.state_dict()[name])


def test_adaptformer_keeps_nothing_of_a_pass_that_failed():
    """A tensor of a graph could not be copied."""
    backbone = build('mmdet', 'mmlowrank.SwinAdaptFormer', mid_channels=4)
    drop = backbone.stages[0].blocks[0].attn.drop
    handle = drop.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        backbone(images().requires_grad_())
    handle.remove()
    copy.deepcopy(backbone)(images())


def test_prompts_leave_the_batch_size_open():
    backbone = build(VIT, 'VPT', tokens=3)
    backbone.eval()
    traced = torch.jit.trace(
        backbone, images(2), check_trace=False, strict=False
    )
    for one, other in zip(traced(images(3)), backbone(images(3)), strict=True):
        torch.testing.assert_close(one, other)


def test_a_batch_without_images_on_a_vit():
    backbone = build(VIT, 'LoRand', rank=4)
    backbone(torch.zeros(0, 3, 64, 64))[-1].sum().backward()
    assert not any(p.grad.any() for p in backbone.tuner.parameters())
