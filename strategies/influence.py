"""Choosing what a model in training is likely to keep: influence, before there is a label.

After "TIF" and "LossDiff-IRM", arXiv 2510.13212. How much a labelled pair helps depends on the
model, and pairs of *medium* influence help most. For a pair labelled w preferred to l, with
Delta = beta [log pi(w) / ref(w) - log pi(l) / ref(l)] of the policy and Delta' the same after
training on validation votes,

    IF       = < gradient of the validation loss, gradient of the pair's loss >
    TIF      = 1 where IF lies within a middle band of its percentiles
    LossDiff = softplus(-Delta) - softplus(-Delta')
    IRM      = Delta,  and both within their middle bands stand in for TIF.

All of them need to know who wins. Before the label each has two values, one for either winner, and
the posterior's probability p that a wins makes them expectations; p must not come from the policy
itself, under which the expected influence of every pair is 0. For a band the expectation is that of
its indicator, the probability that the label puts the pair inside: the mean of two extremes can
lie in the middle and mean nothing.

The percentiles of the paper are not published: BAND is ours. They are taken over the pool with each
pair counted once for either label, weighted by that label's probability. That is what labelling the
pool is expected to give, and no pair has to be turned one way by an even chance.

Propensities are NaN: a pair of low rank could not have been drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from strategies.pool import Pool, Selection, eligible_for, needs
from strategies.ranking import highest
from strategies.within_prompt import Bools, Floats

BAND = (0.15, 0.85)  # quantiles: the middle 70 %


@dataclass(frozen=True, eq=False)
class ByWinner:
    """A quantity of every pair as it will be if a wins and if b wins, each (n_pairs,)."""

    a_wins: Floats
    b_wins: Floats

    def expected(self, preferred: Floats) -> Floats:
        """Its expectation, (n_pairs,), where a wins with probability `preferred` (n_pairs,)."""
        mean: Floats = preferred * self.a_wins + (1.0 - preferred) * self.b_wins
        return mean

    def variance(self, preferred: Floats) -> Floats:
        """Its variance, (n_pairs,), where a wins with probability `preferred` (n_pairs,)."""
        spread: Floats = preferred * (1.0 - preferred) * (self.a_wins - self.b_wins) ** 2
        return spread


@dataclass(frozen=True)
class Band:
    """From `low` to `high`, both inside."""

    low: float
    high: float

    def holds(self, values: Floats) -> Bools:
        """Which of the values lie inside."""
        inside: Bools = (values >= self.low) & (values <= self.high)
        return inside

    def distance(self, values: Floats) -> Floats:
        """How far outside each value lies, 0 inside."""
        outside: Floats = np.maximum(np.maximum(self.low - values, values - self.high), 0.0)
        return outside


@needs("posterior", "policy")
def expected_lossdiff_irm(pool: Pool, n: int, rng: np.random.Generator) -> Selection:
    """n pairs that LossDiff-IRM is most likely to keep once they are labelled.

    The score is the probability that the label puts both LossDiff and IRM inside their middle bands
    (arXiv 2510.13212), from 0 to 1. Equal scores stand in drawn order: within what it keeps, the
    paper ranks nothing.

    Raises BadBatchSize, PoolTooSmall, MissingSignal.
    """
    eligible = eligible_for(pool, n)
    preferred = pool.signal("pair_preferred")
    margin = pool.signal("policy_margin")
    quantities = (
        loss_difference(margin, pool.signal("validation_margin")),
        implicit_reward_margin(margin),
    )
    kept = inside(*((each, middle_band(each, preferred)) for each in quantities))
    score = kept.expected(preferred)[eligible]
    chosen = highest(n, score, rng=rng)
    return Selection.of(eligible[chosen], scores=score[chosen])


@needs("posterior", "policy")
def expected_influence(pool: Pool, n: int, rng: np.random.Generator) -> Selection:
    """n pairs whose influence is most likely to be medium once they are labelled.

    The score is the expectation of TIF (arXiv 2510.13212), the probability that the label puts the
    influence inside its middle band, from 0 to 1. Equal scores stand in order of the expected
    distance to the band, nearest first, then drawn: pairs that are inside whoever wins, in drawn
    order.

    Raises BadBatchSize, PoolTooSmall, MissingSignal.
    """
    eligible = eligible_for(pool, n)
    preferred = pool.signal("pair_preferred")
    influence = influence_on_validation(
        pool.signal("policy_margin"), pool.signal("policy_influence")
    )
    band = middle_band(influence, preferred)
    score = inside((influence, band)).expected(preferred)[eligible]
    outside = ByWinner(band.distance(influence.a_wins), band.distance(influence.b_wins))
    chosen = highest(n, score, -outside.expected(preferred)[eligible], rng=rng)
    return Selection.of(eligible[chosen], scores=score[chosen])


def dpo_loss(margin: Floats) -> Floats:
    """-log sigma(margin), the loss of a pair whose winner has that margin; any shape."""
    loss: Floats = np.logaddexp(0.0, -margin)
    return loss


def implicit_reward_margin(margin: Floats) -> ByWinner:
    """IRM for either winner, from the policy's margin of a over b, (n_pairs,)."""
    return ByWinner(margin, -margin)


def loss_difference(margin: Floats, validation_margin: Floats) -> ByWinner:
    """LossDiff for either winner, from the margins of a over b, each (n_pairs,).

    The loss under the policy less that under the policy trained on validation votes: high = a pair
    that those votes help to get right. With p the probability that a wins its expectation is
    KL(p || sigma(margin)) - KL(p || sigma(validation_margin)), KL between Bernoulli distributions.
    """
    return ByWinner(
        dpo_loss(margin) - dpo_loss(validation_margin),
        dpo_loss(-margin) - dpo_loss(-validation_margin),
    )


def influence_on_validation(margin: Floats, influence: Floats) -> ByWinner:
    """IF for either winner, first order and without a Hessian.

    `margin` (n_pairs,) of a over b and `influence` (n_pairs,) the dot product of its gradient with
    that of the validation loss. High = a gradient step on the pair lowers the validation loss. Its
    expectation is influence * (sigma(margin) - p).
    """
    return ByWinner(-_sigma(-margin) * influence, _sigma(margin) * influence)


def middle_band(values: ByWinner, preferred: Floats, quantiles: tuple[float, float] = BAND) -> Band:
    """The band between two quantiles of the values that labelling all pairs is expected to give.

    Each pair counts with its value if a wins at weight `preferred` (n_pairs,) and with its value if
    b wins at the rest. A quantile q is the least value below or at which lies the share q.
    """
    both = np.concatenate((values.a_wins, values.b_wins))
    order = np.argsort(both)
    share = np.cumsum(np.concatenate((preferred, 1.0 - preferred))[order])
    at = np.searchsorted(share / share[-1], quantiles)
    low, high = both[order[np.minimum(at, len(both) - 1)]]
    return Band(float(low), float(high))


def inside(*banded: tuple[ByWinner, Band]) -> ByWinner:
    """1.0 where every quantity lies inside its band, else 0.0, for either winner, (n_pairs,)."""
    return ByWinner(
        np.prod([band.holds(each.a_wins) for each, band in banded], axis=0, dtype=np.float64),
        np.prod([band.holds(each.b_wins) for each, band in banded], axis=0, dtype=np.float64),
    )


def _sigma(margin: Floats) -> Floats:
    # Through the logarithm: exact to the last digits in both tails, and no overflow.
    found: Floats = np.exp(-np.logaddexp(0.0, -margin))
    return found
