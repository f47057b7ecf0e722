from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipelines.collect import Collector
from telemetry.storage.published import publish
from telemetry.store import Store
from telemetry.types import Events
from tests.naive.rows import ticks

ALL = (-(2**63), 2**63 - 1)


def rows(batches: list[Events]) -> list[tuple[str, int, int, float]]:
    return [
        (str(b.keys[s]), t, seen, v)
        for b in batches
        for s, t, seen, v in zip(*(c.tolist() for c in (b.series, b.time_ns, b.seen_ns, b.value)), strict=True)
    ]


def fill(path: Path, host: str, start: int = 0, n: int = 50) -> None:
    with Store(path, cut_ns=2 * 10**9) as store:
        for b in ticks(host, n, start=start):
            store.append(b)


def whole(path: Path, host: str) -> list[tuple[str, int, int, float]]:
    return rows(list(Store(path, create=False).read(*ALL, select=f'host="{host}"')))


def test_hosts_from_a_folder_and_from_a_uri(tmp_path: Path) -> None:
    """Through restarts of the collector, a place that is away, and hosts that go on."""
    fill(tmp_path / "shared/tx1", "tx1")
    fill(tmp_path / "far", "tx2")
    uri = f"file://{tmp_path}/bucket"
    places = [f"{tmp_path}/nothing", f"{tmp_path}/shared", uri]
    with Store(tmp_path / "all") as store:
        collector = Collector(store, places)
        assert collector.collect() > 0
        assert collector.failures == 2  # nothing there, and nothing published yet
        assert store.hosts() == ["tx1"]
        publish(tmp_path / "far", f"{uri}/tx2")
        collector.collect()
        collector.collect()  # the newest instants, which did not move
        assert collector.collect() == 0
    for path, host in (("shared/tx1", "tx1"), ("far", "tx2")):
        assert whole(tmp_path / "all", host) == whole(tmp_path / path, host)
    fill(tmp_path / "shared/tx1", "tx1", start=50)
    with Store(tmp_path / "all") as store:
        again = Collector(store, places)
        for _ in range(3):
            again.collect()
    assert whole(tmp_path / "all", "tx1") == whole(tmp_path / "shared/tx1", "tx1")


def test_a_kill_in_the_middle_of_an_instant_loses_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "tx1", "tx1")
    batches = list(Store(tmp_path / "tx1", create=False).read(*ALL))
    with Store(tmp_path / "all") as store:  # as if it had been killed after part of an instant
        first = batches[0]
        cut = int((first.seen_ns <= first.seen_ns[len(first) // 2]).sum()) - 1
        store.append(first[:cut])
    with Store(tmp_path / "all") as store:
        collector = Collector(store, [str(tmp_path / "tx1")])
        for _ in range(3):
            collector.collect()
    assert sorted(whole(tmp_path / "all", "tx1")) == sorted(whole(tmp_path / "tx1", "tx1"))


def test_a_host_that_lies_in_several_places(tmp_path: Path) -> None:
    """Captures are of a host ``wire`` wherever they are taken; one place is behind, the collector restarts."""
    places = [tmp_path / "hosts" / name for name in ("fast", "slow")]
    for n in range(3):
        fill(places[0], "wire", start=1000 + 50 * n)
        fill(places[1], "wire", start=50 * n)
        with Store(tmp_path / "all") as store:
            collector = Collector(store, [str(tmp_path / "hosts")])
            for _ in range(3):
                collector.collect()
        assert sorted(whole(tmp_path / "all", "wire")) == sorted(r for p in places for r in whole(p, "wire"))
    assert collector.rows < 2 * len(whole(tmp_path / "all", "wire")) / 3 + 100, "only what is new"


def test_its_own_store_among_the_others_is_left_alone(tmp_path: Path) -> None:
    fill(tmp_path / "hosts/tx1", "tx1")
    with Store(tmp_path / "hosts/me") as store:
        for b in ticks("me", 5):
            store.append(b)
        store.flush()
        collector = Collector(store, [str(tmp_path / "hosts")])
        collector.collect()
        collector.collect()
        assert collector.failures == 0
        assert len(whole(tmp_path / "hosts/me", "me")) == sum(map(len, ticks("me", 5)))
        assert collector.rows == len(whole(tmp_path / "hosts/tx1", "tx1"))


@pytest.mark.parametrize("place", ["gopher://x/y", "/no/such/folder"])
def test_a_place_that_is_none_is_named(tmp_path: Path, place: str) -> None:
    with Store(tmp_path / "all") as store:
        collector = Collector(store, [place], every_s=0.05)
        collector.start()
        end = time.monotonic() + 5
        while collector.failures < 2 and time.monotonic() < end:
            time.sleep(0.02)
        collector.close()
    assert place in collector.trouble
    assert collector.failures >= 2
