"""One of two gloo processes; started by test_adamixer_detector.py.

Exits non-zero if the gradients of two processes differ from those of one
process on both images.
"""

import os

import adamixers
import torch
from torch import distributed

from mmlowrank.engine import TunerDistributedDataParallel


def part(data, images):
    return dict(
        inputs=data['inputs'][images],
        data_samples=data['data_samples'][images],
    )


def check(name, options, rank):
    alone = adamixers.build(**options).double()
    data = adamixers.batch(alone, objects=(3, 1))
    data['inputs'] = data['inputs'].double()
    for sample in data['data_samples']:
        truth = sample.gt_instances
        truth.bboxes = truth.bboxes.double()
    total, _ = alone.parse_losses(alone(**data, mode='loss'))
    # Divided by the objects of both images here; there by those of the mean
    # process, and DDP takes the mean of both.
    total.backward()
    model = TunerDistributedDataParallel(
        adamixers.build(**options).double(), find_unused_parameters=False
    )
    own = part(data, slice(rank, rank + 1))
    # Two iterations: DDP reports an unused parameter in the second.
    for _ in range(2):
        model.zero_grad()
        total, _ = model.module.parse_losses(model(**own, mode='loss'))
        total.backward()
    for key, parameter in alone.named_parameters():
        grad = model.module.get_parameter(key).grad
        if parameter.grad is None:
            assert grad is None, (name, key)
            continue
        # float64, but mmdet adds float32's epsilon to what it divides by.
        torch.testing.assert_close(
            grad,
            parameter.grad,
            rtol=1e-6,
            atol=1e-8,
            msg=lambda text, key=key: f'{name} {key}: {text}',
        )


def main():
    torch.set_num_threads(1)
    distributed.init_process_group('gloo')
    for name, options in adamixers.KINDS.items():
        for with_cp in (False, True):
            options = dict(options, with_cp=with_cp)
            check(name, options, int(os.environ['RANK']))
    distributed.destroy_process_group()


if __name__ == '__main__':
    main()
