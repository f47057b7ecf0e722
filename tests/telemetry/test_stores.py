from __future__ import annotations

from pathlib import Path

import pytest

from telemetry.errors import StoreError
from telemetry.storage.published import Published, publish
from telemetry.store import Store
from telemetry.stores import open_stores
from telemetry.types import Events
from tests.naive.rows import ticks

ALL = (-(2**63), 2**63 - 1)


def rows(batches: list[Events]) -> list[tuple[str, int, int, float]]:
    return [
        (str(b.keys[s]), t, seen, v)
        for b in batches
        for s, t, seen, v in zip(*(c.tolist() for c in (b.series, b.time_ns, b.seen_ns, b.value)), strict=True)
    ]


def fill(path: Path, host: str, start: int = 0) -> Store:
    with Store(path, cut_ns=2 * 10**9) as store:
        for b in ticks(host, 50, start=start):
            store.append(b)
    return store


def test_a_store_a_host_read_as_one(tmp_path: Path) -> None:
    for host in ("tx1", "tx2", "tx3"):
        fill(tmp_path / "shared" / host, host)
    whole = Store(tmp_path / "whole")
    for parts in zip(*(ticks(h, 50) for h in ("tx1", "tx2", "tx3")), strict=True):
        for b in parts:
            whole.append(b)
    many = open_stores([str(tmp_path / "shared")])
    assert rows(list(many.read(*ALL))) == rows(list(whole.read(*ALL)))
    assert many.hosts() == ["tx1", "tx2", "tx3"]
    assert many.keys("cpu=3") == whole.keys("cpu=3")
    assert many.last_seen_ns() == whole.last_seen_ns()
    assert len(open_stores([str(tmp_path / "shared/tx1")]).stores) == 1
    with pytest.raises(StoreError):
        open_stores([str(tmp_path / "nothing")])
    with pytest.raises(StoreError):
        open_stores([])


def test_published_anywhere(tmp_path: Path) -> None:
    store = fill(tmp_path / "s", "tx1")
    uri = f"file://{tmp_path}/bucket/tx1"
    assert publish(tmp_path / "s", uri) > 1
    there = Published(uri)
    assert rows(list(there.read(*ALL, select="cpu=2"))) == rows(list(store.read(*ALL, select="cpu=2")))
    assert (there.hosts(), there.keys(), there.last_seen_ns()) == (store.hosts(), store.keys(), store.last_seen_ns())
    fill(tmp_path / "s", "tx1", start=50)
    assert len(rows(list(there.read(*ALL)))) == 250  # not yet published
    store.compact()
    publish(tmp_path / "s", uri)
    assert rows(list(there.read(*ALL))) == rows(list(store.read(*ALL)))
    left = {p.relative_to(tmp_path / "bucket/tx1") for p in (tmp_path / "bucket").rglob("*.parquet")}
    assert left == {p.relative_to(tmp_path / "s") for p in (tmp_path / "s").glob("family=*/*/*/*.parquet")}
    assert len(open_stores([uri, str(tmp_path / "s")]).stores) == 2


def test_places_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="got nothing"):
        Published(f"file://{tmp_path}/no")
    with pytest.raises(StoreError, match="URI of a file system"):
        Published("gopher://x/y")
    fill(tmp_path / "s", "tx1")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot publish"):
        publish(tmp_path / "s", f"file://{tmp_path}/file/inner")


def test_a_folder_of_stores_at_a_uri(tmp_path: Path) -> None:
    for host in ("tx1", "tx2"):
        publish(fill(tmp_path / host, host).path, f"file://{tmp_path}/bucket/hosts/{host}")
    many = open_stores([f"file://{tmp_path}/bucket/hosts"])
    assert many.hosts() == ["tx1", "tx2"]
    assert len(many.stores) == 2
    assert open_stores([f"file://{tmp_path}/bucket/hosts/tx2"]).hosts() == ["tx2"]
    for nowhere, said in (("bucket", "neither"), ("no-such-folder", "cannot be read")):
        with pytest.raises(StoreError, match=said):
            open_stores([f"file://{tmp_path}/{nowhere}"])


def test_a_file_system_that_only_fsspec_knows(tmp_path: Path) -> None:
    """Memory stands for those in the cloud."""
    pytest.importorskip("fsspec")
    uri = f"memory://{tmp_path.name}/hosts/tx1"
    store = fill(tmp_path / "s", "tx1")
    assert publish(tmp_path / "s", uri) > 1
    assert publish(tmp_path / "s", uri) == 0
    assert rows(list(Published(uri).read(*ALL))) == rows(list(store.read(*ALL)))
    assert open_stores([f"memory://{tmp_path.name}/hosts"]).hosts() == ["tx1"]
