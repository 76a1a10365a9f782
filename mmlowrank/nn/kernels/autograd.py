"""What the hand-written backward passes share."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

# The device that models are counted on; it knows no autocast.
_COUNTED_ON = 'meta'


def traced() -> bool:
    """Whether something records the operations that run.

    A trace, an export, a compiler or a transform of ``torch.func`` shall see
    elementary operations: what is behind an ``autograd.Function`` cannot be
    saved, exported or transformed.
    """
    compiler = torch.compiler
    # PyTorch 2.4 says of an export that it is compiling.
    exporting = getattr(compiler, 'is_exporting', compiler.is_compiling)
    return (
        compiler.is_compiling()
        or exporting()
        or torch.jit.is_tracing()
        # There is no public question for it; autograd.Function asks this one.
        or torch._C._are_functorch_transforms_active()
    )


def by_hand(*inputs: Any) -> bool:
    """Whether a hand-written backward pass serves a function of ``inputs``.

    Otherwise its plain twin does: where no gradient is recorded, where
    something else than autograd looks on, and in forward-mode
    differentiation.
    """
    tensors = [value for value in inputs if isinstance(value, Tensor)]
    return (
        not traced()
        and torch.is_grad_enabled()
        and any(tensor.requires_grad for tensor in tensors)
        and all(forward_ad.unpack_dual(t).tangent is None for t in tensors)
    )


def unrecorded(*tensors: Tensor) -> bool:
    """Whether nothing records what is computed of the tensors."""
    return not traced() and not any(
        (tensor.requires_grad and torch.is_grad_enabled())
        or forward_ad.unpack_dual(tensor).tangent is not None
        for tensor in tensors
    )


def made_again(
    function: Callable[..., Any],
    *inputs: Any,
    random: bool = False,
    contexts: Callable[..., tuple[AbstractContextManager, ...]] | None = None,
    **kwargs: Any,
) -> Any:
    """Call a function that keeps its inputs only, where gradients are wanted.

    It runs again in the backward pass. A compiler knows of that; a trace gets
    the operations as they are.

    Args:
        function: What to call.
        *inputs: Its arguments.
        random: Whether it draws random numbers, which must be the same then.
        contexts: Returns a context of the first run and one of the second.
            A compiler makes its own.
        **kwargs: More arguments.
    """
    recorded = traced() and not torch.compiler.is_compiling()
    if recorded or not torch.is_grad_enabled():
        return function(*inputs, **kwargs)
    if contexts is not None and not torch.compiler.is_compiling():
        kwargs['context_fn'] = contexts
    return checkpoint(
        *(function, *inputs),
        use_reentrant=False,
        preserve_rng_state=random,
        **kwargs,
    )


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
        torch.autograd.grad(
            twin(*inputs), needed, grad, create_graph=True, allow_unused=True
        )
    )
    return tuple(
        next(grads) if need else None for need in ctx.needs_input_grad
    )
