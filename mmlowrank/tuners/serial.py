"""Serial adapters: one behind each residual branch of each block.

Placement of the LoRand paper (figure 2) and of the Houlsby adapter:

    x = x + DropPath(A1(MSA(LN1 x)));   x = x + DropPath(A2(MLP(LN2 x)))

The adapter comes before stochastic depth, as in the authors' public code. A
block with one branch, as ConvNeXt's, gets one adapter.
"""

from torch import nn

from ..families import Block
from .blocks import BranchTuner


class SerialTuner(BranchTuner):
    """Base of the tuners that put an adapter behind attention and MLP."""

    needs = ('branches',)

    def place(self, adapters: nn.ModuleDict, block: Block) -> None:
        for site, adapter in adapters.items():
            block.branches[site].end.change(adapter)
