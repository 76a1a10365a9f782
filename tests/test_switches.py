"""Tuners x switches x hosts: a tuned model behaves as a stock one.

docs/switches.md shows the matrix; ``python tests/switch_table.py`` writes it
from the tests here, and test_docs.py compares.
"""

import copy
import io
import itertools
import pickle

import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.model import (
    ExponentialMovingAverage,
    convert_sync_batchnorm,
    revert_sync_batchnorm,
)
from mmengine.runner.activation_checkpointing import (
    turn_on_activation_checkpointing,
)
from swins import EMBED_DIMS, FRAMEWORKS, VIT, build, images, loss, stir
from torch import nn
from tuner_rows import rows_of

from mmlowrank import keep_less
from mmlowrank.tuners import checkpoint_parts, freeze_matching

HOSTS = (*FRAMEWORKS, VIT)
# One row for each way in which a method meets a trunk.
ROWS = (
    *('Full', 'Fixed', 'BitFit', 'NormTuning', 'Partial-1'),
    *('Adapter', 'AdaptFormer', 'LoRA', 'LoRand', 'Mona', 'CoLin'),
    *('E3VA', 'E3VA, stacked', 'E3VA, trainable reduction', 'E3VA, Mona'),
    *('RLRR', 'SSF', 'ARC'),
    *('VPT-Shallow', 'VPT-Deep', 'FacT-TK'),
)
SCRATCH = dict(atol=1e-7, rtol=1e-4)  # float32, sums in another order


def row_of(host, name):
    rows = rows_of(host)
    return rows.get(name) or rows.get(f'{name}-B')


def cells(hosts=HOSTS, names=ROWS, trains=True):
    table = {
        f'{host}-{name}': (host, row_of(host, name))
        for host in hosts
        for name in names
        if row_of(host, name) and (row_of(host, name)[2] != 0 or not trains)
    }
    return pytest.mark.parametrize('host, row', table.values(), ids=table)


def tuned(host, row, **kwargs):
    torch.manual_seed(0)
    backbone = build(host, row[0], **row[1], **kwargs)
    stir(backbone)
    return backbone


def small(host, row, **kwargs):
    """Two stages, for what takes long: shifted windows and one merging."""
    sizes = dict(depths=(2, 1), num_heads=(1, 2))
    if host == 'mmpretrain':
        sizes = dict(arch=dict(sizes, embed_dims=EMBED_DIMS))
    if host != VIT:
        kwargs.update(sizes, out_indices=(0, 1))
    return tuned(host, row, **kwargs)


def gradients(model, x=None, double=True):
    """Return name -> gradient of the mean loss; of what trains, no None."""
    model.zero_grad()
    x = images() if x is None else x
    value = loss(model, x.double() if double else x)
    if value.requires_grad:  # with FIXED it does not
        value.backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def assert_equal(ours, theirs, **tolerances):
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, msg=name, **tolerances)


def stepped(backbone, change, scale=1.0):
    """Return the trained tensors after a step of SGD on changed gradients."""
    trained = [p for p in backbone.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0)
    scaler = torch.amp.GradScaler(
        'cpu', init_scale=scale, enabled=scale != 1.0
    )
    scaler.scale(loss(backbone, images())).backward()
    scaler.unscale_(optimizer)
    change(trained)
    scaler.step(optimizer)
    return {
        n: p.detach().clone()
        for n, p in backbone.named_parameters()
        if p.requires_grad
    }


@cells()
def test_loss_scaling(host, row):
    """The step is that without scaling, and moves every trained tensor."""
    before = tuned(host, row)
    ours = stepped(tuned(host, row), lambda _: None, scale=2.0**16)
    theirs = stepped(tuned(host, row), lambda _: None)
    assert_equal(ours, theirs, **SCRATCH)
    for name, value in ours.items():
        assert not torch.equal(value, before.get_parameter(name)), name


@cells()
def test_clipping(host, row):
    """A norm of 1e-3 for all gradients together; the reference divides."""
    exact = gradients(tuned(host, row), double=False)
    norm = torch.stack([g.norm() for g in exact.values()]).norm()
    backbone = tuned(host, row)
    start = {
        n: p.detach().clone()
        for n, p in backbone.named_parameters()
        if p.requires_grad
    }
    ours = stepped(
        backbone, lambda trained: nn.utils.clip_grad_norm_(trained, 1e-3)
    )
    theirs = {n: start[n] - exact[n] * (1e-3 / norm) for n in exact}
    assert_equal(ours, theirs, **SCRATCH)


