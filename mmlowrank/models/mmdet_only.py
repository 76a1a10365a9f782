"""Builders of what needs mmdet.

mmengine imports this package the first time any config names a model of
mmlowrank, in processes of mmseg and mmpretrain too. Classes that derive from
mmdet's cannot be registered then without importing mmdet, which may not even
be installed. So the registry holds builders, which import when one is called.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import nn

from ..registry import MODELS


def _builder(name: str) -> Callable[..., nn.Module]:
    """Make and register ``name``: a builder of the class of that name."""

    def build(**kwargs: Any) -> nn.Module:
        module = import_module('mmlowrank.models.adamixer')
        return getattr(module, name)(**kwargs)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f'Build :class:`mmlowrank.models.adamixer.{name}`.'
    return MODELS.register_module(name=name, module=build)


AdaMixer = _builder('AdaMixer')
AdaMixerDecoder = _builder('AdaMixerDecoder')
AdaMixerNeck = _builder('AdaMixerNeck')
AdaMixerQueries = _builder('AdaMixerQueries')
