"""Tuners that read the residual stream and add to it behind a branch.

A stock block forms ``x + branch(x)`` itself. What a method adds to the sum is
added to what the branch returns, after stochastic depth; x is noted where
the branch begins.
"""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from ..families import Block, Family
from .blocks import BranchTuner

# (adapter, stream, output of the branch) -> what is added to the latter.
Addition = Callable[[nn.Module, Tensor, Tensor], Tensor]


class StreamTuner(BranchTuner):
    """Base of the tuners that read the stream where a branch begins."""

    needs = ('streams',)

    @abstractmethod
    def addition(self, block: Block) -> Addition:
        """Return what the adapters of a block add: a function or partial."""

    def build(self, trunk: Family) -> None:
        # Adapter -> what it reads, from the norm to the branch's end.
        self._streams: dict[nn.Module, Tensor] = {}
        super().build(trunk)
        # Also when the forward fails.
        trunk.backbone.register_forward_hook(self._clear, always_call=True)

    def place(self, adapters: nn.ModuleDict, block: Block) -> None:
        addition = self.addition(block)
        for site, adapter in adapters.items():
            branch = block.branches[site]
            branch.stream.read(partial(self._read, adapter))
            branch.output.change(partial(self._add, adapter, addition))

    def _read(self, adapter: nn.Module, stream: Tensor) -> None:
        self._streams[adapter] = stream

    def _add(
        self, adapter: nn.Module, addition: Addition, out: Tensor
    ) -> Tensor:
        stream = self._streams.pop(adapter, None)
        if stream is None:
            raise RuntimeError(
                'a part of a block runs again without the norm before it, '
                f'whose input {type(self).__name__} reads: checkpoint whole '
                'blocks or stages instead'
            )
        return out + addition(adapter, stream, out)

    def _clear(self, *_: object) -> None:
        self._streams.clear()


class BehindSum(StreamTuner):
    """Base of the tuners whose adapters read maps of the residual sums.

    Placement of Mona and CoLin:

        x = x + DropPath(MSA(LN1 x));  x = A1(x)
        x = x + DropPath(MLP(LN2 x));  x = A2(x)

    An adapter says in ``branch`` what it adds to a map.
    """

    needs = ('streams', 'maps')

    def addition(self, block: Block) -> Addition:
        return partial(_behind_sum, block.over_maps())


def _behind_sum(
    over_maps: Callable[[Callable, Tensor], Tensor],
    adapter: nn.Module,
    stream: Tensor,
    out: Tensor,
) -> Tensor:
    return over_maps(adapter.branch, stream + out)
