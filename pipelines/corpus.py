"""Backtest the catalogue on a folder of recorded lab runs, each from a cold start."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from detectors.fused import Fused
from detectors.signature import Signature
from pipelines.evaluate import evaluate, share
from pipelines.truth import judged_kinds, place_agrees
from telemetry.errors import InputError, NoDataError, TailwatchError
from telemetry.labfolder import LabFolder, is_lab_folder
from telemetry.types import Events, Incident, Label, Nanos

__all__ = [
    "Reliability",
    "RunResult",
    "corpus_runs",
    "main",
    "reliability",
    "run_corpus",
    "run_folder",
    "summary",
    "write_results",
]

WARM_NS = 10_000_000_000
"""Of each run so much is no clean time: from a cold start nothing can be found in it."""
FOREVER = 2**62


@dataclass(frozen=True, slots=True)
class RunResult:
    """What one run gave.

    `kind` is the kind found (``none`` when nothing was), `top_kinds` the causes in order, `place` where, `delay_s`
    from the start of the fault to the incident (None: missed), `false` the incidents outside of fault and recovery;
    `label` is the labelled kind and `kinds` all that count as right; `moved` is what the recording says of whether its
    fault moved anything, `place_right` whether the place agrees with the recorded one (None: not recorded); `missing`
    names the parts that the recording lacks.
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
    missing: tuple[str, ...] = ()

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


def incidents_of(
    folder: LabFolder, signatures: Sequence[Signature] | None = None
) -> tuple[list[Incident], Nanos, Nanos]:
    """The incidents that the catalogue finds in a run, as they last stood, and when the run began and ended."""
    fused = Fused(signatures)
    last: dict[str, Incident] = {}
    begin = end = 0
    for events in gathered(folder.source().read(0, FOREVER)):
        begin, end = begin or int(events.seen_ns[0]), int(events.seen_ns[-1])
        for change in fused.push(events)[1]:
            last[change.incident.id] = change.incident
    return sorted(last.values(), key=lambda x: (x.opened_ns, x.id)), begin, end


def run_folder(path: str | Path, signatures: Sequence[Signature] | None = None) -> RunResult:
    """Replay one run from a cold start and match what was found with its label."""
    folder = LabFolder(path)
    label: Label = folder.label
    span = json.loads((folder.path / "label.json").read_text())
    kinds = judged_kinds(label.note, str(span.get("kind") or ""), span.get("clean") is True)
    label = replace(label, kind=kinds[0])
    found, first, last = incidents_of(folder, signatures)
    start = _nanos(span.get("t0"), first)
    stop = start + _nanos(span.get("dur"), last - start)
    e = evaluate(found, [label], start + WARM_NS, max(stop, label.end_ns))
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
        place_right=place_agrees(best.place, place) if best and isinstance(place := span.get("place"), dict) else None,
        missing=folder.missing,
    )


def _nanos(seconds: object, otherwise: Nanos) -> Nanos:
    """Seconds of a label, in ns, or what is known without."""
    return round(float(seconds) * 1e9) if isinstance(seconds, (int, float)) else otherwise


def _moved(raw: object) -> bool | None:
    if isinstance(raw, dict):
        raw = raw.get("moved")
    return raw if isinstance(raw, bool) else None


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


@dataclass(frozen=True, slots=True)
class Reliability:
    """Incidents of faults whose first cause was held so likely: how many, what was said on average, what came true."""

    lo: float
    hi: float
    n: int
    said: float
    right: int


def reliability(results: Sequence[RunResult], edges: Sequence[float] = (0.0, 0.5, 0.8, 0.95, 1.0)) -> list[Reliability]:
    """Is a confidence what it says? Of the faults that were found, by the confidence of the first cause."""
    out = []
    for lo, hi in itertools.pairwise(edges):
        inside = [r for r in results if r.delay_s is not None and lo <= r.confidence < (hi if hi < 1.0 else 1.1)]
        said = sum(r.confidence for r in inside) / len(inside) if inside else 0.0
        out.append(Reliability(lo, hi, len(inside), said, sum(r.first for r in inside)))
    return out


def main(folder: Path, json_path: Path | None) -> None:
    """Run a corpus, say each result as it comes, then the shares; write the JSON if asked to."""
    import click

    def tell(r: RunResult) -> None:
        mark = "ok" if r.first or (r.label == "none" and not r.false) else "--"
        delay = "missed" if r.delay_s is None else f"{r.delay_s:.1f} s"
        what = f"{r.label}: {r.kind} {r.place} {delay}" if r.label != "none" else "clean"
        lacks = f", recorded without {', '.join(r.missing)}" if r.missing else ""
        click.echo(f"{mark} {r.run:24s} {what}" + (f", {r.false} false" if r.false else "") + lacks)

    broken: list[str] = []
    results = run_corpus(folder, tell=tell, broken=broken)
    for name, text in summary(results).items():
        click.echo(f"{name}: {text}")
    for x in reliability(results):
        if x.n:
            click.echo(f"confidence {x.lo:.0%} to {x.hi:.0%}: said {x.said:.0%}, right {share(x.right, x.n)}")
    if json_path is not None:
        write_results(json_path, results)
    if broken:
        raise InputError(f"{len(broken)} of {len(broken) + len(results)} runs were left out: {'; '.join(broken)}")


def write_results(path: str | Path, results: Sequence[RunResult]) -> None:
    """Write one JSON list, an object per run: ``run, kind, top_kinds, place, delay_s, false`` and more."""
    Path(path).write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n")
