from __future__ import annotations

import pytest

from detectors.build import MODELS, POLICIES, build
from detectors.spec import DetectorSpec, duration_ns
from telemetry.errors import ConfigError

TEXT = """
name = "tail"
kind = "tail_latency_creep"
lateness = "200ms"
[[features]]
kind = "window"
select = "wire_latency_ns"
window = "1s"
columns = ["p50", "p99"]
[model]
kind = "light"
[policy]
kind = "budget"
per_day = 2
"""


def test_toml_and_dict_give_equal_specs_and_digests() -> None:
    spec = DetectorSpec.from_toml(TEXT)
    assert spec.lateness_ns == 200_000_000
    again = DetectorSpec.from_dict(spec.to_dict())
    assert again == spec
    assert again.digest == spec.digest
    assert DetectorSpec.from_toml(TEXT.replace("p99", "p999")).digest != spec.digest


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('kind = "light"', 'kind = "lihgt"', "did you mean light"),
        ('kind = "budget"', 'kind = "bugdet"', "did you mean budget"),
        ("per_day = 2", "per_dya = 2", "did you mean per_day"),
        ("per_day = 2", "per_day = 0", "above 0"),
        ('kind = "window"', 'kind = "windows"', "window"),
        ('"p99"', '"q99"', "q99"),
        ('lateness = "200ms"', 'lateness = "fast"', "expected a duration"),
        ('name = "tail"', "", "expected a key 'name'"),
        ('name = "tail"', 'nmae = "tail"', "did you mean name"),
        ("[model]", "[model", "not TOML"),
    ],
)
def test_mistakes_are_told_with_what_was_meant(old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(DetectorSpec.from_toml(TEXT.replace(old, new)))


def test_every_kind_in_the_tables_can_be_imported() -> None:
    import importlib

    for target in [*MODELS.values(), *POLICIES.values()]:
        module, _, name = target.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize(("text", "ns"), [("100ms", 10**8), ("1s", 10**9), ("1.5m", 9 * 10**10), (7, 7), ("2us", 2000)])
def test_durations(text: str | int, ns: int) -> None:
    assert duration_ns(text, "x") == ns


def test_a_calendar_adds_the_clock() -> None:
    detector = build(DetectorSpec.from_toml('calendar = "XNYS"\n' + TEXT))
    assert any(c.startswith("clock_") for c in detector.features.columns)  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="XNYZ"):
        build(DetectorSpec.from_toml('calendar = "XNYZ"\n' + TEXT))
