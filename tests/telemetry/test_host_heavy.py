from __future__ import annotations

import os
import shutil
import socket
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from telemetry.errors import InputError
from telemetry.harvest import Harvester
from telemetry.host.fields import Parser
from telemetry.host.heavy import buddyinfo, numa_maps, slabinfo, smaps, zoneinfo
from telemetry.host.netlink import attribute, request
from telemetry.host.scan import lines
from telemetry.host.sockets import TcpDiag, TcpTable, connection_layout, connections, diag_rows, neighbour_layout
from telemetry.host.sources import HostSource
from telemetry.types import Events

FIXTURES = Path(__file__).parents[1] / "fixtures/proc"

BUDDY = """Node 0, zone      DMA      1      0      0      1      2      1      1      0      1      1      3
Node 1, zone   Normal   4381   1093    185   1530    567    102      0      1      2      3    402
"""
ZONES = """Node 0, zone      DMA
  per-node stats
      nr_inactive_anon 178
  pages free     3840
        boost    0
        min      21
        low      26
        high     31
        spanned  4095
        protection: (0, 2794, 64176, 64176, 64176)
      nr_free_pages 3840
  pagesets
    cpu: 0
              count: 0
              high:  13
Node 0, zone   Normal
  pages free     15713
        min      16130
"""
SLABS = """slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit>
skbuff_head_cache   1024   1280    256   32    2 : tunables    0    0    0 : slabdata     40     40      0
kmalloc-8k             4      8   8192    4    8 : tunables    0    0    0 : slabdata      2      2      0
"""
SMAPS = """55d0c0a00000-7ffd4e7f1000 ---p 00000000 00:00 0                          [rollup]
Rss:               12345 kB
Pss_Anon:            100 kB
AnonHugePages:      2048 kB
Locked:                0 kB
"""
NUMA = b"""55d0 default file=/usr/bin/strat mapped=10 N0=8 N1=2 kernelpagesize_kB=4
7f00 bind:1 anon=512 dirty=512 N1=512 kernelpagesize_kB=2048
7fff default stack anon=3 dirty=3 N0=3 kernelpagesize_kB=4
"""
TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000002 00:00000000 00000000     0        0 11 1 0 100 0 0 10 0
   1: 0100007F:1F90 0100007F:C001 01 00000000:00000100 02:0000 00000000     0        0 12 1 0 20 4 30 10 -1
   2: 0A00000A:C350 0B00000A:1389 01 00001000:00000000 01:0014 00000003     0        0 13 2 0 20 4 30 10 -1
   3: 0A00000A:C351 0B00000A:1389 06 00000000:00000000 03:0014 00000000     0        0 0 3 0
