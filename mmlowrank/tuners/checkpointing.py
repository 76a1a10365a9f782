"""Activation checkpointing without re-entry.

The re-entrant kind, which mmengine's ``activation_checkpointing`` and the
backbones' ``with_cp`` use, drops the gradients of a tuner whose input needs
none, and fails under DDP where blocks share a tensor. The other kind does
neither.
"""

from functools import partial

from torch import nn

from ..nn.kernels.autograd import made_again

_MMENGINE = 'mmengine.runner.activation_checkpointing'


def checkpoint_forward(module: nn.Module) -> None:
    """Keep the inputs of ``module`` only, and run it again for gradients."""
    module.forward = partial(made_again, module.forward, random=True)


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
