"""Compare tuners on one classification task, as tools/tune_digits.py does."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .counting import count_parameters
from .run_results import metric_by_epoch, read_config, seconds_per_iteration


@dataclass(frozen=True)
class Row:
    """One method on one backbone.

    Attributes:
        method: Its name.
        trainable: Trainable parameters of the backbone, head excluded.
        percent: The same, in percent of the stock backbone.
        accuracy: Top-1 accuracy after the last epoch, in percent.
        seconds: Median time of a training iteration.
    """

    method: str
    trainable: int
    percent: float
    accuracy: float
    seconds: float


def read_row(method: str, work_dir: str | Path) -> Row:
    """Read what a finished run of tools/train.py left.

    Args:
        method: Name for the table.
        work_dir: The ``--work-dir`` of the run.
    """
    accuracies = metric_by_epoch(work_dir, 'accuracy/top1')
    counts = count_parameters(read_config(work_dir))
    trainable = counts['backbone_trainable']
    return Row(
        method,
        trainable,
        100 * trainable / counts['backbone_stock'],
        accuracies[max(accuracies)],
        seconds_per_iteration(work_dir),
    )


def format_table(tables: Mapping[str, list[Row]]) -> str:
    """Return the tables as text that is Markdown too.

    Args:
        tables: Name of a backbone -> its rows.
    """
    lines = [
        '| backbone | method         | trainable in backbone '
        '| % of backbone | top-1 accuracy | s / iteration |',
        '|:---------|:---------------|----------------------:'
        '|--------------:|---------------:|--------------:|',
    ]
    lines += [
        f'| {backbone:<8} | {row.method:<14} | {row.trainable:>21,} '
        f'| {row.percent:>13.2f} | {row.accuracy:>14.1f} '
        f'| {row.seconds:>13.3f} |'
        for backbone, rows in tables.items()
        for row in rows
    ]
    return '\n'.join(lines)
