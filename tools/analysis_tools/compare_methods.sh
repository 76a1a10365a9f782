#!/usr/bin/env bash
# Twelve methods on the digit scenes, as a table and a plot: 45 minutes on
# two CPU cores once the quickstart has run. No download, no GPU.
#
#   bash tools/analysis_tools/compare_methods.sh [--work-dir DIR] [--smoke]
#
#   --work-dir DIR  where the quickstart ran (default: work_dirs/quickstart)
#   --smoke         two methods, a few iterations: does everything run? The
#                   report then stays in the work folder
#
# Uses the Python that is active. Runs tools/quickstart.sh first, which skips
# what it has done before: the scenes, the pre-trained Swin, and Mask R-CNN
# with three of the methods come from there. Killed? Run it again: finished
# runs are skipped, training goes on from its checkpoint. Writes
# docs/compare_methods.md and .png.
set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/../jobs.sh"

work= smoke= methods=() out=docs/compare_methods.md
while [ $# -gt 0 ]; do
  case $1 in
    --work-dir) work=$(realpath -m "${2:?--work-dir needs a folder}"); shift ;;
    --smoke) smoke=--smoke ;;
    -h|--help) usage; exit 0 ;;
    *) usage >&2; die "Unknown argument: $1" ;;
  esac
  shift
done
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# In the background, so that a signal reaches it at once.
bash tools/quickstart.sh --no-setup $smoke ${work:+--work-dir "$work"} &
quickstart=$!
trap 'kill $quickstart; wait; exit 130' INT TERM HUP
wait $quickstart
trap stop INT TERM HUP

scenes=${work:+$work/scenes}
scenes=${scenes:-data/digit_scenes${smoke/--/-}}
work=${work:-work_dirs/quickstart${smoke/--/-}}
logs=$work/logs epochs=
train_options=(randomness.seed=0)
if [ -n "$smoke" ]; then
  methods=(--methods FIXED E3VA) out=$work/compare_methods.md
  train_options+=(train_cfg.max_iters=4 default_hooks.logger.interval=1
    default_hooks.checkpoint.interval=2)
fi
cores=$(env -u OMP_NUM_THREADS nproc)
export OMP_NUM_THREADS=1 # for the table's seconds: a core for each process
export DIGIT_SCENES=$scenes
DIGIT_SWIN=$(last_checkpoint "$work/pretrain")
export DIGIT_SWIN

lock_work_folder
say "Mask R-CNN and UPerNet with each method, two at a time"
tool=tools/analysis_tools/compare_methods.py
python $tool "$work" --write-configs "${methods[@]}" >"$logs/configs.log"
for config in "$work"/configs/*.py; do
  train_soon "$(basename "$config" .py)" "$config"
done
wait_until 0

say "table and plot"
python $tool "$work" --out "$out" $smoke "${methods[@]}"
say "written: $out"
