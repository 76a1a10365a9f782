"""Convert checkpoints of the AdaMixer and LORS repositories, both ways.

python tools/model_converters/adamixer.py CHECKPOINT OUT [--to-original]

Reads the published AdaMixer checkpoints (mmdet 2.x), and files in the layout
of the LORS repository. Strict: a key that is missing or unknown stops it.
The optimizer's state is not converted.
"""

import argparse

import torch
from mmengine.runner import CheckpointLoader

from mmlowrank.checkpoint.adamixer import to_mmlowrank, to_original
from mmlowrank.checkpoint.converting import add_arguments
from mmlowrank.checkpoint.trust import unpickling
from mmlowrank.checkpoint.whole_file import whole_file


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, 'file to write', config=False)
    parser.add_argument(
        '--to-original',
        action='store_true',
        help='from mmlowrank to the layout of the authors',
    )
    return parser.parse_args()


def main() -> None:
    """Convert."""
    args = parse_args()
    with unpickling(args.trust):
        write(args)


def write(args: argparse.Namespace) -> None:
    """Read, convert, write."""
    checkpoint = CheckpointLoader.load_checkpoint(
        args.checkpoint, map_location='cpu'
    )
    meta = checkpoint.get('meta', {})
    convert = to_original if args.to_original else to_mmlowrank
    try:
        state_dict = convert(checkpoint.get('state_dict', checkpoint))
    except ValueError as error:
        raise SystemExit(f'{args.checkpoint}: {error}') from None
    # mmdet 2.x and 3.x keep the names of the classes in different places.
    if args.to_original:
        classes = meta.get('dataset_meta', {}).get('classes')
        meta = dict(CLASSES=classes) if classes else {}
    else:
        classes = meta.get('CLASSES')
        meta = dict(dataset_meta=dict(classes=classes)) if classes else {}
    with whole_file(args.out) as draft:
        torch.save(dict(state_dict=state_dict, meta=meta), draft)
    print(f'{args.out}: {len(state_dict)} tensors')


if __name__ == '__main__':
    main()
