"""The real client against its own in-process mock brokers (real protocol over loopback)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from telemetry.errors import ConfigError
from telemetry.kafka import KafkaIntake
from telemetry.store import Store

confluent_kafka = pytest.importorskip("confluent_kafka", reason="extra: tailwatch[kafka]")


@pytest.fixture(scope="module")
def producer() -> tuple[object, str]:
    made = confluent_kafka.Producer({"test.mock.num.brokers": 1})
    (broker,) = made.list_topics(timeout=10).brokers.values()
    return made, f"{broker.host}:{broker.port}"


def message(i: int) -> bytes:
    value = i if i % 2 else i + 0.5
    key = 'm_total{host="h"}' if i % 2 else 'g{host="h"}'
    return json.dumps({"series": key, "time_ns": 10**18 + i, "value": value}).encode()


def send(producer: object, topic: str, values: list[bytes]) -> None:
    for value in values:
        producer.produce(topic, value, partition=0)  # type: ignore[attr-defined]
    assert producer.flush(20) == 0  # type: ignore[attr-defined]


def take(intake: KafkaIntake, messages: int) -> tuple[int, int, str]:
    got = refused = 0
    reason = ""
    for _ in range(60):
        if got >= messages:
            break
        taken = intake.poll(0.5)
        got, refused, reason = got + taken.messages, refused + taken.refused, taken.reason or reason
    return got, refused, reason


def stored(path: Path) -> list[tuple[int, float]]:
    with Store(path, create=False) as store:
        return sorted((int(t), float(v)) for b in store.read(0, 2**62) for t, v in zip(b.time_ns, b.value, strict=True))


def test_each_message_once_though_the_commit_was_lost(producer: tuple[object, str], tmp_path: Path) -> None:
    made, servers = producer
    Store(tmp_path / "s").close()
    send(made, "once", [message(i) for i in range(100)])
    settings = {"bootstrap.servers": servers, "group.id": "g1", "session.timeout.ms": "6000"}
    first = KafkaIntake(tmp_path / "s", "once", settings)
    first._commit = lambda partition, after: None  # type: ignore[method-assign]  # dies between store and commit
    assert take(first, 100)[0] == 100
    first.close()
    send(made, "once", [message(i) for i in range(100, 150)])
    second = KafkaIntake(tmp_path / "s", "once", settings)
    assert take(second, 50)[0] == 50
    second.close()
    assert stored(tmp_path / "s") == [(10**18 + i, float(i if i % 2 else i + 0.5)) for i in range(150)]


def test_what_is_not_understood_is_counted_and_the_rest_kept(producer: tuple[object, str], tmp_path: Path) -> None:
    made, servers = producer
    Store(tmp_path / "s").close()
    bad = [
        b"",
        b"[[[[",
        b'{"series": 1}',
        b'{"series": "m", "time_ns": 1.5, "value": 1}',
        b'{"series": "m", "time_ns": 1}',
    ]
    bad += [
        b'{"series": "m{", "time_ns": 1, "value": 1}',
        b'{"series": "m", "time_ns": 1, "value": 1e300}',
        b"[" * 100_000,
    ]
    send(made, "hostile", [message(1), *bad, message(2)])
    intake = KafkaIntake(tmp_path / "s", "hostile", {"bootstrap.servers": servers})
    got, refused, reason = take(intake, len(bad) + 2)
    intake.close()
    assert (got, refused) == (len(bad) + 2, len(bad))
    assert "offset" in reason
    assert len(stored(tmp_path / "s")) == 2


def test_an_unknown_setting_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kafka"):
        KafkaIntake(tmp_path, "t", {"bootstrap.server": "x"})
