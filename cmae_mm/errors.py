"""The one exception that stands for a mistake a user can repair."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in what the user gave: shown as one sentence, without a traceback.

    The message says what was wrong, where, and what to do. Every command line entry
    point turns it into that sentence on standard error and exit code 2.
    """
