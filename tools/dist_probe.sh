#!/usr/bin/env bash
# Probe a frozen encoder on several GPUs (or CPU processes): they share the extraction of features and the neighbours.
#   tools/dist_probe.sh CONFIG GPUS [ARGS of tools/probe.py]
# Several nodes: see tools/dist_train.sh; the cache must be on a disk that all of them see.
set -euo pipefail
TOOL=probe.py exec bash "$(dirname "${BASH_SOURCE[0]}")/dist_train.sh" "$@"
