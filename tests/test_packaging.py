"""A source distribution has what setup.py and users need."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What is packed; anything else may be large.
PARTS = ('configs', 'mmlowrank', 'requirements', 'tools')
FILES = ('LICENSE', 'MANIFEST.in', 'README.md', 'model-index.yml')
FILES += ('pyproject.toml', 'setup.py')


def test_a_source_distribution_is_whole(tmp_path):
    copy = tmp_path / 'copy'
    ignore = shutil.ignore_patterns('__pycache__', '*.egg-info')
    for part in PARTS:
        shutil.copytree(ROOT / part, copy / part, ignore=ignore)
    for name in FILES:
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, 'setup.py', '-q', 'sdist', '-d', tmp_path]
    subprocess.run(command, cwd=copy, check=True)
    (path,) = tmp_path.glob('*.tar.gz')
    with tarfile.open(path) as archive:
        packed = {name.partition('/')[2] for name in archive.getnames()}
    wanted = [*FILES]
    for part in PARTS:
        wanted += [
            str(path.relative_to(copy))
            for path in (copy / part).rglob('*')
            if path.is_file()
        ]
    assert len(wanted) > 400
    assert not set(wanted) - packed
    # setup.py reads the requirements: it runs from what was unpacked.
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path / 'out', filter='data')
    (out,) = (tmp_path / 'out').iterdir()
    command = [sys.executable, 'setup.py', '--version']
    done = subprocess.run(
        command, cwd=out, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip().splitlines()[-1] in path.name
