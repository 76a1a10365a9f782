#!/usr/bin/env bash
# LoRand and E3VA from start to finish on real handwritten digits: about 10
# minutes on two CPU cores once the environment is there. No download, no GPU.
#
#   bash tools/quickstart.sh [--seed N] [--work-dir DIR] [--smoke] [--compare]
#                            [--venv DIR | --no-setup]
#
#   --seed N     other scenes, other random numbers, a work folder of their
#                own (default: 0, or SEED from the environment)
#   --venv DIR   where the environment is or shall be (default: .venv)
#   --work-dir DIR  where everything goes (default: work_dirs/quickstart, and
#                data/digit_scenes for the scenes)
#   --no-setup   use the Python that is active now and install nothing
#   --smoke      a few iterations on a few scenes: does everything run?
#   --compare    all methods, with Mask R-CNN and UPerNet, instead of four
#                with Mask R-CNN: an hour more. Writes docs/compare_methods.md
#                and .png. With --methods METHOD ... some of them, below the
#                work folder; with --seeds N ... Mask R-CNN on several seeds, a
#                section of the page
#
# Pre-trains a small Swin on single digits, then trains the same Mask R-CNN
# four times: backbone frozen, with E3VA, with LoRand, and trained in full.
# Killed? Run it again: finished steps are skipped, training goes on from its
# checkpoint.
set -euo pipefail

say() { printf '[quickstart] %s\n' "$*"; }
die() { say "$*" >&2; exit 1; }
usage() { sed -n '2,/^set -euo/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
seed=${SEED:-0} venv=$root/.venv setup=yes options=()
while [ $# -gt 0 ]; do
  case $1 in
    --seed) seed=${2:?--seed needs a number}; shift ;;
    --work-dir) options+=("$1" "${2:?--work-dir needs a folder}"); shift ;;
    --venv) venv=$(realpath -m "${2:?--venv needs a folder}"); shift ;;
    --no-setup) setup= ;;
    --smoke|--compare) options+=("$1") ;;
    --methods|--seeds|--saved)
      options+=("$1")
      while [ $# -gt 1 ] && [[ $2 != --* ]]; do options+=("$2"); shift; done ;;
    -h|--help) usage; exit 0 ;;
    *) usage >&2; die "Unknown argument: $1" ;;
  esac
  shift
done
[[ $seed =~ ^[0-9]+$ ]] || die "The seed must be a whole number, got '$seed'."

if [ -n "$setup" ]; then
  say "1/5 environment"
  bash "$root/tools/setup_env.sh" "$venv"
  export PATH=$venv/bin:$PATH
else
  say "1/5 environment: $(command -v python || echo 'no python is active')"
  python -c 'import mmlowrank, mmcv.ops, mmdet, mmpretrain' ||
    die "No Python with the packages that this needs is active. Activate" \
      "one, or leave out --no-setup."
fi
exec python "$root/tools/quickstart.py" --seed "$seed" "${options[@]}"
