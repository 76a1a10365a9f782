"""Products with a rescaled frozen weight, backward passes by hand.

W is frozen, so its rescaled copy W' is cheap to make again: nothing but the
input of the layer is kept for the backward pass, where autograd would keep
W' and an intermediate of its size. The plain twins (``*_plain``) are the
formula in elementary operations, as in :mod:`functional`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .kernels.autograd import autocast, by_hand, through_twin


def rescaled_weight_plain(
    weight: Tensor,
    left: Tensor | None,
    right: Tensor | None,
    residual: bool = True,
) -> Tensor:
    """Return what :func:`rescaled_weight` returns, under autograd."""
    rescaled = weight
    if left is not None:
        grouped = weight.unflatten(0, (len(left), -1))
        rescaled = (grouped * left.unsqueeze(1)).flatten(0, 1)
    if right is not None:
        rescaled = rescaled * right
    return rescaled + weight if residual else rescaled


def rescaled_weight(
    weight: Tensor,
    left: Tensor | None,
    right: Tensor | None,
    residual: bool = True,
) -> Tensor:
    """Return W' = W + diag(r) W diag(c), RLRR's equation 16.

    Keeps nothing for the backward pass but the arguments.

    Args:
        weight: W, (out, in).
        left: The column scale c, (groups, in); the rows of W fall into as many
            equal groups, and each uses its own row of c. None for ones.
        right: The row scale r, (out, 1). None for ones.
        residual: Whether W is added.

    Returns:
        (out, in).
    """
    inputs = (weight, left, right, residual)
    if by_hand(*inputs):
        return _RescaledWeight.apply(*inputs)
    return rescaled_weight_plain(*inputs)


def rescaled_linear_plain(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    left: Tensor | None,
    right: Tensor | None,
    shift: Tensor,
    residual: bool = True,
) -> Tensor:
    """Return what :func:`rescaled_linear` returns, under autograd."""
    rescaled = rescaled_weight_plain(weight, left, right, residual)
    total = shift.flatten() if bias is None else bias + shift.flatten()
    return F.linear(x, rescaled.to(x.dtype), total.to(x.dtype))


def rescaled_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    left: Tensor | None,
    right: Tensor | None,
    shift: Tensor,
    residual: bool = True,
) -> Tensor:
    """Return ``x W'^T + b + f`` with W' of :func:`rescaled_weight`.

    Saves x only and makes W' again in the backward pass. With
    D = g^T x and M = D * W (elementwise), the gradients are
    dr_i = sum_j M_ij c_j, dc_j = sum_i M_ij r_i, df = sum_n g_n and
    dx = g W'; M is summed in float32 at least.

    Args:
        x: (..., in).
        weight: W, (out, in).
        bias: b, (out,), or None.
        left: c, (groups, in), or None for ones.
        right: r, (out, 1), or None for ones.
        shift: f, (1, out).
        residual: Whether W' includes W itself.

    Returns:
        (..., out), under autocast in the autocast type.
    """
    inputs = (*autocast(x), weight, bias, left, right, shift, residual)
    if by_hand(*inputs):
        return _RescaledLinear.apply(*inputs)
    return rescaled_linear_plain(*inputs)


class _RescaledWeight(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        left: Tensor | None,
        right: Tensor | None,
        residual: bool,
    ) -> Tensor:
        ctx.save_for_backward(weight, left, right)
        ctx.residual = residual
        return _rescale(weight, left, right, residual)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs = (*ctx.saved_tensors, ctx.residual)
        if torch.is_grad_enabled():
            return through_twin(rescaled_weight_plain, ctx, inputs, grad)
        needs = ctx.needs_input_grad[:3]
        return (*_weight_grads(grad.clone(), *inputs, needs), None)


class _RescaledLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *rest: Any) -> Tensor:
        weight, bias, left, right, shift, ctx.residual = rest
        ctx.save_for_backward(x, weight, bias, left, right, shift)
        rescaled = _rescale(weight, left, right, ctx.residual).to(x.dtype)
        total = shift.flatten() if bias is None else bias + shift.flatten()
        return F.linear(x, rescaled, total.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, left, right, shift = ctx.saved_tensors
        if torch.is_grad_enabled():
            inputs = (*ctx.saved_tensors, ctx.residual)
            return through_twin(rescaled_linear_plain, ctx, inputs, grad)
        (
            need_x,
            need_weight,
            need_bias,
            need_left,
            need_right,
            need_shift,
            _,
        ) = ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])
        grad_x = grad_bias = grad_shift = None
        if need_x:
            rescaled = _rescale(weight, left, right, ctx.residual)
            rescaled = rescaled.to(rows.dtype)
            grad_x = (rows @ rescaled).view(x.shape)
            del rescaled
        grads = (None, None, None)
        needs = (need_weight, need_left, need_right)
        if any(needs):
            product = rows.t() @ x.reshape(-1, x.shape[-1])
            grads = _weight_grads(
                product, weight, left, right, ctx.residual, needs
            )
        if need_bias:
            grad_bias = rows.sum(0).to(bias.dtype)
        if need_shift:
            # A sum of its own: two gradients must not share memory.
            grad_shift = rows.sum(0).to(shift.dtype).view(1, -1)
        grad_weight, grad_left, grad_right = grads
        return (
            grad_x,
            grad_weight,
            grad_bias,
            grad_left,
            grad_right,
            grad_shift,
            None,
        )


def _rescale(
    weight: Tensor,
    left: Tensor | None,
    right: Tensor | None,
    residual: bool,
) -> Tensor:
    """Return W' in as few passes over W as elementwise kernels allow."""
    if left is None:
        if residual:
            return torch.addcmul(weight, weight, right)
        return weight * right
    grouped, columns = _grouped(weight, left), left.unsqueeze(1)
    if residual and right is None:
        return torch.addcmul(grouped, grouped, columns).view_as(weight)
    rescaled = (grouped * columns).view_as(weight)
    if residual:
        return torch.addcmul(weight, rescaled, right)
    return rescaled if right is None else rescaled.mul_(right)


def _weight_grads(
    product: Tensor,
    weight: Tensor,
    left: Tensor | None,
    right: Tensor | None,
    residual: bool,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, ...]:
    """Return the gradients of W, c and r from that of W', overwriting it."""
    need_weight, need_left, need_right = needs
    grad_weight = grad_left = grad_right = None
    if need_weight:
        grad_weight = _rescale(product.to(weight.dtype), left, right, residual)
    if not need_left and not need_right:
        return grad_weight, None, None
    # Sums over a whole side of W: not in a half type, whatever autocast says.
    wide = torch.promote_types(weight.dtype, torch.float32)
    with torch.autocast(weight.device.type, enabled=False):
        masked = product.to(wide).mul_(weight)
        grouped = masked if left is None else _grouped(masked, left)
        if need_right and left is None:
            grad_right = masked.sum(1, keepdim=True)
        elif need_right:
            grad_right = grouped @ left.to(wide).unsqueeze(-1)
        if need_left and right is None:
            grad_left = grouped.sum(1)
        elif need_left:
            rows = right.to(wide).view(left.shape[0], 1, -1)
            grad_left = (rows @ grouped).squeeze(1)
    if need_left:
        grad_left = grad_left.to(left.dtype)
    if need_right:
        grad_right = grad_right.to(right.dtype).view_as(right)
    return grad_weight, grad_left, grad_right


def _grouped(weight: Tensor, left: Tensor) -> Tensor:
    """Return (out, in) as (groups, out / groups, in)."""
    return weight.view(left.shape[0], -1, weight.shape[1])
