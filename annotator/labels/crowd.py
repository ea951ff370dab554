"""What a crowd's votes say: of every pair which response is better, of every annotator how far to
believe them.

The difference d of a pair, r_a - r_b and the pair's own term, has a normal prior: from what a
preference model knows of the pair before its own votes, or N(0, tau^2) for all. A careful vote
follows annotator.preference.vote_model; annotators lapse as annotator.labels.people says. So this
is one-coin Dawid-Skene with Bradley-Terry with ties in place of a flat prior on the true label:
close calls excuse a vote against the many, and clear pairs do not.

Pure: arrays in, arrays out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr

from annotator.errors import PreferenceError
from annotator.labels.crowd_fit import CrowdFit, fitted
from annotator.labels.crowd_votes import GOLD_UNKNOWN, CrowdVotes, PairPrior, checked_gold
from annotator.labels.pair_belief import (
    Question,
    VoteTerms,
    Window,
    believed,
    gains,
    unasked,
)
from annotator.labels.people import SHOWN_FROM, Keys, People, Traits, people_of
from annotator.labels.ties import tie_beliefs
from annotator.preference.vote_model import VoteModel
from strategies.within_prompt import Floats, Positions

__all__ = [
    "GOLD_UNKNOWN",
    "SHOWN_FROM",
    "Crowd",
    "CrowdVotes",
    "PairPrior",
    "People",
    "fit_crowd",
    "gain_of_vote",
    "people_of_crowd",
]


@dataclass(frozen=True, eq=False)
class Crowd:
    """What is believed after a crowd's votes.

    Of every pair, (n_pairs,):

    - `preferred` P(d > 0): most careful people who take a side prefer a; `error` the smaller of it
      and P(d < 0).
    - `tie`: the probability that one more careful vote is a tie; see annotator.labels.ties.
    - `mean`, `variance` of d; `n_votes`.

    Of every vote, (n_votes,), in the order of the votes: `surprise`, -log P(vote | all other
    votes), nats.

    `people`; `model`: the cuts, with the lapse of a typical annotator; `prior`: that of the pairs,
    given or found; `votes` and `gold` that all this comes from.
    """

    preferred: Floats
    tie: Floats
    mean: Floats
    variance: Floats
    error: Floats
    n_votes: Positions
    surprise: Floats
    people: People
    model: VoteModel
    prior: PairPrior
    votes: CrowdVotes
    gold: Positions

    def gain(self, pairs: Positions | None = None, ahead: int = 1) -> Floats:
        """By how much one more vote by a typical annotator is expected to lower each pair's error.

        (n,) for these pairs, all by default. One vote that cannot turn a pair gains nothing, though
        three may; with `ahead` above 1 the gain is that of each vote when the best number of votes,
        up to `ahead`, is cast (Frazier and Powell, Decision Analysis 7, 2010).
        """
        asked = np.arange(self.votes.n_pairs) if pairs is None else pairs
        question = _question(self.votes, self.people.traits, self.model, self.prior, self.gold)
        window = Window(self.mean[asked], np.sqrt(self.variance[asked]))
        return gains(question.chosen(asked), window, self.model.lapse, ahead)


def fit_crowd(
    votes: CrowdVotes,
    model: VoteModel | None = None,
    prior: PairPrior | None = None,
    gold: Positions | None = None,
) -> Crowd:
    """The people and the pairs that explain the votes.

    - `model`: its cuts are kept, its lapse is not used; None: the cuts are found as well.
    - `prior`: of d of each pair before its own votes; None: N(0, tau^2), tau found as well.
    - `gold` (n_pairs,): the known truth, 1: a, -1: b, 0: a tie, that is |d| below the cut, and
      GOLD_UNKNOWN; None: nowhere known.

    A pair without votes keeps its prior, an annotator without votes what is believed of somebody
    unknown. Nothing is drawn: of the same input comes the same output. Raises PreferenceError where
    the shapes do not fit or gold is something else.
    """
    return _concluded(_Explained.of(votes, model, prior, gold))


def people_of_crowd(
    votes: CrowdVotes,
    model: VoteModel | None = None,
    prior: PairPrior | None = None,
    gold: Positions | None = None,
) -> People:
    """The people alone that fit_crowd finds, in less time. Raises as it does."""
    return _people(_Explained.of(votes, model, prior, gold))


def gain_of_vote(
    mean: Floats, variance: Floats, model: VoteModel, lapse: float, ahead: int = 1
) -> Floats:
    """Crowd.gain of pairs without votes, whose d is N(mean, variance), (n,).

    `lapse` of the annotator who would vote. Raises PreferenceError where a number is not finite or
    a variance not above 0.
    """
    question, window = unasked(mean, variance, replace(model, lapse=0.0))
    return gains(question, window, lapse, ahead)


@dataclass(frozen=True, eq=False)
class _Explained:
    """Votes, and what explains them: `fit`, and the prior of all pairs, given or found.

    `gold` (n_pairs,); `asked`: the pairs that the fit used.
    """

    votes: CrowdVotes
    fit: CrowdFit
    prior: PairPrior
    gold: Positions
    asked: Positions

    @classmethod
    def of(
        cls,
        votes: CrowdVotes,
        model: VoteModel | None,
        prior: PairPrior | None,
        gold: Positions | None,
    ) -> _Explained:
        """As fit_crowd has it, which see."""
        truth = checked_gold(gold, votes.n_pairs)
        if prior is not None and len(prior.mean) != votes.n_pairs:
            raise PreferenceError(
                f"a prior of {len(prior.mean)} pairs for votes on {votes.n_pairs}",
                expected="one mean and one variance for every pair",
            )
        seen = np.bincount(votes.pair, minlength=votes.n_pairs)
        asked = np.flatnonzero((seen > 0) | (truth != GOLD_UNKNOWN))
        its_prior = None if prior is None else PairPrior(prior.mean[asked], prior.variance[asked])
        fit = fitted(votes.on(asked), model, its_prior, truth[asked])
        if prior is None:
            assert fit.deviation is not None
            prior = PairPrior(np.zeros(votes.n_pairs), np.full(votes.n_pairs, fit.deviation**2))
        return cls(votes, fit, prior, truth, asked)

    def question(self, traits: Traits) -> Question:
        """The pairs that the fit used, with their votes, by people of these traits."""
        whole = _question(self.votes, traits, self.fit.model, self.prior, self.gold)
        return whole.chosen(self.asked)


def _concluded(of: _Explained) -> Crowd:
    """What follows for pairs, votes and people."""
    votes, fit, prior, gold, asked = of.votes, of.fit, of.prior, of.gold, of.asked
    people = _people(of)
    preferred, below, tie, mean, variance = _before_votes(prior, fit.model)
    predicted = []
    for rows, belief in believed(of.question(people.traits), fit.window):
        pairs = asked[rows]
        preferred[pairs], below[pairs] = belief.orientation.T
        tie[pairs], mean[pairs], variance[pairs] = belief.tie, belief.mean, belief.variance
        predicted.append(belief.left_out[0])
    looked = people.skill[votes.annotator]
    return Crowd(
        preferred=preferred,
        tie=tie_beliefs(tie, votes.pair, votes.grade == 0, looked),
        mean=mean,
        variance=variance,
        error=np.minimum(preferred, below),
        n_votes=np.bincount(votes.pair, minlength=votes.n_pairs),
        surprise=-np.log(_as_cast(votes, predicted)),
        people=people,
        model=replace(fit.model, lapse=people.typical_lapse),
        prior=prior,
        votes=votes,
        gold=gold,
    )


def _people(of: _Explained) -> People:
    """The people, each judged by what all others say as the fit believes them."""
    votes, fit = of.votes, of.fit
    keys, beliefs = Keys.of(fit.model.n_grades), believed(of.question(fit.traits), fit.window)
    careful = _as_cast(votes, [belief.left_out[1] for _, belief in beliefs])
    key = keys.pressed(votes.grade, votes.left_is_a)
    return people_of(votes.n_annotators, keys, votes.annotator, key, careful)


def _as_cast(votes: CrowdVotes, by_pair: list[Floats]) -> Floats:
    """Values of the votes in order of their pairs, in the order of the votes."""
    found = np.empty(len(votes))
    if by_pair:
        found[np.argsort(votes.pair, kind="stable")] = np.concatenate(by_pair)
    return found


def _before_votes(
    prior: PairPrior, model: VoteModel
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """P(d > 0), P(d < 0), the probability of a tie, mean and variance of d, of pairs nobody saw."""
    z = prior.mean / np.sqrt(prior.variance)
    tie = model.expected(prior.mean, prior.variance).tie
    return ndtr(z), ndtr(-z), tie.copy(), prior.mean.copy(), prior.variance.copy()


def _question(
    votes: CrowdVotes, traits: Traits, model: VoteModel, prior: PairPrior, gold: Positions
) -> Question:
    """All pairs with their votes."""
    keys = Keys.of(model.n_grades)
    order = np.argsort(votes.pair, kind="stable")
    key = keys.pressed(votes.grade, votes.left_is_a)[order]
    annotator = votes.annotator[order]
    terms = VoteTerms(
        pair=votes.pair[order],
        grade=keys.grade[key],
        skill=traits.skill[annotator],
        habit=traits.from_habit(keys)[annotator, key],
    )
    return Question(prior, gold, terms, replace(model, lapse=0.0))
