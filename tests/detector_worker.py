"""One of two gloo processes; started by test_distributed.py.

Prints nothing and exits non-zero if the gradients of tuned detectors under
DDP are not the mean of what each process has for itself.
"""

import copy
import os
import sys

import torch
from test_tuned_model import loss, started
from torch import distributed

from mmlowrank import keep_less
from mmlowrank.engine import TunerDistributedDataParallel, launch


class Losses(torch.nn.Module):
    """Enough of a trainer for DDP: a loss as the forward."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, seed):
        return loss(self.model, seed)


def gradients(model):
    return {
        n: p.grad for n, p in model.named_parameters() if p.grad is not None
    }


def check(name, rank, saved):
    # What is packed depends on what is saved alone, so it is the same.
    alone = keep_less(started(name), saved)
    wrapped = copy.deepcopy(alone)
    loss(alone, seed=rank).backward()
    model = TunerDistributedDataParallel(
        Losses(wrapped), find_unused_parameters=name == 'mask2former'
    )
    # Two iterations: DDP reports an unused parameter in the second.
    for _ in range(2):
        model.zero_grad()
        model(rank).backward()
    found = gradients(wrapped)
    for path, parameter in alone.named_parameters():
        if not parameter.requires_grad or path not in found:
            continue
        mean = parameter.grad
        mean = torch.zeros_like(parameter) if mean is None else mean.clone()
        distributed.all_reduce(mean)
        torch.testing.assert_close(
            found[path], mean / 2, rtol=1e-4, atol=1e-6, msg=f'{name} {path}'
        )
    assert any('.tuner.' in path for path in found)


def main():
    torch.set_num_threads(1)
    distributed.init_process_group('gloo')
    for saved in ('exact', 'int8'):
        check(sys.argv[1], int(os.environ['RANK']), saved)
    launch.leave_process_group()
    os._exit(0)


if __name__ == '__main__':
    main()
