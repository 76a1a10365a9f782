"""Merge what was added to a model into plain weights.

python tools/model_converters/merge.py CONFIG CHECKPOINT OUT [--size 224]
    [--image FILE]

A backbone tuned by a method that is linear in its inputs (LoRA, RLRR, SSF,
FacT, ARC) or trains stock tensors only (Full, BitFit, ...) becomes the stock
backbone, which needs no mmlowrank; other methods are refused with the
reason. A decoder with LORS becomes plain AdaMixer, a StackSharedViT or a
StackSharedModel the stock model. OUT is loaded into the plain model and run
before it gets its name; what changes in the config is printed. If OUT is the
name of a folder, it gets checkpoint.pth and a config.py for testing and for
inferencers, neither of which needs mmlowrank.
"""

import argparse
import copy
from pathlib import Path

import mmcv
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS

from mmlowrank import config_packages
from mmlowrank.checkpoint.adapter_file import AdapterError
from mmlowrank.checkpoint.converting import add_arguments, build
from mmlowrank.checkpoint.loading import load_exactly
from mmlowrank.checkpoint.merge import (
    Merged,
    backbone_of,
    merge,
    plain_config,
    save_checked,
)
from mmlowrank.checkpoint.trust import unpickling
from mmlowrank.engine import tuned_config
from mmlowrank.models.stock_model import WRAPPERS, stock_model_config
from mmlowrank.models.tuned_backbone import stock_config
from mmlowrank.registry import MODELS as OURS
from mmlowrank.registry import type_name
from mmlowrank.tuners import CannotMerge


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, 'checkpoint (.pth) or folder to write')
    tuned_config.add_arguments(parser)
    parser.add_argument(
        '--image',
        help='file that both models are compared on; default: random numbers',
    )
    parser.add_argument(
        '--size',
        type=int,
        help='of the image that both models are compared on; defaults to '
        "the backbone's img_size, or 224",
    )
    args = parser.parse_args()
    args.config = config_packages.find(args.config)
    for name in filter(None, (args.config, args.checkpoint, args.image)):
        if not Path(name).is_file():
            raise SystemExit(f'There is no file {name}')
    if not args.out.parent.is_dir():
        raise SystemExit(f'There is no folder {args.out.parent}')
    return args


def image(
    model: torch.nn.Module, size: int | None, file: str | None
) -> torch.Tensor:
    """Return an image that the backbone takes: (1, 3, h, w)."""
    shape = getattr(backbone_of(model), 'img_size', (224, 224))
    if size is not None:
        shape = (size, size)
    if file is None:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(1, 3, *shape, generator=generator)
    height, width = shape
    picture = mmcv.imresize(mmcv.imread(file), (width, height))
    inputs = torch.from_numpy(picture).permute(2, 0, 1)
    data = dict(inputs=[inputs], data_samples=None)
    return model.data_preprocessor(data)['inputs']


def plain_model(model: dict, merged: Merged) -> tuple[dict, dict]:
    """Return the config of the plain model, and what is new in it.

    Args:
        model: Config of the model that was merged.
        merged: What came of it.
    """
    model, changed = dict(model), {}
    if type_name(model['type'], OURS) in WRAPPERS:
        model = stock_model_config(model)
        changed['type'] = model['type']
    backbone = model.get('backbone')
    kind = backbone and type_name(backbone['type'], OURS)
    if kind in WRAPPERS:
        changed['backbone'] = stock_model_config(backbone)
    elif kind == 'StackSharedViT' or (merged.tuners and kind in OURS):
        changed['backbone'] = stock_config(backbone)
    if merged.lors:
        changed['decoder'] = dict(
            model['decoder'], lors_adaptive=None, lors_static=None
        )
    return {**model, **changed}, changed


def main() -> None:
    """Merge."""
    args = parse_args()
    with unpickling(args.trust):
        write(args)


def write(args: argparse.Namespace) -> None:
    """Build, load, merge, check, write."""
    cfg = tuned_config.read(args.config, args.cfg_options, args.tuner)
    tuned = build(cfg)
    try:
        checkpoint = load_exactly(tuned, args.checkpoint)
    except (AdapterError, RuntimeError) as error:
        raise SystemExit(str(error)) from None
    try:
        merged = merge(tuned)
        model, changed = plain_model(cfg.model, merged)
    except (CannotMerge, ValueError) as error:
        raise SystemExit(str(error)) from None
    gone = [n for n in ('model', *WRAPPERS.values()) if n in cfg.model]
    # In place of the old one: a config's own update() mixes them.
    cfg.model = ConfigDict(model)
    # A copy: DETRs write into their config.
    plain = MODELS.build(copy.deepcopy(cfg.model))
    meta = dict(dataset_meta=checkpoint.get('meta', {}).get('dataset_meta'))
    x = image(plain, args.size, args.image)
    folder = args.out.suffix != '.pth'
    out = args.out / 'checkpoint.pth' if folder else args.out
    try:
        difference = save_checked(
            merged.state_dict, meta, out, tuned, plain, x
        )
    except RuntimeError as error:
        raise SystemExit(str(error)) from None
    print(
        f'{out}: {len(merged.state_dict)} tensors. Read back into the '
        f'plain model and run on a {x.shape[2]} x {x.shape[3]} image: outputs '
        f'differ by at most {difference:.1e} of the largest. In the config, '
        f'the model now has\n{Config(changed).pretty_text}'
    )
    if 'type' in changed:
        own = [f'"{name}"' for name in gone]
        print(f'and no longer the arguments {" and ".join(own)}')
    if merged.stays:
        print(f'The backbone stays as it was: {merged.stays}')
    if folder:
        kept, left_out = plain_config(cfg)
        kept.dump(args.out / 'config.py')
        print(
            f'{args.out}/config.py: for tests and inferencers'
            + (f', without {", ".join(left_out)}' if left_out else '')
        )


if __name__ == '__main__':
    main()
