"""Predict several tasks of one image off one trunk, and say what that saves.

python tools/several_tasks.py IMAGE OUT.png
    --task boxes CONFIG FILE --task semantic CONFIG FILE ... [--repeats 5]

Each task is a model of mmdet or mmseg that E3VA tuned, and FILE its adapter
file; the Swin and the weights it started from are the same for all. The
trunk is there once and runs once. OUT.png shows the image and what each task
found.

The results are compared with those of the models by themselves, and seconds
and memory of both are measured in turns.
"""

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path

import cv2
import mmcv
import numpy as np
import torch
from mmengine.logging import MMLogger
from mmengine.registry import VISUALIZERS
from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor

from mmlowrank.analysis import measuring
from mmlowrank.checkpoint.trust import TRUST, unpickling
from mmlowrank.models.served import ServedTasks, Task

DRAWN_BY = {'mmdet': 'DetLocalVisualizer', 'mmseg': 'SegLocalVisualizer'}
HEADER = 24  # pixels
READABLE = 480  # pixels; a smaller image is enlarged up to it
SURE = 0.5  # of the score; lower ones would be drawn over others


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('image', type=Path)
    parser.add_argument('out', type=Path, help='picture to write')
    parser.add_argument(
        '--task',
        nargs=3,
        action='append',
        required=True,
        metavar=('NAME', 'CONFIG', 'FILE'),
        help='its name, the config and the adapter file; once for each task',
    )
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument(
        '--device', default='cuda' if torch.cuda.is_available() else 'cpu'
    )
    parser.add_argument('--trust', action='store_true', help=TRUST)
    args = parser.parse_args()
    named = [file for _, *files in args.task for file in files]
    for file in (args.image, *named):
        if '::' not in str(file) and not Path(file).is_file():
            raise SystemExit(f'There is no file {file}')
    if len({name for name, *_ in args.task}) < len(args.task):
        raise SystemExit('Two tasks have one name: give each its own')
    if not cv2.haveImageWriter(str(args.out)):
        raise SystemExit(f'{args.out} must end as a picture, in .png or .jpg')
    return args


def tensors(result: BaseDataElement) -> Iterator[tuple[str, Tensor]]:
    """Yield all that a model found, by name."""
    for name, value in result.items():
        if isinstance(value, BaseDataElement):
            yield from ((f'{name}.{n}', t) for n, t in tensors(value))
        elif isinstance(value, Tensor):
            yield name, value


def difference(
    one: dict[str, BaseDataElement], other: dict[str, BaseDataElement]
) -> str:
    """Return where two sets of results differ; nothing if to no bit."""
    for task in one:
        ours, theirs = dict(tensors(one[task])), dict(tensors(other[task]))
        for name in ours.keys() | theirs.keys():
            both = name in ours and name in theirs
            if not both or not torch.equal(ours[name], theirs[name]):
                return f'{name} of {task}'
    return ''


