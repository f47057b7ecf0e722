"""``tailwatch packets``: captures to Parquet, whole or not at all."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from pipelines import packets as module
from pipelines.addresses import address_text
from pipelines.commands.packets import command
from pipelines.packet_rows import COLUMNS
from pipelines.packets import PacketWriter, convert
from telemetry.capture.packets import read_packets
from telemetry.errors import ConfigError, InputError, StoreError, TailwatchError
from tests.naive.capture_build import eth, gre, ip4, ip6, pcap, tcp, udp, vlan

T0 = 1_700_000_000_123_456_789
FRAMES = [
    eth(ip4(udp(b"abc"))),
    eth(vlan(ip4(tcp(b"x" * 9, seq=4_000_000_000), 6), 12), 0x8100),
    eth(ip6(udp(b""), src=0x20010DB8 << 96, dst=1), 0x86DD),
    eth(ip4(gre(ip4(udp(b"in"), src="1.1.1.1", dst="2.2.2.2"), key=9), proto=47)),
    eth(b"\0" * 50, 0x1234),
]
RECORDS = [(T0 + i, frame, -1) for i, frame in enumerate(FRAMES)]


def _write(folder: Path, blob: bytes, name: str = "c.pcap") -> Path:
    path = folder / name
    path.write_bytes(blob)
    return path


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_and_nulls(tmp_path: Path, threads: int) -> None:
    out = tmp_path / "p.parquet"
    stats = convert([str(_write(tmp_path, pcap(RECORDS)))], out, threads=threads)
    assert stats.packets == 5
    table = pq.read_table(out)
    assert tuple(table.column_names) == COLUMNS
    rows = table.to_pylist()
    assert [r["time_ns"] for r in rows] == [T0 + i for i in range(5)]
    assert [r["src"] for r in rows] == ["10.0.0.1", "10.0.0.1", "2001:db8::", "1.1.1.1", None]
    assert [r["vlan"] for r in rows] == [None, 12, None, None, None]
    assert [r["tcp_seq"] for r in rows] == [None, 4_000_000_000, None, None, None]
    assert [r["tunnel"] for r in rows] == [None, None, None, "gre", None]
    assert (rows[3]["outer_src"], rows[3]["outer_dst"], rows[3]["tunnel_id"]) == ("10.0.0.1", "10.0.0.2", 9)
    assert [r["protocol"] for r in rows] == [17, 6, 17, 17, None]
    assert [r["payload_len"] for r in rows] == [3, 9, 0, 2, None]
    assert {r["hw_time_ns"] for r in rows} == {None}
    assert {r["recovered"] for r in rows} == {False}
    assert {r["ip_id"] for r in rows} == {7, None}


@pytest.mark.parametrize("threads", [1, 3])
def test_a_capture_without_packets_is_an_empty_table(tmp_path: Path, threads: int) -> None:
    out = tmp_path / "p.parquet"
    assert convert([str(_write(tmp_path, pcap([])))], out, threads=threads).packets == 0
    table = pq.read_table(out)
    assert (len(table), tuple(table.column_names)) == (0, COLUMNS)


def test_many_row_groups_equal_the_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sparse columns that appear and go from batch to batch, over the borders of row groups."""
    monkeypatch.setattr(module, "ROWS", 700)
    rng = np.random.default_rng(3)
    frames = [FRAMES[0], FRAMES[4]] * 200 + [FRAMES[k] for k in rng.integers(0, 5, 2000)] + [FRAMES[2]] * 900
    path = _write(tmp_path, pcap([(T0 + i, f, -1) for i, f in enumerate(frames)]))
    out = tmp_path / "p.parquet"
    with PacketWriter(out, threads=2) as writer:
        for batch in read_packets(path, batch_rows=128):
            writer.write(batch)
    assert pq.read_metadata(out).num_row_groups == -(-len(frames) // 700)
    rows = pq.read_table(out).to_pylist()
    at = 0
    for b in read_packets(path, batch_rows=1000):
        for i in range(b.n):
            got = rows[at]
            at += 1
            assert got["time_ns"] == b.time_ns[i]
            for name in ("vlan", "tcp_seq", "tcp_flags", "src_port", "protocol", "tunnel_id", "payload_len"):
                value = int(getattr(b, name)[i])
                assert got[name] == (None if value == -1 else value), name
            want = None
            if b.ip_version[i]:
                want = address_text(int(b.ip_version[i]), int(b.dst_hi[i]), int(b.dst_lo[i]))
            assert got["dst"] == want
    assert at == len(frames) == len(rows)


def test_addresses_are_written_as_the_resolver_does() -> None:
    assert address_text(4, 0, 0xE0000001) == "224.0.0.1"
    assert address_text(6, 0, 0xFFFF01020304) == "::ffff:1.2.3.4"
    mine = address_text(6, 0x20010DB800000000, 1)
    assert mine == socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, "2001:db8::1"))


