"""The lean trunk: the stock trunk's values and gradients for fewer bytes."""

import copy

import pytest
import torch
from swins import FRAMEWORKS, VIT, build, images, loss, stir
from tuner_rows import cells_of, kind

from mmlowrank.analysis.measuring import saved_for_backward

every = pytest.mark.parametrize('framework', FRAMEWORKS)
LEAN = {
    (framework, name): row
    for framework in (*FRAMEWORKS, VIT)
    for name, row in cells_of(framework, training=True).items()
    if kind(row) not in {'Full', 'Partial', 'E3VA'}
}
# FacT, ARC and a LoRA of fc1 change what the MLP's layers compute by hooks,
# so the MLP is not rebuilt, which saves most.
SMALLER = {
    (framework, name): row
    for (framework, name), row in LEAN.items()
    if kind(row) not in {'FacT', 'ARC'} and 'fc1' not in str(row[1])
}


def both(framework, row, **kwargs):
    for memory in ('lean', 'stock'):
        torch.manual_seed(0)
        backbone = build(
            framework, row[0], **dict(row[1], memory=memory, **kwargs)
        )
        stir(backbone)
        yield backbone


def cases(table):
    return pytest.mark.parametrize(
        'framework, row',
        [(framework, row) for (framework, _), row in table.items()],
        ids=map('-'.join, table),
    )


@cases(LEAN)
def test_values_and_gradients_are_the_stock_trunks(framework, row):
    """float64, 64 px with windows of 3: padding and masks are at work."""
    extra = {} if framework == VIT else dict(window_size=3)
    lean, stock = (b.double() for b in both(framework, row, **extra))
    x = images().double()
    one, other = loss(lean, x), loss(stock, x)
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    one.backward(), other.backward()
    for name, parameter in stock.named_parameters():
        ours = lean.get_parameter(name).grad
        if parameter.grad is None:
            assert ours is None, name
            continue
        torch.testing.assert_close(
            ours, parameter.grad, rtol=1e-8, atol=1e-11, msg=name
        )


@cases(SMALLER)
def test_fewer_bytes_are_kept(framework, row):
    kept = []
    for backbone in both(framework, row):
        with saved_for_backward(backbone) as saved:
            loss(backbone, images(size=64 if framework == VIT else 128))
        kept.append(sum(saved.values()))
    # Maps smaller than the width leave little to win: the rescaled weights
    # of RLRR and SSF are kept where the hidden layer is rebuilt.
    assert kept[0] < 0.85 * kept[1]


@every
def test_without_gradients_the_stock_code_runs(framework):
    row = LEAN[framework, 'LoRand']
    lean, stock = both(framework, row)
    lean.eval(), stock.eval()
    with torch.no_grad():
        for one, other in zip(lean(images()), stock(images()), strict=True):
            assert torch.equal(one, other)


@every
def test_dropout_in_the_trunk_falls_back_to_the_stock_code(framework):
    extra = dict(stochastic_trunk=True)
    if framework != 'mmpretrain':
        extra.update(attn_drop_rate=0.3, drop_rate=0.2)
    lean, stock = both(framework, LEAN[framework, 'LoRand'], **extra)
    lean.train(), stock.train()
    torch.manual_seed(5)
    one = loss(lean, images())
    torch.manual_seed(5)
    other = loss(stock, images())
    torch.testing.assert_close(one, other)


def test_unknown_memory_is_refused():
    with pytest.raises(ValueError, match="'lean' or 'stock'"):
        build('mmdet', 'mmlowrank.SwinLoRand', rank=4, memory='small')


def test_windows_attend_as_asked(monkeypatch):
    """In float64, with masks and padding, in images of a batch."""
    results = []
    for attention in ('sdpa', 'products', 'auto'):
        torch.manual_seed(0)
        backbone = build(
            'mmdet',
            'mmlowrank.SwinE3VA',
            rank=4,
            attention=attention,
            window_size=3,
        )
        stir(backbone)
        out = loss(backbone.double(), images().double())
        out.backward()
        norm = sum(p.grad.square().sum() for p in backbone.tuner.parameters())
        results.append(torch.stack([out.detach(), norm]))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="'auto', 'sdpa' or 'products'"):
        build('mmdet', 'mmlowrank.SwinLoRand', rank=4, attention='flash')


