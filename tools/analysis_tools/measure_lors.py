"""Measure LORS-AdaMixer decoders on this machine, all in one run.

python tools/analysis_tools/measure_lors.py [--batch 2] [--queries 100]
    [--shape 800 1280] [--repeats 5] [--amp] [--json FILE]

Training: a forward and backward pass of the decoder with LORS as it is here,
and with every weight formed, concatenated and summed, as in the paper's
pseudo-code; sampling is the same. Inference: merged, unmerged, and a plain
AdaMixer of the same layout. Bytes are deterministic; seconds are this
machine's.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch

from mmlowrank.analysis import measuring
from mmlowrank.analysis.decoders import LORS, DecoderAlone, cat_and_sum

OURS, PAPER = 'LORS', 'LORS, cat and sum'
MERGED, UNMERGED, PLAIN = 'LORS, merged', 'LORS, unmerged', 'AdaMixer 2x64'


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--queries', type=int, default=100)
    parser.add_argument(
        '--shape',
        nargs=2,
        type=int,
        default=[800, 1280],
        metavar=('HEIGHT', 'WIDTH'),
        help='of an image, multiples of 32',
    )
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--amp', action='store_true', help='autocast')
    parser.add_argument('--json', help='write the numbers to this file')
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    args = parse_args()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'

    def build(**options: object) -> DecoderAlone:
        torch.manual_seed(0)
        alone = DecoderAlone(args.batch, tuple(args.shape), **options)
        for parameter in alone.decoder.mixing.parameters():
            # Off the zeros of the start: the same arithmetic, real numbers.
            torch.nn.init.normal_(parameter, std=0.02)
        return alone.to(device)

    content = torch.randn(args.batch, args.queries, 256, device=device)
    layout = dict(groups=LORS['groups'], in_points=LORS['in_points'])
    with torch.autocast(device, enabled=args.amp):
        trained = measuring.measure(
            {OURS: build(**LORS), PAPER: cat_and_sum(build(**LORS))},
            content,
            args.repeats,
        )
        inferred = measuring.measure_inference(
            {
                MERGED: build(**LORS),
                UNMERGED: build(**LORS, merge_at_eval=False),
                PLAIN: build(**layout),
            },
            content,
            args.repeats,
        )
    ours, paper = trained
    medians = {name: statistics.median(s) for name, s in inferred.items()}
    print(
        f'Six stages, {args.batch} x {args.queries} queries, images of '
        f'{args.shape[0]} x {args.shape[1]}, '
        f'{"autocast" if args.amp else "fp32"}, {device}, '
        f'{torch.get_num_threads()} threads, median of {args.repeats}'
    )
    columns = ''.join(f'{name:>9}' for name in ('fwd s', 'bwd s', 'sum s'))
    print(f'{"training":<20}{"saved MiB":>11}{columns}')
    for r in trained:
        print(
            f'{r.method:<20}{r.saved_bytes / 2**20:>11.1f}'
            f'{statistics.median(r.forward):>9.4f}'
            f'{statistics.median(r.backward):>9.4f}{r.seconds:>9.4f}'
        )
    print(
        f'{"ratio":<20}{ours.saved_bytes / paper.saved_bytes:>11.3f}'
        f'{ours.seconds / paper.seconds:>27.3f}'
    )
    print(f'{"inference":<20}{"s":>11}{"merged / it":>13}')
    for name, seconds in medians.items():
        print(f'{name:<20}{seconds:>11.4f}{medians[MERGED] / seconds:>13.3f}')
    if args.json:
        training = [r.to_json() for r in trained]
        Path(args.json).write_text(
            json.dumps(dict(training=training, inference=inferred), indent=1)
        )


if __name__ == '__main__':
    main()
