"""What autograd saves, in fewer bits: bf16 and int8."""

import copy
import json
import pickle

import pytest
import torch
import torch.nn.functional as F
from mmengine.model import MMFullyShardedDataParallel
from swins import build, images, loss, stir
from test_tuned_model import HEADS, started
from test_tuned_model import loss as loss_of_detector
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from tuner_rows import TUNERS

from mmlowrank import keep_less
from mmlowrank.analysis import records
from mmlowrank.analysis.measuring import saved_for_backward
from mmlowrank.engine import TunerOptimWrapperConstructor
from mmlowrank.nn.kernels import kept
from mmlowrank.nn.kernels.kept import Packing, unpack

KINDS = ('bf16', 'int8')
# Of gradients, all together. A saved number is off by at most 2^-9 of itself
# in bf16, by half a 125th of the largest of its block in int8.
TOLERANCE = dict(bf16=4e-3, int8=2e-2)
each = pytest.mark.parametrize('saved', KINDS)


def packing(saved, batch=()):
    return Packing(saved, nn.Linear(2, 2), batch)


def mlp(width=64):
    torch.manual_seed(0)
    layers = (nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
    return nn.Sequential(*layers)


def tokens(*shape):
    return torch.randn(*(shape or (64, 64)), generator=seeded())


def seeded():
    return torch.Generator().manual_seed(7)


def gradients(model, value):
    model.zero_grad()
    value.backward()
    return torch.cat(
        [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    ).clone()


def error(found, wanted):
    return (found - wanted).norm() / wanted.norm()


VIEWS = {
    'all': lambda x: x,
    'rest': lambda x: x[1:],
    'transposed': lambda x: x.transpose(1, 2),
    'strided': lambda x: x[:, ::3, 1::2],
    'expanded': lambda x: x[:1].expand(5, -1, -1),
    'ragged': lambda x: x.flatten()[: 2 * 33 * 41].view(2, 33, 41),
}


@pytest.mark.parametrize('view', VIEWS)
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.half])
@each
def test_what_is_unpacked_is_close(saved, dtype, view):
    x = VIEWS[view](tokens(3, 50, 63).to(dtype))
    packed = packing(saved).pack(x)
    if saved == 'bf16' and dtype == torch.half:
        assert packed is x
        return
    again = unpack(packed)
    assert (again.dtype, again.shape) == (x.dtype, x.shape)
    off = (again.double() - x.double()).abs()
    if saved == 'bf16':
        assert (off <= 2**-8 * x.abs()).all()
    else:
        # Half a step of the largest number, a step being rounded, too.
        largest = x.abs().max()
        assert (off <= largest * (1.01 / 250 + torch.finfo(dtype).eps)).all()


@each
def test_signs_and_zeros_stay(saved):
    """ReLU and L1 losses read nothing else of what they saved."""
    x = F.relu(tokens(100, 64)) - F.relu(tokens(100, 64) - 3)
    x[:, ::5] *= 1e-6
    x[1] = 0
    again = unpack(packing(saved).pack(x))
    assert torch.equal(again.sign(), x.sign())


def test_overflow_stays_overflow():
    """A gradient scaler must see it."""
    x = tokens()
    x[3, 4], x[9, 1] = torch.inf, torch.nan
    again = unpack(packing('int8').pack(x))
    assert not again[3].isfinite().any() and not again[9].isfinite().any()
    assert again[[0, 1, 2, 4]].isfinite().all()


def test_what_is_left_as_it_is():
    weight, batch = nn.Linear(64, 64), tokens()
    own = Packing('int8', weight, [batch])
    reasons = {
        own.reason(tensor)
        for tensor in (
            weight.weight.t(),
            batch[1:],
            tokens() > 0,
            torch.arange(4096).view(64, 64),
            tokens(4096),
            tokens(2048, 5),
            tokens(5, 5, 64),
            tokens().to_sparse(),
        )
    }
    assert reasons == {
        'weights and the batch',
        'integers and masks',
        'vectors and coordinates',
        'small',
        'not dense',
    }
    half = packing('bf16').reason(tokens().half())
    assert half == 'in as few bits already'
    assert own.reason(tokens()) is None


@each
def test_a_storage_is_packed_once(saved):
    own, x = packing(saved), tokens(2, 64, 64)
    one, other = own.pack(x), own.pack(x[1].t())
    assert one.storage is other.storage
    x.add_(1)
    changed = own.pack(x)
    assert changed.storage is not one.storage
    torch.testing.assert_close(unpack(changed), x, atol=0.05, rtol=0.01)
    torch.testing.assert_close(unpack(one), x - 1, atol=0.05, rtol=0.01)


def test_an_address_that_is_used_again():
    own = packing('int8')
    for number in range(20):
        x = torch.full((64, 64), float(number))
        again = unpack(own.pack(x))
        del x
        torch.testing.assert_close(
            again, torch.full((64, 64), float(number)), rtol=0.01, atol=0
        )


@pytest.mark.parametrize('row', ['Full', 'LoRand', 'E3VA'])
@each
def test_gradients_of_backbones_are_close(saved, row):
    kind, arguments, *_ = TUNERS[row]
    model = build('mmdet', kind, **arguments)
    stir(model)
    wanted = gradients(model, loss(model, images(size=96)))
    keep_less(model, saved)
    value = loss(model, images(size=96))
    found = gradients(model, value)
    assert torch.equal(value, loss(keep_less(model, 'exact'), images(size=96)))
    assert 0 < error(found, wanted) < TOLERANCE[saved]


