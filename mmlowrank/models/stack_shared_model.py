"""A stock model in whose stacks of equal layers the weights are shared.

Paper: "LORS: Low-rank Residual Structure for Parameter-Efficient Network
Stacking", CVPR 2024, equation 8, LORS^T. The paper has it in AdaMixer and
names other detectors as work to come; here is any ``nn.ModuleList`` of equal
layers, such as the decoder of a Deformable DETR or a DINO.

We deviate in the start. The paper draws the shared weight Kaiming-uniform; a
stock model has a start of its own, and a decoder that samples at points it
chose may need it. So the stock code initialises a stock model: the shared
weight starts as the weight of the first layer, each bias as that of its
layer, the residuals at zero.
"""

import logging
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ..nn import LORSLinear
from ..registry import MODELS
from .stacks import (
    check,
    linear_tensors,
    put_shared,
    put_stock,
    share,
    sites_of,
    start_as,
)
from .stock_model import build_model, model_config


@MODELS.register_module()
def StackSharedModel(
    model: str | dict, stacks: dict[str, dict], **kwargs: Any
) -> nn.Module:
    """Build a stock model and let the layers of its stacks share weights.

    It is the stock object, and trained from scratch, with all its
    parameters. Its state dict is the stock one but for the linear maps that
    are shared: of these, ``lors.<stack>.<site>`` beside a stack has the
    weight of all its layers, the residuals and the biases.
    ``tools/model_converters/merge.py`` makes a stock checkpoint of it; there
    is no way back, so a stock checkpoint fills the other layers only.

    A linear map is a linear layer that is called, or one of both projections
    of ``nn.MultiheadAttention``. One whose keys or values have a width of
    their own keeps its three input projections.

    Args:
        model: The type of the stock model, e.g. ``'DINO'``; or its config.
        stacks: Path of an ``nn.ModuleList`` in the model, e.g.
            ``'decoder.layers'``, -> options of
            :class:`mmlowrank.nn.LORSStatic` such as ``dict(rank=16)``, and
            ``linears``: a regular expression that matches the whole path in
            a layer of the linear maps that are shared. All are by default.
        **kwargs: Of the stock model, where ``model`` is its type.

    Raises:
        TypeError: If a linear layer computes in a way of its own.
        ValueError: If there is no such stack, ``linears`` matches nothing,
            an option of LORS is wrong, or layers are not equal, frozen, or
            shared already.
    """
    if not stacks:
        raise ValueError(
            'stacks is empty, so nothing is shared. Name one, e.g. '
            "stacks={'decoder.layers': dict(rank=16)}, or build the stock "
            'model itself'
        )
    built = build_model(model, **kwargs)
    for path, options in stacks.items():
        _share_stack(built, path, dict(options))
    if hasattr(built, 'init_weights'):
        # A partial of a bound method, which a deep copy follows.
        built.init_weights = partial(
            _init_weights, built, built.init_weights, tuple(stacks)
        )
    return built


def stock_model_config(model: dict) -> dict:
    """Return the config of the stock model that a merged checkpoint is for.

    Args:
        model: Config of a :func:`StackSharedModel`.
    """
    stock = {k: v for k, v in model.items() if k not in ('type', 'stacks')}
    return model_config(**stock)


