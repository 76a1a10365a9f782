"""Hand-written backward passes against autograd of their plain twins."""

import itertools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmlowrank.nn.kernels import attention, functional, products, updates

DOUBLE = torch.float64


def draw(*shape, dtype=DOUBLE):
    return torch.randn(*shape, dtype=dtype).requires_grad_()


def code_inputs(dtype=DOUBLE):
    d, r, m, s = 5, 3, 4, 2
    shapes = [(2, 3, d), (d, r), (r, m), (m,), (m, s)]
    return [draw(*shape, dtype=dtype) for shape in shapes], ()


def attention_inputs(dtype=DOUBLE, masked=True):
    heads, tokens, width = 2, 3, 4
    qkv = draw(4, tokens, 3 * width, dtype=dtype)
    bias = draw(heads, tokens, tokens, dtype=dtype)
    mask = torch.zeros(2, tokens, tokens, dtype=dtype)
    mask[1, 0, 2] = mask[1, 2, 0] = -100.0
    return [qkv, bias], (mask if masked else None, heads, width**-0.5)


def mlp_inputs(dtype=DOUBLE):
    d, m = 4, 6
    shapes = [(2, 3, d), (d,), (d,), (m, d), (m,), (d, m), (d,)]
    return [draw(*shape, dtype=dtype) for shape in shapes], (1e-5,)


def bottleneck_inputs(dtype=DOUBLE, dropout=0.0):
    d, m = 5, 4
    shapes = [(2, 3, d), (m, d), (m,), (d, m), (d,)]
    keep = torch.rand(2, 3, m) >= dropout if dropout else None
    return [draw(*shape, dtype=dtype) for shape in shapes], (keep, dropout)


def update_inputs(dtype=DOUBLE):
    d, r, m = 5, 2, 3
    shapes = [(2, 4, d), (2, 4, 3 * m), (2, r, d), (2, m, r)]
    return [draw(*shape, dtype=dtype) for shape in shapes], (0.5, (0, 2))


FUNCTIONS = {
    'low_rank_update': update_inputs,
    'low_rank_code': code_inputs,
    'window_attention': attention_inputs,
    'window_attention, no mask': lambda dtype=DOUBLE: attention_inputs(
        dtype, masked=False
    ),
    'norm_mlp': mlp_inputs,
    'bottleneck': bottleneck_inputs,
    'bottleneck, dropout': lambda dtype=DOUBLE: bottleneck_inputs(
        dtype, dropout=0.25
    ),
}
every = pytest.mark.parametrize('name', FUNCTIONS)


def pair(name):
    name = name.split(',')[0]
    others = {'window_attention': attention, 'low_rank_update': updates}
    module = others.get(name, functional)
    return getattr(module, name), getattr(module, f'{name}_plain')


@every
def test_gradcheck(name):
    torch.manual_seed(0)
    inputs, rest = FUNCTIONS[name]()
    function, _ = pair(name)
    assert torch.autograd.gradcheck(lambda *x: function(*x, *rest), inputs)


@every
def test_double_backward_goes_through_the_twin(name):
    torch.manual_seed(0)
    inputs, rest = FUNCTIONS[name]()
    function, _ = pair(name)
    assert torch.autograd.gradgradcheck(lambda *x: function(*x, *rest), inputs)


@every
def test_values_equal_the_twin(name):
    torch.manual_seed(0)
    inputs, rest = FUNCTIONS[name](torch.float32)
    function, plain = pair(name)
    ours, theirs = function(*inputs, *rest), plain(*inputs, *rest)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@every