def run(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code (that of the error, where one is raised), standard output and standard error."""
    result = CliRunner().invoke(command, [str(a) for a in arguments])
    if isinstance(result.exception, TailwatchError):
        return result.exception.exit_code, result.stdout, str(result.exception)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_command_counts(tmp_path: Path) -> None:
    code, out, _ = run(_write(tmp_path, pcap(RECORDS)), "-o", tmp_path / "o.parquet", "--json")
    summary = json.loads(out)
    assert code == 0
    assert (summary["packets"], summary["damage_count"], summary["first_ns"]) == (5, 0, T0)
    assert pq.read_metadata(tmp_path / "o.parquet").num_rows == 5


def test_damage_keeps_the_good_packets_and_exits_with_one(tmp_path: Path) -> None:
    blob = bytearray(pcap(RECORDS * 4))
    first = 16 + len(FRAMES[0])
    blob[24 + first + 8 : 24 + first + 12] = b"\xff" * 4
    code, out, err = run(_write(tmp_path, bytes(blob)), "-o", tmp_path / "o.parquet")
    assert code == 1
    assert err.count("\n") == 1
    assert f"damaged at byte {24 + first}" in err
    table = pq.read_table(tmp_path / "o.parquet")
    assert table["recovered"].to_pylist() == [False] + [True] * 18
    assert "19 packets" in out


@pytest.mark.parametrize(
    ("blob", "text"), [(b"", "empty"), (b"%PDF-1.7 and so on, not a capture", "expected a capture")]
)
def test_foreign_files_write_nothing(tmp_path: Path, blob: bytes, text: str) -> None:
    good = _write(tmp_path, pcap(RECORDS), "a.pcap")
    code, _, err = run(good, _write(tmp_path, blob, "b.pcap"), "-o", tmp_path / "o.parquet")
    assert code == 2
    assert text in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pcap", "b.pcap"]


def test_an_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    out = _write(tmp_path, b"old", "o.parquet")
    path = _write(tmp_path, pcap(RECORDS))

    def stopped() -> None:
        with PacketWriter(out) as writer:
            for batch in read_packets(path):
                writer.write(batch)
            raise RuntimeError("stopped in the middle")

    with pytest.raises(RuntimeError, match="stopped"):
        stopped()
    assert out.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.pcap", "o.parquet"]


def test_mistakes_are_told(tmp_path: Path) -> None:
    path = _write(tmp_path, pcap(RECORDS))
    with pytest.raises(ConfigError, match="another file"):
        convert([str(path)], path)
    with pytest.raises(StoreError, match="no folder"):
        convert([str(path)], tmp_path / "nowhere" / "o.parquet")
    with pytest.raises(InputError, match="nothing-here"):
        convert([str(tmp_path / "nothing-here")], tmp_path / "o.parquet")
    assert path.read_bytes() == pcap(RECORDS)


def test_a_folder_or_a_glob_is_a_rotated_set(tmp_path: Path) -> None:
    ring = tmp_path / "ring"
    ring.mkdir()
    _write(ring, pcap(RECORDS[2:]), "a.pcap")
    _write(ring, pcap(RECORDS[:2]), "b.pcap")
    for source in (ring, ring / "*.pcap"):
        assert convert([str(source)], tmp_path / "p.parquet").packets == 5
        assert pq.read_table(tmp_path / "p.parquet")["time_ns"].to_pylist() == [T0 + i for i in range(5)]
