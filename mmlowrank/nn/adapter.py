"""The Houlsby adapter, the baseline of the LoRand and E3VA papers.

Paper: "Parameter-Efficient Transfer Learning for NLP", ICML 2019; in the
LoRand paper (CVPR 2023) equation 6: ``y = x + U(GELU(D x))`` with dense D
and U. Mid width d/2 is its ADAPTER-B, d/4 its ADAPTER-T.

Where the papers are silent: dropout 0.1 on the hidden vector is taken from
the LoRand and E3VA authors' public code; U starts at zero, so the adapter
starts as the identity.
"""

import torch
from torch import Tensor, nn

from .kernels.functional import bottleneck


class Bottleneck(nn.Module):
    """The branch U(dropout(GELU(D x))), zero at the start.

    Args:
        embed_dims: Width of the tokens.
        mid_channels: Width of the bottleneck.
        hidden_dropout: Dropout rate of the hidden vector.

    Raises:
        ValueError: If ``mid_channels`` is below one, or ``hidden_dropout``
            not in [0, 1).
    """

    def __init__(
        self, embed_dims: int, mid_channels: int, hidden_dropout: float = 0.1
    ) -> None:
        super().__init__()
        if mid_channels < 1:
            raise ValueError(
                f'{type(self).__name__} needs mid_channels >= 1, got '
                f'{mid_channels}'
            )
        if not 0 <= hidden_dropout < 1:
            raise ValueError(
                f'{type(self).__name__} needs 0 <= hidden_dropout < 1, got '
                f'{hidden_dropout}'
            )
        self.down = nn.Linear(embed_dims, mid_channels)
        self.up = nn.Linear(mid_channels, embed_dims)
        self.hidden_dropout = hidden_dropout
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw D as ``nn.Linear`` does, zero U."""
        self.down.reset_parameters()
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the branch: (..., embed_dims) -> (..., embed_dims)."""
        keep = None
        if self.training and self.hidden_dropout:
            shape = (*x.shape[:-1], self.down.out_features)
            keep = torch.empty(shape, dtype=torch.bool, device=x.device)
            keep.bernoulli_(1 - self.hidden_dropout)
        return bottleneck(
            x,
            self.down.weight,
            self.down.bias,
            self.up.weight,
            self.up.bias,
            keep,
            self.hidden_dropout,
        )

    def extra_repr(self) -> str:
        return f'hidden_dropout={self.hidden_dropout}'


class HoulsbyAdapter(Bottleneck):
    """A bottleneck adapter with an inner skip.

    Args:
        embed_dims: Width of the tokens it adapts.
        mid_channels: Width of the bottleneck. Defaults to half of
            ``embed_dims``.
        hidden_dropout: Dropout rate of the hidden vector.

    Raises:
        ValueError: See :class:`Bottleneck`.
    """

    def __init__(
        self,
        embed_dims: int,
        mid_channels: int | None = None,
        hidden_dropout: float = 0.1,
    ) -> None:
        if mid_channels is None:
            mid_channels = embed_dims // 2
        super().__init__(embed_dims, mid_channels, hidden_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Adapt tokens.

        Args:
            x: (..., embed_dims).

        Returns:
            (..., embed_dims).
        """
        return x + super().forward(x)
