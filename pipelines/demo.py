"""The main job on real input: this host's own kernel and a recorded two-tap capture; backtest, registry, report."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from detectors.incidents import Grouper
from detectors.signature import load_catalogue
from pipelines.backtest import Outcome, backtest
from pipelines.config import Config, Harvest
from pipelines.engine import Engine, Step
from pipelines.ingest import ingest
from pipelines.judge import dossier
from pipelines.live import live_detectors
from pipelines.plots import costs_png, timeline_png
from pipelines.registry import Registry
from pipelines.report.page import render
from pipelines.resolve import Candidate
from pipelines.savefile import write_atomic
from pipelines.state import Champion, StateDB
from pipelines.storm import NAME
from pipelines.train import train
from pipelines.units import plan
from pipelines.watch import Watcher
from telemetry.errors import StoreError
from telemetry.labfolder import LabFolder
from telemetry.source import merge
from telemetry.store import Store
from telemetry.types import Incident, IncidentChange, Label, Nanos

__all__ = ["Found", "prepare", "run_host", "run_wire", "write_up"]

RECORDING = Path(__file__).parent / "demo_data" / "tail_latency"
SECOND = 1_000_000_000
LEARN_S, STORM_S, AFTER_S = 24.0, 8.0, 6.0
MARK = ".tailwatch-demo"

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Found:
    """A labelled fault and the incidents that the online run opened for it."""

    label: Label
    incidents: list[Incident]
    store: Path

    @property
    def best(self) -> Incident | None:
        """The first incident opened inside the label or up to 5 s after it."""
        inside = [i for i in self.incidents if self.label.start_ns <= i.opened_ns < self.label.end_ns + 5 * SECOND]
        return min(inside, key=lambda i: (i.opened_ns, i.id), default=None)

    def line(self, which: str) -> str:
        """What scripts read."""
        i = self.best
        if i is None:
            return f"INCIDENT {which} kind=none place=- delay_s=-"
        kind = i.causes[0].kind if i.causes else i.kind
        place = i.place.replace(" ", "_")
        return f"INCIDENT {which} kind={kind} place={place} delay_s={(i.opened_ns - self.label.start_ns) / 1e9:.1f}"


def prepare(out: Path) -> Config:
    """Make (or empty) the demo's folder.

    Raises
    ------
    StoreError
        The folder holds something else, or cannot be written.
    """
    try:
        if out.exists() and any(out.iterdir()):
            if not (out / MARK).exists():
                raise StoreError(f"{out}: is there already and is not a demo's folder; choose another with --out")
            shutil.rmtree(out)
        out.mkdir(parents=True, exist_ok=True)
        (out / MARK).touch()
    except OSError as error:
        raise StoreError(f"{out}: cannot be written: {error.strerror}") from None
    config = Config(
        store=str(out / "host-store"),
        state=str(out / "state.db"),
        tracking=f"sqlite:///{(out / 'mlflow.db').absolute()}",
        artifacts=str(out / "artifacts"),
        checkpoints=str(out / "checkpoints"),
        harvest=Harvest(hz=10.0, processes=[NAME]),
    )
    (out / "tailwatch.toml").write_text(
        "".join(
            f'{key} = "{Path(value).absolute() if key != "tracking" else value}"\n'
            for key, value in (
                ("store", config.store),
                ("state", config.state),
                ("tracking", config.tracking),
                ("artifacts", config.artifacts),
                ("checkpoints", config.checkpoints),
            )
        )
    )
    return config


def run_host(config: Config, tell: Tell, progress: Callable[[int], None]) -> Found:
    """Harvest this host at 10 Hz, learn, cause a bounded storm of context switches, and watch it being found."""
    host = socket.gethostname() or "localhost"
    cpu = max(os.sched_getaffinity(0))
    changes: list[IncidentChange] = []

    def on_step(step: Step) -> None:
        changes.extend(step.changes)
        for change in step.changes:
            if change.action == "opened":
                tell(f"opened: {change.incident.title}")

    watcher = Watcher(config, host=host, follow=False, part="host", namespaces=False, on_step=on_step)
    total = LEARN_S + STORM_S + AFTER_S
    storm = subprocess.Popen([sys.executable, "-m", "pipelines.storm", str(cpu), str(LEARN_S), str(STORM_S)])
    start_ns = time.time_ns() + round(LEARN_S * 1e9)
    try:
        runner = threading.Thread(target=watcher.run, args=(total,))
        runner.start()
        begun = time.monotonic()
        said = False
        while runner.is_alive():
            runner.join(0.5)
            elapsed = time.monotonic() - begun
            progress(int(10 * min(elapsed, total)))
            if elapsed > LEARN_S and not said:
                tell(f"now causing a storm of context switches on cpu {cpu} for {STORM_S:.0f} s")
                said = True
    except KeyboardInterrupt:
        watcher.stop.set()
        runner.join(15)
        raise
    finally:
        storm.terminate()
        storm.wait()
        watcher.close()
    label = Label(
        "demo-host", "context_switch_storm", f"host={host}", start_ns, start_ns + round(STORM_S * 1e9),
        start_ns + round(STORM_S * 1e9), "demo", "caused by the demo itself",
    )  # fmt: skip
    return Found(label, _last(changes), Path(config.store))


def run_wire(config: Config, tell: Tell) -> Found:
    """Put the recorded taps into a store of their own and score it as live."""
    folder = LabFolder(RECORDING)
    where = Path(config.store).with_name("wire-store")
    for done in ingest(plan([str(RECORDING)], (), ""), str(where)):
        tell(f"ingested {done.events} events of both taps, the host and the application")
    changes: list[IncidentChange] = []
    with StateDB(config.state) as state, Store(where, create=False) as store:
        engine = Engine(state, "wire", live_detectors(state), Grouper(), Path(config.checkpoints))
        for events in merge([store.read(0, 2**62)]):
            engine.push(events)
            for change in engine.step(time.time_ns()).changes:
                changes.append(change)
                if change.action == "opened":
                    tell(f"opened: {change.incident.title}")
        engine.checkpoint(time.time_ns())
    return Found(folder.label, _last(changes), where)


def _last(changes: list[IncidentChange]) -> list[Incident]:
    last: dict[str, Incident] = {}
    for change in changes:
        last[change.incident.id] = change.incident
    return list(last.values())


def write_up(config: Config, found: dict[str, Found], out: Path, tell: Tell) -> Path:
    """Train, backtest and register a detector of each kind; write the report. Returns its path."""
    registry = Registry(config.tracking, config.artifacts)
    specs = {s.kind: s.spec for s in load_catalogue()}
    outcomes: list[tuple[Outcome, Found]] = []
    for which, one in found.items():
        spec = specs[one.label.kind]
        with Store(one.store, create=False) as store, StateDB(config.state) as state:
            trained = train(spec, store, 0, one.label.start_ns)
            outcome = backtest(Candidate(spec, "0"), store, [one.label], 0, 2**62)
            outcomes.append((outcome, one))
            full = dossier(outcome, [one.label], f"demo-{which}")
            made = registry.register(spec, trained.snapshot, full)
            registry.alias(made.name, "champion", made.version)
            saved = registry.export_state(made, Path(config.checkpoints) / "champions")
            champion = Champion(
                made.name, made.version, spec.to_dict(), saved and saved[0], saved and saved[1], time.time_ns()
            )
            state.promote(champion, who="demo", why="first version")
            state.put_label(one.label)
        e = outcome.evaluation
        tell(f"{made.name} v{made.version}: found {e.found} of {len(e.matches)}, {len(e.false)} false alarms")
    incidents = [i for one in found.values() for i in one.incidents]
    stores = [Store(one.store, create=False) for one in found.values()]
    try:
        newest = sorted(incidents, key=lambda i: -i.onset_ns)
        page = render(newest, Joined(stores), title="Tailwatch demo", sections=_sections(outcomes))
    finally:
        for store in stores:
            store.close()
    report = out / "report.html"
    write_atomic(report, page.encode())
    return report


class Joined:
    """Several stores read as one source."""

    def __init__(self, stores: list[Store]) -> None:
        self._stores = stores

    def read(self, seen_from_ns: Nanos, seen_to_ns: Nanos):  # type: ignore[no-untyped-def]
        yield from merge([s.read(seen_from_ns, seen_to_ns) for s in self._stores])


def _sections(outcomes: list[tuple[Outcome, Found]]) -> list[tuple[str, str, list[bytes]]]:
    out = []
    for o, one in outcomes:
        e = o.evaluation
        text = (
            f"found {e.found} of {len(e.matches)}, delay {e.delay_s(0.5):.1f} s, {len(e.false)} false alarms "
            f"in {e.clean_ns / 60e9:.1f} clean minutes; {o.windows} windows, {o.points} points"
        )
        pngs = [timeline_png(*o.timeline, o.alerts, [one.label], o.candidate.label)]
        if o.costs:
            pngs.append(costs_png({o.candidate.label: o.costs}, "recall against false alarms, over budgets"))
        out.append((f"Backtest: {o.candidate.label}", text, pngs))
    return out
