"""Activation checkpointing by path, of heads too, and what it keeps."""

import pytest
import torch
import torch.nn.functional as F
from test_kept import TOLERANCE, error, gradients, seeded
from test_tuned_model import HEADS, started
from test_tuned_model import loss as loss_of_detector
from torch import nn

from mmlowrank import keep_less
from mmlowrank.analysis.measuring import saved_for_backward
from mmlowrank.nn.kernels import kept
from mmlowrank.tuners import checkpoint_parts


class Levels(nn.Module):
    """A head over a list of maps, with a norm that keeps statistics."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, maps, scale=1):
        assert isinstance(maps, list)
        return [F.relu(self.norm(self.conv(m))) * scale for m in maps]


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3)
        self.head = Levels()

    def forward(self, x):
        x = self.stem(x)
        maps = [F.avg_pool2d(x, size) for size in (1, 2)]
        return sum(m.square().sum() for m in self.head(maps, scale=2))


def test_checkpointed_parts():
    """Their inputs are packed; what is made again of them is not."""
    x = torch.randn(2, 3, 34, 34, generator=seeded())
    plain, found = Detector(), {}
    wanted = gradients(plain, plain(x))
    for saved in kept.SAVED:
        model = Detector()
        checkpoint_parts(model, ['head'])
        with saved_for_backward(keep_less(model, saved)) as storages:
            value = model(x)
        found[saved] = sum(storages.values())
        off = error(gradients(model, value), wanted)
        assert off <= dict(TOLERANCE, exact=1e-6)[saved]
        # The second run is of the same batch.
        for name, buffer in plain.named_buffers():
            assert torch.equal(model.get_buffer(name), buffer), name
    with saved_for_backward(plain) as storages:
        plain(x)
    assert found['exact'] < 0.65 * sum(storages.values())
    assert found['bf16'] < 0.6 * found['exact']
    assert found['int8'] < 0.4 * found['exact']


PARTS = {
    'dino': ['neck', 'encoder', 'decoder'],
    'mask2former': ['panoptic_head.pixel_decoder'],
    'cascade': ['neck', 'rpn_head']
    + [f'roi_head.{h}_head.{i}' for h in ('bbox', 'mask') for i in range(3)],
}


@pytest.mark.parametrize('head', HEADS)
def test_checkpointed_parts_of_detectors(head):
    """Stock heads, by path: the gradients are those without."""
    model = started(head)
    kept_bytes, found = [], []
    for paths in ([], PARTS[head]):
        checkpoint_parts(model, paths)
        with saved_for_backward(model) as storages:
            value = loss_of_detector(model)
        kept_bytes.append(sum(storages.values()))
        found.append(gradients(model, value))
    # The same operations on the same numbers.
    assert error(found[1], found[0]) < 1e-6
    assert kept_bytes[1] < 0.8 * kept_bytes[0]
