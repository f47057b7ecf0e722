"""Record one run: build the network, start taps and processes, make the fault, write the folder."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import json
import os
import platform
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.lab.journal import Journal, state_dir
from pipelines.lab.moved import judge
from pipelines.lab.rewrite import shift_capture
from pipelines.lab.run import ROOT, Run, worker_argv
from pipelines.lab.scenarios import Scenario
from pipelines.lab.topology import HOSTS, Net
from telemetry.errors import ConfigError

__all__ = ["record"]

MIN_BEFORE_S, MIN_FAULT_S, MIN_AFTER_S = 12.0, 8.0, 5.0
TAP_FILTER = "not portrange 40000-40099"  # the noise host's floods are no part of the recording
LOGGED_ACTIONS = 200


@contextlib.contextmanager
def turn(alone: bool) -> Iterator[None]:
    """Wait for the lab's lock: shared, or alone where the run changes something for everybody."""
    with open(state_dir() / "lock", "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
    time.sleep(0.3)  # let another lab that waits for its turn have it


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into an orderly end, as SIGINT is."""

    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    old = {}
    with contextlib.suppress(ValueError):  # not in the main thread: the caller sees to signals
        old = {s: signal.signal(s, leave) for s in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)


def schedule(rng: random.Random, seconds: float) -> tuple[float, float]:
    """Draw onset and end of the fault, in seconds from the start of the recording.

    The fault lies about the middle third: at least 12 s are clean before it and 5 s after it, as far
    as the recording is long enough; shorter ones (fire drills, tests) are scaled down.
    """
    scale = min(1.0, seconds / (MIN_BEFORE_S + MIN_FAULT_S + MIN_AFTER_S))
    onset = max(MIN_BEFORE_S * scale, seconds * rng.uniform(0.33, 0.42))
    length = max(MIN_FAULT_S * scale, seconds * rng.uniform(0.22, 0.34))
    return onset, min(onset + length, seconds - MIN_AFTER_S * scale)


def record(scenario: Scenario, seed: str, seconds: float, out: Path, rate: float | None = None) -> dict[str, Any]:
    """Record `seconds` of `scenario` into folder `out` (``<scenario>-s<seed>``) and return its label.

    `rate` is that of the market data, messages a second and line; without it the seed draws one.

    Raises
    ------
    ConfigError
        If a command fails or a process of the lab dies; everything is restored before.
    """
    folder = out / f"{scenario.name}-s{seed}"
    if folder.exists():
        raise ConfigError(f"lab: {folder} exists; give another --out or delete it")
    try:
        out.mkdir(parents=True, exist_ok=True)
        state_dir()
    except OSError as error:
        raise ConfigError(f"lab: cannot write to {error.filename}: {error.strerror}") from None
    with turn(scenario.alone), interruptible():
        run_id = f"{os.getpid() % 0x10000:04x}{secrets.token_hex(2)}"
        journal = Journal.open_new(run_id)
        scratch = Path(tempfile.mkdtemp(prefix=f"tw{run_id}-", dir=out))
        journal.file(scratch)
        dog = guard(journal)
        rng = random.Random(f"{scenario.name}:{seed}")
        run = Run(Net(run_id, journal, relay=scenario.relay), journal, rng, scratch)
        try:
            label = _record(run, scenario, seed, seconds, scratch / "recording", rate)
            os.rename(scratch / "recording", folder)
        except OSError as error:  # no space, a file of /proc or /sys that is not there
            raise ConfigError(f"lab: {scenario.name}: {error}") from error
        finally:
            with uninterrupted():
                run.close()
                trouble = journal.restore()
                shutil.rmtree(scratch, ignore_errors=True)
                dog.kill()  # nothing is left to guard (or it was tried and is told below)
                dog.wait()
    if trouble:
        raise ConfigError("lab: not restored: " + "; ".join(trouble) + " (run: tailwatch lab restore)")
    return label


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold off signals while everything is put back."""
    names = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, names)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, names)


