"""Do the annotations hold what the pipeline and the classes need?

A few are looked at before training starts. What is wrong with them would
come up later as a KeyError in a worker, an index out of range, or an assert
on the GPU, none of which names the file.
"""

import logging
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from mmengine.logging import print_log

# As many masks, and as many lists of instances, tell of the others.
_MASKS, _IMAGES = 8, 200


def check_annotations(dataset: Any, key: str, train: bool) -> None:
    """Look at a few annotations of a built data set.

    Args:
        dataset: A data set that wraps no other.
        key: What it is in the config, for the errors.
        train: Whether it is trained on. In a test set, pixels of no class
            are only warned about: the metrics pass over them.

    Raises:
        ValueError: If masks are to be loaded and there are none, or if the
            pixels of a semantic mask have values of no class.
    """
    transforms = getattr(getattr(dataset, 'pipeline', None), 'transforms', ())
    for transform in transforms:
        if type(transform).__name__ != 'LoadAnnotations':
            continue
        if getattr(transform, 'with_mask', False):
            _check_instance_masks(dataset, key)
        if hasattr(dataset, 'reduce_zero_label'):
            _check_semantic_masks(dataset, transform, key, train)


def _spread(dataset: Any, number: int) -> Iterator[dict]:
    """Yield what is known of samples from all over a data set."""
    step = max(math.ceil(len(dataset) / number), 1)
    for i in range(0, len(dataset), step):
        yield dataset.get_data_info(i)


def _check_instance_masks(dataset: Any, key: str) -> None:
    for info in _spread(dataset, _IMAGES):
        if all('mask' in each for each in info.get('instances', ())):
            continue
        raise ValueError(
            f'{key}: objects of {info["img_path"]} have a box and no mask '
            f'(segmentation) in {dataset.ann_file}, but the pipeline loads '
            'masks. Annotate them, or take a config of boxes: a detector '
            'without a mask head, and LoadAnnotations without with_mask'
        )


def _check_semantic_masks(
    dataset: Any, transform: Any, key: str, train: bool
) -> None:
    classes = dataset.metainfo.get('classes')
    for info in _spread(dataset, _MASKS) if classes else ():
        labels = transform(info)['gt_seg_map']
        path = info['seg_map_path']
        if labels.ndim != 2:
            raise ValueError(
                f'{key}: {path} has {labels.shape[-1]} channels, as a picture '
                'in colors has. A mask has one, with the number of a class in '
                'each pixel'
            )
        skipped = (255, dataset.ignore_index)
        unknown = [
            int(value)
            for value in np.unique(labels)
            if value >= len(classes) and value not in skipped
        ]
        if not unknown:
            continue
        first = int(bool(dataset.reduce_zero_label))
        shown = ', '.join(str(value + first) for value in unknown[:5])
        text = (
            f'{key}: {path} has pixels of {shown}, and the {len(classes)} '
            f'classes in metainfo are {first} to {len(classes) - 1 + first} '
            f'with reduce_zero_label={bool(first)}. Ignored pixels are 255'
            f'{" or 0" if first else ""}'
        )
        if train:
            raise ValueError(text)
        print_log(text, logger='current', level=logging.WARNING)
        return
