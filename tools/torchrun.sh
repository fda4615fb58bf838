#!/usr/bin/env bash
# Start a program of this folder as several processes with torchrun; dist_train.sh and dist_test.sh call this.
#   tools/torchrun.sh GPUS_PER_NODE PROGRAM [ARGS of the program]
# Several nodes, called on each, either with fixed places:
#   NNODES=4 NODE_RANK=0 MASTER_ADDR=host0 [PORT=29500]
# or by a meeting point, with restarts (all nodes alike; NNODES may be MIN:MAX):
#   NNODES=4 RDZV=host0:29400 [MAX_RESTARTS=3 RDZV_ID=name RDZV_CONF=key=value,... LOCAL_ADDR=address of this node]
# SHUTDOWN_TIMEOUT: seconds that processes get to save when a signal comes; a little more than the config's
# default_hooks.stop.grace.
set -euo pipefail
if [ $# -lt 2 ] || ! [[ $1 =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: [NNODES=1 NODE_RANK=0 MASTER_ADDR=127.0.0.1 PORT=29500 | NNODES=4 RDZV=host0:29400 MAX_RESTARTS=3] tools/torchrun.sh GPUS_PER_NODE PROGRAM [ARGS]" >&2
    exit 2
fi
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=${CMAE_MM_PYTHON:-$ROOT/.venv/bin/python}
[ -x "$PYTHON" ] || PYTHON=python
# Each process shares the cores with the others; torchrun would otherwise set 1 and print a warning.
cores=$(nproc 2>/dev/null || echo 1)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(((cores / $1) > 8 ? 8 : ((cores / $1) > 0 ? (cores / $1) : 1)))}

export MKL_NUM_THREADS=${MKL_NUM_THREADS:-$OMP_NUM_THREADS} # else mmengine sets it to 1, with a warning

if [ -n "${RDZV:-}" ]; then
    # A store of its own for each start. In the shared one, processes that start again because a machine came or went find the
    # addresses of those before them.
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    meeting=(--nnodes="${NNODES:-1}" --rdzv_backend=c10d --rdzv_endpoint="$RDZV" --rdzv_id="${RDZV_ID:-cmae-mm}")
    conf=${RDZV_CONF:-}
    if [ -n "${LOCAL_ADDR:-}" ]; then
        # torch would look by host names for the machine that hosts the meeting point.
        [ "$LOCAL_ADDR" = "${RDZV%:*}" ] && hosts=1 || hosts=0
        conf=${conf:+$conf,}is_host=$hosts
        meeting+=(--local_addr="$LOCAL_ADDR")
    fi
    [ -z "$conf" ] || meeting+=(--rdzv_conf="$conf")
else
    meeting=(--nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}"
        --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}")
fi

# SIGUSR1 is not among torchrun's own signals: it would end torchrun and leave the processes behind.
exec "$PYTHON" -m torch.distributed.run "${meeting[@]}" --nproc_per_node="$1" --max_restarts="${MAX_RESTARTS:-0}" \
    --signals_to_handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown_timeout="${SHUTDOWN_TIMEOUT:-150}" \
    "$ROOT/tools/$2" "${@:3}"
