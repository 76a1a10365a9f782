"""A batch as a config trains on, of an assumed size."""

import copy
from argparse import ArgumentParser
from collections.abc import Iterator
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import TRANSFORMS, DefaultScope

# Of the annotated instances of COCO's train2017, 860,001 in 117,266 images.
OBJECTS = 7
_PACKERS = dict(
    mmdet='PackDetInputs', mmseg='PackSegInputs', mmpretrain='PackInputs'
)


def train_pipeline(cfg: Config) -> list[dict]:
    """Return the transforms of the training images.

    Raises:
        ValueError: If the config has none.
    """
    data = cfg.get('train_dataloader', {}).get('dataset', {})
    while not data.get('pipeline'):
        inner = data.get('dataset') or (data.get('datasets') or [None])[0]
        if not inner:
            raise ValueError(
                'the config has no train_dataloader.dataset.pipeline, from '
                'which the size of the images is read: name it with '
                '--img-scale WIDTH HEIGHT'
            )
        data = inner
    return data['pipeline']


def add_scale(parser: ArgumentParser) -> None:
    """Add ``--img-scale``, in the place of :func:`image_scale`."""
    parser.add_argument(
        '--img-scale',
        nargs=2,
        type=int,
        metavar=('WIDTH', 'HEIGHT'),
        help='of an image; default: the largest that the config trains on',
    )


def image_scale(cfg: Config) -> tuple[int, int]:
    """Return width and height of the largest image that a config trains on.

    Raises:
        ValueError: If no transform says it.
    """
    scale = _scale(train_pipeline(cfg), None)
    if scale is None:
        raise ValueError(
            'no transform of train_dataloader names the size of an image: '
            'name it with --img-scale WIDTH HEIGHT'
        )
    return scale


def resized(cfg: Config, scale: tuple[int, int] | None) -> Config:
    """Return a config that pads to the size of the images it is planned for.

    mmseg's preprocessor pads every crop to one size.

    Args:
        cfg: A config.
        scale: Width and height of an image; None: the config is as it is.
    """
    preprocessor = cfg.model.get('data_preprocessor') or {}
    if scale is None or not preprocessor.get('size'):
        return cfg
    cfg = copy.deepcopy(cfg)
    cfg.model.data_preprocessor['size'] = tuple(scale)[::-1]
    return cfg


def make_batch(
    cfg: Config, batch: int, scale: tuple[int, int], objects: int = OBJECTS
) -> dict[str, list]:
    """Make a batch, as a data loader of the config would hand to the model.

    Images are empty. In each are the same objects, of all sizes.

    Args:
        cfg: A config of mmdet, mmseg or mmpretrain.
        batch: Images.
        scale: Width and height of an image.
        objects: In an image of a detector.

    Raises:
        ValueError: If the config is of another framework.
    """
    scope = cfg.get('default_scope')
    if scope not in _PACKERS:
        raise ValueError(
            f"default_scope is '{scope}': batches are known of "
            f'{", ".join(_PACKERS)}'
        )
    width, height = scale
    results: dict[str, Any] = dict(
        img=np.zeros((height, width, 3), np.uint8),
        img_shape=(height, width),
        ori_shape=(height, width),
        scale_factor=(1.0, 1.0),
        flip=False,
        flip_direction=None,
        height=height,
        width=width,
        img_path='',
        img_id=0,
    )
    with DefaultScope.overwrite_default_scope(scope):
        pack = TRANSFORMS.build(dict(type=_PACKERS[scope]))
        if scope == 'mmpretrain':
            results['gt_label'] = 0
        elif scope == 'mmseg':
            results['gt_seg_map'] = np.zeros((height, width), np.uint8)
            results['seg_fields'] = ['gt_seg_map']
        else:
            load = next(
                step
                for step in _steps(train_pipeline(cfg))
                if step['type'].endswith('LoadAnnotations')
            )
            results['instances'] = _objects(width, height, objects)
            results = TRANSFORMS.build(load)(results)
        samples = [pack(dict(results)) for _ in range(batch)]
    return {key: [s[key] for s in samples] for key in samples[0]}


def _objects(width: int, height: int, count: int) -> list[dict]:
    """Return boxes with an octagon each, from a twelfth to two thirds."""
    random = np.random.default_rng(0)
    found = []
    for size in np.geomspace(1 / 12, 2 / 3, count):
        w, h = size * min(width, height) * random.uniform(0.8, 1.25, 2)
        w, h = min(w, width - 2), min(h, height - 2)
        x = random.uniform(0, width - w - 1)
        y = random.uniform(0, height - h - 1)
        angle = np.arange(8) * np.pi / 4
        ring = [
            x + w * (1 + np.cos(angle)) / 2,
            y + h * (1 + np.sin(angle)) / 2,
        ]
        found.append(
            dict(
                bbox=[x, y, x + w, y + h],
                bbox_label=0,
                ignore_flag=0,
                mask=[np.stack(ring, 1).ravel().tolist()],
            )
        )
    return found


def _steps(pipeline: list[dict]) -> Iterator[dict]:
    for step in pipeline:
        yield step
        for branch in step.get('transforms') or ():
            yield from _steps([branch] if isinstance(branch, dict) else branch)


def _scale(
    pipeline: list[dict], scale: tuple[int, int] | None
) -> tuple[int, int] | None:
    for step in pipeline:
        kind = step['type'].split('.')[-1]
        branches = step.get('transforms')
        if branches and isinstance(branches[0], (list, tuple)):
            found = [_scale(branch, scale) for branch in branches]
            scale = max(filter(None, found), key=np.prod, default=scale)
        elif branches:
            scale = _scale(branches, scale)
        elif kind in ('RandomCrop', 'CenterCrop', 'EfficientNetCenterCrop'):
            crop = step['crop_size']
            known = step.get('crop_type', 'absolute').startswith('absolute')
            if known:
                scale = _pair(crop)[::-1]
        elif 'scale' in step or 'scales' in step or 'img_scale' in step:
            given = (
                step.get('scales') or step.get('scale') or step['img_scale']
            )
            several = (
                isinstance(given[0], (list, tuple)) if _many(given) else 0
            )
            pairs = map(_pair, given if several else [given])
            scale = max(pairs, key=np.prod)
    return scale


def _many(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _pair(size: Any) -> tuple[int, int]:
    return tuple(size) if _many(size) else (size, size)
