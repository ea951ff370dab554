"""Curves of quality against votes: their bootstrap, their inverse, and what one saves on another.

A saving is read at equal quality: the votes that a strategy needs for it against those that the
reference needs. Nothing is extrapolated. A quality that a strategy does not reach within its
budgets stays in every count, at the unfavourable end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from strategies.within_prompt import Bools, Floats, Positions

REPLICATES = 1_000
LEVEL = 0.95
ROUNDING = 1e-12

SAVES, COSTS, NEITHER = "saves", "costs", "no measurable difference"


@dataclass(frozen=True, eq=False)
class Weights:
    """How often each prompt (replicates + 1, n_prompts) and seed (replicates + 1, n_seeds) counts.

    The first row is what was observed: everything once.
    """

    prompts: Floats
    seeds: Floats


@dataclass(frozen=True, eq=False)
class Curve:
    """Quality at each budget: (n_budgets,) votes, (replicates + 1, n_budgets) values.

    The first row of `values` is what was observed.
    """

    budgets: Positions
    values: Floats

    @property
    def mean(self) -> Floats:
        """As observed, (n_budgets,)."""
        observed: Floats = self.values[0]
        return observed

    def interval(self) -> tuple[Floats, Floats]:
        """Lower and upper end at each budget."""
        return percentiles(self.values[1:])

    def monotone(self) -> Curve:
        """The nearest curves that never fall: more votes do not make a learner worse.

        Least squares with equal weights, by the min-max formula (Robertson, Wright and Dykstra,
        Order Restricted Statistical Inference, 1988, theorem 1.4.4).
        """
        n = self.values.shape[1]
        sums = np.cumsum(np.pad(self.values, ((0, 0), (1, 0))), axis=1)
        fitted = np.full_like(self.values, -np.inf)
        for start in range(n):
            spans = np.arange(1, n - start + 1)
            means = (sums[:, start + 1 :] - sums[:, [start]]) / spans
            least = np.minimum.accumulate(means[:, ::-1], axis=1)[:, ::-1]
            fitted[:, start:] = np.maximum(fitted[:, start:], least)
        return Curve(self.budgets, fitted)


@dataclass(frozen=True)
class Saving:
    """What a strategy saves on a reference at the quality `target`.

    `reference_votes` that the reference needs, `votes` that the strategy needs (None: more than
    its budgets go), `fraction` = 1 - votes / reference_votes. `low` and `high` are its interval;
    None: the replicates at that end do not reach the target, or reach it beyond all budgets.
    `at_least`: the strategy is there with its smallest budget, so the fraction is a lower bound;
    `high_at_least`: the same of `high`, which smaller budgets would have moved further.
    `reached`: the share of replicates that reach the target. `overtaken`: where the strategy does
    not, the votes with which the reference has the most that the strategy reaches.
    """

    target: float
    reference_votes: float
    votes: float | None
    fraction: float | None
    low: float | None
    high: float | None
    verdict: str
    at_least: bool
    high_at_least: bool
    reached: float
    overtaken: float | None


def weights(n_counted: Floats, rng: np.random.Generator, replicates: int = REPLICATES) -> Weights:
    """Draws for a two-level bootstrap: prompts with replacement, and seeds with replacement.

    `n_counted` (n_seeds, n_prompts) what each prompt contributes; prompts that never contribute
    are not drawn, and a draw without any contribution is drawn again. The levels cross, so this is
    the pigeonhole bootstrap of Owen (Annals of Applied Statistics 1, 2007), which errs on the side
    of wide intervals. With one seed there is no second level.
    """
    n_seeds, n_prompts = n_counted.shape
    counted = np.flatnonzero(n_counted.any(axis=0))
    prompts = np.zeros((replicates + 1, n_prompts))
    seeds = np.ones((replicates + 1, n_seeds))
    prompts[0, counted] = 1.0
    missing = np.arange(1, replicates + 1)
    while len(missing):
        drawn = rng.multinomial(len(counted), np.full(len(counted), 1 / len(counted)), len(missing))
        prompts[np.ix_(missing, counted)] = drawn
        seeds[missing] = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), len(missing))
        total = np.vecdot(seeds[missing], prompts[missing] @ n_counted.T)
        missing = missing[total == 0]
    return Weights(prompts, seeds)


def curve(budgets: Positions, sums: Floats, counts: Floats, drawn: Weights) -> Curve:
    """The weighted ratio of sums to counts in every replicate.

    `sums` (n_seeds, n_budgets, n_prompts), `counts` the same or broadcast to it.
    """
    numerator, denominator = (
        _weighted(part, drawn) for part in (sums, np.broadcast_to(counts, sums.shape))
    )
    return Curve(budgets, numerator / denominator)


def _weighted(part: Floats, drawn: Weights) -> Floats:
    n_seeds, n_budgets, n_prompts = part.shape
    by_seed = drawn.prompts @ part.reshape(-1, n_prompts).T
    total: Floats = np.einsum("rsb,rs->rb", by_seed.reshape(-1, n_seeds, n_budgets), drawn.seeds)
    return total


def votes_to_reach(curve: Curve, target: Floats) -> Floats:
    """Votes at which each monotone curve first has its target, (replicates + 1,).

    Between budgets quality is linear in the logarithm of votes. The smallest budget where it is
    there from the start; infinity where the last budget does not reach it.
    """
    values, log_votes = curve.values, np.log(curve.budgets)
    reached = values >= target[:, None] - ROUNDING
    first = np.argmax(reached, axis=1)
    after, before = first, np.maximum(first - 1, 0)
    row = np.arange(len(values))
    rise = values[row, after] - values[row, before]
    share = (target - values[row, before]) / np.where(rise > 0, rise, 1.0)
    between = log_votes[before] + share * (log_votes[after] - log_votes[before])
    votes = np.where(first == 0, curve.budgets[0], np.exp(between))
    return np.where(reached.any(axis=1), votes, np.inf)


def target_of(reference: Curve, quality: float | None = None) -> Floats:
    """The quality at which votes are compared, (replicates + 1,).

    By default what the reference reaches at its largest budget, anew in every replicate.
    """
    if quality is not None:
        return np.full(len(reference.values), quality)
    last: Floats = reference.monotone().values[:, -1]
    return last


def saving(strategy: Curve, reference: Curve, target: Floats, *, conclusive: bool = True) -> Saving:
    """What the strategy saves on the reference where both have the target quality.

    The verdict is SAVES if the whole interval is above 0, COSTS if it is below, else NEITHER; it is
    NEITHER as well where the interval comes from too few seeds or prompts to be `conclusive`.
    """
    mine, theirs = strategy.monotone(), reference.monotone()
    votes, needed = votes_to_reach(mine, target), votes_to_reach(theirs, target)
    overtaken = votes_to_reach(theirs, mine.values[:, -1])
    behind = mine.values[:, -1] < theirs.values[:, -1]
    fraction = _fraction(votes, needed, float(theirs.budgets[-1]), behind)
    low, high = (float(end[0]) for end in percentiles(fraction[1:, None]))
    at_first = (votes <= mine.budgets[0]) & (needed > mine.budgets[0])
    return Saving(
        target=float(target[0]),
        reference_votes=float(needed[0]),
        votes=_finite(votes[0]),
        fraction=_finite(fraction[0]) if np.isfinite(votes[0]) else None,
        low=_finite(low),
        high=_finite(high),
        verdict=_verdict(low, high) if conclusive else NEITHER,
        at_least=bool(at_first[0]),
        high_at_least=bool(np.any(at_first[1:] & (fraction[1:] >= high - ROUNDING))),
        reached=float(np.isfinite(votes[1:]).mean()),
        overtaken=None if np.isfinite(votes[0]) else _finite(overtaken[0]),
    )


def _verdict(low: float, high: float) -> str:
    if low > 0:
        return SAVES
    return COSTS if high < 0 else NEITHER


def _fraction(votes: Floats, needed: Floats, largest: float, behind: Bools) -> Floats:
    """1 - votes / needed, where what is not known counts against the strategy.

    Where the reference does not reach the target it needs at least its largest budget. Where the
    strategy does not, it costs an unknown amount: minus infinity. Where neither does, that holds
    if the strategy ends behind the reference; else nothing is known: 0.
    """
    fraction = 1.0 - votes / np.minimum(needed, largest)
    neither = np.isinf(votes) & np.isinf(needed)
    return np.where(neither & ~behind, 0.0, fraction)


def percentiles(values: Floats) -> tuple[Floats, Floats]:
    """Both ends of the percentile interval of each column; no interpolation across infinity."""
    tail = 100 * (1 - LEVEL) / 2
    low = np.percentile(values, tail, axis=0, method="lower")
    high = np.percentile(values, 100 - tail, axis=0, method="higher")
    return low, high


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
