"""Adaptive mixing of sampled features, with a hand-written backward pass.

Autograd keeps every intermediate of the mixing, 0.6 MiB for a query with two
groups of 64 points in float32. All of them follow from the samples and the
two mixing matrices, so only these are kept; the rest is rebuilt, one group
after the other.

As in :mod:`.functional`, the function has a plain twin.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .kernels.autograd import through_twin
from .mixing_matrices import CastOnce, by_hand_or_twin


def adaptive_mixing_plain(
    x: Tensor,
    channel: Tensor,
    spatial: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    b: Tensor | None,
    a: Tensor | None,
    eps: float,
) -> Tensor:
    """Return what :func:`adaptive_mixing` returns, under autograd.

    The projection is written as figure 2 of the LORS paper: its matrix is
    formed from the shared and the low-rank part.
    """
    y = x @ channel
    y = F.relu(F.layer_norm(y, y.shape[-2:], eps=eps)).to(x.dtype)
    z = spatial.transpose(2, 3) @ y
    z = F.relu(F.layer_norm(z, z.shape[-2:], eps=eps)).to(x.dtype)
    if b is not None:
        terms = torch.cat([weight[None], (b @ a).t()[None]])
        weight = terms.sum(0)
    return F.linear(z.transpose(0, 1).flatten(1), weight, bias)


def adaptive_mixing(
    x: Tensor,
    channel: Tensor,
    spatial: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    b: Tensor | None = None,
    a: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Mix the samples of each query and project them.

    AdaMixer (CVPR 2022), equations 4 and 6 of the LORS paper for each group:
    y = ReLU(LN(x M)), z = ReLU(LN(S^T y)), without affine parameters and
    with the normalisation over both dimensions; then a linear layer on the
    z of all groups. With ``b`` and ``a`` its matrix is W + (B A)^T, which is
    not formed: (z B) A is added instead. Saves its inputs, no intermediate.

    Args:
        x: (groups, queries, in_points, C), the samples.
        channel: (groups, queries, C, C), the M.
        spatial: (groups, queries, in_points, out_points), the S.
        weight: (out, groups * out_points * C) of the linear layer.
        bias: (out,), or None.
        b: (groups * out_points * C, rank), or None.
        a: (rank, out), or None.
        eps: Of the normalisations.

    Returns:
        (queries, out). Under autocast everything is in the autocast type.
    """
    cast = CastOnce()
    tensors = (x, channel, spatial, weight, bias, b, a)
    return by_hand_or_twin(
        *(_AdaptiveMixing, adaptive_mixing_plain),
        *(*map(cast, tensors), eps),
    )


class _AdaptiveMixing(torch.autograd.Function):
    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        x, channel, spatial, weight, bias, b, a, eps = inputs
        out = x.new_zeros(x.shape[1], len(weight))
        if bias is not None:
            out += bias
        code = None if b is None else x.new_zeros(x.shape[1], b.shape[1])
        for group, columns in enumerate(_columns(x, spatial)):
            y = _normed(x[group] @ channel[group], eps)[0]
            z = _normed(spatial[group].mT @ y, eps)[0].flatten(1)
            out.addmm_(z, weight[:, columns].t())
            if code is not None:
                code.addmm_(z, b[columns])
        return out if code is None else out.addmm_(code, a)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.eps = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, channel, spatial, weight, _, b, a = ctx.saved_tensors
        if torch.is_grad_enabled():
            inputs = (*ctx.saved_tensors, ctx.eps)
            return through_twin(adaptive_mixing_plain, ctx, inputs, grad)
        needs = ctx.needs_input_grad
        inputs = (x, channel, spatial, weight, b)
        grad_x, grad_channel, grad_spatial, grad_weight, grad_b = (
            torch.empty_like(tensor) if need else None
            for tensor, need in zip(
                inputs, (*needs[:4], needs[5]), strict=True
            )
        )
        grad = grad.contiguous()
        code = None if b is None else x.new_zeros(x.shape[1], b.shape[1])
        grad_code = None if b is None else grad @ a.t()
        for group, columns in enumerate(_columns(x, spatial)):
            h = x[group] @ channel[group]
            y, *stats_y = _normed(h, ctx.eps)
            k = spatial[group].mT @ y
            z, *stats_z = _normed(k, ctx.eps)
            flat = z.flatten(1)
            if grad_weight is not None:
                torch.mm(grad.t(), flat, out=grad_weight[:, columns])
            grad_z = grad @ weight[:, columns]
            if b is not None:
                code.addmm_(flat, b[columns])
                grad_z.addmm_(grad_code, b[columns].t())
                if grad_b is not None:
                    torch.mm(flat.t(), grad_code, out=grad_b[columns])
            grad_k = _normed_backward(grad_z.view_as(z), k, z, *stats_z)
            if grad_spatial is not None:
                torch.bmm(y, grad_k.mT, out=grad_spatial[group])
            if grad_x is None and grad_channel is None:
                continue
            grad_y = spatial[group] @ grad_k
            grad_h = _normed_backward(grad_y, h, y, *stats_y)
            if grad_channel is not None:
                torch.bmm(x[group].mT, grad_h, out=grad_channel[group])
            if grad_x is not None:
                torch.bmm(grad_h, channel[group].mT, out=grad_x[group])
        grad_bias = grad.sum(0) if needs[4] else None
        grad_a = code.t() @ grad if needs[6] else None
        return (
            *(grad_x, grad_channel, grad_spatial, grad_weight),
            *(grad_bias, grad_b, grad_a, None),
        )


def _columns(x: Tensor, spatial: Tensor) -> list[slice]:
    """Return each group's columns of the projection."""
    width = spatial.shape[3] * x.shape[3]
    return [slice(i * width, (i + 1) * width) for i in range(len(x))]


def _normed(x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return ReLU(LN(x)) over the last two dimensions, mean and 1 / std."""
    shape = x.shape[-2:]
    y, mean, rstd = torch.native_layer_norm(x, shape, None, None, eps)
    return y.relu_(), mean, rstd


def _normed_backward(
    grad: Tensor, x: Tensor, y: Tensor, mean: Tensor, rstd: Tensor
) -> Tensor:
    """Return the gradient of x, where ``y, mean, rstd = _normed(x)``."""
    return torch.ops.aten.native_layer_norm_backward(
        torch.ops.aten.threshold_backward(grad, y, 0),
        *(x, x.shape[-2:], mean, rstd, None, None, [True, False, False]),
    )[0]
