"""A stock ViT whose blocks share their linear layers: LORS^T in a backbone.

Paper: "LORS: Low-rank Residual Structure for Parameter-Efficient Network
Stacking", CVPR 2024, equation 8. Its text has AdaMixer only; the authors'
code has a DeiT-Tiny too, and what is here follows that: all blocks share one
weight for each of qkv, proj, fc1 and fc2; a block keeps a low-rank residual,
its biases, which start at zero, and its norms.
"""

from typing import Any

from mmengine.config import ConfigDict
from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn

from ..families import family_of
from ..nn import LORSLinear, LORSStatic
from ..registry import MODELS

_STOCK = 'mmpretrain.VisionTransformer'


@MODELS.register_module()
def StackSharedViT(
    lors_attn: dict | None = None,
    lors_ffn: dict | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Build mmpretrain's VisionTransformer with LORS^T in its blocks.

    It is trained from scratch, with all its parameters. It has the state
    dict of the stock ViT but for the linear layers that are shared: of
    these, ``lors.<site>`` has the weights and biases of all blocks, with the
    sites qkv, proj, fc1, fc2. ``tools/model_converters/merge.py`` makes a
    stock checkpoint of it; there is no way back.

    Args:
        lors_attn: Options of :class:`mmlowrank.nn.LORSStatic` for qkv and
            proj, e.g. ``dict(rank=32, terms=[1] * 9 + [2, 4, 6])``. None
            leaves the linear layers of the attentions to the blocks.
        lors_ffn: The same for the linear layers of the FFNs.
        **kwargs: Of the stock ViT.

    Raises:
        ValueError: If nothing is shared, an option of LORS is wrong, or
            the blocks are not equal or not all trained.
    """
    if lors_attn is None and lors_ffn is None:
        raise ValueError(
            'lors_attn and lors_ffn are both None, so nothing is shared. Set '
            "one, e.g. lors_ffn=dict(rank=32), or use type='VisionTransformer'"
        )
    if kwargs.get('frozen_stages', -1) > 0:
        raise ValueError(
            f'frozen_stages={kwargs["frozen_stages"]} cannot freeze a weight '
            'that later blocks train: leave it out'
        )
    vit = ROOT_MODELS.build(ConfigDict(kwargs, type=_STOCK))
    sites = _sites(vit)
    vit.lors = nn.ModuleDict()
    for name, (branch, path) in sites.items():
        options = dict(attn=lors_attn, ffn=lors_ffn)[branch]
        if options is not None:
            vit.lors[name] = _share(vit.layers, path, options)
    return vit


def stock_vit_config(backbone: dict) -> dict:
    """Return the config of the stock ViT that a merged checkpoint is for.

    Args:
        backbone: Config of a :func:`StackSharedViT`.
    """
    own = ('lors_attn', 'lors_ffn')
    stock = {key: v for key, v in backbone.items() if key not in own}
    return dict(stock, type=_STOCK)


def _sites(vit: nn.Module) -> dict[str, tuple[str, str]]:
    """Return name -> branch and path in a block of the linear layers.

    Raises:
        ValueError: If they are not the same in all blocks.
    """
    layouts = [
        [
            (path, linear.weight.shape, linear.bias is None)
            for path, linear in layer.named_modules()
            if isinstance(linear, nn.Linear)
        ]
        for layer in vit.layers
    ]
    if any(layout != layouts[0] for layout in layouts):
        raise ValueError(
            'the blocks have linear layers of different sizes, which cannot '
            'share a weight: give all blocks the same layer_cfgs'
        )
    trunk = family_of(vit)
    first = trunk.blocks[0]
    prefix = f'{trunk.path(first.module)}.'
    return {
        name: (branch, layer.path.removeprefix(prefix))
        for branch, layers in first.linears.items()
        for name, layer in layers.items()
    }


def _share(layers: nn.ModuleList, path: str, options: dict) -> LORSStatic:
    """Let the linear layers at a path in each block share one weight."""
    linear = layers[0].get_submodule(path)
    bias = 'none' if linear.bias is None else 'private'
    stack = LORSStatic(
        linear.in_features,
        linear.out_features,
        len(layers),
        **{'bias': bias, **options},
    )
    parent, _, name = path.rpartition('.')
    for stage, layer in enumerate(layers):
        setattr(layer.get_submodule(parent), name, LORSLinear(stack, stage))
    return stack
