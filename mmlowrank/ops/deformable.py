"""Deformable convolution and attention without mmcv's kernels.

The convolutions are torchvision's; offsets and masks have the same order.
Multi-scale attention is mmcv's own in plain PyTorch. Backward passes run the
forward pass again and leave its gradients to autograd. mmcv passes all that
is not a tensor by name.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.ops import deform_conv2d

from .precision import wide


def _gradients(
    function: Callable, inputs: list[Tensor], grad: Tensor
) -> tuple[Tensor, ...]:
    """Return the gradients of ``function(*inputs)`` in all inputs."""
    inputs = [wide(tensor).detach().requires_grad_() for tensor in inputs]
    with torch.enable_grad():
        output = function(*inputs)
    return torch.autograd.grad(output, inputs, wide(grad))


def _convolution(height_width: list[str], options: dict) -> Callable:
    """Return the convolution of some options of mmcv.

    Args:
        height_width: What mmcv calls stride, padding and dilation, each in
            the two directions. Groups follow from the shapes.
        options: mmcv's.

    Returns:
        A function of input (batch, channels, H, W), weight (out_channels,
        channels / groups, kh, kw), offset (batch, 2 deform_groups kh kw, H',
        W') in steps, mask (batch, deform_groups kh kw, H', W') or none, and
        bias (out_channels,) or none, to (batch, out_channels, H', W').
    """
    values = [options[name] for name in height_width]
    stride, padding, dilation = zip(values[::2], values[1::2], strict=True)

    def convolve(
        input: Tensor,
        weight: Tensor,
        offset: Tensor,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        return deform_conv2d(
            wide(input),
            wide(offset),
            wide(weight),
            None if bias is None else wide(bias),
            stride,
            padding,
            dilation,
            None if mask is None else wide(mask),
        )

    return convolve


def _v1(options: dict) -> Callable:
    names = ('dH', 'dW', 'padH', 'padW', 'dilationH', 'dilationW')
    return _convolution([*names], options)


def _v2(options: dict) -> Callable:
    names = ('stride', 'pad', 'dilation')
    return _convolution(
        [f'{n}_{side}' for n in names for side in 'hw'], options
    )


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    **options: int,
) -> None:
    """Write a deformable convolution (v1, no mask) to ``output``.

    Shapes are those of :func:`_convolution`. ``columns``, ``ones`` and the
    option ``im2col_step`` are not needed here; torchvision's kernel has its
    own.
    """
    output.copy_(_v1(options)(input, weight, offset))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **options: int,
) -> None:
    """Write the gradients of input and offset."""
    tensors = [input, weight, offset]
    of_input, _, of_offset = _gradients(_v1(options), tensors, gradOutput)
    gradInput.copy_(of_input)
    gradOffset.copy_(of_offset)


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    scale: float,
    **options: int,
) -> None:
    """Add ``scale`` times the gradient of the weight to ``gradWeight``."""
    # The values of the weight do not matter.
    tensors = [input, torch.zeros_like(gradWeight), offset]
    _, of_weight, _ = _gradients(_v1(options), tensors, gradOutput)
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
    with_bias: bool,
    **options: int,
) -> None:
    """Write a deformable convolution (v2, with a mask) to ``output``.

    Shapes are those of :func:`_convolution`; ``ones`` and ``columns`` are
    not needed here.
    """
    tensors = [input, weight, offset, mask, *([bias] if with_bias else [])]
    output.copy_(_v2(options)(*tensors))


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
    with_bias: bool,
    **options: int,
) -> None:
    """Write the gradients; that of the bias ``with_bias`` only."""
    tensors = [input, weight, offset, mask]
    buffers = [grad_input, grad_weight, grad_offset, grad_mask]
    if with_bias:
        tensors.append(bias)
        buffers.append(grad_bias)
    found = _gradients(_v2(options), tensors, grad_output)
    for buffer, gradient in zip(buffers, found, strict=True):
        buffer.copy_(gradient)


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
    found = _gradients(
        lambda *tensors: _attend(tensors[0], spatial_shapes, *tensors[1:]),
        [value, sampling_loc, attn_weight],
        grad_output,
    )
    buffers = grad_value, grad_sampling_loc, grad_attn_weight
    for buffer, gradient in zip(buffers, found, strict=True):
        buffer.copy_(gradient)
