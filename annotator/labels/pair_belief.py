"""What is believed of d of each pair, given its votes: quadrature on nodes of the pair's own.

The density of d, a normal prior times the votes' likelihoods, is smooth: sums over equally spaced
nodes are then right to rounding once the step is small against its deviation (Trefethen and
Weideman, SIAM Review 56, 2014). So is the mass above 0, where the weight of a node is what its
share of the sinc interpolant has there, 1/2 + Si(pi k) / pi for the node k steps above 0
(Stenger, Numerical Methods Based on Sinc and Analytic Functions, 1993). Every pair has a node at 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from math import factorial

import numpy as np
from scipy.special import expit, sici

from annotator.errors import PreferenceError
from annotator.labels.crowd_votes import GOLD_UNKNOWN, PairPrior
from annotator.preference.vote_model import VoteModel
from strategies.within_prompt import Bools, Floats, Positions

HALF_NODES = 40
OFFSETS = np.arange(-HALF_NODES, HALF_NODES + 1)
REACH = 8.0  # deviations from the centre to the outermost node
BLOCK_VOTES = 1 << 14
BLOCK_PAIRS = 1 << 12
WINDOWS = 12  # times that a window is drawn again at most
SMALLEST = 1e-300
# From as many steps below 0 as a window with a node there can have, to as many above.
_HALF_LINE = 0.5 + sici(np.pi * np.arange(-2 * HALF_NODES, 2 * HALF_NODES + 1))[0] / np.pi


@dataclass(frozen=True, eq=False)
class VoteTerms:
    """The votes of m pairs as likelihoods skill P(grade | d) + habit; rows sorted by pair.

    `pair` (n_votes,) in [0, m), `grade` codes of the model's grades, `skill` and `habit` (n_votes,)
    of each vote's annotator, the latter for the key pressed.
    """

    pair: Positions
    grade: Positions
    skill: Floats
    habit: Floats

    def of_pairs(self, start: int, end: int) -> VoteTerms:
        """The votes of the pairs from `start` to `end`."""
        first, last = np.searchsorted(self.pair, (start, end))
        rows = slice(first, last)
        return VoteTerms(
            self.pair[rows] - start, self.grade[rows], self.skill[rows], self.habit[rows]
        )

    def chosen(self, pairs: Positions) -> VoteTerms:
        """The votes of these pairs, which take the numbers of their places."""
        first, last = np.searchsorted(self.pair, pairs), np.searchsorted(self.pair, pairs + 1)
        length = last - first
        of_pair = np.repeat(np.arange(len(pairs)), length)
        rows = np.arange(len(of_pair)) + np.repeat(first - (np.cumsum(length) - length), length)
        return VoteTerms(of_pair, self.grade[rows], self.skill[rows], self.habit[rows])

    @classmethod
    def none(cls) -> VoteTerms:
        """No vote."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0))


@dataclass(frozen=True, eq=False)
class Window:
    """Where the nodes of m pairs stand: about `centre`, `scale` being the deviation expected."""

    centre: Floats
    scale: Floats

    def take(self, rows: slice | Positions) -> Window:
        """Those of these pairs."""
        return Window(self.centre[rows], self.scale[rows])


@dataclass(frozen=True, eq=False)
class Question:
    """What determines the belief of m pairs: prior, gold truth (GOLD codes), votes, vote model."""

    prior: PairPrior
    gold: Positions
    votes: VoteTerms
    model: VoteModel

    def chosen(self, pairs: Positions) -> Question:
        """The same of these pairs."""
        prior = PairPrior(self.prior.mean[pairs], self.prior.variance[pairs])
        return Question(prior, self.gold[pairs], self.votes.chosen(pairs), self.model)

    def blocks(self) -> Iterator[tuple[slice, Question]]:
        """Some pairs at a time, such that arrays of votes by nodes stay small."""
        m, start = len(self.gold), 0
        ends = np.searchsorted(self.votes.pair, np.arange(m), side="right")
        while start < m:
            seen = ends[start - 1] if start else 0
            end = int(np.searchsorted(ends, seen + BLOCK_VOTES, side="right"))
            end = min(max(end, start + 1), start + BLOCK_PAIRS, m)
            prior = PairPrior(self.prior.mean[start:end], self.prior.variance[start:end])
            votes = self.votes.of_pairs(start, end)
            yield slice(start, end), Question(prior, self.gold[start:end], votes, self.model)
            start = end


