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
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mmlowrank.engine import ReplayHook
from mmlowrank.engine.replay import POSITION

ROOT = Path(__file__).resolve().parents[1]


class Draws(Dataset):
    """Its index, and a number of each source of random numbers."""

    def __init__(self):
        self.loaded = 0

    def __len__(self):
        return 10

    def __getitem__(self, index):
        self.loaded += 1
        drawn = (random.random(), np.random.rand(), torch.rand(()).item())
        return (index, *drawn)


class Own(Draws):
    """With a way of its own to load a batch."""

    def __getitems__(self, indices):
        return [(i, torch.rand(()).item()) for i in indices]


def runner_of(dataset, kind, progress=(0, 0), sampler=None, **kwargs):
    """A runner with a loop of 2 epochs of 5 batches of 2."""
    sampler = sampler or DefaultSampler
    loader = DataLoader(
        dataset,
        batch_size=2,
        sampler=None
        if isinstance(dataset, IterableDataset)
        else sampler(dataset, seed=3),
        collate_fn=list,
        **kwargs,
    )
    visualizer = SimpleNamespace(dataset_meta=None)
    runner = SimpleNamespace(
        seed=7,
        visualizer=visualizer,
        logger=logging.getLogger('test'),
        _resume=progress != (0, 0),
    )
    end = dict(max_epochs=3) if kind is EpochBasedTrainLoop else {}
    end = end or dict(max_iters=23)
    loop = runner.train_loop = kind(runner, loader, **end)
    loop._epoch, loop._iter = progress
    runner.epoch, runner.iter = progress
    return runner


def run(runner, hook, stop=None):
    """Train as the loops do; return what each iteration saw and drew."""
    loop, seen = runner.train_loop, []
    hook.before_train(runner)

    def step(batch):
        hook.before_train_iter(runner, 0)
        seen.append((batch, random.random(), torch.rand(()).item()))
        loop._iter += 1
        runner.iter = loop.iter
        return loop.iter == stop

    if isinstance(loop, IterBasedTrainLoop):
        hook.before_train_epoch(runner)
        loop.dataloader_iterator.skip_iter(loop.iter)
        while loop.iter < loop.max_iters:
            if step(next(loop.dataloader_iterator)):
                break
        return seen
    while loop.epoch < loop.max_epochs:
        hook.before_train_epoch(runner)
        loop.dataloader.sampler.set_epoch(loop.epoch)
        for batch in loop.dataloader:
            if step(batch):
                return seen
        loop._epoch += 1
        runner.epoch = loop.epoch
        torch.rand(())  # a validation
    return seen


KINDS = [EpochBasedTrainLoop, IterBasedTrainLoop]


@pytest.mark.parametrize(
    ('kind', 'sampler'),
    [
        (EpochBasedTrainLoop, DefaultSampler),
        (IterBasedTrainLoop, DefaultSampler),
        (IterBasedTrainLoop, InfiniteSampler),
    ],
)
@pytest.mark.parametrize('stop', [1, 4, 5, 13])
def test_it_goes_on_as_it_would_have(kind, sampler, stop, monkeypatch):
    monkeypatch.setattr('time.sleep', lambda _: None)
    whole = run(runner_of(Draws(), kind, sampler=sampler), ReplayHook())
    # Two batches draw differently, and so do two passes.
    assert len({str(draws) for draws in whole}) == len(whole)
    before = runner_of(Draws(), kind, sampler=sampler)
    saving = ReplayHook()
    assert run(before, saving, stop) == whole[:stop]
    checkpoint = dict(meta=dict(epoch=before.epoch, iter=before.iter))
    saving.before_save_checkpoint(before, checkpoint)

    torch.manual_seed(stop)
    dataset = Draws()
    progress = (before.epoch, before.iter)
    after = runner_of(dataset, kind, progress, sampler=sampler)
    hook = ReplayHook()
    hook.after_load_checkpoint(after, checkpoint)
    assert run(after, hook) == whole[stop:]
    # Nothing was loaded only to be left out.
    assert dataset.loaded == 2 * len(whole[stop:])


@pytest.mark.parametrize('kind', KINDS)
def test_workers_draw_the_same(kind, monkeypatch):
    monkeypatch.setattr('time.sleep', lambda _: None)
    alone = run(runner_of(Draws(), kind), ReplayHook())
    for persistent in (False, True):
        options = dict(num_workers=2, persistent_workers=persistent)
        runner = runner_of(Draws(), kind, **options)
        assert run(runner, ReplayHook()) == alone


def test_ranks_draw_their_own_samples_and_the_same_model(monkeypatch):
    found = []
    for rank in (0, 1):
        fixed = mock.Mock(return_value=rank)
        monkeypatch.setattr('mmlowrank.engine.replay.get_rank', fixed)
        found.append(run(runner_of(Draws(), KINDS[0]), ReplayHook()))
    for (one, *model), (other, *same) in zip(*found, strict=True):
        assert model == same
        assert [i for i, *_ in one] == [i for i, *_ in other]
        assert one != other


def test_a_data_set_with_a_way_of_its_own_keeps_it():
    seen = run(runner_of(Own(), KINDS[0]), ReplayHook())
    assert {len(sample) for batch, *_ in seen for sample in batch} == {2}
    assert seen == run(runner_of(Own(), KINDS[0]), ReplayHook())


def test_another_length_begins_the_epoch_anew(caplog):
    runner = runner_of(Draws(), KINDS[0], progress=(1, 13))
    hook = ReplayHook()
    meta = {'epoch': 1, 'iter': 13, POSITION: [3, 10]}
    hook.after_load_checkpoint(runner, dict(meta=meta))
    seen = run(runner, hook)
    assert len(seen) == 10
    assert 'an epoch of 10 batches, which has 5 here' in caplog.text


def test_what_is_only_iterated_is_left_alone(caplog):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(10))

        def __len__(self):
            return 10

    caplog.set_level(logging.INFO)
    runner = runner_of(Stream(), KINDS[1])
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
