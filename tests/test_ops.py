"""The stand-ins for mmcv's compiled ops, each against what it stands for.

Where mmcv is compiled, the results must be its to the bit unless a test says
otherwise: the same arithmetic in the same order. Where it is not, formulas
and gradcheck remain, and the tests that compare say that they are skipped.
"""

import sys

import pytest
import torch
import torch.nn.functional as F
from mmcv import ops as mmcv_ops
from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss
from ops_modules import EXT, needs_compiled, stand_in
from torch._subclasses import FakeTensorMode
from torch.autograd import gradcheck

from mmlowrank.models.adamixer import sampling

DOUBLE = torch.float64


@pytest.fixture
def use(monkeypatch):
    """Put one or the other module behind all functions of mmcv.ops."""

    def change(ext):
        for name, module in list(sys.modules.items()):
            if name.startswith('mmcv.ops.') and hasattr(module, 'ext_module'):
                monkeypatch.setattr(module, 'ext_module', ext)

    change(stand_in())
    return change


def both(use, function, *inputs, **kwargs):
    """Return results and gradients of one and of the other."""
    results = []
    for ext in (stand_in(), EXT):
        use(ext)
        own = [x.detach().clone() for x in inputs]
        wanted = [
            x.requires_grad_()
            for x, given in zip(own, inputs, strict=True)
            if given.requires_grad
        ]
        out = function(*own, **kwargs)
        torch.manual_seed(1)
        seed = torch.randn_like(out)
        results.append([out, *torch.autograd.grad(out, wanted, seed)])
    return zip(*results, strict=True)


# --- nms


def random_boxes(count, whole=False, dtype=torch.float32):
    corner, size = torch.rand(count, 2) * 12, torch.rand(count, 2) * 40
    boxes = torch.cat([corner, corner + size], 1)
    return (boxes.round() if whole else boxes).to(dtype)


def plain_nms(boxes, scores, threshold, offset=0):
    """Return what is kept, by the definition."""
    boxes = boxes.double()
    kept = []
    for i in scores.sort(descending=True)[1].tolist():
        for j in kept:
            low = torch.maximum(boxes[i, :2], boxes[j, :2])
            high = torch.minimum(boxes[i, 2:], boxes[j, 2:])
            inside = (high - low + offset).clamp(min=0).prod()
            areas = (boxes[[i, j], 2:] - boxes[[i, j], :2] + offset).prod(1)
            if inside / (areas.sum() - inside) > threshold:
                break
        else:
            kept.append(i)
    return kept


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('count', [0, 1, 80])
def test_nms_by_its_definition(count, offset):
    torch.manual_seed(0)
    boxes, scores = random_boxes(count), torch.rand(count)
    for threshold in (0.3, 0.5, 0.7):
        kept = stand_in().nms(boxes, scores, threshold, offset)
        assert kept.dtype == torch.long
        assert kept.tolist() == plain_nms(boxes, scores, threshold, offset)
    assert count < 80 or 5 < len(kept) < 75


@needs_compiled
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('count', [0, 1, 2000])
def test_nms_is_that_of_mmcv(count, offset):
    torch.manual_seed(0)
    for whole in (False, True):
        boxes = random_boxes(count, whole)
        # Many equal scores: also their order is mmcv's.
        scores = (torch.rand(count) * 50).round() / 50
        for threshold in (0.5, 0.6, 0.7):
            args = boxes, scores, threshold, offset
            assert torch.equal(stand_in().nms(*args), EXT.nms(*args))


def test_an_iou_of_exactly_the_threshold_is_kept():
    # 3 of 5 columns; 0.6 in float32 is above 0.6 in float64.
    boxes = torch.tensor([[0.0, 0, 5, 1], [0, 0, 3, 1]])
    assert stand_in().nms(boxes, torch.ones(2), 0.6, 0).tolist() == [0, 1]
    assert stand_in().nms(boxes, torch.ones(2), 0.59, 0).tolist() == [0]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, DOUBLE])
