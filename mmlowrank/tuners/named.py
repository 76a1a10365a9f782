"""Tuners that train some of the stock tensors and add none.

BitFit is defined by names in its paper, so names are read here, once, when
the tuner is attached; what they stand for is an explicit list from then on.
"""

import re

from ..families import Family
from ..registry import TUNERS
from .base import Tuner
from .patterns import below
from .roles import norm_tensors


class StockTuner(Tuner):
    """Base of tuners that change the values of stock tensors only."""

    def build(self, trunk: Family) -> None:
        """Add nothing."""


@TUNERS.register_module()
class BitFit(StockTuner):
    """Train the biases ("BitFit", ACL 2022; baseline of the E3VA paper).

    Args:
        position_bias: Count the relative-position tables as biases, as the
            E3VA paper's parameter numbers do: it trains every tensor with
            'bias' in its name.
    """

    def __init__(
        self,
        position_bias: bool = True,
    ) -> None:
        super().__init__()
        self.position_bias = position_bias

    def trained_stock(self, trunk: Family) -> list[str]:
        return [r'.*bias[^.]*$' if self.position_bias else r'(.*\.)?bias$']


@TUNERS.register_module()
class NormTuning(StockTuner):
    """Train every normalisation, output norms included (E3VA's baseline).

    Running statistics, where there are some, move as in full tuning.
    """

    def trained_stock(self, trunk: Family) -> list[str]:
        return [f'{re.escape(n)}$' for n in norm_tensors(trunk.backbone)]


@TUNERS.register_module()
class Partial(StockTuner):
    """Train the last blocks (PARTIAL-1 of the E3VA paper is one block).

    A trained block behaves as in full tuning, stochastic depth included;
    the output norms stay frozen.

    Args:
        blocks: How many of the last blocks train.

    Raises:
        ValueError: If the backbone has fewer blocks.
    """

    needs = ('blocks',)

    def __init__(
        self,
        blocks: int = 1,
    ) -> None:
        super().__init__()
        self.blocks = blocks

    def trained_stock(self, trunk: Family) -> list[str]:
        blocks = [block.module for block in trunk.blocks]
        if not 1 <= self.blocks <= len(blocks):
            raise ValueError(
                f'Partial blocks={self.blocks}, but the backbone has '
                f'{len(blocks)} blocks'
            )
        return below(trunk.path(block) for block in blocks[-self.blocks :])
