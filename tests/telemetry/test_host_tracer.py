from __future__ import annotations

import os
from pathlib import Path

import pytest

from telemetry.host.tracer import TracerReader, parse_line
from telemetry.types import Events

OSNOISE = "       osnoise/3-1003  [003] .....    82.637219: 1000000   190  99.98100   9    18   0   1007   18   1"
TIMERLAT = "      timerlat/1-846   [001] .....    54.029339: #1     context thread timer_latency     11700 ns"
HWLAT = (
    "           <...>-1729  [001] d...   41.142333: #1     inner/outer(us):   12/14    ts:1499801089.066141940 count:3"
)
HWLAT_NMI = HWLAT.replace(" count:3", "") + " nmi-total:7 nmi-count:1"


def test_osnoise() -> None:
    assert {(m, *labels.values()): v for m, labels, v, _ in parse_line(OSNOISE)} == {
        ("osnoise_noise_ns", "3"): 190_000, ("osnoise_runtime_ns", "3"): 1_000_000_000,
        ("osnoise_longest_ns", "3"): 9_000, ("osnoise_interferences", "3", "hw"): 18,
        ("osnoise_interferences", "3", "nmi"): 0, ("osnoise_interferences", "3", "irq"): 1007,
        ("osnoise_interferences", "3", "softirq"): 18, ("osnoise_interferences", "3", "thread"): 1,
    }  # fmt: skip


def test_timerlat_and_hwlat() -> None:
    assert parse_line(TIMERLAT) == [("timerlat_ns", {"cpu": "1", "context": "thread"}, 11700, None)]
    at = 1499801089_066141940
    gaps = [
        ("hwlat_gap_ns", {"cpu": "1", "part": "inner"}, 12_000, at),
        ("hwlat_gap_ns", {"cpu": "1", "part": "outer"}, 14_000, at),
    ]
    assert parse_line(HWLAT) == gaps
    assert parse_line(HWLAT_NMI) == [*gaps, ("hwlat_nmi_ns", {"cpu": "1"}, 7_000, at)]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "# tracer: osnoise",
        OSNOISE[:60],
        OSNOISE[:-2],
        TIMERLAT[:-3],
        HWLAT[:50],
        "bash-1 [000] ..... 1.5: tracing_mark_write: 1 2 3",
    ],
)
def test_other_lines_are_nothing(line: str) -> None:
    assert parse_line(line) == []


def rows(batches: list[Events]) -> list[tuple[str, int]]:
    return [(str(b.keys[s]), v) for b in batches for s, v in zip(b.series.tolist(), b.value.tolist(), strict=True)]


def test_follows_the_pipe_of_our_instance_without_waiting(tmp_path: Path) -> None:
    folder = tmp_path / "sys/kernel/tracing/instances/tailwatch"
    folder.mkdir(parents=True)
    (folder / "current_tracer").write_text("timerlat\n")
    os.mkfifo(folder / "trace_pipe")
    reader = TracerReader(tmp_path, "h")
    assert reader.poll() == []
    writer = os.open(folder / "trace_pipe", os.O_WRONLY)
    os.write(writer, f"{TIMERLAT}\nCPU:1 [LOST 5 EVENTS]\n{TIMERLAT[:40]}".encode())
    series = 'timerlat_ns{host="h",context="thread",cpu="1"}'
    assert rows(reader.poll()) == [(series, 11700)]
    assert "5 events lost" in reader.trouble
    assert reader.poll() == []  # half a line waits
    os.write(writer, f"{TIMERLAT[40:]}\n".encode())
    assert rows(reader.poll()) == [(series, 11700)]
    os.close(writer)
    reader.close()


def test_no_instance_or_another_tracer(tmp_path: Path) -> None:
    reader = TracerReader(tmp_path, "h")
    assert reader.poll() == []
    folder = tmp_path / "sys/kernel/tracing/instances/tailwatch"
    folder.mkdir(parents=True)
    (folder / "current_tracer").write_text("function\n")
    (folder / "trace_pipe").write_text(OSNOISE + "\n")
    reader = TracerReader(tmp_path, "h")
    assert reader.poll() == []
    assert reader.trouble == ""
