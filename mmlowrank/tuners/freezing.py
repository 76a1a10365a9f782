"""Freeze parts of a whole model that a regular expression names."""

from collections.abc import Sequence

from torch import nn

from .base import CHILD, tuners_of
from .patterns import check_patterns, matching
from .roles import keeps_statistics


def freeze_matching(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Freeze the parameters whose name a pattern matches from its start.

    Normalisation layers frozen like this stop moving their statistics too.

    Args:
        model: The whole model, not wrapped.
        patterns: Regular expressions, matched as ``re.match`` does against
            names such as ``'neck.lateral_convs.0.conv.weight'``.

    Returns:
        Names of the parameters that this call switched off.

    Raises:
        ValueError: If a pattern matches nothing, or matches a parameter
            that a tuner trains.
    """
    owned = {
        f'{path.removesuffix(CHILD)}{name}'
        for path, tuner in tuners_of(model).items()
        for name, tensor in tuner.owned().items()
        if tensor.requires_grad  # not that of a frozen teacher
    }
    parameters = dict(model.named_parameters())
    check_patterns(patterns, [*parameters], model, 'freeze')
    switched = []
    for name in matching(patterns, parameters):
        if name in owned:
            raise ValueError(
                f"freeze={list(patterns)} matches '{name}', which a tuner "
                'trains. Choose another tuner to freeze it (e.g. '
                "type='mmlowrank.SwinFixed')"
            )
        if parameters[name].requires_grad:
            parameters[name].requires_grad_(False)
            switched.append(name)
    if patterns:
        parts = _FrozenParts.of(model)
        parts.patterns |= set(patterns)
        parts.train(model.training)
    return switched


class _FrozenParts(nn.Identity):
    """A child without tensors, through which ``train()`` reaches here.

    It holds what is frozen by name in eval mode, and asks anew each time
    which modules these are, as :meth:`Tuner.train` does.
    """

    CHILD = 'frozen_parts'
    model: nn.Module

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.patterns: set[str] = set()
        # In __dict__, because as a registered child it would be a cycle.
        self.__dict__['model'] = model

    @classmethod
    def of(cls, model: nn.Module) -> '_FrozenParts':
        """Return that of ``model``, made if need be."""
        if not hasattr(model, cls.CHILD):
            # Last child, so that its train() comes after the others'.
            model.add_module(cls.CHILD, cls(model))
        return getattr(model, cls.CHILD)

    def train(self, mode: bool = True) -> '_FrozenParts':
        super().train(mode)
        for path, module in self.model.named_modules():
            if not keeps_statistics(module):
                continue
            own = [name for name, _ in module.named_parameters(path, False)]
            own = own or [f'{path}.running_mean']
            module.training &= not all(map(self._named, own))
        return self

    def _named(self, name: str) -> bool:
        return bool(matching(self.patterns, [name]))
