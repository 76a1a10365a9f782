"""Bases of the methods that add modules to each block."""

from abc import abstractmethod
from collections.abc import Sequence
from itertools import count

from torch import nn

from ..families import Block, Family
from .base import Tuner
from .placement import SITES, check_sites, chosen_layers, sites_in


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


class BranchTuner(BlockTuner):
    """Base of the methods with an adapter for each residual branch.

    The adapters are ``tuner.stages[stage][block]['attn' or 'ffn']``.

    Args:
        sites: ``'attn'``, ``'ffn'`` or both: the branches with an adapter.
        layers: As of :class:`BlockTuner`.

    Raises:
        ValueError: If a site is unknown.
    """

    cannot_merge = (
        'a GELU stands between its two projections: no single weight matrix '
        'computes the same'
    )

    def __init__(
        self,
        sites: Sequence[str] = SITES,
        layers: Sequence[int] | None = None,
    ) -> None:
        super().__init__(layers)
        self.sites = check_sites(sites, type(self).__name__, SITES)

    @abstractmethod
    def make_adapter(self, width: int, stage: int) -> nn.Module:
        """Return an adapter.

        Args:
            width: Channels of the tokens.
            stage: Index of the stage.
        """

    @abstractmethod
    def place(self, adapters: nn.ModuleDict, block: Block) -> None:
        """Hook the adapters of a block, site -> adapter, to its branches."""

    def adapt(self, block: Block, stage: int) -> nn.ModuleDict:
        sites = sites_in(block, self.sites, type(self).__name__)
        adapters = nn.ModuleDict(
            (site, self.make_adapter(block.width, stage)) for site in sites
        )
        self.place(adapters, block)
        return adapters
