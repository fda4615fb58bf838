"""Checkpoints written beside training: a copy in memory, then a thread that takes its time."""

from __future__ import annotations

import errno
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from cmae_mm.engine.checkpoint_file import write_checkpoint
from cmae_mm.errors import UserError

_SLACK = 1 << 20  # bytes: names, the archive's directory, the log's state


def snapshot(tree: Any) -> Any:
    """Copy what is to be saved into memory of its own, so that training may go on changing it.

    Args:
        tree: Nested containers with tensors; tensors that are the same stay the same.

    Returns:
        The copy, with all tensors on the CPU. Containers keep their type.
    """
    seen: dict[Any, Tensor] = {}

    def copy(item: Any) -> Any:
        if isinstance(item, Tensor):
            key = (item.data_ptr(), item.dtype, item.shape, item.stride(), item.device)
            if key not in seen or item.numel() == 0:
                plain = item.detach()
                seen[key] = plain.clone() if plain.device.type == "cpu" else plain.cpu()
            return seen[key]
        if isinstance(item, dict):
            new = type(item)()
            for name, value in item.items():
                new[name] = copy(value)
            if hasattr(item, "_metadata"):  # versions of modules, of a state dict
                new._metadata = item._metadata  # type: ignore[attr-defined]
            return new
        if type(item) in (list, tuple, set):
            return type(item)(copy(value) for value in item)
        return item

    return copy(tree)


def size_of(tree: Any) -> int:
    """Returns: Bytes of all tensors, each memory once.

    Args:
        tree: Nested containers.
    """
    sizes: dict[int, int] = {}
    waiting = [tree]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Tensor):
            sizes[item.data_ptr()] = max(sizes.get(item.data_ptr(), 0), item.numel() * item.element_size())
        elif isinstance(item, dict):
            waiting.extend(item.values())
        elif isinstance(item, (list, tuple)):
            waiting.extend(item)
    return sum(sizes.values())


class CheckpointWriter:
    """Writes one checkpoint at a time in a thread. What went wrong there is raised by the next call."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.last_good: Path | None = None

    def start(self, state: dict[str, Any], path: Path, then: Callable[[], None] | None = None) -> None:
        """Write in the background; waits for the one before.

        Args:
            state: A `snapshot`.
            path: Target.
            then: Called in the thread after the file is whole.

        Raises:
            UserError: The one before failed, or the disk has no room for this one.
        """
        self.wait()
        check_space(state, path, self.last_good)
        # Not a daemon: should the program end by an error elsewhere, a file that was begun is finished.
        self._thread = threading.Thread(target=self._write, args=(state, path, then), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Wait until everything is on the disk.

        Raises:
            UserError: Something could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def check(self) -> None:
        """Raise what went wrong so far; waits for nothing.

        Raises:
            UserError: The disk is full or does not take the file.
        """
        error, self._error = self._error, None
        if error is not None:
            raise error

    @property
    def failed(self) -> bool:
        """Whether `check` would raise."""
        return self._error is not None

    def _write(self, state: dict[str, Any], path: Path, then: Callable[[], None] | None) -> None:
        try:
            write_checkpoint(state, path)
            self.last_good = path
            if then is not None:
                then()
        except OSError as error:
            self._error = UserError(_sentence(error, path, self.last_good))
        except BaseException as error:  # raised again in the main thread
            self._error = error


def check_space(state: dict[str, Any], path: Path, last_good: Path | None) -> None:
    """Look before writing whether the disk has room.

    Args:
        state: What will be written.
        path: Where.
        last_good: The checkpoint before, for the message.

    Raises:
        UserError: It has not.
    """
    needed, free = size_of(state) + _SLACK, shutil.disk_usage(path.parent).free
    if free < needed:
        raise UserError(
            f"{path}: not written, the disk has {_mib(free)} free and the checkpoint takes {_mib(needed)}; "
            f"{_advice(last_good)}"
        )


def _sentence(error: OSError, path: Path, last_good: Path | None) -> str:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    reason = "the disk is full" if full else (error.strerror or str(error))
    return f"{path}: not written, {reason}; {_advice(last_good)}"


def _advice(last_good: Path | None) -> str:
    kept = f"the checkpoint {last_good} is intact" if last_good else "no checkpoint was written before"
    again = "--resume" if last_good else "the same command"
    return f"{kept}: make room, or choose another --work-dir, and go on with {again}"


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
