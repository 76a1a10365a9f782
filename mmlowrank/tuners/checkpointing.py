"""Activation checkpointing without re-entry.

The re-entrant kind, which mmengine's ``activation_checkpointing`` and the
backbones' ``with_cp`` use, drops the gradients of a tuner whose input needs
none, and fails under DDP where blocks share a tensor. The other kind does
neither. Both let a BatchNorm see each batch twice; here the second run leaves
its statistics alone.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import islice
from typing import Any

from torch import nn

from ..nn.kernels.autograd import made_again
from .roles import keeps_statistics

_MMENGINE = 'mmengine.runner.activation_checkpointing'


def checkpoint_forward(module: nn.Module) -> None:
    """Keep the inputs of ``module`` only, and run it again for gradients."""
    module.forward = partial(_checkpointed, module, module.forward)


def is_checkpointed(forward: Callable | None) -> bool:
    """Whether a forward is one of :func:`checkpoint_forward`."""
    return getattr(forward, 'func', None) is _checkpointed


def _checkpointed(
    module: nn.Module, forward: Callable, *args: Any, **kwargs: Any
) -> Any:
    # Heads take lists of maps. In a list, they would be kept where autograd
    # does not see them, and could not pack them.
    lists = [
        (type(arg), len(arg)) if type(arg) in (list, tuple) else None
        for arg in args
    ]
    flat = [
        part
        for arg, known in zip(args, lists, strict=True)
        for part in (arg if known else (arg,))
    ]
    return made_again(
        partial(_with_lists, forward, lists),
        *flat,
        random=True,
        contexts=partial(_contexts, module),
        **kwargs,
    )


def _with_lists(
    forward: Callable,
    lists: list[tuple[type, int] | None],
    *flat: Any,
    **kwargs: Any,
) -> Any:
    rest = iter(flat)
    args = [
        known[0](islice(rest, known[1])) if known else next(rest)
        for known in lists
    ]
    return forward(*args, **kwargs)


def _contexts(module: nn.Module) -> tuple[AbstractContextManager, ...]:
    return nullcontext(), _statistics_left_alone(module)


@contextmanager
def _statistics_left_alone(module: nn.Module) -> Iterator[None]:
    """Let norms see a batch again and keep the statistics they have.

    With all they save for their gradients, as in the first run.
    """
    norms = [m for m in module.modules() if keeps_statistics(m) and m.training]
    before = [
        (m.momentum, m._buffers.get('num_batches_tracked')) for m in norms
    ]
    for norm in norms:
        norm.momentum = 0.0
        norm._buffers['num_batches_tracked'] = None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm._buffers['num_batches_tracked'] = batches


def take_over_reentrant(backbone: nn.Module) -> list[nn.Module]:
    """Undo mmengine's own activation checkpointing; return what had it.

    It wraps ``forward`` when training begins. FreezeAuditHook prevents that;
    this is for runs without it.
    """
    asking = []
    for module in backbone.modules():
        forward = module.__dict__.get('forward')
        if getattr(forward, '__globals__', {}).get('__name__') == _MMENGINE:
            module.forward = forward.__wrapped__
            asking.append(module)
    return asking


def take_over_with_cp(backbone: nn.Module) -> list[nn.Module]:
    """Switch the backbone's own ``with_cp`` off and return who had it.

    These are the innermost modules that have it: a stage or backbone that
    has it too has passed it on.
    """
    asking = [m for m in backbone.modules() if getattr(m, 'with_cp', False)]
    for module in asking:
        module.with_cp = False
    ids = {id(module) for module in asking}
    return [
        module
        for module in asking
        if not any(id(m) in ids for m in module.modules() if m is not module)
    ]
