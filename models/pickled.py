"""Foreign objects (river's, scikit-learn's) as plain bytes: unpickled only after digest and versions were checked."""

from __future__ import annotations

import hashlib
import importlib.metadata
import pickle
import platform
from typing import Any

import numpy as np

from telemetry.errors import StoreError
from telemetry.types import State

__all__ = ["pack", "unpack"]


def _stamp(libraries: tuple[str, ...]) -> list[str]:
    python = ".".join(platform.python_version_tuple()[:2])
    return [f"python {python}", *(f"{name} {importlib.metadata.version(name)}" for name in libraries)]


def pack(thing: Any, libraries: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Pickle `thing` into a byte array, with its digest and the versions that wrote it."""
    data = pickle.dumps(thing, protocol=5)
    return {
        "pickle": np.frombuffer(data, np.uint8).copy(),
        "digest": np.array(hashlib.blake2b(data, digest_size=32).hexdigest()),
        "versions": np.array(_stamp(libraries)),
    }


def unpack(state: State, libraries: tuple[str, ...], what: str) -> Any:
    """Return what `pack` took.

    Raises
    ------
    StoreError
        If versions or digest differ; nothing is unpickled then.
    """
    wrote, here = [str(v) for v in state["versions"]], _stamp(libraries)
    if wrote != here:
        raise StoreError(f"{what}: state written by {', '.join(wrote)}; here is {', '.join(here)}: train it again")
    data = np.ascontiguousarray(state["pickle"], np.uint8).tobytes()
    digest = hashlib.blake2b(data, digest_size=32).hexdigest()
    if digest != str(state["digest"]):
        raise StoreError(f"{what}: state is damaged: expected digest {str(state['digest'])[:12]}, got {digest[:12]}")
    return pickle.loads(data)
