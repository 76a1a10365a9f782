"""Say what a step of training needs, and which cards have it, without a GPU.

python tools/analysis_tools/plan_memory.py CONFIG [CONFIG ...] [--batch N]
    [--img-scale WIDTH HEIGHT] [--amp] [--saved int8] [--tuner NAME]
    [--cards 1080ti,p100] [--gpus N] [--advise] [--verify] [--plot FILE]

A step is run on tensors that have no memory: forward, backward, optimizer.
Heads assign and sample as in training, on a made batch. --verify runs the
real step, here, and compares. --papers is the table of E3VA's megabytes.
"""

import argparse
import json
import resource
import time
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from mmlowrank.analysis.plan.advice import advise, changes
from mmlowrank.analysis.plan.batch import OBJECTS, add_scale
from mmlowrank.analysis.plan.cards import (
    CARDS,
    MIB,
    assumptions,
    shares,
    table,
    verdicts,
)
from mmlowrank.analysis.plan.chart import plot_plans
from mmlowrank.analysis.plan.measured import verify_step
from mmlowrank.analysis.plan.papers import TABLES, plan_papers
from mmlowrank.analysis.plan.step import AMP, Setting, Step, plan_step
from mmlowrank.engine.tuned_config import add_arguments, read
from mmlowrank.models.tuned_backbone import (
    GENERAL,
    OF_TRUNK,
    arguments_of,
    tuner_name,
)
from mmlowrank.nn.kernels.kept import SAVED

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
_OURS = 'TunerOptimWrapperConstructor'


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='\n'.join(__doc__.splitlines()[:1])
    )
    parser.add_argument('configs', nargs='*', help='config files')
    parser.add_argument(
        '--batch', type=int, help='images a GPU; default: of the config'
    )
    add_scale(parser)
    parser.add_argument(
        '--amp', action='store_true', help=f'as with {AMP} in the config'
    )
    parser.add_argument(
        '--saved',
        choices=SAVED,
        help='as optim_wrapper.saved in the config',
    )
    parser.add_argument(
        '--objects',
        type=int,
        default=OBJECTS,
        help=f'in an image of a detector; default: {OBJECTS}, as in COCO',
    )
    parser.add_argument(
        '--cards',
        default=','.join(CARDS),
        help=f'default: all of {",".join(CARDS)}',
    )
    parser.add_argument(
        '--gpus', type=int, default=1, help='with several, DDP has buckets'
    )
    parser.add_argument(
        '--advise',
        action='store_true',
        help='find the cheapest changes for each card that it does not fit',
    )
    parser.add_argument(
        '--verify',
        action='store_true',
        help='run the real step at its start, here, and compare',
    )
    parser.add_argument('--json', metavar='FILE', help='write everything')
    parser.add_argument('--plot', metavar='FILE', help='draw everything')
    parser.add_argument(
        '--papers',
        nargs='*',
        type=int,
        choices=TABLES,
        help='print the plans of tables of E3VA, of all with memory if none '
        'is named, beside what the paper prints',
    )
    add_arguments(parser)
    args = parser.parse_args()
    if not args.configs and args.papers is None:
        parser.error('name a config, or --papers')
    unknown = {*args.cards.split(',')} - {*CARDS}
    if unknown:
        parser.error(f'--cards {min(unknown)}: known are {", ".join(CARDS)}')
    return args


def main() -> None:
    """Plan and print."""
    args = parse_args()
    started = time.perf_counter()
    # Of a model that is not trained there is nothing to say.
    warnings.filterwarnings('ignore')
    MMLogger.get_current_instance().setLevel('ERROR')
    written: dict = {}
    steps: dict[str, Step] = {}
    for path in args.configs:
        cfg = _read(path, args)
        setting = _setting(args)
        step = steps[_name(path, steps)] = _plan(path, cfg, setting)
        written[path] = dict(
            step.to_json(), **_report(path, step, setting, args)
        )
        if args.verify:
            written[path]['verified'] = _verify(cfg, setting)
        if args.advise:
            written[path]['advice'] = _advise(cfg, setting, step, args)
    if args.papers is not None:
        tables = args.papers or TABLES
        written['papers'] = plan_papers(CONFIGS, tables, print)
    if args.plot and steps:
        plot_plans(steps, args.plot, args.cards.split(','), args.gpus)
    seconds = time.perf_counter() - started
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f'This took {seconds:.0f} s and {rss:.1f} GiB.')
    if args.json:
        written['seconds'], written['peak_rss_gib'] = seconds, rss
        Path(args.json).write_text(json.dumps(written, indent=2))


