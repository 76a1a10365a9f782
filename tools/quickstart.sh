#!/usr/bin/env bash
# LoRand from start to finish on real handwritten digits: about 13 minutes on
# two CPU cores once the environment is there. No download, no GPU.
#
#   bash tools/quickstart.sh [--seed N] [--work-dir DIR] [--smoke]
#                            [--venv DIR | --no-setup]
#
#   --seed N     other scenes, other random numbers, a work folder of their
#                own (default: 0, or SEED from the environment)
#   --venv DIR   where the environment is or shall be (default: .venv)
#   --work-dir DIR  where everything goes (default: work_dirs/quickstart, and
#                data/digit_scenes for the scenes)
#   --no-setup   use the Python that is active now and install nothing
#   --smoke      a few iterations on a few scenes: does everything run?
#
# Pre-trains a small Swin on single digits, then trains the same Mask R-CNN
# three times: backbone frozen, with LoRand, and trained in full. Killed? Run
# it again: finished steps are skipped, training goes on from its checkpoint.
set -euo pipefail

say() { printf '[quickstart] %s\n' "$*"; }
die() { printf '[quickstart] %s\n' "$*" >&2; exit 1; }
usage() { sed -n '2,/^set -euo/{/^#/s/^# \{0,1\}//p}' "$0"; }

seed=${SEED:-0} venv=.venv setup=yes smoke= work=
while [ $# -gt 0 ]; do
  case $1 in
    --seed) seed=${2:?--seed needs a number}; shift ;;
    --work-dir) work=$(realpath -m "${2:?--work-dir needs a folder}"); shift ;;
    --venv) venv=$(realpath -m "${2:?--venv needs a folder}"); shift ;;
    --no-setup) setup= ;;
    --smoke) smoke=-smoke ;;
    -h|--help) usage; exit 0 ;;
    *) usage >&2; die "Unknown argument: $1" ;;
  esac
  shift
done
[[ $seed =~ ^[0-9]+$ ]] || die "The seed must be a whole number, got '$seed'."
cd "$(dirname "${BASH_SOURCE[0]}")/.."

suffix=$smoke
[ "$seed" = 0 ] || suffix=-seed$seed$smoke
scenes=${work:+$work/scenes}
scenes=${scenes:-data/digit_scenes$suffix}
work=${work:-work_dirs/quickstart$suffix}
logs=$work/logs
configs=configs/quickstart
num_train=600 num_val=100 epochs=15
pretrain_options=(randomness.seed="$seed")
train_options=(randomness.seed="$seed")
if [ -n "$smoke" ]; then
  num_train=6 num_val=4 epochs=1
  pretrain_options+=(train_cfg.max_epochs=1 train_cfg.val_interval=1
    train_dataloader.dataset.indices=128 default_hooks.logger.interval=1)
  train_options+=(train_cfg.max_iters=4 default_hooks.logger.interval=1
    default_hooks.checkpoint.interval=2)
fi

# A second thread gains nothing on maps of 40 x 40, and two processes that
# both want it slow each other down tenfold. A second process does gain.
# nproc would answer with OMP_NUM_THREADS where that is set.
cores=$(env -u OMP_NUM_THREADS nproc)
export OMP_NUM_THREADS=1
# What the configs read: the scenes, and the checkpoint everybody starts from.
export DIGIT_SCENES=$scenes
export DIGIT_SWIN=$work/pretrain/epoch_$epochs.pth

mkdir -p "$logs"
# Children inherit the lock: what a killed quickstart left running holds it.
exec 9>"$work/.lock"
flock -n 9 || die "Another quickstart is at work in $work. Let it finish, or" \
  "end it (fuser $work/.lock names its processes)."

# --- jobs: in the background, each with logs of its own ---------------------
declare -A pids=() # name of a running job -> its process

