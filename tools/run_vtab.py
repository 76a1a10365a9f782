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
from mmlowrank.engine import child_run

TRAIN = Path(__file__).with_name('train.py')


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
    child_run.stop_like_ctrl_c()
    for number, task in enumerate(args.tasks, 1):
        name = f'[{number}/{len(args.tasks)}] {task}'
        result = vtab.read_result(root / task)
        if result is not None:
            done = child_run.done_before(root / task, args.config, options)
            child_run.say(f'{name}  best {result.best:.1f}  {done}')
            continue
        choose(task, args.config)
        try:
            seconds = child_run.train(
                TRAIN, name, args.config, root / task, options
            )
        except KeyboardInterrupt:
            sys.exit('\nrun_vtab: stopped; run it again to go on')
        except child_run.ChildFailed as error:
            sys.exit(
                f'\n{error}\nrun_vtab: mend the cause and run this again; it '
                'goes on here'
            )
        best = vtab.finish(root / task).best
        child_run.say(f'{name}  best {best:.1f}  {seconds:.0f} s')
    found = {task: vtab.read_result(root / task) for task in TASKS}
    table = vtab.format_table({t: r for t, r in found.items() if r})
    (root / 'table.md').write_text(table + '\n')
    print(f'\n{table}')


if __name__ == '__main__':
    main()
