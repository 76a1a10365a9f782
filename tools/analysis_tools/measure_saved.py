"""Measure what saving in fewer bits changes: bytes, gradients, seconds.

python tools/analysis_tools/measure_saved.py [CONFIG ...] [--batch N]
    [--img-scale WIDTH HEIGHT] [--tuner NAME] [--repeats 3] [--json FILE]

For each kind of ``optim_wrapper.saved``, a step of the same model on the same
batch, in turns. Without a config: a Swin-B's backbone, the quickstart's Mask
R-CNN, and a Cascade Mask R-CNN. The gradients' error is relative to the exact
ones, all trained tensors together. Bytes are the same everywhere, seconds are
this machine's.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmlowrank.analysis.planned_batch import image_scale, make_batch
from mmlowrank.analysis.planned_step import build_model

from mmlowrank.analysis import saving
from mmlowrank.analysis.measuring import build_tuned, method_table, saved_bytes
from mmlowrank.engine.tuned_config import add_arguments, read

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
# Title, config, width and height.
DETECTORS = (
    (
        'Mask R-CNN of the quickstart, LoRand',
        'quickstart/mask-rcnn_swin-mini_lorand-b4r8_800it_digits.py',
        (160, 160),
    ),
    (
        'Cascade Mask R-CNN, Swin-T, LoRand, 320 x 320',
        'lorand/cascade-mask-rcnn_swin-t_lorand-b2r8_3x_coco.py',
        (320, 320),
    ),
)
SIZE = 448


@dataclass
class Result:
    """The rows of one model; ``full`` are FULL's bytes where known."""

    title: str
    rows: list[saving.Saving]
    full: int | None = None


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('configs', nargs='*', help='config files')
    add_arguments(parser)
    parser.add_argument('--batch', type=int, default=1, help='images')
    parser.add_argument(
        '--img-scale',
        nargs=2,
        type=int,
        metavar=('WIDTH', 'HEIGHT'),
        help='of an image; default: the largest that the config trains on',
    )
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--json', help='write the numbers here')
    return parser.parse_args()


def measure_backbone(
    method: str, images: torch.Tensor, repeats: int
) -> Result:
    """Measure a Swin-B."""
    tuner, _ = method_table()[method]
    title = f'Swin-B, {SIZE} x {SIZE}, backbone, {method}'
    backbone = build_tuned('base', tuner)
    saving.stir(backbone)
    backbone.train()
    rows = saving.compare(
        backbone, saving.backbone_loss(backbone, images), repeats, say(title)
    )
    full = build_tuned('base', method_table()['FULL'][0])
    return Result(title, rows, saved_bytes(full, images))


def measure_config(
    title: str, cfg: Config, scale: tuple[int, int], args: argparse.Namespace
) -> Result:
    """Measure a whole model on noise."""
    torch.manual_seed(0)
    model = build_model(cfg)
    model.init_weights()
    saving.stir(model)
    batch: dict[str, Any] = make_batch(cfg, args.batch, scale)
    batch['inputs'] = [
        torch.randint_like(image, 256) for image in batch['inputs']
    ]
    data = model.data_preprocessor(batch, True)

    def loss() -> torch.Tensor:
        # Samplers draw the same.
        torch.manual_seed(0)
        return model.parse_losses(model(**data, mode='loss'))[0]

    return Result(title, saving.compare(model, loss, args.repeats, say(title)))


def say(title: str) -> Any:
    """Return what shows one moving line on a terminal."""

    def progress(text: str) -> None:
        if sys.stderr.isatty():
            print(f'\r{title}: {text:<30}', end='', file=sys.stderr)

    return progress


def table(results: list[Result]) -> str:
    """Return the results as text that is Markdown too."""
    lines = [
        '| model | saved | MiB | of exact | of FULL, exact | gradients off by '
        '| seconds, of exact |',
        '|:--|:--|--:|--:|--:|--:|--:|',
    ]
    for result in results:
        exact = result.rows[0]
        for row in result.rows:
            full = f'{row.bytes / result.full:.3f}' if result.full else ''
            lines.append(
                f'| {result.title} | {row.saved} | {row.bytes / 2**20:.1f} '
                f'| {row.bytes / exact.bytes:.2f} | {full} '
                f'| {row.error:.1e} | {row.median / exact.median:.2f} |'
            )
    return '\n'.join(lines)


def left(results: list[Result]) -> str:
    """Say what is saved as it is, for each model."""
    lines = ['As they are, MiB:']
    for result in results:
        for row in result.rows[1:]:
            parts = ', '.join(
                f'{reason} {number / 2**20:.2f}'
                for reason, number in sorted(row.left.items())
            )
            lines.append(f'- {result.title}, {row.saved}: {parts or "none"}')
    return '\n'.join(lines)


def main() -> None:
    """Measure, print, write."""
    args = parse_args()
    results = []
    if args.configs:
        for path in args.configs:
            cfg = read(path, args.cfg_options, args.tuner)
            scale = tuple(args.img_scale or image_scale(cfg))
            title = f'{Path(path).stem}, {scale[0]} x {scale[1]}'
            results.append(measure_config(title, cfg, scale, args))
    else:
        images = torch.randn(1, 3, SIZE, SIZE)
        results += [
            measure_backbone(method, images, args.repeats)
            for method in ('E3VA', 'LoRand')
        ]
        results += [
            measure_config(title, read(str(CONFIGS / path)), scale, args)
            for title, path, scale in DETECTORS
        ]
    print(f'fp32, {torch.get_num_threads()} threads, batch {args.batch}\n')
    print(table(results))
    print('\n' + left(results))
    if args.json:
        rows = [
            dict(asdict(result), rows=[asdict(row) for row in result.rows])
            for result in results
        ]
        Path(args.json).write_text(json.dumps(rows, indent=1))


if __name__ == '__main__':
    main()
