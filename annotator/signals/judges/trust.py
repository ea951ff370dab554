"""How far a judge's scores can be trusted, held against people's verdicts on the same pairs.

Arrays in, measures out. Every measure is made of sums over each prompt, so that the bootstrap over
prompts, which keeps all pairs of a prompt together, weighs those sums and computes nothing again.

Ties are told apart. Where people are tied, with as many votes for a as for b, there is nothing to
agree with: the pair is counted and left out. Where the judge is tied and people are not, it is
right half the time, as a coin would be; the share without these pairs stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from strategies.within_prompt import Bools, Floats, Positions, rows_of_equal_length

REPLICATES = 1_000
LEVEL = 0.95
QUARTILES = 4
TIE = 2.0**-40  # of the largest gap: means of equal grades differ by less, real gaps by more
FEWEST_PROMPTS = 10  # with fewer the intervals are too narrow for a verdict
ALL_ALIKE = 1e-9  # the width of an interval whose replicates are equal but for rounding

Statistic = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval by bootstrap over `prompts`; NaN where there is nothing.

    `n` is what was counted: pairs, or responses. Quartiles share pairs that are tied at their cut,
    so it need not be a whole number.
    """

    value: float
    low: float
    high: float
    n: float
    prompts: int


@dataclass(frozen=True, eq=False)
class Verdicts:
    """Pairs on which people spoke, and the judge's gap: arrays (n_pairs,).

    - `prompt` the pair's prompt, a position below `n_prompts`; `people` 1 if they prefer a, -1 if
      b, 0 if they are tied; `gap` the judge's score of a less that of b, NaN where one is missing.
    """

    n_prompts: int
    prompt: Positions
    people: Positions
    gap: Floats

    @property
    def judge(self) -> Positions:
        """What the judge prefers: the sign of the gap, 0 for a tie and for no score, (n_pairs,)."""
        return signs(self.gap)

    @property
    def counted(self) -> Bools:
        """The pairs that agreement is measured on: people take a side, both scores are there."""
        there: Bools = (self.people != 0) & ~np.isnan(self.gap)
        return there

    def of(self, pairs: Positions | Bools) -> Verdicts:
        """The same of these pairs alone."""
        return Verdicts(self.n_prompts, self.prompt[pairs], self.people[pairs], self.gap[pairs])

    def right(self) -> Floats:
        """1 where judge and people prefer the same, 0 where not, one half where either is tied."""
        agrees = (self.people * self.judge).astype(np.float64)
        return 0.5 + 0.5 * agrees


@dataclass(frozen=True)
class Agreement:
    """How often the judge prefers what people prefer.

    `share` over all counted pairs, a judge's tie being half right; `decided` without its ties.
    The rest are numbers of pairs: `right`, `wrong`, `judge_tied` make up the counted ones;
    `people_tied`, of which `both_tied`, and `unscored` are in no share.
    """

    share: Estimate
    decided: Estimate
    right: int
    wrong: int
    judge_tied: int
    people_tied: int
    both_tied: int
    unscored: int


@dataclass(frozen=True)
class Stratum:
    """The agreement where a value lies from `low` to `high`."""

    low: float
    high: float
    agreement: Estimate


@dataclass(frozen=True)
class Correlation:
    """Correlations within prompts, over responses or pairs."""

    pearson: Estimate
    spearman: Estimate


def signs(gap: Floats) -> Positions:
    """1, -1, or 0 for a tie up to rounding, and for NaN."""
    largest = np.nanmax(np.abs(gap), initial=0.0)
    with np.errstate(invalid="ignore"):
        return np.where(np.abs(gap) > TIE * largest, np.sign(gap), 0).astype(np.int64)


