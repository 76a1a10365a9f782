"""E3VA's printed megabytes beside plans of the same configs."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from mmengine.config import Config
from torch import nn

from ..formed import form_weights
from ..paper_tables import Row, load, read_tables
from .cards import CARDS, MIB, verdicts
from .step import Setting, plan_step

# "batch size is 2 for each", E3VA, caption of table 2.
_IMAGES = 2
_GOAL = 0.1
# With megabytes, with megabytes, with cards.
TABLES = (1, 2, 4)


@dataclass
class PaperRow:
    """A printed row and its plans, in MiB.

    Attributes:
        table: E.g. ``'table 1'``.
        method: As the paper calls it.
        images: A GPU.
        printed: MB that the paper prints; None in table 4.
        stock: Planned, computed as the papers' public code computes.
        ours: Planned, as the config trains here.
        trains_on: Of table 4, the cards that the paper names.
        stock_fits: Of table 4's cards, those that the plan of ``stock`` fits.
        ours_fits: Those that ``ours`` fits.
    """

    table: str
    method: str
    images: int
    printed: int | None
    stock: float
    ours: float
    trains_on: list[str] | None = None
    stock_fits: list[str] | None = None
    ours_fits: list[str] | None = None


def as_printed(cfg: Config) -> Config:
    """Return a config that computes as the papers' public code does.

    The trunk keeps what autograd asks for, its stochastic depth is on.
    """
    cfg = copy.deepcopy(cfg)
    cfg.model.backbone.update(memory='stock', stochastic_trunk=True)
    return cfg


def plan_papers(
    configs: Path, tables: Iterable[int], say: Callable[[str], None]
) -> list[dict]:
    """Plan tables of E3VA, and say what comes of it.

    Args:
        configs: The folder of the configs.
        tables: Of ``TABLES``.
        say: Called with each line.
    """
    named = {f'table {number}' for number in tables}
    planned = []
    for table in read_tables(configs):
        if table.paper == 'E3VA' and table.name in named:
            say(f'E3VA {table.name}: {table.what}')
            rows = [_plan(configs, table.name, row) for row in table.rows]
            lines = marks if table.name == 'table 4' else megabytes
            for line in lines(rows):
                say(line)
            planned += rows
    return [vars(row) for row in planned]


def _plan(configs: Path, table: str, row: Row) -> PaperRow:
    # Of table 1, memory is that of VOC.
    leaf = next(leaf for leaf in row.configs if 'upernet' not in leaf)
    cfg = load(configs, leaf)
    setting = Setting(batch=row.images or _IMAGES)
    stock = plan_step(as_printed(cfg), replace(setting, change=_formed))
    ours = plan_step(cfg, setting)
    found = {}
    if row.trains_on is not None:
        for name, step in (('stock_fits', stock), ('ours_fits', ours)):
            cards = verdicts(step, CARDS)
            found[name] = [v.card for v in cards if v.fits]
    return PaperRow(
        table,
        str(row.row),
        setting.batch,
        row.memory_mb,
        stock.peak / MIB,
        ours.peak / MIB,
        row.trains_on,
        **found,
    )


def _formed(model: nn.Module) -> None:
    form_weights(model.backbone)


def megabytes(rows: list[PaperRow]) -> list[str]:
    """Return a Markdown table of megabytes, and of what is above FIXED."""
    fixed = next(row for row in rows if row.method == 'FIXED')
    full = next(row for row in rows if row.method == 'FULL')
    lines = [
        '| | printed | planned | ours | above FIXED: printed | planned | '
        'error | share of FULL: printed | planned |',
        '|---|---:|---:|---:|---:|---:|---:|---:|---:|',
    ]
    for row in rows:
        printed = row.printed - fixed.printed
        planned = row.stock - fixed.stock
        cells = [f'{row.printed:,}', f'{row.stock:,.0f}', f'{row.ours:,.0f}']
        if row is not fixed:
            error = planned / printed - 1
            verdict = 'within' if abs(error) <= _GOAL else 'off'
            cells += [
                f'{printed:,}',
                f'{planned:,.0f}',
                f'{100 * error:+.0f} %, {verdict}',
                f'{printed / (full.printed - fixed.printed):.3f}',
                f'{planned / (full.stock - fixed.stock):.3f}',
            ]
        else:
            cells += [''] * 5
        lines.append(f'| {row.method} | {" | ".join(cells)} |')
    return lines


def marks(rows: list[PaperRow]) -> list[str]:
    """Return a Markdown table of which cards train."""
    cards = sorted({c for r in rows for c in r.trains_on}, key=[*CARDS].index)
    lines = [
        f'| | planned | ours | {" | ".join(cards)} |',
        f'|---|---:|---:|{"---|" * len(cards)}',
    ]
    for row in rows:
        cells = [
            ' / '.join(
                'yes' if card in fits else 'no'
                for fits in (row.trains_on, row.stock_fits, row.ours_fits)
            )
            for card in cards
        ]
        sizes = f'{row.stock:,.0f} | {row.ours:,.0f}'
        lines.append(f'| {row.method} | {sizes} | {" | ".join(cells)} |')
    return lines
