#!/usr/bin/env bash
# Make a Python environment in which everything here runs.
#
#   bash tools/setup_env.sh [VENV]        default: .venv in this repository
#
# Installs the tested set (requirements/*.txt) and proves the result by calling
# nms and RoIAlign. mmcv comes without its compiled ops: those of torchvision
# take their place (mmlowrank/ops). Safe to run again: finished steps are
# skipped.
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
#   PYTHON            interpreter to build the environment from
#                     (default: python3)
#   MMLOWRANK_CACHE   where the wheels of mmcv are kept
#                     (default: ~/.cache/mmlowrank)
#   MAX_JOBS          compilers at a time (default: one for each core)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$(realpath -m "${1:-$root/.venv}")
python=${PYTHON:-python3}
cache=${MMLOWRANK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mmlowrank}
py=$venv/bin/python

say() { printf '[setup] %s\n' "$*"; }
die() { printf '[setup] %s\n' "$*" >&2; exit 1; }
pinned() { sed -n "s/^$1==//p" "$root/requirements/mmlab.txt"; }
pip() { "$py" -m pip "$@"; }
# Bytecode is written when a module is first imported, not for all of torch
# now: half of the time of the set-up.
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1

# --- which ops ----------------------------------------------------------------
# What is installed: compile, none, or nothing where mmcv is not.
installed_ops() {
  local package
  package=$(find "$venv"/lib/python*/site-packages -maxdepth 1 -name mmcv \
    2>/dev/null) || true
  [ -n "$package" ] || return 0
  find "$package" -maxdepth 1 -name '_ext.*' | grep -q . && echo compile ||
    echo none
}
ops=${MMCV_OPS:-$(installed_ops)}
ops=${ops:-none}
case $ops in
  compile|none) ;;
  *) die "MMCV_OPS is \"compile\" or \"none\", got \"$ops\"." ;;
esac

# --- what this machine must have, before anything is downloaded ---------------
command -v "$python" >/dev/null ||
  die "No '$python' found. Install Python >= 3.10 or set PYTHON=/path/to/it."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
  die "$("$python" --version) is too old: mmlowrank needs Python >= 3.10." \
      "Set PYTHON=/path/to/a/newer/python."
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
  die "$python cannot make virtual environments. On Debian or Ubuntu:" \
      "apt-get install python3-venv"

torch=$("$python" "$root/tools/choose_torch.py" "$(pinned torch)" \
  "$(pinned torchvision)") || die "No torch was chosen."

# The environment is done when the stamp names these very requirements.
stamp=$venv/.mmlowrank_ready
wanted="$(cat "$root"/requirements/*.txt "$root/setup.py" | cksum) $ops $torch $root"
check_ops() {
  "$py" - "$ops" <<'PY'
import sys

import cv2  # the GUI build needs libGL, which servers lack
import torch
from mmcv.ops import nms, roi_align

import mmlowrank.ops

boxes = torch.tensor([[0., 0., 4., 4.], [0., 0., 4., 3.9], [8., 8., 9., 9.]])
_, keep = nms(boxes, torch.tensor([.9, .8, .7]), iou_threshold=0.5)
assert keep.tolist() == [0, 2], keep
slope = torch.arange(8.).expand(1, 1, 8, 8).clone().requires_grad_()
out = roi_align(slope, torch.tensor([[0., 1., 1., 5., 5.]]), 1)
assert out.item() == 2.5, out
out.backward()
assert slope.grad.sum() == 1, slope.grad
assert mmlowrank.ops.compiled() == (sys.argv[1] == 'compile')
for card in range(torch.cuda.device_count()):
    assert torch.ones(2, device=f'cuda:{card}').add(1).sum() == 4, card
PY
}
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
  check_ops >/dev/null && { say "$venv is ready (mmcv ops: $ops)."; exit 0; }
  say "$venv is marked ready but its ops do not run: repairing."
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