def agreement(verdicts: Verdicts, rng: np.random.Generator) -> Agreement:
    """How often the sign of the judge's gap is what most people prefer."""
    tied = verdicts.judge == 0
    scored = ~np.isnan(verdicts.gap)
    counted = verdicts.counted
    right = verdicts.right()
    share, decided = shares(verdicts, np.stack([counted, counted & ~tied]).astype(float), rng)
    return Agreement(
        share=share,
        decided=decided,
        right=int(np.count_nonzero(counted & (right == 1.0))),
        wrong=int(np.count_nonzero(counted & (right == 0.0))),
        judge_tied=int(np.count_nonzero(counted & tied)),
        people_tied=int(np.count_nonzero(scored & (verdicts.people == 0))),
        both_tied=int(np.count_nonzero(scored & (verdicts.people == 0) & tied)),
        unscored=int(np.count_nonzero(~scored)),
    )


def shares(verdicts: Verdicts, weights: Floats, rng: np.random.Generator) -> list[Estimate]:
    """The agreement of each group of pairs, given as weights (n_groups, n_pairs).

    Pairs that are not `counted` weigh nothing, whatever is given.
    """
    weights = np.where(verdicts.counted, weights, 0.0)
    right = np.where(verdicts.counted, verdicts.right(), 0.0)
    sums = by_prompt(weights * right, verdicts.prompt, verdicts.n_prompts)
    return ratios(sums, by_prompt(weights, verdicts.prompt, verdicts.n_prompts), rng)


def by_quartile(verdicts: Verdicts, value: Floats, rng: np.random.Generator) -> list[Stratum]:
    """The agreement in each quarter of the counted pairs by `value` (n_pairs,), lowest first.

    A pair whose value is NaN is left out. Pairs of one value that a cut divides belong to both
    quarters in proportion, so the answer does not depend on their order. Empty without a pair.
    """
    of = np.flatnonzero(verdicts.counted & ~np.isnan(value))
    if not len(of):
        return []
    parts, values = equal_parts(value[of], QUARTILES), value[of]
    found = shares(verdicts.of(of), parts, rng)
    return [
        Stratum(float(values[part > 0].min()), float(values[part > 0].max()), estimate)
        for part, estimate in zip(parts, found, strict=True)
        if part.any()
    ]


def top_less_bottom(verdicts: Verdicts, value: Floats, rng: np.random.Generator) -> Estimate:
    """How much more often the judge is right in the highest quarter of `value` than in the lowest.

    Above 0 the value tells hard pairs from easy ones.
    """
    of = np.flatnonzero(verdicts.counted & ~np.isnan(value))
    part = verdicts.of(of)
    ends = equal_parts(value[of], QUARTILES)[[0, -1]]
    sums = by_prompt(ends * part.right(), part.prompt, part.n_prompts)
    counts = by_prompt(ends, part.prompt, part.n_prompts)

    def difference(totals: Floats) -> Floats:
        low, high, n_low, n_high = totals.T
        gain: Floats = high / n_high - low / n_low
        return gain

    return estimate(np.concatenate((sums, counts)), difference, rng, float(ends.sum()))


def better_than(verdicts: Verdicts, rival: Floats, rng: np.random.Generator) -> Estimate:
    """How much more often the judge is right than a rival, whose gaps (n_pairs,) are given.

    On the same pairs, so that how hard they are is in neither side; NaN gaps of the rival are left
    out. Above 0 the judge is the better one.
    """
    other = Verdicts(verdicts.n_prompts, verdicts.prompt, verdicts.people, rival)
    both = np.flatnonzero(verdicts.counted & other.counted)
    gain = verdicts.of(both).right() - other.of(both).right()
    prompt, n = verdicts.prompt[both], verdicts.n_prompts
    ones = by_prompt(np.ones((1, len(both))), prompt, n)
    return ratios(by_prompt(gain[None], prompt, n), ones, rng, bounded=False)[0]


def people_agree(
    n_prompts: int,
    prompt: Positions,
    for_a: Positions,
    for_b: Positions,
    rng: np.random.Generator,
) -> Estimate:
    """The chance that two votes on one pair match, of votes that take a side, by two people.

    `for_a`, `for_b` (n_pairs,) such votes. What a judge can be expected to reach is measured by
    how far people agree among themselves. Every two votes on one pair count once; `n` is how many
    such twos there are.
    """
    votes = for_a + for_b
    twos = votes * (votes - 1) / 2
    matching = (for_a * (for_a - 1) + for_b * (for_b - 1)) / 2
    sums, counts = (by_prompt(part[None], prompt, n_prompts) for part in (matching, twos))
    return ratios(sums, counts, rng)[0]


