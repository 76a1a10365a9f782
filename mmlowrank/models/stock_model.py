"""The stock model that a builder of ours changes, and its config."""

import copy
from typing import Any

from mmengine.config import ConfigDict
from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn

# Builder of ours -> its argument besides those of the stock model.
WRAPPERS = {'TunedModel': 'tuners', 'StackSharedModel': 'stacks'}


def build_model(model: str | dict, **kwargs: Any) -> nn.Module:
    """Build a stock model in the scope that is building.

    Args:
        model: Its type, e.g. ``'DINO'``, or a whole config.
        **kwargs: Of the stock model, where ``model`` is its type.

    Raises:
        KeyError: If the type is unknown in this scope.
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

    Returns:
        With what stands beside a whole config, as the ``data_preprocessor``
        that mmengine's runner puts there, where the config has it not.
    """
    if not isinstance(model, dict):
        return dict(kwargs, type=model)
    return dict(kwargs, **model)


def stock_model_config(model: dict) -> dict:
    """Return the config of the stock model that a merged checkpoint is for.

    Without a checkpoint: the weights are those of the merged model.

    Args:
        model: Config of one of ``WRAPPERS``.
    """
    own = ('type', *WRAPPERS.values())
    stock = model_config(**{k: v for k, v in model.items() if k not in own})
    stock.pop('init_cfg', None)
    return stock
