"""From a log segment to Parquet files, and how a change of files becomes true for everyone at once."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from telemetry.storage.index import SegmentIndex
from telemetry.storage.log import still_there
from telemetry.storage.manifest import Entry, Manifest, locked, read_manifest, write_manifest
from telemetry.storage.partition import PartitionWriter
from telemetry.storage.segments import log_batches, segment_name, segments

__all__ = ["adopt", "commit_files", "cut_segment", "cut_up_to", "empty_trash", "remove_orphans"]

TRASH_S = 900.0


def adopt(root: Path) -> int:
    """Cut the segments that no living writer holds; return the bytes of torn tails left out."""
    return sum(cut_segment(root, path) for path in segments(root))


def cut_up_to(root: Path, path: Path) -> int:
    """Cut a writer's segments in order, up to this one."""
    name = segment_name(path)
    return sum(cut_segment(root, p) for p in segments(root) if name and (segment_name(p) or ("", 0))[0] == name[0])


def cut_segment(root: Path, path: Path) -> int:
    """Turn a segment that nobody writes any more into Parquet; return the bytes of its torn tail.

    A segment held by a writer is left alone; so is one before which another of the same writer still waits (the
    manifest knows a writer's segments by one number).
    """
    name = segment_name(path)
    if name is None:
        return 0
    try:
        file = path.open("r+b")
    except FileNotFoundError:
        return 0
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        if not still_there(path, file.fileno()):
            return 0
        cut = read_manifest(root).cut
        if cut.get(name[0], 0) > name[1]:
            path.unlink(missing_ok=True)
            return 0
        if _earlier(root, name, cut):
            return 0
        index = SegmentIndex()
        index.extend(file.fileno())
        with PartitionWriter(root, path.stem, index.keys) as out:
            for rows, real in log_batches(file.fileno(), index):
                if not real.any():
                    out.write(rows, False)
                else:
                    out.write(rows[~real], False)
                    out.write(rows[real], True)
            files = out.finish()
            with locked(root):
                manifest = read_manifest(root)
                if _earlier(root, name, manifest.cut):
                    return 0
                writers = {n[0] for p in (root / "log").glob("*.twl") if (n := segment_name(p))}
                manifest.cut = {w: n for w, n in manifest.cut.items() if w in writers}
                manifest.cut[name[0]] = max(name[1] + 1, manifest.cut.get(name[0], 0))
                commit_files(root, manifest, add=files)
        path.unlink(missing_ok=True)
        return index.lost


def _earlier(root: Path, name: tuple[str, int], cut: dict[str, int]) -> bool:
    names = (segment_name(p) for p in segments(root, cut))
    return any(n is not None and n[0] == name[0] and n[1] < name[1] for n in names)


def commit_files(
    root: Path, manifest: Manifest, *, add: Sequence[tuple[Path, Entry]] = (), remove: Sequence[Entry] = ()
) -> None:
    """Bring files in and out, under the store's lock: moved into place, then named, then the old ones out of sight."""
    gone = {f.order for f in remove}
    files = [f for f in manifest.files if f.order not in gone]
    for path, entry in add:
        order = manifest.next_order
        manifest.next_order += 1
        target = root / entry.path
        target = target.with_name(f"{target.stem}-{order}.parquet")  # a name that no reader can know another file by
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
        files.append(msgspec.structs.replace(entry, path=str(target.relative_to(root)), order=order))
    manifest.files = files
    write_manifest(root, manifest)
    trash = root / "trash"
    for f in remove:
        trash.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            (root / f.path).replace(trash / f"{f.order}.parquet")
        _prune((root / f.path).parent, root)


def empty_trash(root: Path) -> None:
    """Delete what was replaced long enough ago that no reader is still at it, and scratch files of the dead.

    On a disk that is all but full, what was replaced goes at once: a reader that fails may come again, rows that
    cannot be written are gone.
    """
    now_s = time.time()  # the age of files is a matter of the file system's clock, not of event time
    disk = shutil.disk_usage(root)
    full = disk.free < max(disk.total // 50, 64 << 20)
    for folder in ("trash", "tmp"):
        for path in (root / folder).glob("*.parquet"):
            with contextlib.suppress(FileNotFoundError):
                if now_s - path.stat().st_ctime > TRASH_S or (full and folder == "trash"):
                    path.unlink()


def remove_orphans(root: Path) -> int:
    """Delete Parquet files that no manifest names (a crash between moving and naming). Under the store's lock."""
    named = {f.path for f in read_manifest(root).files}
    gone = 0
    for path in root.glob("family=*/day=*/host=*/*.parquet"):
        if str(path.relative_to(root)) not in named:
            path.unlink()
            gone += 1
    return gone


def _prune(folder: Path, root: Path) -> None:
    while folder != root:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
