"""Deformable convolution and attention without mmcv's kernels.

The convolutions are torchvision's; offsets and masks have the same order.
Multi-scale attention is mmcv's own in plain PyTorch.
"""

import torch
import torchvision  # noqa: F401 - registers torch.ops.torchvision
from torch import Tensor

from .precision import wide


def _convolve(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: tuple[int, ...],
    grad: Tensor | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """Return the convolution, or with ``grad`` its five gradients.

    Args:
        input: (batch, channels, H, W).
        weight: (out_channels, channels / groups, kh, kw).
        offset: (batch, 2 * deform_groups * kh * kw, H', W'), in steps.
        mask: (batch, deform_groups * kh * kw, H', W'), or none.
        bias: (out_channels,), or none.
        geometry: Stride, padding, dilation (height, width), groups and
            deform groups: eight numbers.
        grad: (batch, out_channels, H', W').

    Returns:
        (batch, out_channels, H', W'), or the gradients of input, weight,
        offset, mask and bias.
    """
    tensors = [
        wide(input),
        wide(weight),
        wide(offset),
        wide(offset.new_zeros(len(offset), 1) if mask is None else mask),
        wide(weight.new_zeros(len(weight)) if bias is None else bias),
    ]
    last = (*geometry, mask is not None)
    if grad is None:
        return torch.ops.torchvision.deform_conv2d(*tensors, *last)
    return torch.ops.torchvision._deform_conv2d_backward(
        wide(grad), *tensors, *last
    )


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Write a deformable convolution (v1, no mask) to ``output``.

    Shapes are those of :func:`_convolve`. ``columns``, ``ones`` and
    ``im2col_step`` are not needed here; torchvision's kernel has its own.
    """
    geometry = dH, dW, padH, padW, dilationH, dilationW, group
    output.copy_(
        _convolve(
            input, weight, offset, None, None, (*geometry, deformable_group)
        )
    )


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Write the gradients of input and offset."""
    geometry = dH, dW, padH, padW, dilationH, dilationW, group
    of_input, _, of_offset, _, _ = _convolve(
        input,
        weight,
        offset,
        None,
        None,
        (*geometry, deformable_group),
        gradOutput,
    )
    gradInput.copy_(of_input)
    gradOffset.copy_(of_offset)


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Add ``scale`` times the gradient of the weight to ``gradWeight``."""
    geometry = dH, dW, padH, padW, dilationH, dilationW, group
    _, of_weight, _, _, _ = _convolve(
        input,
        torch.zeros_like(gradWeight),  # its values do not matter
        offset,
        None,
        None,
        (*geometry, deformable_group),
        gradOutput,
    )
    gradWeight.add_(of_weight.to(gradWeight.dtype), alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Write a deformable convolution (v2, with a mask) to ``output``.

    Shapes are those of :func:`_convolve`; ``ones`` and ``columns`` are not
    needed here.
    """
    geometry = stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group
    output.copy_(
        _convolve(
            input,
            weight,
            offset,
            mask,
            bias if with_bias else None,
            (*geometry, deformable_group),
        )
    )


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Write the gradients; that of the bias ``with_bias`` only."""
    geometry = stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group
    found = _convolve(
        input,
        weight,
        offset,
        mask,
        None,
        (*geometry, deformable_group),
        grad_output,
    )
    buffers = grad_input, grad_weight, grad_offset, grad_mask
    for buffer, value in zip(buffers, found[:4], strict=True):
        buffer.copy_(value)
    if with_bias:
        grad_bias.copy_(found[4])


def _attend(
    value: Tensor, shapes: Tensor, places: Tensor, weights: Tensor
) -> Tensor:
    from mmcv.ops.multi_scale_deform_attn import (
        multi_scale_deformable_attn_pytorch,
    )

    return multi_scale_deformable_attn_pytorch(
        value, shapes.tolist(), places, weights
    )


def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_loc: Tensor,
    attn_weight: Tensor,
    im2col_step: int,
) -> Tensor:
    """Return multi-scale deformable attention.

    Args:
        value: (batch, H_1 W_1 + H_2 W_2 + ..., heads, channels).
        spatial_shapes: (levels, 2), H and W.
        level_start_index: (levels,); follows from the shapes.
        sampling_loc: (batch, queries, heads, levels, points, 2), x and y
            relative to the maps.
        attn_weight: (batch, queries, heads, levels, points).
        im2col_step: Images at a time; not needed here.

    Returns:
        (batch, queries, heads * channels), of the type of ``value``.
    """
    tensors = wide(sampling_loc), wide(attn_weight)
    return _attend(wide(value), spatial_shapes, *tensors).to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_loc: Tensor,
    attn_weight: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Write the three gradients: the forward pass again, and back."""
    inputs = [
        wide(tensor).detach().requires_grad_()
        for tensor in (value, sampling_loc, attn_weight)
    ]
    with torch.enable_grad():
        output = _attend(inputs[0], spatial_shapes, *inputs[1:])
    found = torch.autograd.grad(output, inputs, wide(grad_output))
    buffers = grad_value, grad_sampling_loc, grad_attn_weight
    for buffer, gradient in zip(buffers, found, strict=True):
        buffer.copy_(gradient)
