"""Backtest the catalogue on a folder of recorded lab runs, each from a cold start."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from detectors.fused import Fused
from detectors.signature import Signature
from pipelines.evaluate import evaluate, share
from telemetry.errors import InputError, NoDataError, TailwatchError
from telemetry.labels import parse_scope
from telemetry.labfolder import LabFolder, is_lab_folder
from telemetry.types import Events, Incident, Label, Nanos

__all__ = [
    "ACCEPTED",
    "RunResult",
    "corpus_runs",
    "main",
    "place_agrees",
    "run_corpus",
    "run_folder",
    "summary",
    "write_results",
]

ACCEPTED: dict[str, tuple[str, ...]] = {"loss": ("network_gap", "tcp_loss")}
"""Lab faults that more than one kind describes."""

FOREVER = 2**62


@dataclass(frozen=True, slots=True)
class RunResult:
    """What one run gave.

    `kind` is the kind found (``none`` when nothing was), `top_kinds` the causes in order, `place` where, `delay_s`
    from the start of the fault to the incident (None: missed), `false` the incidents outside of fault and recovery;
    `label` is the labelled kind and `kinds` all that count as right; `moved` is what the recording says of whether its
    fault moved anything, `place_right` whether the place agrees with the recorded one (None: not recorded).
    """

    run: str
    kind: str
    top_kinds: tuple[str, ...]
    place: str
    delay_s: float | None
    false: int
    label: str
    fault: str
    kinds: tuple[str, ...]
    incidents: int
    clean_s: float
    confidence: float
    title: str
    moved: bool | None
    place_right: bool | None

    @property
    def first(self) -> bool:
        return bool(self.top_kinds) and self.top_kinds[0] in self.kinds

    @property
    def third(self) -> bool:
        return any(k in self.kinds for k in self.top_kinds[:3])


def corpus_runs(folder: str | Path) -> list[Path]:
    """The runs of a corpus, by name (the folder itself, if it is one).

    Raises
    ------
    InputError, NoDataError
    """
    here = Path(folder)
    if not here.is_dir():
        raise InputError(f"{here}: expected a folder of recorded runs")
    if is_lab_folder(here):
        return [here]
    found = sorted(p for p in here.iterdir() if is_lab_folder(p))
    if not found:
        raise NoDataError(f"{here}: no recorded runs (folders with proc_10hz.csv.gz and label.json)")
    return found


def gathered(batches: Iterable[Events], span_ns: Nanos = 200_000_000) -> Iterator[Events]:
    """Join small batches until they span `span_ns` of seen time (by the chunking law it changes nothing)."""
    held: list[Events] = []
    for batch in batches:
        if held and held[-1].value.dtype != batch.value.dtype:  # joined, exact integers would become floats
            yield _joined(held)
            held = []
        held.append(batch)
        if int(batch.seen_ns[-1]) - int(held[0].seen_ns[0]) >= span_ns:
            yield _joined(held)
            held = []
    if held:
        yield _joined(held)


def _joined(batches: list[Events]) -> Events:
    return batches[0] if len(batches) == 1 else Events.concat(batches)


def incidents_of(folder: LabFolder, signatures: Sequence[Signature] | None = None) -> list[Incident]:
    """The incidents that the catalogue finds in a run, as they last stood."""
    fused = Fused(signatures)
    last: dict[str, Incident] = {}
    for events in gathered(folder.source().read(0, FOREVER)):
        for change in fused.push(events)[1]:
            last[change.incident.id] = change.incident
    return sorted(last.values(), key=lambda x: (x.opened_ns, x.id))


def run_folder(path: str | Path, signatures: Sequence[Signature] | None = None) -> RunResult:
    """Replay one run from a cold start and match what was found with its label."""
    folder = LabFolder(path)
    label: Label = folder.label
    span = json.loads((folder.path / "label.json").read_text())
    kinds = tuple(str(k) for k in span.get("kinds", ())) or ACCEPTED.get(label.note, (label.kind,))
    label = replace(label, kind=kinds[0])
    found = incidents_of(folder, signatures)
    start = round(float(span.get("t0", label.start_ns / 1e9)) * 1e9)
    stop = start + round(float(span.get("dur", 60.0)) * 1e9)
    e = evaluate(found, [label], start, max(stop, label.end_ns))
    match = e.matches[0] if e.matches else None
    hit = match.finding if match else None
    best = next((x for x in found if hit is not None and x.id == hit.id), None)
    delay = match.delay_ns if match else None
    return RunResult(
        run=folder.run,
        kind=best.kind if best else "none",
        top_kinds=_named(best)[:5] if best else (),
        place=best.place if best else "",
        delay_s=None if delay is None else round(delay / 1e9, 3),
        false=len(e.false),
        label=label.kind,
        fault=label.note,
        kinds=kinds,
        incidents=(match.more + (hit is not None)) if match else 0,
        clean_s=e.clean_ns / 1e9,
        confidence=best.causes[0].confidence if best and best.causes else 0.0,
        title=best.title if best else "",
        moved=_moved(span.get("moved")),
        place_right=place_agrees(best.place, span.get("place") or {}) if best else None,
    )


def _moved(raw: object) -> bool | None:
    if isinstance(raw, dict):
        raw = raw.get("moved")
    return raw if isinstance(raw, bool) else None


def place_agrees(found: str, recorded: Mapping[str, object]) -> bool | None:
    """Whether a place names where the fault was and nowhere else; None where the recording does not say.

    A hop agrees in either direction. What the recording knows and the place does not name is no contradiction, as
    long as one of the labels agrees, or the place is the host for a fault of the host as a whole.
    """
    where = parse_scope(found)
    names = ("hop", "netns", "process", "cpu", "device", "port", "irq", "peer")
    wanted = {k: str(v) for k, v in recorded.items() if k in names and str(v) not in ("firewall", "disk")}
    layer = str(recorded.get("layer", ""))
    if not wanted and not layer:
        return None
    agreed = False
    for name in wanted.keys() & where.keys():
        have, want = set(where[name].split("|")), {wanted[name]}
        if name == "hop":
            ends = {frozenset(re.split("[->]+", h)) for h in have}
            good = frozenset(re.split("[->]+", wanted[name])) in ends
        elif name == "netns" and "hop" in where:
            continue
        else:
            good = bool(have & want)
        if not good:
            return False
        agreed = True
    if layer == "network":
        return agreed
    return agreed or "hop" not in where


def _named(incident: Incident) -> tuple[str, ...]:
    """Kinds in order; ``unknown`` only where it is the answer."""
    return tuple(c.kind for i, c in enumerate(incident.causes) if i == 0 or c.kind != "unknown")


def run_corpus(
    folder: str | Path,
    signatures: Sequence[Signature] | None = None,
    tell: Callable[[RunResult], None] | None = None,
    broken: list[str] | None = None,
) -> list[RunResult]:
    """All runs of a corpus, by name.

    Parameters
    ----------
    folder : path
    signatures : sequence of Signature, optional
        The catalogue by default.
    tell : callable, optional
        Hears each result as it comes.
    broken : list, optional
        Runs that cannot be read are said here and left out; without it they are an error.

    Raises
    ------
    InputError, NoDataError
    """
    results = []
    for path in corpus_runs(folder):
        try:
            result = run_folder(path, signatures)
        except TailwatchError as error:
            if broken is None:
                raise
            broken.append(str(error))
            continue
        if tell is not None:
            tell(result)
        results.append(result)
    return results


def summary(results: Sequence[RunResult]) -> dict[str, str]:
    """The shares that matter, each with its Wilson interval."""
    faults = [r for r in results if r.label != "none" and r.moved is not False]
    found = [r for r in faults if r.delay_s is not None]
    placed = [r for r in found if r.place_right is not None]
    delays = sorted(r.delay_s for r in found if r.delay_s is not None)
    clean_h = sum(r.clean_s for r in results) / 3600
    false = sum(r.false for r in results)
    return {
        "found": share(len(found), len(faults)),
        "right place": share(sum(bool(r.place_right) for r in placed), len(placed)),
        "one incident per fault": share(sum(r.incidents == 1 for r in found), len(found)),
        "right cause first": share(sum(r.first for r in found), len(found)),
        "right cause among three": share(sum(r.third for r in found), len(found)),
        "median delay": f"{delays[len(delays) // 2]:.1f} s" if delays else "-",
        "false incidents": f"{false} in {clean_h:.2f} clean hours",
    }


def main(folder: Path, json_path: Path | None) -> None:
    """Run a corpus, say each result as it comes, then the shares; write the JSON if asked to."""
    import click

    def tell(r: RunResult) -> None:
        mark = "ok" if r.first or (r.label == "none" and not r.false) else "--"
        delay = "missed" if r.delay_s is None else f"{r.delay_s:.1f} s"
        what = f"{r.label}: {r.kind} {r.place} {delay}" if r.label != "none" else "clean"
        click.echo(f"{mark} {r.run:24s} {what}" + (f", {r.false} false" if r.false else ""))

    broken: list[str] = []
    results = run_corpus(folder, tell=tell, broken=broken)
    for name, text in summary(results).items():
        click.echo(f"{name}: {text}")
    if json_path is not None:
        write_results(json_path, results)
    if broken:
        raise InputError(f"{len(broken)} of {len(broken) + len(results)} runs were left out: {'; '.join(broken)}")


def write_results(path: str | Path, results: Sequence[RunResult]) -> None:
    """Write one JSON list, an object per run: ``run, kind, top_kinds, place, delay_s, false`` and more."""
    Path(path).write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n")
