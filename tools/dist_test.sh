#!/usr/bin/env bash
# Test on several GPUs (or, without any, on several CPU processes).
#
#   bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of tools/test.py]
#
# On several machines run it on each with NNODES, NODE_RANK, MASTER_ADDR and,
# if you like, PORT set, from a folder that all of them see: results are
# gathered there.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 1; }
config=$1 checkpoint=$2 gpus=$3
shift 3
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

exec "${PYTHON:-python}" -m torch.distributed.run \
  --nnodes="${NNODES:-1}" \
  --node-rank="${NODE_RANK:-0}" \
  --master-addr="${MASTER_ADDR:-127.0.0.1}" \
  --master-port="${PORT:-29500}" \
  --nproc-per-node="$gpus" \
  "$tools/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
