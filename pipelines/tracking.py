"""MLflow, or a spool while its server is away: nothing that a run found is lost, and nothing waits for it.

A spooled run is a folder of plain files beside the artifacts; `send` (``tailwatch sync``) logs it as it would have been
and removes it. Reading needs the server: then there is one clear line.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detectors.spec import DetectorSpec
from pipelines.codec import decode_alert, encode
from pipelines.config import Config
from pipelines.dossier import Dossier
from pipelines.reach import Unreachable
from pipelines.registry import Registry
from pipelines.savefile import load_snapshots, save_snapshots
from telemetry.errors import StoreError
from telemetry.types import Snapshot

if TYPE_CHECKING:
    from pipelines.dossier import Registered

__all__ = ["Logged", "Spool", "Tracker", "open_registry"]

PENDING = "spool-"


@dataclass(frozen=True, slots=True)
class Logged:
    """Where a run went: `run_id` of MLflow, or of the spool; `version` is empty unless it was registered."""

    run_id: str
    version: str = ""

    @property
    def spooled(self) -> bool:
        return self.run_id.startswith(PENDING)


class Spool:
    """Runs that wait for the server, oldest first."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def waiting(self) -> list[Path]:
        """Entries, oldest first."""
        return sorted(p for p in self.folder.glob(f"{PENDING}*") if (p / "entry.json").is_file())

    def put(
        self,
        spec: DetectorSpec,
        dossier: Dossier,
        *,
        snapshot: Snapshot | None = None,
        register: bool = False,
        alias: str = "",
        parent: str = "",
    ) -> Logged:
        """Keep a run; whole or not at all."""
        name = f"{PENDING}{time.time_ns()}-{uuid.uuid4().hex[:6]}"
        hidden = self.folder / f".{name}"
        try:
            hidden.mkdir(parents=True)
            for kind, files in (("pictures", dossier.pictures), ("pages", dossier.pages)):
                (hidden / kind).mkdir()
                for file, data in files.items():
                    (hidden / kind / file).write_bytes(data if isinstance(data, bytes) else data.encode())
            if snapshot is not None:
                save_snapshots(hidden / "state.npz", {"detector": snapshot})
            if dossier.data is not None:
                dossier.data.to_parquet(hidden / "data.parquet")
            (hidden / "alerts.jsonl").write_text("".join(encode(a) + "\n" for a in dossier.alerts))
            entry = {
                "spec": spec.to_dict(), "metrics": dossier.metrics, "params": dossier.params,
                "incidents": list(dossier.incidents), "data_digest": dossier.data_digest,
                "context": dossier.context, "register": register, "alias": alias, "parent": parent,
                "tags": {**dossier.tags, "tailwatch.spooled_ns": str(time.time_ns())},
            }  # fmt: skip
            (hidden / "entry.json").write_text(json.dumps(entry, default=str))
            os.replace(hidden, self.folder / name)
        except OSError as error:
            shutil.rmtree(hidden, ignore_errors=True)
            raise StoreError(f"{self.folder}: the run cannot be kept there: {error.strerror}") from None
        return Logged(name)

    def send(self, registry: Registry, tell: Callable[[str], None] | None = None) -> int:
        """Log what waits, in order; stops (and keeps the rest) when the server goes away again."""
        sent = self._sent()
        for n, path in enumerate(self.waiting()):
            entry, dossier, snapshot = self._read(path)
            spec = DetectorSpec.from_dict(entry["spec"], str(path))
            parent = sent.get(entry["parent"], entry["parent"]) or None
            try:
                if entry["register"]:
                    made = registry.register(spec, snapshot, dossier, parent=parent)
                    sent[path.name] = made.run_id
                    if entry["alias"]:
                        registry.alias(spec.name, entry["alias"], made.version)
                else:
                    sent[path.name] = registry.log_run(spec, dossier, parent=parent)
            except Unreachable as error:
                raise Unreachable(f"{error}; {n} runs were sent, {len(self.waiting())} still wait") from None
            (self.folder / "sent.json").write_text(json.dumps(sent))
            shutil.rmtree(path)
            if tell is not None:
                tell(f"{spec.name}: run {sent[path.name]}")
        count = len(sent)
        (self.folder / "sent.json").unlink(missing_ok=True)  # only needed while parents wait
        return count

    def _sent(self) -> dict[str, str]:
        try:
            return dict(json.loads((self.folder / "sent.json").read_text()))
        except (OSError, ValueError):
            return {}

    def _read(self, path: Path) -> tuple[dict[str, Any], Dossier, Snapshot | None]:
        try:
            entry: dict[str, Any] = json.loads((path / "entry.json").read_text())
            data = None
            if (path / "data.parquet").exists():
                import pandas as pd

                data = pd.read_parquet(path / "data.parquet")
            state = path / "state.npz"
            snapshot = load_snapshots(state, None)["detector"] if state.exists() else None
            dossier = Dossier(
                metrics=entry["metrics"],
                pictures={p.name: p.read_bytes() for p in sorted((path / "pictures").iterdir())},
                pages={p.name: p.read_text() for p in sorted((path / "pages").iterdir())},
                alerts=[decode_alert(line) for line in (path / "alerts.jsonl").read_text().splitlines()],
                incidents=entry["incidents"],
                params=entry["params"],
                tags=entry["tags"],
                data=data,
                data_digest=entry["data_digest"],
                context=entry["context"],
            )  # fmt: skip
        except (OSError, ValueError, KeyError) as error:
            raise StoreError(
                f"{path}: a spooled run that cannot be read ({error}); move it away to send the rest"
            ) from None
        return entry, dossier, snapshot