def _read(path: str, args: argparse.Namespace) -> Config:
    cfg = read(path, args.cfg_options, args.tuner)
    if 'optim_wrapper' not in cfg:
        raise SystemExit(
            f'{path} has no optim_wrapper: it is no config to train with'
        )
    if args.amp:
        cfg.optim_wrapper['type'] = AMP
    if args.saved:
        if not _is_ours(cfg):
            raise SystemExit(
                '--saved needs optim_wrapper.constructor='
                f"'mmlowrank.{_OURS}': name a tuner with --tuner, or change "
                'the config'
            )
        cfg.optim_wrapper['saved'] = args.saved
    return cfg


def _is_ours(cfg: Config) -> bool:
    return str(cfg.optim_wrapper.get('constructor')).endswith(_OURS)


def _plan(path: str, cfg: Config, setting: Setting) -> Step:
    try:
        return plan_step(cfg, setting)
    except (ArithmeticError, RuntimeError, TypeError) as error:
        # Not SystemExit, which would hide where it failed.
        raise RuntimeError(
            f'{path} does not run on tensors without memory: it asks for '
            'numbers that a plan does not have. --verify on a GPU measures '
            'the real step; detectors with anchors and RoIs, segmentors and '
            'classifiers can be planned'
        ) from error


def _setting(args: argparse.Namespace) -> Setting:
    scale = tuple(args.img_scale) if args.img_scale else None
    return Setting(batch=args.batch, scale=scale, objects=args.objects)


def _name(path: str, taken: dict) -> str:
    name = Path(path).stem
    return name if name not in taken else f'{name} ({len(taken) + 1})'


def _report(
    path: str, step: Step, setting: Setting, args: argparse.Namespace
) -> dict:
    width, height = step.scale
    rows = shares(step, args.gpus)
    print(f'{path}, {step.batch} x {width} x {height}')
    print(table([*rows.items()], f'peak, in the {step.phase}'))
    found = verdicts(step, args.cards.split(','), args.gpus)
    print(f'  a card needs{found[0].needs / MIB:>32,.0f} MiB')
    for verdict in found:
        word = 'fits' if verdict.fits else 'does not fit'
        print(
            f'    {verdict.card:<10}{word:<14}'
            f'{verdict.headroom / MIB:>+18,.0f} MiB'
        )
    said = assumptions(step, setting, args.gpus)
    print('  assumed:')
    for sentence in said:
        print(f'    {sentence}')
    return dict(
        shares=rows,
        needs=found[0].needs,
        cards={v.card: dict(fits=v.fits, headroom=v.headroom) for v in found},
        assumed=said,
    )


def _verify(cfg: Config, setting: Setting) -> dict:
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    planned, measured = verify_step(cfg, replace(setting, device=device))
    what = 'max_memory_allocated' if device == 'cuda' else "the allocator's"
    print(
        f'  a real step at its start, on {device}: planned '
        f'{planned / MIB:,.1f} MiB, {what} peak {measured / MIB:,.1f} MiB, '
        f'{100 * (planned / measured - 1):+.2f} %'
    )
    return dict(device=device, planned=planned, measured=measured)


def _advise(
    cfg: Config, setting: Setting, step: Step, args: argparse.Namespace
) -> dict:
    seen: dict[str, Step] = {}

    def plan(cfg: Config, setting: Setting) -> Step:
        key = f'{cfg.pretty_text}{setting}'
        if key not in seen:
            seen[key] = plan_step(cfg, setting)
        return seen[key]

    known = [
        *changes(
            cfg,
            step.batch,
            _on_a_highway(cfg),
            SAVED[1:] if _is_ours(cfg) else (),
        )
    ]
    advice = {}
    for verdict in verdicts(step, args.cards.split(','), args.gpus):
        if verdict.fits:
            continue
        chosen, less = advise(
            cfg, setting, verdict.card, known, plan, args.gpus
        )
        (after,) = verdicts(less, [verdict.card], args.gpus)
        word = 'fits with' if after.fits else 'does not fit, even with'
        print(f'  {verdict.card} {word}, {after.needs / MIB:,.0f} MiB:')
        for change in chosen:
            print(f'    {change.name}: costs {change.cost}')
        advice[verdict.card] = dict(
            fits=after.fits,
            needs=after.needs,
            changes=[change.name for change in chosen],
        )
    return advice


def _on_a_highway(cfg: Config) -> dict | None:
    """Return the backbone with E3VA in the place of its tuner, if it can."""
    backbone = dict(cfg.model.get('backbone') or {})
    try:
        name = tuner_name(backbone.pop('type'))
    except KeyError:
        return None
    if name == 'E3VA':
        return None
    trunk = {key: backbone[key] for key in OF_TRUNK & backbone.keys()}
    own = arguments_of(name) | GENERAL
    stock = {k: v for k, v in backbone.items() if k not in own}
    return dict(trunk, type='mmlowrank.SwinE3VA', rank=8, **stock)


if __name__ == '__main__':
    main()
