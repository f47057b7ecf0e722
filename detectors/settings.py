"""What the hosts were set to at a time: configuration events in, the facts that a change is filled in with.

The harvester tells settings as series: ``sysctl{name}``, ``irq_affinity_mask{irq}``, ``config_nic_*{device}``,
``nic_queue_irq{device,queue}`` and, for texts, ``config_info{name,value}`` (1 in force, 0 no longer).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from telemetry.types import Events, Nanos, SeriesKey

__all__ = ["Settings", "cpu_list", "cpu_text"]

KEPT = 8
"""Values of a setting that are remembered: an incident is decided a little after its time."""
_NAMES = frozenset({"sysctl", "config_info", "irq_affinity_mask", "nic_queue_irq"})
_MASKS = "_affinity_mask"


def _tells(metric: str) -> bool:
    return metric in _NAMES or metric.startswith("config_nic_")


def cpu_list(text: str) -> list[int]:
    """The cpus of a list such as ``0-2,5``.

    Examples
    --------
    >>> cpu_list("0-2,5"), cpu_list("")
    ([0, 1, 2, 5], [])
    """
    out: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdigit() and (not last or last.isdigit()):
            out += range(int(first), int(last or first) + 1)
    return out


def cpu_text(mask: int) -> str:
    """A mask of cpus as a list.

    Examples
    --------
    >>> cpu_text(0b100111)
    '0-2,5'
    """
    cpus = [c for c in range(mask.bit_length()) if mask >> c & 1]
    runs: list[list[int]] = []
    for c in cpus:
        if runs and runs[-1][1] == c - 1:
            runs[-1][1] = c
        else:
            runs.append([c, c])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


class Settings:
    """Remembers the settings of every host, with the time since when each is in force."""

    def __init__(self) -> None:
        self._hosts: dict[str, dict[SeriesKey, list[tuple[Nanos, int]]]] = {}

    def take(self, events: Events) -> None:
        """Take in what a batch says of settings; all else is passed over."""
        told = [i for i, k in enumerate(events.keys) if _tells(k.metric)]
        for i in told:
            key = events.keys[i]
            rows = (events.series == i).nonzero()[0]
            known = self._hosts.setdefault(key.host, {}).setdefault(key, [])
            for at, value in sorted((int(events.time_ns[r]), int(events.value[r])) for r in rows):
                if not known or known[-1][1] != value:
                    known.append((at, value))
            del known[:-KEPT]

    def facts(self, host: str, at_ns: Nanos) -> dict[str, str]:
        """What was in force at a time.

        Returns
        -------
        dict
            Each setting under its series without the host (``sysctl{name="net.core.rmem_max"}``), and ``online`` and
            ``isolated`` cpus (lists), ``device`` (where there is only one) and ``irq_device{irq="36"}``.
        """
        out: dict[str, str] = {}
        several: dict[str, dict[int, str]] = {}
        since: dict[str, Nanos] = {}
        devices: set[str] = set()
        for key, history in self._hosts.get(host, {}).items():
            now = next(((t, v) for t, v in reversed(history) if t <= at_ns), None)
            if now is None:
                continue
            at, value = now
            if key.metric == "config_info":
                name = _plain(key, "value")
                if value == 1 and at >= since.get(name, 0):
                    since[name], out[name] = at, _chosen(key.label("value"))
            elif key.metric == "nic_queue_irq":
                out[f'irq_device{{irq="{value}"}}'] = key.label("device")
            elif key.label("index"):
                several.setdefault(_plain(key, "index"), {})[int(key.label("index"))] = str(value)
            else:
                out[_plain(key)] = cpu_text(value) if key.metric.endswith(_MASKS) else str(value)
            if key.metric.startswith(("config_nic_", "nic_queue_")):
                devices.add(key.label("device"))
        out |= {name: " ".join(v for _, v in sorted(parts.items())) for name, parts in several.items()}
        online = cpu_list(out.get('config_info{name="online_cpus"}', ""))
        if online:
            out["online"] = cpu_text(sum(1 << c for c in online))
        out["isolated"] = out.get('config_info{name="isolated_cpus"}', "").replace("none", "")
        if len(devices) == 1:
            out["device"] = devices.pop()
        return out

    def pack(self) -> list[list[Any]]:
        """JSON-able; `unpack` reads it back."""
        return [[str(k), history] for host in sorted(self._hosts) for k, history in self._hosts[host].items()]

    def unpack(self, rows: list[list[Any]]) -> None:
        self._hosts = {}
        for text, history in rows:
            key = SeriesKey.parse(text)
            self._hosts.setdefault(key.host, {})[key] = [(int(t), int(v)) for t, v in history]


def _plain(key: SeriesKey, without: str = "") -> str:
    """The series without its host, as selectors in the catalogue write it."""
    labels: Mapping[str, str] = {k: v for k, v in key.labels if k != without}
    inner = ",".join(f'{k}="{v}"' for k, v in sorted(labels.items()))
    return f"{key.metric}{{{inner}}}" if inner else key.metric


def _chosen(text: str) -> str:
    """Of ``always [madvise] never`` the one in brackets."""
    _, opened, rest = text.partition("[")
    chosen, closed, _ = rest.partition("]")
    return chosen if opened and closed else text
