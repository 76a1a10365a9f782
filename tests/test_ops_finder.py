"""Where the stand-ins for mmcv's compiled ops come from, and when."""

import ast
import importlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from mmcv import ops as mmcv_ops
from ops_modules import EXT, needs_compiled, stand_in

from mmlowrank import ops
from mmlowrank.ops import finder
from mmlowrank.ops.stand_ins import STAND_INS

ROOT = Path(__file__).resolve().parents[1]
PTH = 'mmlowrank_ops.pth'
BUILD = """
from setuptools import build_meta
build_meta.build_wheel('wheel')
build_meta.build_editable('editable')
"""
# Losses of the first step with mmcv's own ops, compiled on one CPU.
FIRST_LOSSES = {
    'Mask R-CNN': 4.40903,
    'Cascade Mask R-CNN': 6.47015,
    'Faster R-CNN': 3.44899,
    'RetinaNet': 2.11664,
    'AdaMixer + LORS': 23.54102,
}


def python(*words, **options):
    """Run Python, return what it prints."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope='session')
def wheels(tmp_path_factory):
    """A folder with the wheel and the editable wheel."""
    folder = tmp_path_factory.mktemp('build')
    for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, folder)
    for name in ('requirements', 'mmlowrank'):
        shutil.copytree(ROOT / name, folder / name)
    python('-c', BUILD, cwd=folder)
    return folder


@pytest.fixture(scope='session')
def site(wheels):
    """A folder with the .pth file, as site-packages would have it."""
    with zipfile.ZipFile(*(wheels / 'wheel').glob('*.whl')) as wheel:
        wheel.extract(PTH, wheels / 'site')
    return wheels / 'site'


@pytest.mark.parametrize('kind', ['wheel', 'editable'])
def test_wheels_install_the_pth_file_and_know_it(wheels, kind):
    with zipfile.ZipFile(*(wheels / kind).glob('*.whl')) as wheel:
        (record,) = (n for n in wheel.namelist() if n.endswith('/RECORD'))
        # At the top, so in site-packages; listed, so pip removes it.
        assert PTH in wheel.namelist()
        assert f'\n{PTH},' in '\n' + wheel.read(record).decode()
        (line,) = wheel.read(PTH).decode().splitlines()
        assert line.startswith('import sys; ')


FAKES = """
import site, sys
before = set(sys.modules)
site.addsitedir({site!r})
assert set(sys.modules) == before, set(sys.modules) - before
sys.path.insert(0, {fakes!r})
import mmcv
try:
    import mmcv._ext
except ImportError as error:
    print(error)
else:
    print(mmcv._ext.ops)
