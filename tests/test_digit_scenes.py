"""The digit scenes: same bytes, disjoint digits, formats that agree."""

import hashlib
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmlowrank.datasets.digit_scenes import (
    CLASSES,
    compose_scene,
    load_digits,
    split_digits,
    write_digit_scenes,
)

ROOT = Path(__file__).parents[1]
SIZES = {'train': 6, 'val': 4}


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.md5(
            path.read_bytes()
        ).hexdigest()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def coco_of(folder: Path, split: str) -> dict:
    path = folder / 'annotations' / f'instances_{split}.json'
    return json.loads(path.read_text())


def converter(*args: object) -> subprocess.CompletedProcess:
    tool = ROOT / 'tools/dataset_converters/digit_scenes.py'
    command = [sys.executable, str(tool), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True)


def test_same_seed_same_bytes(digit_scenes, tmp_path):
    again, more, other = (tmp_path / name for name in ('a', 'b', 'c'))
    assert write_digit_scenes(again, 6, 4)
    first = digest(digit_scenes)
    assert digest(again) == first

    # A scene does not depend on how many there are.
    assert write_digit_scenes(more, 2, 5)
    wanted = digest(more)
    for split in SIZES:
        for index in (0, 1):
            name = f'images/{split}/{split}_{index:05d}.jpg'
            assert wanted[name] == first[name]

    assert write_digit_scenes(other, 6, 4, seed=1)
    changed = digest(other)
    images = [name for name in first if name.startswith('images')]
    assert len(images) == 10
    assert all(changed[name] != first[name] for name in images)


def test_the_digits_are_the_real_ones_and_parted(digit_scenes):
    images, labels = load_digits()
    assert images.shape == (1797, 8, 8)
    assert (images.min(), images.max()) == (0, 1)

    parts = split_digits(0)
    assert [len(parts[split]) for split in SIZES] == [1297, 500]
    assert len(np.union1d(parts['train'], parts['val'])) == 1797
    for split in SIZES:
        annotations = coco_of(digit_scenes, split)['annotations']
        used = {annotation['digit'] for annotation in annotations}
        assert used <= set(parts[split].tolist())
        files = list((digit_scenes / 'digits' / split).glob('*/*.png'))
        assert sorted(int(file.stem) for file in files) == list(parts[split])
        assert all(labels[int(f.stem)] == int(f.parent.name) for f in files)


@pytest.mark.parametrize('split', SIZES)
def test_formats_agree(digit_scenes, split):
    coco = coco_of(digit_scenes, split)
    assert len(coco['images']) == SIZES[split]
    assert [c['name'] for c in coco['categories']] == list(CLASSES)
    listed = digit_scenes / 'voc/ImageSets/Main' / f'{split}.txt'
    names = [Path(image['file_name']).stem for image in coco['images']]
    assert listed.read_text().split() == names

    for image, name in zip(coco['images'], names, strict=True):
        picture = cv2.imread(str(digit_scenes / f'images/{split}/{name}.jpg'))
        assert picture.shape == (160, 160, 3)
        anns = [
            ann
            for ann in coco['annotations']
            if ann['image_id'] == image['id']
        ]
        assert 1 <= len(anns) <= 9

        pixels = np.zeros((160, 160), np.uint8)
        for ann in anns:
            mask = coco_mask.decode(ann['segmentation']).astype(bool)
            assert not pixels[mask].any(), 'two digits overlap'
            pixels[mask] = ann['category_id']
            assert mask.sum() == ann['area']
            box = coco_mask.toBbox(ann['segmentation'])
            assert box.tolist() == ann['bbox']
        path = digit_scenes / f'annotations/{split}/{name}.png'
        stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(stored, pixels)

        tree = ET.parse(digit_scenes / f'voc/Annotations/{name}.xml')
        assert tree.findtext('filename') == f'{name}.jpg'
        assert tree.findtext('size/width') == '160'
        boxes = []
        for item in tree.findall('object'):
            left, top, right, bottom = (
                int(item.findtext(f'bndbox/{key}'))
                for key in ('xmin', 'ymin', 'xmax', 'ymax')
            )
            size = [right - left + 1, bottom - top + 1]
            category = CLASSES.index(item.findtext('name')) + 1
            boxes.append((category, [left - 1, top - 1, *size]))
        assert boxes == [(ann['category_id'], ann['bbox']) for ann in anns]


def test_digits_stand_out():
    """In gray levels, as promised, and never cut off by the border."""
    pool = split_digits(0)['train']
    for seed in range(5):
        scene = compose_scene(pool, 160, np.random.default_rng(seed))
        gray = cv2.cvtColor(scene.image, cv2.COLOR_BGR2GRAY).astype(float)
        for mask in scene.masks:
            ring = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7))) > 0
            ring &= ~scene.masks.any(0)
            core = cv2.erode(mask.astype(np.uint8), np.ones((2, 2))) > 0
            # The edge is blended, so the means are a bit closer than 70.
            assert abs(gray[core].mean() - gray[ring].mean()) > 35


