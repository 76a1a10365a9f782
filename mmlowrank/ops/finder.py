"""Finds ``mmcv._ext`` where nobody else finds it.

``import mmlowrank`` appends :class:`StandInFinder` to ``sys.meta_path``. A
``.pth`` file in site-packages does so at the start of Python (setup.py writes
it), for a script that imports mmdet and not, or not yet, mmlowrank. Python
asks the finders in order, so a compiled ``mmcv._ext`` is found before us, and
one that is there but does not load still fails with its own error.

Imports neither torch nor torchvision before it is asked.
"""

import importlib
import logging
import os
import sys
from collections.abc import Callable
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType

NAME = 'mmcv._ext'
NOT_AVAILABLE = 'not available'  # as mmcv compiled without CUDA says it
STANDING_IN = 'mmcv has no compiled ops: those of torchvision are in use'


def refuse(what: str) -> None:
    """Say that ``what`` needs compiled ops, and how to get them.

    Raises:
        NotImplementedError: Always.
    """
    raise NotImplementedError(
        f"{what} needs mmcv's compiled ops, which are not installed here, and "
        'torchvision has no substitute: run "MMCV_OPS=compile bash '
        'tools/setup_env.sh" in a clone of mmlowrank or, where torch is '
        'installed, "pip install --force-reinstall --no-deps --no-cache-dir '
        '--no-build-isolation --no-binary onedl-mmcv onedl-mmcv"'
    )


def missing(name: str) -> Callable:
    """Return a function in the place of ``mmcv._ext.name`` that refuses.

    mmcv checks that every name is there when it is imported; it is the
    ``__getattr__`` of the module.
    """
    if name.startswith('__'):
        raise AttributeError(f'module {NAME!r} has no attribute {name!r}')

    def op(*args: object, **kwargs: object) -> None:
        refuse(f'{NAME}.{name}')

    op.__name__ = op.__qualname__ = name
    return op


class StandInLoader(Loader):
    """Fills the module with the stand-ins."""

    def exec_module(self, module: ModuleType) -> None:
        from .stand_ins import STAND_INS

        vars(module).update(
            {op.__name__: op for op in STAND_INS},
            get_compiler_version=lambda: 'not compiled: ops of torchvision',
            get_compiling_cuda_version=lambda: NOT_AVAILABLE,
            __getattr__=missing,
        )
        # Once, by the first process; launchers set the variable. To stderr:
        # what tools print may be read by others.
        imported = sys.modules.get(NAME) is module
        if imported and os.environ.get('RANK', '0') == '0':
            logging.getLogger('mmlowrank').warning(STANDING_IN)


class StandInFinder:
    """Answers for ``mmcv._ext`` and nothing else.

    The class itself is the finder, as Python's own are, so it has no method
    that wants an instance (``MetaPathFinder`` has ``invalidate_caches``).
    """

    @staticmethod
    def find_spec(
        name: str, path: object = None, target: object = None
    ) -> ModuleSpec | None:
        if name != NAME:
            return None
        return ModuleSpec(NAME, StandInLoader(), origin='mmlowrank.ops')


find_spec = StandInFinder.find_spec


def install() -> None:
    """Be asked for modules that no other finder has."""
    if StandInFinder not in sys.meta_path:
        sys.meta_path.append(StandInFinder)


def compiled() -> bool:
    """Return whether mmcv's own operators are in use."""
    spec = importlib.import_module(NAME).__spec__
    return not isinstance(spec.loader, StandInLoader)


def compiled_for_cuda() -> bool:
    """Return whether mmcv's own operators take CUDA tensors."""
    ops = importlib.import_module(NAME)
    return ops.get_compiling_cuda_version() != NOT_AVAILABLE


def in_use() -> str:
    """Say which operators are in use; a run's log starts with it."""
    if not compiled():
        return STANDING_IN
    where = 'CUDA' if compiled_for_cuda() else 'CPUs'
    return f"mmcv's own ops are in use, compiled for {where}"
