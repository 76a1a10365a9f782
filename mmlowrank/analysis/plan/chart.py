"""A chart of what configs need, beside what cards have."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from . import timeline as kinds
from .cards import CARDS, MIB, buckets, needed
from .step import Step

_COLORS = {
    'weights': '#4c566a',
    'optimizer and gradients': '#8893a8',
    'kept: backbone': '#d1603d',
    'kept: neck': '#e8a33d',
    'kept: heads': '#3d8f8a',
    'temporary': '#b9d3c8',
    'context, workspaces, fragmentation': '#e6e6e6',
}


def plot_plans(
    steps: Mapping[str, Step],
    path: str | Path,
    cards: Sequence[str],
    gpus: int = 1,
) -> None:
    """Draw a stacked bar for each plan, and a line for each card.

    Args:
        steps: Name of a bar -> its plan.
        path: Of the picture; its suffix says the format.
        cards: Names in ``CARDS``.
        gpus: As in :func:`.cards.needed`.
    """
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(10, 2.1 + 0.55 * len(steps)), layout='constrained'
    )
    axes = figure.subplots()
    names = [*steps]
    left = dict.fromkeys(names, 0.0)
    bars = {name: _groups(step, gpus) for name, step in steps.items()}
    for group, color in _COLORS.items():
        widths = [bars[name][group] / MIB / 1024 for name in names]
        axes.barh(
            names,
            widths,
            left=[left[name] for name in names],
            color=color,
            edgecolor='white',
            linewidth=0.8,
            height=0.62,
            label=group,
        )
        for name, width in zip(names, widths, strict=True):
            left[name] += width
    for name in names:
        axes.annotate(
            f'{left[name]:.1f}',
            (left[name], name),
            xytext=(5, 0),
            textcoords='offset points',
            va='center',
            fontweight='bold',
            bbox=dict(facecolor='white', edgecolor='none', pad=1.5),
        )
    most = 1.12 * max(left.values())
    room = {card: CARDS[card] / 1024 for card in cards}
    shown = sorted(size for size in room.values() if size > most)[:1]
    limit = max([most, *(1.03 * size for size in shown if size < 2 * most)])
    _draw_cards(axes, {c: s for c, s in room.items() if s < limit})
    axes.set_xlim(0, limit)
    axes.invert_yaxis()
    axes.set_xlabel('GiB on a card, one step of training')
    axes.tick_params(axis='y', length=0)
    axes.spines[['top', 'right', 'left']].set_visible(False)
    figure.legend(
        loc='outside lower center', ncols=4, frameon=False, fontsize=9
    )
    figure.savefig(path, dpi=150)


def _draw_cards(axes: object, room: Mapping[str, float]) -> None:
    """Draw the cards' lines; of those side by side, the names stack."""
    last, level = 0.0, 0
    span = max(room.values(), default=1)
    for card, size in sorted(room.items(), key=lambda item: item[1]):
        axes.axvline(size, color='#333333', linestyle=(0, (4, 3)), zorder=0)
        level = level + 1 if size - last < 0.09 * span else 0
        axes.annotate(
            card,
            (size, 1),
            xycoords=('data', 'axes fraction'),
            xytext=(0, 4 + 11 * level),
            textcoords='offset points',
            ha='center',
            fontsize=9,
        )
        last = size


def _groups(step: Step, gpus: int) -> dict[str, float]:
    groups = dict.fromkeys(_COLORS, 0.0)
    state = step.shares.get(kinds.STATE, 0)
    grads = step.shares.get(kinds.GRADIENTS, 0)
    groups['weights'] = step.shares.get(kinds.PARAMETERS, 0)
    groups['weights'] += step.shares.get(kinds.BUFFERS, 0)
    groups['optimizer and gradients'] = state + grads + buckets(step, gpus)
    for part, size in step.parts.items():
        name = part if part in ('backbone', 'neck') else 'heads'
        groups[f'kept: {name}'] += size
    groups['temporary'] = step.shares.get(kinds.TEMPORARY, 0)
    groups['temporary'] += step.shares.get(kinds.BATCH, 0)
    extra = needed(step, gpus) - sum(groups.values())
    groups['context, workspaces, fragmentation'] = extra
    return groups
