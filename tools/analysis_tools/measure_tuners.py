"""Measure what each tuner costs on this machine, all in one run.

python tools/analysis_tools/measure_tuners.py [--arch base] [--size 448]
    [--methods FULL FIXED LoRand E3VA] [--repeats 5] [--json FILE]
    [--plot FILE]

Prints trainable parameters, bytes saved for the backward pass, seconds of
forward and backward (medians) and, on a GPU, peak memory, each beside its
ratio to FULL. Bytes are deterministic; seconds are this machine's.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from mmlowrank.analysis import measuring


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--arch', choices=measuring.ARCHS, default='base')
    parser.add_argument('--size', type=int, default=448, help='of an image')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument(
        '--methods',
        nargs='+',
        choices=measuring.method_table(),
        default=list(measuring.method_table()),
        metavar='METHOD',
        help='some of: ' + ', '.join(measuring.method_table()),
    )
    parser.add_argument('--amp', action='store_true', help='autocast')
    parser.add_argument('--json', help='write the numbers to this file')
    parser.add_argument('--plot', help='write a bar plot to this file')
    return parser.parse_args()


def ratio(value: float, full: float | None) -> str:
    """Return ``value / full`` with three digits, or nothing."""
    return f'{value / full:6.3f}' if full else ' ' * 6


def table(results: list[measuring.Measurement]) -> str:
    """Return the results as text; the column behind a value is to FULL."""
    full = next((r for r in results if r.method == 'FULL'), None)
    lines = [
        f'{"method":<18}{"trainable":>13}{"saved MiB":>11}{"/FULL":>7}'
        f'{"fwd s":>8}{"bwd s":>8}{"sum s":>8}{"/FULL":>7}{"peak MiB":>10}'
    ]
    for r in results:
        median = measuring.statistics.median
        peak = '' if r.peak_bytes is None else f'{r.peak_bytes / 2**20:.0f}'
        lines.append(
            f'{r.method:<18}{r.trainable:>13,}{r.saved_bytes / 2**20:>11.1f}'
            f' {ratio(r.saved_bytes, full and full.saved_bytes)}'
            f'{median(r.forward):>8.3f}{median(r.backward):>8.3f}'
            f'{r.seconds:>8.3f} {ratio(r.seconds, full and full.seconds)}'
            f'{peak:>10}'
        )
    return '\n'.join(lines)


def plot(results: list[measuring.Measurement], path: str) -> None:
    """Draw saved bytes and seconds as bars."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, sharey=True, figsize=(9, 4.5))
    names = [r.method for r in results][::-1]
    columns = {
        'saved for backward (MiB)': [r.saved_bytes / 2**20 for r in results],
        'forward + backward (s)': [r.seconds for r in results],
    }
    for axis, (title, values) in zip(axes, columns.items(), strict=True):
        axis.barh(names, values[::-1], color='tab:blue')
        axis.set_xlabel(title)
        axis.grid(axis='x', alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def progress(text: str) -> None:
    """Show one moving line on a terminal."""
    if sys.stderr.isatty():
        print(f'\r{text:<50}', end='', file=sys.stderr, flush=True)


def main() -> None:
    """Measure, print, write."""
    args = parse_args()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    methods = measuring.method_table()
    backbones = {}
    for name in args.methods:
        progress(f'{name}: build')
        tuner, change = methods[name]
        backbone = measuring.build_swin(args.arch, tuner).to(device)
        if change is not None:
            change(backbone)
        backbones[name] = backbone
    images = torch.randn(args.batch, 3, args.size, args.size, device=device)
    with torch.autocast(device, enabled=args.amp):
        results = measuring.measure(backbones, images, args.repeats, progress)
    progress('')
    print(
        f'Swin-{args.arch}, {args.batch} x 3 x {args.size} x {args.size}, '
        f'{"autocast" if args.amp else "fp32"}, {device}, '
        f'{torch.get_num_threads()} threads, median of {args.repeats}'
    )
    print(table(results))
    if args.json:
        Path(args.json).write_text(
            json.dumps([r.to_json() for r in results], indent=1)
        )
    if args.plot:
        plot(results, args.plot)


if __name__ == '__main__':
    main()
