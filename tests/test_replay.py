"""What a resumed run draws and loads is what it would have."""

import logging
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
)

from mmlowrank.engine import ReplayHook
from mmlowrank.engine.random_states import seed
from mmlowrank.engine.replay import POSITION, PROCESSES, VALIDATED

ROOT = Path(__file__).resolve().parents[1]
EPOCHS, ITERATIONS = EpochBasedTrainLoop, IterBasedTrainLoop


def drawn():
    """A number of each source."""
    return random.random(), np.random.rand(), torch.rand(()).item()


class Draws(Dataset):
    """Its index, and what it draws."""

    def __init__(self):
        self.loaded = 0

    def __len__(self):
        return 10

    def __getitem__(self, index):
        self.loaded += 1
        return (index, *drawn())


class Own(Draws):
    """With a way of its own to load a batch."""

    def __getitems__(self, indices):
        return [(i, torch.rand(()).item()) for i in indices]


def sampler_of(kind, dataset):
    if isinstance(dataset, IterableDataset):
        return None
    if kind is RandomSampler:
        return kind(dataset)
    return kind(dataset, seed=3)


class Validation:
    """Draws; its workers draw for their start."""

    def __init__(self, workers):
        persistent = dict(num_workers=1, persistent_workers=True)
        options = persistent if workers else {}
        self.dataloader = DataLoader(range(2), **options)
        self.hook = None

    def run(self):
        self.hook.before_val(self.runner)
        assert len([*self.dataloader]) == 2
        torch.rand(())
        self.hook.after_val(self.runner)


def runner_of(
    kind, dataset=None, sampler=DefaultSampler, progress=None, workers=0
):
    """A runner with a loop of 3 epochs of 5 batches of 2."""
    dataset = Draws() if dataset is None else dataset
    options = dict(num_workers=workers, persistent_workers=workers > 1)
    loader = DataLoader(
        dataset,
        batch_size=2,
        sampler=sampler_of(sampler, dataset),
        collate_fn=list,
        **options,
    )
    val_loop = Validation(workers)
    runner = val_loop.runner = SimpleNamespace(
        seed=7,
        world_size=1,
        visualizer=SimpleNamespace(dataset_meta=None),
        logger=logging.getLogger('test'),
        model=nn.BatchNorm1d(2),
        optim_wrapper=None,
        val_loop=val_loop,
        _resume=progress is not None,
    )
    end = dict(max_epochs=3) if kind is EPOCHS else dict(max_iters=15)
    loop = runner.train_loop = kind(runner, loader, val_interval=1, **end)
    if kind is ITERATIONS:
        loop.val_interval = 4
        loop.dynamic_intervals = [4]
    runner.epoch, runner.iter = loop._epoch, loop._iter = progress or (0, 0)
    return runner


def save(hook, runner, epoch, iteration):
    checkpoint = dict(meta=dict(epoch=epoch, iter=iteration), optimizer={})
    hook.before_save_checkpoint(runner, checkpoint)
    return checkpoint


def run(runner, hook):
    """Train, and end the workers; see :func:`train`."""
    try:
        return train(runner, hook)
    finally:
        let_go(runner)


def train(runner, hook):
    """Train as mmengine's loops and hooks do.

    Returns:
        What each iteration saw and drew, and all checkpoints.
    """
    loop, seen, saved = runner.train_loop, [], []
    runner.val_loop.hook = hook
    hook.before_train(runner)

    def step(batch):
        seen.append((batch, drawn()))
        saved.append(save(hook, runner, loop.epoch, loop.iter + 1))
        runner.iter = loop._iter = loop.iter + 1

    if isinstance(loop, ITERATIONS):
        hook.before_train_epoch(runner)
        loop.dataloader_iterator.skip_iter(loop.iter)
        while loop.iter < loop.max_iters:
            step(next(loop.dataloader_iterator))
            if loop.iter % loop.val_interval == 0:
                runner.val_loop.run()
                saved.append(save(hook, runner, loop.epoch, loop.iter))
        return seen, saved
    while loop.epoch < loop.max_epochs:
        hook.before_train_epoch(runner)
        if hasattr(loop.dataloader.sampler, 'set_epoch'):
            loop.dataloader.sampler.set_epoch(loop.epoch)
        for batch in loop.dataloader:
            step(batch)
        saved.append(save(hook, runner, loop.epoch + 1, loop.iter))
        runner.epoch = loop._epoch = loop.epoch + 1
        runner.val_loop.run()
        saved.append(save(hook, runner, loop.epoch, loop.iter))
    return seen, saved