class Tracker:
    """Where runs are logged: MLflow, or the spool while its server is away.

    Parameters
    ----------
    config : Config
    tell : callable, optional
        Told once that runs are spooled.
    """

    def __init__(self, config: Config, tell: Callable[[str], None] | None = None) -> None:
        self._config, self._tell = config, tell
        self._registry: Registry | None = None
        self._away: Unreachable | None = None
        self.spool = Spool(Path(config.artifacts).with_name("spool"))

    @property
    def registry(self) -> Registry:
        """The registry itself.

        Raises
        ------
        Unreachable
            The server does not answer.
        """
        if self._registry is None:
            self._registry = open_registry(self._config)
        return self._registry

    @property
    def reader(self) -> Registry | None:
        """The registry if it answers (for what is nice to know)."""
        try:
            return None if self._away else self.registry
        except Unreachable as error:
            self._gone(error)
            return None

    def _gone(self, error: Unreachable) -> None:
        if self._away is None and self._tell is not None:
            self._tell(f"{error}; runs are kept in {self.spool.folder} and sent by 'tailwatch sync'")
        self._away = error

    def log(
        self,
        spec: DetectorSpec,
        dossier: Dossier,
        *,
        snapshot: Snapshot | None = None,
        register: bool = False,
        alias: str = "",
        parent: str = "",
    ) -> Logged:
        """Log a run (with `register` a version, to which `alias` then points), now or later."""
        if self._away is None and not parent.startswith(PENDING):
            try:
                registry = self.registry
                if not register:
                    return Logged(registry.log_run(spec, dossier, parent=parent or None))
                made: Registered = registry.register(spec, snapshot, dossier, parent=parent or None)
                if alias:
                    registry.alias(made.name, alias, made.version)
                return Logged(made.run_id, made.version)
            except Unreachable as error:
                self._gone(error)
        return self.spool.put(spec, dossier, snapshot=snapshot, register=register, alias=alias, parent=parent)


def open_registry(config: Config) -> Registry:
    """The registry of a configuration; raises `Unreachable` at once if its server does not answer."""
    return Registry(config.tracking, config.artifacts)
