"""RLRR and its rivals on the real architectures, and merged in float64."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from swins import (
    DEPTHS,
    EMBED_DIMS,
    FRAMEWORKS,
    VIT,
    VIT_ARGS,
    build,
    images,
    stir,
)
from test_engine import construct, options
from test_tuner_contract import TUNERS, VIT_TUNERS, kind, rows_of, stock
from torch import nn

from mmlowrank.analysis.counting import build_on_meta, count_parameters
from mmlowrank.tuners import CannotMerge

every = pytest.mark.parametrize('framework', (*FRAMEWORKS, VIT))
LINEAR = {
    (framework, name): row
    for framework in (*FRAMEWORKS, VIT)
    for name, row in rows_of(framework, training=True).items()
    if row[3] and kind(row) in {'RLRR', 'SSF', 'LoRA', 'FacT', 'ARC'}
}
linear = pytest.mark.parametrize(
    'framework, row',
    [(framework, row) for (framework, _), row in LINEAR.items()],
    ids=map('-'.join, LINEAR),
)


@linear
def test_merged_equals_tuned_to_1e_12(framework, row):
    """With windows of 3: padded tokens see the merged weights too."""
    extra = {} if framework == VIT else dict(window_size=3)
    torch.manual_seed(0)
    backbone = build(framework, row[0], **row[1], **extra).double()
    stir(backbone)
    plain = stock(framework, **extra).double()
    # A Swin's eval() returns None.
    backbone.eval(), plain.eval()
    result = plain.load_state_dict(backbone.tuner.merge())
    assert not result.missing_keys and not result.unexpected_keys
    x = images().double()
    with torch.no_grad():
        for one, other in zip(backbone(x), plain(x), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_a_shift_without_a_place_is_said():
    """A reduction that cannot reach the shift; a qkv without bias."""
    backbone = build('mmdet', 'mmlowrank.SwinRLRR')
    stir(backbone)
    with torch.no_grad():
        backbone.stages[0].downsample.reduction.weight[1] = 0
    with pytest.raises(CannotMerge, match=r'because .*reduction has no bias'):
        backbone.tuner.merge()
    for tuner in ('mmlowrank.SwinRLRR', 'mmlowrank.SwinARC'):
        backbone = build('mmdet', tuner, qkv_bias=False)
        stir(backbone)
        with pytest.raises(CannotMerge, match=r'qkv has no bias'):
            backbone.tuner.merge()


@pytest.mark.parametrize('tuner', ['SwinRLRR', 'SwinSSF'])
def test_a_classifiers_last_norm_is_scaled_and_shifted(tuner):
    backbone = build('mmpretrain', f'mmlowrank.{tuner}', out_indices=(3,))
    stir(backbone)
    owned = backbone.tuner.owned()
    assert not any(name.startswith('norm') for name in owned)
    assert backbone.tuner.output.scale.numel() == 8 * EMBED_DIMS
    plain = stock('mmpretrain', out_indices=(3,)).double()
    backbone.double()
    backbone.eval(), plain.eval()
    plain.load_state_dict(backbone.tuner.merge())
    x = images().double()
    with torch.no_grad():
        torch.testing.assert_close(
            backbone(x)[0], plain(x)[0], rtol=1e-12, atol=1e-12
        )


def test_stages_without_an_output_are_left_alone():
    """A merging whose result is not used would never get a gradient."""
    backbone = build('mmdet', 'mmlowrank.SwinRLRR', out_indices=(0, 1))
    stir(backbone)
    sum(out.square().mean() for out in backbone(images())).backward()
    assert len(backbone.tuner.blocks) == sum(DEPTHS[:2])
    assert len(backbone.tuner.reductions) == 1
    for name, parameter in backbone.tuner.named_parameters():
        assert parameter.grad is not None, name


def architecture(scope, backbone, tuner):
    model = dict(
        type='mmlowrank.TunedBackbone', backbone=backbone, tuner=tuner
    )
    cfg = Config(dict(default_scope=scope, model=model))
    return build_on_meta(cfg)


def trained(scope, backbone, tuner):
    model = architecture(scope, backbone, tuner)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def vit(arch):
    patch = 14 if arch == 'h' else 16
    return dict(type='VisionTransformer', arch=arch, patch_size=patch)


def swin(embed_dims, depth):
    return dict(
        type='SwinTransformer',
        embed_dims=embed_dims,
        depths=[2, 2, depth, 2],
        num_heads=[embed_dims // 32 * 2**i for i in range(4)],
    )


# Scope, backbone, tuner, trained parameters: spec sections 6 and 11.
COUNTS = {
    'ViT-B': ('mmpretrain', vit('b'), dict(type='RLRR'), 288_768),
    'ViT-L': ('mmpretrain', vit('l'), dict(type='RLRR'), 765_952),
    'ViT-H': ('mmpretrain', vit('h'), dict(type='RLRR'), 1_274_880),
    'ViT-B, left': (
        'mmpretrain',
        vit('b'),
        dict(type='RLRR', sides=['left']),
        205_824,
    ),
    'ViT-B, right': (
        'mmpretrain',
        vit('b'),
        dict(type='RLRR', sides=['right']),
        205_824,
    ),
    'Swin-T': ('mmdet', swin(96, 6), dict(type='RLRR'), 136_320),
    'Swin-S': ('mmseg', swin(96, 18), dict(type='RLRR'), 269_952),
    'Swin-B': ('mmdet', swin(128, 18), dict(type='RLRR'), 359_936),
    'Swin-L': ('mmseg', swin(192, 18), dict(type='RLRR'), 539_904),
    'ViT-B, SSF': (
        'mmpretrain',
        vit('b'),
        dict(type='SSF'),
        22 * 12 * 768 + 4 * 768,
    ),
    'ViT-B, Bias': (
        'mmpretrain',
        vit('b'),
        dict(type='BitFit'),
        11 * 12 * 768 + 2 * 768,
    ),
    'ViT-B, AdaptFormer-8': (
        'mmpretrain',
        vit('b'),
        dict(type='AdaptFormer', mid_channels=8, sites=['ffn']),
        156_768,
    ),
    'ViT-B, LoRA-8': (
        'mmpretrain',
        vit('b'),
        dict(type='LoRA', rank=8),
        294_912,
    ),
    'ViT-B, VPT-Shallow-50': (
        'mmpretrain',
        vit('b'),
        dict(type='VPT', deep=False),
        50 * 768,
    ),
    'ViT-B, VPT-Deep-50': (
        'mmpretrain',
        vit('b'),
        dict(type='VPT'),
        12 * 50 * 768,
    ),
    'ViT-B, FacT-TK-32': (
        'mmpretrain',
        vit('b'),
        dict(type='FacT', rank=32),
        2 * 768 * 32 + 12 * 12 * 32 + 32**3,
    ),
    'ViT-B, ARC': (
        'mmpretrain',
        vit('b'),
        dict(type='ARC'),
        2 * 768 * 50 + 24 * (50 + 768),
    ),
}
SWIN_B = dict(type='SwinTransformer', arch='base')
COUNTS.update(
    {
        f'Swin-B classifier, {tuner["type"]}': (
            'mmpretrain',
            SWIN_B,
            tuner,
            count,
        )
        for tuner, count in (
            (dict(type='RLRR'), 358_144),
            (dict(type='BitFit'), 137_216 + 63_544),
            (dict(type='Partial'), 12_601_632),
            (dict(type='ARC'), 192_000 + 48 * 50 + 2 * 12_032),
        )
    }
)


@pytest.mark.parametrize('case', COUNTS.values(), ids=COUNTS)
def test_counts_of_the_spec(case):
    *built, count = case
    assert trained(*built) == count


# Table 2 (VTAB-1k: 940 classes in 19 tasks), table 3 (FGVC: 1173 in 5),
# tables 4 and 5, in millions, with the mean head of width D: K (D + 1).
VTAB, FGVC = 940 / 19, 1173 / 5
TABLES = {
    'linear, VTAB': (0, VTAB, 768, 0.04),
    'linear, FGVC': (0, FGVC, 768, 0.18),
    'RLRR, VTAB': ('ViT-B', VTAB, 768, 0.33),
    'RLRR, FGVC': ('ViT-B', FGVC, 768, 0.47),
    'RLRR left, FGVC': ('ViT-B, left', FGVC, 768, 0.39),
    'RLRR right, FGVC': ('ViT-B, right', FGVC, 768, 0.39),
    'RLRR, ViT-L': ('ViT-L', VTAB, 1024, 0.82),
    'RLRR, Swin-B': ('Swin-B classifier, RLRR', VTAB, 1024, 0.41),
    'SSF, VTAB': ('ViT-B, SSF', VTAB, 768, 0.24),
    'SSF, FGVC': ('ViT-B, SSF', FGVC, 768, 0.39),
    'Bias, VTAB': ('ViT-B, Bias', VTAB, 768, 0.14),
    'Bias, FGVC': ('ViT-B, Bias', FGVC, 768, 0.28),
    'Bias, Swin-B': ('Swin-B classifier, BitFit', VTAB, 1024, 0.25),
    'Partial, Swin-B': ('Swin-B classifier, Partial', VTAB, 1024, 12.65),
    # Without a head in the table.
    'AdaptFormer': ('ViT-B, AdaptFormer-8', 0, 768, 0.16),
    'LoRA': ('ViT-B, LoRA-8', 0, 768, 0.29),
    # With the bias that nn/arc.py infers from these two.
    'ARC, VTAB': ('ViT-B, ARC', VTAB, 768, 0.13),
    'ARC, Swin-B': ('Swin-B classifier, ARC', VTAB, 1024, 0.27),
}


@pytest.mark.parametrize('row', TABLES.values(), ids=TABLES)
def test_counts_of_the_papers_tables(row):
    case, classes, width, printed = row
    count = COUNTS[case][3] if case else 0
    assert round((count + classes * (width + 1)) / 1e6, 2) == printed


def test_the_mean_counts_with_heads():
    assert round(288_768 + VTAB * 769) == 326_813
    assert round(288_768 + FGVC * 769) == 469_175


@pytest.mark.parametrize('classes, total', [(100, 365_668), (2, 290_306)])
def test_a_whole_classifier(classes, total):
    """RLRR and a linear head in mmpretrain's classifier."""
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            model=dict(
                type='ImageClassifier',
                backbone=dict(
                    type='mmlowrank.TunedBackbone',
                    backbone=vit('b'),
                    tuner=dict(type='RLRR'),
                ),
                head=dict(
                    type='LinearClsHead', num_classes=classes, in_channels=768
                ),
            ),
        )
    )
    assert count_parameters(cfg)['model_trainable'] == total


