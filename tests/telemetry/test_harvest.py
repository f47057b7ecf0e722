from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from telemetry.errors import ConfigError
from telemetry.harvest import Harvester, Joiner
from telemetry.host.fields import single
from telemetry.host.scan import Token
from telemetry.host.sources import TextFile
from telemetry.host.tier import Tier
from telemetry.types import Events, SeriesKey

FIXTURES = Path(__file__).parents[1] / "fixtures/proc"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    shutil.copytree(FIXTURES / "linux-5.14", tmp_path / "root", symlinks=True)
    return tmp_path / "root"


def values(batches: list[Events]) -> dict[str, float]:
    """The samples of one tick by name; no series twice."""
    out: dict[str, float] = {}
    for b in batches:
        for s, v in zip(b.series.tolist(), b.value.tolist(), strict=True):
            name = str(b.keys[s])
            assert name not in out
            out[name] = v
    return out


def harvester(root: Path, **options: object) -> Harvester:
    return Harvester(root, host="h", **options)  # type: ignore[arg-type]


EXPECTED = {
    "linux-3.10": {
        'irq_total{host="h",cpu="3",irq="88",name="eth0-rx-0"}': 3,
        'irq_total{host="h",cpu="0",irq="LOC"}': 4294967290,
        'softirq_total{host="h",cpu="3",type="NET_RX"}': 400,
        'cpu_ticks_total{host="h",cpu="3",mode="idle"}': 1000,
        'sched_wait_ns_total{host="h",cpu="3"}': 888,
        'softnet_processed_total{host="h",cpu="3"}': 18,
        'softnet_squeezed_total{host="h",cpu="1"}': 2,
        'netstat_Udp_RcvbufErrors_total{host="h"}': 9,
        'netstat_Tcp_CurrEstab{host="h"}': 3,
        'netstat_TcpExt_TCPTimeouts_total{host="h"}': 2,
        'nic_rx_dropped_total{host="h",device="eth0"}': 1,
        'vmstat_nr_free_pages{host="h"}': 1000,
        'vmstat_nr_dirtied_total{host="h"}': 50,
        'vmstat_pgfault_total{host="h"}': 123456,
        'meminfo_Active_anon_bytes{host="h"}': 102400,
        'meminfo_HugePages_Total{host="h"}': 5,
        'disk_writes_total{host="h",device="sda"}': 30,
        'context_switches_total{host="h"}': 12345,
        'interrupts_total{host="h"}': 500,
    },
    "linux-4.18": {
        'irq_total{host="h",cpu="1",irq="78",name="sfc0-1"}': 800003,
        'irq_total{host="h",cpu="0",irq="CAL"}': 101,
        'nic_queue_irq{host="h",device="sfc0",queue="1",side="rx"}': 78,
        'irq_affinity_mask{host="h",irq="78"}': 2,
        'softnet_flow_limit_total{host="h",cpu="1"}': 9,
        'softnet_rps_total{host="h",cpu="0"}': 4,
        'sched_wait_ns_total{host="h",cpu="1"}': 6000000002,
        'cpu_ticks_total{host="h",cpu="1",mode="steal"}': 4,
        'disk_discard_ms_total{host="h",device="nvme0n1"}': 15,
        'disk_inflight{host="h",device="nvme0n1"}': 1,
        'vmstat_numa_hint_faults_total{host="h"}': 17,
        'netstat_Udp_IgnoredMulti_total{host="h"}': 9,
        'udp_socket_drops_total{host="h",port="8080"}': 11,
        'nic_rx_missed_total{host="h",device="sfc0"}': 6,
    },
    "linux-5.14": {
        'irq_total{host="h",cpu="1",irq="131",name="ens1f0-TxRx-1"}': 54321,
        'softnet_dropped_total{host="h",cpu="0"}': 2,
        'softnet_backlog{host="h",cpu="0"}': 3,
        'pressure_stall_us_total{host="h",kind="full",resource="io"}': 3000000,
        'conntrack_drop_total{host="h",cpu="1"}': 16,
        'conntrack_entries{host="h"}': 18,
        'conntrack_limit{host="h"}': 65536,
        'udp_socket_drops_total{host="h",port="5000"}': 7,
        'udp_socket_rx_queue_bytes{host="h",port="5000"}': 4096,
        'udp_socket_drops_total{host="h",netns="4026532001",port="6000"}': 1,
        'netstat_Udp_InErrors_total{host="h",netns="4026532001"}': 2,
        'nic_rx_missed_total{host="h",device="ens1f0"}': 17,
        'nic_carrier_changes_total{host="h",device="ens1f0"}': 4,
        'netstat_Udp6_RcvbufErrors_total{host="h"}': 1,
        'sockstat_TCP_mem{host="h"}': 3,
        'disk_flush_ms_total{host="h",device="nvme0n1"}': 11,
        'disk_inflight{host="h",device="nvme0n1"}': 2,
        'node_numa_miss_total{host="h",node="0"}': 5,
        'cpu_frequency_hz{host="h",cpu="0"}': 3_500_000_000,
        'cpuidle_time_us_total{host="h",cpu="0",state="C1E"}': 777,
        'thermal_core_throttle_total{host="h",cpu="0"}': 2,
        'thermal_millicelsius{host="h",type="x86_pkg_temp",zone="0"}': 54000,
        'nic_rx_crc_errors_total{host="h",device="ens1f0"}': 1,
        'neigh_res_failed_total{host="h",cache="arp",cpu="1"}': 255,
        'edac_ce_errors_total{host="h",mc="0"}': 3,
        'irq_affinity_mask{host="h",irq="131"}': 3,
        'sysctl{host="h",index="2",name="net.ipv4.tcp_rmem"}': 6291456,
        'config_info{host="h",name="cmdline",value="BOOT_IMAGE=/vmlinuz isolcpus=1 quiet"}': 1,
        'config_nic_mtu{host="h",device="ens1f0"}': 1500,
    },
    "linux-6.8-arm64": {
        'irq_total{host="h",cpu="2",irq="10",name="arch_timer"}': 300,
        'irq_total{host="h",cpu="0",irq="45",name="mlx5_comp0@pci:0001:01:00.0"}': 1,
        'softnet_processed_total{host="h",cpu="2"}': 3,
        'pressure_stall_us_total{host="h",kind="full",resource="irq"}': 99,
        'sched_run_ns_total{host="h",cpu="2"}': 7,
    },
}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_kernels(name: str) -> None:
    """The values of each kernel's files, by their names."""
    h = harvester(FIXTURES / name)
    got = values(h.sample())
    for series, value in EXPECTED[name].items():
        assert got.get(series) == value, series
    assert not [k for k in h.missing if "interrupts" in k or "softnet" in k]
    assert all("no such file" in why for why in h.missing.values())
    h.close()


