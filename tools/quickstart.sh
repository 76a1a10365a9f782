#!/usr/bin/env bash
# LoRand from start to finish on real handwritten digits: about 10 minutes on
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

. "$(dirname "${BASH_SOURCE[0]}")/jobs.sh"

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
num_train=600 num_val=100 epochs=20
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

lock_work_folder

pretrain() {
  python tools/train.py $configs/pretrain_swin-mini_digits.py \
    --work-dir "$work/pretrain" --resume auto \
    --cfg-options "${pretrain_options[@]}" >"$logs/train-pretrain.log" 2>&1 ||
    return
  touch "$work/pretrain/trained"
}

if [ -n "$setup" ]; then
  say "1/5 environment"
  bash tools/setup_env.sh "$venv"
  export PATH=$(realpath "$venv")/bin:$PATH
else
  say "1/5 environment: $(command -v python || echo 'no python is active')"
  python -c 'import mmlowrank, mmcv.ops, mmdet, mmpretrain' ||
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
for method in FULL=full LoRand=lorand-b4r8 FIXED=fixed; do
  name=${method%=*}
  config=$configs/mask-rcnn_swin-mini_${method#*=}_800it_digits.py
  train_soon "$name" "$config"
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

  $configs/mask-rcnn_swin-mini_lorand-b4r8_800it_digits.py
      the config you just trained: LoRand is one line of it
  README.md            LoRand on your own mmdet or mmseg config
  configs/lorand/      the paper's detectors on COCO, VOC and ADE20K

Other heads on the same scenes (Cascade Mask R-CNN, Faster R-CNN, UPerNet):

  ls $configs
EOF