def test_mlp_4_is_a_stock_head():
    """MLP-4 of table 5: a frozen backbone, a head of four linear layers."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        head = MODELS.build(
            dict(
                type='StackedLinearClsHead',
                num_classes=7,
                in_channels=16,
                mid_channels=[16, 16, 16],
                act_cfg=dict(type='ReLU'),
            )
        )
    layers = [m for m in head.modules() if isinstance(m, nn.Linear)]
    assert [m.out_features for m in layers] == [16, 16, 16, 7]
    count = sum(p.numel() for p in head.parameters())
    assert count == 3 * 16 * 17 + 7 * 17
    assert head((torch.randn(2, 16),)).shape == (2, 7)


def test_vit_separates_q_k_v_and_swin_does_not():
    """Section 6: the paper's counts need it so."""
    vit_b = architecture('mmpretrain', vit('b'), dict(type='RLRR'))
    assert vit_b.layers[0].attn.qkv.scale_left.shape == (3, 768)
    swin_t = architecture('mmdet', swin(96, 6), dict(type='RLRR'))
    qkv = swin_t.stages[0].blocks[0].attn.w_msa.qkv
    assert qkv.scale_left.shape == (1, 96)


def test_grouped_scales_are_three_linears():
    """q, k and v of a ViT as three layers of the paper's formula."""
    torch.manual_seed(0)
    backbone = build(VIT, 'RLRR').double()
    qkv = backbone.layers[1].attn.qkv
    nn.init.normal_(qkv.bias)
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    parts = []
    for i in range(3):
        rows = slice(16 * i, 16 * (i + 1))
        c, r = qkv.scale_left[i : i + 1], qkv.scale_right[rows]
        weight = qkv.weight[rows] * (1 + r @ c)
        parts.append(x @ weight.t() + qkv.bias[rows] + qkv.shift[0, rows])
    torch.testing.assert_close(
        qkv(x), torch.cat(parts, -1), rtol=0, atol=1e-13
    )


