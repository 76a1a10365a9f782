"""Layers under torch.func, forward mode, and odd states of a process."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vmap

from mmlowrank import nn as layers
from mmlowrank.nn.arc import ARCAdapters
from mmlowrank.nn.fact import FacTFactors
from mmlowrank.nn.kernels.autograd import by_hand
from mmlowrank.tuners.swapped import RLRRLinear


class Arc(nn.Module):
    def __init__(self):
        super().__init__()
        self.arc = ARCAdapters(8, 2, 3)

    def forward(self, x):
        return self.arc(x, 1)


class Updated(nn.Module):
    def __init__(self):
        super().__init__()
        self.factors = FacTFactors(8, 12, 2)

    def forward(self, x):
        return self.factors(x, range(0, 3))


class Rescaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 6)
        self.added = RLRRLinear.swap(self.linear)

    def forward(self, x):
        return self.linear(x)


LAYERS = {
    'LoRand': lambda: layers.LoRandAdapter(8, rank=2, init='kaiming'),
    'E3VA': lambda: layers.LowRankAdapter(8, rank=2),
    'E3VA, standard': lambda: layers.StandardAdapter(8, 3),
    'Adapter': lambda: layers.HoulsbyAdapter(8, 4, hidden_dropout=0.0),
    'AdaptFormer': lambda: layers.ParallelBottleneck(8, 4, hidden_dropout=0.0),
    'SSF': lambda: layers.ScaleShift(8),
    'RLRR': Rescaled,
    'ARC': Arc,
    'FacT': Updated,
}
every = pytest.mark.parametrize('name', LAYERS)
CLOSE = dict(rtol=1e-10, atol=1e-12)  # float64


def drawn(name):
    """Return a layer with every tensor off its start, and an input."""
    torch.manual_seed(0)
    layer = LAYERS[name]().double()
    for parameter in layer.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return layer, torch.randn(3, 5, 8, dtype=torch.float64)


@every
def test_gradients_of_functions_of_parameters(name):
    """grad, and a gradient for each sample by vmap."""
    layer, x = drawn(name)
    parameters = {n: p.detach() for n, p in layer.named_parameters()}

    def total(parameters, x):
        return functional_call(layer, parameters, (x,)).square().sum()

    together = grad(total)(parameters, x)
    alone = vmap(grad(total), (None, 0))(parameters, x)
    layer(x).square().sum().backward()
    for n, parameter in layer.named_parameters():
        torch.testing.assert_close(together[n], parameter.grad, **CLOSE)
        torch.testing.assert_close(alone[n].sum(0), parameter.grad, **CLOSE)


@every
def test_forward_mode_and_vmap(name):
    layer, x = drawn(name)
    tangent = torch.randn_like(x)
    out, pushed = jvp(layer, (x,), (tangent,))
    torch.testing.assert_close(out, layer(x), **CLOSE)
    torch.testing.assert_close(vmap(layer)(x), out, **CLOSE)
    with forward_ad.dual_level():
        dual = layer(forward_ad.make_dual(x, tangent))
        torch.testing.assert_close(
            forward_ad.unpack_dual(dual).tangent, pushed, **CLOSE
        )
    # And against reverse mode: <v, J t> = <J^T v, t>.
    x.requires_grad_()
    seed = torch.randn_like(out)
    (pulled,) = torch.autograd.grad(layer(x), x, seed)
    torch.testing.assert_close(
        (pulled * tangent).sum(), (seed * pushed).sum(), **CLOSE
    )


@every
def test_nothing_is_kept_where_no_gradient_is_recorded(name):
    layer, x = drawn(name)
    with torch.no_grad():
        out = layer(x)
    assert out.grad_fn is None
    torch.testing.assert_close(out, layer(x).detach(), **CLOSE)
    layer.requires_grad_(False)
    assert layer(x).grad_fn is None


def test_by_hand_asks_who_is_watching():
    x = torch.ones(2, requires_grad=True)
    assert by_hand(x, None, 3)
    assert not by_hand(x.detach(), None)
    with torch.no_grad():
        assert not by_hand(x)
    seen = []

    def note(y):
        seen.append(by_hand(x, y))
        return y.sum()

    torch.jit.trace(note, x, check_trace=False)
    grad(note)(x.detach())
    torch.export.export(Note(note), (x.detach(),), strict=False)
    torch.compile(note, backend='eager')(x)
    assert len(seen) >= 4 and not any(seen)


class Note(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    'state',
    [
        "torch.set_default_device('meta')",
        'torch.set_default_dtype(torch.float64)',
        'torch.set_grad_enabled(False)',
    ],
)
def test_imports_run_no_operation(state):
    """Whatever a process has set before it imports us."""
    code = (
        f'import torch; {state}\n'
        'import mmlowrank.models, mmlowrank.tuners, mmlowrank.engine\n'
        'from mmlowrank.nn import LoRandAdapter\n'
        'torch.set_default_device("cpu"); torch.set_grad_enabled(True)\n'
        'layer = LoRandAdapter(8, rank=2, init="kaiming").float()\n'
        'layer(torch.ones(2, 8, dtype=torch.float)).sum().backward()\n'
        'assert all(p.grad is not None for p in layer.parameters())\n'
    )
    done = subprocess.run(
        [sys.executable, '-W', 'error::FutureWarning', '-c', code],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
