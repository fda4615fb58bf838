"""Ports of this machine that nobody listens at."""

import contextlib
import socket


def free_ports(count):
    """Different ones; somebody else may take one before it is used, which is unlikely."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]


def free_port():
    """One, as the text that environment variables want."""
    return str(free_ports(1)[0])
