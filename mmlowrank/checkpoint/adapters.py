"""Adapters of a model: saved, loaded, several on one base, switched.

An adapter is everything of a model but the frozen weights of its tuned
backbones: tuner, neck and head, and every statistic that moves. Which weights
are frozen is what their tuners say.

In Python::

    from mmlowrank import load_adapter, save_adapter, set_adapter

    save_adapter(model, 'boats.safetensors')
    load_adapter(model, 'cars.safetensors', name='cars')
    set_adapter(model, 'boats')

A file is also taken wherever mmengine takes a checkpoint (``tools/test.py``,
``load_from``, the inferencers): there the tuned backbone puts its own frozen
weights beside the file's, after it has checked that they are those that the
adapter was trained on, or has loaded them as its ``init_cfg`` says.
"""

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from ..tuners import CHILD, Tuner, tuners_of
from ..tuners.weights import load_part
from ..tuners.wrappers import unwrapped
from ..version import __version__
from . import adapter_file
from .adapter_checks import (
    ABOUT,
    base_of,
    check_tensors,
    check_tuner,
    forced,
    mark,
)
from .adapter_file import memory
from .plain_values import plain

_DISTRIBUTIONS = ('torch', 'onedl-mmengine', 'mmengine')
# What the model had before any file was loaded.
ORIGINAL = 'original'
_ATTRIBUTE = '_mmlowrank_adapters'
# What a module computes with, and what is around that.
_PARTS = ('forward', '_modules', '_parameters', '_buffers')
_HOOKS = ('_forward_hooks', '_forward_pre_hooks')


def save_adapter(
    model: nn.Module,
    file: str | os.PathLike,
    state_dict: Mapping[str, Tensor] | None = None,
    **about: dict,
) -> dict[str, Any]:
    """Write what a model has of its own, and what base it belongs to.

    Args:
        model: A detector, segmentor, classifier or backbone; its wrapper is
            seen through.
        file: Ends in ``.safetensors``. Written whole or not at all.
        state_dict: In the place of the model's, e.g. a moving average.
        about: ``dataset_meta`` (default: the model's), ``progress`` and
            ``metrics``, dicts of plain values.

    Returns:
        The text of the file, see :mod:`.adapter_file`.

    Raises:
        ValueError: If the name of the file has another end.
    """
    model = unwrapped(model)
    if Path(file).suffix != '.safetensors':
        raise ValueError(f'an adapter file ends in .safetensors, got {file}')
    about.setdefault('dataset_meta', getattr(model, 'dataset_meta', None))
    own = own_state(model, state_dict)
    info = _describe(model)
    info.update((key, plain(about.get(key) or {})) for key in ABOUT)
    return adapter_file.write(file, own, info)


def load_adapter(
    model: nn.Module,
    file: str | os.PathLike,
    name: str | None = None,
    force: bool = False,
) -> str:
    """Load a file and make it the active adapter of a model.

    Frozen weights that nothing has loaded yet are, as ``init_cfg`` says; else
    the base is not touched. Nothing is changed unless all fits, and what the
    model had stays: :func:`set_adapter` goes back to it.

    Args:
        model: Built from the config that the adapter was trained with.
        file: Of :func:`save_adapter` or ``AdapterCheckpointHook``.
        name: For :func:`set_adapter`; default: the file's, without its end.
        force: Only warn where the base or the arguments of a tuner differ.

    Returns:
        The name.

    Raises:
        AdapterError: If the file is damaged, or of another model or base.
        ValueError: If the name is ``'original'``.
    """
    model = unwrapped(model)
    name = Path(file).stem if name is None else name
    if name == ORIGINAL:
        raise ValueError(
            f"'{ORIGINAL}' is what the model had before: pass another name"
        )
    found = adapter_file.read(file)
    with forced() if force else nullcontext():
        for path, tuner in tuners_of(model).items():
            check_tuner(str(file), found.info, path, tuner)
    check_tensors(str(file), found, model, own_state(model))
    kept = _kept(model)
    _put_aside(model)
    kept['states'][name] = found.tensors
    kept['active'] = name
    _copy(found.tensors, model)
    return name


def set_adapter(model: nn.Module, name: str) -> None:
    """Switch to an adapter that is in memory, nothing is read.

    What the active one has become, in training say, is kept for later.

    Args:
        model: Of :func:`load_adapter`.
        name: As there, or ``'original'``: what the model had before.

    Raises:
        KeyError: If there is none of that name.
    """
    model = unwrapped(model)
    kept = _kept(model)
    if name not in kept['states']:
        raise KeyError(
            f"the model has no adapter '{name}', but "
            + ', '.join(sorted(kept['states']))
        )
    _put_aside(model)
    kept['active'] = name
    _copy(kept['states'][name], model)


