"""Serial adapters: one behind each residual branch of each block.

Placement of the LoRand paper (figure 2) and of the Houlsby adapter:

    x = x + DropPath(A1(MSA(LN1 x)));   x = x + DropPath(A2(MLP(LN2 x)))

The adapter comes before stochastic depth, as in the authors' public code. A
block with one branch, as ConvNeXt's, gets one adapter.
"""

from abc import abstractmethod
from collections.abc import Sequence

from torch import nn

from ..families import Block
from .base import Tuner
from .blocks import BlockTuner
from .placement import check_sites

SITES = ('attn', 'ffn')
BOTTLENECK = (
    'a GELU stands between its two projections: no single weight matrix '
    'computes the same'
)


def sites_of(block: Block, tuner: Tuner) -> list[str]:
    """Return those of a tuner's sites that a block has.

    Raises:
        TypeError: If it has none of them.
    """
    found = [site for site in tuner.sites if site in block.branches]
    if not found:
        raise TypeError(
            f'{type(tuner).__name__} has sites={tuner.sites}, but a '
            f'{type(block.module).__name__} has {tuple(block.branches)}: '
            'name one of these'
        )
    return found


class SerialTuner(BlockTuner):
    """Base of the tuners that put an adapter behind attention and MLP.

    The adapters are ``tuner.stages[stage][block]['attn' or 'ffn']``.

    Args:
        sites: ``'attn'``, ``'ffn'`` or both: the branches with an adapter.
        layers: Indices of the blocks with adapters, counted through all
            stages from 0; negative ones from the end. Defaults to all.

    Raises:
        ValueError: If a site is unknown.
    """

    needs = ('branches',)
    cannot_merge = BOTTLENECK

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

    def adapt(self, block: Block, stage: int) -> nn.ModuleDict:
        adapters = nn.ModuleDict()
        for site in sites_of(block, self):
            adapters[site] = self.make_adapter(block.width, stage)
            block.branches[site].end.change(adapters[site])
        return adapters
