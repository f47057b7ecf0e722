"""Where the light model keeps what: a channel's registers and one window's scratch, in blocks of lanes."""

from __future__ import annotations

import numpy as np

from telemetry.types import Float64

__all__ = ["BLOCK", "FIELDS", "PARAMS", "SCRATCH", "blocks_of", "no_blocks", "rows_of"]

FIELDS = (
    *("age", "level", "long_scale", "scale", "move", "follow", "miss", "flagged"),
    *("profile", "before", "like", "unlike", "centre", "trend_free", "slow", "cusum_up"),
    *("cusum_down", "band_up", "band_down", "weight", "run", "refit_at", "hot_at", "hots"),
    *("again", "slow_dev", "cusum_size", "slow_weight", "ref", "creep_dev", "creep_run", "told"),
    *("slot", "slot_sum", "slot_count", "slot_miss", "offset", "profile_dev", "anchor", "stagger"),
    *("candidate", "candidate_dev"),
)
"""In the order in which they are used: 24 for every window, the slow views', a clock's, a run's."""
PARAMS = (
    *("alpha", "beta", "clip", "warmup", "memory", "refit", "relearn", "creep_relearn"),
    *("creep_step", "creep_gain", "creep_unit", "flag", "slot_gain", "claim"),
)

BLOCK = 32
"""Channels that go through all windows together, so that their memory stays in the cache.

Their registers are one array, field after field: that of lane i is ``q[FIELD + i]``. Offsets and the number of lanes
are constants, so loops over the lanes of a block compile to vector instructions without a check of anything.
"""

_PLACES = range(0, len(FIELDS) * BLOCK, BLOCK)
(AGE, LEVEL, LONG, SCALE, MOVE, FOLLOW, MISS, FLAGGED) = _PLACES[:8]
(PROF, BEFORE, LIKE, UNLIKE, CENTRE, FREE, SLOW, CUP) = _PLACES[8:16]
(CDOWN, BANDUP, BANDDOWN, WEIGHT, RUN, REFIT, HOTAT, HOTS) = _PLACES[16:24]
(AGAIN, SLOWDEV, CSIZE, SWEIGHT, REF, CREEP, CRUN, TOLD) = _PLACES[24:32]
(SLOT, SSUM, SCOUNT, SMISS, OFF, PDEV, ANCHOR, STAGGER) = _PLACES[32:40]
(CAND, CDEV) = _PLACES[40:42]

# Of one window, lane by lane: that of lane i is ``t[NAME + i]``. ON is 1 where there is a value that counts.
SCRATCH = 30 * BLOCK
(X, ON, WARM, QUANTUM, WAS, WIDTH, INV, Z) = range(0, 8 * BLOCK, BLOCK)
(WIDE, EXPECT, SAID, SIDE, FLAG, SIZE, DUE, SDEV) = range(8 * BLOCK, 16 * BLOCK, BLOCK)
(TALL, HELDSIDE, BEYOND, LONGER, SLOWER, NEWDEV, NEWSIZE, STAYS) = range(16 * BLOCK, 24 * BLOCK, BLOCK)
(NEWREF, DRIFT, MASS, LOW, HIGH, RISE) = range(24 * BLOCK, SCRATCH, BLOCK)


def no_blocks(channels: int) -> Float64:
    """Zeroed registers of so many channels, (blocks, fields * lanes); each block begins a cache line."""
    shape = (-(-channels // BLOCK), len(FIELDS) * BLOCK)
    room = np.zeros(shape[0] * shape[1] + 8)
    first = -room.ctypes.data // 8 % 8
    return room[first : first + shape[0] * shape[1]].reshape(shape)


def rows_of(blocks: Float64, channels: int) -> Float64:
    """The same as rows, (channels, fields): a copy."""
    return blocks.reshape(-1, len(FIELDS), BLOCK).transpose(0, 2, 1).reshape(-1, len(FIELDS))[:channels].copy()


def blocks_of(rows: Float64) -> Float64:
    """Registers from rows, (channels, fields)."""
    blocks = no_blocks(len(rows))
    whole = np.zeros((len(blocks) * BLOCK, len(FIELDS)))
    whole[: len(rows)] = rows
    blocks[:] = whole.reshape(-1, BLOCK, len(FIELDS)).transpose(0, 2, 1).reshape(blocks.shape)
    return blocks
