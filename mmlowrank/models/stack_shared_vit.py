"""A stock ViT whose blocks share their linear layers: LORS^T in a backbone.

Paper: "LORS: Low-rank Residual Structure for Parameter-Efficient Network
Stacking", CVPR 2024, equation 8. Its text has AdaMixer only; the authors'
code has a DeiT-Tiny too, and what is here follows that: all blocks share one
weight for each of qkv, proj, fc1 and fc2; a block keeps a low-rank residual,
its biases, which start at zero, and its norms. For other stacks see
:mod:`.stack_shared_model`.
"""

from typing import Any

from torch import nn

from ..families import family_of
from ..registry import MODELS
from .stacks import Site, check, share, sites_of
from .stock_model import build_model

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
    vit = build_model(_STOCK, **kwargs)
    check(sites_of(vit.layers, 'layers'), vit.layers, 'layers', vit)
    sites = _sites(vit)
    vit.lors = nn.ModuleDict()
    for name, (branch, site) in sites.items():
        options = dict(attn=lors_attn, ffn=lors_ffn)[branch]
        if options is not None:
            vit.lors[name] = share(vit.layers, site, options)
    return vit


def stock_vit_config(backbone: dict) -> dict:
    """Return the config of the stock ViT that a merged checkpoint is for.

    Args:
        backbone: Config of a :func:`StackSharedViT`.
    """
    own = ('lors_attn', 'lors_ffn')
    stock = {key: v for key, v in backbone.items() if key not in own}
    return dict(stock, type=_STOCK)


def _sites(vit: nn.Module) -> dict[str, tuple[str, Site]]:
    """Return name -> branch and place in a block of the linear layers."""
    trunk = family_of(vit)
    first = trunk.blocks[0]
    prefix = f'{trunk.path(first.module)}.'
    return {
        name: (branch, Site(layer.path.removeprefix(prefix)))
        for branch, layers in first.linears.items()
        for name, layer in layers.items()
    }
