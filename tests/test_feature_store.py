"""The folder of features: packing, limits, torn files, several processes."""

import multiprocessing
from pathlib import Path

import pytest
import torch

from mmlowrank.engine import FeatureCacheHook
from mmlowrank.engine.feature_store import (
    FeatureStore,
    pack,
    size_in_bytes,
    unpack,
)

NAME, OTHER = 'a' * 32, 'b' * 32


@pytest.mark.parametrize('shape', [(6, 5, 7), (35, 6), (6,)])
def test_packing_is_as_near_as_it_says(shape):
    torch.manual_seed(0)
    # Channels of very different size, as residual streams have them.
    x = torch.randn(shape)
    channels = {3: (-1, 1, 1), 2: (1, -1), 1: (1,)}[len(shape)]
    if len(shape) > 1:
        x = x * torch.logspace(-4, 4, 6).view(channels)
    assert torch.equal(unpack(pack(x, 'float32')), x)
    half = unpack(pack(x, 'float16'))
    # Below 2^-14 numbers of 16 bits are denormal.
    assert ((half - x).abs() <= x.abs() * 2**-11 + 2**-25).all()
    eight = unpack(pack(x, 'int8'))
    dims = [d for d in range(x.ndim) if x.ndim == 1 or channels[d] == 1]
    largest = x.abs().amax(dims, keepdim=True)
    assert ((eight - x).abs() <= largest / 254 * 1.001).all()


def test_packing_leaves_alone_what_does_not_fit():
    large, nan = torch.tensor([7e4, 1.0]), torch.tensor([float('nan'), 1.0])
    whole = torch.arange(3)
    assert torch.equal(unpack(pack(large, 'float16')), large)
    for kind in ('float16', 'int8'):
        assert unpack(pack(nan, kind)).isnan()[0]
        for plain in (whole, large.bfloat16(), large.double()):
            assert torch.equal(unpack(pack(plain, kind)), plain)
    assert torch.equal(
        unpack(pack(torch.zeros(2, 3), 'int8')), whole.new_zeros(2, 3).float()
    )


def features(seed=0, size=500):
    torch.manual_seed(seed)
    return {
        'entry': pack(torch.randn(size, 4), 'float16'),
        'list.0': pack(torch.randn(3, 5, 7), 'int8'),
    }


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(unpack(one[n]), unpack(other[n])) for n in one
    )


def test_a_torn_or_foreign_file_is_a_miss(tmp_path):
    store = FeatureStore(tmp_path, NAME, 10**6)
    assert store.load('ab12') is None
    assert store.save('ab12', features())
    assert same(store.load('ab12'), features())
    (path,) = tmp_path.rglob('*.features')
    whole = path.read_bytes()
    turned = bytearray(whole)
    turned[-9] ^= 1
    for data in (b'', b'x', whole[:40], whole[:-1], bytes(turned), b'\0' * 99):
        path.write_bytes(data)
        assert store.load('ab12') is None
    assert store.save('ab12', features())
    assert same(store.load('ab12'), features())
    assert [p.suffix for p in tmp_path.rglob('*.*')] == ['.features']


def test_the_folder_stays_below_its_limit(tmp_path):
    mine = tmp_path / 'notes.txt'
    mine.write_text('a file of the user')
    one = FeatureStore(tmp_path, OTHER, 10**6)
    one.save('ab12', features())
    limit = 3 * one.size + 100
    store = FeatureStore(tmp_path, NAME, limit)
    assert store.entries == 0
    keys = ('aa', 'bb', 'cc', 'dd')
    # The third takes the room of the other base's.
    assert [store.save(k, features(i)) for i, k in enumerate(keys)] == [
        *(True, True, True, False)
    ]
    assert store.full and store.entries == 3
    assert one.load('ab12') is None and not one.folder.exists()
    used = sum(f.stat().st_size for f in tmp_path.rglob('*.features'))
    assert used == store.size <= limit and mine.exists()
    assert same(store.load('cc'), features(2))
    # What is there is counted when the next run begins.
    again = FeatureStore(tmp_path, NAME, limit)
    assert (again.entries, again.size) == (3, store.size)
    assert not again.save('dd', features(3))
    # Each of two processes has half of what is free.
    half = FeatureStore(tmp_path, NAME, limit + 2 * store.size // 3, 2)
    assert half.save('dd', features(3)) and not half.save('ee', features(4))


def test_a_full_disk_ends_the_writing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, 'No space left on device')

    store = FeatureStore(tmp_path, NAME, 10**6)
    monkeypatch.setattr(Path, 'write_bytes', full)
    assert not store.save('ab12', features())
    assert store.full and not [*tmp_path.rglob('*.part')]


def _write(folder, times):
    store = FeatureStore(folder, NAME, 10**7)
    for _ in range(times):
        for i in range(20):
            assert store.save(f'{i:04}', features(i))


def test_two_processes_write_and_read_one_folder(tmp_path):
    fork = multiprocessing.get_context('fork')
    writers = [
        fork.Process(target=_write, args=(tmp_path, 5)) for _ in range(2)
    ]
    for writer in writers:
        writer.start()
    store, read = FeatureStore(tmp_path, NAME, 10**7), 0
    while any(writer.is_alive() for writer in writers):
        for i in range(20):
            found = store.load(f'{i:04}')
            assert found is None or same(found, features(i))
            read += found is not None
    assert read and all(writer.exitcode == 0 for writer in writers)
    assert all(store.load(f'{i:04}') for i in range(20))
    assert not [*tmp_path.rglob('*.part')]


def test_sizes_are_read():
    assert size_in_bytes('20GB') == 20 * 10**9
    assert size_in_bytes('1.5 mb') == 1_500_000
    assert size_in_bytes(7) == 7
    with pytest.raises(ValueError, match='is no size'):
        size_in_bytes('much')
    with pytest.raises(ValueError, match='is unknown'):
        FeatureCacheHook('folder', stored='int4')
