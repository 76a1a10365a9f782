"""AdaptFormer: a scaled bottleneck in parallel to a sub-layer.

Paper: "AdaptFormer: Adapting Vision Transformers for Scalable Visual
Recognition", NeurIPS 2022, section 3.2: x' = MLP(LN(x)) + s * U(act(D x)) + x.
The E3VA paper (ACM MM 2024) puts one beside the attention too.

GELU instead of the original's ReLU, as the E3VA authors' later public code
has it. U and both biases start at zero.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class AdaptFormer(nn.Module):
    """The branch s * U(dropout(GELU(D x))).

    Args:
        embed_dims: Width of the tokens.
        mid_channels: Width of the bottleneck.
        scale: The constant s.
        hidden_dropout: Dropout rate of the hidden vector.

    Raises:
        ValueError: If ``mid_channels`` is below one.
    """

    def __init__(
        self,
        embed_dims: int,
        mid_channels: int = 64,
        scale: float = 0.1,
        hidden_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if mid_channels < 1:
            raise ValueError(
                f'AdaptFormer needs mid_channels >= 1, got {mid_channels}'
            )
        self.scale = scale
        self.down = nn.Linear(embed_dims, mid_channels)
        self.up = nn.Linear(mid_channels, embed_dims)
        self.dropout = nn.Dropout(hidden_dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw D as ``nn.Linear`` does; zero U and the biases."""
        self.down.reset_parameters()
        for tensor in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(tensor)

    def forward(self, x: Tensor) -> Tensor:
        """Return the branch: (..., embed_dims) -> (..., embed_dims)."""
        hidden = self.dropout(F.gelu(self.down(x)))
        return self.scale * self.up(hidden)
