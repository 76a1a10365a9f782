"""A faster trunk for tuners that want no gradient from it.

FIXED and E3VA run whole blocks without a graph. What such a block computes
with in a training step is replaced as in :mod:`lean`: the stock modules stay
where they are and keep their tensors and hooks, and their own code runs
wherever a gradient, a dropout, autocast or another device than a CPU is at
work. On a GPU nothing was measured yet, so the stock code runs there. It also
runs in a test, so that what is tested is the stock trunk to the bit.
"""

import torch
from torch import Tensor, nn

from ..nn import graph_free
from .anatomy import Block, swin_stages
from .base import Tuner
from .lean import drops, is_plain, make_merging_fast


class FrozenTrunk(Tuner):
    """Base of the tuners whose frozen blocks run without a graph.

    Args:
        stochastic_trunk: See :class:`Tuner`.
        trunk: ``'fast'`` computes frozen blocks with fewer copies and fused
            kernels in training steps, equal up to the order of float32
            sums; ``'stock'`` with the stock code there too.

    Raises:
        ValueError: If ``trunk`` is unknown.
    """

    def __init__(
        self, stochastic_trunk: bool = False, trunk: str = 'fast'
    ) -> None:
        super().__init__(stochastic_trunk)
        if trunk not in ('fast', 'stock'):
            raise ValueError(f"trunk must be 'fast' or 'stock', got {trunk!r}")
        self.trunk = trunk

    def build(self, backbone: nn.Module) -> None:
        if self.trunk == 'fast':
            make_fast(backbone)


def make_fast(backbone: nn.Module) -> None:
    """Replace what a frozen Swin's blocks compute with.

    A backbone of another anatomy keeps its own code.
    """
    try:
        stages = swin_stages(backbone, needed_by='the fast trunk')
    except TypeError:
        return
    for stage in stages:
        for block in stage.blocks:
            _make_fast(block)
        if stage.downsample is not None:
            make_merging_fast(stage.downsample)


def _make_fast(block: Block) -> None:
    if hasattr(block.attention, 'relative_position_bias_table'):
        block.windows.forward = _FastAttention(block).forward
    if is_plain(block.mlp):
        block.mlp.forward = _FastMLP(block.mlp).forward


def _graph_free(module: nn.Module, x: Tensor) -> bool:
    return (
        x.device.type == 'cpu'
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled('cpu')
        and not drops(module)
        and torch.is_grad_enabled()
        and not x.requires_grad
        and not any(p.requires_grad for p in module.parameters())
    )


class _FastAttention:
    """``forward`` of attention in shifted windows; deep copies follow."""

    def __init__(self, block: Block) -> None:
        self.outer = block.windows
        self.inner = block.attention

    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        outer, own = self.outer, self.inner
        size, shift = outer.window_size, outer.shift_size
        # mmpretrain's Swin has rules of its own for maps this small.
        small = min(hw_shape) <= size and not getattr(
            outer, 'pad_small_map', True
        )
        if small or not _graph_free(own, x):
            return type(outer).forward(outer, x, hw_shape)
        windows = graph_free.windows_of(len(x), *hw_shape, size, shift)
        index = own.relative_position_index.flatten()
        bias = own.relative_position_bias_table.index_select(0, index)
        bias = bias.t().reshape(-1, size**2, size**2)
        cut = windows.cut(x.flatten(0, 1))
        qkv = graph_free.linear(cut, own.qkv.weight, own.qkv.bias)
        out = graph_free.window_attention(
            qkv, bias, windows, own.num_heads, own.scale
        )
        out = windows.join(out)
        out = graph_free.linear(out, own.proj.weight, own.proj.bias)
        return outer.drop(out.view(x.shape))


class _FastMLP:
    """``forward`` of an MLP; an object, for deep copies."""

    def __init__(self, layers: nn.Module) -> None:
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        if not _graph_free(self.layers, x):
            return type(self.layers).forward(self.layers, x)
        first, second = (
            m for m in self.layers.modules() if isinstance(m, nn.Linear)
        )
        hidden = graph_free.linear(x, first.weight, first.bias)
        torch.ops.aten.gelu_(hidden)
        return graph_free.linear(hidden, second.weight, second.bias)
