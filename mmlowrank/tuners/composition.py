"""Several methods in one backbone, each as if it were alone."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from ..families import Family
from .base import Tuner
from .folding import Change
from .losses import summed

# Parts of a trunk that only one method at a time can have.
_ALONE = {'outputs': 'feeds the outputs', 'prompts': 'inserts prompts'}


class Composition(Tuner):
    """What ``tuner=[dict(...), dict(...)]`` of a config becomes.

    The methods are attached in their order, so of two adapters at the end
    of a branch the second reads the first; a highway reads what all others
    leave. Their tensors are ``tuner.parts.N``. It merges if all of them do.

    Args:
        methods: Two tuners or more, none attached.

    Raises:
        ValueError: If two need what only one can have.
    """

    def __init__(self, methods: Sequence[Tuner]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(methods)
        self.repeatable = all(method.repeatable for method in methods)
        self.cannot_merge = next(
            (
                f'of its {method.title}, {method.cannot_merge}'
                for method in methods
                if method.cannot_merge is not None
            ),
            None,
        )
        self.arguments = _numbered(
            {'type': method.title, **method.arguments} for method in methods
        )
        needed = {part for method in methods for part in method.needs}
        if {*_ALONE} <= needed:
            raise ValueError(
                'a highway adds up the tokens of the trunk, and prompts are '
                'more of them: leave out one of '
                + ' and '.join(method.title for method in methods)
            )
        for part, does in _ALONE.items():
            named = [m.title for m in methods if part in m.needs]
            if len(named) > 1:
                raise ValueError(
                    f'only one tuner of a backbone {does}: leave out '
                    + ' or '.join(named)
                )

    @property
    def title(self) -> str:
        return ' + '.join(method.title for method in self.parts)

    def defaults(self) -> dict[str, Any]:
        return _numbered(method.defaults() for method in self.parts)

    @property
    def methods(self) -> list[Tuner]:
        return [*self.parts]

    def losses(self) -> dict[str, Tensor]:
        return summed(method.losses() for method in self.parts)

    def build(self, trunk: Family) -> None:
        for method in sorted(self.parts, key=lambda m: 'outputs' in m.needs):
            method.join(trunk)
        self._check_changes()

    def trained_stock(self, trunk: Family) -> list[str]:
        return [
            pattern
            for method in self.parts
            for pattern in method.trained_stock(trunk)
        ]

    def linear_changes(self) -> list[Change]:
        return [
            change
            for method in self.parts
            for change in method.linear_changes()
        ]

    def _check_changes(self) -> None:
        """Check that no layer is changed in two ways.

        Raises:
            ValueError: If so, naming the layer.
        """
        first: dict[str, tuple[Tuner, Change]] = {}
        for method in self.parts:
            for change in method.changes:
                name = change.layer.name
                other, earlier = first.setdefault(name, (method, change))
                if other is method or (earlier.adds and change.adds):
                    continue
                raise ValueError(
                    f'{other.title} and {method.title} both change {name}: '
                    'give one of them other sites or layers, or leave it out'
                )


def _numbered(tables: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return one table of several, with numbers before the keys."""
    return {
        f'{i}.{key}': value
        for i, table in enumerate(tables)
        for key, value in table.items()
    }