def let_go(runner):
    """End persistent workers, whom later ones would wait for."""
    for loop in (runner.train_loop, runner.val_loop):
        iterator = getattr(loop.dataloader, '_iterator', None)
        if iterator is not None:
            iterator._shutdown_workers()


def go_on(checkpoint, **options):
    """Resume, in a process that has drawn other numbers."""
    seed(99)
    meta = checkpoint['meta']
    progress = meta['epoch'], meta['iter']
    runner, hook = runner_of(progress=progress, **options), ReplayHook()
    hook.after_load_checkpoint(runner, checkpoint)
    seen, saved = run(runner, hook)
    return seen, saved, runner.train_loop.dataloader.dataset


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Of mmengine, two seconds between passes."""
    monkeypatch.setattr('time.sleep', lambda _: None)


@pytest.mark.parametrize(
    ('kind', 'sampler', 'workers'),
    [
        (EPOCHS, DefaultSampler, 0),
        (EPOCHS, RandomSampler, 0),
        (ITERATIONS, DefaultSampler, 0),
        (ITERATIONS, RandomSampler, 0),
        (ITERATIONS, InfiniteSampler, 0),
        (EPOCHS, RandomSampler, 1),
        (EPOCHS, DefaultSampler, 2),
        (ITERATIONS, InfiniteSampler, 2),
    ],
)
def test_it_goes_on_as_it_would_have(kind, sampler, workers):
    """From every checkpoint, and from one of a resumed run."""
    options = dict(kind=kind, sampler=sampler, workers=workers)
    seed(0)
    whole, saved = run(runner_of(**options), ReplayHook())
    assert len({str(draws) for draws in whole}) == len(whole) == 15
    # Starting workers takes its time.
    for checkpoint in saved if workers == 0 else saved[2::9]:
        seen, again, dataset = go_on(checkpoint, **options)
        done = checkpoint['meta']['iter']
        assert seen == whole[done:], checkpoint['meta']
        if workers == 0:
            # Nothing was loaded only to be left out.
            assert dataset.loaded == 2 * len(seen)
        if len(again) > 3 and workers == 0:
            seen, *_ = go_on(again[2], **options)
            assert seen == whole[again[2]['meta']['iter'] :]


@pytest.mark.parametrize('sampler', [DefaultSampler, InfiniteSampler])
def test_from_a_checkpoint_that_does_not_say_where_it_is(sampler):
    """mmengine's own; and once more from one of the run that went on."""
    options = dict(kind=ITERATIONS, sampler=sampler)
    seed(0)
    whole = [batch for batch, _ in run(runner_of(**options), ReplayHook())[0]]
    indices = [[index for index, *_ in batch] for batch in whole]
    for done in (3, 5, 12):
        checkpoint = dict(meta=dict(epoch=0, iter=done))
        seen, saved, _ = go_on(checkpoint, **options)
        assert [[i for i, *_ in batch] for batch, _ in seen] == indices[done:]
        seen, *_ = go_on(saved[1], **options)
        rest = indices[saved[1]['meta']['iter'] :]
        assert [[i for i, *_ in batch] for batch, _ in seen] == rest


def test_gradients_and_statistics_of_each_process(monkeypatch):
    norm = nn.BatchNorm1d(2)
    runner = runner_of(EPOCHS)
    runner.model, runner.world_size = norm, 2
    optimizer = torch.optim.SGD(norm.parameters(), 0.1)
    wrapper = OptimWrapper(optimizer, accumulative_counts=2)
    runner.optim_wrapper = OptimWrapperDict(norm=wrapper)
    hook = ReplayHook()
    assert 'gradients' not in hook.state_of_process(runner)
    wrapper.update_params(norm(torch.rand(3, 2)).pow(3).sum())
    own = hook.state_of_process(runner)
    resumed = runner_of(EPOCHS, progress=(1, 5))
    resumed.world_size = 2
    fixed = mock.Mock(return_value=1)
    monkeypatch.setattr('mmlowrank.engine.replay.get_rank', fixed)
    hook = ReplayHook()
    processes = {PROCESSES: [dict(random=own['random']), own]}
    hook.after_load_checkpoint(resumed, dict(meta={}, **processes))
    resumed.val_loop = None
    hook.before_train(resumed)
    assert torch.equal(resumed.model.running_mean, norm.running_mean)
    assert norm.running_mean.any()
    assert torch.equal(resumed.model.weight.grad, norm.weight.grad)
    wrapper.update_params(norm(torch.rand(3, 2)).pow(3).sum())
    assert 'gradients' not in hook.state_of_process(runner)


