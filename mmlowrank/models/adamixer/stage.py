"""One stage of AdaMixer's decoder, its mixing weights excepted."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .geometry import (
    decode_boxes,
    intersection_over_own_area,
    position_embedding,
    refine,
)


class BoxAttention(nn.Module):
    """Self-attention between the queries of an image, biased by overlap.

    The position embedding is added to what is attended to, and stays in the
    result: it is part of the residual.

    Args:
        embed_dims: Width of a query.
        num_heads: Number of heads; each has its own strength of the bias.

    Attributes:
        tau: (num_heads,), factor of the logarithm of the overlap.
    """

    def __init__(self, embed_dims: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj = nn.Linear(embed_dims, 3 * embed_dims)
        nn.init.xavier_uniform_(self.in_proj.weight)
        nn.init.zeros_(self.in_proj.bias)
        self.out_proj = _linear(embed_dims, embed_dims)
        self.tau = nn.Parameter(torch.empty(num_heads).uniform_(0, 4))
        self.norm = nn.LayerNorm(embed_dims)

    def forward(self, query: Tensor, xyzr: Tensor) -> Tensor:
        """Attend.

        Args:
            query: (batch, N, embed_dims).
            xyzr: (batch, N, 4).

        Returns:
            (batch, N, embed_dims).
        """
        with torch.no_grad():
            overlap = intersection_over_own_area(decode_boxes(xyzr))
            overlap = (overlap + 1e-7).log()
            position = position_embedding(xyzr, query.shape[-1])
        query = query + position.to(query.dtype)
        parts = self.in_proj(query).unflatten(-1, (3, self.num_heads, -1))
        bias = self.tau.view(-1, 1, 1) * overlap[:, None]
        out = F.scaled_dot_product_attention(
            *parts.permute(2, 0, 3, 1, 4), attn_mask=bias.to(parts.dtype)
        )
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        return self.norm(query + out)


class DecoderStage(nn.Module):
    """Attention, sampling, mixing, FFN, then class scores and a new box.

    Args:
        embed_dims: Width of a query.
        num_classes: Number of classes; there is none for the background.
        groups: Groups of channels.
        in_points: Points that a group is sampled at.
        num_heads: Heads of the attention.
        ffn_channels: Hidden width of the FFN.
    """

    def __init__(
        self,
        embed_dims: int,
        num_classes: int,
        groups: int,
        in_points: int,
        num_heads: int,
        ffn_channels: int,
    ) -> None:
        super().__init__()
        self.points = (groups, in_points, 3)
        self.attention = BoxAttention(embed_dims, num_heads)
        self.offsets = nn.Linear(embed_dims, math.prod(self.points))
        self._reset_offsets()
        self.mixing_norm = nn.LayerNorm(embed_dims)
        self.ffn = nn.Sequential(
            _linear(embed_dims, ffn_channels),
            nn.ReLU(),
            _linear(ffn_channels, embed_dims),
        )
        self.ffn_norm = nn.LayerNorm(embed_dims)
        self.cls_tower = _tower(embed_dims)
        self.fc_cls = _linear(embed_dims, num_classes)
        # Every class starts with probability 0.01.
        nn.init.constant_(self.fc_cls.bias, -math.log(99))
        self.reg_tower = _tower(embed_dims)
        self.fc_reg = nn.Linear(embed_dims, 4)
        nn.init.zeros_(self.fc_reg.weight)
        nn.init.zeros_(self.fc_reg.bias)

    def _reset_offsets(self) -> None:
        """Start with a grid if its points make a square, else at random."""
        nn.init.zeros_(self.offsets.weight)
        start = self.offsets.bias.data.view(self.points)
        nn.init.uniform_(start[..., :2], -0.5, 0.5)
        side = math.isqrt(start.shape[1])
        if side**2 == start.shape[1]:
            ticks = (torch.arange(side) + 0.5) / side - 0.5
            start[..., :2] = torch.cartesian_prod(ticks, ticks)
        # One octave finer than the query's own scale.
        nn.init.constant_(start[..., 2], -1)

    def forward(
        self,
        query: Tensor,
        xyzr: Tensor,
        sample: Callable[[Tensor, Tensor], Tensor],
        mix: Callable[[Tensor, Tensor], Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Refine the queries once.

        Args:
            query: (batch, N, embed_dims).
            xyzr: (batch, N, 4), without gradient.
            sample: Boxes and offsets to samples; see :class:`Pyramid`.
            mix: Samples and queries to what is added to the queries.

        Returns:
            Queries (batch, N, embed_dims), class logits
            (batch, N, num_classes) and boxes (batch, N, 4) as xyzr.
        """
        query = self.attention(query, xyzr)
        offsets = self.offsets(query).unflatten(-1, self.points)
        mixed = mix(sample(xyzr, offsets), query.flatten(0, 1))
        query = self.mixing_norm(query + mixed.view_as(query))
        query = self.ffn_norm(query + self.ffn(query))
        logits = self.fc_cls(self.cls_tower(query))
        delta = self.fc_reg(self.reg_tower(query))
        return query, logits, refine(xyzr, delta)


def _linear(in_features: int, out_features: int) -> nn.Linear:
    """Make a layer with Xavier weights and the biases of nn.Linear."""
    linear = nn.Linear(in_features, out_features)
    nn.init.xavier_uniform_(linear.weight)
    return linear


def _tower(embed_dims: int) -> nn.Sequential:
    return nn.Sequential(
        _linear(embed_dims, embed_dims), nn.LayerNorm(embed_dims), nn.ReLU()
    )
