"""What goes into a store whole: inputs sorted into captures, sets of taps that are matched, and lab runs."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from telemetry.capture.fileset import captures_in
from telemetry.errors import InputError
from telemetry.labfolder import is_lab_folder

__all__ = ["PACKED", "Unit", "plan", "tap_name"]

PACKED: Final = (".gz", ".zst", ".lz4", ".xz", ".bz2")
_SUFFIXES: Final = (*PACKED, ".pcap", ".pcapng", ".cap", ".erf", ".snoop")


@dataclass(frozen=True, slots=True)
class Unit:
    """What goes in whole: a lab run (`lab`), or captures by tap (each a rotated set of files)."""

    name: str
    host: str
    taps: tuple[tuple[str, tuple[str, ...]], ...] = ()
    lab: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """All files of the unit."""
        if self.lab:
            return tuple(str(p) for p in sorted(Path(self.lab).iterdir()) if p.is_file())
        return tuple(f for _, files in self.taps for f in files)


def plan(inputs: Sequence[str], taps: Sequence[tuple[str, str]], host: str) -> list[Unit]:
    """Sort inputs into units.

    Parameters
    ----------
    inputs : captures and lab folders; a folder that holds lab runs stands for them, one of captures, or a glob, for a
        rotated set
    taps : (name, file) pairs, matched with each other; a name given twice is a rotated set, in order

    Raises
    ------
    InputError
        If a path is not there, or a folder or glob holds neither a run nor a capture.
    """
    units = []
    for text in inputs:
        path = Path(text)
        if path.is_dir() or (glob.has_magic(text) and not path.exists()):
            runs = [path] if is_lab_folder(path) else sorted(p for p in path.glob("*/") if is_lab_folder(p))
            if runs:
                units += [Unit(str(r), "lab", lab=str(r)) for r in runs]
            else:
                units.append(Unit(text, host, ((tap_name(path), tuple(captures_in(text))),)))
        else:
            _there(path)
            units.append(Unit(str(path), host, ((tap_name(path), (str(path),)),)))
    if taps:
        sets: dict[str, list[str]] = {}
        for name, file in taps:
            _there(Path(file))
            sets.setdefault(name, []).append(file)
        label = " ".join(f"{name}={','.join(files)}" for name, files in sets.items())
        units.append(Unit(label, host, tuple((n, tuple(f)) for n, f in sets.items())))
    return units


def tap_name(source: str | Path) -> str:
    """A capture's tap by default: its file's name without endings."""
    name = "stdin" if source == "-" else Path(source).name.strip("*?[]") or "capture"
    while True:
        for suffix in _SUFFIXES:
            if name.lower().endswith(suffix) and len(name) > len(suffix):
                name = name[: -len(suffix)]
                break
        else:
            return name


def _there(path: Path) -> None:
    if not path.exists():
        raise InputError(f"{path}: expected a capture or a lab run, there is nothing")
    if not path.is_file():
        raise InputError(f"{path}: expected a file (a pipe can be loaded alone, as it comes)")