def test_branch_dropout_rises_and_is_off_in_evaluation():
    backbone = build(VIT, 'RLRR', branch_dropout=0.4)
    assert [b['dropout'].p for b in backbone.tuner.blocks] == [0, 0.2, 0.4]
    backbone.train()
    with torch.no_grad():
        assert not torch.equal(backbone(images())[0], backbone(images())[0])
        backbone.eval()
        assert torch.equal(backbone(images())[0], backbone(images())[0])


def test_biases_do_not_decay_and_scales_do():
    """Section 4: shifts and norms are not decayed, whatever their shape."""
    model = nn.Module()
    model.backbone = build(VIT, 'RLRR')
    for name, (_, decay) in options(model, construct(model)).items():
        scales = name.endswith(('scale_left', 'scale_right'))
        assert decay == (0.5 if scales else 0.0), name


def fail(*_):
    raise RuntimeError('in the middle')


def test_prompts_stand_behind_the_class_token_and_leave_no_trace():
    backbone = build(VIT, 'VPT', tokens=3, deep=False, out_type='raw')
    seen = []
    for layer in backbone.layers:
        layer.attn.register_forward_pre_hook(
            lambda _, args: seen.append(args[0].shape[1])
        )
    stream = []
    backbone.layers[0].ln1.register_forward_pre_hook(
        lambda _, args: stream.append(args[0])
    )
    out = backbone(images())[0]
    assert seen == [1 + 3 + 16] * 3
    assert out.shape[1] == 1 + 16
    prompts = backbone.tuner.prompts.prompts[0]
    assert torch.equal(stream[0][0, 1:4], prompts)
    # A pass that fails leaves nothing that a copy would trip over.
    backbone.layers[1].ffn.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match='in the middle'):
        backbone(images())
    copy.deepcopy(backbone)


