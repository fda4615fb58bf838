"""`cmae-mm doctor`: what is installed, what the machine offers, and what would stop a run.

Every probe runs by itself: a package that is missing or broken becomes a line with its cure,
never a traceback. The module imports nothing heavy, so it works in a half-made environment.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import platform
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

Level = Literal["ok", "warning", "problem"]
GIB = 1024**3

REQUIRED = (
    "torch",
    "torchvision",
    "onedl-mmengine",
    "onedl-mmcv",
    "onedl-mmpretrain",
    "onedl-mmdetection",
    "onedl-mmsegmentation",
    "timm",
    "safetensors",
    "pycocotools",
    "numpy",
)
# Upstream distributions that install the same import names as the onedl-* ones.
UPSTREAM = (
    "mmcv",
    "mmcv-full",
    "mmcv-lite",
    "mmengine",
    "mmengine-lite",
    "mmdet",
    "mmsegmentation",
    "mmpretrain",
    "mmcls",
)
IMPORTED = ("torchvision", "cv2", "timm", "mmengine", "mmcv", "mmpretrain", "mmdet", "mmseg")
DISK_PROBLEM, DISK_WARNING = 1 * GIB, 10 * GIB  # one ViT-B training checkpoint is about 1.3 GB
SHM_PROBLEM, SHM_WARNING = GIB // 8, 2 * GIB  # containers start with 64 MiB: loader workers die of it
FILES_PROBLEM, FILES_WARNING = 256, 4096  # loader workers pass tensors as open files
SETUP = "Run `make setup`."


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: What was looked at.
        value: What was found.
        level: ``problem`` means that a run would fail.
        cure: One sentence on what to do; empty where nothing is to be done.
    """

    name: str
    value: str
    level: Level = "ok"
    cure: str = ""


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def try_import(module: str) -> str | None:
    """Import a module in silence; return the reason in one line where that fails, else None."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except Exception as error:  # a broken package may raise anything
        return f"{type(error).__name__}: {error}".splitlines()[0][:160]
    return None


def _graded(name: str, amount: float, limits: tuple[float, float], value: str, cure: str) -> Finding:
    """A finding by amount: below limits[0] a problem, below limits[1] a warning."""
    if amount < limits[0]:
        return Finding(name, value, "problem", cure)
    return Finding(name, value, "warning", cure) if amount < limits[1] else Finding(name, value)


def probe_python() -> list[Finding]:
    """The interpreter: 3.10, 3.11 and 3.12 are supported."""
    value = f"{platform.python_version()} ({sys.executable})"
    if (3, 10) <= sys.version_info[:2] <= (3, 12):
        return [Finding("python", value)]
    cure = "Use Python 3.10, 3.11 or 3.12: `PYTHON=/path/to/python make setup`."
    return [Finding("python", value, "problem", cure)]


def probe_versions() -> list[Finding]:
    """Installed versions against the pins of this package."""
    pins = _pins()
    findings = []
    for name in REQUIRED:
        version, pin = installed_version(name), pins.get(name)
        if version is None:
            findings.append(Finding(name, "not installed", "problem", SETUP))
        elif pin and version.split("+")[0] != pin:
            cure = f"The tested version is {pin}. {SETUP}"
            findings.append(Finding(name, version, "warning", cure))
        else:
            findings.append(Finding(name, version))
    return findings


def _pins() -> dict[str, str]:
    """The ``name==version`` requirements of the installed cmae-mm; empty where it is not installed."""
    try:
        lines = metadata.requires("cmae-mm") or []
    except metadata.PackageNotFoundError:
        return {}
    pairs = (line.split(";")[0].strip().split("==") for line in lines if "==" in line.split(";")[0])
    return {name.strip(): version.strip() for name, version in pairs}


def probe_mixed() -> list[Finding]:
    """Upstream OpenMMLab beside the onedl-* distributions: each overwrites files of the other."""
    upstream = [name for name in UPSTREAM if installed_version(name)]
    forks = [name for name in REQUIRED if name.startswith("onedl-") and installed_version(name)]
    if upstream and forks:
        cure = "They overwrite each other's files: remove .venv and run `make setup`."
        value = f"{', '.join(upstream)} beside {', '.join(forks)}"
        return [Finding("OpenMMLab packages", value, "problem", cure)]
    if upstream:
        value = f"upstream only ({', '.join(upstream)})"
        return [
            Finding("OpenMMLab packages", value, "warning", f"The onedl-* line is the tested one. {SETUP}")
        ]
    return [Finding("OpenMMLab packages", "onedl only" if forks else "none")]


def probe_imports() -> list[Finding]:
    """Import what a run imports; a package can be installed and still be broken."""
    try_import("cmae_mm.compat")  # its repairs must come before torchvision
    findings = []
    for module in IMPORTED:
        reason = try_import(module)
        if reason is not None:
            findings.append(Finding(f"import {module}", reason, "problem", SETUP))
    return findings or [Finding("imports", "all packages load")]


def probe_ops() -> list[Finding]:
    """Mmcv's compiled operators: present, and built for the device that is there."""
    reason = try_import("mmcv._ext")
    if reason is not None:
        cure = f"mmdet needs mmcv's compiled operators. {SETUP}"
        return [Finding("mmcv operators", f"not usable: {reason}", "problem", cure)]
    import torch

    cuda = str(importlib.import_module("mmcv._ext").get_compiling_cuda_version())
    if cuda == "not available" and torch.cuda.is_available():
        cure = "Detection on the GPU will fail: run `FORCE_CUDA=1 make setup` (needs nvcc)."
        return [Finding("mmcv operators", "built for the CPU only", "warning", cure)]
    return [Finding("mmcv operators", f"compiled (CUDA: {cuda})")]


