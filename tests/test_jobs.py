"""The runner of jobs, with tools that only pretend to train."""

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from filelock import FileLock

from mmlowrank.engine import jobs

# Its worker is what a data loader has.
TRAIN = """
import os, subprocess, sys, time, zipfile
from pathlib import Path

_, config, _, work, *options = sys.argv
begin = time.time()
print('Epoch(train)  [2][ 5/10]', options, flush=True)
zipfile.ZipFile(Path(work) / 'epoch_2.pth', 'w').close()
(Path(work) / 'last_checkpoint').write_text(f'{work}/epoch_2.pth')
does = os.environ.get('DOES')
if does == work.split('/')[-1]:
    sys.exit(f'{does} fell over')
if does == 'sleep':
    worker = subprocess.Popen(['sleep', '60'])
    (Path(work) / 'pids').write_text(f'{os.getpid()} {worker.pid} .')
    time.sleep(60)
time.sleep(0.5)
(Path(work) / 'times').write_text(f'{begin} {time.time()}')
"""
TEST = "import sys; print('tests', sys.argv[2:])"


@pytest.fixture
def script(tmp_path):
    """A tool that does not exist, beside those that its jobs need."""
    (tmp_path / 'tools').mkdir()
    (tmp_path / 'tools/train.py').write_text(TRAIN)
    (tmp_path / 'tools/test.py').write_text(TEST)
    return tmp_path / 'tools/few.py'


def run(script, folder, *names, options=(), test=False, at_once=1):
    folder.mkdir(exist_ok=True)
    config = folder / 'config.py'
    config.write_text(
        f"load_from = '{folder}/x.pth'\ntrain_cfg = dict(max_epochs=4)\n"
    )
    if options:
        options = ('--amp', '--cfg-options', *options)
    with jobs.runner(script, folder) as runner:
        made = [
            jobs.Job(name, config, runner.folder / name, options, test)
            for name in names
        ]
        runner.run(made, at_once)


def test_steps_run_in_order_and_once(script, tmp_path, capsys):
    work = tmp_path / 'work'
    run(script, work, 'one', options=['a=1'], test=True)
    said = capsys.readouterr().out
    assert '[few]     one        train  15/40\n' in said
    assert '[few]     one is done, ' in said
    log = (work / 'logs/train-one.log').read_text()
    assert "'--resume', '--amp', '--cfg-options', 'a=1'" in log
    log = (work / 'logs/test-one.log').read_text()
    assert f"['{work}/one/epoch_2.pth', '--work-dir', '{work}/one/test'" in log

    before = (work / 'one/times').read_text()
    run(script, work, 'one', options=['a=1'], test=True)
    run(script, work, 'one', options=['a=2'], test=True)
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f'[few]     one: done before{what} (remove {work}/one to repeat it)'
        for what in ('', ', with other settings')
    ]
    assert (work / 'one/times').read_text() == before


def test_as_many_at_once_as_asked_for(script, tmp_path):
    def most(at_once):
        work = tmp_path / str(at_once)
        run(script, work, 'a', 'b', 'c', at_once=at_once)
        spans = [
            [
                float(word)
                for word in (work / name / 'times').read_text().split()
            ]
            for name in 'abc'
        ]
        assert spans[2][0] > min(end for _, end in spans[:2])
        return max(
            sum(begin <= moment < end for begin, end in spans)
            for moment, _ in spans
        )

    assert most(1) == 1
    assert most(2) == 2


def test_the_log_of_a_crash_is_shown_and_kept(
    script, tmp_path, monkeypatch, capsys
):
    work = tmp_path / 'work'
    monkeypatch.setenv('DOES', 'b')
    with pytest.raises(SystemExit) as stop:
        run(script, work, 'a', 'b', 'c', options=['a=1'])
    assert 'b fell over\n' in stop.value.code
    log = work / 'logs/train-b.log'
    assert f'b (train.py) failed. The whole log is {log}\n' in stop.value.code
    assert 'few: mend the cause and run this again' in stop.value.code

    monkeypatch.delenv('DOES')
    capsys.readouterr()
    run(script, work, 'a', 'b', 'c', options=['a=2'])
    said = capsys.readouterr().out
    assert 'a: done before, with other settings' in said
    assert 'b goes on with what it began with' in said
    assert 'c goes on' not in said
    # Again: what b began with still differs.
    assert log.read_text().count('fell over') == 1
    assert log.read_text().count('$ ') == 2
    run(script, work, 'b', 'c', options=['a=2'])
    said = capsys.readouterr().out
    assert 'b: done before, with other settings' in said
    assert 'c: done before (' in said


def test_a_moved_folder_goes_on(script, tmp_path, monkeypatch, capsys):
    old, new = tmp_path / 'old', tmp_path / 'new'
    run(script, old, 'a', test=True)
    monkeypatch.setenv('DOES', 'b')
    with pytest.raises(SystemExit):
        run(script, old, 'b', test=True)
    shutil.move(old, new)
    monkeypatch.delenv('DOES')
    capsys.readouterr()
    run(script, new, 'a', 'b', test=True)
    said = capsys.readouterr().out
    assert f'a: done before (remove {new}/a' in said
    assert 'goes on with what it began with' not in said
    assert f"'{new}/b/epoch_2.pth'" in (new / 'logs/test-b.log').read_text()
    assert not old.exists()


def run_attended(*args, **kwargs):
    """Run as from a terminal, also where the tests run in the background.

    A shell starts background processes with signals ignored, and what is
    ignored, as by nohup, stays so.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    run(*args, **kwargs)


@pytest.fixture
def sleeping(script, tmp_path, monkeypatch):
    """A process with two jobs under way, and the processes of these."""
    monkeypatch.setenv('DOES', 'sleep')
    work = tmp_path / 'work'
    process = multiprocessing.get_context('fork').Process(
        target=run_attended,
        args=(script, work, 'a', 'b'),
        kwargs=dict(at_once=2),
    )
    process.start()
    files = [work / name / 'pids' for name in 'ab']
    deadline = time.time() + 60
    while not all(f.exists() and f.read_text().endswith('.') for f in files):
        assert process.is_alive()
        assert time.time() < deadline
        time.sleep(0.05)
    pids = [int(p) for f in files for p in f.read_text().split()[:2]]
    assert all(map(runs, pids))
    yield process, pids, work
    process.kill()
    process.join()


def runs(pid: int) -> bool:
    try:
        stat = Path(f'/proc/{pid}/stat').read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(')')[2].split()[0] != 'Z'


@pytest.mark.parametrize(
    ('name', 'code'),
    [('SIGINT', 130), ('SIGTERM', 130), ('SIGHUP', 130), ('SIGKILL', -9)],
)
def test_nothing_is_left_behind(name, code, sleeping):
    process, pids, work = sleeping
    os.kill(process.pid, signal.Signals[name])
    process.join(timeout=30)
    assert process.exitcode == code
    deadline = time.time() + 10
    while any(map(runs, pids)):
        assert time.time() < deadline, 'a training goes on'
        time.sleep(0.05)
    with FileLock(work / '.lock', blocking=False):
        pass
    assert not jobs.Job('a', 'x.py', work / 'a').is_done()


def test_nohup_is_respected(script, tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with jobs.runner(script, tmp_path / 'work'):
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_second_of_two_is_told_who_is_first(script, sleeping):
    process, pids, work = sleeping
    with pytest.raises(SystemExit) as stop:
        run(script, work, 'a')
    assert 'few: another run is at work in' in stop.value.code
    assert f'(process {process.pid} on ' in stop.value.code
    assert all(map(runs, pids))
