"""Adapter files and models: what must be equal, and the door of mmengine.

A file is taken wherever mmengine takes a checkpoint. Its state dict lacks the
frozen weights of the tuned backbone, which therefore completes it while it is
loaded: :func:`accept_adapters` hooks it so.
"""

import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from ..tuners import CHILD, Tuner, tuners_of
from .adapter_file import AdapterError, AdapterFile, fingerprint
from .plain_values import plain

# Of what a checkpoint says of its run, what the file keeps.
ABOUT = ('dataset_meta', 'progress', 'metrics')
_ADVICE = 'use the config that it was trained with'
_forced = ContextVar('forced', default=False)


class MisfitError(AdapterError):
    """A file is of another model or base.

    Attributes:
        problem: In what they differ, without advice.
    """

    def __init__(self, problem: str, advice: str) -> None:
        super().__init__(f'{problem}: {advice}')
        self.problem = problem


@contextmanager
def forced(force: bool = True) -> Iterator[None]:
    """Only warn where base or arguments of a tuner are not the file's."""
    token = _forced.set(force)
    try:
        yield
    finally:
        _forced.reset(token)


def checkpoint_of_adapter(found: AdapterFile, file: str) -> dict[str, Any]:
    """Return what mmengine takes for a checkpoint.

    Its state dict tells the tuned backbone that it is to be completed, in
    the place where PyTorch keeps a module's version.

    Args:
        found: What was read.
        file: From where, for what is said.
    """
    state_dict = OrderedDict(found.tensors)
    mark(state_dict, found.info, file)
    meta = {key: found.info[key] for key in ABOUT}
    meta.update(found.info['progress'], adapter=found.info['tuners'])
    return dict(meta=meta, state_dict=state_dict)


def mark(
    state_dict: OrderedDict, info: dict, file: str, prefix: str = ''
) -> None:
    """Tell tuned backbones that a state dict lacks what they keep frozen.

    Args:
        state_dict: Is given ``_metadata``.
        info: The text of an adapter file.
        file: From where, for what is said.
        prefix: Before the names in the state dict.
    """
    tuners = {f'{prefix}{path}': t for path, t in info['tuners'].items()}
    metadata = OrderedDict(getattr(state_dict, '_metadata', {}))
    for path in tuners:
        backbone = path.removesuffix(CHILD).removesuffix('.')
        metadata[backbone] = {
            **metadata.get(backbone, {}),
            'adapter': dict(info, tuners=tuners),
            'adapter_file': file,
        }
    state_dict._metadata = metadata


def marked(state_dict: Mapping[str, Tensor]) -> tuple[str, dict] | None:
    """Return file and text of a state dict that :func:`mark` has changed."""
    for about in getattr(state_dict, '_metadata', {}).values():
        if 'adapter' in about:
            return about['adapter_file'], about['adapter']
    return None


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
    check_tuner(file, info, f'{prefix}{CHILD}', tuner)
    owned, own = tuner.owned(), backbone.state_dict()
    claimed = {n for n in state_dict if n.startswith(prefix)}
    wanted = {f'{prefix}{n}': t for n, t in own.items() if n in owned}
    found = {n: state_dict[n] for n in claimed}
    problem = difference(found, wanted)
    if problem:
        raise _misfit(file, backbone, problem)
    for name, tensor in own.items():
        state_dict.setdefault(f'{prefix}{name}', tensor)


def base_of(tuner: Tuner) -> str:
    """Return the fingerprint of the weights that a tuner keeps frozen.

    Without the buffers that a constructor computes.
    """
    frozen = tuner.frozen()
    weights = tuner.stock_weights()
    return fingerprint(
        {name: tensor for name, tensor in weights.items() if name in frozen}
    )


def check_tuner(file: str, info: dict, path: str, tuner: Tuner) -> None:
    """Compare type, arguments and base of a tuner with the file's.

    The base is loaded, as ``init_cfg`` says, if nothing has loaded it yet.

    Args:
        file: For the sentence.
        info: The text of the file.
        path: Of the tuner in the model.
        tuner: The tuner.

    Raises:
        MisfitError: If they differ and it is not :func:`forced`.
    """
    kind, saved = tuner.title, info['tuners'].get(path)
    if saved is None or saved['type'] != kind:
        theirs = {
            p: t['type'] for p, t in info['tuners'].items()
        } or 'no tuner'
        raise MisfitError(
            f'{file} is of a model with {theirs}, this one has a {kind} at '
            f"'{path}'",
            _ADVICE,
        )
    problems = []
    ours, theirs = plain(dict(tuner.arguments)), saved['arguments']
    if ours and theirs:
        defaults = tuner.defaults()
        # What the file does not name is None, or younger than the file: what
        # it was trained with is the default then.
        problems += [
            f'{key}={theirs.get(key)!r} there, {ours.get(key)!r} here'
            for key in sorted(ours.keys() | theirs.keys())
            if _listed(ours.get(key)) != theirs.get(key)
            and (key in theirs or ours[key] != defaults.get(key))
        ]
    if problems:
        _refuse(f'{file} was trained with other arguments of {kind}', problems)
    base = base_of(tuner)
    if base != saved['base'] and not tuner.has_base():
        tuner.load_base()
        base = base_of(tuner)
    if base != saved['base']:
        _refuse(
            f'{file} was trained on other frozen weights',
            [
                f'those of {saved.get("init_cfg") or "no file"} there, of '
                f'{tuner.source or "no file"} here',
                f'fingerprint {saved["base"][:12]} there, {base[:12]} here',
            ],
        )


def _refuse(what: str, problems: list[str]) -> None:
    text = f'{what} ({"; ".join(problems)})'
    if not _forced.get():
        raise MisfitError(
            text, f'{_ADVICE}, or --force (force=True) to load it all the same'
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


def check_tensors(
    file: str,
    found: AdapterFile,
    model: nn.Module,
    own: Mapping[str, Tensor],
) -> None:
    """Compare names, shapes and kinds of all tensors.

    Args:
        file: For the sentence.
        found: What was read of it.
        model: The model, not wrapped.
        own: What an adapter file of it has.

    Raises:
        MisfitError: If they differ.
    """
    gone = found.info['tuners'].keys() - tuners_of(model).keys()
    if gone:
        raise MisfitError(
            f'{file} is of a model with a tuner at {sorted(gone)}', _ADVICE
        )
    problem = difference(found.tensors, own)
    if problem:
        raise _misfit(file, model, problem)


def _misfit(file: str, model: nn.Module, problem: str) -> MisfitError:
    name = type(model).__name__
    return MisfitError(f'{file} does not fit this {name}: {problem}', _ADVICE)
