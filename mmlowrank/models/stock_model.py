"""The stock model that a builder of ours changes, and its config."""

import copy
from typing import Any

from mmengine.config import ConfigDict
from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn


def build_model(model: str | dict, **kwargs: Any) -> nn.Module:
    """Build a stock model in the scope that is building.

    Args:
        model: Its type, e.g. ``'DINO'``, or a whole config.
        **kwargs: Of the stock model, where ``model`` is its type.

    Raises:
        KeyError: If the type is unknown in this scope.
        TypeError: If arguments stand beside a whole config.
    """
    # A ConfigDict even where Python code passed a dict: stock models read
    # their parts as attributes. A copy: DETRs write into theirs.
    config = copy.deepcopy(model_config(model, **kwargs))
    return ROOT_MODELS.build(ConfigDict(config))


def model_config(model: str | dict, **kwargs: Any) -> dict:
    """Return the config that :func:`build_model` builds.

    Args:
        model: As there.
        **kwargs: As there.

    Raises:
        TypeError: If arguments stand beside a whole config.
    """
    if not isinstance(model, dict):
        return dict(kwargs, type=model)
    if kwargs:
        raise TypeError(
            f'model is a whole config, so {", ".join(sorted(kwargs))} '
            'must stand in it; or let model be the type alone, e.g. '
            "model='DINO', with the other arguments beside it"
        )
    return dict(model)
