"""Run the quickstart, or the comparison of all methods, in this Python.

python tools/quickstart.py [--seed N] [--work-dir DIR] [--smoke]
    [--compare [--methods METHOD ...] [--seeds N ... [--saved KIND ...]]]

tools/quickstart.sh makes an environment first and says what is run. Stopped?
Run it again: finished steps are skipped, training goes on from its
checkpoint.
"""

import argparse
import os
import time
from collections.abc import Iterable
from pathlib import Path

from mmlowrank.analysis import comparison, quickstart, seeds_table
from mmlowrank.analysis.run_results import metric_by_epoch
from mmlowrank.checkpoint.resuming import latest_checkpoint
from mmlowrank.datasets.digit_scenes import write_digit_scenes
from mmlowrank.engine import jobs
from mmlowrank.nn.kernels.kept import SAVED

ROOT = Path(__file__).resolve().parents[1]
END = """
Done in {minutes} min {seconds} s, without the set-up. Look at

  {work}/pictures.png   truth and predictions side by side
  {work}/trade_off.png  what each trained parameter buys
  {work}/logs/          everything the runs said

and read next

  {lorand}
      the config you just trained: LoRand is one line of it
  README.md            LoRand on your own mmdet or mmseg config
  configs/lorand/      the paper's detectors on COCO, VOC and ADE20K

Other heads on the same scenes (Cascade Mask R-CNN, Faster R-CNN, UPerNet):

  ls configs/quickstart"""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        '--seed', type=int, default=os.environ.get('SEED', '0')
    )
    parser.add_argument(
        '--work-dir',
        type=lambda text: Path(text).resolve(),
        help='default: work_dirs/quickstart, and data/digit_scenes for the\n'
        'scenes, with the seed if it is not 0, and -smoke with --smoke',
    )
    parser.add_argument(
        '--smoke', action='store_true', help='a few iterations: does it run?'
    )
    parser.add_argument(
        '--compare',
        action='store_true',
        help='all methods, with UPerNet too, instead of the four',
    )
    parser.add_argument(
        '--methods',
        nargs='+',
        choices=comparison.METHODS,
        metavar='METHOD',
        help='with --compare, some of: ' + ', '.join(comparison.METHODS),
    )
    parser.add_argument(
        '--seeds',
        nargs='+',
        type=int,
        help='with --compare, Mask R-CNN on several seeds: a section of\n'
        'docs/compare_methods.md. Without --methods with '
        + ', '.join(seeds_table.METHODS),
    )
    parser.add_argument(
        '--saved',
        nargs='+',
        choices=SAVED,
        default=['exact'],
        help='with --seeds, what each method is trained with: another\n'
        'section, e.g. --saved exact bf16 int8 --methods LoRand E3VA',
    )
    return parser.parse_args()


def pretrain(runner: jobs.Runner, args: argparse.Namespace) -> None:
    """Make what all start from; tell the configs where it is."""
    work = runner.folder
    scenes = Path('data') / work.name.replace('quickstart', 'digit_scenes')
    scenes = work / 'scenes' if args.work_dir else scenes
    runner.say(f'2/5 scenes of handwritten digits, in {scenes}')
    sizes = (6, 4) if args.smoke else (600, 100)
    if not write_digit_scenes(scenes, *sizes, seed=args.seed):
        runner.say('    already there with these settings')
    os.environ['DIGIT_SCENES'] = str(scenes)

    runner.say('3/5 pre-training a small Swin on single digits')
    options = ['--cfg-options', f'randomness.seed={args.seed}']
    if args.smoke:
        options += ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1']
        options += ['train_dataloader.dataset.indices=128']
        options += ['default_hooks.logger.interval=1']
    config = quickstart.CONFIGS / 'pretrain_swin-mini_digits.py'
    job = jobs.Job('pretrain', config, work / 'pretrain', options)
    runner.run([job])
    accuracy = metric_by_epoch(job.work_dir, 'accuracy/top1').popitem()[1]
    runner.say(f'    {accuracy:.1f} % of the held-out digits')
    os.environ['DIGIT_SWIN'] = latest_checkpoint(job.work_dir)


def train(
    runner: jobs.Runner,
    args: argparse.Namespace,
    runs: Iterable[tuple[str, str, Path]],
) -> None:
    """Train and test: names, folders, configs."""
    options = ['--cfg-options', f'randomness.seed={args.seed}']
    if args.smoke:
        options += ['train_cfg.max_iters=4', 'default_hooks.logger.interval=1']
        options += ['default_hooks.checkpoint.interval=2']
    found = [
        jobs.Job(name, config, runner.folder / folder, options, test=True)
        for name, folder, config in runs
    ]
    runner.run(found, at_once=min(2, len(os.sched_getaffinity(0))))


