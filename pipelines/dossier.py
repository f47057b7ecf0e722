"""What is kept about a version and its evaluations, and what it was made of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectors.spec import DetectorSpec
from telemetry.types import Alert, Snapshot

__all__ = ["Dossier", "Evaluated", "Registered", "alert_table", "code_digest", "flat", "libraries"]


@dataclass(frozen=True, slots=True)
class Registered:
    """A version as the registry knows it."""

    name: str
    version: str
    spec: DetectorSpec
    snapshot: Snapshot | None
    run_id: str
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A version's evaluation on a corpus; a row is a labelled incident (`incident, kind, found, delay_s, ...`)."""

    version: str
    corpus: str
    run_id: str
    at_ms: int
    rows: tuple[Mapping[str, Any], ...]

    @property
    def caught(self) -> dict[str, bool]:
        return {str(r["incident"]): bool(r["found"]) for r in self.rows}


@dataclass(frozen=True, slots=True)
class Dossier:
    """What a backtest or a training found, to be logged with a version.

    `metrics` are grouped by data set name; `pictures` maps a file name to PNG bytes, `pages` to HTML.
    """

    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    pages: Mapping[str, str] = field(default_factory=dict)
    alerts: Sequence[Alert] = ()
    incidents: Sequence[Mapping[str, Any]] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    data: Any = None  # a pandas frame or None: logged as the run's input
    data_digest: str = ""
    context: str = "evaluation"  # or training: what the data was for


def code_digest() -> str:
    """Digest of Tailwatch's own source (what made this version)."""
    root = Path(__file__).resolve().parent.parent
    h = hashlib.blake2b(digest_size=12)
    for package in ("telemetry", "features", "models", "detectors", "pipelines"):
        for file in sorted((root / package).rglob("*.py")):
            h.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return h.hexdigest()


def alert_table(alerts: Sequence[Alert]) -> Any:
    """Alerts as a pandas frame."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "id": a.id, "detector": a.detector, "kind": a.kind, "series": str(a.series), "column": a.column,
                "end_ns": a.end_ns, "onset_ns": a.onset_ns, "surprise": a.surprise, "score": a.score,
                "value": a.value, "expected": a.expected, "grade": a.grade,
            }
            for a in alerts
        ]
    )  # fmt: skip


def flat(spec: DetectorSpec) -> dict[str, Any]:
    """All parameters of a spec by dotted names."""
    out: dict[str, Any] = {"kind": spec.kind, "model.kind": spec.model.kind, "policy.kind": spec.policy.kind}
    for i, part in enumerate(spec.features):
        out |= {f"features.{i}.kind": part.kind, **{f"features.{i}.{k}": v for k, v in part.params.items()}}
    out |= {f"model.{k}": v for k, v in spec.model.params.items()}
    out |= {f"policy.{k}": v for k, v in spec.policy.params.items()}
    return out


def libraries() -> dict[str, str]:
    """Versions of what a state's numbers depend on."""
    from importlib.metadata import version

    return {n: version(n) for n in ("numpy", "numba", "scikit-learn", "statsmodels", "river", "pandas", "pyarrow")}
