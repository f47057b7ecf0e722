"""A question to a daemon over its local datagram socket, and the answer within a time."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

__all__ = ["TIMEOUT_S", "asking_socket"]

TIMEOUT_S = 0.02
"""Daemons on the same host answer in 0.1 ms; a sampler waits no longer than this for one that hangs."""


@contextlib.contextmanager
def asking_socket(path: str, timeout_s: float = TIMEOUT_S, *, beside: bool = False) -> Iterator[socket.socket]:
    """A socket connected to the Unix datagram socket `path`, to which its daemon can answer.

    Parameters
    ----------
    beside : bool
        The daemon answers to paths only (chronyd), so that ours lies beside its own, which its sandbox reaches, for as
        long as the question is open. Others (ptp4l) answer to an abstract address, which leaves nothing behind.

    Raises
    ------
    OSError
        No such socket, or not allowed.
    """
    mine = os.path.join(os.path.dirname(path), f"tailwatch.{os.getpid()}.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asking:
        asking.settimeout(timeout_s)
        asking.connect(path)
        if not beside:
            asking.bind("")
            yield asking
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(mine)
        asking.bind(mine)
        try:
            os.chmod(mine, 0o666)  # the daemon has given up root
            yield asking
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(mine)
