#!/usr/bin/env bash
# Train on several GPUs (or CPU processes) of one or more nodes with torchrun.
#   tools/dist_train.sh CONFIG GPUS [ARGS of tools/train.py]
# Several nodes: call it on each, with NNODES, NODE_RANK and MASTER_ADDR (and PORT) set.
set -euo pipefail
if [ $# -lt 2 ] || ! [[ $2 =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: [NNODES=1 NODE_RANK=0 MASTER_ADDR=127.0.0.1 PORT=29500] tools/dist_train.sh CONFIG GPUS_PER_NODE [ARGS of tools/${TOOL:-train.py}]" >&2
    exit 2
fi
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=$ROOT/.venv/bin/python
[ -x "$PYTHON" ] || PYTHON=python
# Each process shares the cores with the others; torchrun would otherwise set 1 and print a warning.
cores=$(nproc 2>/dev/null || echo 1)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(((cores / $2) > 8 ? 8 : ((cores / $2) > 0 ? (cores / $2) : 1)))}

exec "$PYTHON" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    --nproc_per_node="$2" \
    "$ROOT/tools/${TOOL:-train.py}" "$1" --launcher pytorch "${@:3}"