assert 'mmlowrank' not in sys.modules
"""


@pytest.mark.parametrize(
    'ext, printed',
    [
        ("ops = 'compiled'", 'compiled'),
        ("raise ImportError('undefined symbol')", 'undefined symbol'),
        # No mmlowrank is on the path of this Python: as if removed.
        (None, "No module named 'mmcv._ext'"),
    ],
)
def test_a_module_that_is_there_is_left_alone(site, tmp_path, ext, printed):
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv' / '__init__.py').touch()
    if ext:
        (tmp_path / 'mmcv' / '_ext.py').write_text(ext)
    code = FAKES.format(site=str(site), fakes=str(tmp_path))
    # Without site-packages: also, nothing is imported when Python starts.
    assert python('-I', '-S', '-c', code).strip() == printed


def test_the_finder_is_the_last_one_and_there_once():
    ops.install()
    assert sys.meta_path.count(finder.StandInFinder) == 1
    assert finder.find_spec('mmcv.ops') is None
    ours = sys.meta_path.index(finder.StandInFinder)
    assert ours > sys.meta_path.index(importlib.machinery.PathFinder)
    # Python calls methods of all finders here.
    importlib.invalidate_caches()


@pytest.mark.parametrize('rank, lines', [(None, 1), ('0', 1), ('1', 0)])
def test_one_line_says_which_ops_are_in_use(monkeypatch, caplog, rank, lines):
    if rank:
        monkeypatch.setenv('RANK', rank)
    assert ('torchvision' in ops.in_use()) != ops.compiled()
    stand_in()
    assert not caplog.records  # not imported as mmcv._ext
    with monkeypatch.context() as patch:
        patch.setattr(sys, 'meta_path', [finder.StandInFinder])
        patch.delitem(sys.modules, 'mmcv._ext')
        for _ in range(2):
            importlib.import_module('mmcv._ext')
        said = ops.in_use()
    assert [record.message for record in caplog.records] == [said] * lines


def asked_for():
    """Yield the names that mmcv wants of its compiled module."""
    for path in Path(mmcv_ops.__file__).parent.glob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and 'load_ext' in ast.dump(
                node.func
            ):
                yield from ast.literal_eval(node.args[1])


def test_every_name_is_there_and_what_cannot_be_done_says_so():
    names, module = set(asked_for()), stand_in()
    assert len(names) > 100
    done = {op.__name__ for op in STAND_INS}
    done |= {'get_compiler_version', 'get_compiling_cuda_version'}
    assert done < names
    for name in names - done:
        with pytest.raises(
            NotImplementedError,
            match=f'^mmcv._ext.{name} needs .*MMCV_OPS=compile bash tools',
        ):
            getattr(module, name)(torch.ones(2), size=3)
    assert not hasattr(module, '__path__')


def test_versions_say_that_nothing_is_compiled():
    assert stand_in().get_compiling_cuda_version() == 'not available'
    assert 'not compiled' in stand_in().get_compiler_version()
    assert ops.compiled() == EXT.__spec__.origin.endswith(('.so', '.pyd'))


def test_measuring_says_what_it_compared(tool, tmp_path):
    sizes = '--rois', 4, '--boxes', 30, '--channels', 2, '--repeats', 1
    words = ()
    if ops.compiled():
        words = '--compiled-at', Path(EXT.__file__).parents[1]
    lines = tool('measure_ops.py', *sizes, *words)
    assert 'RoIAlign of 4, backward' in lines and 'nms of 30' in lines
    assert lines.count('  ratio') == ops.compiled()
    assert ops.compiled() or 'No ratios' in lines
    assert 'differ' not in lines
    with pytest.raises(SystemExit, match='no compiled ops in'):
        tool('measure_ops.py', '--compiled-at', tmp_path)


def trained(site, *words):
    """Return what the worker prints: losses of each detector and step."""
    path = os.pathsep.join([str(ROOT), str(ROOT / 'tests')])
    out = python(
        ROOT / 'tests' / 'ops_worker.py',
        site,
        *words,
        env=dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS='1'),
    )
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope='module')
def without(site):
    """Training without compiled ops; mmdet is imported first."""
    return trained(site, '--hide')


def test_mmdet_comes_first_and_finds_the_stand_ins(without):
    assert without['origin'] == 'mmlowrank.ops'
    assert not without['early']


@pytest.mark.parametrize('name', FIRST_LOSSES)
def test_detectors_train_without_compiled_ops(without, name):
    *steps, found = without['rows'][name]
    # Another machine multiplies matrices in another order, and a score may
    # then take another place: a per mille of the sum of losses.
    assert steps[0]['loss'] == pytest.approx(FIRST_LOSSES[name], rel=1e-3)
    assert steps[-1]['loss'] < steps[0]['loss']
    assert all(step['gradient'] > 0 for step in steps)
    assert set(found) == {'bboxes 0', 'scores 0', 'bboxes 1', 'scores 1'}


@needs_compiled
def test_detectors_train_as_with_compiled_ops(without, site):
    compiled = trained(site)
    assert compiled['origin'].endswith(('.so', '.pyd'))
    # To the bit: losses, norms of gradients, and what is found afterwards.
    assert compiled['rows'] == without['rows']
