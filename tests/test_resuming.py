"""From which checkpoint a run goes on, and from which it does not."""

import logging
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.logging import MessageHub
from mmengine.runner.priority import get_priority
from torch import nn

from mmlowrank.checkpoint.resuming import (
    is_whole,
    latest_checkpoint,
    name_states,
    names_of,
    order_states,
)
from mmlowrank.engine import AdapterCheckpointHook
from mmlowrank.engine.adapter_hook import _Pairs
from mmlowrank.engine.resume_hook import ResumeHook

ROOT = Path(__file__).resolve().parents[1]


def write(path):
    torch.save(dict(state_dict=dict(weight=torch.randn(64, 64))), path)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def test_the_newest_checkpoint_of_a_folder(tmp_path):
    work, other = tmp_path / 'work', tmp_path / 'other'
    assert latest_checkpoint(work) is None
    for folder in (work, other):
        folder.mkdir()
        write(folder / 'iter_2.pth')
    note = work / 'last_checkpoint'
    note.write_text(f'{other}/iter_2.pth\n')  # work is a copy of other
    assert latest_checkpoint(work) == f'{work}/iter_2.pth'
    note.write_text('s3://far/iter_8.pth')
    assert latest_checkpoint(work) == 's3://far/iter_8.pth'
    # A CheckpointHook with an out_dir.
    write(other / 'iter_4.pth')
    note.write_text(f'{other}/iter_4.pth')
    assert latest_checkpoint(work) == f'{other}/iter_4.pth'


