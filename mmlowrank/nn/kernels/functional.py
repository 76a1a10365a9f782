"""Forward and backward passes written by hand.

Autograd keeps what each elementary product needs. A bottleneck needs less:
the hidden vector and its GELU are as wide as the bottleneck but follow from
a few numbers, so they are rebuilt in the backward pass.

Each function here has a plain twin (``*_plain``), the same formula in
elementary operations. It is the oracle of the tests, computes the graph
where a backward pass is itself differentiated, and takes the function's
place where no gradient is recorded or something else than autograd looks on;
see :func:`.autograd.by_hand`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .autograd import (
    autocast,
    by_hand,
    cast_to,
    product_type,
    through_twin,
)
from .products import linear


def low_rank_code_plain(
    x: Tensor, a: Tensor, b: Tensor, bias: Tensor, c: Tensor
) -> Tensor:
    """Return ``GELU(x a b + bias) c``; see :func:`low_rank_code`."""
    h = F.linear(F.linear(x, a.t()), b.t(), bias)
    return F.linear(F.gelu(h), c.t())


def low_rank_code(
    x: Tensor, a: Tensor, b: Tensor, bias: Tensor, c: Tensor
) -> Tensor:
    """Return ``GELU(x a b + bias) c``, the code of a low-rank adapter.

    The down projection of width d to m is the product a b of rank r, and c
    is the first factor of the up projection. Saves x and x a; rebuilds the
    hidden vector (width m) and its GELU, which autograd would keep.

    Args:
        x: (..., d).
        a: (d, r).
        b: (r, m).
        bias: (m,).
        c: (m, s).

    Returns:
        (..., s). Under autocast everything is in the autocast type.
    """
    inputs = (*autocast(x), a, b, bias, c)
    if by_hand(*inputs):
        return _LowRankCode.apply(*inputs)
    return _in_type(low_rank_code_plain, inputs[0].dtype)(*inputs)


class _LowRankCode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        a, b, bias, c = cast_to(x.dtype, *weights)
        rows = x.reshape(-1, x.shape[-1])
        z = linear(rows, a.t())
        code = linear(linear(z, b.t(), bias, gelu=True), c.t())
        ctx.save_for_backward(x, z, *weights)
        return code.view(*x.shape[:-1], c.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, z, *weights = ctx.saved_tensors
        if torch.is_grad_enabled():
            twin = _in_type(low_rank_code_plain, x.dtype)
            return through_twin(twin, ctx, (x, *weights), grad)
        a, b, bias, c = cast_to(x.dtype, *weights)
        need_x, need_a, need_b, need_bias, need_c = ctx.needs_input_grad
        grad = grad.reshape(-1, grad.shape[-1])
        h = linear(z, b.t(), bias)
        grad_c = F.gelu(h).t() @ grad if need_c else None
        grad_x = grad_a = grad_b = grad_bias = None
        if need_x or need_a or need_b or need_bias:
            grad_h = _through_gelu(linear(grad, c), h)
            del h
            grad_bias = grad_h.sum(0) if need_bias else None
            grad_b = z.t() @ grad_h if need_b else None
            if need_x or need_a:
                grad_z = linear(grad_h, b)
                if need_a:
                    rows = x.reshape(-1, x.shape[-1])
                    grad_a = rows.t() @ grad_z
                if need_x:
                    grad_x = linear(grad_z, a).view(x.shape)
        return grad_x, grad_a, grad_b, grad_bias, grad_c


def norm_mlp_plain(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    eps: float,
) -> Tensor:
    """Return what :func:`norm_mlp` returns, under autograd."""
    y = _norm(x, norm_weight, norm_bias, eps).to(weight1.dtype)
    return _mlp(y, weight1, bias1, weight2, bias2)


def norm_mlp(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    eps: float,
    y: Tensor | None = None,
) -> Tensor:
    """Return ``GELU(LN(x) W1^T + b1) W2^T + b2``.

    Saves x only and rebuilds the hidden layer, which is several times as
    wide, at the price of one more product with W1.

    Args:
        x: (..., d).
        norm_weight: (d,).
        norm_bias: (d,).
        weight1: (m, d).
        bias1: (m,).
        weight2: (d, m).
        bias2: (d,).
        eps: Of the LayerNorm.
        y: LN(x), (..., d), where it is there already.

    Returns:
        (..., d). Under autocast the products are in the autocast type.
    """
    norm, products = (norm_weight, norm_bias), (weight1, bias1, weight2, bias2)
    inputs = (x, *norm, *products, eps, product_type(weight1))
    if by_hand(*inputs):
        return _NormMLP.apply(*inputs, None if y is None else y.detach())
    return _norm_mlp_in_type(*inputs)


def frozen_mlp(
    y: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor
) -> Tensor:
    """Return ``GELU(y W1^T + b1) W2^T + b2``, which nothing records.

    Args:
        y: (..., d).
        weight1: (m, d).
        bias1: (m,).
        weight2: (d, m).
        bias2: (d,).
    """
    return linear(linear(y, weight1, bias1, gelu=True), weight2, bias2)


class _NormMLP(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        *tensors, ctx.eps, ctx.dtype, y = inputs
        ctx.save_for_backward(*tensors)
        x, norm_weight, norm_bias, *weights = tensors
        if y is None:
            y = _norm(x, norm_weight, norm_bias, ctx.eps)
        return frozen_mlp(y.to(ctx.dtype), *cast_to(ctx.dtype, *weights))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, norm_weight, norm_bias, *weights = ctx.saved_tensors
        if torch.is_grad_enabled():
            inputs = (*ctx.saved_tensors, ctx.eps, ctx.dtype, None)
            return through_twin(_norm_mlp_in_type, ctx, inputs, grad)
        weights = cast_to(ctx.dtype, *weights)
        wide = x.to(norm_weight.dtype)
        y, mean, rstd = torch.native_layer_norm(
            wide, x.shape[-1:], norm_weight, norm_bias, ctx.eps
        )
        y = y.to(weights[0].dtype).view(-1, x.shape[-1])
        needs = (True, *ctx.needs_input_grad[3:7])
        grad_y, *grads_mlp = _mlp_gradients(needs, grad, y, weights)
        grad_x, *grads_norm = torch.ops.aten.native_layer_norm_backward(
            grad_y.to(wide.dtype).view(wide.shape),
            wide,
            x.shape[-1:],
            mean,
            rstd,
            norm_weight,
            norm_bias,
            ctx.needs_input_grad[:3],
        )
        grad_x = None if grad_x is None else grad_x.to(x.dtype)
        return grad_x, *grads_norm, *grads_mlp, None, None, None


def _norm_mlp_in_type(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    *rest: Any,
) -> Tensor:
    weights, (eps, dtype, *_) = rest[:4], rest[4:]
    weights = cast_to(dtype, *weights)
    return norm_mlp_plain(x, norm_weight, norm_bias, *weights, eps)


def bottleneck_plain(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    keep: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Return what :func:`bottleneck` returns, under autograd."""
    return _mlp(x, weight1, bias1, weight2, bias2, keep, dropout)


