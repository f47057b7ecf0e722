from __future__ import annotations

import numpy as np

from pipelines.report.gather import Around, balance, waterfall
from telemetry.types import Float64, Int64, SeriesKey

S = 1_000_000_000
ONSET, END = 100 * S, 110 * S


def counter(*steps: float) -> tuple[Int64, Float64]:
    """One sample a second from 90 s on, that many more each second from the onset on."""
    t = np.arange(90 * S, 115 * S, S)
    return t, np.cumsum(np.where((t >= ONSET) & (t < END), steps[0], 0.0))


def packets(each: float) -> tuple[Int64, Float64]:
    t = np.arange(90 * S, 115 * S, S)
    return t, np.full(len(t), each)


def accelerated() -> Around:
    """A flow that goes round the kernel: 1,000 a second pass the tap; for ten seconds the ring loses 50 of them."""
    key = SeriesKey.of
    handed = np.arange(90 * S, 115 * S, S // 1000)
    lost = (handed >= ONSET) & (handed < END) & (np.arange(len(handed)) % 20 == 0)
    handed = handed[~lost]
    series = {
        key("tx", "feed_packets", feed="a", tap="nic"): packets(1000),
        key("tx", "wire_packets", flow="udp x", tap="nic"): packets(1000),
        key("tx", "app_latency_ns", stage="kernel_to_user"): (handed, np.full(len(handed), 900.0)),
        # the same loss, counted by the driver as a whole and by each queue
        key("tx", "ethtool_port_rx_nodesc_drop_cnt_total", device="sfc0"): counter(50),
        key("tx", "nic_queue_rx_hw_drop_overruns_total", device="sfc0", queue=0): counter(30),
        key("tx", "nic_queue_rx_hw_drop_overruns_total", device="sfc0", queue=1): counter(20),
        key("tx", "nic_rx_missed_total", device="eth0"): counter(0),
        key("tx", "netstat_Udp_RcvbufErrors_total"): counter(0),
        key("tx", "softnet_dropped_total", cpu=0): counter(0),
    }
    return Around(90 * S, ONSET, END, 115 * S, series)


def test_the_ring_lies_between_tap_and_application() -> None:
    found = balance(accelerated())
    assert found is not None
    assert found.drops == {"in descriptor rings": 500}  # once, not twice
    assert found.unexplained == 0
    assert "tap nic > application" in found.text


def test_the_ring_is_a_step_of_the_waterfall() -> None:
    rows = {name: (before, during) for name, before, during in waterfall(accelerated())}
    assert rows["descriptor rings: lost"][0] == 0
    assert rows["descriptor rings: lost"][1] > 40
