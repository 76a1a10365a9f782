#!/usr/bin/env bash
# Test on a Slurm cluster.
#
#   GPUS=8 GPUS_PER_NODE=8 CPUS_PER_TASK=5 SRUN_ARGS=... \
#     bash tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments]
#
# PORT is that of the first process; a random one by default, for two jobs
# may share a machine. Run it from a folder that all machines see.
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 1; }
partition=$1 job=$2 config=$3 checkpoint=$4
shift 4
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
export MASTER_PORT=${PORT:-$((20000 + RANDOM % 20000))}
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# shellcheck disable=SC2086 - SRUN_ARGS holds several words on purpose
exec srun --partition="$partition" --job-name="$job" \
  --gres="gpu:$per_node" --ntasks="$gpus" --ntasks-per-node="$per_node" \
  --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 \
  ${SRUN_ARGS:-} \
  "${PYTHON:-python}" -u "$tools/test.py" "$config" "$checkpoint" \
  --launcher slurm "$@"
