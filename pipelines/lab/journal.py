"""The restore journal: what a run changes is written down and synced before it is changed.

A journal is one JSON file a run under ``/run/tailwatch-lab`` (or ``$TAILWATCH_LAB_STATE``). Whoever
finds a journal whose owner is dead restores it: the run's own watchdog at once, the next
``tailwatch lab`` at its start, or ``tailwatch lab restore``. A process is named by its pid and its
start time, so a pid that was used again is never killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from telemetry.errors import ConfigError

__all__ = ["Journal", "born", "state_dir", "sweep"]


def state_dir() -> Path:
    """Where journals and locks live; made when it is not there."""
    path = Path(os.environ.get("TAILWATCH_LAB_STATE", "/run/tailwatch-lab"))
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def born(pid: int) -> int:
    """Return the start time of a process in clock ticks since boot, 0 if there is none (proc_pid_stat(5))."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            text = f.read()
    except OSError:
        return 0
    words = text[text.rindex(")") + 2 :].split()
    return 0 if words[0] == "Z" else int(words[19])


class Journal:
    """The changes of one run, and the way back.

    Parameters
    ----------
    path : Path
    data : dict
        ``owner`` [pid, start], ``settings`` [[path, old value], ...] in order of change, ``spaces``
        (network namespaces), ``processes`` [[pid, start], ...], ``files`` (files and folders to be deleted).
    """

    def __init__(self, path: Path, data: dict[str, Any]) -> None:
        self.path = path
        self.data = data

    @classmethod
    def open_new(cls, run: str) -> Journal:
        """Start the journal of run `run`, owned by this process."""
        me = os.getpid()
        data: dict[str, Any] = {
            "owner": [me, born(me)], "settings": [], "spaces": [], "processes": [], "files": []
        }  # fmt: skip
        journal = cls(state_dir() / f"{run}.json", data)
        journal.sync()
        return journal

    @classmethod
    def load(cls, path: Path) -> Journal:
        """Read a journal.

        Raises
        ------
        ConfigError
            If the file is not a journal.
        """
        try:
            data = json.loads(path.read_text())
            whole = {"owner", "settings", "spaces", "processes", "files"} <= set(data)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"lab journal {path}: expected JSON, got {error}") from None
        if not whole:
            raise ConfigError(f"lab journal {path}: keys are missing; look at it and delete it by hand")
        return cls(path, data)

    def sync(self) -> None:
        """Write the journal to disk, whole or not at all."""
        fresh = self.path.with_suffix(".new")
        with open(fresh, "w") as f:
            json.dump(self.data, f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(fresh, self.path)

    def space(self, name: str) -> None:
        """Note a network namespace that is about to be made."""
        self.data["spaces"].append(name)
        self.sync()

    def process(self, pid: int) -> None:
        """Note a process that was started (the head of a session of its own)."""
        self.data["processes"].append([pid, born(pid)])
        self.sync()

    def file(self, path: Path) -> None:
        """Note a scratch file or folder to be deleted."""
        self.data["files"].append(str(path))
        self.sync()

    def setting(self, path: str, value: str) -> None:
        """Change a file of /proc or /sys; its first old value is noted before.

        Raises
        ------
        ConfigError
            If it cannot be read or written.
        """
        try:
            old = Path(path).read_text().strip()
            if path not in (p for p, _ in self.data["settings"]):
                self.data["settings"].append([path, old])
                self.sync()
            Path(path).write_text(value + "\n")
        except OSError as error:
            raise ConfigError(f"lab: cannot set {path} to {value}: {error.strerror}") from None

    def orphan(self) -> bool:
        """Say whether the process that owned this run is gone."""
        pid, start = self.data["owner"]
        return born(pid) != start

    def restore(self) -> list[str]:
        """Undo everything, latest first, and delete the journal if all went well.

        Returns
        -------
        list of str
            What could not be undone, a line each; then the journal stays.
        """
        trouble: list[str] = []
        for pid, start in reversed(self.data["processes"]):
            if start and born(pid) == start:
                with contextlib.suppress(OSError):
                    os.killpg(pid, signal.SIGKILL)
        for path, old in reversed(self.data["settings"]):
            try:
                Path(path).write_text(old + "\n")
            except OSError as error:
                with contextlib.suppress(OSError):
                    if Path(path).read_text().strip() == old:  # it could not be changed in the first place
                        continue
                trouble.append(f"{path}: cannot write back {old}: {error.strerror}")
        for name in reversed(self.data["spaces"]):
            if not Path("/run/netns", name).exists():
                continue
            inside = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
            for pid in inside.stdout.split():
                with contextlib.suppress(OSError):
                    os.kill(int(pid), signal.SIGKILL)
            done = subprocess.run(["ip", "netns", "del", name], capture_output=True, text=True, check=False)
            if done.returncode and Path("/run/netns", name).exists():
                trouble.append(f"namespace {name}: {done.stderr.strip()}")
        for path in self.data["files"]:
            shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):
                os.unlink(path)
        if not trouble:
            self.path.unlink(missing_ok=True)
        return trouble


def sweep() -> tuple[int, list[str]]:
    """Restore every run whose owner is dead.

    Returns
    -------
    int
        How many runs were restored.
    list of str
        What could not be undone.
    """
    count, trouble = 0, []
    for path in sorted(state_dir().glob("*.json")):
        try:
            journal = Journal.load(path)
        except ConfigError as error:
            trouble.append(str(error))
            continue
        if journal.orphan():
            trouble += journal.restore()
            count += 1
    return count, trouble


def watchdog(path: Path) -> None:
    """Wait until the owner of the journal is gone, then restore it. Runs in a process of its own."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    owner = Journal.load(path)
    while path.exists():
        if owner.orphan():
            Journal.load(path).restore()
            return
        time.sleep(0.2)


if __name__ == "__main__":
    import sys

    watchdog(Path(sys.argv[1]))
