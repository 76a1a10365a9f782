"""AdaMixer's decoder against its equations, and the detector in mmdet."""

import math

import pytest
import torch
import torch.nn.functional as F
from mmcv.ops.multi_scale_deform_attn import (
    multi_scale_deformable_attn_pytorch,
)
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmlowrank.models.adamixer.geometry import (
    decode_boxes,
    encode_boxes,
    intersection_over_own_area,
    position_embedding,
    refine,
)
from mmlowrank.models.adamixer.sampling import Pyramid
from mmlowrank.models.adamixer.stage import BoxAttention, DecoderStage

DOUBLE = torch.float64
STRIDES = (4, 8, 16, 32)


def build(**cfg):
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(cfg)


def boxes(batch=2, count=5, dtype=DOUBLE):
    """Return xyzr inside, across and outside an image of 64 x 96."""
    xyzr = torch.empty(batch, count, 4, dtype=dtype)
    xyzr[..., 0].uniform_(-20, 116)
    xyzr[..., 1].uniform_(-20, 84)
    xyzr[..., 2].uniform_(2, 7)
    xyzr[..., 3].uniform_(-2, 2)
    return xyzr


def maps(channels=6, batch=2, dtype=DOUBLE):
    return [
        torch.randn(
            batch, channels, 64 // s, 96 // s, dtype=dtype
        ).requires_grad_()
        for s in STRIDES
    ]


# --- geometry


def test_encode_and_decode_are_inverse():
    cxcywh = torch.tensor([[10.0, 20.0, 8.0, 32.0]], dtype=DOUBLE)
    xyzr = encode_boxes(cxcywh)
    # z = log2 of the geometric mean, r > 0 is tall.
    expected = torch.tensor([[10.0, 20.0, 4.0, 2.0]], dtype=DOUBLE)
    torch.testing.assert_close(xyzr, expected)
    corners = torch.tensor([[6.0, 4.0, 14.0, 36.0]], dtype=DOUBLE)
    torch.testing.assert_close(decode_boxes(xyzr), corners)


def test_refine_moves_both_ways_in_units_of_the_scale():
    xyzr = torch.tensor([10.0, 20.0, 3.0, 1.0])
    moved = refine(xyzr, torch.tensor([0.5, -1.0, 0.25, -0.5]))
    torch.testing.assert_close(moved, torch.tensor([14.0, 12.0, 3.25, 0.5]))


def test_overlap_is_relative_to_the_row_box():
    corners = torch.tensor([[[0.0, 0, 4, 4], [2, 0, 4, 8], [9, 9, 10, 10]]])
    expected = torch.tensor(
        [[[1, 8 / 16, 0], [8 / 16, 1, 0], [0, 0, 1]]], dtype=torch.float32
    )
    torch.testing.assert_close(intersection_over_own_area(corners), expected)
    corners[0, 1] = torch.tensor([2.0, 0, 4, 16])
    found = intersection_over_own_area(corners)[0]
    assert (found[0, 1].item(), found[1, 0].item()) == (8 / 16, 8 / 32)


