"""Merge LORS into a checkpoint of plain AdaMixer.

python tools/model_converters/merge_lors.py CONFIG CHECKPOINT OUT

Writes the merged checkpoint to OUT (.pth), and beside it the config of the
plain AdaMixer that it is for (.py). It has the weights of every stage, and
computes what the one with LORS computes, up to rounding.
"""

import argparse
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import CheckpointLoader

from mmlowrank.nn import AdaptiveMixing


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='config of the checkpoint')
    parser.add_argument('checkpoint', help='checkpoint with LORS')
    parser.add_argument('out', type=Path, help='file to write, .pth')
    return parser.parse_args()


def main() -> None:
    """Build, load, merge, write."""
    args = parse_args()
    if args.out.suffix != '.pth':
        raise SystemExit(f'OUT must end in .pth, got {args.out}')
    cfg = Config.fromfile(args.config)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    model = MODELS.build(cfg.model)
    mixing = getattr(getattr(model, 'decoder', None), 'mixing', None)
    if not isinstance(mixing, AdaptiveMixing) or not mixing.is_lors:
        raise SystemExit(
            f'{args.config} has no LORS to merge: model.decoder needs '
            'lors_adaptive or lors_static'
        )
    checkpoint = CheckpointLoader.load_checkpoint(
        args.checkpoint, map_location='cpu'
    )
    try:
        model.load_state_dict(checkpoint.get('state_dict', checkpoint))
    except RuntimeError as error:
        raise SystemExit(
            f'{args.checkpoint} is not a checkpoint of {args.config}: '
            f'{str(error)[:400]}'
        ) from None
    model.decoder.mixing = mixing.merged()
    for name in ('lors_adaptive', 'lors_static'):
        cfg.model.decoder.pop(name, None)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    meta = checkpoint.get('meta', {}).get('dataset_meta')
    torch.save(
        dict(
            state_dict=model.state_dict(),
            meta=dict(dataset_meta=meta) if meta else {},
        ),
        args.out,
    )
    cfg.dump(args.out.with_suffix('.py'))
    print(f'{args.out}, for {args.out.with_suffix(".py")}')


if __name__ == '__main__':
    main()
