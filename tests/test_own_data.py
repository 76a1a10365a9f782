"""docs/own_data.md: its configs and commands run, its sentences are said."""

import json
import re
from inspect import signature
from pathlib import Path

import cv2
import made_data
import numpy as np
import pages
import pytest
from mmengine.config import Config
from test_data_roots import ALL as ALL_AND_WEIGHTS
from test_data_roots import (
    COCO_CROP,
    FEW_ROIS,
    ONE_EPOCH,
    SMALL_TEST,
    SWIN,
    UPERNET_SIZES,
)

PAGE = 'own_data.md'
SECTIONS = pages.sections(PAGE)
# The weights of a classifier stand one level deeper.
ALL = [o for o in ALL_AND_WEIGHTS if not o.startswith('model')]
FRUIT = ('apple', 'pear', 'plum')


def moved(root: Path, moves: dict[str, str]) -> Path:
    for old, new in moves.items():
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        (root / old).rename(root / new)
    return root


def write_coco(root: Path) -> Path:
    made_data.write_coco(root, list(FRUIT))
    moves = {}
    for split in ('train', 'val'):
        old = f'annotations/instances_{split}2017.json'
        moves[old] = f'annotations/{split}.json'
        moves[f'{split}2017'] = split
    return moved(root, moves)


def write_boxes(root: Path) -> Path:
    return without_masks(write_coco(root))


def without_masks(root: Path) -> Path:
    for path in root.glob('annotations/*.json'):
        content = json.loads(path.read_text())
        for annotation in content['annotations']:
            del annotation['segmentation']
        path.write_text(json.dumps(content))
    return root


def write_voc(root: Path) -> Path:
    (made_data.write_voc(root.with_name('years')) / 'VOC2007').rename(root)
    lists = {'trainval': 'train', 'test': 'val'}
    main = 'ImageSets/Main'
    return moved(
        root, {f'{main}/{a}.txt': f'{main}/{b}.txt' for a, b in lists.items()}
    )


def write_masks(root: Path) -> Path:
    moves = {
        f'{kind}/{old}': f'{kind}/{new}'
        for kind in ('images', 'annotations')
        for old, new in (('training', 'train'), ('validation', 'val'))
    }
    return moved(made_data.write_ade(root), moves)


def write_folders(root: Path) -> Path:
    for split in ('train', 'val'):
        for name in ('daisy', 'rose', 'tulip'):
            made_data.write_image(root / split / name / '1.jpg')
    return root


# Heading -> writer of its data, and what makes its model small and short.
SMALL_SWIN = ('model.backbone.init_cfg=None', *SWIN)
SMALL_ROIS = (
    *SMALL_SWIN,
    *SMALL_TEST,
    *ONE_EPOCH,
    *FEW_ROIS,
    'model.train_cfg.rpn.sampler.num=16',
    *(
        f'model.{part}=16'
        for part in (
            'neck.out_channels',
            'rpn_head.in_channels',
            'rpn_head.feat_channels',
            'roi_head.bbox_roi_extractor.out_channels',
        )
    ),
)
FASTER = (
    *SMALL_ROIS,
    'model.roi_head.bbox_head.in_channels=16',
    'model.roi_head.bbox_head.fc_out_channels=32',
    'model.train_cfg.rcnn.sampler.num=16',
)
TRAIN_SCALE = 'train_dataloader.dataset.pipeline.2.scale=(96,64)'
FORMATS = {
    'COCO format, masks': (
        write_coco,
        (
            *SMALL_ROIS,
            *COCO_CROP,
            'model.roi_head.mask_roi_extractor.out_channels=16',
            'model.roi_head.mask_head.in_channels=16',
            'model.roi_head.mask_head.num_convs=1',
            *(
                f'model.{option}'
                for i in range(3)
                for option in (
                    f'roi_head.bbox_head.{i}.in_channels=16',
                    f'roi_head.bbox_head.{i}.num_shared_convs=1',
                    f'roi_head.bbox_head.{i}.conv_out_channels=8',
                    f'roi_head.bbox_head.{i}.fc_out_channels=16',
                    f'train_cfg.rcnn.{i}.sampler.num=8',
                )
            ),
        ),
    ),
    'COCO format, boxes only': (write_boxes, (*FASTER, TRAIN_SCALE)),
    'VOC format (XML)': (write_voc, (*FASTER, TRAIN_SCALE)),
    'Masks, as ADE20K has them': (
        write_masks,
        (
            *SMALL_SWIN,
            *SMALL_TEST,
            TRAIN_SCALE,
            *UPERNET_SIZES,
        ),
    ),
    'Class folders': (
        write_folders,
        (
            'model.backbone.backbone.arch=deit-t',
            'model.backbone.backbone.init_cfg=None',
            'model.head.in_channels=192',
            'train_cfg.max_epochs=1',
            'train_dataloader.batch_size=2',
        ),
    ),
}


def options_of(name):
    return [*ALL, *FORMATS[name][1]]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    return pages.Clone(tmp_path, monkeypatch)


def write_config(name):
    """Write the config of a section; returns its path."""
    (block,) = (b for b in SECTIONS[name] if b.language == 'python')
    path = Path(block.text.splitlines()[0].removeprefix('# '))
    path.parent.mkdir(exist_ok=True)
    path.write_text(block.text)
    return path


