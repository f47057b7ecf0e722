"""Events from a Kafka topic into a store: each batch whole, once, though either side dies.

A message is JSON: ``{"series": "metric{host=\\"h\\"}", "time_ns": 1, "value": 2.5}`` or a list of such. Integers stay
integers. A batch goes into the store as a unit that is named by topic, partition and first offset and that records the
offset after its last; then the group's offset is committed. A reader that died between the two finds the unit there and
reads on behind it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from telemetry.bulk import BulkLoad, loaded
from telemetry.errors import ConfigError, InputError
from telemetry.types import Events, SeriesKey

__all__ = ["KafkaIntake", "Taken"]


@dataclass(frozen=True, slots=True)
class Taken:
    """What a poll did: events stored, messages read, messages that were not understood (with the last reason)."""

    events: int
    messages: int
    refused: int
    reason: str = ""


class KafkaIntake:
    """Reads a topic into a store.

    Parameters
    ----------
    store : path of a store
    topic : str
    settings : mapping
        Of the client (``bootstrap.servers``, ``group.id``, ``security.protocol``, ...); offsets are managed here.

    Raises
    ------
    ConfigError
        The extra ``kafka`` is not installed, or a setting is unknown.
    """

    def __init__(self, store: str | os.PathLike[str], topic: str, settings: Mapping[str, str]) -> None:
        try:
            from confluent_kafka import Consumer, KafkaException
        except ImportError:
            raise ConfigError("a Kafka source needs its client: pip install 'tailwatch[kafka]'") from None
        fixed = {"enable.auto.commit": False, "auto.offset.reset": "earliest"}
        try:
            self._consumer: Any = Consumer({"group.id": "tailwatch", **settings, **fixed})
        except (KafkaException, ValueError) as error:
            raise ConfigError(f"kafka: {error}") from None
        self._store, self._topic, self._seen = store, topic, 0
        self._consumer.subscribe([topic], on_assign=self._assigned)

    def close(self) -> None:
        self._consumer.close()

    def poll(self, timeout_s: float = 1.0, most: int = 50_000) -> Taken:
        """Take what comes within `timeout_s` (at most `most` messages), store it, commit the offsets.

        Raises
        ------
        InputError
            The broker refuses or the topic is not there.
        """
        by_partition: dict[int, list[Any]] = {}
        for message in self._consumer.consume(most, timeout_s):
            if message.error():
                raise InputError(f"kafka topic {self._topic}: {message.error().str()}")
            by_partition.setdefault(message.partition(), []).append(message)
        events = messages = refused = 0
        reason = ""
        for partition, batch in sorted(by_partition.items()):
            first, after = batch[0].offset(), batch[-1].offset() + 1
            rows: list[tuple[SeriesKey, int, int | float]] = []
            for message in batch:
                try:
                    rows += _rows(message.value())
                except InputError as error:
                    refused += 1
                    reason = f"partition {partition}, offset {message.offset()}: {error}"
            events += self._load(partition, first, after, rows)
            messages += len(batch)
            self._commit(partition, after)
        return Taken(events, messages, refused, reason)

    def _load(self, partition: int, first: int, after: int, rows: list[tuple[SeriesKey, int, int | float]]) -> int:
        with BulkLoad(self._store, self._unit(partition, first), str(after)) as load:
            for kind in (int, float):
                chosen = [r for r in rows if isinstance(r[2], kind)]
                if not chosen:
                    continue
                index: dict[SeriesKey, int] = {}
                series = np.array([index.setdefault(k, len(index)) for k, _, _ in chosen], np.int64)
                self._seen = max(self._seen + 1, time.time_ns())
                times = np.array([t for _, t, _ in chosen], np.int64)
                values = [v for _, _, v in chosen]
                value = np.array(values, np.int64) if kind is int else np.array(values, np.float64)
                load.append(Events(tuple(index), series, times, np.full(len(chosen), self._seen), value))
            load.commit()
        return len(rows)

    def _unit(self, partition: int, first: int) -> str:
        return f"kafka\0{self._topic}\0{partition}\0{first}"

    def _commit(self, partition: int, after: int) -> None:
        from confluent_kafka import TopicPartition

        self._consumer.commit(offsets=[TopicPartition(self._topic, partition, after)], asynchronous=False)

    def _assigned(self, consumer: Any, partitions: list[Any]) -> None:
        """Start behind whatever the store has already."""
        committed = consumer.committed(partitions, timeout=10)
        for p in committed:
            at = max(p.offset, 0)
            while (after := loaded(self._store, self._unit(p.partition, at))) is not None:
                at = int(after)
            if at or p.offset >= 0:
                p.offset = at
        consumer.assign(committed)


def _rows(data: bytes | None) -> list[tuple[SeriesKey, int, int | float]]:
    try:
        body = json.loads(data or b"")
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected JSON, got {(data or b'')[:40]!r} ({error})") from None
    out: list[tuple[SeriesKey, int, int | float]] = []
    for item in body if isinstance(body, list) else [body]:
        if not isinstance(item, dict) or not isinstance(item.get("series"), str):
            raise InputError(f"expected an object with series, time_ns and value, got {str(item)[:60]}")
        at, value = item.get("time_ns"), item.get("value")
        if not isinstance(at, int) or isinstance(at, bool) or abs(at) >= 2**63:
            raise InputError(f"time_ns: expected whole nanoseconds, got {at!r}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) >= 2**63:
            raise InputError(f"value: expected a number, got {value!r}")
        out.append((SeriesKey.parse(item["series"]), at, value))
    return out
