from __future__ import annotations

import numpy as np
import pytest

from models.base import Model
from models.subspace import SubspaceModel
from telemetry.errors import ConfigError, StoreError
from telemetry.types import Float64, Panel, Scores, SeriesKey


def panel_of(values: Float64, names: str = "", first: int = 0) -> Panel:
    keys = tuple(SeriesKey.of("h", "m", i=n) for n in (names or range(values.shape[1])))
    return Panel(keys, ("value",), 10**9, (np.arange(len(values)) + 1 + first) * 10**9, values[:, :, None])


def run(model: SubspaceModel, panel: Panel) -> Scores:
    model.align(panel.keys)
    return model.advance(panel)


def shared(rows: int, series: int = 8, seed: int = 0) -> Float64:
    rng = np.random.default_rng(seed)
    load = rng.normal(0.0, 1.0, (rows, 2))
    return 50.0 + load @ np.random.default_rng(99).normal(0.0, 3.0, (2, series)) + rng.normal(0.0, 0.3, (rows, series))


def test_what_leaves_the_subspace_is_found_and_named() -> None:
    x = shared(3_000)
    x[2_500:2_505, 6] += 6.0  # well within its own range
    scores = run(SubspaceModel(rank=2), panel_of(x))
    s = scores.surprise[:, 0, 0]
    assert isinstance(SubspaceModel(), Model)
    assert np.isnan(s[:128]).all()
    assert s[2_500:2_505].max() > 3.0
    assert (s[500:2_500] > 3.0).mean() < 2e-3
    assert scores.parts is not None
    assert int(np.nanargmax(scores.parts[2_500, :, 0])) == 6
    assert scores.side[2_500, 6, 0] == 1


def test_splitting_restoring_and_gaps() -> None:
    x = shared(500)
    x[np.random.default_rng(1).random(x.shape) < 0.1] = np.nan
    x[300] = np.nan
    whole = run(SubspaceModel(), panel_of(x))
    first, second = SubspaceModel(), SubspaceModel()
    a = run(first, panel_of(x[:211]))
    second.restore({k: v.copy() for k, v in first.snapshot().items()})
    b = run(second, panel_of(x[211:], first=211))
    np.testing.assert_array_equal(np.concatenate([a.surprise, b.surprise]), whole.surprise)
    np.testing.assert_array_equal(np.concatenate([a.parts, b.parts]), whole.parts)
    assert np.isnan(whole.surprise[300]).all()
    without = run(SubspaceModel(), panel_of(np.delete(x, 300, axis=0))).surprise
    np.testing.assert_array_equal(np.delete(whole.surprise, 300, axis=0), without)


def test_series_come_and_go() -> None:
    x = shared(1_500, 4)
    model = SubspaceModel(rank=2)
    run(model, panel_of(x[:800, :3], names="abc"))
    s = run(model, panel_of(x[800:, [3, 0, 2]], names="dac", first=800)).surprise[:, 0, 0]
    assert np.isfinite(s).all()
    assert (s > 3.5).mean() < 0.01


def test_errors_are_one_line() -> None:
    with pytest.raises(ConfigError, match="rank must be in"):
        SubspaceModel(rank=0)
    with pytest.raises(StoreError, match="version and rank"):
        SubspaceModel(rank=3).restore(SubspaceModel().snapshot())


def test_a_quiet_night_leaves_it_sound() -> None:
    """Where nothing moves, forgetting goes on: what it knows of directions must stay a positive definite matrix."""
    model = SubspaceModel(rank=2, memory=50)
    run(model, panel_of(shared(500)))
    run(model, panel_of(np.full((20_000, 8), 50.0)))
    inverse = model.snapshot()["inverse"]
    assert np.linalg.eigvalsh(inverse).min() > 0.0
    s = run(model, panel_of(shared(2_000))).surprise[1_000:, 0, 0]
    assert (s > 0.0).mean() > 0.3
    assert (s > 3.0).mean() < 0.01
