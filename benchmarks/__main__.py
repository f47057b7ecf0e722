"""``python -m benchmarks [FAMILY] [--json FILE] [--quick] [--data DIR]``: measure, print a table, write rows."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import sys
import time
from pathlib import Path

import benchmarks
from benchmarks.rows import Row, to_json

FAMILIES = ("captures", "telemetry", "features", "models", "quality", "incidents", "backtest", "service")


def modules(family: str) -> list[str]:
    """Modules of a family: ``family`` and ``family_*``."""
    names = sorted(m.name for m in pkgutil.iter_modules(benchmarks.__path__))
    return [n for n in names if n == family or n.startswith(family + "_")]


def run(family: str, *, data: str | None, quick: bool) -> list[Row]:
    rows: list[Row] = []
    for name in modules(family):
        module = importlib.import_module(f"benchmarks.{name}")
        start = time.perf_counter()
        rows += module.run(data=data, quick=quick)
        print(f"# {name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return rows


def show(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "value", "unit", "goal", "met", "reason")
    for r in rows:
        value = "-" if r.value is None else f"{r.value:.4g}"
        goal = "" if r.goal is None else f"{r.direction} {r.goal:g}"
        met = {None: "", True: "yes", False: "no"}[r.met]
        table.add_row(r.name, value, r.unit, goal, met, r.reason)
    Console().print(table)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("family", nargs="?", choices=FAMILIES)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here")
    parser.add_argument("--quick", action="store_true", help="smaller workloads, for a first look")
    parser.add_argument("--data", default=os.environ.get("TAILWATCH_DATA"), help="folder of public corpora")
    args = parser.parse_args()
    if args.family is None:
        for family in FAMILIES:
            print(family, "-", ", ".join(modules(family)) or "nothing yet")
        return 0
    rows = run(args.family, data=args.data, quick=args.quick)
    show(rows)
    if args.json:
        args.json.write_text(json.dumps([to_json(r) for r in rows], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
