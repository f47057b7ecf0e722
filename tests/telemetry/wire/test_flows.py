"""Flow ids against a dict."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.wire.flows import NO_FLOW, FlowTable
from tests.naive.wire_frames import START, ethernet, packets, tcp, udp

ends = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.booleans())


def _frame(a: int, b: int, sport: int, dport: int, is_tcp: bool) -> bytes:
    make = tcp if is_tcp else udp
    extra = {"seq": 1} if is_tcp else {"payload": b"x"}
    return make(f"10.0.0.{a}", sport, f"10.0.0.{b}", dport, **extra)


@given(st.lists(ends, min_size=1, max_size=60), st.integers(1, 60))
@settings(max_examples=30, deadline=None)
def test_ids_are_those_of_a_dict_for_any_batches(flows: list[tuple[int, int, int, int, bool]], rows: int) -> None:
    frames = [(START + i, _frame(*f)) for i, f in enumerate(flows)]
    table = FlowTable()
    got = np.concatenate([table.assign(b).copy() for b in packets(frames, rows)])
    known: dict[tuple[int, int, int, int, bool], int] = {}
    assert got.tolist() == [known.setdefault(f, len(known)) for f in flows]
    assert table.count == len(known)
    for (a, b, sport, dport, is_tcp), f in known.items():
        assert table.name(f) == f"{'tcp' if is_tcp else 'udp'} 10.0.0.{a}:{sport}>10.0.0.{b}:{dport}"
        assert table.peer[f] == known.get((b, a, dport, sport, is_tcp), -1)


def test_vlan_is_no_part_of_a_flow_and_what_is_not_ip_has_none() -> None:
    frames = [
        (START, udp("10.0.0.1", 1, "10.0.0.2", 2, b"a")),
        (START + 1, udp("10.0.0.1", 1, "10.0.0.2", 2, b"a", vlan=7)),
        (START + 2, ethernet(bytes(28), kind=0x0806)),
    ]
    assert FlowTable().assign(packets(frames)[0]).tolist() == [0, 0, NO_FLOW]


def test_many_flows_grow_the_table_and_the_limit_refuses_and_counts() -> None:
    frames = [(START + i, udp("10.0.0.1", 1 + i % 60_000, "10.1.0.1", 5, b"x")) for i in range(9000)]
    table = FlowTable()
    first = np.concatenate([table.assign(b).copy() for b in packets(frames, 1000)])
    assert first.tolist() == list(range(9000))
    again = np.concatenate([table.assign(b).copy() for b in packets(frames, 777)])
    assert np.array_equal(again, first)
    small = FlowTable(limit=100)
    got = np.concatenate([small.assign(b).copy() for b in packets(frames, 1000)])
    assert (got[100:] == NO_FLOW).all()
    assert small.refused == 8900
