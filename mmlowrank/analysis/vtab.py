"""The table of VTAB-1k, from what the runs left in their folders."""

import statistics
from dataclasses import dataclass
from pathlib import Path

from ..datasets.vtab_tasks import GROUPS, TASKS
from .run_results import metric_by_epoch


@dataclass(frozen=True)
class Result:
    """Top-1 accuracy of one task, in percent of its test set.

    Attributes:
        best: The highest of all epochs, which is what papers print.
        last: That of the last epoch; no test image helped to choose it.
        epoch: Epoch of ``best``, from 1.
        epochs: How many epochs were run.
    """

    best: float
    last: float
    epoch: int
    epochs: int


def read_result(work_dir: str | Path) -> Result:
    """Read the log of a run that has ended.

    Args:
        work_dir: The ``--work-dir`` of tools/train.py.

    Raises:
        FileNotFoundError: If no epoch was evaluated.
    """
    accuracies = metric_by_epoch(work_dir, 'accuracy/top1')
    if not accuracies:
        raise FileNotFoundError(
            f'no epoch was evaluated in {work_dir}: keep '
            'train_cfg.val_interval at or below train_cfg.max_epochs'
        )
    epoch = max(accuracies, key=accuracies.get)
    epochs = max(accuracies)
    return Result(accuracies[epoch], accuracies[epochs], epoch, epochs)


def format_table(results: dict[str, Result]) -> str:
    """Return the table as text that is Markdown too.

    Args:
        results: Folder of a task -> its result. A mean is left out where a
            task of it is missing.
    """
    lines = [
        '| task         | group       |  best | epoch |  last |',
        '|:-------------|:------------|------:|------:|------:|',
    ]
    for name, task in TASKS.items():
        result = results.get(name)
        best, epoch, last = ('-',) * 3
        if result:
            best, last = f'{result.best:.1f}', f'{result.last:.1f}'
            epoch = str(result.epoch)
        lines.append(_row(task.title, task.group, best, epoch, last))
    for group in GROUPS:
        names = [name for name, task in TASKS.items() if task.group == group]
        lines.append(_mean_row(f'{group} mean', names, results))
    lines.append(_mean_row('mean', list(TASKS), results))
    return '\n'.join(lines)


def _mean_row(title: str, names: list[str], results: dict[str, Result]) -> str:
    best = last = '-'
    if all(name in results for name in names):
        best, last = (
            f'{statistics.mean(getattr(results[n], kind) for n in names):.1f}'
            for kind in ('best', 'last')
        )
    group, _, word = title.rpartition(' ')
    return _row(word, group or f'all {len(names)}', best, '', last)


def _row(task: str, group: str, best: str, epoch: str, last: str) -> str:
    return f'| {task:<12} | {group:<11} | {best:>5} | {epoch:>5} | {last:>5} |'