"""


def parsed(parser: Parser, text: str) -> dict[tuple[str, ...], int]:
    """Values by metric and labels, as the compiled reader would pick them."""
    rows = lines(text.encode())
    numbers = {t.number: t.text for row in rows for t in row if t.number >= 0}
    return {(f.metric, *(v for _, v in f.labels)): int(float(numbers[f.number])) * f.scale for f in parser(rows)}


def test_free_blocks() -> None:
    got = parsed(buddyinfo, BUDDY)
    assert got["buddy_free_blocks", "0", "10", "DMA"] == 3
    assert got["buddy_free_blocks", "1", "0", "Normal"] == 4381
    assert len(got) == 22


def test_zones() -> None:
    assert parsed(zoneinfo, ZONES) == {
        ("zone_pages", "free", "0", "DMA"): 3840, ("zone_pages", "min", "0", "DMA"): 21,
        ("zone_pages", "low", "0", "DMA"): 26, ("zone_pages", "high", "0", "DMA"): 31,
        ("zone_pages", "free", "0", "Normal"): 15713, ("zone_pages", "min", "0", "Normal"): 16130,
    }  # fmt: skip


def test_slabs_and_maps() -> None:
    got = parsed(slabinfo, SLABS)
    assert got["slab_active_objects", "skbuff_head_cache"] == 1024
    assert got["slab_objects", "kmalloc-8k"] == 8
    got = parsed(smaps("strat", 5), SMAPS)
    assert got["process_Rss_bytes", "5", "strat"] == 12345 * 1024
    assert got["process_AnonHugePages_bytes", "5", "strat"] == 2 << 20
    assert numa_maps(NUMA) == {"0": 11, "1": 514}


@pytest.mark.parametrize("parser", [buddyinfo, zoneinfo, slabinfo])
def test_another_file_is_named(parser: Parser) -> None:
    with pytest.raises(InputError, match="expected"):
        parser(lines(b"something else\n"))


def read(source: HostSource) -> dict[str, int]:
    keys = source.discover()
    out = np.zeros(len(keys), np.int64)
    assert source.read(out)
    return {str(k): int(v) for k, v in zip(keys, out, strict=True)}


def test_tcp_table(tmp_path: Path) -> None:
    (tmp_path / "tcp").write_text(TCP)
    table = TcpTable(tmp_path / "tcp", "h", "blue")
    got = read(table)
    ns = 'netns="blue"'
    assert got[f'tcp_sockets{{host="h",{ns},state="ESTABLISHED",table="tcp"}}'] == 2
    assert got[f'tcp_sockets{{host="h",{ns},state="TIME_WAIT",table="tcp"}}'] == 1
    assert got[f'tcp_port_sockets{{host="h",{ns},port="8080",side="local",table="tcp"}}'] == 2
    assert got[f'tcp_port_rx_queue_bytes{{host="h",{ns},port="8080",side="local",table="tcp"}}'] == 258
    assert got[f'tcp_port_tx_queue_bytes{{host="h",{ns},port="5001",side="remote",table="tcp"}}'] == 4096
    assert got[f'tcp_port_retransmits{{host="h",{ns},port="5001",side="remote",table="tcp"}}'] == 3
    assert got[f'tcp_table_cut{{host="h",{ns},table="tcp"}}'] == 0
    (tmp_path / "tcp").write_text(TCP.replace("1389", "1390"))  # another port: other series
    assert not table.read(np.zeros(len(got), np.int64))
    (tmp_path / "tcp").write_text("header\n  0: what\n")
    with pytest.raises(InputError, match="table of sockets"):
        table.discover()
    (tmp_path / "tcp").write_text(TCP + TCP.split("\n")[3].join("\n\n") * 4000)
    assert read(table)[f'tcp_table_cut{{host="h",{ns},table="tcp"}}'] == 1
    table.close()


def diag(port: int, *, state: int, rx: int, tx: int, info: bytes = b"") -> bytes:
    head = struct.pack("=BBBB", socket.AF_INET, state, 1, 2)
    ends = struct.pack("!HH", port, 5001) + bytes([10, 0, 0, 1]) + bytes(12) + bytes([10, 0, 0, 2]) + bytes(12)
    tail = struct.pack("=III", 0, 7, 7) + struct.pack("=IIIII", 0, rx, tx, 0, 99)
    return request(20, 2, head + ends + tail + (attribute(2, info) if info else b""))


def test_connections() -> None:
    info = bytearray(232)
    struct.pack_into("=I", info, 68, 1234)
    struct.pack_into("=I", info, 100, 5)
    data = diag(40000, state=1, rx=0, tx=100, info=bytes(info)) + diag(8080, state=10, rx=1, tx=128)
    assert diag_rows(data) == [(40000, 5001, 1, 100, 0, 2), (8080, 5001, 10, 0, 1, 2)]
    layout = connection_layout(data, "h")
    got = {str(k): int.from_bytes(data[at : at + width], "little") for k, at, width in layout.fields}
    ends = '{host="h",local="10.0.0.1:40000",remote="10.0.0.2:5001"}'
    assert got[f"tcp_socket_tx_queue_bytes{ends}"] == 100
    assert got[f"tcp_socket_rtt_us{ends}"] == 1234
    assert got[f"tcp_socket_retransmits_total{ends}"] == 5
    many = b"".join(diag(p, state=1, rx=0, tx=p % 7) for p in range(1000, 2000))
    kept = connection_layout(many, "h").fields
    assert len(kept) == 2 * 256
    assert {int(k.label("local").split(":")[1]) % 7 for k, _, _ in kept} == {5, 6}  # the fullest
    for cut in range(len(data)):
        connection_layout(data[:cut], "h")
        diag_rows(data[:cut])


def test_neighbours() -> None:
    def neighbour(state: int, address: bytes) -> bytes:
        return request(28, 2, struct.pack("=BxHiHBB", 2, 0, 4242, state, 0, 1) + attribute(1, address))

    data = neighbour(32, bytes([10, 0, 0, 9])) + neighbour(0x80, bytes([10, 0, 0, 8]))  # the second is permanent
    layout = neighbour_layout(data, "h")
    assert [(str(k), data[at]) for k, at, _ in layout.fields] == [
        ('neighbour_state{host="h",address="10.0.0.9",device="4242"}', 32)
    ]
    for cut in range(len(data)):
        neighbour_layout(data[:cut], "h")


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux")
def test_live_a_connection_nobody_reads() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        port = server.getsockname()[1]
        accepted, _ = server.accept()
        with accepted:
            client.sendall(b"x" * 1000)
            time.sleep(0.05)
            by_port, one = TcpDiag("h"), connections("h")
            try:
                diagnosed, single = read(by_port), read(one)
            except (OSError, InputError) as error:
                pytest.skip(f"no sock_diag here: {error}")
            key = f'{{host="h",port="{port}",side="local",table="tcp"}}'
            table = read(TcpTable("/proc/net/tcp", "h"))
            for source in (diagnosed, table):
                assert source[f"tcp_port_sockets{key}"] >= 2
                assert source[f"tcp_port_rx_queue_bytes{key}"] == 1000
            ends = f'{{host="h",local="127.0.0.1:{port}",remote="127.0.0.1:{client.getsockname()[1]}"}}'
            assert single[f"tcp_socket_rx_queue_bytes{ends}"] == 1000
            by_port.close()
            one.close()


def names(batches: list[Events]) -> set[str]:
    return {b.keys[s].metric for b in batches for s in b.series.tolist()}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    shutil.copytree(FIXTURES / "linux-5.14", root, symlinks=True)
    for name, text in (("buddyinfo", BUDDY), ("zoneinfo", ZONES), ("slabinfo", SLABS), ("net/tcp", TCP)):
        (root / "proc" / name).write_text(text)
    (root / "proc/4000/smaps_rollup").write_text(SMAPS)
    (root / "proc/4000/numa_maps").write_bytes(NUMA)
    return root


HEAVY = {"buddy_free_blocks", "zone_pages", "slab_objects", "tcp_sockets", "tcp_port_rx_queue_bytes"}
MAPS = {"process_Rss_bytes", "process_numa_pages"}


def test_heavy_files_only_while_the_trigger_is_fresh(tree: Path, tmp_path: Path) -> None:
    trigger = tmp_path / "incident"
    h = Harvester(tree, host="h", hz=1, processes=["strat"], trigger=trigger, trigger_s=60)
    assert not (HEAVY | MAPS | {"incident_tier"}) & names(h.sample())
    assert "buddyinfo" not in str(h.missing)
    trigger.touch()
    first = h.sample()
    assert names(first) >= HEAVY | {"incident_tier"}
    assert any("tcp6" in name for name in h.missing)
    seen: set[str] = set()
    for _ in range(50):
        seen |= names(h.sample())
        if seen >= MAPS:
            break
        time.sleep(0.05)
    assert seen >= MAPS
    os.utime(trigger, (time.time() - 61, time.time() - 61))  # nobody has touched it for a minute
    last = h.sample()
    assert not HEAVY & names(last)
    closed = [int(b.value[0]) for b in last if b.keys[0].metric == "incident_tier"]
    assert closed == [0]
    assert "incident_tier" not in names(h.sample())
    h.close()


def test_heavy_files_when_the_owner_says_so(tree: Path) -> None:
    h = Harvester(tree, host="h", hz=1, processes=["strat"])
    h.incident(True)
    assert names(h.sample()) >= HEAVY
    shutil.rmtree(tree / "proc/4000")  # a watched process ends meanwhile
    for _ in range(12):
        assert names(h.sample()) >= HEAVY
    h.incident(False)
    assert not HEAVY & names(h.sample())
    h.close()


def test_a_numa_map_of_other_nodes(tmp_path: Path) -> None:
    from telemetry.host.heavy import NumaMaps

    path = tmp_path / "numa_maps"
    path.write_bytes(NUMA)
    source = NumaMaps(path, "h", "strat", 5)
    got = read(source)
    assert got['process_numa_pages{host="h",node="1",pid="5",process="strat"}'] == 514
    path.write_bytes(NUMA + b"7e00 default N2=1\n")
    assert not source.read(np.zeros(2, np.int64))
