"""What may differ from stage to stage."""

from collections.abc import Sequence


def per_stage(
    name: str, value: int | Sequence[int], num_stages: int, which: str = ''
) -> list[int]:
    """Return one positive number for each stage.

    Args:
        name: What the numbers are, for the error.
        value: One for all stages, or one for each.
        num_stages: How many stages there are.
        which: Says which stages these are, for the error.

    Raises:
        ValueError: If there is another number of them, or one is no number
            above 0.
    """
    each = isinstance(value, Sequence) and not isinstance(value, str)
    values = list(value) if each else [value] * num_stages
    positive = all(isinstance(v, int) and v > 0 for v in values)
    if len(values) != num_stages or not positive:
        stages = '1 stage' if num_stages == 1 else f'{num_stages} stages'
        raise ValueError(
            f'{name} must be one positive number, or a list with one for '
            f'each stage ({stages}{which}), got {value!r}'
        )
    return values
