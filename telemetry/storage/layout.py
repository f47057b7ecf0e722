"""Where things lie in a store, and what may be a path's part.

::

    store.json                                   format and version
    manifest.json                                the Parquet files that count, and the log segments that no longer do
    log/<writer>-<number>.twl                    the last minutes
    family=<group>.<type>/day=<date>/host=<host>/<writer>-<number>.parquet
    trash/                                       files replaced a moment ago, for readers that are still at them
"""

from __future__ import annotations

import datetime
import hashlib
import re
from functools import lru_cache
from urllib.parse import quote

from telemetry.errors import InputError

__all__ = ["DAY_NS", "FAMILIES", "VERSION", "day_of", "family_of", "labels_text", "parse_labels", "part"]

VERSION = 1
DAY_NS = 86_400 * 1_000_000_000

# Metrics that are read together lie together; few families make few files.
_GROUPS = {
    "cpu": "irq softirq cpu cpuidle context interrupts forks procs sched softnet loadavg",
    "thread": "thread process",
    "net": "netstat nic ethtool dpdk udp conntrack qdisc sockstat neigh igmp",
    "memory": "vmstat meminfo pressure disk node buddy numa cgroup",
    "wire": "wire tcp feed ab tick burst capture packet",
    "app": "app log record",
    "clock": "clock sampler boot sysctl config power thermal edac",
}
_GROUP_OF = {word: group for group, words in _GROUPS.items() for word in words.split()}
FAMILIES = tuple(f"{g}.{t}" for g in (*_GROUPS, "other") for t in ("int64", "float64"))

_LABEL = re.compile(r'([^=,"]*)="((?:[^"\\]|\\.)*)"(?:,|$)', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


@lru_cache(1 << 12)
def family_of(metric: str, kind: str) -> str:
    """Name the family of a metric; `kind` is ``int64`` or ``float64``. Never contains anything from outside."""
    return f"{_GROUP_OF.get(metric.partition('_')[0], 'other')}.{kind}"


def day_of(day: int) -> str:
    """Name a day by its number since the epoch; days outside the calendar get their number."""
    try:
        return (datetime.date(1970, 1, 1) + datetime.timedelta(days=day)).isoformat()
    except OverflowError:
        return str(day)


def part(text: str) -> str:
    """Make any text one harmless part of a path: percent-encoded, at most 120 bytes (then with its digest)."""
    if not text:
        return "__HIVE_DEFAULT_PARTITION__"
    safe = quote(text, safe="", errors="surrogatepass").replace("~", "%7E")
    if not safe.strip("."):
        safe = safe.replace(".", "%2E")
    if len(safe) <= 120:
        return safe
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
    return f"{safe[:90].rstrip('%')}-{digest}"


def labels_text(labels: tuple[tuple[str, str], ...]) -> str:
    """Write labels as ``name="value",...`` (the text that lies in the files)."""
    return ",".join(map(_label_text, labels))


@lru_cache(1 << 13)  # a flow, a processor, a queue is a label of many series
def _label_text(label: tuple[str, str]) -> str:
    name, value = label
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{name}="{escaped}"'


def parse_labels(text: str) -> tuple[tuple[str, str], ...]:
    """Read what `labels_text` wrote.

    Raises
    ------
    InputError
        If `text` is not that.
    """
    found, at = [], 0
    while at < len(text):
        m = _LABEL.match(text, at)
        if m is None:
            raise InputError(f'labels: expected name="value" at character {at} of {text!r}')
        found.append((m[1], _ESCAPE.sub(lambda e: "\n" if e[1] == "n" else e[1], m[2])))
        at = m.end()
    return tuple(found)
