"""All methods on the digit scenes: configs, table and plot."""

import inspect
import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..nn.kernels.kept import SAVED
from ..registry import TUNERS
from .counting import count_parameters
from .measuring import saved_in_training
from .run_results import read_metrics
from .seeds_table import sections

LEAVES = Path(__file__).resolve().parents[2] / 'configs' / 'quickstart'
# The backbone of each method. Where a width can be chosen, it is the one
# that trains about as many parameters as LoRand; LoRA's rank ends at the
# width of the first stage.
METHODS = {
    'FULL': dict(type='SwinFull'),
    'FIXED': dict(type='SwinFixed'),
    'BitFit': dict(type='SwinBitFit'),
    'NormTuning': dict(type='SwinNormTuning'),
    'Partial-1': dict(type='SwinPartial'),
    'Adapter': dict(type='SwinAdapter', mid_channels=48),
    'AdaptFormer': dict(type='SwinAdaptFormer', mid_channels=48),
    'LoRA': dict(type='SwinLoRA', rank=32),
    'LoRand': dict(type='SwinLoRand', branches=4, rank=8),
    'E3VA': dict(type='SwinE3VA', rank=16),
    'Mona': dict(type='SwinMona', mid_channels=32),
    'CoLin': dict(type='SwinCoLin', mid_channels=72),
    'E3VA+Mona': dict(type='SwinE3VA', adapter='mona', mid_channels=32),
    'E3VA+CoLin': dict(
        type='SwinE3VA', adapter='colin', rank=28, mid_channels=72
    ),
    'SSF': dict(type='SwinSSF'),
    'RLRR': dict(type='SwinRLRR'),
}
# These train pre-trained matrices, with the settings of the FULL leaf.
_AS_FULL = ('FULL', 'Partial-1')
# What a run's name ends with -> the leaf it starts from.
_TASKS = {
    '': 'mask-rcnn_swin-mini_fixed_*.py',
    '-seg': 'upernet_swin-mini_lorand-*.py',
}


def write_configs(
    folder: str | Path, methods: Iterable[str], tasks: Iterable[str] = _TASKS
) -> None:
    """Write a config for each method and task.

    Args:
        folder: Gets ``LoRA.py`` (Mask R-CNN), ``LoRA-seg.py`` (UPerNet) and
            so on. Other configs in it are removed.
        methods: Some of ``METHODS``; ``'LoRA-int8'`` saves for the backward
            pass in int8.
        tasks: Some of ``''`` and ``'-seg'``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    full = _leaf('mask-rcnn_swin-mini_full_*.py').optim_wrapper
    for path in folder.glob('*.py'):
        path.unlink()
    for suffix in tasks:
        for name in methods:
            cfg = _leaf(_TASKS[suffix])
            method, _, saved = name.rpartition('-')
            if saved in SAVED:
                cfg.optim_wrapper.saved = saved
            else:
                method = name
            options = METHODS[method]
            backbone = dict(_stock(cfg.model.backbone), **options)
            backbone['type'] = f'mmlowrank.{options["type"]}'
            cfg.model.backbone = backbone
            if method in _AS_FULL:
                cfg.optim_wrapper.paramwise_cfg = full.paramwise_cfg
            cfg.dump(folder / f'{name}{suffix}.py')


def _leaf(pattern: str) -> Config:
    (path,) = LEAVES.glob(pattern)
    return Config.fromfile(path)


def _stock(backbone: dict) -> dict:
    """Return a named form's arguments without the tuner's."""
    tuner = TUNERS.get(backbone['type'].removeprefix('mmlowrank.Swin'))
    own = inspect.signature(tuner).parameters
    return {k: v for k, v in backbone.items() if k not in own}


@dataclass(frozen=True)
class Row:
    """One method's line of the table.

    Attributes:
        method: Its name.
        trainable: Trainable parameters of the backbone.
        percent: The same, in percent of the stock backbone.
        saved: Bytes that a training step's forward pass through the
            backbone keeps for the backward pass.
        bbox: Box mAP of Mask R-CNN, 0 to 1; nan if no box was found.
        miou: mIoU of UPerNet, in percent.
    """

    method: str
    trainable: int
    percent: float
    saved: int
    bbox: float
    miou: float


def read_rows(work_dir: str | Path, methods: Iterable[str]) -> list[Row]:
    """Read the finished runs and measure what their backbones keep.

    Args:
        work_dir: Holds the runs, and in ``configs`` what write_configs wrote.
        methods: Some of ``METHODS``.

    Raises:
        FileNotFoundError: If a method's training or test is missing.
    """
    rows = []
    for method in methods:
        run = Path(work_dir) / method.lower()
        segmentation = Path(work_dir) / f'{method.lower()}-seg'
        # Not what mmengine kept: folders may have been moved since.
        cfg = Config.fromfile(Path(work_dir) / 'configs' / f'{method}.py')
        counts = count_parameters(cfg)
        metrics = read_metrics(run / 'test')
        rows.append(
            Row(
                method,
                counts['backbone_trainable'],
                100 * counts['backbone_trainable'] / counts['backbone_stock'],
                saved_in_training(cfg),
                metrics.get('coco/bbox_mAP', math.nan),
                read_metrics(segmentation / 'test')['mIoU'],
            )
        )
    return rows


def format_table(rows: list[Row]) -> str:
    """Return the table as text that is Markdown too."""
    lines = [
        '| method      | trainable | % of backbone | saved MiB '
        '| bbox mAP |  mIoU |',
        '|:------------|----------:|--------------:|----------:'
        '|---------:|------:|',
    ]
    for row in rows:
        bbox = '-' if math.isnan(row.bbox) else f'{row.bbox:.3f}'
        lines.append(
            f'| {row.method:<11} | {row.trainable:>9,} '
            f'| {row.percent:>13.2f} | {row.saved / 2**20:>9.1f} '
            f'| {bbox:>8} | {row.miou:>5.2f} |'
        )
    return '\n'.join(lines)


def pareto_front(
    rows: list[Row],
    cost: Callable[[Row], float],
    gain: Callable[[Row], float] = lambda row: row.bbox,
) -> list[Row]:
    """Return the rows that no other beats at the same or a lower cost.

    Args:
        rows: Rows; those without a gain (nan) are never in front.
        cost: What a row costs.
        gain: How good a row is; its box mAP by default.

    Returns:
        By rising cost, and so by rising gain.
    """
    front: list[Row] = []
    found = [row for row in rows if not math.isnan(gain(row))]
    for row in sorted(found, key=lambda row: (cost(row), -gain(row))):
        if not front or gain(row) > gain(front[-1]):
            front.append(row)
    return front


def plot_pareto(rows: list[Row], path: str | Path) -> None:
    """Draw box mAP and mIoU over saved bytes and trainable parameters."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 8), layout='constrained')
    panels = figure.subplots(2, 2, sharex='col', sharey='row')
    costs = {
        'saved for the backward pass, MiB': lambda r: r.saved / 2**20,
        'trainable share of the backbone, %': lambda r: r.percent,
    }
    gains = {
        'box mAP, Mask R-CNN': lambda r: r.bbox,
        'mIoU in %, UPerNet': lambda r: r.miou,
    }
    # Logarithmic, with room for FIXED's zero.
    panels[0][1].set_xscale('symlog', linthresh=0.5)
    for axes, title in zip(panels[:, 0], gains, strict=True):
        axes.set_ylabel(title)
    for axes, title in zip(panels[-1], costs, strict=True):
        axes.set_xlabel(title)
    cells = list(itertools.product(gains.values(), costs.values()))
    for axes, (gain, cost) in zip(panels.flat, cells, strict=True):
        _draw_front(axes, rows, cost, gain)
    figure.draw_without_rendering()  # the names need to know the scales
    for axes, (gain, cost) in zip(panels.flat, cells, strict=True):
        _name_points(axes, rows, cost, gain)
    figure.savefig(path, dpi=150)


