"""Where packets can be seen here, and where they go past what is read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pipelines.doctor.finding import Finding, ask, content
from telemetry.host.bypass import recognise

__all__ = ["bypass", "network"]


def network(root: Path) -> Iterator[Finding]:
    """NICs and their queues, connection tracking, room in sockets."""
    devices = [d for d in sorted((root / "sys/class/net").glob("*")) if (d / "device").exists()]
    if not devices:
        yield Finding("network", "note", "no hardware NIC in this namespace: ring and driver counters are out of sight")
    for device in devices:
        driver = (
            os.path.basename(os.path.realpath(device / "device/driver")) if (device / "device/driver").exists() else "?"
        )
        yield Finding("network", "ok", f"{device.name}: driver {driver}, counters of its driver are read once a second")
    if devices and root == Path("/"):
        yield _queues([d.name for d in devices])
    if (root / "proc/sys/net/netfilter/nf_conntrack_count").exists():
        now = content(root / "proc/sys/net/netfilter/nf_conntrack_count")
        most = content(root / "proc/sys/net/netfilter/nf_conntrack_max")
        if now.isdigit() and most.isdigit() and int(most) and int(now) > 0.8 * int(most):
            text = f"connection tracking is nearly full: {now} of {most}"
            yield Finding("network", "problem", text, "notrack for market data; raise net.netfilter.nf_conntrack_max")
    room = content(root / "proc/sys/net/core/rmem_max")
    if room.isdigit() and int(room) <= 212_992:
        text = f"net.core.rmem_max is {room} (the default): about {int(room) // 2304} datagrams overflow a socket"
        yield Finding("network", "note", text, "sysctl net.core.rmem_max=26214400 and SO_RCVBUF in the application")


def _queues(devices: list[str]) -> Finding:
    from telemetry.host.queues import queue_stats

    told = ask(source := queue_stats(""))
    if isinstance(told, str):
        text = f"no queue statistics from the kernel ({told}): queues are told apart only where the driver does"
        return Finding("network", "note", text, "Linux 6.8 or later with a driver that fills them in")
    queues = {(k.label("device"), k.label("queue")) for k in source.keys}
    silent = sorted(set(devices) - {d for d, _ in queues})
    text = f"{len(queues)} queues are told by the kernel, at the rate of the standard set"
    if silent:
        return Finding("network", "note", f"{text}; not those of {', '.join(silent)}", "a newer driver")
    return Finding("network", "ok", text)


def bypass(root: Path) -> Iterator[Finding]:
    """What goes round the kernel's network stack."""
    found = [b for b in recognise(root) if b.kind != "rdma"]
    for b in found:
        text = f"{b.where} goes round the kernel ({b.kind}: {b.evidence}); blind for it: {', '.join(b.blind)}"
        yield Finding("bypass", "note", text, f"read instead: {b.instead}; name its series in scoring.bypass")
    if not found and (root / "proc/stat").exists():
        yield Finding("bypass", "ok", "nothing that we may look at goes round the kernel: its counters see all packets")