def adapters(model: nn.Module) -> dict[str, bool]:
    """Return the names of the adapters in memory -> whether it is active."""
    kept = _kept(unwrapped(model))
    return {name: name == kept['active'] for name in kept['states']}


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Let tuned backbones compute what the stock ones do, to the bit.

    Neck and heads stay as they are. The stock backbones share the frozen
    weights; where the method trains some of them, as E3VA does the output
    norms, these are read again from the checkpoint that ``init_cfg`` names.

    Args:
        model: With backbones that were built from a config.

    Raises:
        RuntimeError: If nothing says what a trained weight was before.
    """
    tuned = [t.backbone for t in tuners_of(unwrapped(model)).values()]
    stocks = [_stock(getattr(backbone, CHILD)) for backbone in tuned]
    before = [dict(backbone.__dict__) for backbone in tuned]
    for backbone, stock in zip(tuned, stocks, strict=True):
        own = getattr(backbone, CHILD).own_hooks
        # The parts, because a head is not called as a whole.
        for name in _PARTS:
            backbone.__dict__[name] = getattr(stock, name)
        for name in _HOOKS:
            hooks = getattr(backbone, name).items()
            left = OrderedDict((i, hook) for i, hook in hooks if i not in own)
            backbone.__dict__[name] = left
    try:
        yield
    finally:
        for backbone, attributes in zip(tuned, before, strict=True):
            backbone.__dict__.pop('forward')
            for name in (*_PARTS, *_HOOKS):
                if name in attributes:
                    backbone.__dict__[name] = attributes[name]


def _stock(tuner: Tuner) -> nn.Module:
    """Return the stock backbone with the weights that a tuner started from."""
    if tuner.build_stock is None:
        raise RuntimeError(
            f'{tuner.title} was not attached by a config, so nothing '
            'says how its stock backbone is built: use TunedBackbone'
        )
    backbone, stock = tuner.backbone, tuner.build_stock()
    frozen = tuner.frozen()
    changed = [name for name in tuner.stock_weights() if name not in frozen]
    if changed and tuner.source is None:
        raise RuntimeError(
            f'{tuner.title} trained {changed[0]} of the backbone '
            f'({len(changed)} tensors in all), and no init_cfg names the '
            'weights that it started from: set it in the config'
        )
    if changed and tuner.part_of is not None:
        load_part(stock, *tuner.part_of)
    elif changed:
        stock.init_weights()
    device = next(backbone.parameters()).device
    # Before it shares them: loading gives tensors what it finds here.
    stock.to(device).train(backbone.training)
    stock.requires_grad_(False)
    own = stock.state_dict()
    shared = {name: t for name, t in frozen.items() if name in own}
    stock.load_state_dict(shared, strict=False, assign=True)
    return stock


def leave_out_base(
    checkpoint: dict[str, Any], model: nn.Module, info: dict, file: str
) -> None:
    """Take out of a checkpoint what tuned backbones keep frozen.

    Each backbone puts it back when the checkpoint is loaded into it, as it
    does with an adapter file.

    Args:
        checkpoint: Of mmengine; its state dicts are replaced.
        model: The model, not wrapped.
        info: What :func:`save_adapter` returned.
        file: The name of the checkpoint, for what is said.
    """
    kept = own_state(model)
    frozen = model.state_dict().keys() - kept.keys()
    for key, prefix in (('state_dict', ''), ('ema_state_dict', 'module.')):
        if key not in checkpoint:
            continue
        whole = checkpoint[key]
        left = {f'{prefix}{name}' for name in frozen}
        own = OrderedDict((n, t) for n, t in whole.items() if n not in left)
        own._metadata = getattr(whole, '_metadata', {})
        mark(own, info, file, prefix)
        checkpoint[key] = own


def trainable_summary(model: nn.Module) -> dict[str, int]:
    """Return what :func:`save_adapter` would write, in numbers.

    Returns:
        ``trainable`` and ``frozen`` parameters of the model, ``tensors`` and
        ``bytes`` of its adapter.
    """
    model = unwrapped(model)
    parameters = [*model.parameters()]
    state = own_state(model)
    distinct = {memory(tensor): tensor for tensor in state.values()}.values()
    return dict(
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        frozen=sum(p.numel() for p in parameters if not p.requires_grad),
        tensors=len(distinct),
        bytes=sum(t.numel() * t.element_size() for t in distinct),
    )


def own_state(
    model: nn.Module, state_dict: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return the state dict without what tuned backbones keep frozen.

    Args:
        model: The model, not wrapped.
        state_dict: Its own, or one of the same names.
    """
    frozen = {
        f'{path.removesuffix(CHILD)}{name}'
        for path, tuner in tuners_of(model).items()
        for name in tuner.frozen()
    }
    own = {n: t for n, t in model.state_dict().items() if n not in frozen}
    if state_dict is None:
        return own
    # What is one tensor in the model may be two of equal values there.
    first = {}
    return {
        name: state_dict[first.setdefault(memory(tensor), name)]
        for name, tensor in own.items()
    }


def _describe(model: nn.Module) -> dict[str, Any]:
    scope = DefaultScope.get_current_instance()
    versions = {'mmlowrank': __version__}
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return dict(
        versions=versions,
        scope=scope.scope_name if scope else '',
        model=type(model).__name__,
        tuners={
            path: dict(
                type=tuner.title,
                arguments=plain(dict(tuner.arguments)),
                base=base_of(tuner),
                init_cfg=tuner.source,
            )
            for path, tuner in tuners_of(model).items()
        },
    )


def _kept(model: nn.Module) -> dict[str, Any]:
    """Return the adapters of a model; a copy of it has copies of them."""
    if _ATTRIBUTE not in model.__dict__:
        model.__dict__[_ATTRIBUTE] = dict(
            active=ORIGINAL, states={ORIGINAL: {}}
        )
    return model.__dict__[_ATTRIBUTE]


def _put_aside(model: nn.Module) -> None:
    kept = _kept(model)
    kept['states'][kept['active']] = {
        name: tensor.detach().clone()
        for name, tensor in own_state(model).items()
    }


@torch.no_grad()
def _copy(tensors: Mapping[str, Tensor], model: nn.Module) -> None:
    for name, tensor in own_state(model).items():
        tensor.copy_(tensors[name])
