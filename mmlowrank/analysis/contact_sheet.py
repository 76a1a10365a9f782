"""A sheet of pictures: the truth and what each detector predicts."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

# Ten colors that stay apart on any background, BGR.
_COLORS = (
    (75, 25, 230),
    (75, 180, 60),
    (25, 225, 255),
    (216, 99, 67),
    (49, 130, 245),
    (180, 30, 145),
    (244, 212, 66),
    (230, 50, 240),
    (69, 239, 191),
    (40, 110, 170),
)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_HEADER, _GAP = 34, 6
Instance = dict[str, Any]


def predictions_of(path: str | Path, threshold: float) -> dict[str, list]:
    """Read the file of ``tools/test.py --out``.

    Args:
        path: A pickle file that the user's own test run wrote.
        threshold: Instances with a lower score are left out.

    Returns:
        For each image's file name, its instances: ``label``, ``box``
        (x1, y1, x2, y2), ``mask`` (``bool [H, W]``) and ``text``.
    """
    with Path(path).open('rb') as file:
        results = pickle.load(file)
    found = {}
    for result in results:
        instances = result['pred_instances']
        found[Path(result['img_path']).name] = [
            {
                'label': int(instances['labels'][i]),
                'box': [float(v) for v in instances['bboxes'][i]],
                'mask': coco_mask.decode(instances['masks'][i]) > 0,
                'text': f'{int(instances["labels"][i])} {score:.2f}',
            }
            for i, score in enumerate(instances['scores'].tolist())
            if score >= threshold
        ]
    return found


def truth_of(ann_file: str | Path) -> dict[str, list]:
    """Read a COCO file into the form of :func:`predictions_of`."""
    coco = COCO(str(ann_file))
    labels = {number: i for i, number in enumerate(sorted(coco.getCatIds()))}
    found = {}
    for image in coco.loadImgs(coco.getImgIds()):
        instances = []
        for ann in coco.loadAnns(coco.getAnnIds(image['id'])):
            x, y, width, height = ann['bbox']
            label = labels[ann['category_id']]
            instances.append(
                {
                    'label': label,
                    'box': [x, y, x + width, y + height],
                    'mask': coco.annToMask(ann) > 0,
                    'text': str(label),
                }
            )
        found[image['file_name']] = instances
    return found


def draw_instances(
    image: np.ndarray, instances: Sequence[Instance], scale: int = 2
) -> np.ndarray:
    """Draw masks, boxes and labels on an enlarged copy of an image.

    Args:
        image: ``uint8 [H, W, 3]``, BGR.
        instances: See :func:`predictions_of`.
        scale: Enlargement.
    """
    size = image.shape[1] * scale, image.shape[0] * scale
    canvas = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    for instance in instances:
        color = _COLORS[instance['label'] % len(_COLORS)]
        mask = cv2.resize(instance['mask'].astype(np.float32), size) > 0.5
        canvas[mask] = 0.45 * canvas[mask] + 0.55 * np.array(color)
    for instance in instances:
        color = _COLORS[instance['label'] % len(_COLORS)]
        left, top, right, bottom = (
            round(value * scale) for value in instance['box']
        )
        cv2.rectangle(canvas, (left, top), (right, bottom), color, 1)
        _label(canvas, instance['text'], left, top, color)
    return canvas


def _label(
    canvas: np.ndarray,
    text: str,
    left: int,
    top: int,
    color: tuple[int, int, int],
) -> None:
    """Write a text on a plate above a corner, kept inside the canvas."""
    (width, height), _ = cv2.getTextSize(text, _FONT, 0.38, 1)
    left = max(0, min(left, canvas.shape[1] - width - 2))
    bottom = max(top, height + 3)
    cv2.rectangle(
        canvas,
        (left, bottom - height - 3),
        (left + width + 1, bottom),
        color,
        cv2.FILLED,
    )
    # Black on light plates, white on dark ones.
    light = sum(color) > 380
    ink = (0, 0, 0) if light else (255, 255, 255)
    place = (left + 1, bottom - 2)
    cv2.putText(canvas, text, place, _FONT, 0.38, ink, 1, cv2.LINE_AA)


def write_contact_sheet(
    path: str | Path,
    image_dir: str | Path,
    columns: dict[str, dict[str, list]],
    num_images: int = 6,
    scale: int = 2,
) -> None:
    """Write a PNG with a row for each image and a titled column per source.

    Args:
        path: The file to write.
        image_dir: Folder of the images.
        columns: Title to instances by file name; the first column's keys
            say which images there are.
        num_images: Number of rows.
        scale: Enlargement of the images.
    """
    names = sorted(next(iter(columns.values())))[:num_images]
    rows = []
    for name in names:
        image = cv2.imread(str(Path(image_dir) / name))
        if image is None:
            raise FileNotFoundError(f'{Path(image_dir) / name} is missing')
        tiles = [
            draw_instances(image, found.get(name, []), scale)
            for found in columns.values()
        ]
        rows.append(_beside(tiles))
    width = (rows[0].shape[1] - _GAP) // len(columns)
    header = np.full((_HEADER, rows[0].shape[1], 3), 255, np.uint8)
    for i, title in enumerate(columns):
        place = (_GAP + i * width + 2, _HEADER - 10)
        cv2.putText(
            header, title, place, _FONT, 0.6, (0, 0, 0), 1, cv2.LINE_AA
        )
    if not cv2.imwrite(str(path), np.vstack([header, *rows])):
        raise OSError(f'{path} could not be written')


def _beside(tiles: Sequence[np.ndarray]) -> np.ndarray:
    framed = [
        cv2.copyMakeBorder(
            tile, 0, _GAP, 0, _GAP, cv2.BORDER_CONSTANT, value=(255,) * 3
        )
        for tile in tiles
    ]
    row = np.hstack(framed)
    white = np.full((row.shape[0], _GAP, 3), 255, np.uint8)
    return np.hstack([white, row])
