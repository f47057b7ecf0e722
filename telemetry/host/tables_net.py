"""The network in ``/proc``: protocols, devices, sockets, tracked connections, neighbours.

Each function takes the words of a file (`telemetry.host.scan.lines`) and returns its fields. Columns are found by their
names wherever the file has some, so that another kernel's columns are read right or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from telemetry.errors import InputError
from telemetry.host.fields import Line, Parser, named, of_labels
from telemetry.host.scan import Field

__all__ = ["conntrack_stat", "neighbours", "net_dev", "snmp", "snmp6", "sockstat", "softnet"]

_SNMP_GAUGES = {"CurrEstab"}
_SNMP_SETTINGS = {"Forwarding", "DefaultTTL", "RtoAlgorithm", "RtoMin", "RtoMax", "MaxConn"}
_RX = ("bytes", "packets", "errors", "dropped", "fifo_errors", "frame_errors", "compressed", "multicast")
_TX = ("bytes", "packets", "errors", "dropped", "fifo_errors", "collisions", "carrier_errors", "compressed")
_SOFTNET = {0: "processed", 1: "dropped", 2: "squeezed", 8: "collisions", 9: "rps", 10: "flow_limit"}


def softnet(cpus: Sequence[str]) -> Parser:
    """``/proc/net/softnet_stat`` (hexadecimal). From 5.10 on column 13 is the CPU; before, rows are the online CPUs."""

    def parse(rows: Sequence[Line]) -> list[Field]:
        out = []
        for i, row in enumerate(r for r in rows if r):
            if len(row) < 9 or any(t.number < 0 for t in row):
                raise InputError(f"softnet_stat: expected 9 or more hexadecimal columns, got {len(row)}")
            if len(row) >= 13:
                cpu = str(int(row[12].text, 16))
            else:
                cpu = cpus[i] if i < len(cpus) else str(i)
            label = of_labels(cpu=cpu)
            out += [Field(f"softnet_{n}_total", label, row[j].number) for j, n in _SOFTNET.items() if j < len(row)]
            if len(row) >= 12:
                out.append(Field("softnet_backlog", label, row[11].number))
        return out

    return parse


def snmp(netns: str = "") -> Parser:
    """``net/snmp`` and ``net/netstat``: pairs of a line of names and a line of numbers."""

    def parse(rows: Sequence[Line]) -> list[Field]:
        out = []
        full = [r for r in rows if r]
        at = 0
        while at + 1 < len(full):
            names, numbers = full[at], full[at + 1]
            at += 2
            proto = names[0].text.rstrip(":")
            if names[0].text != numbers[0].text or len(names) != len(numbers):
                raise InputError(f"snmp: expected as many numbers as names for {proto!r}")
            for name, token in zip(names[1:], numbers[1:], strict=True):
                if token.number >= 0 and name.text not in _SNMP_SETTINGS:
                    end = "" if name.text in _SNMP_GAUGES else "_total"
                    out.append(
                        Field(f"netstat_{named(proto)}_{named(name.text)}{end}", of_labels(netns=netns), token.number)
                    )
        return out

    return parse


def snmp6(netns: str = "") -> Parser:
    """``net/snmp6``: ``Ip6InReceives 12``."""

    def parse(rows: Sequence[Line]) -> list[Field]:
        out = []
        for row in rows:
            m = re.match(r"(Ip6|Icmp6|UdpLite6|Udp6)(\w+)$", row[0].text) if len(row) == 2 else None
            if m is not None and row[1].number >= 0:
                out.append(Field(f"netstat_{m[1]}_{m[2]}_total", of_labels(netns=netns), row[1].number))
        return out

    return parse


def net_dev(netns: str = "") -> Parser:
    """``net/dev``. Its ``drop`` is rx_dropped + rx_missed."""

    def parse(rows: Sequence[Line]) -> list[Field]:
        out = []
        for row in rows[2:]:
            if not row:
                continue
            numbers = [t.number for t in row[1:]]
            if not row[0].text.endswith(":") or len(numbers) < 16 or min(numbers) < 0:
                raise InputError("net/dev: expected 'name:' and 16 numbers")
            label = of_labels(device=row[0].text[:-1], netns=netns)
            out += [Field(f"nic_rx_{n}_total", label, numbers[i]) for i, n in enumerate(_RX)]
            out += [Field(f"nic_tx_{n}_total", label, numbers[8 + i]) for i, n in enumerate(_TX)]
        return out

    return parse


def sockstat(netns: str = "") -> Parser:
    """``net/sockstat``: ``TCP: inuse 1 orphan 0 ...``; memory is in pages."""

    def parse(rows: Sequence[Line]) -> list[Field]:
        return [
            Field(f"sockstat_{named(row[0].text)}_{name.text}", of_labels(netns=netns), number.number)
            for row in rows
            if row
            for name, number in zip(row[1::2], row[2::2], strict=False)
            if number.number >= 0
        ]

    return parse


def conntrack_stat(rows: Sequence[Line]) -> list[Field]:
    """``net/stat/nf_conntrack`` (hexadecimal): rows are the possible CPUs."""
    if not rows or "drop" not in [t.text for t in rows[0]]:
        raise InputError("nf_conntrack: expected a header with 'drop'")
    where = {n: i for i, n in enumerate(t.text for t in rows[0])}
    return [
        Field(f"conntrack_{name}_total", of_labels(cpu=str(i)), row[where[name]].number)
        for i, row in enumerate(r for r in rows[1:] if r)
        for name in ("drop", "early_drop", "insert_failed")
        if name in where and where[name] < len(row)
    ]


def neighbours(cache: str) -> Parser:
    """``net/stat/arp_cache`` and ``ndisc_cache`` (hexadecimal): what could not be resolved, a row a CPU."""

    def parse(rows: Sequence[Line]) -> list[Field]:
        where = {t.text: i for i, t in enumerate(rows[0])} if rows else {}
        if "res_failed" not in where:
            raise InputError(f"{cache}_cache: expected a header with 'res_failed'")
        return [
            Field(f"neigh_{name}_total", of_labels(cache=cache, cpu=str(i)), row[where[name]].number)
            for i, row in enumerate(r for r in rows[1:] if r)
            for name in ("res_failed", "unresolved_discards", "table_fulls")
            if name in where and where[name] < len(row)
        ]

    return parse
