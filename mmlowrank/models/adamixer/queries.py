"""Where the decoder starts: boxes and contents of the queries."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .geometry import encode_boxes, full_precision


class AdaMixerQueries(nn.Module):
    """Learned contents, and boxes that all cover their image at the start.

    The boxes enter detached, so they never learn: they are a parameter
    without gradient, which DDP does not wait for and no optimizer decays.

    Args:
        num_queries: Number of queries.
        embed_dims: Width of a query's content.

    Attributes:
        boxes: (num_queries, 4), centre, width and height relative to the
            image.
        content: (num_queries, embed_dims).
    """

    def __init__(self, num_queries: int = 100, embed_dims: int = 256) -> None:
        super().__init__()
        boxes = torch.ones(num_queries, 4)
        boxes[:, :2] = 0.5
        self.boxes = nn.Parameter(boxes, requires_grad=False)
        self.content = nn.Parameter(torch.randn(num_queries, embed_dims))

    def forward(
        self, img_shapes: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Make the queries of a batch.

        Args:
            img_shapes: Height and width of each image, without padding.

        Returns:
            (batch, num_queries, 4) xyzr, float32 where the model is in half
            precision, and (batch, num_queries, embed_dims).
        """
        boxes = full_precision(self.boxes)
        whwh = boxes.new_tensor(
            [[width, height] * 2 for height, width in img_shapes]
        )
        content = F.layer_norm(self.content, self.content.shape[-1:])
        return (
            encode_boxes(boxes * whwh[:, None]),
            content.expand(len(whwh), -1, -1),
        )
