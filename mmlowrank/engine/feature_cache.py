"""Keep on disk what a frozen trunk computes, and compute it once."""

import copy
import hashlib
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from torch import Tensor, nn

from ..checkpoint.adapter_checks import base_of
from ..registry import HOOKS
from ..tuners import tuners_of
from ..tuners.frozen_part import FrozenPart, NotFrozen
from ..tuners.wrappers import unwrapped
from .feature_store import (
    KINDS,
    FeatureStore,
    Packed,
    pack,
    size_in_bytes,
    unpack,
)

# Parts of the images of a pass that are new: said, and no longer written.
_MANY, _ALL = 0.1, 0.9


@HOOKS.register_module()
class FeatureCacheHook(Hook):
    """Keep the features of a frozen trunk, so that it runs once an image.

    In a config with the tuner ``Fixed``, or with ``Partial``, whose trained
    blocks go on from what was before them::

        custom_hooks = [dict(type='mmlowrank.FeatureCacheHook',
                             folder='work_dirs/features', limit='20GB')]

    Features are kept under a digest of the numbers that enter the backbone,
    below a fingerprint of its frozen weights and of what else it is made of:
    another pipeline, image or base finds nothing and computes. They are
    rounded as ``stored`` says, also when they are computed, so what a run
    learns does not depend on what was on disk. Evaluation computes all.

    Where somebody looks at a module inside the trunk, where something traces
    or compiles, and where no gradient is recorded, the stock backbone runs.

    Args:
        folder: For the features; runs and processes may share it.
        limit: What the folder may grow to, e.g. ``'20GB'``. Then entries of
            other bases are removed, and then nothing more is written.
        stored: ``'float16'``, ``'int8'`` (half of that), or ``'float32'``.

    Raises:
        ValueError: If ``limit`` or ``stored`` is none.
        RuntimeError: When training begins, if no tuner of the model leaves a
            part of its trunk as it is.
    """

    priority = 'LOWEST'

    def __init__(
        self,
        folder: str,
        limit: str | int = '20GB',
        stored: str = 'float16',
    ) -> None:
        if stored not in KINDS:
            raise ValueError(
                f'stored={stored!r} is unknown: write one of '
                + ', '.join(map(repr, KINDS))
            )
        self.folder = folder
        self.limit = size_in_bytes(limit)
        self.stored = stored
        self._trunks: list[CachedForward] = []
        self._pass_of = 0
        self._warned = False

    def before_train(self, runner: Any) -> None:
        """Take the place of the forward of each frozen trunk."""
        # A new run on the model of one that an error ended.
        for module in unwrapped(runner.model).modules():
            if isinstance(module.__dict__.get('forward'), CachedForward):
                module.forward.remove()
        parts, reasons = [], []
        for path, tuner in tuners_of(unwrapped(runner.model)).items():
            try:
                part = FrozenPart(tuner)
            except NotFrozen as reason:
                reasons.append(f'{path}: {reason}')
            else:
                name = fingerprint_of(part, base_of(tuner), self.stored)
                parts.append((part, name))
        if not parts:
            raise RuntimeError(
                'FeatureCacheHook finds no trunk whose features stay. '
                + ('; '.join(reasons) or 'The model has no tuner: add one')
                + '. Or remove the hook'
            )
        # Of several trunks too there is one folder, and one limit.
        name = _folded(sorted({name for _, name in parts}))
        store = FeatureStore(self.folder, name, self.limit, get_world_size())
        self._trunks = [
            CachedForward(part, name, store, self.stored)
            for part, name in parts
        ]
        dataset = runner.train_dataloader.dataset
        self._pass_of = -(-len(dataset) // get_world_size())
        for trunk in self._trunks:
            trunk.install()
        runner.logger.info(
            f'Features of the frozen trunk are kept in {store.folder}: '
            f'{store.entries} images are there, {store.size / 1e6:.0f} MB'
        )

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        """Say after each pass over the images what the disk had."""
        for trunk in self._trunks:
            if trunk.seen >= self._pass_of:
                trunk.passes += 1
                self._report(runner, trunk)
                trunk.read = trunk.computed = trunk.stock = 0

    def after_train(self, runner: Any) -> None:
        """Give each trunk its forward back."""
        for trunk in self._trunks:
            if trunk.seen:
                self._report(runner, trunk)
            trunk.remove()
        self._trunks = []

    def _report(self, runner: Any, trunk: 'CachedForward') -> None:
        store, seen = trunk.store, trunk.seen
        runner.logger.info(
            f'Feature cache: {trunk.read} of {seen} images read, '
            f'{trunk.computed} computed, {trunk.stock} left to the stock '
            f'backbone; {store.entries} kept, {store.size / 1e6:.0f} MB'
        )
        if store.full:
            self._warn(
                runner,
                f'{store.folder.parent} is full with the features of '
                f'{store.entries} images: the others are computed each time. '
                "Raise limit, or store less with stored='int8'",
            )
        elif trunk.passes > 1 and trunk.computed > _MANY * seen:
            share = trunk.computed / seen
            store.full = share > _ALL
            self._warn(
                runner,
                f'{100 * share:.0f} % of the views of pass {trunk.passes} '
                'were new. The pipeline draws them at random (flips, crops, '
                'sizes), or images are padded to the largest of their batch. '
                'Features serve views that come again: fix them, or remove '
                'FeatureCacheHook'
                + ('. Nothing more is written' if store.full else ''),
            )

    def _warn(self, runner: Any, text: str) -> None:
        if not self._warned:
            self._warned = True
            runner.logger.warning(text)


class CachedForward:
    """The forward of a backbone that has its features on disk.

    A copy of the backbone, and one that is pickled, has the stock forward.

    Args:
        part: What need not be computed twice.
        name: Its fingerprint.
        store: Where it is kept.
        stored: In what type.

    Attributes:
        read: Images whose features were on disk.
        computed: Images whose features were not.
        stock: Images that the stock forward got while training.
        passes: Over the images; the three count since the last one.
    """

    def __init__(
        self, part: FrozenPart, name: str, store: FeatureStore, stored: str
    ) -> None:
        self.part, self.name = part, name
        self.store, self.stored = store, stored
        self.read = self.computed = self.stock = self.passes = 0
        self._own: Callable | None = None
        self._stock: Callable = part.backbone.forward
        self._told = False

    @property
    def seen(self) -> int:
        """How many images went through the backbone."""
        return self.read + self.computed + self.stock

    def install(self) -> None:
        """Become what the backbone computes."""
        self._own = self.part.backbone.__dict__.get('forward')
        self.part.backbone.forward = self

    def remove(self) -> None:
        """Put back what was there."""
        if self._own is None:
            del self.part.backbone.forward
        else:
            self.part.backbone.forward = self._own

    def __deepcopy__(self, memo: dict) -> Callable:
        return copy.deepcopy(self._stock, memo)

    def __reduce__(self) -> tuple:
        return _itself, (self._stock,)

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        """Return what the backbone returns for images.

        Args:
            images: (batch, channels, height, width).
            *args: With any, the stock forward runs.
            **kwargs: Likewise.
        """
        if not self.part.is_training():
            return self._stock(images, *args, **kwargs)
        if args or kwargs or not _are_images(images) or self._is_watched():
            self.stock += len(images) if isinstance(images, Tensor) else 1
            return self._stock(images, *args, **kwargs)
        return self.part.finish(self._stock, images, self._features(images))

    def _is_watched(self) -> bool:
        path = self.part.watcher(self._stock)
        if path is not None and not self._told:
            self._told = True
            print_log(
                f"Features are not kept while '{path}' in the backbone has "
                'a hook, another forward, activation checkpointing around '
                'what trains, or is in training mode',
                logger='current',
                level=logging.WARNING,
            )
        return path is not None

    def _features(self, images: Tensor) -> dict[str, Tensor]:
        """Read or compute the results that stay, each (batch, ...)."""
        keys = digests(images, self.name, self.part.precision(images))
        found = [self.store.load(key) for key in keys]
        missing = [i for i, each in enumerate(found) if each is None]
        self.read += len(images) - len(missing)
        self.computed += len(missing)
        if missing:
            new = images if len(missing) == len(images) else images[missing]
            kept = self.part.compute(self._stock, new)
            for row, i in enumerate(missing):
                found[i] = {
                    name: pack(tensor[row].contiguous(), self.stored)
                    for name, tensor in kept.items()
                }
                self.store.save(keys[i], found[i])
        return {
            name: torch.stack(
                [unpack(_moved(each[name], images.device)) for each in found]
            )
            for name in found[0]
        }


def digests(images: Tensor, *about: str) -> list[str]:
    """Return a digest of each image of a batch.

    Args:
        images: (batch, channels, height, width); padding counts.
        *about: What else the features depend on.
    """
    text = f'{about}{images.dtype}{list(images.shape[1:])}'.encode()
    plain = images.detach().cpu().contiguous().flatten(1).view(torch.uint8)
    found = []
    for image in plain.numpy():
        digest = hashlib.blake2b(text, digest_size=16)
        digest.update(memoryview(image))
        found.append(digest.hexdigest())
    return found


def fingerprint_of(part: FrozenPart, base: str, stored: str) -> str:
    """Return a fingerprint of a trunk and of what is kept of it.

    Args:
        part: Of the trunk.
        base: Fingerprint of its frozen weights.
        stored: In what type features are stored.
    """
    package = type(part.backbone).__module__.partition('.')[0]
    version = getattr(sys.modules.get(package), '__version__', '')
    about = [base, stored, torch.__version__, package, version]
    for name, module in part.stock_modules():
        kind = type(module)
        about += [name, kind.__module__, kind.__qualname__]
        about += [module is part.entry, *_settings(module)]
    return _folded(about)


def _folded(about: list[Any]) -> str:
    """Return 32 hexadecimal digits."""
    return hashlib.sha256(repr(about).encode()).hexdigest()[:32]


def _settings(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield what a module was built with: window sizes, heads, indices."""
    for name, value in sorted(vars(module).items()):
        parts = value if isinstance(value, (list, tuple)) else [value]
        plain = all(
            part is None or isinstance(part, (bool, int, float, str))
            for part in parts
        )
        if plain and name != 'training' and not name.startswith('_'):
            yield name, value


def _are_images(images: Any) -> bool:
    return (
        isinstance(images, Tensor)
        and images.ndim == 4
        and len(images) > 0
        and not images.requires_grad
    )


def _moved(packed: Packed, device: torch.device) -> Packed:
    scale = packed.scale
    return packed._replace(
        values=packed.values.to(device),
        scale=None if scale is None else scale.to(device),
    )


def _itself(forward: Callable) -> Callable:
    return forward
