"""How suspect each label is, by several methods: arrays in, a number for each label out.

Higher is more suspect, in units of the method's own. The published ones hold a prompt's scores
against its annotations (arXiv 2505.23114; annotator.signals.map_correlation), or ask how sure a
model in training is of each label (dataset cartography, arXiv 2009.10795). SURPRISE asks what
everything but the label itself says of its pair: the preference posterior with the pair's votes
taken out, and the pair's other votes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.special import logit

from annotator.labels.crowd import CrowdVotes
from annotator.labels.joint_fit import fit_jointly
from annotator.preference.features import ResponseFeatures
from annotator.preference.learner import Learner
from annotator.preference.posterior import Posterior, fit_posterior
from annotator.preference.vote_model import VoteModel
from annotator.preference.votes import Tally, Votes, tally
from annotator.signals.map_correlation import COSINE, COVARIANCE, PEARSON, map_correlation
from strategies.within_prompt import Bools, Floats, Positions

SURPRISE, CONFIDENCE, VARIABILITY = "surprise", "confidence", "variability"
MAP_METHODS = {
    "map-cosine": (COSINE, False),
    "map-pearson": (PEARSON, False),
    "map-covariance": (COVARIANCE, False),
    "map-cosine-prompt": (COSINE, True),
    "map-pearson-prompt": (PEARSON, True),
    "map-covariance-prompt": (COVARIANCE, True),
}
METHODS = (SURPRISE, CONFIDENCE, VARIABILITY, *MAP_METHODS)
MEMBERS = 10
NODES = np.linspace(-6.0, 6.0, 121)  # standard deviations of d
CLEAR = 2.0 / 3.0  # of people who take a side: where fewer agree, a pair is close
BLOCK_PAIRS = 2048
SMALLEST = 1e-300


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels on pairs of responses, one row a label.

    - `a`, `b` (n_pairs,) positions of two responses to one prompt, a < b, no pair twice.
    - `pair` (n_labels,) the pair that each is on, ascending; no pair without a label.
    - `grade` (n_labels,) from 2, a is much better, to -2; 0 for a tie.
    - `annotator` (n_labels,) a number from 0 for who gave it; all 0 where nobody knows.
    - `left_is_a` (n_labels,) whether a stood on the left for whoever gave it.
    """

    a: Positions
    b: Positions
    pair: Positions
    grade: Positions
    annotator: Positions
    left_is_a: Bools

    def __len__(self) -> int:
        return len(self.pair)

    @property
    def n_pairs(self) -> int:
        """How many pairs carry a label."""
        return len(self.a)

    @cached_property
    def side(self) -> Positions:
        """1 where the label prefers a, -1 where b, 0 for a tie, (n_labels,)."""
        return np.sign(self.grade)

    @cached_property
    def n_votes(self) -> Positions:
        """Labels on each pair, (n_pairs,)."""
        return np.bincount(self.pair, minlength=self.n_pairs)

    @property
    def n_annotators(self) -> int:
        """How many people gave labels, as far as that is known."""
        return int(self.annotator.max(initial=-1)) + 1

    def votes(self, lapse: Floats | None = None) -> Votes:
        """The same as votes for the learner; `lapse` (n_labels,) of each."""
        return Votes(self.a[self.pair], self.b[self.pair], self.grade, lapse)

    def crowd_votes(self) -> CrowdVotes:
        """The same as votes of a crowd."""
        return CrowdVotes(
            pair=self.pair,
            grade=self.grade,
            annotator=self.annotator,
            left_is_a=self.left_is_a,
            n_pairs=self.n_pairs,
            n_annotators=self.n_annotators,
        )

    def relabelled(self, grade: Positions) -> Labels:
        """The same labels with other grades."""
        return replace(self, grade=grade)


@dataclass(frozen=True, eq=False)
class Rest:
    """What everything but a label says of its pair.

    - `sides` (n_labels, 3): P(b), P(tie), P(a) of one more careful vote.
    - `close` (n_labels,): P(of people who take a side, fewer than two in three agree).
    - `close_after` (n_pairs,): the same with all labels of the pair counted; `preferred` (n_pairs,)
      then: P(most careful people who take a side prefer a).
    """

    sides: Floats
    close: Floats
    close_after: Floats
    preferred: Floats

    def probability(self, labels: Labels) -> Floats:
        """P(the label's verdict), (n_labels,)."""
        found: Floats = self.sides[np.arange(len(labels)), labels.side + 1]
        return found

    def log_odds(self, labels: Labels) -> Floats:
        """Of the likeliest other verdict against the label's, (n_labels,)."""
        others = self.sides.copy()
        others[np.arange(len(labels)), labels.side + 1] = 0.0
        found: Floats = np.log(others.max(axis=1) + SMALLEST)
        found -= np.log(self.probability(labels) + SMALLEST)
        return found


