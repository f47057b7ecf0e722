"""Drift: counted by hand, and a champion whose inputs moved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from detectors.spec import DetectorSpec
from pipelines.cli import cli
from pipelines.reference import Tally, reference_of, stability
from pipelines.savefile import save_snapshots
from pipelines.state import Champion, StateDB
from pipelines.train import train
from telemetry.source import ArraySource
from telemetry.store import Store
from telemetry.types import Events, Panel, SeriesKey

SECOND = 1_000_000_000
START = 1_790_000_000 * SECOND
KEY = SeriesKey.of("h", "lat_ns")
SPEC = DetectorSpec.from_toml(
    """
name = "held"
[[features]]
kind = "window"
select = "lat_ns"
window = "1s"
columns = ["last"]
[model]
kind = "light"
"""
)


def events(seed: int, first: int, n: int, level: float = 100.0) -> Events:
    t = START + (first + np.arange(n)) * SECOND
    return Events((KEY,), np.zeros(n, np.int64), t, t, np.random.default_rng(seed).normal(level, 5.0, n))


def test_stability_is_the_sum_by_hand() -> None:
    before, now = np.full(10, 0.1), np.array([0.2] * 5 + [0.0] * 5)
    psi, far = stability(before, now)
    assert psi == pytest.approx(5 * 0.1 * np.log(2) + 5 * (0.0005 - 0.1) * np.log(0.0005 / 0.1))
    assert far == pytest.approx(0.5)


def test_a_tally_tells_a_shift_from_none() -> None:
    rng = np.random.default_rng(0)
    end_ns = np.arange(1, 2001) * SECOND

    def panel(level: float) -> Panel:
        values = np.stack([rng.normal(0, 1, 2000), rng.normal(level, 1, 2000)], axis=1)[:, :, None]
        return Panel((SeriesKey.of("h", "a"), SeriesKey.of("h", "b")), ("p99",), SECOND, end_ns, values)

    reference = reference_of([panel(0.0)])
    tally = Tally(reference)
    tally.add(panel(1.0))
    (worst, psi, far, n), (_, least, _, _) = tally.drift()
    assert worst.startswith("b{")
    assert psi > 0.25 > 0.05 > least
    assert 0.3 < far < 0.5  # the exact distance of two normals one apart is 0.383
    assert n == 2000


@pytest.fixture
def place(tmp_path: Path) -> Path:
    trained = train(SPEC, ArraySource(events(0, 0, 2000)), 0, 2**62)
    digest = save_snapshots(tmp_path / "held.npz", {"detector": trained.snapshot})
    (tmp_path / "t.toml").write_text(f'store = "{tmp_path}/store"\nstate = "{tmp_path}/state.db"\n')
    with StateDB(str(tmp_path / "state.db")) as state:
        champion = Champion("held", "3", SPEC.to_dict(), str(tmp_path / "held.npz"), digest, START)
        state.promote(champion, who="test", why="test", verdict="")
    return tmp_path


def drift(place: Path, *more: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["--config", str(place / "t.toml"), "drift", *more])
    return result.exit_code, result.stdout


def test_a_champion_on_its_own_kind_of_day_holds(place: Path) -> None:
    with Store(place / "store") as store:
        store.append(events(1, 2000, 4000))
    code, said = drift(place, "--json", "--textfile", str(place / "t.prom"))
    found = json.loads(said)["champions"][0]
    assert code == 0, said
    assert found["drifted"] == 0
    assert not found["noisy"]
    assert 0.5 < found["days"][-1]["ratios"][0] < 2.0
    gauges = (place / "t.prom").read_text()
    assert 'tailwatch_drifted_channels{detector="held",version="3"} 0' in gauges


def test_a_champion_whose_inputs_moved_is_told(place: Path) -> None:
    with Store(place / "store") as store:
        store.append(events(1, 2000, 4000, level=120.0))
    code, said = drift(place)
    assert code == 1
    assert "1 channels drifted" in said
    assert "tailwatch train held" in said


def status(place: Path) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["--config", str(place / "t.toml"), "status"])
    return result.exit_code, result.stdout


def test_status_shows_the_last_verdict_of_each_champion(place: Path) -> None:
    with Store(place / "store") as store:
        store.append(events(1, 2000, 4000))
    code, said = status(place)
    assert code == 0
    assert "drift: held v3: never checked; run 'tailwatch drift' once a day" in said
    drift(place)
    code, said = status(place)
    assert code == 0
    assert "drift: held v3: holds, checked " in said
    with Store(place / "store") as store:
        store.append(events(2, 6000, 4000, level=120.0))
    drift(place, "--days", "0.04")
    code, said = status(place)
    assert code == 1
    assert "drift: held v3: 1 channels drifted" in said
    assert "-> see 'tailwatch drift held'; then 'tailwatch train held'" in said
    with StateDB(str(place / "state.db")) as state:  # another version: what was found of the old one is not its own
        champion = Champion("held", "4", SPEC.to_dict(), None, "", START)
        state.promote(champion, who="test", why="test", verdict="")
    code, said = status(place)
    assert code == 0
    assert "drift: held v4: never checked" in said
