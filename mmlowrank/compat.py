"""Look at versions and cards and warn; never refuse to run.

Upper bounds in ``assert`` statements have stopped many OpenMMLab plugins from
working with releases they would have worked with, so we only say what is
known to cause trouble.
"""

import ctypes
import os
import warnings
from importlib import metadata

import torch
from mmengine.utils import digit_version

# Lower bounds: older releases miss something that mmlowrank calls.
_LOWEST = {'torch': '2.4'}
# Two distributions of one import name overwrite each other's files.
TWINS = {
    'mmengine': ('mmengine', 'onedl-mmengine'),
    'mmcv': ('mmcv', 'onedl-mmcv'),
    'mmdet': ('mmdet', 'onedl-mmdetection'),
    'mmseg': ('mmsegmentation', 'onedl-mmsegmentation'),
    'mmpretrain': ('mmpretrain', 'onedl-mmpretrain'),
}


def installed(distribution: str) -> str | None:
    """Return the version of a distribution, if it is installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def version_problems() -> list[str]:
    """Return one sentence for each known problem of this environment."""
    problems = []
    for name, lowest in _LOWEST.items():
        found = installed(name)
        if found and digit_version(found) < digit_version(lowest):
            problems.append(
                f'{name} {found} is older than {lowest}, the oldest version '
                f'mmlowrank is written for. Upgrade {name} if something fails.'
            )
    for name, twins in TWINS.items():
        both = [twin for twin in twins if installed(twin)]
        if len(both) == 2:
            problems.append(
                f'{both[0]} and {both[1]} are both installed and own the '
                f'same files of "{name}". Run: pip uninstall -y {both[0]} '
                f'{both[1]}, then install one of them.'
            )
    return problems


def _capabilities() -> list[tuple[int, int]]:
    """Ask NVML for the cards' compute capabilities.

    Asking torch would initialise CUDA, and processes forked after that, by
    whoever imports mmlowrank, could not use it.
    """
    try:
        nvml = ctypes.CDLL('libnvidia-ml.so.1')
    except OSError:
        return []
    count, major, minor = (ctypes.c_int() for _ in range(3))
    card = ctypes.c_void_p()
    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
        return []
    visible = os.environ.get('CUDA_VISIBLE_DEVICES', '').split(',')
    found = []
    for index in range(count.value):
        # Names of other forms say nothing about an index: all cards count.
        hidden = visible[0].isdigit() and str(index) not in visible
        if not (
            hidden
            or nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(card))
            or nvml.nvmlDeviceGetCudaComputeCapability(
                card, ctypes.byref(major), ctypes.byref(minor)
            )
        ):
            found.append((major.value, minor.value))
    return found


def _has_kernels(card: tuple[int, int], built_for: list[str]) -> bool:
    """Whether a build with ``['sm_75', 'compute_120', ...]`` runs on it."""
    for architecture in built_for:
        kind, _, digits = architecture.rstrip('af').partition('_')
        built = int(digits[:-1]), int(digits[-1])
        # Machine code runs on later cards of its major version, PTX on all.
        if built <= card and (kind == 'compute' or built[0] == card[0]):
            return True
    return False


def card_problems() -> list[str]:
    """Return one sentence for each card that this torch has no kernels for."""
    built_for = torch.cuda.get_arch_list()
    if not built_for:  # no card that torch could use, or a build for CPUs
        return []
    lacking = {
        card for card in _capabilities() if not _has_kernels(card, built_for)
    }
    return [
        f'torch {torch.__version__} has no kernels for a card of this machine '
        f'(compute capability {major}.{minor}; it has {" ".join(built_for)}). '
        'Install a build that has, as tools/setup_env.sh does.'
        for major, minor in sorted(lacking)
    ]


def warn_about_environment() -> None:
    """Warn once for each problem of the versions and of the cards."""
    for problem in version_problems() + card_problems():
        warnings.warn(problem, stacklevel=3)
