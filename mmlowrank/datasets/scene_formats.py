"""Write scenes with instance masks as COCO, VOC and ADE20K-style files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import cv2
import numpy as np
from pycocotools import mask as coco_mask

if TYPE_CHECKING:
    from .digit_scenes import Scene

JPEG_QUALITY = 95
DIGIT_SIDE = 40

_XML_OBJECT = """\
  <object>
    <name>{name}</name>
    <difficult>0</difficult>
    <bndbox>
      <xmin>{xmin}</xmin>
      <ymin>{ymin}</ymin>
      <xmax>{xmax}</xmax>
      <ymax>{ymax}</ymax>
    </bndbox>
  </object>
"""
_XML = """\
<annotation>
  <folder>images/{split}</folder>
  <filename>{name}.jpg</filename>
  <size>
    <width>{size}</width>
    <height>{size}</height>
    <depth>3</depth>
  </size>
  <segmented>1</segmented>
{objects}</annotation>
"""


def _write_image(path: Path, image: np.ndarray, *options: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image, options):
        raise OSError(f'{path} could not be written: is the disk full?')


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_digit(
    root: Path, split: str, label: int, index: int, alpha: np.ndarray
) -> None:
    """Write one digit, white on black, for mmpretrain's CustomDataset.

    Args:
        root: The data set's folder.
        split: 'train' or 'val'.
        label: The digit's value; the name of its folder.
        index: The digit's number in scikit-learn's set; the file's name.
        alpha: Opacity ``float32 [h, w]`` in 0..1, at most 40 x 40.
    """
    canvas = np.zeros((DIGIT_SIDE, DIGIT_SIDE), np.uint8)
    height, width = alpha.shape
    top, left = (DIGIT_SIDE - height) // 2, (DIGIT_SIDE - width) // 2
    canvas[top : top + height, left : left + width] = np.rint(alpha * 255)
    name = root / 'digits' / split / str(label) / f'{index:04d}.png'
    _write_image(name, canvas)


class SceneWriter:
    """Write the scenes of one split.

    Args:
        root: The data set's folder.
        split: 'train' or 'val'.
        classes: Class names; class c is category c + 1 in COCO and pixel
            value c + 1 in the PNG masks.
        size: Width and height of the scenes in pixels.
    """

    def __init__(
        self, root: Path, split: str, classes: Sequence[str], size: int
    ) -> None:
        self.root, self.split = root, split
        self.classes, self.size = classes, size
        self._names: list[str] = []
        self._images: list[dict] = []
        self._annotations: list[dict] = []

    def add(self, scene: Scene) -> None:
        """Write a scene's image, PNG mask and XML; keep its COCO entry."""
        name = f'{self.split}_{len(self._names):05d}'
        self._names.append(name)
        self._images.append(
            {
                'id': len(self._names),
                'file_name': f'{name}.jpg',
                'width': self.size,
                'height': self.size,
            }
        )
        first = len(self._annotations)
        pixels = np.zeros((self.size, self.size), np.uint8)
        for label, digit, mask in zip(
            scene.labels, scene.digits, scene.masks, strict=True
        ):
            pixels[mask] = label + 1
            self._add_instance(label, digit, mask)
        _write_image(
            self.root / 'images' / self.split / f'{name}.jpg',
            scene.image,
            cv2.IMWRITE_JPEG_QUALITY,
            JPEG_QUALITY,
        )
        _write_image(
            self.root / 'annotations' / self.split / f'{name}.png', pixels
        )
        _write_text(
            self.root / 'voc' / 'Annotations' / f'{name}.xml',
            self._xml(name, self._annotations[first:]),
        )

    def _add_instance(self, label: int, digit: int, mask: np.ndarray) -> None:
        rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        rows, cols = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        left, top = int(cols[0]), int(rows[0])
        width, height = int(cols[-1]) + 1 - left, int(rows[-1]) + 1 - top
        self._annotations.append(
            {
                'id': len(self._annotations) + 1,
                'image_id': len(self._names),
                'category_id': label + 1,
                'bbox': [left, top, width, height],
                'area': int(mask.sum()),
                'iscrowd': 0,
                # An RLE keeps the holes of 0, 6, 8 and 9.
                'segmentation': {
                    'size': [self.size, self.size],
                    'counts': rle['counts'].decode('ascii'),
                },
                # Not COCO's: which of scikit-learn's digits this is.
                'digit': digit,
            }
        )

    def _xml(self, name: str, instances: list[dict]) -> str:
        objects = []
        for instance in instances:
            left, top, width, height = instance['bbox']
            # VOC counts pixels from 1 and includes the last one.
            objects.append(
                _XML_OBJECT.format(
                    name=escape(self.classes[instance['category_id'] - 1]),
                    xmin=left + 1,
                    ymin=top + 1,
                    xmax=left + width,
                    ymax=top + height,
                )
            )
        return _XML.format(
            split=self.split,
            name=name,
            size=self.size,
            objects=''.join(objects),
        )

    def close(self) -> None:
        """Write what needs all scenes: the COCO file and the image set."""
        coco = {
            'info': {'description': f'digit scenes, {self.split}'},
            'images': self._images,
            'annotations': self._annotations,
            'categories': [
                {'id': number, 'name': name}
                for number, name in enumerate(self.classes, 1)
            ],
        }
        _write_text(
            self.root / 'annotations' / f'instances_{self.split}.json',
            json.dumps(coco),
        )
        _write_text(
            self.root / 'voc' / 'ImageSets' / 'Main' / f'{self.split}.txt',
            ''.join(f'{name}\n' for name in self._names),
        )
