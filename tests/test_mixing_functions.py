"""Mixing: hand-written backward passes against their plain twins."""

import io
import itertools

import pytest
import torch
from torch.autograd import forward_ad

from mmlowrank.nn.mixing import adaptive_mixing, adaptive_mixing_plain
from mmlowrank.nn.mixing_matrices import (
    CastOnce,
    MixingSizes,
    generate_mixing,
    generate_mixing_plain,
)

DOUBLE = torch.float64
QUERIES = 4


def draw(*shape, dtype=DOUBLE):
    return torch.randn(*shape, dtype=dtype).requires_grad_()


def generate_inputs(dtype=DOUBLE, terms=2, shared=True, bias=True):
    groups, channels, points, outs = sizes = MixingSizes(2, 3, 2, 4)
    rank, dims = 2, 3
    tensors = [
        draw(QUERIES, dims, dtype=dtype),
        draw(sizes.rows, dims, dtype=dtype) if shared else None,
        draw(sizes.rows, dtype=dtype) if shared and bias else None,
    ]
    if not terms:
        return [*tensors, *[None] * 5], (sizes,)
    factors = [
        (QUERIES, 2 * groups * terms * rank**2),
        (groups, terms, channels, rank),
        (groups, terms, rank, channels),
        (groups, terms, points, rank),
        (groups, terms, rank, outs),
    ]
    return [*tensors, *(draw(*s, dtype=dtype) for s in factors)], (sizes,)


def mixing_inputs(dtype=DOUBLE, rank=2, bias=True):
    groups, channels, points, outs = MixingSizes(2, 3, 2, 4)
    out, width = 5, groups * channels * outs
    shapes = [
        (groups, QUERIES, points, channels),
        (groups, QUERIES, channels, channels),
        (groups, QUERIES, points, outs),
        (out, width),
        (out,) if bias else None,
        (width, rank) if rank else None,
        (rank, out) if rank else None,
    ]
    tensors = [s and draw(*s, dtype=dtype) for s in shapes]
    return tensors, (1e-5,)


GENERATE = (generate_mixing, generate_mixing_plain, generate_inputs)
MIXING = (adaptive_mixing, adaptive_mixing_plain, mixing_inputs)
FUNCTIONS = {
    'generate': (*GENERATE, {}),
    'generate, no bias': (*GENERATE, dict(bias=False)),
    'generate, shared only': (*GENERATE, dict(terms=0)),
    'generate, private only': (*GENERATE, dict(shared=False)),
    'mixing': (*MIXING, {}),
    'mixing, no bias': (*MIXING, dict(bias=False)),
    'mixing, plain projection': (*MIXING, dict(rank=0)),
}
every = pytest.mark.parametrize('name', FUNCTIONS)


def both(name, dtype=DOUBLE):
    """Return the function, its twin and inputs; None are bound."""
    torch.manual_seed(0)
    function, plain, make, options = FUNCTIONS[name]
    tensors, rest = make(dtype, **options)

    def bound(which):
        def call(*given):
            given = iter(given)
            filled = [None if t is None else next(given) for t in tensors]
            out = which(*filled, *rest)
            return out if isinstance(out, tuple) else (out,)

        return call

    inputs = [t for t in tensors if t is not None]
    if name == 'generate, private only':
        # Its E come from a layer outside: the query is not read.
        inputs[0].requires_grad_(False)
    return bound(function), bound(plain), inputs


@every
def test_gradcheck(name):
    function, _, inputs = both(name)
    assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True)


@every
def test_double_backward_goes_through_the_twin(name):
    function, _, inputs = both(name)
    assert torch.autograd.gradgradcheck(function, inputs)


