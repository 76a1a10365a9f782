"""mmlowrank: low-rank tuning for OpenMMLab (LoRand, E3VA, LORS, RLRR).

Importing this package needs torch and mmengine only; mmdet, mmseg and
mmpretrain are imported when a config asks for them.
"""

from .compat import warn_about_versions
from .version import __version__

__all__ = ['__version__']

warn_about_versions()
