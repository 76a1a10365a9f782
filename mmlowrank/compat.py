"""Look at the installed versions and warn; never refuse to run.

Upper bounds in ``assert`` statements have stopped many OpenMMLab plugins from
working with releases they would have worked with, so we only say what is
known to cause trouble.
"""

import warnings
from importlib import metadata

from mmengine.utils import digit_version

# Lower bounds: older releases miss something that mmlowrank calls.
_LOWEST = {'torch': '2.4'}
# Two distributions of one import name overwrite each other's files.
_TWINS = {
    'mmengine': ('mmengine', 'onedl-mmengine'),
    'mmcv': ('mmcv', 'onedl-mmcv'),
    'mmdet': ('mmdet', 'onedl-mmdetection'),
    'mmseg': ('mmsegmentation', 'onedl-mmsegmentation'),
    'mmpretrain': ('mmpretrain', 'onedl-mmpretrain'),
}


def _installed(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def version_problems() -> list[str]:
    """Return one sentence for each known problem of this environment."""
    problems = []
    for name, lowest in _LOWEST.items():
        found = _installed(name)
        if found and digit_version(found) < digit_version(lowest):
            problems.append(
                f'{name} {found} is older than {lowest}, the oldest version '
                f'mmlowrank is written for. Upgrade {name} if something fails.'
            )
    for name, twins in _TWINS.items():
        both = [twin for twin in twins if _installed(twin)]
        if len(both) == 2:
            problems.append(
                f'{both[0]} and {both[1]} are both installed and own the '
                f'same files of "{name}". Run: pip uninstall -y {both[0]} '
                f'{both[1]}, then install one of them.'
            )
    return problems


def warn_about_versions() -> None:
    """Warn once for each problem found by :func:`version_problems`."""
    for problem in version_problems():
        warnings.warn(problem, stacklevel=3)
