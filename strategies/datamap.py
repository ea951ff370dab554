"""The Alignment Data Map: prompts placed by mean and variance of their responses' scores.

After "Alignment Data Map for Efficient Preference Data Selection and Diagnosis", arXiv 2505.23114,
and the public code of its first versions. Each prompt is a point: mean and population variance of
the scores of its responses. Two cuts, one after the other, make three disjoint regions of one third
of the prompts each:

1. the third with the largest variance is HIGH_VARIANCE;
2. of the rest, the half with the larger mean is HIGH_MEAN_LOW_VARIANCE, the other is LOW_MEAN.

So "high mean, low variance" is no box: its mean lies above the median *of the rest*. Of n prompts
n - floor(2n/3) have high variance; of the m others floor(m/2) have a low mean. That is the
rounding of the published code: a prompt left over goes to the larger value.

The variance runs over the responses of one prompt. It is not a judge's doubt about one response.
With K = 2 it is (margin / 2)^2 and says no more than the margin.

What is chosen is the PROMPT: its eligible pairs all follow each other, as the paper trains on all
pairs of a chosen prompt. When a region has no pair left, the other two follow in a fixed order that
is ours, then the prompts without a place: those with fewer than two scored responses. Propensities
are NaN, since a pair outside the region could not have been drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from strategies.pool import Pool, Selection, eligible_for, needs
from strategies.within_prompt import Floats, Positions

REGIONS = ("high-mean-low-variance", "high-variance", "low-mean")
HIGH_MEAN_LOW_VARIANCE, HIGH_VARIANCE, LOW_MEAN = range(3)
NO_REGION = -1

TIE = 2.0**-40  # of the largest value: sums of equal scores differ by less, real scores by more


@dataclass(frozen=True, eq=False)
class DataMap:
    """Where each prompt lies: arrays (n_prompts,), NaN with fewer than two scored responses.

    `mean` and `variance` (population, ddof 0) are over the prompt's scored responses, of which
    `n_scored` tells the number.
    """

    mean: Floats
    variance: Floats
    n_scored: Positions


@dataclass(frozen=True)
class CutOffs:
    """The lowest variance in the region of high variance, the lowest mean in that of high mean.

    NaN where that region is empty. They move with the pool and with what scored it: never carry
    them over to another.
    """

    variance: float
    mean: float


def map_of_scores(response_score: Floats, prompt_of_response: Positions) -> DataMap:
    """The data map of scores (n_responses,), NaN where a response has none.

    `prompt_of_response` (n_responses,) are positions of prompts, from 0; the map has a place for
    each up to the highest. Whole-number scores give equal variances exactly where they are equal.
    """
    n_prompts = int(prompt_of_response.max()) + 1 if len(prompt_of_response) else 0
    scored = ~np.isnan(response_score)
    prompts, scores = prompt_of_response[scored], response_score[scored]
    lowest = np.full(n_prompts, np.inf)
    np.minimum.at(lowest, prompts, scores)
    # From the prompt's lowest score, so that equal scores have variance 0 and not a rounding error.
    above = scores - lowest[prompts]
    k = np.bincount(prompts, minlength=n_prompts).astype(np.int64)
    total = np.bincount(prompts, weights=above, minlength=n_prompts)
    squares = np.bincount(prompts, weights=above**2, minlength=n_prompts)
    known = np.where(k < 2, np.nan, k)
    return DataMap(
        mean=lowest + total / known,
        variance=np.maximum(k * squares - total**2, 0.0) / known**2,
        n_scored=k,
    )


def regions(mean: Floats, variance: Floats, tie_break: npt.NDArray[np.int64]) -> Positions:
    """The region of each prompt, (n_prompts,): its position in REGIONS, NO_REGION where NaN.

    `tie_break` (n_prompts,) orders prompts of equal variance, then those of equal mean, lowest
    first; a permutation drawn by the caller. Scores in whole grades make many ties. Values that
    differ by less than TIE of the largest are equal.
    """
    region = np.full(len(mean), NO_REGION, dtype=np.int64)
    placed = np.flatnonzero(~np.isnan(variance))
    by_variance = placed[np.lexsort((tie_break[placed], _rounded(variance[placed])))]
    rest = by_variance[: 2 * len(placed) // 3]
    region[by_variance[len(rest) :]] = HIGH_VARIANCE
    by_mean = rest[np.lexsort((tie_break[rest], _rounded(mean[rest])))]
    region[by_mean[: len(rest) // 2]] = LOW_MEAN
    region[by_mean[len(rest) // 2 :]] = HIGH_MEAN_LOW_VARIANCE
    return region


def cut_offs(mean: Floats, variance: Floats, region: Positions) -> CutOffs:
    """Where the two cuts fell that made these regions; all arrays (n_prompts,)."""
    return CutOffs(
        variance=_lowest(variance[region == HIGH_VARIANCE]),
        mean=_lowest(mean[region == HIGH_MEAN_LOW_VARIANCE]),
    )


@needs("scores")
def datamap_high_mean_low_variance(pool: Pool, n: int, rng: np.random.Generator) -> Selection:
    """n pairs of prompts whose responses score high and alike, the paper's own choice.

    Prompts in drawn order, each with all its eligible pairs. Then low mean, which is the rest of
    the low variance, then high variance. The score is 3 for a pair of the region, 2 and 1 for the
    regions that follow, 0 for prompts without a place.

    Raises BadBatchSize, PoolTooSmall, MissingSignal.
    """
    return _by_region(pool, n, rng, (HIGH_MEAN_LOW_VARIANCE, LOW_MEAN, HIGH_VARIANCE))


@needs("scores")
def datamap_high_variance(pool: Pool, n: int, rng: np.random.Generator) -> Selection:
    """n pairs of prompts whose responses' scores differ most.

    As `datamap_high_mean_low_variance`; then high mean and low variance, then low mean.

    Raises BadBatchSize, PoolTooSmall, MissingSignal.
    """
    return _by_region(pool, n, rng, (HIGH_VARIANCE, HIGH_MEAN_LOW_VARIANCE, LOW_MEAN))


@needs("scores")
def datamap_low_mean(pool: Pool, n: int, rng: np.random.Generator) -> Selection:
    """n pairs of prompts whose responses score badly and alike.

    As `datamap_high_mean_low_variance`; then high mean and low variance, then high variance.

    Raises BadBatchSize, PoolTooSmall, MissingSignal.
    """
    return _by_region(pool, n, rng, (LOW_MEAN, HIGH_MEAN_LOW_VARIANCE, HIGH_VARIANCE))


def _by_region(
    pool: Pool, n: int, rng: np.random.Generator, order: tuple[int, int, int]
) -> Selection:
    eligible = eligible_for(pool, n)
    scores = pool.signal("response_score")
    placed = map_of_scores(scores, pool.prompt_of_response)
    region = regions(placed.mean, placed.variance, rng.permutation(pool.n_prompts))
    worth = np.zeros(pool.n_prompts)
    for value, one in zip((3.0, 2.0, 1.0), order, strict=True):
        worth[region == one] = value
    prompt = pool.prompt_of_pair[eligible]
    chosen = _prompt_by_prompt(n, prompt, worth, rng)
    return Selection.of(eligible[chosen], scores=worth[prompt[chosen]])


def _prompt_by_prompt(
    n: int, prompt: Positions, worth: Floats, rng: np.random.Generator
) -> Positions:
    """Which n of the pairs with these prompts come first: whole prompts, only the last one cut.

    Prompts of high worth first, else in drawn order; the pairs of a prompt in drawn order too.
    """
    by_worth = np.lexsort((rng.permutation(len(worth)), -worth))
    n_pairs = np.bincount(prompt, minlength=len(worth))[by_worth]
    n_prompts = np.searchsorted(np.cumsum(n_pairs), n) + 1
    turn = np.full(len(worth), -1)
    turn[by_worth[:n_prompts]] = np.arange(n_prompts)
    offered = np.flatnonzero(turn[prompt] >= 0)
    draw = rng.permutation(len(prompt))[offered]
    first: Positions = offered[np.lexsort((draw, turn[prompt[offered]]))[:n]]
    return first


def _rounded(values: Floats) -> Floats:
    """Whole numbers that are equal where the values are but for the rounding of sums."""
    step = TIE * np.abs(values).max(initial=0.0)
    return np.rint(values / step) if step > 0 else values


def _lowest(values: Floats) -> float:
    return float(values.min()) if len(values) else float("nan")
