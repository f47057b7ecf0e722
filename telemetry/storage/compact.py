"""Small files of one partition become one, in the order in which their rows are read."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import numpy as np

from telemetry.storage.columns import KeyTable
from telemetry.storage.cut import commit_files, empty_trash, remove_orphans
from telemetry.storage.manifest import Entry, locked, read_manifest
from telemetry.storage.merge import Stream, merge_streams
from telemetry.storage.partition import PartitionWriter
from telemetry.storage.reading import Snapshot

__all__ = ["compact"]


def compact(root: Path, rows: int) -> int:
    """Join neighbouring files of each family, day and host, up to `rows` each; return how many fewer there are."""
    fewer = 0
    with locked(root, "compact.lock", wait=False) as mine:
        if not mine:
            return 0
        with locked(root):
            remove_orphans(root)
        files = sorted(read_manifest(root).files, key=lambda f: (f.family, f.day, f.host, f.seen_min, f.order))
        for _, group in groupby(files, key=lambda f: (f.family, f.day, f.host)):
            for some in _batches(list(group), rows):
                fewer += _join(root, some)
        empty_trash(root)
    return fewer


def _batches(files: list[Entry], rows: int) -> list[list[Entry]]:
    out: list[list[Entry]] = [[]]
    total = 0
    for f in files:
        if out[-1] and total + f.rows > rows:
            out.append([])
            total = 0
        out[-1].append(f)
        total += f.rows
    return [b for b in out if len(b) > 1]


def _join(root: Path, files: list[Entry]) -> int:
    table = KeyTable()
    span = (-(2**63), 2**63 - 1)
    with Snapshot(root) as snapshot, PartitionWriter(root, f"c-{files[0].order}-{files[-1].order}", table.keys) as out:
        ordered = sorted(files, key=lambda f: f.order)
        streams = [Stream(f.seen_min, snapshot.file_rows(f, table, span, None)) for f in ordered]
        real = files[0].family.endswith(".float64")
        for rows, _, _ in merge_streams(streams, table):
            rows.value = rows.value.view(np.int64)
            out.write(rows, real)
        added = out.finish()
        with locked(root):
            manifest = read_manifest(root)
            if not {f.order for f in files} <= {f.order for f in manifest.files}:
                return 0  # trimmed meanwhile
            commit_files(root, manifest, add=added, remove=files)
    return len(files) - len(added)
