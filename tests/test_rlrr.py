"""RLRR and SSF in float64, against the written-out formulas."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from test_functional import saved_floats
from torch import nn

from mmlowrank.nn import ScaleShift, rescaled
from mmlowrank.tuners.swapped import (
    RLRRLinear,
    SSFConv2d,
    SSFLayerNorm,
    SSFLinear,
)

DOUBLE = torch.float64
OUT, IN = 6, 5
# Left groups, whether there is a right scale, residual, bias.
FORMS = {
    'both': (1, True, True, True),
    'both, grouped': (3, True, True, True),
    'left only': (1, False, True, True),
    'left only, grouped': (3, False, True, True),
    'right only': (0, True, True, True),
    'both, no residual': (1, True, False, True),
    'both, grouped, no residual': (3, True, False, True),
    'left only, no residual': (1, False, False, True),
    'right only, no residual': (0, True, False, True),
    'both, no bias': (1, True, True, False),
}
forms = pytest.mark.parametrize('form', FORMS.values(), ids=FORMS)


def inputs_of(form, dtype=DOUBLE):
    """Return (x, weight, bias, left, right, shift) and the residual."""
    groups, right, residual, bias = form
    torch.manual_seed(0)
    shapes = [
        (2, 3, IN),
        (OUT, IN),
        (OUT,) if bias else None,
        (groups, IN) if groups else None,
        (OUT, 1) if right else None,
        (1, OUT),
    ]
    return [
        shape and torch.randn(*shape, dtype=dtype).requires_grad_()
        for shape in shapes
    ], residual


def tensors(inputs):
    return [t for t in inputs if t is not None]


def calling(function, inputs, residual):
    """Return ``function`` of the given tensors among ``inputs`` only."""

    def call(*given):
        given = iter(given)
        every = [None if t is None else next(given) for t in inputs]
        return function(*every, residual)

    return call


def written_out(x, weight, bias, left, right, shift, residual):
    """Equation 16, entry by entry."""
    changed = torch.empty_like(weight)
    for i, j in itertools.product(range(OUT), range(IN)):
        mask = 1.0
        if left is not None:
            mask = mask * left[i * left.shape[0] // OUT, j]
        if right is not None:
            mask = mask * right[i, 0]
        changed[i, j] = weight[i, j] * (mask + 1 if residual else mask)
    y = x @ changed.t() + shift[0]
    return y if bias is None else y + bias


@forms
def test_values_and_gradients_are_the_formulas(form):
    inputs, residual = inputs_of(form)
    ours = rescaled.rescaled_linear(*inputs, residual)
    twin = rescaled.rescaled_linear_plain(*inputs, residual)
    formula = written_out(*inputs, residual)
    seed = torch.randn_like(formula)
    expected = torch.autograd.grad(formula, tensors(inputs), seed)
    for out in (ours, twin):
        torch.testing.assert_close(out, formula, rtol=0, atol=1e-13)
        grads = torch.autograd.grad(out, tensors(inputs), seed)
        for one, other in zip(grads, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@forms
def test_gradcheck(form):
    inputs, residual = inputs_of(form)
    call = calling(rescaled.rescaled_linear, inputs, residual)
    assert torch.autograd.gradcheck(call, tensors(inputs))
    assert torch.autograd.gradgradcheck(call, tensors(inputs))


@forms
def test_gradcheck_of_the_weight_alone(form):
    (_, weight, _, left, right, _), residual = inputs_of(form)
    inputs = [weight, left, right]
    call = calling(rescaled.rescaled_weight, inputs, residual)
    assert torch.autograd.gradcheck(call, tensors(inputs))
    assert torch.autograd.gradgradcheck(call, tensors(inputs))
    plain = calling(rescaled.rescaled_weight_plain, inputs, residual)
    torch.testing.assert_close(
        call(*tensors(inputs)), plain(*tensors(inputs)), rtol=0, atol=1e-14
    )


@forms
def test_every_choice_of_needed_gradients(form):
    inputs, residual = inputs_of(form)
    given = tensors(inputs)
    for choice in itertools.product([True, False], repeat=len(given)):
        for tensor, needed in zip(given, choice, strict=True):
            tensor.requires_grad_(needed)
        out = rescaled.rescaled_linear(*inputs, residual)
        assert out.requires_grad == any(choice)
        if not any(choice):
            continue
        out.sum().backward()
        for tensor, needed in zip(given, choice, strict=True):
            assert (tensor.grad is not None) == needed
        needed = [t for t, need in zip(given, choice, strict=True) if need]
        plain = rescaled.rescaled_linear_plain(*inputs, residual)
        for tensor, grad in zip(
            needed, torch.autograd.grad(plain.sum(), needed), strict=True
        ):
            torch.testing.assert_close(tensor.grad, grad)
            tensor.grad = None


@forms
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision(form, dtype):
    """In the type of its inputs, and near the exact values."""
    inputs, residual = inputs_of(form, dtype)
    exact = [t if t is None else t.detach().double() for t in inputs]
    for tensor in tensors(exact):
        tensor.requires_grad_()
    out = rescaled.rescaled_linear(*inputs, residual)
    reference = rescaled.rescaled_linear_plain(*exact, residual)
    assert out.dtype == dtype
    seed = torch.randn_like(reference)
    grads = torch.autograd.grad(out, tensors(inputs), seed.to(dtype))
    references = torch.autograd.grad(reference, tensors(exact), seed)
    # bfloat16 keeps 8 bits, float16 11: 5 % of the largest entry.
    for one, other in zip(
        (out, *grads), (reference, *references), strict=True
    ):
        error = (one.double() - other).abs().max()
        assert error <= 0.05 * other.abs().max() + 1e-3


@forms
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('backward_inside', [True, False])
def test_autocast(form, dtype, backward_inside):
    """Products in the half type, gradients of the tuner in float32."""
    inputs, residual = inputs_of(form, torch.float32)
    seed = torch.randn(2, 3, OUT)
    plain = rescaled.rescaled_linear_plain(*inputs, residual)
    references = torch.autograd.grad(plain, tensors(inputs), seed)
    with torch.autocast('cpu', dtype):
        out = rescaled.rescaled_linear(*inputs, residual)
        assert out.dtype == dtype
        if backward_inside:
            grads = torch.autograd.grad(out, tensors(inputs), seed.to(dtype))
    if not backward_inside:
        grads = torch.autograd.grad(out, tensors(inputs), seed.to(dtype))
    for one, other in zip(grads, references, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).abs().max() <= 0.05 * other.abs().max() + 1e-3


def test_only_x_is_kept():
    (x, *rest), residual = inputs_of(FORMS['both, grouped'])
    x = x.repeat(7, 1, 1)
    kept = saved_floats(rescaled.rescaled_linear, [x, *rest], (residual,))
    assert kept == x.numel()
    (_, weight, _, left, right, _), residual = inputs_of(FORMS['both'])
    scales = [weight.new_zeros(1).requires_grad_(), weight, left, right]
    assert not saved_floats(
        lambda _, *given: rescaled.rescaled_weight(*given, residual),
        scales,
        (),
    )


def test_swap_keeps_the_layer():
    torch.manual_seed(0)
    linear = nn.Linear(IN, OUT)
    before = dict(linear.named_parameters())
    added = RLRRLinear.swap(linear, groups=3)
    assert isinstance(linear, RLRRLinear)
    assert list(linear.state_dict()) == ['weight', 'bias']
    assert all(linear.get_parameter(n) is p for n, p in before.items())
    assert linear.scale_left.shape == (3, IN)
    assert linear.scale_right.shape == (OUT, 1)
    assert linear.shift.shape == (1, OUT)
    assert [*added.state_dict()] == ['scale_left', 'scale_right', 'shift']
    # A copy refers to the copy of what is added.
    both = nn.ModuleList([linear, added])
    twin = copy.deepcopy(both)
    assert twin[0].added is twin[1] is not added


@pytest.mark.parametrize('residual', [True, False])
@pytest.mark.parametrize('sides', [('left', 'right'), ('left',), ('right',)])
def test_identity_starts_as_the_frozen_layer_and_leaves_it(sides, residual):
    torch.manual_seed(0)
    linear, x = nn.Linear(IN, OUT), torch.randn(4, IN)
    plain = linear(x)
    added = RLRRLinear.swap(
        linear, sides=sides, residual=residual, init='identity'
    )
    assert torch.equal(linear(x), plain)
    before = {n: p.detach().clone() for n, p in added.named_parameters()}
    optimizer = torch.optim.SGD(added.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        linear(x).square().sum().backward()
        optimizer.step()
    for name, value in added.named_parameters():
        assert not torch.equal(value, before[name]), name


@torch.no_grad()
def test_the_papers_start():
    """Bounds of the draws, and the perturbation the spec derives."""
    torch.manual_seed(0)
    linear = nn.Linear(768, 3072)
    added = RLRRLinear.swap(linear)
    # The largest of many uniform draws is near the bound.
    assert 0.99 < added.scale_left.abs().max() / 0.08839 <= 1.001
    assert 0.99 < added.scale_right.abs().max() / 2.4495 <= 1.001
    assert not added.shift.any()
    moved = (linear.effective()[0] - linear.weight) / linear.weight
    # 2 / sqrt(768) = 0.0722; c and r are 3840 draws.
    assert moved.square().mean().sqrt() == pytest.approx(0.0722, rel=0.1)
    added = RLRRLinear.swap(nn.Linear(768, 768), residual=False)
    for scale in (added.scale_left, added.scale_right):
        assert scale.mean() == pytest.approx(1, abs=0.005)
        assert scale.std() == pytest.approx(0.02, rel=0.2)
    assert added.shift.std() == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(sides=()), 'sides must be'),
        (dict(sides='left'), 'sides must be'),
        (dict(sides=('top',)), 'sides must be'),
        (dict(init='zeros'), "'paper', 'identity'"),
        (dict(groups=0), 'groups=0'),
        (dict(groups=4), 'groups=4 must divide the 6 rows'),
    ],
)
def test_nonsense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RLRRLinear.swap(nn.Linear(IN, OUT), **options)


def test_other_layers_are_refused():
    linear = nn.Linear(IN, OUT)
    RLRRLinear.swap(linear)
    with pytest.raises(TypeError, match='got RLRRLinear'):
        RLRRLinear.swap(linear)
    with pytest.raises(TypeError, match='got Conv2d'):
        RLRRLinear.swap(nn.Conv2d(3, 3, 1))
    with pytest.raises(TypeError, match='takes the place of a LayerNorm'):
        SSFLayerNorm.swap(linear)
    with pytest.raises(TypeError, match='has no weight'):
        SSFLayerNorm.swap(nn.LayerNorm(3, elementwise_affine=False))
    with pytest.raises(ValueError, match='SSF init'):
        ScaleShift(3, init='zeros')


SSF_LAYERS = {
    'norm': (SSFLayerNorm, lambda: nn.LayerNorm(4), (2, 3, 4), -1),
    'linear': (SSFLinear, lambda: nn.Linear(4, 5), (2, 3, 4), -1),
    'linear, no bias': (
        SSFLinear,
        lambda: nn.Linear(4, 5, bias=False),
        (2, 3, 4),
        -1,
    ),
    'conv': (SSFConv2d, lambda: nn.Conv2d(3, 5, 2, 2), (2, 3, 4, 4), 1),
}


@pytest.mark.parametrize('case', SSF_LAYERS.values(), ids=SSF_LAYERS)
def test_ssf_is_a_scale_and_a_shift_behind_the_layer(case):
    kind, make, shape, dim = case
    torch.manual_seed(0)
    layer = make().to(DOUBLE)
    nn.init.normal_(layer.weight)
    reference = copy.deepcopy(layer)
    added = kind.swap(layer)
    assert added.scale.dtype == DOUBLE
    x = torch.randn(*shape, dtype=DOUBLE, requires_grad=True)
    view = [1] * len(shape)
    view[dim] = -1
    expected = reference(x) * added.scale.view(view) + added.shift.view(view)
    out, seed = layer(x), torch.randn_like(expected)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-13)
    inputs = [x, added.scale, added.shift]
    for one, other in zip(
        torch.autograd.grad(out, inputs, seed),
        torch.autograd.grad(expected, inputs, seed),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    # The stock layer with the effective tensors computes the same.
    weight, bias = layer.effective()
    if isinstance(layer, nn.Conv2d):
        folded = F.conv2d(x, weight, bias, 2)
    elif isinstance(layer, nn.Linear):
        folded = F.linear(x, weight, bias)
    else:
        folded = F.layer_norm(x, (4,), weight, bias, layer.eps)
    torch.testing.assert_close(folded, expected, rtol=0, atol=1e-13)


@torch.no_grad()
def test_ssf_starts():
    torch.manual_seed(0)
    paper, identity = ScaleShift(4000), ScaleShift(3, init='identity')
    assert paper.scale.mean() == pytest.approx(1, abs=0.002)
    assert paper.scale.std() == pytest.approx(0.02, rel=0.05)
    assert paper.shift.mean() == pytest.approx(0, abs=0.002)
    assert paper.shift.std() == pytest.approx(0.02, rel=0.05)
    x = torch.randn(2, 3)
    assert torch.equal(identity(x), x)


def test_the_folded_norm_does_not_keep_its_unscaled_output():
    torch.manual_seed(0)
    norm = nn.LayerNorm(4)
    added = SSFLayerNorm.swap(norm)
    x = torch.randn(50, 4, requires_grad=True)
    own = [norm.weight, norm.bias, added.scale, added.shift]
    kept = saved_floats(lambda x, *_: norm(x), [x, *own], ())
    # x, mean and 1 / deviation of each token, the folded affine map.
    assert kept <= x.numel() + 2 * 50 + 2 * 4
