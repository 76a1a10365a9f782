"""Low-rank updates, with a backward pass written by hand.

See :mod:`functional` for what the twins are for.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .autograd import autocast, by_hand, cast_to, through_twin
from .products import linear


def low_rank_update_plain(
    x: Tensor,
    out: Tensor,
    a: Tensor,
    b: Tensor,
    scale: float,
    parts: Sequence[int],
    in_place: bool = False,
) -> Tensor:
    """Return what :func:`low_rank_update` returns, under autograd."""
    a, b = cast_to(x.dtype, a, b)
    width = b.shape[1]
    columns = [*out.split(width, -1)]
    for index, (down, up) in zip(parts, zip(a, b, strict=True), strict=True):
        update = F.linear(F.linear(x, down), up)
        columns[index] = columns[index] + scale * update
    return torch.cat(columns, -1) if len(columns) > 1 else columns[0]


def low_rank_update(
    x: Tensor,
    out: Tensor,
    a: Tensor,
    b: Tensor,
    scale: float,
    parts: Sequence[int] = (0,),
    in_place: bool = False,
) -> Tensor:
    """Return ``out`` with ``scale * x A_i^T B_i^T`` added to its parts.

    Saves x and rebuilds x A^T, which autograd would keep.

    Args:
        x: (..., d), the input of a linear layer.
        out: (..., p * m), its output.
        a: (len(parts), r, d).
        b: (len(parts), m, r).
        scale: Factor of the update.
        parts: Which of the p parts of ``out`` are updated.
        in_place: Write into ``out``, which nobody else may have.

    Returns:
        (..., p * m) in the type of ``out``.
    """
    inputs = (*autocast(x), out, a, b, scale, parts, in_place)
    if by_hand(*inputs):
        return _LowRankUpdate.apply(*inputs)
    return low_rank_update_plain(*inputs)


class _LowRankUpdate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        out: Tensor,
        a: Tensor,
        b: Tensor,
        scale: float,
        parts: Sequence[int],
        in_place: bool,
    ) -> Tensor:
        ctx.save_for_backward(x, a, b)
        ctx.scale, ctx.parts = scale, parts
        if in_place:
            ctx.mark_dirty(out)
        else:
            out = out.clone(memory_format=torch.contiguous_format)
        b = b.to(out.dtype)
        codes = _codes(x, a.to(x.dtype))
        rows = out.view(-1, out.shape[-1])
        for code, up, index in zip(codes, b, parts, strict=True):
            columns = rows.narrow(1, index * len(up), len(up))
            columns.addmm_(code.to(out.dtype), up.t(), alpha=scale)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, a, b = ctx.saved_tensors
        if torch.is_grad_enabled():
            out = torch.zeros_like(grad).requires_grad_()
            inputs = (x, out, a, b, ctx.scale, ctx.parts, False)
            return through_twin(low_rank_update_plain, ctx, inputs, grad)
        need_x, _, need_a, need_b, *_ = ctx.needs_input_grad
        a, b = cast_to(grad.dtype, a, b)
        rows = x.reshape(-1, x.shape[-1]).to(grad.dtype)
        grad_rows = grad.reshape(len(rows), -1)
        grad_b = torch.empty_like(b) if need_b else None
        codes = _codes(rows, a) if need_b else a
        grad_codes = []
        for i, (code, up, index) in enumerate(
            zip(codes, b, ctx.parts, strict=True)
        ):
            part = grad_rows.narrow(1, index * len(up), len(up))
            if need_b:
                torch.mm(part.t(), code, out=grad_b[i])
            grad_codes.append(linear(part, up.t()))
        grad_code = torch.cat(grad_codes, -1).mul_(ctx.scale)
        grad_x = grad_a = None
        if need_x:
            grad_x = linear(grad_code, a.flatten(0, 1).t())
            grad_x = grad_x.view(x.shape).to(x.dtype)
        if need_a:
            grad_a = (grad_code.t() @ rows).view(a.shape)
        if need_b:
            grad_b.mul_(ctx.scale)
        return grad_x, grad, grad_a, grad_b, None, None, None


def _codes(x: Tensor, a: Tensor) -> tuple[Tensor, ...]:
    """Return x A_i^T of each part: (rows, r)."""
    rows = x.reshape(-1, x.shape[-1])
    return linear(rows, a.flatten(0, 1)).chunk(len(a), -1)
