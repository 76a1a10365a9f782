"""Two gloo processes on a CPU, find_unused_parameters=False."""

import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.model import MMDistributedDataParallel
from swins import FRAMEWORKS, VIT
from test_engine import Model, construct
from test_tuned_model import HEADS

HERE = Path(__file__).parent


def torchrun(*command, processes=2, **kwargs):
    return subprocess.run(
        [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--standalone',
            f'--nproc-per-node={processes}',
            *command,
        ],
        capture_output=True,
        text=True,
        **kwargs,
    )


@pytest.mark.parametrize('framework', [*FRAMEWORKS, VIT])
def test_gradients_equal_one_process_on_the_joined_batch(framework):
    done = torchrun(str(HERE / 'distributed_worker.py'), framework)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize('head', HEADS)
def test_gradients_of_a_tuned_detector_are_the_mean(head):
    done = torchrun(str(HERE / 'detector_worker.py'), head)
    assert done.returncode == 0, done.stderr[-3000:]


def test_freezing_after_the_wrap_is_refused(group_of_one):
    model = MMDistributedDataParallel(Model(rank=4))
    with pytest.raises(RuntimeError, match=r'already waits for.*train\.py'):
        construct(model, freeze=['head'])


def test_freezing_before_the_wrap_is_accepted(group_of_one):
    inner = Model(rank=4)
    inner.head.requires_grad_(False)
    wrapper = construct(MMDistributedDataParallel(inner), freeze=['head'])
    ids = {id(p) for g in wrapper.param_groups for p in g['params']}
    assert not ids & {id(p) for p in inner.head.parameters()}
