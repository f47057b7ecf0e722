"""Prometheus as a source: what a server has stored, and what an exporter says now.

Stored samples are asked for as they were scraped (a range selector at an instant), not on a grid: a grid repeats
the last value of a series that has fallen silent for up to five minutes. Expressions can only be evaluated on a
grid (``query_range``); they are asked for in chunks that stay below the server's 11,000 points a series.
"""

from __future__ import annotations

import json
import math
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from telemetry.errors import ConfigError, InputError
from telemetry.exposition import Exposition, events_of
from telemetry.names import host_of, translate
from telemetry.types import Events, Nanos, SeriesKey

__all__ = ["PrometheusSource", "Scraper", "fetch", "trusted"]

MAX_POINTS = 11_000
MAX_BYTES = 256 << 20
_PLAIN = re.compile(r"\s*[a-zA-Z_:][a-zA-Z0-9_:]*\s*(\{[^\[\]]*\})?\s*$|\s*\{[^\[\]]*\}\s*$")


def fetch(
    url: str,
    params: dict[str, str] | None = None,
    *,
    timeout_s: float = 10.0,
    max_bytes: int = MAX_BYTES,
    token: str = "",
    ca: str = "",
) -> str:
    """GET (or POST, with parameters) a text within a time and a size.

    Parameters
    ----------
    ca : path
        Certificates to trust of an ``https`` URL; by default the system's.

    Raises
    ------
    ConfigError
        `ca` cannot be read.
    InputError
        No answer, a slow one (the whole of it must arrive in `timeout_s`), an error, too large, not text.
    """
    import httpx

    headers = {"Authorization": f"Bearer {token}"} if token else {}
    parts, size = [], 0
    try:
        with httpx.Client(timeout=timeout_s, headers=headers, follow_redirects=False, verify=trusted(ca)) as client:
            method = "POST" if params is not None else "GET"
            end = time.monotonic() + timeout_s
            with client.stream(method, url, data=params) as response:
                for part in response.iter_bytes():
                    size += len(part)
                    parts.append(part)
                    if size > max_bytes:
                        raise InputError(f"{url}: expected at most {max_bytes} bytes, got more")
                    if time.monotonic() > end:
                        raise InputError(f"{url}: no complete answer within {timeout_s:g} s ({size} bytes so far)")
    except httpx.TimeoutException:
        raise InputError(f"{url}: no answer within {timeout_s:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise InputError(f"{url}: {str(error) or type(error).__name__}") from None
    body = b"".join(parts).decode("utf-8", "replace")
    if response.status_code != 200:
        raise InputError(f"{url}: expected status 200, got {response.status_code}: {_said(body)}")
    return body


@lru_cache(maxsize=8)
def trusted(ca: str = "") -> ssl.SSLContext:
    """Whom to trust: the certificates in a file, else the system's. Made once: reading them takes 25 ms.

    Raises
    ------
    ConfigError
        If they cannot be read.
    """
    try:
        return ssl.create_default_context(cafile=ca or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{ca}: expected certificates (PEM): {error}") from None


class PrometheusSource:
    """What a Prometheus server has stored, as a `telemetry.source.Source`.

    Parameters
    ----------
    url : str
        Of the server.
    query : str
        A selector (``{__name__=~"node_.*"}``) or an expression (``rate(x[1m])``), which needs a `name`.
    name : str
        Metric of an expression's results.
    step_s : float
        Grid of an expression.
    chunk_s : float
        Span of one question.
    host : str
        Of series that name neither ``host`` nor ``instance``.

    Notes
    -----
    ``seen_ns`` is the time of the sample. Reading again gives the same, as long as the server keeps it.
    Raises InputError where the server answers wrongly or not at all, after `tries`.
    """

    def __init__(
        self,
        url: str,
        query: str,
        *,
        name: str = "",
        step_s: float = 15.0,
        chunk_s: float = 300.0,
        host: str = "",
        timeout_s: float = 30.0,
        tries: int = 3,
        token: str = "",
        ca: str = "",
    ) -> None:
        self._url, self._query, self._name = url.rstrip("/"), query, name
        self._plain = _PLAIN.match(query) is not None
        if not self._plain and not name:
            raise ConfigError(f"prometheus: {query!r} is an expression: it needs a name for its results")
        self._step_s = step_s
        self._chunk_ns = round(min(chunk_s, step_s * (MAX_POINTS - 1) if not self._plain else chunk_s) * 1e9)
        self._host, self._timeout_s, self._tries, self._token, self._ca = host, timeout_s, tries, token, ca
        self.bad = 0
        """Samples that were none."""

    def read(self, seen_from_ns: Nanos, seen_to_ns: Nanos) -> Iterator[Events]:
        """Yield all samples of ``[seen_from_ns, seen_to_ns)``, in order of time."""
        at = seen_from_ns
        while at < seen_to_ns:
            end = min(at + self._chunk_ns, seen_to_ns)
            yield from self._events(self._raw(at, end) if self._plain else self._grid(at, end), at, end)
            at = end

    def _raw(self, lo: Nanos, hi: Nanos) -> list[Any]:
        """Samples as scraped. Up to 2.x a range is closed on the left, later it is open: ask for a little more."""
        span_ms = -(-(hi - lo) // 1_000_000) + 1
        params = {"query": f"{self._query}[{span_ms}ms]", "time": f"{hi / 1e9:.3f}"}
        return self._ask("query", params)

    def _grid(self, lo: Nanos, hi: Nanos) -> list[Any]:
        step = round(self._step_s * 1e9)
        first = -(-lo // step) * step
        last = (hi - 1) // step * step
        if last < first:
            return []
        params = {"start": f"{first / 1e9:.3f}", "end": f"{last / 1e9:.3f}", "step": f"{self._step_s:g}"}
        return self._ask("query_range", {"query": self._query, **params})

    def _ask(self, what: str, params: dict[str, str]) -> list[Any]:
        url = f"{self._url}/api/v1/{what}"
        for left in reversed(range(self._tries)):
            try:
                text = fetch(url, params, timeout_s=self._timeout_s, token=self._token, ca=self._ca)
                break
            except InputError:
                if not left:
                    raise
                time.sleep(0.2 * 2 ** (self._tries - left - 1))
        try:
            answer = json.loads(text)
            data = answer["data"]
            kind, result = data["resultType"], data["result"]
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{url}: expected an answer of Prometheus' HTTP API, got {_said(text)}") from None
        if answer.get("status") != "success" or kind != "matrix" or not isinstance(result, list):
            raise InputError(f"{url}: expected a matrix, got {_said(text)}")
        return result

    def _events(self, result: list[Any], lo: Nanos, hi: Nanos) -> Iterator[Events]:
        keys: dict[SeriesKey, int] = {}
        columns: dict[bool, list[tuple[int, Any, Any]]] = {False: [], True: []}
        for one in result:
            try:
                labels = {str(k): str(v) for k, v in one["metric"].items()}
                samples = [(round(float(t) * 1000) * 1_000_000, float(v)) for t, v in one["values"]]
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
                self.bad += 1
                continue
            name = labels.pop("__name__", "") or self._name
            if not self._plain:
                name = self._name
            host = host_of(labels, self._host)
            key, scale, integer = translate(name, tuple(sorted(labels.items())), host, name.endswith("_total"))
            good = [(t, v * scale) for t, v in samples if lo <= t < hi and math.isfinite(v)]
            if not good:
                continue
            times = np.array([t for t, _ in good], np.int64)
            raw = np.array([v for _, v in good])
            whole = integer and (scale != 1 or bool((raw == np.rint(raw)).all())) and bool((abs(raw) < 2**62).all())
            number = keys.setdefault(key, len(keys))
            columns[not whole].append((number, times, np.rint(raw).astype(np.int64) if whole else raw))
        yield from _in_order(tuple(keys), columns)


def _in_order(keys: tuple[SeriesKey, ...], columns: dict[bool, list[tuple[int, Any, Any]]]) -> Iterator[Events]:
    """Both value types cut at the times where the other has something, so that times never fall."""
    from telemetry.source import merge

    streams = []
    for some in columns.values():
        if some:
            series = np.repeat(np.array([s for s, _, _ in some], np.int64), [len(t) for _, t, _ in some])
            times = np.concatenate([t for _, t, _ in some])
            values = np.concatenate([v for _, _, v in some])
            order = np.argsort(times, kind="stable")
            streams.append(iter([Events(keys, series[order], times[order], times[order], values[order])]))
    yield from merge(streams)


class Scraper:
    """Scrapes an exporter in a thread of its own; `poll` gives what came, and never waits.

    Parameters
    ----------
    url : str
    host : str
        Of samples that name neither ``host`` nor ``instance``.
    every_s : float

    Notes
    -----
    A scrape that fails is counted in `failures` and named in `trouble`, as lines are that are none; nothing is made up
    for it: a gap is a gap.
    """

    def __init__(
        self,
        url: str,
        host: str,
        *,
        every_s: float = 1.0,
        timeout_s: float = 5.0,
        ca: str = "",
        clock: Callable[[], Nanos] = time.time_ns,
    ) -> None:
        self.failures = self.scrapes = 0
        self._why = ""
        self.found = Exposition()
        self._url, self._host, self._every_s, self._timeout_s = url, host, every_s, timeout_s
        self._clock, self._ca = clock, ca
        trusted(ca)  # a wrong file is told now
        self._news: list[str] = []
        self._stamps: list[Nanos] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"scrape {url}", daemon=True)
        self._thread.start()

    def poll(self) -> list[Events]:
        """What was scraped since the last call."""
        with self._lock:
            texts, stamps = self._news, self._stamps
            self._news, self._stamps = [], []
        out: list[Events] = []
        for text, at in zip(texts, stamps, strict=True):
            out += events_of(text, self._host, at, self.found, seen_ns=self._clock())
        return out

    @property
    def trouble(self) -> str:
        """Scrapes that failed, and lines that were none."""
        if self.failures:
            return f"{self._why} ({self.failures} of {self.failures + self.scrapes} scrapes failed)"
        bad = self.found
        return f"{self._url}: {bad.bad} lines not understood, the first: {bad.first_bad!r}" if bad.bad else ""

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=self._timeout_s + 1)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            before = self._clock()
            try:
                text = fetch(self._url, timeout_s=self._timeout_s, max_bytes=32 << 20, ca=self._ca)
            except InputError as error:
                self.failures += 1
                self._why = str(error)
            else:
                self.scrapes += 1
                with self._lock:
                    self._news.append(text)
                    self._stamps.append(before + (self._clock() - before) // 2)
                    del self._news[:-100], self._stamps[:-100]  # nobody asks: keep the last
            due = max(due + self._every_s, time.monotonic())
            self._stop.wait(due - time.monotonic())


def _said(text: str) -> str:
    """The beginning of an answer, in one line."""
    try:
        told = json.loads(text)
        if isinstance(told, dict) and told.get("error"):
            return str(told["error"])[:200]
    except ValueError:
        pass
    return repr(text[:80])
