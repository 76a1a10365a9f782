"""Let ``_base_ = 'mmlowrank::lorand/...'`` and ``'mmseg::...'`` be found.

mmengine looks for configs of a package in its folder ``.mim``, and knows the
packages by a table of the distributions of OpenMMLab: mmlowrank is not in it,
and ``mmseg`` leads to ``mmsegmentation``, which is not installed where
``onedl-mmsegmentation`` is (``mmengine.hub`` then starts pip).
"""

import functools

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

from .compat import TWINS, installed

_SCOPE = 'mmlowrank'


def _without_our_scope(find):
    """Wrap the method that returns path and scope of a base.

    mmengine builds what it reads from a package in the scope of that name.
    Our configs say themselves which framework they are for.
    """

    @functools.wraps(find)
    def wrapped(cfg_path: str, filename: str) -> tuple[str, str | None]:
        path, scope = find(cfg_path, filename)
        return path, None if scope == _SCOPE else scope

    return wrapped


def find(config: str) -> str:
    """Return the path of a config that may be one of a package.

    Args:
        config: A path, or ``package::path`` as in ``_base_``.

    Raises:
        FileNotFoundError: If the package has no such config.
        ModuleNotFoundError: If there is no such package.
    """
    return Config._get_cfg_path(config, '')[0]


def register() -> None:
    """Tell mmengine where the configs are; a second time changes nothing."""
    if _SCOPE not in MODULE2PACKAGE:
        MODULE2PACKAGE[_SCOPE] = _SCOPE
        Config._get_cfg_path = staticmethod(
            _without_our_scope(Config._get_cfg_path)
        )
    for name, (stock, onedl) in TWINS.items():
        if (
            MODULE2PACKAGE.get(name) == stock
            and not installed(stock)
            and installed(onedl)
        ):
            MODULE2PACKAGE[name] = onedl
