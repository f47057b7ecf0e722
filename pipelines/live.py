"""What scores live: champions from the state database, or the catalogue as it ships."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from detectors.build import build
from detectors.detector import Detector
from detectors.fused import fuse
from detectors.incidents import Grouper
from detectors.signature import load_catalogue
from detectors.spec import DetectorSpec, unknown
from pipelines.config import Config
from pipelines.savefile import load_snapshots
from pipelines.state import Champion, StateDB
from telemetry.labels import read_labels
from telemetry.types import Snapshot

__all__ = ["catalogue_specs", "live_detectors", "make_grouper", "shadow_detectors"]


def catalogue_specs() -> dict[str, DetectorSpec]:
    """The detectors that ship, by name (signatures may share one)."""
    return {s.spec.name: s.spec for s in load_catalogue()}


def live_detectors(state: StateDB, only: Sequence[str] = ()) -> Callable[[str], list[Detector]]:
    """Return a maker of one host's detectors: each champion from its registered state, the rest of the catalogue cold.

    Signatures without a champion share detectors (see ``detectors/fused.py``), but a challenged one stands alone, so
    that it and its challenger can be compared.

    Parameters
    ----------
    only : names of signatures or champions; all by default

    Raises
    ------
    ConfigError
        Nobody has a name of `only`.
    """
    known = {*catalogue_specs(), *(c.detector for c in state.champions())}
    for name in only:
        if name not in known:
            raise unknown("detector", name, known, "scoring.detectors")
    champions = {c.detector: c for c in state.champions() if not only or c.detector in only}
    challenged = {c.detector for c in state.champions("challenger")}
    rest = [s for s in load_catalogue() if s.spec.name not in champions and (not only or s.spec.name in only)]
    shared = [s for s in rest if s.spec.name not in challenged]
    specs = {spec.name: spec for spec in fuse(shared)} if shared else {}
    specs |= {s.spec.name: s.spec for s in rest if s.spec.name in challenged}
    return _maker(specs, champions)


def shadow_detectors(state: StateDB) -> Callable[[str], list[Detector]]:
    """Return a maker of one host's challengers."""
    return _maker({}, {c.detector: c for c in state.champions("challenger")})


def make_grouper(config: Config) -> Grouper:
    """The grouper with what the configuration says of expected events and kernel bypass."""
    expected = read_labels(config.scoring.expected) if config.scoring.expected else ()
    return Grouper(expected=expected, bypass=config.scoring.bypass)


def _maker(specs: Mapping[str, DetectorSpec], champions: Mapping[str, Champion]) -> Callable[[str], list[Detector]]:
    specs = {**specs, **{name: DetectorSpec.from_dict(c.spec, name) for name, c in champions.items()}}
    loaded: dict[str, Snapshot] = {}

    def snapshot(champion: Champion) -> Snapshot | None:
        if champion.path is None:
            return None
        if champion.detector not in loaded:
            loaded[champion.detector] = load_snapshots(Path(champion.path), champion.digest)["detector"]
        return loaded[champion.detector]

    def make(host: str) -> list[Detector]:
        out = []
        for name in sorted(specs):
            champion = champions.get(name)
            detector = build(specs[name], champion.version if champion else "0")
            registered = snapshot(champion) if champion else None
            if registered is not None:
                detector.restore(registered)
            out.append(detector)
        return out

    return make
