"""Where a run runs: device, process group, mixed precision, batch-norm kind.

The same config runs on 32 GPUs, on one GPU, and on two CPU processes; no config says ``cpu``.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmengine.optim import AmpOptimWrapper, OptimWrapper

from cmae_mm.engine.cpu import keep_memory
from cmae_mm.errors import UserError


def device_name() -> str:
    """Returns: What the run computes on, for people and for the record."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()}x {torch.cuda.get_device_name(0)}"
    return f"CPU, {torch.get_num_threads()} threads"


def bare_model(runner: Any) -> Any:
    """Returns: The runner's model without the wrapper for several processes."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def timeout_of(cfg: Config) -> float:
    """Returns: Seconds that a process waits for the others, from ``env_cfg.dist_cfg.timeout``; 1800 without it.

    Args:
        cfg: A config.
    """
    found = ((cfg.get("env_cfg") or {}).get("dist_cfg") or {}).get("timeout", 1800)
    return float(found)


def adapt(cfg: Config, launcher: str = "none", amp: bool = False) -> list[str]:
    """Fit a config to this machine.

    Args:
        cfg: Config; changed in place.
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
        amp: Ask for mixed precision although the config does not.

    Returns:
        Sentences on what was changed, for the log.

    Raises:
        UserError: If a launcher was named but its processes were not started by it.
    """
    notes: list[str] = []
    cfg.launcher = launcher
    on_gpu = torch.cuda.is_available()
    if amp and on_gpu and cfg.optim_wrapper.type is not AmpOptimWrapper:
        cfg.optim_wrapper.type = AmpOptimWrapper
        cfg.optim_wrapper.setdefault("dtype", "bfloat16")
    if on_gpu:
        _scale_losses_for_float16_only(cfg)
    if not on_gpu:
        keep_memory()
        notes += _without_gpu(cfg, amp)
        if launcher != "none":
            _start_gloo(cfg, launcher)
            notes.append(f"{dist.get_world_size()} processes on the CPU talk through gloo")
    return notes


def _is_amp(wrapper: dict[str, Any]) -> bool:
    return wrapper.get("type") in (AmpOptimWrapper, "AmpOptimWrapper")


def _scale_losses_for_float16_only(cfg: Config) -> None:
    """bfloat16 has the range of float32: a loss scaler would only cost time and skip no step."""
    wrapper = cfg.get("optim_wrapper") or {}
    if _is_amp(wrapper) and str(wrapper.get("dtype")).removeprefix("torch.") == "bfloat16":
        wrapper.setdefault("loss_scale", dict(enabled=False))


def _without_gpu(cfg: Config, amp: bool) -> list[str]:
    wrapper = cfg.get("optim_wrapper") or {}
    if not (amp or _is_amp(wrapper)):
        return []
    if _is_amp(wrapper):  # AmpOptimWrapper asserts an accelerator
        wrapper["type"] = OptimWrapper
        for key in ("dtype", "loss_scale", "use_fsdp"):
            wrapper.pop(key, None)
    return ["no GPU here: mixed precision is off, the run computes in float32"]


def _start_gloo(cfg: Config, launcher: str) -> None:
    """Make the process group before the runner does: mmengine's own start needs CUDA."""
    if launcher not in ("pytorch", "slurm"):
        raise UserError(
            f"--launcher {launcher}: without a GPU only --launcher pytorch or slurm works; use tools/dist_train.sh"
        )
    if launcher == "slurm":
        _take_slurm_places()
    if "RANK" not in os.environ:
        raise UserError(
            "--launcher pytorch: RANK is not set; start the processes with tools/dist_train.sh CONFIG GPUS"
        )
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=timedelta(seconds=timeout_of(cfg)))
    cfg.model_wrapper_cfg = dict(
        type="MMDistributedDataParallel",
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=False,
    )


def leave_processes() -> None:
    """Take leave of the other processes at the good end of a run; all of them must call this.

    A process that just exits may tear down connections that others still use, and threads of its own that still
    run: then it is aborted (code 134) after everything was done.
    """
    if dist.is_available() and dist.is_initialized():
        with contextlib.suppress(RuntimeError):  # one that is gone already has nothing more to say
            dist.barrier()
        dist.destroy_process_group()


def _take_slurm_places() -> None:
    """Tell torch what Slurm tells its tasks; with a GPU mmengine does the same."""
    names = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}
    missing = [name for name in (*names.values(), "SLURM_NODELIST") if name not in os.environ]
    if missing:
        raise UserError(
            f"--launcher slurm: {missing[0]} is not set; start the processes with srun, as tools/slurm_train.sh does"
        )
    for name, told in names.items():
        os.environ[name] = os.environ[told]
    if "MASTER_ADDR" not in os.environ:
        command = ["scontrol", "show", "hostnames", os.environ["SLURM_NODELIST"]]
        hosts = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        os.environ["MASTER_ADDR"] = hosts[0]
    os.environ.setdefault("MASTER_PORT", "29500")
