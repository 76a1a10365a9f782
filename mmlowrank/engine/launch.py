"""What tools/train.py and tools/test.py share.

Reading the config, starting the process group (on a CPU too), and looking at
the data before anything expensive is built.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.dist import is_distributed
from mmengine.hooks import LoggerHook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner, load_checkpoint
from torch import distributed

from ..ops import in_use


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that both tools have."""
    parser.add_argument('--work-dir', help='where logs and checkpoints go')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the config: key=value, e.g. '
        'model.backbone.rank=16 train_dataloader.batch_size=4',
    )
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
    if not Path(args.config).is_file():
        raise FileNotFoundError(
            f'There is no config {args.config}; see the folder configs/'
        )
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get(
        'work_dir', str(Path('work_dirs') / Path(args.config).stem)
    )
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
    if logger and logger['type'] in ('LoggerHook', LoggerHook):
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


def start(cfg: Config, splits: Sequence[str] = ('train', 'val')) -> Runner:
    """Check the data of ``splits`` and build the runner of ``cfg``."""
    check_files(cfg, splits)
    runner = Runner.from_cfg(cfg)
    print_log(in_use(), logger='current')
    return runner


def leave_process_group() -> None:
    """Wait for the other processes, then end the process group.

    A process that ends while the threads of its group are still at work is
    aborted now and then, which torchrun takes for a failure.
    """
    if is_distributed():
        distributed.barrier()
        distributed.destroy_process_group()


def load_exactly(runner: Runner, checkpoint: str) -> None:
    """Load a checkpoint into the runner's model, every tensor of it.

    mmengine's own loading before a test only warns where names or shapes
    differ, and then tests a model that is partly random. Hooks are not told:
    that of a moving average is not ready yet, and its average is what
    mmengine saves as the weights.

    Raises:
        RuntimeError: If the checkpoint is of another model.
    """
    model = runner.model
    model = model.module if is_model_wrapper(model) else model
    try:
        load_checkpoint(model, checkpoint, 'cpu', strict=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        shown = ' '.join(filter(None, lines))[:400]
        raise RuntimeError(
            f'{checkpoint} is not a checkpoint of this config: {shown} ... '
            'Test a checkpoint with the config it was trained with'
        ) from None


def check_files(cfg: Config, splits: Sequence[str]) -> None:
    """Check that the files which the data sets of ``splits`` name are there.

    Raises:
        FileNotFoundError: Naming the missing path and the keys to change.
    """
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if not loader:
            continue
        for dataset in _datasets(loader.get('dataset', {})):
            root = dataset.get('data_root') or ''
            paths = [dataset.get('ann_file')]
            prefix = dataset.get('data_prefix') or {}
            if isinstance(prefix, str):
                prefix = dict(img_path=prefix)
            paths += prefix.values()
            for path in filter(None, paths):
                full = os.path.join(root, path)  # noqa: PTH118 - may be a URL
                if '://' in full or ':' in full.split('/')[0]:
                    continue
                if not Path(full).exists():
                    raise FileNotFoundError(
                        f'{full} does not exist ({split}_dataloader, '
                        f'{dataset.get("type")}). Put the data set there, '
                        'or point to yours with --cfg-options '
                        f'{split}_dataloader.dataset.data_root=...'
                    )


def _datasets(cfg: Any) -> Iterator[dict]:
    """Yield the innermost data sets of repeated and joined ones."""
    inner = cfg.get('dataset') or cfg.get('datasets')
    if inner is None:
        yield cfg
        return
    for dataset in inner if isinstance(inner, (list, tuple)) else [inner]:
        yield from _datasets(dataset)


def check_not_empty(runner: Runner) -> None:
    """Check that there is something to train on.

    Raises:
        ValueError: If the training set has no sample.
    """
    dataset = runner.train_loop.dataloader.dataset
    if len(dataset) == 0:
        raise ValueError(
            f'The training set ({type(dataset).__name__}) is empty: no '
            'sample is left of its annotation file. Check that the classes '
            'in metainfo are those of the file, and filter_cfg'
        )
    print_log(f'{len(dataset):,} training samples', logger='current')
