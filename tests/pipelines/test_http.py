"""The service's pages: TLS, token, and whatever bytes come."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipelines.config import Http
from pipelines.http import serve
from telemetry.errors import ConfigError


def idle() -> Any:
    """What the pages ask of a service that has done nothing yet."""
    from pipelines.cardinality import Guard
    from pipelines.counters import Counters

    engine = SimpleNamespace(calibration={}, guard=Guard(10), waiting=0)
    grouper = SimpleNamespace(open_incidents=())
    scorer = SimpleNamespace(engine=engine, grouper=grouper)
    return SimpleNamespace(counters=Counters(), scorer=scorer, delivered=0, captures=None)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = serve(idle(), Http(listen="127.0.0.1:0"))
    yield server.server_port
    server.shutdown()
    server.server_close()


def ask(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as s:
        s.sendall(data)
        with contextlib.suppress(OSError):  # it may have hung up already: a line that is too long
            s.shutdown(socket.SHUT_WR)
        out = b""
        try:
            while chunk := s.recv(65536):
                out += chunk
        except ConnectionResetError:
            pass
        return out


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
@example(b"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\nConnection: close\r\n\r\n")
@example(b"GET " + b"/a" * 40_000 + b" HTTP/1.1\r\n\r\n")
@example(b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 500 + b"\r\n")
@example(b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n")
@example(b"\r\n\r\n\x00\x00")
def test_any_bytes(port: int, capfd: pytest.CaptureFixture[str], data: bytes) -> None:
    answer = ask(port, data)
    assert b"Traceback" not in answer
    assert not answer.startswith(b"HTTP/1.0 200") or data.startswith(b"GET")
    assert ask(port, b"GET /healthz HTTP/1.0\r\n\r\n").endswith(b"ok\n"), "it still answers"
    assert "Traceback" not in capfd.readouterr().err


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40))
def test_any_path(port: int, path: str) -> None:
    status = ask(port, f"GET /{path} HTTP/1.0\r\n\r\n".encode()).split()[1]
    assert status in (b"404", b"400") or path in ("healthz", "readyz", "metrics")


def test_readiness_comes_with_the_first_step(port: int) -> None:
    assert ask(port, b"GET /readyz HTTP/1.0\r\n\r\n").split()[1] == b"503"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_tls_and_token(tmp_path: Path) -> None:
    cert, key, token = (tmp_path / n for n in ("cert.pem", "key.pem", "token"))
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2"]
    subprocess.run([*made, *subject], check=True, capture_output=True)
    token.write_text("s3cret\n")
    http = Http(listen="127.0.0.1:0", tls_cert=str(cert), tls_key=str(key), token_file=str(token))
    server = serve(idle(), http)
    base = f"https://127.0.0.1:{server.server_port}"
    try:
        trust = ssl.create_default_context(cafile=str(cert))
        good = {"Authorization": "Bearer s3cret"}
        assert httpx.get(f"{base}/metrics", verify=trust, headers=good).status_code == 200
        for bad in ({}, {"Authorization": "Bearer nope"}, {"Authorization": "s3cret"}):
            answer = httpx.get(f"{base}/metrics", verify=trust, headers=bad)
            assert answer.status_code == 401
            assert "s3cret" not in answer.text
        raw = b"GET /metrics HTTP/1.0\r\nAuthorization: Bearer \xe9\xff\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.server_port)) as plain:
            plain.sendall(raw)  # no TLS: it must not hold up the others
            assert httpx.get(f"{base}/healthz", verify=trust, headers=good, timeout=5).status_code == 200
        bare = socket.create_connection(("127.0.0.1", server.server_port))
        with trust.wrap_socket(bare, server_hostname="127.0.0.1") as safe:
            safe.sendall(raw)
            assert safe.recv(100).split()[1] == b"401"
        silent = socket.create_connection(("127.0.0.1", server.server_port))  # says nothing at all
        assert httpx.get(f"{base}/healthz", verify=trust, headers=good, timeout=5).status_code == 200
        silent.close()
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("http", "what"),
    [
        (Http(listen="0.0.0.0:1"), "loopback"),
        (Http(listen="[::]:1", token_file="x"), "loopback"),
        (Http(listen="127.0.0.1:0", token_file="/nonexistent/token"), "token_file"),
        (Http(listen="127.0.0.1:0", tls_cert="/nonexistent/cert"), "tls_cert"),
        (Http(listen="nonsense"), "listen"),
    ],
)
def test_what_is_wrong_is_told_plainly(http: Http, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        serve(idle(), http)


def test_an_empty_token_is_no_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    with pytest.raises(ConfigError, match="empty"):
        serve(idle(), Http(listen="127.0.0.1:0", token_file=str(tmp_path / "token")))
