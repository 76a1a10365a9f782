"""Non-maximum suppression and RoIAlign with torchvision's operators."""

from ctypes import c_float

import torch
import torchvision  # noqa: F401 - registers torch.ops.torchvision
from torch import Tensor

from .finder import refuse
from .precision import wide


def nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int
) -> Tensor:
    """Suppress boxes that overlap one of a higher score.

    Args:
        boxes: (n, 4), corners in pixels.
        scores: (n,).
        iou_threshold: Boxes with a larger IoU are suppressed.
        offset: 1 where the corners are pixels that belong to the box.

    Returns:
        Indices of the boxes kept, the highest score first.
    """
    # Sorted as mmcv sorts, so that equal scores come in mmcv's order: the sort
    # of torchvision is a stable one and leaves it as it is.
    scores, order = scores.sort(descending=True)
    boxes = wide(boxes)[order]
    if offset:
        # As wide as x2 - x1 + 1, in areas and in intersections.
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], 1)
    # mmcv takes a float: an IoU of exactly 0.6 is not above float32's 0.6.
    threshold = c_float(iou_threshold).value
    keep = torch.ops.torchvision.nms(boxes, scores.to(boxes.dtype), threshold)
    return order[keep]


def _check_rois(rois: Tensor, pool_mode: int, aligned: bool) -> None:
    if pool_mode != 1:
        refuse("RoIAlign(pool_mode='max')")
    # As the compiled one on CPUs, where looking costs nothing.
    if aligned and not (rois.is_cuda or (rois[:, 1:3] <= rois[:, 3:]).all()):
        raise ValueError(
            'RoIAlign(aligned=True) got a RoI of negative size or NaN: the '
            'columns must be image, x1, y1, x2, y2 with x1 <= x2, y1 <= y2'
        )


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Average what is in each bin of the RoIs.

    Args:
        input: (batch, channels, H, W).
        rois: (n, 5): image, and corners in pixels of the image.
        output: (n, channels, aligned_height, aligned_width), written.
        argmax_y: Unused; of the maximum.
        argmax_x: Unused; of the maximum.
        aligned_height: Bins.
        aligned_width: Bins.
        spatial_scale: Steps of the map to a pixel of the image.
        sampling_ratio: Points in a bin and direction; 0: one a step.
        pool_mode: 1, the average.
        aligned: Whether a pixel's centre is at half a step.

    Raises:
        NotImplementedError: For ``pool_mode`` 0, the maximum.
        ValueError: If a RoI on a CPU has a negative size.
    """
    _check_rois(rois, pool_mode, aligned)
    output.copy_(
        torch.ops.torchvision.roi_align(
            wide(input),
            wide(rois),
            spatial_scale,
            aligned_height,
            aligned_width,
            sampling_ratio,
            aligned,
        )
    )


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write the gradient of :func:`roi_align_forward` to ``grad_input``."""
    _check_rois(rois, pool_mode, aligned)
    # What torchvision's autograd calls: by way of that, the forward pass,
    # which this op has not kept, would run once more.
    grad_input.copy_(
        torch.ops.torchvision._roi_align_backward(
            wide(grad_output),
            wide(rois),
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            aligned,
        )
    )
