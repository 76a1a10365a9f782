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
import sys
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from mmlowrank.analysis import records, saving
from mmlowrank.analysis.contenders import build
from mmlowrank.analysis.measuring import saved_bytes
from mmlowrank.analysis.plan.batch import add_scale, image_scale, make_batch
from mmlowrank.analysis.plan.step import build_model
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


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('configs', nargs='*', help='config files')
    add_arguments(parser)
    parser.add_argument('--batch', type=int, default=1, help='images')
    add_scale(parser)
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--json', help='write the numbers here')
    return parser.parse_args()


def measure_backbone(
    method: str, images: torch.Tensor, repeats: int
) -> list[dict]:
    """Return the rows of a Swin-B."""
    title = f'Swin-B, {SIZE} x {SIZE}, backbone, {method}'
    backbone = build('base', method)
    saving.stir(backbone)
    backbone.train()
    rows = saving.compare(
        backbone,
        saving.backbone_loss(backbone, images),
        repeats,
        say(title),
        lambda: backbone(images),
    )
    full = build('base', 'FULL')
    full.train()
    return saving.to_rows(title, rows, saved_bytes(full, images))


def measure_config(
    title: str, cfg: Config, scale: tuple[int, int], args: argparse.Namespace
) -> list[dict]:
    """Return the rows of a whole model, on noise."""
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

    rows = saving.compare(model, loss, args.repeats, say(title))
    return saving.to_rows(title, rows)


def say(title: str) -> Any:
    """Return what shows one moving line on a terminal."""

    def progress(text: str) -> None:
        if sys.stderr.isatty():
            print(f'\r{title}: {text:<30}', end='', file=sys.stderr)

    return progress


def left(rows: list[dict]) -> str:
    """Say what is saved as it is, for each model."""
    lines = ['As they are, MiB:']
    for row in rows:
        parts = ', '.join(
            f'{reason} {number / 2**20:.2f}'
            for reason, number in sorted(row['left'].items())
        )
        if parts:
            lines.append(f'- {row["method"]}: {parts}')
    return '\n'.join(lines)


def main() -> None:
    """Measure, print, write."""
    args = parse_args()
    rows: list[dict] = []
    if args.configs:
        for path in args.configs:
            cfg = read(path, args.cfg_options, args.tuner)
            scale = tuple(args.img_scale or image_scale(cfg))
            title = f'{Path(path).stem}, {scale[0]} x {scale[1]}'
            rows += measure_config(title, cfg, scale, args)
    else:
        images = torch.randn(1, 3, SIZE, SIZE)
        for method in ('E3VA', 'LoRand'):
            rows += measure_backbone(method, images, args.repeats)
        for title, path, scale in DETECTORS:
            cfg = read(str(CONFIGS / path))
            rows += measure_config(title, cfg, scale, args)
    print(f'fp32, {torch.get_num_threads()} threads, batch {args.batch}')
    print(records.saved_table(dict(rows=rows)))
    print(left(rows))
    if args.json:
        records.write(args.json, rows, dict(batch=args.batch))


if __name__ == '__main__':
    main()
