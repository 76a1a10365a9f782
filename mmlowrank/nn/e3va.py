"""The adapters of E3VA's side highway.

Paper: "Parameter-efficient is not Sufficient: Exploring Parameter, Memory,
and Time Efficient Adapter Tuning for Dense Predictions", ACM MM 2024,
section 3.3. The adapter has the Houlsby form, with low-rank projections:

    A(x) = x + U(GELU(D x)),   W = s_1 t_1 + s_2 t_2   for each of D and U.

Two branches of rank a are one product of rank 2a: the branches stand side by
side in one tensor here. Where the paper is silent: both projections have a
bias and the hidden width is half of the input's (the printed counts need
both); t of the up projection starts at zero, so A starts as the identity.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .coded import CodedAdapter
from .kernels.functional import low_rank_code


class LowRankAdapter(CodedAdapter, name='low_rank'):
    """Adapter with dual low-rank branches (section 3.3).

    Args:
        embed_dims: Width of the tokens (the paper's m for D).
        rank: Rank of one branch (alpha).
        mid_channels: Width between the projections. Defaults to half of
            ``embed_dims``.

    Attributes:
        down_s: (embed_dims, 2 * rank), the two branches side by side.
        down_t: (2 * rank, mid_channels).
        down_bias: (mid_channels,).
        up_s: (mid_channels, 2 * rank).
        up_t: (2 * rank, embed_dims).
        up_bias: (embed_dims,).

    Raises:
        ValueError: If the rank is below one or above a width.
    """

    def __init__(
        self, embed_dims: int, rank: int = 8, mid_channels: int | None = None
    ) -> None:
        super().__init__()
        mid_channels = (
            embed_dims // 2 if mid_channels is None else mid_channels
        )
        if rank < 1 or rank > min(embed_dims, mid_channels):
            raise ValueError(
                f'E3VA rank must be between 1 and '
                f'{min(embed_dims, mid_channels)} for projections of '
                f'{embed_dims} x {mid_channels}, got rank={rank}'
            )
        self.rank = rank
        self.down_s = nn.Parameter(torch.empty(embed_dims, 2 * rank))
        self.down_t = nn.Parameter(torch.empty(2 * rank, mid_channels))
        self.down_bias = nn.Parameter(torch.empty(mid_channels))
        self.up_s = nn.Parameter(torch.empty(mid_channels, 2 * rank))
        self.up_t = nn.Parameter(torch.empty(2 * rank, embed_dims))
        self.up_bias = nn.Parameter(torch.empty(embed_dims))
        self.reset_parameters()

    @classmethod
    def beside(cls, width: int, rank: int, mid: int | None) -> CodedAdapter:
        return cls(width, rank, mid)

    def reset_parameters(self) -> None:
        """Draw s and t Kaiming-uniform (a = sqrt(5)), zero t of U."""
        # The bound is one over the root of a branch's second size.
        for tensor, fan_in in (
            (self.down_s, self.rank),
            (self.down_t, self.down_t.shape[1]),
            (self.up_s, self.rank),
        ):
            bound = 1 / math.sqrt(fan_in)
            nn.init.uniform_(tensor, -bound, bound)
        for tensor in (self.up_t, self.down_bias, self.up_bias):
            nn.init.zeros_(tensor)

    def code(self, x: Tensor) -> Tensor:
        """Return GELU(D x) s of U: (..., embed_dims) -> (..., 2 * rank)."""
        return low_rank_code(
            x, self.down_s, self.down_t, self.down_bias, self.up_s
        )


class StandardAdapter(CodedAdapter, name='standard'):
    """The dense adapter of the ablation in table 5.

    Same interface as :class:`LowRankAdapter`; its code is the hidden vector.

    Args:
        embed_dims: Width of the tokens.
        mid_channels: Width between the projections.

    Attributes:
        down: (embed_dims, mid_channels).
        down_bias: (mid_channels,).
        up_t: (mid_channels, embed_dims).
        up_bias: (embed_dims,).
    """

    def __init__(self, embed_dims: int, mid_channels: int = 32) -> None:
        super().__init__()
        if mid_channels < 1:
            raise ValueError(
                f'E3VA needs mid_channels >= 1, got {mid_channels}'
            )
        self.down = nn.Parameter(torch.empty(embed_dims, mid_channels))
        self.down_bias = nn.Parameter(torch.empty(mid_channels))
        self.up_t = nn.Parameter(torch.empty(mid_channels, embed_dims))
        self.up_bias = nn.Parameter(torch.empty(embed_dims))
        self.reset_parameters()

    @classmethod
    def beside(cls, width: int, rank: int, mid: int | None) -> CodedAdapter:
        return cls(width, mid or 32)

    def reset_parameters(self) -> None:
        """Draw D as ``nn.Linear`` does, zero U."""
        bound = 1 / math.sqrt(self.down.shape[0])
        nn.init.uniform_(self.down, -bound, bound)
        nn.init.uniform_(self.down_bias, -bound, bound)
        nn.init.zeros_(self.up_t)
        nn.init.zeros_(self.up_bias)

    def code(self, x: Tensor) -> Tensor:
        """Return GELU(D x): (..., embed_dims) -> (..., mid_channels)."""
        return F.gelu(F.linear(x, self.down.t(), self.down_bias))
