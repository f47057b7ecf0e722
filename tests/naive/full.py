"""The views and tails of the full model, written plainly over whole arrays (slow, and easy to check by eye)."""

from __future__ import annotations

import numpy as np

from models.novelty import LAG, MEMORIES
from models.surprise import GENERATION, PRECEDENT, SCALE_FLOOR, SHAPE_MAX, TAIL_SHARE

SCALES = ((0, 0), (1, 1), (2, 3), (4, 7), (8, 15), (16, 31), (32, 63))


def last(x, i, n):
    """The last n values up to i, i included."""
    return x[max(i + 1 - n, 0) : i + 1]


def fading(x, gain):
    """Exponential mean of the values before each."""
    out, mean = np.zeros(len(x)), x[0]
    for i, v in enumerate(x):
        out[i] = mean
        mean += max(gain, 1.0 / (i + 1)) * (v - mean)
    return out


def stretch(x, i):
    parts, value = [], 0.0
    for lo, hi in SCALES:
        piece = x[max(i - hi, 0) : max(i - lo + 1, 0)]
        if len(piece):
            value = piece.mean()
        parts.append(value)
    return np.array(parts)


def season(x, slots, others):
    """Seasonal residuals and the same scaled by the slot's deviation."""
    count = 288
    total = np.zeros((3, count)), np.zeros((3, count))
    deviation, seen = np.zeros(count), np.zeros(count)
    errors, gap, gaps = np.zeros(3), 0.0, 0.0
    level = fading(x, 0.05)
    resid, scaled, prediction = (np.zeros(len(x)) for _ in range(3))
    for i, v in enumerate(x):
        near = (slots[i] + np.arange(-2, 3)) % count
        weight = np.array([1.0, 2.0, 3.0, 2.0, 1.0])
        p = [level[i]]
        for row in (0, 1 + others[i]):
            n = weight * total[1][row, near]
            p.append((n * total[0][row, near]).sum() / n.sum() if n.sum() else p[-1])
        best = int(np.argmin(errors))
        prediction[i] = p[best]
        r = v - p[best]
        usual = gap / gaps if gaps else abs(r)
        n = weight * seen[near]
        scale = max(((n * deviation[near]).sum() + 2 * usual) / (n.sum() + 2), 0.1 * usual)
        resid[i] = r
        scaled[i] = r / (scale + 1e-12 * (1 + abs(v))) if scale > 0 else 0.0
        errors += max(1 - 0.5 ** (1 / 288), 1 / (i + 1)) * (np.abs(v - np.array(p)) - errors)
        gap, gaps = gap * 0.999 + abs(r), gaps * 0.999 + 1
        for row in (0, 1 + others[i]):
            total[1][row, slots[i]] = min(total[1][row, slots[i]] + 1, 20)
            total[0][row, slots[i]] += (v - total[0][row, slots[i]]) / total[1][row, slots[i]]
        seen[slots[i]] = min(seen[slots[i]] + 1, 20)
        deviation[slots[i]] += (abs(r) - deviation[slots[i]]) / seen[slots[i]]
    return resid, scaled, prediction


def autoregression(x, raw, resid, prediction):
    order = 6
    out, weights, cov = np.zeros(len(x)), np.eye(order + 2)[0].copy(), np.eye(order + 2) * 100.0
    unit = np.abs(raw[:order]).mean() or 1.0
    for i in range(order, len(x)):
        past = x[i - order : i][::-1]
        u = np.array([*(past - prediction[i]) / unit, resid[i - order : i].mean() / unit, 1.0])
        error = (x[i] - prediction[i]) / unit - weights @ u
        gain = cov @ u / (0.999 + u @ cov @ u)
        weights = weights + gain * error
        cov = (cov - np.outer(gain, cov @ u)) / 0.999
        out[i] = error * unit
    return out


