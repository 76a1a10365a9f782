"""One ViT block with RLRR, ours and in the plain formulation, to compare.

The plain block writes RLRR down as its equations stand: ``W * c * r + W``
and everything behind it under autograd, three separate products for q, k
and v, the scale and shift behind a finished LayerNorm, and an attention that
forms its softmax.
"""

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn


class RLRRBlock(nn.Module):
    """The first block of a tuned ViT with what the tuner adds to it.

    Args:
        embed_dims: Width of the tokens.
        num_heads: Divides the width.
    """

    def __init__(self, embed_dims: int = 768, num_heads: int = 12) -> None:
        super().__init__()
        arch = dict(
            embed_dims=embed_dims,
            num_layers=1,
            num_heads=num_heads,
            feedforward_channels=4 * embed_dims,
        )
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            vit = MODELS.build(
                dict(
                    type='mmlowrank.TunedBackbone',
                    backbone=dict(type='VisionTransformer', arch=arch),
                    tuner=dict(type='RLRR'),
                )
            )
        self.block = vit.layers[0]
        self.added = vit.tuner.blocks[0]
        self.num_heads = num_heads

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Return (batch, tokens, embed_dims), as a backbone's outputs."""
        return (self.block(x),)


class PlainRLRRBlock(nn.Module):
    """The same tensors and values in the plain formulation.

    Args:
        ours: The block whose tensors it shares.
    """

    def __init__(self, ours: RLRRBlock) -> None:
        super().__init__()
        self.block = ours.block
        self.added = ours.added
        self.num_heads = ours.num_heads

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Return (batch, tokens, embed_dims), as a backbone's outputs."""
        stock, added = self.block, self.added
        layers = stock.ffn.layers
        y = self._norm(x, stock.ln1, added['norm_attn'])
        q, k, v = (self._heads(part) for part in self._qkv(y))
        scores = q @ k.mT / q.shape[-1] ** 0.5
        y = (torch.softmax(scores, -1) @ v).transpose(1, 2).flatten(2)
        x = x + self._linear(y, stock.attn.proj, added['proj'])
        y = self._norm(x, stock.ln2, added['norm_ffn'])
        y = F.gelu(self._linear(y, layers[0][0], added['fc1']))
        return (x + self._linear(y, layers[1], added['fc2']),)

    def _norm(self, x: Tensor, norm: nn.LayerNorm, ssf: nn.Module) -> Tensor:
        y = F.layer_norm(
            x, norm.normalized_shape, norm.weight, norm.bias, norm.eps
        )
        return y * ssf.scale + ssf.shift

    def _linear(
        self, x: Tensor, linear: nn.Linear, added: nn.Module
    ) -> Tensor:
        weight = linear.weight
        weight = weight * added.scale_left * added.scale_right + weight
        return F.linear(x, weight, linear.bias + added.shift[0])

    def _qkv(self, x: Tensor) -> list[Tensor]:
        linear, added = self.block.attn.qkv, self.added['qkv']
        tensors = (
            linear.weight.chunk(3),
            linear.bias.chunk(3),
            added.scale_left.chunk(3),
            added.scale_right.chunk(3),
            added.shift[0].chunk(3),
        )
        return [
            F.linear(x, weight * c * r + weight, bias + shift)
            for weight, bias, c, r, shift in zip(*tensors, strict=True)
        ]

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
