"""Torchvision's and plain PyTorch's operators for an mmcv without its own.

mmcv compiles its operators into a module ``mmcv._ext``, which needs a compiler
and minutes, and mmdet does not import without it. Of that module a detector
calls a handful of functions, and PyTorch and torchvision have those.

This room provides them as ``mmcv._ext`` where mmcv comes without (see
:mod:`finder`). A compiled module is never shadowed: Python asks here last.
"""

from .finder import compiled, compiled_for_cuda, find_spec, in_use, install

__all__ = [
    'compiled',
    'compiled_for_cuda',
    'find_spec',
    'in_use',
    'install',
]
