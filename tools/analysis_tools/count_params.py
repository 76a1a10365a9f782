"""Count what a config trains, without a GPU and without its weights.

python tools/analysis_tools/count_params.py CONFIG [CONFIG ...] [--tuner NAME]
    [--parts] [--json]
"""

import argparse
import json

from mmlowrank.analysis import count_parameters
from mmlowrank.engine.tuned_config import add_arguments, read


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('configs', nargs='+', help='config files')
    parser.add_argument(
        '--parts', action='store_true', help='also neck, decoder, head, ...'
    )
    parser.add_argument('--json', action='store_true', help='print JSON')
    add_arguments(parser)
    return parser.parse_args()


def main() -> None:
    """Count and print."""
    args = parse_args()
    for path in args.configs:
        cfg = read(path, args.cfg_options, args.tuner)
        counts = count_parameters(cfg)
        if args.json:
            print(json.dumps({'config': path, **counts}))
            continue
        stock = counts['backbone_stock']
        trained = counts['backbone_trainable']
        whole = counts['model_trainable']
        print(path)
        print(f'  backbone, stock      {stock:>14,}')
        print(f'  backbone, added      {counts["backbone_added"]:>14,}')
        print(
            f'  backbone, trainable  {trained:>14,}'
            f'  {100 * trained / stock:7.3f} % of the stock backbone'
        )
        for part, of in counts['tuners'].items():
            if part != 'backbone':
                print(f'  {part}, {of["title"]}')
                print(
                    f'    trainable          {of["trainable"]:>14,}  '
                    f'{100 * of["trainable"] / of["stock"]:7.3f} % of it'
                )
        print(f'  model, total         {counts["model_total"]:>14,}')
        print(
            f'  model, trainable     {whole:>14,}'
            f'  {100 * whole / counts["model_total"]:7.3f} % of the model'
        )
        for name, size in counts['parts'].items() if args.parts else ():
            print(f'    {name:<18} {size:>14,}')


if __name__ == '__main__':
    main()
