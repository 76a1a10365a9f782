"""Where a tuner acts, in the same words for every method.

``sites`` are places in a block, ``layers`` are blocks, and a ``rank`` is one
number or one for each stage.
"""

from collections.abc import Sequence

from ..families import Block, Family
from ..nn.stages import per_stage

# The residual branches of a block.
SITES = ('attn', 'ffn')


def check_sites(
    sites: Sequence[str], method: str, known: Sequence[str]
) -> tuple[str, ...]:
    """Return the places in a block that a method adapts.

    Args:
        sites: As asked for.
        method: Name of the method, for the error.
        known: All that there are.

    Raises:
        ValueError: If there is none, or an unknown one.
    """
    if isinstance(sites, str) or not sites or not {*sites} <= {*known}:
        raise ValueError(
            f'{method} sites must be a tuple with some of {tuple(known)}, '
            f'got {sites!r}'
        )
    return tuple(sites)


def sites_in(block: Block, sites: Sequence[str], method: str) -> list[str]:
    """Return those of a method's sites that a block has.

    Args:
        block: The block.
        sites: As :func:`check_sites` returned them.
        method: Name of the method, for the error.

    Raises:
        TypeError: If it has none of them.
    """
    found = [site for site in sites if site in block.branches]
    if not found:
        raise TypeError(
            f'{method} has sites={tuple(sites)}, but a '
            f'{type(block.module).__name__} has {tuple(block.branches)}: '
            'name one of these'
        )
    return found


def chosen_layers(
    layers: Sequence[int] | None, trunk: Family, method: str
) -> set[int]:
    """Return the indices of the blocks that a method adapts.

    Args:
        layers: Indices through all stages from 0, negative ones from the
            end. None means all.
        trunk: The trunk.
        method: Name of the method, for the error.

    Returns:
        The indices, none negative.

    Raises:
        ValueError: If there is no such block, or none is chosen.
    """
    blocks = len(trunk.blocks)
    if layers is None:
        return set(range(blocks))
    indices = isinstance(layers, Sequence) and not isinstance(layers, str)
    if not indices or not layers:
        raise ValueError(
            f'{method} layers must be a list of indices of blocks, or None '
            f'for all, got {layers!r}'
        )
    for index in layers:
        if not (isinstance(index, int) and -blocks <= index < blocks):
            raise ValueError(
                f'{method} layers={list(layers)} has {index!r}, but the '
                f'backbone has {blocks} blocks: 0 to {blocks - 1}, or -1 '
                'for the last'
            )
    return {index % blocks for index in layers}


def ranks_of(
    rank: int | Sequence[int], trunk: Family, method: str
) -> list[int]:
    """Return the rank in each stage.

    Args:
        rank: One for all stages, or one for each.
        trunk: The trunk.
        method: Name of the method, for the error.

    Raises:
        ValueError: If there is another number of them, or one is no number
            above 0.
    """
    return per_stage(
        f'{method} rank',
        rank,
        len(trunk.stages),
        ' that an output depends on',
    )
