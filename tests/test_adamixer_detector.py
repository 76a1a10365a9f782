"""AdaMixer as a detector: gradients, predictions, bad input, DDP."""

import itertools
import math
import subprocess
import sys
from pathlib import Path

import adamixers
import pytest
import torch
from test_distributed import torchrun

from mmlowrank.analysis import decoders, measuring
from mmlowrank.models.adamixer.decoder import StageOutput

HERE = Path(__file__).parent
kinds = pytest.mark.parametrize('kind', adamixers.KINDS)
pair_of_kinds = pytest.mark.parametrize('kind', ['plain', 'LORS'])


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


def starts():
    """Every start that an option of the decoder leads to."""
    adaptive, static = adamixers.LORS.values()
    for bias in (True, False):
        yield dict(generator_bias=bias)
        for init in ('official', 'paper'):
            for parts in ('both', 'shared', 'private'):
                yield dict(
                    lors_adaptive=dict(adaptive, parts=parts, init=init),
                    lors_static=dict(static, init=init),
                    generator_bias=bias,
                )


@pytest.mark.parametrize('options', starts(), ids=str)
def test_every_start_can_learn(options):
    """Nothing stays where it is because all before it is zero."""
    model = adamixers.build(at_start=True, **options)
    optimizer = torch.optim.AdamW(model.decoder.parameters(), lr=1e-3)
    silent = {n for n, p in model.named_parameters() if p.requires_grad}
    for step in range(4):
        total, _ = model.parse_losses(
            model(**adamixers.batch(model), mode='loss')
        )
        total.backward()
        silent -= {
            n
            for n, p in model.named_parameters()
            if p.grad is not None and p.grad.any()
        }
        if not step:
            assert not any(n.startswith(('neck', 'backbone')) for n in silent)
        optimizer.step()
        model.zero_grad()
    assert not silent


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
    samples = [adamixers.sample([], [], scale_factor=(2.0, 4.0))] * 2
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
        (dict(lors_adaptive=dict(terms=[1, 2])), r'each stage \(3 stages'),
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
