"""Fixtures that several test files share."""

import runpy
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest
from made_data import write_digit_swin
from mmengine.registry import DefaultScope
from torch import distributed

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def no_scope_left_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the scopes that other tests have entered.

    mmengine keeps them for the life of the process and offers no way out.
    """
    monkeypatch.setattr(DefaultScope, '_instance_dict', OrderedDict())


@pytest.fixture(scope='session')
def digit_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of six training and four validation scenes of 160 pixels."""
    from mmlowrank.datasets.digit_scenes import write_digit_scenes

    out = tmp_path_factory.mktemp('data') / 'digit_scenes'
    write_digit_scenes(out, num_train=6, num_val=4)
    return out


@pytest.fixture(scope='session')
def digit_swin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of weights of the quickstart's Swin."""
    return write_digit_swin(tmp_path_factory.mktemp('weights') / 'swin.pth')


# A classifier that trains in a second.
_CLASSIFIER = """
_base_ = '{root}/configs/quickstart/swin-mini_lora-r8_30e_digits-turned.py'
train_cfg = dict(max_epochs=1, val_interval=1)
train_dataloader = dict(dataset=dict(indices=[*range(0, 1297, 40)]))
val_dataloader = dict(dataset=dict(indices=40))
test_dataloader = val_dataloader
"""


@pytest.fixture
def classifier(
    tmp_path: Path,
    digit_scenes: Path,
    digit_swin: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., None]:
    """Call a tool on a small classifier, whose config is ``config.py``.

    Lines may be added to the config with ``more``.
    """
    monkeypatch.setenv('DIGIT_SCENES', str(digit_scenes))
    monkeypatch.setenv('DIGIT_SWIN', str(digit_swin))
    monkeypatch.chdir(ROOT)
    config = tmp_path / 'config.py'

    def call(name: str, *words: object, more: str = '') -> None:
        config.write_text(_CLASSIFIER.format(root=ROOT) + more)
        words = [name, config, *words]
        monkeypatch.setattr(sys, 'argv', [str(word) for word in words])
        runpy.run_path(f'tools/{name}', run_name='__main__')

    return call


@pytest.fixture
def group_of_one(tmp_path: Path) -> Iterator[None]:
    """A gloo process group of this process alone."""
    distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/init', rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


@pytest.fixture
def served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, str]]:
    """A folder, the URL that it has, and a new cache of downloads."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv('no_proxy', '127.0.0.1')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    handler = partial(Quiet, directory=str(tmp_path))
    with HTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield tmp_path, f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


@pytest.fixture
def tool(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Callable[..., str]:
    """Call a tool in this process; returns what it prints.

    By its path below ``tools``, or its name alone in ``analysis_tools``.
    """

    def call(name: str, *words: object) -> str:
        name = name if '/' in name else f'analysis_tools/{name}'
        path = str(ROOT / 'tools' / name)
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, 'argv', [path, *map(str, words)])
        runpy.run_path(path, run_name='__main__')
        return capsys.readouterr().out

    return call
