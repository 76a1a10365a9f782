"""Turn a checkpoint into an adapter file, and an adapter into a checkpoint.

python tools/model_converters/adapter.py CONFIG CHECKPOINT OUT.safetensors
python tools/model_converters/adapter.py CONFIG ADAPTER.safetensors OUT.pth

The frozen weights are those of the checkpoint one way, and those that
``init_cfg`` of the config names the other way. OUT must not exist.
"""

import argparse

import torch

from mmlowrank import save_adapter, trainable_summary
from mmlowrank.checkpoint.adapter_file import AdapterError
from mmlowrank.checkpoint.converting import add_arguments, build
from mmlowrank.checkpoint.loading import load_exactly
from mmlowrank.checkpoint.plain_values import plain
from mmlowrank.checkpoint.trust import unpickling
from mmlowrank.checkpoint.whole_file import whole_file
from mmlowrank.engine import tuned_config

SUFFIXES = ('.safetensors', '.pth')


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, 'adapter file (.safetensors) or checkpoint')
    tuned_config.add_arguments(parser)
    parser.add_argument(
        '--force',
        action='store_true',
        help='only warn where an adapter file was trained on another base or '
        'with other arguments of the tuner',
    )
    args = parser.parse_args()
    if args.out.suffix not in SUFFIXES:
        raise SystemExit(f'{args.out} must end in {" or ".join(SUFFIXES)}')
    return args


def main() -> None:
    """Convert."""
    args = parse_args()
    with unpickling(args.trust):
        convert(args)


def convert(args: argparse.Namespace) -> None:
    """Build, load strictly, write."""
    cfg = tuned_config.read(args.config, args.cfg_options, args.tuner)
    model = build(cfg)
    try:
        checkpoint = load_exactly(model, args.checkpoint, args.force)
    except (AdapterError, RuntimeError) as error:
        raise SystemExit(str(error)) from None
    meta = plain(checkpoint.get('meta', {}))
    if args.out.suffix == '.pth':
        full = dict(meta=meta, state_dict=model.state_dict())
        with whole_file(args.out) as draft:
            torch.save(full, draft)
    else:
        progress = {k: meta[k] for k in ('epoch', 'iter') if k in meta}
        classes = meta.get('dataset_meta')
        about = dict(dataset_meta=classes) if classes else {}
        save_adapter(model, args.out, progress=progress, **about)
    numbers = trainable_summary(model)
    print(
        f'{args.out}: {args.out.stat().st_size:,} bytes; '
        f'{numbers["trainable"]:,} parameters train, '
        f'{numbers["frozen"]:,} are frozen'
    )


if __name__ == '__main__':
    main()
