"""Make the environment that tools/setup_env.sh describes.

Needs a Python and no other program. Killed in any step? The next run does
what is missing: the stamp goes before anything is changed, and comes last.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from ast import literal_eval
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import NoReturn

import build_mmcv
import choose_torch

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / 'requirements' / 'lock.txt'
PEFT = ROOT / 'requirements' / 'peft.txt'
CHECK = Path(__file__).with_name('check_ops.py')
GIB = 2**30
# What a build of torch for other cards has in versions of its own.
OF_TORCH = ('torch==', 'torchvision==', 'nvidia-', 'cuda-')
# Settings of pip without which nothing can be downloaded, and uv's names.
PIP_TO_UV = {
    'index-url': 'UV_DEFAULT_INDEX',
    'trusted-host': 'UV_INSECURE_HOST',
    'cert': 'SSL_CERT_FILE',
    'proxy': 'HTTPS_PROXY',
}


def say(text: str) -> None:
    """Print a line of the set-up."""
    print(f'[setup] {text}', flush=True)


def die(*sentences: str) -> NoReturn:
    """End, saying what to change."""
    sys.exit('[setup] ' + ' '.join(filter(None, sentences)))


def output(*words: object) -> str:
    """Return what a command prints."""
    return subprocess.run(
        [str(word) for word in words], stdout=subprocess.PIPE, text=True
    ).stdout


def pinned(name: str) -> str:
    """Return the version of a package that does not depend on the Python."""
    return re.search(rf'^{name}==(\S+)', LOCK.read_text(), re.M)[1]


def existing(path: Path) -> Path:
    """Return the folder that ``path`` is or will be in."""
    return path if path.is_dir() else existing(path.parent)


def free(path: Path) -> int:
    """Return the free bytes of the disk that ``path`` is or will be on."""
    return shutil.disk_usage(existing(path)).free


def cache_home() -> Path | None:
    """Return ~/.cache; nothing where there is no home or none to write to."""
    try:
        home = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
        Path(home).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            return Path(home)
    except (OSError, RuntimeError):
        return None


def options_of_pip(config: str) -> dict[str, str]:
    """Translate what ``pip config list`` printed for uv, which reads none."""
    found = {}
    # In files, each stronger than those before, then in the environment.
    lines = config.splitlines()
    for line in sorted(lines, key=lambda line: line.startswith(':env:')):
        match = re.match(r"(?:global|install|:env:)\.([a-z-]+)=('.*')$", line)
        if match and match[1] in PIP_TO_UV:
            found[PIP_TO_UV[match[1]]] = literal_eval(match[2])
    return found


class Environment:
    """A virtual environment.

    Args:
        folder: Where it is or shall be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / 'bin' / 'python'
        self.lock = folder / '.setup.lock'
        # The last thing that is written, and the first that goes.
        self.stamp = folder / '.mmlowrank_ready'
        # Whether it was begun by this script, or is nothing yet.
        self.ours = (
            self.lock.exists()
            or self.stamp.exists()
            or not folder.is_dir()
            or not any(folder.iterdir())
        )
        home = cache_home()
        # On one disk, files of the cache are shared; and a quota of a home
        # is often less than a torch.
        shared = home and home.stat().st_dev == existing(folder).stat().st_dev
        self.uv_cache = home / 'uv' if shared else folder / '.cache' / 'uv'
        named = os.environ.get('MMLOWRANK_CACHE')
        kept = Path(named) if named else (home or folder / '.cache')
        self.wheels = kept if named else kept / 'mmlowrank'

    def packages(self) -> list[str]:
        """Return its site-packages, if it has one."""
        return [str(p) for p in self.folder.glob('lib/python*/site-packages')]

    def version(self, name: str) -> str | None:
        """Return the version of an installed package."""
        found = distributions(name=name, path=self.packages())
        return next((dist.version for dist in found), None)

    def ops(self) -> str | None:
        """Return 'compile' or 'none', and nothing where mmcv is not."""
        for packages in map(Path, self.packages()):
            if (packages / 'mmcv').is_dir():
                compiled = any(packages.glob('mmcv/_ext.*'))
                return 'compile' if compiled else 'none'
        return None

    def runs(self, *words: object) -> bool:
        """Whether its Python does this without an error."""
        try:
            done = subprocess.run(
                [str(word) for word in (self.python, *words)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except OSError:
            return False
        return done.returncode == 0

    def stamped(self) -> list[str]:
        """Return what it was ready for, if it was."""
        return (
            self.stamp.read_text().split('\n') if self.stamp.exists() else []
        )

    def is_ready(self, wanted: list[str]) -> bool:
        """Whether it is ready for this, and runs."""
        if self.stamped() != wanted:
            return False
        ops = wanted[0]
        if self.runs(CHECK, ops):
            say(f'{self.folder} is ready (mmcv ops: {ops}).')
            return True
        say(f'{self.folder} is marked ready but does not run: repairing.')
        return False

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other set-up works here."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = self.lock.open('w')
        except OSError as error:
            die(
                f'{self.folder} cannot be written ({error.strerror}).',
                'Pass another place: bash tools/setup_env.sh FOLDER',
            )
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f'waiting for another set-up of {self.folder}')
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def call(self, step: str, *words: object, **settings: str) -> None:
        """Run a command of a step; end with a sentence if it fails."""
        done = subprocess.run(
            [str(word) for word in words], env={**os.environ, **settings}
        )
        if done.returncode:
            full = free(self.folder) < GIB / 2
            die(
                f'{step} failed; the reason is above.',
                f'The disk of {self.folder} is full.' if full else '',
                'Then run this script again: it goes on from here.',
            )

    def make(self) -> None:
        """Create it; create anew what was left half done, moved or dead."""
        moved = self.stamped()[-1:] not in ([], [str(self.folder)])
        if self.runs('-c', 'import pip._internal.cli.main') and not moved:
            return
        if not self.ours:
            die(
                f'{self.folder} is not empty, and no environment with a pip',
                'that runs. Pass another: bash tools/setup_env.sh FOLDER',
            )
        version = sys.version.split()[0]
        say(f'1/5 environment in {self.folder} (Python {version})')
        # Not the lock, which is held, nor the cache.
        for name in ('bin', 'include', 'lib'):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self.call('venv', sys.executable, '-m', 'venv', self.folder)

    def uv(self) -> str:
        """Return the uv on PATH if it is new enough, else our own."""
        found = shutil.which('uv')
        wanted = pinned('uv')
        if found:
            said = output(found, '--version')
            numbers = re.findall(r'\d+', said)[:3]
            if list(map(int, numbers)) >= list(map(int, wanted.split('.'))):
                return found
        if self.version('uv') != wanted:
            pip = [self.python, '-m', 'pip', '--disable-pip-version-check']
            self.call('pip', *pip, 'install', '-qq', f'uv=={wanted}')
        return str(self.folder / 'bin' / 'uv')

    def pip(self, step: str, *words: object) -> None:
        """Run `uv pip` as pip is set up here."""
        settings = {
            'UV_CACHE_DIR': str(self.uv_cache),
            # The first byte of a large wheel may take longer than 30 s.
            'UV_HTTP_TIMEOUT': '180',
            **options_of_pip(
                output(self.python, '-m', 'pip', 'config', 'list')
            ),
        }
        for name in settings:
            settings[name] = os.environ.get(name, settings[name])
        settings['VIRTUAL_ENV'] = str(self.folder)
        # What a project file of the folder we are in says is not for us.
        words = [self.uv(), '--directory', ROOT, 'pip', *words]
        self.call(step, *words, **settings)

    def install(self, torch: choose_torch.Build) -> None:
        """Install the locked packages, torch in the build for the cards."""
        say('2/5 the packages of requirements/lock.txt (3 GB the first time)')
        # Both own cv2, and this one needs libGL, which servers lack.
        if self.version('opencv-python'):
            twins = ('opencv-python', 'opencv-python-headless')
            self.pip('uninstalling opencv-python', 'uninstall', *twins)
        found = self.version('torch') or ''
        if found and found.partition('+')[2] != torch.label:
            twins = ('torch', 'torchvision')
            self.pip(f'uninstalling torch {found}', 'uninstall', *twins)
        # The lock has all that is needed, and opencv-python is not in it.
        words = ['install', '--no-deps', '-r']
        if not torch.label:
            self.pip('the installation', *words, LOCK)
            return
        with tempfile.TemporaryDirectory() as folder:
            # Requirements begin lines, their hashes are set in.
            parts = re.split(r'^(?=\S)', LOCK.read_text(), flags=re.M)
            rest = Path(folder, 'rest.txt')
            rest.write_text(
                ''.join(p for p in parts if not p.startswith(OF_TORCH))
            )
            self.pip('the installation', *words, rest)
        self.pip(
            f'installing torch for CUDA {torch.cuda}',
            'install',
            f'--torch-backend={torch.label}',
            *torch.requirements(pinned('torch'), pinned('torchvision')),
        )

    def install_peft(self) -> None:
        """Install what one test needs, out of sight of all else."""
        # Files of an older version would stay.
        target = self.folder / 'peft'
        shutil.rmtree(target, ignore_errors=True)
        words = ['install', '--no-deps', '--target', target, '-r', PEFT]
        self.pip('installing peft', *words)

    def has_ops(self, ops: str) -> bool:
        """Whether mmcv is as asked for, and runs with this torch."""
        nms = (
            'import torch; from mmcv.ops import nms; '
            'nms(torch.ones(1, 4), torch.ones(1), iou_threshold=.5)'
        )
        return (
            self.version('onedl-mmcv') == pinned('onedl-mmcv')
            and self.ops() == ops
            and (ops == 'none' or self.runs('-c', nms))
        )

    def install_ops(self, ops: str) -> None:
        """Put mmcv with or without compiled ops in the place of the other."""
        version = pinned('onedl-mmcv')
        say(f'3/5 mmcv {version} (ops: {ops})')
        if self.has_ops(ops):
            return
        # The version is the same, so no installer sees a difference.
        words = ['install', '--no-deps', '--reinstall-package', 'onedl-mmcv']
        if ops == 'compile':
            try:
                wheel = build_mmcv.build(self.python, version, self.wheels)
            except RuntimeError as error:
                die(str(error))
            self.pip('mmcv', *words, wheel)
        else:
            # Not from the cache, where somebody's compiled one may be.
            self.pip('mmcv', *words, '--no-cache', f'onedl-mmcv=={version}')


def main() -> None:
    """Make it."""
    default = [str(ROOT / '.venv')]
    folder = Path(os.path.abspath((sys.argv[1:] or default)[0]))  # noqa: PTH100
    named = os.environ.get('MMCV_OPS')
    if named not in (None, '', 'compile', 'none'):
        die(f'MMCV_OPS is "compile" or "none", got "{named}".')
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        die(
            f'{sys.executable} cannot make virtual environments. On Debian or',
            'Ubuntu: apt-get install python3-venv',
        )
    try:
        torch = choose_torch.choose()
    except ValueError as error:
        die('No torch was chosen.', str(error))
    environment = Environment(folder)
    ops = named or environment.ops() or 'none'
    files = [LOCK, PEFT, ROOT / 'setup.py', ROOT / 'pyproject.toml']
    text = b''.join(file.read_bytes() for file in files)
    digest = hashlib.sha256(text).hexdigest()
    wanted = [ops, torch.label, digest, str(ROOT), str(folder)]
    if environment.is_ready(wanted):
        return

    # What is missing is said before anything is downloaded.
    need = 2 if environment.packages() else 10
    if free(folder) < need * GIB:
        die(
            f'Only {free(folder) / GIB:.1f} GiB free for {folder}, {need} are',
            'needed. Free some, or pass another place:',
            'bash tools/setup_env.sh /big/disk/venv',
        )
    if ops == 'compile' and not environment.has_ops(ops):
        lacking = build_mmcv.lacking(environment.wheels)
        if lacking:
            die(lacking, "Or leave MMCV_OPS out and use torchvision's ops.")
        if free(environment.wheels) < 2 * GIB:
            die(
                f'Less than 2 GiB free for {environment.wheels}. Set',
                'MMLOWRANK_CACHE to a folder of a larger disk.',
            )

    with environment.alone():
        if environment.is_ready(wanted):  # another set-up has done it
            return
        environment.make()
        environment.stamp.unlink(missing_ok=True)
        environment.install(torch)
        environment.install_peft()
        environment.install_ops(ops)
        say('4/5 mmlowrank itself')
        words = ['install', '--no-deps', '-e', ROOT]
        environment.pip('installing mmlowrank', *words)
        say('5/5 calling nms, RoIAlign, and a kernel on each card')
        environment.call('the check', environment.python, CHECK, ops)
        environment.stamp.write_text('\n'.join(wanted))
    activate = shlex.quote(str(folder / 'bin' / 'activate'))
    say(f'ready. Use it with: source {activate}')


if __name__ == '__main__':
    main()