def map_suspicion(
    method: str, labels: Labels, score: Floats, prompt_of_response: Positions
) -> Floats:
    """Less the data-map correlation of `score` (n_responses,) with the labels, (n_labels,).

    `method` is a key of MAP_METHODS. By pair, the annotation is 1 for the response that the label
    prefers and 0 for the other, one half each for a tie: the cosine is then s_w / |(s_w, s_l)|, the
    covariance a quarter of the margin. By prompt, as published, it is the share of a response's
    labels that prefer it, and all labels of a prompt are equally suspect. NaN where a score is
    missing or the correlation is not defined.
    """
    kind, whole_prompts = MAP_METHODS[method]
    if whole_prompts:
        wins = _share_of_wins(labels, len(score))
        by_prompt = map_correlation(kind, score, wins, prompt_of_response)
        return -by_prompt[prompt_of_response[labels.a[labels.pair]]]
    n = len(labels)
    of_pair = np.concatenate((score[labels.a[labels.pair]], score[labels.b[labels.pair]]))
    for_a = 0.5 + 0.5 * labels.side
    return -map_correlation(
        kind, of_pair, np.concatenate((for_a, 1.0 - for_a)), np.tile(np.arange(n), 2)
    )


def _share_of_wins(labels: Labels, n_responses: int) -> Floats:
    """The share of each response's labels that prefer it, a tie being half; NaN without any."""
    a, b = labels.a[labels.pair], labels.b[labels.pair]
    for_a = 0.5 + 0.5 * labels.side
    wins = np.bincount(a, for_a, n_responses) + np.bincount(b, 1.0 - for_a, n_responses)
    n = np.bincount(a, minlength=n_responses) + np.bincount(b, minlength=n_responses)
    found: Floats = np.where(n > 0, wins / np.maximum(n, 1), np.nan)
    return found


def leave_one_out(
    labels: Labels, mean: Floats, variance: Floats, model: VoteModel, lapse: Floats
) -> Rest:
    """What the rest says of each label, the label itself taken out.

    `mean`, `variance` (n_pairs,): what is believed of d of each pair before its own labels, its own
    term included; `lapse` (n_labels,): the chance that whoever gave a label did not look. d is
    summed over a grid, so that several labels on a pair need no approximation.
    """
    n = len(labels)
    found = Rest(np.empty((n, 3)), np.empty(n), *np.empty((2, labels.n_pairs)))
    for pairs, rows in _blocks(labels):
        of_pair = labels.pair[rows] - pairs.start
        deviation = np.sqrt(variance[pairs])[:, None]
        d, step = mean[pairs, None] + deviation * NODES, deviation * (NODES[1] - NODES[0])
        likelihood = _log_likelihood(labels.grade[rows], d[of_pair], model, lapse[rows])
        together = np.zeros_like(d)
        np.add.at(together, of_pair, likelihood)
        together -= 0.5 * NODES**2
        careful = _sides(model, d)
        weight = _normalised(together[of_pair] - likelihood)
        close = _below(np.abs(d), _closest(model), step)
        found.sides[rows] = np.einsum("ln,lns->ls", weight, careful[of_pair])
        found.close[rows] = np.vecdot(weight, close[of_pair])
        after = _normalised(together)
        found.close_after[pairs] = np.vecdot(after, close)
        found.preferred[pairs] = np.vecdot(after, _below(-d, 0.0, step))
    return found


def _blocks(labels: Labels) -> Iterator[tuple[slice, slice]]:
    """Slices of the pairs, each with that of its labels."""
    starts = np.searchsorted(labels.pair, np.arange(labels.n_pairs + 1))
    for first in range(0, labels.n_pairs, BLOCK_PAIRS):
        last = min(first + BLOCK_PAIRS, labels.n_pairs)
        yield slice(first, last), slice(int(starts[first]), int(starts[last]))