def flip_rate(
    n_prompts: int, prompt: Positions, flipped: Bools, rng: np.random.Generator
) -> Estimate:
    """How often a judge that was asked in both orders changed its verdict, over (n_pairs,)."""
    sums = by_prompt(flipped[None].astype(float), prompt, n_prompts)
    return ratios(sums, by_prompt(np.ones((1, len(prompt))), prompt, n_prompts), rng)[0]


def within_prompt_correlation(
    x: Floats, y: Floats, prompt_of_response: Positions, rng: np.random.Generator
) -> Correlation:
    """Pearson's and Spearman's correlation of x with y within prompts; all (n_responses,).

    Both are centred, and for Spearman ranked, inside each prompt, then correlated over all of them
    at once: a prompt counts by how far its responses differ, and one of two responses counts too.
    Responses with NaN in either are left out.
    """
    both = np.flatnonzero(~np.isnan(x) & ~np.isnan(y))
    n_prompts = int(prompt_of_response.max()) + 1 if len(prompt_of_response) else 0
    pearson, spearman = np.zeros((3, n_prompts)), np.zeros((3, n_prompts))
    n = 0
    for rows in rows_of_equal_length(prompt_of_response[both]):
        if rows.shape[1] < 2:
            continue
        at = both[rows]
        prompts = prompt_of_response[at[:, 0]]
        pearson[:, prompts] = _products(x[at], y[at])
        spearman[:, prompts] = _products(_ranked(x[at]), _ranked(y[at]))
        n += at.size
    r, rho = (estimate(parts, _correlated, rng, n) for parts in (pearson, spearman))
    return Correlation(r, rho)


def win_scores(
    n_responses: int, pair_a: Positions, pair_b: Positions, verdict: Positions
) -> Floats:
    """How often each response was preferred less how often its rival was, per pair it is in.

    Borda's count on the pairs there are, from -1 to 1, (n_responses,); NaN for one in no pair.
    `verdict` (n_pairs,) 1 for a, -1 for b, 0 for neither.
    """
    both, value = np.concatenate((pair_a, pair_b)), np.concatenate((verdict, -verdict))
    n = np.bincount(both, minlength=n_responses)
    total = np.bincount(both, weights=value, minlength=n_responses)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


# Parts of pairs, and the bootstrap.


def equal_parts(values: Floats, n_parts: int) -> Floats:
    """Weights (n_parts, n) that cut the values, lowest first, into parts of equal weight.

    Equal values are told apart by nothing: those that a cut divides weigh in both parts alike.
    """
    ordered, inverse, size = np.unique(values, return_inverse=True, return_counts=True)
    end = np.cumsum(size)
    start = end - size
    cuts = np.linspace(0.0, len(values), n_parts + 1)
    inside = np.minimum(end, cuts[1:, None]) - np.maximum(start, cuts[:-1, None])
    weights: Floats = np.maximum(inside, 0.0) / size
    return weights[:, inverse.reshape(-1)] if len(ordered) else np.empty((n_parts, 0))


def by_prompt(values: npt.ArrayLike, prompt: Positions, n_prompts: int) -> Floats:
    """Sums over each prompt, (m, n_prompts), of values (m, n_pairs)."""
    rows = np.asarray(values, dtype=np.float64)
    prompt = np.asarray(prompt, dtype=np.int64)
    sums = [np.bincount(prompt, weights=row, minlength=n_prompts) for row in rows]
    return np.array(sums, dtype=np.float64).reshape(len(rows), n_prompts)


