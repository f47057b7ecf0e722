from __future__ import annotations

import gzip
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from telemetry.errors import ConfigError, InputError
from telemetry.remote import decode, encode
from telemetry.remote_receiver import Receiver
from telemetry.remote_sender import Sender
from telemetry.store import Store
from telemetry.types import Events, SeriesKey

ALL = (-(2**63), 2**63 - 1)
T0 = 1_700_000_000_000_000_000


def tick(host: str, i: int, series: int = 5) -> list[Events]:
    keys = tuple(SeriesKey.of(host, "irq_total", cpu=c, name='e"\n') for c in range(series))
    at = np.full(series, T0 + i * 10**8)
    load = (SeriesKey.of(host, "app_load"),)
    return [
        Events(keys, np.arange(series), at, at + 7, np.arange(series) + 2**60 + i),
        Events(load, np.zeros(1, np.int64), at[:1], at[:1] + 9, np.array([i / 3])),
    ]


def rows(batches: list[Events]) -> list[tuple[str, int, int, float]]:
    return [
        (str(b.keys[s]), t, seen, v)
        for b in batches
        for s, t, seen, v in zip(*(c.tolist() for c in (b.series, b.time_ns, b.seen_ns, b.value)), strict=True)
    ]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 10**6), st.integers(-(2**63), 2**63 - 1)), max_size=30))
def test_nanoseconds_and_integers_arrive_unchanged(some: list[tuple[int, int, int]]) -> None:
    keys = tuple(SeriesKey.of(h, m, x="ü\n") for h in ("a", "b") for m in ("x_total", "y_ns"))
    table = np.array(some, np.int64).reshape(-1, 3)
    series, seen, value = table[:, 0], table[:, 1], table[:, 2]
    seen = np.sort(seen) + T0
    events = Events(keys, series, seen - 5, seen, value)
    got, bad = decode(encode([events]), "?", 0)
    assert bad == 0
    assert sorted(rows(got)) == sorted(rows([events]))
    assert [r[2] for r in rows(got)] == sorted(r[2] for r in rows(got))


@given(st.binary(max_size=60))
def test_garbage_is_one_clear_error(body: bytes) -> None:
    try:
        decode(body, "h", 0)
    except InputError as error:
        assert "expected a metrics request" in str(error)


def test_what_others_send() -> None:
    """An OpenTelemetry collector's own metrics: gauges and cumulative sums; differences are refused, and counted."""
    request = ExportMetricsServiceRequest()
    resource = request.resource_metrics.add()
    resource.resource.attributes.add(key="host.name").value.string_value = "tx9"
    metrics = resource.scope_metrics.add().metrics
    counter = metrics.add(name="system.network.dropped").sum
    counter.is_monotonic, counter.aggregation_temporality = True, 2
    point = counter.data_points.add(time_unix_nano=T0, as_int=5)
    point.attributes.add(key="net.device").value.string_value = "eth0"
    counter.data_points.add(as_double=float("nan"))
    delta = metrics.add(name="app.orders").sum
    delta.aggregation_temporality = 1
    delta.data_points.add(time_unix_nano=T0, as_int=5)
    metrics.add(name="lat").histogram.data_points.add(count=3)
    metrics.add(name="empty")
    metrics.add(name="cpu.load").gauge.data_points.add(time_unix_nano=T0, as_double=0.5)
    got, bad = decode(request.SerializeToString(), "?", T0 + 1)
    assert rows(got) == [
        ('system_network_dropped_total{host="tx9",net_device="eth0"}', T0, T0 + 1, 5),
        ('cpu_load{host="tx9"}', T0, T0 + 1, 0.5),
    ]
    assert bad == 4


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with Store(tmp_path / "there") as store:
        end = Receiver(store, ("127.0.0.1", 0))
        yield end
        end.close()


def url(end: Receiver) -> str:
    return f"http://127.0.0.1:{end.port}"


def foreign(host: str, value: int) -> bytes:
    """What an application sends by itself: its points do not say when they were seen."""
    request = ExportMetricsServiceRequest()
    resource = request.resource_metrics.add()
    resource.resource.attributes.add(key="host.name").value.string_value = host
    resource.scope_metrics.add().metrics.add(name="orders").gauge.data_points.add(time_unix_nano=T0, as_int=value)
    body: bytes = request.SerializeToString()
    return body


