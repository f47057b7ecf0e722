"""Detector versions in MLflow: registered models with spec, state, digests, metrics, pictures and alerts.

MLflow is imported here and nowhere else on purpose: live scoring never waits for it. Aliases are ``champion`` and
``challenger``. State is plain arrays in an npz; its digest is a tag and is checked before it is loaded.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from detectors.build import build
from detectors.spec import DetectorSpec
from pipelines.dossier import Dossier, Evaluated, Registered, alert_table, code_digest, flat, libraries
from pipelines.reach import alone, answers, without_password
from pipelines.savefile import load_snapshots, save_snapshots
from telemetry.errors import ConfigError, StoreError
from telemetry.types import Snapshot

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # the default of 7 waits for minutes
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

__all__ = ["Registry", "parse_name"]

MODEL_FILE = Path(__file__).with_name("served.py")


def parse_name(text: str) -> tuple[str, str | None, str | None]:
    """Split ``NAME[@alias|@version]`` into (name, alias, version)."""
    name, at, what = text.partition("@")
    if not name or (at and not what):
        raise ConfigError(f"detector: expected NAME, NAME@alias or NAME@version, got {text!r}")
    if not at:
        return name, None, None
    number = what.removeprefix("v")
    return (name, None, number) if number.isdigit() else (name, what, None)


class Registry:
    """Versions of detectors.

    Parameters
    ----------
    tracking : str
        An MLflow tracking URI.
    artifacts : str
        Folder of artifacts of a local SQLite store (servers have their own).
    experiment : str
    """

    def __init__(self, tracking: str, artifacts: str = "", experiment: str = "tailwatch") -> None:
        self.tracking, self.artifacts = tracking, artifacts
        answers(tracking)
        with alone(tracking):
            import mlflow
            from mlflow.exceptions import MlflowException

            self._mlflow = mlflow
            self._error = MlflowException
            mlflow.set_tracking_uri(tracking)
            mlflow.set_registry_uri(tracking)
            self.client = mlflow.MlflowClient(tracking, tracking)
            with self._plain_errors():
                found = self.client.get_experiment_by_name(experiment)
                if found is None:
                    where = Path(artifacts).absolute().as_uri() if artifacts and tracking.startswith("sqlite") else None
                    self._experiment = self.client.create_experiment(experiment, artifact_location=where)
                else:
                    self._experiment = found.experiment_id

    @contextmanager
    def _plain_errors(self) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            answers(self.tracking)
            raise StoreError(f"MLflow at {without_password(self.tracking)}: {str(error).splitlines()[0]}") from None

    @contextmanager
    def _writing(self) -> Iterator[str]:
        """A scratch folder, and the store to oneself: writers of one SQLite file take turns."""
        with self._plain_errors(), alone(self.tracking), tempfile.TemporaryDirectory() as folder:
            yield folder

    def register(
        self, spec: DetectorSpec, snapshot: Snapshot | None, evaluation: Dossier, *, parent: str | None = None
    ) -> Registered:
        """Log a run with everything about this version and register it; returns the version.

        A snapshot of None registers a detector that starts cold.
        """
        mlflow = self._mlflow
        import numpy as np
        import pandas as pd
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

        tags = {
            "tailwatch.detector": spec.name,
            "tailwatch.spec_digest": spec.digest,
            "tailwatch.code_digest": code_digest(),
            "tailwatch.data_digest": evaluation.data_digest,
            "tailwatch.libraries": json.dumps(libraries()),
            **evaluation.tags,
        }
        signature = ModelSignature(
            inputs=Schema([ColSpec("string", "series"), ColSpec("long", "time_ns"), ColSpec("double", "value")]),
            outputs=Schema(
                [
                    ColSpec("string", "series"),
                    ColSpec("long", "end_ns"),
                    ColSpec("double", "surprise"),
                    ColSpec("double", "anomaly_score"),
                    ColSpec("long", "alert"),
                ]
            ),
            params=ParamSchema([ParamSpec("state", "string", "registered")]),
        )
        example = pd.DataFrame(
            {"series": ['demo{host="h"}'] * 3, "time_ns": np.arange(3) * 1_000_000_000, "value": [1.0, 2.0, 1.5]}
        )
        with self._writing() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            spec_file = Path(folder, "spec.json")
            spec_file.write_text(json.dumps(spec.to_dict(), indent=1, sort_keys=True))
            artifacts = {"spec": str(spec_file)}
            if snapshot is not None:
                state_file = Path(folder, "state.npz")
                tags["tailwatch.state_digest"] = save_snapshots(state_file, {"detector": snapshot})
                artifacts["state"] = str(state_file)
            nested = {"mlflow.parentRunId": parent} if parent else {}
            with mlflow.start_run(experiment_id=self._experiment, run_name=spec.name, tags={**tags, **nested}) as run:
                self._log_common(spec, evaluation, Path(folder))
                model = mlflow.pyfunc.log_model(
                    name=spec.name,
                    python_model=str(MODEL_FILE),
                    artifacts=artifacts,
                    signature=signature,
                    input_example=(example, {"state": "registered"}),
                    pip_requirements=[f"{k}=={v}" for k, v in libraries().items()],
                )
                self._log_metrics(evaluation, model.model_id)
                with redirect_stderr(io.StringIO()):  # it greets each version on standard error
                    version = mlflow.register_model(model.model_uri, spec.name, tags=tags)
        return Registered(spec.name, str(version.version), spec, snapshot, run.info.run_id, tags)

    def log_run(self, spec: DetectorSpec, evaluation: Dossier, *, parent: str | None = None) -> str:
        """Log an evaluation without a new version; returns the run's id."""
        tags = {"tailwatch.detector": spec.name, "tailwatch.spec_digest": spec.digest, **evaluation.tags}
        nested = {"mlflow.parentRunId": parent} if parent else {}
        about: dict[str, Any] = {"experiment_id": self._experiment, "run_name": spec.name, "tags": {**tags, **nested}}
        with self._writing() as folder, self._mlflow.start_run(**about) as run:
            self._log_common(spec, evaluation, Path(folder))
            self._log_metrics(evaluation, None)
        return str(run.info.run_id)

    def _log_common(self, spec: DetectorSpec, evaluation: Dossier, folder: Path) -> None:
        import pandas as pd

        mlflow = self._mlflow
        mlflow.log_params({k: str(v)[:500] for k, v in {**flat(spec), **evaluation.params}.items()})
        mlflow.log_dict(spec.to_dict(), "spec.json")
        for file, data in evaluation.pictures.items():
            target = folder / file
            target.write_bytes(data)
            mlflow.log_artifact(str(target), "pictures")
        for file, text in evaluation.pages.items():
            mlflow.log_text(text, file)
        if evaluation.alerts:
            mlflow.log_table(alert_table(evaluation.alerts), "alerts.json")
        if evaluation.incidents:
            mlflow.log_table(pd.DataFrame(list(evaluation.incidents)), "incidents.json")

    def _log_metrics(self, evaluation: Dossier, model_id: str | None) -> None:
        mlflow = self._mlflow
        for name, values in evaluation.metrics.items():
            clean = {k: float(v) for k, v in values.items() if v is not None and v == v}
            dataset = None
            if evaluation.data is not None:
                digest = evaluation.data_digest or None
                with warnings.catch_warnings():  # of pandas' versions, and integers that are never missing here
                    warnings.simplefilter("ignore")
                    dataset = mlflow.data.from_pandas(evaluation.data, name=name, digest=digest)
                    mlflow.log_input(dataset, context=evaluation.context)
            if model_id is not None:
                mlflow.log_metrics(clean, model_id=model_id, dataset=dataset)
            mlflow.log_metrics({f"{name}.{k}": v for k, v in clean.items()})

    def evaluations(self, name: str, corpus: str | None = None) -> list[Evaluated]:
        """What backtests said of each version and incident (the newest for each version and corpus), by version."""
        with self._plain_errors():
            of = {v.run_id: str(v.version) for v in self.client.search_model_versions(f"name='{name}'")}
            mine = f"tags.`tailwatch.detector` = '{name}' AND tags.`tailwatch.corpus` LIKE '%'"  # no folds, no trials
            runs = self.client.search_runs([self._experiment], mine, max_results=1000)
        found: dict[tuple[str, str], Evaluated] = {}
        for run in runs:  # newest first
            about = run.data.tags
            version = about.get("tailwatch.version") or of.get(run.info.run_id, "")
            where = about.get("tailwatch.corpus", "")
            if version and where and corpus in (None, where) and (version, where) not in found:
                rows = tuple(self.incident_rows(run.info.run_id))
                found[version, where] = Evaluated(version, where, run.info.run_id, run.info.start_time, rows)
        return sorted(found.values(), key=lambda e: (e.corpus, int(e.version)))

    def incident_rows(self, run_id: str) -> list[dict[str, Any]]:
        """A run's labelled incidents: found, delay, cause right."""
        with self._plain_errors(), tempfile.TemporaryDirectory() as folder:
            if not any(f.path == "incidents.json" for f in self.client.list_artifacts(run_id)):
                return []
            table = json.loads(Path(self.client.download_artifacts(run_id, "incidents.json", folder)).read_text())
        return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]

    def load(self, name: str, *, alias: str | None = None, version: str | None = None) -> Registered:
        """Fetch a version by number or alias (neither: the newest).

        Raises
        ------
        ConfigError
            No such detector, alias or version.
        StoreError
            Its state is not the one that was registered, or not readable by these libraries (which differ is said).
        """
        found = self._find(name, alias, version)
        with self._plain_errors(), tempfile.TemporaryDirectory() as folder:
            local = Path(self._mlflow.artifacts.download_artifacts(artifact_uri=found.source, dst_path=folder))
            spec = DetectorSpec.from_dict(json.loads((local / "artifacts" / "spec.json").read_text()), name)
            state = local / "artifacts" / "state.npz"
            snapshot = None
            if state.exists():
                snapshot = load_snapshots(state, found.tags.get("tailwatch.state_digest"))["detector"]
                self._readable(spec, snapshot, str(found.version), found.tags)
        return Registered(name, str(found.version), spec, snapshot, found.run_id or "", dict(found.tags))

    @staticmethod
    def _readable(spec: DetectorSpec, snapshot: Snapshot, version: str, tags: Mapping[str, str]) -> None:
        """Restore once, so that a version that cannot run here is told when it is fetched."""
        try:
            build(spec, version).restore(snapshot)
        except StoreError as error:
            wrote = json.loads(tags.get("tailwatch.libraries", "{}"))
            here = libraries()
            differ = [f"{n} {v} (here {here.get(n, 'none')})" for n, v in sorted(wrote.items()) if here.get(n) != v]
            why = f"; it was made with {', '.join(differ)}" if differ else ""
            raise StoreError(f"{spec.name} v{version} cannot be loaded here: {error}{why}; train it again") from None

    def _find(self, name: str, alias: str | None, version: str | None) -> Any:
        try:
            if alias is not None:
                return self.client.get_model_version_by_alias(name, alias)
            if version is not None:
                return self.client.get_model_version(name, version)
            versions = self.client.search_model_versions(f"name='{name}'")
        except self._error as error:
            what = f"@{alias}" if alias else f" version {version}" if version else ""
            raise ConfigError(f"registry: no {name}{what} ({str(error).splitlines()[0]})") from None
        if not versions:
            raise ConfigError(f"registry: no detector {name!r}; known: {', '.join(self.names()) or 'none'}")
        return max(versions, key=lambda v: int(v.version))

    def names(self) -> list[str]:
        """Detectors that have versions."""
        with self._plain_errors():
            return sorted(m.name for m in self.client.search_registered_models())

    def versions(self, name: str) -> list[dict[str, Any]]:
        """Versions of a detector, oldest first, with aliases and tags."""
        with self._plain_errors():
            found = sorted(self.client.search_model_versions(f"name='{name}'"), key=lambda v: int(v.version))
            aliases: dict[str, list[str]] = {}
            if found:
                for alias, version in self.client.get_registered_model(name).aliases.items():
                    aliases.setdefault(str(version), []).append(alias)
        return [
            {
                "version": str(v.version),
                "run_id": v.run_id,
                "aliases": aliases.get(str(v.version), []),
                "tags": dict(v.tags),
                "created_ms": v.creation_timestamp,
            }
            for v in found
        ]

    def metrics(self, run_id: str) -> dict[str, float]:
        """Last metrics of a run."""
        with self._plain_errors():
            return dict(self.client.get_run(run_id).data.metrics)

    def alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias at a version."""
        with self._plain_errors():
            self.client.set_registered_model_alias(name, alias, version)

    def export_state(self, registered: Registered, folder: Path) -> tuple[str, str] | None:
        """Save a version's state where scoring reads it without MLflow; returns (path, digest)."""
        if registered.snapshot is None:
            return None
        path = folder / f"{registered.name}-v{registered.version}.npz"
        return str(path), save_snapshots(path, {"detector": registered.snapshot})
