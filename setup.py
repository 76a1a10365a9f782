"""The one part of the packaging that pyproject.toml cannot say."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

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


setup(cmdclass={'build_py': BuildWithPth})
