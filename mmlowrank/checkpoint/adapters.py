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

import logging
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from ..tuners import CHILD, Tuner, tuners_of
from ..tuners.written import checkpoint_of
from ..version import __version__
from . import adapter_file
from .adapter_file import AdapterError, AdapterFile, memory
from .merge import plain

# Of what a checkpoint says, what the file keeps.
_KEPT = ('dataset_meta', 'progress', 'metrics')
_DISTRIBUTIONS = ('torch', 'onedl-mmengine', 'mmengine')
# What the model had before any file was loaded.
ORIGINAL = 'original'
_ATTRIBUTE = '_mmlowrank_adapters'
_forced = ContextVar('forced', default=False)


@contextmanager
def forced(force: bool = True) -> Iterator[None]:
    """Only warn where base or arguments of a tuner are not the file's."""
    token = _forced.set(force)
    try:
        yield
    finally:
        _forced.reset(token)


def save_adapter(
    model: nn.Module,
    file: str | os.PathLike,
    state_dict: Mapping[str, Tensor] | None = None,
    **about: dict,
) -> None:
    """Write what a model has of its own, and what base it belongs to.

    Args:
        model: A detector, segmentor, classifier or backbone; its wrapper is
            seen through.
        file: Ends in ``.safetensors``. Written whole or not at all.
        state_dict: In the place of the model's, e.g. a moving average.
        about: ``dataset_meta`` (default: the model's), ``progress`` and
            ``metrics``, dicts of plain values.

    Raises:
        ValueError: If the name of the file has another end.
    """
    model = _unwrapped(model)
    if Path(file).suffix != '.safetensors':
        raise ValueError(f'an adapter file ends in .safetensors, got {file}')
    about.setdefault('dataset_meta', getattr(model, 'dataset_meta', None))
    adapter_file.write(
        file,
        own_state(model, state_dict),
        {**_describe(model), **{k: plain(about.get(k) or {}) for k in _KEPT}},
    )


def load_adapter(
    model: nn.Module,
    file: str | os.PathLike,
    name: str | None = None,
    force: bool = False,
) -> str:
    """Load a file and make it the active adapter of a model.

    The base is not touched, nothing is changed unless all fits, and what the
    model had stays: :func:`set_adapter` goes back to it.

    Args:
        model: Built from the config that the adapter was trained with, its
            pre-trained weights loaded.
        file: Of :func:`save_adapter` or ``AdapterCheckpointHook``.
        name: For :func:`set_adapter`; default: the file's, without its end.
        force: Only warn where the base or the arguments of a tuner differ.

    Returns:
        The name.

    Raises:
        AdapterError: If the file is damaged, or of another model or base.
    """
    model = _unwrapped(model)
    found = adapter_file.read(file)
    with forced(force or _forced.get()):
        for path, tuner in tuners_of(model).items():
            _check_tuner(str(file), found.info, path, tuner)
    _check_tensors(str(file), found, model)
    kept = _kept(model)
    if name is None:
        name = Path(file).stem
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
    model = _unwrapped(model)
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
    kept = _kept(_unwrapped(model))
    return {name: name == kept['active'] for name in kept['states']}


def trainable_summary(model: nn.Module) -> dict[str, int]:
    """Return what :func:`save_adapter` would write, in numbers.

    Returns:
        ``trainable`` and ``frozen`` parameters of the model, ``tensors`` and
        ``bytes`` of its adapter.
    """
    model = _unwrapped(model)
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
        _backbone(path, name)
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


def checkpoint_of_adapter(found: AdapterFile, file: str) -> dict[str, Any]:
    """Return what mmengine takes for a checkpoint.

    Its state dict tells the tuned backbone that it is to be completed, in
    the place where PyTorch keeps a module's version.

    Args:
        found: What was read.
        file: From where, for what is said.
    """
    state_dict = OrderedDict(found.tensors)
    state_dict._metadata = OrderedDict(
        (
            path.removesuffix(CHILD).removesuffix('.'),
            dict(adapter=found.info, adapter_file=file),
        )
        for path in found.info['tuners']
    )
    meta = {key: found.info[key] for key in _KEPT}
    meta.update(found.info['progress'], adapter=found.info['tuners'])
    return dict(meta=meta, state_dict=state_dict)


def accept_adapters(backbone: nn.Module) -> nn.Module:
    """Let a tuned backbone complete an adapter that is loaded into it."""
    backbone._register_load_state_dict_pre_hook(_complete, with_module=True)
    return backbone


