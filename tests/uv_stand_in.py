"""Stands in for uv: links packages of this environment into another.

uv_stand_in.py --version
uv_stand_in.py --directory DIR pip install ... [FILE | NAME==VERSION | -e DIR]
uv_stand_in.py --directory DIR pip uninstall NAME ...

So the set-up is run without a network, in seconds, and what it makes works.
Writes each call into the file UV_CALLS. UV_KILLS is the number of the call
that kills the set-up, before anything is linked.
"""

import json
import os
import re
import signal
import site
import sys
import time
from importlib.metadata import distribution, distributions
from pathlib import Path

HERE = Path(site.getsitepackages()[0])
SETTINGS = ('UV_CACHE_DIR', 'UV_DEFAULT_INDEX', 'SSL_CERT_FILE')


def link(name: str) -> None:
    """Link what a distribution has at the top, compiled ops left out."""
    (there,) = Path(os.environ['VIRTUAL_ENV']).glob('lib/*/site-packages')
    tops = {file.parts[0] for file in distribution(name).files or ()}
    for top in tops - {'..', '__pycache__', 'mmcv'}:
        (there / top).unlink(missing_ok=True)
        (there / top).symlink_to(HERE / top)
    if 'mmcv' in tops:
        (there / 'mmcv').mkdir(exist_ok=True)
        for path in (HERE / 'mmcv').iterdir():
            if not path.name.startswith('_ext.'):
                (there / 'mmcv' / path.name).unlink(missing_ok=True)
                (there / 'mmcv' / path.name).symlink_to(path)


def plain(name: str) -> str:
    """Return the name as a lock file writes it."""
    return re.sub(r'[-_.]+', '-', name).lower()


def main() -> None:
    """Answer as uv would."""
    if sys.argv[1:] == ['--version']:
        print('uv 999.0.0 (stand-in)')
        return
    option, _, pip, verb, *words = sys.argv[1:]
    assert (option, pip) == ('--directory', 'pip')
    settings = {name: os.environ.get(name) for name in SETTINGS}
    calls = Path(os.environ['UV_CALLS'])
    with calls.open('a') as file:
        print(json.dumps([time.time(), verb, words, settings]), file=file)
    if len(calls.read_text().splitlines()) == int(os.environ['UV_KILLS']):
        os.kill(os.getppid(), signal.SIGKILL)
        sys.exit(1)
    if verb == 'uninstall':
        return
    here = {plain(dist.metadata['Name']) for dist in distributions()}
    if '-r' in words:
        lock = Path(words[words.index('-r') + 1]).read_text()
        names = re.findall(r'^([\w.-]+)==', lock, re.MULTILINE)
    elif '-e' in words:
        names = ['mmlowrank']
    else:
        names = [w.partition('==')[0] for w in words if '==' in w]
    for name in here.intersection(names) - {'pip', 'setuptools'}:
        link(name)


if __name__ == '__main__':
    main()
