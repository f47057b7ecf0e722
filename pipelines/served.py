"""A registered detector as an MLflow pyfunc, from code. Stateless: each `predict` restores, scores and forgets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel  # type: ignore[attr-defined, unused-ignore]

__all__ = ["DetectorModel"]


class DetectorModel(PythonModel):
    """Long frame in (series, time_ns, value), one row per series and window out; see `pipelines.frames.score_frame`."""

    def load_context(self, context: Any) -> None:
        from detectors.spec import DetectorSpec
        from pipelines.savefile import load_snapshots

        self.spec = DetectorSpec.from_dict(json.loads(Path(context.artifacts["spec"]).read_text()))
        state = context.artifacts.get("state")
        self.snapshot = load_snapshots(Path(state), None)["detector"] if state else None

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        from pipelines.frames import score_frame

        wanted = (params or {}).get("state", "registered")
        if wanted not in ("registered", "cold"):
            raise ValueError(f"params.state: expected 'registered' or 'cold', got {wanted!r}")
        return score_frame(self.spec, self.snapshot if wanted == "registered" else None, model_input)


mlflow.models.set_model(DetectorModel())
