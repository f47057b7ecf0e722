"""How a host is tied to others: what it pushes, what it takes in, what it collects."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from pipelines.collect import Collector
from pipelines.config import Harvest
from telemetry.errors import ConfigError, TailwatchError
from telemetry.remote_receiver import Receiver
from telemetry.remote_sender import Sender
from telemetry.store import Store

__all__ = ["Link", "Pusher", "address", "links", "read_token"]


class Pusher:
    """Sends what the store holds to a receiver, in a thread; failures wait in the store."""

    def __init__(self, sender: Sender, every_s: float = 1.0) -> None:
        self.sender = sender
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="push", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Try once more, with everything."""
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(TailwatchError):
            self.sender.send(last=True)
        self.sender.close()

    def _run(self) -> None:
        wait = self._every_s
        while not self._stop.wait(wait):
            try:
                self.sender.send()
                wait = self._every_s
            except TailwatchError:
                wait = min(2 * wait, 60.0)  # the sender remembers the trouble


class Link:
    """How a host is tied to others: what it pushes, takes in, and collects."""

    def __init__(self) -> None:
        self.pusher: Pusher | None = None
        self.receiver: Receiver | None = None
        self.collector: Collector | None = None

    @property
    def troubles(self) -> list[str]:
        """What went wrong so far, a line each."""
        out = []
        if self.pusher is not None and self.pusher.sender.failures:
            out.append(f"push: {self.pusher.sender.trouble} ({self.pusher.sender.failures} times; nothing is lost)")
        if self.receiver is not None and (self.receiver.refused or self.receiver.bad):
            out.append(f"listen: {self.receiver.refused} requests refused, {self.receiver.bad} points not understood")
        if self.collector is not None and self.collector.failures:
            out.append(f"{self.collector.trouble} ({self.collector.failures} times)")
        return out


@contextlib.contextmanager
def links(settings: Harvest, store: Store, host: str) -> Iterator[Link]:
    """Take in what other hosts push or have stored, and push to a collector, as the settings say, while this lasts.

    Raises
    ------
    ConfigError
        A wrong address or URL; a file that cannot be read; neither loopback nor token and TLS.
    """
    link = Link()
    with contextlib.ExitStack() as stack:
        token = read_token(settings.token_file)
        if settings.listen:
            cert, key = settings.tls_cert, settings.tls_key
            link.receiver = Receiver(store, address(settings.listen), token=token, tls_cert=cert, tls_key=key)
            stack.callback(link.receiver.close)
        if settings.push:
            link.pusher = Pusher(Sender(store.path, settings.push, host, token=token, ca=settings.tls_ca))
            stack.callback(link.pusher.close)
        if settings.collect:
            link.collector = Collector(store, settings.collect, settings.collect_s)
            link.collector.start()
            stack.callback(link.collector.close)
        yield link


def read_token(path: str) -> str:
    """The secret in a file, or "" for no file.

    Raises
    ------
    ConfigError
        If the file cannot be read, or holds none.
    """
    if not path:
        return ""
    try:
        token = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected a token: {error}") from None
    if not token:
        raise ConfigError(f"{path}: expected a token, got nothing")
    return token


def address(text: str) -> tuple[str, int]:
    """Read ``HOST:PORT``.

    Raises
    ------
    ConfigError
        If `text` is not that.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise ConfigError(f"--listen: expected HOST:PORT, got {text!r}")
    return host.strip("[]"), int(port)
