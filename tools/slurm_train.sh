#!/usr/bin/env bash
# Train under Slurm, one task a GPU.
#   GPUS=32 GPUS_PER_NODE=8 CPUS_PER_TASK=8 tools/slurm_train.sh PARTITION JOB CONFIG [ARGS of tools/train.py]
# waits for the run (srun). With SUBMIT=1 it is queued instead (sbatch); that job saves and goes back into the queue before its
# time is over or when it is preempted, and goes on from its last good checkpoint when it starts again. In a job of
# your own (salloc, sbatch) it runs with what the job has; PARTITION and JOB are then not used.
#   SRUN_ARGS, SBATCH_ARGS  more options (account, time limit, --gres=none on CPUs ...)
#   ARRAY=0-4%2             with SUBMIT=1: a job array, one run for each number (two at a time). {task} in CONFIG and ARGS
#                           becomes the number: ARRAY=0-4 ... --work-dir /shared/cmae/seed{task} --seed {task}
#   WARNING=180             seconds before the end of its time at which a queued job is told to save
#   MAX_RESTARTS=10 MIN_SECONDS=600
#                           a queued job that lost a process (a node that died, a hang, a kill) goes back into the queue so often,
#                           unless it broke within so many seconds: then it would again
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: [SUBMIT=1 ARRAY=0-4 GPUS=8 GPUS_PER_NODE=8 CPUS_PER_TASK=8 SRUN_ARGS=... SBATCH_ARGS=...] tools/slurm_train.sh PARTITION JOB CONFIG [ARGS of tools/train.py]" >&2
    exit 2
fi
ROOT=${CMAE_MM_ROOT:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}
PYTHON=${CMAE_MM_PYTHON:-$ROOT/.venv/bin/python}
[ -x "$PYTHON" ] || PYTHON=python
GPUS=${GPUS:-8}
PER_NODE=${GPUS_PER_NODE:-$((GPUS < 8 ? GPUS : 8))}
CPUS=${CPUS_PER_TASK:-8}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$CPUS}
export MKL_NUM_THREADS=${MKL_NUM_THREADS:-$OMP_NUM_THREADS} # else mmengine sets it to 1, with a warning
place=(--partition="$1" --job-name="$2")
size=(--gres="gpu:$PER_NODE" --ntasks="$GPUS" --ntasks-per-node="$PER_NODE" --cpus-per-task="$CPUS")
train=("$PYTHON" -u "$ROOT/tools/train.py" "$3" --launcher slurm)
args=("${@:4}")

if [ -n "${ARRAY:-}" ]; then
    [ -n "${SUBMIT:-}" ] || { echo "error: ARRAY=$ARRAY: job arrays are queued; set SUBMIT=1" >&2; exit 2; }
    [[ "${*:4}" == *--work-dir*{task}* ]] || {
        echo "error: ARRAY=$ARRAY: its runs would write into one folder; give --work-dir a folder with {task} in its name" >&2
        exit 2
    }
    place+=(--array="$ARRAY")
fi
if [ -n "${SUBMIT:-}" ]; then
    # Slurm runs a copy of the script, which no longer lies beside the others: hence the command in words.
    command=$(printf '%q ' env -u SUBMIT -u ARRAY CMAE_MM_ROOT="$ROOT" CMAE_MM_QUEUED=1 bash "$ROOT/tools/slurm_train.sh" "$@")
    # shellcheck disable=SC2086  # SBATCH_ARGS holds several words on purpose
    exec sbatch "${place[@]}" "${size[@]}" --requeue --open-mode=append --signal="B:USR1@${WARNING:-180}" \
        ${SBATCH_ARGS:-} --wrap="exec $command"
fi
# Two jobs may share a node.
[ -z "${SLURM_JOB_ID:-}" ] || export MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 20000))}
if [ -z "${CMAE_MM_QUEUED:-}" ]; then
    [ -z "${SLURM_JOB_ID:-}" ] || place=()
    # shellcheck disable=SC2086  # SRUN_ARGS holds several words on purpose
    exec srun "${place[@]}" "${size[@]}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} "${train[@]}" "${args[@]}"
fi

# A queued job, or one task of an array. The number of one of the tasks is that of the whole array: as a job it would
# send all of them back into the queue.
job=$SLURM_JOB_ID
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
    job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
    train=("${train[@]//\{task\}/$SLURM_ARRAY_TASK_ID}")
    args=("${args[@]//\{task\}/$SLURM_ARRAY_TASK_ID}")
fi
# srun gets the signal that comes to this script, and hands it to all tasks.
told="" run=""
trap 'told=1; [ -z "$run" ] || kill -USR1 "$run" 2>/dev/null' USR1
trap 'told=1; [ -z "$run" ] || kill -TERM "$run" 2>/dev/null' TERM
# shellcheck disable=SC2086
srun "${size[@]}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} "${train[@]}" --resume "${args[@]}" &
run=$!
[ -z "$told" ] || kill -USR1 "$run"
code=0
wait "$run" || code=$?
while kill -0 "$run" 2>/dev/null; do # a signal ends a wait
    code=0
    wait "$run" || code=$?
done
# 75: stopped and saved, not done. 74: a process hung, or others lost it. Above 128: a task was killed; if the job was told to
# stop, it did not leave in time.
lost=""
if [ "$code" -eq 74 ] || [ "$code" -gt 128 ]; then
    [ "$SECONDS" -lt "${MIN_SECONDS:-600}" ] || [ "${SLURM_RESTART_COUNT:-0}" -ge "${MAX_RESTARTS:-10}" ] || lost=1
fi
if [ "$code" -eq 75 ] || [ -n "$lost" ] || { [ -n "$told" ] && [ "$code" -gt 128 ]; }; then
    echo "slurm_train.sh: not done; job $job goes back into the queue"
    scontrol requeue "$job"
fi
exit "$code"