def test_an_application_and_the_sender_of_its_host_do_not_hide_each_others_rows(receiver: Receiver) -> None:
    """The one's rows are stamped by the receiver, the other's by its host, whose clock is another."""
    year = 365 * 86_400 * 10**9
    bodies = []
    for shift in (0, 10 * year):
        ticks = [b for i in range(3) for b in tick("tx1", i)]
        bodies.append(encode([replace(b, seen_ns=b.seen_ns + shift) for b in ticks]))
    for body in (foreign("tx1", 1), bodies[0], foreign("tx1", 2), bodies[0], bodies[1], foreign("tx1", 3)):
        assert httpx.post(url(receiver) + "/v1/metrics", content=body).status_code == 200
    stored = list(receiver._store.read(*ALL))
    assert [int(v) for b in stored for s, v in zip(b.series, b.value, strict=True) if b.keys[s].metric == "orders"] == [
        1, 2, 3
    ]  # fmt: skip
    assert sum(map(len, stored)) == 3 + 2 * 18
    assert receiver.known == 18


def test_a_clock_that_is_set_back_hides_nothing(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(5):
        monkeypatch.setattr("telemetry.remote_receiver.time.time_ns", lambda n=n: T0 - n * 10**9)
        assert httpx.post(url(receiver) + "/v1/metrics", content=foreign("tx1", n)).status_code == 200
    stored = [v for b in receiver._store.read(*ALL) for v in b.value.tolist()]
    assert stored == [0, 1, 2, 3, 4]


def test_all_rows_once_through_restarts_of_both(tmp_path: Path) -> None:
    """Acknowledgements that are lost, a receiver that comes back on another day, a sender that starts anew."""
    here, there = Store(tmp_path / "here"), tmp_path / "there"
    for i in range(100):
        for b in tick("tx1", i):
            here.append(b)
    here.flush()
    with Store(there) as store:
        end = Receiver(store, ("127.0.0.1", 0))
        sender = Sender(tmp_path / "here", url(end), "tx1", rows=100)
        first = sender.send()
        assert first == 599  # the newest instant waits
        mark = sender.position
        sender._mark.write_text(str(mark - 10**9))  # as if the answers to the last requests had been lost
        again = sender.send()
        assert again > 0
        assert end.known == again
        end.close()
    for i in range(100, 110):
        for b in tick("tx1", i):
            here.append(b)
    here.flush()
    with pytest.raises(InputError):
        sender.send()
    assert sender.failures == 1
    with Store(there) as store:
        end = Receiver(store, ("127.0.0.1", 0))
        other = Sender(tmp_path / "here", url(end), "tx1")
        other._mark.parent.mkdir(exist_ok=True)
        other.send()  # it knows nothing of what was sent to the other port: the receiver does
        other.send(last=True)
        end.close()
    mine = rows(list(here.read(*ALL)))
    assert rows(list(Store(there).read(*ALL))) == mine
    assert len(mine) == 660


def test_only_its_own_host(tmp_path: Path, receiver: Receiver) -> None:
    with Store(tmp_path / "here") as here:
        for host in ('t"x\\1', "tx2"):
            for b in tick(host, 0):
                here.append(b)
    assert Sender(tmp_path / "here", url(receiver), 't"x\\1').send(last=True) == 6
    assert Store(tmp_path / "there").hosts() == ['t"x\\1']


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"content": b"\xff\xff\xff"}, 400),
        ({"content": b"no gzip", "headers": {"Content-Encoding": "gzip"}}, 400),
        ({"content": gzip.compress(bytes(80 << 20)), "headers": {"Content-Encoding": "gzip"}}, 400),
        ({"content": b"", "path": "/"}, 404),
        ({"content": b""}, 200),
    ],
)
def test_hostile_senders(receiver: Receiver, options: dict[str, object], status: int) -> None:
    path = options.pop("path", "/v1/metrics")
    with httpx.Client() as client:
        answer = client.post(url(receiver) + str(path), **options)  # type: ignore[arg-type]
    assert answer.status_code == status
    assert receiver.rows == 0


def test_token(tmp_path: Path) -> None:
    with Store(tmp_path / "here") as here:
        for b in tick("tx1", 0):
            here.append(b)
    with Store(tmp_path / "there") as store:
        end = Receiver(store, ("127.0.0.1", 0), token="secret")
        with pytest.raises(InputError, match="got 401"):
            Sender(tmp_path / "here", url(end), "tx1").send(last=True)
        assert Sender(tmp_path / "here", url(end), "tx1", token="secret").send(last=True) == 6
        end.close()


