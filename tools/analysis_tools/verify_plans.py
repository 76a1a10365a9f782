"""Compare plans of memory with real steps of small models on this CPU.

python tools/analysis_tools/verify_plans.py [--models N] [--sizes N]
    [--json FILE]

Four models, three batch sizes, three sizes of images: what plan_memory.py
plans, and the peak that PyTorch's allocator reports, both at the start of
training. For a config of your own: plan_memory.py CONFIG --verify.
"""

import argparse
import itertools
import sys
import warnings
from pathlib import Path

from mmengine.logging import MMLogger

from mmlowrank.analysis import records
from mmlowrank.analysis.plan.measured import verify_step
from mmlowrank.analysis.plan.step import Setting
from mmlowrank.engine.tuned_config import read

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
# A Swin of 32, 64, 128 and 256 channels for those of the papers.
_SWIN = {
    'model.backbone.embed_dims': 32,
    'model.backbone.depths': [2, 2, 2, 2],
    'model.backbone.num_heads': [1, 2, 4, 8],
}
_LANDSCAPES = ((256, 192), (320, 256), (480, 320))
# Title, config, options, batch sizes, sizes of images.
CASES = (
    (
        'RetinaNet, LoRand',
        'lorand/retinanet_swin-l_lorand-b2r8-mid64_1x_voc0712.py',
        {**_SWIN, 'model.neck.in_channels': [64, 128, 256]},
        (1, 2, 3),
        _LANDSCAPES,
    ),
    (
        'UPerNet, E3VA',
        'e3va/upernet_swin-l_e3va-r8_160k_ade20k.py',
        {
            **_SWIN,
            'model.decode_head.in_channels': [32, 64, 128, 256],
            'model.auxiliary_head.in_channels': 128,
        },
        # Its pooled maps of one pixel need two images.
        (2, 3, 4),
        ((128, 128), (192, 192), (256, 256)),
    ),
    (
        'Mask R-CNN, LoRand',
        'quickstart/mask-rcnn_swin-mini_lorand-b4r8_800it_digits.py',
        {},
        (1, 2, 3),
        _LANDSCAPES,
    ),
    (
        'Cascade Mask R-CNN, LoRand',
        'quickstart/cascade-mask-rcnn_swin-mini_lorand-b2r8_400it_digits.py',
        {},
        (1, 2, 3),
        _LANDSCAPES,
    ),
)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--models', type=int, default=len(CASES), help='only the first'
    )
    parser.add_argument(
        '--sizes', type=int, default=3, help='of batch and image, the first'
    )
    parser.add_argument('--json', help='write the numbers here')
    return parser.parse_args()


def main() -> None:
    """Plan, measure, print, write."""
    args = parse_args()
    # Of a model that is not trained there is nothing to say.
    warnings.filterwarnings('ignore')
    MMLogger.get_current_instance().setLevel('ERROR')
    rows = []
    for title, path, options, batches, scales in CASES[: args.models]:
        sizes = batches[: args.sizes], scales[: args.sizes]
        for batch, scale in itertools.product(*sizes):
            cfg = read(str(CONFIGS / path), options)
            setting = Setting(batch=batch, scale=scale, device='cpu')
            planned, measured = verify_step(cfg, setting)
            rows.append(
                dict(
                    method=f'{title}, {batch} x {scale[0]} x {scale[1]}',
                    model=title,
                    batch=batch,
                    scale=scale,
                    planned=planned,
                    measured=measured,
                )
            )
            print('.', end='', file=sys.stderr, flush=True)
    print(records.plans_table(dict(rows=rows)))
    worst = max(abs(row['planned'] / row['measured'] - 1) for row in rows)
    print(f'At most {100 * worst:.1f} % off.')
    if args.json:
        records.write(args.json, rows, {})


if __name__ == '__main__':
    main()
