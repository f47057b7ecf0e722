"""Any text as configuration, spec or series name: a clear error or a value, never anything else."""

from __future__ import annotations

import contextlib
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from detectors.build import build
from detectors.signature import load_signature
from detectors.spec import DetectorSpec
from pipelines.config import Config, load
from telemetry.errors import TailwatchError
from telemetry.types import SeriesKey

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(max_size=80))
@example('store = "\\u0000"')
@example("harvest = 1")
@example("sinks = { alertmanager = {} }")
def test_configuration(tmp_path: Path, text: str) -> None:
    file = tmp_path / "t.toml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        assert isinstance(load(str(file)), Config)
    except TailwatchError as error:
        assert str(file) in str(error)


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.sampled_from(["name", "features", "model", "policy", "kind", "lateness", "x"]), plain))
def test_specs(data: dict[str, object]) -> None:
    try:
        DetectorSpec.from_dict(data)
    except TailwatchError as error:
        assert "spec" in str(error)


@settings(max_examples=40, deadline=None)
@given(plain, st.sampled_from(["select", "window", "columns", "nonsense"]))
def test_feature_parameters(value: object, name: str) -> None:
    part = {"kind": "window", "select": "m", "window": "1s", "columns": ["p50"], name: value}
    try:
        build(DetectorSpec.from_dict({"name": "n", "features": [part], "model": "light"}))
    except TailwatchError as error:
        assert "\n" not in str(error)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_signatures_and_series_names(text: str) -> None:
    for read in (load_signature, SeriesKey.parse):
        with contextlib.suppress(TailwatchError):
            read(text)
