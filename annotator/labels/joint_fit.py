"""The crowd and the preference model together.

Each knows what the other lacks. The preference model knows from other pairs which response is
likely to be better, so that an annotator can be judged on pairs that nobody else saw; the crowd
knows whose votes the preference model should believe. They take turns.
"""

from __future__ import annotations

import numpy as np

from annotator.errors import PreferenceError
from annotator.labels.crowd import Crowd, CrowdVotes, PairPrior, fit_crowd, people_of_crowd
from annotator.preference.learner import Learner
from annotator.preference.posterior import Posterior
from annotator.preference.votes import Votes
from strategies.within_prompt import Floats, Positions

ROUNDS = 2


def fit_jointly(
    learner: Learner,
    a: Positions,
    b: Positions,
    votes: CrowdVotes,
    gold: Positions | None = None,
    rounds: int = ROUNDS,
) -> tuple[Posterior, Crowd]:
    """The posterior of rewards, and the crowd, after these votes.

    `a`, `b` (n_pairs,) positions of the responses of each pair; no pair twice, since then a pair's
    own votes would count as what was known before. A pair with -1 in place of either is for the
    crowd alone, its prior being as wide as the others lie apart. `gold` as in fit_crowd, for the
    crowd alone. A round: the learner learns, each vote with its annotator's lapse; what it says of
    each pair before the pair's own votes is the prior with which the crowd is fitted again. Raises
    PreferenceError as Learner.learn and fit_crowd do, and where a pair is named twice.
    """
    _check(a, b, votes.n_pairs)
    if rounds < 1:
        raise PreferenceError(f"a joint fit of {rounds} rounds", expected="one round or more")
    known = np.flatnonzero((a >= 0) & (b >= 0))
    people = people_of_crowd(votes, gold=gold)
    shown = votes.take(np.isin(votes.pair, known))
    for further in reversed(range(rounds)):
        posterior = learner.learn(cast(a, b, shown, people.lapse))
        its_mean, its_variance = posterior.before_votes(a[known], b[known])
        # The others are pairs like these, of which nobody knows which.
        mean = np.zeros(votes.n_pairs)
        variance = np.full(votes.n_pairs, its_variance.mean() + np.square(its_mean).mean())
        mean[known], variance[known] = its_mean, its_variance
        prior = PairPrior(mean, variance)
        if further:
            people = people_of_crowd(votes, posterior.model, prior, gold)
    return posterior, fit_crowd(votes, posterior.model, prior, gold)


def cast(a: Positions, b: Positions, votes: CrowdVotes, lapse: Floats) -> Votes:
    """The crowd's votes for the preference model; `lapse` (n_annotators,)."""
    return Votes(a[votes.pair], b[votes.pair], votes.grade, lapse[votes.annotator])


def _check(a: Positions, b: Positions, n_pairs: int) -> None:
    if not a.shape == b.shape == (n_pairs,):
        raise PreferenceError(
            f"responses of shapes {a.shape} and {b.shape} for {n_pairs} pairs",
            expected="two for every pair",
        )
    known = (a >= 0) & (b >= 0)
    ends = np.stack((np.minimum(a, b), np.maximum(a, b)), axis=1)[known]
    if len(np.unique(ends, axis=0)) < len(ends):
        raise PreferenceError("a pair is named twice", expected="every pair once, in either order")
