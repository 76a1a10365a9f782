"""The lean trunk: the stock trunk's values and gradients for fewer bytes."""

import pytest
import torch
from swins import FRAMEWORKS, build, images, loss, stir
from test_tuner_contract import TRAINING

from mmlowrank.analysis.measuring import saved_for_backward
from mmlowrank.tuners.lean import ThroughTrunk

every = pytest.mark.parametrize('framework', FRAMEWORKS)
LEAN = {
    name: row
    for name, row in TRAINING.items()
    if row[0].split('Swin')[1]
    in {'LoRand', 'Adapter', 'AdaptFormer', 'LoRA', 'BitFit', 'NormTuning'}
}
rows = pytest.mark.parametrize('row', LEAN.values(), ids=LEAN)


def both(framework, row, **kwargs):
    for memory in ('lean', 'stock'):
        torch.manual_seed(0)
        backbone = build(
            framework, row[0], **dict(row[1], memory=memory, **kwargs)
        )
        assert isinstance(backbone.tuner, ThroughTrunk)
        stir(backbone)
        yield backbone


@every
@rows
def test_values_and_gradients_are_the_stock_trunks(framework, row):
    """float64, 64 px with windows of 3: padding and masks are at work."""
    lean, stock = (b.double() for b in both(framework, row, window_size=3))
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


@every
@rows
def test_fewer_bytes_are_kept(framework, row):
    kept = []
    for backbone in both(framework, row):
        with saved_for_backward(backbone) as saved:
            loss(backbone, images())
        kept.append(sum(saved.values()))
    # The tiny maps of the tests leave less to win than real ones.
    assert kept[0] < 0.85 * kept[1]


@every
def test_without_gradients_the_stock_code_runs(framework):
    row = LEAN['LoRand']
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
    lean, stock = both(framework, LEAN['LoRand'], **extra)
    lean.train(), stock.train()
    torch.manual_seed(5)
    one = loss(lean, images())
    torch.manual_seed(5)
    other = loss(stock, images())
    torch.testing.assert_close(one, other)


def test_unknown_memory_is_refused():
    with pytest.raises(ValueError, match="'lean' or 'stock'"):
        build('mmdet', 'mmlowrank.SwinLoRand', rank=4, memory='small')