def guard(journal: Journal) -> subprocess.Popen[bytes]:
    """Start the watchdog: a process that restores the journal should this one be killed."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH"))))}
    argv = [sys.executable, "-m", "pipelines.lab.journal", str(journal.path)]
    return subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, start_new_session=True)


def _record(
    run: Run, scenario: Scenario, seed: str, seconds: float, folder: Path, fixed_rate: float | None
) -> dict[str, Any]:
    folder.mkdir()
    rng, net, scratch = run.rng, run.net, run.scratch
    onset, end = schedule(rng, seconds)
    rate = run.draw("background_msgs_per_s", 280, 480)
    if fixed_rate is not None:
        rate = run.params["background_msgs_per_s"] = fixed_rate
    cluster = run.draw("background_cluster", 0.06, 0.2)
    net.build()
    for host in ("noise", "sw"):
        run.workers[host] = run.spawn(host, host, worker_argv("load", "idle"))
    if scenario.relay:
        relay = run.worker("relay", "sw", "relay", "--seed", seed, "--out", str(scratch / "relay.json"))
        _ready(run, "relay", relay)
    if scenario.prepare is not None:
        scenario.prepare(run)
    taps = {host: tap(run, host, folder / f"{host}.pcap") for host in ("exch", "trd")}
    run.worker("engine", "exch", "engine")
    time.sleep(0.3)
    trader = ["--work-ns", str(scenario.work_ns), "--out", str(scratch / "app")]
    run.worker("strategy", "trd", "strategy", *trader, rt=10, cpu=run.cpu)
    run.t0_ns = time.time_ns() + 1_200_000_000
    publisher = ["--seed", seed, "--start-ns", str(run.t0_ns), "--rate", str(rate), "--cluster", str(cluster)]
    run.worker("publisher", "exch", "publisher", *publisher, "--out", str(scratch / "sent.json"))
    run.start_ns = run.t0_ns + int(onset * 1e9)
    run.end_ns = run.t0_ns + int(end * 1e9)
    run.stop_ns = run.t0_ns + int(seconds * 1e9)
    names = {"strat": "strategy", "me": "engine", "pub": "publisher"} | ({"relay": "relay"} if scenario.relay else {})
    flags = [f"--process={short}={run.workers[name].pid}" for short, name in names.items()]
    pids = {"trd": "strategy", "exch": "engine", "noise": "noise", "sw": "sw"}
    flags += [f"--space={host}={run.workers[pids[host]].pid}" for host in HOSTS]
    flags += ["--from-ns", str(run.t0_ns), "--until-ns", str(run.stop_ns)]
    sampler = run.worker("sampler", None, "sampler", *flags, "--out", str(folder / "proc_10hz.csv.gz"), rt=1)
    _ready(run, "sampler", sampler)

    loads = [os.getloadavg()[0]]
    run.sleep_until(run.start_ns)
    actual_start = time.time()
    scenario.fault(run)
    actual_end = time.time()
    loads.append(os.getloadavg()[0])
    run.sleep_until(run.stop_ns)
    loads.append(os.getloadavg()[0])

    run.stop("publisher")
    time.sleep(0.4)
    run.stop("strategy")
    captures = {}
    for host in taps:
        run.stop(f"tap-{host}", signal.SIGINT)
        captures[host] = counts(scratch / f"tap-{host}.err")
    run.stop("sampler", patience=60.0 + 2.0 * seconds)  # it only now turns what it read into a table
    if not (folder / "proc_10hz.csv.gz").is_file():
        raise ConfigError(f"lab: the sampler wrote no counters ({run.complaint('sampler')})")
    if scenario.relay:
        run.stop("relay")

    label: dict[str, Any] = {
        "fault": scenario.name,
        "kind": scenario.kind,
        "kinds": [scenario.kind, *scenario.also],
        "shape": scenario.shape,
        "scope": "" if scenario.clean else "host=lab",
        "place": {k: str(run.cpu) if v == "strategy" else v for k, v in scenario.place.items()},
        "t0": run.t0_ns / 1e9,
        "dur": seconds,
        "seed": seed,
        "mode": "relay" if scenario.relay else "bridge",
        "fault_start": actual_start,
        "fault_end": actual_end,
        "fault_sched_start": run.start_ns / 1e9,
        "fault_sched_end": run.end_ns / 1e9,
        "clean": scenario.clean,
        "simulated": scenario.simulated,
        "params": run.params,
        "actions": run.actions[:LOGGED_ACTIONS],
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "strategy_cpu": run.cpu,
        "host_load": [round(x, 2) for x in loads],
        "sent": json.loads((scratch / "sent.json").read_text()),
        "captures": captures,
    }
    if "line" in run.params and "line" in label["place"]:
        label["place"]["line"] = run.params["line"]
    if "irq" in run.params:
        label["place"]["irq"] = run.params["irq"]
    if scenario.relay:
        label["relay"] = json.loads((scratch / "relay.json").read_text())
    md, orders = app_records(scratch / "app")
    offset = int(run.params.get("offset_ns", 0))
    if offset:
        window = (run.start_ns, run.end_ns)
        shift_capture(folder / "trd.pcap", window, offset)
        for table, columns in ((md, (3, 4)), (orders, (2, 3))):
            for column in columns:
                at = table[:, column]
                at[(at >= window[0]) & (at < window[1])] += offset
    unacked = orders[orders[:, 3] == 0, 0]
    np.savez_compressed(folder / "app_raw.npz", md=md, orders=orders[orders[:, 3] != 0], unacked=unacked)
    for host in taps:
        pack(folder / f"{host}.pcap")
    counter = scenario.counter
    if "irq" in run.params:
        counter = rf"irq\.{run.params['irq']}_.*\.cpu{run.cpu}"
    label["moved"] = judge(folder, label, counter)
    (folder / "label.json").write_text(json.dumps(label, indent=1) + "\n")
    return label


def _ready(run: Run, name: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a process says ``ready``."""
    if process.stdout is None or process.stdout.readline().strip() != b"ready":
        raise ConfigError(f"lab: the {name} process did not start ({run.complaint(name)})")


