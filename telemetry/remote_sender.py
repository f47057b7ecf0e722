"""The sending end of the wire: reads its own store and sends what has not been acknowledged.

Nothing is lost by a restart: what has not been acknowledged is read from the store again; the receiver
(`telemetry.remote_receiver`) knows what it has stored already.
"""

from __future__ import annotations

import contextlib
import gzip
import urllib.parse
import zlib
from pathlib import Path
from typing import Any, Final

from telemetry.errors import ConfigError, InputError
from telemetry.prometheus import trusted
from telemetry.remote import encode
from telemetry.selectors import of_host
from telemetry.store import Store
from telemetry.types import Events, Nanos

__all__ = ["LOOPBACK", "Sender"]

LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
"""Hosts to which, and addresses at which, a token may be told in the clear."""


class Sender:
    """Sends a host's rows, from where the receiver last acknowledged, in the order in which they were seen.

    Parameters
    ----------
    store : path
        Of the sender; read only. Its ``sent/`` folder keeps how far each receiver is.
    url : str
        Of the receiver (``http://collector:4318``); ``/v1/metrics`` is added.
    host : str
    token : str
        Sent with each request; never in the clear over a network.
    ca : path
        Certificates to trust of an ``https`` receiver; by default the system's. It is always verified.
    rows : int
        At most about so many in one request; rows of one seen_ns are never parted.

    Raises
    ------
    ConfigError
        No URL; a token and neither ``https`` nor loopback; `ca` cannot be read.
    """

    def __init__(
        self,
        store: str | Path,
        url: str,
        host: str,
        *,
        token: str = "",
        ca: str | Path = "",
        rows: int = 20_000,
    ) -> None:
        where = urllib.parse.urlsplit(url)
        if where.scheme not in ("http", "https") or not where.hostname:
            raise ConfigError(f"push: expected http://HOST:PORT or https://HOST:PORT, got {url!r}")
        if token and where.scheme == "http" and where.hostname not in LOOPBACK:
            raise ConfigError(f"push: {url}: a token would be sent in the clear; expected https")
        self._trusted = trusted(str(ca))
        self._client: Any = None
        self._root = Path(store)
        self._url = url.rstrip("/") + "/v1/metrics"
        self._host, self._token, self._rows = host, token, rows
        self._mark = self._root / "sent" / f"{zlib.crc32(self._url.encode()):08x}-{zlib.crc32(host.encode()):08x}"
        self.sent = self.failures = 0
        self.trouble = ""

    @property
    def position(self) -> Nanos:
        """All rows first seen before this have been acknowledged."""
        with contextlib.suppress(OSError, ValueError):
            return int(self._mark.read_text())
        return 0

    def send(self, *, last: bool = False) -> int:
        """Send what is new; returns the rows acknowledged. With `last`, also those of the newest instant.

        The newest instant is held back otherwise, because its rows may still be being written.

        Raises
        ------
        InputError
            If the receiver is not there, or refuses; the position stays where it was.
        """
        store = Store(self._root, create=False)
        newest = store.last_seen_ns(self._host)
        if newest is None:
            return 0
        total = 0
        pending: list[Events] = []
        count = 0
        for batch in store.read(self.position, newest + 1 if last else newest, select=of_host(self._host)):
            if count + len(batch) >= self._rows and pending and batch.seen_ns[0] > pending[-1].seen_ns[-1]:
                total += self._post(pending)
                pending, count = [], 0
            while len(batch) > self._rows:
                cut = int((batch.seen_ns <= batch.seen_ns[self._rows]).sum())
                if cut == len(batch):
                    break
                total += self._post([*pending, batch[:cut]])
                pending, count, batch = [], 0, batch[cut:]
            pending.append(batch)
            count += len(batch)
        if pending:
            total += self._post(pending)
        return total

    def close(self) -> None:
        """Hang up."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _post(self, batches: list[Events]) -> int:
        import httpx

        if self._client is None:
            self._client = httpx.Client(timeout=30, verify=self._trusted, follow_redirects=False)
        headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        body = gzip.compress(encode(batches), 1)
        try:
            answer = self._client.post(self._url, content=body, headers=headers)
        except httpx.HTTPError as error:
            self.close()
            self.failures += 1
            self.trouble = f"{self._url}: {str(error) or type(error).__name__}"
            raise InputError(self.trouble) from None
        if answer.status_code != 200:
            self.failures += 1
            self.trouble = f"{self._url}: expected status 200, got {answer.status_code}: {answer.text[:100]!r}"
            raise InputError(self.trouble)
        rows = sum(map(len, batches))
        self.sent += rows
        self._mark.parent.mkdir(exist_ok=True)
        beside = self._mark.with_suffix(".new")
        beside.write_text(str(int(batches[-1].seen_ns[-1]) + 1))
        beside.replace(self._mark)
        return rows
