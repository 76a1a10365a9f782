"""What the tools do and refuse before anything is built."""

import argparse
import json
from unittest import mock

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import LOOPS, RUNNERS
from mmengine.runner import Runner

from mmlowrank.engine import launch
from mmlowrank.registry import HOOKS


def arguments(config, *words):
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    launch.add_arguments(parser)
    return parser.parse_args([str(config), *words])


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'some_config.py'
    path.write_text("model = dict(type='A', backbone=dict(rank=8))\n")
    return path


def test_missing_config_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'nothing\.py'):
        launch.load_config(arguments(tmp_path / 'nothing.py'))


def test_every_option_is_reachable_from_the_command_line(config):
    cfg = launch.load_config(
        arguments(config, '--cfg-options', 'model.backbone.rank=16')
    )
    assert cfg.model.backbone.rank == 16
    assert cfg.work_dir == 'work_dirs/some_config'
    assert 'model_wrapper_cfg' not in cfg


def test_only_torchrun_starts_cpu_processes(config):
    with pytest.raises(ValueError, match=r'dist_train\.sh'):
        launch.load_config(arguments(config, '--launcher', 'slurm'))


def logger_of(config):
    cfg = launch.load_config(arguments(config, '--launcher', 'pytorch'))
    return cfg.default_hooks.logger


@pytest.mark.parametrize(
    'hooks', ['', "default_hooks = dict(logger=dict(type='LoggerHook'))"]
)
def test_one_process_writes_the_metrics(group_of_one, config, tmp_path, hooks):
    config.write_text(hooks)
    hook = HOOKS.build(logger_of(config))
    runner = mock.MagicMock(log_dir=tmp_path, timestamp='now')
    runner.log_processor.get_log_after_epoch.return_value = ({'mAP': 1}, '')
    hook.before_run(runner)
    with mock.patch('mmengine.dist.utils.get_rank', return_value=1):
        hook.after_test_epoch(runner)
    assert not (tmp_path / 'now.json').exists()
    hook.after_test_epoch(runner)
    assert json.loads((tmp_path / 'now.json').read_text()) == {'mAP': 1}


def test_a_logger_of_the_user_stays(group_of_one, config):
    config.write_text("default_hooks = dict(logger=dict(type='Mine'))\n")
    assert logger_of(config) == {'type': 'Mine'}


def test_an_empty_training_set_is_refused():
    with pytest.raises(ValueError, match='is empty'):
        launch.check_not_empty([])


@pytest.mark.parametrize('said', ['', 'work_dir = None\n'])
def test_the_work_folder_is_named_after_the_config(config, said):
    config.write_text(said)
    cfg = launch.load_config(arguments(config))
    assert cfg.work_dir == 'work_dirs/some_config'


@pytest.mark.parametrize('stock', [{}, dict(type='ValLoop')])
def test_amp_evaluates_in_half(stock, monkeypatch):
    class Odd:
        """Takes no ``fp16``."""

    monkeypatch.setitem(LOOPS.module_dict, 'Odd', Odd)
    cfg = Config(dict(val_cfg=stock, test_cfg=dict(type='Odd')))
    with pytest.raises(SystemExit, match='needs a GPU'):
        launch.evaluate_in_half(cfg)
    # mmengine's logger asks for the card's number.
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    launch.evaluate_in_half(cfg)
    assert cfg.val_cfg.fp16
    assert 'fp16' not in cfg.test_cfg
    # As tools/train.py --no-validate leaves it.
    launch.evaluate_in_half(Config(dict(val_cfg=None)))


@pytest.mark.parametrize('said', ['Loud', 'class'])
def test_the_runner_of_the_config_is_built(said, monkeypatch):
    class Loud(Runner):
        """Built from nothing."""

        @classmethod
        def from_cfg(cls, cfg):
            return cls.__new__(cls)

    monkeypatch.setitem(RUNNERS.module_dict, 'Loud', Loud)
    cfg = Config(dict(runner_type=Loud if said == 'class' else said))
    assert type(launch.start(cfg, splits=())) is Loud
