"""Small backbones of the families besides Swin and mmpretrain's plain ViT."""

import importlib

import torch
from mmengine.registry import MODELS, DefaultScope
from torch import nn

IMAGE = 64
_ARCH = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32)
_PYRAMID = dict(
    embed_dims=8,
    num_stages=4,
    num_heads=[1, 2, 2, 4],
    sr_ratios=[4, 2, 1, 1],
    out_indices=(0, 1, 2, 3),
)
_MMSEG = dict(
    img_size=IMAGE,
    patch_size=16,
    embed_dims=16,
    num_layers=3,
    num_heads=2,
    mlp_ratio=2,
    out_indices=(0, 2),
)
_ROW = dict(
    arch=_ARCH,
    img_size=IMAGE,
    patch_size=16,
    out_type='featmap',
    out_indices=(0, 2),
)
_SWIN = dict(embed_dims=16, depths=(1, 2), num_heads=(2, 4))
_CONV = dict(
    arch=dict(depths=(1, 2), channels=(8, 16)),
    out_indices=(0, 1),
    gap_before_final_norm=False,
    layer_scale_init_value=0.5,
)
_RESNET = dict(
    depth=50,
    base_channels=8,
    stem_channels=8,
    num_stages=2,
    strides=(1, 2),
    dilations=(1, 1),
)
_TIMM = dict(
    type='TIMMBackbone',
    pretrained=False,
    img_size=IMAGE,
    patch_size=16,
    embed_dim=16,
    depth=3,
    num_heads=2,
)
# Name -> framework, config.
HOSTS = {
    'dinov2': (
        'mmpretrain',
        dict(
            _ROW,
            type='VisionTransformer',
            layer_scale_init_value=0.5,
            layer_cfgs=dict(ffn_type='swiglu_fused'),
            patch_size=14,
            img_size=56,
        ),
    ),
    'clip': (
        'mmpretrain',
        dict(
            _ROW,
            type='VisionTransformer',
            pre_norm=True,
            patch_cfg=dict(bias=False),
            out_type='cls_token',
            out_indices=-1,
        ),
    ),
    'deit3': ('mmpretrain', dict(_ROW, type='DeiT3')),
    'swin-v2': (
        'mmpretrain',
        dict(
            type='SwinTransformerV2',
            arch=dict(_SWIN, extra_norm_every_n_blocks=0),
            img_size=IMAGE,
            window_size=4,
            out_indices=(0, 1),
        ),
    ),
    'beit': (
        'mmpretrain',
        dict(_ROW, type='BEiTViT', layer_scale_init_value=0.5),
    ),
    'eva02': ('mmpretrain', dict(_ROW, type='ViTEVA02', sub_ln=True)),
    'sam': (
        'mmpretrain',
        dict(
            type='ViTSAM',
            arch=dict(_ARCH, global_attn_indexes=(1,)),
            img_size=IMAGE,
            patch_size=16,
            window_size=3,
            out_channels=8,
            out_indices=-1,
        ),
    ),
    'mmseg-vit': ('mmseg', dict(_MMSEG, type='VisionTransformer')),
    'mmseg-beit': (
        'mmseg',
        dict(_MMSEG, type='BEiT', qv_bias=True, init_values=0.5),
    ),
    'mmseg-mae': (
        'mmseg',
        dict(_MMSEG, type='MAE', init_values=1.0, final_norm=True),
    ),
    'mit': (
        'mmseg',
        dict(_PYRAMID, type='MixVisionTransformer', num_layers=[1, 1, 2, 1]),
    ),
    'pvt': (
        'mmdet',
        dict(
            _PYRAMID,
            type='PyramidVisionTransformer',
            num_layers=[1, 1, 2, 1],
            pretrain_img_size=IMAGE,
        ),
    ),
    'mscan': (
        'mmseg',
        dict(
            type='MSCAN',
            embed_dims=[8, 16],
            depths=[1, 2],
            mlp_ratios=[2, 2],
            drop_path_rate=0.0,
            num_stages=2,
            norm_cfg=dict(type='BN'),
        ),
    ),
    'convnext': ('mmpretrain', dict(_CONV, type='ConvNeXt')),
    'convnext, one output': (
        'mmpretrain',
        dict(
            _CONV,
            type='ConvNeXt',
            out_indices=(1,),
            gap_before_final_norm=True,
        ),
    ),
    'convnext, 1 x 1': (
        'mmpretrain',
        dict(_CONV, type='ConvNeXt', linear_pw_conv=False, use_grn=True),
    ),
    'resnet': (
        'mmdet',
        dict(
            _RESNET,
            type='ResNet',
            norm_eval=True,
            frozen_stages=1,
            out_indices=(0, 1),
        ),
    ),
    'resnet, one output': (
        'mmpretrain',
        dict(_RESNET, type='ResNet', out_indices=(1,)),
    ),
    'timm, maps': (
        'mmseg',
        dict(
            _TIMM,
            model_name='vit_tiny_patch16_224',
            features_only=True,
            out_indices=(2, 0),
        ),
    ),
    'timm, dinov3': (
        'mmpretrain',
        dict(
            _TIMM,
            model_name='vit_small_patch16_dinov3',
            init_values=0.5,
        ),
    ),
    'timm, eva02': (
        'mmpretrain',
        dict(
            _TIMM,
            model_name='eva02_tiny_patch14_224',
            features_only=True,
            out_indices=(0, 2),
        ),
    ),
}


def build(host: str, tuner: dict | None = None, **kwargs) -> nn.Module:
    """Build one of the table, stock or with a tuner."""
    framework, cfg = HOSTS[host]
    importlib.import_module(f'{framework}.models')
    cfg = dict(cfg, **kwargs)
    if tuner is not None:
        cfg = dict(
            type='mmlowrank.TunedBackbone', backbone=cfg, tuner=dict(tuner)
        )
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(framework):
        backbone = MODELS.build(cfg)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            # Those of PVT's later stages start at zero.
            if name.startswith('layers.') and name.endswith('pos_embed'):
                parameter += torch.linspace(0, 1, parameter.numel()).view_as(
                    parameter
                )
    return backbone


def images(host: str) -> torch.Tensor:
    """Return (2, 3, size, size) of the size that it takes."""
    size = HOSTS[host][1].get('img_size', IMAGE)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, size, size, generator=generator)
