"""Tensors without memory, which know their values where a step asks."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
)
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from .timeline import Timeline

aten = torch.ops.aten
# Values of more elements are not computed.
_MOST = 2**22
_UNKNOWN = {aten.empty.memory_format, aten.empty_strided.default}
_FACTORIES = {
    aten.zeros.default,
    aten.ones.default,
    aten.full.default,
    aten.rand.default,
    aten.randn.default,
    aten.empty.memory_format,
}
# Of their first argument they want the shape or the type.
_NEW = {
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_full.default,
}
_LIKE = {
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.full_like.default,
}
_NMS = {'torchvision::nms'}
_DYNAMIC = {
    torch.Tag.data_dependent_output,
    torch.Tag.dynamic_output_shape,
}
_QUESTIONS = {
    Tensor.numpy,
    Tensor.tolist,
    Tensor.__array__,
}
# What is invented is sound.
_CHECKS = {torch.isfinite, Tensor.isfinite}
_ATTRIBUTE = '_mmlowrank_value'


class FakeValues(TorchDispatchMode):
    """Runs operations on fake tensors, and counts their storages.

    Beside a fake tensor goes its value, a real one of the same shape, while
    it is known: of what is made from constants, from the batch, and from
    what :meth:`invent` filled. Assigners, samplers and NMS ask for values;
    where one is unknown it is invented. All network features are unknown,
    so nothing large is ever computed.

    Args:
        timeline: Told of every storage.
        seed: Of what is invented.
    """

    def __init__(self, timeline: Timeline, seed: int = 0) -> None:
        super().__init__()
        self.timeline = timeline
        self.fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.generator = torch.Generator().manual_seed(seed)
        # Real tensor -> its fake one; both are kept, for their identity.
        self._real: dict[int, tuple[Tensor, FakeTensor]] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Make everything inside fake, factories too."""
        with self.fake_mode, self, _Questions(self):
            yield

    def value(self, tensor: Tensor) -> Tensor | None:
        """Return the value of a fake tensor if it is known."""
        if not isinstance(tensor, FakeTensor):
            return tensor
        value = getattr(tensor, _ATTRIBUTE, None)
        if value is None or self.timeline.block(tensor).stale:
            return None
        return value

    def invent(self, tensor: Tensor) -> Tensor:
        """Return the value of a tensor; a plausible one where it has none.

        Small numbers around zero, as a head at its start predicts; those of
        integers are zero.
        """
        value = self.value(tensor)
        if value is not None:
            return value
        with _disable_current_modes():
            value = torch.zeros(tensor.shape, dtype=tensor.dtype)
            if value.is_floating_point() and value.numel() <= 16 * _MOST:
                value.normal_(0, 0.05, generator=self.generator)
        self.give(tensor, value)
        return value

    def give(self, tensor: Tensor, value: Tensor) -> None:
        """Set the value of a fake tensor."""
        setattr(tensor, _ATTRIBUTE, value)
        self.timeline.block(tensor).stale = False

    def forget(self, tensors: Iterator[Tensor]) -> None:
        """Forget values, as those of parameters."""
        for tensor in tensors:
            if hasattr(tensor, _ATTRIBUTE):
                delattr(tensor, _ATTRIBUTE)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace in ('prim', 'profiler'):
            return func(*args, **kwargs)
        self.timeline.now += 1
        flat, spec = tree_flatten((args, kwargs))
        flat = [self._faked(x) if isinstance(x, Tensor) else x for x in flat]
        args, kwargs = tree_unflatten(flat, spec)
        if func in (aten.lift_fresh.default, aten.lift.default):
            return args[0]
        out = self._by_mask(func, args)
        if out is None:
            out = self._run(func, args, kwargs, flat, spec)
        results = [x for x in tree_flatten(out)[0] if isinstance(x, Tensor)]
        self.timeline.see(results)
        if func is aten.add.Tensor and torch._C._current_graph_task_id() >= 0:
            # Autograd sums gradients in place, but not those of subclasses
            # of tensors: the sum takes the place of the first.
            block = self.timeline.block(results[0])
            block.born = self.timeline.now + 1
        return out

    def _run(
        self,
        func: Any,
        args: tuple,
        kwargs: dict,
        flat: list,
        spec: Any,
    ) -> Any:
        tensors = [x for x in flat if isinstance(x, Tensor)]
        dynamic = bool(_DYNAMIC & {*func.tags}) or func._schema.name in _NMS
        values = self._values(func, flat, tensors, dynamic)
        writes = [a for a in func._schema.arguments if _is_written(a)]
        aliases = writes or any(r.alias_info for r in func._schema.returns)
        if values is None:
            out = func(*args, **kwargs)
            for argument in writes:
                self._make_stale(func, argument, args, kwargs)
            return out
        real_args, real_kwargs = tree_unflatten(values, spec)
        with _disable_current_modes(), torch.no_grad():
            real = func(*real_args, **real_kwargs)
        if aliases and not dynamic:
            out = func(*args, **kwargs)
        else:
            out = tree_map_only(Tensor, _like, real)
        outs, reals = tree_flatten(out)[0], tree_flatten(real)[0]
        for fake, value in zip(outs, reals, strict=True):
            if isinstance(fake, Tensor):
                setattr(fake, _ATTRIBUTE, value)
        return out

    def _values(
        self, func: Any, flat: list, tensors: list[Tensor], dynamic: bool
    ) -> list | None:
        """Return the arguments as values, or None if some are unknown."""
        if dynamic:
            return [
                self.invent(x) if isinstance(x, Tensor) else x for x in flat
            ]
        if not tensors and func in _UNKNOWN:
            return None
        if _size(func, flat, tensors) > _MOST:
            return None
        values = [self.value(x) if isinstance(x, Tensor) else x for x in flat]
        if func in _NEW | _LIKE and values[0] is None:
            with _disable_current_modes():
                shape = flat[0].shape if func in _LIKE else ()
                values[0] = torch.empty(shape, dtype=flat[0].dtype)
        known = all(
            value is not None
            for x, value in zip(flat, values, strict=True)
            if isinstance(x, Tensor)
        )
        return values if known else None

    def _faked(self, tensor: Tensor) -> Tensor:
        if isinstance(tensor, FakeTensor):
            return tensor
        found = self._real.get(id(tensor))
        if found is None:
            fake = _like(tensor)
            self.timeline.block(fake)
            with _disable_current_modes():
                setattr(fake, _ATTRIBUTE, tensor.detach())
            found = self._real[id(tensor)] = (tensor, fake)
        return found[1]

    def _by_mask(self, func: Any, args: tuple) -> Tensor | None:
        """Return what a mask picks of an unknown tensor, or None."""
        if func is not aten.index.Tensor or not any(map(_is_mask, args[1])):
            return None
        masks = [x is not None and self.invent(x) for x in args[1]]
        if self.value(args[0]) is not None:
            return None
        indices: list[Tensor | None] = []
        for given, value in zip(args[1], masks, strict=True):
            if given is None or not _is_mask(given):
                indices.append(given)
                continue
            with _disable_current_modes():
                found = value.nonzero().unbind(1)
            indices.extend(map(_like, found))
        self.timeline.see(x for x in indices if x is not None)
        return func(args[0], indices)

    def _make_stale(
        self, func: Any, argument: Any, args: tuple, kwargs: dict
    ) -> None:
        at = [a.name for a in func._schema.arguments].index(argument.name)
        given = args[at] if at < len(args) else kwargs.get(argument.name)
        for tensor in tree_flatten(given)[0]:
            if isinstance(tensor, Tensor):
                self.timeline.block(tensor).stale = True