def test_shallow_prompts_are_one_sequence_through_all_layers():
    """Equations 4 to 6, with the stock layers called by hand."""
    torch.manual_seed(0)
    backbone = build(VIT, 'VPT', tokens=3, deep=False).double()
    plain = stock(VIT).double()
    backbone.eval(), plain.eval()
    plain.load_state_dict(backbone.tuner.stock_state_dict())
    x, _ = plain.patch_embed(images().double())
    x = torch.cat([plain.cls_token.expand(2, -1, -1), x], 1)
    x = x + plain.pos_embed
    prompts = backbone.tuner.prompts(0, 2)
    x = torch.cat([x[:, :1], prompts, x[:, 1:]], 1)
    for layer in plain.layers:
        x = layer(x)
    torch.testing.assert_close(
        backbone(images().double())[0],
        plain.ln1(x)[:, 0],
        rtol=1e-12,
        atol=1e-12,
    )


def saved_vit(path, **kwargs):
    """A stock ViT, and an init_cfg with its weights as a classifier's."""
    torch.manual_seed(3)
    source = stock(VIT, **kwargs)
    state_dict = {f'backbone.{n}': t for n, t in source.state_dict().items()}
    torch.save(dict(state_dict=state_dict), path)
    return source, dict(
        type='Pretrained', checkpoint=str(path), prefix='backbone.'
    )


