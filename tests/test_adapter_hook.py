"""Adapter files of a run: written, kept, tested, started from."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from mmlowrank.checkpoint.adapter_file import AdapterError, read

ROOT = Path(__file__).resolve().parents[1]
MORE = """
train_cfg['max_epochs'] = 3
default_hooks = dict(checkpoint=dict(
    interval=1, max_keep_ckpts=2, save_best='accuracy/top1', rule='greater'))
"""


@pytest.fixture
def tool(classifier, tmp_path):
    """Run a tool on the classifier, in one work dir."""

    def call(name, *words, more=''):
        words = (*words, '--work-dir', tmp_path / 'work')
        classifier(name, *words, more=MORE + more)

    return call


def names(work):
    return sorted(
        path.name
        for path in work.iterdir()
        if path.suffix != '.py' and path.is_file()
    )


def scores(work):
    """The metrics of the last run."""
    (*_, log) = sorted(work.glob('*/*.json'))
    return {
        key: value
        for key, value in json.loads(log.read_text()).items()
        if not key.endswith('time')
    }


FULL = 'default_hooks["checkpoint"].update(full=True)\n'


def test_there_and_back(tool, tmp_path, capsys):
    work = tmp_path / 'work'
    tool('train.py', '--cfg-options', 'train_cfg.max_epochs=1', more=FULL)
    small, full = tmp_path / 'a.safetensors', tmp_path / 'a.pth'

    def convert(*words):
        words = ['adapter.py', str(tmp_path / 'config.py'), *map(str, words)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, 'argv', words)
            path = 'tools/model_converters/adapter.py'
            runpy.run_path(path, run_name='__main__')
        return capsys.readouterr().out

    assert ' are frozen' in convert(work / 'epoch_1.pth', small)
    # To the bit what the hook wrote, but for the metrics of a validation.
    one, other = read(small), read(work / 'epoch_1.safetensors')
    for name, tensor in other.tensors.items():
        assert torch.equal(tensor, one.tensors[name])
    assert one.info['tuners'] == other.info['tuners']
    assert one.info['dataset_meta'] == other.info['dataset_meta']
    convert(small, full)
    back, there = (
        torch.load(path, weights_only=False)['state_dict']
        for path in (full, work / 'epoch_1.pth')
    )
    assert back.keys() == there.keys()
    assert all(torch.equal(back[name], there[name]) for name in there)
    with pytest.raises(SystemExit, match='exists; remove it'):
        convert(small, full)
    with pytest.raises(SystemExit, match='must end in'):
        convert(small, tmp_path / 'a.onnx')
    small.write_bytes(small.read_bytes()[:-1])
    with pytest.raises(SystemExit, match='is damaged'):
        convert(small, tmp_path / 'b.pth')
    assert not (tmp_path / 'b.pth').exists()


EMA = """
custom_hooks = [
    dict(type='EMAHook', ema_type='mmlowrank.TrainedEMA', momentum=0.5)]
