"""A trunk that keeps less for the backward pass.

A tuner inside the residual stream (LoRand, Adapter, LoRA, ...) is trained by
back-propagating through frozen blocks. Frozen weights need no gradient, so
most of what a stock block keeps can be rebuilt from little: here the hidden
layer of an MLP from the input of its norm, in the file of a family what it
has of its own.

The stock modules stay where they are and keep their tensors and hooks; only
what ``forward`` computes them with is replaced. It asks first who is
watching: where no gradient is recorded, where a dropout is active, where
something traces, exports or compiles, and where a module that would be
bypassed has hooks or another ``forward``, the stock code runs. Values are
those of the stock modules up to the order of sums.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from ..nn.kernels import functional, products
from ..nn.kernels.autograd import traced
from .anatomy import MLP

# Rebuilding the hidden layer costs 4 d^2 products a token and saves 4 d
# numbers: the narrow stages save most for their time.
_WIDEST_REBUILT_MLP = 512
# Attribute of the output of a norm: the norm and its input.
_SOURCE = 'mmlowrank_source'
# What :func:`rewrite` has put into the place of a forward.
_OURS: set[Callable] = set()


# How windows attend: name -> ``fused`` of :mod:`..nn.kernels.attention`.
ATTENTIONS = {'auto': None, 'sdpa': True, 'products': False}


def check_options(memory: str, attention: str) -> None:
    """Check how a trunk is asked to compute.

    Raises:
        ValueError: If one of the words is unknown.
    """
    if memory not in ('lean', 'stock'):
        raise ValueError(f"memory must be 'lean' or 'stock', got {memory!r}")
    if attention not in ATTENTIONS:
        raise ValueError(
            f"attention must be 'auto', 'sdpa' or 'products', got "
            f'{attention!r}'
        )


def rewrite(module: nn.Module, function: Callable, **options: object) -> None:
    """Let ``function(module, *args)`` compute what the module returns."""
    _OURS.add(function)
    module.forward = partial(function, module, **options)


def rewrite_mlp(mlp: MLP, width: int) -> None:
    """Compute an MLP together with its norm, if it is narrow enough."""
    if width <= _WIDEST_REBUILT_MLP:
        rewrite(mlp.norm, _norm)
    mlp.layers.forward = partial(_mlp, mlp.layers, mlp.around)
    _OURS.add(_mlp)


def rewrite_linears(module: nn.Module) -> None:
    """Compute the frozen linear layers below a module by faster products."""
    for part in module.modules():
        if _is_linear(part) and 'forward' not in part.__dict__:
            rewrite(part, _linear)


def _linear(linear: nn.Module, x: Tensor) -> Tensor:
    out = None
    # A parametrized layer has another class, a rescaled one another weight.
    if computing() and _is_linear(linear) and not hasattr(linear, 'effective'):
        out = products.frozen_linear(x, *_weight_and_bias(linear))
    return type(linear).forward(linear, x) if out is None else out


def _norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Compute a norm, and note on the output what it was made of.

    The output is the stock one. If the MLP finds the note, it computes norm
    and MLP together from x, and the graph of this output is let go.
    """
    y = type(norm).forward(norm, x)
    # Hooks before it see its input, which is what it is.
    seen = watched(norm, inputs=False)
    if recording(x, norm) and _is_layer_norm(norm) and not seen:
        setattr(y, _SOURCE, (norm, x))
    return y


def _mlp(layers: nn.Module, around: nn.Module, y: Tensor) -> Tensor:
    """Compute the layers of an MLP from the input of the norm before it."""
    source = getattr(y, _SOURCE, None)
    if (
        not computing()
        or not _is_plain(layers)
        or drops(layers)
        or any(map(watched, layers.modules()))
        or watched(around)
    ):
        return type(layers).forward(layers, y)
    linears = (m for m in layers.modules() if isinstance(m, nn.Linear))
    weights = [t for linear in linears for t in _weight_and_bias(linear)]
    if products.fast(y, *weights):
        return functional.frozen_mlp(y, *weights)
    # Somebody may want a gradient at the output of the norm.
    if source is None or y.retains_grad or y._backward_hooks:
        return type(layers).forward(layers, y)
    norm, x = source
    return functional.norm_mlp(
        x, *_weight_and_bias(norm), *weights, norm.eps, y
    )


def watched(module: nn.Module, inputs: bool = True) -> bool:
    """Whether a hook, or a forward set on the instance, sees the module.

    Args:
        module: May have a forward of :func:`rewrite`.
        inputs: Count hooks that see its inputs only.
    """
    own = module.__dict__.get('forward')
    return hooked(module, inputs) or (
        own is not None and getattr(own, 'func', None) not in _OURS
    )


def hooked(module: nn.Module, inputs: bool = True) -> bool:
    """Whether a hook sees the module; arguments as of :func:`watched`."""
    return bool(
        _has_any_global_hook()
        or module._forward_hooks
        or (inputs and module._forward_pre_hooks)
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def computing() -> bool:
    """Whether gradients are wanted, of this or else, and nobody looks on.

    Without gradients the stock code runs, to the bit.
    """
    return torch.is_grad_enabled() and not traced()


def recording(x: Tensor, module: nn.Module) -> bool:
    """Whether autograd, and nothing else, records what is computed."""
    return computing() and (
        x.requires_grad
        or any(p.requires_grad for p in module.parameters())
        or any(m._forward_hooks for m in module.children())
    )


def runs(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether it runs the code of a kind, and not a subclass's own."""
    return isinstance(module, kind) and type(module).forward is kind.forward


def drops(*modules: nn.Module) -> bool:
    """Whether a dropout below one of the modules is active."""
    return any(
        m.training and m.p > 0
        for module in modules
        for m in module.modules()
        if isinstance(m, nn.Dropout)
    )


def _is_plain(mlp: nn.Module) -> bool:
    """Whether the layers are Linear, GELU, Linear, with dropouts."""
    passing = (nn.Dropout, nn.Identity, nn.Sequential)
    flat = [
        m for m in mlp.modules() if not any(runs(m, kind) for kind in passing)
    ]
    return (
        len(flat) == 3
        and _is_linear(flat[0])
        and type(flat[1]) is nn.GELU
        and _is_linear(flat[2])
        and flat[1].approximate == 'none'
    )


def _is_linear(module: nn.Module) -> bool:
    """Whether it computes x W^T + b, and not a subclass with more to it."""
    kind = type(module)
    # mmcv's own, in the MLPs, differs on empty inputs of old PyTorch only.
    return (
        kind is nn.Linear
        or _is_changed(kind, nn.Linear)
        or (
            issubclass(kind, nn.Linear)
            and kind.__module__ == 'mmcv.cnn.bricks.wrappers'
        )
    )


def _is_layer_norm(norm: nn.Module) -> bool:
    kind = type(norm)
    plain = kind is nn.LayerNorm or _is_changed(kind, nn.LayerNorm)
    return plain and norm.weight is not None and norm.bias is not None


def _is_changed(kind: type, plain: type) -> bool:
    """Whether it is a kind with another weight, which a tuner swapped in."""
    return issubclass(kind, plain) and hasattr(kind, 'effective')


def _weight_and_bias(module: nn.Module) -> tuple[Tensor, Tensor]:
    if hasattr(module, 'effective'):
        return module.effective()
    return module.weight, module.bias
