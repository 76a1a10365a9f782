"""Unpickle checkpoints without running what strangers put into them.

A ``.pth`` file is a pickle, and a pickle may call any function when it is
read. PyTorch reads tensors and plain values of it and refuses the rest
(``weights_only=True``); mmengine tries that, with most of its own types
allowed, and then reads everything after all. Under :func:`unpickling` it does
not.
"""

import os
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim import OneCycleParamScheduler
from mmengine.utils import digit_version

# Read by torch.load each time.
_VARIABLE = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
# Before, mmengine could not allow types of its own.
_SINCE = '2.6'
# Help of the option of the tools.
TRUST = (
    'read checkpoints that have more than tensors and plain values; they may '
    'run any code, so only from a place that you trust'
)


def forbidden(error: Exception) -> str | None:
    """Return what a pickle asked for that PyTorch does not allow, if so."""
    if not isinstance(error, pickle.UnpicklingError):
        return None
    named = re.search(r'GLOBAL (\S+)', str(error))
    return named[1] if named else None


def _of_mmengine() -> list[Any]:
    """Return what mmengine's own checkpoints have beside tensors.

    The history of the log with its arrays, and a function of one schedule:
    ``getattr`` of its class. What that returns is called only if it is here.
    """
    core = np._core if hasattr(np, '_core') else np.core
    arrays = [np.ndarray, np.dtype, core.multiarray._reconstruct]
    arrays.append(core.multiarray.scalar)
    kinds = ('bool', 'int32', 'int64', 'uint32', 'float32', 'float64')
    arrays += [type(np.dtype(kind)) for kind in kinds]
    return [*arrays, HistoryBuffer, OneCycleParamScheduler, getattr, slice]


@contextmanager
def unpickling(trust: bool = False) -> Iterator[None]:
    """Refuse pickles with more than tensors and plain values.

    With PyTorch before 2.6 nothing changes.

    Args:
        trust: Read what is in them, and run what they ask for.

    Raises:
        RuntimeError: If a file has more, naming it, or is damaged.
    """
    # Without the suffix of a build, as in 2.6.0+cu126.
    known = digit_version(torch.__version__.partition('+')[0])
    if trust or known < digit_version(_SINCE) or _VARIABLE in os.environ:
        yield
        return
    os.environ[_VARIABLE] = '1'
    try:
        with torch.serialization.safe_globals(_of_mmengine()):
            yield
    except pickle.UnpicklingError as error:
        named = forbidden(error)
        if named is None:
            first = str(error).strip().splitlines()[0]
            raise RuntimeError(
                f'The checkpoint cannot be read: is it a file of torch, and '
                f'was it copied whole? ({first[:200]})'
            ) from error
        raise RuntimeError(
            f'The checkpoint has an object of {named}, and what is more '
            'than tensors and plain values can run anything when it is read. '
            'If you trust the place where the file is from: --trust'
        ) from error
    finally:
        del os.environ[_VARIABLE]
