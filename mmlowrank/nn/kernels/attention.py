"""Attention in windows, with a backward pass written by hand.

See :mod:`functional` for what the twins are for.
"""

from typing import Any

import torch
from torch import Tensor

from .autograd import autocast, by_hand, through_twin


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
    inputs = (*autocast(qkv), bias, mask, heads, scale)
    if by_hand(*inputs):
        return _WindowAttention.apply(*inputs)
    return window_attention_plain(*inputs)


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
            return through_twin(window_attention_plain, ctx, inputs, grad)
        q, k, v = _heads_of(qkv, ctx.heads)
        weights = _attention_weights(q, k, bias, mask, ctx.scale)
        grad = grad.view(*grad.shape[:2], ctx.heads, -1).transpose(1, 2)
        grad_scores = torch.ops.aten._softmax_backward_data(
            (grad @ v.mT).to(weights.dtype), weights, -1, weights.dtype
        )
        grad_bias = grad_scores.sum(0) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, grad_bias, None, None, None
        grad_scores = grad_scores.to(q.dtype)
        grads = (
            (grad_scores @ k).mul_(ctx.scale),
            (grad_scores.mT @ q).mul_(ctx.scale),
            weights.to(v.dtype).mT @ grad,
        )
        # (3, windows, heads, tokens, width / heads)
        grad_qkv = torch.stack(grads).permute(1, 3, 0, 2, 4)
        return grad_qkv.reshape(qkv.shape), grad_bias, None, None, None


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
