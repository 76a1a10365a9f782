"""tools/train.py and tools/test.py as users of OpenMMLab know them."""

import os
import pickle
import subprocess
from pathlib import Path

import pytest
import torch
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

ROOT = Path(__file__).resolve().parents[1]


def log_of(work):
    return '\n'.join(path.read_text() for path in work.glob('*/*.log'))


def test_no_validation_is_a_choice(classifier, tmp_path):
    nowhere = "\nval_dataloader.update(dataset=dict(data_prefix='nowhere'))\n"
    words = ('--work-dir', tmp_path)
    with pytest.raises(FileNotFoundError, match='nowhere does not exist'):
        classifier('train.py', *words, more=nowhere)
    classifier('train.py', *words, '--no-validate', more=nowhere)
    assert (tmp_path / 'epoch_1.pth').is_file()
    # Nothing is left to train, and nothing to make up for.
    classifier('train.py', *words, '--no-validate', '--resume', more=nowhere)
    log = log_of(tmp_path)
    assert log.count('Epoch(train)') >= 1
    assert '(val)' not in log
    assert 'validates again' not in log
    classifier('train.py', *words, '--resume')
    assert 'validates again' in log_of(tmp_path)


class CountingRunner(Runner):
    """Notes what is asked of it."""

    asked: list[str] = []  # noqa: RUF012

    def train(self):
        self.asked.append('train')
        return super().train()

    def test(self):
        self.asked.append('test')
        return super().test()


def test_the_runner_of_the_config_runs(classifier, tmp_path, monkeypatch):
    module = RUNNERS.module_dict
    monkeypatch.setitem(module, 'CountingRunner', CountingRunner)
    monkeypatch.setattr(CountingRunner, 'asked', [])
    kind = "\nrunner_type = 'CountingRunner'\n"
    classifier('train.py', '--work-dir', tmp_path, more=kind)
    checkpoint = tmp_path / 'epoch_1.pth'
    classifier('test.py', checkpoint, '--work-dir', tmp_path, more=kind)
    assert CountingRunner.asked == ['train', 'test']


def test_the_flexible_runner_does_the_same(classifier, tmp_path):
    """Its test loads every tensor, and draws none anew."""
    scores = []
    for kind in ('FlexibleRunner', 'Runner'):
        work, out = tmp_path / kind, tmp_path / f'{kind}.pkl'
        more = f"\nrunner_type = '{kind}'\n"
        if not scores:
            classifier('train.py', '--work-dir', work, more=more)
            checkpoint = work / 'epoch_1.pth'
            saved = torch.load(checkpoint, weights_only=False)['state_dict']
            assert any('tuner' in name for name in saved)
        words = ('--work-dir', work, '--out', out)
        classifier('test.py', checkpoint, *words, more=more)
        found = pickle.loads(out.read_bytes())
        scores.append(torch.stack([each['pred_score'] for each in found]))
    assert torch.equal(*scores)


def test_both_tools_look_at_the_classes(classifier, tmp_path):
    turned = dict(metainfo=dict(classes=tuple('9876543210')))
    for split in ('train', 'val', 'test'):
        more = f'\n{split}_dataloader.update(dataset={turned})\n'
        words = ('--work-dir', tmp_path)
        checkpoint = tmp_path / 'some.pth'
        checkpoint.touch()
        name = 'test.py' if split == 'test' else 'train.py'
        words = (checkpoint, *words) if split == 'test' else words
        expected = f"{split}_dataloader: .*'0' as '9'"
        with pytest.raises(ValueError, match=expected):
            classifier(name, *words, more=more)


@pytest.mark.parametrize(
    'script, words, expected',
    [
        ('slurm_train.sh', ['WORK'], ['train.py', 'C', '--work-dir', 'WORK']),
        ('slurm_test.sh', ['CKPT'], ['test.py', 'C', 'CKPT']),
    ],
)
def test_slurm(script, words, expected, tmp_path):
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    env = dict(
        os.environ, PATH=f'{tmp_path}:{os.environ["PATH"]}', PYTHON='python'
    )
    command = ['bash', f'tools/{script}', 'part', 'job', 'C', *words]

    def run(*command):
        return subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True
        )

    said = run(*command, '--extra', 'x').stdout.splitlines()
    assert said[:2] == ['--partition=part', '--job-name=job']
    at = said.index('python')
    assert said[at + 1] == '-u'
    assert [Path(said[at + 2]).name, *said[at + 3 :]] == [
        *expected,
        '--launcher',
        'slurm',
        '--extra',
        'x',
    ]
    few = run('bash', f'tools/{script}', 'part', 'job')
    assert few.returncode == 1
    assert f'bash tools/{script} PARTITION JOB_NAME CONFIG' in few.stderr