def bottleneck(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    keep: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Return ``dropout(GELU(x W1^T + b1)) W2^T + b2``, a dense adapter.

    Saves x and, with dropout, one byte for each hidden number; rebuilds the
    hidden vector, of which autograd would keep three versions.

    Args:
        x: (..., d).
        weight1: (m, d).
        bias1: (m,).
        weight2: (d, m).
        bias2: (d,).
        keep: (..., m) of bool, what dropout leaves; None without dropout.
        dropout: The rate that ``keep`` was drawn with.

    Returns:
        (..., d). Under autocast everything is in the autocast type.
    """
    weights = weight1, bias1, weight2, bias2
    inputs = (*autocast(x), *weights, keep, dropout)
    if by_hand(*inputs):
        return _Bottleneck.apply(*inputs)
    return _in_type(bottleneck_plain, inputs[0].dtype)(*inputs)


class _Bottleneck(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        *tensors, ctx.dropout = inputs
        ctx.save_for_backward(*tensors)
        x, *rest = tensors
        return _mlp(x, *cast_to(x.dtype, *rest), ctx.dropout)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights, keep = ctx.saved_tensors
        if torch.is_grad_enabled():
            inputs = (*ctx.saved_tensors, ctx.dropout)
            twin = _in_type(bottleneck_plain, x.dtype)
            return through_twin(twin, ctx, inputs, grad)
        weights = cast_to(x.dtype, *weights)
        rows = x.reshape(-1, x.shape[-1])
        keep = None if keep is None else keep.view(-1, keep.shape[-1])
        needs = ctx.needs_input_grad[:5]
        grad_rows, *grads = _mlp_gradients(
            needs, grad, rows, weights, keep, ctx.dropout
        )
        grad_x = None if grad_rows is None else grad_rows.view(x.shape)
        return grad_x, *grads, None, None


def _in_type(
    twin: Callable[..., Tensor], dtype: torch.dtype
) -> Callable[..., Tensor]:
    """Let a twin cast its weights, as the hand-written pass does."""

    def cast(x: Tensor, *rest: Any) -> Tensor:
        weights = [t for t in rest if not isinstance(t, float)]
        return twin(x, *cast_to(dtype, *weights), *rest[len(weights) :])

    return cast


def _norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x.to(weight.dtype), x.shape[-1:], weight, bias, eps)


def _mlp(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    keep: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    hidden = F.gelu(F.linear(x, weight1, bias1))
    return F.linear(_drop(hidden, keep, dropout), weight2, bias2)


def _mlp_gradients(
    needs: Sequence[bool],
    grad: Tensor,
    y: Tensor,
    weights: Sequence[Tensor],
    keep: Tensor | None = None,
    dropout: float = 0.0,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of y (rows, d) and of the four ``weights``."""
    need_y, need_w1, need_b1, need_w2, need_b2 = needs
    weight1, bias1, weight2, _ = weights
    grad = grad.reshape(len(y), grad.shape[-1])
    grad_b2 = grad.sum(0) if need_b2 else None
    h = linear(y, weight1, bias1)
    grad_w2 = None
    if need_w2:
        grad_w2 = grad.t() @ _drop(F.gelu(h), keep, dropout)
    if not (need_y or need_w1 or need_b1):
        return None, None, None, grad_w2, grad_b2
    grad_h = _drop(linear(grad, weight2.t()), keep, dropout)
    grad_h = _through_gelu(grad_h, h)
    del h
    grad_w1 = grad_h.t() @ y if need_w1 else None
    grad_b1 = grad_h.sum(0) if need_b1 else None
    grad_y = linear(grad_h, weight1.t()) if need_y else None
    return grad_y, grad_w1, grad_b1, grad_w2, grad_b2


def _through_gelu(grad: Tensor, h: Tensor) -> Tensor:
    """Change the gradient of GELU(h) into that of h, in place."""
    return torch.ops.aten.gelu_backward.grad_input(grad, h, grad_input=grad)


def _drop(hidden: Tensor, keep: Tensor | None, dropout: float) -> Tensor:
    """Zero what is not kept and scale the rest, as ``nn.Dropout`` does."""
    return hidden if keep is None else hidden * keep / (1 - dropout)
