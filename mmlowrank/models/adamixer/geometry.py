"""Boxes of queries as AdaMixer writes them: (x, y, z, r).

x and y are the centre in pixels, z = log2 of the geometric mean of width and
height, r = log2(height / width). AdaMixer, CVPR 2022.
"""

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> Tensor:
    """Return a tensor of half precision in float32.

    Half precision has too few bits for pixels and positions.
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def encode_boxes(cxcywh: Tensor) -> Tensor:
    """Return (..., 4) xyzr of boxes (centre x, centre y, width, height)."""
    width, height = cxcywh[..., 2].log2(), cxcywh[..., 3].log2()
    zr = torch.stack([(width + height) / 2, height - width], -1)
    return torch.cat([cxcywh[..., :2], zr], -1)


def sizes_of(xyzr: Tensor) -> Tensor:
    """Return (..., 2) widths and heights in pixels."""
    z, half_r = xyzr[..., 2], xyzr[..., 3] / 2
    return torch.stack([z - half_r, z + half_r], -1).exp2()


def decode_boxes(xyzr: Tensor) -> Tensor:
    """Return (..., 4) corners (x1, y1, x2, y2), not clipped."""
    half = sizes_of(xyzr) / 2
    return torch.cat([xyzr[..., :2] - half, xyzr[..., :2] + half], -1)


def refine(xyzr: Tensor, delta: Tensor) -> Tensor:
    """Move boxes by what a stage predicts.

    The centre moves in units of 2^z in both directions.

    Args:
        xyzr: (..., 4).
        delta: (..., 4).
    """
    delta = delta.to(xyzr.dtype)
    xy = xyzr[..., :2] + delta[..., :2] * xyzr[..., 2:3].exp2()
    return torch.cat([xy, xyzr[..., 2:] + delta[..., 2:]], -1)


def intersection_over_own_area(boxes: Tensor) -> Tensor:
    """Return |i and j| / area of i, for all pairs of boxes.

    Args:
        boxes: (batch, N, 4) corners.

    Returns:
        (batch, N, N), i in the rows.
    """
    low = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    overlap = (high - low).clamp(min=0).prod(-1)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    return overlap / area.clamp(min=1e-6)[..., None]


def position_embedding(xyzr: Tensor, dims: int) -> Tensor:
    """Return sines and cosines of the four coordinates.

    Args:
        xyzr: (..., 4).
        dims: Numbers of an embedding, a quarter for each coordinate.

    Returns:
        (..., dims).
    """
    count = dims // 4
    values = xyzr / xyzr.new_tensor([1000, 1000, 1, 1])
    index = torch.arange(count, device=xyzr.device)
    exponent = (index // 2 * 2).to(xyzr.dtype) / count
    angles = values[..., None] / 10000**exponent
    waves = torch.where(index % 2 == 0, angles.sin(), angles.cos())
    return waves.flatten(-2)
