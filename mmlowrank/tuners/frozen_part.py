"""The part of a tuned trunk that computes the same for the same image.

With nothing trained in a trunk that is all of it. Where only blocks train it
is what comes before the first of these: the stock forward is then run with
the blocks before it passed over, and that block is given what it read when
they ran. Embedding and patch merging run each time, for the sizes of the maps
they tell; what the passed blocks would have led to is put into the outputs.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..families import family_of
from ..families.rewriting import hooked, watched
from ..nn.kernels.autograd import product_type, traced
from .base import Tuner
from .checkpointing import is_checkpointed

# Name of what the first trained block reads; outputs are 'tuple.0', ...
ENTRY = 'entry'
_FORMS = {'list': list, 'tuple': tuple}
# Of the largest value of an output. Both sides do the same arithmetic.
_SAME = 1e-3


class NotFrozen(ValueError):
    """Results of the trunk move while it trains; the text says why."""


class FrozenPart:
    """What of a trunk need not be computed twice.

    Args:
        tuner: Attached.

    Attributes:
        backbone: The trunk.
        passed: Blocks before the first that trains.
        entry: The first block that trains, or None.

    Raises:
        NotFrozen: If there is no such part, or it draws random numbers.
    """

    def __init__(self, tuner: Tuner) -> None:
        self.backbone = tuner.backbone
        self.passed: list[nn.Module] = []
        self.entry: nn.Module | None = None
        self._checked = False
        if tuner.added():
            raise NotFrozen(
                f'{tuner.title} adds modules to the trunk, so what it '
                "computes moves: tune with dict(type='Fixed') or "
                "dict(type='Partial')"
            )
        owned = tuner.owned()
        blocks = [block.module for block in family_of(self.backbone).blocks]
        later = self._split(blocks, owned, tuner.title) if owned else []
        if tuner.stochastic_trunk:
            raise NotFrozen(
                'with stochastic_trunk=True the frozen trunk computes '
                'something else each time: leave stochastic_trunk out'
            )
        added = {*tuner.modules()}
        self._stock = [
            (name, module)
            for name, module in self.backbone.named_modules()
            if module not in added
        ]
        moving = {m for block in later for m in block.modules()}
        self._quiet = [
            (name, module)
            for name, module in self._stock
            if name and module not in moving
        ]
        self._held = [
            (name, module)
            for name, module in self._quiet
            if not moving & {*module.modules()}
        ]
        # Checkpointed, these would run again with blocks passed over.
        self._around = [
            (name, module)
            for name, module in self._quiet
            if self.entry in [*module.modules()]
        ]

    def _split(
        self, blocks: list[nn.Module], owned: dict[str, Tensor], title: str
    ) -> list[nn.Module]:
        """Find the first block that trains; return it and those behind it."""
        kind = type(self.backbone).__name__
        trained = {id(tensor): name for name, tensor in owned.items()}
        found = [
            {id(t) for tensors in (b.parameters, b.buffers) for t in tensors()}
            for b in blocks
        ]
        outside = trained.keys() - set().union(*found)
        if outside:
            raise NotFrozen(
                f'{title} trains {trained[min(outside, key=trained.get)]}, '
                f'which is in none of the blocks of this {kind}, so nothing '
                "is known to stay before it: tune with dict(type='Fixed') or "
                "dict(type='Partial'), without trainable"
            )
        first = next(i for i, ids in enumerate(found) if ids & trained.keys())
        if first == 0:
            raise NotFrozen(
                f'{title} trains the first block of this {kind}, before '
                'which there is next to nothing to keep: give it later layers'
            )
        self.passed, self.entry = blocks[:first], blocks[first]
        return blocks[first:]

    def stock_modules(self) -> list[tuple[str, nn.Module]]:
        """Return path and module of all that the tuner has not added."""
        return self._stock

    def is_training(self) -> bool:
        """Whether a training step runs, and nothing records operations."""
        training = self.backbone.training and torch.is_grad_enabled()
        return training and not traced()

    def precision(self, images: Tensor) -> str:
        """Return the type that products with the images are computed in."""
        return str(product_type(images))

    def watcher(self, forward: Callable) -> str | None:
        """Return the path of a module that must run each time, or None.

        Someone looks at it, it is in training mode and may draw random
        numbers, or it is checkpointed with the first trained block in it.

        Args:
            forward: The backbone's.
        """
        if self.entry is not None and is_checkpointed(forward):
            return type(self.backbone).__name__
        for name, module in self._around:
            if _runs_again(module):
                return name
        for name, module in self._quiet:
            again = _runs_again(module) and not hooked(module)
            if watched(module) and not again:
                return name
        for name, module in self._held:
            if module.training:
                return name
        return None

    def compute(
        self, forward: Callable[[Tensor], Any], images: Tensor
    ) -> dict[str, Tensor]:
        """Return the results that stay, by name, each (batch, ...).

        Nothing random happens, and no statistics move.

        Args:
            forward: The backbone's.
            images: (batch, channels, height, width).

        Raises:
            RuntimeError: If the backbone cannot be entered in the middle, or
                returns something else than maps or vectors of the batch.
        """
        kept: dict[str, Tensor] = {}
        with self._evaluating():
            if self.entry is None:
                # As in training: without gradients other code runs.
                return _named(forward(images), images)
            # With a gradient, which shows what depends on trained blocks.
            noting = partial(_noted, kept, self.entry.forward)
            with _replaced({self.entry: noting}):
                outputs = _named(forward(images), images)
            kept |= {n: t for n, t in outputs.items() if not t.requires_grad}
            kept = {name: tensor.detach() for name, tensor in kept.items()}
            if not self._checked:
                self._check(forward, images, kept, outputs)
        return kept

    def finish(
        self,
        forward: Callable[[Tensor], Any],
        images: Tensor,
        kept: dict[str, Tensor],
    ) -> Any:
        """Return what the backbone returns, from what :meth:`compute` did."""
        if self.entry is None:
            return _formed(kept)
        entering = partial(_entered, kept[ENTRY], self.entry.forward)
        passing = dict.fromkeys(self.passed, _passed)
        with _replaced({**passing, self.entry: entering}):
            outputs = _named(forward(images), images)
        outputs |= {n: t for n, t in kept.items() if n != ENTRY}
        return _formed(outputs)

    def _check(
        self,
        forward: Callable[[Tensor], Any],
        images: Tensor,
        kept: dict[str, Tensor],
        outputs: dict[str, Tensor],
    ) -> None:
        """Check that entering in the middle leads to the same outputs."""
        try:
            ours = _named(self.finish(forward, images, kept), images)
            same = all(
                (ours[name] - tensor).abs().max() <= _SAME * tensor.abs().max()
                for name, tensor in outputs.items()
            )
        except (RuntimeError, TypeError, LookupError, AttributeError) as error:
            raise self._closed() from error
        if not same:
            raise self._closed()
        self._checked = True

    def _closed(self) -> RuntimeError:
        return RuntimeError(
            f'{type(self.backbone).__name__} cannot be entered at its first '
            'trained block: what is behind it depends on more than the '
            'tokens that the block reads, or blocks change their size. Tune '
            "with dict(type='Fixed'), or remove the feature cache"
        )

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        modes = [(m, m.training) for m in self.backbone.modules()]
        # Not train(), with which stock backbones do more.
        for module, _ in modes:
            module.training = False
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode


@contextmanager
def _replaced(forwards: dict[nn.Module, Callable]) -> Iterator[None]:
    before = [(m, m.__dict__.get('forward')) for m in forwards]
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module, forward in before:
            if forward is None:
                del module.forward
            else:
                module.forward = forward


def _passed(tokens: Tensor, *_: Any, **__: Any) -> Tensor:
    return tokens


def _noted(
    kept: dict[str, Tensor],
    forward: Callable,
    tokens: Tensor,
    *args: Any,
    **kwargs: Any,
) -> Any:
    kept[ENTRY] = tokens
    return forward(tokens, *args, **kwargs)


def _entered(
    tokens: Tensor, forward: Callable, _: Tensor, *args: Any, **kwargs: Any
) -> Any:
    return forward(tokens, *args, **kwargs)


def _runs_again(module: nn.Module) -> bool:
    """Whether activation checkpointing has its forward."""
    return is_checkpointed(module.__dict__.get('forward'))


def _named(outputs: Any, images: Tensor) -> dict[str, Tensor]:
    """Give the tensors of a backbone's outputs names.

    Raises:
        RuntimeError: If there is something else among them.
    """
    form = type(outputs).__name__
    if isinstance(outputs, Tensor):
        form, outputs = 'tensor', [outputs]
    elif form not in _FORMS:
        outputs = [None]
    for output in outputs:
        if not isinstance(output, Tensor) or len(output) != len(images):
            raise RuntimeError(
                'features are kept of a backbone that returns tensors, each '
                'with an item for each image; this one returns '
                f'{type(output).__name__} in a {form}: set its out_type or '
                'out_indices, or remove the feature cache'
            )
    return {f'{form}.{i}': output for i, output in enumerate(outputs)}


def _formed(named: dict[str, Tensor]) -> Any:
    """Return the outputs, in the form in which they were returned."""
    form = next(iter(named)).partition('.')[0]
    order = sorted(named, key=lambda name: int(name.partition('.')[2]))
    tensors = [named[name] for name in order]
    return tensors[0] if form == 'tensor' else _FORMS[form](tensors)
