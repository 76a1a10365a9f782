"""Hand-written backward passes against autograd of their plain twins."""

import itertools

import pytest
import torch

from mmlowrank.nn.kernels import attention, functional

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


FUNCTIONS = {
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
    module = attention if name == 'window_attention' else functional
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
