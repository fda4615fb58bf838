"""Why a program failed: for a reason outside of it, which passes, or one inside, which comes back."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

OUTSIDE, INSIDE = "outside", "inside"

USER_ERROR = 2
"""Exit code of a mistake of the user: never tried again."""

# What machines, networks, disks and batch systems say. Running out of the GPU's memory is no part of it: the same
# program runs out of it again.
_OUTSIDE = re.compile(
    r"""
    no\ space\ left\ on\ device | disk\ quota\ exceeded | input/output\ error | stale\ file\ handle
    | read-only\ file\ system | transport\ endpoint | bus\ error
    | connection\ (?:refused|reset|timed\ out|aborted|closed) | network\ is\ unreachable | no\ route\ to\ host
    | name\ resolution | name\ or\ service\ not\ known | timed?\ ?out\b | broken\ pipe
    | http\ (?:error\ )?(?:429|5\d\d) | remote\ end\ closed | incomplete\s?read
    | address\ already\ in\ use | not\ downloaded,\ | cannot\ be\ reached | the\ disk\ is\ full
    | cannot\ allocate\ memory | dataloader\ worker .* (?:killed|exited)
    | nccl\ .*(?:error|timeout) | watchdog | uncorrectable\ ecc | gpu\ has\ fallen\ off | devices?\ (?:are|is)\ busy
    | unspecified\ launch\ failure | node\ failure | preempt | due\ to\ time\ limit
    """,
    re.IGNORECASE | re.VERBOSE,
)
_SENTENCE = re.compile(r"^(?:error: |[\w.]*(?:Error|Exception|Exit|Interrupt)\b)")
_SIGNALS_FROM_OUTSIDE = {
    signal.SIGKILL,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGBUS,
    signal.SIGPWR,
}
# Of a training that can go on (docs/cluster.md).
_TRAINING = {74: "a process of it hung or was lost", 75: "it was told to stop, and saved"}
_SLURM = {
    "NODE_FAIL": OUTSIDE,
    "PREEMPTED": OUTSIDE,
    "BOOT_FAIL": OUTSIDE,
    "TIMEOUT": OUTSIDE,
    "OUT_OF_MEMORY": OUTSIDE,
    "REQUEUED": OUTSIDE,
}


@dataclass(frozen=True)
class Failure:
    """How a program ended badly.

    Attributes:
        kind: ``outside`` or ``inside``.
        reason: One sentence.
    """

    kind: str
    reason: str


def judge(code: int, log: str, missing: str = "") -> Failure:
    """Judge a program that did not do its work.

    Args:
        code: Exit code; negative, or above 128 from a shell, for a signal.
        log: What it printed, or the end of that.
        missing: A file that it should have made and did not.

    Returns:
        The kind and the reason: its last error sentence.
    """
    sentence = last_error(log)
    number = -code if code < 0 else code - 128 if code > 128 else 0
    if number:
        return _judge_signal(number, sentence)
    if code in _TRAINING:
        return Failure(OUTSIDE, _TRAINING[code])
    if code == 0:
        return Failure(INSIDE, f"ended without an error, but {missing or 'its output'} is missing")
    kind = OUTSIDE if _OUTSIDE.search(sentence) else INSIDE
    return Failure(kind, sentence or f"ended with exit code {code} and printed nothing")


def _judge_signal(number: int, sentence: str) -> Failure:
    try:
        name = signal.Signals(number).name
    except ValueError:
        return Failure(INSIDE, sentence or f"ended with exit code {number + 128}")
    if number not in _SIGNALS_FROM_OUTSIDE:  # a crash of its own, such as SIGSEGV
        return Failure(INSIDE, f"crashed ({name}){f': {sentence}' if sentence else ''}")
    more = ", as the system does when memory runs out" if number == signal.SIGKILL else ""
    return Failure(OUTSIDE, f"was killed from outside ({name}){more}")


def judge_slurm(state: str, log: str) -> Failure:
    """Judge a batch job by the state that Slurm gives it.

    Args:
        state: Such as ``NODE_FAIL``; words after the first do not count.
        log: The end of what it printed.

    Returns:
        The kind and the reason.
    """
    word = state.split(maxsplit=1)[0].rstrip("+") if state.split() else "UNKNOWN"
    if word in _SLURM:
        return Failure(OUTSIDE, f"Slurm ended the job: {word}")
    if word == "CANCELLED":
        return Failure(INSIDE, "the job was cancelled")
    return Failure(INSIDE, last_error(log) or f"Slurm ended the job: {word}")


def last_error(log: str) -> str:
    """Returns: The last line that reads like an error, else the last line; empty if there is none."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if _SENTENCE.match(line)]
    found = errors[-1] if errors else (lines[-1] if lines else "")
    return found.removeprefix("error: ")[:500]
