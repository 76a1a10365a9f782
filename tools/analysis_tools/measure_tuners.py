"""Measure what each tuner costs on this machine, all in one run.

python tools/analysis_tools/measure_tuners.py [--arch base] [--size 448]
    [--methods FULL FIXED LoRand E3VA] [--repeats 5] [--json FILE]
    [--plot FILE]

Prints trainable parameters, bytes saved for the backward pass, seconds of
forward and backward (medians) and, on a GPU, peak memory, each beside its
ratio to FULL, if FULL is among the methods. Bytes are deterministic; seconds
are this machine's.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from mmlowrank.analysis import measuring

# Value, title, width, unit, digits, digits of the ratio.
COLUMNS = (
    ('trainable', 'trainable', 13, 1, 0, 4),
    ('saved_bytes', 'saved MiB', 10, 2**20, 1, 3),
    ('forward', 'fwd s', 8, 1, 3, 3),
    ('backward', 'bwd s', 8, 1, 3, 3),
    ('seconds', 'sum s', 8, 1, 3, 3),
    ('peak_bytes', 'peak MiB', 10, 2**20, 0, 3),
)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--arch',
        choices=[*measuring.ARCHS, *measuring.BACKBONES],
        default='base',
        help='size of a Swin, or another backbone (default: base)',
    )
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
    parser.add_argument('--json', help='write numbers and ratios here')
    parser.add_argument('--plot', help='write a bar plot to this file')
    return parser.parse_args()


def table(
    results: list[measuring.Measurement], ratios: dict[str, dict[str, float]]
) -> str:
    """Return the results as text; the column behind a value is to FULL."""
    columns = [c for c in COLUMNS if c[0] in results[0].values()]
    to_full = f'{"/FULL":>7}' if ratios else ''
    lines = [
        f'{"method":<20}'
        + ''.join(f'{c[1]:>{c[2]}}{to_full}' for c in columns)
    ]
    for r in results:
        line, values = f'{r.method:<20}', r.values()
        for name, _, width, unit, digits, ratio_digits in columns:
            line += f'{values[name] / unit:>{width},.{digits}f}'
            if ratios:
                line += f'{ratios[r.method][name]:>7.{ratio_digits}f}'
        lines.append(line)
    if not ratios:
        lines.append('No ratios, because FULL is not among --methods.')
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
        try:
            backbone = measuring.build_tuned(args.arch, tuner)
        except (TypeError, ValueError) as error:
            print(f'{name} is left out: {error}', file=sys.stderr)
            continue
        if change is not None:
            change(backbone)
        backbones[name] = backbone
    images = torch.randn(args.batch, 3, args.size, args.size, device=device)
    with torch.autocast(device, enabled=args.amp):
        results = measuring.measure(backbones, images, args.repeats, progress)
    progress('')
    title = args.arch
    if title in measuring.ARCHS:
        title = f'Swin-{title}'
    print(
        f'{title}, {args.batch} x 3 x {args.size} x {args.size}, '
        f'{"autocast" if args.amp else "fp32"}, {device}, '
        f'{torch.get_num_threads()} threads, median of {args.repeats}'
    )
    ratios = measuring.ratios_to_full(results)
    print(table(results, ratios))
    if args.json:
        rows = [
            dict(r.to_json(), to_full=ratios.get(r.method)) for r in results
        ]
        Path(args.json).write_text(json.dumps(rows, indent=1))
    if args.plot:
        plot(results, args.plot)


if __name__ == '__main__':
    main()
