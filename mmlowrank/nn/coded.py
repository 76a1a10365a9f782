"""Adapters that are linear in what their last projection reads.

E3VA's highway adds up ``A(x) - x = code(x) up_t + up_bias`` over many x, and
needs one product for a stage because of it. It knows them by name, and not
the papers that they are of.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

# Starts: as published, or as the identity.
INITS = ('paper', 'identity')


class CodedAdapter(nn.Module, ABC):
    """Base of the adapters A(x) = x + code(x) up_t + up_bias.

    A subclass says in its class statement what a highway calls it, and
    whether x is a map, (batch, height, width, embed_dims).

    Attributes:
        known: Name -> class.
        maps: Whether x is a map.
        up_t: (K, embed_dims).
        up_bias: (embed_dims,).
    """

    known: ClassVar[dict[str, type['CodedAdapter']]] = {}
    maps: ClassVar[bool]
    up_t: nn.Parameter
    up_bias: nn.Parameter

    def __init_subclass__(
        cls, name: str, maps: bool = False, **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)
        cls.maps = maps
        cls.known[name] = cls

    @classmethod
    @abstractmethod
    def beside(cls, width: int, rank: int, mid: int | None) -> 'CodedAdapter':
        """Return one for a highway: the identity at its start, no dropout.

        Args:
            width: Of the tokens.
            rank: Of its projections, if they have one.
            mid: Width between them. None means its own.
        """

    def zero_up(self) -> None:
        """Start as the identity."""
        nn.init.zeros_(self.up_t)
        nn.init.zeros_(self.up_bias)

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
