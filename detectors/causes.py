"""Rank the signatures against the whole evidence: what deviates, in which shape, where, and what stays quiet.

Evidence adds up in units of decimal evidence (log10 of a likelihood ratio), one sum per signature; the sums compete
with each other and with ``unknown``, so that a confidence is a share of belief (naive Bayes). Pieces of evidence are
not independent, so the sums say too much: `SHARPNESS` is what makes confidences most likely (log loss) on 184 recorded
incidents of two seeds, whole and with series taken away or thinned out. A third seed then says whether a confidence is
what it says (``tailwatch backtest --corpus`` prints the table).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from detectors.evidence import Track, shaped
from detectors.sentence import say
from detectors.signature import Evidence, Signature, load_catalogue
from telemetry.types import Alert, Cause, Nanos, SeriesKey

__all__ = ["CAP_UNPROVEN", "Facts", "matchers", "place_of", "rank", "rank_facts"]

SHARPNESS = 0.8
UNKNOWN = 0.6
CAP_UNPROVEN = 0.5
LEAST = 0.02
"""Causes below this confidence are not named."""

SECOND = 1_000_000_000
LATE_NS = 3 * SECOND
NEVER = 2**62
MOST_NAMED = 3
KERNEL_BYPASSED = ("kernel",)
FELT = ("app_", "wire_latency", "wire_lost", "tcp_rtt", "tick_to_trade", "feed_gap", "feed_delay")
QUALITY = (
    ("capture_drops", 1.0, 0.8, "the capture dropped packets"),
    ("capture_damages", 1.0, 0.8, "the capture is damaged: packets are missing in it"),
    ("capture_steps_back", 1.0, 0.85, "times in the capture run backwards"),
    ("clock_offset_ns", 1e5, 0.7, "a clock was off"),
    ("sampler_late_ns", 2e7, 0.85, "the sampler was late"),
)
"""What lowers every confidence: a series, from which value on, by which factor, and why."""


@dataclass(slots=True)
class Facts:
    """What one incident has shown so far.

    `opened_ns` is when the incident was opened (0: not yet), `now_ns` how late it is. `tracks` maps (signature,
    evidence, channel) to what was seen; `known` says since when a series that a piece of evidence selects is watched;
    `bypassed` that the flows concerned bypass the kernel's network stack; `quality` names what is wrong with the
    measurement itself.
    """

    tracks: dict[tuple[int, int, str], Track]
    known: Mapping[tuple[int, int], Nanos]
    opened_ns: Nanos = 0
    now_ns: Nanos = 0
    bypassed: bool = False
    quality: frozenset[str] = frozenset()

    def of(self, s: int, i: int) -> list[Track]:
        return [t for (a, b, _), t in self.tracks.items() if a == s and b == i]


def rank_facts(signatures: Sequence[Signature], facts: Facts) -> tuple[Cause, ...]:
    """Causes, the likeliest first; ``unknown`` among them with what is left of belief."""
    by: dict[tuple[int, int], list[Track]] = {}
    for (s, i, _), track in facts.tracks.items():
        by.setdefault((s, i), []).append(track)
    scored = []
    rest = 10.0 ** (SHARPNESS * UNKNOWN)
    for s, signature in enumerate(signatures):
        if signature.kind == "unknown":
            continue
        found = _score(s, signature, facts, by)
        if found is not None:
            scored.append((10.0 ** (SHARPNESS * found[0]), s, found[1], found[2]))
    whole = rest + sum(x[0] for x in scored)
    doubted = [q for q in QUALITY if q[0] in facts.quality]
    ranked: list[tuple[float, Cause]] = []
    for belief, s, because, against in scored:
        signature = signatures[s]
        share = belief / whole
        if not signature.proven and share > CAP_UNPROVEN:
            share = CAP_UNPROVEN
            against = [*against, "unproven: no recorded incident of this kind yet"]
        own = {t.series.metric for (a, _), tracks in by.items() if a == s for t in tracks}
        confidence = share
        for name, _, factor, why in doubted:
            if name not in own:  # a clock that is off is no doubt that a clock is off
                confidence *= factor
                against = [*against, why]
        if confidence >= LEAST:
            place = matchers(place_of(signature, s, by))
            cause = Cause(signature.kind, signature.cause, round(confidence, 3), place, tuple(because), tuple(against),
                          signature.proven)  # fmt: skip
            ranked.append((share, cause))
    # doubt about the measurement lowers what is said, and does not make another answer likelier
    ranked.sort(key=lambda x: (-x[0], x[1].kind))
    causes = [cause for _, cause in ranked]
    left, undoubted = (max(0.0, 1.0 - sum(x)) for x in ([c.confidence for c in causes], [x[0] for x in ranked]))
    moved = _whatever(signatures, by)
    why_not = tuple(q[3] for q in doubted)
    unknown = Cause("unknown", "no signature explains all of this", round(left, 3), "", moved, why_not)
    causes.insert(next((i for i, x in enumerate(ranked) if x[0] < undoubted), len(ranked)), unknown)
    return tuple(causes)


def _whatever(signatures: Sequence[Signature], by: Mapping[tuple[int, int], list[Track]]) -> tuple[str, ...]:
    """What deviates, whichever signature asked for it, latency and loss first: ``unknown`` comes with its evidence."""
    told: dict[str, tuple[float, str]] = {}
    for (s, i), tracks in sorted(by.items()):
        item = signatures[s].evidence[i]
        seen = [t for t in tracks if t.held_ns and shaped(t, item)]
        if seen:
            felt = any(t.series.metric.startswith(FELT) for t in seen)
            size = max(t.count for t in seen) + 1000.0 * felt + 1000.0 * (signatures[s].kind == "unknown")
            channel = f"{max(seen, key=lambda t: (t.total, str(t.series))).series}"
            told[channel] = max(told.get(channel, (0.0, "")), (size, say(item, seen)))
    best = sorted(told.values(), key=lambda x: (-x[0], x[1]))
    return tuple(dict.fromkeys(text for _, text in best[: 2 * MOST_NAMED]))[:MOST_NAMED]


def _score(
    s: int, signature: Signature, facts: Facts, by: Mapping[tuple[int, int], list[Track]]
) -> tuple[float, list[str], list[str]] | None:
    """Sum of evidence, what speaks for it and what against; None where required evidence is missing."""
    if facts.bypassed and signature.layer in KERNEL_BYPASSED:
        return None
    total, because, against = signature.prior, [], []
    needs: dict[str, bool] = {}
    for i, item in enumerate(signature.evidence):
        tracks = by.get((s, i), [])
        seen = [t for t in tracks if shaped(t, item)]
        many = len({label_of(t.series, item.distinct) for t in seen}) if item.distinct else len(seen)
        if not item.series[0] <= many <= item.series[1]:
            seen = []
        watched = facts.known.get((s, i), NEVER) <= (facts.now_ns or NEVER - 1)
        if item.role == "required":
            group = item.group or f"#{i}"
            needs[group] = needs.get(group, False) or bool(seen)
        if item.unwatched and not watched and not seen:
            total -= item.unwatched
            against.append(f"not watched: {item.name}")
        much = _persistence(seen, item, facts)
        if item.role == "quiet":
            if seen:
                total -= much * item.weight
                against.append(say(item, seen))
            elif watched:
                total += min(0.2, 0.2 * item.weight)
                because.append(f"{item.name}: quiet")
        elif seen:
            total += much * item.weight
            because.append(say(item, seen))
        elif watched and item.missing:
            total -= item.missing
            against.append(f"not seen: {item.name}")
    if not all(needs.values()):
        return None
    return total, because, against


def _persistence(seen: Sequence[Track], item: Evidence, facts: Facts) -> float:
    """How much of its weight evidence has: all of it if it spans half of the time that the incident has lasted.

    What came and went while the incident goes on is a coincidence more often than its cause, and so is what began
    when the incident had long been open.
    """
    if not seen or not facts.opened_ns:
        return 1.0
    span = max(t.last_ns - t.first_ns + max(item.hold[1] * t.window_ns, SECOND) for t in seen)
    share = min(1.0, 2.0 * span / max(facts.now_ns - facts.opened_ns, 1))
    late = min(t.first_ns for t in seen) - facts.opened_ns > LATE_NS
    return 0.5 * share if late else share


def place_of(signature: Signature, s: int, by: Mapping[tuple[int, int], list[Track]]) -> dict[str, str]:
    """Where: of each label that the signature localises by, the value that carries most of its weightiest evidence."""
    order = sorted(
        (i for i, item in enumerate(signature.evidence) if item.role != "quiet" and item.places),
        key=lambda i: (-signature.evidence[i].weight, signature.evidence[i].role != "required", i),
    )
    out: dict[str, str] = {}
    for label in signature.localise:
        for i in order:
            share: dict[str, float] = {}
            for t in by.get((s, i), []):
                value = label_of(t.series, label)
                if value and shaped(t, signature.evidence[i]):
                    share[value] = share.get(value, 0.0) + t.total
            if not share:
                continue
            most = sum(share.values())
            value = max(sorted(share), key=lambda v: share[v])
            if share[value] >= 0.6 * most:
                out[label] = value
                break
            if len(share) <= MOST_NAMED and label not in ("flow", "name"):
                out[label] = "|".join(sorted(share))
            break
    for pair in signature.place:
        name, _, value = pair.partition("=")
        out[name] = value
    return out


def label_of(key: SeriesKey, label: str) -> str:
    """A label; ``hop`` is ``from>to``."""
    if label == "hop":
        a, b = key.label("from"), key.label("to")
        return f"{a}>{b}" if a and b else ""
    return key.label(label)


def matchers(place: Mapping[str, str]) -> str:
    """``host=lab,process=strat``; commas in values are written as ``;``."""
    return ",".join(f"{k}={v.replace(',', ';')}" for k, v in place.items() if v)


def rank(
    alerts: Iterable[Alert],
    quiet: Collection[SeriesKey] = (),
    signatures: Sequence[Signature] | None = None,
    *,
    bypass: bool = False,
) -> tuple[Cause, ...]:
    """Rank the causes of some alerts, given the series that are known to be quiet.

    Parameters
    ----------
    alerts : iterable of Alert
        In time order.
    quiet : collection of SeriesKey
        Series that are watched; those that do not deviate count as evidence too.
    signatures : sequence of Signature, optional
        The catalogue by default.
    bypass : bool
        Whether the flows concerned bypass the kernel's network stack.
    """
    chosen = tuple(load_catalogue() if signatures is None else signatures)
    tracks: dict[tuple[int, int, str], Track] = {}
    known: dict[tuple[int, int], Nanos] = {}
    items: list[tuple[int, int, Evidence]] = [
        (s, i, item) for s, signature in enumerate(chosen) for i, item in enumerate(signature.evidence)
    ]
    for alert in alerts:
        for s, i, item in items:
            if item.selects(alert.series, alert.column):
                known.setdefault((s, i), alert.end_ns)
                if item.counts(alert):
                    key = (s, i, f"{alert.series}\x1f{alert.column}")
                    track = tracks.setdefault(key, Track(alert.series, alert.column, alert.window_ns))
                    track.add(alert, item)
    for series in quiet:
        for s, i, item in items:
            if item.selects(series, item.column):
                known.setdefault((s, i), 0)
    return rank_facts(chosen, Facts(tracks, known, bypassed=bypass))
