"""The one exception that stands for a mistake a user can repair."""

from __future__ import annotations

_MOST = 2000  # characters; the longest sentences have some 500


class UserError(Exception):
    """A mistake in what the user gave: shown as one sentence, without a traceback.

    The message says what was wrong, where, and what to do. Every command line entry
    point turns it into that sentence on standard error and exit code 2. It often quotes a file,
    so it is kept to one printable line: a name in a hostile file moves no cursor and fills no screen.

    Attributes:
        exit_code: Of the program; 2 unless what happened passes.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(_one_line(message))


def _one_line(message: str) -> str:
    if len(message) > _MOST:
        message = f"{message[: _MOST * 3 // 4]} [...] {message[-_MOST // 4 :]}"
    if message.isprintable():
        return message
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
