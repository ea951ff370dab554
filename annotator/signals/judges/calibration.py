"""How sure a judge may be of a pair: a probability from its gap, and what that is worth.

Two ways to a probability. NORMAL takes the judge at its word: the gap is normal with the variances
that it gave for its two scores, so nothing is fitted, and where it gave none there is none.
LOGISTIC learns what a gap is worth from people: P(a preferred) = 1 / (1 + exp(-slope * gap)), one
slope, fitted on the other prompts (cross-fitted), so no pair foretells itself. There is no
intercept: which of two responses is called a means nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from annotator.signals.judges.trust import (
    Estimate,
    Verdicts,
    by_prompt,
    equal_parts,
    estimate,
    ratios,
)
from strategies.within_prompt import Floats, Positions

NORMAL, LOGISTIC = "normal", "logistic"
FOLDS = 5
MOST_BINS = 10
PAIRS_IN_BIN = 25  # at least, on average
SUREST = 0.999  # no probability is taken for more in the logarithmic loss


@dataclass(frozen=True)
class Bin:
    """Pairs that the judge is about equally sure of: its confidence, and how often it is right."""

    confidence: float
    right: Estimate


@dataclass(frozen=True)
class Calibration:
    """How well probabilities foretell what most people prefer, over the pairs that have one.

    `brier` is the mean of (1 - p)^2, p being the probability of what people prefer: .25 for a
    coin. `log_loss` the mean of -ln p, .693 for a coin, p kept below SUREST and above its
    complement. `brier_constant` is the Brier score of somebody who knows only how often the judge
    is right and says that of every pair; `gain` how far the probabilities are below it. Above 0
    the gap's size is worth something beside its sign.
    """

    how: str
    brier: Estimate
    log_loss: Estimate
    brier_constant: float
    gain: Estimate
    bins: list[Bin]


def normal_probability(gap: Floats, variance: Floats) -> Floats:
    """P(a preferred) of a gap that is normal with this variance; all (n_pairs,).

    One half for a gap of 0. A variance of 0 is certainty; NaN in either is NaN.
    """
    from scipy.special import ndtr

    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.where(gap == 0, gap, gap / np.sqrt(variance))
    found: Floats = ndtr(np.where(np.isnan(variance), np.nan, steps))
    return found


def cross_fitted_probability(
    verdicts: Verdicts, rng: np.random.Generator, folds: int = FOLDS
) -> Floats:
    """P(a preferred) by the LOGISTIC way, each from the slope that the other prompts gave.

    Prompts are dealt to `folds` by lot. NaN where there is no gap, and everywhere if the counted
    pairs are on one prompt, which leaves none to learn from.
    """
    fitted = np.full(len(verdicts.gap), np.nan)
    prompts = rng.permutation(np.unique(verdicts.prompt[verdicts.counted]))
    if len(prompts) < 2:
        return fitted
    fold_of_prompt = np.zeros(verdicts.n_prompts, dtype=np.int64)
    fold_of_prompt[prompts] = np.arange(len(prompts)) % folds
    fold = fold_of_prompt[verdicts.prompt]
    for left_out in range(min(folds, len(prompts))):
        here = fold == left_out
        fitted[here] = logistic(slope(verdicts.of(~here)) * verdicts.gap[here])
    return fitted


def slope(verdicts: Verdicts) -> float:
    """The slope that makes what most people prefer most likely, per unit of the gap.

    Two pairs are added that cancel out, one right and one wrong, at the root mean square of the
    gaps: the slope is finite where the judge was never wrong. 0 where every gap is 0; below 0 for
    a judge that is wrong more often than right. Judge's ties say nothing of it.
    """
    from scipy.optimize import brentq

    of = verdicts.of(verdicts.counted)
    towards = of.gap * of.people
    scale = float(np.sqrt(np.mean(towards**2))) if len(towards) else 0.0
    if scale == 0.0:
        return 0.0
    towards = np.concatenate((towards / scale, [1.0, -1.0]))

    def rise(value: float) -> float:
        return float(np.sum(towards * logistic(-value * towards)))

    bound = 1.0
    while rise(bound) > 0 or rise(-bound) < 0:
        bound *= 2
    return float(brentq(rise, -bound, bound)) / scale


def calibration(
    how: str, verdicts: Verdicts, probability: Floats, rng: np.random.Generator
) -> Calibration | None:
    """What these probabilities (n_pairs,) that a is preferred are worth; None without any."""
    there = verdicts.counted & ~np.isnan(probability)
    if not there.any():
        return None
    of, for_a = verdicts.of(there), probability[there]
    given = np.where(of.people > 0, for_a, 1.0 - for_a)
    kept = np.clip(given, 1.0 - SUREST, SUREST)
    rows = np.stack([(1.0 - given) ** 2, -np.log(kept), of.right(), np.ones(len(given))])
    parts = by_prompt(rows, of.prompt, of.n_prompts)
    ones = np.stack([parts[3], parts[3]])
    brier, log_loss = ratios(parts[:2], ones, rng, bounded=False)
    gain = estimate(parts[[0, 2, 3]], _gain, rng, float(len(given)))
    bins = reliability(of, for_a, rng)
    return Calibration(how, brier, log_loss, brier.value + gain.value, gain, bins)


def _gain(totals: Floats) -> Floats:
    loss, right, n = totals.T
    share = right / n
    gain: Floats = share * (1.0 - share) - loss / n
    return gain


def reliability(verdicts: Verdicts, probability: Floats, rng: np.random.Generator) -> list[Bin]:
    """How often the judge is right against how sure it is, from least to most sure.

    Bins of equal weight, as many as leave PAIRS_IN_BIN in each. Being sure of the side that the
    gap does not favour, as a slope below 0 makes it, is being sure of that side.
    """
    confidence = np.maximum(probability, 1.0 - probability)
    side: Positions = np.sign(np.round(probability - 0.5, 12)).astype(np.int64)
    n_bins = int(np.clip(len(confidence) // PAIRS_IN_BIN, 1, MOST_BINS))
    parts = equal_parts(np.round(confidence, 12), n_bins)
    right = 0.5 + 0.5 * side * verdicts.people
    sums, counts = (
        by_prompt(part, verdicts.prompt, verdicts.n_prompts) for part in (parts * right, parts)
    )
    return [
        Bin(float(np.average(confidence, weights=part)), found)
        for part, found in zip(parts, ratios(sums, counts, rng), strict=True)
        if part.any()
    ]


def logistic(x: Floats) -> Floats:
    """1 / (1 + exp(-x)), without overflow."""
    from scipy.special import expit

    found: Floats = expit(x)
    return found
