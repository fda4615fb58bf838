"""Errors of process groups as sentences: a time-out, a connection that broke."""

from __future__ import annotations

import re
import socket
from typing import Any

from torch.distributed import DistError

from cmae_mm.errors import UserError

# What gloo, NCCL and torch's store say; gloo raises plain RuntimeErrors.
_TIMEOUT = re.compile(r"timed? ?out", re.IGNORECASE)
_BROKEN = re.compile(
    r"connection (closed|reset|refused)|broken pipe|socket|nccl|gloo|remote process exited|no route to host",
    re.IGNORECASE,
)


HUNG = 74  # EX_IOERR of sysexits.h: processes no longer hear from each other


class LostPeersError(UserError):
    """This process cannot go on because it no longer hears from another one."""

    exit_code = HUNG


def translate(error: RuntimeError, runner: Any) -> LostPeersError | None:
    """Turn an error of a process group into a sentence.

    Args:
        error: What a collective raised.
        runner: Whose iteration is named.

    Returns:
        None if the error is none of a process group, or there is one process only.
    """
    first = (str(error).strip() or "no reason given").splitlines()[0][:200]
    timeout = bool(_TIMEOUT.search(first))
    if runner.world_size < 2 or not (timeout or isinstance(error, DistError) or _BROKEN.search(first)):
        return None
    what = (
        "waited in vain for the other processes (raise env_cfg.dist_cfg.timeout, in seconds, if a step takes so long)"
        if timeout
        else "lost another process, which says why further up in the log or was killed"
    )
    return LostPeersError(
        f"process {runner.rank} of {runner.world_size} on {socket.gethostname()} {what}, in iteration "
        f"{runner.iter + 1} [{first}]; {runner.work_dir}/heartbeat shows where each process was; go on with --resume"
    )
