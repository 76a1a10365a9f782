"""Train one method on the tasks of VTAB-1k and print the table.

python tools/run_vtab.py configs/rlrr/vit-b-p16_rlrr_110e_vtab1k.py [--amp]
    [--tasks cifar kitti] [--work-dir DIR] [--cfg-options ...]

The config takes its task from VTAB_TASK in the environment. Runs one task
after the other. Stopped? Run it again: finished tasks are skipped, the one
that was running goes on from its last checkpoint. With all tasks finished it
only prints.
"""

import argparse
import os
import sys
from pathlib import Path

from mmengine.config import Config

from mmlowrank.analysis import vtab
from mmlowrank.datasets.vtab_tasks import TASKS
from mmlowrank.engine import jobs


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        'config',
        type=Path,
        help='a config that takes its task from VTAB_TASK',
    )
    parser.add_argument(
        '--tasks',
        nargs='+',
        default=list(TASKS),
        choices=list(TASKS),
        metavar='TASK',
        help=f'default: all, which are {", ".join(TASKS)}',
    )
    parser.add_argument(
        '--work-dir',
        type=Path,
        help='a folder for each task is made in it\n'
        '(default: work_dirs/<name of the config>)',
    )
    parser.add_argument('--amp', action='store_true', help='see train.py')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        help='passed to train.py for every task',
    )
    return parser.parse_args()


def choose(task: str, config: Path) -> None:
    """Make ``task`` the one that the config takes from the environment.

    Raises:
        SystemExit: If the config does not take it.
    """
    os.environ['VTAB_TASK'] = task
    found = Config.fromfile(config).train_dataloader.dataset.get('task')
    if found != task:
        sys.exit(
            f'run_vtab: {config} with VTAB_TASK={task} trains {found}. Let '
            'it take its task from the environment, as '
            'configs/rlrr/_base_/vtab1k.py does'
        )


def main() -> None:
    """Train what is not finished; print the table."""
    args = parse_args()
    if not args.config.is_file():
        sys.exit(f'run_vtab: there is no config {args.config}')
    root = args.work_dir or Path('work_dirs') / args.config.stem
    options = ['--amp'] if args.amp else []
    options += ['--cfg-options', *args.cfg_options] if args.cfg_options else []
    runs = {
        task: jobs.Job(task, args.config, root / task, options)
        for task in TASKS
    }
    for number, task in enumerate(args.tasks, 1):
        # A folder is held, not the root: GPUs may share the tasks.
        with jobs.runner(__file__, root / task) as runner:
            choose(task, args.config)
            runner.run([runs[task]])
            best = vtab.read_result(root / task).best
            runner.say(f'[{number}/{len(args.tasks)}] {task}  best {best:.1f}')
    found = {
        task: vtab.read_result(root / task)
        for task, run in runs.items()
        if run.is_done()
    }
    table = vtab.format_table(found)
    (root / 'table.md').write_text(table + '\n')
    print(f'\n{table}')


if __name__ == '__main__':
    main()
