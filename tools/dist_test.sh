#!/usr/bin/env bash
# Test a checkpoint on several GPUs (or CPU processes) of one or more nodes with torchrun.
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS_PER_NODE [ARGS of tools/test.py]
# Several nodes: see tools/torchrun.sh and docs/cluster.md.
set -euo pipefail
if [ $# -lt 3 ] || ! [[ $3 =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: [NNODES=1 NODE_RANK=0 MASTER_ADDR=127.0.0.1 PORT=29500 | NNODES=4 RDZV=host0:29400] tools/dist_test.sh CONFIG CHECKPOINT GPUS_PER_NODE [ARGS of tools/test.py]" >&2
    exit 2
fi
exec bash "$(dirname "${BASH_SOURCE[0]}")/torchrun.sh" "$3" test.py "$1" "$2" --launcher pytorch "${@:4}"