def _log_likelihood(grade: Positions, d: Floats, model: VoteModel, lapse: Floats) -> Floats:
    """log P(grade | d, lapse) of labels (n,) at their nodes (n, n_nodes), the same shape."""
    n_grades = model.n_grades
    place = np.clip(grade, -(n_grades // 2), n_grades // 2) + n_grades // 2
    careful = replace(model, lapse=0.0).grades(d)[np.arange(len(grade)), :, place]
    found: Floats = np.log((1.0 - lapse)[:, None] * careful + lapse[:, None] / n_grades + SMALLEST)
    return found


def _sides(model: VoteModel, d: Floats) -> Floats:
    """P(b), P(tie), P(a) of a careful vote, (..., 3)."""
    grades = replace(model, lapse=0.0).grades(d)
    middle = model.n_grades // 2
    return np.stack(
        (grades[..., :middle].sum(-1), grades[..., middle], grades[..., middle + 1 :].sum(-1)), -1
    )


def _closest(model: VoteModel) -> float:
    """The |d| at which just CLEAR of the careful people who take a side agree.

    With c the cut of a tie, sigma(d - c) / sigma(-d - c) = CLEAR / (1 - CLEAR) is a quadratic
    equation in exp(d).
    """
    ratio, cut = CLEAR / (1.0 - CLEAR), np.exp(model.tie)
    root = np.sqrt((ratio - 1.0) ** 2 + 4.0 * ratio * cut**2)
    return float(np.log((ratio - 1.0 + root) / (2.0 * cut)))


def _below(d: Floats, limit: float, step: Floats) -> Floats:
    """How much of the cell of width `step` around each node lies below the limit, 0 to 1."""
    found: Floats = np.clip((limit - d) / step + 0.5, 0.0, 1.0)
    return found


def _normalised(log_weight: Floats) -> Floats:
    weight = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
    found: Floats = weight / weight.sum(axis=1, keepdims=True)
    return found


@dataclass(frozen=True, eq=False)
class Foretold:
    """What the preference model makes of labels.

    `posterior` of all of them; `lapse` (n_labels,): the chance that whoever gave each did not look;
    `rest`: what everything else says of each.
    """

    posterior: Posterior
    lapse: Floats
    rest: Rest

    def surprise(self, labels: Labels) -> Floats:
        """The log odds that each label is another than its annotator would give on a second look.

        With p the probability of the label's verdict by the rest and q that of the likeliest other,
        log(q / p) and, where people are told apart, the log odds that this one did not look less
        those of a typical one: the same label is more suspect from somebody careless.
        """
        careless = logit(self.lapse) - logit(np.median(self.lapse))
        found: Floats = self.rest.log_odds(labels) + careless
        return found


def foretell(features: ResponseFeatures, labels: Labels) -> Foretold:
    """The posterior of all labels, and what it says of each without that label.

    Where several people gave them, fitted together with how carefully each of them votes. Raises
    PreferenceError as the learner does.
    """
    learner = Learner(features)
    if labels.n_annotators > 1:
        posterior, crowd = fit_jointly(learner, labels.a, labels.b, labels.crowd_votes())
        lapse = crowd.people.lapse[labels.annotator]
    else:
        posterior = learner.learn(labels.votes())
        lapse = np.full(len(labels), posterior.model.lapse)
    return Foretold(posterior, lapse, _rest_of(posterior, labels, lapse))


def _rest_of(posterior: Posterior, labels: Labels, lapse: Floats) -> Rest:
    mean, variance = posterior.before_votes(labels.a, labels.b)
    return leave_one_out(labels, mean, variance, posterior.model, lapse)


def members_of(
    foretold: Foretold, labels: Labels, rng: np.random.Generator, n: int = MEMBERS
) -> Floats:
    """P(the label's verdict) by n members, (n, n_labels), each without the label itself.

    A member is the posterior refitted with prompts weighed by a Bayesian bootstrap (Rubin, Ann.
    Stat. 9, 1981: weights uniform on the simplex): like the ordinary one, but no prompt is left
    out, which where each has many pairs would leave nothing known of its responses.
    """
    posterior = foretold.posterior
    counted = tally(labels.votes(foretold.lapse))
    prompts = posterior.features.prompt_of_response[counted.a]
    found = np.empty((n, len(labels)))
    for member in found:
        weight = rng.exponential(size=int(prompts.max()) + 1)[prompts]
        weighed = Tally(counted.a, counted.b, counted.counts * weight[:, None], counted.lapse)
        refitted = fit_posterior(
            posterior.features, weighed, posterior.prior, posterior.model, posterior
        )
        member[:] = _rest_of(refitted, labels, foretold.lapse).probability(labels)
    return found


def confidence(members: Floats) -> Floats:
    """The members' mean P(the label's verdict), (n_labels,); low is suspect."""
    found: Floats = members.mean(axis=0)
    return found


def variability(members: Floats) -> Floats:
    """The members' standard deviation of it (ddof 0), (n_labels,); high is ambiguous."""
    found: Floats = members.std(axis=0)
    return found
