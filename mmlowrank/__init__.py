"""mmlowrank: low-rank tuning for OpenMMLab (LoRand, E3VA, LORS, RLRR).

Importing this package needs torch and mmengine only; mmdet, mmseg and
mmpretrain are imported when a config asks for them. Where mmcv has no compiled
ops, those of torchvision stand in for them from then on (see ``ops``).
"""

from typing import Any

from . import config_packages, ops
from .compat import warn_about_environment
from .version import __version__

# Names of :mod:`.checkpoint.adapters`, imported when they are asked for.
_ADAPTERS = [
    'adapters',
    'disabled',
    'load_adapter',
    'save_adapter',
    'set_adapter',
    'trainable_summary',
]
# Those of :mod:`.checkpoint.peft_layout`, likewise.
_PEFT = ['load_peft', 'save_peft']
__all__ = ['__version__', 'keep_less', 'merge', *_ADAPTERS, *_PEFT]


def __getattr__(name: str) -> Any:
    if name in _ADAPTERS:
        from .checkpoint import adapters as room
    elif name in _PEFT:
        from .checkpoint import peft_layout as room
    elif name == 'merge':
        from .checkpoint import merge as room
    elif name == 'keep_less':
        from .nn.kernels import kept as room
    else:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(room, name)


ops.install()
config_packages.register()
warn_about_environment()
