"""What an annotator's votes say of the annotator: skill, habit, left bias.

Annotator j looks with probability skill_j and then votes as careful people do. Otherwise j presses
a key from habit: left, tie or right with probabilities habit_j, strengths within a side evenly. A
vote has the likelihood

    skill_j P(grade | d) + lapse_j habit_j[side] / keys of that side.

This is MACE (Hovy et al., NAACL 2013) with a model of preferences in place of one label out of
several. What is pressed without looking knows nothing of the pair: there is no mirror image of the
solution, in which all annotators lie.

Everybody begins with some votes: two and a half of looked and not looked, four to one, and one on
each key from habit. So few votes say little, and skill stays off 0 and 1. An interval of skill
begins with none: somebody careless who voted little is in it too.

What is believed of traits is a product of distributions, and the search for it variational Bayes
(Beal 2003, chapter 2; MACE is fitted so too). Traits of most likelihood would not do: everybody's
habits would explain some chance, all the better the more they lapse, and the crowd would seem more
careless and the pairs clearer than they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import digamma

from strategies.within_prompt import Bools, Floats, Positions

LOOKED, LAPSED = 2.0, 0.5  # votes that everybody begins with
# In the search: where less than one lapse is expected of somebody, it settles on none at all.
SEARCH_LOOKED, SEARCH_LAPSED = 3.0, 1.0
SHOWN_FROM = 20  # votes below which a skill is nobody's business
LEFT, TIE, RIGHT = range(3)
INNER_STEPS = 8
SMALLEST = 1e-300

# Posterior of one annotator
POINTS, MULTIPLIER = 4093, 1884
ZOOMS = 6
BINS = 64
FAR = 14.0  # nats below the best point, from which on there is nothing
HELD = 0.95


@dataclass(frozen=True, eq=False)
class Keys:
    """The keys that annotators press, as columns: (left is a, grade), lowest grade first.

    Two for every grade of the model. `grade` (n_keys,) is its code, `side` (n_keys,) where it lies
    on the screen, `on_side` (n_keys,) how many keys share that side.
    """

    grade: Positions
    side: Positions
    on_side: Floats

    @classmethod
    def of(cls, n_grades: int) -> Keys:
        """Those of a vote model with 3 or 5 grades."""
        grade = np.tile(np.arange(n_grades), 2)
        left_is_a = np.repeat([-1, 1], n_grades)
        side = TIE - np.sign(grade - n_grades // 2) * left_is_a
        return cls(grade, side, np.where(side == TIE, 1.0, n_grades // 2))

    def __len__(self) -> int:
        return len(self.grade)

    @property
    def n_grades(self) -> int:
        """Grades of the vote model."""
        return len(self.grade) // 2

    @property
    def habit_votes(self) -> Floats:
        """Votes from habit that everybody begins with, (3,): one on each key of the screen."""
        half = self.n_grades // 2
        return np.array([half, 1.0, half])

    def pressed(self, grade: Positions, left_is_a: Bools) -> Positions:
        """The key of each vote, grades in -2..2; those the model lacks count as the next."""
        half = self.n_grades // 2
        found: Positions = left_is_a * self.n_grades + np.clip(grade, -half, half) + half
        return found


@dataclass(frozen=True, eq=False)
class Traits:
    """`skill` (n_annotators,) and `habit` (n_annotators, 3) of left, tie and right."""

    skill: Floats
    habit: Floats

    @property
    def lapse(self) -> Floats:
        """The probability of not looking, (n_annotators,)."""
        found: Floats = 1.0 - self.skill
        return found

    def from_habit(self, keys: Keys) -> Floats:
        """P(not looked, and this key pressed), (n_annotators, n_keys)."""
        found: Floats = self.lapse[:, None] * self.habit[:, keys.side] / keys.on_side
        return found


@dataclass(frozen=True, eq=False)
class TraitVotes:
    """What is believed of everybody's traits, as numbers of votes.

    Skill is Beta(`looked`, `lapsed`), (n_annotators,), habit Dirichlet(`habit`), (n_annotators, 3).
    """

    looked: Floats
    lapsed: Floats
    habit: Floats

    @classmethod
    def before(cls, n_annotators: int, keys: Keys) -> TraitVotes:
        """What is believed of people unknown."""
        skill = np.tile([[SEARCH_LOOKED], [SEARCH_LAPSED]], n_annotators)
        return cls(skill[0], skill[1], np.tile(keys.habit_votes, (n_annotators, 1)))

    @property
    def mean(self) -> Traits:
        """The expected traits."""
        habit = self.habit / self.habit.sum(axis=1, keepdims=True)
        return Traits(self.looked / (self.looked + self.lapsed), habit)

    def terms(self, keys: Keys) -> tuple[Floats, Floats]:
        """The two terms of every key's likelihood, (n_annotators,) and (n_annotators, n_keys).

        Their logarithms are the expected ones of skill, and of lapse times habit: both are smaller
        than the means, the more so the less is known. So habits that a few votes happen to show
        explain little.
        """
        total = digamma(self.looked + self.lapsed)
        habit = digamma(self.habit) - digamma(self.habit.sum(axis=1, keepdims=True))
        lapsed = (digamma(self.lapsed) - total)[:, None] + habit
        return np.exp(digamma(self.looked) - total), np.exp(lapsed)[:, keys.side] / keys.on_side

    def table(self, keys: Keys, careful: Floats) -> Floats:
        """The likelihood of every key, (n_annotators, n_keys, n_nodes).

        `careful` (n_grades, n_nodes): P(grade | d) at the nodes of d.
        """
        looked, lapsed = self.terms(keys)
        found: Floats = looked[:, None, None] * careful[keys.grade] + lapsed[:, :, None]
        return found

    def improved(self, keys: Keys, careful: Floats, expected: Floats) -> TraitVotes:
        """The beliefs that explain the votes better; `expected` (n_annotators, n_keys, n_nodes) of
        them, each spread over the nodes as its pair's d is.
        """
        found, of_key = self, expected.sum(axis=2)
        of_side = np.eye(3)[keys.side]
        for _ in range(INNER_STEPS):
            looked, lapsed = found.terms(keys)
            share = looked[:, None, None] * careful[keys.grade]
            share /= share + lapsed[:, :, None]
            followed = np.vecdot(expected, share)
            rest = (of_key - followed) @ of_side
            found = TraitVotes(
                SEARCH_LOOKED + followed.sum(axis=1),
                SEARCH_LAPSED + rest.sum(axis=1),
                keys.habit_votes + rest,
            )
        return found


@dataclass(frozen=True, eq=False)
class People:
    """What is known of every annotator, (n_annotators,).

    - `n_votes`; `skill`, the probability that the annotator looked, in [0, 1].
    - `left`, the left bias: how much oftener left than right is pressed for no reason of the
      pair's, in [-1, 1].
    - `_low` and `_high`: 95 % credible intervals, from the annotator's own votes and what all
      others say of the same pairs.
    - `habit` (n_annotators, 3): left, tie and right when not looking.
    """

    n_votes: Positions
    skill: Floats
    skill_low: Floats
    skill_high: Floats
    left: Floats
    left_low: Floats
    left_high: Floats
    habit: Floats

    @property
    def lapse(self) -> Floats:
        """The probability that the annotator did not look, (n_annotators,)."""
        found: Floats = 1.0 - self.skill
        return found

    @property
    def shown(self) -> Bools:
        """Whose skill may be shown: those with 20 votes or more."""
        enough: Bools = self.n_votes >= SHOWN_FROM
        return enough

    @property
    def traits(self) -> Traits:
        """Skill and habit alone."""
        return Traits(self.skill, self.habit)

    @property
    def typical_lapse(self) -> float:
        """The lapse to expect of the next vote, by who has voted so far."""
        if not self.n_votes.any():
            return LAPSED / (LOOKED + LAPSED)
        return float(np.average(self.lapse, weights=self.n_votes))


def people_of(
    n_annotators: int, keys: Keys, annotator: Positions, key: Positions, careful: Floats
) -> People:
    """The annotators, from votes by `annotator` on `key`, (n_votes,).

    `careful` (n_votes,): the probability that a careful annotator votes so, given everybody's votes
    but this one. Given these, an annotator's votes are draws from a mixture whose parts are known
    and whose shares, skill and the three habits, are not.
    """
    order = np.argsort(annotator, kind="stable")
    n_votes = np.bincount(annotator, minlength=n_annotators)
    ends = np.cumsum(n_votes)
    nobody = _Traces.of(keys, key[:0], careful[:0])
    found = [
        _Traces.of(keys, key[rows], careful[rows]) if len(rows) else nobody
        for rows in map(order.__getitem__, map(slice, ends - n_votes, ends))
    ]
    parts = np.array([one.parts for one in found]).reshape(-1, 4)
    bounds = np.array([(one.skill, one.left) for one in found]).reshape(-1, 2, 2)
    skill, left = parts[:, 0], parts[:, 1 + LEFT] - parts[:, 1 + RIGHT]
    return People(
        n_votes=n_votes,
        skill=skill,
        skill_low=np.minimum(bounds[:, 0, 0], skill),
        skill_high=np.maximum(bounds[:, 0, 1], skill),
        left=left,
        left_low=np.minimum(bounds[:, 1, 0], left),
        left_high=np.maximum(bounds[:, 1, 1], left),
        habit=parts[:, 1:] / parts[:, 1:].sum(axis=1, keepdims=True),
    )


@dataclass(frozen=True, eq=False)
class _Traces:
    """What one annotator's votes say: `parts` (4,), the expected skill and lapse times habit; the
    intervals `skill` and `left` (2,)."""

    parts: Floats
    skill: Floats
    left: Floats

    @classmethod
    def of(cls, keys: Keys, key: Positions, careful: Floats) -> _Traces:
        """From votes on these keys."""
        lapse, habit, weight = _posterior(keys, key, careful)
        skill, lapsed = 1.0 - lapse, lapse[:, None] * habit
        with_prior = weight * skill ** (LOOKED - 1.0) * lapse ** (LAPSED - 1.0)
        parts = with_prior @ np.column_stack((skill, lapsed)) / with_prior.sum()
        left = lapsed[:, LEFT] - lapsed[:, RIGHT]
        return cls(parts, _shortest(skill, weight), _shortest(left, weight))


def _posterior(keys: Keys, key: Positions, careful: Floats) -> tuple[Floats, Floats, Floats]:
    """Lapses (POINTS,), habits (POINTS, 3), weights (POINTS,): one annotator's posterior.

    On a lattice in a box around what is likely, which closes in on it. No skill is likelier than
    another before the votes.
    """
    group, careful, count = _binned(keys.side[key], careful, keys.on_side[key])
    low, high = np.zeros(3), np.ones(3)
    for _ in range(ZOOMS):
        # The root of lapse, which is finer where lapse is small; left's share of the habit; tie's
        # of the rest.
        point = low + (high - low) * _LATTICE
        habit = _broken_stick(point)
        log = _log_posterior(point, habit, keys.habit_votes, group, careful, count)
        near = point[log > log.max() - FAR]
        if len(near) > POINTS // 4:
            break
        margin = (high - low) / POINTS ** (1.0 / 3.0)
        low = np.maximum(near.min(axis=0) - margin, 0.0)
        high = np.minimum(near.max(axis=0) + margin, 1.0)
    return point[:, 0] ** 2, habit, np.exp(log - log.max())


def _broken_stick(point: Floats) -> Floats:
    """Habits (POINTS, 3) from the second and third coordinates."""
    left = point[:, 1]
    tie = (1.0 - left) * point[:, 2]
    return np.stack((left, tie, 1.0 - left - tie), axis=1)


def _log_posterior(
    point: Floats,
    habit: Floats,
    prior: Floats,
    group: Positions,
    careful: Floats,
    count: Floats,
) -> Floats:
    """But for its constant, over the unit cube of points, (POINTS,)."""
    lapse = point[:, 0] ** 2
    skill, of_group = 1.0 - lapse, lapse[:, None] * habit
    # Dirichlet's density, what a stick that is broken in two steps adds, and what the square adds.
    log: Floats = np.log(np.maximum(habit, SMALLEST)) @ (prior - 1.0)
    log += np.log(1.0 - point[:, 1] + SMALLEST) + np.log(point[:, 0])
    for side in range(3):
        its = group == side
        if its.any():
            likelihood = skill[:, None] * careful[its] + of_group[:, side, None]
            log += np.log(likelihood + SMALLEST) @ count[its]
    return log


def _binned(side: Positions, careful: Floats, on_side: Floats) -> tuple[Positions, Floats, Floats]:
    """Votes as (side, careful, count), `careful` relative to a habit spread over the side's keys.

    Of more than BINS votes on a side those alike are counted together.
    """
    relative = careful * on_side
    sides, values, counts = [], [], []
    for one in range(3):
        its = np.sort(relative[side == one])
        for part in np.array_split(its, min(BINS, len(its))) if len(its) else []:
            sides.append(one)
            values.append(float(np.exp(np.log(part + SMALLEST).mean())))
            counts.append(float(len(part)))
    return np.array(sides, dtype=np.int64), np.array(values), np.array(counts)


def _shortest(value: Floats, weight: Floats) -> Floats:
    """The shortest interval that holds HELD of the weight, (2,).

    Skills are often close to 1, and then the interval that leaves as much on either side misses
    them.
    """
    order = np.argsort(value)
    value, below = value[order], np.cumsum(weight[order]) / weight.sum()
    before = np.concatenate(([0.0], below[:-1]))
    start = np.flatnonzero(before <= 1.0 - HELD)
    end = np.minimum(np.searchsorted(below, before[start] + HELD), len(value) - 1)
    at = np.argmin(value[end] - value[start])
    return np.array([value[start[at]], value[end[at]]])


def _lattice() -> Floats:
    """Points spread evenly over the unit cube, (POINTS, 3).

    Korobov's lattice, with the multiplier whose error is least in the class P_2, folded by the
    baker's transformation (Sloan and Joe, Lattice Methods for Multiple Integration, 1994;
    Hickernell 2002).
    """
    multipliers = [1, MULTIPLIER, MULTIPLIER**2 % POINTS]
    point = (np.outer(np.arange(POINTS), multipliers) % POINTS + 0.5) / POINTS
    found: Floats = 1.0 - np.abs(2.0 * point - 1.0)
    return found


_LATTICE = _lattice()
