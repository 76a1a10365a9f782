"""Build mmcv with its compiled ops, once, into a folder that is kept.

The folder is named by all that a binary depends on: the caches of pip and uv
know the version of mmcv only, and would hand out ops of another torch.
"""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import choose_torch

# Stopped, this script stops the compilers too.
LEASH = Path(__file__).resolve().parents[2] / 'mmlowrank/engine/leash.py'

KEY = """
import sys, torch
cuda = torch.version.cuda if torch.cuda.is_available() else None
device = 'cu' + cuda if cuda else 'cpu'
version = torch.__version__.split('+')[0]
print('ops-O2-cp%d%d-' % sys.version_info[:2] + f'torch{version}-{device}')
"""
INCLUDES = """
from torch.utils.cpp_extension import include_paths
print(*include_paths(), sep='\\n', end='')
"""


def lacking(cache: Path) -> str | None:
    """Return what this machine lacks to compile; nothing if a wheel is kept.

    Args:
        cache: Where the wheel will be.
    """
    if any(cache.glob('mmcv*-ops-*/*.whl')):
        return None
    if not shutil.which(os.environ.get('CXX', 'c++')):
        return (
            'No C++ compiler found to build the mmcv ops. On Debian or '
            'Ubuntu: apt-get install build-essential.'
        )
    header = Path(sysconfig.get_path('include'), 'Python.h')
    if not header.is_file():
        return (
            f'The Python headers are missing ({header}). On Debian or '
            'Ubuntu: apt-get install python3-dev.'
        )
    if choose_torch.capabilities() and not nvcc():
        return (
            "There is a GPU but no nvcc to compile mmcv's ops for it. "
            'Install the CUDA toolkit and set CUDA_HOME.'
        )
    return None


def nvcc() -> str | None:
    """Return the compiler of CUDA."""
    home = os.environ.get('CUDA_HOME', '/usr/local/cuda')
    return shutil.which('nvcc') or shutil.which('nvcc', path=f'{home}/bin')


def wheels(folder: Path) -> Iterator[Path]:
    """Yield the wheels in ``folder`` that are whole and have ops."""
    for path in folder.glob('*.whl'):
        try:
            with zipfile.ZipFile(path) as wheel:
                whole = wheel.testzip() is None
                ops = any('mmcv/_ext.' in n for n in wheel.namelist())
        except zipfile.BadZipFile:
            continue
        if whole and ops:
            yield path


def build(python: Path, version: str, cache: Path) -> Path:
    """Return the wheel of mmcv with ops, building it if it is not there.

    Args:
        python: Of the environment with the torch that it is for.
        version: Of mmcv.
        cache: Where wheels are kept.

    Raises:
        RuntimeError: If it cannot be built, naming the log.
    """
    key = _ask(python, KEY).strip()
    folder = cache / f'mmcv{version}-{key}'
    found = next(wheels(folder), None)
    if found:
        print(f'[setup]     found {found}')
        return found
    print(f'[setup]     compiling, kept in {folder}', flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / 'build.log'
    # A folder of its own, then a rename: a killed build leaves no half wheel.
    with tempfile.TemporaryDirectory(dir=folder) as place:
        start = time.monotonic()
        with log.open('w') as out:
            _compile(python, version, Path(place), out)
        found = next(wheels(Path(place)), None)
        if not found:
            lines = log.read_text(errors='replace').splitlines()
            print(*lines[-30:], sep='\n', file=sys.stderr)
            raise RuntimeError(
                f'mmcv could not be built with ops; the whole log is {log}'
            )
        print(f'[setup]     built in {time.monotonic() - start:.0f} s')
        return found.rename(folder / found.name)


def _ask(python: Path, code: str) -> str:
    return subprocess.run(
        [str(python), '-c', code],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


def _compile(python: Path, version: str, place: Path, log: TextIO) -> None:
    """Run pip in the folder ``place``, with a line of progress at times."""
    # CFLAGS replaces Python's own flags, so it must ask for optimised code.
    # -g0: debug symbols double the time and nobody steps into the ops.
    flags = ['-O2', '-DNDEBUG', '-g0']
    flags += shlex.split(os.environ.get('CFLAGS', ''))
    # Each of the 78 files reads all headers of PyTorch: read once, compile in
    # a third of the time. Where its flags do not fit, GCC reads the text.
    header = place / 'torch_types.h'
    header.write_text('#include <torch/types.h>\n')
    words = [os.environ.get('CXX', 'c++'), *flags, '-fPIC', '-std=c++17']
    words += [f'-isystem{path}' for path in _ask(python, INCLUDES).split('\n')]
    words += ['-x', 'c++-header', str(header)]
    subprocess.run(words, stdout=log, stderr=log)
    settings = {
        'CFLAGS': shlex.join([*flags, '-include', str(header)]),
        'MMCV_WITH_OPS': '1',
        # Where torch looks for the ninja that is installed there.
        'PATH': f'{python.parent}{os.pathsep}{os.environ["PATH"]}',
    }
    words = [str(python), '-m', 'pip', 'wheel', '-v', '-w', str(place)]
    words += ['--no-deps', '--no-cache-dir', '--no-build-isolation']
    words += ['--no-binary', 'onedl-mmcv', f'onedl-mmcv=={version}']
    process = subprocess.Popen(
        [sys.executable, '-I', str(LEASH), *words],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        env={**os.environ, **settings},
        start_new_session=True,
    )
    moving = sys.stdout.isatty()
    start = time.monotonic()
    with process:
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5 if moving else 60)
            text = Path(log.name).read_text(errors='replace')
            done = re.findall(r'^ *\[(\d+/\d+)\]', text, re.M)
            print(
                f'[setup]     {time.monotonic() - start:4.0f} s ',
                done[-1] if done else 'preparing',
                end='\r' if moving else '\n',
                flush=True,
            )
