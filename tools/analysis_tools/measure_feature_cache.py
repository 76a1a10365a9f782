"""Measure what FeatureCacheHook saves, on the digit scenes.

python tools/analysis_tools/measure_feature_cache.py [CONFIG]
    [--arch base] [--size 448] [--images 64] [--passes 3] [--blocks N]
    [--stored float16 int8] [--seeds 0] [--test] [--folder DIR] [--json FILE]

Trains the quickstart's Mask R-CNN with FIXED without the cache and with it,
in turns for each seed (--seeds 0 0 shows the spread). Seconds are an image's,
in the first pass over the images and the median of later ones: all, loading
data, in the backbone, and the rest: neck, heads, loss, backward pass and
optimizer. Without a GPU they are those of the processor, to which it does not
matter what else runs on the machine; waiting for a disk is not in them.

tools/quickstart.sh makes the scenes and the weights. With --arch the backbone
is another Swin with random weights.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmlowrank.analysis import quickstart
from mmlowrank.analysis.contenders import ARCHS
from mmlowrank.engine import FeatureCacheHook

PARTS = ('data', 'backbone', 'rest', 'all')


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        'config', nargs='?', default=quickstart.config_of('FIXED')
    )
    parser.add_argument('--arch', choices=ARCHS, help='of another Swin')
    parser.add_argument('--size', type=int, help='of an image; 160 as it is')
    parser.add_argument('--images', type=int, help='so many, not all')
    parser.add_argument(
        '--passes', type=int, help='over the images, not as in the config'
    )
    parser.add_argument(
        '--blocks', type=int, help='PARTIAL: so many last blocks train'
    )
    parser.add_argument('--stored', nargs='+', default=['float16', 'int8'])
    parser.add_argument('--seeds', nargs='+', type=int, default=[0])
    parser.add_argument('--test', action='store_true', help='mAP, too')
    parser.add_argument('--folder', help='of the features, kept afterwards')
    parser.add_argument('--json', help='a file to write')
    return parser.parse_args()


class Clock(Hook):
    """Notes the seconds of each iteration, and of what is in it."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.iterations: list[dict[str, float]] = []

    def before_train(self, runner: Runner) -> None:
        """Look at the backbone from outside, which a trunk allows."""
        backbone = runner.model.backbone
        self._handles = [
            backbone.register_forward_pre_hook(self._enter),
            backbone.register_forward_hook(self._leave),
        ]
        self._last = self._now()

    def before_train_iter(self, *_: Any, **__: Any) -> None:
        """The batch is there."""
        self._data = self._now() - self._last
        self._backbone = 0.0

    def after_train_iter(self, *_: Any, **__: Any) -> None:
        """The step is done."""
        now = self._now()
        step = dict(data=self._data, backbone=self._backbone)
        step['all'] = now - self._last
        step['rest'] = step['all'] - sum((self._data, self._backbone))
        self.iterations.append(step)
        self._last = now

    def after_train(self, *_: Any, **__: Any) -> None:
        """Look no longer."""
        for handle in self._handles:
            handle.remove()

    def _enter(self, *_: Any) -> None:
        self._entered = self._now()

    def _leave(self, *_: Any) -> None:
        self._backbone += self._now() - self._entered

    @staticmethod
    def _now() -> float:
        if not torch.cuda.is_available():
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()


def config_of(args: argparse.Namespace, seed: int) -> Config:
    """Return the config that is run, without a cache."""
    cfg = Config.fromfile(args.config)
    dataset = cfg.train_dataloader.dataset
    if args.images:
        dataset.indices = args.images
    for pipeline in (dataset.pipeline, cfg.test_dataloader.dataset.pipeline):
        if args.size:
            resize = dict(type='Resize', scale=(args.size, args.size))
            pipeline[:] = [t for t in pipeline if t.type != 'Resize']
            pipeline.insert(len(pipeline) - 1, resize)
    if args.arch:
        cfg.model.backbone = dict(
            type='mmlowrank.SwinFixed',
            drop_path_rate=0.0,
            **ARCHS[args.arch],
        )
        widths = [cfg.model.backbone.embed_dims * 2**i for i in range(4)]
        cfg.model.neck.in_channels = widths
    if args.blocks:
        cfg.model.backbone.type = 'mmlowrank.SwinPartial'
        cfg.model.backbone.layers = list(range(-args.blocks, 0))
    cfg.randomness = dict(seed=seed)
    cfg.default_hooks.logger.interval = 10**6
    return cfg