def test_mmdet_reads_coco_and_voc(digit_scenes):
    from mmdet.datasets import CocoDataset, VOCDataset
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=True)
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    ]
    coco = CocoDataset(
        data_root=str(digit_scenes),
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='images/train'),
        metainfo=dict(classes=CLASSES),
        pipeline=pipeline,
    )
    pipeline[1] = dict(type='LoadAnnotations', with_bbox=True)
    voc = VOCDataset(
        data_root=str(digit_scenes),
        ann_file='voc/ImageSets/Main/train.txt',
        data_prefix=dict(sub_data_root=''),
        img_subdir='images/train',
        ann_subdir='voc/Annotations',
        metainfo=dict(classes=CLASSES),
        pipeline=pipeline,
    )
    assert len(coco) == len(voc) == 6
    anns = coco_of(digit_scenes, 'train')['annotations']
    for index in range(6):
        one, other = coco[index], voc[index]
        np.testing.assert_array_equal(one['img'], other['img'])
        np.testing.assert_array_equal(
            one['gt_bboxes_labels'], other['gt_bboxes_labels']
        )
        # VOC's right and bottom are the last pixel, COCO's the one after.
        boxes = one['gt_bboxes'].tensor - other['gt_bboxes'].tensor
        assert boxes.unique(dim=0).tolist() == [[0, 0, 1, 1]]
        areas = [a['area'] for a in anns if a['image_id'] == index + 1]
        masks = one['gt_masks'].masks
        assert masks.sum((1, 2)).tolist() == areas


def test_mmseg_reads_png(digit_scenes):
    from mmseg.datasets import BaseSegDataset
    from mmseg.utils import register_all_modules

    register_all_modules(init_default_scope=True)
    dataset = BaseSegDataset(
        data_root=str(digit_scenes),
        data_prefix=dict(
            img_path='images/val', seg_map_path='annotations/val'
        ),
        metainfo=dict(classes=('background', *CLASSES)),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
        ],
    )
    assert len(dataset) == 4
    anns = coco_of(digit_scenes, 'val')['annotations']
    for index in range(4):
        wanted = {
            ann['category_id'] for ann in anns if ann['image_id'] == index + 1
        }
        assert set(np.unique(dataset[index]['gt_seg_map'])) == {0} | wanted


def test_mmpretrain_reads_digits(digit_scenes):
    from mmpretrain.datasets import CustomDataset
    from mmpretrain.utils import register_all_modules

    register_all_modules(init_default_scope=True)
    for split, size in (('train', 1297), ('val', 500)):
        dataset = CustomDataset(
            data_root=str(digit_scenes),
            data_prefix=f'digits/{split}',
            pipeline=[dict(type='LoadImageFromFile')],
        )
        assert len(dataset) == size
        assert dataset.CLASSES == CLASSES
        sample = dataset[0]
        assert sample['img'].shape == (40, 40, 3)
        assert sample['img'].max() > 150


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (dict(num_train=0), 'num_train is 0: ask for 1 to 99999'),
        (dict(num_val=-3), 'num_val is -3'),
        (dict(size=32), 'size is 32: scenes are 64 to 2048'),
        (dict(seed=-1), 'seed is -1: it must be 0 or more'),
    ],
)
def test_nonsense_is_refused(tmp_path, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        write_digit_scenes(tmp_path / 'out', **options)
    assert not list(tmp_path.iterdir())


def test_command_line_repeats_refuses_and_overwrites(tmp_path):
    out = tmp_path / 'data' / 'scenes'
    args = ('--out', out, '--train', 1, '--val', 1, '--size', 64)
    made = converter(*args)
    assert made.returncode == 0, made.stderr
    assert '2/2 scenes' in made.stdout
    before = digest(out)

    again = converter(*args)
    assert again.returncode == 0
    assert 'already there with these settings' in again.stdout

    other = converter(*args, '--seed', 5)
    assert other.returncode == 1
    assert 'made with other settings' in other.stderr
    assert 'Traceback' not in other.stderr
    assert digest(out) == before

    replaced = converter(*args, '--seed', 5, '--overwrite')
    assert replaced.returncode == 0, replaced.stderr
    assert digest(out) != before
    assert [path.name for path in out.parent.iterdir()] == ['scenes']


def test_what_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / 'thesis.txt').write_text('three years')
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match='not a finished folder'):
            write_digit_scenes(tmp_path, 1, 1, 64, overwrite=overwrite)
    assert (tmp_path / 'thesis.txt').read_text() == 'three years'


def test_a_killed_run_is_not_taken_as_done(tmp_path):
    out = tmp_path / 'scenes'
    code = (
        'import os, signal, sys\n'
        'from mmlowrank.datasets.digit_scenes import write_digit_scenes\n'
        'def die(done, total):\n'
        '    if done == 2: os.kill(os.getpid(), signal.SIGKILL)\n'
        'write_digit_scenes(sys.argv[1], 2, 1, 64, progress=die)\n'
    )
    killed = subprocess.run([sys.executable, '-c', code, str(out)])
    assert killed.returncode == -9
    assert not out.exists()

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_digit_scenes(out, 2, 1, 64, progress=stop)
    assert not out.exists()
    assert write_digit_scenes(out, 2, 1, 64)
    assert not write_digit_scenes(out, 2, 1, 64)


def test_a_half_written_stamp_is_not_taken_as_done(tmp_path):
    out = tmp_path / 'scenes'
    write_digit_scenes(out, 1, 1, 64)
    stamp = out / 'digit_scenes.json'
    stamp.write_text(stamp.read_text()[:20])
    with pytest.raises(FileExistsError, match='not a finished folder'):
        write_digit_scenes(out, 1, 1, 64)


def test_import_of_the_package_stays_light():
    code = (
        'import sys, mmlowrank, mmlowrank.datasets\n'
        "loaded = {'sklearn', 'pycocotools'} & set(sys.modules)\n"
        'sys.exit(str(loaded) if loaded else 0)\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
