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
from .base import BlockTuner, Tuner

SITES = ('attn', 'ffn')
BOTTLENECK = (
    'a GELU stands between its two projections: no single weight matrix '
    'computes the same'
)


def check_sites(sites: Sequence[str], method: str) -> tuple[str, ...]:
    """Return the branches of a block that a method adapts.

    Raises:
        ValueError: If there is none, or one that no block has.
    """
    if isinstance(sites, str) or not sites or not {*sites} <= {*SITES}:
        raise ValueError(
            f"{method} sites must be ('attn',), ('ffn',) or both, got "
            f'{sites!r}'
        )
    return tuple(sites)


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

    Attributes:
        sites: The branches of a block that have one.
    """

    needs = ('branches',)
    cannot_merge = BOTTLENECK
    sites: tuple[str, ...] = SITES

    @abstractmethod
    def make_adapter(self, width: int) -> nn.Module:
        """Return the adapter for tokens of ``width`` channels."""

    def adapt(self, block: Block) -> nn.ModuleDict:
        adapters = nn.ModuleDict()
        for site in sites_of(block, self):
            adapters[site] = self.make_adapter(block.width)
            block.branches[site].end.change(adapters[site])
        return adapters
