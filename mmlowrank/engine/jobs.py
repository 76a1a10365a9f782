"""Run trainings below a folder: locked, shown, continued, never left behind.

Each step of a job is a process of its own, on the leash of ``leash.py``.
"""

import argparse
import json
import math
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from ..checkpoint.resuming import latest_checkpoint
from . import launch
from .tuned_config import read

STATE = 'job.json'
_LEASH = Path(__file__).with_name('leash.py')
_COUNT = re.compile(
    r'(?:Iter|Epoch)\((train|val|test)\) +(?:\[(\d+)\])?\[ *(\d+)/ *(\d+)\]'
)


@dataclass(frozen=True)
class Job:
    """A training, and a test of what it trained.

    Attributes:
        name: Shown, and part of the names of the logs.
        config: Config file.
        work_dir: The ``--work-dir`` of tools/train.py.
        options: Its other arguments.
        test: Whether tools/test.py follows, into ``work_dir/test``.
    """

    name: str
    config: Path
    work_dir: Path
    options: Sequence[str] = ()
    test: bool = False

    @property
    def steps(self) -> list[str]:
        """Names of the tools, in order."""
        return ['train', 'test'] if self.test else ['train']

    def is_done(self) -> bool:
        """Whether every step has succeeded, in this process or another."""
        return set(self.steps) <= set(self.state().get('done', ()))

    def state(self) -> dict:
        """Return the settings it began with and the steps that are done."""
        path = self.work_dir / STATE
        return json.loads(path.read_text()) if path.is_file() else {}

    def save(self, state: dict) -> None:
        """Replace the state, whole or not at all."""
        partial = self.work_dir / f'{STATE}.partial'
        partial.write_text(json.dumps(state))
        partial.replace(self.work_dir / STATE)


@contextmanager
def runner(script: str | Path, folder: str | Path) -> Iterator['Runner']:
    """Hold a folder and run jobs in it.

    Args:
        script: The calling tool, beside tools/train.py.
        folder: Its own until the end; holds the logs.

    Raises:
        SystemExit: If somebody else holds the folder, if a job fails, or
            after Ctrl-C, SIGTERM or SIGHUP. No job runs any more then.
    """
    tool, folder = Path(script).stem, Path(folder).resolve()
    with _signals_interrupt(), _locked(tool, folder):
        found = Runner(Path(script), folder)
        try:
            yield found
        except KeyboardInterrupt:
            found.say('stopped; run it again to continue')
            sys.exit(130)
        except OSError as error:
            sys.exit(
                f'{error}\n{tool}: mend the cause and run this again; it '
                'continues here'
            )


