"""Go on with a run: from which checkpoint, and whether it is this run's.

mmengine writes down absolute paths, in ``last_checkpoint`` and in what a
checkpoint says of the best one; a folder may have been moved or copied. It
goes on from what ``last_checkpoint`` names, whole or not, and loads it into
whatever model there is.
"""

import logging
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from .adapter_checks import difference

_NUMBERED = re.compile(r'(?:epoch|iter)_(\d+)\.pth')
# Key in the meta of a checkpoint: names, in the order of the optimizer.
TRAINED = 'trained_parameters'


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
        ValueError: If it is an adapter file.
    """
    work_dir = Path(work_dir)
    note = work_dir / 'last_checkpoint'
    written = note.read_text().strip() if note.is_file() else ''
    path = beside(work_dir, written) if written else ''
    if path.endswith('.safetensors'):
        raise ValueError(
            f'{path} is an adapter file, which has no state of the optimizer: '
            'begin a new run from it, with --cfg-options load_from=... and '
            "without --resume. Checkpoints to resume need the hook's full=True"
        )
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


def check_resumable(
    checkpoint: Mapping[str, Any],
    model: nn.Module,
    optimized: Sequence[nn.Parameter],
) -> None:
    """Check that a checkpoint is of this model, and trained the same of it.

    Args:
        checkpoint: As mmengine reads it.
        model: The model, not wrapped.
        optimized: The parameters in the order of the optimizer.

    Raises:
        RuntimeError: If it is not, naming tensors.
    """
    problem = difference(checkpoint['state_dict'], model.state_dict())
    if problem:
        raise RuntimeError(
            f'The checkpoint is of another model: {problem}. {_ADVICE}'
        )
    names = names_of(model, optimized)
    saved = checkpoint.get('meta', {}).get(TRAINED)
    if saved is not None and list(saved) != names:
        only = [
            f'{what} {", ".join(found[:4])}{", ..." if found[4:] else ""} '
            f'({len(found)} in all)'
            for what, found in (
                ('not any more', [n for n in saved if n not in names]),
                ('only now', [n for n in names if n not in saved]),
            )
            if found
        ]
        raise RuntimeError(
            'The checkpoint trained other parameters: '
            f'{"; ".join(only) or "the same in another order"}. {_ADVICE}'
        )
    # Optimizers do not look at shapes, and their kernels read beyond ends.
    for name, parameter, state in zip(
        names, optimized, _states(checkpoint.get('optimizer')), strict=False
    ):
        for key, value in state.items():
            if not isinstance(value, Tensor) or value.ndim == 0:
                continue
            if value.shape != parameter.shape:
                raise RuntimeError(
                    f"The checkpoint's optimizer has '{key}' of shape "
                    f'{list(value.shape)} where {name} has '
                    f'{list(parameter.shape)}. {_ADVICE}'
                )


_ADVICE = (
    '--resume goes on with the config that the run began with; its work dir '
    'has a copy. A new run from these weights: --cfg-options '
    'load_from=CHECKPOINT, without --resume'
)


def names_of(
    model: nn.Module, parameters: Iterable[nn.Parameter]
) -> list[str]:
    """Return the names of parameters of a model, in their order."""
    names = {id(p): name for name, p in model.named_parameters()}
    return [names.get(id(parameter), '?') for parameter in parameters]


def _states(optimizer: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Return the state of each parameter, in the optimizer's order."""
    if not optimizer or 'param_groups' not in optimizer:
        return []
    groups, states = optimizer['param_groups'], optimizer['state']
    return [states.get(i, {}) for group in groups for i in group['params']]