def _share_stack(model: nn.Module, path: str, options: dict) -> None:
    """Let the layers at a path share, and register what they do."""
    linears = options.pop('linears', '.*')
    layers = dict(model.named_modules()).get(path)
    if not isinstance(layers, nn.ModuleList):
        found = '' if layers is None else f' but {type(layers).__name__}'
        raise ValueError(
            f"'{path}' is no nn.ModuleList{found} in {type(model).__name__}. "
            f'It has these: {", ".join(_stacks_in(model)) or "none"}'
        )
    known = sites_of(layers, path)
    sites = [site for site in known if re.fullmatch(linears, site.path)]
    if not sites:
        raise ValueError(
            f'no linear layer of {path} matches linears={linears!r}. A layer '
            f'has {", ".join(site.path for site in known) or "none"}'
        )
    check(sites, layers, path, model)
    shared = nn.ModuleDict()
    for site in sites:
        stock = [site.tensors(layers, i) for i in range(len(layers))]
        # A name has no dots; of a layer that is linear itself, no path.
        name = site.path.replace('.', '_') or 'linear'
        shared[name] = share(layers, site, options)
        start_as(shared[name], stock)
    owner, _, name = path.rpartition('.')
    owner = model.get_submodule(owner)
    if not hasattr(owner, 'lors'):
        owner.lors = nn.ModuleDict()
    owner.lors[name] = shared
    names = [
        f'{name}.{site.at(i)}{site.joint}weight'
        for site in sites
        for i in range(len(layers))
    ]
    owner.register_load_state_dict_pre_hook(partial(_leave_out, names))


def _stacks_in(model: nn.Module) -> list[str]:
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) > 1
        and any(isinstance(m, nn.Linear) for m in module.modules())
    ]


def _leave_out(
    names: list[str],
    module: nn.Module,
    state_dict: dict[str, Tensor],
    prefix: str,
    *_: Any,
) -> None:
    """Say that weights of stock layers have no place, and leave them out.

    Without the biases, which have none either, and say nothing alone.
    """
    found = [f'{prefix}{n}' for n in names if f'{prefix}{n}' in state_dict]
    for name in found:
        del state_dict[name]
        state_dict.pop(f'{name.removesuffix("weight")}bias', None)
    if found:
        print_log(
            f'{len(found)} weights of stock layers, the first of them '
            f'{found[0]}, are not loaded: these layers share one weight '
            '(LORS), which a checkpoint with a weight for each cannot fill. '
            'They keep their start. Load a checkpoint of the shared model '
            'where you meant one',
            logger='current',
            level=logging.WARNING,
        )


@torch.no_grad()
def _init_weights(
    model: nn.Module, stock_init: Callable[[], None], paths: tuple[str, ...]
) -> None:
    """Let the stock code initialise a stock model, and start as that.

    While it runs the layers have weights of their own, and what they share
    is out of its reach: of a DETR it draws all matrices of a decoder anew,
    and then sets some, by the layer that has them. What it leaves as it is
    stays so here too.
    """
    inside = tuple(f'{path}.' for path in paths)
    linears = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, LORSLinear) and path.startswith(inside)
    }
    owners = {path.rpartition('.')[0] for path in paths}
    taken = {
        owner: model.get_submodule(owner)._modules.pop('lors')
        for owner in owners
    }
    before = {path: linear.effective() for path, linear in linears.items()}
    for path, linear in linears.items():
        put_stock(model, path, linear.joint, *before[path])
    after = {
        path: linear_tensors(model, path, linear.joint)
        for path, linear in linears.items()
    }
    _tell_mmengine(model, after)
    stock_init()
    stacks = {}
    for path, linear in linears.items():
        # A head may have got a new tensor in ``bias.data``.
        after[path] = linear_tensors(model, path, linear.joint)
        stacks.setdefault(id(linear.stack), []).append(path)
        put_shared(model, path, linear)
    for owner, lors in taken.items():
        model.get_submodule(owner).lors = lors
    for members in stacks.values():
        if any(_differ(before[path], after[path]) for path in members):
            stack = linears[members[0]].stack
            start_as(stack, [after[path] for path in members])


def _differ(one: tuple, other: tuple) -> bool:
    return any(
        a is not None and not torch.equal(a, b)
        for a, b in zip(one, other, strict=True)
    )


def _tell_mmengine(model: nn.Module, tensors: dict[str, tuple]) -> None:
    """Add parameters to mmengine's list of those that are initialised.

    A part of a larger model gets the list from there, and finds a parameter
    that is not in it to be a mistake.
    """
    known = getattr(model, '_params_init_info', None)
    for parameter in sum(tensors.values(), ()) if known is not None else ():
        if parameter is not None:
            known[parameter] = dict(
                init_info='', tmp_mean_value=parameter.mean().cpu()
            )
