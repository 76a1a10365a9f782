"""The rate that every epoch runs at, against the formulas of the recipes."""

import math

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope
from torch import nn


def build(scheduler: dict, optimizer):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return PARAM_SCHEDULERS.build(
            dict(scheduler),
            default_args=dict(optimizer=optimizer, epoch_length=32),
        )


def used_rates(scheduler: dict, lr: float, epochs: int) -> list[list[float]]:
    """Rates of two parameter groups in each epoch, as the Runner steps."""
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [dict(params=[parameters[0]]), dict(params=[parameters[1]])]
    groups[1]['lr'] = 2 * lr
    wrapper = OptimWrapper(torch.optim.AdamW(groups, lr=lr))
    built = build(scheduler, wrapper)
    # The wrapper's own list has one more, for the log.
    param_groups = wrapper.optimizer.param_groups
    rates = []
    for _ in range(epochs):
        rates.append([group['lr'] for group in param_groups])
        wrapper.step()
        built.step()
    return rates


def cosine(epoch: int, lr: float, epochs: int) -> float:
    """Section 4 of the RLRR specification."""
    t = max(epoch - 1, 0)
    if t < 10:
        return 1e-7 + t * (lr - 1e-7) / 10
    if t < epochs:
        return 1e-8 + (lr - 1e-8) * (1 + math.cos(math.pi * t / epochs)) / 2
    return 1e-8


@pytest.mark.parametrize('epochs', [50, 100])
def test_timm_cosine_in_every_epoch(epochs):
    scheduler = dict(
        type='mmlowrank.TimmCosineLR',
        epochs=epochs,
        warmup_epochs=10,
        warmup_lr=1e-7,
        min_lr=1e-8,
    )
    rates = used_rates(scheduler, 3e-3, epochs + 10)
    for epoch, (first, second) in enumerate(rates):
        assert first == pytest.approx(cosine(epoch, 3e-3, epochs), rel=1e-12)
        assert second == pytest.approx(cosine(epoch, 6e-3, epochs), rel=1e-12)
    first = [pair[0] for pair in rates]
    assert first[0] == first[1] == 1e-7
    assert first[-9:] == [1e-8] * 9
    if epochs == 100:
        assert max(first) == pytest.approx(0.9755 * 3e-3, rel=1e-4)


def test_timm_cosine_without_warm_up_and_nonsense():
    scheduler = dict(type='mmlowrank.TimmCosineLR', epochs=4)
    rates = [pair[0] for pair in used_rates(scheduler, 1.0, 6)]
    half = math.sqrt(0.5)
    assert rates == pytest.approx(
        [1, 1, (1 + half) / 2, 0.5, (1 - half) / 2, 0], abs=1e-12
    )
    with pytest.raises(ValueError, match='less than epochs=4'):
        used_rates(dict(scheduler, warmup_epochs=4), 1.0, 1)


def test_timm_cosine_resumes():
    scheduler = dict(type='mmlowrank.TimmCosineLR', epochs=9, warmup_epochs=3)
    whole = used_rates(scheduler, 1.0, 12)

    def start():
        optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1.0)
        return optimizer, build(scheduler, optimizer)

    optimizer, first = start()
    for _ in range(5):
        optimizer.step()
        first.step()
    resumed, second = start()
    resumed.load_state_dict(optimizer.state_dict())
    second.load_state_dict(first.state_dict())
    for epoch in range(6, 12):
        resumed.step()
        second.step()
        assert resumed.param_groups[0]['lr'] == whole[epoch][0]
