"""Mona and CoLin in float64 against their formulas, written out."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmlowrank.analysis.measuring import saved_for_backward
from mmlowrank.nn import CoLinAdapter, MonaAdapter
from mmlowrank.tuners import parameter_roles

DOUBLE = torch.float64


def gelu(h):
    return h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))


def mona(layer, x):
    """The adapter with its four convolutions and three skips."""
    mean = x.mean(-1, keepdim=True)
    variance = (x - mean).square().mean(-1, keepdim=True)
    normed = (x - mean) / (variance + layer.norm.eps).sqrt()
    normed = normed * layer.norm.weight + layer.norm.bias
    u = normed * layer.norm_scale + x * layer.input_scale
    h = (u @ layer.down.weight.t() + layer.down.bias).permute(0, 3, 1, 2)
    maps = [
        F.conv2d(h, conv.weight, conv.bias, padding=k // 2, groups=h.shape[1])
        for k, conv in zip((3, 5, 7), layer.depthwise, strict=True)
    ]
    h = h + sum(maps) / 3
    point = layer.pointwise.weight[:, :, None, None]
    h = h + F.conv2d(h, point, layer.pointwise.bias)
    code = gelu(h.permute(0, 2, 3, 1))
    return x + code @ layer.up_t + layer.up_bias


def colin(layer, x):
    """The adapter with a product for each branch, every W formed."""

    def weight(a, b):
        return sum(a @ torch.diag(g) @ b for g in layer.g)

    h = x @ weight(layer.down_a, layer.down_b) + layer.down_bias
    h = h.permute(0, 3, 1, 2)
    conv = layer.depthwise
    mixed = F.conv2d(h, conv.weight, conv.bias, padding=1, groups=h.shape[1])
    s = 1 / (1 + torch.exp(-layer.mix))[:, None, None]
    h = (s * mixed + (1 - s) * h).permute(0, 2, 3, 1)
    return x + gelu(h) @ weight(layer.up_a, layer.up_t) + layer.up_bias


def stirred(layer):
    """Off the start, where scales and mixes are all alike."""
    layer = layer.to(DOUBLE)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return layer


LAYERS = {
    'mona': (lambda **k: MonaAdapter(12, 5, dropout=0.0, **k), mona),
    'colin': (lambda **k: CoLinAdapter(12, 7, rank=3, **k), colin),
    'colin, one branch': (
        lambda **k: CoLinAdapter(9, 4, rank=4, branches=1, **k),
        colin,
    ),
}
every = pytest.mark.parametrize('make, formula', LAYERS.values(), ids=LAYERS)


@every
@pytest.mark.parametrize('size', [(6, 9), (2, 1)])
def test_the_layer_is_its_formula(make, formula, size):
    torch.manual_seed(0)
    layer = stirred(make())
    width = len(layer.up_bias)
    x = torch.randn(2, *size, width, dtype=DOUBLE, requires_grad=True)
    inputs = [x, *layer.parameters()]
    ours, plain = layer(x), formula(layer, x)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)
    code = layer.code(x) @ layer.up_t + layer.up_bias
    torch.testing.assert_close(x + code, plain, rtol=0, atol=1e-12)
    seed = torch.randn_like(ours)
    for one, other in zip(
        torch.autograd.grad(ours, inputs, seed),
        torch.autograd.grad(plain, inputs, seed),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-11)


@every
def test_only_the_input_and_the_code_are_kept(make, formula):
    layer = make()
    x = torch.randn(2, 8, 8, len(layer.up_bias), requires_grad=True)
    with saved_for_backward(layer) as saved:
        layer(x)
    code = layer.code(x)
    assert sum(saved.values()) == 4 * (x.numel() + code.numel())


def test_mona_drops_the_same_in_the_backward_pass():
    torch.manual_seed(0)
    layer = stirred(MonaAdapter(6, 4, dropout=0.5)).train()
    x = torch.randn(2, 5, 5, 6, dtype=DOUBLE)
    torch.manual_seed(1)
    code = layer.code(x)
    kept = (code != 0).to(DOUBLE)
    assert 0.3 < kept.mean() < 0.7
    torch.manual_seed(1)
    grads = torch.autograd.grad(layer(x).square().sum(), layer.parameters())
    plain = gelu_code(layer, x) * kept * 2
    torch.testing.assert_close(code, plain, rtol=0, atol=1e-12)
    y = x + plain @ layer.up_t + layer.up_bias
    for one, other in zip(
        grads,
        torch.autograd.grad(y.square().sum(), layer.parameters()),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    layer.eval()
    assert torch.equal(layer.code(x), layer.code(x))


def gelu_code(layer, x):
    """Return Mona's code without dropout."""
    layer.eval()
    code = layer.code(x)
    layer.train()
    return code


