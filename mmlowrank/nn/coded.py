"""Adapters that are linear in what their last projection reads.

E3VA's highway adds up ``A(x) - x = code(x) up_t + up_bias`` over many x, and
needs one product for a stage because of it.
"""

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor, nn


class CodedAdapter(nn.Module, ABC):
    """Base of the adapters A(x) = x + code(x) up_t + up_bias.

    Attributes:
        up_t: (K, embed_dims).
        up_bias: (embed_dims,).
    """

    up_t: nn.Parameter
    up_bias: nn.Parameter

    @abstractmethod
    def code(self, x: Tensor) -> Tensor:
        """Return what the last projection reads.

        Args:
            x: (..., embed_dims).

        Returns:
            (..., K).
        """

    def branch(self, x: Tensor) -> Tensor:
        """Return A(x) - x: (..., embed_dims) -> (..., embed_dims)."""
        return F.linear(self.code(x), self.up_t.t(), self.up_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Adapt tokens: (..., embed_dims) -> (..., embed_dims)."""
        return x + self.branch(x)