def probe_device() -> list[Finding]:
    """Processors, memory of each GPU, and bfloat16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    findings = [Finding("CPU cores", str(cores))]
    import torch

    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi") is None:
            return [*findings, Finding("GPU", "none: runs use the CPU, enough for the demo and the tests")]
        cure = (
            f"Check the driver with `nvidia-smi`, and that torch is a CUDA build (it is {torch.__version__})."
        )
        return [*findings, Finding("GPU", "nvidia-smi exists, but torch sees no GPU", "warning", cure)]
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        value = f"{name}, {total / GIB:.0f} GiB, {free / GIB:.0f} GiB free"
        findings.append(Finding(f"GPU {index}", value))
    bf16 = torch.cuda.is_bf16_supported()
    findings.append(Finding("bfloat16 on GPU", "yes" if bf16 else "no: mixed precision uses float16"))
    return findings


def probe_disk() -> list[Finding]:
    """Free space where a run writes."""
    free = shutil.disk_usage(Path.cwd()).free
    cure = "Free some space or pass --work-dir on another disk; a ViT-B checkpoint takes about 1.3 GB."
    return [_graded("free disk", free, (DISK_PROBLEM, DISK_WARNING), f"{free / GIB:.1f} GiB", cure)]


def probe_shm(path: str = "/dev/shm") -> list[Finding]:
    """Shared memory, through which loader workers hand over batches."""
    if not os.path.isdir(path):
        return [Finding("shared memory", f"no {path} on this system")]
    free = shutil.disk_usage(path).free
    cure = "Start the container with `--shm-size=8g`, or set `num_workers=0` in the loaders."
    return [_graded("shared memory", free, (SHM_PROBLEM, SHM_WARNING), f"{free / GIB:.2f} GiB free", cure)]


def probe_work_dirs() -> list[Finding]:
    """Whether work_dirs (or the place where it will be made) can be written."""
    target = Path("work_dirs")
    place = target if target.exists() else Path.cwd()
    try:
        with tempfile.TemporaryFile(dir=place):
            return [Finding("work_dirs", f"{place} is writable")]
    except OSError as error:
        cure = "Change its owner or permissions, or pass --work-dir."
        return [Finding("work_dirs", f"cannot write to {place}: {error.strerror}", "problem", cure)]


def probe_open_files() -> list[Finding]:
    """The limit of open files of one process."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    amount = float("inf") if soft == resource.RLIM_INFINITY else soft
    cure = "Raise it before a run with `ulimit -n 65536`."
    return [_graded("open files", amount, (FILES_PROBLEM, FILES_WARNING), str(soft), cure)]


Probe = Callable[[], list[Finding]]
PROBES: tuple[Probe, ...] = (
    probe_python,
    probe_versions,
    probe_mixed,
    probe_imports,
    probe_ops,
    probe_device,
    probe_disk,
    probe_shm,
    probe_work_dirs,
    probe_open_files,
)


def examine(probes: Sequence[Probe] = PROBES) -> list[Finding]:
    """Run the probes, each in isolation: one that fails becomes a warning that says so."""
    findings: list[Finding] = []
    for probe in probes:
        try:
            findings.extend(probe())
        except Exception as error:  # a probe must never hide the others
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            name = probe.__name__.removeprefix("probe_").replace("_", " ")
            findings.append(Finding(name, f"could not be examined ({reason})", "warning", SETUP))
    return findings


def render(findings: Sequence[Finding]) -> str:
    """The findings as aligned text; cures stand below their line."""
    width = max((len(f.name) for f in findings), default=0)
    marks = {"ok": "  ", "warning": "? ", "problem": "! "}
    lines = []
    for finding in findings:
        lines.append(f"{marks[finding.level]}{finding.name:<{width}}  {finding.value}")
        if finding.cure:
            lines.append(f"  {'':<{width}}  -> {finding.cure}")
    return "\n".join(lines)


def run_doctor() -> int:
    """Print the report of this machine.

    Returns:
        1 where a run would fail, else 0.
    """
    findings = examine()
    print(render(findings))
    problems = sum(f.level == "problem" for f in findings)
    warned = sum(f.level == "warning" for f in findings)
    if problems:
        print(f"\n{problems} problem(s) would stop a run (marked !), {warned} warning(s) (marked ?).")
        return 1
    print("\nReady." if not warned else f"\nReady, with {warned} warning(s) (marked ?).")
    return 0
