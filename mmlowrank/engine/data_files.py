"""Are the files there that a config's data sets and evaluators name?"""

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.utils import is_abs

# What mmengine replaces by a variable of the environment, or by a default.
_VARIABLE = re.compile(r'\{\{[\'"]?\s*\$(\w+)\s*:\s*(\S*?)\s*[\'"]?\}\}')
_SHOWN = 8


class _Missing(NamedTuple):
    """A path that is not there, where it is named, and what moves it."""

    path: str
    named_by: str
    key: str


def check_files(cfg: Config, splits: Sequence[str]) -> None:
    """Check that the files which ``splits`` need are there.

    Those are the annotation files and folders of the data sets, however
    deep they are nested, and the annotation files of the evaluators. They
    are looked for where they will be read: through ``backend_args``.

    Args:
        cfg: A config with ``{split}_dataloader`` and ``{split}_evaluator``.
        splits: Some of ``'train'``, ``'val'`` and ``'test'``.

    Raises:
        FileNotFoundError: Naming the missing paths, and the variables of the
            environment or the keys that point elsewhere.
    """
    missing: list[_Missing] = []
    # Of the frameworks' data sets, only mmpretrain's know ~.
    knows_home = cfg.get('default_scope') == 'mmpretrain'
    for split in splits:
        loader = f'{split}_dataloader'
        for key, dataset in innermost_datasets(cfg.get(loader), loader):
            missing += _missing_of(dataset, key, knows_home)
        evaluator = f'{split}_evaluator'
        for key, node in _nodes(cfg.get(evaluator), evaluator):
            path, key = node.get('ann_file'), f'{key}.ann_file'
            if isinstance(path, str) and not _is_there(path, [node]):
                missing.append(_Missing(path, key, key))
    if missing:
        raise FileNotFoundError(_sentence(cfg, missing))


def innermost_datasets(node: Any, key: str) -> Iterator[tuple[str, dict]]:
    """Yield the data sets in repeated, joined and otherwise wrapped ones.

    Args:
        node: Config of a data loader or of a data set, or a list of such.
        key: What leads to it in the config.

    Yields:
        What leads to a data set that wraps no other, and its config.
    """
    if isinstance(node, (list, tuple)):
        for i, child in enumerate(node):
            yield from innermost_datasets(child, f'{key}.{i}')
    elif isinstance(node, dict):
        wrapped = [n for n in ('dataset', 'datasets') if node.get(n)]
        for name in wrapped:
            yield from innermost_datasets(node[name], f'{key}.{name}')
        if not wrapped:
            yield key, node


def image_backend(loader: Any) -> dict | None:
    """Return the ``backend_args`` that a loader's images are read with."""
    for _, dataset in innermost_datasets(loader, ''):
        for _, transform in _nodes(dataset.get('pipeline'), ''):
            if transform.get('backend_args'):
                return transform['backend_args']
    return None


def _nodes(node: Any, key: str) -> Iterator[tuple[str, dict]]:
    """Yield every dict at any depth, and what leads to it."""
    children = node.items() if isinstance(node, dict) else ()
    if isinstance(node, dict):
        yield key, node
    elif isinstance(node, (list, tuple)):
        children = enumerate(node)
    for name, child in children:
        yield from _nodes(child, f'{key}.{name}')


def _missing_of(
    dataset: dict, key: str, knows_home: bool
) -> Iterator[_Missing]:
    prefix = dataset.get('data_prefix') or {}
    if not isinstance(prefix, dict):
        prefix = {'': prefix}
    # The images are read by the pipeline, maybe from elsewhere.
    readers = [dataset, *(n for _, n in _nodes(dataset.get('pipeline'), ''))]
    root = dataset.get('data_root')
    for name, path, folder in (
        ('ann_file', dataset.get('ann_file'), False),
        *(('data_prefix.' + n, p, True) for n, p in prefix.items()),
    ):
        if not isinstance(path, str) or not path:
            continue
        by_root = bool(root) and not is_abs(path)
        full = os.path.join(root, path) if by_root else path  # noqa: PTH118
        if knows_home:
            full = os.path.expanduser(full)  # noqa: PTH111 - may be a URL
        there = (
            _is_there(full, readers, folder=True)
            if folder
            else _is_there(full, [dataset])
        )
        if not there:
            named_by = f'{key}.{name}'.rstrip('.')
            moves = f'{key}.data_root' if by_root else named_by
            yield _Missing(full, named_by, moves)


def _is_there(
    path: str, readers: Sequence[dict], folder: bool = False
) -> bool:
    """Ask the file backends of ``readers``; true if one cannot tell."""
    # mmcv's transforms still take the old name.
    named = (
        r.get('backend_args') or r.get('file_client_args') for r in readers
    )
    for backend_args in _distinct(named):
        try:
            backend = get_file_backend(
                path, backend_args=backend_args, enable_singleton=True
            )
        except (ImportError, KeyError):
            return True  # who reads it has an error that says more
        # A store of keys has no folders, and some can only read.
        unknowing = folder and not isinstance(backend, LocalBackend)
        if unknowing or not hasattr(backend, 'exists'):
            return True
        if backend.exists(path):
            return True
    return False


def _distinct(values: Iterator[dict | None]) -> list[dict | None]:
    found: list[dict | None] = []
    for value in values:
        if (value or None) not in found:
            found.append(value or None)
    return found


def _sentence(cfg: Config, missing: Sequence[_Missing]) -> str:
    lines = [f'{m.path} does not exist ({m.named_by})' for m in missing]
    if len(lines) > _SHOWN:
        lines[_SHOWN:] = [f'and {len(lines) - _SHOWN} more']
    variables = {
        name: os.environ.get(name, default)
        for name, default in _VARIABLE.findall(cfg.text)
    }
    named = [
        f'{name}=FOLDER in the environment (now {value})'
        for name, value in variables.items()
        if any(_is_below(m.path, value) for m in missing)
    ]
    keys = dict.fromkeys(
        f'{m.key}={"FILE" if m.key.endswith("ann_file") else "FOLDER"}'
        for m in missing
    )
    named.append(f'--cfg-options {" ".join(keys)}')
    return (
        '\n'.join(lines)
        + '\nPut the data set there, or say where yours is: '
        + ', or '.join(named)
    )


def _is_below(path: str, folder: str) -> bool:
    return bool(folder) and f'{path}/'.startswith(folder.rstrip('/') + '/')
