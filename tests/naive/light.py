"""The light model without a clock, step by step with NumPy over all series: what the kernel must agree with.

Also the peer of the benchmark: the same work, vectorised over series, one window after the other.
"""

from __future__ import annotations

import numpy as np

from models.light_kernels import PARAMS
from telemetry.types import Float64

__all__ = ["NaiveLight", "naive_tail"]

BUCKETS = 64
EDGES = 2.0 ** (np.arange(BUCKETS + 1) // 4 - 3) * (1.0 + 0.25 * (np.arange(BUCKETS + 1) % 4))
MIDDLES = (EDGES[:-1] + EDGES[1:]) / 2.0
ONE = 12


def naive_tail(mass: Float64, weight: float) -> Float64:
    """Surprise at each bucket's lower edge from the mass in the buckets and the mass of everything."""
    above_edge = np.cumsum(mass[::-1])[::-1]  # mass at or above each edge
    inside = np.flatnonzero(above_edge[ONE:] <= 0.05 * weight)
    at = ONE + int(inside[0]) if len(inside) else BUCKETS - 1
    total = above_edge[at]
    t = EDGES[at]
    excess = np.minimum(MIDDLES[at:] - t, 30.0 * t)
    first, second = float(mass[at:] @ excess), float(mass[at:] @ excess**2)
    mean = (first + 4.0 * max(0.25 * t + 0.1, 2.0 / (1.0 + total))) / (total + 4.0)
    shape = 0.0
    if first > 0.0:
        own = first / total
        var = second / total - own * own
        shape = float(np.clip(0.5 * (1.0 - own * own / var), 0.0, 0.5)) if var > 0.0 else 0.0
    shape = (shape * total + 2.5) / (total + 10.0)
    above = np.log10((weight + 1.0) / (total + 1.0))
    past = np.maximum(above_edge, 1.0)
    seen = np.where(above_edge > 0.0, np.log10((weight + 1.0) / (past + 1.0)), np.log10(weight + 1.0))
    fitted = above + np.log10(1.0 + shape / (mean * (1.0 - shape)) * np.maximum(EDGES[:-1] - t, 0.0)) / shape
    out = np.where((above_edge >= 0.01) & (seen < fitted), seen, fitted)
    below = np.arange(BUCKETS) < at
    low = np.arange(BUCKETS) < ONE
    return np.where(below, np.where(low, np.minimum(seen, above * EDGES[:-1] ** 2), seen), out)


class NaiveLight:
    """`prm` as the kernel's parameters, `stagger` and `quantum` per series; ``step`` takes one window (S,)."""

    def __init__(self, prm: Float64, stagger: Float64, quantum: float) -> None:
        self.p = dict(zip(PARAMS, prm, strict=True))
        self.stagger, self.quantum, n = stagger, quantum, len(stagger)
        zero = (
            "age level scale long slow free slow_dev ref creep up down size weight slow_weight run cand cand_dev miss"
            " like unlike follow hot_at hots again told before move flagged creep_run"
        )
        self.r = {name: np.zeros(n) for name in zero.split()}
        self.r["refit"] = np.full(n, 16.0)
        self.mass = np.zeros((n, 3, BUCKETS))
        self.table = np.zeros((n, 3, BUCKETS))

    def _look(self, t: Float64, tail: Float64) -> tuple[Float64, Float64]:
        """Bucket (-1 below the first edge) and interpolated surprise."""
        bucket = np.searchsorted(EDGES[:-1], t, side="right") - 1
        b = np.clip(bucket, 0, BUCKETS - 1)
        each = np.arange(len(t))
        at, beyond = self.table[each, tail, b], self.table[each, tail, np.minimum(b + 1, BUCKETS - 1)]
        part = (t - EDGES[b]) / (EDGES[b + 1] - EDGES[b])
        return bucket, np.where(bucket < 0, 0.0, np.where(b == BUCKETS - 1, at, at + part * (beyond - at)))

    def step(self, values: Float64) -> Float64:
        """Surprise of one window, then learn it."""
        here = np.flatnonzero(np.isfinite(values))
        out = np.full(len(values), np.nan)
        if len(here) == len(values):
            out[:] = self._step(values)
        elif len(here):
            part = NaiveLight.__new__(NaiveLight)
            part.p, part.quantum, part.stagger = self.p, self.quantum, self.stagger[here]
            part.r = {k: v[here] for k, v in self.r.items()}
            part.mass, part.table = self.mass[here], self.table[here]
            out[here] = part._step(values[here])
            for k, v in part.r.items():
                self.r[k][here] = v
            self.mass[here], self.table[here] = part.mass, part.table
        return out

    def _step(self, x: Float64) -> Float64:
        r, p, n = self.r, self.p, len(x)
        age, old, each = r["age"], r["age"] >= 8.0, np.arange(n)
        fresh = age == 0.0
        for name in ("level", "free", "slow", "ref", "cand", "before"):
            r[name] = np.where(fresh, x, r[name])
        level, own = r["level"], r["scale"]
        floor = np.where(r["move"] == 0.0, np.maximum(0.5 * self.quantum, 1e-4 * np.abs(level)), 0.25 * r["move"])
        scale = np.maximum(np.maximum(own, 0.5 * r["long"]), floor)
        miss = x - level
        ahead = r["follow"] * r["miss"]
        z = (miss - ahead) / scale
        back = (ahead != 0.0) & (r["flagged"] > 0.0) & (np.abs(miss) / scale < np.abs(z))
        z = np.where(back, miss / scale, z)
        side, size_z = (z < 0.0).astype(int), np.abs(z)
        bucket, fast = self._look(size_z, side)
        said = fast.copy()
        hot = (fast > 1.3) & (age > 16.0)
        soon = hot & (age - r["hot_at"] <= 3.0) & (r["hots"] > 0.0)
        again = (r["again"] + 1.2) / (r["hots"] + 8.0)
        said = np.where(soon, fast - np.minimum(fast, 2.2) * np.maximum(0.0, again - 0.2) / 0.8, said)
        r["hots"] = np.where(hot, 0.98 * r["hots"] + 1.0, r["hots"])
        r["again"] = np.where(hot, 0.98 * r["again"] + soon, r["again"])
        r["hot_at"] = np.where(hot, age, r["hot_at"])
        moved = np.abs(x - r["before"])
        cut = np.where(old, np.minimum(moved, 4.0 * np.where(r["move"] == 0.0, floor, r["move"])), moved)
        new_move = np.where(r["move"] == 0.0, cut, r["move"] + 0.0625 * (cut - r["move"]))
        r["move"] = np.where(moved > 0.0, new_move, r["move"])
        r["before"] = x.copy()
        young = age < 64.0
        warm = np.where(young, 1.0 / (age + 1.0), 0.0)
        flagged = (fast > p["flag"]) & (size_z > p["clip"]) & (age >= p["warmup"])
        slowly = np.where(flagged, 0.1, 1.0)
        d, gain = miss / scale, np.maximum(0.25 * p["beta"], warm)
        for name, target in (("like", d * r["miss"] / scale), ("unlike", d * d)):
            r[name] = np.where(flagged, r[name], r[name] + gain * (target - r[name]))
        r["miss"] = miss
        a, step = np.maximum(p["alpha"], warm) * slowly, p["clip"] * scale
        size = 1.25 * np.where(old, np.minimum(size_z, p["clip"]) * scale, np.abs(miss))
        r["level"] = level + a * np.where(old, np.clip(miss, -step, step), miss)
        gone = x + self._centre() - r["free"]
        r["free"] = r["free"] + a * np.where(old, np.clip(gone, -step, step), gone)
        r["scale"] = own + np.maximum(p["beta"], warm) * slowly * (size - own)
        zc = np.clip((x - r["slow"]) / scale, -4.0, 4.0)
        r["up"] = np.clip(r["up"] + zc - 0.5, 0.0, 200.0)
        r["down"] = np.clip(r["down"] - zc - 0.5, 0.0, 200.0)
        said = self._slow_views(young, warm, slowly, size, scale, level, said)
        s = said - np.log10(2.0)
        s = np.where(s > 2.0, np.minimum(s, p["claim"] * np.log10(age + 1.0)), s)
        out = np.where(age >= p["warmup"], np.maximum(s, 0.0), np.nan)
        known = age >= 12.0
        mass = np.where(flagged & (r["flagged"] > 0.0), 0.05, 1.0)
        r["weight"] = r["weight"] + np.where(known, mass, 0.0)
        put = known & (bucket >= 0)
        self.mass[each[put], side[put], np.minimum(bucket[put], BUCKETS - 1)] += mass[put]
        r["flagged"] = flagged.astype(float)
        self._runs(x, z > 0.0, flagged)
        r["age"] = age + 1.0
        for i in np.flatnonzero(r["age"] >= r["refit"]):
            self._refit(i)
        return out

    def _centre(self) -> float:
        return 0.0  # moves only with a clock

    def _slow_views(
        self,
        young: Float64,
        warm: Float64,
        slowly: Float64,
        size: Float64,
        scale: Float64,
        level: Float64,
        said: Float64,
    ) -> Float64:
        r, p, age = self.r, self.p, self.r["age"].astype(int)
        due = young | (age % 4 == 0)
        if not due.any():
            return said
        before = {k: v.copy() for k, v in r.items()}
        often = np.where(young, 1.0, 4.0)
        r["long"] = r["long"] + np.maximum(0.05 * p["beta"] * often, warm) * slowly * (size - r["long"])
        sdev = np.maximum(r["slow_dev"], 0.25 * scale)
        gap, per = r["free"] - r["slow"], 1.0 / (3.0 + r["size"])
        up, down = np.maximum(gap / sdev, r["up"] * per), np.maximum(-gap / sdev, r["down"] * per)
        tall = np.maximum(up, down)
        bucket, s_slow = self._look(tall, np.full(len(tall), 2))
        put = due & (age % 16 == 0) & (age > 12)
        mass = np.where(s_slow <= p["flag"], 1.0, 0.1)
        r["slow_weight"] = r["slow_weight"] + np.where(put, mass, 0.0)
        into = put & (bucket >= 0)
        self.mass[np.flatnonzero(into), 2, np.minimum(bucket[into], BUCKETS - 1)] += mass[into]
        gap = np.where(age >= 8, np.clip(gap, -p["clip"] * sdev, p["clip"] * sdev), gap)
        slow = r["slow"] + np.maximum(0.08 * p["alpha"] * often, warm) * gap
        r["slow"] = slow
        r["slow_dev"] = r["slow_dev"] + np.maximum(0.05 * p["alpha"] * often, warm) * (
            1.25 * np.abs(gap) - r["slow_dev"]
        )
        most = np.minimum(np.maximum(r["up"], r["down"]), 9.0 + 3.0 * r["size"])
        r["size"] = r["size"] + np.maximum(0.02 * p["alpha"] * often, warm) * (most - r["size"])
        ratio = r["like"] / (r["unlike"] + 1e-9)
        r["follow"] = np.where(ratio > 0.25, np.minimum(ratio, 0.98), 0.0)
        held = s_slow - np.log10(2.0)
        creep, grown = slow - r["ref"], age >= 4.0 * p["warmup"]
        wide = np.maximum(np.maximum(r["creep"], 0.02 * np.maximum(np.abs(r["ref"]), np.abs(level))), 0.5 * sdev)
        far = grown & (np.abs(creep) > wide)
        s_creep = np.minimum(0.5 * np.abs(creep) / wide, p["claim"] * np.log10(1.0 + age / p["creep_unit"]))
        held = np.where(far & (s_creep > held), s_creep, held)
        r["creep_run"] = np.where(
            grown, np.where(far & (s_creep > p["flag"]), r["creep_run"] + 4.0, 0.0), r["creep_run"]
        )
        follow = p["creep_step"] * np.abs(r["ref"]) * often
        r["ref"] = np.where(grown, r["ref"] + np.clip(creep, -follow, follow), slow)
        pace = np.maximum(p["creep_gain"] * often, 4.0 / (age + 4.0))
        r["creep"] = np.where(grown, r["creep"] + pace * (np.abs(creep) - r["creep"]), r["creep"])
        anew = grown & (r["creep_run"] >= p["creep_relearn"])
        r["ref"], r["creep_run"] = np.where(anew, slow, r["ref"]), np.where(anew, 0.0, r["creep_run"])
        speaks = due & (age % 16 == 0)
        r["told"] = np.where(speaks, 0.999 * r["told"], r["told"])
        loud = speaks & (held > np.maximum(0.5, r["told"] + 0.3)) & (held + np.log10(16.0) > said - np.log10(2.0))
        r["told"] = np.where(loud, held, r["told"])
        for k, v in before.items():
            r[k] = np.where(due, r[k], v)
        return np.where(loud, held + np.log10(32.0), said)

    def _runs(self, x: Float64, up: Float64, flagged: Float64) -> None:
        r = self.r
        same = flagged & (r["run"] != 0.0) & (up == (r["run"] > 0.0))
        first = flagged & ~same
        cand = np.where(same, r["cand"] + 0.1 * (x - r["cand"]), np.where(first, x, r["cand"]))
        r["cand_dev"] = np.where(
            same, r["cand_dev"] + 0.1 * (np.abs(x - cand) - r["cand_dev"]), np.where(first, 0.0, r["cand_dev"])
        )
        r["cand"] = cand
        sign = np.where(up, 1.0, -1.0)
        r["run"] = np.where(same, r["run"] + sign, np.where(first, sign, r["run"] - np.sign(r["run"])))
        anew = flagged & (np.abs(r["run"]) >= self.p["relearn"])
        r["scale"] = np.where(anew, np.maximum(r["scale"], 1.25 * r["cand_dev"]), r["scale"])
        for name in ("level", "free", "slow", "ref"):
            r[name] = np.where(anew, cand, r[name])
        for name in ("up", "down", "run", "miss"):
            r[name] = np.where(anew, 0.0, r[name])

    def _refit(self, i: int) -> None:
        r, memory = self.r, self.p["memory"]
        for j, name in enumerate(("weight", "weight", "slow_weight")):
            weight = float(r[name][i])
            if weight > memory:
                self.mass[i, j] *= memory / weight
            self.table[i, j] = naive_tail(self.mass[i, j], min(weight, memory))
        for name in ("weight", "slow_weight"):
            r[name][i] = min(r[name][i], memory)
        wait = int(min(max(8.0, 0.25 * r["age"][i]), self.p["refit"]))
        r["refit"][i] = r["age"][i] + wait + (int(self.stagger[i]) % wait) // 2
