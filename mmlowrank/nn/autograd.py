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
    device = tensors[0].device.type
    if device == _COUNTED_ON or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(tensor.to(dtype) for tensor in tensors)


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