def four_methods(runner: jobs.Runner, args: argparse.Namespace) -> None:
    """Train one Mask R-CNN with each; print the table, draw the pictures."""
    work = runner.folder
    runner.say('4/5 Mask R-CNN: FULL (everything trains), LoRand (adapters in')
    runner.say('    a frozen backbone), E3VA (adapters beside it), FIXED')
    # Two at a time, the longest first.
    runs = [
        (name, folder, quickstart.config_of(name))
        for name, folder in reversed(quickstart.METHODS.items())
    ]
    train(runner, args, runs)
    runner.say('5/5 table and pictures\n')
    rows = quickstart.read_rows(work)
    table = quickstart.format_table(rows)
    print(table)
    (work / 'table.md').write_text(table + '\n')
    quickstart.plot_trade_off(rows, work / 'trade_off.png')
    quickstart.write_pictures(work, work / 'pictures.png')


def all_methods(runner: jobs.Runner, args: argparse.Namespace) -> None:
    """Train both models with each method; write the report and its plot."""
    work, out = runner.folder, Path('docs/compare_methods.md')
    methods = ['FIXED', 'E3VA'] if args.smoke else list(comparison.METHODS)
    methods = args.methods or methods
    if args.smoke or args.seed or args.methods:
        out = work / out.name
    runner.say('4/5 Mask R-CNN and UPerNet with each method')
    comparison.write_configs(work / 'configs', methods)
    configs = sorted((work / 'configs').glob('*.py'))
    train(runner, args, [(p.stem, p.stem.lower(), p) for p in configs])
    runner.say('5/5 table and plot\n')
    rows = comparison.read_rows(work, methods)
    comparison.write_report(rows, out, args.smoke)
    print(comparison.format_table(rows))
    runner.say(f'written: {out}')


def several_seeds(args: argparse.Namespace) -> None:
    """Train Mask R-CNN with each method and seed; write the section."""
    methods = [
        method if saved == 'exact' else f'{method}-{saved}'
        for method in args.methods or seeds_table.METHODS
        for saved in args.saved
    ]
    folders = []
    for seed in args.seeds:
        one = argparse.Namespace(**{**vars(args), 'seed': seed})
        one.work_dir = args.work_dir and args.work_dir / f'seed{seed}'
        with jobs.runner(__file__, work_folder(one)) as runner:
            pretrain(runner, one)
            runner.say('4/5 Mask R-CNN with each method')
            comparison.write_configs(runner.folder / 'configs', methods, [''])
            configs = sorted((runner.folder / 'configs').glob('*.py'))
            train(runner, one, [(p.stem, p.stem.lower(), p) for p in configs])
            folders.append(runner.folder)
    out = Path('docs/compare_methods.md')
    if args.smoke:
        out = folders[0] / out.name
    rows = seeds_table.read_rows(folders, methods)
    seeds_table.write_section(rows, args.seeds, out, args.saved)
    print(seeds_table.format_table(rows, args.seeds))
    print(f'written: {out}')


def work_folder(args: argparse.Namespace) -> Path:
    """Return where the runs of a seed are."""
    seed = f'-seed{args.seed}' if args.seed else ''
    name = f'quickstart{seed}{"-smoke" if args.smoke else ""}'
    return args.work_dir or Path('work_dirs') / name


def main() -> None:
    """Run what is not done; print."""
    args, begin = parse_args(), time.monotonic()
    os.chdir(ROOT)
    # A second thread gains nothing on maps of 40 x 40, and two processes that
    # both want it slow each other down tenfold. A second process does gain.
    os.environ['OMP_NUM_THREADS'] = '1'
    if args.compare and args.seeds:
        several_seeds(args)
        return
    work = work_folder(args)
    with jobs.runner(__file__, work) as runner:
        pretrain(runner, args)
        if args.compare:
            all_methods(runner, args)
            return
        four_methods(runner, args)
        minutes, seconds = divmod(int(time.monotonic() - begin), 60)
        lorand = quickstart.config_of('LoRand').relative_to(ROOT)
        print(
            END.format(
                minutes=minutes, seconds=seconds, work=work, lorand=lorand
            )
        )


if __name__ == '__main__':
    main()
