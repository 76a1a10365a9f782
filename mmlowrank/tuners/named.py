"""Tuners that train some of the stock tensors and add none.

BitFit is defined by names in its paper, so names are read here, once, when
the tuner is attached; what they stand for is an explicit list from then on.
"""

import re
from collections.abc import Sequence

from ..families import Family
from ..registry import TUNERS
from .base import Tuner
from .patterns import below
from .placement import chosen_layers
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
    """Train some blocks (PARTIAL-1 of the E3VA paper trains the last).

    A trained block behaves as in full tuning, stochastic depth included;
    the output norms stay frozen.

    Args:
        layers: Indices of the blocks that train, counted through all stages
            from 0; negative ones from the end. None means all.

    Raises:
        ValueError: If there is no such block.
    """

    needs = ('blocks',)

    def __init__(
        self,
        layers: Sequence[int] | None = (-1,),
    ) -> None:
        super().__init__()
        self.layers = layers

    def trained_stock(self, trunk: Family) -> list[str]:
        paths = [trunk.path(block.module) for block in trunk.blocks]
        chosen = chosen_layers(self.layers, trunk, 'Partial')
        # A block that is the whole has what no other block has.
        rest = '|'.join(below(path for path in paths if path))
        return [
            below([paths[i]])[0] if paths[i] else f'(?!{rest})' for i in chosen
        ]