def replaced(what):
    """Return a function that changes the MLP of every block of a Swin."""

    def change(backbone):
        for stage in backbone.stages:
            for block in stage.blocks:
                what(block)
        return backbone

    return change


def wrap_forward(block):
    layer = block.ffn.layers[0][0]
    stock = layer.forward
    layer.forward = lambda x: 2 * stock(x)


def hook(block):
    layer = block.ffn.layers[1]
    layer.register_forward_hook(lambda m, args, out: 2 * out)


def other_attention(block):
    """Make it one of a subclass, which computes something else."""
    attention = block.attn.w_msa
    attention.__class__ = type(
        'WindowMSA',
        (type(attention),),
        dict(forward=lambda self, x, mask=None: self.proj(x)),
    )


def other(kind):
    """Return an instance of a subclass that doubles what its class makes."""
    forward = kind.forward
    return type(
        kind.__name__, (kind,), dict(forward=lambda s, x: 2 * forward(s, x))
    )


CHANGES = {
    'another softmax': lambda b: setattr(
        b.attn.w_msa, 'softmax', other(torch.nn.Softmax)(-1)
    ),
    'another dropout': lambda b: setattr(
        b.attn.w_msa, 'attn_drop', other(torch.nn.Dropout)(0.0)
    ),
    'another dropout of the MLP': lambda b: b.ffn.layers.__setitem__(
        2, other(torch.nn.Dropout)(0.0)
    ),
    'another container': lambda b: setattr(
        b.ffn, 'layers', other(torch.nn.Sequential)(*b.ffn.layers)
    ),
    'another attention': other_attention,
    'another activation': lambda b: b.ffn.layers[0].__setitem__(
        1, torch.nn.ReLU()
    ),
    'another MLP': lambda b: setattr(
        b.ffn,
        'layers',
        copy.deepcopy(b.ffn.layers)[:1].append(b.ffn.layers[1]),
    ),
    'another norm': lambda b: setattr(
        b, 'norm2', torch.nn.LayerNorm(b.norm2.normalized_shape).double()
    ),
    'a forward on the instance': wrap_forward,
    'a hook that changes the output': hook,
    'a softmax with a hook': lambda b: (
        b.attn.w_msa.softmax.register_forward_hook(
            lambda m, args, out: 2 * out
        )
    ),
}


@every
@pytest.mark.parametrize('change', CHANGES)
def test_parts_that_users_replace_count(framework, change):
    """After attaching; values and gradients are the stock trunk's."""
    lean, stock = (
        replaced(CHANGES[change])(backbone.double())
        for backbone in both(framework, LEAN[framework, 'LoRand'])
    )
    plain, _ = both(framework, LEAN[framework, 'LoRand'])
    x = images().double()
    one, other = loss(lean, x), loss(stock, x)
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    if change not in ('another MLP', 'another norm'):  # which are equal
        assert not torch.allclose(one, loss(plain.double(), x), rtol=1e-6)
    one.backward(), other.backward()
    for name, parameter in stock.tuner.named_parameters():
        ours = lean.tuner.get_parameter(name).grad
        torch.testing.assert_close(
            ours, parameter.grad, rtol=1e-8, atol=1e-11, msg=name
        )


@every
def test_global_hooks_see_every_module(framework):
    seen = []
    for backbone in both(framework, LEAN[framework, 'LoRand']):
        calls = []
        handle = torch.nn.modules.module.register_module_forward_hook(
            lambda module, args, out, calls=calls: calls.append(type(module))
        )
        loss(backbone, images()).backward()
        handle.remove()
        seen.append(calls)
    assert seen[0] == seen[1]
