"""The format: whole or refused, whatever is in the file."""

import json
import os
import pickle
import random
import re
import resource
import signal
import struct
import time

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mmlowrank.checkpoint import adapter_file
from mmlowrank.checkpoint.adapter_file import (
    AdapterError,
    fingerprint,
    is_adapter,
    read,
    write,
)

COUNT = 2000
INFO = dict(
    versions={},
    scope='mmdet',
    model='Detector',
    tuners={
        'backbone.tuner': dict(
            type='LoRand', arguments=dict(rank=8), base='0' * 64
        )
    },
    dataset_meta=dict(classes=['dog', 'cat']),
    progress=dict(epoch=3),
    metrics=dict(mAP=0.5),
)


def tensors():
    generator = torch.Generator().manual_seed(0)
    return {
        'backbone.tuner.down': torch.randn(3, 5, generator=generator),
        'backbone.tuner.half': torch.ones(4).bfloat16(),
        'head.bn.num_batches_tracked': torch.tensor(7),
        'head.mask': torch.tensor([True, False]),
        'head.empty': torch.zeros(0, 2),
    }


@pytest.fixture
def path(tmp_path):
    path = tmp_path / 'a.safetensors'
    write(path, tensors(), INFO)
    return path


def header_of(path):
    data = path.read_bytes()
    (length,) = struct.unpack('<Q', data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def rewrite(path, header, body):
    """Write a file from a header, a dict or bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack('<Q', len(text)) + text + body)


def test_what_is_written_is_read(path):
    found = read(path)
    for name, tensor in tensors().items():
        assert torch.equal(found.tensors[name], tensor)
        assert found.tensors[name].dtype == tensor.dtype
    assert found.tensors.keys() == tensors().keys()
    assert {k: found.info[k] for k in INFO} == INFO
    assert is_adapter(path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    # Who may read it is for the umask to say, as of other files.
    other = path.with_name('other')
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode


def test_one_tensor_under_two_names_is_written_once(tmp_path):
    shared = torch.randn(1000)
    path = tmp_path / 'a.safetensors'
    write(path, {'a.w': shared, 'b.w': shared, 'c.w': shared[:500]}, INFO)
    assert path.stat().st_size < 8000
    found = read(path).tensors
    assert torch.equal(found['b.w'], shared)
    assert torch.equal(found['c.w'], shared[:500])


def test_not_contiguous_tensors(tmp_path):
    path = tmp_path / 'a.safetensors'
    matrix = torch.arange(6.0).view(2, 3)
    write(path, {'a.t': matrix.t(), 'a.m': matrix}, INFO)
    assert torch.equal(read(path).tensors['a.t'], matrix.t())


def test_an_interrupted_write_leaves_what_was_there(path, monkeypatch):
    before = path.read_bytes()

    def full(*_):
        raise OSError('No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space'):
        write(path, {'a.b': torch.zeros(2)}, INFO)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_killed_while_it_is_written(tmp_path):
    """200 times, at any moment: the file is the last whole one."""
    path = tmp_path / 'a.safetensors'
    write(path, {'a.b': torch.zeros(50_000)}, INFO)
    chance, seen, longest = random.Random(0), set(), 0.02
    for _ in range(200):
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)  # the others are not there after a fork
            value = max(seen, default=0)
            while True:
                value += 1
                write(path, {'a.b': torch.full((50_000,), value)}, INFO)
        time.sleep(chance.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        (value,) = set(read(path).tensors['a.b'].tolist())
        if value in seen:
            longest *= 1.1  # so slow is this machine
        seen.add(int(value))
        left = {p.name for p in tmp_path.iterdir()}
        assert left <= {path.name, f'{path.name}.part'}
    assert len(seen) > 20


def test_fingerprints():
    state = nn.BatchNorm2d(3).state_dict()
    known = fingerprint(state)
    assert len(known) == 64
    assert known == fingerprint(dict(reversed(state.items())))
    double = {
        n: t.double() if t.is_floating_point() else t.int()
        for n, t in state.items()
    }
    assert known == fingerprint(double)
    # A stored value: it must not depend on machine or version.
    assert fingerprint({'a': torch.arange(4.0)}) == (
        'd9f57ac1a941fb977ddbd75b40023fe9406fd5de5ec71d6a05fd9edc8c73ef43'
    )
    for change in (
        dict(weight=state['weight'] + 1e-6),
        dict(weight=state['weight'].view(3, 1)),
        dict(more=state['weight']),
    ):
        assert fingerprint({**state, **change}) != known
    renamed = {n.replace('weight', 'scale'): t for n, t in state.items()}
    assert fingerprint(renamed) != known


def refused(path):
    """Return the sentence; nothing else may come."""
    with pytest.raises(AdapterError) as error:
        read(path)
    text = str(error.value)
    assert str(path) in text
    assert len(text) < 600
    return text


def test_damaged_files_are_refused(path):
    whole = path.read_bytes()
    chance = random.Random(0)
    for i in range(COUNT):
        data = bytearray(whole)
        kind = i % 5
        if kind == 0:  # truncated
            data = data[: chance.randrange(len(data))]
        elif kind == 1:  # a flipped bit
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        elif kind == 2:  # a page that was never written
            start = chance.randrange(len(data))
            end = start + chance.randrange(1, 400)
            if not any(data[start:end]):
                continue
            data[start:end] = bytes(len(data[start:end]))
        elif kind == 3:  # something behind it
            data += chance.randbytes(chance.randrange(1, 99))
        else:  # another file in the middle
            start = chance.randrange(len(data) - 8)
            junk = chance.randbytes(8)
            if data[start : start + 8] == junk:
                continue
            data[start : start + 8] = junk
        path.write_bytes(data)
        refused(path)


def test_pickles_are_refused_and_not_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'was run'),)

    path = tmp_path / 'a.safetensors'
    torch.save(dict(state_dict=Hostile()), path)
    refused(path)
    path.write_bytes(pickle.dumps(Hostile()))
    refused(path)
    assert not (tmp_path / 'was run').exists()


@pytest.mark.parametrize('length', [0, 2**20, 2**31, 2**40, 2**63, 2**64 - 1])
def test_headers_that_are_too_long(path, length):
    path.write_bytes(struct.pack('<Q', length) + path.read_bytes()[8:])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 64 * 1024  # KiB


def test_headers_that_are_nested_or_large(path):
    _, body = header_of(path)
    rewrite(path, b'{"a":' * 100_000 + b'1' + b'}' * 100_000, body)
    refused(path)
    rewrite(path, b' ' * (9 * 2**20), body)
    assert 'header would have' in refused(path)
    rewrite(path, b'[]', body)
    refused(path)


def test_a_key_that_is_there_twice(path):
    header, body = header_of(path)
    text = json.dumps(header)
    name = 'head.mask'
    more = f'"{name}": {json.dumps(header[name])}, '
    rewrite(path, ('{' + more + text[1:]).encode(), body)
    assert 'twice' in refused(path)


def forge(path, change, tensors_=None):
    """Write a file whose digest is right and whose content is not."""
    info = dict(INFO, version=adapter_file.VERSION, aliases={})
    change(info)
    kept = tensors() if tensors_ is None else tensors_
    text = json.dumps(info)
    digest = adapter_file._digest(text, kept)
    metadata = dict(format=adapter_file.FORMAT, adapter=text, sha256=digest)
    save_file(kept, path, metadata)


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        (dict(version='1'), "'version' is missing or no"),
        (dict(version=2), 'written by a newer mmlowrank'),
        (dict(tuners=[]), "'tuners'"),
        (dict(tuners=dict(a=3)), "'type'"),
        (dict(tuners=dict(a=dict(type='LoRand'))), "'arguments'"),
        (dict(aliases=dict(a=3)), 'alias'),
        (dict(aliases={'a.b': 'nowhere'}), 'leads nowhere'),
        (dict(aliases={'head.mask': 'head.empty'}), 'leads nowhere'),
        (dict(dataset_meta=None), "'dataset_meta'"),
    ],
)
def test_text_of_another_form(path, change, sentence):
    forge(path, lambda info: info.update(change))
    assert sentence in refused(path)


@pytest.mark.parametrize(
    'name', ['../../etc/passwd', '/a', 'a..b', '.a', 'a\\b', 'a.\0', '']
)
def test_names_that_are_paths(path, name):
    forge(path, lambda info: None, {name: torch.zeros(1)})
    assert re.search('no name of a tensor|damaged', refused(path))


def test_other_files(tmp_path):
    path = tmp_path / 'plain.safetensors'
    save_file(dict(a=torch.zeros(1)), path)
    assert not is_adapter(path)
    assert 'no adapter file of mmlowrank' in refused(path)
    path.write_bytes(b'')
    with pytest.raises(AdapterError, match='it has 0 bytes'):
        is_adapter(path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / 'nothing.safetensors')
