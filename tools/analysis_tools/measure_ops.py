"""Measure torchvision's operators against mmcv's compiled ones, in turns.

python tools/analysis_tools/measure_ops.py [--rois 512] [--boxes 5000]
    [--repeats 9] [--compiled-at SITE_PACKAGES]

RoIAlign forward and backward on a map of an image of 800 x 1344 at stride 8,
and nms. Prints milliseconds (medians, this machine's) and the ratio to the
compiled operators, if mmcv has them. ``--compiled-at`` takes those of another
environment of the same Python and torch instead: another compiler, or other
flags.
"""

import argparse
import importlib
import statistics
from collections.abc import Callable
from functools import partial
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import torch

from mmlowrank import ops
from mmlowrank.analysis.measuring import time_calls


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rois', type=int, default=512)
    parser.add_argument('--boxes', type=int, default=5000)
    parser.add_argument('--channels', type=int, default=256)
    parser.add_argument('--repeats', type=int, default=9)
    parser.add_argument(
        '--compiled-at',
        type=Path,
        help='site-packages of another environment, its mmcv compiled',
    )
    return parser.parse_args()


def modules(other: Path | None) -> dict[str, ModuleType]:
    """Return the modules to compare, the stand-in first.

    Raises:
        SystemExit: If there is no compiled module at ``other``.
    """
    spec = ops.find_spec('mmcv._ext')
    found = {'torchvision': module_from_spec(spec)}
    spec.loader.exec_module(found['torchvision'])
    if other is None:
        if ops.compiled():
            found['compiled'] = importlib.import_module('mmcv._ext')
        return found
    # Not beside our own: two copies in a process share one table of kernels,
    # and both would run those of the copy that came last.
    paths = [other / 'mmcv' / f'_ext{end}' for end in EXTENSION_SUFFIXES]
    path = next(filter(Path.is_file, paths), None)
    if path is None:
        raise SystemExit(f'There are no compiled ops in {other}/mmcv')
    spec = spec_from_file_location('other._ext', path)
    found['compiled'] = module_from_spec(spec)
    spec.loader.exec_module(found['compiled'])
    return found


def tasks(args: argparse.Namespace, device: str) -> dict[str, Callable]:
    """Return what is timed: functions of a module."""
    torch.manual_seed(0)
    image = torch.tensor([1344.0, 800])
    maps = torch.randn(2, args.channels, 100, 168, device=device)

    def random_boxes(count: int) -> torch.Tensor:
        corners = torch.rand(count, 2) * image * 0.8
        sizes = 16 + torch.rand(count, 2) * 240
        return torch.cat([corners, corners + sizes], 1).to(device)

    first = torch.randint(2, (args.rois, 1), device=device)
    rois = torch.cat([first, random_boxes(args.rois)], 1)
    boxes = random_boxes(args.boxes)
    scores = torch.rand(args.boxes, device=device)
    out = maps.new_zeros(args.rois, args.channels, 7, 7)
    seed, grad, none = torch.randn_like(out), maps.clone(), maps.new_zeros(0)
    options = dict(
        aligned_height=7,
        aligned_width=7,
        spatial_scale=0.125,
        sampling_ratio=0,
        pool_mode=1,
        aligned=True,
    )

    def forward(ext: ModuleType) -> torch.Tensor:
        ext.roi_align_forward(maps, rois, out, none, none, **options)
        return out

    def backward(ext: ModuleType) -> torch.Tensor:
        grad.zero_()
        ext.roi_align_backward(seed, rois, none, none, grad, **options)
        return grad

    return {
        f'RoIAlign of {args.rois}, forward': forward,
        f'RoIAlign of {args.rois}, backward': backward,
        f'nms of {args.boxes}': lambda ext: ext.nms(
            boxes, scores, iou_threshold=0.7, offset=0
        ),
    }


def main() -> None:
    """Measure and print."""
    args = parse_args()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    compared = modules(args.compiled_at)
    print(
        f'{device}, {torch.get_num_threads()} threads, ms, median of '
        f'{args.repeats} in turns'
    )
    alone = len(compared) == 1
    titles = f'{"":<28}{"torchvision":>14}'
    print(titles + ('' if alone else f'{"compiled":>14}{"ratio":>8}'))
    for name, function in tasks(args, device).items():
        calls = {key: partial(function, ext) for key, ext in compared.items()}
        results = [call().clone() for call in calls.values()]
        times = time_calls(calls, args.repeats).values()
        ours, *theirs = (1e3 * statistics.median(taken) for taken in times)
        line = f'{name:<28}{ours:>14.1f}'
        for value in theirs:
            line += f'{value:>14.1f}{ours / value:>8.2f}'
        same = all(torch.equal(results[0], result) for result in results)
        print(line + ('' if same else '  (results differ)'))
    if alone:
        print(
            'No ratios: mmcv has no compiled ops here. MMCV_OPS=compile bash '
            'tools/setup_env.sh builds them'
        )


if __name__ == '__main__':
    main()
