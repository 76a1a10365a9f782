"""Go on with a run: from which checkpoint, and whether it is this run's.

mmengine writes down absolute paths, in ``last_checkpoint`` and in what a
checkpoint says of the best one; a folder may have been moved or copied. It
goes on from what ``last_checkpoint`` names, whole or not, and loads it into
whatever model there is.
"""

import logging
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from ..tuners import tuners_of
from .adapter_checks import MisfitError, check_tuner, difference, marked
from .adapters import own_state

# The names of the parameters of each group of an optimizer.
Groups = list[list[str]]
_NUMBERED = re.compile(r'(?:epoch|iter)_(\d+)\.pth')
_ADVICE = (
    '--resume goes on with the config that the run began with; its work dir '
    'has a copy. A new run from these weights: --cfg-options '
    'load_from=CHECKPOINT, without --resume'
)


def beside(folder: str | Path, written: str) -> str:
    """Return the checkpoint of that name in a folder; if none, as written."""
    here = Path(folder) / Path(written).name
    return str(here) if here.exists() else written


def is_whole(path: str | Path) -> bool:
    """Whether a file of ``torch.save`` is as it was written.

    It is a zip file with checksums, and what its end lists is all there.
    """
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def latest_checkpoint(work_dir: str | Path) -> str | None:
    """Return the newest whole checkpoint of a run; None if there is none.

    That is the one ``last_checkpoint`` names. Where the file is empty, gone,
    or names a checkpoint that is not whole, as after a kill or on a full
    disk, it is the whole one of the highest number.

    Raises:
        FileNotFoundError: If there are checkpoints, and none is whole.
    """
    work_dir = Path(work_dir)
    note = work_dir / 'last_checkpoint'
    written = note.read_text().strip() if note.is_file() else ''
    path = beside(work_dir, written) if written else ''
    # Folders are checkpoints of other frameworks.
    if path and ('://' in path or Path(path).is_dir() or is_whole(path)):
        return path
    numbered = [
        (int(match[1]), file)
        for file in work_dir.glob('*.pth')
        if (match := _NUMBERED.fullmatch(file.name))
    ]
    for _, file in sorted(numbered, reverse=True):
        if is_whole(file):
            print_log(
                f'{path or note} is not whole or not there: going on from '
                f'{file}, the newest checkpoint that is',
                logger='current',
                level=logging.WARNING,
            )
            return str(file)
    if not path and not numbered:
        return None
    raise FileNotFoundError(
        f'{note} names {path or "nothing"}, which is not there or not whole, '
        f'and {work_dir} has no other checkpoint that is. Put it back, pass '
        f'--resume another checkpoint, or remove {work_dir} to begin again'
    )


def seed_of(checkpoint: str) -> int | None:
    """Return the seed of the run that a checkpoint is of; None if unknown.

    Args:
        checkpoint: A path, or what else mmengine reads; of a folder of
            another framework nothing is known.

    Raises:
        ValueError: If it is an adapter file.
    """
    if checkpoint.endswith('.safetensors'):
        raise ValueError(
            f'{checkpoint} has no state of the optimizer: resume the .pth '
            'that was written beside it, or begin a new run, with '
            f'--cfg-options load_from={checkpoint} and without --resume'
        )
    if Path(checkpoint).is_dir():
        return None
    found = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    return found.get('meta', {}).get('seed')


def check_resumable(checkpoint: Mapping[str, Any], model: nn.Module) -> None:
    """Check that a checkpoint is of this model.

    Args:
        checkpoint: As mmengine reads it.
        model: The model, not wrapped.

    Raises:
        RuntimeError: If it has other tensors, naming one, or another tuner
            or base.
    """
    state_dict = checkpoint['state_dict']
    about = marked(state_dict)
    try:
        if about is None:
            problem = difference(state_dict, model.state_dict())
        else:
            for path, tuner in tuners_of(model).items():
                check_tuner(*about, path, tuner)
            problem = difference(state_dict, own_state(model))
    except MisfitError as error:
        problem = error.problem
    if problem:
        raise RuntimeError(
            f'The checkpoint is of another model: {problem}. {_ADVICE}'
        )


def name_states(optimizer: dict[str, Any], names: Groups) -> None:
    """Let an optimizer's state say which parameter is which.

    PyTorch numbers them, in the order of the groups.

    Args:
        optimizer: Of ``state_dict()``; changed.
        names: Of the parameters of each group.
    """
    flat = dict(enumerate(name for group in names for name in group))
    for group in optimizer['param_groups']:
        group['params'] = [flat[i] for i in group['params']]
    optimizer['state'] = {flat[i]: s for i, s in optimizer['state'].items()}


def order_states(
    optimizer: dict[str, Any],
    names: Groups,
    parameters: Mapping[str, nn.Parameter],
) -> None:
    """Put an optimizer's state into the order of this run's.

    Args:
        optimizer: As saved, by name or, from mmengine alone, by number;
            changed.
        names: Of the parameters of each group of this run.
        parameters: Name -> parameter.

    Raises:
        RuntimeError: If it trained other parameters, naming them, if it had
            other groups, or if a state has another shape.
    """
    groups = optimizer.get('param_groups', [])
    saved = [group['params'] for group in groups]
    if all(isinstance(name, str) for group in saved for name in group):
        _check_groups(saved, names)
        for group, own in zip(groups, names, strict=True):
            group['params'] = list(own)
    # Optimizers do not look at shapes, and their kernels read beyond ends.
    keys = (key for group in groups for key in group['params'])
    flat = (name for group in names for name in group)
    for key, name in zip(keys, flat, strict=False):
        for what, value in optimizer['state'].get(key, {}).items():
            if not isinstance(value, Tensor) or value.ndim == 0:
                continue
            if value.shape != parameters[name].shape:
                raise RuntimeError(
                    f"The checkpoint's optimizer has '{what}' of shape "
                    f'{list(value.shape)} where {name} has '
                    f'{list(parameters[name].shape)}. {_ADVICE}'
                )


def _check_groups(saved: Groups, names: Groups) -> None:
    before, now = ([n for g in groups for n in g] for groups in (saved, names))
    only = [
        f'{what} {", ".join(found[:4])}{", ..." if found[4:] else ""} '
        f'({len(found)} in all)'
        for what, found in (
            ('not any more', [n for n in before if n not in set(now)]),
            ('only now', [n for n in now if n not in set(before)]),
        )
        if found
    ]
    if only:
        raise RuntimeError(
            f'The checkpoint trained other parameters: {"; ".join(only)}. '
            f'{_ADVICE}'
        )
    if [*map(sorted, saved)] != [*map(sorted, names)]:
        raise RuntimeError(
            f'The checkpoint trained the same parameters in {len(saved)} '
            f'other groups of the optimizer, here are {len(names)}: '
            f'paramwise_cfg was another. {_ADVICE}'
        )


def names_of(
    model: nn.Module, groups: Iterable[Iterable[nn.Parameter]]
) -> Groups:
    """Return the names of the parameters of an optimizer's groups.

    Args:
        model: The model, not wrapped.
        groups: The parameters of each group.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    # What an algorithm trains beside the model has no name.
    return [
        [names.get(id(p), f'?{i}.{j}') for j, p in enumerate(group)]
        for i, group in enumerate(groups)
    ]
