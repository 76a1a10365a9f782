"""VTAB-1k and FGVC, on small made-up folders in their real layout."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.registry import DATASETS, DefaultScope

from mmlowrank.datasets.vtab_tasks import GROUPS, TASKS

FGVC = {
    'CUB_200_2011': 200,
    'NABirds': 555,
    'OxfordFlowers': 102,
    'StanfordCars': 196,
    'StanfordDogs': 120,
}
LISTS = {
    'train': 'train800val200.txt',
    'test': 'test.txt',
    'train800': 'train800.txt',
    'val200': 'val200.txt',
}
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]


def write_image(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((6, 8, 3), value, np.uint8))


def build(kind: str, **kwargs):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return DATASETS.build(dict(type=f'mmlowrank.{kind}', **kwargs))


def vtab(root: Path, split: str = 'train', task: str = 'kitti', **kwargs):
    return build(
        'VTAB1k', data_root=str(root), task=task, split=split, **kwargs
    )


def fgvc(root: Path, split: str, name: str = 'StanfordDogs', **kwargs):
    return build('FGVC', data_root=str(root), name=name, split=split, **kwargs)


def labels(dataset) -> dict[str, int]:
    """Name of the file -> label."""
    rows = [dataset.get_data_info(i) for i in range(len(dataset))]
    return {Path(row['img_path']).name: row['gt_label'] for row in rows}


# -- VTAB-1k -----------------------------------------------------------------


@pytest.fixture
def vtab_root(tmp_path):
    """KITTI with two images; one path has a blank."""
    folder = tmp_path / 'kitti'
    for number, name in enumerate(('images/a b.png', 'images/c.png')):
        write_image(folder / name, 50 * number)
    for name in LISTS.values():
        (folder / name).write_text('images/a b.png 3\nimages/c.png 0\n\n')
    return tmp_path


def test_the_tasks_are_those_of_the_tables():
    assert len(TASKS) == 19
    assert sum(task.classes for task in TASKS.values()) == 940
    sizes = [sum(t.group == g for t in TASKS.values()) for g in GROUPS]
    assert sizes == [7, 4, 8]
    # Groups stand together, in the order of the tables.
    found = [GROUPS.index(task.group) for task in TASKS.values()]
    assert found == sorted(found)


@pytest.mark.parametrize('split', LISTS)
def test_vtab_reads_its_list(vtab_root, split):
    for name in set(LISTS.values()) - {LISTS[split]}:
        (vtab_root / 'kitti' / name).unlink()
    dataset = vtab(vtab_root, split, pipeline=PIPELINE)
    assert labels(dataset) == {'a b.png': 3, 'c.png': 0}
    assert dataset.metainfo['classes'] == ('0', '1', '2', '3')
    sample = dataset[1]
    assert sample['inputs'].shape == (3, 6, 8)
    assert sample['inputs'].unique().tolist() == [50]
    assert sample['data_samples'].gt_label.tolist() == [0]


@pytest.mark.parametrize(
    ('task', 'split', 'text', 'error', 'sentence'),
    [
        ('mnist', 'train', '', ValueError, "'mnist' is unknown.*cifar"),
        ('kitti', 'val', '', ValueError, "'val' is unknown.*val200"),
        ('kitti', 'train', 'images/c.png 4', ValueError, 'line 1: label 4 is'),
        ('kitti', 'train', 'images/c.png -1', ValueError, "not 'path label'"),
        ('kitti', 'train', 'images/c.png', ValueError, "not 'path label'"),
        ('kitti', 'train', '7', ValueError, "not 'path label'"),
        ('kitti', 'train', '\n', ValueError, 'is empty'),
        (
            'dtd',
            'train',
            '',
            FileNotFoundError,
            'Download VTAB-1k .*data_root',
        ),
    ],
)
def test_vtab_says_what_is_wrong(
    vtab_root, task, split, text, error, sentence
):
    (vtab_root / 'kitti' / LISTS['train']).write_text(text)
    with pytest.raises(error, match=sentence):
        vtab(vtab_root, split, task)


def test_home_folder_is_expanded(vtab_root, monkeypatch):
    monkeypatch.setenv('HOME', str(vtab_root))
    assert len(vtab(Path('~'))) == 2


# -- images that do not open -------------------------------------------------


@pytest.mark.parametrize('test_mode', [False, True])
@pytest.mark.parametrize(
    ('damage', 'sentence'),
    [
        (lambda path: path.unlink(), 'c.png does not exist, but .*train800'),
        (
            lambda path: path.write_bytes(b'no'),
            'c.png is not a readable image',
        ),
        (lambda path: path.write_bytes(b''), 'c.png is not a readable image'),
    ],
)
def test_an_unreadable_image_is_named(vtab_root, damage, sentence, test_mode):
    damage(vtab_root / 'kitti/images/c.png')
    dataset = vtab(vtab_root, pipeline=PIPELINE, test_mode=test_mode)
    dataset[0]
    with pytest.raises(OSError, match=sentence):
        dataset[1]


def test_the_image_is_not_blamed_for_the_pipeline(vtab_root):
    dataset = vtab(vtab_root, pipeline=PIPELINE[:1])
    dataset.pipeline.transforms.append(lambda results: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dataset[0]


# -- FGVC --------------------------------------------------------------------


def write_fgvc(root: Path, name: str, images: str = '') -> Path:
    """Three splits; the class ids have gaps, as in the published files."""
    folder = root / name
    ids = [10 * c + 3 for c in range(FGVC[name])]
    half = len(ids) // 2
    files = {
        # val lacks classes and so does train; together they have all.
        'train': {f't/{c}.png': c for c in ids[: half + 5]},
        'val': {f'v/{c}.png': c for c in reversed(ids[half:])},
        'test': {f's/{c}.png': c for c in reversed(ids)},
    }
    for split, content in files.items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f'{split}.json').write_text(json.dumps(content))
        for path in list(content)[:2]:
            write_image(folder / images / path)
    return folder


@pytest.mark.parametrize(
    ('name', 'images'),
    [
        ('CUB_200_2011', 'images'),
        ('NABirds', 'images'),
        ('OxfordFlowers', ''),
        ('StanfordCars', ''),
        ('StanfordDogs', ''),
        ('StanfordDogs', 'Images'),
    ],
)
def test_fgvc_joins_train_and_val(tmp_path, name, images):
    write_fgvc(tmp_path, name, images)
    classes = FGVC[name]
    ranks = {f'{10 * c + 3}.png': c for c in range(classes)}
    half = classes // 2
    trainval = fgvc(tmp_path, 'trainval', name, pipeline=PIPELINE)
    assert len(trainval) == classes + 5
    assert labels(trainval) == ranks
    assert trainval[0]['inputs'].shape == (3, 6, 8)
    assert labels(fgvc(tmp_path, 'test', name)) == ranks
    # A part of the classes, with the labels of the whole.
    val = labels(fgvc(tmp_path, 'val', name))
    assert val == {k: c for k, c in ranks.items() if c >= half}
    train = labels(fgvc(tmp_path, 'train', name))
    assert train == {k: c for k, c in ranks.items() if c < half + 5}
    assert len(trainval.metainfo['classes']) == classes


def test_fgvc_reads_a_joined_file(tmp_path):
    folder = write_fgvc(tmp_path, 'StanfordDogs')
    train, val = (
        json.loads((folder / f'{split}.json').read_text())
        for split in ('train', 'val')
    )
    apart = labels(fgvc(tmp_path, 'trainval'))
    for split in ('train', 'val'):
        (folder / f'{split}.json').unlink()
    (folder / 'trainval.json').write_text(json.dumps({**train, **val}))
    assert labels(fgvc(tmp_path, 'trainval')) == apart


@pytest.mark.parametrize(
    ('file', 'text', 'split', 'error', 'sentence'),
    [
        ('test', None, 'test', FileNotFoundError, 'Visual Prompt Tuning'),
        ('val', None, 'trainval', FileNotFoundError, 'val.json does not'),
        ('test', '{"a": 1', 'test', ValueError, 'is not JSON'),
        ('test', '[1]', 'test', ValueError, 'must be a dict'),
        ('test', '{}', 'test', ValueError, 'must be a dict'),
        ('test', '{"a.png": "dog"}', 'test', ValueError, 'must be a dict'),
        ('test', '{"a.png": 1}', 'test', ValueError, 'has 1 classes.*120'),
        ('val', '{"t/3.png": 3}', 'trainval', ValueError, '1 images are in'),
        ('val', '{"v/9.png": 3}', 'trainval', ValueError, 'has 65 classes'),
        ('test', '{}', 'tests', ValueError, "'tests' is unknown.*trainval"),
    ],
)
def test_fgvc_says_what_is_wrong(tmp_path, file, text, split, error, sentence):
    path = write_fgvc(tmp_path, 'StanfordDogs') / f'{file}.json'
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(error, match=sentence):
        fgvc(tmp_path, split)


def test_fgvc_names_missing_images_and_unknown_sets(tmp_path):
    write_fgvc(tmp_path, 'StanfordDogs', images='pictures')
    with pytest.raises(FileNotFoundError, match='first image of the split'):
        fgvc(tmp_path, 'test')
    with pytest.raises(ValueError, match=r"'Dogs' is unknown.*NABirds"):
        fgvc(tmp_path, 'test', 'Dogs')