class Runner:
    """Runs jobs; made by :func:`runner`."""

    def __init__(self, script: Path, folder: Path) -> None:
        self.tool, self.tools = script.stem, script.resolve().parent
        self.folder = folder
        self.console = Console(highlight=False, markup=False, soft_wrap=True)
        # Each config that is read would say which variables it takes.
        MMLogger.get_current_instance().setLevel('ERROR')

    def say(self, text: str) -> None:
        """Print a line that stays, above those that move."""
        self.console.print(f'[{self.tool}] {text}')

    def run(self, jobs: Iterable[Job], at_once: int = 1) -> None:
        """Run what is not done, in order; go on where it was stopped.

        Args:
            jobs: Jobs with a name and a folder of their own.
            at_once: How many may run at a time.

        Raises:
            ChildProcessError: If one fails; the others are ended.
        """
        waiting = deque(job for job in jobs if not self._skip(job))
        running: list[_Run] = []
        bars = Progress(
            TextColumn('    {task.description}', markup=False),
            BarColumn(20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        shown = -math.inf
        with bars:
            try:
                while waiting or running:
                    while waiting and len(running) < at_once:
                        running.append(_Run(self, waiting.popleft(), bars))
                    time.sleep(0.5)
                    running = [run for run in running if run.goes_on()]
                    # A file gets a line each half minute.
                    pause = time.monotonic() - shown
                    if bars.disable and running and pause >= 30:
                        shown = time.monotonic()
                        lines = [run.progress() for run in running]
                        self.say('    ' + '  '.join(lines))
            finally:
                for run in running:
                    run.end()

    def _skip(self, job: Job) -> bool:
        if not job.is_done():
            return False
        same = job.state()['settings'] == self.settings(job)[0]
        what = '' if same else ', with other settings'
        self.say(
            f'    {job.name}: done before{what} (remove {job.work_dir} to '
            'repeat it)'
        )
        return True

    def settings(self, job: Job) -> tuple[str, int | None]:
        """Return what decides a job's result, and its number of epochs.

        The text does not depend on where the folder and the config are.
        """
        parser = argparse.ArgumentParser()
        launch.add_arguments(parser)
        args, others = parser.parse_known_args([*map(str, job.options)])
        cfg = read(str(job.config), args.cfg_options, args.tuner)
        text = json.dumps(
            [cfg.to_dict(), others],
            default=str,
            sort_keys=True,
            ensure_ascii=False,
        )
        epochs = cfg.train_cfg.get('max_epochs')
        return text.replace(str(self.folder), ''), epochs


class _Run:
    """A job under way, one step after the other."""

    def __init__(self, runner: Runner, job: Job, bars: Progress) -> None:
        self.runner, self.job, self.bars = runner, job, bars
        self.began = time.monotonic()
        job.work_dir.mkdir(parents=True, exist_ok=True)
        settings, self.epochs = runner.settings(job)
        self.state = job.state()
        if not self.state or not latest_checkpoint(job.work_dir):
            self.state = dict(settings=settings, done=[])
            job.save(self.state)
        elif self.state['settings'] != settings:
            # A checkpoint brings its own learning rate.
            runner.say(
                f'    {job.name} goes on with what it began with, as far as '
                'its checkpoint holds that; other settings are asked for now '
                f'(remove {job.work_dir} to begin again)'
            )
        self.bar = bars.add_task(job.name, total=None)
        self._start()

    def _start(self) -> None:
        job = self.job
        self.step = next(s for s in job.steps if s not in self.state['done'])
        if self.step == 'train':
            words = [job.config, '--work-dir', job.work_dir]
            words += ['--resume', *job.options]
        else:
            folder = job.work_dir / 'test'
            checkpoint = latest_checkpoint(job.work_dir)
            words = [job.config, checkpoint, '--work-dir', folder]
            words += ['--out', folder / 'predictions.pkl']
        script = self.runner.tools / f'{self.step}.py'
        command = [str(word) for word in (sys.executable, script, *words)]
        self.log = self.runner.folder / 'logs' / f'{self.step}-{job.name}.log'
        self.log.parent.mkdir(exist_ok=True)
        # Appended: what an earlier start said of its end is not lost.
        with self.log.open('ab') as log:
            log.write(f'$ {shlex.join(command)}\n'.encode())
            log.flush()
            self.offset = log.tell()
            self.process = subprocess.Popen(
                [sys.executable, '-I', str(_LEASH), *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def goes_on(self) -> bool:
        """Look at the process, start the next step; False after the last.

        Raises:
            ChildProcessError: If a step failed.
        """
        self.progress()
        code = self.process.poll()
        if code is None:
            return True
        self.end()
        if code:
            lines = self._said().splitlines()[-15:]
            name = f'{self.job.name} ({self.step}.py)'
            lines.append(f'{name} failed. The whole log is {self.log}')
            raise ChildProcessError('\n'.join(lines))
        self.state['done'].append(self.step)
        self.job.save(self.state)
        if not self.job.is_done():
            self._start()
            return True
        self.bars.remove_task(self.bar)
        seconds = time.monotonic() - self.began
        self.runner.say(f'    {self.job.name} is done, {seconds:.0f} s')
        return False

    def end(self) -> None:
        """Let go of the leash; returns when nothing is left behind it."""
        self.process.stdin.close()
        self.process.wait()

    def progress(self) -> str:
        """Move the bar to the newest count in the log; return it as text."""
        found = _COUNT.findall(self._said(8192))
        kind, epoch, now, end = found[-1] if found else ('starts', '', 0, 0)
        now, end = int(now), int(end)
        if kind == 'train' and epoch and self.epochs:
            now += (int(epoch) - 1) * end
            end *= self.epochs
        text = f'{self.job.name:<10} {kind:<6}'
        self.bars.update(
            self.bar, description=text, completed=now, total=end or None
        )
        return f'{text} {now}/{end}' if end else text.rstrip()

    def _said(self, most: int | None = None) -> str:
        """Return what this step has printed; its last bytes if it is long."""
        with self.log.open('rb') as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self.offset, end - (most or end)))
            return log.read().decode(errors='replace')


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let what asks this process to end do it as Ctrl-C does."""
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _locked(tool: str, folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which ends with this process."""
    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / '.lock.holder'
    try:
        with FileLock(folder / '.lock', blocking=False):
            me = f'process {os.getpid()} on {socket.gethostname()}'
            command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
            holder.write_text(f'{me}, since {time.ctime()}: {command}')
            try:
                yield
            finally:
                holder.unlink()
    except Timeout:
        who = 'unknown'
        with suppress(FileNotFoundError):
            who = holder.read_text()
        sys.exit(
            f'{tool}: another run is at work in {folder} ({who}). Let it '
            'finish or end it, then run this again'
        )
