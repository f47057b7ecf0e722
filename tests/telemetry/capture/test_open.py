"""Where bytes come from: compressed files, pipes, rotated sets, growing files."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import lz4.frame
import numpy as np
import pytest
import zstandard

from telemetry.capture.packets import CaptureStats, first_time, read_packets
from telemetry.errors import InputError
from tests.naive.capture_build import eth, ip4, pcap, pcapng, udp

T0 = 1_700_000_000_000_000_000
COUNT = 3000
BLOB = pcap([(T0 + i, eth(ip4(udp(b"%08d" % i * 8), ident=i)), -1) for i in range(COUNT)])

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "gzip members": lambda b: gzip.compress(b[:1000]) + gzip.compress(b[1000:]) + b"\0" * 512,
    "zstd": zstandard.ZstdCompressor().compress,
    "zstd frames": lambda b: zstandard.compress(b[:7000]) + zstandard.compress(b[7000:]),
    "lz4": lz4.frame.compress,
    "lz4 frames": lambda b: lz4.frame.compress(b[:50]) + lz4.frame.compress(b[50:]),
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "plain": bytes,
}


def ids(source: object, **more: object) -> list[int]:
    return [i for b in read_packets(source, **more) for i in b.ip_id.tolist()]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", sorted(PACKERS))
def test_compressed_files(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_bytes(PACKERS[kind](BLOB))
    stats = CaptureStats()
    assert ids(path, stats=stats) == list(range(COUNT))
    assert stats.damage_count == 0
    assert stats.read_bytes == stats.total_bytes == path.stat().st_size


@pytest.mark.parametrize("kind", ["gzip", "zstd", "lz4", "xz"])
def test_a_broken_stream_keeps_what_came_before(kind: str, tmp_path: Path) -> None:
    blob = pcap([(T0 + i, eth(ip4(udp(np.random.default_rng(i).bytes(900)), ident=i)), -1) for i in range(1200)])
    packed = PACKERS[kind](blob)
    path = tmp_path / "c"
    for bad in (packed[: len(packed) * 2 // 3], packed[: len(packed) * 2 // 3] + b"\xff" * 64 + packed[-9000:]):
        path.write_bytes(bad)
        stats = CaptureStats()
        got = ids(path, stats=stats)
        assert got == list(range(len(got)))
        # the block that is wrong (up to 256 kB) is lost with the wrong byte
        assert 1200 * 2 // 3 - 300 <= len(got) < 1200
        assert stats.damage_count == 1
        assert kind in stats.damages[0].what


def test_a_bomb_stays_bounded(tmp_path: Path) -> None:
    """64 MB of nothing in a few kB: stepped over, a buffer at a time."""
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", compresslevel=1) as out:
        out.write(pcap([(T0, b"x" * 60, -1)]))
        for _ in range(64):
            out.write(b"\xee" * (1 << 20))
    stats = CaptureStats()
    assert sum(b.n for b in read_packets(path, stats=stats)) == 1
    assert stats.damage_count == 1


def test_a_named_pipe(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)

    def feed() -> None:
        with open(path, "wb") as out:
            for at in range(0, len(BLOB), 7001):
                out.write(BLOB[at : at + 7001])

    writer = threading.Thread(target=feed)
    writer.start()
    assert ids(path) == list(range(COUNT))
    writer.join()


def test_file_objects() -> None:
    assert ids(io.BytesIO(BLOB)) == list(range(COUNT))


def test_rotated_sets_are_read_in_time_order(tmp_path: Path) -> None:
    parts = [tmp_path / name for name in ("ring.pcap2", "ring.pcap0", "ring.pcap1.gz")]
    for part, first in zip(parts, (200, 0, 100), strict=True):
        blob = pcap([(T0 + i, eth(ip4(udp(b"x"), ident=i)), -1) for i in range(first, first + 100)])
        part.write_bytes(gzip.compress(blob) if part.suffix == ".gz" else blob)
    stats = CaptureStats()
    batches = [(b.file, b.source, b.ip_id.tolist()) for b in read_packets(parts, stats=stats)]
    assert [i for _, _, part in batches for i in part] == list(range(300))
    assert [f for f, _, _ in batches] == [0, 1, 2]
    assert [Path(s).name for _, s, _ in batches] == ["ring.pcap0", "ring.pcap1.gz", "ring.pcap2"]
    assert (stats.files, stats.backwards) == (3, 0)
    assert first_time(parts[0]) == T0 + 200
    assert ids(parts, in_time_order=False)[0] == 200


def test_a_growing_file_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "live"
    path.write_bytes(BLOB[:1001])

    def grow() -> None:
        with open(path, "ab") as out:
            for at in range(1001, len(BLOB), 60_001):
                time.sleep(0.05)
                out.write(BLOB[at : at + 60_001])
                out.flush()

    writer = threading.Thread(target=grow)
    seen, sizes = [], []
    for b in read_packets(path, follow_s=1.0):
        if not writer.is_alive() and not seen:
            writer.start()  # what is there already comes out before more is waited for
        seen += b.ip_id.tolist()
        sizes.append(b.n)
    writer.join()
    assert seen == list(range(COUNT))
    assert len(sizes) > 1


def test_follow_needs_a_plain_file(tmp_path: Path) -> None:
    path = tmp_path / "c.gz"
    path.write_bytes(gzip.compress(BLOB))
    with pytest.raises(InputError, match="compressed"):
        ids(path, follow_s=0.1)


def test_resume_in_a_compressed_pcapng(tmp_path: Path) -> None:
    path = tmp_path / "c.gz"
    path.write_bytes(gzip.compress(pcapng([(0, i, eth(ip4(udp(b"x"), ident=i))) for i in range(500)])))
    stats, seen = CaptureStats(), []
    for b in read_packets(path, batch_rows=123, stats=stats):
        seen += b.ip_id.tolist()
        position = stats.position()
        break
    assert seen + ids(path, start=position) == list(range(500))


@pytest.mark.parametrize("name", ["missing", "."])
def test_what_cannot_be_opened(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read|directory"):
        ids(tmp_path / name)
