"""The tables that resolve kinds: plain strings in a spec to classes. Imported only when used."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from detectors.detector import Detector
from detectors.policy import Policy
from detectors.spec import DetectorSpec, unknown
from models.base import Model
from telemetry.errors import ConfigError
from telemetry.types import Part

__all__ = ["MODELS", "POLICIES", "build", "build_model", "build_policy"]

MODELS: dict[str, str] = {
    "light": "models.light:LightModel",
    "full": "models.ensemble:FullModel",
    "shift": "models.shift:ShiftModel",
    "joint": "models.joint:JointModel",
    "subspace": "models.subspace:SubspaceModel",
    "counts": "models.counts:CountModel",
    "river": "models.river_models:RiverModel",
    "sklearn": "models.sklearn_models:SklearnModel",
    "seasonal": "models.seasonal:SeasonalModel",
    "reference": "models.reference:ReferenceModel",
}

POLICIES: dict[str, str] = {
    "budget": "detectors.policy:BudgetPolicy",
    "rows": "detectors.policy_rows:RowsPolicy",
}


def _make(table: Mapping[str, str], what: str, part: Part, where: str) -> Any:
    if part.kind not in table:
        raise unknown(f"{what} kind", part.kind, table, where)
    module, _, name = table[part.kind].partition(":")
    made = getattr(importlib.import_module(module), name)
    parameters = inspect.signature(made).parameters
    for key in part.params:
        if key not in parameters:
            raise unknown(f"parameter of {what} {part.kind!r}", key, parameters, where)
    try:
        return made(**part.params)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {what} {part.kind!r}: {error}") from None


def build_model(part: Part, where: str = "spec.model") -> Model:
    """Make the model that `part` names.

    Raises
    ------
    ConfigError
        Unknown kind or parameter (with near matches), or a value out of range.
    """
    model: Model = _make(MODELS, "model", part, where)
    return model


def build_policy(part: Part, where: str = "spec.policy") -> Policy:
    """Make the policy that `part` names; raises as `build_model` does."""
    policy: Policy = _make(POLICIES, "policy", part, where)
    return policy


def build(spec: DetectorSpec, version: str = "0") -> Detector:
    """Make the detector that `spec` declares, cold."""
    from features.spec import build_features

    features = build_features(
        spec.features,
        lateness_ns=spec.lateness_ns,
        idle_timeout_ns=spec.idle_timeout_ns,
        calendar=spec.calendar or None,
    )
    build_model(spec.model)
    build_policy(spec.policy)
    return Detector(spec, version, features, lambda: build_model(spec.model), lambda: build_policy(spec.policy))