def write_data(name):
    """Write data, and check that it is laid out as the page says."""
    layout = next(b.text for b in SECTIONS[name] if b.language == 'text')
    root = Path(*Path(layout.splitlines()[0]).parts[:2])
    FORMATS[name][0](root)
    listed = [set(Path().glob(line)) for line in layout.splitlines()]
    assert all(listed)
    written = {path for path in root.rglob('*') if path.is_file()}
    assert set.union(*listed) == written


def test_every_section_with_a_config_is_here():
    with_config = [
        name
        for name, blocks in SECTIONS.items()
        if any(block.language == 'python' for block in blocks)
    ]
    assert with_config == list(FORMATS)


@pytest.mark.parametrize('name', FORMATS)
def test_the_commands_train_and_test(name, clone):
    write_data(name)
    path = write_config(name)
    cfg = Config.fromfile(path)
    train, test = pages.commands(SECTIONS[name])
    clone.run(train, options_of(name))
    by_epoch = 'max_epochs' in cfg.train_cfg
    length = cfg.train_cfg['max_epochs' if by_epoch else 'max_iters']
    prefix = 'epoch' if by_epoch else 'iter'
    work = Path('work_dirs', path.stem)
    (log,) = work.glob('*/*.log')
    text = log.read_text()
    assert re.search(r'\(val\).*(mAP|mIoU|top1): \d', text)
    assert 'has num_classes=' not in text  # too many outputs: a warning
    (saved,) = work.glob(f'{prefix}_*.pth')
    # A run of the page's length would have written this.
    saved.rename(work / f'{prefix}_{length}.pth')
    clone.run(test, options_of(name))
    assert [*Path('pictures').rglob('*.[pj][np]g')]


@pytest.mark.parametrize('folder', [None, '/some/where', '/some/where/'])
def test_a_variable_moves_the_root(folder, clone, monkeypatch):
    (line,) = re.findall(
        r"`(root = '{{.*?)`", (pages.ROOT / 'docs' / PAGE).read_text()
    )
    path = write_config('COCO format, masks')
    text = path.read_text()
    assert "root = 'data/fruit/'" in text
    path.write_text(text.replace("root = 'data/fruit/'", line))
    monkeypatch.delenv('FRUIT_ROOT', raising=False)
    if folder:
        monkeypatch.setenv('FRUIT_ROOT', folder)
    found = Path(Config.fromfile(path).val_evaluator.ann_file)
    expected = Path(folder or 'data/fruit', 'annotations', 'val.json')
    assert found == expected


def replaced(old, new):
    return lambda text: text.replace(old, new)


def gray_to_color(path):
    cv2.imwrite(str(path), np.dstack([cv2.imread(str(path), 0)] * 3))


def one_more(path):
    cv2.imwrite(str(path), cv2.imread(str(path), 0) + 1)


def to_png(path):
    path.rename(path.with_suffix('.png'))


def each(pattern, change):
    def change_all():
        for path in sorted(Path('data').glob(pattern)):
            change(path)

    return change_all


def lose_the_roses():
    Path('data/flowers/val/rose/1.jpg').unlink()
    Path('data/flowers/val/rose').rmdir()


# Heading -> what happens to config or data for each sentence, in the order
# of the page.
MASKS, FOLDERS = 'Masks, as ADE20K has them', 'Class folders'
MISTAKES = [
    ('COCO format, masks', replaced("'apple', 'pear'", "'pear', 'apple'")),
    ('COCO format, masks', replaced("'plum'", "'plumb'")),
    ('COCO format, masks', replaced('num_classes=3', 'num_classes=2')),
    ('COCO format, masks', lambda: without_masks(Path('data/fruit'))),
    (
        'COCO format, boxes only',
        replaced(
            "val_evaluator = dict(ann_file=root + 'annotations/val.json')"
            '\ntest_evaluator = val_evaluator',
            '',
        ),
    ),
    ('VOC format (XML)', replaced("'cat'", "'Cat'")),
    ('VOC format (XML)', replaced("('dog', 'cat')", "('dog')")),
    (MASKS, each('street/annotations/*/*.png', one_more)),
    (MASKS, each('street/annotations/*/*.png', gray_to_color)),
    (MASKS, each('street/images/*/*.jpg', to_png)),
    (FOLDERS, replaced("'daisy', 'rose'", "'rose', 'daisy'")),
    (FOLDERS, lose_the_roses),
]


@pytest.mark.parametrize('number', range(len(MISTAKES)))
def test_a_mistake_is_named_as_the_page_says(number, clone):
    name, mistake = MISTAKES[number]
    write_data(name)
    path = write_config(name)
    if signature(mistake).parameters:
        right = path.read_text()
        path.write_text(mistake(right))
        assert path.read_text() != right
    else:
        mistake()
    train, _ = pages.commands(SECTIONS[name])
    with pytest.raises(Exception) as caught:
        clone.run(train, options_of(name))
    quoted = quoted_messages()
    assert len(quoted) == len(MISTAKES)
    heading, sentence = quoted[number]
    assert heading == name
    said = f'{type(caught.value).__name__}: {caught.value}'
    assert pages.says(said, sentence)


def quoted_messages():
    """Return heading and text of each message that the page quotes."""
    return [
        (name, block.text)
        for name, blocks in SECTIONS.items()
        for block in blocks
        if block.language == 'console'
    ]
