"""The mathematics in float64, against the papers' written-out equations."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmlowrank.analysis.measuring import saved_for_backward
from mmlowrank.nn import HoulsbyAdapter, LoRandAdapter, ParallelBottleneck

DOUBLE = torch.float64


def formed(layer, x):
    """LoRand, equations 6 and 9 to 11, with every W written out."""

    def weight(P, K, Q):
        return sum(P[i].t() @ K[i] @ Q[i] for i in range(layer.branches))

    down_K = layer.K if layer.share_kernel else layer.down_K
    up_K = layer.K if layer.share_kernel else layer.up_K
    down = weight(layer.down_P, down_K, layer.down_Q)
    up = weight(layer.up_P, up_K, layer.up_Q)
    h = x @ down + layer.down_bias
    h = h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))
    return x + h @ up + layer.up_bias


@pytest.mark.parametrize('share_kernel', [True, False])
@pytest.mark.parametrize(
    'dims, mid, branches, rank', [(12, None, 2, 3), (9, 5, 4, 2), (8, 8, 1, 8)]
)
def test_lorand_equals_the_formed_weights(
    dims, mid, branches, rank, share_kernel
):
    torch.manual_seed(0)
    layer = LoRandAdapter(
        dims, mid, branches, rank, share_kernel, init='kaiming'
    )
    layer = layer.to(DOUBLE)
    x = torch.randn(2, 7, dims, dtype=DOUBLE, requires_grad=True)
    inputs = [x, *layer.parameters()]
    fast, plain = layer(x), formed(layer, x)
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-13)
    seed = torch.randn_like(fast)
    for ours, theirs in zip(
        torch.autograd.grad(fast, inputs, seed),
        torch.autograd.grad(plain, inputs, seed),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_lorand_gradcheck():
    torch.manual_seed(0)
    layer = LoRandAdapter(6, 4, branches=2, rank=2, init='kaiming').to(DOUBLE)
    names = [name for name, _ in layer.named_parameters()]
    values = [p.detach().requires_grad_() for p in layer.parameters()]
    x = torch.randn(3, 6, dtype=DOUBLE, requires_grad=True)

    def function(x, *values):
        named = dict(zip(names, values, strict=True))
        return torch.func.functional_call(layer, named, (x,))

    assert torch.autograd.gradcheck(function, (x, *values))


def test_lorand_counts_equation_14_plus_biases():
    m, n, branches, rank = 32, 16, 4, 8
    count = sum(
        p.numel() for p in LoRandAdapter(m, n, branches, rank).parameters()
    )
    assert count == 2 * branches * rank * (m + n + rank / 2) + m + n


def test_lorand_is_the_identity_at_start_and_can_leave_it():
    torch.manual_seed(0)
    layer = LoRandAdapter(16, rank=4)
    x = torch.randn(5, 16)
    assert torch.equal(layer(x), x)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    before = {n: p.detach().clone() for n, p in layer.named_parameters()}
    # The zeroed factor moves first; all others follow.
    for _ in range(3):
        optimizer.zero_grad()
        (layer(x) - 1).square().mean().backward()
        optimizer.step()
    for name, parameter in layer.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_lorand_kaiming_starts_near_the_identity():
    """The spec's measurement: a branch of 5 to 12 % of the input's rms."""
    torch.manual_seed(0)
    for width in (128, 256, 512, 1024):
        layer = LoRandAdapter(width, init='kaiming')
        nn.init.zeros_(layer.up_bias), nn.init.zeros_(layer.down_bias)
        x = torch.randn(256, width)
        ratio = ((layer(x) - x).square().mean() / x.square().mean()).sqrt()
        assert 0 < ratio < 0.12


def test_lorand_keeps_few_numbers_for_backward():
    """The input and two codes of rank 8; not the hidden vector, not W."""
    layer, tokens = LoRandAdapter(64, rank=4), 100
    parameters = {p.data_ptr() for p in layer.parameters()}
    saved = {}

    def pack(tensor):
        if tensor.data_ptr() not in parameters:
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = torch.randn(tokens, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        layer(x)
    # The folded K Q are 8 x 32 and 8 x 64 and have no token axis.
    assert sum(saved.values()) <= 4 * (tokens * (64 + 8 + 8) + 8 * (32 + 64))


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(branches=0), 'branches=0'),
        (dict(rank=0), 'rank=0'),
        (dict(rank=-1), 'rank=-1'),
        (dict(rank=17), 'rank of at most 16'),
        (dict(mid_channels=0), 'mid_channels=0'),
        (dict(mid_channels=4, rank=8), 'rank of at most 4'),
        (dict(init='zeros'), "'identity' or 'kaiming'"),
    ],
)
def test_lorand_refuses_nonsense(arguments, message):
    with pytest.raises(ValueError, match=message):
        LoRandAdapter(32, **arguments)


def test_adapter_equals_equation_6():
    torch.manual_seed(0)
    layer = HoulsbyAdapter(10, 4, hidden_dropout=0.0).to(DOUBLE)
    nn.init.normal_(layer.up.weight)
    x = torch.randn(3, 10, dtype=DOUBLE)
    h = F.linear(x, layer.down.weight, layer.down.bias)
    h = h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))
    expected = x + F.linear(h, layer.up.weight, layer.up.bias)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-14)


def test_adapter_drops_the_hidden_vector_in_training_only():
    torch.manual_seed(0)
    layer = HoulsbyAdapter(32, hidden_dropout=0.5)
    nn.init.normal_(layer.up.weight)
    x = torch.randn(4, 32)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


@pytest.mark.parametrize('layer_type', [HoulsbyAdapter, ParallelBottleneck])
def test_hidden_dropout_zeroes_its_share_and_scales_the_rest(layer_type):
    """With U = 1 and a hidden vector of ones, an output counts them."""
    torch.manual_seed(0)
    mid, rate = 1000, 0.2
    layer = layer_type(4, mid, hidden_dropout=rate)
    with torch.no_grad():
        layer.down.weight.zero_()
        layer.down.bias.fill_(100.0)  # GELU(100) is 100 in float32
        layer.up.weight.fill_(0.01)
    counts = layer(torch.zeros(50, 4)) * (1 - rate)
    counts = counts / getattr(layer, 'scale', 1.0)
    assert torch.equal(counts.round(), counts.round()[:, :1].expand(-1, 4))
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-2)
    # 50 000 draws: three standard deviations are 0.54 % of them.
    assert abs(counts.mean() / mid - (1 - rate)) < 0.0054


@pytest.mark.parametrize('layer_type', [HoulsbyAdapter, ParallelBottleneck])
@pytest.mark.parametrize('rate', [0.0, 0.1])
def test_bottlenecks_keep_their_input_and_a_byte_mask(layer_type, rate):
    layer = layer_type(32, 16, hidden_dropout=rate)
    x = torch.randn(2, 7, 32, requires_grad=True)
    with saved_for_backward(layer) as saved:
        layer(x)
    mask = 2 * 7 * 16 if rate else 0
    assert sum(saved.values()) == 4 * x.numel() + mask


@pytest.mark.parametrize('layer_type', [HoulsbyAdapter, ParallelBottleneck])
@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(mid_channels=0), 'mid_channels >= 1, got 0'),
        (dict(mid_channels=4, hidden_dropout=1.0), 'hidden_dropout < 1'),
        (dict(mid_channels=4, hidden_dropout=-0.1), '0 <= hidden_dropout'),
    ],
)
def test_bottlenecks_refuse_nonsense(layer_type, arguments, message):
    with pytest.raises(ValueError, match=f'{layer_type.__name__}.*{message}'):
        layer_type(32, **arguments)
