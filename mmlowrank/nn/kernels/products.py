"""Products with weights, where autograd records nothing.

PyTorch computes a float32 product on a CPU with MKL. oneDNN, which it is
built with too, is faster where this was measured (an AMD EPYC with AVX-512;
most for the gradient of an input, whose weight is transposed), and applies a
GELU before the result leaves the cache. Only the order of sums differs.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .autograd import by_hand, product_type, unrecorded

_FEWEST_ROWS = 128


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False
) -> Tensor:
    """Return ``x W^T + b``, or the GELU of it.

    Args:
        x: (..., d).
        weight: (m, d), of any strides.
        bias: (m,).
        gelu: Apply the exact GELU.

    Returns:
        (..., m).
    """
    if fast(x, weight, bias) and _is_long(x):
        words = ('gelu', [], 'none') if gelu else ('none', [], '')
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, *words)
    out = F.linear(x, weight, bias)
    return F.gelu(out) if gelu else out


def frozen_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor | None:
    """Return ``x W^T + b`` with a graph of x alone.

    Args:
        x: (..., d).
        weight: (m, d).
        bias: (m,).

    Returns:
        (..., m); None where PyTorch's own product shall serve.
    """
    if not (_is_long(x) and fast(weight, bias) and fast(x.detach())):
        return None
    if by_hand(x):
        return _FrozenLinear.apply(x, weight, bias)
    return linear(x, weight, bias) if unrecorded(x) else None


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(weight)
        out = linear(x, weight, bias)
        # Of the product of rows a view, which could not be changed in place.
        return torch.ops.aten._unsafe_view(out, out.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        return linear(grad, weight.t()), None, None


def fast(*tensors: Tensor | None) -> bool:
    """Whether oneDNN computes a product of these."""
    given = [tensor for tensor in tensors if tensor is not None]
    return (
        _is_built()
        and all(_is_plain(tensor) for tensor in given)
        and unrecorded(*given)
    )


def _is_long(x: Tensor) -> bool:
    """Whether there are enough rows: oneDNN lays the weight out anew."""
    return x.numel() >= _FEWEST_ROWS * x.shape[-1]


def _is_built() -> bool:
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and hasattr(torch.ops.mkldnn, '_linear_pointwise')
        # Whoever counts or fakes operations knows those of PyTorch.
        and not torch._C._len_torch_dispatch_stack()
    )


def _is_plain(tensor: Tensor) -> bool:
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.is_cpu
        and product_type(tensor) == tensor.dtype == torch.float32
        and tensor.layout == torch.strided
    )
