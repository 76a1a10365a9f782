"""Train one method on the tasks of VTAB-1k and print the table.

python tools/run_vtab.py \
    'configs/rlrr/vit-b-p16_rlrr_110e_vtab1k-{task}.py' [--amp]
    [--tasks cifar kitti] [--work-dir DIR] [--cfg-options ...]

Runs one task after the other. Stopped? Run it again: finished tasks are
skipped, the one that was running goes on from its last checkpoint. With all
tasks finished it only prints.
"""

import argparse
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from mmlowrank.analysis import vtab
from mmlowrank.datasets.vtab_tasks import TASKS

TRAIN = Path(__file__).with_name('train.py')
_COUNT = re.compile(r'Epoch\((train|val)\) +\[(\d+)\]\[ *(\d+)/ *(\d+)\]')


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


def progress(log: Path) -> str:
    """Return how far the newest line of a log is."""
    with log.open('rb') as file:
        file.seek(max(0, log.stat().st_size - 8192))
        found = _COUNT.findall(file.read().decode(errors='replace'))
    if not found:
        return 'starts'
    kind, epoch, step, steps = found[-1]
    return f'epoch {epoch} {kind} {step}/{steps}'


def show(text: str, seconds: float, last: bool = False) -> None:
    """Print on one line that moves; in a file, a line each half minute."""
    if sys.stdout.isatty():
        print(f'\r{text}\033[K', end='\n' if last else '', flush=True)
    elif last or int(seconds) % 30 == 0:
        print(text, flush=True)


def train(
    name: str, config: Path, work_dir: Path, args: argparse.Namespace
) -> vtab.Result:
    """Train one task, or go on with it.

    Raises:
        SystemExit: If training fails.
    """
    command = [sys.executable, TRAIN, config, '--work-dir', work_dir]
    command += ['--resume', 'auto']
    command += ['--amp'] if args.amp else []
    command += ['--cfg-options', *args.cfg_options] if args.cfg_options else []
    work_dir.mkdir(parents=True, exist_ok=True)
    log = work_dir / 'train.log'
    begin = time.monotonic()
    with (
        log.open('wb') as file,
        subprocess.Popen(
            [str(word) for word in command],
            stdout=file,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            while process.poll() is None:
                seconds = time.monotonic() - begin
                show(f'{name}  {progress(log)}  {seconds:.0f} s', seconds)
                time.sleep(1)
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            sys.exit('\nrun_vtab: stopped; run it again to go on')
    if process.returncode:
        lines = log.read_text(errors='replace').splitlines()
        print('\n'.join(['', *lines[-15:]]), file=sys.stderr)
        sys.exit(
            f'run_vtab: {name} failed. The whole log is {log}; after mending '
            'the cause, run this again: it goes on here'
        )
    result = vtab.finish(work_dir)
    seconds = time.monotonic() - begin
    show(f'{name}  best {result.best:.1f}  {seconds:.0f} s', seconds, True)
    return result


def main() -> None:
    """Train what is not finished; print the table."""
    args = parse_args()
    # A killed run shall not leave its training behind, as Ctrl-C does not.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stem = Path(args.configs).stem.replace('{task}', '').rstrip('-_')
    root = args.work_dir or Path('work_dirs') / stem
    # All names first: a typo in the pattern shall not wait for task 19.
    configs = {task: config_of(args.configs, task) for task in args.tasks}
    for number, (task, config) in enumerate(configs.items(), 1):
        name = f'[{number}/{len(configs)}] {task}'
        result = vtab.read_result(root / task)
        if result is None:
            train(name, config, root / task, args)
        else:
            print(f'{name}  best {result.best:.1f}  done before')
    found = {task: vtab.read_result(root / task) for task in TASKS}
    table = vtab.format_table({t: r for t, r in found.items() if r})
    (root / 'table.md').write_text(table + '\n')
    print(f'\n{table}')


if __name__ == '__main__':
    main()
