"""Test a checkpoint with the config it was trained with.

python tools/test.py CONFIG CHECKPOINT [--show-dir DIR] [--out FILE] [--tta]
"""

import argparse
from pathlib import Path

from mmengine.config import Config, ConfigDict

from mmlowrank.engine import launch


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--show-dir', help='write pictures of predictions')
    parser.add_argument('--out', help='write predictions to this .pkl file')
    parser.add_argument(
        '--tta',
        action='store_true',
        help='test-time augmentation, as tta_model and tta_pipeline say',
    )
    launch.add_arguments(parser)
    return parser.parse_args()


def draw(cfg: Config, folder: str) -> None:
    """Make the framework's own hook write pictures to ``folder``."""
    if cfg.launcher != 'none':
        # The frameworks' visualizers draw the main process's share only.
        raise SystemExit(
            '--show-dir draws in one process: run tools/test.py without '
            '--launcher for the pictures'
        )
    folder = str(Path(folder).resolve())
    scope = cfg.get('default_scope')
    hooks = {
        'mmdet': dict(
            type='DetVisualizationHook', draw=True, test_out_dir=folder
        ),
        'mmseg': dict(type='SegVisualizationHook', draw=True, interval=1),
        'mmpretrain': dict(
            type='VisualizationHook', enable=True, interval=1, out_dir=folder
        ),
    }
    if scope not in hooks:
        raise SystemExit(
            f'--show-dir knows {sorted(hooks)}, not default_scope={scope!r}'
        )
    cfg.default_hooks.visualization = hooks[scope]
    if scope == 'mmseg':
        # Its hook has no folder of its own: it draws where the backend does.
        cfg.visualizer.save_dir = folder
        cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]


def use_tta(cfg: Config) -> None:
    """Wrap the model and replace the pipeline for test-time augmentation."""
    for key in ('tta_model', 'tta_pipeline'):
        if key not in cfg:
            raise SystemExit(f'--tta needs "{key}" in the config')
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    if 'freeze' in cfg.get('model_wrapper_cfg', {}):
        # Its patterns name parts of the model inside. Nothing trains here.
        cfg.model_wrapper_cfg['freeze'] = []
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    dataset.pipeline = cfg.tta_pipeline


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
    if not Path(args.checkpoint).is_file() and '://' not in args.checkpoint:
        raise SystemExit(f'There is no checkpoint {args.checkpoint}')
    cfg = launch.load_config(args)
    cfg.load_from, cfg.resume = None, False
    if args.show_dir:
        draw(cfg, args.show_dir)
    if args.tta:
        use_tta(cfg)
    if args.out:
        dump(cfg, args.out)
    runner = launch.start(cfg, splits=('test',))
    launch.load_exactly(runner, args.checkpoint)
    runner.test()
    launch.leave_process_group()


if __name__ == '__main__':
    main()
