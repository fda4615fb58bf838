"""Which failures are tried again, and what is said of them."""

import signal

import pytest

from cmae_mm.benchmark.failures import INSIDE, OUTSIDE, judge, judge_slurm, last_error


@pytest.mark.parametrize(
    ("code", "log", "kind", "reason"),
    [
        (1, "OSError: [Errno 28] No space left on device: 'x'", OUTSIDE, "No space left"),
        (75, "stopped by SIGTERM after iteration 9", OUTSIDE, "told to stop"),
        (74, "error: process 3 hangs", OUTSIDE, "hung"),
        (1, "OSError: [Errno 5] Input/output error", OUTSIDE, "Input/output"),
        (
            2,
            "error: https://a/b: not downloaded, a.b cannot be reached; run the command again",
            OUTSIDE,
            "not downloaded",
        ),
        (1, "ConnectionResetError: [Errno 104] Connection reset by peer", OUTSIDE, "reset"),
        (
            1,
            "urllib.error.URLError: <urlopen error [Errno -3] Temporary failure in name resolution>",
            OUTSIDE,
            "name",
        ),
        (1, "RuntimeError: DataLoader worker (pid 7) is killed by signal: Killed.", OUTSIDE, "DataLoader"),
        (
            1,
            "torch.distributed.DistBackendError: NCCL error in: x.cpp:1, unhandled system error",
            OUTSIDE,
            "NCCL",
        ),
        (1, "RuntimeError: CUDA error: uncorrectable ECC error encountered", OUTSIDE, "ECC"),
        (1, "RuntimeError: The server socket has failed: Address already in use", OUTSIDE, "Address"),
        (
            1,
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB",
            INSIDE,
            "CUDA out of memory",
        ),
        (1, "Traceback\nValueError: timestep\nbye", INSIDE, "ValueError: timestep"),
        (2, "usage\nerror: x.py: no such config file", INSIDE, "x.py: no such config file"),
        (1, "FloatingPointError: the loss is nan", INSIDE, "the loss is nan"),
        (1, "Connection reset by peer\nKeyError: 'x'", INSIDE, "KeyError"),
        (3, "", INSIDE, "ended with exit code 3 and printed nothing"),
        (-signal.SIGKILL, "epoch 3", OUTSIDE, "SIGKILL), as the system does when memory runs out"),
        (128 + signal.SIGKILL, "epoch 3", OUTSIDE, "SIGKILL"),
        (-signal.SIGTERM, "", OUTSIDE, "SIGTERM"),
        (-signal.SIGBUS, "", OUTSIDE, "SIGBUS"),
        (-signal.SIGSEGV, "", INSIDE, "crashed (SIGSEGV)"),
        (-signal.SIGABRT, "RuntimeError: x", INSIDE, "crashed (SIGABRT): RuntimeError: x"),
        (200, "", INSIDE, "exit code 200"),
    ],
)
def test_programs(code, log, kind, reason):
    failure = judge(code, log)
    assert failure.kind == kind
    assert reason in failure.reason
    assert "\n" not in failure.reason


def test_a_missing_output_is_inside():
    assert judge(0, "fine", "/out/x.pth").kind == INSIDE
    assert "/out/x.pth is missing" in judge(0, "fine", "/out/x.pth").reason


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("NODE_FAIL", OUTSIDE),
        ("PREEMPTED", OUTSIDE),
        ("TIMEOUT", OUTSIDE),
        ("OUT_OF_MEMORY", OUTSIDE),
        ("BOOT_FAIL", OUTSIDE),
        ("CANCELLED by 1000", INSIDE),
        ("CANCELLED+", INSIDE),
        ("FAILED", INSIDE),
        ("", INSIDE),
    ],
)
def test_batch_jobs(state, kind):
    assert judge_slurm(state, "").kind == kind


def test_the_last_error_sentence():
    assert last_error("") == ""
    assert last_error("a\n\n b \n") == "b"
    assert last_error("error: one\nValueError: two\nworkers end") == "ValueError: two"
    assert len(last_error("error: " + "x" * 9999)) == 500