mmcv=$(pinned onedl-mmcv)
# Whether the mmcv that is installed is the one asked for, and its ops run with
# the torch that is installed.
fits() {
  [ "$(installed_ops)" = "$ops" ] && "$py" - "$mmcv" "$ops" 2>/dev/null <<'PY'
import sys
from importlib.metadata import version

import torch

if version('onedl-mmcv') != sys.argv[1]:
    sys.exit('another version')
if sys.argv[2] == 'compile':
    from mmcv.ops import nms

    nms(torch.tensor([[0., 0., 1., 1.]]), torch.ones(1), iou_threshold=0.5)
PY
}
kept=$cache/mmcv$mmcv-ops-*/*.whl
if [ "$ops" = compile ] && ! compgen -G "$kept" >/dev/null && ! fits; then
  without="or leave MMCV_OPS out and use torchvision's ops."
  command -v "${CXX:-c++}" >/dev/null ||
    die "No C++ compiler found to build the mmcv ops. On Debian or Ubuntu:" \
        "apt-get install build-essential; $without"
  header=$("$python" -c 'import sysconfig as s
print(s.get_path("include") + "/Python.h")')
  [ -f "$header" ] ||
    die "The Python headers are missing ($header). On Debian or Ubuntu:" \
        "apt-get install python3-dev; $without"
  if nvidia-smi -L 2>/dev/null | grep -q GPU; then
    PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin command -v nvcc >/dev/null ||
      die "There is a GPU but no nvcc to compile mmcv's ops for it. Install" \
          "the CUDA toolkit and set CUDA_HOME; $without"
  fi
  [ "$(free_gib "$cache")" -ge 2 ] ||
    die "Only $(free_gib "$cache") GiB free for $cache, 2 are needed." \
        "Set MMLOWRANK_CACHE to a larger disk."
fi

# --- torch --------------------------------------------------------------------
if [ ! -x "$py" ]; then
  say "1/5 environment in $venv ($("$python" --version))"
  "$python" -m venv "$venv"
fi
say "2/5 ${torch%% *} (a download of about 3 GB the first time)"
pip install -qq 'setuptools>=77,<81' wheel ninja packaging
# shellcheck disable=SC2086 - words
pip install -qq $torch

# --- mmcv: built once, kept for the next time ---------------------------------
# Keyed by all that a binary depends on: pip's own wheel cache is keyed by the
# version of mmcv only and would hand out ops built against another torch.
key() {
  [ "$ops" = compile ] || { echo "no-ops"; return; }
  "$py" - <<'PY'
import sys

import torch

cuda = torch.version.cuda if torch.cuda.is_available() else None
device = 'cu' + cuda if cuda else 'cpu'
version = torch.__version__.split('+')[0]
python = f'cp{sys.version_info[0]}{sys.version_info[1]}'
print(f'ops-O2-{python}-torch{version}-{device}')
PY
}
wheels=$cache/mmcv$mmcv-$(key)
# The wheel that is kept, if it is whole and has ops or none as asked.
wheel() {
  "$py" - "$wheels" "$ops" <<'PY'
import sys
import zipfile
from pathlib import Path

for path in Path(sys.argv[1]).glob('*.whl'):
    try:
        with zipfile.ZipFile(path) as wheel:
            whole = wheel.testzip() is None
            compiled = any('mmcv/_ext.' in n for n in wheel.namelist())
    except zipfile.BadZipFile:
        whole = False
    if whole and compiled == (sys.argv[2] == 'compile'):
        print(path)
        break
PY
}
build() {
  local options=(wheel --no-deps --no-cache-dir -v --no-binary onedl-mmcv)
  if [ "$ops" = compile ]; then
    # CFLAGS replaces Python's own flags, so it must ask for optimised code.
    # -g0: debug symbols double the time and nobody steps into the ops.
    local flags="-O2 -DNDEBUG -g0 ${CFLAGS:-}"
    # Each of the 78 files reads all headers of PyTorch: read once, compile in
    # a third of the time. Where its flags do not fit, GCC reads the text.
    local header=$1/torch_types.h
    echo '#include <torch/types.h>' >"$header"
    # shellcheck disable=SC2046,SC2086 - words
    "${CXX:-c++}" $flags -fPIC -std=c++17 -x c++-header "$header" $("$py" -c '
from torch.utils.cpp_extension import include_paths
print(*(f"-isystem{path}" for path in include_paths()))')
    export CFLAGS="$flags -include $header" MMCV_WITH_OPS=1
    # Where torch looks for the ninja that was installed above.
    export PATH=$venv/bin:$PATH
    options+=(--no-build-isolation)
  fi
  # In a session of its own: stopping this script stops the compilers too.
  exec setsid "$py" -m pip "${options[@]}" -w "$1" "onedl-mmcv==$mmcv"
}
if fits; then
  say "3/5 mmcv $mmcv (ops: $ops) is installed"
elif [ -n "$(wheel)" ]; then
  say "3/5 mmcv $mmcv (ops: $ops): found $(wheel)"
else
  say "3/5 building mmcv $mmcv (ops: $ops), kept in $wheels"
  mkdir -p "$wheels"
  log=$wheels/build.log
  start=$SECONDS
  # A folder of its own, then one rename: a killed build leaves no half wheel.
  tmp=$(mktemp -d "$wheels/build.XXXXXX")
  build "$tmp" >"$log" 2>&1 &
  build=$!
  trap 'kill -- -$build 2>/dev/null; rm -rf "$tmp"' EXIT
  # A line that moves on a terminal, a line a minute in a log.
  if [ -t 1 ]; then every=5 start_of_line='\r' end_of_line=''
  else every=60 start_of_line='' end_of_line='\n'; fi
  shown=0
  while kill -0 $build 2>/dev/null; do
    sleep 1
    [ $((SECONDS - start - shown)) -ge $every ] || continue
    shown=$((SECONDS - start))
    files=$(grep -oE '^ *\[[0-9]+/[0-9]+\]' "$log" | tail -n 1 || true)
    printf "$start_of_line[setup]     %4d s  %s$end_of_line" "$shown" \
      "${files:-preparing}"
  done
  [ "$shown" = 0 ] || [ -n "$end_of_line" ] || printf '\n'
  if ! wait $build; then
    tail -n 30 "$log" >&2
    die "mmcv could not be built; the whole log is $log"
  fi
  rm -f "$wheels"/*.whl
  mv "$tmp"/*.whl "$wheels/"
  rm -rf "$tmp"
  trap - EXIT
  [ -n "$(wheel)" ] ||
    die "mmcv was built, but not with MMCV_OPS=$ops; the log is $log"
  say "    built in $((SECONDS - start)) s"
fi
# The version is the same with ops and without, so pip would see no change.
if ! fits; then
  pip install -qq --no-deps --force-reinstall "$(wheel)"
fi

# --- the OpenMMLab packages, ourselves, the proof -----------------------------
say "4/5 OpenMMLab packages and mmlowrank itself"
pip install -qq -r "$root/requirements/mmlab.txt" \
  -r "$root/requirements/runtime.txt" -r "$root/requirements/tests.txt"
# mmcv and mmdet's imaug ask for opencv-python, mmseg for the headless build.
# Both own cv2, and the first needs libGL, which servers lack: keep the second.
if pip show -qq opencv-python 2>/dev/null; then
  headless=$(pip freeze | grep '^opencv-python-headless==')
  pip uninstall -qq -y opencv-python
  pip install -qq --no-deps --force-reinstall "$headless"
fi
pip install -qq --no-build-isolation --no-deps -e "$root"

say "5/5 calling nms and RoIAlign"
check_ops || die "The ops do not run. Delete $wheels and $venv and run this" \
                 "script again."
printf '%s' "$wanted" >"$stamp"
say "ready. Use it with: source $venv/bin/activate"
