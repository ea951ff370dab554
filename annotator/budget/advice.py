"""What the next votes would buy, and whether to stop. Reported, never acted on.

**Gain.** Two models are held against the same control votes: one taught by about the first half of
all votes, one by all of them; both are asked of a pair without its own votes. What the second
foretells more is what the last half of the votes bought, on a random pair of the pool: PPI++ again,
the later model's own belief about the pairs on which the two differ being the help. From there it
goes on a short way by a power law, quality = a - b n^-c, with c = 0.5. What c really is nobody
knows from two points, so the interval takes in every c from 0.25 to 1. And a hundred votes do not
bring what they bring on average: by how much that varies is taken from the last hundred, as the
posterior believes in the predictions that they have changed.

**Stop.** Three rules, each by itself: the predictions have stabilised (Bloodgood and Vijay-Shanker,
CoNLL 2009); the next 100 votes bring less than the lead's minimum even at the upper end; the cap is
reached. Stabilised does not mean good: the accuracy stands beside it.

Pure: arrays in, numbers and words out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from annotator.budget.quality import Outcomes, Pool, student, tuned_ratio
from annotator.labels.intervals import LEVEL, NOTHING, Estimate
from annotator.preference.posterior import Posterior
from strategies.within_prompt import Bools, Floats, Positions

AHEAD = 100  # votes
DRAWS = 200  # of all rewards
EXPONENT = 0.5
EXPONENTS = (0.25, 1.0)  # of a learning curve, at least and at most
STABLE = 0.99  # kappa between successive models
ROUNDS_RUNNING = 3
FEWEST_CONTROL = 30  # control votes before anything is said of a gain


@dataclass(frozen=True)
class Decisions:
    """Which response two models prefer, before a pair's own votes, (n,): True for a.

    `probability` that most prefer a, as the later model sees it.
    """

    earlier: Bools
    later: Bools
    probability: Floats

    @property
    def expected_gain(self) -> Floats:
        """By how much the later model believes to be right more often than the earlier, (n,)."""
        changed = self.earlier != self.later
        found: Floats = np.where(changed, np.abs(2.0 * self.probability - 1.0), 0.0)
        return found


def gained(change: Outcomes, pool: Pool) -> Estimate:
    """How much more of people's votes the later of two models foretells on a random pair.

    `change` as in Outcomes, `right` being the later model's less the earlier's, from -1 to 1, and
    `expected_right` what the later believes of that. Where hardly any prediction changes there is
    nothing to measure a variance by, so one changed pair for the better and one for the worse are
    added to it (Bonett and Price, Journal of Educational and Behavioral Statistics 37, 2012). NaN
    without votes that take a side.
    """
    if not len(change.prompt) or not change.weight @ change.sided > 0.0:
        return NOTHING
    found = tuned_ratio(change, pool)
    one_pair = float(change.weight.max() / (change.weight @ change.sided))
    half = student(found.n_prompts) * np.sqrt(found.variance + 2.0 * one_pair**2)
    return Estimate(found.value, max(-1.0, found.value - half), min(1.0, found.value + half))


def ahead_by(n_before: int, n_now: int, n_ahead: int, exponent: float) -> float:
    """How much of the gain from n_before to n_now votes the next n_ahead bring, by a power law."""
    votes = np.array([n_before, n_now, n_now + n_ahead], dtype=np.float64)
    before, now, then = votes**-exponent
    return float((now - then) / (before - now))


def next_gain(
    past: Estimate, n_before: int, n_now: int, deviation: float = 0.0, n_ahead: int = AHEAD
) -> Estimate:
    """What the next votes bring, from what those between n_before and n_now have brought.

    The interval is that of the past gain at whichever exponent makes it wider, and of what as many
    votes bring now and then, with this standard deviation. NaN where the past gain is, or where
    n_before is no earlier than n_now.
    """
    if not 0 < n_before < n_now or np.isnan(past.value):
        return NOTHING
    middle = past.value * ahead_by(n_before, n_now, n_ahead, EXPONENT)
    factors = [ahead_by(n_before, n_now, n_ahead, exponent) for exponent in EXPONENTS]
    low = min(past.low * factor for factor in factors)
    high = max(past.high * factor for factor in factors)
    more = float(ndtri((1.0 + LEVEL) / 2.0)) * deviation
    return Estimate(
        middle,
        max(-1.0, middle - float(np.hypot(middle - low, more))),
        min(1.0, middle + float(np.hypot(high - middle, more))),
    )


def deviation_of_gain(
    posterior: Posterior,
    a: Positions,
    b: Positions,
    earlier: Bools,
    later: Bools,
    rng: np.random.Generator,
) -> float:
    """How uncertain it is, to the posterior, what changing these decisions has brought.

    The standard deviation of the share of sided votes that the later decisions foretell on the
    pairs a, b (n,), less that of the earlier ones, over draws of all rewards.
    """
    changed = np.flatnonzero(earlier != later)
    if not len(changed):
        return 0.0
    grades = posterior.model.grades(_drawn(posterior, a[changed], b[changed], rng))
    sign = np.where(later[changed], 1.0, -1.0)
    gained_by = sign @ (grades[..., -1] - grades[..., 0])
    sided = float((1.0 - posterior.expected(a, b).tie).sum())
    return float(gained_by.std()) / max(sided, 1.0)


def _drawn(posterior: Posterior, a: Positions, b: Positions, rng: np.random.Generator) -> Floats:
    """Differences of these pairs, (n, DRAWS), from their joint distribution."""
    ends, at = np.unique(np.concatenate((a, b)), return_inverse=True)
    of_a, of_b = np.split(at.ravel(), 2)
    rewards = posterior.rewards_of(ends)
    shared = rewards.loadings[of_a] - rewards.loadings[of_b]
    own = rewards.own_loadings[of_a] - rewards.own_loadings[of_b]
    drawn: Floats = shared @ rng.standard_normal((shared.shape[1], DRAWS))
    drawn += (rewards.mean[of_a] - rewards.mean[of_b])[:, None]
    prompts = posterior.features.prompt_of_response[a]
    for prompt in np.unique(prompts):
        rows = prompts == prompt
        drawn[rows] += own[rows] @ rng.standard_normal((own.shape[1], DRAWS))
    drawn += np.sqrt(posterior.prior.pair) * rng.standard_normal(drawn.shape)
    return drawn


def kappa(one: Bools, other: Bools) -> float:
    """Cohen's kappa of two models' decisions on the same pairs, (n,) both.

    1 where they agree everywhere, be it on a single side; NaN without pairs.
    """
    if not len(one):
        return np.nan
    agree = float(np.mean(one == other))
    a, b = float(np.mean(one)), float(np.mean(other))
    by_chance = a * b + (1.0 - a) * (1.0 - b)
    return 1.0 if by_chance == 1.0 else (agree - by_chance) / (1.0 - by_chance)


@dataclass(frozen=True)
class Rule:
    """One rule for stopping: its name, whether it fires, and what it goes by in words."""

    name: str
    fires: bool
    detail: str


def stabilised(kappas: Sequence[float], n_pairs: int) -> Rule:
    """Whether successive models have said the same three times running.

    `kappas` between each model and the next, the newest last, on `n_pairs` without votes.
    """
    name = "stabilised predictions"
    last = list(kappas)[-ROUNDS_RUNNING:]
    if len(last) < ROUNDS_RUNNING:
        return Rule(
            name,
            False,
            f"needs {ROUNDS_RUNNING + 1} successive models; there are "
            f"{len(last) + 1 if n_pairs else 0}",
        )
    said = ", ".join(f"{one:.3f}" for one in last)
    return Rule(
        name,
        all(one >= STABLE for one in last),
        f"Cohen's kappa of successive models on {n_pairs:,} pairs without votes: {said}; it has to "
        f"be {STABLE} or more {ROUNDS_RUNNING} times running",
    )


def too_little_gain(gain: Estimate, minimum: float) -> Rule:
    """Whether even the upper end of the gain per 100 votes is below `minimum` percentage points.

    The bound is of one look. Looked at after every vote it falls below by luck more often than the
    level of its interval says.
    """
    name = "small gain"
    if np.isnan(gain.high):
        return Rule(name, False, "the gain is not known yet")
    return Rule(
        name,
        100.0 * gain.high < minimum,
        f"by today's votes the next {AHEAD} bring {100.0 * gain.high:+.2f} points at best; the "
        f"minimum is {minimum:g} (minimum_gain under [budget]); looked at often, it comes to that "
        "by luck too",
    )


def budget_reached(
    spent: float | None, reserved: float | None, cap: float | None, unit: str
) -> Rule | None:
    """Whether what is spent and what is reserved reach the cap; None without a cap."""
    name = f"budget in {unit}"
    if cap is None:
        return None
    if spent is None:
        return Rule(name, False, f"the cap is {_number(cap)} {unit}, and the total is not known")
    total = spent + (reserved or 0.0)
    return Rule(
        name,
        total >= cap,
        f"{_number(spent)} spent and {_number(reserved or 0.0)} reserved of {_number(cap)} {unit}",
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"
