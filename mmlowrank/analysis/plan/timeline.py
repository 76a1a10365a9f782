"""When memory was taken and given back, and what for."""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from torch import Tensor

# What a plan divides a peak into, besides the parts of the model.
PARAMETERS = 'parameters'
BUFFERS = 'buffers'
STATE = 'optimizer state'
GRADIENTS = 'gradients'
BATCH = 'batch'
KEPT = 'kept for backward'
TEMPORARY = 'temporary'


@dataclass
class Block:
    """One storage.

    Attributes:
        bytes: Its size.
        born: Moment at which it was seen first.
        module: Path of the part of the model that ran then.
        kind: One of the names above; empty until it is known.
        died: Moment after which it is gone; None while it is there.
        stale: Whether a value that was known of it is none any more.
    """

    bytes: int
    born: int
    module: str = ''
    kind: str = ''
    died: int | None = None
    stale: bool = False


class Timeline:
    """Watches storages, each counted once, however many tensors have it.

    A moment is an operation. :attr:`module` is set by whoever knows which
    part of the model runs.
    """

    def __init__(self) -> None:
        self.now = 0
        self.module = ''
        self.blocks: list[Block] = []
        self._known: dict[int, tuple[Block, Any]] = {}

    def see(self, tensors: Iterable[Tensor]) -> None:
        """Count the storages of an operation's results."""
        for tensor in tensors:
            self.block(tensor)

    def block(self, tensor: Tensor) -> Block:
        """Return the block of a tensor's storage, seen from now on."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        found = self._known.get(key)
        if found is not None:
            block = found[0]
            # resize_ and set_ of an empty storage.
            block.bytes = max(block.bytes, storage.nbytes())
            return block
        block = Block(storage.nbytes(), self.now, self.module)
        self.blocks.append(block)
        self._known[key] = (
            block,
            weakref.ref(storage, lambda _: self._end(key)),
        )
        return block

    def mark(self, kind: str, tensors: Iterable[Tensor]) -> None:
        """Say what storages are for."""
        for tensor in tensors:
            self.block(tensor).kind = kind

    def peak(self, first: int, last: int) -> tuple[int, int]:
        """Return the moment in ``first`` .. ``last`` of most bytes, and them.

        What is born in a moment is there together with what dies in it.
        """
        changes = [0] * (self.now + 2)
        for block in self.blocks:
            changes[block.born] += block.bytes
            if block.died is not None:
                changes[block.died + 1] -= block.bytes
        held = [*accumulate(changes)][first : last + 1]
        most = max(held)
        return first + held.index(most), most

    def at(self, moment: int) -> list[Block]:
        """Return the blocks that are there in a moment."""
        return [
            block
            for block in self.blocks
            if block.born <= moment
            and (block.died is None or block.died >= moment)
        ]

    def _end(self, key: int) -> None:
        block, _ = self._known.pop(key)
        block.died = self.now
