"""Kill runs with SIGKILL at random moments, let them go on, compare the ends.

python tests/kill_runs.py FOLDER [--kills 200] [--seed 0]

Each of several small runs is done once without interruption, and then again
and again, killed at a random moment and resumed until it ends. What it ends
with must be equal to the bit: weights, moving average, optimizer, schedule,
the best checkpoint and the score it is the best by. After each kill every
file that has its final name must be readable.

All starts are forks of this process, which has imported what they need.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import torch
from made_data import write_digit_swin

from mmlowrank.checkpoint.adapter_file import read
from mmlowrank.checkpoint.resuming import is_whole

ROOT = Path(__file__).resolve().parents[1]
BASE = """
_base_ = '{root}/configs/quickstart/swin-mini_lora-r8_30e_digits-turned.py'
train_dataloader = dict(
    batch_size=4, dataset=dict(indices=[*range(0, 1200, 40)]))
val_dataloader = dict(dataset=dict(indices=8))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=4, val_interval=1)
log_level = 'ERROR'
model = dict(
    backbone=dict(stochastic_trunk=True, backbone=dict(drop_path_rate=0.3)))
default_hooks = dict(checkpoint=dict(
    interval=1, max_keep_ckpts=1, save_best='accuracy/top1', rule='greater'))
"""
ITERATIONS = """
default_hooks['checkpoint'].update(by_epoch=False, interval=3)
"""
LOOP = """
train_cfg = dict(
    _delete_=True, type='IterBasedTrainLoop', max_iters=32, val_interval=6)
param_scheduler = dict(
    _delete_=True, type='CosineAnnealingLR', T_max=32, by_epoch=False)
"""
EMA = """
custom_hooks = [
    dict(type='EMAHook', ema_type='{kind}', momentum=0.1)]
"""
ACCUMULATED = """
optim_wrapper = dict(accumulative_counts=5)
"""
WORKERS = """
train_dataloader.update(num_workers=2, persistent_workers=True)
val_dataloader.update(num_workers=1, persistent_workers=True)
"""
EMA_ALL = EMA.format(kind='ExponentialMovingAverage')
EMA_TRAINED = EMA.format(kind='mmlowrank.TrainedEMA')
INFINITE = """
train_dataloader.update(sampler=dict(type='InfiniteSampler'))
"""
# Name -> (lines of the config, processes).
RUNS = {
    'epochs': (EMA_TRAINED, 1),
    'epochs, saved in their midst': (ITERATIONS + ACCUMULATED, 1),
    'iterations, workers': (ITERATIONS + LOOP + EMA_ALL + WORKERS, 1),
    'iterations, endless': (ITERATIONS + LOOP + INFINITE + EMA_TRAINED, 1),
    'two processes': (ITERATIONS + ACCUMULATED + EMA_TRAINED, 2),
}


def start(config: Path, work: Path, processes: int) -> list[int]:
    """Fork a run that goes on from what is in its folder; returns pids."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    pids = []
    for rank in range(processes):
        pid = os.fork()
        if pid:
            pids.append(pid)
            continue
        code = 1
        try:
            os.setsid()  # so that its workers can be killed with it
            _become(config, work, rank, processes, port)
            code = 0
        except BaseException as error:
            print(f'{type(error).__name__}: {error}', file=sys.__stderr__)
        finally:
            os._exit(code)
    return pids


def _become(
    config: Path, work: Path, rank: int, processes: int, port: int
) -> None:
    import runpy

    words = ['train.py', config, '--work-dir', work, '--resume']
    if processes > 1:
        words += ['--launcher', 'pytorch']
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(processes),
            MASTER_ADDR='127.0.0.1',
            MASTER_PORT=str(port),
        )
    sys.argv = [str(word) for word in words]
    os.chdir(ROOT)
    with work.with_suffix(f'.{rank}.log').open('a') as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        runpy.run_path('tools/train.py', run_name='__main__')


def wait(pids: list[int], until: float = float('inf')) -> bool:
    """Return whether all ended well before a moment; else kill them."""
    left = set(pids)
    while left and time.monotonic() < until:
        for pid in [*left]:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                left.remove(pid)
                if status and len(left) == len(pids) - 1:
                    kill(left)
                    raise RuntimeError('a run failed; see its log')
        time.sleep(0.005)
    kill(left)
    return not left


def kill(pids: set[int]) -> None:
    """Kill processes with their workers."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    for pid in pids:
        os.waitpid(pid, 0)


def check_files(work: Path) -> int:
    """Read every checkpoint and adapter file; returns how many."""
    files = [*work.glob('*.pth'), *work.glob('*.safetensors')]
    for file in files:
        if file.suffix == '.pth':
            assert is_whole(file), f'{file} cannot be read'
        else:
            read(file)
    return len(files)


def end_of(work: Path) -> dict[str, object]:
    """Return what a run ended with."""
    found = {}
    for file in sorted(work.glob('*.pth')):
        checkpoint = torch.load(file, weights_only=False)
        info = checkpoint['message_hub']['runtime_info']
        found[file.name] = [
            *(checkpoint.get(key) for key in KEPT),
            info.get('best_score'),
        ]
    for file in sorted(work.glob('*.safetensors')):
        found[file.name] = read(file).tensors
    return found


KEPT = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers')


def equal(one: object, other: object) -> bool:
    """Whether two nested values are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            equal(value, other[key]) for key, value in one.items()
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def prepare(folder: Path) -> None:
    """Make the pictures and the pretrained weights that runs begin with."""
    from mmlowrank.datasets.digit_scenes import write_digit_scenes

    if not (folder / 'scenes').exists():
        write_digit_scenes(folder / 'scenes', num_train=1, num_val=1)
    write_digit_swin(folder / 'swin.pth')
    os.environ['DIGIT_SCENES'] = str(folder / 'scenes')
    os.environ['DIGIT_SWIN'] = str(folder / 'swin.pth')


def torture(name: str, folder: Path, kills: int, draw: random.Random) -> str:
    """Kill and resume one kind of run; returns a line of what came of it."""
    lines, processes = RUNS[name]
    folder = folder / name.replace(', ', '-').replace(' ', '_')
    folder.mkdir()
    config = folder / 'config.py'
    config.write_text(BASE.format(root=ROOT) + lines)
    whole = folder / 'whole'
    begun = time.monotonic()
    wait(start(config, whole, processes))
    seconds = time.monotonic() - begun
    expected, killed, ends, files = end_of(whole), 0, 0, 0
    assert expected, f'{name} saved nothing'
    while killed < kills:
        work = folder / 'killed'
        if work.exists():
            shutil.rmtree(work)
        while True:
            pids = start(config, work, processes)
            # The last may end.
            limit = draw.uniform(0.1, 1.1) * seconds
            patience = limit if killed < kills else 1e9
            if wait(pids, time.monotonic() + patience):
                break
            killed += 1
            files += check_files(work) if work.exists() else 0
        ends += 1
        assert equal(end_of(work), expected), f'{name}: another end'
    return (
        f'{name}: {killed} kills in {ends} runs of {seconds:.0f} s, {files} '
        'files read, every end equal to the bit'
    )


def main() -> None:
    """Kill."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path, help='new, for all files')
    parser.add_argument('--kills', type=int, default=200)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--runs', nargs='+', choices=RUNS, default=[*RUNS])
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True)
    prepare(args.folder)
    draw = random.Random(args.seed)
    for i, name in enumerate(args.runs):
        share = len(range(i, args.kills, len(args.runs)))
        print(torture(name, args.folder, share, draw), flush=True)


if __name__ == '__main__':
    main()
