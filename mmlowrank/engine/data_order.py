"""Training data from the middle of a pass, for :class:`.ReplayHook`.

These stand in the places of a data loader's batch sampler, of how its data set
loads a batch, and of mmengine's endless iterator.
"""

from collections.abc import Iterator
from typing import Any

from mmengine.dist import get_rank
from torch.utils.data import DataLoader, Dataset, get_worker_info

from .random_states import get_states, seed, set_states


class _Batch(list):
    """Indices of a batch, with the seed for a worker to draw from."""

    key: tuple[int, ...] = ()


class Order:
    """A batch sampler that can begin in the middle of a pass.

    Args:
        loader: Whose batch sampler it takes the place of.
        seed: Of the run.
        endless: Whether passes follow each other without anybody saying so.

    Attributes:
        begun: The random states at the begin of the pass underway.
        now: Of a resumed run, those after the last batch that is left out.
    """

    def __init__(self, loader: DataLoader, seed: int, endless: bool) -> None:
        self.stock = loader.batch_sampler
        self.persistent = loader.persistent_workers
        self.seed, self.endless = seed, endless
        self.begun: dict[str, Any] | None = None
        self.now: dict[str, Any] | None = None

    def __getattr__(self, name: str) -> Any:
        if name == 'stock':  # of a copy that is not filled yet
            raise AttributeError(name)
        return getattr(self.stock, name)

    def __len__(self) -> int:
        return len(self.stock)

    def start(self, passes: int, first: int, skip: int) -> None:
        """Say what the next pass is.

        Args:
            passes: Passes before it.
            first: Iteration of its first batch.
            skip: Batches to leave out.
        """
        self._next = passes, first, skip
        self._underway = passes, first

    def skip_once(self) -> int:
        """Return what the next pass leaves out, for the first time only."""
        passes, first, skip = self._next
        self._next = passes, first, 0
        return skip

    def position(self, epoch: int, iteration: int) -> list[int]:
        """Return passes ended, batches done of the next, batches of one."""
        passes, first = self._underway
        if not self.endless and epoch > passes:
            return [epoch, 0, len(self)]
        return [passes, iteration - first, len(self)]

    def __iter__(self) -> Iterator[_Batch]:
        # Runs when the first batch is asked for: the iterator over the data
        # is there, and has drawn what it draws.
        (passes, first, skip), now, self.now = self._next, self.now, None
        self._underway = passes, first
        sampler = getattr(self.stock, 'sampler', None)
        if self.endless and hasattr(sampler, 'set_epoch'):
            # mmengine does not count the passes before an interruption.
            sampler.set_epoch(passes)
        if skip and self.begun is not None:
            # Some samplers draw their order from them.
            set_states(self.begun)
        elif not skip and now is not None and self.persistent:
            # The other run had its iterator from an earlier pass.
            set_states(now)
        self.begun = get_states()
        count = 0
        for indices in self.stock:
            count += 1
            if count > skip:
                batch = _Batch(indices)
                batch.key = (self.seed, get_rank(), first + count)
                yield batch
            elif count == skip and now is not None:
                set_states(now)
        self._next = passes + 1, first + count, max(skip - count, 0)
        if self.endless and 0 < count < skip:
            # An iterator of mmengine starts one more pass, not several.
            self.now = now
            yield from self


class Items:
    """The samples of a batch, in the worker that loads them.

    PyTorch asks a data set for ``__getitems__`` before it asks for single
    samples.

    Args:
        dataset: The data set.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.stock = getattr(dataset, '__getitems__', None)

    def __call__(self, indices: list[int]) -> list[Any]:
        if isinstance(indices, _Batch) and get_worker_info() is not None:
            seed(*indices.key)
        if self.stock is not None:
            return self.stock(indices)
        return [self.dataset[index] for index in indices]


class Endless:
    """mmengine's endless iterator, over an order that skips by itself.

    Args:
        iterator: Of mmengine.
        skipped: Iterations before.
    """

    def __init__(self, iterator: Iterator[Any], skipped: int) -> None:
        self._iterator = iterator
        # Before 0.10.12, mmengine skips by drawing.
        self._drawn = 0 if hasattr(iterator, 'skip_iter') else skipped

    def __next__(self) -> Any:
        if self._drawn > 0:
            self._drawn -= 1
            return None
        return next(self._iterator)

    def skip_iter(self, num_iters: int) -> None:
        """Do nothing, in the place of mmengine's."""