"""


def test_files_come_and_go_with_checkpoints(tool, tmp_path):
    work = tmp_path / 'work'
    tool('train.py', more=EMA + FULL)
    kept = names(work)
    (best,) = [n for n in kept if n.startswith('best') and n.endswith('.pth')]
    stems = {'epoch_2', 'epoch_3', Path(best).stem}
    assert set(kept) == {
        'last_checkpoint',
        *(
            f'{stem}{end}'
            for stem in stems
            for end in ('.pth', '.safetensors')
        ),
    }
    assert (work / 'last_checkpoint').read_text().endswith('epoch_3.pth')
    full = torch.load(work / 'epoch_3.pth', weights_only=False)
    small = read(work / 'epoch_3.safetensors')
    for name, tensor in small.tensors.items():
        assert torch.equal(tensor, full['state_dict'][name])  # the average
    average = full['ema_state_dict']['module.head.fc.weight']
    assert not torch.equal(average, small.tensors['head.fc.weight'])
    info = small.info
    assert info['progress'] == dict(epoch=3, iter=full['meta']['iter'])
    assert info['dataset_meta']['classes'][:2] == ['0', '1']
    assert 0 <= info['metrics']['accuracy/top1'] <= 100
    assert info['tuners']['backbone.tuner']['init_cfg'].endswith('swin.pth')

    # Base and file give what the checkpoint gives, to the last digit.
    found = []
    for end in ('.pth', '.safetensors'):
        tool('test.py', work / f'epoch_3{end}', more=EMA)
        found.append(scores(work))
    assert found[0] == found[1]
    assert found[0]


def test_checkpoints_have_no_base_and_serve_all_the_same(tool, tmp_path):
    work = tmp_path / 'work'
    tool('train.py', more=EMA)
    small = read(work / 'epoch_3.safetensors')
    kept = torch.load(work / 'epoch_3.pth', weights_only=False)
    assert kept['state_dict'].keys() == small.tensors.keys()
    averages = kept['ema_state_dict'].keys() - {'steps'}
    assert averages == {f'module.{name}' for name in small.tensors}
    # Twice the weights for Adam, once for the average.
    trains = sum(t.numel() * t.element_size() for t in small.tensors.values())
    assert (work / 'epoch_3.pth').stat().st_size < 4 * trains + 200 * 1024
    found = []
    for end in ('.pth', '.safetensors'):
        tool('test.py', work / f'epoch_3{end}')
        found.append(scores(work))
    assert found[0] == found[1]
    # What has no state of the optimizer is not resumed.
    with pytest.raises(ValueError, match=r'epoch_3\.safetensors.*load_from'):
        tool('train.py', '--resume', work / 'epoch_3.safetensors')
    # A run may begin with it.
    start = f"load_from = r'{work / 'epoch_3.safetensors'}'\n"
    tool('train.py', '--cfg-options', 'train_cfg.max_epochs=1', more=start)


def test_a_base_that_init_cfg_does_not_name_is_kept(tool, tmp_path):
    """From another file, or random: nothing else could put it back."""
    work = tmp_path / 'work'
    options = ['--cfg-options', 'train_cfg.max_epochs=1']
    tool('train.py', *options, more=FULL)
    other = torch.load(work / 'epoch_1.pth', weights_only=False)
    name = 'backbone.patch_embed.projection.weight'
    other['state_dict'][name] += 1
    torch.save(dict(state_dict=other['state_dict']), tmp_path / 'other.pth')
    for more in (
        f"load_from = r'{tmp_path / 'other.pth'}'\n",
        'model = dict(backbone=dict(backbone=dict(init_cfg=None)))\n',
    ):
        tool('train.py', *options, more=more)
        again = torch.load(work / 'epoch_1.pth', weights_only=False)
        assert name in again['state_dict']
        tool('train.py', '--resume', more=more)


def test_of_another_base_it_is_refused_or_forced(tool, tmp_path, monkeypatch):
    work = tmp_path / 'work'
    tool('train.py', '--cfg-options', 'train_cfg.max_epochs=1', more=FULL)
    other = tmp_path / 'other.pth'
    weights = torch.load(work / 'epoch_1.pth', weights_only=False)
    for tensor in weights['state_dict'].values():
        tensor += 1
    torch.save(dict(state_dict=weights['state_dict']), other)
    monkeypatch.setenv('DIGIT_SWIN', str(other))
    file = work / 'epoch_1.safetensors'
    with pytest.raises(
        AdapterError, match=r'swin\.pth there, of .*other\.pth'
    ):
        tool('test.py', file)
    tool('test.py', file, '--force')


def test_where_nothing_is_frozen_there_is_none(tool, tmp_path):
    full = (
        "model = dict(backbone=dict(tuner=dict(_delete_=True, type='Full')))"
    )
    tool('train.py', '--cfg-options', 'train_cfg.max_epochs=1', more=full)
    assert not list((tmp_path / 'work').glob('*.safetensors'))
    assert (tmp_path / 'work' / 'epoch_1.pth').is_file()
