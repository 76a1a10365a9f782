"""tools/run_vtab.py: trains, goes on, prints; on two made-up tasks."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmlowrank.analysis import vtab
from mmlowrank.datasets.vtab_tasks import TASKS
from mmlowrank.engine import jobs

ROOT = Path(__file__).resolve().parents[1]
CONFIG = """
_base_ = '{base}'
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmlowrank.TunedBackbone',
        backbone=dict(
            type='SwinTransformer',
            arch=dict(embed_dims=8, depths=[1, 1], num_heads=[1, 2]),
            img_size=32,
            window_size=4,
            out_indices=(1,),
        ),
        tuner=dict(type='LoRA', rank=2),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead', in_channels=16, num_classes=_base_.num_classes
    ),
)
data_preprocessor = dict(mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True)
default_hooks = dict(checkpoint=dict(interval=1))
small = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(small, batch_size=4)
val_dataloader = small
"""
SHORT = (
    '--cfg-options',
    'train_cfg.max_epochs=2',
    'param_scheduler.epochs=11',
)


@pytest.fixture(scope='module')
def tasks(tmp_path_factory):
    """A config, and data of KITTI and Camelyon; black is 0, white is 1."""
    root = tmp_path_factory.mktemp('vtab')
    for task in ('kitti', 'patch_camelyon'):
        folder = root / 'data' / task
        folder.mkdir(parents=True)
        for label, value in enumerate((0, 255)):
            image = np.full((20, 20, 3), value, np.uint8)
            cv2.imwrite(str(folder / f'{label}.png'), image)
        for name, count in (('train800val200', 4), ('test', 3)):
            lines = ['0.png 0', '1.png 1'] * count
            (folder / f'{name}.txt').write_text('\n'.join(lines))
    base = ROOT / 'configs/rlrr/_base_/vtab1k.py'
    (root / 'tiny.py').write_text(CONFIG.format(base=base))
    return root


def start(root: Path, *args: object):
    return subprocess.Popen(
        [
            sys.executable,
            str(ROOT / 'tools/run_vtab.py'),
            str(root / 'tiny.py'),
            *map(str, args),
        ],
        cwd=root,
        env=dict(
            PYTHONPATH=str(ROOT),
            PATH='/usr/bin:/bin',
            OMP_NUM_THREADS='1',
            VTAB_ROOT=str(root / 'data'),
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(root: Path, *args: object):
    process = start(root, *args)
    try:
        # A busy machine gives a test little time.
        out, errors = process.communicate(timeout=900)
    finally:
        process.terminate()
    return subprocess.CompletedProcess(args, process.returncode, out, errors)


@pytest.fixture(scope='module')
def first(tasks):
    """KITTI alone."""
    done = run(tasks, '--tasks', 'kitti', *SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_one_task(tasks, first):
    result = vtab.read_result(tasks / 'work_dirs/tiny/kitti')
    assert result.epochs == 2
    # Six test images.
    assert result.best in [pytest.approx(100 * n / 6) for n in range(7)]
    assert f'[1/1] kitti  best {result.best:.1f}' in first
    assert f'| KITTI-Dist   | Structured  | {result.best:>5.1f} |' in first
    assert '| Camelyon     | Specialized |     - |     - |     - |' in first
    log = (tasks / 'work_dirs/tiny/kitti/logs/train-kitti.log').read_text()
    assert 'backbone.tuner (LoRA)' in log


def test_a_stopped_task_goes_on_a_finished_one_is_skipped(tasks, first):
    work = tasks / 'work_dirs/tiny'
    # As if it had been killed in its last epoch, and asked for one more.
    state = work / 'kitti' / jobs.STATE
    state.write_text(state.read_text().replace('["train"]', '[]'))
    both = ('--tasks', 'kitti', 'patch_camelyon')
    more = (SHORT[0], 'train_cfg.max_epochs=3', SHORT[2])
    done = run(tasks, *both, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'done before' not in done.stdout
    assert done.stdout.count('goes on with what it began with') == 1
    log = (work / 'kitti/logs/train-kitti.log').read_text()
    assert 'resumed epoch: 2' in log
    for task in both[1:]:
        assert vtab.read_result(work / task).epochs == 3
    table = (work / 'table.md').read_text()
    assert table in done.stdout

    done = run(tasks, *both)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('done before, with other settings') == 2

    done = run(tasks, *both, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    # KITTI began with two epochs.
    assert done.stdout.count('done before, with other settings') == 1
    assert done.stdout.count('done before (') == 1
    assert table in done.stdout


def test_a_failure_shows_the_log(tasks):
    done = run(
        tasks,
        '--tasks',
        'kitti',
        '--work-dir',
        tasks / 'other',
        '--cfg-options',
        'train_dataloader.dataset.data_root=nowhere',
    )
    assert done.returncode == 1
    assert 'nowhere/kitti/train800val200.txt does not exist' in done.stderr
    assert 'kitti (train.py) failed. The whole log is' in done.stderr
    assert 'run_vtab: mend the cause' in done.stderr


@pytest.mark.parametrize(
    ('config', 'args', 'sentence'),
    [
        ('none.py', (), 'there is no config'),
        ('tiny.py', ('--tasks', 'mnist'), "choice: 'mnist'"),
        ('fixed.py', ('--tasks', 'dtd'), 'with VTAB_TASK=dtd trains kitti'),
    ],
)
def test_nonsense_is_refused(
    tasks, config, args, sentence, monkeypatch, capsys
):
    fixed = "train_dataloader = dict(dataset=dict(task='kitti'))"
    (tasks / 'fixed.py').write_text(fixed)
    tool = runpy.run_path(str(ROOT / 'tools/run_vtab.py'))
    monkeypatch.setenv('VTAB_TASK', 'cifar')
    work = ('--work-dir', str(tasks / 'nonsense'))
    argv = ['x', str(tasks / config), *args, *work]
    monkeypatch.setattr(sys, 'argv', argv)
    with pytest.raises(SystemExit) as stop:
        tool['main']()
    assert sentence in f'{stop.value.code} {capsys.readouterr().err}'


def test_the_means_of_the_paper():
    """Table 2: the printed means follow from the printed tasks."""
    printed = (
        '75.6 92.4 72.9 99.3 91.5 89.8 57.0 86.8 95.2 85.3 75.9 '
        '79.7 64.2 53.9 82.1 83.9 53.7 33.4 43.6'
    )
    results = {
        task: vtab.Result(float(value), 10.0, 7, 110)
        for task, value in zip(TASKS, printed.split(), strict=True)
    }
    table = vtab.format_table(results)
    for row in (
        '| CIFAR-100    | Natural     |  75.6 |     7 |  10.0 |',
        '| mean         | Natural     |  82.6 |       |  10.0 |',
        '| mean         | Specialized |  85.8 |       |  10.0 |',
        '| mean         | Structured  |  61.8 |       |  10.0 |',
        '| mean         | all 19      |  74.5 |       |  10.0 |',
    ):
        assert row in table
    assert len({len(line) for line in table.splitlines()}) == 1
    del results['dtd']
    rows = vtab.format_table(results).splitlines()
    assert rows[-4] == '| mean         | Natural     |     - |       |     - |'
    assert '61.8' in rows[-2]
    assert rows[-1] == '| mean         | all 19      |     - |       |     - |'


def test_results_of_a_resumed_run(tmp_path):
    for start, steps in (('1', {1: 50.0, 2: 70.0}), ('2', {2: 60.0, 3: 55.0})):
        log = tmp_path / start / 'vis_data/scalars.json'
        log.parent.mkdir(parents=True)
        lines = [
            json.dumps({'accuracy/top1': value, 'step': step})
            for step, value in steps.items()
        ]
        log.write_text('\n'.join([*lines, '{"loss": 1, "ep']))
    # The repeated epoch 2 counts once, as it went on.
    assert vtab.read_result(tmp_path) == vtab.Result(60.0, 55.0, 2, 3)
    with pytest.raises(FileNotFoundError, match='no epoch was evaluated'):
        vtab.read_result(tmp_path / 'none')
