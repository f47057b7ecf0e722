"""Which processes are watched, their threads, and the network namespaces that processes live in."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from telemetry.errors import ConfigError
from telemetry.host.threads import ThreadStates, ThreadTimes, compile_readers
from telemetry.procfs import Set, namespace_set

__all__ = ["ProcessWatch"]

_SCAN_EVERY = 5


class ProcessWatch:
    """Looks through /proc for processes by name or cgroup, and for namespaces.

    Parameters
    ----------
    patterns : sequence of str
        Regular expressions of ``comm`` or of the first two words' base names of the command line (so that
        ``strat.py`` of an interpreter is found too); or ``cgroup:PATH``, a part of its cgroup path; or ``pid:N``.

    Raises
    ------
    ConfigError
        If a pattern is not a regular expression.
    """

    def __init__(self, root: Path, host: str, patterns: Sequence[str], *, namespaces: bool) -> None:
        self._root, self._host = root, host
        self._cgroups = [p[7:] for p in patterns if p.startswith("cgroup:")]
        self._pids = {p[4:] for p in patterns if p.startswith("pid:")}
        try:
            self._names = [re.compile(p) for p in patterns if not p.startswith(("cgroup:", "pid:"))]
        except re.error as error:
            raise ConfigError(f"process pattern {error.pattern!r}: not a regular expression: {error}") from None
        self._any = bool(patterns)
        if self._any:
            compile_readers()  # now, not when the first of them starts
        self._namespaces = namespaces
        self._looks = 0
        self._seen: set[int] = set()
        self._watched: dict[int, tuple[ThreadTimes, ThreadStates]] = {}
        self._nets: dict[str, tuple[int, str, Set]] = {}
        self._of_pid: dict[int, str] = {}
        self._own_net = self._net_of("self")

    @property
    def watched(self) -> dict[int, str]:
        """Process ids and names."""
        return {pid: times.process for pid, (times, _) in self._watched.items()}

    @property
    def nets(self) -> dict[str, str]:
        """Names of the network namespaces (our own is "") and the folders of their tables."""
        return {"": "proc/net"} | {label: f"proc/{pid}/net" for pid, label, _ in self._nets.values()}

    def look(self) -> tuple[Set, Set]:
        """Return the sources that came and that went since the last look."""
        came, gone = Set([], [], []), Set([], [], [])
        if (self._any or self._namespaces) and self._looks % _SCAN_EVERY == 0:
            self._scan(came, gone)
        self._looks += 1
        for times, states in self._watched.values():
            if times.look():
                states.stale = times.stale = True
        return came, gone

    def _scan(self, came: Set, gone: Set) -> None:
        now = {int(p) for p in os.listdir(self._root / "proc") if p.isdigit()} if self._exists() else set()
        for pid in sorted(self._seen - now):
            self._of_pid.pop(pid, None)
            if pid in self._watched:
                times, states = self._watched.pop(pid)
                gone.fast.append(times)
                gone.base.append(states)
        for pid in sorted(now - self._seen):
            name = self._wanted(pid)
            if name is not None:
                folder = self._root / "proc" / str(pid)
                times = ThreadTimes(folder, self._host, name)
                states = ThreadStates(folder, self._host, name)
                self._watched[pid] = (times, states)
                came.fast.append(times)
                came.base.append(states)
            if self._namespaces:
                net = self._net_of(str(pid))
                if net:
                    self._of_pid[pid] = net
        # A process that has just been forked still bears its parent's name: look at it once more.
        self._seen = now & (self._seen | {pid for pid in now if pid in self._watched or not self._young(pid)})
        if self._namespaces:
            self._scan_nets(came, gone)

    def _scan_nets(self, came: Set, gone: Set) -> None:
        alive = dict.fromkeys(self._of_pid.values())
        # A namespace is read through one of its processes: when that ends, through another.
        for net in [n for n, (pid, _, _) in self._nets.items() if n not in alive or self._of_pid.get(pid) != n]:
            for mine, other in zip(gone, self._nets.pop(net)[2], strict=True):
                mine.extend(other)
        names: dict[str, str] | None = None
        for pid, net in sorted(self._of_pid.items()):
            if net in self._nets or net == self._own_net:
                continue
            names = self._net_names() if names is None else names
            label = names.get(net, net)
            sources = namespace_set(self._root, self._host, f"proc/{pid}/net", label)
            self._nets[net] = (pid, label, sources)
            for mine, other in zip(came, sources, strict=True):
                mine.extend(other)

    def _exists(self) -> bool:
        return (self._root / "proc").is_dir()

    def _young(self, pid: int) -> bool:
        """Younger than two scans, by the time stamp of its folder (live only; fixtures are old)."""
        try:
            start = os.stat(self._root / "proc" / str(pid)).st_ctime
            now = os.stat(self._root / "proc" / "self").st_ctime
        except OSError:
            return False
        return 0 <= now - start < 2 * _SCAN_EVERY

    def _wanted(self, pid: int) -> str | None:
        """The name of a process that is to be watched, or None."""
        if not self._any:
            return None
        comm = _text(self._root / "proc" / str(pid) / "comm").strip()
        if str(pid) in self._pids:
            return comm
        if self._names and any(p.fullmatch(n) for p in self._names for n in self._names_of(pid, comm)):
            return comm
        if self._cgroups:
            mine = _text(self._root / "proc" / str(pid) / "cgroup")
            if any(c in mine for c in self._cgroups):
                return comm
        return None

    def _names_of(self, pid: int, comm: str) -> Iterator[str]:
        yield comm
        words = _text(self._root / "proc" / str(pid) / "cmdline").split("\0")
        yield from (os.path.basename(w) for w in words[:2] if w)

    def _net_of(self, pid: str) -> str:
        try:
            return os.readlink(self._root / "proc" / pid / "ns/net").removeprefix("net:[").removesuffix("]")
        except OSError:
            return ""

    def _net_names(self) -> dict[str, str]:
        out = {}
        for path in sorted((self._root / "run/netns").glob("*")):
            try:
                out[str(path.stat().st_ino)] = path.name
            except OSError:
                continue
        return out


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
