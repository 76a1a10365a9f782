"""The moving average of what trains."""

import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import MODELS
from swins import build, images, loss, stir


def trained(backbone, average, steps=3):
    optimizer = torch.optim.SGD(
        [p for p in backbone.parameters() if p.requires_grad], 0.1
    )
    for step in range(steps):
        optimizer.zero_grad()
        loss(backbone, images(seed=step)).backward()
        optimizer.step()
        average.update_parameters(backbone)


def test_it_is_the_average_of_mmengine(tmp_path):
    averages = []
    for kind in (ExponentialMovingAverage, MODELS.get('mmlowrank.TrainedEMA')):
        torch.manual_seed(0)
        backbone = build('mmdet', 'mmlowrank.SwinE3VA')
        stir(backbone)
        average = kind(backbone, momentum=0.3, interval=1)
        trained(backbone, average)
        averages.append(average)
    stock, ours = (average.state_dict() for average in averages)
    assert stock.keys() == ours.keys()
    assert all(torch.equal(stock[name], ours[name]) for name in stock)


def test_frozen_weights_are_the_models_own():
    backbone = build('mmdet', 'mmlowrank.SwinLoRand')
    average = MODELS.get('mmlowrank.TrainedEMA')(backbone, momentum=0.3)
    own = dict(backbone.named_parameters())
    for name, parameter in average.module.named_parameters():
        assert (parameter is own[name]) == (not own[name].requires_grad), name
    assert not any(p.requires_grad for p in average.module.parameters())
    assert len(average.avg_parameters) == len([*backbone.tuner.parameters()])
    # What is loaded later is in both.
    with torch.no_grad():
        backbone.patch_embed.projection.bias.fill_(3)
    assert average.module.patch_embed.projection.bias.eq(3).all()