@pytest.mark.parametrize(
    'state', ['empty note', 'no note', 'gone', 'cut', 'a flipped bit']
)
def test_what_is_not_whole_is_passed_over(tmp_path, state):
    for i in (2, 8, 10):
        write(tmp_path / f'iter_{i}.pth')
    write(tmp_path / 'best_acc_iter_12.pth')
    newest, note = tmp_path / 'iter_10.pth', tmp_path / 'last_checkpoint'
    note.write_text(str(newest))
    expected = tmp_path / 'iter_8.pth'
    if state == 'empty note':
        note.write_text('')
        expected = newest
    elif state == 'no note':
        note.unlink()
        expected = newest
    elif state == 'gone':
        newest.unlink()
    elif state == 'cut':
        cut(newest)
    else:
        data = bytearray(newest.read_bytes())
        data[len(data) // 2] ^= 1
        newest.write_bytes(data)
        assert not is_whole(newest)
    assert latest_checkpoint(tmp_path) == str(expected)


def test_no_whole_checkpoint_is_no_new_start(tmp_path):
    write(tmp_path / 'iter_2.pth')
    cut(tmp_path / 'iter_2.pth')
    with pytest.raises(FileNotFoundError, match='begin again'):
        latest_checkpoint(tmp_path)
    (tmp_path / 'iter_2.pth').unlink()
    assert latest_checkpoint(tmp_path) is None
    (tmp_path / 'last_checkpoint').write_text('iter_6.pth')
    with pytest.raises(FileNotFoundError, match=r'names iter_6.pth, which is'):
        latest_checkpoint(tmp_path)


def test_a_copy_leaves_the_best_of_the_original_alone(tmp_path):
    original, copy = tmp_path / 'original', tmp_path / 'copy'
    for folder in (original, copy):
        folder.mkdir()
        (folder / 'best_acc_epoch_1.pth').touch()
    hub = MessageHub(str(tmp_path))
    hub.update_info('best_ckpt', f'{original}/best_acc_epoch_1.pth')
    runner = SimpleNamespace(
        work_dir=str(copy), message_hub=hub, logger=logging.getLogger()
    )
    checkpoints = CheckpointHook(save_best='acc')
    hooks = sorted(
        (checkpoints, ResumeHook()), key=lambda h: get_priority(h.priority)
    )
    for hook in hooks:
        hook.before_train(runner)
    assert checkpoints.best_ckpt_path == f'{copy}/best_acc_epoch_1.pth'
    # Nor does a run that goes on in a new folder own it.
    (copy / 'best_acc_epoch_1.pth').unlink()
    hub.update_info('best_ckpt', f'{original}/best_acc_epoch_1.pth')
    for hook in hooks:
        hook.before_train(runner)
    assert checkpoints.best_ckpt_path is None
    # But where the hook writes, it is this run's.
    hub.update_info('best_ckpt', f'{original}/best_acc_epoch_1.pth')
    runner.work_dir, runner.hooks = f'{copy}/original', hooks
    checkpoints.out_dir = str(tmp_path)
    for hook in hooks:
        hook.before_train(runner)
    assert checkpoints.best_ckpt_path == f'{original}/best_acc_epoch_1.pth'


MORE = """
train_cfg = dict(max_epochs=2, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=1))
model = dict(backbone=dict(tuner=dict({tuner})))
"""
LORA = "type='LoRA', rank=8"


@pytest.fixture
def train(classifier, tmp_path):
    """Train the classifier with a tuner, in one folder."""

    def call(*words, tuner=LORA):
        words = ('--work-dir', tmp_path / 'work', *words)
        classifier('train.py', *words, more=MORE.format(tuner=tuner))
        return tmp_path / 'work'

    return call


# Tuner -> what is said where checkpoints have no frozen weights, and where
# they have.
OTHERS = {
    "type='LoRA', rank=4": ('rank=8 there, 4 here', r'tuner\.\S+ has shape'),
    "_delete_=True, type='LoRand'": (
        "'LoRA'}, this one has a LoRand",
        'it lacks backbone.tuner',
    ),
    "_delete_=True, type='Fixed'": (
        "'LoRA'}, this one has a Fixed",
        'the model has no backbone.tuner',
    ),
}


@pytest.mark.parametrize('full', [False, True])
def test_another_model_is_not_resumed(train, full):
    hook = f'default_hooks.checkpoint.full={full}'
    work = train('--cfg-options', 'train_cfg.max_epochs=1', hook)
    before = (work / 'epoch_1.pth').read_bytes()
    for tuner, sentences in OTHERS.items():
        sentence = f'another model: .*{sentences[full]}.*load_from='
        with pytest.raises(RuntimeError, match=sentence):
            train('--resume', tuner=tuner)
    assert (work / 'epoch_1.pth').read_bytes() == before
    assert not (work / 'epoch_2.pth').exists()


def test_another_trainable_set_is_not_resumed(train):
    """The names of the model are the same."""
    train('--cfg-options', 'train_cfg.max_epochs=1')
    frozen = ('--cfg-options', "optim_wrapper.freeze=['head.fc.bias']")
    with pytest.raises(RuntimeError) as error:
        train('--resume', *frozen)
    text = str(error.value)
    assert 'other parameters: not any more head.fc.bias (1 in all)' in text
    assert 'load_from=' in text


def test_a_run_goes_on_from_the_older_checkpoint(train, monkeypatch):
    work = train()
    cut(work / 'epoch_2.pth')
    # There may be a logger of another test, which writes elsewhere.
    log = mock.Mock()
    monkeypatch.setattr('mmlowrank.checkpoint.resuming.print_log', log)
    train('--resume')
    again = torch.load(work / 'epoch_2.pth', weights_only=False)
    assert again['meta']['epoch'] == 2
    (said,) = [call.args[0] for call in log.call_args_list]
    assert f'going on from {work}/epoch_1.pth' in said


def test_a_run_that_drew_its_seed_goes_on_with_it(train, monkeypatch):
    """The order of the data is made before mmengine reads the seed."""
    seeds, stock = [], DefaultSampler.__init__

    def spy(self, dataset, **kwargs):
        stock(self, dataset, **kwargs)
        seeds.append(self.seed)

    monkeypatch.setattr(DefaultSampler, '__init__', spy)
    drawn = ('--cfg-options', 'randomness.seed=None')
    work = train(*drawn, 'train_cfg.max_epochs=1')
    last = f"load_from='{work}/epoch_1.pth'"
    for words in (['--resume', *drawn], [*drawn, 'resume=True', last]):
        train(*words)
    assert len(seeds) >= 6
    assert len(set(seeds)) == 1


class Two(nn.Module):
    """Enough of a model to have groups of parameters."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(3, 2), nn.Linear(2, 1)

    def groups(self, *names):
        return [[self.get_parameter(n) for n in group] for group in names]


def stepped(model, groups):
    """An optimizer with a state, and the names in its groups."""
    optimizer = torch.optim.AdamW([dict(params=g) for g in groups])
    model.other(model.one(torch.ones(1, 3))).sum().backward()
    optimizer.step()
    return optimizer, names_of(model, groups)


ORDER = (['one.weight', 'other.weight'], ['one.bias', 'other.bias'])


def test_the_state_of_an_optimizer_goes_by_name():
    model = Two()
    optimizer, names = stepped(model, model.groups(*ORDER))
    saved = optimizer.state_dict()
    name_states(saved, names)
    assert saved['state'].keys() == {*ORDER[0], *ORDER[1]}
    # A model whose parameters come in another order.
    turned = [group[::-1] for group in ORDER]
    again, names = stepped(model, model.groups(*turned))
    order_states(saved, names, dict(model.named_parameters()))
    again.load_state_dict(saved)
    for name, parameter in model.named_parameters():
        one, other = (o.state[parameter] for o in (optimizer, again))
        assert torch.equal(one['exp_avg'], other['exp_avg']), name


@pytest.mark.parametrize(
    ('groups', 'sentence'),
    [
        ((ORDER[0], ['one.bias']), r'not any more other\.bias \(1 in all\)'),
        ((ORDER[1], ORDER[0]), 'paramwise_cfg was another'),
        (([*ORDER[0], *ORDER[1]],), 'in 2 other groups .* here are 1'),
    ],
)
def test_other_groups_are_refused(groups, sentence):
    model = Two()
    optimizer, names = stepped(model, model.groups(*ORDER))
    saved = optimizer.state_dict()
    name_states(saved, names)
    now = names_of(model, model.groups(*groups))
    with pytest.raises(RuntimeError, match=sentence):
        order_states(saved, now, dict(model.named_parameters()))
    saved['param_groups'] = saved['param_groups'][:1]
    with pytest.raises(RuntimeError, match=r'only now one\.bias, other\.bias'):
        order_states(saved, names, dict(model.named_parameters()))


def test_shapes_of_the_optimizer_are_looked_at():
    """Of files without names, as mmengine alone writes them."""
    model = Two()
    optimizer, names = stepped(model, model.groups(*ORDER))
    saved = optimizer.state_dict()
    order_states(saved, names, dict(model.named_parameters()))
    saved['state'][0]['exp_avg'] = saved['state'][0]['exp_avg'][:1]
    with pytest.raises(RuntimeError, match=r"'exp_avg' of shape \[1, 3\]"):
        order_states(saved, names, dict(model.named_parameters()))


def test_older_files_go_when_the_new_one_is_there(tmp_path, monkeypatch):
    """CheckpointHook removes first: a kill would leave nothing."""
    hook = AdapterCheckpointHook(max_keep_ckpts=1, interval=1)
    old = tmp_path / 'epoch_1.pth', tmp_path / 'epoch_1.safetensors'
    for path in old:
        path.touch()
    backend = hook.file_backend = _Pairs(LocalBackend())
    backend.remove(str(old[0]))
    assert all(path.exists() for path in old)
    new = tmp_path / 'epoch_2.pth'

    class Dying:
        hooks, work_dir, model = (), str(tmp_path), nn.Linear(1, 1)
        message_hub, logger = MessageHub(str(tmp_path)), logging.getLogger()

        def save_checkpoint(self, folder, name, **_):
            Path(folder, name).write_bytes(b'half')
            raise KeyboardInterrupt

    monkeypatch.setattr('mmlowrank.engine.adapter_hook.Runner', Dying)
    progress = dict(epoch=2, iter=8)
    with pytest.raises(KeyboardInterrupt):
        hook.save(Dying(), str(new), progress)
    assert all(path.exists() for path in old) and not new.exists()
    monkeypatch.setattr(
        Dying, 'save_checkpoint', lambda _, f, n, **__: Path(f, n).touch()
    )
    hook.save(Dying(), str(new), progress)
    assert [*tmp_path.iterdir()] == [new]
    # A kill between two removals; the checkpoint says what it replaced. One
    # of another folder says nothing of this.
    old[1].touch()
    hook.before_train(Dying())
    assert old[1].exists()
    Dying.message_hub.update_info('last_ckpt', f'/moved/{new.name}')
    hook.before_train(Dying())
    assert [*tmp_path.iterdir()] == [new]
    backend = hook.file_backend
    # What is written under the name of what it replaces stays.
    backend.remove(str(new))
    hook.save(Dying(), str(new), progress)
    assert new.exists()
