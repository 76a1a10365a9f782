"""Test a checkpoint with the config it was trained with.

python tools/test.py CONFIG CHECKPOINT [--tuner NAME] [--show-dir DIR]
    [--out FILE] [--tta]
"""

import argparse
from pathlib import Path

from mmengine.config import Config, ConfigDict

from mmlowrank.checkpoint.loading import load_exactly
from mmlowrank.checkpoint.trust import unpickling
from mmlowrank.engine import launch
from mmlowrank.engine.data_files import image_backend, innermost_datasets

VISUALIZERS = {
    'mmdet': 'DetLocalVisualizer',
    'mmseg': 'SegLocalVisualizer',
    'mmpretrain': 'UniversalVisualizer',
}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint or adapter file')
    parser.add_argument('--show-dir', help='write pictures of predictions')
    parser.add_argument(
        '--show', action='store_true', help='show predictions in a window'
    )
    parser.add_argument(
        '--wait-time',
        type=float,
        default=2,
        help='seconds that --show waits, 0 for a key (default: 2)',
    )
    parser.add_argument('--out', help='write predictions to this .pkl file')
    parser.add_argument(
        '--tta',
        action='store_true',
        help='test-time augmentation, as tta_model and tta_pipeline say',
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help='float16, as train.py --amp validates',
    )
    parser.add_argument(
        '--force',
        action='store_true',
        help='only warn where an adapter file was trained on another base or '
        'with other arguments of the tuner',
    )
    launch.add_arguments(parser)
    return parser.parse_args()


def draw(
    cfg: Config,
    folder: str | None,
    show: bool = False,
    wait_time: float = 0,
) -> None:
    """Make a hook draw into ``folder``, in a window, or both."""
    if cfg.launcher != 'none':
        # The frameworks' visualizers draw the main process's share only.
        raise SystemExit(
            '--show and --show-dir draw in one process: run tools/test.py '
            'without --launcher for the pictures'
        )
    if not cfg.get('visualizer'):
        scope = cfg.get('default_scope')
        if scope not in VISUALIZERS:
            raise SystemExit(
                '--show and --show-dir need a "visualizer" in the config, or '
                f'default_scope as one of {sorted(VISUALIZERS)}; it is '
                f'{scope!r}'
            )
        cfg.visualizer = dict(type=VISUALIZERS[scope])
    if folder is None:
        # What is shown would be written there, too.
        cfg.visualizer.vis_backends = []
    hook = dict(
        type='mmlowrank.PicturesHook',
        folder=folder and str(Path(folder).resolve()),
        show=show,
        wait_time=wait_time,
        backend_args=image_backend(cfg.test_dataloader),
    )
    hooks = cfg.get('default_hooks') or {}
    cfg.default_hooks = dict(hooks, visualization=hook)


def use_tta(cfg: Config) -> None:
    """Wrap the model and replace the pipelines for test-time augmentation."""
    for key in ('tta_model', 'tta_pipeline'):
        if key not in cfg:
            raise SystemExit(f'--tta needs "{key}" in the config')
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    if 'freeze' in (cfg.get('model_wrapper_cfg') or {}):
        # Its patterns name parts of the model inside. Nothing trains here.
        cfg.model_wrapper_cfg['freeze'] = []
    for _, dataset in innermost_datasets(cfg.test_dataloader, ''):
        dataset['pipeline'] = cfg.tta_pipeline


def dump(cfg: Config, path: str) -> None:
    """Add an evaluator that writes the predictions to ``path``."""
    if not path.endswith(('.pkl', '.pickle')):
        raise SystemExit(f'--out must end in .pkl, got {path}')
    mmdet = cfg.get('default_scope') == 'mmdet'
    evaluators = cfg.test_evaluator
    if not isinstance(evaluators, (list, tuple)):
        evaluators = [evaluators]
    kind = 'DumpDetResults' if mmdet else 'DumpResults'
    cfg.test_evaluator = [*evaluators, dict(type=kind, out_file_path=path)]


def main() -> None:
    """Test."""
    args = parse_args()
    with unpickling(args.trust):
        test(args)


def test(args: argparse.Namespace) -> None:
    """Read the config, load every tensor, test."""
    if not Path(args.checkpoint).is_file() and '://' not in args.checkpoint:
        raise SystemExit(f'There is no checkpoint {args.checkpoint}')
    cfg = launch.load_config(args)
    cfg.load_from, cfg.resume = None, False
    # FlexibleRunner would draw weights after the checkpoint is loaded.
    cfg.init_weights_for_test_or_val = False
    if args.amp:
        launch.evaluate_in_half(cfg)
    if args.show_dir or args.show:
        draw(cfg, args.show_dir, args.show, args.wait_time)
    if args.tta:
        use_tta(cfg)
    if args.out:
        dump(cfg, args.out)
    runner = launch.start(cfg, splits=('test',))
    # Hooks are not told: that of a moving average is not ready yet, and its
    # average is what mmengine saves as the weights.
    load_exactly(launch.model_of(runner), args.checkpoint, args.force)
    runner.test()
    launch.leave_process_group()


if __name__ == '__main__':
    main()
