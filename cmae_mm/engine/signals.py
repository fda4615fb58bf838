"""Requests to stop: SIGTERM and SIGUSR1, seen even while the process waits in a library's code."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

REQUESTS = (signal.SIGTERM, signal.SIGUSR1)
LEFT_AT_ONCE = 128 + signal.SIGTERM
SAME_REQUEST = 2.0  # seconds: a scheduler and a launcher both pass on one SIGTERM


class SignalWatch:
    """Takes requests to stop from now on, until it is closed.

    Python runs handlers of signals between two of its own steps, which a process that waits in a collective never
    comes to. Here the signal's number goes through a pipe to a thread. A second SIGTERM, two seconds or more after the
    first one, ends the process at once, and so does the end of the time that it has to leave by itself.

    Args:
        grace: Seconds from the first request until the process is ended.
    """

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self.request: signal.Signals | None = None
        self._terminated: float | None = None
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._handlers = {number: signal.signal(number, _nothing) for number in REQUESTS}
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, daemon=True, name="signals").start()

    def close(self, ignore: bool = False) -> None:
        """Give signals back to whoever had them.

        Args:
            ignore: Ignore them from now on: this process leaves, and a launcher that sees the first one go sends
                signals to the others.
        """
        if self._handlers:
            signal.set_wakeup_fd(self._before)
            for number, handler in self._handlers.items():
                signal.signal(number, signal.SIG_IGN if ignore else handler)
            self._handlers = {}
            os.close(self._write)  # the thread reads an end of file

    def _watch(self) -> None:
        with contextlib.closing(_Descriptor(self._read)):
            while numbers := os.read(self._read, 64):
                for number in numbers:
                    if number in REQUESTS:
                        self._take(signal.Signals(number))

    def _take(self, number: signal.Signals) -> None:
        now = time.monotonic()
        if self.request is None:
            self.request = number
            timer = threading.Timer(
                self.grace, self._end, (f"not done {self.grace:g} s after {number.name}",)
            )
            timer.daemon = True
            timer.start()
        if number == signal.SIGTERM:
            if self._terminated is None:
                self._terminated = now
            elif now - self._terminated >= SAME_REQUEST:
                self._end("a second SIGTERM")

    def _end(self, why: str) -> None:
        if self._handlers:
            os.write(2, f"left at once: {why}; go on from the last checkpoint with --resume\n".encode())
            os._exit(LEFT_AT_ONCE)


class _Descriptor:
    def __init__(self, number: int) -> None:
        self._number = number

    def close(self) -> None:
        os.close(self._number)


def _nothing(number: int, frame: FrameType | None) -> None:
    """A handler of Python's own must be set, or the pipe is not written to."""


def leave_signals_to_the_main_process(worker_id: int, init: Any = None) -> None:
    """Let a loader process ignore requests to stop, which schedulers send to every process of a job.

    Without this it would die first, and the main process of the error. A SIGTERM from the main process itself is
    obeyed: Python ends what is left of its children with one, and waits for them.

    Args:
        worker_id: From torch.
        init: Another function to call with it.
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # now, as later threads inherit it
    threading.Thread(target=_obey_the_main_process, args=(os.getppid(),), daemon=True).start()
    if init is not None:
        init(worker_id)


def _obey_the_main_process(main: int) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != main:
        pass
    os._exit(0)