def _draw_front(
    axes: Any,
    rows: list[Row],
    cost: Callable[[Row], float],
    gain: Callable[[Row], float],
) -> None:
    front = pareto_front(rows, cost, gain)
    axes.plot(
        [cost(row) for row in front],
        [gain(row) for row in front],
        drawstyle='steps-post',
        color='tab:orange',
        zorder=1,
    )
    axes.scatter([*map(cost, rows)], [*map(gain, rows)], zorder=2)
    axes.margins(x=0.18, y=0.1)
    axes.grid(alpha=0.3)


def _name_points(
    axes: Any,
    rows: list[Row],
    cost: Callable[[Row], float],
    gain: Callable[[Row], float],
) -> None:
    """Write the methods beside their points, none over another."""
    width, height = 75, 11  # of a name, in points
    taken: list[tuple[float, float]] = []
    found = [row for row in rows if not math.isnan(gain(row))]
    for row in sorted(found, key=gain, reverse=True):
        point = axes.transData.transform((cost(row), gain(row)))
        x, y = start = point * 72 / axes.figure.dpi
        while any(
            abs(x - a) < width and abs(y - b) < height for a, b in taken
        ):
            y -= 1
        taken.append((x, y))
        axes.annotate(
            row.method,
            (cost(row), gain(row)),
            xytext=(6, y - start[1] + 3),
            textcoords='offset points',
            fontsize=8,
        )


def write_report(
    rows: list[Row], path: str | Path, smoke: bool = False
) -> None:
    """Write the table, and the plot beside it under the same name.

    Args:
        rows: The lines of the table.
        path: Of the report, a Markdown file.
        smoke: Whether the runs are those of a smoke test.
    """
    path = Path(path)
    runs = (
        'The scenes, the pre-trained Swin and the\nschedules are those of '
        '[the quickstart](../configs/quickstart/README.md).'
    )
    if smoke:
        runs = 'A smoke test of a few\niterations: the numbers mean nothing.'
    path.parent.mkdir(parents=True, exist_ok=True)
    below = sections(path)
    plot_pareto(rows, path.with_suffix('.png'))
    path.write_text(
        f"""# The methods side by side, on digit scenes

{format_table(rows)}

![Box mAP and mIoU over saved bytes and trainable parameters]({path.stem}.png)

Made by

```shell
bash tools/analysis_tools/compare_methods.sh{' --smoke' if smoke else ''}
```

One seed: no spread is known. {runs}

- *trainable*: parameters of the backbone that train; neck and heads train
  with every method. Where a method's width can be chosen, it trains about as
  many as LoRand.
- *saved*: bytes of the distinct tensors that the backbone's forward pass on
  one training batch keeps for the backward pass, parameters excluded. The
  same on every machine.
- *bbox mAP*: Mask R-CNN; *mIoU*: UPerNet, over the ten digits, background
  ignored as in ADE20K.
- Time is not here: two runs at a time slow each other down, each as much as
  its neighbour of the minute works. It is measured with the methods in turns
  in one process, by `python tools/analysis_tools/benchmark.py`.
- The lines in the plot join the methods that no other beats at the same or a
  lower cost.
{below and chr(10) + below}"""
    )
