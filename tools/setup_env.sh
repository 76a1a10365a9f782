#!/usr/bin/env bash
# Make a Python environment in which everything here runs.
#
#   bash tools/setup_env.sh [VENV]        default: .venv in this repository
#
# Installs the packages of requirements/lock.txt and this one, and proves the
# result by calling nms, RoIAlign, and a kernel on each card. mmcv comes
# without its compiled ops: those of torchvision take their place
# (mmlowrank/ops). Safe to run again: finished steps are skipped.
#
#   MMCV_OPS          "compile" builds mmcv's own ops, once, into a cache
#                     outside the clone: 2 minutes on two cores without CUDA
#                     (GCC 12), longer with it or with another compiler. Only
#                     what detectors rarely use needs it (DCN has a stand-in,
#                     CARAFE and rotated boxes have none). "none" goes back.
#                     Without it an environment keeps what it has; a new one
#                     has none.
#   COMPUTE_CAP       capabilities of the cards that it is for, e.g. "7.0" for
#                     a V100, where this machine has none (default: those of
#                     nvidia-smi). They decide which build of torch comes.
#   PYTHON            interpreter to build the environment from (default: the
#                     first of python3, python3.13, ... 3.10 that runs)
#   MMLOWRANK_CACHE   where compiled wheels of mmcv are kept
#                     (default: ~/.cache/mmlowrank)
#   MAX_JOBS          compilers at a time (default: one for each core)
#   UV_...            settings of uv, which downloads; from those of pip it
#                     gets the index, certificate, proxy and trusted host
set -euo pipefail

if [ -n "${PYTHON:-}" ]; then
  pythons=("$PYTHON")
else
  # The first may be a shim of pyenv that leads nowhere.
  pythons=(python3 python3.13 python3.12 python3.11 python3.10 python)
fi
for python in "${pythons[@]}"; do
  if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
    2>/dev/null; then
    exec "$python" "$(dirname "${BASH_SOURCE[0]}")/environment/setup_env.py" "$@"
  fi
done
echo "[setup] mmlowrank needs Python >= 3.10, and none of these is one that" \
  "runs: ${pythons[*]}. Install it, or set PYTHON=/path/to/it." >&2
exit 1