@pytest.mark.parametrize('tuner', ['RLRR', 'SSF', 'VPT', 'FacT', 'ARC'])
def test_pretrained_weights_of_a_vit_arrive(tuner, tmp_path):
    source, init_cfg = saved_vit(tmp_path / 'vit.pth')
    options = dict(rank=4) if tuner == 'FacT' else {}
    backbone = build(VIT, tuner, init_cfg=init_cfg, **options)
    before = copy.deepcopy(backbone.tuner.state_dict())
    backbone.init_weights()
    for name, value in source.state_dict().items():
        assert torch.equal(backbone.state_dict()[name], value), name
    for name, value in backbone.tuner.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_vit_of_other_depth_or_width_is_refused(tmp_path):
    arch = dict(VIT_ARGS['arch'], num_layers=2)
    _, init_cfg = saved_vit(tmp_path / 'short.pth', arch=arch)
    with pytest.raises(RuntimeError, match=r'short\.pth left 8 .*layers\.2'):
        build(VIT, 'RLRR', init_cfg=init_cfg).init_weights()
    arch = dict(VIT_ARGS['arch'], feedforward_channels=32)
    _, init_cfg = saved_vit(tmp_path / 'thin.pth', arch=arch)
    with pytest.raises(RuntimeError, match=r'thin\.pth left .*ffn'):
        build(VIT, 'RLRR', init_cfg=init_cfg).init_weights()


@pytest.mark.parametrize(
    'tuner, arguments, error, message',
    [
        ('RLRR', dict(init='zero'), ValueError, 'RLRR init must be one of'),
        ('RLRR', dict(sides=('up',)), ValueError, 'RLRR sides must be'),
        ('RLRR', dict(modules='attn'), ValueError, 'modules must be some'),
        ('RLRR', dict(modules=('mlp',)), ValueError, 'modules must be some'),
        ('RLRR', dict(layers=(3,)), ValueError, 'has 3, but .* 3 blocks'),
        ('RLRR', dict(qkv_groups=5), ValueError, 'groups=5 must divide'),
        ('RLRR', dict(branch_dropout=1.0), ValueError, 'branch_dropout'),
        ('SSF', dict(init='ones'), ValueError, 'SSF init must be one of'),
        ('VPT', dict(tokens=0), ValueError, 'tokens >= 1'),
        ('FacT', dict(rank=17), ValueError, 'between 1 and the width 16'),
        ('ARC', dict(mid_channels=0), ValueError, 'mid_channels >= 1'),
    ],
)
def test_nonsense_is_refused(tuner, arguments, error, message):
    with pytest.raises(error, match=message):
        build(VIT, tuner, **arguments)


@pytest.mark.parametrize(
    'tuner, message',
    [
        ('VPT', 'VPT cannot be attached to SwinTransformer'),
        ('FacT', r'FacT cannot be attached .* one width'),
    ],
)
def test_tuners_of_a_vit_refuse_a_swin(tuner, message):
    with pytest.raises(TypeError, match=message):
        architecture('mmdet', swin(32, 2), dict(type=tuner))


def test_a_vit_without_our_parts_is_refused_by_name():
    backbone = dict(type='VisionTransformer', num_layers=1)
    with pytest.raises(TypeError, match=r'RLRR .* as mmpretrain builds it'):
        architecture('mmseg', backbone, dict(type='RLRR'))


def test_every_tuner_has_a_row():
    from mmlowrank.registry import TUNERS as REGISTERED

    rows = {kind(row) for row in (*TUNERS.values(), *VIT_TUNERS.values())}
    assert rows == set(REGISTERED.module_dict)