def test_counters_are_integers_and_stamps_are_in_order(tree: Path) -> None:
    h = harvester(tree, processes=["strat"])
    before = time.time_ns()
    last = 0
    for _ in range(3):
        for b in h.sample():
            assert b.value.dtype == np.int64
            assert before <= b.time_ns.min()
            assert (b.time_ns <= b.seen_ns).all()
            assert b.seen_ns[0] == b.seen_ns[-1] >= last
            last = int(b.seen_ns[0])


def test_threads_by_name_script_and_cgroup(tree: Path) -> None:
    h = harvester(tree, processes=["strat", r"feed\.py"])
    got = values(h.sample())
    strat = 'process="strat",thread="md rx) S",tid="4001"'
    assert got[f'thread_wait_ns_total{{host="h",{strat}}}'] == 900000
    assert got[f'thread_state{{host="h",{strat}}}'] == 1
    assert got['thread_state{host="h",process="python3",thread="python3",tid="5000"}'] == 2
    assert got['thread_last_cpu{host="h",process="strat",thread="strat",tid="4000"}'] == 1
    by_cgroup = values(harvester(tree, processes=["cgroup:/trading"]).sample())
    assert by_cgroup['pressure_stall_us_total{host="h",cgroup="/trading",kind="full",resource="cpu"}'] == 42
    assert by_cgroup['cgroup_cpu_nr_throttled_total{host="h",cgroup="/trading"}'] == 3
    assert {n for n in by_cgroup if n.startswith("thread_run")} == {
        n for n in got if n.startswith("thread_run") and "strat" in n
    }
    with pytest.raises(ConfigError, match="not a regular expression"):
        harvester(tree, processes=["("])


def test_cpu_goes_and_comes(tree: Path) -> None:
    """A CPU taken offline: its series end, the others go on without a gap or a shifted column."""
    h = harvester(tree)
    h.sample()
    whole = (tree / "proc/interrupts").read_text()
    rows = [line.split() for line in whole.split("\n") if line]
    fewer = " CPU1\n" + "".join(f"{r[0]} {' '.join(r[2:])}\n" if len(r) > 2 else f"{' '.join(r)}\n" for r in rows[1:])
    for _ in range(2):
        (tree / "proc/interrupts").write_text(fewer)
        got = values(h.sample())
        irqs = {n: v for n, v in got.items() if n.startswith("irq_total")}
        assert irqs['irq_total{host="h",cpu="1",irq="LOC"}'] == 2000000
        assert not [n for n in irqs if 'cpu="0"' in n]
        assert got['softirq_total{host="h",cpu="0",type="NET_RX"}'] == 90000
        (tree / "proc/interrupts").write_text(whole)
        got = values(h.sample())
        assert got['irq_total{host="h",cpu="0",irq="LOC"}'] == 1000000


