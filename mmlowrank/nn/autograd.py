"""What the hand-written backward passes share."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

# The device that models are counted on; it knows no autocast.
_COUNTED_ON = 'meta'


def autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Cast to the autocast type, as the elementary products would be."""
    dtypes = map(product_type, tensors)
    return tuple(t.to(d) for t, d in zip(tensors, dtypes, strict=True))


def product_type(tensor: Tensor) -> torch.dtype:
    """Return the type that a product with ``tensor`` is computed in."""
    device = tensor.device.type
    if tensor.dtype == torch.float64 or device == _COUNTED_ON:
        return tensor.dtype
    if not torch.is_autocast_enabled(device):
        return tensor.dtype
    return torch.get_autocast_dtype(device)


def cast_to(
    dtype: torch.dtype, *tensors: Tensor | None
) -> list[Tensor | None]:
    """Cast what is there and is a floating-point tensor.

    Weights are cast inside a hand-written pass, and again in its backward
    pass: what is kept is the parameter, which is there anyway, and no copy.
    """
    return [
        t.to(dtype) if t is not None and t.is_floating_point() else t
        for t in tensors
    ]


def no_autocast(device: torch.device) -> AbstractContextManager:
    """Return a context in which products are in their tensors' own type."""
    if device.type == _COUNTED_ON:
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def through_twin(
    twin: Callable[..., Tensor],
    ctx: Any,
    inputs: tuple[Any, ...],
    grad: Tensor,
) -> tuple[Tensor | None, ...]:
    """Differentiate the twin, so that the gradients have a graph."""
    needed = [
        value
        for value, need in zip(inputs, ctx.needs_input_grad, strict=True)
        if need
    ]
    grads = iter(
        torch.autograd.grad(twin(*inputs), needed, grad, create_graph=True)
    )
    return tuple(
        next(grads) if need else None for need in ctx.needs_input_grad
    )
