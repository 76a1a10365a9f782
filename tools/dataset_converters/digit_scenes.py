"""Compose scenes of real handwritten digits in COCO, VOC and ADE20K format.

The digits ship with scikit-learn: nothing is downloaded.

python tools/dataset_converters/digit_scenes.py [--out data/digit_scenes]
"""

import argparse
import sys
import time

from mmlowrank.datasets.digit_scenes import write_digit_scenes


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', default='data/digit_scenes')
    parser.add_argument('--train', type=int, default=600, help='scenes')
    parser.add_argument('--val', type=int, default=100, help='scenes')
    parser.add_argument('--size', type=int, default=160, help='pixels')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='replace a folder that was made with other arguments',
    )
    return parser.parse_args()


def show(done: int, total: int) -> None:
    """Draw a progress bar; in a file, a line for every tenth."""
    live = sys.stdout.isatty()
    if live or done % max(total // 10, 1) == 0 or done == total:
        bar = '#' * (30 * done // total)
        end = '\r' if live and done < total else '\n'
        print(f'[{bar:30}] {done}/{total} scenes', end=end, flush=True)


def main() -> None:
    """Write the scenes."""
    args = parse_args()
    start = time.time()
    try:
        written = write_digit_scenes(
            args.out,
            args.train,
            args.val,
            args.size,
            args.seed,
            overwrite=args.overwrite,
            progress=show,
        )
    except (ValueError, OSError) as error:
        sys.exit(f'digit_scenes: {error}')
    if written:
        print(f'{args.out} written in {time.time() - start:.0f} s')
    else:
        print(f'{args.out} is already there with these settings.')


if __name__ == '__main__':
    main()
