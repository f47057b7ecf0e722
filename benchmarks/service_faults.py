"""Faults other than a kill: what is stored and delivered afterwards must equal an undisturbed run's.

Power cuts (an image of the disk at random moments, its newest files cut short), a full disk (a tmpfs of every size up
to what a run needs), a read-only disk, a clock that jumps. The mounts live in a mount namespace of a child process.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.rows import Row, attempt
from benchmarks.service_crash import START, make_store, outcome
from pipelines.config import Config, Scoring, Sinks
from pipelines.score import score
from telemetry.errors import TailwatchError

__all__ = ["disks", "jumping_clock", "power_cuts"]

SECOND = 1_000_000_000


def config(folder: Path, store: Path, out: Path | None = None) -> Config:
    """A job that checkpoints all the time and delivers to a file."""
    return Config(
        store=str(store),
        state=str(folder / "state.db"),
        checkpoints=str(folder / "checkpoints"),
        scoring=Scoring(checkpoint_s=0.02),
        sinks=Sinks(jsonl=str(out or folder / "out.jsonl"), max_per_minute=100_000),
    )


def jumping_clock(seed: int) -> Callable[[], int]:
    """The time of day on a machine whose clock is set back and forth by up to an hour at every look."""
    rng = random.Random(seed)
    return lambda: START + rng.randrange(-3600, 3600) * SECOND


# -- power cuts --------------------------------------------------------------------------------------------------------


def cut_tail(path: Path, rng: random.Random) -> None:
    """Take up to all bytes off the end of a file."""
    size = path.stat().st_size
    with open(path, "r+b") as f:
        f.truncate(rng.randrange(size + 1))


def mangle(folder: Path, rng: random.Random) -> None:
    """What a power cut may do to what was written last, and more than that to checkpoints."""
    wal = folder / "state.db-wal"
    if wal.exists() and rng.random() < 0.6:
        cut_tail(wal, rng)
    saved = sorted((folder / "checkpoints").glob("*.npz"), key=lambda p: p.stat().st_mtime_ns)
    for path in saved[len(saved) - rng.randrange(3) :] if saved else ():
        cut_tail(path, rng)
    sent = folder / "out.jsonl"
    if sent.exists() and rng.random() < 0.5:  # a line whose writing was not acknowledged
        with open(sent, "ab") as f:
            f.write(b'{"action": "opened", "at_ns": 17')


class _Cut(Exception):
    """The power is gone."""


def power_cuts(store: Path, scratch: Path, cuts: int, seed: int = 1) -> tuple[int, int]:
    """Cut the power `cuts` times at random moments, several times in each job's life; returns (cuts, differences)."""
    rng = random.Random(seed)
    calm = scratch / "calm"
    total = score(config(calm, store)).events
    expected = outcome(calm)
    if not expected[0] or not expected[1]:
        raise RuntimeError("the undisturbed run found nothing: the check would prove nothing")
    done = differ = 0
    while done < cuts:
        folder, image = scratch / "run", scratch / "image"
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(total)

            def progress(events: int, at: int = at, folder: Path = folder, image: Path = image) -> None:
                if events >= at:
                    shutil.copytree(folder, image, ignore=shutil.ignore_patterns("*-shm"))
                    raise _Cut

            try:
                score(config(folder, store), progress=progress)
            except _Cut:
                done += 1
                shutil.rmtree(folder)
                image.rename(folder)
                mangle(folder, rng)
        score(config(folder, store))
        differ += sum(a != b for a, b in zip(expected, readable(folder), strict=True))
        shutil.rmtree(folder)
    return done, differ


def readable(folder: Path) -> tuple[list[str], list[str], set[str]]:
    """The outcome, without lines that were torn."""
    sent = folder / "out.jsonl"
    if sent.exists():
        kept = [line for line in sent.read_text().splitlines() if _whole(line)]
        sent.write_text("".join(f"{line}\n" for line in kept))
    return outcome(folder)


def _whole(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


# -- disks -------------------------------------------------------------------------------------------------------------


def disks(store: Path, scratch: Path, sizes: int) -> dict[str, int]:
    """Full and read-only disks, in a child with mounts of its own: {runs, failed, differ, tracebacks}."""
    command = [
        "unshare",
        "-Urm",
        sys.executable,
        "-m",
        "benchmarks.service_faults",
        str(store),
        str(scratch),
        str(sizes),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"disks: {done.stderr.strip()[-300:]}")
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def _mount(folder: Path, size: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tailwatch", str(folder)], check=True)


def _remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def _try_sizes(store: Path, scratch: Path, sizes: int) -> dict[str, int]:
    large = 256 << 20
    calm = scratch / "calm"
    _mount(calm, large)
    score(config(calm, store))
    expected = outcome(calm)
    needed = shutil.disk_usage(calm).used
    found = {"runs": 0, "failed": 0, "differ": 0, "strange": 0}

    def disturbed(folder: Path, first: Callable[[], None]) -> None:
        try:
            score(config(folder, store))
        except TailwatchError as error:
            found["failed"] += 1
            found["strange"] += "\n" in str(error)
        first()
        for _ in range(2):
            score(config(folder, store))
        found["runs"] += 1
        found["differ"] += sum(a != b for a, b in zip(expected, readable(folder), strict=True))

    for number in range(sizes):
        folder = scratch / f"full{number}"
        _mount(folder, 4096 * (2 + number * needed // sizes // 4096))
        disturbed(folder, lambda folder=folder: _remount(folder, f"size={large}"))  # type: ignore[misc]
        subprocess.run(["umount", str(folder)], check=True)
    for part in ("never", "after"):  # written never yet, and before
        folder = scratch / part
        _mount(folder, large)
        if part == "after":
            half = _half(store)
            with_stop(folder, store, half)
        _remount(folder, "ro")
        disturbed(folder, lambda folder=folder: _remount(folder, "rw"))  # type: ignore[misc]
    return found


def _half(store: Path) -> int:
    from telemetry.store import Store

    with Store(store, create=False) as whole:
        return sum(len(b) for b in whole.read(0, 2**62)) // 2


def with_stop(folder: Path, store: Path, events: int) -> None:
    """Run a job that ends after so many events."""

    def progress(n: int) -> None:
        if n >= events:
            raise _Cut

    with contextlib.suppress(_Cut):
        score(config(folder, store), progress=progress)


# -- rows --------------------------------------------------------------------------------------------------------------


def figures(quick: bool) -> Iterator[float]:
    """Disturbances of all kinds, and in how many the outcome differed."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        make_store(root / "store", seconds=100)
        cuts, differ = power_cuts(root / "store", root / "power", 6 if quick else 60)
        found = disks(root / "store", root / "disks", 6 if quick else 40)
        for seed in range(2 if quick else 10):
            folder = root / f"clock{seed}"
            score(config(folder, root / "store"), clock=jumping_clock(seed))
            score(config(folder, root / "store"), clock=lambda: START + 7200 * SECOND)
            cuts += 1
            differ += sum(a != b for a, b in zip(outcome(root / "power" / "calm"), outcome(folder), strict=True))
    yield cuts + found["runs"]
    yield differ + found["differ"] + found["strange"]


def run(*, data: str | None, quick: bool = False) -> list[Row]:
    rows = [
        Row("faults", None, "count", 50, ">=", "power cuts, full and read-only disks, jumping clocks"),
        Row("faults_differ", None, "count", 0, "<="),
    ]
    return attempt(rows, lambda: list(figures(quick)))


if __name__ == "__main__":
    print(json.dumps(_try_sizes(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))))
