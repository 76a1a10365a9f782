"""AdaMixer in mmdet: counts, losses, predictions, bad input, the tools."""

import itertools
import math
import subprocess
import sys
from pathlib import Path

import adamixers
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_overlaps
from mmengine.config import Config
from mmengine.structures import InstanceData
from test_distributed import torchrun

from mmlowrank.analysis import decoders, measuring
from mmlowrank.analysis.counting import build_on_meta
from mmlowrank.analysis.flops import count_multiply_adds
from mmlowrank.models.adamixer.criterion import SetCriterion
from mmlowrank.models.adamixer.decoder import StageOutput

HERE = Path(__file__).parent
kinds = pytest.mark.parametrize('kind', adamixers.KINDS)
pair_of_kinds = pytest.mark.parametrize('kind', ['plain', 'LORS'])


def decoder_on_meta(**options):
    decoder = dict(type='mmlowrank.AdaMixerDecoder', **options)
    return build_on_meta(Config(dict(default_scope='mmdet', model=decoder)))


# --- counts: the spec's closed forms, to the parameter

LAYOUT = dict(groups=2, in_points=64)
# The reading that reproduces the paper's tables.
COUNTED = dict(generator_bias=False, bias='shared')
A6, T8 = dict(rank=16, terms=[1, 1, 2, 2, 3, 3]), dict(rank=8)


def lors(adaptive=A6, static=T8, generator_bias=True, bias='private', **rest):
    static = static and dict(static, bias=bias)
    return dict(
        LAYOUT,
        lors_adaptive=adaptive,
        lors_static=static,
        generator_bias=generator_bias,
        **rest,
    )


def counted(**options):
    return lors(**COUNTED, **options)


def staged(terms):
    return counted(adaptive=dict(terms=terms), num_stages=len(terms))


@pytest.mark.parametrize(
    ('options', 'count'),
    [
        ({}, 110_272_296),
        (LAYOUT, 135_536_424),
        (lors(), 35_348_264),
        (counted(), 35_285_544),
        # Table 4: one part only, the other as in AdaMixer with this layout.
        (counted(static=None), 75_644_712),
        (counted(adaptive=None), 94_882_344),
        # Table 5.
        (counted(adaptive=dict(A6, parts='shared')), 31_967_784),
        (counted(adaptive=dict(A6, parts='private')), 22_702_632),
        # Table 6, K and rank of LORS^A.
        (counted(adaptive=dict(rank=8, terms=1)), 32_404_008),
        (counted(adaptive=dict(rank=16, terms=1)), 33_626_664),
        (counted(adaptive=dict(rank=16, terms=2)), 35_285_544),
        (counted(adaptive=dict(rank=32, terms=1)), 38_431_272),
        # Table 7, rank of LORS^T.
        (counted(static=dict(rank=2)), 34_096_680),
        (counted(static=dict(rank=4)), 34_492_968),
        (counted(static=dict(rank=16)), 36_870_696),
        (counted(static=dict(rank=32)), 40_041_000),
        # Table 8, stages.
        (staged([1, 1, 2]), 27_575_700),
        (staged([1, 2, 3]), 28_128_660),
        (staged([1] * 3 + [2] * 3 + [3] * 3), 42_442_428),
        (staged([1] * 4 + [2] * 4 + [3] * 4), 49_599_312),
    ],
)
def test_decoders_have_as_many_parameters(options, count):
    decoder = decoder_on_meta(**options)
    assert sum(p.numel() for p in decoder.parameters()) == count