# start NAME COMMAND...
start() {
  "${@:2}" &
  pids[$1]=$!
}
# A job is a shell whose child is the command; it ends when that does. The
# lock is held until then.
end_jobs() {
  local pid
  for pid in "${pids[@]}"; do
    pkill -P "$pid" 2>/dev/null || kill "$pid" 2>/dev/null || true
  done
  wait 2>/dev/null || true
}
stop() {
  end_jobs
  say "stopped; run it again to continue"
  exit 130
}
trap stop INT TERM HUP
log_of() { ls -t "$logs"/*-"$1".log 2>/dev/null | head -n 1; }
fail() {
  end_jobs
  tail -n 15 "$(log_of "$1")" >&2
  die "'$1' failed. The whole log is $(log_of "$1"); after mending the cause," \
    "run this again: it continues here."
}

# progress NAME: one job's bar, from the last line that counts in its log.
progress() {
  local log line now end bar text
  local count='(Iter|Epoch)\((train|val|test)\) +(\[([0-9]+)\])?'
  count+='\[ *([0-9]+)/([0-9]+)\]'
  log=$(log_of "$1" || true)
  line=$(grep -E "$count" "$log" 2>/dev/null | tail -n 1 || true)
  if ! [[ $line =~ $count ]]; then
    printf '%-10s starts' "$1"
    return
  fi
  now=${BASH_REMATCH[5]} end=${BASH_REMATCH[6]}
  if [ "${BASH_REMATCH[1]}${BASH_REMATCH[2]}" = Epochtrain ]; then
    # Only the pre-training counts in epochs.
    now=$((now + (BASH_REMATCH[4] - 1) * end)) end=$((epochs * end))
  fi
  printf -v bar '%*s' $((10 * now / end)) ''
  printf -v text '%-10s [%-10s] %3d/%-3d' "$1" "${bar// /#}" "$now" "$end"
  [[ $log != *test-* ]] || text+=" tested"
  [[ ! $line =~ ' time: '([0-9.]{4}) ]] || text+=" ${BASH_REMATCH[1]} s"
  printf '%s' "$text"
}

# wait_until N: until at most N jobs run; shows how all get on. One line that
# moves on a terminal, a line each half minute in a file.
wait_until() {
  local name text ticks=0
  while [ ${#pids[@]} -gt "$1" ]; do
    sleep 1
    text=
    for name in "${!pids[@]}"; do
      if kill -0 "${pids[$name]}" 2>/dev/null; then
        text+="  $(progress "$name")"
        continue
      fi
      wait "${pids[$name]}" || fail "$name"
      [ ! -t 1 ] || printf '\r\e[K'
      say "    $name is done"
      unset "pids[$name]"
    done
    if [ -t 1 ]; then
      printf '\r%s\e[K' "$text"
    elif [ $((ticks++ % 30)) -eq 0 ]; then
      printf '%s\n' "$text"
    fi
  done
}
skip() { say "    done before (remove $1 to repeat it)"; }
last_checkpoint() {
  local name
  name=$(basename "$(cat "$1/last_checkpoint" 2>/dev/null || true)")
  [ -n "$name" ] && [ -f "$1/$name" ] && printf '%s' "$1/$name"
}

# Marks are set after a step has succeeded; half a step does not count.
pretrain() {
  python tools/train.py $configs/pretrain_swin-mini_digits.py \
    --work-dir "$work/pretrain" --resume auto \
    --cfg-options "${pretrain_options[@]}" >"$logs/train-pretrain.log" 2>&1 ||
    return
  touch "$work/pretrain/trained"
}
# train_and_test NAME CONFIG
train_and_test() {
  local name=$1 dir=$work/${1,,} config=$2 checkpoint
  if ! [ -f "$dir/trained" ]; then
    python tools/train.py "$config" --work-dir "$dir" --resume auto \
      --cfg-options "${train_options[@]}" >"$logs/train-$name.log" 2>&1 ||
      return
    touch "$dir/trained"
  fi
  checkpoint=$(last_checkpoint "$dir") || return
  mkdir -p "$dir/test"
  python tools/test.py "$config" "$checkpoint" --work-dir "$dir/test" \
    --out "$dir/test/predictions.pkl" >"$logs/test-$name.log" 2>&1 || return
  touch "$dir/tested"
}

if [ -n "$setup" ]; then
  say "1/5 environment"
  bash tools/setup_env.sh "$venv"
  export PATH=$(realpath "$venv")/bin:$PATH
else
  say "1/5 environment: $(command -v python || echo 'no python is active')"
  python -c 'import mmcv.ops, mmdet, mmpretrain, mmlowrank' ||
    die "No Python with the packages that this needs is active. Activate" \
      "one, or leave out --no-setup."
fi
start=$SECONDS

say "2/5 scenes of handwritten digits, in $scenes"
python tools/dataset_converters/digit_scenes.py --out "$scenes" \
  --train "$num_train" --val "$num_val" --seed "$seed"

say "3/5 pre-training a small Swin on single digits"
if [ -f "$work/pretrain/trained" ] && [ -f "$DIGIT_SWIN" ]; then
  skip "$work"
else
  start pretrain pretrain
  wait_until 0
fi
say "    $(grep -o 'accuracy/top1: [0-9.]*' "$logs/train-pretrain.log" |
  tail -n 1 || true) % of the held-out digits"

# Two at a time, the longest first.
say "4/5 Mask R-CNN: FULL (everything trains), LoRand (adapters in a frozen"
say "    backbone), FIXED (frozen backbone)"
for method in FULL=full LoRand=lorand-b2r8 FIXED=fixed; do
  name=${method%=*}
  config=$configs/mask-rcnn_swin-mini_${method#*=}_800it_digits.py
  if [ -f "$work/${name,,}/tested" ]; then
    skip "$work/${name,,}"
  else
    rm -f "$logs"/*-"$name".log
    start "$name" train_and_test "$name" "$config"
    wait_until $((cores > 1 ? 1 : 0))
  fi
done
wait_until 0

say "5/5 table and pictures"
printf '\n'
python tools/analysis_tools/quickstart_table.py "$work"
took=$((SECONDS - start))
cat <<EOF

Done in $((took / 60)) min $((took % 60)) s, without the set-up. Look at

  $work/pictures.png   truth and predictions side by side
  $work/trade_off.png  what each trained parameter buys
  $work/logs/          everything the runs said

and read next

  $configs/mask-rcnn_swin-mini_lorand-b2r8_800it_digits.py
      the config you just trained: LoRand is one line of it
  README.md            LoRand on your own mmdet or mmseg config
  configs/lorand/      the paper's detectors on COCO, VOC and ADE20K

Other heads on the same scenes (Cascade Mask R-CNN, Faster R-CNN, UPerNet):

  ls $configs
EOF
