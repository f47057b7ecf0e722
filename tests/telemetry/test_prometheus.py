from __future__ import annotations

import contextlib
import http.server
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.errors import ConfigError, InputError
from telemetry.exposition import Exposition, events_of, parse
from telemetry.prometheus import PrometheusSource, Scraper, fetch
from telemetry.store import Store
from telemetry.types import Events

NOW = 1_700_000_000_000_000_000

NODE = """\
# HELP node_interrupts_total Interrupt details.
# TYPE node_interrupts_total counter
node_interrupts_total{cpu="0",devices="eth0-rx-0",info="IR-PCI-MSI 1-edge",type="130"} 12345
node_interrupts_total{cpu="1",devices="",info="Local timer interrupts",type="LOC"} 2e+06
node_softirqs_functions_total{cpu="0",type="NET_RX"} 90000
node_softnet_times_squeezed_total{cpu="0"} 5
node_pressure_io_stalled_seconds_total 3.000001
node_netstat_Udp_RcvbufErrors 9
node_netstat_Tcp_CurrEstab 3
node_network_receive_drop_total{device="eth0"} 7
node_network_transmit_colls_total{device="eth0"} 1
node_cpu_seconds_total{cpu="0",mode="idle"} 45.07
node_schedstat_waiting_seconds_total{cpu="0"} 0.000987654
node_vmstat_pgfault 123456
node_memory_MemFree_bytes 3.2e+10
node_disk_read_bytes_total{device="sda"} 10240
node_timex_maxerror_seconds 0.016
node_edac_correctable_errors_total{controller="0"} 4
node_buddyinfo_blocks{node="0",size="3",zone="Normal"} 12
node_timex_offset_seconds -1.5e-06
node_nf_conntrack_entries 18
node_scrape_collector_duration_seconds{collector="arp"} 0.25
go_gc_duration_seconds_sum 1.5
"""
OURS = {
    'irq_total{host="h",cpu="0",irq="130",name="eth0-rx-0"}': 12345,
    'irq_total{host="h",cpu="1",irq="LOC"}': 2_000_000,
    'softirq_total{host="h",cpu="0",type="NET_RX"}': 90000,
    'softnet_squeezed_total{host="h",cpu="0"}': 5,
    'pressure_stall_us_total{host="h",kind="full",resource="io"}': 3_000_001,
    'netstat_Udp_RcvbufErrors_total{host="h"}': 9,
    'netstat_Tcp_CurrEstab{host="h"}': 3.0,
    'nic_rx_dropped_total{host="h",device="eth0"}': 7,
    'nic_tx_collisions_total{host="h",device="eth0"}': 1,
    'cpu_ticks_total{host="h",cpu="0",mode="idle"}': 4507,
    'sched_wait_ns_total{host="h",cpu="0"}': 987_654,
    'vmstat_pgfault_total{host="h"}': 123456,
    'meminfo_MemFree_bytes{host="h"}': 3.2e10,
    'disk_read_sectors_total{host="h",device="sda"}': 20,
    'clock_offset_ns{host="h",source="kernel"}': -1500.0,
    'clock_max_error_ns{host="h",source="kernel"}': 16_000_000.0,
    'edac_ce_errors_total{host="h",mc="0"}': 4,
    'buddy_free_blocks{host="h",node="0",order="3",zone="Normal"}': 12.0,
    'conntrack_entries{host="h"}': 18,
    'node_scrape_collector_duration_seconds{host="h",collector="arp"}': 0.25,
    'go_gc_duration_seconds_sum{host="h"}': 1.5,
}


def values(batches: list[Events]) -> dict[str, float]:
    return {str(b.keys[s]): v for b in batches for s, v in zip(b.series.tolist(), b.value.tolist(), strict=True)}


def test_node_exporter_under_our_names() -> None:
    batches = events_of(NODE, "h", NOW)
    got = values(batches)
    assert got == OURS
    assert {b.value.dtype.kind for b in batches} == {"i", "f"}
    assert all(isinstance(got[n], int) for n in got if n.split("{")[0].endswith("_total"))


HOSTILE = """\
ok_total{a="1"} 1
bad{a="1} 2
{a="1"} 3
bad value
bad{a="1",a="2"} 4
ok_total{a="quote \\" brace } comma , back \\\\ line \\n"} 5
\x00\x01\x02
bad{a="1"} 1e
ok_total{a="../../etc/passwd"} 6
nan_total NaN
late_total 7 1395066363000
way_too_late_total 7 99999999999999999999
1bad 3
ok_gauge +Inf
"""


