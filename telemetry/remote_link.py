"""The two ends of the wire: a sender that reads its own store, and a receiver that answers when rows are on disk.

Nothing is lost by a restart of either: what has not been acknowledged is read from the store again; what has been
stored already is recognised by its host and seen_ns, and acknowledged without being stored twice.
"""

from __future__ import annotations

import contextlib
import gzip
import hmac
import http.server
import socket
import ssl
import threading
import time
import urllib.parse
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from telemetry.errors import ConfigError, InputError, TailwatchError
from telemetry.prometheus import trusted
from telemetry.remote import decode, encode
from telemetry.store import Store
from telemetry.types import Events, Nanos

__all__ = ["Receiver", "Sender", "quoted"]

MAX_BODY = 64 << 20
LOOPBACK = ("127.0.0.1", "localhost", "::1")


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
        for batch in store.read(self.position, newest + 1 if last else newest, select=f"host={quoted(self._host)}"):
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


class Receiver:
    """Takes in OTLP metrics over HTTP and stores them; answers 200 when they are with the kernel.

    Parameters
    ----------
    store : Store
    listen : (address, port)
        Loopback unless told otherwise; port 0 takes a free one (see `port`).
    token : str
        If given, requests must bear it.
    tls_cert, tls_key : path
        Speak TLS with this certificate (chain) and key; the key may be in the same file.

    Raises
    ------
    ConfigError
        The address is not free or none; it is not loopback and token or certificate are missing; they cannot be read.
    """

    def __init__(
        self,
        store: Store,
        listen: tuple[str, int] = ("127.0.0.1", 4318),
        *,
        token: str = "",
        tls_cert: str | Path = "",
        tls_key: str | Path = "",
    ) -> None:
        shown = f"{listen[0]}:{listen[1]}"
        if listen[0] not in LOOPBACK and not (token and tls_cert):
            raise ConfigError(f"listen: {shown} is not loopback: set a token file and tls_cert/tls_key")
        self.rows = self.known = self.bad = self.refused = 0
        self._store, self._token = store, token
        self._lock = threading.Lock()
        self._closed = False
        self._upto: dict[str, Nanos] = {}
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            timeout = 30
            protocol_version = "HTTP/1.1"  # a sender keeps its connection

            def do_POST(self) -> None:
                status, said = receiver._answer(self)
                self.close_connection = self.close_connection or status in (401, 404, 411, 413)  # its body is unread
                self.send_response(status)
                self.send_header("Content-Type", "application/x-protobuf" if status == 200 else "text/plain")
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_: object) -> None:
                return

        try:
            self._server = _Server(listen, Handler)
        except OSError as error:
            raise ConfigError(f"listen: {shown}: {error.strerror or error}") from None
        if tls_cert:
            try:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(tls_cert, tls_key or None)
            except (OSError, ssl.SSLError) as error:
                self._server.server_close()
                raise ConfigError(f"listen: {tls_cert}: not a certificate with its key: {error}") from None
            # hands are shaken in the thread of the connection: one that stalls holds nobody up
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="receive", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer nobody any more. What was acknowledged is stored."""
        with self._lock:
            self._closed = True
        self._server.shutdown()
        self._server.hang_up()
        self._server.server_close()
        self._thread.join()

    def _answer(self, request: http.server.BaseHTTPRequestHandler) -> tuple[int, bytes]:
        if request.path != "/v1/metrics":
            return 404, b"expected /v1/metrics"
        given = request.headers.get("Authorization", "").encode("utf-8", "replace")
        if self._token and not hmac.compare_digest(given, f"Bearer {self._token}".encode()):
            self.refused += 1
            return 401, b"expected a token"
        try:
            length = int(request.headers.get("Content-Length", ""))
        except ValueError:
            return 411, b"expected a length"
        if not 0 <= length <= MAX_BODY:
            return 413, b"too large"
        body = request.rfile.read(length)
        try:
            if request.headers.get("Content-Encoding") == "gzip":
                body = _unzipped(body)
            batches, bad = decode(body, request.client_address[0], time.time_ns())
        except InputError as error:
            self.refused += 1
            return 400, str(error).encode()
        with self._lock:
            if self._closed:
                return 503, b"closing"
            self.bad += bad
            try:
                for batch in batches:
                    self._take(batch)
                self._store.flush()
                for batch in batches:
                    for host, seen in _last_seen(batch).items():
                        self._upto[host] = max(seen, self._upto[host])
            except TailwatchError as error:
                return 503, str(error).encode()  # the sender keeps them and comes again
        return 200, b""

    def _take(self, batch: Events) -> None:
        """Store what is new: of each host, what was seen after all that is stored before this request."""
        hosts = {k.host for k in batch.keys}
        for host in hosts - self._upto.keys():
            self._upto[host] = self._store.last_seen_ns(host) or -1
        upto = np.array([self._upto[k.host] for k in batch.keys])[batch.series]
        new = batch.seen_ns > upto
        self.known += int((~new).sum())
        fresh = batch if new.all() else batch[new]
        if len(fresh):
            self._store.append(fresh)
            self.rows += len(fresh)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, listen: tuple[str, int], handler: type[http.server.BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in listen[0] else socket.AF_INET
        self._open: set[Any] = set()
        super().__init__(listen, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End connections that are being kept."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks off, or whose hands are not ours to shake, is its sender's to mend."""


def _last_seen(batch: Events) -> dict[str, Nanos]:
    """The newest row of each host."""
    number = dict.fromkeys(k.host for k in batch.keys)
    out = {}
    for host in number:
        mine = np.array([k.host == host for k in batch.keys])[batch.series]
        if mine.any():
            out[host] = int(batch.seen_ns[mine].max())
    return out


def _unzipped(body: bytes) -> bytes:
    unzip = zlib.decompressobj(31)
    try:
        out = unzip.decompress(body, MAX_BODY)
    except zlib.error as error:
        raise InputError(f"otlp: expected gzip: {error}") from None
    if unzip.unconsumed_tail:
        raise InputError(f"otlp: expected at most {MAX_BODY} bytes")
    return out


def quoted(text: str) -> str:
    """A label's value as a selector has it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
