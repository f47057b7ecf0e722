"""The service's own pages: ``/healthz``, ``/readyz``, ``/metrics``. Loopback unless told otherwise."""

from __future__ import annotations

import hmac
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.config import Http
from telemetry.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.intake import CaptureIntake
    from pipelines.watch import Watcher

__all__ = ["serve"]

STALE_S = 60.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Collector:
    """The service's counters under Prometheus naming conventions."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily

        w, c = self._watcher, self._watcher.counters
        counters = (
            ("tailwatch_samples_scored", "Samples taken in and scored.", c.events),
            ("tailwatch_alerts", "Alerts and evidence committed.", c.alerts),
            ("tailwatch_incidents", "Incidents opened.", c.incidents),
            ("tailwatch_deliveries", "Messages acknowledged by sinks.", w.delivered),
            ("tailwatch_errors", "Things that went wrong and were survived.", c.errors),
            ("tailwatch_samples_dropped", "Samples that could not be stored.", c.dropped),
            ("tailwatch_series_refused_samples", "Samples of series beyond the limit.", w.scorer.engine.guard.refused),
        )
        for name, text, value in counters:
            yield CounterMetricFamily(name, text, value=value)
        took = list(c.step_ns)
        yield SummaryMetricFamily(
            "tailwatch_score_duration_seconds", "Time of a tick: sample, store, score, commit.",
            count_value=c.steps, sum_value=c.step_total_ns / 1e9,
        )  # fmt: skip
        gauges = (
            ("tailwatch_score_duration_p99_seconds", "p99 of the last ticks.", _p99(took) / 1e9),
            ("tailwatch_watermark_timestamp_seconds", "Event time up to which all is decided.", c.watermark_ns / 1e9),
            ("tailwatch_last_success_timestamp_seconds", "Last committed step.", c.last_success_ns / 1e9),
            ("tailwatch_sampler_late_seconds", "How late the last sample was.", c.late_ns / 1e9),
            ("tailwatch_open_incidents", "Incidents that are open.", len(w.scorer.grouper.open_incidents)),
            ("tailwatch_uncommitted", "Alerts and incident steps that wait for the database.", w.scorer.engine.waiting),
            ("tailwatch_series", "Series being scored.", len(w.scorer.engine.guard)),
            ("tailwatch_series_limit", "Most series that are let in.", w.scorer.engine.guard.most),
        )
        for name, text, level in gauges:
            yield GaugeMetricFamily(name, text, value=level)
        if w.captures is not None:
            yield from _captures(w.captures)
        share = GaugeMetricFamily(
            "tailwatch_surprise_exceeding_ratio", "Share of scores of at least `level`; 10^-level when calibrated.",
            labels=["detector", "level"],
        )  # fmt: skip
        for detector, seen in sorted(w.scorer.engine.calibration.items()):
            for level in (1, 2, 3):
                share.add_metric([detector, str(level)], float(seen[level]) / max(float(seen[0]), 1.0))
        yield share
        info = GaugeMetricFamily("tailwatch_build_info", "Version.", labels=["version"])
        info.add_metric([version("tailwatch")], 1)
        yield info


def _captures(intake: CaptureIntake) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    behind = time.time() - intake.newest_ns / 1e9 if intake.newest_ns else 0.0
    yield GaugeMetricFamily(
        "tailwatch_capture_lag_seconds", "Age of the newest event that captures told.", value=behind
    )
    for name, text, field in (
        ("tailwatch_capture_packets", "Packets read.", "packets"),
        ("tailwatch_capture_drops", "Packets that the capture itself says were dropped.", "dropped"),
        ("tailwatch_capture_damages", "Places where a capture is damaged.", "damage_count"),
    ):
        family = CounterMetricFamily(name, text, labels=["tap"])
        for tap, stats in sorted(intake.stats.items()):
            family.add_metric([tap], getattr(stats, field))
        yield family


def _p99(values: list[int]) -> float:
    return sorted(values)[int(0.99 * (len(values) - 1))] if values else 0.0


def serve(watcher: Watcher, settings: Http) -> ThreadingHTTPServer:
    """Start serving in a thread; the caller shuts the server down.

    Raises
    ------
    ConfigError
        The address is not free or not an address; or it is not loopback and has neither token nor TLS.
    """
    from prometheus_client import PROCESS_COLLECTOR, CollectorRegistry, generate_latest

    host, _, port = settings.listen.rpartition(":")
    host = host.strip("[]")
    if host not in LOOPBACK and not (settings.token_file and settings.tls_cert):
        need = "set http.token_file and http.tls_cert/tls_key"
        raise ConfigError(f"http.listen: {settings.listen} is not loopback; {need}")
    registry = CollectorRegistry()
    registry.register(Collector(watcher))
    registry.register(PROCESS_COLLECTOR)  # own CPU and memory
    token = _token(settings.token_file).encode()
    context = _tls(settings)

    class Handler(BaseHTTPRequestHandler):
        server_version = "tailwatch"
        sys_version = ""
        timeout = 10

        def do_GET(self) -> None:
            given = self.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
            if token and not hmac.compare_digest(given, b"Bearer " + token):
                self._answer(401, b"token\n")
            elif self.path == "/healthz":
                self._answer(200, b"ok\n")
            elif self.path == "/readyz":
                age = time.time() - watcher.counters.last_success_ns / 1e9
                ready = age < STALE_S
                self._answer(200 if ready else 503, b"ready\n" if ready else b"no step for %.0f s\n" % min(age, 1e6))
            elif self.path == "/metrics":
                self._answer(200, generate_latest(registry), "text/plain; version=0.0.4; charset=utf-8")
            else:
                self._answer(404, b"/healthz /readyz /metrics\n")

        def _answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Requests are not logged (they may carry tokens)."""

    try:
        server = (_Server6 if ":" in host else _Server)((host, int(port)), Handler)
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigError(f"http.listen: cannot listen on {settings.listen}: {error}") from None
    if context is not None:  # the handshake is made by the thread of the connection, so that nobody waits for another's
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return server


class _Server(ThreadingHTTPServer):
    """One thread a connection; what goes wrong with one is nobody else's matter, and not worth a traceback."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        return


class _Server6(_Server):
    address_family = socket.AF_INET6


def _token(path: str) -> str:
    if not path:
        return ""
    try:
        token = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"http.token_file: {path}: cannot be read: {error}") from None
    if not token:
        raise ConfigError(f"http.token_file: {path} is empty")
    return token


def _tls(settings: Http) -> ssl.SSLContext | None:
    if not settings.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key or None)
    except OSError as error:
        raise ConfigError(f"http.tls_cert: {settings.tls_cert}: cannot be used: {error}") from None
    return context