def test_position_embedding_entry_by_entry():
    xyzr = torch.tensor([137.0, 520.0, 5.5, -0.3], dtype=DOUBLE)
    found = position_embedding(xyzr, 24)
    for i, value in enumerate((0.137, 0.52, 5.5, -0.3)):
        for j in range(6):
            angle = value / 10000 ** (2 * (j // 2) / 6)
            wave = math.cos(angle) if j % 2 else math.sin(angle)
            assert found[6 * i + j].item() == pytest.approx(wave, abs=1e-12)


# --- sampling


def sampled_plainly(features, xyzr, offsets, groups):
    """Sample each level with grid_sample and sum, as the paper says."""
    size = 2 ** (xyzr[..., 2:3] + xyzr[..., 3:] * xyzr.new_tensor([-0.5, 0.5]))
    xy = xyzr[:, :, None, None, :2] + offsets[..., :2] * size[:, :, None, None]
    z = xyzr[:, :, None, None, 2] + offsets[..., 2]
    scores = torch.stack([-((z - math.log2(s)) ** 2) / 2 for s in STRIDES], -1)
    weights = scores.softmax(-1)
    total = 0
    for level, (feature, stride) in enumerate(
        zip(features, STRIDES, strict=True)
    ):
        height, width = feature.shape[2:]
        whole = xy.new_tensor([width * stride, height * stride])
        grid = (2 * xy / whole - 1).transpose(1, 2).flatten(0, 1)
        grouped = feature.unflatten(1, (groups, -1)).flatten(0, 1)
        out = F.grid_sample(grouped, grid, align_corners=False)
        out = out.unflatten(0, (-1, groups)).permute(1, 0, 3, 4, 2)
        weight = weights[..., level].permute(2, 0, 1, 3)
        total = total + out * weight[..., None]
    return total.flatten(1, 2)


@pytest.mark.parametrize('groups', [1, 2, 3])
def test_sampling_equals_grid_sample(groups):
    torch.manual_seed(0)
    features, xyzr = maps(), boxes()
    offsets = torch.randn(2, 5, groups, 7, 3, dtype=DOUBLE).requires_grad_()
    ours = Pyramid(features, STRIDES, groups).sample(xyzr, offsets)
    theirs = sampled_plainly(features, xyzr, offsets, groups)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    seed = torch.randn_like(ours)
    inputs = [offsets, *features]
    for one, other in zip(
        torch.autograd.grad(ours, inputs, seed),
        torch.autograd.grad(theirs, inputs, seed),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_the_operator_for_gpus_gets_the_same_problem(monkeypatch):
    """mmcv's own fallback in place of its CUDA kernel."""

    class Fallback:
        @staticmethod
        def apply(value, shapes, starts, places, weights, step):
            sizes = [h * w for h, w in shapes.tolist()]
            assert starts.tolist() == [0, *torch.tensor(sizes).cumsum(0)[:-1]]
            assert len(value) % step == 0
            assert places.is_contiguous() and weights.is_contiguous()
            return multi_scale_deformable_attn_pytorch(
                value, shapes.tolist(), places, weights
            )

    monkeypatch.setattr(
        'mmcv.ops.multi_scale_deform_attn.MultiScaleDeformableAttnFunction',
        Fallback,
    )
    pyramid = Pyramid(maps(), STRIDES, 2)
    xy = torch.rand(2, 5, 2, 7, 2, dtype=DOUBLE) * 120 - 20
    levels = torch.rand(2, 5, 2, 7, 4, dtype=DOUBLE)
    torch.testing.assert_close(
        pyramid.deformable(xy, levels), pyramid.gather(xy, levels)
    )


def test_sampling_keeps_points_not_samples():
    features, xyzr = maps(channels=64), boxes()
    offsets = torch.randn(2, 5, 2, 64, 3, dtype=DOUBLE).requires_grad_()
    pyramid = Pyramid(features, STRIDES, 2)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t) or t, lambda t: t
    ):
        out = pyramid.sample(xyzr, offsets)
    rows = pyramid.rows.untyped_storage().data_ptr()
    others = [t for t in kept if t.untyped_storage().data_ptr() != rows]
    # A point keeps its place, its four level weights and few numbers more;
    # a sample has 32 channels, and the rows it touches 16 times as many.
    points = offsets.numel() // 3
    assert sum(t.numel() for t in others) < 16 * points < out.numel()


def test_half_precision_maps_are_sampled_in_float32():
    pyramid = Pyramid(maps(dtype=torch.bfloat16), STRIDES, 2)
    offsets = torch.randn(2, 5, 2, 7, 3, dtype=torch.bfloat16)
    out = pyramid.sample(boxes(dtype=torch.float32), offsets)
    assert out.dtype == torch.float32


def test_strides_must_fit_the_maps():
    with pytest.raises(ValueError, match=r'strides \(4, 8\).*4 maps'):
        Pyramid(maps(), (4, 8), 2)


# --- a stage


def test_attention_is_torchs_with_a_bias():
    torch.manual_seed(0)
    dims, heads = 16, 4
    own = BoxAttention(dims, heads).double()
    nn.init.normal_(own.in_proj.bias)
    stock = nn.MultiheadAttention(dims, heads, batch_first=True).double()
    stock.in_proj_weight = own.in_proj.weight
    stock.in_proj_bias = own.in_proj.bias
    stock.out_proj.weight = own.out_proj.weight
    stock.out_proj.bias = own.out_proj.bias
    query = torch.randn(2, 5, dims, dtype=DOUBLE).requires_grad_()
    xyzr = boxes()

    h = query + position_embedding(xyzr, dims)
    overlap = intersection_over_own_area(decode_boxes(xyzr))
    bias = own.tau.view(1, -1, 1, 1) * (overlap[:, None] + 1e-7).log()
    out, _ = stock(h, h, h, attn_mask=bias.flatten(0, 1), need_weights=False)
    expected = own.norm(h + out)
    found = own(query, xyzr)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    seed = torch.randn_like(found)
    inputs = [query, *own.parameters()]
    for one, other in zip(
        torch.autograd.grad(found, inputs, seed),
        torch.autograd.grad(expected, inputs, seed),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_a_stage_step_by_step():
    torch.manual_seed(0)
    stage = DecoderStage(16, 3, 2, 4, 4, 20).double()
    for parameter in stage.parameters():
        nn.init.normal_(parameter)
    query = torch.randn(2, 5, 16, dtype=DOUBLE)
    xyzr, asked = boxes(), {}

    def sample(xyzr, offsets):
        asked['offsets'] = offsets
        return 'samples'

    def mix(x, flat):
        assert x == 'samples'
        return torch.sin(flat)

    q, logits, refined = stage(query, xyzr, sample, mix)
    attended = stage.attention(query, xyzr)
    offsets = stage.offsets(attended).view(2, 5, 2, 4, 3)
    torch.testing.assert_close(asked['offsets'], offsets)
    norm = stage.mixing_norm(attended + torch.sin(attended))
    first, _, second = stage.ffn
    expected = stage.ffn_norm(norm + second(torch.relu(first(norm))))
    torch.testing.assert_close(q, expected)

    def tower(linear, norm, relu):
        return torch.relu(norm(linear(expected)))

    torch.testing.assert_close(logits, stage.fc_cls(tower(*stage.cls_tower)))
    delta = stage.fc_reg(tower(*stage.reg_tower))
    torch.testing.assert_close(refined, refine(xyzr, delta))


def test_a_stage_starts_as_in_the_public_code():
    torch.manual_seed(0)
    for points in (32, 64):
        stage = DecoderStage(256, 80, 2, points, 8, 2048)
        assert stage.fc_cls.bias.unique().item() == pytest.approx(-4.59512)
        for zero in (stage.fc_reg.weight, stage.fc_reg.bias):
            assert not zero.any()
        assert not stage.offsets.weight.any()
        assert 0 <= stage.attention.tau.min() <= stage.attention.tau.max() <= 4
        start = stage.offsets.bias.view(2, points, 3)
        assert (start[..., 2] == -1).all()
        xy = start[..., :2]
        assert xy.abs().max() <= 0.5
        grid = points == 64
        assert torch.equal(xy[0], xy[1]) == grid
        if grid:
            # The first coordinate varies slowest.
            assert xy[0, :2].tolist() == [[-0.4375] * 2, [-0.4375, -0.3125]]
            assert xy[0, -1].tolist() == [0.4375] * 2
        for linear in (stage.ffn[0], stage.cls_tower[0]):
            assert linear.bias.abs().max().item() == pytest.approx(
                1 / 16, rel=0.1
            )
        bound = math.sqrt(6 / (256 + 768))
        found = stage.attention.in_proj.weight.abs().max().item()
        assert found == pytest.approx(bound, rel=0.01)
        assert not stage.attention.in_proj.bias.any()
