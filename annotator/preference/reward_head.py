"""The reward head as the policy that is being trained, where no language model has been read out.

Influence and margins are defined for a model with weights that a training step moves
(annotator's methods TIF and LossDiff-IRM, arXiv 2510.13212). With no policy at hand that model is
the preference model's own linear head: Delta = z . w, z the difference of the features of a pair.
That is a stand-in and no TIF: the control votes that validate the head have taught it as well.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import solve_triangular

from annotator.preference.posterior import Posterior
from annotator.preference.votes import Votes
from strategies.pool import Pool
from strategies.within_prompt import Bools, Floats, Positions

BLOCK_PAIRS = 8192


def with_reward_head(pool: Pool, posterior: Posterior, votes: Votes, validation: Bools) -> Pool:
    """The pool with the signal "policy", read from the posterior's linear head.

    `validation` (n_votes,) True for the votes that stand for what the model is meant to do well on,
    those of the control arm. The validated head is one Newton step further towards them; where
    there are none it has not moved, and nothing has influence.
    """
    gradient = validation_gradient(posterior, votes, validation)
    factor = posterior.system_factor
    half = solve_triangular(factor, gradient, lower=True, check_finite=False)
    step = -solve_triangular(factor, half, lower=True, trans="T", check_finite=False)
    margin, moved, influence = np.empty((3, pool.n_pairs))
    n_validation = max(1, int(validation.sum()))
    for start in range(0, pool.n_pairs, BLOCK_PAIRS):
        at = slice(start, start + BLOCK_PAIRS)
        contrast = _contrasts(posterior, pool.pair_a[at], pool.pair_b[at])
        margin[at] = contrast @ posterior.weights
        moved[at] = contrast @ step
        influence[at] = contrast @ (gradient / n_validation)
    return pool.with_signals(
        policy_margin=margin, validation_margin=margin + moved, policy_influence=influence
    )


def validation_gradient(posterior: Posterior, votes: Votes, validation: Bools) -> Floats:
    """The gradient by w of the summed loss -log P(vote) of the validation votes, (f,)."""
    chosen = np.flatnonzero(validation)
    if not len(chosen):
        return np.zeros(len(posterior.weights))
    a, b = votes.a[chosen], votes.b[chosen]
    lapse = None if votes.lapse is None else votes.lapse[chosen]
    likelihood = posterior.model.likelihood(posterior.differences(a, b).mean, lapse)
    n_grades = posterior.model.n_grades
    grade = np.clip(votes.grade[chosen] + n_grades // 2, 0, n_grades - 1)
    score = likelihood.score[np.arange(len(chosen)), grade]
    gradient: Floats = -score @ _contrasts(posterior, a, b)
    return gradient


def _contrasts(posterior: Posterior, a: Positions, b: Positions) -> Floats:
    """Differences of the weighed features of pairs, (n, f)."""
    features = posterior.features
    weighed = posterior.prior.weigh
    difference: Floats = weighed(features.rows(a)) - weighed(features.rows(b))
    return difference
