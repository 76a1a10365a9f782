#!/usr/bin/env bash
# Make a Python environment in which everything here runs.
#
#   bash tools/setup_env.sh [VENV]        default: .venv in this repository
#
# Installs the tested set (requirements/*.txt), builds mmcv's compiled ops once
# into a cache outside the clone, and proves the result by calling one op.
# Safe to run again: finished steps are skipped.
#
#   PYTHON            interpreter to build the environment from
#                     (default: python3)
#   MMLOWRANK_CACHE   where the compiled mmcv wheel is kept
#                     (default: ~/.cache/mmlowrank)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${1:-$root/.venv}
python=${PYTHON:-python3}
cache=${MMLOWRANK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mmlowrank}

say() { printf '[setup] %s\n' "$*"; }
die() { printf '[setup] %s\n' "$*" >&2; exit 1; }
pinned() { sed -n "s/^$1==//p" "$root/requirements/mmlab.txt"; }

# --- what this machine must have ---------------------------------------------
command -v "$python" >/dev/null ||
  die "No '$python' found. Install Python >= 3.10 or set PYTHON=/path/to/it."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
  die "$("$python" --version) is too old: mmlowrank needs Python >= 3.10." \
      "Set PYTHON=/path/to/a/newer/python."
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
  die "$python cannot make virtual environments. On Debian or Ubuntu:" \
      "apt-get install python3-venv"

# The environment is done when the stamp names these very requirements.
stamp=$venv/.mmlowrank_ready
wanted=$(cat "$root"/requirements/*.txt "$root/setup.py" | cksum)
check_op() {
  "$venv/bin/python" - <<'PY'
import torch
from mmcv.ops import nms

boxes = torch.tensor([[0., 0., 4., 4.], [0., 0., 4., 3.9], [8., 8., 9., 9.]])
_, keep = nms(boxes, torch.tensor([.9, .8, .7]), iou_threshold=0.5)
assert keep.tolist() == [0, 2], keep
PY
}
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted $root" ]; then
  check_op && { say "$venv is ready."; exit 0; }
  say "$venv is marked ready but its mmcv ops do not run: repairing."
fi

free_gib() {
  local dir=$1
  while [ ! -d "$dir" ]; do dir=$(dirname "$dir"); done
  df -Pk "$dir" | awk 'NR == 2 { print int($4 / 1048576) }'
}
need=10
[ -d "$venv" ] && need=2
[ "$(free_gib "$venv")" -ge "$need" ] ||
  die "Only $(free_gib "$venv") GiB free for $venv, $need are needed." \
      "Free some, or pass another place: bash tools/setup_env.sh /big/disk/venv"

# --- torch --------------------------------------------------------------------
if [ ! -x "$venv/bin/python" ]; then
  say "1/5 environment in $venv ($("$python" --version))"
  "$python" -m venv "$venv"
fi
py=$venv/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK=1
pip() { "$py" -m pip "$@"; }

say "2/5 torch $(pinned torch) (a download of about 3 GB the first time)"
pip install -qq 'setuptools>=77,<81' wheel ninja packaging
pip install -qq "torch==$(pinned torch)" "torchvision==$(pinned torchvision)"

# --- mmcv: compiled here, kept for the next time ------------------------------
# Keyed by all that the binary depends on: pip's own wheel cache is keyed by the
# mmcv version only and would hand out ops built against another torch.
mmcv=$(pinned onedl-mmcv)
key=$("$py" - <<'PY'
import sys

import torch

cuda = torch.version.cuda if torch.cuda.is_available() else None
device = 'cu' + cuda if cuda else 'cpu'
version = torch.__version__.split('+')[0]
print(f'cp{sys.version_info[0]}{sys.version_info[1]}-torch{version}-{device}')
PY
)
wheels=$cache/$key-mmcv$mmcv
wheel() { find "$wheels" -name '*.whl' 2>/dev/null | head -n 1; }
if [ -z "$(wheel)" ]; then
  command -v "${CXX:-c++}" >/dev/null ||
    die "No C++ compiler found to build the mmcv ops. On Debian or Ubuntu:" \
        "apt-get install build-essential"
  header=$("$py" -c 'import sysconfig as s
print(s.get_path("include") + "/Python.h")')
  [ -f "$header" ] ||
    die "The Python headers are missing ($header). On Debian or Ubuntu:" \
        "apt-get install python3-dev"
  [ "$(free_gib "$cache")" -ge 2 ] ||
    die "Only $(free_gib "$cache") GiB free for $cache, 2 are needed." \
        "Set MMLOWRANK_CACHE to a larger disk."
  say "3/5 compiling the ops of mmcv $mmcv: 10 to 20 minutes on 2 cores, once;"
  say "    the wheel is kept in $wheels"
  mkdir -p "$wheels"
  log=$wheels/build.log
  start=$SECONDS
  # A folder of its own, then one rename: a killed build leaves no half wheel.
  tmp=$(mktemp -d "$wheels/build.XXXXXX")
  # -g0: debug symbols double the compile time and nobody steps into the ops.
  # In a session of its own, so that stopping this script stops the compilers.
  CFLAGS="-g0 ${CFLAGS:-}" MMCV_WITH_OPS=1 \
    setsid "$py" -m pip wheel --no-deps --no-build-isolation --no-cache-dir -v \
    -w "$tmp" "onedl-mmcv==$mmcv" >"$log" 2>&1 &
  build=$!
  trap 'kill -- -$build 2>/dev/null; rm -rf "$tmp"' EXIT
  # A line that moves on a terminal, a line a minute in a log.
  if [ -t 1 ]; then every=5 start_of_line='\r' end_of_line=''
  else every=60 start_of_line='' end_of_line='\n'; fi
  shown=0
  while kill -0 $build 2>/dev/null; do
    sleep 5
    [ $((SECONDS - start - shown)) -ge $every ] || continue
    shown=$((SECONDS - start))
    files=$(grep -oE '^ *\[[0-9]+/[0-9]+\]' "$log" | tail -n 1 || true)
    printf "$start_of_line[setup]     %4d s  %s$end_of_line" "$shown" \
      "${files:-preparing}"
  done
  printf '\n'
  if ! wait $build; then
    tail -n 30 "$log" >&2
    die "mmcv did not compile; the whole log is $log"
  fi
  mv "$tmp"/*.whl "$wheels/"
  rm -rf "$tmp"
  trap - EXIT
  say "    compiled in $((SECONDS - start)) s"
else
  say "3/5 mmcv ops: found $(wheel)"
fi
pip install -qq "$(wheel)"

# --- the OpenMMLab packages, ourselves, the proof -----------------------------
say "4/5 OpenMMLab packages and mmlowrank itself"
pip install -qq -r "$root/requirements/mmlab.txt" \
  -r "$root/requirements/runtime.txt" -r "$root/requirements/tests.txt"
pip install -qq --no-build-isolation --no-deps -e "$root"

say "5/5 calling a compiled op"
check_op || die "The compiled mmcv ops do not run. Delete $wheels and $venv" \
                "and run this script again."
printf '%s' "$wanted $root" >"$stamp"
say "ready. Use it with: source $venv/bin/activate"