def test_hostile_lines_are_counted_and_nothing_else_is_lost() -> None:
    found = Exposition()
    got = values(events_of(HOSTILE, "h", NOW, found))
    assert sorted(v for n, v in got.items() if n.startswith("ok_total")) == [1, 5, 6]
    assert 'ok_total{host="h",a="quote \\" brace } comma , back \\\\ line \\n"}' in got
    assert got['late_total{host="h"}'] == 7
    assert found.bad == 8
    assert found.first_bad == 'bad{a="1} 2'
    assert found.samples == 5


def test_open_metrics() -> None:
    text = (
        '# TYPE orders counter\norders_total{side="buy"} 5 1520879607.789 # {trace="x"} 0.5\n'
        '# TYPE lat histogram\nlat_bucket{le="0.1"} 3\nlat_count 4\nlat_sum 0.5\n# EOF\n'
    )
    samples = {s.name: s for s in parse(text)}
    assert samples["orders_total"].time_ns == 1_520_879_607_789_000_000
    assert samples["orders_total"].counter
    got = values(events_of(text, "h", NOW))
    assert got['lat_bucket_total{host="h",le="0.1"}'] == 3
    assert got['lat_count_total{host="h"}'] == 4


@given(st.text(max_size=200))
def test_garbage_never_breaks_it(text: str) -> None:
    found = Exposition()
    n = sum(len(b) for b in events_of(text, "h", NOW, found))
    assert n == found.samples
    assert found.bad + found.samples <= len(text.split("\n"))


# -- bad peers, played by a small server


@contextlib.contextmanager
def server(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(OSError):
                answer(self)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            return

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}"
    finally:
        httpd.shutdown()
        httpd.server_close()


