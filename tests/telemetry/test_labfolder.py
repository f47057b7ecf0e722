"""Lab runs as sources: every part under the names of a live harvest."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from telemetry.errors import InputError
from telemetry.labfolder import LabFolder, is_lab_folder, lab_kind
from telemetry.labproc import lab_series
from telemetry.types import Events
from tests.naive.wire_frames import START, mold, pcap, udp

MS = 1_000_000


def make_run(folder: Path, fault: str = "delay_step", **label: object) -> Path:
    """A second of a lab run: two columns, one feed on two taps, three messages, one order."""
    folder.mkdir(parents=True)
    t = START / 1e9
    text = {"fault": fault, "fault_sched_start": t + 0.25, "fault_sched_end": t + 0.75, **label}
    (folder / "label.json").write_text(json.dumps(text))
    rows = ["t,irq.31_eth0-rx.cpu1,meminfo.Dirty_kB,stat.cpu.user,sampler.late_us"]
    rows += [f"1767623400.{i}00001,{10 * i},{4 + i},9,{'' if i == 3 else '1.5'}" for i in range(10)]
    (folder / "proc_10hz.csv.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    for tap, late in (("exch", 0), ("trd", 70_000)):
        frames = [
            (START + n * 20 * MS + late, udp("10.0.0.1", 1, "239.7.7.1", 30001, mold(b"S", n + 1, [b"tick"]), ident=n))
            for n in range(50)
            if not (tap == "trd" and n == 20)
        ]
        (folder / f"{tap}.pcap.gz").write_bytes(gzip.compress(pcap(frames)))
    md = [[0, n, START + n, START + n * MS, START + n * MS + 5000, 0] for n in (1, 2, 5)]
    orders = [[1, 2, START + 3 * MS, START + 4 * MS]]
    np.savez_compressed(folder / "app_raw.npz", md=np.array(md), orders=np.array(orders), unacked=np.empty(0))
    return folder


def _series(events: Events) -> dict[str, list[float]]:
    return {str(k): events.value[events.series == i].tolist() for i, k in enumerate(events.keys)}


def test_a_run_gives_all_parts_in_seen_order(tmp_path: Path) -> None:
    folder = LabFolder(make_run(tmp_path / "delay_step-s1"))
    assert folder.run == "delay_step-s1"
    assert folder.missing == ()
    source = folder.source()
    batches = list(source.read(0, 2**62))
    whole = Events.concat(batches)
    assert (np.diff(whole.seen_ns) >= 0).all()
    assert np.array_equal(whole.seen_ns, whole.time_ns)
    got = _series(whole)
    assert got['irq_total{host="lab",cpu="1",irq="31",name="eth0-rx"}'] == [10.0 * i for i in range(10)]
    assert got['meminfo_Dirty_bytes{host="lab"}'] == [1024.0 * (4 + i) for i in range(10)]
    assert got['sampler_late_ns{host="lab"}'] == [1500.0] * 9  # a missing sample is missing
    assert not any(k.startswith("cpu_ticks_total") for k in got)
    flow = 'flow="udp 10.0.0.1:1>239.7.7.1:30001",from="exch"'
    assert got[f'wire_latency_ns{{host="lab",{flow},to="trd"}}'] == [70_000.0] * 49
    assert sum(got[f'wire_lost_packets{{host="lab",{flow},to="trd"}}']) == 1
    assert sum(got['feed_gap_packets{host="lab",feed="239.7.7.1:30001",tap="trd"}']) == 1
    assert got['app_latency_ns{host="lab",process="strat",stage="kernel_to_user"}'] == [5000.0] * 3
    assert got['app_lost_messages{host="lab",channel="0"}'] == [0.0, 0.0, 2.0]
    assert got['app_latency_ns{host="lab",process="strat",stage="tick_to_order"}'] == [1.0 * MS]
    assert got['app_latency_ns{host="lab",process="strat",stage="tick_to_ack"}'] == [2.0 * MS]
    half = START + 500 * MS
    parts = [Events.concat(source.read(0, half)), Events.concat(source.read(half, 2**62))]
    assert sum(map(len, parts)) == len(whole)
    assert parts[0].seen_ns.max() < half <= parts[1].seen_ns.min()


def test_times_are_exact_to_the_digit_of_the_file(tmp_path: Path) -> None:
    events = Events.concat(LabFolder(make_run(tmp_path / "r")).host_events())
    assert set((events.time_ns % 1000).tolist()) == {0}
    assert int(events.time_ns[0]) == START + 1000


@pytest.mark.parametrize(
    ("fault", "more", "kind", "kinds"),
    [
        ("gc_pause", {}, "process_pause", ("process_pause",)),
        ("loss", {}, "network_gap", ("network_gap", "tcp_loss")),
        ("baseline", {}, "none", ("none",)),
        ("link_flap", {}, "link_flap", ("link_flap",)),
        ("anything", {"kind": "steal", "kinds": ["steal", "cpu_contention"], "scope": "host=lab"}, "steal",
         ("steal", "cpu_contention")),
    ],
)  # fmt: skip
def test_labels(tmp_path: Path, fault: str, more: dict[str, object], kind: str, kinds: tuple[str, ...]) -> None:
    folder = LabFolder(make_run(tmp_path / "r", fault, **more))
    label = folder.label
    assert (label.kind, folder.kinds, label.note) == (kind, kinds, fault)
    assert (label.start_ns, label.end_ns) == (START + 250 * MS, START + 750 * MS)
    assert label.scope == more.get("scope", "")


def test_parts_that_are_not_there_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r")
    (run / "trd.pcap.gz").unlink()
    (run / "app_raw.npz").unlink()
    folder = LabFolder(run)
    assert folder.missing == ("trd.pcap.gz", "app_raw.npz")
    assert len(Events.concat(folder.source().read(0, 2**62))) > 0
    (run / "label.json").unlink()
    with pytest.raises(InputError, match=r"label\.json: expected a label"):
        _ = folder.label


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("proc_10hz.csv.gz", b"no gzip", "expected a gzip file"),
        ("proc_10hz.csv.gz", gzip.compress(b"a,b\n1,2\n", mtime=0), "line 1: expected a header"),
        ("proc_10hz.csv.gz", gzip.compress(b"t,x\n1.0,2\n1.1,zwei\n", mtime=0), "line 3: expected numbers"),
        ("app_raw.npz", b"PK", "expected an npz"),
        ("label.json", b"{", "expected JSON"),
        ("label.json", b'{"fault": "x"}', "expected JSON"),
    ],
)
def test_what_is_malformed_is_said_in_one_line(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    run = make_run(tmp_path / "r")
    (run / name).write_bytes(content)
    folder = LabFolder(run)
    read = (lambda: folder.label) if name == "label.json" else (lambda: list(folder.source().read(0, 2**62)))
    with pytest.raises(InputError, match=words) as error:
        read()
    assert "\n" not in str(error.value)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    assert not is_lab_folder(tmp_path)
    with pytest.raises(InputError, match="expected a lab run"):
        LabFolder(tmp_path)


def test_columns_have_the_harvesters_names() -> None:
    names = {
        "softirq.NET_RX.cpu0": 'softirq_total{host="lab",cpu="0",type="NET_RX"}',
        "irq.LOC.cpu1": 'irq_total{host="lab",cpu="1",irq="LOC"}',
        "softnet.cpu1.time_squeeze": 'softnet_squeezed_total{host="lab",cpu="1"}',
        "psi.io.full.total_us": 'pressure_stall_us_total{host="lab",kind="full",resource="io"}',
        "proc.strat.wait_ns": 'thread_wait_ns_total{host="lab",process="strat"}',
        "trd.snmp.Udp:RcvbufErrors": 'netstat_Udp_RcvbufErrors_total{host="lab",netns="trd"}',
        "trd.dev.eth0.rx_drop": 'nic_rx_dropped_total{host="lab",device="eth0",netns="trd"}',
        "trd.udp.30001.rx_queue": 'udp_socket_rx_queue_bytes{host="lab",netns="trd",port="30001"}',
        "disk.vda.wr_ios": 'disk_writes_total{host="lab",device="vda"}',
        "vmstat.nr_dirty": 'vmstat_nr_dirty{host="lab"}',
        "vmstat.compact_stall": 'vmstat_compact_stall_total{host="lab"}',
        "sw.qdisc.st.backlog": 'qdisc_backlog_bytes{host="lab",device="st",netns="sw"}',
        "brand.new": 'brand_new{host="lab"}',
    }
    for column, name in names.items():
        found = lab_series(column)
        assert found is not None
        assert str(found[0]) == name
    assert lab_series("stat.cpu.user") is None
    assert lab_kind("softirq_flood") == "softirq_squeeze"


@pytest.mark.corpus
@pytest.mark.skipif(not os.environ.get("TAILWATCH_DATA"), reason="TAILWATCH_DATA is not set")
@pytest.mark.parametrize("run", ["loss", "delay_step", "baseline"])
def test_real_runs_show_their_fault_on_the_wire(run: str) -> None:
    folder = LabFolder(Path(os.environ["TAILWATCH_DATA"]) / "lab" / run)
    label = folder.label
    whole = Events.concat(folder.source().read(0, 2**62))
    inside = (whole.time_ns >= label.start_ns) & (whole.time_ns < label.end_ns)

    def values(metric: str, at: np.ndarray, **labels: str) -> np.ndarray:
        wanted = [
            i
            for i, k in enumerate(whole.keys)
            if k.metric == metric and all(k.label(n) == v for n, v in labels.items())
        ]
        return whole.value[np.isin(whole.series, wanted) & at]

    late = [float(np.median(values("wire_latency_ns", at, to="trd"))) for at in (inside, ~inside)]
    lost = [int(values("wire_lost_packets", at).sum()) for at in (inside, ~inside)]
    assert (late[0] > 10 * late[1]) == (run == "delay_step")
    assert (lost[0] > 100) == (run == "loss")
    assert lost[1] == 0
    gaps = int(values("feed_gap_packets", np.ones(len(whole), np.bool_), tap="trd").sum())
    # Feed packets that the pairing missed are those that the sequence numbers miss.
    udp_flows = [k.label("flow") for k in whole.keys if k.metric == "wire_lost_packets" and "udp" in k.label("flow")]
    feeds = sum(int(values("wire_lost_packets", inside, flow=f).sum()) for f in udp_flows)
    assert gaps == feeds
