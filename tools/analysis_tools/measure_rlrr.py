"""Measure one ViT block with RLRR against its plain formulation.

python tools/analysis_tools/measure_rlrr.py [--embed-dims 768] [--heads 12]
    [--batch 32] [--tokens 197] [--repeats 5]

The plain formulation computes ``W * c * r + W`` under autograd and forms the
softmax. Both are measured in one run, in turns: bytes kept for the backward
pass (deterministic) and seconds of forward and backward (this machine's).
"""

import argparse
import statistics

import torch

from mmlowrank.analysis import measuring, records
from mmlowrank.analysis.plain_rlrr import PlainRLRRBlock, RLRRBlock


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--embed-dims', type=int, default=768)
    parser.add_argument('--heads', type=int, default=12)
    parser.add_argument('--batch', type=int, default=32)
    parser.add_argument('--tokens', type=int, default=197)
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--amp', action='store_true', help='autocast')
    parser.add_argument('--json', help='write a record to this file')
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    args = parse_args()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.manual_seed(0)
    ours = RLRRBlock(args.embed_dims, args.heads).to(device)
    blocks = {'plain': PlainRLRRBlock(ours), 'mmlowrank': ours}
    # As in the middle of a network: the block before wants a gradient too.
    x = torch.randn(
        args.batch,
        args.tokens,
        args.embed_dims,
        device=device,
        requires_grad=True,
    )
    with torch.autocast(device, enabled=args.amp):
        with torch.no_grad():
            one, other = (block(x)[0] for block in blocks.values())
            difference = (one - other).abs().max() / one.abs().max()
        plain, lean = measuring.measure(blocks, x, args.repeats)
    print(
        f'one ViT block with RLRR, {args.batch} x {args.tokens} x '
        f'{args.embed_dims}, {"autocast" if args.amp else "fp32"}, {device}, '
        f'{torch.get_num_threads()} threads, median of {args.repeats}; '
        f'outputs differ by {difference:.1e}'
    )
    print(
        f'{"":<11}{"trainable":>10}{"saved MB":>10}{"fwd s":>8}{"bwd s":>8}'
        f'{"sum s":>8}'
    )
    for result in (plain, lean):
        forward, backward = map(
            statistics.median, (result.forward, result.backward)
        )
        print(
            f'{result.method:<11}{result.trainable:>10,}'
            f'{result.saved_bytes / 1e6:>10.1f}{forward:>8.3f}'
            f'{backward:>8.3f}{result.seconds:>8.3f}'
        )
    print(
        f'ratio to plain: saved {lean.saved_bytes / plain.saved_bytes:.3f}, '
        f'time {lean.seconds / plain.seconds:.3f}'
    )
    if args.json:
        settings = {k: v for k, v in vars(args).items() if k != 'json'}
        rows = [plain.to_json(), lean.to_json()]
        records.write(args.json, rows, settings)


if __name__ == '__main__':
    main()
