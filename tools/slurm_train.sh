#!/usr/bin/env bash
# Train on a Slurm cluster: one task, and one GPU, for each process.
set -euo pipefail

usage() {
  cat >&2 <<TEXT
usage: [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS=...] \\
         bash $0 PARTITION JOB_NAME CONFIG [WORK_DIR] [arguments of train.py]

GPUS            processes in all
GPUS_PER_NODE   processes on one machine; at most GPUS of them are used
CPUS_PER_TASK   CPU cores of each process
SRUN_ARGS       more arguments of srun, separated by spaces
WORK_DIR        folder of logs and checkpoints; left out where the argument
                begins with --
TEXT
  exit 2
}

fail() {
  echo "error: $1" >&2
  usage
}

if [ $# -lt 3 ]; then
  usage
fi
partition=$1
job=$2
config=$3
shift 3
work_dir=()
if [ $# -gt 0 ] && [ "${1#--}" = "$1" ]; then
  work_dir=(--work-dir "$1")
  shift
fi

gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-8}
cpus=${CPUS_PER_TASK:-5}
for setting in "GPUS=$gpus" "GPUS_PER_NODE=$per_node" "CPUS_PER_TASK=$cpus"; do
  if ! [[ ${setting#*=} =~ ^[1-9][0-9]*$ ]]; then
    fail "${setting%%=*} must be a positive number, but got '${setting#*=}'"
  fi
done
if [ "$gpus" -lt "$per_node" ]; then
  per_node=$gpus
fi
if [ $((gpus % per_node)) -ne 0 ]; then
  fail "GPUS=$gpus is not a multiple of GPUS_PER_NODE=$per_node"
fi
if [ ! -f "$config" ]; then
  fail "there is no config '$config'"
fi
if ! command -v srun >/dev/null; then
  echo "error: srun was not found; without Slurm use tools/dist_train.sh" >&2
  exit 2
fi

read -r -a srun_args <<<"${SRUN_ARGS:-}"
here=$(cd "$(dirname "$0")" && pwd)
exec srun --partition="$partition" --job-name="$job" \
  --gres="gpu:$per_node" --ntasks="$gpus" --ntasks-per-node="$per_node" \
  --cpus-per-task="$cpus" --kill-on-bad-exit=1 \
  ${srun_args[@]+"${srun_args[@]}"} \
  "${PYTHON:-python}" -u "$here/train.py" "$config" \
  ${work_dir[@]+"${work_dir[@]}"} --launcher=slurm "$@"
