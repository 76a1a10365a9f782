"""Write the numbers of the documents from the records of docs/benchmarks.

python tools/analysis_tools/render_benchmarks.py [--check]

Each number stands between comments that say where it comes from; see
mmlowrank/analysis/records.py. With --check nothing is written, and the exit
code is 1 if a document is not up to date.
"""

import argparse
import sys
from pathlib import Path

from mmlowrank.analysis import records

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / 'docs' / 'benchmarks'


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--check', action='store_true', help='write nothing')
    return parser.parse_args()


def main() -> None:
    """Render every document."""
    args = parse_args()
    old = []
    for page in (
        ROOT / 'README.md',
        *sorted((ROOT / 'docs').rglob('*.md')),
        *sorted((ROOT / 'configs').glob('*/README.md')),
    ):
        text = page.read_text()
        made = records.render(text, FOLDER)
        if made != text:
            old.append(page)
            if not args.check:
                page.write_text(made)
    for page in old:
        state = 'is old' if args.check else 'written'
        print(f'{page.relative_to(ROOT)} {state}')
    if args.check and old:
        sys.exit(1)


if __name__ == '__main__':
    main()
