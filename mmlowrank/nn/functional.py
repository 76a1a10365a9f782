"""Forward and backward passes written by hand.

Autograd keeps what each elementary product needs. A bottleneck needs less:
the hidden vector and its GELU are as wide as the bottleneck but follow from
a few numbers, so they are rebuilt in the backward pass.

Each function here has a plain twin (``*_plain``), the same formula in
elementary operations. It is the oracle of the tests, and computes the graph
where a backward pass is itself differentiated.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def low_rank_code_plain(
    x: Tensor, a: Tensor, b: Tensor, bias: Tensor, c: Tensor
) -> Tensor:
    """Return ``GELU(x a b + bias) c``; see :func:`low_rank_code`."""
    return F.gelu(x @ a @ b + bias) @ c


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
    return _LowRankCode.apply(*_autocast(x, a, b, bias, c))


class _LowRankCode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, b: Tensor, bias: Tensor, c: Tensor
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        z = rows @ a
        code = F.gelu(torch.addmm(bias, z, b)) @ c
        ctx.save_for_backward(x, z, a, b, bias, c)
        return code.view(*x.shape[:-1], c.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, z, a, b, bias, c = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _through_twin(
                low_rank_code_plain, ctx, (x, a, b, bias, c), grad
            )
        need_x, need_a, need_b, need_bias, need_c = ctx.needs_input_grad
        grad = grad.reshape(-1, grad.shape[-1])
        h = torch.addmm(bias, z, b)
        grad_c = F.gelu(h).t() @ grad if need_c else None
        grad_x = grad_a = grad_b = grad_bias = None
        if need_x or need_a or need_b or need_bias:
            grad_h = torch.ops.aten.gelu_backward(grad @ c.t(), h)
            grad_bias = grad_h.sum(0) if need_bias else None
            grad_b = z.t() @ grad_h if need_b else None
            if need_x or need_a:
                grad_z = grad_h @ b.t()
                if need_a:
                    grad_a = x.reshape(-1, x.shape[-1]).t() @ grad_z
                if need_x:
                    grad_x = (grad_z @ a.t()).view(x.shape)
        return grad_x, grad_a, grad_b, grad_bias, grad_c


def window_attention_plain(
    qkv: Tensor, bias: Tensor, mask: Tensor | None, heads: int, scale: float
) -> Tensor:
    """Return what :func:`window_attention` returns, under autograd."""
    q, k, v = _heads_of(qkv, heads)
    weights = _attention_weights(q, k, bias, mask, scale)
    out = weights.to(v.dtype) @ v
    return out.transpose(1, 2).reshape(*qkv.shape[:2], -1)


def window_attention(
    qkv: Tensor, bias: Tensor, mask: Tensor | None, heads: int, scale: float
) -> Tensor:
    """Return softmax(scale q k^T + bias + mask) v in windows.

    Swin Transformer (ICCV 2021), equation 4. Saves ``qkv`` only; rebuilds
    the scaled queries and the softmax, which autograd would keep. Bias and
    mask are broadcast, never repeated per window and head.

    Args:
        qkv: (windows, tokens, 3 * width), windows of an image together.
        bias: (heads, tokens, tokens).
        mask: (windows of an image, tokens, tokens), or None.
        heads: Number of heads; divides the width.
        scale: Factor of the scores.

    Returns:
        (windows, tokens, width) in the type of ``qkv``.
    """
    (qkv,) = _autocast(qkv)
    return _WindowAttention.apply(qkv, bias, mask, heads, scale)


class _WindowAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        bias: Tensor,
        mask: Tensor | None,
        heads: int,
        scale: float,
    ) -> Tensor:
        ctx.save_for_backward(qkv, bias, mask)
        ctx.heads, ctx.scale = heads, scale
        return window_attention_plain(qkv, bias, mask, heads, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        qkv, bias, mask = ctx.saved_tensors
        if torch.is_grad_enabled():
            inputs = (qkv, bias, mask, ctx.heads, ctx.scale)
            return _through_twin(window_attention_plain, ctx, inputs, grad)
        q, k, v = _heads_of(qkv, ctx.heads)
        weights = _attention_weights(q, k, bias, mask, ctx.scale)
        grad = grad.view(*grad.shape[:2], ctx.heads, -1).transpose(1, 2)
        grad_scores = torch.ops.aten._softmax_backward_data(
            (grad @ v.mT).to(weights.dtype), weights, -1, weights.dtype
        )
        grad_bias = grad_scores.sum(0) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, grad_bias, None, None, None
        grad_qkv = torch.empty_like(qkv)
        grad_q, grad_k, grad_v = _heads_of(grad_qkv, ctx.heads)
        grad_scores = grad_scores.to(q.dtype)
        grad_q.copy_((grad_scores @ k).mul_(ctx.scale))
        grad_k.copy_((grad_scores.mT @ q).mul_(ctx.scale))
        grad_v.copy_(weights.to(v.dtype).mT @ grad)
        return grad_qkv, grad_bias, None, None, None


def _heads_of(qkv: Tensor, heads: int) -> tuple[Tensor, ...]:
    """Return views q, k, v: each (windows, heads, tokens, width / heads)."""
    windows, tokens, _ = qkv.shape
    parts = qkv.view(windows, tokens, 3, heads, -1)
    return parts.permute(2, 0, 3, 1, 4).unbind(0)


def _attention_weights(
    q: Tensor, k: Tensor, bias: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    """Return the softmax: (windows, heads, tokens, tokens).

    In float32 where the bias is, as autocast has it. The order of the
    operations is that of the stock modules, so that the values are too.
    """
    scores = _add((q * scale) @ k.mT, bias)
    if mask is not None:
        images = scores.unflatten(0, (-1, mask.shape[0]))
        scores = _add(images, mask.unsqueeze(1)).flatten(0, 1)
    return torch.softmax(scores, -1)


def _add(scores: Tensor, term: Tensor) -> Tensor:
    """Add in place, but never round a float32 term to a half type."""
    if scores.dtype == term.dtype:
        return scores.add_(term)
    return scores + term


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
    wide = x.to(norm_weight.dtype)
    y = F.layer_norm(wide, x.shape[-1:], norm_weight, norm_bias, eps)
    hidden = F.gelu(F.linear(y.to(weight1.dtype), weight1, bias1))
    return F.linear(hidden, weight2, bias2)


def norm_mlp(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    eps: float,
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

    Returns:
        (..., d). Under autocast the products are in the autocast type.
    """
    products = _autocast(weight1, bias1, weight2, bias2)
    return _NormMLP.apply(x, norm_weight, norm_bias, *products, eps)


