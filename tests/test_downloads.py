"""Two URLs that end in one name are two files."""

import pytest
import torch
from mmengine.runner import CheckpointLoader

import mmlowrank.checkpoint  # noqa: F401 - registers the loader


def value(url):
    return CheckpointLoader.load_checkpoint(url, 'cpu')['value']


def no_network(*_, **__):
    raise OSError('no network')


def test_one_name_of_two_urls(served, monkeypatch):
    folder, root = served
    for i in (1, 2):
        (folder / str(i)).mkdir()
        torch.save(dict(value=i), folder / str(i) / 'best.pth')
    urls = [f'{root}/{i}/best.pth' for i in (1, 2)]
    assert [*map(value, urls)] == [1, 2]
    monkeypatch.setattr('torch.hub.download_url_to_file', no_network)
    assert [*map(value, urls)] == [1, 2]
    with pytest.raises(OSError, match='no network'):
        value(f'{root}/3/best.pth')


def test_a_file_that_was_put_there_by_hand_is_taken(served, monkeypatch):
    """On clusters without a network, whose cache may be read-only."""
    folder, root = served
    cache = folder / 'cache' / 'hub' / 'checkpoints'
    cache.mkdir(parents=True)
    torch.save(dict(value=3), cache / 'swin.pth')
    monkeypatch.setattr('torch.hub.download_url_to_file', no_network)
    with monkeypatch.context() as patch:
        patch.setattr('pathlib.Path.write_text', no_network)
        assert value(f'{root}/swin.pth') == 3
    assert value(f'{root}/swin.pth') == 3
    with pytest.raises(OSError, match='no network'):
        value(f'{root}/other/swin.pth')
