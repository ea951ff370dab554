"""95 % intervals: exact ones of shares and medians, and by bootstrap over whole clusters.

Votes on pairs of one prompt hang together, so a bootstrap draws prompts, never votes. Every measure
is made of sums over each cluster, so that a replicate weighs those sums and computes nothing again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from strategies.within_prompt import Floats, Positions

LEVEL = 0.95
REPLICATES = 1_000
FEWEST_CLUSTERS = 5  # with fewer a bootstrap sees too little of what might have been drawn
ALL_ALIKE = 1e-9  # the width of an interval whose replicates are equal but for rounding
MOST_MULTINOMIAL = 4_096  # kinds of clusters; numpy's multinomial rounds away the last of millions


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval; NaN where there is nothing to be said."""

    value: float
    low: float
    high: float


NOTHING = Estimate(np.nan, np.nan, np.nan)


@dataclass(frozen=True, eq=False)
class Shares:
    """Hits among trials with the exact interval of each share, arrays (m,); NaN without trials."""

    hits: Positions
    n: Positions
    share: Floats
    low: Floats
    high: Floats


def exact_shares(hits: Positions, n: Positions) -> Shares:
    """Shares with the intervals of Clopper and Pearson (Biometrika 26, 1934), of (m,) counts.

    They hold at least 95 % of the time, however few the trials.
    """
    from scipy.special import betaincinv

    hits, n = np.asarray(hits, dtype=np.int64), np.asarray(n, dtype=np.int64)
    tail = (1 - LEVEL) / 2
    low, high = np.zeros(len(n)), np.ones(len(n))
    some, missed = hits > 0, hits < n
    low[some] = betaincinv(hits[some], (n - hits + 1)[some], tail)
    high[missed] = betaincinv((hits + 1)[missed], (n - hits)[missed], 1 - tail)
    with np.errstate(invalid="ignore"):
        share = hits / np.where(n > 0, n, np.nan)
    low[n == 0] = high[n == 0] = np.nan
    return Shares(hits, n, share, low, high)


def exact_share(hits: float, n: float) -> Estimate:
    """The same of one share, whose hits need not be a whole number."""
    from scipy.special import betaincinv

    if n <= 0:
        return NOTHING
    tail = (1 - LEVEL) / 2
    low = float(betaincinv(hits, n - hits + 1, tail)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, n - hits, 1 - tail)) if hits < n else 1.0
    return Estimate(hits / n, low, high)


def exact_median(values: Floats) -> Estimate:
    """The median, with the interval between two order statistics; NaN are left out.

    Whatever the distribution, it holds at least 95 % of the time: how many of n values lie below
    the median is binomial. Of fewer than six values the interval is all numbers.
    """
    from scipy.special import bdtr

    there = np.sort(values[~np.isnan(values)])
    n = len(there)
    if not n:
        return NOTHING
    # The last of them that has at most a tail's chance of standing above the median.
    above = bdtr(np.arange(n // 2 + 1), n, 0.5)
    place = int(np.searchsorted(above, (1 - LEVEL) / 2, side="right")) - 1
    bounds = (there[place], there[n - 1 - place]) if place >= 0 else (-np.inf, np.inf)
    return Estimate(float(np.median(there)), float(bounds[0]), float(bounds[1]))


def sums_by_cluster(values: Floats, cluster: Positions) -> Floats:
    """Sums (n_clusters, m) of rows (n, m) over each cluster that has a row, in any numbering."""
    _, place = np.unique(cluster, return_inverse=True)
    n_clusters = int(place.max()) + 1 if len(place) else 0
    columns = [np.bincount(place, weights=column, minlength=n_clusters) for column in values.T]
    return np.array(columns, dtype=np.float64).reshape(values.shape[1], n_clusters).T


def resampled_totals(parts: Floats, rng: np.random.Generator) -> Floats:
    """Totals over clusters, (REPLICATES + 1, m): as observed, then of clusters drawn again.

    `parts` (n_clusters, m); clusters are drawn with replacement, as many as there are. Clusters
    that are alike are drawn together, which is the same draw and costs by kinds, not by clusters.
    """
    n = len(parts)
    kinds, times = np.unique(parts, axis=0, return_counts=True)
    totals = np.empty((REPLICATES + 1, parts.shape[1]))
    totals[0] = parts.sum(axis=0)
    if n and len(kinds) <= MOST_MULTINOMIAL:
        totals[1:] = rng.multinomial(n, times / n, REPLICATES) @ kinds
        return totals
    step = max(1, (1 << 23) // max(n, 1))
    for start in range(1, REPLICATES + 1, step):
        rows = totals[start : start + step]
        drawn = rng.integers(0, max(n, 1), (len(rows), n)) + n * np.arange(len(rows))[:, None]
        counts = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        rows[:] = counts @ parts
    return totals


def bootstrap_interval(replicates: Floats, n_clusters: int) -> tuple[float, float]:
    """The expanded percentile interval of the replicates (r,); NaN among them say nothing.

    Plain percentiles are too narrow by sqrt((n - 1) / n) and take the normal quantile for
    Student's; the tails are moved out by both (Hesterberg, The American Statistician 69, 2015,
    section 5.4).
    """
    from scipy.special import ndtr, stdtrit

    there = replicates[np.isfinite(replicates)]
    if not len(there) or n_clusters < 2:
        return np.nan, np.nan
    t = stdtrit(n_clusters - 1, (1 - LEVEL) / 2)
    tail = 100 * float(ndtr(np.sqrt(n_clusters / (n_clusters - 1)) * t))
    low, high = np.percentile(there, [tail, 100 - tail])
    return float(low), float(high)


def share_of_clusters(sums: Floats, counts: Floats, rng: np.random.Generator) -> Estimate:
    """The ratio of sums to counts, (n_clusters,) both, a share between 0 and 1.

    Where all clusters say the same, or there are fewer than FEWEST_CLUSTERS, the interval is at
    least that of Clopper and Pearson with clusters as trials.
    """
    there = counts > 0
    n = int(np.count_nonzero(there))
    if not n:
        return NOTHING
    totals = resampled_totals(np.stack((sums[there], counts[there]), axis=1), rng)
    shares = totals[:, 0] / totals[:, 1]
    low, high = bootstrap_interval(shares[1:], n)
    return widened(Estimate(float(shares[0]), low, high), n)


def widened(found: Estimate, n_clusters: int) -> Estimate:
    """A share's estimate whose interval is no narrower than few or equal clusters allow."""
    if n_clusters >= FEWEST_CLUSTERS and found.high - found.low > ALL_ALIKE:
        return found
    exact = exact_share(min(max(found.value, 0.0), 1.0) * n_clusters, n_clusters)
    return Estimate(
        found.value, np.fmin(found.low, exact.low).item(), np.fmax(found.high, exact.high).item()
    )
