"""Packaging of mmlowrank; dependencies are read from requirements/."""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# What Python runs when it starts: nothing is imported before somebody imports
# mmcv._ext and no finder has it. Then mmlowrank answers (mmlowrank/ops).
# Without mmlowrank, say where the clone of an editable install is gone, the
# answer is None, as if this were not there.
PTH = (
    "import sys; sys.meta_path.append(type('MmlowrankOps', (), dict("
    'find_spec=staticmethod(lambda name, path=None, target=None: '
    "__import__('mmlowrank.ops', fromlist=['ops']).find_spec(name) "
    "if name == 'mmcv._ext' and "
    "__import__('importlib.util', fromlist=['util']).find_spec('mmlowrank') "
    'else None))))\n'
)


class BuildWithPth(build_py):
    """Puts ``mmlowrank_ops.pth`` beside the package, into site-packages.

    It is a file of the wheel, also of the wheel that an editable install
    makes, so pip lists it as ours and removes it with us.
    """

    def run(self) -> None:
        super().run()
        # An editable wheel leaves the build folder out. What is not of the
        # package itself goes where `install` would put it: into the wheel.
        install = self.get_finalized_command('install')
        top = install.install_lib if self.editable_mode else self.build_lib
        path = Path(top, 'mmlowrank_ops.pth')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PTH)


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
    cmdclass={'build_py': BuildWithPth},
    packages=find_packages(include=['mmlowrank', 'mmlowrank.*']),
    install_requires=requirements('runtime'),
    extras_require={
        'mmlab': requirements('mmlab'),
        'tests': requirements('tests'),
    },
)
