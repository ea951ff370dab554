"""The posterior as the arrays that strategies choose by."""

from __future__ import annotations

import numpy as np

from annotator.preference.laplace import places_of
from annotator.preference.posterior import Posterior
from annotator.preference.votes import Votes
from strategies.pool import Pool
from strategies.within_prompt import Positions


def with_posterior(pool: Pool, posterior: Posterior, pair_votes: Positions) -> Pool:
    """The pool with the signal "posterior"; `pair_votes` (n_pairs,) votes that each pair has.

    The posterior is of the pool's responses, in the pool's order.
    """
    a, b = pool.pair_a, pool.pair_b
    rewards = posterior.rewards()
    differences = posterior.differences(a, b)
    vote = posterior.model.expected(differences.mean, differences.variance)
    return pool.with_signals(
        reward_mean=rewards.mean,
        reward_loadings=rewards.loadings,
        residual_loadings=rewards.own_loadings,
        pair_margin=differences.mean,
        pair_variance=differences.variance,
        pair_share=differences.share,
        pair_preferred=vote.preferred,
        pair_tie=vote.tie,
        pair_error=differences.error,
        pair_information=vote.information,
        pair_fisher=vote.fisher,
        pair_votes=np.asarray(pair_votes, dtype=np.int64),
    )


def votes_of_pairs(pool: Pool, votes: Votes) -> Positions:
    """How many votes each of the pool's pairs has, (n_pairs,)."""
    n = pool.n_responses
    codes = np.minimum(pool.pair_a, pool.pair_b) * n + np.maximum(pool.pair_a, pool.pair_b)
    cast, counts = np.unique(
        np.minimum(votes.a, votes.b) * n + np.maximum(votes.a, votes.b), return_counts=True
    )
    found = np.zeros(pool.n_pairs, dtype=np.int64)
    place = places_of(codes, cast)
    found[place >= 0] = counts[place[place >= 0]]
    return found
