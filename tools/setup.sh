#!/usr/bin/env bash
# Creates .venv and installs everything the suite needs. Called by `make setup`.
# Safe to repeat: a finished environment is recognised in seconds, an interrupted one is completed.
#   PYTHON=...      interpreter to build .venv from (3.10, 3.11 or 3.12)
#   MAX_JOBS=...    parallel compilers for mmcv's operators
#   FORCE_CUDA=0|1  build mmcv's operators without | with CUDA (default: 1 where an NVIDIA GPU is found)
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV=.venv
PY=$VENV/bin/python
LOG=$VENV/setup.log
STAMP=$VENV/setup.stamp
MMCV_DOCS=https://onedl-mmcv.readthedocs.io/en/latest/get_started/installation.html
UPSTREAM="mmcv mmcv-full mmcv-lite mmengine mmengine-lite mmdet mmsegmentation mmpretrain mmcls"
HEARTBEAT=${HEARTBEAT:-30} # seconds between two signs of life
job=""

say() { printf '[%3ds] %s\n' "$SECONDS" "$*"; }
fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}
stop() { # without this, an interrupted pip would go on in the background
    [ -n "$job" ] && kill -TERM -- "-$job" 2>/dev/null
    printf '\nsetup: interrupted; call `make setup` again to continue.\n' >&2
    exit 130
}
trap stop INT TERM HUP

# progress: how far ninja is, read from the part of the log that this step wrote
progress() { tail -n "+$1" "$LOG" | grep -oE '^ *\[[0-9]+/[0-9]+\]' | tail -n 1 | tr -d ' '; }

# run TITLE COMMAND...: the command writes to the log; prints signs of life, and the end of the log on failure
run() {
    local title=$1 from began=$SECONDS next code seen
    shift
    say "$title"
    printf '\n=== %s: %s\n' "$title" "$*" >>"$LOG"
    from=$(($(wc -l <"$LOG") + 1))
    next=$((SECONDS + HEARTBEAT))
    set -m # a process group of its own, so that `stop` reaches pip's compilers too
    "$@" >>"$LOG" 2>&1 </dev/null &
    job=$!
    set +m
    while kill -0 "$job" 2>/dev/null; do
        sleep 0.2
        if [ "$SECONDS" -ge "$next" ]; then
            seen=$(progress "$from")
            say "  still working, $((SECONDS - began)) s so far${seen:+; compiled $seen files}"
            next=$((SECONDS + HEARTBEAT))
        fi
    done
    wait "$job" 2>/dev/null
    code=$?
    job=""
    if [ "$code" -ne 0 ]; then
        tail -n 15 "$LOG" | sed 's/^/    | /' >&2
        fail "'$title' failed (exit code $code); the whole story is in $LOG; repair the cause and call \`make setup\` again."
    fi
}

pip_install() { run "$1" "$PY" -m pip install --disable-pip-version-check -c constraints.txt "${@:2}"; }

usable() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1; }