def says(body: bytes, status: int = 200) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        handler.rfile.read(length)
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def trickle(handler: http.server.BaseHTTPRequestHandler) -> None:
    """One byte now and then: each read in time, the whole never."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    for _ in range(200):
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.05)


def half(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"status"')


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (says(b"<html>login</html>"), "expected an answer of Prometheus"),
        (says(b'{"status":"error","errorType":"bad_data","error":"parse error"}', 400), "got 400: parse error"),
        (says(b"oops", 503), "got 503"),
        (says(b'{"status":"success","data":{"resultType":"vector","result":[]}}'), "expected a matrix"),
        (says(b'{"status":"success","data":{"resultType":"matrix","result":7}}'), "expected a matrix"),
        (says(b"", 302), "got 302"),
        (trickle, "within 0.5 s"),
        (half, r"peer closed|incomplete"),
    ],
)
def test_bad_servers_are_one_clear_error(
    answer: Callable[[http.server.BaseHTTPRequestHandler], None], complaint: str
) -> None:
    patience = 0.5 if answer is trickle else 20.0
    with server(answer) as url, pytest.raises(InputError, match=complaint):
        list(PrometheusSource(url, "up", timeout_s=patience, tries=1).read(NOW, NOW + 10**9))


def test_nobody_there() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(InputError, match=r"refused|failed|attempts"):
        fetch(url, timeout_s=1)
    scraper = Scraper(url + "/metrics", "h", every_s=0.05, timeout_s=0.5)
    time.sleep(0.3)
    assert scraper.poll() == []
    assert scraper.failures > 0
    assert url in scraper.trouble
    scraper.close()


def test_too_large() -> None:
    with server(says(b"x" * 100_000)) as url, pytest.raises(InputError, match="at most 1000 bytes"):
        fetch(url, max_bytes=1000)


def test_half_bad_matrix_keeps_the_good_half() -> None:
    t = NOW / 1e9
    result = [
        {"metric": {"__name__": "up", "instance": "tx1:9100"}, "values": [[t, "1"], [t + 1, "NaN"], [t + 2, "0"]]},
        {"metric": {"__name__": "up", "instance": "tx2:9100"}, "values": [["soon", "1"]]},
        {"metric": None, "values": []},
        {"metric": {"__name__": "x_total", "instance": "[::1]:9100", "evil": '../"}'}, "values": [[t + 1, "7"]]},
    ]
    body = json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}}).encode()
    with server(says(body)) as url:
        source = PrometheusSource(url, "up")
        got = list(source.read(NOW, NOW + 10**10))
    assert source.bad == 2
    rows = [
        (b.keys[s].host, b.keys[s].metric, t, v)
        for b in got
        for s, t, v in zip(b.series, b.time_ns, b.value, strict=True)
    ]
    assert rows == [
        ("tx1", "up", NOW, 1.0), ("[::1]", "x_total", NOW + 10**9, 7), ("tx1", "up", NOW + 2 * 10**9, 0.0),
    ]  # fmt: skip


def test_a_scraper_that_recovers() -> None:
    state = {"good": False}

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        says(b"a_total 5\n")(handler) if state["good"] else says(b"no", 500)(handler)

    with server(answer) as url:
        scraper = Scraper(url, "h", every_s=0.05)
        time.sleep(0.2)
        assert scraper.poll() == []
        state["good"] = True
        got: list[Events] = []
        for _ in range(100):
            got += scraper.poll()
            if got:
                break
            time.sleep(0.05)
        scraper.close()
    assert values(got) == {'a_total{host="h"}': 5}


def test_expressions_need_a_name() -> None:
    with pytest.raises(ConfigError, match="needs a name"):
        PrometheusSource("http://x", "rate(up[1m])")


def test_grid_is_asked_in_chunks() -> None:
    asked: list[tuple[float, float, float]] = []

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        from urllib.parse import parse_qs

        form = parse_qs(handler.rfile.read(int(handler.headers["Content-Length"])).decode())
        start, end, step = (float(form[n][0]) for n in ("start", "end", "step"))
        asked.append((start, end, step))
        grid = [[start + i * step, "1.5"] for i in range(int((end - start) / step + 1.5))]
        body = {"status": "success", "data": {"resultType": "matrix", "result": [{"metric": {}, "values": grid}]}}
        handler.send_response(200)
        data = json.dumps(body).encode()
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    with server(answer) as url:
        source = PrometheusSource(url, "sum(rate(x[1m]))", name="x_rate", step_s=1, chunk_s=10**9)
        got = list(source.read(NOW, NOW + 30_000 * 10**9))
    times = np.concatenate([b.time_ns for b in got])
    assert (np.diff(times) == 10**9).all()
    assert len(times) == 30_000
    assert len(asked) == 3
    assert all((e - s) / step + 1 <= 11_000 for s, e, step in asked)


# -- the real ones


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield child
    finally:
        child.terminate()
        child.wait(10)


def until(good: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(InputError):
            if good():
                return
        time.sleep(0.1)
    pytest.fail("the service did not come up")


@pytest.mark.service
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
@pytest.mark.skipif(shutil.which("prometheus-node-exporter") is None, reason="node exporter is not installed")
def test_the_real_prometheus_and_node_exporter(tmp_path: Path) -> None:
    """Stored samples come back as scraped, each once, at any chunk; after the exporter is gone nothing is made up."""
    exporter, server_port = free_port(), free_port()
    (tmp_path / "p.yml").write_text(
        "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\n"
        f"scrape_configs: [{{job_name: node, static_configs: [{{targets: ['127.0.0.1:{exporter}']}}]}}]\n"
    )
    node = [f"--web.listen-address=127.0.0.1:{exporter}", "--collector.interrupts", "--collector.disable-defaults"]
    node += ["--collector.stat", "--collector.netstat", "--collector.softnet"]
    url = f"http://127.0.0.1:{server_port}"
    begin = time.time_ns()
    with process(
        "prometheus", f"--config.file={tmp_path}/p.yml", f"--storage.tsdb.path={tmp_path}/d",
        f"--web.listen-address=127.0.0.1:{server_port}",
    ):  # fmt: skip
        with process("prometheus-node-exporter", *node):
            scraper = Scraper(f"http://127.0.0.1:{exporter}/metrics", "me", every_s=0.2)
            until(lambda: scraper.scrapes >= 3)
            live = values(scraper.poll())
            scraper.close()
            assert live['irq_total{host="me",cpu="0",irq="LOC"}'] > 0
            assert any(n.startswith("softnet_processed_total") for n in live)
            source = PrometheusSource(url, '{job="node"}', chunk_s=1)
            until(lambda: sum(map(len, source.read(begin, time.time_ns()))) > 2000)
        gone = time.time_ns()
        time.sleep(2)
        end = time.time_ns()
        rows = [
            (str(b.keys[s]), int(t), v)
            for b in source.read(begin, end)
            for s, t, v in zip(b.series.tolist(), b.time_ns.tolist(), b.value.tolist(), strict=True)
        ]
        stamps = [t for _, t, _ in rows]
        assert stamps == sorted(stamps)
        assert len({(n, t) for n, t, _ in rows}) == len(rows)
        again = PrometheusSource(url, '{job="node"}', chunk_s=0.73)
        n = sum(map(len, again.read(begin, end)))
        assert n == len(rows)
        interrupts = [(t, v) for name, t, v in rows if name == 'interrupts_total{host="127.0.0.1"}']
        assert len(interrupts) >= 4
        assert all(isinstance(v, int) for _, v in interrupts)
        assert max(t for t, _ in interrupts) < gone + 10**9  # a grid would repeat the last value for minutes
        rate = PrometheusSource(url, "rate(node_intr_total[2s])", name="intr_rate", step_s=0.5)
        assert sum(map(len, rate.read(begin, end))) > 0
        with Store(tmp_path / "s") as store:
            for b in source.read(begin, end):
                store.append(b)
        assert sum(map(len, store.read(begin, end))) == len(rows)
