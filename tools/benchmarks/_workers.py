"""A process for each measured model, which waits while another works."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

import torch

from cmae_mm.errors import UserError

ANSWER = "measured:"  # begins what a process says to the one that started it; libraries print too


def peak_bytes(device: torch.device) -> int:
    """Peak memory of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Worker:
    """A process that holds one model and measures when asked; use it as a context.

    Args:
        name: Of the model, for ``--serve``.
        script: The program, which prints `ANSWER` and a rate and a peak for each line that it reads.
        argv: Words of the command line.
    """

    def __init__(self, name: str, script: str, argv: Sequence[str]) -> None:
        self.name = name
        command = [sys.executable, script, *argv, "--serve", name]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._process:  # closes its input, at which it ends
            pass

    def measure(self) -> tuple[float, int]:
        """Give images/s of one measurement, and the peak memory so far in bytes.

        Raises:
            UserError: The process failed; it has said why.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has died: there is no answer
            print("go", file=self._process.stdin, flush=True)
        rate, peak = self._answer().split()
        return float(rate), int(peak)

    def _answer(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                return line.removeprefix(ANSWER)
        raise UserError(f"The step of {self.name} failed, see above; repair that or leave the model out.")
