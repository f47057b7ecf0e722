from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.host.scan import lines, scan_fields
from telemetry.host.threads import scan_task, scan_three
from telemetry.host.udp import scan_sockets
from tests.naive.proc import numbers, sockets

TREES = sorted((Path(__file__).parents[1] / "fixtures/proc").iterdir())
TREE = next(t for t in TREES if t.name == "linux-5.14")
NONE = np.empty(0, np.int64)
TEXTS = [
    "cpu0",
    "12",
    "0",
    "-5",
    "3.14",
    "24:",
    "=",
    " ",
    "\n",
    "\t",
    "1e5",
    "18446744073709551615",
    "-",
    ".5",
    "5.",
    "1.2.3",
    "ff",
    "0x1",
]
WORDS = st.sampled_from([*(t.encode() for t in TEXTS), b"\xff\xfe", b"\0", b"9" * 30])


def scan(text: bytes, hexa: bool, room: int | None = None) -> tuple[int, list[int]]:
    out = np.zeros(len(text) + 1 if room is None else room, np.int64)
    count, _ = scan_fields(np.frombuffer(text, np.uint8), len(text), hexa, out, NONE, NONE, NONE)
    return count, out[: min(count, len(out))].tolist()


def shape_of(text: bytes) -> tuple[int, int]:
    room = np.empty(len(text) + 1, np.int64)
    return scan_fields(np.frombuffer(text, np.uint8), len(text), False, room, NONE, NONE, NONE)


@settings(max_examples=200, deadline=None)
@given(st.lists(WORDS, max_size=30).map(b"".join) | st.binary(max_size=60), st.booleans())
def test_numbers_as_the_naive_twin(text: bytes, hexa: bool) -> None:
    count, found = scan(text, hexa)
    assert found == numbers(text, hexa=hexa)
    assert count == len(found)
    if text.isascii():  # the slow splitter counts the same numbers in the same order
        ordinals = [t.number for row in lines(text, hexa=hexa) for t in row if t.number >= 0]
        assert ordinals == list(range(count))


@pytest.mark.parametrize("tree", TREES, ids=lambda p: p.name)
def test_every_fixture_file(tree: Path) -> None:
    files = [p for p in tree.rglob("*") if p.is_file()]
    assert len(files) >= 10
    for path in files:
        text = path.read_bytes()
        assert scan(text, False)[1] == numbers(text)


def test_numbers_move_but_the_shape_stays() -> None:
    a = b"cpu0 1 2\nintr 5\n"
    assert shape_of(a) == shape_of(b"cpu0 100 20000\nintr   7\n")
    renamed, wider, moved, longer = (
        b"cpu1 1 2\nintr 5\n", b"cpu0 1 2 3\nintr 5\n", b"cpu0 1\nintr 2 5\n", a + b"new 1\n"
    )  # fmt: skip
    assert all(shape_of(a) != shape_of(other) for other in (renamed, wider, moved, longer, b""))


def test_room_is_never_exceeded() -> None:
    guard = np.full(4, -7, np.int64)
    text = b"1 2 3 4 5 6"
    pick, out = np.array([0, 5, -1]), np.full(3, 9, np.int64)
    count, _ = scan_fields(np.frombuffer(text, np.uint8), len(text), False, guard[:2], pick, np.ones(3, np.int64), out)
    assert count == 6
    assert guard.tolist() == [1, 2, -7, -7]
    assert out.tolist() == [1, 0, 0]  # what is out of reach is 0, never another's memory


def test_udp_sockets() -> None:
    text = (TREE / "proc/net/udp").read_bytes()
    rows = np.zeros((8, 4), np.int64)
    count, shape = scan_sockets(np.frombuffer(text, np.uint8), len(text), rows)
    assert rows[:count].tolist() == [list(r) for r in sockets(text)]
    # An IPv6 table has longer addresses; a moved counter keeps the shape; another inode does not.
    six = text.replace(b"00000000:1388", b"00000000000000000000000001000000:1388")
    assert scan_sockets(np.frombuffer(six, np.uint8), len(six), rows) == (count, shape)
    moved = text.replace(b"0000000000000000 3", b"0000000000000000 9")
    assert scan_sockets(np.frombuffer(moved, np.uint8), len(moved), rows)[1] == shape
    other = text.replace(b" 101 ", b" 109 ")
    assert scan_sockets(np.frombuffer(other, np.uint8), len(other), rows)[1] != shape
    torn = text[:-40]
    assert scan_sockets(np.frombuffer(torn, np.uint8), len(torn), rows)[0] == -4


def test_task_whose_name_looks_like_fields() -> None:
    folder = TREE / "proc/4000/task/4001"
    status, stat = (np.frombuffer((folder / n).read_bytes(), np.uint8) for n in ("status", "stat"))
    out = np.zeros(6, np.int64)
    assert scan_task(status, len(status), stat, len(stat), out)
    assert out.tolist() == [21, 22, 23, 24, 0, 1]
    assert not scan_task(status, len(status) - 5, stat, len(stat), out)
    assert not scan_task(status, len(status), stat, 40, out)
    assert not scan_task(status, 0, stat, 0, out)
    three = np.zeros(3, np.int64)
    assert scan_three(np.frombuffer(b"123 45 6\n", np.uint8), 9, three)
    assert three.tolist() == [123, 45, 6]
    assert not scan_three(np.frombuffer(b"123 45 ", np.uint8), 7, three)