def shown(
    image: np.ndarray, result: BaseDataElement
) -> tuple[np.ndarray, BaseDataElement]:
    """Return what can be read in a picture: sure objects, small images large.

    Args:
        image: (height, width, 3).
        result: Of a task.

    Returns:
        Both, enlarged by the same whole number.
    """
    times = max(1, READABLE // max(image.shape[:2]))
    image = image.repeat(times, 0).repeat(times, 1)
    result = result.cpu().clone()

    def larger(maps: Tensor) -> Tensor:
        return maps.repeat_interleave(times, -1).repeat_interleave(times, -2)

    if 'pred_instances' in result:
        found = result.pred_instances
        found = found[found.scores > SURE]
        found.bboxes = found.bboxes * times
        if 'masks' in found:
            found.masks = larger(found.masks)
        result.pred_instances = found
    if 'pred_sem_seg' in result:
        result.pred_sem_seg = PixelData(data=larger(result.pred_sem_seg.data))
    return image, result


def draw(
    name: str, task: Task, image: np.ndarray, result: BaseDataElement
) -> np.ndarray:
    """Let mmdet or mmseg draw what it found.

    Args:
        name: Of the task.
        task: The task.
        image: (height, width, 3), RGB.
        result: Of the task.

    Returns:
        (height, width, 3), RGB.
    """
    # Also of a file that somebody wrote without them.
    classes = task.dataset_meta.get('classes') or [*map(str, range(1000))]
    # Tasks with as many classes have the same colors.
    colors = np.random.default_rng(0).integers(256, size=(len(classes), 3))
    palette = [*map(tuple, colors.tolist())]
    with task.scope():
        kind = DRAWN_BY[task.cfg.default_scope]
        visualizer = VISUALIZERS.build(dict(type=kind, name=f'task {name}'))
    visualizer.dataset_meta = dict(classes=classes, palette=palette)
    visualizer.add_datasample(name, *shown(image, result), draw_gt=False)
    return visualizer.get_image()


def titled(title: str, picture: np.ndarray) -> np.ndarray:
    """Return a picture with its title above it."""
    header = np.full((HEADER, picture.shape[1], 3), 255, np.uint8)
    font, black = cv2.FONT_HERSHEY_SIMPLEX, (0, 0, 0)
    place = (4, HEADER - 8)
    cv2.putText(header, title, place, font, 0.5, black, 1, cv2.LINE_AA)
    return np.vstack([header, picture])


def write_picture(
    out: Path,
    image: np.ndarray,
    served: ServedTasks,
    results: dict[str, BaseDataElement],
) -> None:
    """Write the image and each task's picture of it side by side."""
    plain, _ = shown(image, BaseDataElement())
    tiles = [titled('image', plain)]
    for name, task in served.tasks.items():
        tiles.append(titled(name, draw(name, task, image, results[name])))
    mmcv.imwrite(mmcv.rgb2bgr(np.hstack(tiles)), str(out))


@torch.no_grad()
def compare(
    served: ServedTasks, alone: dict[str, Task], image: str, repeats: int
) -> Iterator[tuple[str, float, float, str]]:
    """Yield what is measured, of one trunk and of all models, and a format."""
    models = [task.model for task in alone.values()]
    heads = [task.model for task in served.tasks.values()]
    inputs = next(iter(alone.values())).prepare(image)['inputs']
    whole = (
        lambda: served.predict(image),
        lambda: [task.predict(image) for task in alone.values()],
    )
    backbones = (
        lambda: served.shared(inputs),
        lambda: [model.backbone(inputs) for model in models],
    )
    for what, calls in (
        ('seconds', whole),
        ('seconds of the backbones', backbones),
    ):
        times = measuring.time_calls(dict(enumerate(calls)), repeats)
        yield what, *map(statistics.median, times.values()), '.3f'
    one = measuring.weight_bytes(served.shared, *heads)
    several = measuring.weight_bytes(*models)
    yield 'MiB of weights', one / 2**20, several / 2**20, '.1f'
    one, several = (measuring.peak_bytes(c, inputs.device) for c in whole)
    yield 'MiB beside them, at most', one / 2**20, several / 2**20, '.1f'


def main() -> None:
    """Predict, draw, compare, print."""
    args = parse_args()
    # Each file that is loaded would be a line of the log.
    MMLogger.get_instance('several_tasks', log_level='WARNING')
    tasks = {name: files for name, *files in args.task}
    image = str(args.image)
    picture = mmcv.imread(image)
    if picture is None:
        raise SystemExit(f'{image} is no picture that OpenCV reads')
    try:
        with unpickling(args.trust):
            served = ServedTasks(tasks, args.device)
            alone = {n: Task(*f, args.device) for n, f in tasks.items()}
        results = served.predict(image)
    except (ValueError, RuntimeError) as error:
        raise SystemExit(str(error)) from None
    differs = difference(
        results, {n: t.predict(image) for n, t in alone.items()}
    )
    if differs:
        raise SystemExit(f'Off one trunk and alone, {differs} is not the same')
    write_picture(args.out, mmcv.bgr2rgb(picture), served, results)
    print(f'{args.out} is written.')
    height, width = picture.shape[:2]
    print(
        f'\nOne image of {width} x {height}, {args.device}, '
        f'{torch.get_num_threads()} threads, median of {args.repeats}. '
        'The results are equal to the bit.\n'
    )
    print(f'| | one trunk | {len(tasks)} models | ratio |')
    print('|---|---:|---:|---:|')
    for what, one, several, form in compare(
        served, alone, image, args.repeats
    ):
        print(
            f'| {what} | {one:{form}} | {several:{form}} '
            f'| {one / several:.2f} |'
        )


if __name__ == '__main__':
    main()