def ratios(
    sums: Floats, counts: Floats, rng: np.random.Generator, *, bounded: bool = True
) -> list[Estimate]:
    """The ratio of sums to counts, (m, n_prompts) both, of each of the m rows.

    Where every prompt says the same, such as 1, or 0, no replicate says anything else, and those of
    fewer prompts than FEWEST_PROMPTS say too little. A share that is `bounded` by 0 and 1 then has
    an interval at least as wide as that of Clopper and Pearson (Biometrika 26, 1934), with prompts
    as trials.
    """
    m = len(sums)
    totals = resampled_totals(np.concatenate((sums, counts)), rng)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = totals[:, :m] / totals[:, m:]
    found = []
    for row, (value, count) in enumerate(zip(values.T, counts, strict=True)):
        n_prompts = int(np.count_nonzero(count))
        low, high = _interval(value[1:])
        if bounded and n_prompts:
            low, high = _widened(float(value[0]), low, high, n_prompts)
        found.append(Estimate(float(value[0]), low, high, float(totals[0, m + row]), n_prompts))
    return found


def estimate(parts: Floats, statistic: Statistic, rng: np.random.Generator, n: float) -> Estimate:
    """A statistic of totals over prompts; `parts` (m, n_prompts) -> totals (replicates + 1, m)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        values = statistic(resampled_totals(parts, rng))
    low, high = _interval(values[1:])
    return Estimate(float(values[0]), low, high, n, int(np.count_nonzero(parts.any(axis=0))))


def resampled_totals(
    parts: Floats, rng: np.random.Generator, replicates: int = REPLICATES
) -> Floats:
    """Totals over prompts, (replicates + 1, m): as observed, then of prompts drawn again.

    `parts` (m, n_prompts). Prompts are drawn with replacement from those that have anything.
    """
    parts = parts[:, parts.any(axis=0)]
    n = parts.shape[1]
    totals = np.zeros((replicates + 1, len(parts)))
    totals[0] = parts.sum(axis=1)
    step = max(1, (1 << 23) // max(n, 1))
    for start in range(1, replicates + 1, step):
        rows = totals[start : start + step]
        if n:
            # Not rng.multinomial: of 3 million prompts it gave the last one a third of all draws.
            drawn = rng.integers(0, n, (len(rows), n)) + n * np.arange(len(rows))[:, None]
            times = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
            rows[:] = times @ parts.T
    return totals


def _interval(replicates: Floats) -> tuple[float, float]:
    """The percentile interval; a replicate that drew nothing to divide by says nothing."""
    there = replicates[np.isfinite(replicates)]
    if not len(there):
        return np.nan, np.nan
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(there, [tail, 100 - tail])
    return float(low), float(high)


def _widened(value: float, low: float, high: float, n_prompts: int) -> tuple[float, float]:
    if n_prompts >= FEWEST_PROMPTS and high - low > ALL_ALIKE:
        return low, high
    exact_low, exact_high = clopper_pearson(value, n_prompts)
    return min(low, exact_low), max(high, exact_high)


def clopper_pearson(share: float, n: int) -> tuple[float, float]:
    """The exact interval of a share of `n` trials, which need not be a whole number of them."""
    from scipy.special import betaincinv

    tail, hits = (1 - LEVEL) / 2, min(max(share, 0.0), 1.0) * n
    low = float(betaincinv(hits, n - hits + 1, tail)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, n - hits, 1 - tail)) if hits < n else 1.0
    return low, high


def _products(x: Floats, y: Floats) -> Floats:
    """Sums of xy, xx and yy of centred rows, (3, m) of (m, K) twice."""
    # Less the first number before the mean: equal numbers become zero, not a rounding error.
    x, y = x - x[:, :1], y - y[:, :1]
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    return np.stack([np.vecdot(x, y), np.vecdot(x, x), np.vecdot(y, y)])


def _correlated(totals: Floats) -> Floats:
    xy, xx, yy = totals.T
    found: Floats = xy / np.sqrt(xx * yy)
    return found


def _ranked(values: Floats) -> Floats:
    """Ranks in each row, equal values having the mean of theirs."""
    from scipy.stats import rankdata

    ranks: Floats = rankdata(values, axis=1)
    return ranks
