"""The small backbones that the tests tune: three Swins and a ViT."""

from inspect import signature

import torch
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmlowrank.models.tuned_backbone import OF_TRUNK
from mmlowrank.registry import TUNERS

FRAMEWORKS = ('mmdet', 'mmseg', 'mmpretrain')
EMBED_DIMS, DEPTHS, NUM_HEADS = 16, (2, 1, 2, 1), (1, 2, 2, 4)
# Width of each block.
WIDTHS = [
    EMBED_DIMS * 2**stage for stage, n in enumerate(DEPTHS) for _ in range(n)
]
# mmpretrain's Swin takes its sizes in `arch`, and pads small maps on request.
ARGS = {
    'mmdet': dict(embed_dims=EMBED_DIMS, depths=DEPTHS, num_heads=NUM_HEADS),
    'mmseg': dict(embed_dims=EMBED_DIMS, depths=DEPTHS, num_heads=NUM_HEADS),
    'mmpretrain': dict(
        arch=dict(embed_dims=EMBED_DIMS, depths=DEPTHS, num_heads=NUM_HEADS),
        out_indices=(0, 1, 2, 3),
        pad_small_map=True,
    ),
}
# mmpretrain's ViT; not a framework, but named like one in the tests' tables.
VIT = 'vit'
# The type of a row with a list of tuners.
COMPOSED = 'mmlowrank.TunedBackbone'
VIT_DIMS, VIT_LAYERS = 16, 3
VIT_ARGS = dict(
    arch=dict(
        embed_dims=VIT_DIMS,
        num_layers=VIT_LAYERS,
        num_heads=2,
        feedforward_channels=4 * VIT_DIMS,
    ),
    img_size=64,
)


def build(framework: str, backbone_type: str, **kwargs) -> nn.Module:
    """Build a backbone as a config of ``framework`` would."""
    if framework == VIT:
        return build_vit(backbone_type, **kwargs)
    cfg = dict(
        ARGS[framework],
        **dict(dict(window_size=4, drop_path_rate=0.0), **kwargs),
    )
    if backbone_type == COMPOSED:
        return _composed(framework, dict(cfg, type='SwinTransformer'))
    with DefaultScope.overwrite_default_scope(framework):
        return MODELS.build(dict(cfg, type=backbone_type))


def _composed(framework: str, cfg: dict) -> nn.Module:
    """Build what has a list of tuners beside the stock arguments."""
    own = {k: cfg.pop(k) for k in [*cfg] if k in {'tuner', *OF_TRUNK}}
    with DefaultScope.overwrite_default_scope(framework):
        return MODELS.build(dict(type=COMPOSED, backbone=cfg, **own))


def build_vit(tuner_type: str, **kwargs) -> nn.Module:
    """Build the ViT with the tuner that a Swin's named form would have."""
    if tuner_type == COMPOSED:
        cfg = dict(VIT_ARGS, type='VisionTransformer') | kwargs
        return _composed('mmpretrain', cfg)
    tuner_type = tuner_type.removeprefix('mmlowrank.Swin')
    plain = tuner_type == 'SwinTransformer'
    known = {} if plain else signature(TUNERS.get(tuner_type)).parameters
    tuner = {k: v for k, v in kwargs.items() if k in {*known, *OF_TRUNK}}
    stock = {k: v for k, v in kwargs.items() if k not in tuner}
    cfg = dict(VIT_ARGS, type='VisionTransformer') | stock
    if not plain:
        cfg = dict(
            type='mmlowrank.TunedBackbone',
            backbone=cfg,
            tuner=dict(type=tuner_type, **tuner),
        )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(cfg)


def images(batch: int = 2, seed: int = 0, size: int = 64) -> torch.Tensor:
    """Return (batch, 3, size, size)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, size, size, generator=generator)


def stir(backbone: nn.Module, seed: int = 1) -> None:
    """Move every tuner tensor off its start, so that all have a gradient.

    Without a tuner, every tensor.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in getattr(backbone, 'tuner', backbone).parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += 0.05 * noise.to(parameter.dtype)


def loss(backbone: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return the mean over images of a scalar that uses every output."""
    total = x.new_zeros(())
    for level, out in enumerate(backbone(x)):
        # A plain sum of LayerNorm outputs would be constant.
        weight = torch.linspace(-1, 1, out[0].numel()).reshape(out[0].shape)
        total = total + (out * weight).square().mean() * (level + 1)
    return total


def check_autocast(backbone: nn.Module, x: torch.Tensor) -> None:
    """Assert that gradients under autocast are float32 and point there."""
    loss(backbone, x).backward()
    exact = {
        n: p.grad.clone()
        for n, p in backbone.named_parameters()
        if p.requires_grad
    }
    backbone.zero_grad()
    with torch.autocast('cpu', torch.bfloat16):
        value = loss(backbone, x)
    value.backward()
    for name, reference in exact.items():
        grad = backbone.get_parameter(name).grad
        assert grad.dtype == torch.float32
        # bfloat16 has 8 bits of mantissa: the direction must agree.
        cosine = torch.cosine_similarity(
            grad.flatten(), reference.flatten(), dim=0
        )
        assert cosine > 0.9, name
