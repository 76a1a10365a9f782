"""Compare RLRR with other tuners on real digits; minutes on a CPU.

python tools/tune_digits.py [--seed 0] [--backbones swin vit]
    [--methods linear ssf lora rlrr full] [--work-dir DIR]

Pre-trains a small Swin and a small ViT on digits that stand, and tunes
each on a third of the digits as they lie on their side. Stopped? Run it
again: finished runs are skipped.
"""

import argparse
import os
from pathlib import Path

from mmlowrank.analysis import tuning_table
from mmlowrank.checkpoint.resuming import latest_checkpoint
from mmlowrank.datasets.digit_scenes import write_digit_scenes
from mmlowrank.engine import jobs

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs' / 'quickstart'
# Name on the command line -> name in the table, tuner in the config's name.
METHODS = {
    'linear': ('linear probing', 'fixed'),
    'ssf': ('SSF', 'ssf'),
    'lora': ('LoRA, rank 8', 'lora-r8'),
    'rlrr': ('RLRR', 'rlrr'),
    'full': ('full tuning', 'full'),
}
# Backbone -> the variable that names its checkpoint in the configs.
BACKBONES = {'swin': 'DIGIT_SWIN', 'vit': 'DIGIT_VIT'}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument('--seed', type=int, default=0)
    for name, choices in (('backbones', BACKBONES), ('methods', METHODS)):
        parser.add_argument(
            f'--{name}',
            nargs='+',
            default=list(choices),
            choices=list(choices),
        )
    parser.add_argument(
        '--work-dir',
        type=Path,
        help='default: work_dirs/tune_digits, with the seed if it is not 0,\n'
        'and -smoke with --smoke',
    )
    parser.add_argument(
        '--smoke',
        action='store_true',
        help='one epoch of everything: does it run?',
    )
    return parser.parse_args()


def finished_row(
    method: str,
    config: str,
    name: str,
    runner: jobs.Runner,
    args: argparse.Namespace,
) -> tuning_table.Row:
    """Return the result of a run, after running it if need be."""
    options = ['--cfg-options', f'randomness.seed={args.seed}']
    if args.smoke:
        options += ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1']
        options += ['default_hooks.checkpoint.interval=1']
        options += ['default_hooks.logger.interval=1']
    work_dir = runner.folder / name
    runner.run([jobs.Job(name, CONFIGS / config, work_dir, options)])
    row = tuning_table.read_row(method, work_dir)
    runner.say(f'    {row.accuracy:.1f} %')
    return row


def tune(runner: jobs.Runner, args: argparse.Namespace) -> str:
    """Run everything and return the table."""
    tables = {}
    for backbone in args.backbones:
        pretrained = f'{backbone}-pretrain'
        config = f'pretrain_{backbone}-mini_digits.py'
        finished_row('pretrain', config, pretrained, runner, args)
        # The configs read the variable.
        checkpoint = latest_checkpoint(runner.folder / pretrained)
        os.environ[BACKBONES[backbone]] = checkpoint
        tables[backbone] = [
            finished_row(
                title,
                f'{backbone}-mini_{tuner}_30e_digits-turned.py',
                f'{backbone}-{method}',
                runner,
                args,
            )
            for method, (title, tuner) in METHODS.items()
            if method in args.methods
        ]
    return tuning_table.format_table(tables)


def main() -> None:
    """Write the digits, run, print."""
    args = parse_args()
    root = Path('work_dirs/tune_digits')
    if args.seed:
        root = root.with_name(f'{root.name}-seed{args.seed}')
    if args.smoke:
        root = root.with_name(f'{root.name}-smoke')
    with jobs.runner(__file__, args.work_dir or root) as runner:
        scenes = runner.folder / 'digits'
        # The digits alone are read here; of scenes one each is the least.
        write_digit_scenes(scenes, num_train=1, num_val=1, seed=args.seed)
        os.environ['DIGIT_SCENES'] = str(scenes)
        table = tune(runner, args)
        (runner.folder / 'table.md').write_text(table + '\n')
    print(f'\n{table}')


if __name__ == '__main__':
    main()