@cells()
def test_accumulation(host, row):
    """Two halves are the whole; gradients have memory of their own."""
    backbone = tuned(host, row).double()
    x = images(batch=4)
    whole = gradients(backbone, x)
    backbone.zero_grad()
    for half in x.double().chunk(2):
        (loss(backbone, half) / 2).backward()
    trained = [p for p in backbone.parameters() if p.requires_grad]
    storages = {p.grad.untyped_storage().data_ptr() for p in trained}
    assert len(storages) == len(trained)
    halves = {
        n: p.grad for n, p in backbone.named_parameters() if p.requires_grad
    }
    # Rounding of float64, in sums of 10^5 terms.
    assert_equal(halves, whole, rtol=1e-8, atol=1e-12)


@cells(trains=False)
def test_ema(host, row):
    """The average of two steps, frozen tensors as they are."""
    model = tuned(host, row)
    average = ExponentialMovingAverage(model, momentum=0.25)
    first = copy.deepcopy(model.state_dict())
    average.update_parameters(model)
    stir(model, seed=2)
    average.update_parameters(model)
    for name, value in average.module.state_dict().items():
        expected = torch.lerp(
            first[name].double(), model.state_dict()[name].double(), 0.25
        )
        torch.testing.assert_close(value.double(), expected, msg=name)
    assert average.module.tuner.backbone is average.module
    average.module.tuner.check()


@cells(FRAMEWORKS)
def test_with_cp(host, row):
    """In float64: gradients of a checkpointed trunk, to rounding."""
    ours = gradients(tuned(host, row, with_cp=True).double())
    assert_equal(
        ours, gradients(tuned(host, row).double()), rtol=1e-8, atol=1e-12
    )


@cells()
def test_activation_checkpointing(host, row):
    """By FreezeAuditHook, and by mmengine where that hook is missing."""
    part = 'layers.1' if host == VIT else 'stages.1'
    plain = gradients(tuned(host, row).double())
    ways = (checkpoint_parts, turn_on_activation_checkpointing)
    for path, turn_on in itertools.product(('', f'.{part}'), ways):
        model = nn.Module()
        model.backbone = tuned(host, row).double()
        turn_on(model, [f'backbone{path}'])
        model.train()
        ours = gradients(model.backbone)
        assert_equal(ours, plain, rtol=1e-8, atol=1e-12)


@cells()
def test_saved_in_int8(host, row):
    """All gradients together, by their norm."""
    backbone = small(host, row)
    exact, ours = (
        torch.cat(
            [g.flatten() for g in gradients(model, double=False).values()]
        )
        for model in (backbone, keep_less(copy.deepcopy(backbone), 'int8'))
    )
    assert (ours - exact).norm() < 0.02 * exact.norm()


class WithStem(nn.Module):
    """A layer with statistics, and a tuned backbone."""

    def __init__(self, backbone):
        super().__init__()
        self.stem = nn.Sequential(nn.BatchNorm2d(3))
        self.backbone = backbone

    def forward(self, x):
        return self.backbone(self.stem(x))


@cells(trains=False)
def test_sync_bn_conversion(host, row):
    """There and back: frozen is what was frozen, trained what trained."""
    model = WithStem(tuned(host, row, drop_path_rate=0.5)).double()
    freeze_matching(model, ['stem'])
    model.train()
    torch.manual_seed(3)
    before = gradients(model)
    model = revert_sync_batchnorm(convert_sync_batchnorm(model))
    model.train()
    model.backbone.tuner.check()
    torch.manual_seed(3)
    assert_equal(gradients(model), before, rtol=1e-10, atol=1e-14)
    assert not model.stem[0].running_mean.any()


def in_eval(model):
    """Put a model in eval mode; mmdet's Swin returns nothing there."""
    model.eval()
    return model


def outputs(model, x):
    with torch.no_grad():
        return model(x)


def assert_same_outputs(ours, theirs, atol=1e-5):
    """Features are normalised: of the size of 1."""
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=atol)


@pytest.mark.parametrize('grad', [False, True])
@cells(trains=False)
def test_trace(host, row, grad):
    backbone, x = in_eval(tuned(host, row)), images(1)
    with torch.set_grad_enabled(grad):
        traced = torch.jit.trace(backbone, x, check_trace=False, strict=False)
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    again = torch.jit.load(file)
    assert_same_outputs(outputs(again, x), outputs(backbone, x))


@cells(trains=False)
def test_export(host, row):
    backbone, x = in_eval(tuned(host, row)), images(1)
    exported = torch.export.export(backbone, (x,), strict=False).module()
    assert_same_outputs(outputs(exported, x), outputs(backbone, x))


def run_onnx(model, x):
    import onnxruntime

    session = onnxruntime.InferenceSession(
        model, providers=['CPUExecutionProvider']
    )
    outs = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return [torch.from_numpy(out) for out in outs]


