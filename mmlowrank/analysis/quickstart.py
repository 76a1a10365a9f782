"""The quickstart's methods, table, trade-off plot and pictures."""

import contextlib
import io
import math
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from .contact_sheet import predictions_of, truth_of, write_contact_sheet
from .counting import count_parameters
from .measuring import saved_in_training
from .run_results import read_metrics

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'quickstart'
# Name in the table and folder below the quickstart's work folder. The
# comparison has an E3VA of another rank, and a folder e3va for it.
METHODS = {
    'FIXED': 'fixed',
    'E3VA': 'e3va-r8',
    'LoRand': 'lorand',
    'FULL': 'full',
}


def config_of(method: str) -> Path:
    """Return the config file of a method's Mask R-CNN."""
    (path,) = CONFIGS.glob(f'mask-rcnn_swin-mini_{METHODS[method]}*.py')
    return path


@dataclass(frozen=True)
class Row:
    """One method's line of the table.

    Attributes:
        method: Its name.
        trainable: Trainable parameters of the backbone.
        percent: The same, in percent of the stock backbone.
        saved: Bytes that a training step's forward pass through the
            backbone keeps for the backward pass.
        bbox: Box mAP, 0 to 1; nan if no box was found.
        segm: Mask mAP, 0 to 1; nan if no box was found.
    """

    method: str
    trainable: int
    percent: float
    saved: int
    bbox: float
    segm: float


def read_rows(work_dir: str | Path) -> list[Row]:
    """Read the finished runs below a quickstart's work folder.

    Raises:
        FileNotFoundError: If a method's training or test is missing.
    """
    rows = []
    for method, folder in METHODS.items():
        run = Path(work_dir) / folder
        cfg = Config.fromfile(config_of(method))
        counts = count_parameters(cfg)
        metrics = read_metrics(run / 'test')
        trainable = counts['backbone_trainable']
        rows.append(
            Row(
                method,
                trainable,
                100 * trainable / counts['backbone_stock'],
                saved_in_training(cfg),
                metrics.get('coco/bbox_mAP', math.nan),
                metrics.get('coco/segm_mAP', math.nan),
            )
        )
    return rows


def recovered(rows: list[Row], method: str) -> float:
    """Return which part of the FIXED-to-FULL box mAP gap a method closes."""
    bbox = {row.method: row.bbox for row in rows}
    gap = bbox['FULL'] - bbox['FIXED']
    return (bbox[method] - bbox['FIXED']) / gap if gap > 0 else math.nan


def format_table(rows: list[Row]) -> str:
    """Return the table as text that is Markdown too."""
    lines = [
        '| method | trainable in backbone | % of backbone '
        '| saved MiB | bbox mAP | segm mAP |',
        '|:-------|----------------------:|--------------:'
        '|----------:|---------:|---------:|',
    ]
    for row in rows:
        bbox, segm = (
            '-' if math.isnan(value) else f'{value:.3f}'
            for value in (row.bbox, row.segm)
        )
        lines.append(
            f'| {row.method:<6} | {row.trainable:>21,} '
            f'| {row.percent:>13.2f} | {row.saved / 2**20:>9.1f} '
            f'| {bbox:>8} | {segm:>8} |'
        )
    shares = {name: recovered(rows, name) for name in ('LoRand', 'E3VA')}
    if not any(map(math.isnan, shares.values())):
        lines.append('')
        lines.append(
            f'LoRand recovers {100 * shares["LoRand"]:.0f} % of the box mAP '
            'that full tuning gains over a fixed\nbackbone; E3VA '
            f'{100 * shares["E3VA"]:.0f} %, without a backward pass through '
            'the backbone.'
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


def write_pictures(
    work_dir: str | Path,
    path: str | Path,
    score_thr: float = 0.4,
    num_images: int = 6,
) -> None:
    """Draw truth and predictions side by side.

    Args:
        work_dir: The quickstart's work folder.
        path: The file to write.
        score_thr: What scores less is not drawn.
        num_images: Number of scenes, a row each.
    """
    dataset = Config.fromfile(config_of('FULL')).test_dataloader.dataset
    root = Path(dataset.data_root)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools chats
        columns = {'ground truth': truth_of(root / dataset.ann_file)}
    for method, folder in METHODS.items():
        file = Path(work_dir) / folder / 'test' / 'predictions.pkl'
        columns[method] = predictions_of(file, score_thr)
    images = root / dataset.data_prefix['img']
    write_contact_sheet(path, images, columns, num_images)
