"""Packaging of mmlowrank; dependencies are read from requirements/."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def requirements(name: str) -> list[str]:
    """Return the requirement lines of ``requirements/<name>.txt``."""
    text = (ROOT / 'requirements' / f'{name}.txt').read_text()
    lines = (line.split('#')[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def version() -> str:
    """Read the version without importing the package (and torch)."""
    scope: dict = {}
    exec((ROOT / 'mmlowrank' / 'version.py').read_text(), scope)
    return scope['__version__']


setup(
    name='mmlowrank',
    version=version(),
    description='Low-rank tuning of OpenMMLab detectors, segmentors and '
    'classifiers: LoRand, E3VA, LORS and RLRR',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['mmlowrank', 'mmlowrank.*']),
    install_requires=requirements('runtime'),
    extras_require={
        'mmlab': requirements('mmlab'),
        'tests': requirements('tests'),
    },
)
