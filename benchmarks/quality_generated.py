"""Quality on what nothing was tuned on: imitations of tweets, road sensors and advertisement prices, and changed copies
of NAB's files, all by NAB's rules at the fixed threshold."""

from __future__ import annotations

from pathlib import Path

from benchmarks.corpora import load_nab
from benchmarks.generated import Labelled, ad_prices, copies, road_sensor, tweet_counts
from benchmarks.rows import Row
from pipelines.detect import score_table
from pipelines.nab import PROFILES, Prepared, corpus_score, prepare
from pipelines.series_files import Table

__all__ = ["run"]


def _prepared(series: Labelled) -> Prepared:
    table = Table((), series.time_ns, ("v",), (), series.values[:, None], 0, True)
    return prepare(score_table(table, purpose="events").score[:, 0], series.windows)


def _rows(name: str, files: list[Prepared]) -> list[Row]:
    out = [Row(f"{name}_{p}", corpus_score(files, 0.5, PROFILES[p]).score, "score", None, ">=") for p in PROFILES]
    fixed = corpus_score(files, 0.5, PROFILES["standard"])
    return [*out, Row(f"{name}_false_per_1000", 1000.0 * fixed.false / fixed.rows, "alerts", 1.0, "<=")]


def run(*, data: str | None, quick: bool = False) -> list[Row]:
    """Score generated families, and copies of the files below ``data/series/nab`` if they are there."""
    every = 4 if quick else 1
    rows = _rows("tweets_like", [_prepared(tweet_counts(i)) for i in range(0, 32, every)])
    rows += _rows("traffic_like", [_prepared(road_sensor(i)) for i in range(0, 30, every)])
    rows += _rows("prices_like", [_prepared(ad_prices(i)) for i in range(0, 30, every)])
    folder = Path(data or "") / "series" / "nab"
    if data is None or not (folder / "windows.json").is_file():
        return [*rows, Row("nab_copies_standard", None, "score", None, ">=", "no series/nab in the data folder")]
    files: dict[str, list[Prepared]] = {}
    for seed, f in enumerate(load_nab(folder)[::every]):
        for name, copy in copies(Labelled(f.table.values[:, 0], f.table.time_ns, list(f.windows)), seed).items():
            files.setdefault(name, []).append(_prepared(copy))
    for name, found in files.items():
        rows += _rows(f"nab_{name}", found)
    return rows