def test_nms_takes_every_precision(dtype):
    boxes = torch.tensor([[0, 0, 4, 4], [0, 0, 4, 3.5], [8, 8, 9, 9]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    for types in ((dtype, dtype), (dtype, torch.float32)):
        kept = stand_in().nms(boxes.to(types[0]), scores.to(types[1]), 0.5, 0)
        assert kept.tolist() == [0, 2]


def test_classes_do_not_suppress_each_other(use):
    torch.manual_seed(0)
    boxes, scores = random_boxes(120), torch.rand(120)
    labels = torch.arange(120) % 40
    cfg = dict(type='nms', iou_threshold=0.3)
    dets, kept = mmcv_ops.batched_nms(boxes, scores, labels, cfg)
    expected = set()
    for label in range(40):
        mine = (labels == label).nonzero().flatten()
        own = plain_nms(boxes[mine], scores[mine], 0.3)
        expected |= set(mine[own].tolist())
    assert set(kept.tolist()) == expected
    assert torch.equal(dets, torch.cat([boxes, scores[:, None]], 1)[kept])


# --- RoIAlign


def rois(dtype=torch.float32):
    """RoIs inside, across each border, outside, of no size, of the whole."""
    return torch.tensor(
        [
            [0, 8, 8, 40.5, 30.25],
            [1, 3, 3, 3, 3],
            [1, -20, -9, 12, 11],
            [0, 50, 40, 90, 77],
            [1, 200, 200, 230, 240],
            [0, -60, -60, -30, -35],
            [1, 0, 0, 64, 48],
        ],
        dtype=dtype,
    )


ALIGNS = pytest.mark.parametrize(
    'aligned, ratio', [(True, 0), (True, 2), (False, 0), (False, 3)]
)


def align(maps, rois, aligned=True, ratio=0, scale=0.25):
    return mmcv_ops.roi_align(maps, rois, (3, 2), scale, ratio, 'avg', aligned)


@needs_compiled
@ALIGNS
@pytest.mark.parametrize('dtype', [torch.float32, DOUBLE])
def test_roi_align_is_that_of_mmcv(use, dtype, aligned, ratio):
    torch.manual_seed(0)
    maps = torch.randn(2, 5, 12, 16, dtype=dtype, requires_grad=True)
    for some in (rois(dtype), rois(dtype)[:1], rois(dtype)[:0]):
        for ours, theirs in both(
            use, align, maps, some, aligned=aligned, ratio=ratio
        ):
            assert torch.equal(ours, theirs)


@ALIGNS
def test_roi_align_of_a_slope_is_its_value_in_the_middle(use, aligned, ratio):
    x = torch.arange(16, dtype=DOUBLE)
    y = torch.arange(12, dtype=DOUBLE)[:, None]
    out = align((2 * x - 3 * y)[None, None], rois(DOUBLE)[:1], aligned, ratio)
    x1, y1, x2, y2 = (rois(DOUBLE)[0, 1:] / 4 - 0.5 * aligned).tolist()
    for i in range(3):
        for j in range(2):
            middle = (
                x1 + (j + 0.5) * (x2 - x1) / 2,
                y1 + (i + 0.5) * (y2 - y1) / 3,
            )
            expected = 2 * middle[0] - 3 * middle[1]
            assert out[0, 0, i, j].item() == pytest.approx(expected)


@ALIGNS
def test_gradient_of_roi_align(use, aligned, ratio):
    maps = torch.randn(2, 1, 6, 8, dtype=DOUBLE, requires_grad=True)
    assert gradcheck(
        lambda m: align(m, rois(DOUBLE), aligned, ratio, 0.125), maps
    )
    none = align(maps, rois(DOUBLE)[:0])
    assert none.shape == (0, 1, 3, 2)
    assert not torch.autograd.grad(none.sum(), maps)[0].any()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_comes_back_as_it_came(use, dtype):
    maps = torch.randn(2, 4, 12, 16).to(dtype).requires_grad_()
    out = align(maps, rois(dtype))
    # Computed in float32, so that only the result is rounded.
    single = align(maps.float(), rois(dtype).float())
    assert torch.equal(out, single.to(dtype))
    (grad,) = torch.autograd.grad(out.sum(), maps)
    assert grad.dtype == dtype and grad.any()


def test_what_roi_align_refuses(use):
    maps = torch.randn(2, 4, 12, 16)
    with pytest.raises(NotImplementedError, match=r"pool_mode='max'.*compile"):
        mmcv_ops.roi_align(maps, rois(), (2, 2), 1.0, 0, 'max', True)
    with pytest.raises(ValueError, match='x1 <= x2'):
        align(maps, rois()[:, [0, 3, 4, 1, 2]])


# --- focal losses: mmcv compiles none for CPUs, so by their formulas


@pytest.mark.parametrize('gamma', [0.0, 1.5, 2.0])
def test_sigmoid_focal_loss(use, gamma):
    torch.manual_seed(0)
    logits = (4 * torch.randn(9, 5, dtype=DOUBLE)).requires_grad_()
    target = torch.tensor([0, 1, 2, 3, 4, 5, 5, 0, 5])  # 5 is background
    found = mmcv_ops.sigmoid_focal_loss(
        logits, target, gamma, 0.3, None, 'none'
    )
    hot = F.one_hot(target, 6)[:, :5].to(DOUBLE)
    expected = py_sigmoid_focal_loss(
        logits, hot, gamma=gamma, alpha=0.3, reduction='none'
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    weight = torch.rand(5, dtype=DOUBLE)
    for how in ('none', 'mean', 'sum'):
        args = target, gamma, 0.3, weight, how
        assert gradcheck(mmcv_ops.sigmoid_focal_loss, (logits, *args))
    weighted = mmcv_ops.sigmoid_focal_loss(
        logits, target, gamma, 0.3, weight, 'none'
    )
    rows = torch.cat([weight, weight.new_ones(1)])[target]
    torch.testing.assert_close(weighted, found * rows[:, None])


def test_focal_losses_of_no_rows(use):
    logits = torch.randn(0, 5, requires_grad=True)
    none = torch.zeros(0, dtype=torch.long)
    for loss in (mmcv_ops.sigmoid_focal_loss, mmcv_ops.softmax_focal_loss):
        out = loss(logits, none, 2.0, 0.25, None, 'sum')
        out.backward()
        assert out == 0


def test_sigmoid_focal_loss_stays_finite(use):
    logits = torch.tensor([[-200.0, 200.0]], requires_grad=True)
    out = mmcv_ops.sigmoid_focal_loss(
        logits, torch.tensor([0]), 2.0, 0.25, None, 'none'
    )
    torch.testing.assert_close(out, torch.tensor([[50.0, 150.0]]))
    out.sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.25, 0.75]]))


