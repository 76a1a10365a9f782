"""Names that regular expressions pick, resolved once to an explicit list."""

import re
from collections.abc import Iterable, Sequence

from mmengine.logging import print_log
from torch import Tensor, nn

from .roles import keeps_statistics

UNFREEZE = (
    'Lower frozen_stages of the backbone, or set norm_cfg.requires_grad=True '
    'if it has norm_cfg'
)


def below(paths: Iterable[str]) -> list[str]:
    """Return patterns of the names of all tensors in modules.

    Args:
        paths: Of the modules.
    """
    return [rf'{re.escape(path)}\.' for path in paths]


def matching(patterns: Iterable[str], names: Iterable[str]) -> list[str]:
    """Return the names that a pattern matches from their start, in order.

    Args:
        patterns: Regular expressions, for ``re.match``.
        names: To choose from.
    """
    patterns = [re.compile(pattern) for pattern in patterns]
    return [n for n in names if any(p.match(n) for p in patterns)]


def check_patterns(
    patterns: Sequence[str], names: Sequence[str], module: nn.Module, what: str
) -> None:
    """Check that each pattern of a user matches something.

    Args:
        patterns: Regular expressions.
        names: Of the tensors that they may match.
        module: What has the tensors, for the error.
        what: The name of the setting, for the error.

    Raises:
        ValueError: If it is one text instead of a list, no regular
            expression, or matches nothing.
    """
    if isinstance(patterns, str):
        raise ValueError(
            f'{what} is a list of patterns: write {what}=[{patterns!r}]'
        )
    for pattern in patterns:
        try:
            found = matching([pattern], names)
        except re.error as error:
            raise ValueError(
                f'{what} pattern {pattern!r} is no regular expression: {error}'
            ) from None
        if not found:
            raise ValueError(
                f'{what} pattern {pattern!r} matches no parameter. Top-level '
                'parts are: '
                + ', '.join(name for name, _ in module.named_children())
            )


def asked_for(
    patterns: Sequence[str],
    names: Sequence[str],
    module: nn.Module,
    frozen: set[str],
    unused: set[str],
) -> list[str]:
    """Return the names that ``trainable`` of a config picks, and log them.

    Args:
        patterns: Regular expressions.
        names: Of what could train.
        module: What has it.
        frozen: Names of what the rest of the config freezes.
        unused: Names of what no output depends on.

    Raises:
        ValueError: If a pattern matches nothing that can train.
    """
    check_patterns(patterns, names, module, 'trainable')
    for pattern in patterns:
        named = matching([pattern], names)
        if {*named} <= unused:
            raise ValueError(
                f'trainable pattern {pattern!r} names {named[0]}, on which '
                'no output depends: look at out_indices'
            )
        if {*named} <= frozen | unused:
            raise ValueError(
                f'trainable pattern {pattern!r} names {named[0]}, which the '
                f'config freezes. {UNFREEZE}'
            )
    still = frozen | unused
    picked = [n for n in matching(patterns, names) if n not in still]
    if picked:
        print_log(
            f'trainable={list(patterns)} of {type(module).__name__} are '
            f'{len(picked)} tensors: {", ".join(picked)}',
            logger='current',
        )
    return picked


def completed(module: nn.Module, names: set[str]) -> set[str]:
    """Return names with those that train along with them.

    Other names of the same tensors, where a module is at several places; and
    the statistics of a normalisation all of whose parameters train.
    """
    complete = set(names)
    for path, part in module.named_modules(remove_duplicate=False):
        own = _names(path, part.named_parameters(recurse=False))
        if keeps_statistics(part) and own and {*own} <= names:
            complete.update(_names(path, part.named_buffers(recurse=False)))
    tensors = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    ids = {id(tensors[name]) for name in complete}
    return {name for name, tensor in tensors.items() if id(tensor) in ids}


def _names(path: str, tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    return [f'{path}.{name}'.removeprefix('.') for name, _ in tensors]
