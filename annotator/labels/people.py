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
from functools import cached_property

import numpy as np
from scipy.special import digamma

from annotator.labels.skill_posterior import (
    LAPSED,
    LOOKED,
    SidedVotes,
    expected_shares,
    intervals,
)
from strategies.within_prompt import Bools, Floats, Positions

# In the search: where less than one lapse is expected of somebody, it settles on none at all.
SEARCH_LOOKED, SEARCH_LAPSED = 3.0, 1.0
SHOWN_FROM = 20  # votes below which a skill is nobody's business
LEFT, TIE, RIGHT = range(3)
INNER_STEPS = 8


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
class PressedKeys:
    """Every annotator with every key that the annotator pressed: `annotator`, `key` (n_pressed,).

    Of thousands of people most press few of the keys, and of the others there is nothing to say.
    """

    keys: Keys
    annotator: Positions
    key: Positions

    @property
    def grade(self) -> Positions:
        """The grade of each."""
        return self.keys.grade[self.key]

    def by_annotator(self, values: Floats, n_annotators: int) -> Floats:
        """Sums of values (n_pressed,), (n_annotators,)."""
        found: Floats = np.bincount(self.annotator, values, n_annotators).astype(np.float64)
        return found

    def by_side(self, values: Floats, n_annotators: int) -> Floats:
        """Sums of values (n_pressed,) by side, (n_annotators, 3)."""
        place = self.annotator * 3 + self.keys.side[self.key]
        found: Floats = np.bincount(place, values, 3 * n_annotators).astype(np.float64)
        return found.reshape(n_annotators, 3)


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

    def table(self, pressed: PressedKeys, careful: Floats) -> Floats:
        """The likelihood of every key that was pressed, (n_pressed, n_nodes).

        `careful` (n_grades, n_nodes): P(grade | d) at the nodes of d.
        """
        looked, lapsed = self.terms(pressed.keys)
        found: Floats = careful[pressed.grade]
        found *= looked[pressed.annotator, None]
        found += lapsed[pressed.annotator, pressed.key, None]
        return found

    def improved(self, pressed: PressedKeys, careful: Floats, expected: Floats) -> TraitVotes:
        """The beliefs that explain the votes better; `expected` (n_pressed, n_nodes) of them, each
        spread over the nodes as its pair's d is.
        """
        found, keys = self, pressed.keys
        of_key = expected.sum(axis=1)
        # Shares are sums of positive terms: single precision is enough, and twice as fast.
        expected, of_careful = (
            expected.astype(np.float32),
            careful.astype(np.float32)[pressed.grade],
        )
        share = np.empty_like(of_careful)
        for _ in range(INNER_STEPS):
            looked, lapsed = found.terms(keys)
            against = lapsed[pressed.annotator, pressed.key] / looked[pressed.annotator]
            np.add(of_careful, against.astype(np.float32)[:, None], out=share)
            np.divide(of_careful, share, out=share)
            followed = np.vecdot(expected, share)
            rest = pressed.by_side(of_key - followed, len(looked))
            found = TraitVotes(
                SEARCH_LOOKED + pressed.by_annotator(followed, len(looked)),
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
      others say of the same pairs; made when somebody asks.
    - `habit` (n_annotators, 3): left, tie and right when not looking.
    - `votes`: what all this comes from.
    """

    n_votes: Positions
    skill: Floats
    left: Floats
    habit: Floats
    votes: SidedVotes

    @property
    def skill_low(self) -> Floats:
        """The lower end of the interval of skill; never above skill."""
        found: Floats = np.minimum(self._intervals[:, 0, 0], self.skill)
        return found

    @property
    def skill_high(self) -> Floats:
        """The upper end of the interval of skill; never below skill."""
        found: Floats = np.maximum(self._intervals[:, 0, 1], self.skill)
        return found

    @property
    def left_low(self) -> Floats:
        """The lower end of the interval of left bias; never above it."""
        found: Floats = np.minimum(self._intervals[:, 1, 0], self.left)
        return found

    @property
    def left_high(self) -> Floats:
        """The upper end of the interval of left bias; never below it."""
        found: Floats = np.maximum(self._intervals[:, 1, 1], self.left)
        return found

    @cached_property
    def _intervals(self) -> Floats:
        return intervals(self.votes)

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
    but this one.
    """
    relative = careful * keys.on_side[key]
    votes = SidedVotes.of(n_annotators, annotator, keys.side[key], relative, keys.habit_votes)
    shares = expected_shares(votes)
    return People(
        n_votes=votes.n_votes,
        skill=shares[:, 0],
        left=shares[:, 1 + LEFT] - shares[:, 1 + RIGHT],
        habit=shares[:, 1:] / shares[:, 1:].sum(axis=1, keepdims=True),
        votes=votes,
    )
