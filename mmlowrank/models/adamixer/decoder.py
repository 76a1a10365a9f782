"""The decoder of AdaMixer: stages, each with its losses."""

from collections.abc import Sequence
from typing import NamedTuple

from mmdet.structures import SampleList
from mmdet.utils import InstanceList
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ...nn import build_mixing
from ...nn.mixing_matrices import CastOnce, MixingSizes
from .criterion import SetCriterion
from .geometry import decode_boxes
from .sampling import Pyramid
from .stage import DecoderStage


class StageOutput(NamedTuple):
    """What a stage predicts for a batch.

    Attributes:
        logits: (batch, N, num_classes).
        boxes: (batch, N, 4) corners in pixels of the input.
    """

    logits: Tensor
    boxes: Tensor


class AdaMixerDecoder(nn.Module):
    """AdaMixer's decoder (CVPR 2022), and with LORS (CVPR 2024).

    Plain AdaMixer without ``lors_adaptive`` and ``lors_static``: each stage
    has a generator of mixing matrices and an output projection of its own.
    With them, all stages share one, and add low-rank terms.

    Args:
        num_classes: Number of classes.
        num_stages: Number of stages.
        embed_dims: Width of a query.
        in_channels: Channels of the feature maps.
        strides: Of the feature maps, in pixels.
        groups: Groups of channels, each with its points and mixing.
        in_points: Points that a group is sampled at.
        out_points: Points that it is mixed to.
        num_heads: Heads of the attention between queries.
        ffn_channels: Hidden width of the FFNs.
        lors_adaptive: Options of :class:`mmlowrank.nn.LORSAdaptive` for the
            generators, e.g. ``dict(rank=16, terms=[1, 1, 2, 2, 3, 3])``.
        lors_static: Options of :class:`mmlowrank.nn.LORSStatic` for the
            output projections, e.g. ``dict(rank=8)``.
        generator_bias: Whether generators have biases. Without, and with
            ``lors_static=dict(bias='shared')``, parameters are counted as
            the LORS paper counts them.
        merge_at_eval: Fold LORS into plain weights for inference; see
            :class:`mmlowrank.nn.AdaptiveMixing`. Off, inference keeps the
            small memory of LORS.
        with_cp: Make the mixing matrices again in the backward pass.
        max_per_img: Detections of an image; as many as queries by default.
        criterion: Options of :class:`SetCriterion`.

    Raises:
        ValueError: If sizes do not divide, or an option of LORS is wrong.
    """

    def __init__(
        self,
        num_classes: int = 80,
        num_stages: int = 6,
        embed_dims: int = 256,
        in_channels: int = 256,
        strides: Sequence[int] = (4, 8, 16, 32),
        groups: int = 4,
        in_points: int = 32,
        out_points: int = 128,
        num_heads: int = 8,
        ffn_channels: int = 2048,
        lors_adaptive: dict | None = None,
        lors_static: dict | None = None,
        generator_bias: bool = True,
        merge_at_eval: bool = True,
        with_cp: bool = False,
        max_per_img: int | None = None,
        criterion: dict | None = None,
    ) -> None:
        super().__init__()
        for name, value, divisor in (
            ('in_channels', in_channels, groups),
            ('embed_dims', embed_dims, num_heads),
            ('embed_dims', embed_dims, 4),
        ):
            if value % divisor:
                raise ValueError(
                    f'{name}={value} must be a multiple of {divisor} (groups '
                    'of channels, heads, or coordinates of a box)'
                )
        self.strides, self.groups = tuple(strides), groups
        self.num_classes, self.max_per_img = num_classes, max_per_img
        self.stages = nn.ModuleList(
            DecoderStage(
                *(embed_dims, num_classes, groups, in_points),
                *(num_heads, ffn_channels),
            )
            for _ in range(num_stages)
        )
        self.mixing = build_mixing(
            embed_dims,
            MixingSizes(groups, in_channels // groups, in_points, out_points),
            num_stages,
            adaptive=lors_adaptive,
            static=lors_static,
            generator_bias=generator_bias,
            merge_at_eval=merge_at_eval,
            with_cp=with_cp,
        )
        self.criterion = SetCriterion(num_classes, **(criterion or {}))

    def forward(
        self, maps: Sequence[Tensor], xyzr: Tensor, query: Tensor
    ) -> list[StageOutput]:
        """Run all stages.

        Args:
            maps: (batch, in_channels, H_l, W_l) of each level.
            xyzr: (batch, N, 4), where the queries start.
            query: (batch, N, embed_dims).

        Returns:
            What each stage predicts.
        """
        pyramid, cast = Pyramid(maps, self.strides, self.groups), CastOnce()
        outputs = []
        for index, stage in enumerate(self.stages):

            def mix(x: Tensor, query: Tensor, index: int = index) -> Tensor:
                # Sampled in float32 where the model is in half precision.
                return self.mixing(x.to(query.dtype), query, index, cast)

            query, logits, refined = stage(query, xyzr, pyramid.sample, mix)
            outputs.append(StageOutput(logits, decode_boxes(refined)))
            xyzr = refined.detach()
        return outputs

    def loss(
        self, outputs: Sequence[StageOutput], data_samples: SampleList
    ) -> dict[str, Tensor]:
        """Return the losses of all stages, named ``s{stage}.``."""
        return {
            f's{stage}.{name}': value
            for stage, output in enumerate(outputs)
            for name, value in self.criterion(
                output.logits, output.boxes, data_samples
            ).items()
        }

    def predict(
        self,
        output: StageOutput,
        data_samples: SampleList,
        rescale: bool = True,
    ) -> InstanceList:
        """Return the best scores of a stage, without suppression.

        Args:
            output: Of the last stage.
            data_samples: For ``scale_factor``.
            rescale: Return boxes in pixels of the original image.
        """
        results = []
        scores = output.logits.to(output.boxes.dtype).sigmoid().flatten(1)
        keep = self.max_per_img or output.logits.shape[1]
        for score, boxes, sample in zip(
            scores, output.boxes, data_samples, strict=True
        ):
            score, index = score.topk(min(keep, len(score)))
            boxes = boxes[index // self.num_classes]
            if rescale:
                boxes = boxes / boxes.new_tensor(sample.scale_factor).repeat(2)
            labels = index % self.num_classes
            results.append(
                InstanceData(bboxes=boxes, scores=score, labels=labels)
            )
        return results
