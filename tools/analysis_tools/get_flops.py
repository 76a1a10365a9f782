"""Count multiply-adds of a config, without a GPU and without its weights.

python tools/analysis_tools/get_flops.py CONFIG [CONFIG ...]
    [--shape 800 1280] [--as-paper | --unmerged] [--json]

For configs whose model runs on PyTorch's meta device: AdaMixer, mmseg's
segmentors, mmpretrain's classifiers. --as-paper counts LORS with its weights
formed as in the paper, --unmerged as it trains; the default is inference.
"""

import argparse
import json

from mmlowrank.analysis.counting import build_on_meta
from mmlowrank.analysis.decoders import cat_and_sum
from mmlowrank.analysis.flops import count_multiply_adds
from mmlowrank.engine.tuned_config import add_arguments, read
from mmlowrank.nn import AdaptiveMixing


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('configs', nargs='+', help='config files')
    parser.add_argument(
        '--shape',
        nargs=2,
        type=int,
        default=[800, 1280],
        metavar=('HEIGHT', 'WIDTH'),
        help='of the image',
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        '--as-paper',
        action='store_true',
        help='form every weight of LORS, as the pseudo-code of its paper',
    )
    form.add_argument(
        '--unmerged',
        action='store_true',
        help='do not merge LORS: low-rank output projection, as in training',
    )
    parser.add_argument('--json', action='store_true', help='print JSON')
    add_arguments(parser)
    return parser.parse_args()


def main() -> None:
    """Count and print."""
    args = parse_args()
    for path in args.configs:
        cfg = read(path, args.cfg_options, args.tuner)
        model = build_on_meta(cfg)
        model.eval()
        if args.as_paper:
            cat_and_sum(model)
        for module in model.modules():
            if isinstance(module, AdaptiveMixing) and args.unmerged:
                module.merge_at_eval = False
        try:
            counts = count_multiply_adds(model, args.shape)
        except (RuntimeError, TypeError) as error:
            # Not SystemExit, which would hide where it failed.
            raise RuntimeError(
                f'{path} does not run on an image alone, on the meta device. '
                'This tool counts models that need neither data samples nor '
                'NMS'
            ) from error
        if args.json:
            print(json.dumps({'config': path, **counts}))
            continue
        print(f'{path}, 1 x 3 x {args.shape[0]} x {args.shape[1]}')
        for name, count in counts.items():
            print(f'  {name:<20}{count / 1e9:>9.3f} G multiply-adds')


if __name__ == '__main__':
    main()
