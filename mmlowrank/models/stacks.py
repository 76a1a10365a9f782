"""Equal layers of a stock model that share their linear maps: LORS^T.

Paper: "LORS: Low-rank Residual Structure for Parameter-Efficient Network
Stacking", CVPR 2024, equation 8: ``W_i = W_shared + sum_k B_ik A_ik`` for
layer i of a stack. A layer keeps its norms, its biases and whatever else it
has; one :class:`LORSStatic` has the weights of a linear map for all layers.

Such a map is a linear layer that is called, or one of the two projections
of ``nn.MultiheadAttention``. That module calls neither: it reads
``in_proj_weight`` and ``out_proj.weight``. Its stock ``forward`` runs here
too, and finds the formed weights in their places.
"""

import re
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from ..nn import LORSLinear, LORSStatic
from ..tuners.folding import in_place_of_parameters, plain_kind


class Site(NamedTuple):
    """A linear map that each layer of a stack has.

    Attributes:
        path: In a layer; empty where the layer is a linear layer itself.
        joint: As :class:`LORSLinear` has it.
    """

    path: str
    joint: str = '.'

    def at(self, stage: int) -> str:
        """Return its path in the list of layers."""
        return f'{stage}.{self.path}'.removesuffix('.')

    def tensors(
        self, layers: nn.ModuleList, stage: int
    ) -> tuple[Tensor, Tensor | None]:
        """Return weight (out, in) and bias of a layer that shares none."""
        return linear_tensors(layers, self.at(stage), self.joint)


def sites_of(
    layers: nn.ModuleList, name: str, linears: str = '.*'
) -> list[Site]:
    """Return the linear maps that equal layers have, in order.

    Projections of an attention whose keys or values have a width of their
    own are three parameters, not one; they are not among them.

    Args:
        layers: The stack.
        name: Of the stack, for the errors.
        linears: Matches the whole path in a layer of those that are meant.

    Raises:
        ValueError: If there are less than two layers, they are not equal or
            are one and the same, or nothing matches.
    """
    if len(layers) < 2:
        raise ValueError(
            f'{name} has {len(layers)} layer, and nobody to share a weight '
            'with: build it with two or more, or leave it out'
        )
    if len({id(layer) for layer in layers}) < len(layers):
        raise ValueError(
            f'{name} has one layer in several places, which share all they '
            'have already: leave it out, or build layers of their own (of a '
            'DETR head, share_pred_layer=False)'
        )
    sites = _sites_in(layers[0], linears)
    if not sites:
        known = ', '.join(site.path for site in _sites_in(layers[0], '.*'))
        raise ValueError(
            f'no linear layer of {name} matches linears={linears!r}. A layer '
            f'has {known or "none"}'
        )
    for index, layer in enumerate(layers):
        if _sites_in(layer, linears) != sites or any(
            _sizes(site, layers, index) != _sizes(site, layers, 0)
            for site in sites
        ):
            raise ValueError(
                f'layer {index} of {name} has other linear layers than layer '
                '0, or of different sizes, which cannot share a weight: give '
                'all layers the same settings (all blocks of a ViT the same '
                'layer_cfgs), or name those that are equal with linears'
            )
    return sites


def check(
    sites: list[Site], layers: nn.ModuleList, name: str, model: nn.Module
) -> None:
    """Check that the maps can be replaced.

    Args:
        sites: Of the stack.
        layers: The stack.
        name: Its path in the model.
        model: What it is a part of.

    Raises:
        TypeError: If one is computed in a way of its own.
        ValueError: If one is frozen, or is elsewhere in the model too.
    """
    places = Counter(
        id(p) for _, p in model.named_parameters(remove_duplicate=False)
    )
    known = (nn.Linear, NonDynamicallyQuantizableLinear)
    for site in sites:
        for stage in range(len(layers)):
            where = f'{name}.{site.at(stage)}'
            kind = nn.Linear
            if site.joint == '.':
                kind = plain_kind(layers.get_submodule(site.at(stage)))
            if kind not in known:
                raise TypeError(
                    f'{where} is a {kind.__name__}, which may not compute '
                    'what nn.Linear does: leave it to the layers with '
                    f"linears, e.g. linears=r'(?!{site.path}$).*'"
                )
            weight, _ = site.tensors(layers, stage)
            if not weight.requires_grad:
                raise ValueError(
                    f'{where} is frozen, and cannot freeze a weight that '
                    'other layers train: build the model without what '
                    'freezes it (frozen_stages, a tuner)'
                )
            if places[id(weight)] > 1:
                raise ValueError(
                    f'{where} shares its weight with another part of the '
                    'model already: leave it to the layers with linears, '
                    f"e.g. linears=r'(?!{site.path}$).*'"
                )