@dataclass(frozen=True, eq=False)
class Belief:
    """Densities of d of m pairs.

    `nodes` (m, k); `steps` (m, k) how many steps each stands above 0; `weight` (m, k), sums to 1;
    `careful` and `likelihood` (n_votes, k): P(grade | d) and the vote's likelihood at the nodes.
    """

    question: Question
    nodes: Floats
    steps: Positions
    weight: Floats
    careful: Floats
    likelihood: Floats

    @property
    def mean(self) -> Floats:
        """Of d, (m,)."""
        found: Floats = np.vecdot(self.weight, self.nodes)
        return found

    @property
    def variance(self) -> Floats:
        """Of d, (m,)."""
        found: Floats = np.vecdot(self.weight, (self.nodes - self.mean[:, None]) ** 2)
        return found

    @property
    def above(self) -> Floats:
        """The share of each node's weight that lies above 0, (m, k)."""
        share: Floats = 0.5 * (1.0 + np.sign(self.steps))
        gold = self.question.gold
        through = (np.abs(self.steps[:, HALF_NODES]) <= HALF_NODES) & (gold == GOLD_UNKNOWN)
        share[through] = _HALF_LINE[self.steps[through] + 2 * HALF_NODES]
        share[gold == 1], share[gold == -1] = 1.0, 0.0
        return share

    @property
    def orientation(self) -> Floats:
        """P(d > 0) and P(d < 0), (m, 2), each precise where it is small."""
        above = self.above
        below = 1.0 - above
        both = np.stack((np.vecdot(self.weight, above), np.vecdot(self.weight, below)), axis=1)
        found: Floats = np.clip(both, 0.0, 1.0)
        return found

    @property
    def tie(self) -> Floats:
        """The probability that one more careful vote is a tie, (m,)."""
        middle = self.question.model.n_grades // 2
        found: Floats = np.vecdot(
            self.weight, pressed(self.nodes, np.array(middle), self.question.model)
        )
        return found

    @property
    def left_out(self) -> tuple[Floats, Floats]:
        """Of each vote, given all others: its probability, and were its annotator careful."""
        of_vote = self.weight[self.question.votes.pair]
        others = of_vote / self.likelihood
        total = others.sum(axis=1)
        return 1.0 / total, np.vecdot(others, self.careful) / total

    def gain(self, ahead: int) -> Floats:
        """By how much each further vote by the model's annotator lowers min(P(d > 0), P(d < 0)).

        (m,), of one vote, or of the number of votes up to `ahead` that gains most for each.
        """
        model, above = self.question.model, self.above
        by_grade = _grades(self.nodes, model)
        over, under = self.weight * above, self.weight * (1.0 - above)
        now = self.orientation.min(axis=1)
        best = np.zeros(len(now))
        for n_votes in range(1, ahead + 1):
            left = np.zeros(len(now))
            for grades, ways in _outcomes(model.n_grades, n_votes):
                chance = ways * np.prod(by_grade[list(grades)], axis=0)
                left += np.minimum(np.vecdot(over, chance), np.vecdot(under, chance)).clip(0.0)
            best = np.maximum(best, (now - left) / n_votes)
        return best


def _outcomes(n_grades: int, n_votes: int) -> Iterator[tuple[tuple[int, ...], int]]:
    """What some votes can say, order aside, and in how many orders."""
    for grades in combinations_with_replacement(range(n_grades), n_votes):
        ways = factorial(n_votes)
        for grade in set(grades):
            ways //= factorial(grades.count(grade))
        yield grades, ways


def pressed(difference: Floats, grade: Positions, model: VoteModel) -> Floats:
    """P(grade | d) of careful people; `grade` holds codes and is broadcast to `difference`."""
    cuts = np.concatenate(([-np.inf], model.cuts, [np.inf]))
    low, high = cuts[grade], cuts[grade + 1]
    between = -np.expm1(low - high)
    found: Floats = expit(difference - low) * expit(high - difference)
    found *= between
    return found