def test_irq_vanishes(tree: Path) -> None:
    h = harvester(tree)
    before = values(h.sample())
    path = tree / "proc/interrupts"
    path.write_text("\n".join(line for line in path.read_text().split("\n") if " 130:" not in line))
    after = values(h.sample())
    gone = {n for n in before if n.startswith("irq_total")} - after.keys()
    assert gone == {n for n in before if 'irq="130"' in n and n.startswith("irq_total")}
    assert after['irq_total{host="h",cpu="1",irq="131",name="ens1f0-TxRx-1"}'] == 54321


def test_wrap_of_32_bits_is_kept_as_it_is(tree: Path) -> None:
    """The raw integer is stored; unwrapping is the rate's business."""
    h = harvester(tree)
    h.sample()
    path = tree / "proc/interrupts"
    path.write_text(path.read_text().replace("   1000000", "4294967295").replace("CPU0", "CPU0", 1))
    assert values(h.sample())['irq_total{host="h",cpu="0",irq="LOC"}'] == 4294967295
    path.write_text(path.read_text().replace("4294967295", "         3"))
    assert values(h.sample())['irq_total{host="h",cpu="0",irq="LOC"}'] == 3


def test_thread_and_process_come_and_go(tree: Path) -> None:
    h = harvester(tree, processes=["strat"], hz=10)
    h.sample()
    shutil.rmtree(tree / "proc/4000/task/4001")
    shutil.copytree(tree / "proc/4000/task/4000", tree / "proc/4000/task/4002")
    (tree / "proc/4000/task/4002/comm").write_text("late\n")
    for _ in range(11):
        got = values(h.sample())
    assert not [n for n in got if 'tid="4001"' in n]
    assert got['thread_run_ns_total{host="h",process="strat",thread="late",tid="4002"}'] == 1000000
    shutil.rmtree(tree / "proc/4000")
    for _ in range(60):
        got = values(h.sample())
    assert not [n for n in got if n.startswith("thread_")]
    assert got['irq_total{host="h",cpu="0",irq="LOC"}'] == 1000000


def test_a_namespace_outlives_the_process_it_was_read_through(tree: Path) -> None:
    shutil.copytree(tree / "proc/5000", tree / "proc/5001", symlinks=True)
    h = harvester(tree)
    series = 'netstat_Udp_InErrors_total{host="h",netns="4026532001"}'
    assert values(h.sample())[series] == 2
    shutil.rmtree(tree / "proc/5000")
    for _ in range(60):
        got = values(h.sample())
    assert got[series] == 2
    shutil.rmtree(tree / "proc/5001")
    for _ in range(60):
        got = values(h.sample())
    assert series not in got
    assert not [name for name in h.missing if "/500" in name]


def test_a_nic_and_a_clock_are_plugged_in_and_out(tree: Path) -> None:
    h = harvester(tree, hz=1)
    series = 'nic_rx_missed_total{host="h",device="ens2"}'
    assert series not in values(h.sample())
    shutil.copytree(tree / "sys/class/net/ens1f0", tree / "sys/class/net/ens2", symlinks=True)
    (tree / "sys/class/ptp/ptp0").mkdir(parents=True)
    for _ in range(11):
        got = values(h.sample())
    assert got[series] == 17
    assert got['nic_carrier_changes_total{host="h",device="ens2"}'] == 4
    assert "/dev/ptp0" in h.missing  # it cannot be opened here, and that is said
    shutil.rmtree(tree / "sys/class/net/ens2")
    shutil.rmtree(tree / "sys/class/ptp")
    for _ in range(11):
        got = values(h.sample())
    assert series not in got
    assert "/dev/ptp0" not in h.missing
    assert got['nic_rx_missed_total{host="h",device="ens1f0"}'] == 17


