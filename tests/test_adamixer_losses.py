"""Matching and losses, written out."""

import itertools
import math

import pytest
import torch
from adamixers import sample
from mmdet.structures.bbox import bbox_overlaps

from mmlowrank.models.adamixer.criterion import SetCriterion


def predictions(count=4, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, count, classes, generator=generator)
    corner = torch.rand(2, count, 2, generator=generator) * 60
    size = torch.rand(2, count, 2, generator=generator) * 30 + 2
    boxes = torch.cat([corner, corner + size], -1)
    return logits.requires_grad_(), boxes.requires_grad_()


def focal(p, positive):
    """Focal loss of a probability."""
    if positive:
        return -0.25 * (1 - p) ** 2 * math.log(p)
    return -0.75 * p**2 * math.log(1 - p)


def terms_of(logits, box, label, truth, shape):
    """Return matching cost, L1 and GIoU of a query and a true box."""
    p = torch.sigmoid(logits[label]).item()
    height, width = shape
    scale = torch.tensor([width, height, width, height])
    l1 = (box / scale - truth / scale).abs().sum().item()
    giou = bbox_overlaps(box[None], truth[None], mode='giou').item()
    cost = 2 * (focal(p, True) - focal(p, False)) + 5 * l1 - 2 * giou
    return cost, l1, giou


def test_losses_are_those_of_the_best_matching():
    """All matchings are tried; then the losses are written out."""
    logits, boxes = predictions()
    shape, classes = (64, 96), 3
    truths = [
        ([[5, 5, 25, 30], [40, 10, 70, 50]], [2, 0]),
        ([[30, 30, 44, 60]], [1]),
    ]
    samples = [sample(*truth, shape=shape) for truth in truths]
    losses = SetCriterion(classes)(logits, boxes, samples)
    cls = l1 = iou = hits = 0
    for n, (truth, labels) in enumerate(truths):
        truth = torch.tensor(truth, dtype=torch.float32)

        def pairs(queries, n=n, truth=truth, labels=labels):
            return [
                terms_of(logits[n, q], boxes[n, q], labels[k], truth[k], shape)
                for k, q in enumerate(queries)
            ]

        best = min(
            itertools.permutations(range(4), len(labels)),
            key=lambda queries: sum(cost for cost, _, _ in pairs(queries)),
        )
        l1 += sum(term for _, term, _ in pairs(best))
        iou += sum(1 - giou for _, _, giou in pairs(best))
        matched = dict(zip(best, labels, strict=True))
        for q in range(4):
            for c in range(classes):
                p = torch.sigmoid(logits[n, q, c]).item()
                cls += focal(p, matched.get(q) == c)
            if q in matched:
                hits += logits[n, q].argmax().item() == matched[q]
    # float32 against Python's float64.
    for name, value in (
        ('loss_cls', 2 * cls / 3),
        ('loss_bbox', 5 * l1 / 3),
        ('loss_iou', 2 * iou / 3),
        ('pos_acc', 100 * hits / 3),
    ):
        assert losses[name].item() == pytest.approx(value, rel=1e-4), name


@pytest.mark.parametrize('empty', [(0, 1), (0, 0)])
def test_images_without_objects_give_finite_losses(empty):
    logits, boxes = predictions()
    full = ([[5, 5, 25, 30]], [2])
    samples = [sample(*(full if n else ([], []))) for n in empty]
    losses = SetCriterion(3)(logits, boxes, samples)
    total = sum(v for name, v in losses.items() if 'loss' in name)
    total.backward()
    assert total.isfinite()
    assert logits.grad.isfinite().all() and boxes.grad.isfinite().all()
    if not any(empty):
        expected = sum(
            focal(p.sigmoid().item(), False) for p in logits.ravel()
        )
        assert losses['loss_cls'].item() == pytest.approx(2 * expected, 1e-4)
        assert losses['loss_bbox'] == losses['loss_iou'] == 0


@pytest.mark.parametrize('which', ['logits', 'boxes'])
@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_predictions_that_are_not_finite_are_refused(which, value):
    logits, boxes = (tensor.detach() for tensor in predictions())
    dict(logits=logits, boxes=boxes)[which][0, 1, 2] = value
    with pytest.raises(FloatingPointError, match='lower the learning rate'):
        SetCriterion(3)(logits, boxes, [sample([], [])] * 2)
