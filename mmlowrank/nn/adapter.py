"""The Houlsby adapter, the baseline of the LoRand and E3VA papers.

Paper: "Parameter-Efficient Transfer Learning for NLP", ICML 2019; in the
LoRand paper (CVPR 2023) equation 6: ``y = x + U(GELU(D x))`` with dense D
and U. Mid width d/2 is its ADAPTER-B, d/4 its ADAPTER-T.

Where the papers are silent: dropout 0.1 on the hidden vector is taken from
the LoRand and E3VA authors' public code; U starts at zero, so the adapter
starts as the identity.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class Adapter(nn.Module):
    """A bottleneck adapter with an inner skip.

    Args:
        embed_dims: Width of the tokens it adapts.
        mid_channels: Width of the bottleneck. Defaults to half of
            ``embed_dims``.
        hidden_dropout: Dropout rate of the hidden vector.

    Raises:
        ValueError: If ``mid_channels`` is below one.
    """

    def __init__(
        self,
        embed_dims: int,
        mid_channels: int | None = None,
        hidden_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        mid_channels = (
            embed_dims // 2 if mid_channels is None else mid_channels
        )
        if mid_channels < 1:
            raise ValueError(
                f'Adapter needs mid_channels >= 1, got {mid_channels}'
            )
        self.down = nn.Linear(embed_dims, mid_channels)
        self.up = nn.Linear(mid_channels, embed_dims)
        self.dropout = nn.Dropout(hidden_dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw D as ``nn.Linear`` does, zero U."""
        self.down.reset_parameters()
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Adapt tokens.

        Args:
            x: (..., embed_dims).

        Returns:
            (..., embed_dims).
        """
        return x + self.up(self.dropout(F.gelu(self.down(x))))