def test_malformed_files_are_named_and_nothing_else_is_lost(tree: Path) -> None:
    (tree / "proc/softirqs").write_text("what is this\n")
    (tree / "proc/net/snmp").write_text("Ip: A B C\nIp: 1 2\n")
    (tree / "proc/vmstat").write_bytes(b"\xff\x00\xfe")
    (tree / "proc/net/udp").write_text("header\n   0: 00000000:1388\n")
    (tree / "proc/meminfo").unlink()
    os.mkdir(tree / "proc/meminfo")
    h = harvester(tree)
    got = values(h.sample())
    assert got['irq_total{host="h",cpu="0",irq="LOC"}'] == 1000000
    reasons = {Path(k).name: why for k, why in h.missing.items()}
    assert "CPU names" in reasons["softirqs"]
    assert "as many numbers as names" in reasons["snmp"]
    assert "name and a number" in reasons["vmstat"]
    assert "table of sockets" in reasons["udp"]
    assert "directory" in reasons["meminfo"]
    # and what is mended is read again within a second
    shutil.copy(FIXTURES / "linux-5.14/proc/softirqs", tree / "proc/softirqs")
    for _ in range(11):
        got = values(h.sample())
    assert got['softirq_total{host="h",cpu="0",type="NET_RX"}'] == 90000


def test_torn_read_in_the_middle_of_a_run(tree: Path) -> None:
    h = harvester(tree)
    h.sample()
    path = tree / "proc/net/softnet_stat"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2 + 30])
    got = values(h.sample())
    assert 'softnet_processed_total{host="h",cpu="1"}' not in got
    path.write_text(whole)
    for _ in range(11):
        got = values(h.sample())
    assert got['softnet_processed_total{host="h",cpu="1"}'] == 0xB000


def test_boot_id_and_settings_that_change(tree: Path) -> None:
    h = harvester(tree, boot_id="00000000-0000-0000-0000-000000000000", hz=1)
    first = values(h.sample())
    assert first['boot_id_changed{host="h"}'] == 1
    assert h.boot_id.startswith("2222")
    assert not [n for n in values(h.sample()) if n.startswith(("boot_id", "irq_affinity", "sysctl", "config"))]
    (tree / "proc/irq/131/smp_affinity_list").write_text("1\n")
    (tree / "proc/sys/net/core/rmem_max").write_text("26214400\n")
    (tree / "proc/cmdline").write_text("quiet\n")
    changed: dict[str, float] = {}
    for _ in range(6):  # settings that people make are looked at every five seconds
        changed |= {n: v for n, v in values(h.sample()).items() if n not in changed}
    assert changed['irq_affinity_mask{host="h",irq="131"}'] == 2
    assert changed['sysctl{host="h",name="net.core.rmem_max"}'] == 26214400
    assert changed['config_info{host="h",name="cmdline",value="quiet"}'] == 1
    assert changed['config_info{host="h",name="cmdline",value="BOOT_IMAGE=/vmlinuz isolcpus=1 quiet"}'] == 0
    assert 'boot_id_changed{host="h"}' not in changed


def test_tiers(tree: Path) -> None:
    h = harvester(tree, hz=10, fast_hz=100, processes=["strat"])
    assert h.tick_ns == 10_000_000
    counts = {"softnet_processed_total": 0, "irq_total": 0, "conntrack_limit": 0, "thread_wait_ns_total": 0}
    for _ in range(100):
        seen = {n.split("{")[0] for n in values(h.sample())}
        for name in counts:
            counts[name] += name in seen
    assert counts == {
        "softnet_processed_total": 100, "irq_total": 10, "conntrack_limit": 1, "thread_wait_ns_total": 100,
    }  # fmt: skip


def test_what_is_not_there_is_tried_ever_more_seldom(tmp_path: Path) -> None:
    path = tmp_path / "late"
    source = TextFile(path, "h", single("x_total"))
    tier = Tier([source])
    tried = []
    for second in range(200):
        before = tier.missing.copy()
        tier.missing.clear()
        tier.retry()
        if tier.missing:
            tried.append(second)
        else:
            tier.missing.update(before)
    assert tried == [0, 1, 3, 7, 15, 31, 63, 127, 191]  # never more than 64 apart
    path.write_text("5\n")
    for _ in range(64):
        tier.retry()
    assert tier.sample().value.tolist() == [5]
    tier.close()


def test_small_batches_are_joined_in_order() -> None:
    """What is stored holds the same rows in the same order, in fewer batches."""

    def batch(keys: tuple[SeriesKey, ...], series: np.ndarray, at: int) -> Events:
        n = len(series)
        return Events(keys, series, np.full(n, at), np.full(n, at + 1), np.arange(n) + at)

    fast, slow = (tuple(SeriesKey.of("h", m, i=i) for i in range(n)) for m, n in (("a", 20), ("b", 300)))
    fast_series, slow_series = np.arange(20), np.arange(300)
    given = [
        batch(slow, slow_series, i) if i % 10 == 9 else batch(fast, fast_series, i) for i in range(35)
    ]  # fmt: skip
    got: list[Events] = []
    joiner = Joiner(got.append)
    for b in given:
        joiner.append(b)
    joiner.flush()
    assert len(got) == 4 + 3

    def rows(batches: list[Events]) -> list[tuple[SeriesKey, int, int, int]]:
        columns = ((b.keys, b.series, b.time_ns, b.seen_ns, b.value) for b in batches)
        return [(k[s], t, n, v) for k, *c in columns for s, t, n, v in zip(*(x.tolist() for x in c), strict=True)]

    assert rows(got) == rows(given)
    assert got[2].series is got[4].series  # the store knows it again


