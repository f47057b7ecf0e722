"""From what a user types to detectors: a spec file, a registered version, or a name of the catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from detectors.build import build
from detectors.detector import Detector
from detectors.spec import DetectorSpec, unknown
from pipelines.live import catalogue_specs
from telemetry.errors import ConfigError
from telemetry.types import Snapshot

if TYPE_CHECKING:
    from pipelines.registry import Registry

__all__ = ["Candidate", "resolve"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A detector to be run: `snapshot` None starts cold."""

    spec: DetectorSpec
    version: str
    snapshot: Snapshot | None = None

    @property
    def label(self) -> str:
        return f"{self.spec.name}@{self.version}"

    @property
    def registered(self) -> bool:
        """Whether it is a version of the registry (not a file, nor the catalogue as it ships)."""
        return self.version.isdigit() and self.version != "0"

    def cold(self) -> Candidate:
        """The same without its state."""
        return Candidate(self.spec, self.version)

    def make(self) -> Detector:
        """A fresh detector, restored from its registered state."""
        detector = build(self.spec, self.version)
        if self.snapshot is not None:
            detector.restore(self.snapshot)
        return detector


def resolve(text: str, registry: Registry | None) -> list[Candidate]:
    """Resolve ``FILE.toml``, ``NAME``, ``NAME@alias``, ``NAME@version`` or ``catalogue`` (all that ship, cold).

    A bare name is the catalogue's detector (cold); with ``@`` it is the registry's.

    Raises
    ------
    ConfigError
        Nothing is called so (with near matches).
    """
    if text.endswith(".toml"):
        return [Candidate(DetectorSpec.from_file(Path(text)), "file")]
    specs = catalogue_specs()
    if text == "catalogue":
        return [Candidate(spec, "0") for spec in specs.values()]
    if "@" in text:
        from pipelines.registry import parse_name

        if registry is None:
            raise ConfigError(f"{text}: a registry is needed for versions and aliases (setting 'tracking')")
        name, alias, version = parse_name(text)
        found = registry.load(name, alias=alias, version=version)
        return [Candidate(found.spec, found.version, found.snapshot)]
    if text in specs:
        return [Candidate(specs[text], "0")]
    raise unknown("detector", text, [*specs, "catalogue"])
