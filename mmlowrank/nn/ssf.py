"""SSF: a scale and a shift of every channel behind a frozen layer.

Paper: "Scaling & Shifting Your Features: A New Baseline for Efficient Model
Tuning", NeurIPS 2022, section 3.2: y = s * x + t behind each linear layer,
convolution and normalisation. RLRR (CVPR 2024) uses it behind LayerNorm.

Behind a LayerNorm it is folded into the affine map of the norm while
training: LN(x; g, b) * s + t = LN(x; g s, b s + t). The unscaled output need
not be kept for the backward pass.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

_INITS = ('paper', 'identity')


class ScaleShift(nn.Module):
    """Scale and shift of channels.

    Args:
        channels: How many.
        init: ``'paper'`` draws the scale from N(1, 0.02) and the shift from
            N(0, 0.02); ``'identity'`` starts with ones and zeros.

    Attributes:
        scale: s, (channels,).
        shift: t, (channels,).

    Raises:
        ValueError: If ``init`` is unknown.
    """

    parameter_roles: ClassVar = {'scale': 'norm', 'shift': 'bias'}

    def __init__(self, channels: int, init: str = 'paper') -> None:
        super().__init__()
        if init not in _INITS:
            raise ValueError(f'SSF init must be one of {_INITS}, got {init!r}')
        self.init = init
        self.scale = nn.Parameter(torch.empty(channels))
        self.shift = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw scale and shift as ``init`` says."""
        std = 0.02 if self.init == 'paper' else 0.0
        nn.init.normal_(self.scale, 1.0, std)
        nn.init.normal_(self.shift, 0.0, std)

    def forward(self, x: Tensor, dim: int = -1) -> Tensor:
        """Return x with its channels scaled and shifted.

        Args:
            x: Any shape, of ``channels`` along ``dim``.
            dim: Where the channels are.

        Returns:
            The shape and type of ``x``.
        """
        shape = [1] * x.ndim
        shape[dim] = -1
        scale, shift = (
            t.to(x.dtype).view(shape) for t in (self.scale, self.shift)
        )
        return torch.addcmul(shift, x, scale)

    def fold(
        self, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the layer that includes s and t.

        Args:
            weight: (channels, ...), of a norm, a linear or a convolution.
            bias: (channels,), or None.
        """
        scale = self.scale.view(-1, *[1] * (weight.ndim - 1))
        shift = self.shift
        if bias is not None:
            shift = torch.addcmul(shift, bias, self.scale)
        return weight * scale, shift
