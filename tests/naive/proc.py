"""Naive twins of the kernels that read /proc."""

from __future__ import annotations

import re


def numbers(text: bytes, *, hexa: bool = False) -> list[int]:
    """All numbers of a file, by splitting and int()."""
    out = []
    for word in re.split(rb"[ \t\r\n\0=]+", text):
        if hexa and re.fullmatch(rb"[0-9a-fA-F]+", word):
            out.append(wrap(int(word, 16)))
        elif not hexa and re.fullmatch(rb"-?[0-9]+(\.[0-9]*)?", word):
            out.append(wrap(int(word.split(b".")[0])))
    return out


def wrap(value: int) -> int:
    """As a signed number of 64 bits."""
    return (value + 2**63) % 2**64 - 2**63


def sockets(text: bytes) -> list[tuple[int, int, int, int]]:
    """Port, queue, drops, inode of each line of ``net/udp``."""
    out = []
    for line in text.split(b"\n")[1:]:
        words = line.split()
        if words:
            out.append(
                (int(words[1].split(b":")[1], 16), int(words[4].split(b":")[1], 16), int(words[-1]), int(words[9]))
            )
    return out