class _Questions(TorchFunctionMode):
    """Answers what leaves PyTorch, as numpy and lists, and checks."""

    def __init__(self, values: FakeValues) -> None:
        super().__init__()
        self.values = values

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        if func in _QUESTIONS and isinstance(args[0], FakeTensor):
            value = self.values.invent(args[0])
            with _disable_current_modes(), torch._C.DisableTorchFunction():
                return func(value, *args[1:], **(kwargs or {}))
        if func is Tensor.__deepcopy__ and not args[0].requires_grad:
            # The stock one copies the storage.
            return args[1].setdefault(id(args[0]), args[0].clone())
        if func is torch._shape_as_tensor:
            # The stock one reads a tensor without memory.
            return torch.tensor(args[0].shape)
        out = func(*args, **(kwargs or {}))
        if func in _CHECKS and self.values.value(out) is None:
            with _disable_current_modes():
                value = torch.ones(()).bool().expand(out.shape)
            self.values.give(out, value)
        return out


def _like(tensor: Tensor) -> Tensor:
    """Return a fake tensor of the same shape."""
    return torch.empty_strided(
        tensor.shape, tensor.stride(), dtype=tensor.dtype
    )


def _is_mask(index: Tensor | None) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _size(func: Any, flat: list, tensors: list[Tensor]) -> int:
    """Return how many elements the largest tensor of an operation has."""
    asked = math.prod(x for x in flat if type(x) is int)
    if func in _NEW:
        return asked
    sizes = [x.numel() for x in tensors]
    return max([asked if func in _FACTORIES else 0, *sizes])
