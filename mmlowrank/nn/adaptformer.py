"""AdaptFormer: a scaled bottleneck in parallel to a sub-layer.

Paper: "AdaptFormer: Adapting Vision Transformers for Scalable Visual
Recognition", NeurIPS 2022, section 3.2: x' = MLP(LN(x)) + s * U(act(D x)) + x.
The E3VA paper (ACM MM 2024) puts one beside the attention too.

GELU instead of the original's ReLU, as the E3VA authors' later public code
has it. U and both biases start at zero.
"""

from torch import Tensor, nn

from .adapter import Bottleneck


class ParallelBottleneck(Bottleneck):
    """The branch s * U(dropout(GELU(D x))).

    Args:
        embed_dims: Width of the tokens.
        mid_channels: Width of the bottleneck.
        scale: The constant s.
        hidden_dropout: Dropout rate of the hidden vector.

    Raises:
        ValueError: See :class:`Bottleneck`.
    """

    def __init__(
        self,
        embed_dims: int,
        mid_channels: int = 64,
        scale: float = 0.1,
        hidden_dropout: float = 0.1,
    ) -> None:
        super().__init__(embed_dims, mid_channels, hidden_dropout)
        self.scale = scale

    def reset_parameters(self) -> None:
        """Draw D as ``nn.Linear`` does; zero U and the biases."""
        super().reset_parameters()
        nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the branch: (..., embed_dims) -> (..., embed_dims)."""
        return self.scale * super().forward(x)
