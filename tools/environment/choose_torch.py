"""Print what pip shall install for the cards of this machine.

python tools/environment/choose_torch.py TORCH TORCHVISION    their versions

No build of torch has kernels for all cards: the default one of 2.11 (CUDA
13.0) has none for a V100. Reads the cards with nvidia-smi; COMPUTE_CAP in the
environment names them instead ("7.0", "7.0 8.0"), where a machine without
cards prepares an environment for others. Needs nothing but Python.
"""

import os
import re
import subprocess
import sys
from typing import NamedTuple

INDEX = 'https://download.pytorch.org/whl'
# A query that hangs says less than no answer.
_SECONDS = 60
_NUMBER = re.compile(r'\d+(\.\d+)?')


class Build(NamedTuple):
    """A build of torch 2.8 to 2.14.

    Attributes:
        label: Of its version and index; empty for the one on PyPI.
        cuda: Its CUDA.
        lowest, highest: Compute capabilities that it has kernels for.
        driver: The oldest major version of the driver that runs it.
    """

    label: str
    cuda: str
    lowest: float
    highest: float
    driver: int

    def fits(self, cards: list[float], driver: int | None) -> bool:
        """Whether it runs on all cards."""
        return (driver is None or driver >= self.driver) and all(
            self.lowest <= card <= self.highest for card in cards
        )

    def requirements(self, torch: str, torchvision: str) -> list[str]:
        """Return what is to be installed, given the two versions."""
        local = f'+{self.label}' if self.label else ''
        return [f'torch=={torch}{local}', f'torchvision=={torchvision}{local}']


# In the order of preference. 2.15 of torch will have no CUDA 12.6 any more.
BUILDS = (
    Build('', '13.0', 7.5, 12.9, 580),
    Build('cu126', '12.6', 5.0, 9.0, 525),
)


def query(what: str) -> list[str]:
    """Ask nvidia-smi; nothing where there is none, or no card."""
    command = ['nvidia-smi', f'--query-gpu={what}', '--format=csv,noheader']
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split() if done.returncode == 0 else []


def capabilities() -> list[float]:
    """Return those of the cards here; what is no number says there is none."""
    return [
        float(word) for word in query('compute_cap') if _NUMBER.fullmatch(word)
    ]


def choose() -> Build:
    """Return the build for the cards here, or for those in COMPUTE_CAP.

    Raises:
        ValueError: If there is none for all of them, or for the driver, or
            COMPUTE_CAP has other things than numbers.
    """
    named = os.environ.get('COMPUTE_CAP')
    driver = None
    if named:
        words = re.split(r'[\s,;]+', named.strip())
        if not all(_NUMBER.fullmatch(word) for word in words):
            raise ValueError(
                f'COMPUTE_CAP={named} is no list of numbers like "7.0 8.0"'
            )
        cards = [float(word) for word in words]
    else:
        cards = capabilities()
        drivers = query('driver_version') if cards else []
        driver = min((int(d.split('.')[0]) for d in drivers), default=None)
    for build in BUILDS:
        if build.fits(cards, driver):
            return build
    known = '; '.join(
        f'CUDA {b.cuda}: {b.lowest} to {b.highest}, driver {b.driver} or newer'
        for b in BUILDS
    )
    raise ValueError(
        f'No build of torch has kernels for all cards here (compute '
        f'capabilities {sorted(set(cards))}, driver {driver}). There are: '
        f'{known}. Update the driver, or set COMPUTE_CAP to the capabilities '
        'of the cards that you will use'
    )


def main() -> None:
    """Print the arguments of pip."""
    torch, torchvision = sys.argv[1:]
    try:
        build = choose()
    except ValueError as error:
        sys.exit(str(error))
    print(*build.requirements(torch, torchvision))
    if build.label:
        print(f'--extra-index-url={INDEX}/{build.label}')


if __name__ == '__main__':
    main()
