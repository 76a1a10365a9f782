"""Run tools/train.py in a process of its own, with progress and a log."""

import fcntl
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ASKED = 'asked.json'
_COUNT = re.compile(r'Epoch\((train|val)\) +\[(\d+)\]\[ *(\d+)/ *(\d+)\]')


class ChildFailed(RuntimeError):
    """A training run failed; the text holds the end of its log."""


def stop_like_ctrl_c() -> None:
    """Let a killed process end its child, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def train(
    script: Path,
    name: str,
    config: Path,
    work_dir: Path,
    options: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> float:
    """Train a config that counts in epochs, or go on with it.

    What it prints goes to ``work_dir/train.log``; what is shown is ``name``
    and how far it is.

    Args:
        script: tools/train.py.
        name: Shown before the progress.
        config: Config file.
        work_dir: Where logs and checkpoints go.
        options: Other arguments of tools/train.py.
        env: The environment, if not this one.

    Returns:
        The seconds that it took.

    Raises:
        ChildFailed: If training fails, or another run is at work in
            ``work_dir``.
        KeyboardInterrupt: If this process is interrupted; the child has
            ended by then.
    """
    command = [sys.executable, script, config, '--work-dir', work_dir]
    command += ['--resume', 'auto', *options]
    log = work_dir / 'train.log'
    begin = time.monotonic()
    with _locked(work_dir) as lock:
        _note(work_dir, name, config, options)
        with (
            log.open('wb') as file,
            subprocess.Popen(
                [str(word) for word in command],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=env,
                # Locked until the child ends, should it outlive this process.
                pass_fds=[lock.fileno()],
            ) as process,
        ):
            try:
                while process.poll() is None:
                    seconds = time.monotonic() - begin
                    text = f'{name}  {_progress(log)}  {seconds:.0f} s'
                    _show(text, seconds)
                    time.sleep(1)
            except KeyboardInterrupt:
                process.terminate()
                process.wait()
                raise
    if process.returncode:
        lines = log.read_text(errors='replace').splitlines()
        raise ChildFailed(
            '\n'.join([*lines[-15:], f'{name} failed. The whole log is {log}'])
        )
    return time.monotonic() - begin


def done_before(
    work_dir: Path, config: Path, options: Sequence[str] = ()
) -> str:
    """Return what to say of a finished run instead of running it again.

    Args:
        work_dir: Its folder.
        config: The config that is asked for now.
        options: The options that are asked for now.
    """
    path = work_dir / ASKED
    if path.is_file() and path.read_text() != _asked(config, options):
        return (
            'done before, with other settings (remove '
            f'{work_dir} to repeat it with these)'
        )
    return 'done before'


@contextmanager
def _locked(work_dir: Path) -> Iterator[IO[str]]:
    work_dir.mkdir(parents=True, exist_ok=True)
    with (work_dir / '.lock').open('w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ChildFailed(
                f'Another run is at work in {work_dir}. Let it finish, or '
                f'end it (fuser {lock.name} names its processes)'
            ) from None
        yield lock


def _note(
    work_dir: Path, name: str, config: Path, options: Sequence[str]
) -> None:
    """Write down what the run in a folder began with."""
    asked, path = _asked(config, options), work_dir / ASKED
    begun = (work_dir / 'last_checkpoint').exists() and path.is_file()
    if not begun:
        path.write_text(asked)
    elif path.read_text() != asked:
        # A checkpoint brings its own learning rate.
        say(
            f'{name}  goes on with what it began with, as far as its '
            'checkpoint holds that; other settings are asked for now '
            f'(remove {work_dir} to begin again)'
        )


def _asked(config: Path, options: Sequence[str]) -> str:
    return json.dumps([str(config.resolve()), *map(str, options)]) + '\n'


def say(text: str) -> None:
    """Print a line that stays, in the place of the moving one."""
    clear = '\r\033[K' if sys.stdout.isatty() else ''
    print(f'{clear}{text}', flush=True)


def _show(text: str, seconds: float) -> None:
    """Print on one line that moves; in a file, a line each half minute."""
    if sys.stdout.isatty():
        print(f'\r{text}\033[K', end='', flush=True)
    elif int(seconds) % 30 == 0:
        print(text, flush=True)


def _progress(log: Path) -> str:
    """Return how far the newest line of a log is."""
    with log.open('rb') as file:
        file.seek(max(0, log.stat().st_size - 8192))
        found = _COUNT.findall(file.read().decode(errors='replace'))
    if not found:
        return 'starts'
    kind, epoch, step, steps = found[-1]
    return f'epoch {epoch} {kind} {step}/{steps}'
