"""Missing data is named before anything expensive is built."""

import re
import shlex
from pathlib import Path

import made_data
import pytest
from mmengine.config import Config, DictAction
from mmengine.fileio import BaseStorageBackend, LocalBackend
from mmengine.fileio.backends.registry_utils import backends

from mmlowrank.engine.data_files import check_files, image_backend

ROOT = Path(__file__).resolve().parents[1]
COCO = 'lorand/cascade-mask-rcnn_swin-b_lorand-b2r8_3x_coco.py'
VOC = 'lorand/faster-rcnn_swin-b_lorand-b2r8_1x_voc0712.py'
ADE = 'lorand/upernet_swin-b_lorand-b2r8_160k_ade20k.py'
MAKERS = {
    COCO: lambda root: made_data.write_coco(root, ['dog', 'cat']),
    VOC: made_data.write_voc,
    ADE: made_data.write_ade,
}
ALL = ('train', 'val', 'test')


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch, tmp_path):
    """No data in the working folder, none named by a variable."""
    for name in ('COCO_ROOT', 'VOC_ROOT', 'ADE_ROOT'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def load(leaf):
    return Config.fromfile(ROOT / 'configs' / leaf)


def refused(cfg, splits=ALL):
    with pytest.raises(FileNotFoundError) as caught:
        check_files(cfg, splits)
    return str(caught.value)


@pytest.mark.parametrize('leaf', MAKERS)
def test_obeying_the_variable_helps(leaf, tmp_path, monkeypatch):
    (name,) = re.findall(r'(\w+_ROOT)=FOLDER', refused(load(leaf)))
    monkeypatch.setenv(name, str(MAKERS[leaf](tmp_path / 'mine')))
    check_files(load(leaf), ALL)


@pytest.mark.parametrize('leaf', MAKERS)
def test_obeying_the_keys_helps(leaf, tmp_path):
    """All of them at once, as the command line reads them."""
    cfg, mine = load(leaf), MAKERS[leaf](tmp_path / 'mine')
    words = shlex.split(refused(cfg).split('--cfg-options')[1])
    file = mine / 'annotations' / 'instances_val2017.json'
    options = {}
    for word in words:
        key, what = word.split('=')
        where = {'FOLDER': mine, 'FILE': file}[what]
        options[key] = DictAction._parse_iterable(str(where))
    cfg.merge_from_dict(options)
    check_files(cfg, ALL)


def test_every_missing_file_of_the_run_is_named(tmp_path):
    text = refused(load(VOC), ('train',))
    for year in (2007, 2012):
        assert f'VOC{year}/ImageSets/Main/trainval.txt does not exist' in text
    assert 'train_dataloader.dataset.dataset.datasets.1.data_root=' in text
    assert 'test.txt' not in text
    assert 'test.txt' in refused(load(VOC), ('test',))


def test_a_variable_that_points_elsewhere_is_said(monkeypatch):
    monkeypatch.setenv('ADE_ROOT', '/no/such/folder/')
    text = refused(load(ADE))
    assert 'ADE_ROOT=FOLDER in the environment (now /no/such/folder/)' in text
    cfg = load(ADE)
    for split in ALL:
        cfg[f'{split}_dataloader'].dataset.data_root = '/elsewhere'
    assert 'ADE_ROOT' not in refused(cfg)


@pytest.mark.parametrize(
    'evaluator, key',
    [
        (dict(ann_file='a.json'), 'val_evaluator.ann_file'),
        ([dict(), dict(ann_file='a.json')], 'val_evaluator.1.ann_file'),
        (
            dict(metrics=[dict(ann_file='a.json')]),
            'val_evaluator.metrics.0.ann_file',
        ),
    ],
)
def test_the_evaluators_files_are_looked_for(evaluator, key, tmp_path):
    cfg = Config(dict(val_evaluator=evaluator))
    assert f'--cfg-options {key}=FILE' in refused(cfg)
    check_files(cfg, ['train'])
    (tmp_path / 'a.json').touch()
    check_files(cfg, ALL)


def data(**dataset):
    return Config(dict(train_dataloader=dict(dataset=dataset)))


@pytest.mark.parametrize(
    'dataset, key',
    [
        (dict(ann_file='a.json'), 'dataset.ann_file=FILE'),
        (dict(data_prefix='images'), 'dataset.data_prefix=FOLDER'),
        (dict(data_prefix=dict(img='i')), 'dataset.data_prefix.img=FOLDER'),
        (dict(data_root='r', ann_file='a'), 'dataset.data_root=FOLDER'),
        (dict(data_root='r', ann_file='/a'), 'dataset.ann_file=FILE'),
    ],
)
def test_the_key_is_the_one_that_counts(dataset, key):
    assert f'train_dataloader.{key}' in refused(data(**dataset))


class Mapped(LocalBackend):
    """Reads another folder than it is told, as path_mapping does."""

    def __init__(self, to):
        self.to = Path(to)

    def exists(self, filepath):
        return super().exists(self.to / filepath)


class KeysOnly(BaseStorageBackend):
    """Can read what it knows, and answer for files, not for folders."""

    def __init__(self, keys):
        self.keys = keys

    def get(self, filepath):
        return b''

    def get_text(self, filepath):
        return ''

    def exists(self, filepath):
        return filepath in self.keys


class ReadOnly(BaseStorageBackend):
    """As LMDB and memcached: nobody can ask it."""

    def get(self, filepath):
        return b''

    def get_text(self, filepath):
        return ''


@pytest.fixture
def stores(monkeypatch):
    for kind in (Mapped, KeysOnly, ReadOnly):
        monkeypatch.setitem(backends, kind.__name__.lower(), kind)


def test_a_mapped_store_is_asked(stores, tmp_path):
    args = dict(backend='mapped', to=str(tmp_path / 'there'))
    cfg = data(
        data_root='bucket',
        ann_file='a.json',
        data_prefix=dict(img='images'),
        backend_args=args,
    )
    cfg.train_evaluator = dict(ann_file='bucket/a.json', backend_args=args)
    text = refused(cfg)
    assert 'bucket/a.json does not exist' in text
    assert 'bucket/images does not exist' in text
    (tmp_path / 'there/bucket/images').mkdir(parents=True)
    (tmp_path / 'there/bucket/a.json').touch()
    check_files(cfg, ['train'])


def test_a_store_of_keys_has_no_folders(stores):
    args = dict(backend='keysonly', keys=['bucket/a.json'])
    prefix = dict(img='images')
    cfg = data(
        data_root='bucket',
        ann_file='a.json',
        data_prefix=prefix,
        backend_args=args,
    )
    check_files(cfg, ['train'])
    cfg.train_dataloader.dataset.ann_file = 'b.json'
    assert 'bucket/b.json does not exist' in refused(cfg)


@pytest.mark.parametrize('name', ['backend_args', 'file_client_args'])
def test_images_may_be_elsewhere_than_annotations(stores, tmp_path, name):
    (tmp_path / 'a.json').touch()
    args = dict(backend='readonly')
    loading = {'type': 'LoadImageFromFile', name: args}
    cfg = data(
        ann_file='a.json',
        data_prefix=dict(img='train_lmdb'),
        pipeline=[loading],
    )
    check_files(cfg, ['train'])
    if name == 'backend_args':
        assert image_backend(cfg.train_dataloader) == args
    cfg.train_dataloader.dataset.pipeline = [dict(type='LoadImageFromFile')]
    assert 'train_lmdb does not exist' in refused(cfg)


@pytest.mark.parametrize(
    'options',
    [
        dict(ann_file='s3://bucket/train.json'),
        dict(ann_file='https://some.where/train.json'),
        dict(ann_file='a.json', backend_args=dict(backend='readonly')),
        dict(ann_file='a.json', backend_args=dict(backend='unheard of')),
    ],
)
def test_who_cannot_be_asked_is_believed(stores, options):
    check_files(data(data_root='root', **options), ['train'])


def test_the_home_folder_is_known(monkeypatch, tmp_path):
    """As to mmpretrain's data sets."""
    monkeypatch.setenv('HOME', str(tmp_path))
    cfg = data(data_root='~/data', ann_file='list.txt')
    cfg.default_scope = 'mmpretrain'
    assert f'{tmp_path}/data/list.txt does not exist' in refused(cfg)
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'list.txt').touch()
    check_files(cfg, ['train'])
    cfg.default_scope = 'mmdet'
    assert '~/data/list.txt does not exist' in refused(cfg)
