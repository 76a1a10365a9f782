"""What is packed, and what finds it: pip, mim and mmengine.

`.ci/check_wheel` installs the wheel into an environment of its own and trains
from it.
"""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import mmengine.hub
import pytest
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import is_installed

import mmlowrank
from mmlowrank import config_packages

ROOT = Path(__file__).resolve().parents[1]
# What is packed; anything else may be large.
PARTS = ('configs', 'mmlowrank', 'requirements', 'tools')
FILES = ('CHANGELOG.md', 'CITATION.cff', 'LICENSE', 'MANIFEST.in', 'README.md')
FILES += ('model-index.yml', 'pyproject.toml', 'setup.py')
LEAF = 'lorand/cascade-mask-rcnn_swin-b_lorand-b2r8_3x_coco.py'
SEGMENTOR = 'upernet/upernet_r50_4xb4-160k_ade20k-512x512.py'


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    """A copy of what is packed, as a build writes into its folder."""
    copy = tmp_path_factory.mktemp('source') / 'copy'
    ignore = shutil.ignore_patterns('__pycache__', '*.egg-info')
    for part in PARTS:
        shutil.copytree(ROOT / part, copy / part, symlinks=True, ignore=ignore)
    for name in FILES:
        shutil.copy(ROOT / name, copy)
    return copy


def files(folder):
    return {
        str(path.relative_to(folder))
        for path in folder.rglob('*')
        if path.is_file()
    }


def build(folder, command, out):
    subprocess.run(
        [sys.executable, 'setup.py', '-q', command, '-d', out],
        cwd=folder,
        check=True,
    )


def test_a_source_distribution_is_whole(copy, tmp_path):
    build(copy, 'sdist', tmp_path)
    (path,) = tmp_path.glob('*.tar.gz')
    with tarfile.open(path) as archive:
        packed = {name.partition('/')[2] for name in archive.getnames()}
    wanted = {*FILES}
    for part in PARTS:
        wanted |= {f'{part}/{name}' for name in files(copy / part)}
    assert len(wanted) > 400
    assert not wanted - packed
    # It builds from what was unpacked.
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path / 'out', filter='data')
    (out,) = (tmp_path / 'out').iterdir()
    command = [sys.executable, 'setup.py', '--version']
    done = subprocess.run(
        command, cwd=out, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip().splitlines()[-1] in path.name


def test_a_wheel_carries_what_mim_looks_for(copy, tmp_path):
    build(copy, 'bdist_wheel', tmp_path)
    (path,) = tmp_path.glob('*.whl')
    with zipfile.ZipFile(path) as archive:
        packed = set(archive.namelist())
    inside = 'mmlowrank/.mim'
    for part in ('configs', 'tools'):
        wanted = {f'{inside}/{part}/{name}' for name in files(ROOT / part)}
        wanted = {name for name in wanted if '__pycache__' not in name}
        assert len(wanted) > 20
        assert not wanted - packed
    assert {
        f'{inside}/model-index.yml',
        'mmlowrank/py.typed',
        'mmlowrank_ops.pth',
    } <= packed
    assert not any(name.startswith('tests/') for name in packed)


def test_a_config_is_a_base_by_the_name_of_the_package(tmp_path):
    mine = tmp_path / 'mine.py'
    mine.write_text(f"_base_ = 'mmlowrank::{LEAF}'\nmodel = dict(rpn_head=1)")
    cfg = Config.fromfile(mine)
    stock = Config.fromfile(ROOT / 'configs' / LEAF)
    # Types are those of mmdet, as when the file is named by its path.
    assert '_scope_' not in cfg.pretty_text
    assert cfg.model.pop('rpn_head') == 1
    del stock.model['rpn_head']
    assert cfg.to_dict() == stock.to_dict()
    assert mmengine.hub.get_config(f'mmlowrank::{LEAF}').model.type


def test_configs_of_mmseg_are_found_and_nothing_is_installed(tmp_path):
    """As `mmseg` leads to a distribution that is not the one installed."""
    for package in ('mmdet', 'mmseg', 'mmpretrain'):
        assert is_installed(MODULE2PACKAGE[package])
    mine = tmp_path / 'mine.py'
    mine.write_text(f"_base_ = 'mmseg::{SEGMENTOR}'")
    assert Config.fromfile(mine).model._scope_ == 'mmseg'


def test_registering_again_changes_nothing():
    before = Config._get_cfg_path
    config_packages.register()
    assert Config._get_cfg_path is before


def test_a_config_of_the_command_line_may_be_of_a_package():
    found = Path(config_packages.find(f'mmlowrank::{LEAF}'))
    assert found.samefile(ROOT / 'configs' / LEAF)
    assert config_packages.find('some/file.py') == 'some/file.py'
    with pytest.raises(FileNotFoundError, match='no_such'):
        config_packages.find('mmlowrank::lorand/no_such.py')


def test_the_version_is_said_once():
    (said,) = re.findall(
        r'^version: (.*)$', (ROOT / 'CITATION.cff').read_text(), re.MULTILINE
    )
    assert said == mmlowrank.__version__
    assert f'\n## {said}' in (ROOT / 'CHANGELOG.md').read_text()
