#!/usr/bin/env bash
# Train on several GPUs (or CPU processes) of one or more nodes with torchrun.
#   tools/dist_train.sh CONFIG GPUS_PER_NODE [ARGS of tools/train.py]
# Several nodes and restarts: see tools/torchrun.sh and docs/cluster.md. With MAX_RESTARTS, every start goes on from the
# last good checkpoint of the work dir (--resume); the first one starts anew where there is none.
set -euo pipefail
if [ $# -lt 2 ] || ! [[ $2 =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: [NNODES=1 NODE_RANK=0 MASTER_ADDR=127.0.0.1 PORT=29500 | NNODES=4 RDZV=host0:29400 MAX_RESTARTS=3] tools/dist_train.sh CONFIG GPUS_PER_NODE [ARGS of tools/${TOOL:-train.py}]" >&2
    exit 2
fi
tool=${TOOL:-train.py}
again=()
case " ${*:3} " in
    *" --resume"*) ;;
    *) [ "${MAX_RESTARTS:-0}" = 0 ] || [ "$tool" != train.py ] || again=(--resume) ;;
esac
exec bash "$(dirname "${BASH_SOURCE[0]}")/torchrun.sh" "$2" "$tool" "$1" --launcher pytorch "${again[@]}" "${@:3}"
