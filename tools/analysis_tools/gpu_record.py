"""Check and time everything on a GPU, and write a record of it.

python tools/analysis_tools/gpu_record.py [--short]
    [--json docs/benchmarks/gpu.json]

Numerics in fp32, fp16 and bf16, each beside the plain formulation in the same
type: all hand-written passes, all tuners on a Swin (with both kinds of
attention), and LORS. Then every method of benchmark.py, in fp32 and with
autocast, with its peak memory, and the planner against what a step allocates
(plan_memory.py --verify). What could not be checked is printed and recorded.
On a CPU --short goes through the same code with small sizes. The exit code is
1 if a number is not right.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from mmlowrank.analysis import contenders, measuring, numerics, records

ROOT = Path(__file__).resolve().parents[2]
PLANNER = ROOT / 'tools/analysis_tools/plan_memory.py'
PLANNED = (
    'configs/e3va/cascade-mask-rcnn_swin-b_e3va-r8_3x_coco.py',
    'configs/lorand/cascade-mask-rcnn_swin-b_lorand-b2r8_3x_coco.py',
)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--short', action='store_true', help='small sizes')
    parser.add_argument('--json', help='write the record to this file')
    return parser.parse_args()


def check_numerics(device: str, short: bool) -> list[dict]:
    """Compare with float64, print each row, and return them."""
    tuners, lors = {}, {}
    if short:
        tuners = dict(size=56, names=('E3VA', 'LoRA'), kinds=('fp32', 'bf16'))
        lors = dict(size=64, kinds=('fp32',))
    rows = []
    for source in (
        numerics.kernel_errors(device),
        numerics.tuner_errors(device, **tuners),
        numerics.lors_errors(device, **lors),
    ):
        for row in source:
            verdict = 'right' if row['right'] else 'WRONG'
            print(
                f'{row["method"]:<28}{row["type"]:<6}{row["error"]:.1e}, '
                f'plain {row["error_of_plain"]:.1e}: {verdict}'
            )
            rows.append(row)
    return rows


def time_methods(device: str, short: bool) -> list[dict]:
    """Measure every method in turns, in each type."""
    arch, size, repeats = ('tiny', 64, 1) if short else ('base', 448, 20)
    names, ours = contenders.contenders(), ('LoRand', 'LoRA', 'E3VA')
    kinds = numerics.TYPES
    if short:
        names, ours = ['stock FIXED'], ('E3VA',)
        kinds = dict(fp32=torch.float32, bf16=torch.bfloat16)
    backbones = {}
    for name in names:
        try:
            backbones[name] = contenders.build(arch, name)
        except ImportError as error:
            print(f'{name} is left out: {error}')
    for name in ours:
        tuner = dict(type=name, attention='sdpa')
        backbones[f'{name}, sdpa'] = contenders.build_tuned(arch, tuner)
    images = torch.randn(1, 3, size, size, device=device)
    rows = []
    for kind, dtype in kinds.items():
        half = dtype != torch.float32
        with torch.autocast(device, dtype, enabled=half):
            results = measuring.measure(backbones, images, repeats)
        for result in results:
            print(
                f'{result.method:<28}{kind:<6}{result.seconds:.3f} s, '
                f'{result.saved_bytes / 2**20:.1f} MiB kept'
            )
            rows.append(dict(result.to_json(), type=kind))
    return rows


def verify_planner(device: str) -> tuple[list[dict], str]:
    """Let the planner check itself; return rows, and why not if it did not."""
    if device != 'cuda':
        return [], 'the planner against an allocator: there is no GPU'
    if not PLANNER.exists():
        return [], 'the planner: plan_memory.py is not there'
    rows = []
    for config in PLANNED:
        words = [sys.executable, str(PLANNER), config, '--verify']
        run = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        print(run.stdout)
        rows.append(
            dict(
                method=config,
                right=run.returncode == 0,
                output=run.stdout,
                error=run.stderr[-2000:],
            )
        )
    return rows, ''


def main() -> None:
    """Check, time, write, and say what was left out."""
    args = parse_args()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    checked = check_numerics(device, args.short)
    timed = time_methods(device, args.short)
    planned, missing = verify_planner(device)
    left_out = [missing] if missing else []
    if device != 'cuda':
        left_out.append('everything else on a GPU: this was a CPU')
    if args.short:
        left_out.append('real sizes, most tuners and types: this was --short')
    wrong = [row for row in (*checked, *planned) if not row['right']]
    for what in left_out:
        print(f'Not checked: {what}')
    for row in wrong:
        print(f'WRONG: {row["method"]} {row.get("type", "")}')
    if args.json:
        settings = dict(device=device, short=args.short, left_out=left_out)
        settings.update(numerics=checked, planner=planned)
        records.write(args.json, timed, settings)
    if wrong:
        sys.exit(1)


if __name__ == '__main__':
    main()
