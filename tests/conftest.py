"""Fixtures that several test files share."""

from collections import OrderedDict
from pathlib import Path

import pytest
from mmengine.registry import DefaultScope


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