def _complete(
    backbone: nn.Module,
    state_dict: dict[str, Tensor],
    prefix: str,
    local_metadata: dict,
    *_: object,
) -> None:
    info = local_metadata.get('adapter')
    if info is None:
        return
    tuner, file = getattr(backbone, CHILD), local_metadata['adapter_file']
    _check_tuner(file, info, f'{prefix}{CHILD}', tuner, load=True)
    owned, own = tuner.owned(), backbone.state_dict()
    claimed = {n for n in state_dict if n.startswith(prefix)}
    wanted = {f'{prefix}{n}': t for n, t in own.items() if n in owned}
    found = {n: state_dict[n] for n in claimed}
    problem = difference(found, wanted)
    if problem:
        raise AdapterError(_misfit(file, backbone, problem))
    for name, tensor in own.items():
        state_dict.setdefault(f'{prefix}{name}', tensor)


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model


def _backbone(path: str, name: str) -> str:
    return f'{path.removesuffix(CHILD)}{name}'


def _base(tuner: Tuner) -> str:
    """Return the fingerprint of the weights that a tuner keeps frozen.

    Without the buffers that a constructor computes.
    """
    frozen = tuner.frozen()
    weights = tuner.stock_weights()
    return adapter_file.fingerprint(
        {name: tensor for name, tensor in weights.items() if name in frozen}
    )


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
                type=type(tuner).__name__,
                arguments=plain(dict(tuner.arguments)),
                base=_base(tuner),
                init_cfg=checkpoint_of(tuner.backbone),
            )
            for path, tuner in tuners_of(model).items()
        },
    )


def _check_tuner(
    file: str, info: dict, path: str, tuner: Tuner, load: bool = False
) -> None:
    """Compare type, arguments and base of a tuner with the file's.

    Args:
        file: For the sentence.
        info: The text of the file.
        path: Of the tuner in the model.
        tuner: The tuner.
        load: Load the base if nothing has yet.

    Raises:
        AdapterError: If they differ and it is not :func:`forced`.
    """
    kind, saved = type(tuner).__name__, info['tuners'].get(path)
    if saved is None or saved['type'] != kind:
        theirs = {
            p: t['type'] for p, t in info['tuners'].items()
        } or 'no tuner'
        raise AdapterError(
            f'{file} is of a model with {theirs}, this one has a {kind} at '
            f"'{path}': use the config that it was trained with"
        )
    problems = []
    ours, theirs = plain(dict(tuner.arguments)), saved['arguments']
    if ours and theirs:
        problems += [
            f'{key}={theirs.get(key)!r} there, {ours.get(key)!r} here'
            for key in sorted(ours.keys() | theirs.keys())
            if _listed(ours.get(key)) != theirs.get(key)
        ]
    if problems:
        _refuse(f'{file} was trained with other arguments of {kind}', problems)
    base = _base(tuner)
    if base != saved['base'] and load and not tuner.has_base():
        tuner.init_backbone_weights()
        base = _base(tuner)
    if base != saved['base']:
        _refuse(
            f'{file} was trained on other frozen weights',
            [
                f'those of {saved.get("init_cfg") or "no file"} there, of '
                f'{checkpoint_of(tuner.backbone) or "no file"} here',
                f'fingerprint {saved["base"][:12]} there, {base[:12]} here',
            ],
        )


def _refuse(what: str, problems: list[str]) -> None:
    text = f'{what} ({"; ".join(problems)})'
    if not _forced.get():
        raise AdapterError(
            f'{text}: use the config that it was trained with, or --force '
            '(force=True) to load it all the same'
        )
    print_log(text, logger='current', level=logging.WARNING)


def _listed(value: Any) -> Any:
    """Return a value as JSON gives it back."""
    if isinstance(value, (list, tuple)):
        return [_listed(item) for item in value]
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return value


def difference(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> str | None:
    """Say in what two sets of tensors differ, if they do."""
    for what, names in (
        ('it lacks', wanted.keys() - found.keys()),
        ('the model has no', found.keys() - wanted.keys()),
    ):
        if names:
            some = ', '.join(sorted(names)[:4])
            more = ', ...' if len(names) > 4 else ''
            return f'{what} {some}{more} ({len(names)} in all)'
    for name, tensor in wanted.items():
        one, other = found[name], tensor
        if one.shape != other.shape:
            return (
                f'{name} has shape {list(one.shape)} there and '
                f'{list(other.shape)} here'
            )
        if one.is_floating_point() != other.is_floating_point():
            return f'{name} is of type {one.dtype} there, {other.dtype} here'
    return None


def _check_tensors(file: str, found: AdapterFile, model: nn.Module) -> None:
    gone = found.info['tuners'].keys() - tuners_of(model).keys()
    if gone:
        raise AdapterError(
            f'{file} is of a model with a tuner at {sorted(gone)}: use the '
            'config that it was trained with'
        )
    problem = difference(found.tensors, own_state(model))
    if problem:
        raise AdapterError(_misfit(file, model, problem))


def _misfit(file: str, model: nn.Module, problem: str) -> str:
    return (
        f'{file} does not fit this {type(model).__name__}: {problem}. Use the '
        'config that it was trained with'
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
