"""Base of the methods that add one module to each block."""

from abc import abstractmethod
from collections.abc import Sequence
from itertools import count

from torch import nn

from ..families import Block, Family
from .base import Tuner
from .placement import chosen_layers


class BlockTuner(Tuner):
    """Base of the methods that add one module to each block.

    These are ``stages[stage][block]``, empty ones where ``layers`` leaves a
    block out.

    Args:
        layers: Indices of the adapted blocks, counted through all stages
            from 0; negative ones from the end. Defaults to all.
    """

    def __init__(self, layers: Sequence[int] | None = None) -> None:
        super().__init__()
        self.layers = layers

    def build(self, trunk: Family) -> None:
        chosen = chosen_layers(self.layers, trunk, type(self).__name__)
        index = count()
        self.stages = nn.ModuleList(
            nn.ModuleList(
                self.adapt(block, i)
                if next(index) in chosen
                else nn.ModuleDict()
                for block in stage.blocks
            )
            for i, stage in enumerate(trunk.stages)
        )

    @abstractmethod
    def adapt(self, block: Block, stage: int) -> nn.Module:
        """Hook one block, and return what the method adds to it.

        Args:
            block: The block.
            stage: Index of its stage.
        """
