"""A method's own loss: among those of the model, and only in training."""

import copy

import pytest
import torch
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from swins import FRAMEWORKS, build, images, loss
from test_mona_colin import orthogonality
from torch import distributed

COLIN = 'mmlowrank.SwinCoLin', dict(mid_channels=6, rank=4)
# On the highway the loss is off by default.
E3VA = (
    'mmlowrank.SwinE3VA',
    dict(adapter='colin', mid_channels=6, rank=4, orthogonality=0.5),
)
both = pytest.mark.parametrize('kind, options', [COLIN, E3VA])


class Model(BaseModel):
    """What mmengine trains: losses by name, or features."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, inputs, data_samples=None, mode='tensor'):
        if mode == 'loss':
            return dict(loss_task=loss(self.backbone, inputs))
        if mode == 'predict':
            return [dict(out=out) for out in self.backbone(inputs)]
        return self.backbone(inputs)


def made(kind=COLIN[0], options=COLIN[1], framework='mmdet', **wrapper):
    """Return a model and its optimizer wrapper, which does not move it."""
    torch.manual_seed(0)
    model = Model(build(framework, kind, **options)).train()
    return model, wrap(model, **wrapper)


def wrap(model, **wrapper):
    return build_optim_wrapper(
        model,
        dict(
            constructor='mmlowrank.TunerOptimWrapperConstructor',
            optimizer=dict(type='SGD', lr=0.0),
            **wrapper,
        ),
    )


def adapters(model):
    return [m for m in model.modules() if hasattr(m, 'up_t')]


def explicit(model, x, weight=0.5):
    """The sum of both losses, written out."""
    terms = sum(map(orthogonality, adapters(model)))
    return loss(model.backbone, x) + weight * terms


def gradients(model, value):
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(value, list(trained.values()))
    return dict(zip(trained, grads, strict=True))


def assert_gradients(model, expected, **tolerances):
    for name, value in expected.items():
        torch.testing.assert_close(
            model.get_parameter(name).grad, value, msg=name, **tolerances
        )


CLOSE = dict(rtol=1e-4, atol=1e-5)  # float32, sums in another order


@both
@pytest.mark.parametrize('framework', FRAMEWORKS)
def test_a_step_has_the_gradients_of_the_sum_and_logs_it(
    framework, kind, options
):
    model, optim_wrapper = made(kind, options, framework)
    # The step clears them: see what it clears.
    optim_wrapper.zero_grad = lambda **_: None
    logged = model.train_step(dict(inputs=images()), optim_wrapper)
    assert list(logged) == ['loss', 'loss_task', 'loss_orthogonality']
    value = explicit(model, images())
    torch.testing.assert_close(logged['loss'], value.detach())
    assert_gradients(model, gradients(model, value), **CLOSE)


@both
def test_it_is_there_in_training_only(kind, options):
    model, _ = made(kind, options)
    names = ['loss_task', 'loss_orthogonality']
    assert list(model(images(), mode='loss')) == names
    assert list(model(images(), None, 'loss')) == names
    stock = [set(out) for out in model(images(), mode='predict')]
    assert stock == [{'out'}] * 4
    assert len(model(images())) == 4
    model.eval()
    assert list(model(images(), mode='loss')) == ['loss_task']


def test_its_weight_is_an_argument():
    model, _ = made(options=dict(COLIN[1], orthogonality=0.125))
    terms = sum(map(orthogonality, adapters(model)))
    found = model(images(), mode='loss')['loss_orthogonality']
    torch.testing.assert_close(found, 0.125 * terms)


def test_accumulated_and_scaled_as_every_loss():
    model, optim_wrapper = made(accumulative_counts=2)
    halves = images(batch=2).chunk(2)
    optim_wrapper.zero_grad = lambda **_: None
    for half in halves:
        model.train_step(dict(inputs=half), optim_wrapper)
    value = sum(explicit(model, half) / 2 for half in halves)
    assert_gradients(model, gradients(model, value), **CLOSE)


def test_loss_scaling_scales_it():
    model, _ = made()
    scaler = torch.amp.GradScaler('cpu', init_scale=2.0**10)
    losses, _ = model.parse_losses(model(images(), mode='loss'))
    scaler.scale(losses).backward()
    value = explicit(model, images()) * 2**10
    assert_gradients(
        model, gradients(model, value), rtol=1e-4, atol=1e-5 * 2**10
    )


@both
def test_two_forwards_before_one_backward(kind, options):
    model, _ = made(kind, options)
    one, two = images(seed=1), images(seed=2)
    values = [sum(model(x, mode='loss').values()) for x in (one, two)]
    sum(values).backward()
    value = explicit(model, one) + explicit(model, two)
    assert_gradients(model, gradients(model, value), **CLOSE)


def test_asked_twice_it_is_added_once_and_copies_have_their_own():
    model, _ = made()
    wrap(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.backbone.tuner.parameters():
            parameter *= 1.5
    for one in (model, twin):
        terms = sum(map(orthogonality, adapters(one)))
        found = one(images(), mode='loss')['loss_orthogonality']
        torch.testing.assert_close(found, 0.5 * terms)


def test_a_frozen_teacher_has_none():
    model, _ = made()
    model.requires_grad_(False)
    assert list(model(images(), mode='loss')) == ['loss_task']


def test_methods_without_a_loss_leave_the_model_alone():
    model, _ = made('mmlowrank.SwinMona', dict(mid_channels=6))
    assert not model._forward_hooks


def test_distributed(tmp_path):
    model, _ = made()
    distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1
    )
    try:
        whole = MMDistributedDataParallel(model)
        optim_wrapper = wrap(whole)
        optim_wrapper.zero_grad = lambda **_: None
        logged = whole.train_step(dict(inputs=images()), optim_wrapper)
    finally:
        distributed.destroy_process_group()
    assert 'loss_orthogonality' in logged
    value = explicit(model, images())
    assert_gradients(model, gradients(model, value), **CLOSE)


def test_methods_of_a_composition_add_theirs():
    tuners = [
        dict(type='CoLin', mid_channels=6, rank=4, orthogonality=0.25),
        dict(
            type='E3VA',
            adapter='colin',
            mid_channels=6,
            rank=4,
            orthogonality=0.5,
        ),
    ]
    model, _ = made('mmlowrank.TunedBackbone', dict(tuner=tuners))
    first, second = model.backbone.tuner.parts
    found = model(images(), mode='loss')['loss_orthogonality']
    expected = 0.25 * sum(map(orthogonality, adapters(first)))
    expected = expected + 0.5 * sum(map(orthogonality, adapters(second)))
    torch.testing.assert_close(found, expected)
