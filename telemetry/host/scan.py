"""The one kernel behind all of /proc's tables: the numbers out, and a hash of everything that is not a number.

A file of /proc keeps its shape for hours while its numbers move. So the names are read once, slowly, and told by
the ordinal of each number; afterwards a pass over the bytes gives all numbers, and the hash says whether the
shape (names, number of columns, lines) is still the one that was read. A CPU that goes away, a new IRQ, another
kernel's column: each changes the hash, and the names are read anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from telemetry.types import Int64

__all__ = ["Field", "Token", "lines", "scan_fields"]


class Token(NamedTuple):
    """A word of a line; `number` is its ordinal among the file's numbers, or -1."""

    text: str
    number: int


@dataclass(frozen=True, slots=True)
class Field:
    """A number of a file that is a series: which one, and its unit's factor."""

    metric: str
    labels: tuple[tuple[str, str], ...]
    number: int
    scale: int = 1


def lines(text: bytes, *, hexa: bool = False) -> list[list[Token]]:
    """Split a file as the kernel below does: words at blanks and ``=``; numbers are counted.

    A number is digits with an optional sign and fraction (the fraction is dropped), or, with `hexa`, hex digits.
    """
    out = []
    count = 0
    for line in text.decode("ascii", "replace").split("\n"):
        tokens = []
        for word in line.replace("=", " ").replace("\t", " ").replace("\r", " ").replace("\0", " ").split(" "):
            if not word:
                continue
            if _is_number(word, hexa):
                tokens.append(Token(word, count))
                count += 1
            else:
                tokens.append(Token(word, -1))
        out.append(tokens)
    return out


@njit(cache=True, nogil=True)
def scan_fields(
    text: NDArray[np.uint8], n: int, hexa: bool, numbers: Int64, pick: Int64, scale: Int64, out: Int64
) -> tuple[int, int]:  # pragma: no cover - compiled
    """Read all numbers of ``text[:n]`` into `numbers`, then ``out[i] = numbers[pick[i]] * scale[i]``.

    Returns
    -------
    (count, shape) : count of numbers (may exceed the room; then nothing beyond it is written), hash of the rest.

    Notes
    -----
    Unsigned 64 bit numbers above the range of int64 wrap, as the kernel's own negative gauges do.
    """
    count = 0
    shape = np.uint64(1469598103934665603)
    prime = np.uint64(1099511628211)
    room = len(numbers)
    at = 0
    while at < n:
        c = text[at]
        if c == 10:
            shape = (shape ^ np.uint64(count + 256)) * prime
            at += 1
            continue
        if c == 32 or c == 61 or c == 9 or c == 13 or c == 0:
            at += 1
            continue
        start = at
        value = 0
        is_number = True
        digits = 0
        fraction = False
        while at < n:
            c = text[at]
            if c == 32 or c == 10 or c == 61 or c == 9 or c == 13 or c == 0:
                break
            if is_number:
                if 48 <= c <= 57:
                    if not fraction:
                        value = value * (16 if hexa else 10) + (c - 48)
                    digits += 1
                elif hexa and 97 <= c <= 102:
                    value = value * 16 + (c - 87)
                    digits += 1
                elif hexa and 65 <= c <= 70:
                    value = value * 16 + (c - 55)
                    digits += 1
                elif not hexa and c == 46 and digits > 0 and not fraction:
                    fraction = True
                elif not hexa and c == 45 and at == start:
                    pass
                else:
                    is_number = False
            at += 1
        if is_number and digits > 0:
            if count < room:
                numbers[count] = -value if text[start] == 45 else value
            count += 1
        else:
            for i in range(start, at):
                shape = (shape ^ np.uint64(text[i])) * prime
            shape = (shape ^ np.uint64(32)) * prime
    shape = (shape ^ np.uint64(count + 256)) * prime
    for i in range(len(pick)):
        j = pick[i]
        out[i] = numbers[j] * scale[i] if 0 <= j < min(count, room) else 0
    return count, np.int64(shape >> np.uint64(1))  # type: ignore[return-value]


def _is_number(word: str, hexa: bool) -> bool:
    if hexa:
        return all(c in "0123456789abcdefABCDEF" for c in word)
    body = word[1:] if word[0] == "-" else word
    whole, point, fraction = body.partition(".")
    return (
        whole.isascii()
        and whole.isdigit()
        and (not point or not fraction or (fraction.isascii() and fraction.isdigit()))
    )