def test_lateness_and_cost_are_series(tree: Path) -> None:
    h = harvester(tree)
    h.late(12345)
    assert values(h.sample())['sampler_late_ns{host="h"}'] == 12345
    got = values(h.sample())
    assert got['sampler_late_ns{host="h"}'] == 0
    assert got['sampler_cost_ns{host="h"}'] > 0


def test_an_empty_root_is_no_disaster(tmp_path: Path) -> None:
    h = harvester(tmp_path)
    assert set(values(h.sample())) == {'sampler_late_ns{host="h"}', 'sampler_cost_ns{host="h"}'}
    assert len(h.missing) > 10


@pytest.mark.skipif(not Path("/proc/interrupts").exists(), reason="needs Linux")
def test_live_a_busy_thread_is_seen() -> None:
    """This kernel: a thread that works has run time; interrupts move; nothing falls."""
    stop = threading.Event()

    def burn() -> None:
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=burn)
    thread.start()
    h = Harvester("/", host="me", processes=["cgroup:"], namespaces=False)
    try:
        first = values(h.sample())
        time.sleep(0.5)
        second = values(h.sample())
    finally:
        stop.set()
        thread.join()
        h.close()
    falls = [n for n in first if n.split("{")[0].endswith("_total") and n in second and second[n] < first[n]]
    assert falls == []
    assert second['context_switches_total{host="me"}'] > first['context_switches_total{host="me"}']
    run = f'tid="{thread.native_id}"'
    mine = [n for n in second if n.startswith("thread_run_ns_total") and run in n]
    assert len(mine) == 1
    assert second[mine[0]] - first.get(mine[0], 0) > 10_000_000
    assert SeriesKey.parse(mine[0]).label("process")


@pytest.mark.root
@pytest.mark.skipif(not os.access("/proc/slabinfo", os.R_OK), reason="needs root on Linux")
def test_live_a_file_of_several_pages() -> None:
    """seq_file hands out a page a read: all of them are read, in the one call as well as alone."""
    from telemetry.host.scan import Field

    def slabs(rows: Sequence[list[Token]]) -> list[Field]:
        return [Field("slab_objects", (("i", str(i)),), r[1].number) for i, r in enumerate(rows[2:]) if len(r) > 1]

    file = TextFile("/proc/slabinfo", "h", slabs)
    tier = Tier([file])
    tier.retry()
    assert file.size > 4096
    assert file.reads > 1
    for _ in range(5):
        batch = tier.sample()
        assert len(batch) == len(tier.keys) > 50
    assert tier.rediscovered == 0
    tier.close()


@pytest.mark.skipif(not Path("/proc/net/udp").exists(), reason="needs Linux")
def test_live_a_slow_reader_and_its_drops() -> None:
    """A socket that nobody reads: its queue grows, then it drops; another socket comes and goes beside it."""
    h = Harvester("/", host="me", namespaces=False)
    udp = (socket.AF_INET, socket.SOCK_DGRAM)
    with socket.socket(*udp) as slow, socket.socket(*udp) as out:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.bind(("127.0.0.1", 0))
        port = slow.getsockname()[1]
        drops, queue = (f'udp_socket_{n}{{host="me",port="{port}"}}' for n in ("drops_total", "rx_queue_bytes"))
        first = values(h.sample())
        assert (first[drops], first[queue]) == (0, 0)
        out.sendto(b"x" * 100, ("127.0.0.1", port))
        second = values(h.sample())
        assert second[drops] == 0
        assert second[queue] > 0
        with socket.socket(*udp) as other:
            other.bind(("127.0.0.1", 0))
            for _ in range(200):
                out.sendto(b"x" * 100, ("127.0.0.1", port))
            third = values(h.sample())
            beside = f'udp_socket_drops_total{{host="me",port="{other.getsockname()[1]}"}}'
            assert third[beside] == 0
        assert 0 < third[drops] <= 200
        fourth = values(h.sample())
        assert fourth[drops] == third[drops]
        assert beside not in fourth
    h.close()