def macs(content, *, plain=False, merge=True, **options):
    with torch.device('meta'):
        alone = decoders.DecoderAlone(1, (800, 1280), **options).eval()
    if plain:
        decoders.cat_and_sum(alone)
    else:
        alone.decoder.mixing.merge_at_eval = merge

    class AsModel(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.alone = alone

        def forward(self, images, mode):
            return alone(torch.empty(1, content, 256, device='meta'))

    return count_multiply_adds(AsModel(), (800, 1280))['total']


@pytest.mark.parametrize('queries', [100, 300])
def test_multiply_adds_of_decoders(queries):
    """Products of a query, from the widths; attention grows with queries."""
    generator, output, mixing = 256 * 49152, 32768 * 256, 2 * 2 * 128**2 * 64
    rest = 98304 + 262144 + 2 * queries * 256 + 1048576 + 131072 + 20480 + 1024
    layout = generator + output + mixing + rest
    stages = 6 * queries
    found = macs(queries, **LAYOUT)
    assert found == stages * layout
    assert macs(queries, **lors()) == found
    terms = 12 * queries * (262144 + 589824 + 294912)
    low_rank = stages * 8 * (32768 + 256)
    assert macs(queries, merge=False, **lors()) == found + terms + low_rank
    formed = 6 * 256 * 8 * 32768
    assert macs(queries, plain=True, **lors()) == found + terms + formed
    own = 256 * 32768 + output + 4 * (32 * 64 * 64 + 128 * 32 * 64) + rest
    assert macs(queries) == stages * own
    if queries == 100:  # in G, as the spec has them
        expected = (11.978, 16.067, 17.602, 17.846)
        counts = (stages * own, found, found + terms + low_rank)
        counts = (*counts, found + terms + formed)
        assert tuple(round(c / 1e9, 3) for c in counts) == expected


# --- losses


def sample(boxes, labels, shape=(64, 96), **meta):
    data = DetDataSample(metainfo=dict(img_shape=shape, **meta))
    data.gt_instances = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        labels=torch.tensor(labels, dtype=torch.long),
    )
    return data


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


# --- the detector


@kinds
def test_every_trainable_parameter_gets_a_gradient(kind):
    model = adamixers.build(**adamixers.KINDS[kind])
    losses = model(**adamixers.batch(model), mode='loss')
    names = {'loss_cls', 'loss_bbox', 'loss_iou', 'pos_acc'}
    stages = range(adamixers.STAGES)
    assert set(losses) == {f's{i}.{name}' for i in stages for name in names}
    total, _ = model.parse_losses(losses)
    total.backward()
    still = {n for n, p in model.named_parameters() if p.grad is None}
    assert still == {'queries.boxes'}
    assert not model.queries.boxes.requires_grad
    assert all(p.grad.isfinite().all() for p in model.decoder.parameters())


def test_stages_pass_queries_with_gradient_and_boxes_without():
    model = adamixers.build()
    outputs = model(adamixers.batch(model)['inputs'], mode='tensor')
    first = model.decoder.stages[0]
    last = outputs[-1].logits.sum() + outputs[-1].boxes.sum()
    ffn, box = torch.autograd.grad(
        last, [first.ffn[0].weight, first.fc_reg.weight], allow_unused=True
    )
    assert ffn.any()
    assert box is None


def test_queries_start_as_the_whole_image():
    model = adamixers.build()
    xyzr, content = model.queries([(48, 64), (64, 32)])
    expected = [[32, 24, math.log2(48 * 64) / 2, math.log2(48 / 64)]]
    expected += [[16, 32, math.log2(64 * 32) / 2, 1.0]]
    torch.testing.assert_close(xyzr[:, 0], torch.tensor(expected))
    assert not xyzr.requires_grad
    torch.testing.assert_close(
        content.mean(-1), torch.zeros(2, adamixers.QUERIES), atol=1e-6, rtol=0
    )


def test_predictions_are_the_best_scores_of_the_last_stage():
    model = adamixers.build(max_per_img=5)
    logits = torch.randn(2, adamixers.QUERIES, adamixers.CLASSES)
    boxes = torch.rand(2, adamixers.QUERIES, 4) * 50
    samples = [sample([], [], scale_factor=(2.0, 4.0))] * 2
    output = StageOutput(logits, boxes)
    for rescale in (True, False):
        found = model.decoder.predict(output, samples, rescale)
        for n, result in enumerate(found):
            ranked = sorted(
                itertools.product(*map(range, logits.shape[1:])),
                key=lambda at, n=n: -logits[n][at],
            )[:5]
            assert result.labels.tolist() == [label for _, label in ranked]
            factor = torch.tensor([2.0, 4.0, 2.0, 4.0] if rescale else [1.0])
            queries = [query for query, _ in ranked]
            torch.testing.assert_close(
                result.bboxes, boxes[n, queries] / factor
            )
            scores = torch.stack([logits[n][at] for at in ranked]).sigmoid()
            torch.testing.assert_close(result.scores, scores)


