"""ARC: adapters of all layers composed from one projection.

Paper: "Efficient Adaptation of Large Vision Transformer via Adapter
Re-Composing", NeurIPS 2023, section 3.2. In front of each attention and of
each MLP stands

    x + x D diag(c_l) D^T + b_l

with one D (d, m) for the attentions of all layers and one for the MLPs; the
up projection is the transposed down projection. Layer l owns the m
coefficients c_l and the bias b_l. There is no activation, so it merges.

The bias is inferred: with it and m = 50 the counts of the RLRR paper for
ViT-B on VTAB-1k (0.13 M) and Swin-B (0.27 M) come out. c_l starts at zero
here, so that the adapters start as the identity.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ARCAdapters(nn.Module):
    """The adapters of some layers of one width.

    Args:
        embed_dims: Width d of the tokens.
        layers: How many adapters there are.
        mid_channels: Width m of the bottleneck.

    Attributes:
        down: D, (d, m).
        coefficients: c, (layers, m), zero at the start.
        bias: b, (layers, d), zero at the start.

    Raises:
        ValueError: If ``mid_channels`` is below one.
    """

    parameter_roles: ClassVar = {'bias': 'bias'}

    def __init__(
        self, embed_dims: int, layers: int, mid_channels: int = 50
    ) -> None:
        super().__init__()
        if mid_channels < 1:
            raise ValueError(
                f'ARC needs mid_channels >= 1, got {mid_channels}'
            )
        self.down = nn.Parameter(torch.empty(embed_dims, mid_channels))
        self.coefficients = nn.Parameter(torch.empty(layers, mid_channels))
        self.bias = nn.Parameter(torch.empty(layers, embed_dims))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw D Xavier-uniform, zero the coefficients and biases."""
        nn.init.xavier_uniform_(self.down)
        nn.init.zeros_(self.coefficients)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, layer: int) -> Tensor:
        """Adapt the tokens that enter one layer.

        Args:
            x: (..., d).
            layer: Index of the adapter.

        Returns:
            (..., d).
        """
        codes = (x @ self.down) * self.coefficients[layer]
        return x + F.linear(codes, self.down, self.bias[layer])

    def fold(
        self, weight: Tensor, bias: Tensor | None, layer: int
    ) -> tuple[Tensor, Tensor]:
        """Return the linear layer that includes the adapter before it.

        Args:
            weight: (out, d).
            bias: (out,), or None.
            layer: Index of the adapter.
        """
        codes = (weight @ self.down) * self.coefficients[layer]
        shift = weight @ self.bias[layer]
        shift = shift if bias is None else bias + shift
        return weight + codes @ self.down.t(), shift