@pytest.mark.parametrize('gamma', [1.5, 2.0])
def test_softmax_focal_loss(use, gamma):
    torch.manual_seed(0)
    logits = torch.randn(6, 4, dtype=DOUBLE, requires_grad=True)
    target = torch.tensor([0, 1, 2, 3, 3, -1])
    weight = torch.rand(4, dtype=DOUBLE)
    found = mmcv_ops.softmax_focal_loss(
        logits, target, gamma, 0.25, weight, 'mean'
    )
    p = logits.softmax(1)[torch.arange(5), target[:5]]
    rows = -0.25 * weight[target[:5]] * (1 - p) ** gamma * p.log()
    torch.testing.assert_close(found, rows.sum() / 6)
    assert gradcheck(
        lambda x: mmcv_ops.softmax_focal_loss(
            x, target, gamma, 0.25, weight, 'mean'
        ),
        logits,
    )


# --- deformable


def conv_inputs(dtype=DOUBLE, groups=2, deform_groups=2):
    torch.manual_seed(0)
    shapes = dict(
        input=(2, 4, 7, 9),
        offset=(2, deform_groups * 2 * 6, 3, 6),
        mask=(2, deform_groups * 6, 3, 6),
        weight=(6, 4 // groups, 3, 2),
        bias=(6,),
    )
    return {
        name: torch.randn(shape, dtype=dtype, requires_grad=True)
        for name, shape in shapes.items()
    }


# Stride, padding, dilation, groups, deform groups.
GEOMETRY = (2, 1), (1, 0), (2, 3), 2, 2


def first_version(input, offset, weight):
    return mmcv_ops.deform_conv2d(input, offset, weight, *GEOMETRY)


def second_version(*tensors):
    return mmcv_ops.modulated_deform_conv2d(*tensors, *GEOMETRY)


@needs_compiled
@pytest.mark.parametrize('dtype', [torch.float32, DOUBLE])
def test_deformable_convolutions_are_those_of_mmcv(use, dtype):
    # Sums of products in another order: rounding, of 24 and 105 terms.
    close = dict(rtol=1e-4, atol=1e-5) if dtype != DOUBLE else {}
    for version in (first_version, second_version):
        x = conv_inputs(dtype)
        if version is first_version:
            x = {key: x[key] for key in ('input', 'offset', 'weight')}
        for ours, theirs in both(use, version, *x.values()):
            torch.testing.assert_close(ours, theirs, **close)


def test_deformable_convolutions_without_deformation(use):
    x = conv_inputs()
    still, whole = torch.zeros_like(x['offset']), torch.ones_like(x['mask'])
    expected = F.conv2d(x['input'], x['weight'], x['bias'], *GEOMETRY[:4])
    found = second_version(x['input'], still, whole, x['weight'], x['bias'])
    torch.testing.assert_close(found, expected)
    found = first_version(x['input'], still, x['weight'])
    expected = F.conv2d(x['input'], x['weight'], None, *GEOMETRY[:4])
    torch.testing.assert_close(found, expected)


def test_gradients_of_deformable_convolutions(use):
    x = conv_inputs()
    plain = [x[key] for key in ('input', 'offset', 'weight')]
    assert gradcheck(first_version, plain, fast_mode=True)
    assert gradcheck(second_version, [*x.values()], fast_mode=True)
    x['bias'] = None
    assert gradcheck(second_version, [*x.values()], fast_mode=True)


def test_deformable_attention(use):
    module = sys.modules['mmcv.ops.multi_scale_deform_attn']
    torch.manual_seed(0)
    shapes = torch.tensor([[5, 6], [3, 2]])
    starts = torch.tensor([0, 30])
    value = torch.randn(2, 36, 3, 4, dtype=DOUBLE, requires_grad=True)
    places = torch.rand(2, 7, 3, 2, 5, 2, dtype=DOUBLE) * 1.4 - 0.2
    places.requires_grad_()
    weights = torch.rand(2, 7, 3, 2, 5, dtype=DOUBLE, requires_grad=True)
    found = module.MultiScaleDeformableAttnFunction.apply(
        value, shapes, starts, places, weights, 64
    )
    expected = module.multi_scale_deformable_attn_pytorch(
        value, shapes, places, weights
    )
    assert torch.equal(found, expected)
    seed = torch.randn_like(found)
    inputs = value, places, weights
    for one, other in zip(
        torch.autograd.grad(found, inputs, seed),
        torch.autograd.grad(expected, inputs, seed),
        strict=True,
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize('for_cuda', [True, False])
def test_adamixer_on_a_gpu_uses_mmcvs_operator_where_compiled(
    monkeypatch, for_cuda
):
    monkeypatch.setattr(sampling, 'compiled_for_cuda', lambda: for_cuda)
    monkeypatch.setattr(sampling.Pyramid, 'deformable', lambda *args: 'theirs')
    with FakeTensorMode():
        maps = [torch.randn(2, 6, n, n, device='cuda') for n in (8, 4)]
        boxes = torch.randn(2, 5, 4, device='cuda')
        offsets = torch.randn(2, 5, 2, 7, 3, device='cuda')
        out = sampling.Pyramid(maps, (4, 8), 2).sample(boxes, offsets)
        assert for_cuda == (out == 'theirs')
        assert for_cuda or out.shape == (2, 10, 7, 3)