def _grades(difference: Floats, model: VoteModel) -> Floats:
    """P(grade | d), lapses included, (n_grades, ...): as the model's, quicker and less exact."""
    above = np.stack([expit(difference - cut) for cut in model.cuts])
    careful: Floats = -np.diff(above, axis=0, prepend=1.0, append=0.0)
    careful *= 1.0 - model.lapse
    careful += model.lapse / model.n_grades
    return careful


def within(gold: Positions, nodes: Floats, step: Floats, tie: float) -> Floats:
    """The share of every node's cell that gold allows, (m, k); `step` broadcasts to `nodes`."""
    truth = gold[:, None]
    above = np.clip(nodes / step + 0.5, 0.0, 1.0)
    middle = np.clip((tie - np.abs(nodes)) / step + 0.5, 0.0, 1.0)
    found: Floats = np.select(
        [truth == 1, truth == -1, truth == 0], [above, 1.0 - above, middle], default=1.0
    )
    return found


def believed(question: Question, window: Window) -> Iterator[tuple[slice, Belief]]:
    """Block by block, what is believed of the pairs; `window` may be rough."""
    for rows, part in question.blocks():
        yield rows, _fitted(part, window.take(rows))


def _fitted(question: Question, window: Window) -> Belief:
    """The belief on nodes that suit it: windows too wide or too narrow are drawn again."""
    belief = _on(question, window)
    for _ in range(WINDOWS):
        mean, scale = belief.mean, np.sqrt(belief.variance)
        wrong = _unsuited(window, mean, scale)
        if not wrong.any():
            break
        grown = np.clip(scale, 0.2 * window.scale, 3.0 * window.scale)
        window = Window(
            np.where(wrong, mean, window.centre),
            np.where(wrong, np.maximum(grown, np.abs(mean - window.centre) / 2.0), window.scale),
        )
        belief = _on(question, window)
    return belief


def _unsuited(window: Window, mean: Floats, scale: Floats) -> Bools:
    far = np.abs(mean - window.centre) > window.scale
    found: Bools = far | (scale < 0.4 * window.scale) | (scale > 1.15 * window.scale)
    return found


def _on(question: Question, window: Window) -> Belief:
    """The belief on these nodes."""
    prior, votes, model = question.prior, question.votes, question.model
    step = (window.scale * (REACH / HALF_NODES))[:, None]
    steps = np.rint(window.centre[:, None] / step).astype(np.int64) + OFFSETS
    nodes = step * steps
    log = -0.5 * (nodes - prior.mean[:, None]) ** 2 / prior.variance[:, None]
    careful = pressed(nodes[votes.pair], votes.grade[:, None], model)
    likelihood = votes.skill[:, None] * careful + votes.habit[:, None]
    starts = np.flatnonzero(np.diff(votes.pair, prepend=-1))
    if len(starts):
        log[votes.pair[starts]] += np.add.reduceat(np.log(likelihood), starts, axis=0)
    if np.any(question.gold != GOLD_UNKNOWN):
        log += np.log(within(question.gold, nodes, step, model.tie) + SMALLEST)
    weight = np.exp(log - log.max(axis=1, keepdims=True))
    weight /= weight.sum(axis=1, keepdims=True)
    return Belief(question, nodes, steps, weight, careful, likelihood)


def unasked(mean: Floats, variance: Floats, model: VoteModel) -> tuple[Question, Window]:
    """Pairs without votes, d being normal."""
    if not (np.all(np.isfinite(mean)) and np.all(np.isfinite(variance) & (variance > 0.0))):
        raise PreferenceError(
            "a pair's difference has a mean or a variance that is no number",
            expected="finite numbers, the variance above 0",
        )
    gold = np.full(len(mean), GOLD_UNKNOWN)
    question = Question(PairPrior(mean, variance), gold, VoteTerms.none(), model)
    return question, Window(mean, np.sqrt(variance))


def gains(question: Question, window: Window, lapse: float, ahead: int) -> Floats:
    """Belief.gain of every pair, further annotators having this lapse, (m,)."""
    asked = replace(question, model=replace(question.model, lapse=lapse))
    found = np.empty(len(question.gold))
    for rows, belief in believed(asked, window):
        found[rows] = belief.gain(ahead)
    return found
