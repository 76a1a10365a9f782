"""mmcv's module of operators, and the one that stands in for it."""

import importlib
from importlib.util import module_from_spec
from types import ModuleType

import pytest

from mmlowrank import ops

EXT = importlib.import_module('mmcv._ext')
needs_compiled = pytest.mark.skipif(
    not ops.compiled(), reason='mmcv has no compiled ops to compare with'
)


def stand_in() -> ModuleType:
    """Return what is imported as mmcv._ext where nothing is compiled."""
    spec = ops.find_spec('mmcv._ext')
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
