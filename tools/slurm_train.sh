#!/usr/bin/env bash
# Train under Slurm, one task a GPU.
#   GPUS=32 GPUS_PER_NODE=8 CPUS_PER_TASK=8 tools/slurm_train.sh PARTITION JOB CONFIG [ARGS of tools/train.py]
# More options for srun (account, time limit ...) go into SRUN_ARGS.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: [GPUS=8 GPUS_PER_NODE=8 CPUS_PER_TASK=8 SRUN_ARGS=...] tools/slurm_train.sh PARTITION JOB CONFIG [ARGS of tools/train.py]" >&2
    exit 2
fi
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=$ROOT/.venv/bin/python
[ -x "$PYTHON" ] || PYTHON=python
GPUS=${GPUS:-8}
PER_NODE=${GPUS_PER_NODE:-$((GPUS < 8 ? GPUS : 8))}
CPUS=${CPUS_PER_TASK:-8}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$CPUS}

# shellcheck disable=SC2086  # SRUN_ARGS holds several words on purpose
exec srun --partition="$1" --job-name="$2" \
    --gres="gpu:$PER_NODE" --ntasks="$GPUS" --ntasks-per-node="$PER_NODE" --cpus-per-task="$CPUS" \
    --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "$PYTHON" -u "$ROOT/tools/train.py" "$3" --launcher slurm "${@:4}"