@cells(trains=False)
def test_onnx_by_tracing(host, row):
    backbone, x, file = in_eval(small(host, row)), images(1), io.BytesIO()
    torch.onnx.export(backbone, (x,), file, dynamo=False, opset_version=17)
    ours = run_onnx(file.getvalue(), x)
    assert_same_outputs(ours, outputs(backbone, x), atol=1e-4)


# What cannot be merged, and so must be exported.
@cells(('mmdet',), ('Adapter', 'AdaptFormer', 'LoRand', 'Mona', 'E3VA'))
def test_onnx_by_dynamo(host, row, tmp_path):
    backbone, x = in_eval(small(host, row)), images(1)
    path = str(tmp_path / 'backbone.onnx')
    torch.onnx.export(backbone, (x,), path, dynamo=True, verbose=False)
    assert_same_outputs(run_onnx(path, x), outputs(backbone, x), atol=1e-4)


def check_compiled(backbone, **how):
    """The same loss and the same gradients."""
    torch._dynamo.reset()
    expected = gradients(backbone, double=False)
    backbone.zero_grad()
    value = loss(torch.compile(backbone, **how), images())
    torch.testing.assert_close(value, loss(backbone, images()))
    if value.requires_grad:
        value.backward()
    ours = {n: backbone.get_parameter(n).grad for n in expected}
    # Of the largest entry of a tensor; the compiler orders sums anew.
    for name, value in expected.items():
        error = (ours[name] - value).abs().max() / value.abs().max()
        assert error < 1e-4, name


@cells(trains=False)
def test_compile(host, row):
    # The stock ViT asks for the value of a numpy rate of stochastic depth,
    # where PyTorch's compiler breaks the graph.
    how = dict(backend='aot_eager', fullgraph=host != VIT)
    check_compiled(small(host, row), **how)


@cells(('mmdet',), ('Adapter', 'LoRA', 'LoRand', 'E3VA'))
def test_compile_with_inductor(host, row):
    # One number at a time: the vector code that PyTorch 2.11 makes of the
    # stock Swin's masks does not compile on every CPU.
    how = dict(options={'cpp.simdlen': 1}, fullgraph=True)
    check_compiled(small(host, row), **how)


def seen_at(backbone, path, grad):
    """Return what hooks at one module see, of a whole pass."""
    seen = {}

    def note(key, value):
        value = value[0] if isinstance(value, tuple) else value
        if value is not None:
            seen[key] = value.detach().clone()

    module = backbone.get_submodule(path)
    handles = [
        module.register_forward_pre_hook(lambda m, i: note('input', i)),
        module.register_forward_hook(lambda m, i, o: note('output', o)),
    ]
    if grad:
        handles.append(
            module.register_full_backward_hook(
                lambda m, i, o: (
                    (note('grad in', i), note('grad out', o))[:0] or None
                )
            )
        )
    with torch.set_grad_enabled(grad):
        total = loss(backbone, images().double())
    if total.requires_grad:
        total.backward()
    for handle in handles:
        handle.remove()
    return seen


@cells(trains=False)
def test_hooks(host, row):
    """Hooks at each module of a block see what a stock trunk shows them."""
    path = 'layers.0' if host == VIT else 'stages.0.blocks.1'
    lean, stock = (
        tuned(host, row, memory=memory).double()
        for memory in ('lean', 'stock')
    )
    for name, _ in stock.get_submodule(path).named_modules(prefix=path):
        for grad in (True, False):
            assert_equal(
                seen_at(lean, name, grad),
                seen_at(stock, name, grad),
                rtol=1e-8,
                atol=1e-11,
            )


@cells(trains=False)
def test_counting(host, row):
    """mmengine counts no less than in the stock backbone."""
    stock, backbone = build(host, 'SwinTransformer'), tuned(host, row)

    def count(model):
        return get_model_complexity_info(model, (3, 64, 64))['flops']

    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            assert count(backbone) >= count(stock)


@pytest.mark.parametrize(
    'copied', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
@cells(trains=False)
def test_copies(host, row, copied):
    """Deep copies and pickled ones: equal, and independent."""
    backbone = tuned(host, row).double()
    twin = copied(backbone)
    assert twin.tuner.backbone is twin
    if row[2] != 0:
        assert_equal(gradients(twin), gradients(backbone), rtol=0, atol=0)
    x = images().double()
    before = outputs(in_eval(backbone), x)
    for parameter in twin.parameters():
        parameter.data *= 1.5
    assert all(map(torch.equal, before, outputs(backbone, x)))
    changed = outputs(in_eval(twin), x)
    assert not any(map(torch.equal, before, changed))
