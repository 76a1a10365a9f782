#!/usr/bin/env bash
# Train on several GPUs (or, without any, on several CPU processes).
#
#   bash tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
#
# On several machines run it on each with NNODES, NODE_RANK, MASTER_ADDR and,
# if you like, PORT set, from a folder that all of them see, as they must see
# the work dir: only the first process writes checkpoints.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 1; }
config=$1 gpus=$2
shift 2
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

exec "${PYTHON:-python}" -m torch.distributed.run \
  --nnodes="${NNODES:-1}" \
  --node-rank="${NODE_RANK:-0}" \
  --master-addr="${MASTER_ADDR:-127.0.0.1}" \
  --master-port="${PORT:-29500}" \
  --nproc-per-node="$gpus" \
  "$tools/train.py" "$config" --launcher pytorch "$@"
