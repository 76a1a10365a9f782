"""Print the quickstart's table; write its plot and its pictures.

python tools/analysis_tools/quickstart_table.py work_dirs/quickstart
"""

import argparse
import contextlib
import io
import sys
from pathlib import Path

from mmlowrank.analysis.contact_sheet import (
    predictions_of,
    truth_of,
    write_contact_sheet,
)
from mmlowrank.analysis.quickstart import (
    METHODS,
    format_table,
    plot_trade_off,
    read_rows,
)
from mmlowrank.analysis.run_results import read_config


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('work_dir', type=Path)
    parser.add_argument('--score-thr', type=float, default=0.4)
    parser.add_argument('--num-images', type=int, default=6)
    return parser.parse_args()


def write_pictures(work_dir: Path, score_thr: float, num_images: int) -> Path:
    """Draw truth and predictions side by side; return the file."""
    cfg = read_config(work_dir / METHODS['LoRand'])
    dataset = cfg.test_dataloader.dataset
    root = Path(dataset.data_root)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools chats
        columns = {'ground truth': truth_of(root / dataset.ann_file)}
    for method, folder in METHODS.items():
        file = work_dir / folder / 'test' / 'predictions.pkl'
        columns[method] = predictions_of(file, score_thr)
    path = work_dir / 'pictures.png'
    images = root / dataset.data_prefix['img']
    write_contact_sheet(path, images, columns, num_images)
    return path


def main() -> None:
    """Read, print, draw."""
    args = parse_args()
    try:
        rows = read_rows(args.work_dir)
        table = format_table(rows)
        print(table)
        (args.work_dir / 'table.md').write_text(table + '\n')
        plot_trade_off(rows, args.work_dir / 'trade_off.png')
        write_pictures(args.work_dir, args.score_thr, args.num_images)
    except FileNotFoundError as error:
        sys.exit(
            f'quickstart_table: {error}\nRun: bash tools/quickstart.sh (it '
            'continues where it stopped).'
        )


if __name__ == '__main__':
    main()
