"""The posterior of skill and habit of each annotator, the pairs being known as far as they are.

An annotator's votes are draws from a mixture whose parts are known and whose shares, skill and the
three habits, are not: vote i on side s has the likelihood skill r_i + lapse habit_s, where r_i is
the probability that somebody careful votes so, relative to a habit spread over the side's keys.

Expected shares of up to FEW votes are exact. Multiplied out, the likelihood is a sum over which of
the votes are lapses; of those with as many lapses on each side the r_i enter by an elementary
symmetric polynomial, and skill and habit by the integrals of Beta and Dirichlet. All terms are
positive, so nothing cancels. Of more votes, and for intervals, a lattice closes in on what is
likely.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import betaln, gammaln

from strategies.within_prompt import Bools, Floats, Positions

LOOKED, LAPSED = 2.0, 0.5  # votes that everybody begins with
FEW = 250
SCALE = 0.01  # to the power of the lapses: keeps factorials of FEW in range, and divides out
BLOCK_PEOPLE = 512
SMALLEST = 1e-300

# Lattice
POINTS, MULTIPLIER = 4093, 1884
ZOOMS = 6
BINS = 64
FAR = 14.0  # nats below the best point, from which on there is nothing
HELD = 0.95


@dataclass(frozen=True, eq=False)
class SidedVotes:
    """The votes of everybody, those of one annotator together.

    `n_votes` (n_annotators,); `side` (n_votes,) 0, 1 or 2 and `relative` (n_votes,) of each vote;
    `prior` (3,) votes from habit that everybody begins with.
    """

    n_votes: Positions
    side: Positions
    relative: Floats
    prior: Floats

    @classmethod
    def of(
        cls,
        n_annotators: int,
        annotator: Positions,
        side: Positions,
        relative: Floats,
        prior: Floats,
    ) -> SidedVotes:
        """From votes in any order."""
        order = np.argsort(annotator, kind="stable")
        n_votes = np.bincount(annotator, minlength=n_annotators)
        return cls(n_votes, side[order], relative[order], prior)

    def rows_of(self, annotator: int) -> slice:
        """Where the votes of one annotator are."""
        end = int(self._ends[annotator])
        return slice(end - int(self.n_votes[annotator]), end)

    def on_side(self, people: Positions, side: int) -> tuple[Floats, Bools]:
        """The `relative` of their votes on a side, (m, most on it), and which of these there are.

        Where there is none it is 1.
        """
        n_votes = self.n_votes[people]
        of = np.repeat(np.arange(len(people)), n_votes)
        within = np.arange(len(of)) - np.repeat(np.cumsum(n_votes) - n_votes, n_votes)
        rows = np.repeat(self._ends[people] - n_votes, n_votes) + within
        its = self.side[rows] == side
        of, rows = of[its], rows[its]
        counts = np.bincount(of, minlength=len(people))
        place = np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts)
        relative = np.ones((len(people), int(counts.max(initial=0))))
        there = np.zeros(relative.shape, dtype=np.bool_)
        relative[of, place], there[of, place] = self.relative[rows], True
        return relative, there

    @property
    def _ends(self) -> Positions:
        ends: Positions = np.cumsum(self.n_votes)
        return ends


def expected_shares(votes: SidedVotes) -> Floats:
    """The expected skill, and lapse times habit of every side, (n_annotators, 4); rows sum to 1."""
    found = np.empty((len(votes.n_votes), 4))
    few = np.flatnonzero(votes.n_votes <= FEW)
    few = few[np.argsort(votes.n_votes[few], kind="stable")]
    for start in range(0, len(few), BLOCK_PEOPLE):
        people = few[start : start + BLOCK_PEOPLE]
        found[people] = _summed(votes, people)
    for one in np.flatnonzero(votes.n_votes > FEW).tolist():
        found[one] = _Lattice.of(votes, one).shares
    return found


def intervals(votes: SidedVotes) -> Floats:
    """Of skill and of left bias the shortest interval with 95 %, (n_annotators, 2, 2).

    Skill begins with no votes here, the habits with `prior`.
    """
    found = np.empty((len(votes.n_votes), 2, 2))
    unknown: _Lattice | None = None
    for one, n_votes in enumerate(votes.n_votes.tolist()):
        if n_votes:
            found[one] = _Lattice.of(votes, one).intervals
            continue
        unknown = unknown or _Lattice.of(votes, one)
        found[one] = unknown.intervals
    return found


# Summed


def _summed(votes: SidedVotes, people: Positions) -> Floats:
    """The shares of these people, (m, 4), by the sum over the lapses on every side."""
    plain, weighed = [], []
    for side, prior in enumerate(votes.prior.tolist()):
        polynomial = _symmetric(*votes.on_side(people, side))
        lapses = np.arange(polynomial.shape[1])
        polynomial *= np.exp(gammaln(lapses + prior) + lapses * np.log(SCALE))
        plain.append(polynomial)
        weighed.append(polynomial * (lapses + prior))
    left, tie, right = plain
    tie_right = _product(tie, right)
    total = _product(left, tie_right)
    by_side = (
        _product(weighed[0], tie_right),
        _product(left, _product(weighed[1], right)),
        _product(left, _product(tie, weighed[2])),
    )
    n_votes, lapses = votes.n_votes[people][:, None], np.arange(total.shape[1])
    habit, everything = lapses + votes.prior.sum(), LOOKED + LAPSED + n_votes
    weight = _integrals(n_votes, lapses, habit)
    looked = np.vecdot(weight, total * np.maximum(LOOKED + n_votes - lapses, 0.0) / everything)
    lapsed = [np.vecdot(weight, one * (LAPSED + lapses) / habit / everything) for one in by_side]
    found: Floats = np.stack((looked, *lapsed), axis=1) / np.vecdot(weight, total)[:, None]
    return found


def _integrals(n_votes: Positions, lapses: Positions, habit: Floats) -> Floats:
    """What skill and habit integrate to, given the number of lapses, (m, n_lapses), the most 1."""
    looked = np.where(lapses <= n_votes, n_votes - lapses, 0) + LOOKED
    log = betaln(looked, LAPSED + lapses) - gammaln(habit) - lapses * np.log(SCALE)
    log = np.where(lapses <= n_votes, log, -np.inf)
    found: Floats = np.exp(log - log.max(axis=1, keepdims=True))
    return found


def _symmetric(relative: Floats, there: Bools) -> Floats:
    """For every number of lapses the sum, over which these are, of the others' product, (m, k + 1).

    `relative` (m, k), 1 where a vote is not `there`.
    """
    m, k = relative.shape
    found = np.zeros((m, k + 1))
    found[:, 0] = 1.0
    for vote in range(k):
        lapsed = found[:, : vote + 1] * there[:, vote, None]
        found[:, : vote + 1] *= relative[:, vote, None]
        found[:, 1 : vote + 2] += lapsed
    return found


def _product(one: Floats, other: Floats) -> Floats:
    """The products of polynomials, coefficients (m, k) and (m, l): (m, k + l - 1)."""
    if one.shape[1] > other.shape[1]:
        one, other = other, one
    found = np.zeros((len(one), one.shape[1] + other.shape[1] - 1))
    for power in range(one.shape[1]):
        found[:, power : power + other.shape[1]] += one[:, power, None] * other
    return found


# On a lattice


@dataclass(frozen=True, eq=False)
class _Lattice:
    """One annotator's posterior: `lapse` (POINTS,), `habit` (POINTS, 3), `weight` (POINTS,).

    No skill is likelier than another before the votes.
    """

    lapse: Floats
    habit: Floats
    weight: Floats

    @classmethod
    def of(cls, votes: SidedVotes, annotator: int) -> _Lattice:
        """In a box around what is likely, which closes in on it."""
        rows = votes.rows_of(annotator)
        group, relative, count = _binned(votes.side[rows], votes.relative[rows])
        low, high = np.zeros(3), np.ones(3)
        for _ in range(ZOOMS):
            # The root of lapse, which is finer where lapse is small; left's share of the habit;
            # tie's of the rest.
            point = low + (high - low) * _POINTS
            habit = _broken_stick(point)
            log = _log_posterior(point, habit, votes.prior, group, relative, count)
            near = point[log > log.max() - FAR]
            if len(near) > POINTS // 4:
                break
            margin = (high - low) / POINTS ** (1.0 / 3.0)
            low = np.maximum(near.min(axis=0) - margin, 0.0)
            high = np.minimum(near.max(axis=0) + margin, 1.0)
        return cls(point[:, 0] ** 2, habit, np.exp(log - log.max()))

    @property
    def shares(self) -> Floats:
        """The expected skill and lapse times habit, with the votes that everybody begins with."""
        skill, lapsed = 1.0 - self.lapse, self.lapse[:, None] * self.habit
        weight = self.weight * skill ** (LOOKED - 1.0) * self.lapse ** (LAPSED - 1.0)
        found: Floats = weight @ np.column_stack((skill, lapsed)) / weight.sum()
        return found

    @property
    def intervals(self) -> Floats:
        """Of skill and left bias, (2, 2)."""
        left = self.lapse * (self.habit[:, 0] - self.habit[:, 2])
        return np.stack((_shortest(1.0 - self.lapse, self.weight), _shortest(left, self.weight)))


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
    relative: Floats,
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
            likelihood = skill[:, None] * relative[its] + of_group[:, side, None]
            log += np.log(likelihood + SMALLEST) @ count[its]
    return log


def _binned(side: Positions, relative: Floats) -> tuple[Positions, Floats, Floats]:
    """Votes as (side, relative, count); of more than BINS on a side those alike count together."""
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


_POINTS = _lattice()
