"""The receiving end of the wire: answers when rows are on disk.

Nothing is lost and nothing doubled by a restart of either end: what has been stored already is recognised by its host
and seen_ns, and acknowledged without being stored twice (`telemetry.remote_sender` sends it again).
"""

from __future__ import annotations

import contextlib
import hmac
import http.server
import socket
import ssl
import threading
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from telemetry.errors import ConfigError, InputError, TailwatchError
from telemetry.remote import decode
from telemetry.remote_sender import LOOPBACK
from telemetry.store import Store
from telemetry.types import Events, Nanos

__all__ = ["Receiver"]

MAX_BODY: Final = 64 << 20
_NEW: Final = 2**63 - 1
"""seen_ns of points that bear none, until they are stored: they are not of a store, and never known already."""


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
        self._now: Nanos = 0
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
            batches, bad = decode(body, request.client_address[0], _NEW)
        except InputError as error:
            self.refused += 1
            return 400, str(error).encode()
        with self._lock:
            if self._closed:
                return 503, b"closing"
            self.bad += bad
            self._now = max(time.time_ns(), self._now + 1)
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
        """Store what is new: of each host, what was seen after all that its sender sent before this request."""
        hosts = {k.host for k in batch.keys}
        for host in hosts - self._upto.keys():
            self._upto[host] = self._store.last_seen_ns(host) or -1
        upto = np.array([self._upto[k.host] for k in batch.keys])[batch.series]
        new = batch.seen_ns > upto
        self.known += int((~new).sum())
        fresh = batch if new.all() else batch[new]
        if len(fresh):
            fresh = replace(fresh, seen_ns=np.where(fresh.seen_ns == _NEW, self._now, fresh.seen_ns))
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
    """The newest row of each host, of those that bore their seen_ns."""
    number = dict.fromkeys(k.host for k in batch.keys)
    out = {}
    for host in number:
        mine = np.array([k.host == host for k in batch.keys])[batch.series] & (batch.seen_ns != _NEW)
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
