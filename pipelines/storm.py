"""A neighbour that behaves, then does not: two ordinary processes that pass a byte to and fro on one CPU.

Harmless and bounded: it stops by itself after its time, and when its parent goes away. The demo's own incident.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

__all__ = ["NAME", "main"]

NAME = "tw-neighbour"


def main(cpu: int, calm_s: float, storm_s: float) -> None:
    """Pass a byte 20 times a second for `calm_s`, as fast as possible for `storm_s`, then calmly on for 60 s."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(NAME)
    os.sched_setaffinity(0, {cpu})
    parent = os.getppid()
    there, back = os.pipe(), os.pipe()
    if os.fork() == 0:
        os.close(there[1])
        os.close(back[0])
        with contextlib.suppress(BrokenPipeError):
            while os.read(there[0], 1):
                os.write(back[1], b"x")
        os._exit(0)
    os.close(there[0])
    os.close(back[1])
    begun = time.monotonic()
    with contextlib.suppress(BrokenPipeError):
        while os.getppid() == parent and (now := time.monotonic() - begun) < calm_s + storm_s + 60:
            storm = calm_s <= now < calm_s + storm_s
            for _ in range(200 if storm else 1):
                os.write(there[1], b"x")
                os.read(back[0], 1)
            if not storm:
                time.sleep(0.05)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
