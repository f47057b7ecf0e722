"""Where incident changes go: delivered from the outbox, at least once, each sink for itself.

A row is tried until the receiver acknowledges it, with exponential backoff; after `ATTEMPTS` it is a dead letter
that `tailwatch state dead` shows and `tailwatch state resend` sends again. Receivers see one identity: the
incident's id. Secrets come from files or the environment and never reach a log.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from pipelines.config import Alertmanager, Config, Webhook
from pipelines.outbox import LONGEST_DELAY_NS
from pipelines.state import StateDB
from telemetry.errors import ConfigError
from telemetry.types import Nanos

__all__ = ["Delivery", "Sink", "deliver", "make_sinks", "refresh"]

ATTEMPTS = 12
WINDOW = 1000
FIRST_RETRY_NS = 5_000_000_000
TIMEOUT_S = 10.0


class Sink(Protocol):
    """A receiver. `send` returns when the message is acknowledged and raises with a plain reason if not."""

    name: str

    def send(self, message: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a round of deliveries did."""

    sent: int
    failed: int
    dead: int


class Jsonl:
    """Appends each change as one line."""

    name = "jsonl"

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def send(self, message: Mapping[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "ab+", buffering=0) as f:
            end = f.seek(0, os.SEEK_END)
            torn = end > 0 and (f.seek(end - 1), f.read(1))[1] != b"\n"  # a writer died within a line: it stands alone
            data = memoryview(b"\n" * torn + json.dumps(message).encode() + b"\n")
            try:
                while data:
                    data = data[f.write(data) :]
                os.fsync(f.fileno())
            except OSError:
                f.truncate(end)
                raise


class Parquet:
    """A table of incident changes a day (UTC, of the change): ``FOLDER/day=2026-11-23/changes.parquet``.

    The day's file is replaced as a whole: a reader never sees half of it, and a change that is sent twice is one row.
    """

    name = "parquet"

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def send(self, message: Mapping[str, Any]) -> None:
        import io

        import pyarrow as pa
        import pyarrow.parquet as pq

        from pipelines.savefile import write_atomic

        incident = message["incident"]
        row = {
            "id": message["id"], "action": message["action"], "at_ns": message["at_ns"], "incident": incident["id"],
            **{k: incident[k] for k in ("kind", "severity", "state", "place", "title", "onset_ns", "resolved_ns")},
            **{k: json.dumps(incident.get(k) or []) for k in ("causes", "changes", "alerts")},
        }  # fmt: skip
        integers = ("at_ns", "onset_ns", "resolved_ns")
        schema = pa.schema([(k, pa.int64() if k in integers else pa.string()) for k in row])
        day = datetime.fromtimestamp(message["at_ns"] // 1_000_000_000, UTC).strftime("%Y-%m-%d")
        path = self._folder / f"day={day}" / "changes.parquet"
        rows = []
        if path.exists():
            rows = [r for r in pq.ParquetFile(path).read().to_pylist() if r["id"] != row["id"]]
        out = io.BytesIO()
        pq.write_table(pa.Table.from_pylist([*rows, row], schema), out, compression="zstd")
        write_atomic(path, out.getvalue())


class _Http:
    def __init__(self, token_file: str) -> None:
        import httpx

        self._client = httpx.Client(timeout=TIMEOUT_S)
        self._token_file = token_file

    def post(self, url: str, body: Any) -> None:
        headers = {}
        if self._token_file:
            headers["Authorization"] = f"Bearer {Path(self._token_file).read_text().strip()}"
        response = self._client.post(url, json=body, headers=headers)
        if response.status_code >= 300:
            raise OSError(f"HTTP {response.status_code}: {response.text[:200]!r}")


class WebhookSink(_Http):
    """POSTs each change as JSON."""

    name = "webhook"

    def __init__(self, settings: Webhook) -> None:
        super().__init__(settings.token_file)
        self._url = settings.url

    def send(self, message: Mapping[str, Any]) -> None:
        self.post(self._url, message)


class AlertmanagerSink(_Http):
    """Prometheus Alertmanager, API v2: the label set is the identity, ``endsAt`` resolves."""

    name = "alertmanager"

    def __init__(self, settings: Alertmanager) -> None:
        super().__init__(settings.token_file)
        self._url = settings.url.rstrip("/") + "/api/v2/alerts"
        self.interval_s = settings.interval_s

    def send(self, message: Mapping[str, Any]) -> None:
        self.post(self._url, [self.alert(message["incident"], message.get("sent_ns"))])

    def alert(self, incident: Mapping[str, Any], now_ns: Nanos | None = None) -> dict[str, Any]:
        """The incident as Alertmanager's alert; labels never change in its life."""
        now = datetime.now(UTC).timestamp() if now_ns is None else now_ns / 1e9
        ends = now if incident["state"] == "resolved" else now + 4 * self.interval_s
        causes = incident.get("causes") or []
        changes = incident.get("changes") or []
        first = (incident.get("alerts") or [{}])[0]
        host = (first.get("series") or {}).get("host", "")
        return {
            "labels": {"alertname": "TailwatchIncident", "incident": incident["id"], "host": host},
            "annotations": {
                "summary": incident["title"],
                "kind": incident["kind"],
                "severity": incident["severity"],
                "place": incident["place"],
                "cause": "; ".join(f"{c['kind']} ({c['confidence']:.2f})" for c in causes[:3]),
                "change": changes[0]["command"] if changes else "",
                "undo": changes[0]["undo"] if changes else "",
            },
            "startsAt": _iso(incident["onset_ns"] / 1e9),
            "endsAt": _iso(ends),
        }


class AppriseSink:
    """Chat, mail and pagers through Apprise. A URL may be ``env:NAME``."""

    name = "apprise"

    def __init__(self, urls: Sequence[str]) -> None:
        import apprise

        self._apprise = apprise.Apprise()
        for i, url in enumerate(urls):
            secret = os.environ.get(url.removeprefix("env:"), "") if url.startswith("env:") else url
            if not secret or not self._apprise.add(secret):
                shown = url if url.startswith("env:") else f"number {i + 1}"
                raise ConfigError(f"sinks.apprise: URL {shown} is empty or not one that Apprise knows")

    def send(self, message: Mapping[str, Any]) -> None:
        incident = message["incident"]
        changes = incident.get("changes") or []
        body = "\n".join([f"place: {incident['place']}", *[f"to mend: {c['command']}" for c in changes[:1]]])
        if not self._apprise.notify(title=f"[{message['action']}] {incident['title']}", body=body):
            raise OSError("a notification service refused or did not answer")


def make_sinks(config: Config) -> list[Sink]:
    """The sinks that the configuration names."""
    out: list[Sink] = []
    if config.sinks.jsonl:
        out.append(Jsonl(config.sinks.jsonl))
    if config.sinks.parquet:
        out.append(Parquet(config.sinks.parquet))
    if config.sinks.alertmanager is not None:
        out.append(AlertmanagerSink(config.sinks.alertmanager))
    if config.sinks.webhook is not None:
        out.append(WebhookSink(config.sinks.webhook))
    if config.sinks.apprise:
        out.append(AppriseSink(config.sinks.apprise))
    return out


def deliver(state: StateDB, sinks: Sequence[Sink], now_ns: Nanos, *, per_minute: int = 60) -> Delivery:
    """Send what is due, at most `per_minute` rows a sink and minute; one sink's trouble is not another's."""
    sent = failed = dead = 0
    for sink in sinks:
        room = per_minute - state.outbox.sent_between(sink.name, now_ns - 60_000_000_000, now_ns)
        for row in state.outbox.due(sink.name, now_ns, WINDOW)[: max(room, 0)]:
            try:
                sink.send({**json.loads(row.body), "id": row.key, "sent_ns": now_ns})
            except Exception as error:
                gone = row.attempts + 1 >= ATTEMPTS
                wait = min(FIRST_RETRY_NS << row.attempts, LONGEST_DELAY_NS)
                reason = f"{type(error).__name__}: {error}"[:300]
                state.outbox.failed(row.seq, reason, now_ns + wait, dead=gone)
                failed, dead = failed + 1, dead + gone
                break  # the rest would meet the same; they wait their turn
            state.outbox.delivered([row.seq], now_ns)
            sent += 1
    return Delivery(sent, failed, dead)


def refresh(state: StateDB, sinks: Sequence[Sink], now_ns: Nanos) -> None:
    """Re-send open incidents to Alertmanager, which else would take them for resolved."""
    from pipelines.codec import plain

    for sink in sinks:
        if isinstance(sink, AlertmanagerSink):
            alerts = [sink.alert(plain(i), now_ns) for i in state.incidents(state="open", limit=1000)]
            if alerts:
                try:
                    sink.post(sink._url, alerts)
                except Exception as error:  # the outbox reports a dead receiver; this is only a reminder
                    state.note("sinks", now_ns, "refresh_failed", {"sink": sink.name, "error": str(error)[:300]})


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
