"""RLRR: residual-based low-rank rescaling of a frozen linear layer.

Paper: "Low-Rank Rescaled Vision Transformer Fine-Tuning: A Residual Design
Approach", CVPR 2024. In the layout of ``nn.Linear`` its equation 16 reads

    y = x W'^T + b + f,    W'_ij = W_ij (1 + r_i c_j)

with the left scale c (one entry a column of W), the right scale r (one a
row) and the shift f. Table 6 also has the one-sided forms, where the other
scale is one, and those without the residual, W'_ij = W_ij r_i c_j.

The paper is silent about the start. ``init='paper'`` is the start of the
authors' code: c and r Kaiming-uniform, so c is in +-sqrt(6 / in) and r in
+-sqrt(6), and f is zero. It is not the pre-trained model: each weight moves
by 2 / sqrt(in) of itself (rms), 7 % for 768 columns. Without the residual
c and r start at N(1, 0.02) and f at N(0, 0.02), which the same code holds in
a comment. Nothing is known about the start of the one-sided forms with the
residual: the remaining scale is drawn as it is in the two-sided form.
``init='identity'`` is ours and starts as the pre-trained model: with the
residual the right scale (the left one, where it is alone) is zero while the
other is drawn as above, so that it gets a gradient in the first step and
the other in the next.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from . import rescaled

_SIDES = ('left', 'right')
_INITS = ('paper', 'identity')


class Rescaling(nn.Module):
    """What RLRR adds to one linear layer.

    Args:
        in_features: Columns of W.
        out_features: Rows of W.
        groups: Left scales. A fused query-key-value projection with three
            has one each for q, k and v.
        sides: ``('left', 'right')`` or one of them.
        residual: Whether W itself is added.
        init: ``'paper'`` or ``'identity'``, see the head of this file.

    Attributes:
        scale_left: c, (groups, in), or None.
        scale_right: r, (out, 1), or None.
        shift: f, (1, out).

    Raises:
        ValueError: If an option is unknown, or the groups do not divide the
            rows.
    """

    # f is a bias, whatever its shape.
    parameter_roles: ClassVar = {'shift': 'bias'}

    def __init__(
        self,
        in_features: int,
        out_features: int,
        groups: int = 1,
        sides: tuple[str, ...] = _SIDES,
        residual: bool = True,
        init: str = 'paper',
    ) -> None:
        super().__init__()
        if isinstance(sides, str) or not sides or not set(sides) <= {*_SIDES}:
            raise ValueError(
                "RLRR sides must be ('left', 'right'), ('left',) or "
                f"('right',), got {sides!r}"
            )
        if init not in _INITS:
            raise ValueError(
                f'RLRR init must be one of {_INITS}, got {init!r}'
            )
        if groups < 1 or out_features % groups:
            raise ValueError(
                f'RLRR groups={groups} must divide the {out_features} rows '
                'of the weight'
            )
        self.residual = residual
        self.init = init
        self.register_parameter('scale_left', None)
        self.register_parameter('scale_right', None)
        if 'left' in sides:
            self.scale_left = nn.Parameter(torch.empty(groups, in_features))
        if 'right' in sides:
            self.scale_right = nn.Parameter(torch.empty(out_features, 1))
        self.shift = nn.Parameter(torch.empty(1, out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the scales and the shift as ``init`` says."""
        left, right = self.scale_left, self.scale_right
        nn.init.zeros_(self.shift)
        if not self.residual:
            std = 0.02 if self.init == 'paper' else 0.0
            for scale in (left, right):
                if scale is not None:
                    nn.init.normal_(scale, 1.0, std)
            nn.init.normal_(self.shift, 0.0, std)
            return
        for scale in (left, right):
            if scale is not None:
                bound = math.sqrt(6 / scale.shape[1])
                nn.init.uniform_(scale, -bound, bound)
        if self.init == 'identity':
            nn.init.zeros_(left if right is None else right)

    def forward(
        self, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Return the rescaled product.

        Args:
            x: (..., in).
            weight: (out, in).
            bias: (out,), or None.

        Returns:
            (..., out).
        """
        return rescaled.rescaled_linear(
            x,
            weight,
            bias,
            self.scale_left,
            self.scale_right,
            self.shift,
            self.residual,
        )

    def fold(
        self, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return W' (out, in) and b + f (out,)."""
        shift = self.shift.flatten()
        return (
            rescaled.rescaled_weight(
                weight, self.scale_left, self.scale_right, self.residual
            ),
            shift if bias is None else bias + shift,
        )