@every
def test_identity_at_the_start_on_request(make, formula):
    x = torch.randn(1, 3, 3, len(make().up_bias))
    assert torch.equal(make(init='identity')(x), x)
    assert not torch.equal(make()(x), x)


def test_mona_starts_as_the_paper_says():
    layer = MonaAdapter(8)
    assert layer.norm_scale.eq(1e-6).all() and layer.input_scale.eq(1).all()
    assert layer.up_t.shape == (64, 8) and layer.dropout == 0.1
    # U(+-1 / sqrt(fan in)), as PyTorch draws both.
    bound = 1 / math.sqrt(64)
    for tensor in (layer.up_t, layer.up_bias):
        assert 0 < tensor.abs().max() <= bound
    assert layer.up_t.std().item() == pytest.approx(
        bound / math.sqrt(3), rel=0.1
    )


def test_colin_starts_from_singular_vectors():
    layer = CoLinAdapter(10, 6, rank=4, branches=3)
    torch.manual_seed(5)
    layer.reset_parameters()
    torch.manual_seed(5)
    for a, b, size, out in (
        (layer.down_a, layer.down_b, 10, 6),
        (layer.up_a, layer.up_t, 6, 10),
    ):
        drawn = [
            nn.init.kaiming_uniform_(torch.empty(size, out), a=math.sqrt(5))
            for _ in range(3)
        ]
        left, values, right = zip(*map(torch.linalg.svd, drawn), strict=True)
        for ours, expected in (
            (a, sum(u[:, :4] for u in left) / 3),
            (b, sum(v[:4] for v in right) / 3),
        ):
            torch.testing.assert_close(ours.detach(), expected)
        torch.rand(out)  # the bias
    # g is that of the up projection, which is drawn last.
    torch.testing.assert_close(
        layer.g.detach(), torch.stack([v[:4] for v in values])
    )
    assert layer.mix.eq(0).all()
    for bias, fan_in in ((layer.down_bias, 10), (layer.up_bias, 6)):
        assert 0 < bias.abs().max() <= 1 / math.sqrt(fan_in)


def orthogonality(layer):
    """The loss, term by term."""
    eye = torch.eye(layer.g.shape[1], dtype=layer.g.dtype)
    total = 0
    for a, b in ((layer.down_a, layer.down_b), (layer.up_a, layer.up_t)):
        for _ in layer.g:
            total = total + torch.linalg.matrix_norm(a.t() @ a - eye) ** 2
            total = total + torch.linalg.matrix_norm(b @ b.t() - eye) ** 2
    return total


def test_orthogonality_is_its_formula():
    torch.manual_seed(0)
    layer = stirred(CoLinAdapter(12, 7, rank=3))
    ours, plain = layer.orthogonality(), orthogonality(layer)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=0)
    factors = [layer.down_a, layer.down_b, layer.up_a, layer.up_t]
    for one, other in zip(
        torch.autograd.grad(ours, factors),
        torch.autograd.grad(plain, factors),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    layer = layer.float()
    with torch.autocast('cpu', torch.bfloat16):
        half = layer.orthogonality()
    assert torch.equal(half, layer.orthogonality())
    with torch.no_grad():
        for factor in factors:
            nn.init.orthogonal_(factor)
    assert layer.orthogonality() < 1e-10


def test_scales_do_not_decay_and_factors_do():
    for layer in (MonaAdapter(6, 4), CoLinAdapter(6, 5, rank=3)):
        roles = parameter_roles(layer)
        scales = {'norm_scale', 'input_scale', 'mix'}
        for name, parameter in layer.named_parameters():
            role = roles[id(parameter)]
            if name in scales or name.startswith('norm.'):
                assert role == 'norm', name
            else:
                assert role == ('bias' if 'bias' in name else 'weight'), name


@pytest.mark.parametrize(
    'make, sentence',
    [
        (lambda: MonaAdapter(8, 0), 'mid_channels >= 1.*mid_channels=0'),
        (lambda: MonaAdapter(8, dropout=1.0), 'dropout < 1.*dropout=1.0'),
        (lambda: MonaAdapter(8, init='zero'), "paper.*init='zero'"),
        (lambda: CoLinAdapter(27), 'between 1 and 27 .* 27 x 100.*rank=28'),
        (lambda: CoLinAdapter(64, 20), 'between 1 and 20 .* 64 x 20'),
        (lambda: CoLinAdapter(64, branches=0), 'branches >= 1.*branches=0'),
        (lambda: CoLinAdapter(64, init='zero'), "paper.*'zero'"),
    ],
)
def test_nonsense_is_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
