"""The fast graph-free trunk against the stock one."""

import pytest
import torch
from swins import FRAMEWORKS, build, images, loss, stir

from mmlowrank.nn import graph_free

every = pytest.mark.parametrize('framework', FRAMEWORKS)
ROWS = {
    'Fixed': {},
    'Partial': {},
    'E3VA': dict(rank=4),
    'E3VA, stacked': dict(rank=4, structure='stacked'),
    'E3VA, trainable reduction': dict(rank=4, reduction='trainable'),
}
rows = pytest.mark.parametrize('row', ROWS)


def make(framework, row, **kwargs):
    torch.manual_seed(0)
    name = f'mmlowrank.Swin{row.split(",")[0]}'
    backbone = build(framework, name, **ROWS[row], **kwargs)
    stir(backbone)
    return backbone


def both(framework, row, **kwargs):
    for trunk in ('fast', 'stock'):
        yield make(framework, row, trunk=trunk, **kwargs)


@pytest.fixture
def calls(monkeypatch):
    """Count the blocks whose attention runs fast."""
    seen = []
    stock = graph_free.window_attention
    monkeypatch.setattr(
        graph_free,
        'window_attention',
        lambda *args: seen.append(1) or stock(*args),
    )
    return seen


@every
@rows
@pytest.mark.parametrize('window_size', [3, 4, 7])
def test_values_and_gradients_are_the_stock_trunks(
    framework, row, window_size, calls
):
    """float64; two images; padded and whole, shifted and lone windows."""
    fast, stock = (
        b.double() for b in both(framework, row, window_size=window_size)
    )
    x = images().double()
    ours, theirs = fast(x), stock(x)
    assert len(calls) == (5 if row == 'Partial' else 6)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    if row == 'Fixed':
        return
    loss(fast, x).backward(), loss(stock, x).backward()
    for name, parameter in stock.named_parameters():
        if parameter.requires_grad:
            ours = fast.get_parameter(name).grad
            torch.testing.assert_close(
                ours, parameter.grad, rtol=1e-8, atol=1e-11, msg=name
            )


@every
@rows
def test_single_precision_differs_by_rounding(framework, row):
    fast, stock = both(framework, row)
    for one, other in zip(fast(images()), stock(images()), strict=True):
        # Normalised features of about 1 after six blocks: 2^-23 = 1e-7.
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@every
@pytest.mark.parametrize('rate', [0.0, 0.5])
def test_e3va_starts_as_fixed_to_the_bit(framework, rate):
    """Also where stochastic depth drops the same branches of both."""
    outs = []
    for name in ('mmlowrank.SwinE3VA', 'mmlowrank.SwinFixed'):
        torch.manual_seed(0)
        backbone = build(
            framework, name, drop_path_rate=rate, stochastic_trunk=True
        )
        backbone.train()
        torch.manual_seed(7)
        outs.append(backbone(images()))
    for one, other in zip(*outs, strict=True):
        assert torch.equal(one, other)


@every
@pytest.mark.parametrize('size', [(61, 45), (96, 40)])
def test_any_image_size(framework, size):
    """Maps of odd sizes, padded in windows and in patch merging."""
    fast, stock = (b.double() for b in both(framework, 'E3VA'))
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    for one, other in zip(fast(x), stock(x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_small_maps_as_mmpretrain_classifies_them():
    """It does not shift the windows of a map that is one window."""
    options = dict(window_size=4, pad_small_map=False, out_indices=(0, 1, 2))
    options['arch'] = dict(
        embed_dims=16, depths=(2, 2, 2), num_heads=(1, 2, 2)
    )
    fast, stock = (b.double() for b in both('mmpretrain', 'Fixed', **options))
    x = images().double()
    for one, other in zip(fast(x), stock(x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@every
def test_the_stock_code_runs_where_it_must(framework, calls):
    x = images()
    backbone = make(framework, 'Fixed')
    loss(backbone, x.clone().requires_grad_()).backward()
    with torch.autocast('cpu', torch.bfloat16):
        backbone(x)
    if framework != 'mmpretrain':
        dropping = make(
            framework, 'Fixed', attn_drop_rate=0.3, stochastic_trunk=True
        )
        dropping.train()
        dropping(x)
    with torch.no_grad():
        backbone(x)
    assert not calls


@pytest.mark.parametrize('name', ['Fixed', 'Partial', 'E3VA'])
def test_unknown_trunk_is_refused(name):
    with pytest.raises(ValueError, match="'fast' or 'stock', got 'quick'"):
        build('mmdet', f'mmlowrank.Swin{name}', trunk='quick')