def test_every_choice_of_needed_gradients(name):
    """A frozen tensor gets None, the others what the twin gives."""
    torch.manual_seed(0)
    inputs, rest = FUNCTIONS[name]()
    function, plain = pair(name)
    choices = itertools.product([True, False], repeat=len(inputs))
    for choice in choices:
        for tensor, needed in zip(inputs, choice, strict=True):
            tensor.requires_grad_(needed)
        out = function(*inputs, *rest)
        assert out.requires_grad == any(choice)
        if not any(choice):
            continue
        seed = torch.randn_like(out)
        needed = [t for t, need in zip(inputs, choice, strict=True) if need]
        for ours, theirs in zip(
            torch.autograd.grad(out, needed, seed),
            torch.autograd.grad(plain(*inputs, *rest), needed, seed),
            strict=True,
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@every
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision(name, dtype):
    """Of the type of its inputs, and as near as the twin is."""
    torch.manual_seed(0)
    inputs, rest = FUNCTIONS[name](dtype)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    exact_rest = [
        r.double() if isinstance(r, torch.Tensor) else r for r in rest
    ]
    function, plain = pair(name)
    out, reference = function(*inputs, *rest), plain(*exact, *exact_rest)
    assert out.dtype == dtype
    seed = torch.randn_like(reference)
    grads = torch.autograd.grad(out, inputs, seed.to(dtype))
    references = torch.autograd.grad(reference, exact, seed)
    # bfloat16 keeps 8 bits, float16 11: 5 % of the largest entry.
    for ours, theirs in zip(
        (out, *grads), (reference, *references), strict=True
    ):
        error = (ours.double() - theirs).abs().max()
        assert error <= 0.05 * theirs.abs().max() + 1e-3


@every
def test_autocast_is_as_the_twins(name):
    torch.manual_seed(0)
    inputs, rest = FUNCTIONS[name](torch.float32)
    function, plain = pair(name)
    with torch.autocast('cpu', torch.bfloat16):
        ours, theirs = function(*inputs, *rest), plain(*inputs, *rest)
    seed = torch.randn_like(ours)
    ours_grads = torch.autograd.grad(ours, inputs, seed)
    theirs_grads = torch.autograd.grad(theirs, inputs, seed.to(theirs.dtype))
    for one, other in zip(ours_grads, theirs_grads, strict=True):
        assert one.dtype == torch.float32
        error = (one - other).abs().max()
        assert error <= 0.05 * other.abs().max() + 1e-3


def saved_floats(function, inputs, rest):
    """Return the numbers kept for backward, ``inputs[1:]`` left out."""
    own = {t.untyped_storage().data_ptr() for t in inputs[1:]}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes() // tensor.itemsize
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = function(*inputs, *rest)
    assert out.requires_grad
    return sum(n for place, n in saved.items() if place not in own)


@pytest.mark.parametrize('name', ['low_rank_code', 'norm_mlp', 'bottleneck'])
def test_autocast_keeps_no_copies_of_weights(name):
    (x, *weights), rest = FUNCTIONS[name](torch.float32)
    function, plain = pair(name)
    inputs = [x, *(weight.detach() for weight in weights)]
    with torch.autocast('cpu', torch.bfloat16):
        kept = saved_floats(function, inputs, rest)
        code = len(x.view(-1, x.shape[-1])) * 3  # z of low_rank_code
        assert kept <= x.numel() + code * (name == 'low_rank_code')
        out = function(x, *weights, *rest)
        theirs = plain(x, *weights, *rest)
    # And the backward pass of the backward pass casts as the first does.
    first = [
        torch.autograd.grad(y.float().square().sum(), x, create_graph=True)[0]
        for y in (out, theirs)
    ]
    second = [torch.autograd.grad(g.sum(), weights[-2])[0] for g in first]
    assert second[0].dtype == torch.float32
    error = (second[0] - second[1]).abs().max()
    assert error <= 0.1 * second[1].abs().max() + 1e-2


def test_what_is_kept():
    (x, *others), rest = code_inputs()
    kept = saved_floats(functional.low_rank_code, [x, *others], rest)
    assert kept == x.numel() + 2 * 3 * 3  # x, and x a of rank 3
    (qkv, bias), (_, heads, scale) = attention_inputs()
    kept = saved_floats(
        attention.window_attention, [qkv, bias], (None, heads, scale)
    )
    assert kept == qkv.numel()
    (x, *others), rest = mlp_inputs()
    assert saved_floats(functional.norm_mlp, [x, *others], rest) == x.numel()
    (x, *others), rest = bottleneck_inputs()
    kept = saved_floats(functional.bottleneck, [x, *others], rest)
    assert kept == x.numel()
    (x, *others), rest = bottleneck_inputs(dropout=0.25)
    kept = saved_floats(functional.bottleneck, [x, *others], rest)
    assert kept == x.numel() + 2 * 3 * 4  # and a byte a hidden number
    (x, out, *others), rest = update_inputs()
    kept = saved_floats(updates.low_rank_update, [x, out, *others], rest)
    assert kept == x.numel()


def test_an_update_in_place_is_the_other():
    torch.manual_seed(0)
    (x, out, a, b), rest = update_inputs()
    results = []
    for in_place in (False, True):
        changed = 1 * out
        y = updates.low_rank_update(x, changed, a, b, *rest, in_place)
        assert (y.data_ptr() == changed.data_ptr()) == in_place
        grads = torch.autograd.grad(y.square().sum(), (x, out, a, b))
        results.append((y, *grads))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('fused', [True, False, None])
@pytest.mark.parametrize('masked', [True, False])
def test_fused_attention_is_the_other(fused, masked, monkeypatch):
    """Blocks of windows, two images, every way: values and gradients."""
    monkeypatch.setattr(attention, '_SCORES', 40)
    torch.manual_seed(0)
    (qkv, bias), (mask, *rest) = attention_inputs(masked=masked)
    for needs_bias in (True, False):
        bias.requires_grad_(needs_bias)
        given = [qkv, bias] if needs_bias else [qkv]
        inputs = (qkv, bias, mask, *rest)
        results = []
        for out in (
            attention.window_attention(*inputs, fused),
            attention.window_attention_plain(*inputs),
        ):
            grads = torch.autograd.grad(out.square().sum(), given)
            results.append((out, *grads))
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_fused_attention_is_asked_for(monkeypatch):
    calls = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def spy(*args, **kwargs):
        calls.append(args)
        return fused(*args, **kwargs)

    monkeypatch.setattr(attention.F, 'scaled_dot_product_attention', spy)
    (qkv, bias), rest = attention_inputs(torch.float32)
    attention.window_attention(qkv, bias, *rest, False)
    assert not calls
    for asked in (True, None):
        attention.window_attention(qkv, bias, *rest, asked)
        assert calls.pop()
        calls.clear()
    # Another type of the bias would be rounded.
    attention.window_attention(qkv.bfloat16(), bias, *rest)
    assert not calls


@pytest.fixture
def by_onednn(monkeypatch):
    """Let few rows be enough; returns the products that oneDNN computes."""
    # The locked PyTorch has it: an operator that is gone must not go unseen.
    assert products._is_built()
    calls = []
    long = products._is_long

    def spy(x):
        calls.append(x.shape)
        return long(x)

    monkeypatch.setattr(products, '_FEWEST_ROWS', 1)
    monkeypatch.setattr(products, '_is_long', spy)
    return calls


@pytest.mark.parametrize('shape', [(7, 5), (2, 3, 5), (0, 5)])
@pytest.mark.parametrize('bias', [True, False])
def test_products_are_pytorchs(shape, bias, by_onednn):
    """Up to float32's rounding of a sum of five."""
    torch.manual_seed(0)
    x, weight = torch.randn(*shape), torch.randn(4, 5)
    bias = torch.randn(4) if bias else None
    near = dict(rtol=1e-5, atol=1e-5)
    for w in (weight, weight.t().contiguous().t()):
        stock = torch.nn.functional.linear(x, w, bias)
        ours = products.linear(x, w, bias)
        torch.testing.assert_close(ours, stock, **near)
        ours = products.linear(x, w, bias, gelu=True)
        stock = torch.nn.functional.gelu(stock)
        torch.testing.assert_close(ours, stock, **near)
    assert len(by_onednn) == 4


def test_a_frozen_layer_is_pytorchs(by_onednn):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, requires_grad=True)
    weight, bias = torch.randn(4, 5), torch.randn(4)
    out = products.frozen_linear(x, weight, bias)
    stock = torch.nn.functional.linear(x, weight, bias)
    torch.testing.assert_close(out, stock, rtol=1e-5, atol=1e-5)
    grads = [
        torch.autograd.grad(y.square().sum(), x, create_graph=True)[0]
        for y in (out, stock)
    ]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)
    second = [torch.autograd.grad(g.square().sum(), x)[0] for g in grads]
    torch.testing.assert_close(*second, rtol=1e-4, atol=1e-4)
    assert not out._is_view()  # so that a hook may change it in place


def test_products_step_aside(by_onednn):
    """Where weights train, others look on, or the type is another."""
    x, weight = torch.randn(3, 5), torch.randn(4, 5)
    asked = products.fast(x, weight)
    assert asked
    assert products.frozen_linear(x, weight.requires_grad_(), None) is None
    with torch.no_grad():
        assert products.fast(x, weight)
    weight.requires_grad_(False)
    assert not products.fast(x.double(), weight)
    with torch.autocast('cpu', torch.bfloat16):
        assert products.frozen_linear(x, weight, None) is None
    with FlopCounterMode(display=False) as counter:
        products.linear(x, weight)
    assert counter.get_total_flops() == 2 * 3 * 5 * 4
    with torch.backends.mkldnn.flags(enabled=False):
        assert not products.fast(x, weight)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, x)
        assert products.frozen_linear(dual, weight, None) is None
    seen = []

    def mapped(row):
        seen.append(products.fast(row[None], weight))
        return row.sum()

    torch.func.vmap(mapped)(x)
    assert seen == [False]
