"""mmlowrank: low-rank tuning for OpenMMLab (LoRand, E3VA, LORS, RLRR).

Importing this package needs torch and mmengine only; mmdet, mmseg and
mmpretrain are imported when a config asks for them. Where mmcv has no compiled
ops, those of torchvision stand in for them from then on (see ``ops``).
"""

from . import config_packages, ops
from .compat import warn_about_environment
from .version import __version__

__all__ = ['__version__']

ops.install()
config_packages.register()
warn_about_environment()
