"""What tools/train.py and tools/test.py share.

Reading the config, starting the process group (on a CPU too), and looking at
the data before anything expensive is built.
"""

import argparse
import os
from collections.abc import Sequence, Sized
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import is_distributed
from mmengine.hooks import LoggerHook
from mmengine.logging import print_log
from mmengine.registry import DATASETS, HOOKS, LOOPS, RUNNERS
from mmengine.runner import Runner, TestLoop, ValLoop
from torch import distributed, nn

from ..checkpoint.trust import TRUST
from ..ops import in_use
from ..registry import resolve
from ..tuners.wrappers import unwrapped
from . import tuned_config
from .annotations import check_annotations
from .class_names import (
    check_classes,
    check_heads,
    check_texts,
    innermost,
)
from .data_files import check_files, innermost_datasets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that both tools have."""
    parser.add_argument('--work-dir', help='where logs and checkpoints go')
    tuned_config.add_arguments(parser)
    parser.add_argument('--trust', action='store_true', help=TRUST)
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes were started; tools/dist_train.sh sets it',
    )
    # torchrun sets the variable; torch.distributed.launch passes the option.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def load_config(args: argparse.Namespace) -> Config:
    """Read the config, apply the command line, start the process group.

    Raises:
        FileNotFoundError: If the config does not exist.
    """
    local_rank = os.environ.get('OMPI_COMM_WORLD_LOCAL_RANK', args.local_rank)
    os.environ.setdefault('LOCAL_RANK', str(local_rank))
    cfg = tuned_config.read(args.config, args.cfg_options, args.tuner)
    cfg.launcher = args.launcher
    asked = args.work_dir or (args.cfg_options or {}).get('work_dir')
    by_name = str(Path('work_dirs') / Path(args.config).stem)
    # A config may say work_dir=None, as upstream's do.
    cfg.work_dir = asked or cfg.get('work_dir') or by_name
    if args.tuner and not asked:
        # What the config says is the folder of the stock model's runs.
        for part, name in map(tuned_config.split_part, args.tuner):
            of = '' if part == 'backbone' else f'{part}-'
            cfg.work_dir += f'_{of}{Path(name).stem}'
    if args.launcher != 'none':
        _distribute(cfg)
    return cfg


def _distribute(cfg: Config) -> None:
    """Choose wrapper and logger hook, and gloo where there is no GPU."""
    if cfg.get('model_wrapper_cfg') is None:
        cfg.model_wrapper_cfg = dict(
            type='mmlowrank.TunerDistributedDataParallel',
            freeze=cfg.get('optim_wrapper', {}).get('freeze') or [],
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )
    logger = cfg.get('default_hooks', {}).get('logger', dict(type=LoggerHook))
    if logger and resolve(logger['type'], HOOKS) is LoggerHook:
        logger = dict(logger, type='mmlowrank.MasterLoggerHook')
        cfg.merge_from_dict({'default_hooks.logger': logger})
    if torch.cuda.is_available() or is_distributed():
        return
    if cfg.launcher != 'pytorch':
        raise ValueError(
            f'--launcher {cfg.launcher} needs GPUs; on CPUs start with '
            'tools/dist_train.sh, which uses --launcher pytorch'
        )
    # mmengine's own initialisation selects a CUDA device.
    distributed.init_process_group('gloo')


def evaluate_in_half(cfg: Config) -> None:
    """Let validation and test run in mixed precision.

    Raises:
        SystemExit: If there is no GPU.
    """
    if not torch.cuda.is_available():
        raise SystemExit('--amp needs a GPU; leave it out on a CPU')
    for key, stock in (('val_cfg', ValLoop), ('test_cfg', TestLoop)):
        loop = cfg.get(key)
        if loop is None:
            continue
        # A loop of another kind chooses its precision itself.
        kind = resolve(loop.get('type', stock), LOOPS)
        if isinstance(kind, type) and issubclass(kind, stock):
            loop['fp16'] = True


def start(cfg: Config, splits: Sequence[str] = ('train', 'val')) -> Runner:
    """Check the data of ``splits`` and build the runner of ``cfg``.

    Args:
        cfg: The config; its ``runner_type`` is built, if it has one.
        splits: Which loops will run.

    Raises:
        FileNotFoundError: If data is missing.
        ValueError: If there is none to train on, or its classes are not
            those of metainfo.
    """
    for split in splits:
        key = f'{split}_dataloader'
        check_texts(innermost_datasets(cfg.get(key), key))
    check_files(cfg, splits)
    runner = RUNNERS.build(cfg)
    print_log(in_use(), logger='current')
    for split in splits:
        _check_dataset(runner, split)
    return runner


def leave_process_group() -> None:
    """Wait for the other processes, then end the process group.

    A process that ends while the threads of its group are still at work is
    aborted now and then, which torchrun takes for a failure.
    """
    if is_distributed():
        distributed.barrier()
        distributed.destroy_process_group()


def model_of(runner: Runner) -> nn.Module:
    """Return the runner's model, not wrapped."""
    if not isinstance(runner.model, nn.Module):
        # FlexibleRunner's strategy builds it when the test starts.
        runner.model = runner.strategy.build_model(runner.model)
    return unwrapped(runner.model)


def _check_dataset(runner: Runner, split: str) -> None:
    """Build the loop of a split and look at its data set."""
    key = f'{split}_dataloader'
    try:
        loop = getattr(runner, f'{split}_loop')
    except ValueError as error:
        # Of numpy, to which mmengine gives a list of no samples.
        if 'need at least one array' in str(error):
            _explain(runner.cfg.get(key), key)
        raise
    loader = getattr(loop, 'dataloader', None)
    if loader is None:
        return
    check_classes(loader.dataset, key, train=split == 'train')
    if split == 'train':
        if isinstance(runner.model, nn.Module):
            check_heads(runner.model, loader.dataset, key)
        check_not_empty(loader.dataset)
    for inner in innermost(loader.dataset):
        check_annotations(inner, key, train=split == 'train')
    if split == 'train':
        count = len(loader.dataset)
        print_log(f'{count:,} training samples', logger='current')


def _explain(loader: dict, key: str) -> None:
    """Raise the error behind that of a data set without a sample."""
    for name, dataset in innermost_datasets(loader, key):
        built = DATASETS.build(dict(dataset, serialize_data=False))
        check_classes(built, name, train=True)
        check_not_empty(built)


def check_not_empty(dataset: Sized) -> None:
    """Check that there is something to train on.

    Raises:
        ValueError: If the training set has no sample.
    """
    if len(dataset) > 0:
        return
    name = type(dataset).__name__
    if hasattr(dataset, 'seg_map_suffix') and not dataset.ann_file:
        raise ValueError(
            f'The data set ({name}) is empty: no file in '
            f'{dataset.data_prefix.get("img_path")} ends in '
            f'{dataset.img_suffix}. Set img_suffix, and seg_map_suffix for '
            f'the masks (now {dataset.seg_map_suffix})'
        )
    raise ValueError(
        f'The data set ({name}) is empty: no sample is left of its '
        'annotation file. Check that the classes in metainfo are those of '
        'the file, and filter_cfg'
    )
