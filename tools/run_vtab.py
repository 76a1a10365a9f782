"""Train one method on the tasks of VTAB-1k and print the table.

python tools/run_vtab.py \
    'configs/rlrr/vit-b-p16_rlrr_110e_vtab1k-{task}.py' [--amp]
    [--tasks cifar kitti] [--work-dir DIR] [--cfg-options ...]

Runs one task after the other. Stopped? Run it again: finished tasks are
skipped, the one that was running goes on from its last checkpoint. With all
tasks finished it only prints.
"""

import argparse
import sys
from pathlib import Path

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
        'configs',
        help='path of the configs with {task} where the name of the task is\n'
        '(in file names of configs/rlrr with dashes: oxford-iiit-pet)',
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
        '(default: work_dirs/<name of the configs>)',
    )
    parser.add_argument('--amp', action='store_true', help='see train.py')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        help='passed to train.py for every task',
    )
    return parser.parse_args()


def config_of(pattern: str, task: str) -> Path:
    """Return the config of a task.

    Raises:
        SystemExit: If the pattern has no place for it, or names no file.
    """
    if '{task}' not in pattern:
        sys.exit(
            f'run_vtab: {pattern} must have {{task}} in the place of the '
            "task's name, e.g. '..._vtab1k-{task}.py' (in quotes)"
        )
    path = Path(pattern.replace('{task}', task.replace('_', '-')))
    if not path.is_file():
        sys.exit(f'run_vtab: there is no config {path}')
    return path


def main() -> None:
    """Train what is not finished; print the table."""
    args = parse_args()
    stem = Path(args.configs).stem.replace('{task}', '').rstrip('-_')
    root = args.work_dir or Path('work_dirs') / stem
    options = ['--amp'] if args.amp else []
    options += ['--cfg-options', *args.cfg_options] if args.cfg_options else []
    # All names first: a typo in the pattern shall not wait for task 19.
    configs = {task: config_of(args.configs, task) for task in args.tasks}
    child_run.stop_like_ctrl_c()
    for number, (task, config) in enumerate(configs.items(), 1):
        name = f'[{number}/{len(configs)}] {task}'
        result = vtab.read_result(root / task)
        if result is not None:
            done = child_run.done_before(root / task, config, options)
            child_run.say(f'{name}  best {result.best:.1f}  {done}')
            continue
        try:
            seconds = child_run.train(
                TRAIN, name, config, root / task, options
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