@kinds
@torch.no_grad()
def test_merged_and_unmerged_predict_the_same(kind):
    model = adamixers.build(**adamixers.KINDS[kind]).double().eval()
    data = adamixers.batch(model)
    inputs = data['inputs'].double()
    merged = model(inputs, data['data_samples'], mode='tensor')
    assert (model.decoder.mixing._merged is None) == (kind == 'plain')
    model.decoder.mixing.merge_at_eval = False
    unmerged = model(inputs, data['data_samples'], mode='tensor')
    for one, other in zip(merged, unmerged, strict=True):
        # float64 in another order, through all stages.
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@pair_of_kinds
def test_mixed_precision_is_near(kind):
    model = adamixers.build(**adamixers.KINDS[kind])
    data = adamixers.batch(model)
    results = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            outputs = model(**data, mode='tensor')
            losses = model.decoder.loss(outputs[:1], data['data_samples'])
            total, _ = model.parse_losses(losses)
        total.backward()
        results.append((outputs[0], total))
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert all(g.dtype == torch.float32 for g in grads)
        assert all(g.isfinite().all() for g in grads)
    (exact, exact_loss), (near, near_loss) = results
    assert near.boxes.dtype == torch.float32
    # bfloat16 keeps 8 bits; boxes are in pixels of a 64-pixel image.
    assert (near.boxes - exact.boxes).abs().max() < 2.5
    assert near_loss.item() == pytest.approx(exact_loss.item(), rel=0.1)


@pair_of_kinds
def test_an_image_of_32_pixels(kind):
    model = adamixers.build(**adamixers.KINDS[kind])
    data = adamixers.batch(model, objects=(1,), size=32)
    losses = model(**data, mode='loss')
    assert all(value.isfinite().all() for value in losses.values())
    with torch.no_grad():
        (result,) = model.eval()(**data, mode='predict')
    assert len(result.pred_instances) == adamixers.QUERIES


def test_objects_outside_the_image():
    model = adamixers.build()
    data = adamixers.batch(model)
    truth = data['data_samples'][0].gt_instances
    truth.bboxes = truth.bboxes + 500
    losses = model(**data, mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.isfinite()


def test_nan_in_the_image_is_refused_in_training():
    model = adamixers.build()
    data = adamixers.batch(model)
    data['inputs'][0, 0, 5, 5] = math.nan
    with pytest.raises(FloatingPointError, match='Check the images'):
        model(**data, mode='loss')


def test_a_checkpoint_with_another_number_of_stages_is_refused():
    model = adamixers.build(num_stages=2)
    with pytest.raises(RuntimeError, match=r'decoder\.stages\.2'):
        model.load_state_dict(adamixers.build().state_dict())


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (dict(groups=5), 'in_channels=12 must be a multiple of 5'),
        (dict(num_heads=3), 'embed_dims=16 must be a multiple of 3'),
        (dict(lors_adaptive=dict(terms=[1, 2])), 'each of the 3 stages'),
        (dict(strides=(4, 8, 16)), None),
    ],
)
def test_wrong_options_are_refused(options, sentence):
    if sentence is None:
        model = adamixers.build(**options)
        with pytest.raises(ValueError, match='gets 4 maps'):
            model(torch.zeros(1, 3, 32, 32), mode='tensor')
        return
    with pytest.raises(ValueError, match=sentence):
        adamixers.build(**options)


def test_a_backbone_with_other_maps_is_refused():
    model = adamixers.build()
    model.backbone.out_indices = (1, 2, 3)
    with pytest.raises(ValueError, match=r'gives 3 maps.*out_indices'):
        model(torch.zeros(1, 3, 32, 32), mode='tensor')


def test_names_are_known_where_mmdet_is_not():
    """As in a process of mmseg or mmpretrain without mmdet."""
    code = (
        'import sys; sys.modules["mmdet"] = None\n'
        'from mmengine.registry import MODELS\n'
        'for name in ("AdaMixer", "AdaMixerDecoder", "SwinLoRand"):\n'
        '    assert MODELS.get(f"mmlowrank.{name}"), name\n'
        'try:\n'
        '    MODELS.build(dict(type="mmlowrank.AdaMixer"))\n'
        'except ImportError as error:\n'
        '    assert "mmdet" in str(error)\n'
        'else:\n'
        '    raise AssertionError\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_two_processes_have_the_gradients_of_one():
    done = torchrun(str(HERE / 'adamixer_worker.py'))
    assert done.returncode == 0, done.stderr[-3000:]


def test_lors_keeps_less_than_its_paper_s_formulation():
    """Bytes saved for backward; deterministic. The target is 0.92."""
    kept = []
    for change in (lambda model: model, decoders.cat_and_sum):
        model = change(decoders.DecoderAlone(2, (64, 64), **decoders.LORS))
        with measuring.saved_for_backward(model) as saved:
            model(torch.randn(2, 20, 256))
        kept.append(sum(saved.values()))
    assert kept[0] / kept[1] < 0.92
