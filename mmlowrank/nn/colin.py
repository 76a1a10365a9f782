"""CoLin: low-rank adapters whose factors stay orthogonal.

Paper: arXiv 2602.10513 (2026), the complex linear projection of LoRand's
authors. On a map x of tokens,

    h = x W_D + b_D,    h' = s DW_3 h + (1 - s) h,    s = sigmoid(mix),
    y = x + GELU(h') W_U + b_U,    W = A diag(g_1 + .. + g_n) B,

with A and B of each projection its own and the branches g_i of both shared.
The branches share A and B, so their sum is one product. s DW_3 and its skip
are linear in h, so they are one convolution. W is never formed: the factors
cost rank * (in + out) multiply-adds a token against in * out.

The factors start as means of singular vectors, and a loss holds them near
orthogonal (:meth:`CoLinAdapter.orthogonality`). For the backward pass x and
GELU(h') A diag(g) are kept; what lies between is computed again.
"""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .coded import INITS, CodedAdapter
from .kernels.autograd import made_again, no_autocast


class CoLinAdapter(CodedAdapter, name='colin', maps=True):
    """One CoLin adapter.

    Args:
        embed_dims: Width of the tokens it adapts.
        mid_channels: Width between the projections.
        rank: Rank of both projections.
        branches: Number of vectors g_i.
        init: ``'paper'`` is not the identity; ``'identity'`` zeroes B and
            the bias of the up projection.

    Attributes:
        down_a: (embed_dims, rank).
        down_b: (rank, mid_channels).
        down_bias: (mid_channels,).
        up_a: (mid_channels, rank).
        up_t: B of the up projection, (rank, embed_dims).
        up_bias: (embed_dims,).
        g: (branches, rank), of both projections. It decays, as a factor of
            the weights that it is.
        mix: (mid_channels,), s before the sigmoid.

    Raises:
        ValueError: If a size is below one, the rank above a width, or
            ``init`` unknown.
    """

    # A scale. Decay would only pull s back to its start.
    parameter_roles: ClassVar = dict(mix='norm')

    def __init__(
        self,
        embed_dims: int,
        mid_channels: int = 100,
        rank: int = 28,
        branches: int = 4,
        init: str = 'paper',
    ) -> None:
        super().__init__()
        if not 1 <= rank <= min(embed_dims, mid_channels) or branches < 1:
            raise ValueError(
                'CoLin needs branches >= 1 and a rank between 1 and '
                f'{min(embed_dims, mid_channels)} for projections of '
                f'{embed_dims} x {mid_channels}, got branches={branches}, '
                f'rank={rank}'
            )
        if init not in INITS:
            raise ValueError(
                f'CoLin init must be one of {INITS}, got {init!r}'
            )
        self.init = init

        def empty(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape))

        self.g = empty(branches, rank)
        self.down_a = empty(embed_dims, rank)
        self.down_b = empty(rank, mid_channels)
        self.down_bias = empty(mid_channels)
        self.up_a = empty(mid_channels, rank)
        self.up_t = empty(rank, embed_dims)
        self.up_bias = empty(embed_dims)
        self.mix = nn.Parameter(torch.zeros(mid_channels))
        self.depthwise = nn.Conv2d(
            mid_channels, mid_channels, 3, groups=mid_channels
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the factors; the up projection's g stays, as published."""
        _draw(self.down_a, self.g, self.down_b, self.down_bias)
        _draw(self.up_a, self.g, self.up_t, self.up_bias)
        nn.init.zeros_(self.mix)
        self.depthwise.reset_parameters()
        if self.init == 'identity':
            self.zero_up()

    @classmethod
    def beside(cls, width: int, rank: int, mid: int | None) -> CodedAdapter:
        return cls(width, mid or 100, rank, init='identity')

    def code(self, x: Tensor) -> Tensor:
        """Return GELU(h') A diag(g) of the up projection.

        Args:
            x: (batch, height, width, embed_dims).

        Returns:
            (batch, height, width, rank).
        """
        return made_again(self._code, x)

    def orthogonality(self) -> Tensor:
        """Return the loss that is zero where the factors are orthogonal.

        For each projection and branch |A^T A - I|^2 + |B B^T - I|^2, in the
        Frobenius norm: a scalar.
        """
        loss = 0
        # Of a difference to I half precision would leave little.
        with no_autocast(self.g.device):
            eye = torch.eye(self.g.shape[1]).to(self.g)
            for b in (self.down_b, self.up_t, self.down_a.t(), self.up_a.t()):
                loss = loss + (b @ b.t() - eye).square().sum()
        return len(self.g) * loss

    def _code(self, x: Tensor) -> Tensor:
        g = self.g.sum(0)
        b = g[:, None] * self.down_b
        h = F.linear(F.linear(x, self.down_a.t()), b.t(), self.down_bias)
        s = self.mix.sigmoid()
        kernel = s.view(-1, 1, 1, 1) * self.depthwise.weight
        skip = F.pad((1 - s).view(-1, 1, 1, 1), (1, 1, 1, 1))
        h = F.conv2d(
            h.permute(0, 3, 1, 2),
            # The exporter to ONNX loses the shape of what is padded.
            (kernel + skip).view_as(self.depthwise.weight),
            s * self.depthwise.bias,
            padding=1,
            groups=len(s),
        ).permute(0, 2, 3, 1)
        return F.linear(F.gelu(h), (self.up_a * g).t())

    def extra_repr(self) -> str:
        branches, rank = self.g.shape
        return f'rank={rank}, branches={branches}, init={self.init!r}'


@torch.no_grad()
def _draw(a: Tensor, g: Tensor, b: Tensor, bias: Tensor) -> None:
    """Start a projection from the singular vectors of random matrices.

    Args:
        a: (in, rank), gets the mean of the branches' left ones.
        g: (branches, rank), gets the singular values.
        b: (rank, out), gets the mean of the right ones.
        bias: (out,), drawn as that of ``nn.Linear``.
    """
    (branches, rank), size, out = g.shape, len(a), b.shape[1]
    # Kaiming-uniform with a = sqrt(5), of a matrix that is stored in x out.
    drawn = a.new_empty(branches, size, out).uniform_(-1, 1) / math.sqrt(out)
    left, values, right = torch.linalg.svd(drawn, full_matrices=False)
    a.copy_(left[..., :rank].mean(0))
    g.copy_(values[..., :rank])
    b.copy_(right[:, :rank].mean(0))
    nn.init.uniform_(bias, -1 / math.sqrt(size), 1 / math.sqrt(size))
