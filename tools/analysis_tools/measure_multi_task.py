"""Measure what each further task costs where several share one trunk.

python tools/analysis_tools/measure_multi_task.py [--tasks 3] [--arch base]
    [--size 448] [--repeats 5]

Times, in turns, the inference of one E3VA backbone and of MultiTaskE3VA with
several highways.
"""

import argparse
import statistics

import torch
from mmengine.registry import MODELS, DefaultScope

from mmlowrank.analysis import contenders, measuring


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--arch', choices=contenders.ARCHS, default='base')
    parser.add_argument('--size', type=int, default=448, help='of an image')
    parser.add_argument('--tasks', type=int, default=3)
    parser.add_argument('--repeats', type=int, default=5)
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    args = parse_args()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    tuner = dict(type='E3VA', rank=8)
    one = contenders.build_tuned(args.arch, tuner)
    with DefaultScope.overwrite_default_scope('mmdet'):
        several = MODELS.build(
            dict(
                type='mmlowrank.MultiTaskE3VA',
                backbone=dict(
                    type='SwinTransformer',
                    drop_path_rate=0.0,
                    **contenders.ARCHS[args.arch],
                ),
                tasks={f'task {i}': dict(rank=8) for i in range(args.tasks)},
            )
        )
    images = torch.randn(1, 3, args.size, args.size, device=device)
    seconds = measuring.measure_inference(
        {'one task': one.to(device), 'one trunk': several.to(device)},
        images,
        args.repeats,
    )
    median = {name: statistics.median(s) for name, s in seconds.items()}
    alone, shared = median['one task'], median['one trunk']
    print(
        f'Swin-{args.arch}, 1 x 3 x {args.size} x {args.size}, fp32, '
        f'{device}, {torch.get_num_threads()} threads, median of '
        f'{args.repeats}'
    )
    print(f'one task              {alone:8.3f} s')
    print(
        f'{args.tasks} tasks, one trunk    {shared:8.3f} s'
        f'   {shared / alone:.3f} x one task'
    )
    if args.tasks > 1:
        extra = (shared / alone - 1) / (args.tasks - 1)
        print(f'each further task     {extra:8.3f} x one task')


if __name__ == '__main__':
    main()
