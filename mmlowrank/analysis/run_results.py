"""Read what a run of tools/train.py or tools/test.py left in its folder."""

import json
import statistics
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config


def read_metrics(work_dir: str | Path) -> dict[str, float]:
    """Return the metrics of the newest finished tools/test.py run.

    Args:
        work_dir: The ``--work-dir`` of tools/test.py.

    Raises:
        FileNotFoundError: If no run finished there.
    """
    for path in sorted(Path(work_dir).glob('*/*.json'), reverse=True):
        # A killed run leaves no file, or half of one.
        try:
            metrics = json.loads(path.read_text())
        except ValueError:
            continue
        if isinstance(metrics, dict):
            return metrics
    raise FileNotFoundError(
        f'no metrics of a finished tools/test.py run in {work_dir}'
    )


def read_config(work_dir: str | Path) -> Config:
    """Return the config that mmengine kept in a work folder.

    Raises:
        FileNotFoundError: If there is none.
    """
    paths = sorted(Path(work_dir).glob('*.py'))
    if not paths:
        raise FileNotFoundError(f'no training run has started in {work_dir}')
    return Config.fromfile(paths[-1])


def seconds_per_iteration(work_dir: str | Path) -> float:
    """Return the median training time of an iteration, resumed runs included.

    The log holds means over a few iterations; the first of each start is
    left out, because it warms up. The median is deaf to a busy minute.

    Raises:
        FileNotFoundError: If there are fewer than two log entries.
    """
    times: list[float] = []
    for entries in _logs(work_dir):
        training = [e['time'] for e in entries if 'loss' in e]
        times += training[1:]
    if not times:
        raise FileNotFoundError(f'no training log in {work_dir}')
    return statistics.median(times)


def metric_by_epoch(work_dir: str | Path, metric: str) -> dict[int, float]:
    """Return epoch -> a metric of the evaluation after it.

    Of an epoch that a resumed run repeated, the last value counts.

    Args:
        work_dir: The ``--work-dir`` of tools/train.py.
        metric: Its name in the log, e.g. ``'accuracy/top1'``.
    """
    values = {
        entry['step']: entry[metric]
        for entries in _logs(work_dir)
        for entry in entries
        if metric in entry
    }
    return dict(sorted(values.items()))


def _logs(work_dir: str | Path) -> Iterator[list[dict]]:
    """Yield the log entries of each start of a run, in order."""
    for path in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        entries = []
        for line in path.read_text().splitlines():
            # A killed run may have left half a line.
            try:
                entries.append(json.loads(line))
            except ValueError:
                continue
        yield entries
