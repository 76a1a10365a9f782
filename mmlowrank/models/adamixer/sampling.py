"""Sampling of image features at points in (x, y, scale).

A point reads every map of the pyramid bilinearly, with weights that fall off
with the distance between its scale and the stride of the map (AdaMixer, CVPR
2022). This is multi-scale deformable attention with one point a level, whose
attention is the softmax over the levels.

On a GPU mmcv's operator does it, if it is compiled. Elsewhere one
``embedding_bag`` sums the rows that a point touches, four on each map: on a
CPU its forward pass takes a tenth of the time of ``grid_sample``, and no
level's samples are kept.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...nn.kernels.autograd import made_again
from ...ops import compiled_for_cuda
from .geometry import full_precision, sizes_of


class Pyramid:
    """The feature maps of a batch, prepared once for all stages.

    Args:
        maps: (batch, channels, H_l, W_l) of each level.
        strides: Pixels of the image to a step of each map.
        groups: Groups of channels, each sampled at points of its own.

    Raises:
        ValueError: If there is not one stride for each map.
    """

    def __init__(
        self, maps: Sequence[Tensor], strides: Sequence[int], groups: int
    ) -> None:
        if len(maps) != len(strides):
            raise ValueError(
                f'the decoder has strides {tuple(strides)} but gets '
                f'{len(maps)} maps. Change the strides, or out_indices of the '
                'backbone'
            )
        self.groups = groups
        rows = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)
        self.rows = rows = full_precision(rows)
        shapes = [m.shape[2:] for m in maps]
        starts = [0]
        for height, width in shapes[:-1]:
            starts.append(starts[-1] + height * width)

        def on_device(values: Sequence) -> Tensor:
            return torch.tensor(values, device=rows.device)

        self.shapes = on_device([tuple(shape) for shape in shapes])
        self.starts = on_device(starts)
        self.strides = on_device(strides).to(rows.dtype)

    def sample(self, xyzr: Tensor, offsets: Tensor) -> Tensor:
        """Sample at points around the boxes of the queries.

        Args:
            xyzr: (batch, queries, 4).
            offsets: (batch, queries, groups, points, 3): x and y in units
                of the box's width and height, and the change of z.

        Returns:
            (groups, batch * queries, points, channels / groups).
        """
        offsets = offsets.to(self.rows.dtype)
        xyzr = xyzr[:, :, None, None]
        xy = xyzr[..., :2] + offsets[..., :2] * sizes_of(xyzr)
        z = xyzr[..., 2:3] + offsets[..., 2:]
        levels = (-(z - self.strides.log2()).square() / 2).softmax(-1)
        if self.rows.is_cuda and compiled_for_cuda():
            return self.deformable(xy, levels)
        # Kept for backward: where the points are, not the rows they touch.
        return made_again(self.gather, xy, levels)

    def gather(self, xy: Tensor, levels: Tensor) -> Tensor:
        """Sum the rows around each point.

        Args:
            xy: (batch, queries, groups, points, 2), in pixels.
            levels: (batch, queries, groups, points, L), weights.
        """
        # To the order of the result, then a dimension for the levels.
        xy = xy.permute(4, 2, 0, 1, 3)[..., None] / self.strides - 0.5
        levels = levels.permute(2, 0, 1, 3, 4)
        low = xy.detach().floor()
        part = xy - low
        height, width = self.shapes.unbind(1)
        batch, count = self.rows.shape[:2]
        image = torch.arange(batch, device=xy.device).view(-1, 1, 1, 1)
        group = torch.arange(self.groups, device=xy.device)
        group = group.view(-1, 1, 1, 1, 1)
        indices, weights = [], []
        for dx in (0, 1):
            for dy in (0, 1):
                x, y = low[0] + dx, low[1] + dy
                inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
                row = y.long() * width + x.long()
                row = row + image * count + self.starts
                row = torch.where(inside, row * self.groups + group, 0)
                weight = levels
                for fraction, far in zip(part, (dx, dy), strict=True):
                    weight = weight * (fraction if far else 1 - fraction)
                # NaN positions give NaN, as anywhere else.
                outside = torch.where(weight.isnan(), weight, 0)
                indices.append(row)
                weights.append(torch.where(inside, weight, outside))
        index = torch.cat(indices, -1)
        sums = F.embedding_bag(
            index.flatten(0, -2),
            self.rows.view(batch * count * self.groups, -1),
            per_sample_weights=torch.cat(weights, -1).flatten(0, -2),
            mode='sum',
        )
        groups, batch, queries, points, _ = index.shape
        return sums.view(groups, batch * queries, points, -1)

    def deformable(self, xy: Tensor, levels: Tensor) -> Tensor:
        """Do the same as :meth:`gather` with mmcv's operator for GPUs."""
        from mmcv.ops.multi_scale_deform_attn import (
            MultiScaleDeformableAttnFunction,
        )

        batch, queries, groups, points, count = levels.shape
        pixels = self.shapes.flip(1) * self.strides[:, None]
        # (batch, queries * points, groups, L, 1, 2), relative to the maps.
        places = xy.transpose(2, 3).flatten(1, 2)[:, :, :, None] / pixels
        weights = levels.transpose(2, 3).flatten(1, 2)
        sums = MultiScaleDeformableAttnFunction.apply(
            self.rows.view(batch, -1, groups, self.rows.shape[2] // groups),
            self.shapes,
            self.starts,
            places.unsqueeze(4).contiguous(),
            weights.view(batch, -1, groups, count, 1).contiguous(),
            batch,
        )
        sums = sums.view(batch * queries, points, groups, -1)
        return sums.permute(2, 0, 1, 3).contiguous()
