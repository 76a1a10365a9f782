"""LoRand: an adapter whose projections are sums of low-rank products.

Paper: "1% VS 100%: Parameter-Efficient Low Rank Adapter for Dense
Predictions", CVPR 2023, equations 6 to 11. The adapter is

    y = x + U(GELU(D x)),   D(x) = x W^D + b^D,   U(h) = h W^U + b^U,
    W = sum_i P_i^T K_i Q_i,

with ``branches`` terms (the paper's alpha) of rank ``rank`` (beta). K_i is
shared by D and U.

Where the paper is silent: the hidden width is half of the input's, both
projections have one bias, GELU is the exact one (these reproduce the printed
counts); the default start makes the adapter the identity by zeroing Q of the
up projection. K must never start at zero: it stands in both projections, so
no factor would ever receive a gradient.

W is never formed: ``(x P^T)(K Q)`` costs branches * rank * (in + out)
multiply-adds a token against in * out. For the backward pass the input and
2 * branches * rank numbers a token are kept (see :mod:`.functional`).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .kernels.functional import low_rank_code


class LoRandAdapter(nn.Module):
    """One LoRand adapter (CVPR 2023, equations 6 to 11).

    Args:
        embed_dims: Width of the tokens it adapts (the paper's m).
        mid_channels: Width between the two projections (n).
            Defaults to half of ``embed_dims``.
        branches: Number of products summed in a projection (alpha).
        rank: Size of the kernels K (beta).
        share_kernel: Use one K for both projections, as the paper does.
        init: ``'identity'`` starts with ``y == x`` to the bit;
            ``'kaiming'`` draws every factor, as the authors' later code
            does: the branch then starts at 5 to 12 % of the input's size.

    Attributes:
        down_P: (branches, rank, embed_dims).
        down_Q: (branches, rank, mid_channels).
        up_P: (branches, rank, mid_channels).
        up_Q: (branches, rank, embed_dims).
        K: (branches, rank, rank); ``down_K`` and ``up_K`` instead where
            ``share_kernel`` is false.
        down_bias: (mid_channels,).
        up_bias: (embed_dims,).

    Raises:
        ValueError: If a size is below one, the rank is above a width it is
            the rank of, or ``init`` is unknown.
    """

    def __init__(
        self,
        embed_dims: int,
        mid_channels: int | None = None,
        branches: int = 2,
        rank: int = 8,
        share_kernel: bool = True,
        init: str = 'identity',
    ) -> None:
        super().__init__()
        mid_channels = (
            embed_dims // 2 if mid_channels is None else mid_channels
        )
        if branches < 1 or rank < 1 or mid_channels < 1:
            raise ValueError(
                'LoRand needs branches, rank and mid_channels >= 1, got '
                f'branches={branches}, rank={rank}, '
                f'mid_channels={mid_channels}'
            )
        if rank > min(embed_dims, mid_channels):
            raise ValueError(
                f'LoRand rank={rank} is above the width it factorises: the '
                f'projections are {embed_dims} x {mid_channels}. Choose a '
                f'rank of at most {min(embed_dims, mid_channels)}'
            )
        if init not in ('identity', 'kaiming'):
            raise ValueError(
                f"LoRand init must be 'identity' or 'kaiming', got {init!r}"
            )
        self.embed_dims = embed_dims
        self.mid_channels = mid_channels
        self.branches = branches
        self.rank = rank
        self.share_kernel = share_kernel
        self.init = init

        def factor(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(branches, rank, *shape))

        self.down_P = factor(embed_dims)
        self.down_Q = factor(mid_channels)
        self.up_P = factor(mid_channels)
        self.up_Q = factor(embed_dims)
        if share_kernel:
            self.K = factor(rank)
        else:
            self.down_K = factor(rank)
            self.up_K = factor(rank)
        self.down_bias = nn.Parameter(torch.empty(mid_channels))
        self.up_bias = nn.Parameter(torch.empty(embed_dims))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the factors; see ``init``."""
        kernels = [self.K] if self.share_kernel else [self.down_K, self.up_K]
        # Kaiming-uniform with a = sqrt(5) on the matrices as the authors'
        # code stores them (in x beta, beta x beta, beta x out): the bound is
        # one over the root of the second size.
        for factor in (self.down_P, self.up_P, *kernels):
            _uniform(factor, self.rank)
        _uniform(self.down_Q, self.mid_channels)
        if self.init == 'identity':
            for tensor in (self.up_Q, self.down_bias, self.up_bias):
                nn.init.zeros_(tensor)
        else:
            _uniform(self.up_Q, self.embed_dims)
            _uniform(self.down_bias, self.embed_dims)
            _uniform(self.up_bias, self.mid_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Adapt tokens.

        Args:
            x: (..., embed_dims).

        Returns:
            (..., embed_dims).
        """
        down_K = self.K if self.share_kernel else self.down_K
        up_K = self.K if self.share_kernel else self.up_K
        # Stacking the branches makes each sum one product of rank
        # branches * rank. K_i Q_i is folded first: it has no token axis.
        code = low_rank_code(
            x,
            self.down_P.flatten(0, 1).t(),
            torch.bmm(down_K, self.down_Q).flatten(0, 1),
            self.down_bias,
            self.up_P.flatten(0, 1).t(),
        )
        up = torch.bmm(up_K, self.up_Q).flatten(0, 1)
        return x + F.linear(code, up.t(), self.up_bias)

    def extra_repr(self) -> str:
        return (
            f'{self.embed_dims}, mid_channels={self.mid_channels}, '
            f'branches={self.branches}, rank={self.rank}, '
            f'share_kernel={self.share_kernel}, init={self.init!r}'
        )


def _uniform(tensor: Tensor, fan_in: int) -> None:
    bound = 1 / math.sqrt(fan_in)
    nn.init.uniform_(tensor, -bound, bound)