def views(raw, slots, others, angle):
    """All views of a series, (n, views), by their definitions."""
    raw = np.asarray(raw, float)
    x = raw - raw[0]
    resid, scaled, prediction = season(x, slots, others)
    difference = np.diff(x, prepend=x[0])
    slow_r, slow_d = fading(resid**2, 0.002), fading(difference**2, 0.002)
    ranks = np.zeros(len(x))
    for i in range(1, len(x)):
        past = resid[max(i - 1000, 0) : i]
        ranks[i] = 0.5 * ((past < resid[i]).sum() + (past <= resid[i]).sum() + 1) / (len(past) + 1) - 0.5
    spread = np.sqrt(fading((x - fading(x, 0.005)) ** 2, 0.002))
    stretches = np.array([stretch(x, i) for i in range(len(x))])
    clock = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    same = np.r_[0.0, x[1:] == x[:-1]]
    columns = {
        "ewma": x - fading(x, 0.05),
        "difference": difference,
        "autoregression": autoregression(x, raw, resid, prediction),
        "local_residual": resid / (np.sqrt(fading(resid**2, 0.02)) + 0.1 * np.sqrt(slow_r) + 1e-12),
        "local_difference": difference / (np.sqrt(fading(difference**2, 0.02)) + 0.1 * np.sqrt(slow_d) + 1e-12),
        "slow_level": fading(x, 0.02) - fading(x, 0.002),
    }
    rows = []
    for i in range(len(x)):
        quiet = 1e-4 * slow_r[i] + 1e-18
        memories = np.arange(max(i - LAG + 1 - MEMORIES, 0), max(i - LAG + 1, 0))
        novel = [0.0, 0.0, 0.0]
        if len(memories):
            d = stretches[i] - stretches[memories]
            plain = np.abs(d).sum(axis=1)
            shape = np.abs(d - d.mean(axis=1, keepdims=True)).sum(axis=1)
            hour = plain + 2 * spread[i] * np.abs(clock[i] - clock[memories]).sum(axis=1)
            novel = [plain.min(), shape.min(), hour.min()]
        rows.append(
            {
                "median": x[i] - np.median(x[max(i - 48, 0) : i]) if i else 0.0,
                "mean_of_3": last(x, i, 3).mean() - (np.median(x[max(i - 144, 0) : i]) if i else x[0]),
                **{f"season_{n}": last(scaled, i, n).mean() for n in (6, 12, 24, 72, 144)},
                **{f"rank_{n}": last(ranks, i, n).mean() for n in (8, 32, 128)},
                "variance_ratio": np.log((last(resid, i, 24).var() + quiet) / (last(resid, i, 288).var() + quiet)),
                "rms_6": np.sqrt((last(scaled, i, 6) ** 2).mean()),
                "spread_12": last(x, i, 12).std(),
                "rank_spread": last(ranks, i, 24).std(),
                "unchanged": last(same, i, 24).sum() / 24,
                "novelty": novel[0],
                "novel_shape": novel[1],
                "novel_hour": novel[2],
                "mean_12": last(x, i, 12).mean(),
                "mean_48": last(x, i, 48).mean(),
                "max_12": x[max(i - 12, 0) : i].max() if i else x[0],
            }
        )
    for name in rows[0]:
        columns[name] = np.array([r[name] for r in rows])
    return columns


def tail_scores(x, refit_at):
    """Surprise of the upper tail, with all values kept and sorted anew at each step."""
    x = np.asarray(x, float)
    out, fit = np.full(len(x), np.nan), None
    for i, v in enumerate(x):
        first = max((i // GENERATION - 1) * GENERATION, 0)
        if i % GENERATION == 0 and i:
            first = (i // GENERATION - 1) * GENERATION
        past = np.sort(x[first:i])
        if i >= 128 and fit is not None:
            t, shape, scale, rate = fit
            out[i] = 0.0
            if v > t:
                z = (v - t) / scale
                s = z * np.log10(np.e) - rate if shape < 1e-3 else np.log10(1 + shape * z) / shape - rate
                k = (past >= t + PRECEDENT * (v - t)).sum()
                if k:
                    s = min(s, -np.log10((k + 1) / (len(past) + 1)))
                out[i] = max(min(s, 1.5 * np.log10(i + 1)), 0.0)
        if refit_at(i + 1):
            window = np.sort(x[max((i // GENERATION - 1) * GENERATION, 0) : i + 1])
            t = window[-1 - max(int(TAIL_SHARE * len(window)), 1)]
            over = window[window > t] - t
            mean, shape = over.mean() if len(over) else 0.0, 0.0
            second = np.abs(over[:, None] - over[None, :]).sum() / max(len(over) * (len(over) - 1), 1) / 2
            if len(over) > 2 and second > 0:
                shape = min(max(2 - mean / second, 0.0), SHAPE_MAX)
            scale = max(mean * (1 - shape), SCALE_FLOOR * x[: i + 1].std(), 1e-12)
            fit = (t, shape, scale, np.log10((len(over) + 1) / (len(window) + 1)))
    return out


def held_to_its_own(evidence, both):
    """Evidence against the largest of each earlier block of 50 rows, from the fourth on, all gone through anew."""
    evidence = np.asarray(evidence, float)
    out = evidence.copy()
    for i, e in enumerate(evidence):
        tops = [evidence[b : b + 50].max() for b in range(150, i // 50 * 50, 50)]
        share, excess, peaks = 0.3, 0.38, 0
        for n, top in enumerate(tops, 1):
            share += (float(top > 0.7) - share) / min(n + 20, 400)
            if top > 0.7:
                peaks += 1
                excess += (min(top - 0.7, 1.5) - excess) / min(peaks + 8, 400)
        # where is a row as rare as this one on a usual series? both tails are exponential over 0.7
        level = max(0.7 + 0.38 * np.log(0.3 / max(share, 1 / 400)), 0.1)
        same = level + 0.38 * (e - 0.7) / excess if e > 0.7 else e * level / 0.7
        out[i] = same if both else max(same, e)
    return out
