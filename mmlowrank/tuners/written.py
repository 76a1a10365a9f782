"""Which tensors of a backbone still have the values they were drawn with.

Loading is not strict in most places and says little. But a write shows in a
tensor's version or in its values, whichever way it comes, so that a frozen
trunk which nothing ever wrote can be told from one that was loaded.
"""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from mmengine.logging import print_log
from torch import Tensor, nn


class Unwritten:
    """The tensors that nothing has written since they were drawn.

    Args:
        tensors: Name -> tensor; all count as just drawn.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._drawn = _states(tensors)

    def names(self, tensors: dict[str, Tensor]) -> list[str]:
        """Return the names of the tensors that are as they were drawn."""
        return [
            name
            for name, state in _states(tensors).items()
            if _same(state, self._drawn.get(name))
        ]

    def settle(self, tensors: dict[str, Tensor]) -> None:
        """Forget what has been written, before copies lose its traces."""
        self._drawn = {n: self._drawn[n] for n in self.names(tensors)}

    @contextmanager
    def drawing(
        self, module: nn.Module, tensors: Callable[[], dict[str, Tensor]]
    ) -> Iterator[None]:
        """Tell drawing from loading while a stock ``init_weights`` runs.

        What it writes before it loads a checkpoint into ``module``, or
        without loading one, was drawn.

        Args:
            module: Whose ``init_weights`` runs.
            tensors: Returns name -> tensor, as they are then.
        """
        before = _states(tensors())
        at_loading: dict[str, _State] = {}

        def note(*_: object) -> None:
            if not at_loading:
                at_loading.update(_states(tensors()))

        handle = module._register_load_state_dict_pre_hook(note)
        try:
            yield
        finally:
            handle.remove()
        for name, state in _states(tensors()).items():
            drawn = at_loading.get(name, state)
            if drawn != before.get(name):
                self._drawn[name] = drawn


def checkpoint_of(module: nn.Module) -> str | None:
    """Return the pretrained checkpoint that its ``init_cfg`` names, if any.

    Args:
        module: A module of mmengine; ``init_cfg`` is a dict or a list.
    """
    cfgs = init_cfgs(module)
    named = next((c['checkpoint'] for c in cfgs if c.get('checkpoint')), None)
    # Without what a reader of foreign files put before it.
    return named and re.sub(r'^\w+\[[^]]*\]:', '', str(named))


def init_cfgs(module: nn.Module) -> list[dict]:
    """Return the ``init_cfg`` of a module of mmengine as a list."""
    cfgs = getattr(module, 'init_cfg', None) or []
    return [cfgs] if isinstance(cfgs, dict) else [*cfgs]


def report(
    names: list[str], frozen: list[str], kind: str, source: str | None
) -> None:
    """Say what has no weights; refuse frozen tensors that a file left so.

    Args:
        names: Tensors that nothing has written since they were drawn.
        frozen: Those of them that never will be.
        kind: What has them, for the sentence.
        source: The checkpoint that was to write them, or None.

    Raises:
        RuntimeError: If there is a checkpoint and it left frozen ones.
    """
    if not frozen and (source is None or not names):
        return
    names = frozen or names
    some = ', '.join(names[:4]) + (', ...' if len(names) > 4 else '')
    text = f'{len(names)} tensors of {kind} at their random start: {some}'
    if source is None:
        text += (
            '. They are frozen, and no weights were named: set init_cfg of '
            "the backbone to a dict(type='Pretrained', checkpoint=...), or "
            'load_from'
        )
    else:
        text = f'{source} left {text}'
    if not frozen or source is None:
        print_log(text, logger='current', level=logging.WARNING)
        return
    raise RuntimeError(
        f'{text}. They are frozen, so they would stay random. Is it the '
        'checkpoint of this architecture, and do its keys start with the '
        "path of the backbone in this model ('backbone.' in a detector, "
        'segmentor or classifier)? What is new here, as a layer for other '
        'classes, must train: name it in trainable of the tuner'
    )


class _State(NamedTuple):
    """What changes when a tensor is replaced or written."""

    tensor: int
    version: int
    values: list[float]


def _same(now: _State, drawn: _State | None) -> bool:
    """Whether nothing was written in between.

    A copy of a tensor starts its versions anew, so its values must tell. Of
    a sharded one they would have to be fetched: it counts as written.
    """
    if drawn is None or now.values != drawn.values:
        return False
    return now.version == drawn.version or now.tensor != drawn.tensor


def _states(tensors: dict[str, Tensor]) -> dict[str, _State]:
    # What was made in inference mode has no version, and cannot train.
    return {
        name: _State(id(tensor), tensor._version, _first_values(tensor))
        for name, tensor in tensors.items()
        if not tensor.is_inference()
    }


def _first_values(tensor: Tensor) -> list[float]:
    # Writing to .data does not count up the version.
    plain = type(tensor) in (Tensor, nn.Parameter)
    if tensor.is_meta or not plain:
        return []
    return tensor.detach().flatten()[:4].tolist()
