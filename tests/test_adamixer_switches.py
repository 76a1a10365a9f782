"""AdaMixer under the switches of its users: half, steps, tracing."""

import copy
import io

import adamixers
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmlowrank.nn.mixing_matrices import CastOnce

pair_of_kinds = pytest.mark.parametrize('kind', ['plain', 'LORS'])


def build(kind, **options):
    """Build a detector whose queries do not all start at one place."""
    model = adamixers.build(**adamixers.KINDS[kind], **options)
    model.queries.boxes.data.uniform_(0.2, 0.8)
    return model


def close(one, other, bound=1e-10):
    """Check that they are equal, by default but for float64's rounding."""
    torch.testing.assert_close(one, other, rtol=bound, atol=bound)


# --- half precision


@pair_of_kinds
@pytest.mark.parametrize('merged', [True, False])
@pytest.mark.parametrize(
    ('dtype', 'share'), [(torch.float16, 0.05), (torch.bfloat16, 0.2)]
)
@torch.no_grad()
def test_half_precision_predicts(kind, merged, dtype, share):
    """Images are float32, as the data preprocessor makes them."""
    model = build(kind, merge_at_eval=merged).eval()
    data = adamixers.batch(model)
    # Smooth ones: over noise, a box moved by a pixel reads something else.
    coarse = torch.randn(2, 3, 4, 4)
    data['inputs'] = F.interpolate(coarse, (64, 64), mode='bilinear')
    exact = model(**data, mode='tensor')[-1].logits.sigmoid()
    model.to(dtype)
    near = model(**data, mode='tensor')[-1].logits.float().sigmoid()
    assert (model.decoder.mixing._merged is not None) == (
        merged and kind == 'LORS'
    )
    # Rounding to 11 and 8 bits through a backbone and three stages, against
    # the differences between the scores. Boxes in half precision, or
    # matrices of another query, would be as far off as these differ.
    assert (near - exact).abs().mean() < share * exact.std()
    for sample in model(**data, mode='predict'):
        found = sample.pred_instances
        assert found.bboxes.dtype == found.scores.dtype == torch.float32
        assert found.bboxes.isfinite().all() and found.scores.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_boxes_of_half_precision_queries_are_exact(dtype):
    queries = adamixers.build().queries
    shapes = [(801, 1333), (2049, 4097)]
    expected, _ = queries(shapes)
    found, content = queries.to(dtype)(shapes)
    assert content.dtype == dtype
    assert torch.equal(found, expected)


def test_double_precision_has_losses():
    """The true boxes stay float32."""
    losses = []
    for dtype in (torch.float32, torch.float64):
        model = adamixers.build().to(dtype)
        truth = adamixers.sample([[8, 8, 40, 50]], [1], shape=(64, 64))
        found = model(torch.ones(1, 3, 64, 64), [truth], mode='loss')
        losses.append(model.parse_losses(found)[0])
    # float32 through backbone and decoder.
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-4)


# --- gradients and steps


def mean_loss(model, images):
    """Return a smooth loss of what all stages predict, a mean over images."""
    return sum(
        output.logits.sigmoid().square().mean()
        + (output.boxes / 64).tanh().mean()
        for output in model(images, mode='tensor')
    )


def trained(model):
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


@pytest.fixture(params=['plain', 'LORS'])
def case(request):
    """A float64 detector and two images."""
    model = build(request.param).double()
    return model, torch.randn(2, 3, 64, 64, dtype=torch.float64)


def test_no_two_gradients_share_memory(case):
    model, images = case
    for with_cp in (False, True):
        model.decoder.mixing.with_cp = with_cp
        model.zero_grad()
        mean_loss(model, images).backward()
        grads = [p.grad for p in trained(model).values()]
        places = {g.untyped_storage().data_ptr() for g in grads}
        assert len(places) == len(grads)


def test_two_backward_passes_are_twice_one(case):
    model, images = case
    mean_loss(model, images).backward()
    once = {n: p.grad.clone() for n, p in trained(model).items()}
    mean_loss(model, images).backward()
    for name, parameter in trained(model).items():
        close(parameter.grad, 2 * once[name])


def test_halves_of_a_batch_accumulate_to_the_whole(case):
    model, images = case
    mean_loss(model, images).backward()
    whole = {n: p.grad.clone() for n, p in trained(model).items()}
    model.zero_grad()
    for half in images.chunk(2):
        (mean_loss(model, half) / 2).backward()
    for name, parameter in trained(model).items():
        close(parameter.grad, whole[name])


def scaled(model, loss, optimizer):
    scaler = torch.amp.GradScaler('cpu')
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)


def clipped(model, loss, optimizer):
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()


@pytest.mark.parametrize('step', [scaled, clipped])
def test_a_step_moves_all_as_plain_descent_does(case, step):
    model, images = case
    model, images = model.float(), images.float()
    before = copy.deepcopy(model)
    grads = torch.autograd.grad(
        mean_loss(before, images), [*trained(before).values()]
    )
    norm = torch.stack([g.double().norm() for g in grads]).norm().item()
    assert norm > 0.1
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    step(model, mean_loss(model, images), optimizer)
    factor = 1.0 if step is scaled else 0.1 / norm
    for grad, (name, parameter) in zip(
        grads, trained(model).items(), strict=True
    ):
        start = before.get_parameter(name)
        assert not torch.equal(parameter, start), name
        # The scale is a power of two, so what differs is the last bit of a
        # float32 weight, and of the norm.
        close(parameter, start - factor * grad, bound=1e-6)


# --- tracing


class Predicted(nn.Module):
    """Takes and returns tensors only, as a trace wants it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        outputs = self.model(images, mode='tensor')
        return [tensor for output in outputs for tensor in output]


@pytest.mark.parametrize('grad', [True, False])
def test_a_detector_is_traced_and_exported(case, grad):
    model, images = case
    model.decoder.mixing.with_cp = grad
    module = Predicted(model.eval())
    file = io.BytesIO()
    with torch.set_grad_enabled(grad):
        module(images)  # LORS is merged now, which no trace shall hold
        exported = torch.export.export(module, (images,), strict=False)
        torch.jit.save(torch.jit.trace(module, images), file)
        file.seek(0)
        loaded = torch.jit.load(file)
        other = images.flip(0)
        # float64 in another order, through all stages; boxes in pixels.
        for ours in (loaded, exported.module()):
            close(ours(other), module(other), bound=1e-8)


class Mixed(nn.Module):
    """The mixing of all stages."""

    def __init__(self, mixing):
        super().__init__()
        self.mixing = mixing

    def forward(self, x, query):
        cast = CastOnce()
        return [
            self.mixing(x, query, stage, cast)
            for stage in range(self.mixing.num_stages)
        ]


def test_a_compiled_mixing_has_its_values_and_gradients(case):
    mixing = Mixed(case[0].decoder.mixing)
    x = torch.randn(3, 5, 4, 4, dtype=torch.float64, requires_grad=True)
    query = torch.randn(5, 16, dtype=torch.float64, requires_grad=True)
    torch.compiler.reset()
    compiled = torch.compile(mixing, backend='aot_eager', fullgraph=True)
    results = []
    for module in (compiled, mixing):
        outs = module(x, query)
        total = sum(out.sin().sum() for out in outs)
        inputs = [x, query, *mixing.parameters()]
        results.append([*outs, *torch.autograd.grad(total, inputs)])
        with torch.no_grad():
            results[-1] += module.eval()(x, query)
        module.train()
    close(*results)
