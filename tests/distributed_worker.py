"""One of two gloo processes; started by test_distributed.py.

Prints nothing and exits non-zero if the gradients of two processes differ
from those of one process on the joined batch: under DDP with checkpointed
activations, and under torch's FSDP.
"""

import os
import sys

import torch
from swins import VIT, build, images, loss, stir
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from tuner_rows import cells_of

from mmlowrank.engine import TunerDistributedDataParallel, launch
from mmlowrank.tuners import checkpoint_parts


class Model(nn.Module):
    """Enough of a detector for DDP: a loss as its forward."""

    def __init__(self, framework, row, **kwargs):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = build(framework, row[0], **row[1], **kwargs)
        self.head = nn.Linear(2, 2)
        stir(self.backbone)

    def forward(self, x):
        return loss(self.backbone, x)


def check(framework, name, row, rank, mesh):
    x = images(batch=4)
    alone = Model(framework, row)
    alone(x).backward()
    # The ViT has no with_cp of its own.
    own = {} if framework == VIT else dict(with_cp=True)
    checkpointed = Model(framework, row, **own)
    if framework == VIT:
        checkpoint_parts(checkpointed, ['backbone.layers.1'])
    model = TunerDistributedDataParallel(
        checkpointed, freeze=['head'], find_unused_parameters=False
    )
    # Two iterations: DDP reports an unused parameter in the second.
    for _ in range(2):
        model.zero_grad()
        model(x[2 * rank : 2 * rank + 2]).backward()
    sharded = Model(framework, row).backbone
    fully_shard(sharded, mesh=mesh)
    loss(sharded, x[2 * rank : 2 * rank + 2]).backward()
    for key, parameter in alone.backbone.named_parameters():
        grad = model.module.backbone.get_parameter(key).grad
        shards = sharded.get_parameter(key).grad
        if parameter.grad is None:
            assert grad is None and shards is None, (name, key)
            continue
        for ours in (grad, shards.full_tensor()):
            # float32 sums in another order.
            torch.testing.assert_close(
                ours, parameter.grad, rtol=1e-4, atol=1e-6, msg=f'{name} {key}'
            )


def main():
    framework = sys.argv[1]
    torch.set_num_threads(1)
    distributed.init_process_group('gloo')
    mesh = init_device_mesh('cpu', (2,))
    for name, row in cells_of(framework, training=True).items():
        check(framework, name, row, int(os.environ['RANK']), mesh)
    launch.leave_process_group()
    # Not through the interpreter's end: gloo threads that FSDP has used abort
    # the process there now and then. All that is tested is done.
    os._exit(0)


if __name__ == '__main__':
    main()
