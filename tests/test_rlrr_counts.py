"""RLRR and its rivals on the real architectures: exact counts."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmlowrank.analysis.counting import build_on_meta, count_parameters


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
