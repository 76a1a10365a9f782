"""COCO, VOC and ADE20K in their real layouts, with a few small images.

And weights to start from.
"""

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

ROOT = Path(__file__).resolve().parents[1]
SIZE = (96, 64)  # width, height
# Options that make the heads of a Mask R-CNN thin, behind a neck of 16.
THIN_MASK_RCNN = (
    'model.rpn_head.in_channels=16',
    'model.rpn_head.feat_channels=16',
    'model.roi_head.bbox_roi_extractor.out_channels=16',
    'model.roi_head.mask_roi_extractor.out_channels=16',
    'model.roi_head.bbox_head.in_channels=16',
    'model.roi_head.bbox_head.fc_out_channels=16',
    'model.roi_head.mask_head.in_channels=16',
    'model.roi_head.mask_head.conv_out_channels=16',
    'model.train_cfg.rcnn.sampler.num=16',
)
# x, y, width, height; the second one is under 32 pixels wide.
BOXES = [(8, 12, 40, 44), (60, 10, 20, 40)]


def write_digit_swin(path: Path) -> Path:
    """Write weights of the quickstart's Swin, of a seed that no config has."""
    leaf = 'configs/quickstart/pretrain_swin-mini_digits.py'
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        torch.manual_seed(99)
        model = MODELS.build(Config.fromfile(ROOT / leaf).model)
        model.init_weights()
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((SIZE[1], SIZE[0], 3), 30, np.uint8)
    for x, y, w, h in BOXES:
        image[y : y + h, x : x + w] = 200
    cv2.imwrite(str(path), image)


def write_coco(
    root: Path, names: list[str], images: int = 2, ids: int = 1
) -> Path:
    """Write both splits; ``ids`` is the first category's id."""
    for split in ('train', 'val'):
        content = dict(
            images=[
                dict(
                    id=i,
                    file_name=f'{i:012}.jpg',
                    width=SIZE[0],
                    height=SIZE[1],
                )
                for i in range(images)
            ],
            annotations=[
                dict(
                    id=i * len(BOXES) + j,
                    image_id=i,
                    category_id=ids + (i + j) % len(names),
                    bbox=[x, y, w, h],
                    area=w * h,
                    iscrowd=0,
                    segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
                )
                for i in range(images)
                for j, (x, y, w, h) in enumerate(BOXES)
            ],
            categories=[
                dict(id=ids + i, name=n, supercategory='thing')
                for i, n in enumerate(names)
            ],
        )
        path = root / 'annotations' / f'instances_{split}2017.json'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        for image in content['images']:
            write_image(root / f'{split}2017' / image['file_name'])
    return root


def write_voc(root: Path, names: tuple[str, ...] = ('dog', 'cat')) -> Path:
    """Write an image to train on and two test images a year."""
    for year in ('VOC2007', 'VOC2012'):
        lists = root / year / 'ImageSets' / 'Main'
        lists.mkdir(parents=True, exist_ok=True)
        (lists / 'trainval.txt').write_text('000001\n')
        (lists / 'test.txt').write_text('000002\n000003\n')
        for image in ('000001', '000002', '000003'):
            write_image(root / year / 'JPEGImages' / f'{image}.jpg')
            xml = root / year / 'Annotations' / f'{image}.xml'
            xml.parent.mkdir(exist_ok=True)
            objects = ''.join(
                f'<object><name>{name}</name><difficult>0</difficult><bndbox>'
                f'<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>'
                f'<xmax>{x + w + 1}</xmax><ymax>{y + h + 1}</ymax>'
                '</bndbox></object>'
                for name, (x, y, w, h) in zip(names, BOXES, strict=True)
            )
            xml.write_text(
                f'<annotation><size><width>{SIZE[0]}</width>'
                f'<height>{SIZE[1]}</height></size>{objects}</annotation>'
            )
    return root


def write_ade(root: Path) -> Path:
    for split in ('training', 'validation'):
        for i in range(2):
            write_image(root / 'images' / split / f'ADE_{i:08}.jpg')
            path = root / 'annotations' / split / f'ADE_{i:08}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            labels = np.zeros((SIZE[1], SIZE[0]), np.uint8)
            for label, (x, y, w, h) in enumerate(BOXES, start=1):
                labels[y : y + h, x : x + w] = label
            cv2.imwrite(str(path), labels)
    return root
