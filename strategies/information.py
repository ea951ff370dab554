"""Choosing by the posterior: what it doubts, gets wrong, or would learn most from.

A pair's margin is what votes on it are about: its reward difference, and a term of the pair's own.
Each of the first four ranks pairs one by one by an array of the posterior. The literature
contradicts itself on whether close or clear pairs teach more, so both directions have a name. None
of them sees that two pairs of a batch may ask the same; `d-optimal` does.

Equal scores are common while there are few votes: with none, every pair is as likely to go either
way. Of equal scores, which differ by less than TIE, the pair whose vote tells more goes first; what
is still equal stands in drawn order, so that the order of the pool's rows never decides.
`d-optimal` takes the first in the pool. Propensities are NaN: a pair of low rank could not have
been drawn.
"""

from __future__ import annotations

import numpy as np

from strategies.joint import Margins, PairCovariance, greedy_with_redundancy
from strategies.pool import Pool, Selection, eligible_for, needs
from strategies.ranking import highest
from strategies.within_prompt import Floats, Positions

TIE = 2.0**-40  # even chances that were computed differ by rounding


@needs("posterior")
def uncertainty(pool: Pool, n: int, rng: np.random.Generator) -> Selection:
    """n pairs whose preference is least certain.

    The score is u = 1 - 2 |p - 1/2| with p the probability that a is preferred, from 0 to 1: high =
    nearer to even. The uncertainty sampling of APL (arXiv 2402.08114), p from the posterior and not
    from a policy's implicit reward.

    Raises BadBatchSize, PoolTooSmall, MissingSignal.
    """
    eligible = eligible_for(pool, n)
    return _highest(pool, n, eligible, 1.0 - _clarity(pool), rng)


@needs("posterior")
def certainty(pool: Pool, n: int, rng: np.random.Generator) -> Selection:
    """n pairs whose preference is most certain.

    The score is 1 - u = 2 |p - 1/2|, from 0 to 1: high = one is clearly preferred. The certainty
    sampling of APL (arXiv 2402.08114), the best of that paper: where the model is sure and wrong,
    the correction is large.

    Raises BadBatchSize, PoolTooSmall, MissingSignal.
    """
    eligible = eligible_for(pool, n)
    return _highest(pool, n, eligible, _clarity(pool), rng)


@needs("posterior")
def information(pool: Pool, n: int, rng: np.random.Generator) -> Selection:
    """n pairs of which one vote tells most.

    The score is the mutual information of the vote and the margin in nats, at least 0
    (BALD: Houlsby et al., arXiv 1112.5745).

    Raises BadBatchSize, PoolTooSmall, MissingSignal.
    """
    eligible = eligible_for(pool, n)
    score = pool.signal("pair_information")[eligible]
    chosen = highest(n, score, rng=rng)
    return Selection.of(eligible[chosen], scores=score[chosen])


@needs("posterior")
def expected_error(pool: Pool, n: int, rng: np.random.Generator) -> Selection:
    """n pairs that the posterior most probably has in the wrong order.

    The score is the probability that its margin has the wrong sign, from 0 to 1/2.

    Raises BadBatchSize, PoolTooSmall, MissingSignal.
    """
    eligible = eligible_for(pool, n)
    return _highest(pool, n, eligible, pool.signal("pair_error"), rng)


@needs("posterior")
def d_optimal(pool: Pool, n: int, rng: np.random.Generator) -> Selection:
    """n pairs that together tell most, each chosen given the votes expected on those before it.

    Greedy D-optimal design: the score is log(1 + c v), c the Fisher information of a vote and v the
    variance of the pair's margin once the pairs before it are labelled; it is the gain in log det
    of the posterior's precision (Active Reward Modeling, arXiv 2502.04354, with a joint posterior
    over rewards in place of a last layer). Pairs are exactly those of the plain greedy
    loop. The scores of a batch add up to its whole gain, and greedy reaches at least 1 - 1/e of the
    best batch's. Nothing is drawn.

    Raises BadBatchSize, PoolTooSmall, MissingSignal, BadPool.
    """
    eligible = eligible_for(pool, n)
    fisher, covariance = pool.signal("pair_fisher"), PairCovariance(pool)
    margins = Margins.of(pool, covariance)

    def gain(pairs: Positions, variance: Floats) -> Floats:
        return np.log1p(fisher[pairs] * margins.variances(pairs, variance))

    picks = greedy_with_redundancy(
        covariance, eligible, n, fisher=margins.fisher_of_rewards(fisher), value=gain
    )
    return Selection.of(picks.positions, scores=picks.values)


def _clarity(pool: Pool) -> Floats:
    clarity: Floats = 2.0 * np.abs(pool.signal("pair_preferred") - 0.5)
    return clarity


def _highest(
    pool: Pool, n: int, eligible: Positions, score: Floats, rng: np.random.Generator
) -> Selection:
    """The n pairs of the highest probability (n_pairs,), of equal ones the more informative."""
    rounded = np.rint(score[eligible] / TIE)
    chosen = highest(n, rounded, pool.signal("pair_information")[eligible], rng=rng)
    return Selection.of(eligible[chosen], scores=score[eligible][chosen])
