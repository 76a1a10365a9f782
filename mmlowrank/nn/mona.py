"""Mona: an adapter with depthwise convolutions.

Paper: "5%>100%: Breaking Performance Shackles of Full Fine-Tuning on Visual
Recognition Tasks", CVPR 2025. On a map x of tokens,

    u = LN(x) g_1 + x g_2,                      h = u W_1 + b_1,
    h' = h + (DW_3 h + DW_5 h + DW_7 h) / 3,    h'' = h' + PW h',
    y = x + Dropout(GELU(h'')) W_2 + b_2.

The three depthwise convolutions and the skip around them are linear in h, so
they are one 7 x 7 convolution whose kernel is their sum; the 1 x 1 one and
its skip are one product. For the backward pass x and GELU(h'') are kept;
what lies between is computed again.
"""

from functools import reduce
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .coded import INITS, CodedAdapter
from .kernels.autograd import made_again

# Sizes of the depthwise convolutions; the last is the largest.
_SIZES = (3, 5, 7)


class MonaAdapter(CodedAdapter, name='mona', maps=True):
    """One Mona adapter (CVPR 2025).

    Args:
        embed_dims: Width of the tokens it adapts.
        mid_channels: Width between the projections.
        dropout: Dropout rate of the hidden vector.
        init: ``'paper'`` draws all as PyTorch does, which is not the
            identity; ``'identity'`` zeroes the up projection.

    Attributes:
        norm_scale: g_1, (embed_dims,).
        input_scale: g_2, (embed_dims,).
        up_t: W_2, (mid_channels, embed_dims).
        up_bias: b_2, (embed_dims,).

    Raises:
        ValueError: If ``mid_channels`` is below one, ``dropout`` not in
            [0, 1), or ``init`` unknown.
    """

    # Scales beside a norm's. Decay would pull input_scale from its start at
    # one to zero, and so the input out of the adapter.
    parameter_roles: ClassVar = dict(norm_scale='norm', input_scale='norm')

    def __init__(
        self,
        embed_dims: int,
        mid_channels: int = 64,
        dropout: float = 0.1,
        init: str = 'paper',
    ) -> None:
        super().__init__()
        if mid_channels < 1 or not 0 <= dropout < 1 or init not in INITS:
            raise ValueError(
                'Mona needs mid_channels >= 1, 0 <= dropout < 1 and init in '
                f'{INITS}, got {mid_channels=}, {dropout=}, {init=}'
            )
        self.dropout = dropout
        self.norm = nn.LayerNorm(embed_dims)
        self.norm_scale = nn.Parameter(torch.full((embed_dims,), 1e-6))
        self.input_scale = nn.Parameter(torch.ones(embed_dims))
        self.down = nn.Linear(embed_dims, mid_channels)
        self.depthwise = nn.ModuleList(
            nn.Conv2d(mid_channels, mid_channels, size, groups=mid_channels)
            for size in _SIZES
        )
        self.pointwise = nn.Linear(mid_channels, mid_channels)
        up = nn.Linear(mid_channels, embed_dims)
        self.up_t = nn.Parameter(up.weight.detach().t().contiguous())
        self.up_bias = up.bias
        if init == 'identity':
            self.zero_up()

    @classmethod
    def beside(cls, width: int, rank: int, mid: int | None) -> CodedAdapter:
        return cls(width, mid or 64, 0.0, 'identity')

    def code(self, x: Tensor) -> Tensor:
        """Return Dropout(GELU(h'')), what the up projection reads.

        Args:
            x: (batch, height, width, embed_dims).

        Returns:
            (batch, height, width, mid_channels).
        """
        drops = self.training and self.dropout > 0
        return made_again(self._code, x, random=drops)

    def _code(self, x: Tensor) -> Tensor:
        u = self.norm(x) * self.norm_scale + x * self.input_scale
        h = self._mixed(self.down(u).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        h = h + self.pointwise(h)
        return F.dropout(F.gelu(h), self.dropout, self.training)

    def _mixed(self, h: Tensor) -> Tensor:
        """Return h', (batch, mid_channels, height, width) as h."""
        count, size, channels = len(_SIZES), _SIZES[-1], len(self.up_t)
        kernels = [
            F.pad(conv.weight, ((size - conv.kernel_size[0]) // 2,) * 4)
            for conv in self.depthwise
        ]
        skip = F.pad(kernels[0].new_ones(1, 1, 1, 1), (size // 2,) * 4)
        kernel = reduce(torch.add, kernels) / count + skip
        # The exporter to ONNX loses the shape of what is padded.
        kernel = kernel.view(channels, 1, size, size)
        bias = reduce(torch.add, [conv.bias for conv in self.depthwise])
        return F.conv2d(h, kernel, bias / count, 1, size // 2, 1, channels)
