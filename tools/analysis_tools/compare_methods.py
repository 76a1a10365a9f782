"""Write the configs of the method comparison, or its report.

python tools/analysis_tools/compare_methods.py WORK_DIR --write-configs
python tools/analysis_tools/compare_methods.py WORK_DIR --out REPORT.md

tools/analysis_tools/compare_methods.sh calls both.
"""

import argparse
import sys
from pathlib import Path

from mmlowrank.analysis import comparison


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('work_dir', type=Path, help='of the quickstart')
    parser.add_argument(
        '--methods',
        nargs='+',
        choices=comparison.METHODS,
        default=list(comparison.METHODS),
        metavar='METHOD',
        help='some of: ' + ', '.join(comparison.METHODS),
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument(
        '--write-configs',
        action='store_true',
        help='write WORK_DIR/configs/*.py, one for each run',
    )
    action.add_argument(
        '--out', type=Path, help='write the report here, its plot beside it'
    )
    parser.add_argument(
        '--smoke', action='store_true', help='the runs are a smoke test'
    )
    return parser.parse_args()


def main() -> None:
    """Write what is asked for."""
    args = parse_args()
    if args.write_configs:
        comparison.write_configs(args.work_dir / 'configs', args.methods)
        return
    try:
        rows = comparison.read_rows(args.work_dir, args.methods)
    except FileNotFoundError as error:
        sys.exit(
            f'compare_methods: {error}\nRun: bash tools/analysis_tools/'
            'compare_methods.sh (it continues where it stopped).'
        )
    comparison.write_report(rows, args.out, args.smoke)
    print(comparison.format_table(rows))


if __name__ == '__main__':
    main()
