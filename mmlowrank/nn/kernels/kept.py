"""Keep what autograd saves between forward and backward in fewer bits.

The forward pass is unchanged. What a node of the graph saves is packed when
it is saved and unpacked when the node runs, so that a gradient is the one of
saved values nearby. A storage that several nodes save is packed once.

``bf16`` rounds to eight significant bits. ``int8`` has a step for each block
of 64 numbers that lie side by side in memory (channels of a token, rows of a
feature map), the largest number of the block over 125, and rounds to the
nearest multiple of it, but keeps the sign: a number that rounds to zero
becomes a 64th of a step. ReLU and L1 losses ask what they saved for its sign
only, and rounding a small number to zero would cut its gradient off: with
plain rounding the error of a small Mask R-CNN is twenty times as large.
"""

import weakref
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .autograd import traced

# Numbers that share a step.
_BLOCK = 64
# The largest number of a block in steps; its sign adds one, the rounding of
# the step half of one.
_LEVELS = 125
# What becomes of a number that rounds to zero, in steps.
_NEAR_ZERO = 1 / 64
# With fewer numbers than these, a tensor costs more time than it is worth.
_FEWEST = 2048
# Numbers of a box, of a RoI with its image, of a sampling point.
_COORDINATES = 5
# Numbers that are packed at a time: the rest of the work stays that small.
_CHUNK = 2**20