def test_a_silent_client_does_not_hold_the_others(receiver: Receiver) -> None:
    with socket.create_connection(("127.0.0.1", receiver.port)) as idle:
        idle.send(b"POST /v1/metrics HTTP/1.1\r\nContent-Length: 100\r\n\r\nhalf")
        assert httpx.post(url(receiver) + "/v1/metrics", content=b"").status_code == 200


@pytest.mark.parametrize(("length", "status"), [(b"99999999999", b" 413 "), (b"-1", b" 413 "), (b"many", b" 411 ")])
def test_lengths_that_are_none(receiver: Receiver, length: bytes, status: bytes) -> None:
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=5) as client:
        client.send(b"POST /v1/metrics HTTP/1.1\r\nContent-Length: " + length + b"\r\n\r\n")
        assert status in client.recv(100)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Of its own making, for 127.0.0.1; the key is in the same file."""
    path = tmp_path / "end.pem"
    subject = ["-subj", "/CN=collector", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    made = subprocess.run(
        [*command, *subject, "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"], capture_output=True
    )
    if made.returncode:
        pytest.skip(f"openssl cannot make a certificate: {made.stderr[-100:]!r}")
    path.write_bytes((tmp_path / "cert.pem").read_bytes() + (tmp_path / "key.pem").read_bytes())
    return path


def test_tls_is_verified_and_kept_open(tmp_path: Path, certificate: Path) -> None:
    with Store(tmp_path / "here") as here:
        for i in range(50):
            for b in tick("tx1", i):
                here.append(b)
    with Store(tmp_path / "there") as store:
        end = Receiver(store, ("127.0.0.1", 0), token="secret", tls_cert=certificate)
        there = f"https://127.0.0.1:{end.port}"
        with pytest.raises(InputError, match="CERTIFICATE_VERIFY_FAILED"):
            Sender(tmp_path / "here", there, "tx1", token="secret").send()
        with pytest.raises(InputError, match="https://localhost"):  # another name than the certificate's
            Sender(tmp_path / "here", f"https://localhost:{end.port}", "tx1", ca=certificate).send()
        sender = Sender(tmp_path / "here", there, "tx1", token="secret", ca=certificate, rows=50)
        with socket.create_connection(("127.0.0.1", end.port)):  # one that never shakes hands
            assert sender.send(last=True) == 300
        assert end.rows == 300
        with pytest.raises(InputError):  # in the clear
            Sender(tmp_path / "here", url(end), "tx1").send(last=True)
        sender.close()
        end.close()


def test_after_it_is_closed_nothing_is_taken(tmp_path: Path) -> None:
    """Not even over a connection that was kept."""
    here = Store(tmp_path / "here")
    for b in tick("tx1", 0):
        here.append(b)
    here.flush()
    with Store(tmp_path / "there") as store:
        end = Receiver(store, ("127.0.0.1", 0))
        sender = Sender(tmp_path / "here", url(end), "tx1")
        sender.send(last=True)
        end.close()
        for b in tick("tx1", 1):
            here.append(b)
        here.flush()
        with pytest.raises(InputError):
            sender.send(last=True)
        assert end.rows == 6
        end = Receiver(store, ("127.0.0.1", end.port))  # it comes back
        assert sender.send(last=True) == 6
        end.close()


def test_only_loopback_without_token_and_certificate(tmp_path: Path, certificate: Path) -> None:
    with Store(tmp_path / "there") as store:
        for options in ({}, {"token": "t"}, {"tls_cert": certificate}):
            with pytest.raises(ConfigError, match="not loopback"):
                Receiver(store, ("0.0.0.0", 0), **options)
        Receiver(store, ("0.0.0.0", 0), token="t", tls_cert=certificate).close()
        Receiver(store, ("::1", 0)).close()
        with pytest.raises(ConfigError, match="certificate with its key"):
            Receiver(store, ("127.0.0.1", 0), tls_cert=tmp_path / "none.pem")
        with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="in use"):
            Receiver(store, ("127.0.0.1", taken.getsockname()[1]))


@pytest.mark.parametrize(
    ("to", "options", "said"),
    [
        ("collector:4318", {}, "expected http"),
        ("http://collector:4318", {"token": "t"}, "in the clear"),
        ("https://collector:4318", {"ca": "no-such.pem"}, "expected certificates"),
    ],
)
def test_senders_that_are_not_to_be(tmp_path: Path, to: str, options: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Sender(tmp_path, to, "h", token=options.get("token", ""), ca=options.get("ca", ""))
