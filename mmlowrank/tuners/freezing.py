"""Freeze parts of a whole model that a regular expression names."""

import re
from collections.abc import Sequence
from types import MethodType

from torch import nn

from .base import CHILD, STATISTICS, tuners_of


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
        for name in tuner.owned()
    }
    parameters = dict(model.named_parameters())
    switched, matched = [], set()
    for pattern in patterns:
        names = [name for name in parameters if re.match(pattern, name)]
        if not names:
            raise ValueError(
                f'freeze pattern {pattern!r} matches no parameter. Top-level '
                'parts are: '
                + ', '.join(name for name, _ in model.named_children())
            )
        for name in names:
            if name in owned:
                raise ValueError(
                    f"freeze pattern {pattern!r} matches '{name}', which the "
                    "backbone's tuner trains. Choose another tuner to "
                    "freeze it (e.g. type='mmlowrank.SwinFixed')"
                )
            matched.add(id(parameters[name]))
            if parameters[name].requires_grad:
                parameters[name].requires_grad_(False)
                switched.append(name)
    for module in model.modules():
        own = {id(p) for p in module.parameters(recurse=False)}
        if isinstance(module, STATISTICS) and own and own <= matched:
            # On the instance: the model's train() reaches it every epoch.
            module.train = MethodType(_stay_in_eval, module)
            module.eval()
    return switched


def _stay_in_eval(module: nn.Module, mode: bool = True) -> nn.Module:
    return type(module).train(module, False)
