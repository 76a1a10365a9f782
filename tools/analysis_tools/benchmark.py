"""Measure what each tuner costs on this machine, beside its peers.

python tools/analysis_tools/benchmark.py [--arch base] [--size 448]
    [--methods FULL 'stock FIXED' LoRA-64 'peft LoRA-64' E3VA]
    [--repeats 5] [--json FILE] [--plot FILE]

All methods take turns in one run. Prints two tables: what is the same on
every machine (trainable parameters, bytes saved for the backward pass), and
what is this machine's (seconds of forward and backward: medians, and the
quartiles of their sum; seconds that the processors worked; on a GPU peak
memory). Each value stands beside its ratio to FULL, if FULL is among the
methods. "stock FIXED" is the framework's own backbone with every parameter
frozen; "stock trunk" and "W formed" are plain formulations; the LoRAs of
Hugging Face's peft and of mmpretrain have the same backbone, rank and number
of parameters as ours. ``--json`` writes a record, as in docs/benchmarks.
"""

import argparse
import sys

import torch

from mmlowrank.analysis import contenders, measuring, records

# Value, title, width, unit, digits, digits of the ratio.
BYTES = (
    ('trainable', 'trainable', 13, 1, 0, 4),
    ('saved_bytes', 'saved MiB', 10, 2**20, 1, 3),
)
SECONDS = (
    ('forward', 'fwd s', 8, 1, 3, 3),
    ('backward', 'bwd s', 8, 1, 3, 3),
    ('seconds', 'sum s', 8, 1, 3, 3),
    ('cpu', 'cpu s', 8, 1, 3, 3),
    ('peak_bytes', 'peak MiB', 10, 2**20, 0, 3),
)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--arch',
        choices=[*contenders.ARCHS, *contenders.BACKBONES],
        default='base',
        help='size of a Swin, or another backbone (default: base)',
    )
    parser.add_argument('--size', type=int, default=448, help='of an image')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument(
        '--methods',
        nargs='+',
        choices=contenders.contenders(),
        default=contenders.contenders(),
        metavar='METHOD',
        help='some of: ' + ', '.join(contenders.contenders()),
    )
    parser.add_argument('--amp', action='store_true', help='autocast')
    parser.add_argument('--json', help='write numbers and ratios here')
    parser.add_argument('--plot', help='write a bar plot to this file')
    return parser.parse_args()


def table(
    results: list[measuring.Measurement],
    ratios: dict[str, dict[str, float]],
    columns: tuple,
) -> str:
    """Return the results as text; the column behind a value is to FULL."""
    columns = [c for c in columns if c[0] in results[0].values()]
    to_full = f'{"/FULL":>7}' if ratios else ''
    spread = any(name == 'seconds' for name, *_ in columns)
    lines = [
        f'{"method":<22}'
        + ''.join(f'{c[1]:>{c[2]}}{to_full}' for c in columns)
        + ('  quartiles' if spread else '')
    ]
    for r in results:
        line, values = f'{r.method:<22}', r.values()
        for name, _, width, unit, digits, ratio_digits in columns:
            line += f'{values[name] / unit:>{width},.{digits}f}'
            if ratios:
                line += f'{ratios[r.method][name]:>7.{ratio_digits}f}'
        if spread:
            line += '  {:.3f} to {:.3f}'.format(*r.quartiles)
        lines.append(line)
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
    backbones = {}
    for name in args.methods:
        progress(f'{name}: build')
        try:
            backbones[name] = contenders.build(args.arch, name)
        except (ImportError, TypeError, ValueError) as error:
            print(f'{name} is left out: {error}', file=sys.stderr)
    images = torch.randn(args.batch, 3, args.size, args.size, device=device)
    with torch.autocast(device, enabled=args.amp):
        results = measuring.measure(backbones, images, args.repeats, progress)
    progress('')
    title = args.arch
    if title in contenders.ARCHS:
        title = f'Swin-{title}'
    title += (
        f', {args.batch} x 3 x {args.size} x {args.size}, '
        f'{"autocast" if args.amp else "fp32"}, {device}'
    )
    ratios = measuring.ratios_to_full(results)
    print(f'{title}: the same on every machine')
    print(table(results, ratios, BYTES))
    machine = records.machine()
    print(
        f'\n{title}: {machine["gpu"] or machine["cpu"]}, '
        f'{machine["threads"]} threads, median of {args.repeats}'
    )
    print(table(results, ratios, SECONDS))
    if not ratios:
        print('No ratios, because FULL is not among --methods.')
    if args.json:
        rows = [
            dict(r.to_json(), to_full=ratios.get(r.method)) for r in results
        ]
        settings = {k: getattr(args, k) for k in ('arch', 'size', 'batch')}
        settings.update(amp=args.amp, repeats=args.repeats)
        records.write(args.json, rows, settings)
    if args.plot:
        plot(results, args.plot)


if __name__ == '__main__':
    main()