class _NormMLP(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        *tensors, ctx.eps = inputs
        ctx.save_for_backward(*tensors)
        return norm_mlp_plain(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, norm_weight, norm_bias, weight1, bias1, weight2, _ = (
            ctx.saved_tensors
        )
        if torch.is_grad_enabled():
            inputs = (*ctx.saved_tensors, ctx.eps)
            return _through_twin(norm_mlp_plain, ctx, inputs, grad)
        need_x, *need_norm, need_w1, need_b1, need_w2, need_b2, _ = (
            ctx.needs_input_grad
        )
        wide = x.to(norm_weight.dtype)
        y, mean, rstd = torch.native_layer_norm(
            wide, x.shape[-1:], norm_weight, norm_bias, ctx.eps
        )
        y = y.to(weight1.dtype).view(-1, x.shape[-1])
        grad = grad.reshape(y.shape)
        h = F.linear(y, weight1, bias1)
        grad_w2 = grad.t() @ F.gelu(h) if need_w2 else None
        grad_b2 = grad.sum(0) if need_b2 else None
        grad_h = torch.ops.aten.gelu_backward(grad @ weight2, h)
        del h
        grad_w1 = grad_h.t() @ y if need_w1 else None
        grad_b1 = grad_h.sum(0) if need_b1 else None
        grads = torch.ops.aten.native_layer_norm_backward(
            (grad_h @ weight1).to(wide.dtype).view(wide.shape),
            wide,
            x.shape[-1:],
            mean,
            rstd,
            norm_weight,
            norm_bias,
            [need_x, *need_norm],
        )
        grad_x = grads[0].to(x.dtype) if need_x else None
        return (
            grad_x,
            grads[1] if need_norm[0] else None,
            grads[2] if need_norm[1] else None,
            grad_w1,
            grad_b1,
            grad_w2,
            grad_b2,
            None,
        )


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Cast to the autocast type, as the elementary products would be."""
    device = tensors[0].device.type
    # The meta device, on which models are counted, knows no autocast.
    if device == 'meta' or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(tensor.to(dtype) for tensor in tensors)


def _through_twin(
    twin: Callable[..., Tensor],
    ctx: Any,
    inputs: tuple[Any, ...],
    grad: Tensor,
) -> tuple[Tensor | None, ...]:
    """Differentiate the twin, so that the gradients have a graph."""
    needed = [
        value
        for value, need in zip(inputs, ctx.needs_input_grad, strict=True)
        if need
    ]
    grads = iter(
        torch.autograd.grad(twin(*inputs), needed, grad, create_graph=True)
    )
    return tuple(
        next(grads) if need else None for need in ctx.needs_input_grad
    )