@pytest.mark.parametrize('head', HEADS)
def test_gradients_of_detectors_are_close(head):
    model = started(head)
    wanted = gradients(model, loss_of_detector(model))
    for saved in KINDS:
        keep_less(model, saved)
        found = gradients(model, loss_of_detector(model))
        assert 0 < error(found, wanted) < TOLERANCE[saved]


def test_fewer_bytes():
    model = build('mmdet', 'mmlowrank.SwinLoRand')
    found = {}
    for saved in kept.SAVED:
        with saved_for_backward(keep_less(model, saved)) as storages:
            loss(model, images(size=224))
        found[saved] = sum(storages.values())
    assert found['bf16'] < 0.52 * found['exact']
    assert found['int8'] < 0.29 * found['exact']


@each
def test_two_backward_passes_give_twice_the_gradient(saved):
    model = keep_less(mlp(), saved)
    value = model(tokens()).square().sum()
    value.backward(retain_graph=True)
    once = [p.grad.clone() for p in model.parameters()]
    value.backward()
    for parameter, grad in zip(model.parameters(), once, strict=True):
        assert torch.equal(parameter.grad, 2 * grad)


@each
def test_a_gradient_of_a_gradient(saved):
    found = []
    for kind in ('exact', saved):
        model = keep_less(mlp(), kind)
        x = tokens().requires_grad_()
        (grad,) = torch.autograd.grad(
            model(x).square().sum(), x, create_graph=True
        )
        found.append(gradients(model, grad.square().sum()))
    assert 0 < error(found[1], found[0]) < TOLERANCE[saved]


def saves_exactly(x):
    """Whether what is computed here is saved as it is."""
    x = x.detach().requires_grad_()
    return torch.equal(x.sin().grad_fn._saved_self, x)


class Around(nn.Module):
    """Does something in its forward."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x + 0)


def test_packing_begins_and_ends_with_the_model():
    assert not keep_less(Around(saves_exactly), 'int8')(tokens())
    assert saves_exactly(tokens())
    failing = keep_less(Around(lambda x: x.no_such_thing), 'int8')
    with pytest.raises(AttributeError):
        failing(tokens())
    assert saves_exactly(tokens())
    with torch.no_grad():
        keep_less(mlp(), 'int8')(tokens())
    assert saves_exactly(tokens())


def test_the_batch_is_not_packed():
    """It is there anyway, so what is packed of it would come on top."""
    layer = keep_less(nn.Linear(64, 64), 'int8')
    for call in (layer, lambda x: layer(input=x)):
        assert torch.equal(call(tokens()).grad_fn._saved_mat1, tokens())


@each
def test_copies_and_pickles(saved):
    wanted = gradients(model := mlp(), model(tokens()).square().sum())
    keep_less(model, saved)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        keep_less(model, 'exact')
        found = gradients(again, again(tokens()).square().sum())
        assert 0 < error(found, wanted) < TOLERANCE[saved]
        keep_less(model, saved)


def test_traced_and_compiled_models_are_left_alone():
    model = keep_less(mlp(), 'int8')
    wanted = gradients(mlp_ := mlp(), mlp_(tokens()).square().sum())
    for changed in (
        torch.jit.trace(model, tokens()),
        torch.compile(model, backend='eager'),
    ):
        found = gradients(model, changed(tokens()).square().sum())
        torch.testing.assert_close(found, wanted)


def test_tensors_without_memory():
    """A planner runs a step with them."""
    with FakeTensorMode():
        for saved in KINDS:
            model = keep_less(mlp(), saved)
            model(torch.empty(64, 64)).sum().backward()
            assert model[0].weight.grad.shape == (64, 64)


def test_a_config_asks_for_it():
    model = build('mmdet', 'mmlowrank.SwinLoRand')
    options = dict(optimizer=dict(type='AdamW', lr=1e-3), saved='int8')
    TunerOptimWrapperConstructor(options)(model)
    stir(model)
    found = gradients(model, loss(model, images(size=96)))
    keep_less(model, 'exact')
    assert error(found, gradients(model, loss(model, images(size=96)))) > 0
    with pytest.raises(ValueError, match='exact, bf16, int8, got 4'):
        TunerOptimWrapperConstructor(dict(options, saved=4))(model)


def test_a_sharded_model_is_refused():
    """Its gathered weights would be packed with what it saves."""
    sharded = MMFullyShardedDataParallel.__new__(MMFullyShardedDataParallel)
    nn.Module.__init__(sharded)
    sharded._fsdp_wrapped_module = build('mmdet', 'mmlowrank.SwinLoRand')
    options = dict(optimizer=dict(type='AdamW', lr=1e-3), saved='int8')
    with pytest.raises(ValueError, match='leave saved out'):
        TunerOptimWrapperConstructor(options)(sharded)


def test_the_tool_compares_what_is_saved(tool, tmp_path):
    printed = tool(
        'measure_saved.py',
        'configs/quickstart/mask-rcnn_swin-mini_lorand-b4r8_800it_digits.py',
        *('--img-scale', 96, 96),
        *('--repeats', 1),
        *('--json', tmp_path / 'saved.json'),
    )
    record = json.loads((tmp_path / 'saved.json').read_text())
    exact, bf16, int8 = record['rows']
    assert exact['error'] == 0 < bf16['error'] < int8['error'] < 0.01
    assert bf16['of_exact'] < 0.6 and int8['of_exact'] < 0.4
    assert int8['left']['vectors and coordinates'] > 0
    assert records.saved_table(record).strip() in printed