def share(layers: nn.ModuleList, site: Site, options: Mapping) -> LORSStatic:
    """Let a linear map of all layers share one weight.

    Args:
        layers: The stack.
        site: The map.
        options: Of :class:`LORSStatic`. A map without a bias gets none.

    Returns:
        What they share, with its own start. It is for the caller to register
        it, once.

    Raises:
        ValueError: If an option is wrong, or would take a bias away that
            a stock checkpoint must have.
    """
    weight, bias = site.tensors(layers, 0)
    kind = 'none' if bias is None else options.get('bias', 'private')
    if kind == 'none' and bias is not None:
        raise ValueError(
            f'{site.path or "a layer"} has a bias in the stock model, which '
            "bias='none' would leave a merged checkpoint without: leave it "
            "out, or use bias='shared'"
        )
    stack = LORSStatic(
        weight.shape[1],
        weight.shape[0],
        len(layers),
        **{**options, 'bias': kind},
    )
    for stage in range(len(layers)):
        put_shared(
            layers, site.at(stage), LORSLinear(stack, stage, site.joint)
        )
    return stack


@torch.no_grad()
def start_as(
    stack: LORSStatic, tensors: list[tuple[Tensor, Tensor | None]]
) -> None:
    """Start a stack as the first of the layers, with the biases of each.

    Args:
        stack: What the layers share. Its residuals become zero.
        tensors: Weight and bias of each layer.
    """
    stack.reset_parameters()
    weight, bias = tensors[0]
    stack.weight.copy_(weight)
    if stack.bias is not None and bias is not None:
        stack.bias.copy_(bias)
    for private, (_, bias) in zip(stack.biases or (), tensors, strict=False):
        if bias is not None:
            private.copy_(bias)


def linear_tensors(
    model: nn.Module, path: str, joint: str
) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of a linear map that shares none.

    Args:
        model: What has it.
        path: As of the :class:`LORSLinear` in its place.
        joint: As of that.
    """
    # x.fc and a dot: weight of x.fc. x.in_proj and a bar: in_proj_weight of x.
    owner, _, leaf = f'{path}{joint}'.rpartition('.')
    parameters = model.get_submodule(owner)._parameters
    return parameters[f'{leaf}weight'], parameters[f'{leaf}bias']


def put_stock(
    model: nn.Module, path: str, joint: str, weight: Tensor, bias: Any
) -> None:
    """Put a linear map with parameters of its own at a path.

    Args:
        model: What has it.
        path: As of the :class:`LORSLinear` in its place.
        joint: As of that.
        weight: (out, in), copied.
        bias: (out,), copied, or None.
    """
    parent, name = _parent(model, path)
    weight = nn.Parameter(weight.detach().clone())
    bias = bias if bias is None else nn.Parameter(bias.detach().clone())
    if joint == '.':
        linear = nn.Linear(1, 1, bias=False, device='meta')
        linear.out_features, linear.in_features = weight.shape
        linear.weight, linear.bias = weight, bias
        setattr(parent, name, linear)
    else:
        delattr(parent, name)
        parent.in_proj_weight, parent.in_proj_bias = weight, bias


def put_shared(model: nn.Module, path: str, linear: LORSLinear) -> None:
    """Put a linear map that shares its weight at a path.

    Args:
        model: What has it.
        path: Of the map.
        linear: Its new form.
    """
    parent, name = _parent(model, path)
    if linear.joint == '_':
        parent.in_proj_weight = parent.in_proj_bias = None
    setattr(parent, name, linear)
    if isinstance(parent, nn.MultiheadAttention):
        parent.forward = partial(_attend, parent)


def _attend(module: nn.MultiheadAttention, *args: Any, **kwargs: Any) -> Any:
    """Run the stock forward of an attention, with formed weights."""
    tensors = {}
    for name, child in module.named_children():
        if isinstance(child, LORSLinear):
            weight, bias = child.effective()
            joint = child.joint
            tensors[f'{name}{joint}weight'] = weight
            tensors[f'{name}{joint}bias'] = bias
    with in_place_of_parameters(module, tensors):
        return type(module).forward(module, *args, **kwargs)


def _parent(model: nn.Module, path: str) -> tuple[nn.Module, str]:
    path, _, name = path.rpartition('.')
    return model.get_submodule(path), name


def _sites_in(layer: nn.Module, linears: str) -> list[Site]:
    sites = []
    for path, module in layer.named_modules():
        if isinstance(module, nn.Linear):
            sites.append(Site(path))
        if (
            isinstance(module, nn.MultiheadAttention)
            and module.in_proj_weight is not None
        ):
            sites.append(Site(f'{path}.in_proj'.removeprefix('.'), '_'))
    return [site for site in sites if re.fullmatch(linears, site.path)]


def _sizes(site: Site, layers: nn.ModuleList, stage: int) -> tuple:
    weight, bias = site.tensors(layers, stage)
    return weight.shape, bias is None
