"""The quickstart's table, trade-off plot and pictures."""

import math
from dataclasses import dataclass
from pathlib import Path

from .counting import count_parameters
from .run_results import read_config, read_metrics, seconds_per_iteration

# Name in the table and folder below the quickstart's work folder.
METHODS = {'FIXED': 'fixed', 'LoRand': 'lorand', 'FULL': 'full'}


@dataclass(frozen=True)
class Row:
    """One method's line of the table.

    Attributes:
        method: Its name.
        trainable: Trainable parameters of the backbone.
        percent: The same, in percent of the stock backbone.
        bbox: Box mAP, 0 to 1; nan if no box was found.
        segm: Mask mAP, 0 to 1; nan if no box was found.
        seconds: Median time of a training iteration.
    """

    method: str
    trainable: int
    percent: float
    bbox: float
    segm: float
    seconds: float


def read_rows(work_dir: str | Path) -> list[Row]:
    """Read the finished runs below a quickstart's work folder.

    Raises:
        FileNotFoundError: If a method's training or test is missing.
    """
    rows = []
    for method, folder in METHODS.items():
        run = Path(work_dir) / folder
        counts = count_parameters(read_config(run))
        metrics = read_metrics(run / 'test')
        trainable = counts['backbone_trainable']
        rows.append(
            Row(
                method,
                trainable,
                100 * trainable / counts['backbone_stock'],
                metrics.get('coco/bbox_mAP', math.nan),
                metrics.get('coco/segm_mAP', math.nan),
                seconds_per_iteration(run),
            )
        )
    return rows


def recovered(rows: list[Row]) -> float:
    """Return which part of the FIXED-to-FULL box mAP gap LoRand closes."""
    bbox = {row.method: row.bbox for row in rows}
    gap = bbox['FULL'] - bbox['FIXED']
    return (bbox['LoRand'] - bbox['FIXED']) / gap if gap > 0 else math.nan


def format_table(rows: list[Row]) -> str:
    """Return the table as text that is Markdown too."""
    lines = [
        '| method | trainable in backbone | % of backbone '
        '| bbox mAP | segm mAP | s / iteration |',
        '|:-------|----------------------:|--------------:'
        '|---------:|---------:|--------------:|',
    ]
    for row in rows:
        bbox, segm = (
            '-' if math.isnan(value) else f'{value:.3f}'
            for value in (row.bbox, row.segm)
        )
        lines.append(
            f'| {row.method:<6} | {row.trainable:>21,} '
            f'| {row.percent:>13.2f} | {bbox:>8} | {segm:>8} '
            f'| {row.seconds:>13.3f} |'
        )
    share = recovered(rows)
    if not math.isnan(share):
        lines.append('')
        lines.append(
            f'LoRand recovers {100 * share:.0f} % of the box mAP that full '
            'tuning gains over a fixed backbone.'
        )
    return '\n'.join(lines)


def plot_trade_off(rows: list[Row], path: str | Path) -> None:
    """Draw mAP over the share of the backbone that trains."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.4), layout='constrained')
    axes = figure.subplots()
    shares = [row.percent for row in rows]
    for label, values, style in (
        ('boxes', [row.bbox for row in rows], 'o-'),
        ('masks', [row.segm for row in rows], 's--'),
    ):
        axes.plot(shares, values, style, label=label)
    for row in rows:
        if not math.isnan(row.bbox):
            axes.annotate(
                row.method,
                (row.percent, row.bbox),
                xytext=(-3, 7),
                textcoords='offset points',
                ha='right',
            )
    # Logarithmic, with room for FIXED's zero.
    axes.set_xscale('symlog', linthresh=1)
    axes.set_xlim(-0.6, 250)
    axes.set_xticks([0, 1, 10, 100], ['0', '1', '10', '100'])
    axes.margins(y=0.18)
    axes.set_xlabel('trainable share of the backbone, %')
    axes.set_ylabel('mAP on the validation scenes')
    axes.grid(alpha=0.3)
    axes.legend(loc='lower right')
    figure.savefig(path, dpi=150)
