#!/usr/bin/env bash
# Evaluate on several GPUs of one machine, or of several machines.
# Without a GPU, the processes share the CPU.
set -euo pipefail

if [ $# -lt 3 ]; then
  echo "usage: [NNODES=1 NODE_RANK=0 MASTER_ADDR=127.0.0.1 PORT=...] \
bash $0 CONFIG CHECKPOINT GPUS [arguments of test.py]" >&2
  exit 2
fi
config=$1
checkpoint=$2
gpus=$3
shift 3
here=$(cd "$(dirname "$0")" && pwd)
nodes=${NNODES:-1}

if [ "$nodes" = 1 ] && [ -z "${PORT:-}" ]; then
  # Two runs on one machine must not meet: let torchrun find a free port.
  rendezvous=(--standalone)
else
  rendezvous=(--node_rank "${NODE_RANK:-0}"
    --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "${PORT:-29500}")
fi
exec "${PYTHON:-python}" -m torch.distributed.run --nnodes "$nodes" \
  --nproc_per_node "$gpus" "${rendezvous[@]}" \
  "$here/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
