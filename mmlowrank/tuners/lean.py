"""A trunk that keeps less for the backward pass, for tuners that need one.

A tuner inside the residual stream (LoRand, Adapter, LoRA, ...) is trained by
back-propagating through frozen blocks. Frozen weights need no gradient, so
most of what a stock block keeps can be rebuilt from little: the softmax from
q, k, v; the hidden layer of the MLP from the input of its norm.

The stock modules stay where they are and keep their tensors and hooks; only
what ``forward`` computes them with is replaced, and only while gradients are
recorded. Values are those of the stock modules, up to the order of float32
sums; without gradients the stock code runs, to the bit. Bytes are the same on
every device; seconds were measured on CPUs only.
"""

import torch
from torch import Tensor, nn

from ..nn import attention, functional
from ..nn.swapped import Swapped
from .anatomy import Block, transformer_stages
from .base import Tuner

# Rebuilding the hidden layer costs 4 d^2 products a token and saves 4 d
# numbers: the narrow stages save most for their time.
_WIDEST_REBUILT_MLP = 512


class ThroughTrunk(Tuner):
    """Base of the tuners that back-propagate through the trunk.

    Args:
        stochastic_trunk: See :class:`Tuner`.
        memory: ``'lean'`` rebuilds intermediate results of the trunk in the
            backward pass, ``'stock'`` keeps them.

    Raises:
        ValueError: If ``memory`` is unknown.
    """

    # Whether the linear layers of the MLP compute x W^T + b, with their own
    # W and b or as a Swapped layer says; not with hooks on them.
    plain_mlp = True

    def __init__(
        self, stochastic_trunk: bool = False, memory: str = 'lean'
    ) -> None:
        super().__init__(stochastic_trunk)
        if memory not in ('lean', 'stock'):
            raise ValueError(
                f"memory must be 'lean' or 'stock', got {memory!r}"
            )
        self.memory = memory

    def build(self, backbone: nn.Module) -> None:
        if self.memory == 'stock':
            return
        for stage in transformer_stages(backbone, type(self).__name__):
            for block in stage.blocks:
                _make_lean(block, self.plain_mlp)
            if stage.downsample is not None:
                make_merging_fast(stage.downsample)


def _make_lean(block: Block, plain_mlp: bool) -> None:
    for module in block.module.modules():
        if _is_linear(module):
            module.forward = _FastLinear(module).forward
    # A ViT's attention is one fused product already.
    if hasattr(block.attention, 'relative_position_bias_table'):
        lean = _LeanAttention(block.attention)
        block.attention.forward = lean.forward
    narrow = block.width <= _WIDEST_REBUILT_MLP
    if plain_mlp and narrow and is_plain(block.mlp):
        lean = _LeanMLP(block.norms['ffn'], block.mlp)
        block.norms['ffn'].forward = lean.norm
        block.mlp.forward = lean.mlp


def make_merging_fast(merging: nn.Module) -> None:
    """Replace what a Swin's patch merging computes gradients with."""
    sampler = merging.sampler
    if (sampler.kernel_size, sampler.stride) == ((2, 2), (2, 2)):
        sampler.forward = _FastUnfold(sampler).forward
    if _is_linear(merging.reduction):
        merging.reduction.forward = _FastLinear(merging.reduction).forward


def _is_linear(module: nn.Module) -> bool:
    """Whether it computes x W^T + b, and not a subclass with more to it."""
    kind = type(module)
    # mmcv's own, in the MLPs, differs on empty inputs of old PyTorch only.
    return kind is nn.Linear or (
        issubclass(kind, nn.Linear)
        and kind.__module__ == 'mmcv.cnn.bricks.wrappers'
    )


def is_plain(mlp: nn.Sequential) -> bool:
    """Whether the layers are Linear, GELU, Linear, with dropouts."""
    flat = [m for m in mlp.modules() if not list(m.children())]
    kinds = [type(m) for m in flat if not isinstance(m, nn.Dropout)]
    return (
        len(kinds) == 3
        and issubclass(kinds[0], nn.Linear)
        and issubclass(kinds[1], nn.GELU)
        and issubclass(kinds[2], nn.Linear)
        and flat[1].approximate == 'none'
    )


def drops(module: nn.Module) -> bool:
    """Whether a dropout below ``module`` is active."""
    return any(
        m.training and m.p > 0
        for m in module.modules()
        if isinstance(m, nn.Dropout)
    )


class _LeanAttention:
    """``forward`` of a window attention; an object, for deep copies."""

    def __init__(self, attention: nn.Module) -> None:
        self.attention = attention

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        own = self.attention
        if not torch.is_grad_enabled() or drops(own):
            return type(own).forward(own, x, mask)
        tokens = x.shape[1]
        index = own.relative_position_index.flatten()
        bias = own.relative_position_bias_table[index]
        bias = bias.view(tokens, tokens, -1).permute(2, 0, 1).contiguous()
        out = attention.window_attention(
            own.qkv(x), bias, mask, own.num_heads, own.scale
        )
        return own.proj(out)


class _LeanMLP:
    """``forward`` of an MLP and of the norm before it.

    The norm passes its input on, for the MLP to apply it and to keep only
    that.
    """

    def __init__(self, norm: nn.Module, layers: nn.Module) -> None:
        self.norm_module = norm
        self.layers = layers
        self.fused = False

    def norm(self, x: Tensor) -> Tensor:
        self.fused = torch.is_grad_enabled() and not drops(self.layers)
        if self.fused:
            return x
        return type(self.norm_module).forward(self.norm_module, x)

    def mlp(self, x: Tensor) -> Tensor:
        if not self.fused:
            return type(self.layers).forward(self.layers, x)
        linears = (
            m for m in self.layers.modules() if isinstance(m, nn.Linear)
        )
        norm = self.norm_module
        return functional.norm_mlp(
            x,
            *_weight_and_bias(norm),
            *(t for linear in linears for t in _weight_and_bias(linear)),
            norm.eps,
        )


class _FastUnfold:
    """``forward`` of an unfolding in patches of 2 x 2, the same numbers."""

    def __init__(self, unfold: nn.Unfold) -> None:
        self.unfold = unfold

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if height % 2 or width % 2:
            return type(self.unfold).forward(self.unfold, x)
        rows = x.permute(0, 2, 3, 1)
        patches = rows.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
        # In two copies, which together are cheaper than the one that has
        # single numbers to move in both directions.
        parts = patches.transpose(2, 3).flatten(3, 4).contiguous()
        return parts.mT.flatten(3).flatten(1, 2).mT


class _FastLinear:
    """``forward`` of a linear layer."""

    def __init__(self, layer: nn.Linear) -> None:
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return type(self.layer).forward(self.layer, x)
        return functional.dense(x, self.layer.weight, self.layer.bias)


def _weight_and_bias(module: nn.Module) -> tuple[Tensor, Tensor]:
    if isinstance(module, Swapped):
        return module.effective()
    return module.weight, module.bias