def run(cfg: Config, args: argparse.Namespace, stored: str | None) -> dict:
    """Train, with features stored as said or without; return a row."""
    with tempfile.TemporaryDirectory() as work:
        cfg.work_dir = work
        cfg.experiment_name = f'{stored}{time.time_ns()}'
        cfg.visualizer = dict(type='Visualizer', vis_backends=[])
        if not args.test:
            cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None
        runner = Runner.from_cfg(cfg)
        clock = Clock()
        runner.register_hook(clock)
        batch, images = cfg.train_dataloader.batch_size, args.images
        images = images or len(
            runner.build_dataloader(cfg.train_dataloader).dataset
        )
        if args.passes:
            steps = args.passes * images // batch
            runner.train_loop._max_iters = steps
        row: dict[str, Any] = dict(stored=stored, seed=cfg.randomness.seed)
        if stored:
            folder = Path(args.folder or f'{work}/features', stored)
            hook = FeatureCacheHook(str(folder), stored=stored)
            runner.register_hook(hook)
        runner.train()
        a_pass = images // batch
        passes = [
            clock.iterations[i : i + a_pass]
            for i in range(0, len(clock.iterations) - a_pass + 1, a_pass)
        ]
        for part in PARTS:
            seconds = [
                sum(step[part] for step in steps) / (a_pass * batch)
                for steps in passes
            ]
            row[f'first {part}'] = seconds[0]
            row[f'later {part}'] = statistics.median(seconds[1:])
        if stored:
            sizes = [f.stat().st_size for f in folder.rglob('*.features')]
            row['bytes'] = statistics.mean(sizes)
        if args.test:
            row |= runner.test()
        return row


def main() -> None:
    """Measure and print."""
    args = parse_args()
    rows = []
    for seed in args.seeds:
        for stored in (None, *args.stored):
            rows.append(run(config_of(args, seed), args, stored))
            if args.json:
                Path(args.json).write_text(json.dumps(rows, indent=1))
    device = 'CUDA' if torch.cuda.is_available() else 'processor time'
    print(
        f'{Path(args.config).name}, --arch {args.arch} --size {args.size} '
        f'--images {args.images} --blocks {args.blocks}, {device}, '
        f'{torch.get_num_threads()} threads\n'
        'Milliseconds an image. Speed-up of later passes, over the mean of '
        'the runs without.'
    )
    head = ['cache', 'seed', 'first pass', 'later', 'data', 'backbone', 'rest']
    head += ['speed-up', 'of the backbone', 'MB an image', 'box mAP', 'mask']
    print('| ' + ' | '.join(head) + ' |')
    print('|' + '---|' * len(head))
    stock = [row for row in rows if row['stored'] is None]
    for row in rows:
        cells = [row['stored'] or 'none', str(row['seed'])]
        cells += [f'{1e3 * row["first all"]:.1f}']
        cells += [
            f'{1e3 * row[f"later {part}"]:.1f}'
            for part in ('all', 'data', 'backbone', 'rest')
        ]
        cells += [
            f'{statistics.mean(r[part] for r in stock) / row[part]:.2f}'
            for part in ('later all', 'later backbone')
        ]
        cells += [f'{row["bytes"] / 1e6:.3f}' if 'bytes' in row else '']
        cells += [
            f'{row[key]:.3f}' if key in row else ''
            for key in ('coco/bbox_mAP', 'coco/segm_mAP')
        ]
        print('| ' + ' | '.join(cells) + ' |')


if __name__ == '__main__':
    main()
