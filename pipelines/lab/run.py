"""One run in flight: its network, its processes, its random numbers, and what a scenario may do with them."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.lab.journal import Journal
from pipelines.lab.topology import Net
from pipelines.lab.workers.control import RT
from telemetry.errors import ConfigError

__all__ = ["ROOT", "Run", "worker_argv"]

ROOT = str(Path(__file__).parents[2])
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def worker_argv(module: str, *args: str) -> list[str]:
    """Return the command line of a worker: the standard library alone (``-S``), so it starts at once."""
    return [sys.executable, "-S", "-m", f"pipelines.lab.workers.{module}", *args]


class Run:
    """What a scenario sees.

    Parameters
    ----------
    net : Net
    journal : Journal
    rng : random.Random
        Seeded by scenario and seed; the only source of chance of a scenario.
    scratch : Path
        A folder for files that are not part of the recording.

    Attributes
    ----------
    t0_ns, start_ns, end_ns, stop_ns : int
        Begin of the recording, scheduled begin and end of the fault, end of the recording.
    cpu, house : int
        The strategy's CPU and the other one (the same on a machine with one).
    params : dict
        What the seed chose; written into the label.
    """

    def __init__(self, net: Net, journal: Journal, rng: random.Random, scratch: Path) -> None:
        self.net = net
        self.journal = journal
        self.rng = rng
        self.scratch = scratch
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.loads: list[subprocess.Popen[bytes]] = []
        self.actions: list[dict[str, Any]] = []
        self.params: dict[str, Any] = {}
        cpus = sorted(os.sched_getaffinity(0))
        self.cpu, self.house = cpus[-1], cpus[0]
        self.t0_ns = self.start_ns = self.end_ns = self.stop_ns = 0

    # -- chance ---------------------------------------------------------------------------------

    def draw(self, name: str, low: float, high: float) -> float:
        """Draw a strength (log-uniform where both ends are positive) and note it."""
        if low > 0:
            value = low * (high / low) ** self.rng.random()
        else:
            value = self.rng.uniform(low, high)
        value = float(f"{value:.4g}")
        self.params[name] = value
        return value

    # -- time -----------------------------------------------------------------------------------

    def sleep_until(self, at_ns: int) -> None:
        """Sleep until a time; every worker must be alive meanwhile.

        Raises
        ------
        ConfigError
            If a worker died.
        """
        while (left := at_ns - time.time_ns()) > 0:
            time.sleep(min(left / 1e9, 0.25))
            self.check()

    def until_end(self) -> None:
        """Sleep until the scheduled end of the fault."""
        self.sleep_until(self.end_ns)

    def check(self) -> None:
        """Raise if a worker of the lab has ended by itself."""
        for name, worker in self.workers.items():
            if worker.poll() is not None:
                raise ConfigError(f"lab: the {name} process ended too early ({self.complaint(name)})")

    def complaint(self, name: str) -> str:
        """Return the last line that a process wrote to its error log."""
        with contextlib.suppress(OSError):
            lines = (self.scratch / f"{name}.err").read_text().strip().splitlines()
            if lines:
                return lines[-1]
        return "no message"

    # -- processes ------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """Write an action into the label."""
        self.actions.append({"t": time.time(), "cmd": text})

    def spawn(
        self,
        name: str,
        host: str | None,
        argv: Sequence[str],
        *,
        nice: int = 0,
        rt: int = 0,
        cpu: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a process in a namespace (or in the host's own), in a session of its own, bound to our life.

        `rt` > 0 is a SCHED_RR priority.
        """

        def before() -> None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if rt:
                with contextlib.suppress(OSError):
                    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(rt))
            if nice:
                os.setpriority(os.PRIO_PROCESS, 0, nice)
            if cpu is not None:
                os.sched_setaffinity(0, {cpu})

        words = [*(self.net.within(host) if host else []), *argv]
        with open(self.scratch / f"{name}.err", "ab") as err:
            process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if name in ("relay", "sampler") else subprocess.DEVNULL,
                stderr=err,
                env={**os.environ, "PYTHONPATH": ROOT, **(env or {})},
                start_new_session=True,
                preexec_fn=before,
            )
        self.journal.process(process.pid)
        return process

    def worker(
        self, name: str, host: str | None, script: str, *args: str, rt: int = 5, cpu: int | None = None
    ) -> subprocess.Popen[bytes]:
        """Start one of the lab's own processes; it must live until it is stopped.

        Once it has started up it takes SCHED_RR priority `rt`, as a trading process would: a machine that
        is busy with something else then hardly shows in a recording.
        """
        process = self.spawn(name, host, worker_argv(script, *args), env={RT: str(rt)}, cpu=cpu)
        self.workers[name] = process
        return process

    def tell(self, name: str, line: str) -> None:
        """Give a worker an order."""
        pipe = self.workers[name].stdin
        if pipe is None:
            raise ConfigError(f"lab: {name} takes no orders")
        self.note(f"{name}: {line}")
        with contextlib.suppress(BrokenPipeError):
            pipe.write(line.encode() + b"\n")
            pipe.flush()

    def stop(self, name: str, how: int = signal.SIGTERM, patience: float = 60.0) -> None:
        """Stop a worker and wait for it; one that does not heed is killed."""
        process = self.workers.pop(name, None)
        if process is not None:
            end(process, how, patience)

    # -- what scenarios use ---------------------------------------------------------------------

    @contextlib.contextmanager
    def load(self, kind: str, host: str | None = None, *, nice: int = 0, **options: object) -> Iterator[None]:
        """Run one of ``workers/load.py`` while the block lasts."""
        flags: list[str] = []
        for key, value in options.items():
            flags += [f"--{key}"] if value is True else [f"--{key}", str(value)]
        argv = worker_argv("load", kind, *flags)
        with self.command(argv, host, name=kind, nice=nice):
            yield

    @contextlib.contextmanager
    def command(
        self, argv: Sequence[str], host: str | None = None, *, name: str = "load", nice: int = 0
    ) -> Iterator[None]:
        """Run a command while the block lasts."""
        where = f"{host}: " if host else ""
        self.note(where + " ".join(Path(w).name if w.startswith("/") else w for w in argv))
        process = self.spawn(name, host, argv, nice=nice)
        self.loads.append(process)
        try:
            yield
            if process.poll() is not None:
                raise ConfigError(f"lab: {name} ended by itself ({self.complaint(name)})")
        finally:
            end(process, signal.SIGTERM, 2.0)
            self.loads.remove(process)

    def background(self, kind: str, host: str | None = None, **options: object) -> None:
        """Run a load for the whole recording."""
        flags = [w for key, value in options.items() for w in (f"--{key}", str(value))]
        argv = worker_argv("load", kind, *flags)
        self.loads.append(self.spawn(kind, host, argv))

    @contextlib.contextmanager
    def relayed(self, *rules: dict[str, Any]) -> Iterator[None]:
        """Put rules into the relay while the block lasts."""
        self.tell("relay", "set " + json.dumps(rules))
        try:
            yield
        finally:
            self.tell("relay", "clear")

    @contextlib.contextmanager
    def setting(self, path: str, value: str) -> Iterator[None]:
        """Change a global setting while the block lasts; the journal has its old value."""
        with open(path) as f:
            old = f.read().strip()
        self.note(f"{path}: {old} -> {value}")
        self.journal.setting(path, value)
        try:
            yield
        finally:
            Path(path).write_text(old + "\n")

    def nft(self, host: str, rules: str) -> None:
        """Load nftables rules into a namespace."""
        done = subprocess.run(
            [*self.net.within(host), "nft", "-f", "-"], input=rules, text=True, capture_output=True, check=False
        )
        if done.returncode:
            raise ConfigError(f"lab: nft: {done.stderr.strip().splitlines()[0]}")
        self.note(f"{host}: nft {rules.strip()}")

    def close(self) -> None:
        """Stop everything that still runs."""
        for process in self.loads:
            end(process, signal.SIGTERM, 1.0)
        for name in list(self.workers):
            self.stop(name, signal.SIGTERM, 2.0)
        shutil.rmtree(self.scratch, ignore_errors=True)


def end(process: subprocess.Popen[bytes], how: int, patience: float) -> None:
    """Signal a process, wait for it, and kill its whole session if it does not end."""
    if process.poll() is None:
        process.send_signal(how)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGCONT)
    with contextlib.suppress(OSError):  # what it left behind in its session
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(5)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
