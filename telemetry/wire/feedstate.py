"""What the feed kernels share: the fields of their states, limits, and the codes of what they find."""

from __future__ import annotations

from typing import Final

HOLD_NS: Final = 100_000_000
"""How long a gap may wait to be filled before it counts."""
TICK_NS: Final = 100_000_000
"""Packets are counted, and open gaps looked at, once in so long."""
GAP_SLOTS: Final = 32
"""Gaps of one stream that can be open at once."""
LEARN: Final = 32
"""Packets of a group that are looked at before its format is told."""
HEAD_BYTES: Final = 64
"""Bytes of payload that matter: header and enough content to tell A and B lines."""

# Group state: format (>= 0), UNKNOWN or NONE; packets learnt from; time of the first, then of the telling; order
# among lines; stream + 1.
UNKNOWN, NONE = -1, -2
G_FORMAT, G_SEEN, G_SINCE, G_RANK, G_STREAM = range(5)

# Stream state, int64.
(
    S_GROUP, S_CHANNEL, S_EXPECTED, S_STARTED, S_RUN_NEXT, S_RUN, S_OPEN, S_PACKETS, S_TICK_PACKETS, S_PARTNER, S_VOTES,
    S_VOTED, S_LINE, S_PAIR, S_RESETS, S_OLD, S_LAST,
) = range(17)  # fmt: skip
STREAM_FIELDS: Final = 17

# Pair state: the union of two lines, and which streams they are.
P_EXPECTED, P_OPEN, P_A, P_B = range(4)

# Codes of rows.
GAP, REORDERED, DUPLICATE, RESTART, SKEW, DELAY, PACKETS, LOST_BOTH, STARTED = range(9)
