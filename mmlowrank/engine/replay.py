"""The same random numbers at every iteration, interrupted or not.

A run that was killed and goes on should end where it would have ended. What
is drawn must then not depend on what was drawn before: prefetching workers,
validations and iterators that are made anew all draw, and no file could keep
the states of workers that are ahead. So nothing is kept. Each pass over the
data, each batch and each iteration starts from a seed of its own, which
follows from the seed of the run, the rank and the position.
"""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..registry import HOOKS

# What a seed is for. Those of order and model are equal in all processes, as
# mmengine's are.
_ORDER, _DATA, _MODEL = range(3)
# Key in the meta of a checkpoint.
POSITION = 'batches_of_epoch'


@HOOKS.register_module()
class ReplayHook(Hook):
    """Let a resumed run draw what it would have drawn, and load the rest.

    ``tools/train.py`` adds it. With another tool, in a config::

        custom_hooks = [dict(type='mmlowrank.ReplayHook')]

    The training data continues behind the last batch of the checkpoint, in
    the middle of an epoch too, and no skipped batch is loaded. Two numbers of
    workers, or none, draw the same. Transforms that keep something from one
    sample for the next, as a cached mosaic does, begin without it.

    A data set that is only iterated (``IterableDataset``), or a loop of
    another kind, is left as it is.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._order: _Order | None = None
        # Batches of the epoch that the checkpoint is of: done, and all.
        self._done: tuple[int, int] = (0, 0)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note where in its epoch the checkpoint is."""
        if runner._resume:
            self._done = tuple(checkpoint['meta'].get(POSITION, (0, 0)))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Write down where in its epoch the checkpoint is."""
        loop, meta = runner.train_loop, checkpoint['meta']
        if self._order is not None and isinstance(loop, EpochBasedTrainLoop):
            count = len(self._order)
            done = meta['iter'] - meta['epoch'] * count
            meta[POSITION] = [done, count]

    def before_train(self, runner: Runner) -> None:
        """Take over the order of the training data."""
        loop = runner.train_loop
        loader = getattr(loop, 'dataloader', None)
        if (
            not isinstance(loop, (EpochBasedTrainLoop, IterBasedTrainLoop))
            or not isinstance(loader, DataLoader)
            or isinstance(loader.dataset, IterableDataset)
            or loader.batch_sampler is None
        ):
            runner.logger.info(
                'Data and loop are not of the kinds that ReplayHook knows: a '
                'resumed run will see other data'
            )
            return
        endless = isinstance(loop, IterBasedTrainLoop)
        self._order = _Order(loader.batch_sampler, runner.seed, endless)
        # DataLoader lets nobody set it, because an iterator would not notice.
        # There is none yet.
        object.__setattr__(loader, 'batch_sampler', self._order)
        loader.dataset.__getitems__ = _Items(loader.dataset)
        if endless:
            loop.dataloader_iterator = _Endless(loop, runner.iter)

    def before_train_epoch(self, runner: Runner) -> None:
        """Say at which batch the pass begins."""
        if self._order is None:
            return
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            self._order.start(0, skip=runner.iter)
            return
        (done, of), count = self._done, len(self._order)
        self._done = (0, 0)
        if done and of != count:
            runner.logger.warning(
                f'The checkpoint is of the middle of an epoch of {of} '
                f'batches, which has {count} here (another batch size or '
                'number of processes): the epoch begins anew'
            )
            done = 0
        self._order.start(runner.epoch * count, skip=done)

    def before_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Seed what the model draws."""
        _seed(_MODEL, runner.seed, runner.iter)


def _seed(*key: int) -> None:
    """Seed Python, NumPy and PyTorch."""
    words = np.random.SeedSequence(key).generate_state(3, np.uint64)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]) % 2**32)
    torch.manual_seed(int(words[2]))


class _Batch(list):
    """Indices of a batch, with what it is drawn from."""

    key: tuple[int, ...] = ()


class _Order:
    """A batch sampler that can begin anywhere and numbers its batches.

    Args:
        stock: The batch sampler.
        seed: Of the run.
        endless: Whether batches are numbered over all passes.
    """

    def __init__(self, stock: Any, seed: int, endless: bool) -> None:
        self.stock, self.seed, self.endless = stock, seed, endless
        self._passes = 0
        self.start(0, skip=0)

    def __getattr__(self, name: str) -> Any:
        if name == 'stock':  # of a copy that is not filled yet
            raise AttributeError(name)
        return getattr(self.stock, name)

    def start(self, first: int, skip: int) -> None:
        """Number the next batch ``first``, and leave ``skip`` of them out."""
        self._next, self._wanted = first, first + skip

    def __iter__(self) -> Iterator[_Batch]:
        yield from self._one_pass()
        # An iterator of mmengine starts one more pass, not several.
        while self.endless and self._next < self._wanted:
            yield from self._one_pass()

    def _one_pass(self) -> Iterator[_Batch]:
        # Some samplers draw their order from the global state.
        _seed(_ORDER, self.seed, self._next)
        sampler = getattr(self.stock, 'sampler', None)
        if self.endless and hasattr(sampler, 'set_epoch'):
            # mmengine has not counted the passes before an interruption.
            sampler.set_epoch(self._passes)
        self._passes += 1
        for indices in self.stock:
            number = self._next
            self._next += 1
            if number >= self._wanted:
                batch = _Batch(indices)
                batch.key = (_DATA, self.seed, get_rank(), number)
                yield batch

    def __len__(self) -> int:
        return len(self.stock)


class _Items:
    """The samples of a batch, in whichever process they are loaded.

    PyTorch asks a data set for ``__getitems__`` before it asks for single
    samples.

    Args:
        dataset: The data set.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.stock = getattr(dataset, '__getitems__', None)

    def __call__(self, indices: list[int]) -> list[Any]:
        if isinstance(indices, _Batch):
            _seed(*indices.key)
        if self.stock is not None:
            return self.stock(indices)
        return [self.dataset[index] for index in indices]


class _Endless:
    """mmengine's endless iterator, over an order that skips by itself.

    Args:
        loop: Whose iterator it takes over.
        skipped: Batches that were trained on before.
    """

    def __init__(self, loop: IterBasedTrainLoop, skipped: int) -> None:
        kind = type(loop.dataloader_iterator)
        self._iterator = kind(loop.dataloader)
        # Before 0.10.12, mmengine skips by drawing.
        self._drawn = 0 if hasattr(kind, 'skip_iter') else skipped

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._drawn > 0:
            self._drawn -= 1
            return None
        return next(self._iterator)

    def skip_iter(self, num_iters: int) -> None:
        """Do nothing, in the place of mmengine's."""