# has_parts PYTHON 'ensurepip venv headers': Linux distributions ship these parts of Python apart
has_parts() { "$1" -c 'import importlib.util as u, os, sys, sysconfig
headers = os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h"))
sys.exit(not all(headers if n == "headers" else u.find_spec(n) for n in sys.argv[1].split()))' "$2" >/dev/null 2>&1; }

find_python() {
    local name needs
    if [ -n "${PYTHON:-}" ]; then
        usable "$PYTHON" || fail "PYTHON=$PYTHON does not run or is not Python 3.10, 3.11 or 3.12."
        printf '%s' "$PYTHON"
        return
    fi
    # 3.11 is the version that was tried; then the others. First those with headers, which compiling mmcv needs.
    for needs in 'ensurepip venv headers' 'ensurepip venv'; do
        for name in python3.11 python3.12 python3.10 python3 python; do
            if usable "$name" && has_parts "$name" "$needs"; then
                printf '%s' "$name"
                return
            fi
        done
    done
    fail "no Python 3.10, 3.11 or 3.12 that can create virtual environments was found; install one (Debian, Ubuntu: python3 and python3-venv) or name it with PYTHON=/path/to/python."
}

digest() { cat pyproject.toml constraints.txt tools/setup.sh cmae_mm/__init__.py | "$PY" -c 'import hashlib, sys
print(sys.version.split()[0], sys.prefix, hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'; }

# The stamp says what was installed; this says that it is still there. Spelled without importing the heavy packages.
intact() { "$PY" - >/dev/null 2>&1 <<'PYTHON'
import importlib.util as u, sys
import torch, mmcv._ext, cv2
sys.exit(any(u.find_spec(n) is None for n in
    "torchvision mmengine mmpretrain mmdet mmseg timm safetensors pycocotools faster_coco_eval jinja2 cmae_mm pytest playwright ruff mypy".split()))
PYTHON
}

refuse_mixed() {
    local both
    both=$("$PY" - $UPSTREAM <<'PYTHON'
import sys
from importlib import metadata

def have(name):
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True

upstream = [n for n in sys.argv[1:] if have(n)]
print(" ".join(upstream))
PYTHON
    ) || fail "$PY cannot list its packages; remove $VENV and call \`make setup\` again."
    [ -z "$both" ] || fail "$VENV holds upstream OpenMMLab packages ($both), which overwrite files of the onedl-* packages used here; remove the directory $VENV and call \`make setup\` again."
}

# ops_state: prints ok, missing (no mmcv), or why the compiled operators cannot be used
ops_state() { "$PY" - "$FORCE_CUDA" 2>/dev/null <<'PYTHON' || echo broken
import importlib.metadata as m, sys
try:
    m.version("onedl-mmcv")
except m.PackageNotFoundError:
    print("missing")
    raise SystemExit
import torch
try:
    import mmcv._ext as ext
except ImportError:
    print("no-ops")
    raise SystemExit
if sys.argv[1] == "1" and ext.get_compiling_cuda_version() == "not available":
    print("cpu-ops")
    raise SystemExit
print("ok")
PYTHON
}

install_mmcv() {
    local jobs mem wheel_ok
    wheel_ok=$(ops_state)
    [ "$wheel_ok" = ok ] && { say "mmcv with compiled operators is there"; return; }
    if [ "$wheel_ok" != missing ]; then
        say "mmcv is installed, but its operators cannot be used ($wheel_ok): it is installed again"
        "$PY" -m pip uninstall -y onedl-mmcv >>"$LOG" 2>&1
    fi
    command -v c++ >/dev/null 2>&1 || command -v g++ >/dev/null 2>&1 ||
        fail "no C++ compiler was found, and mmcv's operators must be compiled; install one (Debian, Ubuntu: g++ and the python3-dev package of your Python)."
    has_parts "$PY" headers ||
        fail "the C headers of $("$PY" --version) are missing, and mmcv's operators must be compiled; install them (Debian, Ubuntu: the python3-dev package) or name another interpreter with PYTHON=/path/to/python and remove $VENV."
    if [ "$FORCE_CUDA" = 1 ] && ! command -v nvcc >/dev/null 2>&1 && [ ! -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; then
        fail "this machine has an NVIDIA GPU but no CUDA compiler (nvcc) to build mmcv's operators with; install the CUDA toolkit of torch's CUDA version, or install a prebuilt onedl-mmcv wheel into $VENV as documented at $MMCV_DOCS, then call \`make setup\` again."
    fi
    # one compiler takes about 1 GB: never start more than the memory carries
    mem=$(awk '/MemAvailable/ {print int($2 / 1500000)}' /proc/meminfo 2>/dev/null)
    jobs=$(nproc 2>/dev/null || echo 2)
    [ -n "$mem" ] && [ "$mem" -ge 1 ] && [ "$mem" -lt "$jobs" ] && jobs=$mem
    jobs=${MAX_JOBS:-$jobs}
    say "mmcv's operators are 78 C++ files, compiled once for this machine (about 14 minutes on 2 cores; pip keeps the wheel)."
    [ "$FORCE_CUDA" = 1 ] && say "  With a GPU, prebuilt wheels may save this wait: $MMCV_DOCS"
    local hide=()
    [ "$FORCE_CUDA" = 1 ] || hide=(CUDA_VISIBLE_DEVICES=) # mmcv's build asks torch for a GPU, whatever FORCE_CUDA says
    pip_build_mmcv "$jobs" "${hide[@]}"
    wheel_ok=$(ops_state)
    if [ "$wheel_ok" != ok ]; then # pip may have kept a wheel that was built without operators or for another torch
        say "the wheel in pip's cache has no usable operators ($wheel_ok): compiling it anew"
        "$PY" -m pip uninstall -y onedl-mmcv >>"$LOG" 2>&1
        "$PY" -m pip cache remove onedl_mmcv >>"$LOG" 2>&1
        pip_build_mmcv "$jobs" "${hide[@]}"
        wheel_ok=$(ops_state)
    fi
    [ "$wheel_ok" = ok ] || fail "mmcv was installed, but its compiled operators cannot be used ($wheel_ok); see $LOG and $MMCV_DOCS."
}

pip_build_mmcv() {
    run "installing mmcv ($1 parallel compilers)" env MMCV_WITH_OPS=1 FORCE_CUDA="$FORCE_CUDA" MAX_JOBS="$1" "${@:2}" \
        "$PY" -m pip install --disable-pip-version-check -v -c constraints.txt --no-build-isolation onedl-mmcv==2.3.6
}

# opencv-python and -headless write the same files. Where the one that came last lacks its system libraries, the other serves.
ensure_cv2() {
    "$PY" -c 'import cv2' >/dev/null 2>&1 && return
    pip_install "repairing OpenCV (its window libraries are missing here)" --force-reinstall --no-deps opencv-python-headless
    "$PY" -c 'import cv2' >>"$LOG" 2>&1 || fail "OpenCV cannot be imported; see the end of $LOG."
}

main() {
    local python
    [ -e constraints.txt ] || fail "constraints.txt is missing; call this script from a complete checkout."
    if [ -x "$PY" ] && usable "$PY" && [ "$(cat "$STAMP" 2>/dev/null)" = "$(digest)" ] && intact; then
        say "the environment in $VENV is complete"
        return
    fi
    if ! { [ -x "$PY" ] && usable "$PY" && "$PY" -m pip --version >/dev/null 2>&1; }; then
        python=$(find_python) || exit 1
        say "creating $VENV with $("$python" --version) ($(command -v "$python"))"
        "$python" -m venv --clear "$VENV" || fail "$python could not create $VENV; install its venv package (Debian, Ubuntu: python3-venv) or name another interpreter with PYTHON=/path/to/python."
    else
        say "completing $VENV ($("$PY" --version))"
    fi
    rm -f "$STAMP"
    touch "$LOG"
    if [ -z "${FORCE_CUDA:-}" ]; then
        FORCE_CUDA=0
        nvidia-smi -L 2>/dev/null | grep -q GPU && FORCE_CUDA=1
    fi
    [ "$FORCE_CUDA" = 1 ] && say "an NVIDIA GPU was found: the ordinary CUDA builds are used" || say "no NVIDIA GPU: operators are built for the CPU"
    refuse_mixed
    pip_install "installing PyTorch (a large download the first time)" torch torchvision
    pip_install "installing build tools" 'setuptools>=80,<82' wheel ninja psutil packaging 'numpy<2.3'
    install_mmcv
    # shellcheck disable=SC2046  # one requirement a line, none holds a space
    pip_install "installing OpenMMLab (onedl), timm and the tools" $(requirements)
    pip_install "installing cmae_mm itself" --no-deps --no-build-isolation -e .
    refuse_mixed
    ensure_cv2
    run "checking that all requirements fit together" "$PY" -m pip check
    [ "$(ops_state)" = ok ] || fail "mmcv's compiled operators cannot be used after installation; see $LOG."
    intact || fail "the environment is incomplete after installation; see $LOG, or remove $VENV and call \`make setup\` again."
    digest >"$STAMP"
    say "done. \`$VENV/bin/cmae-mm doctor\` shows what this machine can do."
}

# The requirements of pyproject.toml with its developer tools, so that versions are written once.
requirements() { "$PY" - <<'PYTHON'
from packaging.requirements import Requirement
try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
for line in project["dependencies"] + project["optional-dependencies"]["dev"]:
    need = Requirement(line)
    if need.marker is None or need.marker.evaluate():
        print(f"{need.name}{need.specifier}")
PYTHON
}

# Two calls at once would write into one environment: the second waits.
if command -v flock >/dev/null 2>&1; then
    exec 9<tools/setup.sh
    flock -n 9 || { say "another setup is running; waiting for it"; flock 9; }
fi
main
