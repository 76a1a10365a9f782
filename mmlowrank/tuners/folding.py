"""Linear changes of stock layers: computing with them, and merging them.

A method that changes a linear map or a norm linearly has a stock map that
computes the same, so it merges. One case needs care: Swin's patch merging
ends in a linear layer without a bias, and methods shift its output. A stock
checkpoint has no place for that shift f behind ``reduction``; it is moved in
front of it, into the bias of the norm, as the smallest d with W' d = f. W'
has half as many rows as columns, so there is one, and the result is exact.
Behind a convolution without a bias stands a BatchNorm, whose mean takes it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..families import Layer, Norm

# (weight as a matrix, bias) -> weight and bias of the changed map
Fold = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Change:
    """What a method makes of one layer.

    Attributes:
        layer: The layer or norm.
        fold: The change.
        before: The norm that feeds the layer, which may take a shift.
        adds: Whether it only adds to the weight, whatever that is. Several
            such changes of one layer add up.
    """

    layer: Layer
    fold: Fold
    before: Norm | None = None
    adds: bool = False


def plain_kind(module: nn.Module) -> type[nn.Module]:
    """Return the kind of PyTorch whose code a module runs, if it does."""
    kind = type(module)
    if kind.__module__ == 'mmcv.cnn.bricks.wrappers':
        return kind.__mro__[1]  # other code for empty inputs only
    return kind


def compute_folded(layer: Layer, fold: Fold) -> None:
    """Let the module of ``layer`` compute with the changed weight.

    For maps that are no module of their own, such as the projections of
    ``nn.MultiheadAttention``: the stock ``forward`` runs, and reads the
    changed tensors in place of its parameters.

    Raises:
        TypeError: If the change shifts a map that has no bias.
    """
    _, shift = layer.folded(fold)
    if shift is not None and not layer.called:
        raise TypeError(
            f'{layer.name} has no bias that could take a shift. Build the '
            'backbone with a bias there (e.g. qkv_bias=True)'
        )
    module = layer.module
    own = module.__dict__.get('forward')
    if getattr(own, 'func', None) is not _forward:
        own = module.forward = partial(_forward, module, _folds={})
        if isinstance(module, nn.MultiheadAttention):
            # A TransformerEncoderLayer reads the parameters past this
            # forward, unless a module in it has a hook. Nobody calls this.
            module.out_proj.register_forward_pre_hook(_seen)
    folds = own.keywords['_folds']
    _, earlier = folds.get(layer.weight, (layer, []))
    folds[layer.weight] = layer, [*earlier, fold]


def _seen(*_: object) -> None:
    """Do nothing, as a hook."""


def _in_turn(
    folds: list[Fold], weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    for fold in folds:
        weight, bias = fold(weight, bias)
    return weight, bias


def _forward(
    module: nn.Module, *args: Any, _folds: dict, **kwargs: Any
) -> Any:
    tensors = {}
    for layer, folds in _folds.values():
        changed, shift = layer.folded(partial(_in_turn, folds))
        tensors.update(changed)
        if shift is not None:
            tensors['bias'] = shift  # a layer of PyTorch, without one
    with in_place_of_parameters(module, tensors):
        return type(module).forward(module, *args, **kwargs)


@contextmanager
def in_place_of_parameters(
    module: nn.Module, tensors: Mapping[str, Tensor]
) -> Iterator[None]:
    """Let attributes be other tensors; the parameters stay where they are."""
    places = []
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition('.')
        # What is in __dict__ comes before the parameters.
        places.append((module.get_submodule(path).__dict__, leaf))
        places[-1][0][leaf] = tensor
    try:
        yield
    finally:
        for attributes, leaf in places:
            del attributes[leaf]


@torch.no_grad()
def merged(
    stock: Mapping[str, Tensor], changes: list[Change], method: str
) -> dict[str, Tensor]:
    """Return the stock state dict that computes what the changed one does.

    Args:
        stock: State dict of the backbone.
        changes: All of a method's.
        method: Its name, for the error.

    Raises:
        Unmergeable: If a shift has no place in the stock backbone.
    """
    state_dict, shifts = dict(stock), []
    # A module at several places has a name for each.
    places: dict[int, list[str]] = {}
    for name, tensor in stock.items():
        places.setdefault(tensor.data_ptr(), []).append(name)
    layers: dict[str, list[Change]] = {}
    for change in changes:
        layers.setdefault(change.layer.name, []).append(change)
    for change, *others in layers.values():
        layer = change.layer
        folds = [change.fold, *(other.fold for other in others)]
        tensors, shift = layer.folded(partial(_in_turn, folds))
        for name, tensor in tensors.items():
            own = layer.named(name)
            for other in {own, *places[stock[own].data_ptr()]}:
                if stock[other].shape == tensor.shape:
                    state_dict[other] = tensor
        if shift is not None and shift.any():
            shifts.append((change, tensors[layer.weight], shift))
    for change, weight, shift in shifts:
        norm = change.layer.behind
        if norm is not None and hasattr(norm.module, 'running_mean'):
            name = f'{norm.path}.running_mean'
            state_dict[name] = state_dict[name] - shift
            continue
        norm = change.before
        if norm is None or norm.bias() is None:
            raise Unmergeable(
                f'{change.layer.name.removesuffix(".weight")} has no bias '
                f'to take the shift that {method} gives it, and no norm '
                'with a bias stands before it. Build the backbone with a '
                'bias there (e.g. qkv_bias=True)'
            )
        moved = _moved_in_front(weight.flatten(1), shift)
        if moved is None:
            raise Unmergeable(
                f'{change.layer.path} has no bias and its changed weight '
                'does not reach the shift'
            )
        name = f'{norm.path}.{norm.biases[0]}'
        state_dict[name] = state_dict[name] + moved
    return state_dict


class Unmergeable(ValueError):
    """A change has no place in the stock checkpoint; the text says why."""


def _moved_in_front(weight: Tensor, shift: Tensor) -> Tensor | None:
    """Return the smallest d with ``weight d = shift``, or None.

    In float64, because d is as large as the weight is badly conditioned.

    Args:
        weight: (out, in), out <= in.
        shift: (out,).
    """
    wide = weight.double()
    q, r = torch.linalg.qr(wide.mT)
    solution = q @ torch.linalg.solve_triangular(
        r.mT, shift.double().unsqueeze(1), upper=False
    )
    error = (wide @ solution - shift.double().unsqueeze(1)).abs().max()
    # Not <= is also where r is singular and the error is nan.
    if not error <= 1e-9 * shift.abs().max():
        return None
    return solution.squeeze(1).to(shift.dtype)
