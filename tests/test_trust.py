"""Pickles of strangers: refused by the tools, read when told to."""

import argparse
import os

import pytest
import torch

from mmlowrank.checkpoint.trust import unpickling
from mmlowrank.checkpoint.whole_file import whole_file


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def spoilt(path, folder):
    """Copy a checkpoint and put something hostile into it."""
    checkpoint = torch.load(path, weights_only=False)
    checkpoint['meta']['more'] = Hostile(folder)
    new = path.with_name('spoilt.pth')
    torch.save(checkpoint, new)
    return new


def test_every_door_of_the_tools(
    classifier, digit_swin, tmp_path, monkeypatch
):
    work, made = tmp_path / 'work', tmp_path / 'made'
    words = ('--work-dir', work)
    classifier('train.py', *words)
    bad = spoilt(work / 'epoch_1.pth', made)
    doors = [
        ('test.py', bad, *words),
        ('train.py', *words, '--resume', bad),
        ('train.py', *words, '--cfg-options', f'load_from={bad}'),
        ('model_converters/merge.py', bad, tmp_path / 'merged.pth'),
        ('model_converters/adapter.py', bad, tmp_path / 'a.safetensors'),
        ('model_converters/peft_layout.py', bad, tmp_path / 'lora'),
    ]
    for door in doors:
        with pytest.raises(RuntimeError, match=r'object of \S*mkdir.*--trust'):
            classifier(*door)
        assert not made.exists(), door
    # The backbone's, through the reader of Swins.
    pretrained = tmp_path / 'swin.pth'
    weights = torch.load(digit_swin)
    torch.save(dict(weights, args=argparse.Namespace(lr=1)), pretrained)
    monkeypatch.setenv('DIGIT_SWIN', str(pretrained))
    with pytest.raises(RuntimeError, match=r'argparse\.Namespace.*--trust'):
        classifier('train.py', *words)
    classifier('train.py', *words, '--trust')
    assert not made.exists()
    classifier('test.py', bad, *words, '--trust')
    assert made.exists()


SCHEDULES = """
param_scheduler = [
    dict(type='OneCycleLR', eta_max=1e-3, total_steps=9, by_epoch=False),
    dict(type='ReduceOnPlateauLR', monitor='loss', rule='less')]
custom_hooks = [dict(type='EMAHook')]
"""


def test_what_mmengine_writes_is_read(classifier, tmp_path):
    """Also schedules that keep a function of their own."""
    words = ('--work-dir', tmp_path / 'work')
    classifier('train.py', *words, more=SCHEDULES)
    more = SCHEDULES + "train_cfg['max_epochs'] = 2\n"
    classifier('train.py', *words, '--resume', more=more)
    checkpoint = tmp_path / 'work' / 'epoch_2.pth'
    classifier('test.py', checkpoint, *words, more=SCHEDULES)


def test_nothing_is_changed_for_others(tmp_path):
    """Only inside: a user's own script loads as before."""
    path = tmp_path / 'a.pth'
    torch.save(dict(args=argparse.Namespace(lr=1)), path)
    with (
        pytest.raises(RuntimeError, match='Namespace'),
        unpickling(),
    ):
        torch.load(path, weights_only=False)
    assert torch.load(path, weights_only=False)['args'].lr == 1
    path.write_bytes(b'<html>not found</html>')
    with pytest.raises(RuntimeError, match='copied whole'), unpickling():
        torch.load(path, weights_only=False)


def test_a_file_is_whole_or_as_before(tmp_path):
    path = tmp_path / 'new' / 'file'
    with whole_file(path) as draft:
        draft.write_text('one')
        assert not path.exists()
    with pytest.raises(ZeroDivisionError), whole_file(path) as draft:
        draft.write_text('two')
        raise ZeroDivisionError
    assert path.read_text() == 'one'
    assert [p.name for p in path.parent.iterdir()] == ['file']
