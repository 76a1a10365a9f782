"""Train a config of mmdet, mmseg or mmpretrain.

python tools/train.py CONFIG [--work-dir DIR] [--resume [auto|CKPT]] [--amp]
    [--tuner NAME] [--print] [--no-validate]
"""

import argparse
import contextlib
import sys

from mmlowrank.checkpoint.resuming import latest_checkpoint, seed_of
from mmlowrank.checkpoint.trust import unpickling
from mmlowrank.engine import FreezeAuditHook, ReplayHook, launch
from mmlowrank.engine.resume_hook import ResumeHook
from mmlowrank.engine.tuned_config import read


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='continue from the newest checkpoint of the work dir, if there '
        'is one, or from the given checkpoint',
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help='mixed precision: float16, in training with dynamic loss '
        'scaling, and in validation',
    )
    parser.add_argument(
        '--no-validate',
        action='store_true',
        help='do not validate during training, nor look for its data',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the total batch size',
    )
    parser.add_argument(
        '--print',
        action='store_true',
        help='print the config as --tuner and --cfg-options make it, ready to '
        'be kept as a file, and stop',
    )
    launch.add_arguments(parser)
    return parser.parse_args()


def main() -> None:
    """Train."""
    args = parse_args()
    if args.print:
        # What is said while it is read is no part of it.
        with contextlib.redirect_stdout(sys.stderr):
            cfg = read(args.config, args.cfg_options, args.tuner)
            text = cfg.pretty_text
        print(text)
        return
    with unpickling(args.trust):
        train(args)


def train(args: argparse.Namespace) -> None:
    """Read the config, look for a checkpoint, train."""
    cfg = launch.load_config(args)
    if args.amp:
        launch.evaluate_in_half(cfg)
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise SystemExit(
                '--auto-scale-lr needs auto_scale_lr.base_batch_size in the '
                'config: the total batch size that its lr is meant for'
            )
        cfg.auto_scale_lr.enable = True
    resume_from = args.resume
    if not resume_from and cfg.get('resume'):
        resume_from = cfg.get('load_from') or 'auto'
    if resume_from == 'auto':
        # None at a first start, which loads what the config says.
        resume_from = latest_checkpoint(cfg.work_dir)
    if resume_from:
        cfg.resume, cfg.load_from = True, resume_from
        # Data and model are built before mmengine reads what it resumes.
        seed = seed_of(resume_from)
        if seed is not None:
            cfg.merge_from_dict({'randomness.seed': seed})
    splits = ['train', 'val']
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        splits = ['train']
    runner = launch.start(cfg, splits)
    runner.register_hook(ResumeHook())
    for kind in (ReplayHook, FreezeAuditHook):
        if not any(isinstance(hook, kind) for hook in runner.hooks):
            runner.register_hook(kind())
    runner.train()
    launch.leave_process_group()


if __name__ == '__main__':
    main()
