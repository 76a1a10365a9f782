"""Losses of a method: added to those of the model while it trains.

A method that has some says so in :meth:`.base.Tuner.losses`. The model is a
stock one and knows nothing of them, so a hook on its forward pass adds them
to the losses that it returns. From there on they are losses like all others:
scaled, accumulated, averaged over processes and logged.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from .base import tuners_of


def add_losses(model: nn.Module) -> None:
    """Let the losses of a model contain those of its tuners from now on.

    Where the model, in training mode, is called with ``mode='loss'``.

    Args:
        model: A detector, segmentor or classifier, not wrapped.
    """
    hooks = model._forward_hooks.values()
    tuners = tuners_of(model).values()
    if _add not in hooks and any(tuner.losses() for tuner in tuners):
        model.register_forward_hook(_add, with_kwargs=True)


def _add(model: nn.Module, args: tuple, kwargs: dict, losses: Any) -> Any:
    # forward(inputs, data_samples, mode)
    mode = kwargs.get('mode', args[2] if len(args) > 2 else None)
    if mode != 'loss' or not model.training:
        return losses
    # Asked at each call: a deep copy of the model has this hook, too, and
    # tuners of its own.
    added = summed(
        tuner.losses()
        for tuner in tuners_of(model).values()
        # Not of a frozen copy, as a teacher in semi-supervised training is.
        if any(p.requires_grad for p in tuner.parameters())
    )
    return {**losses, **added}


def summed(losses: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return name -> sum of the losses of that name."""
    total: dict[str, Tensor] = {}
    for some in losses:
        for name, loss in some.items():
            total[name] = total[name] + loss if name in total else loss
    return total


def orthogonality_loss(tuner: nn.Module, weight: float) -> dict[str, Tensor]:
    """Return the weighted sum of the adapters' orthogonality.

    Args:
        tuner: Some of its modules have a method ``orthogonality``.
        weight: Of each.
    """
    terms = [
        module.orthogonality()
        for module in tuner.modules()
        if callable(getattr(module, 'orthogonality', None))
    ]
    if not terms or not weight:
        return {}
    return dict(loss_orthogonality=weight * sum(terms))
