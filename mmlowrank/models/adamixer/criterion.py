"""Matching of predictions and ground truth, and the losses."""

import torch
from mmdet.models.losses import accuracy
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures import SampleList
from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData
from torch import Tensor, nn

_ASSIGNER = dict(
    type='mmdet.HungarianAssigner',
    match_costs=[
        dict(type='mmdet.FocalLossCost', weight=2.0),
        dict(type='mmdet.BBoxL1Cost', weight=5.0, box_format='xyxy'),
        dict(type='mmdet.IoUCost', iou_mode='giou', weight=2.0),
    ],
)
_LOSS_CLS = dict(
    type='mmdet.FocalLoss',
    use_sigmoid=True,
    gamma=2.0,
    alpha=0.25,
    loss_weight=2.0,
)
_LOSS_BBOX = dict(type='mmdet.L1Loss', loss_weight=5.0)
_LOSS_IOU = dict(type='mmdet.GIoULoss', loss_weight=2.0)


class SetCriterion(nn.Module):
    """One-to-one matching, and the losses of what was matched.

    All losses are sums over the batch, divided by the number of matched
    queries: its mean over the processes, at least 1. (The original has no
    such bound and gives inf where a whole batch has no object.)

    Args:
        num_classes: Number of classes.
        assigner: Config of the matching; costs as in the losses by default.
        loss_cls: Config of the classification loss; focal by default.
        loss_bbox: Config of the loss on corners, relative to the image; L1
            by default.
        loss_iou: Config of the loss on corners in pixels; GIoU by default.
    """

    def __init__(
        self,
        num_classes: int,
        assigner: dict = _ASSIGNER,
        loss_cls: dict = _LOSS_CLS,
        loss_bbox: dict = _LOSS_BBOX,
        loss_iou: dict = _LOSS_IOU,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.assigner = TASK_UTILS.build(assigner)
        self.loss_cls = MODELS.build(loss_cls)
        self.loss_bbox = MODELS.build(loss_bbox)
        self.loss_iou = MODELS.build(loss_iou)

    def forward(
        self, logits: Tensor, boxes: Tensor, data_samples: SampleList
    ) -> dict[str, Tensor]:
        """Return the losses of one stage and the accuracy where matched.

        Args:
            logits: (batch, N, num_classes).
            boxes: (batch, N, 4) corners in pixels.
            data_samples: With ``gt_instances`` and ``img_shape``.

        Raises:
            FloatingPointError: If a prediction is not finite.
        """
        # Half precision becomes float32.
        logits = logits.to(boxes.dtype)
        if not (logits.isfinite().all() and boxes.isfinite().all()):
            raise FloatingPointError(
                'AdaMixer predicts numbers that are not finite, so they '
                'cannot be matched. Check the images and annotations of this '
                'batch for NaN, lower the learning rate, or set '
                'optim_wrapper.clip_grad=dict(max_norm=1.0)'
            )
        matched = [
            self._match(*predicted, sample)
            for *predicted, sample in zip(
                logits.detach(), boxes.detach(), data_samples, strict=True
            )
        ]
        labels, targets, scales = (torch.stack(t) for t in zip(*matched))  # noqa: B905
        logits, labels = logits.flatten(0, 1), labels.flatten()
        positive = labels < self.num_classes
        count = positive.sum().to(boxes.dtype)
        count = reduce_mean(count).clamp(min=1)
        losses = dict(loss_cls=self.loss_cls(logits, labels, avg_factor=count))
        if not positive.any():
            nothing = boxes.sum() * 0
            return dict(losses, loss_bbox=nothing, loss_iou=nothing)
        boxes, targets, scales = (
            tensor.flatten(0, 1)[positive]
            for tensor in (boxes, targets, scales)
        )
        losses['pos_acc'] = accuracy(logits[positive], labels[positive])
        losses['loss_bbox'] = self.loss_bbox(
            boxes / scales, targets / scales, avg_factor=count
        )
        losses['loss_iou'] = self.loss_iou(boxes, targets, avg_factor=count)
        return losses

    def _match(
        self, logits: Tensor, boxes: Tensor, sample: InstanceData
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return label, box and size of the image for each query."""
        truth = sample.gt_instances.clone()
        # The predictions may be float64.
        truth.bboxes = truth.bboxes.to(boxes.dtype)
        index = self.assigner.assign(
            InstanceData(scores=logits, bboxes=boxes),
            truth,
            img_meta=dict(img_shape=sample.img_shape),
        ).gt_inds
        labels = index.new_full(index.shape, self.num_classes)
        targets = torch.zeros_like(boxes)
        found = index > 0
        labels[found] = truth.labels[index[found] - 1]
        targets[found] = truth.bboxes[index[found] - 1]
        height, width = sample.img_shape[:2]
        scales = boxes.new_tensor([width, height] * 2).expand_as(boxes)
        return labels, targets, scales