@every
def test_every_choice_of_needed_gradients(name):
    function, plain, inputs = both(name)
    trained = [t for t in inputs if t.requires_grad]
    for choice in itertools.product([True, False], repeat=len(trained)):
        if not any(choice):
            continue
        for tensor, needed in zip(trained, choice, strict=True):
            tensor.requires_grad_(needed)
        needed = list(itertools.compress(trained, choice))
        ours, theirs = function(*inputs), plain(*inputs)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
        seeds = [torch.randn_like(out) for out in ours]
        outs = [i for i, out in enumerate(theirs) if out.requires_grad]
        for one, other in zip(
            torch.autograd.grad(
                [ours[i] for i in outs],
                needed,
                [seeds[i] for i in outs],
                allow_unused=True,
            ),
            torch.autograd.grad(
                [theirs[i] for i in outs],
                needed,
                [seeds[i] for i in outs],
                allow_unused=True,
            ),
            strict=True,
        ):
            # float64 sums in another order.
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@every
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_is_as_near_as_the_twin(name, dtype):
    function, plain, inputs = both(name, torch.float32)
    exact_inputs = [
        t.detach().double().requires_grad_(t.requires_grad) for t in inputs
    ]
    exact = plain(*exact_inputs)
    with torch.autocast('cpu', dtype):
        ours = function(*inputs)
    seeds = [torch.randn_like(out) for out in exact]
    trained = [t for t in inputs if t.requires_grad]
    grads = torch.autograd.grad(ours, trained, [s.to(dtype) for s in seeds])
    references = torch.autograd.grad(
        exact, [t for t in exact_inputs if t.requires_grad], seeds
    )
    assert {out.dtype for out in ours} == {dtype}
    assert {grad.dtype for grad in grads} == {torch.float32}
    # bfloat16 keeps 8 bits, float16 11: 5 % of the largest entry; twice as
    # much behind two normalisations.
    share = 0.1 if name.startswith('mixing') else 0.05
    for one, other in zip((*ours, *grads), (*exact, *references), strict=True):
        error = (one.double() - other).abs().max()
        assert error <= share * other.abs().max() + 1e-3


def saved_numbers(function, inputs):
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes() // tensor.itemsize
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        function(*inputs)
    return sum(saved.values())


@every
def test_only_inputs_are_kept(name):
    function, plain, inputs = both(name)
    # All of them but, for the mixing, the bias; and E of private matrices.
    assert saved_numbers(function, inputs) <= sum(t.numel() for t in inputs)
    if name.startswith('mixing'):
        assert saved_numbers(plain, inputs) > sum(t.numel() for t in inputs)


@every
def test_inference_is_the_forward_pass_of_training(name):
    function, _, inputs = both(name)
    trained = function(*inputs)
    with torch.no_grad():
        inferred = function(*inputs)
    frozen = function(*(t.detach() for t in inputs))
    for one, *others in zip(trained, inferred, frozen, strict=True):
        assert all(torch.equal(one, other) for other in others)
        assert not any(other.requires_grad for other in others)


@torch.no_grad()
def test_forward_mode_without_gradients_equals_the_twin():
    for name in FUNCTIONS:
        function, plain, inputs = both(name)
        with forward_ad.dual_level():
            duals = [
                forward_ad.make_dual(t, torch.randn_like(t)) for t in inputs
            ]
            for pair in zip(function(*duals), plain(*duals), strict=True):
                close(*map(forward_ad.unpack_dual, pair))


@every
@pytest.mark.parametrize('grad', [True, False])
def test_a_trace_can_be_saved(name, grad):
    function, _, inputs = both(name)
    file = io.BytesIO()
    with torch.set_grad_enabled(grad):
        torch.jit.save(torch.jit.trace(function, inputs), file)
        file.seek(0)
        traced = torch.jit.load(file)
        # Of other inputs, so that nothing has become a constant.
        inputs = [t.detach().flip(0).requires_grad_() for t in inputs]
        close(traced(*inputs), function(*inputs))


@every
def test_transforms_equal_those_of_the_twin(name):
    function, plain, inputs = both(name)
    inputs = tuple(t.detach() for t in inputs)
    tangents = tuple(map(torch.randn_like, inputs))
    pairs = [torch.stack(pair) for pair in zip(inputs, tangents, strict=True)]

    def of(which):
        def total(*given):
            return sum(out.sin().sum() for out in which(*given))

        every = tuple(range(len(inputs)))
        return (
            *torch.func.jvp(which, inputs, tangents),
            torch.func.grad(total, every)(*inputs),
            torch.func.vmap(which)(*pairs),
            torch.func.vmap(torch.func.grad(total, every))(*pairs),
        )

    close(of(function), of(plain))


@every
def test_compiled_equals_eager(name):
    function, _, inputs = both(name)
    trained = [t for t in inputs if t.requires_grad]
    torch.compiler.reset()
    compiled = torch.compile(function, backend='aot_eager', fullgraph=True)
    results = []
    for which in (compiled, function):
        outs = which(*inputs)
        total = sum(out.sin().sum() for out in outs)
        results.append([*outs, *torch.autograd.grad(total, trained)])
    close(*results)


def close(one, other):
    """Check that they are equal but for the order of float64 sums."""
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_shared_tensors_are_cast_once():
    weight = draw(3, dtype=torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        cast = CastOnce()
        first = cast(weight)
        assert first.dtype == torch.bfloat16
        assert cast(weight) is first
        assert cast(None) is None
    assert CastOnce()(weight) is weight
