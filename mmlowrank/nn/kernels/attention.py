"""Attention in windows, with a backward pass written by hand.

See :mod:`functional` for what the twins are for.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .autograd import autocast, by_hand, through_twin, unrecorded

# Scores of a block of windows on a CPU.
_SCORES = 2**17


def window_attention_plain(
    qkv: Tensor,
    bias: Tensor,
    mask: Tensor | None,
    heads: int,
    scale: float,
    fused: bool | None = None,
) -> Tensor:
    """Return what :func:`window_attention` returns, under autograd."""
    q, k, v = _heads_of(qkv, heads)
    weights = _attention_weights(q, k, bias, mask, scale)
    out = weights.to(v.dtype) @ v
    return out.transpose(1, 2).reshape(*qkv.shape[:2], -1)


def window_attention(
    qkv: Tensor,
    bias: Tensor,
    mask: Tensor | None,
    heads: int,
    scale: float,
    fused: bool | None = None,
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
        fused: Compute it with ``scaled_dot_product_attention``, which has no
            other type for the bias than that of ``qkv``. None: where it was
            measured to be faster, on a CPU, and rounds nothing.

    Returns:
        (windows, tokens, width) in the type of ``qkv``.
    """
    inputs = (*autocast(qkv), bias, mask, heads, scale, fused)
    if by_hand(*inputs):
        return _WindowAttention.apply(*inputs)
    if unrecorded(qkv, bias) and torch.is_grad_enabled():
        return frozen_window_attention(*inputs)
    return window_attention_plain(*inputs)


def frozen_window_attention(
    qkv: Tensor,
    bias: Tensor,
    mask: Tensor | None,
    heads: int,
    scale: float,
    fused: bool | None = None,
) -> Tensor:
    """Return what :func:`window_attention` returns, which nothing records."""
    if fused is None:
        fused = qkv.is_cpu and qkv.dtype == bias.dtype
    if not fused:
        return window_attention_plain(qkv, bias, mask, heads, scale)
    out = qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)
    for at, added in _blocks(qkv, bias, mask):
        q, k, v = _heads_of(qkv[at], heads)
        added = added.to(q.dtype).expand(len(q), -1, -1, -1)
        part = F.scaled_dot_product_attention(q, k, v, added, scale=scale)
        out[at] = part.transpose(1, 2).flatten(2)
    return out


class _WindowAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        bias: Tensor,
        mask: Tensor | None,
        heads: int,
        scale: float,
        fused: bool | None,
    ) -> Tensor:
        ctx.save_for_backward(qkv, bias, mask)
        ctx.heads, ctx.scale = heads, scale
        return frozen_window_attention(qkv, bias, mask, heads, scale, fused)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        qkv, bias, mask = ctx.saved_tensors
        if torch.is_grad_enabled():
            inputs = (qkv, bias, mask, ctx.heads, ctx.scale, None)
            return through_twin(window_attention_plain, ctx, inputs, grad)
        need_qkv, need_bias, *_ = ctx.needs_input_grad
        grad_qkv = torch.empty_like(qkv) if need_qkv else None
        grad_bias = torch.zeros_like(bias) if need_bias else None
        for at, added in _blocks(qkv, bias, mask):
            # Side by side in memory, for five products.
            parts = _parts_of(qkv[at], ctx.heads).contiguous()
            q, k, v = parts.unbind(0)
            weights = _attention_weights(q, k, added, None, ctx.scale)
            grad_out = grad[at].unflatten(2, (ctx.heads, -1)).transpose(1, 2)
            grad_scores = torch.ops.aten._softmax_backward_data(
                (grad_out @ v.mT).to(weights.dtype), weights, -1, weights.dtype
            )
            if need_bias:
                grad_bias += grad_scores.sum(0)
            if need_qkv:
                grad_scores = grad_scores.to(q.dtype)
                out = _parts_of(grad_qkv[at], ctx.heads)
                out[0] = (grad_scores @ k).mul_(ctx.scale)
                out[1] = (grad_scores.mT @ q).mul_(ctx.scale)
                out[2] = weights.to(v.dtype).mT @ grad_out
        return grad_qkv, grad_bias, None, None, None, None


def _blocks(
    qkv: Tensor, bias: Tensor, mask: Tensor | None
) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of the windows, and what is added to their scores.

    On a CPU the scores of a block stay in the cache.
    """
    windows, tokens, _ = qkv.shape
    image = windows if mask is None else len(mask)
    step = image
    if qkv.is_cpu:
        step = max(1, _SCORES // (len(bias) * tokens**2))
    for first in range(0, windows, image):
        for start in range(0, image, step):
            stop = min(start + step, image)
            added = bias[None]
            if mask is not None:
                added = added + mask[start:stop, None]
            yield slice(first + start, first + stop), added


def _parts_of(qkv: Tensor, heads: int) -> Tensor:
    """Return a view: (3, windows, heads, tokens, width / heads)."""
    windows, tokens, _ = qkv.shape
    return qkv.view(windows, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)


def _heads_of(qkv: Tensor, heads: int) -> tuple[Tensor, ...]:
    """Return views q, k, v: each (windows, heads, tokens, width / heads)."""
    return _parts_of(qkv, heads).unbind(0)


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
