"""The posterior of skill and habit, against its definition and quadrature."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from annotator.labels import skill_posterior
from annotator.labels.people import Keys, people_of
from annotator.labels.skill_posterior import FEW, SidedVotes, expected_shares, intervals

Array: TypeAlias = npt.NDArray[Any]

PRIOR = np.array([2.0, 1.0, 2.0])


def votes_of(counts: list[int], seed: int = 0, prior: Array = PRIOR) -> SidedVotes:
    """Careful and careless people in turn, their votes mixed up."""
    rng = np.random.default_rng(seed)
    annotator = np.repeat(np.arange(len(counts)), counts)
    rng.shuffle(annotator)
    side = np.where(annotator % 3 == 0, 0, rng.integers(0, 3, len(annotator)))
    likely, unlikely = rng.beta(4.0, 1.0, len(annotator)), rng.beta(0.3, 2.0, len(annotator))
    relative = np.where(annotator % 2 == 0, likely, unlikely)
    relative *= rng.integers(1, 3, len(annotator)).astype(np.float64)
    return SidedVotes.of(len(counts), annotator, side, relative, prior)


def one_by_one(votes: SidedVotes, annotator: int) -> Array:
    """The expected shares by the definition: every way in which votes may be lapses, in turn."""
    rows = votes.rows_of(annotator)
    side, relative = votes.side[rows], votes.relative[rows]
    n, start = len(side), votes.prior

    def rising(from_: float, steps: int) -> float:
        return float(np.prod(from_ + np.arange(steps)))

    total, shares = 0.0, np.zeros(4)
    for lapsed in itertools.product([False, True], repeat=n):
        which = np.array(lapsed, dtype=bool)
        on_side, k = np.bincount(side[which], minlength=3), int(which.sum())
        weight = float(np.prod(relative[~which]))
        weight *= rising(2.0, n - k) * rising(0.5, k)
        weight *= float(np.prod([rising(start[s], on_side[s]) for s in range(3)])) / rising(5.0, k)
        total += weight
        shares[0] += weight * (2.0 + n - k) / (2.5 + n)
        shares[1:] += weight * (0.5 + k) / (2.5 + n) * (start + on_side) / (5.0 + k)
    return shares / total


def test_of_few_votes_the_shares_are_what_every_way_to_lapse_sums_to() -> None:
    votes = votes_of([0, 1, 2, 3, 5, 8, 0, 10, 4])
    found = expected_shares(votes)
    for annotator in range(9):
        np.testing.assert_allclose(found[annotator], one_by_one(votes, annotator), rtol=1e-12)
    np.testing.assert_allclose(found[0], [0.8, 0.08, 0.04, 0.08], rtol=1e-12)


def quadrature(votes: SidedVotes, annotator: int) -> Array:
    """The expected shares by midpoints in the root of lapse and in a stick broken in two steps."""
    rows = votes.rows_of(annotator)
    axes = [(np.arange(n) + 0.5) / n for n in (400, 70, 70)]
    root, first, second = np.meshgrid(*axes, indexing="ij")
    habit = np.stack((first, (1.0 - first) * second, (1.0 - first) * (1.0 - second)))
    skill = 1.0 - root**2
    log = np.log(skill) + np.log(1.0 - first)  # the prior of skill; what the stick adds
    log += np.tensordot(votes.prior - 1.0, np.log(habit), 1)
    kinds = np.stack((votes.side[rows], votes.relative[rows]), axis=1)
    for (side, relative), count in zip(*np.unique(kinds, axis=0, return_counts=True), strict=True):
        log += count * np.log(skill * relative + root**2 * habit[int(side)])
    weight = np.exp(log - log.max())
    shares = [(weight * skill).sum(), *(weight * root**2 * habit).sum(axis=(1, 2, 3))]
    found: Array = np.array(shares) / weight.sum()
    return found


def test_of_many_votes_the_shares_are_what_quadrature_says() -> None:
    """Of so many that factorials and products are far from 1; some look seldom, some press left."""
    votes = votes_of([40, 121, FEW, 35, 90, FEW], seed=1)
    # Of few kinds, for quadrature's sake.
    votes = replace(votes, relative=np.exp(np.rint(np.log(votes.relative + 1e-9))))
    found = expected_shares(votes)
    for annotator in range(6):
        np.testing.assert_allclose(found[annotator], quadrature(votes, annotator), atol=5e-4)
    assert np.ptp(found[:, 0]) > 0.3


def test_the_sum_and_the_lattice_meet_where_one_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    votes = votes_of([FEW, FEW - 1, FEW, FEW - 2, FEW], seed=3)
    summed = expected_shares(votes)
    monkeypatch.setattr(skill_posterior, "FEW", 0)
    np.testing.assert_allclose(expected_shares(votes), summed, atol=2e-3)
    assert np.ptp(summed[:, 0]) > 0.3


def test_votes_that_nobody_careful_would_cast_break_nothing() -> None:
    counts = [FEW, FEW, 3]
    annotator = np.repeat(np.arange(3), counts)
    relative = np.where(annotator == 1, 2.0, 0.0)
    side = np.arange(len(annotator)) % 3
    shares = expected_shares(SidedVotes.of(3, annotator, side, relative, PRIOR))
    assert np.isfinite(shares).all()
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, rtol=1e-12)
    assert shares[0, 0] < 0.01 < 0.98 < shares[1, 0]


def test_people_are_found_whatever_block_they_are_in(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = np.random.default_rng(4).integers(0, 40, 60).tolist()
    votes = votes_of(counts, seed=5)
    whole = expected_shares(votes)
    monkeypatch.setattr(skill_posterior, "BLOCK_PEOPLE", 7)
    np.testing.assert_allclose(expected_shares(votes), whole, rtol=1e-12)


def test_intervals_are_made_when_somebody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most who ask for people want to know whose votes to believe, thousands of times."""
    keys, rng = Keys.of(3), np.random.default_rng(6)
    annotator = np.repeat(np.arange(4), [9, 0, 30, 2])
    people = people_of(4, keys, annotator, rng.integers(0, 6, 41), rng.random(41))
    low, high = intervals(people.votes)[:, 0].T
    assert np.all((low <= people.skill) & (people.skill <= high))
    np.testing.assert_array_equal(people.skill_low, low)
    np.testing.assert_array_equal(people.skill_high, high)

    def never(votes: SidedVotes) -> Array:
        raise AssertionError("nobody asked for intervals")

    monkeypatch.setattr("annotator.labels.people.intervals", never)
    again = people_of(4, keys, annotator, np.zeros(41, int), np.ones(41))
    assert np.all((again.skill > 0.0) & (again.lapse > 0.0))
    with pytest.raises(AssertionError, match="nobody asked"):
        _ = again.left_low
