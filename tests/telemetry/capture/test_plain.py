"""A plain pcap file, read in one compiled loop, gives what the same bytes give when they come through a stream."""

from __future__ import annotations

import io
import itertools
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.capture.packets import CaptureStats, Packets, read_packets
from telemetry.errors import InputError
from tests.naive.capture_build import eth, ip4, pcap, tcp, udp

T0 = 1_700_000_000_000_000_000
_PLACES = {"frame_off", "payload_off", "l3_end"}  # in a batch's own buffer


def _blob(packets: int, size: int) -> bytes:
    frames = (eth(ip4((udp if i % 3 else tcp)(bytes([i & 255]) * (i * 37 % size)))) for i in range(packets))
    return pcap([(T0 + 1000 * i, frame, -1) for i, frame in enumerate(frames)])


def _told(source: Any, rows: int) -> tuple[dict[str, list[Any]], list[Any]]:
    """All columns, with each packet's bytes instead of its places; and what was counted."""
    stats = CaptureStats()
    out: dict[str, list[Any]] = {}

    def take(b: Packets) -> None:
        for f in fields(b):
            column = getattr(b, f.name)
            if isinstance(column, np.ndarray) and f.name not in _PLACES | {"data"}:
                out.setdefault(f.name, []).extend(column.tolist())
        for start, size in zip(b.frame_off.tolist(), b.cap_len.tolist(), strict=True):
            out.setdefault("bytes", []).append(bytes(b.data[start : start + size]))
        for at, frame in zip(b.payload_off.tolist(), b.frame_off.tolist(), strict=True):
            out.setdefault("payload", []).append(at - frame if at >= 0 else -1)

    try:
        for b in read_packets(source, batch_rows=rows, stats=stats, hardware=False):
            take(b)
    except InputError as error:
        return out, ["refused", str(error).partition(":")[2]]
    out.pop("hw_sub_ns", None)  # NaN
    damages = [(d.offset, d.what, d.resumed) for d in stats.damages]
    return out, [stats.packets, stats.recovered, stats.backwards, stats.snapped, damages]


@pytest.mark.parametrize("rows", [1, 7, 4096, 65_536])
@pytest.mark.parametrize(("packets", "size"), [(3, 40), (3000, 900), (200, 60_000)])
def test_a_file_gives_what_a_stream_gives(packets: int, size: int, rows: int, tmp_path: Path) -> None:
    blob = _blob(packets, size)
    path = tmp_path / "x.pcap"
    path.write_bytes(blob)
    want, counts = _told(io.BytesIO(blob), 4096)
    got = _told(path, rows)
    assert got == (want, counts)
    assert counts[0] == packets


_NUMBER = itertools.count()


@settings(max_examples=60, deadline=None)
@given(
    edits=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=30)), max_size=3),
    keep=st.floats(0.2, 1),
    rows=st.sampled_from([3, 64, 5000]),
)
def test_a_damaged_file_too(
    edits: list[tuple[float, bytes]], keep: float, rows: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    blob = bytearray(_blob(60, 300))
    for where, what in edits:
        at = 24 + int(where * (len(blob) - 24 - len(what)))
        blob[at : at + len(what)] = what
    damaged = bytes(blob[: int(len(blob) * keep)])
    path = tmp_path_factory.getbasetemp() / f"damaged-{next(_NUMBER)}.pcap"
    path.write_bytes(damaged)
    try:
        assert _told(path, rows) == _told(io.BytesIO(damaged), rows)
    finally:
        path.unlink()