class _Rounded:
    """A storage of floating-point numbers in bf16."""

    bytes_each: ClassVar = 2

    def __init__(self, flat: Tensor) -> None:
        self.tensors = [flat.to(torch.bfloat16)]

    def part(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Return the numbers from ``start`` to ``stop``."""
        return self.tensors[0][start:stop].to(dtype)


class _Quantized:
    """A storage of floating-point numbers in int8, with steps in bf16."""

    bytes_each: ClassVar = 1

    def __init__(self, flat: Tensor) -> None:
        blocks = -(-len(flat) // _BLOCK)
        codes = flat.new_empty(blocks, _BLOCK, dtype=torch.int8)
        steps = flat.new_empty(blocks, 1, dtype=torch.bfloat16)
        chunks = zip(
            flat.split(_CHUNK),
            codes.split(_CHUNK // _BLOCK),
            steps.split(_CHUNK // _BLOCK),
            strict=True,
        )
        for part, code, step in chunks:
            part = part.float()
            if missing := code.numel() - len(part):
                part = nn.functional.pad(part, (0, missing))
            part = part.view_as(code)
            largest = part.abs().amax(1, keepdim=True)
            # Of a block of zeros it must not be zero.
            step.copy_(largest.clamp_(min=1e-30).div_(_LEVELS))
            steps_away = torch.div(part, step.float()).round_()
            code.copy_(steps_away.add_(part.sign()))
        self.tensors = [codes, steps]

    def part(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Return the numbers from ``start`` to ``stop``."""
        blocks = slice(start // _BLOCK, -(-stop // _BLOCK))
        codes, steps = (tensor[blocks] for tensor in self.tensors)
        out = torch.empty_like(codes, dtype=dtype)
        chunks = (t.split(_CHUNK // _BLOCK) for t in (codes, steps, out))
        for code, step, part in zip(*chunks, strict=True):
            steps_away = code.float()
            steps_away.sub_(code.sign(), alpha=1 - _NEAR_ZERO)
            part.copy_(steps_away.mul_(step))
        first = start % _BLOCK
        return out.flatten()[first : first + stop - start]


_KINDS = {'bf16': _Rounded, 'int8': _Quantized}
# What ``saved`` may be.
SAVED = ('exact', *_KINDS)


@dataclass(frozen=True)
class Packed:
    """A saved tensor: a view of a packed storage."""

    storage: _Rounded | _Quantized
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype


class Packing:
    """Packs what autograd saves; one for each forward pass.

    Args:
        saved: ``'bf16'`` or ``'int8'``.
        module: Its parameters and buffers are there anyway, and stay as they
            are.
        batch: Tensors that the caller of the forward pass has.
    """

    def __init__(
        self, saved: str, module: nn.Module, batch: Iterable[Tensor] = ()
    ) -> None:
        self.kind = _KINDS[saved]
        there = (*module.parameters(), *module.buffers(), *batch)
        # By the object, because a tensor without memory has no address.
        storages = [tensor.untyped_storage() for tensor in there]
        self._there = {id(storage): storage for storage in storages}
        # Of the storages that are packed. The references are weak: they die
        # with the storage, and with the last node that has saved it.
        self._known: dict[int, tuple[Any, ...]] = {}

    def reason(self, tensor: Tensor) -> str | None:
        """Return why a tensor is saved as it is; None if it is packed."""
        if tensor.layout != torch.strided:
            return 'not dense'
        if id(tensor.untyped_storage()) in self._there:
            return 'weights and the batch'
        if not tensor.is_floating_point():
            return 'integers and masks'
        if tensor.itemsize <= self.kind.bytes_each:
            return 'in as few bits already'
        if tensor.ndim < 2 or tensor.shape[-1] <= _COORDINATES:
            return 'vectors and coordinates'
        return 'small' if tensor.numel() < _FEWEST else None

    def pack(self, tensor: Tensor) -> Tensor | Packed:
        """Return what autograd shall save in the place of ``tensor``."""
        # Most are small; that is known at once.
        if tensor.numel() < _FEWEST or self.reason(tensor) is not None:
            return tensor
        tensor = tensor.detach()
        return Packed(
            self._pack_storage(tensor),
            tensor.shape,
            tensor.stride(),
            tensor.storage_offset(),
            tensor.dtype,
        )

    def _pack_storage(self, tensor: Tensor) -> Any:
        storage = tensor.untyped_storage()
        # Written to in place, it is another one.
        state = tensor.dtype, tensor._version
        known = self._known.get(id(storage))
        if known is not None and known[0]() is storage and known[1] == state:
            packed = known[2]()
            if packed is not None:
                return packed
        numbers = storage.nbytes() // tensor.itemsize
        packed = self.kind(tensor.as_strided((numbers,), (1,), 0))
        self._known[id(storage)] = (
            weakref.ref(storage),
            state,
            weakref.ref(packed),
        )
        return packed


def unpack(saved: Tensor | Packed) -> Tensor:
    """Return the tensor that :meth:`Packing.pack` made ``saved`` of."""
    if not isinstance(saved, Packed):
        return saved
    extent = 1 + sum(
        (size - 1) * stride
        for size, stride in zip(saved.shape, saved.stride, strict=True)
    )
    numbers = saved.storage.part(
        saved.offset, saved.offset + extent, saved.dtype
    )
    return numbers.as_strided(saved.shape, saved.stride)


class _Keeper:
    """Hooks around the forward pass of a model; bound, so that it copies."""

    def __init__(self, saved: str) -> None:
        self.saved = saved
        self._open: list[AbstractContextManager | None] = []

    def enter(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        context = None
        exact = self.saved == 'exact'
        if not exact and torch.is_grad_enabled() and not traced():
            inputs = (*args, *kwargs.values())
            batch = [value for value in inputs if isinstance(value, Tensor)]
            context = torch.autograd.graph.saved_tensors_hooks(
                Packing(self.saved, model, batch).pack, unpack
            )
            context.__enter__()
        self._open.append(context)

    def leave(self, *_: Any) -> None:
        if self._open and (context := self._open.pop()) is not None:
            context.__exit__(None, None, None)


def keep_less(model: nn.Module, saved: str) -> nn.Module:
    """Keep less between the forward and the backward pass of a model.

    What autograd saves while ``model`` is called is packed; parameters,
    buffers, integers, masks, vectors (statistics of norms), tensors of at
    most five numbers in the last dimension (boxes, RoIs, sampling points)
    and small tensors are saved as they are. Outputs do not change. Inside a
    checkpointed part its inputs are packed, and what is made again of them
    is not. Where something traces or compiles the model, nothing is packed.

    Args:
        model: Any module; calling it again changes ``saved``.
        saved: ``'exact'`` as PyTorch does it, ``'bf16'``, or ``'int8'``.

    Returns:
        The model.

    Raises:
        ValueError: If ``saved`` is something else.
    """
    if saved not in SAVED:
        raise ValueError(
            f'saved must be one of {", ".join(SAVED)}, got {saved!r}'
        )
    keeper = _keeper_of(model)
    if keeper is not None:
        keeper.saved = saved
    elif saved != 'exact':
        keeper = _Keeper(saved)
        model.register_forward_pre_hook(
            keeper.enter, with_kwargs=True, prepend=True
        )
        model.register_forward_hook(keeper.leave, always_call=True)
    return model


def saved_as(model: nn.Module) -> str:
    """Return the ``saved`` that :func:`keep_less` was called with."""
    keeper = _keeper_of(model)
    return 'exact' if keeper is None else keeper.saved


def _keeper_of(model: nn.Module) -> _Keeper | None:
    owners = (
        getattr(hook, '__self__', None)
        for hook in model._forward_pre_hooks.values()
    )
    return next((o for o in owners if isinstance(o, _Keeper)), None)