@pytest.mark.parametrize('kind', [EPOCHS, ITERATIONS])
def test_without_an_interruption_nothing_is_drawn_otherwise(kind):
    """The stock tools' numbers, where no worker draws."""
    found = []
    for hook in (ReplayHook(), mock.MagicMock()):
        seed(0)
        found.append(run(runner_of(kind), hook)[0])
    assert found[0] == found[1]


def test_workers_draw_each_batch_anew(monkeypatch):
    """mmengine's draw the same in each epoch, unless they persist."""
    found = []
    for rank in (0, 1):
        fixed = mock.Mock(return_value=rank)
        monkeypatch.setattr('mmlowrank.engine.data_order.get_rank', fixed)
        for workers in (1, 2):
            seed(0)
            seen, _ = run(runner_of(EPOCHS, workers=workers), ReplayHook())
            found.append([batch for batch, _ in seen])
    one, two, other, _ = found
    assert one == two
    draws = {sample[1:] for batch in one + other for sample in batch}
    assert len(draws) == 2 * 15 * 2


def test_a_data_set_with_a_way_of_its_own_keeps_it():
    found = []
    for workers in (1, 2):
        seed(0)
        runner = runner_of(EPOCHS, Own(), workers=workers)
        found.append([batch for batch, _ in run(runner, ReplayHook())[0]])
    assert {len(sample) for batch in found[0] for sample in batch} == {2}
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ('kind', 'progress', 'left'),
    [(EPOCHS, (1, 13), 10), (ITERATIONS, (0, 13), 2)],
)
def test_another_length_is_said(caplog, kind, progress, left):
    runner = runner_of(kind, progress=progress)
    hook = ReplayHook()
    epoch, iteration = progress
    meta = {'epoch': epoch, 'iter': iteration, POSITION: [1, 3, 10]}
    hook.after_load_checkpoint(runner, dict(meta=meta))
    seen, _ = run(runner, hook)
    assert len(seen) == left
    assert 'middle of 10 batches, which are 5 here' in caplog.text


def test_another_number_of_processes_is_said(caplog):
    runner = runner_of(EPOCHS, progress=(1, 5))
    checkpoint = {'meta': {}, PROCESSES: [{}, {}]}
    ReplayHook().after_load_checkpoint(runner, checkpoint)
    assert 'of 2 processes, here are 1' in caplog.text


@pytest.mark.parametrize(
    ('kind', 'epoch', 'iteration', 'times'),
    # Of 3 epochs of 5 iterations, and of 15 iterations, validated every 4.
    [
        (EPOCHS, 0, 0, [0, 0]),
        (EPOCHS, 2, 10, [1, 0]),
        (EPOCHS, 2, 12, [0, 0]),
        (EPOCHS, 2, 15, [0, 0]),  # the loop does it
        (EPOCHS, 3, 15, [1, 1]),  # nothing is left: a result is wanted
        (ITERATIONS, 0, 8, [1, 0]),
        (ITERATIONS, 0, 9, [0, 0]),
        (ITERATIONS, 0, 15, [1, 1]),
    ],
)
def test_an_interrupted_validation_is_made_again(
    kind, epoch, iteration, times
):
    for validated, count in zip((False, True), times, strict=True):
        runner = runner_of(kind, progress=(epoch, iteration))
        runner.val_loop = mock.MagicMock()
        hook = ReplayHook()
        meta = {'epoch': epoch, 'iter': iteration, VALIDATED: validated}
        hook.after_load_checkpoint(runner, dict(meta=meta))
        hook.before_train(runner)
        assert runner.val_loop.run.call_count == count
        runner = runner_of(kind, progress=(epoch, iteration))
        runner.val_loop = None
        hook.before_train(runner)


def test_what_is_only_iterated_is_left_alone(caplog):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(10))

        def __len__(self):
            return 10

    caplog.set_level(logging.INFO)
    runner = runner_of(ITERATIONS, Stream())
    iterator = runner.train_loop.dataloader_iterator
    hook = ReplayHook()
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    assert runner.train_loop.dataloader_iterator is iterator
    assert 'a resumed run will see other data' in caplog.text


def test_killed_runs_end_as_if_nothing_had_happened(tmp_path):
    """Two kills; the script alone does two hundred."""
    runs = ['epochs, saved in their midst', 'two processes']
    words = ['--kills', '2', '--runs', *runs]
    script = [sys.executable, ROOT / 'tests' / 'kill_runs.py']
    done = subprocess.run(
        [*script, tmp_path / 'runs', *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('every end equal to the bit') == 2