def tap(run: Run, host: str, path: Path) -> subprocess.Popen[bytes]:
    """Start tcpdump in a namespace, with the kernel's stamps in nanoseconds; wait until it listens."""
    base = ["tcpdump", "-i", "eth0", "-n", "-s", "128", "-B", "32768", "-Z", "root", "--time-stamp-precision=nano"]
    name = f"tap-{host}"
    log = run.scratch / f"{name}.err"
    for stamp in (["-j", "host"], []):
        process = run.spawn(name, host, [*base, *stamp, "-w", str(path), TAP_FILTER], rt=2)
        until = time.monotonic() + 10
        while time.monotonic() < until and process.poll() is None:
            if "listening on" in log.read_text():
                run.workers[name] = process
                return process
            time.sleep(0.02)
        process.kill()
    raise ConfigError(f"lab: tcpdump does not start ({run.complaint(name)})")


def counts(log: Path) -> dict[str, int]:
    """Read what tcpdump says at its end: packets captured, received by the filter, dropped."""
    text = log.read_text()
    found = {}
    for name, words in (("captured", "captured"), ("received", "received by filter"), ("dropped", "dropped by kernel")):
        m = re.search(rf"(\d+) packets? {words}", text)
        found[name] = int(m.group(1)) if m else -1
    return found


def app_records(stem: Path) -> tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.int64]]]:
    """Read what the strategy wrote: market data (n, 6) and orders (n, 4)."""
    md = np.fromfile(f"{stem}.md", np.int64).reshape(-1, 6)
    orders = np.fromfile(f"{stem}.orders", np.int64).reshape(-1, 4)
    return md, orders


def pack(path: Path) -> None:
    """Replace a capture by its gzip."""
    with open(path, "rb") as source, gzip.open(f"{path}.gz", "wb", compresslevel=6) as target:
        shutil.copyfileobj(source, target, 1 << 20)
    path.unlink()
