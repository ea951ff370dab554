"""Votes that were not asked: counted by hand; their errors against what people would have said."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.stats import binomtest

from annotator.budget.spared import (
    ClosedPairs,
    Comparisons,
    contradicted,
    sure_of,
    turned_by_panel,
    votes_spared,
)
from annotator.labels.crowd import CrowdVotes, fit_crowd
from annotator.preference.vote_model import VoteModel
from tests.crowd_world import crowd_world


def closed(votes: list[int], most: list[int], lead: list[int], p: list[float]) -> ClosedPairs:
    n = len(votes)
    return ClosedPairs(
        np.array(votes), np.array(most), np.array(lead), np.array(p), np.zeros(n), np.ones(n)
    )


def test_votes_spared_by_hand() -> None:
    assert votes_spared(closed([2, 3, 5, 1, 6], [5, 5, 5, 3, 5], [2, 1, 1, 1, 2], [0.9] * 5)) == 7


def test_a_panel_that_cannot_turn_it_does_not() -> None:
    """Three of five are for a: whatever the other two say, a it is."""
    found = turned_by_panel(closed([3], [5], [3], [0.9]), VoteModel())
    assert found.value == pytest.approx(0.0, abs=1e-12)
    # Verdict b against that lead: the panel turns it for certain.
    assert turned_by_panel(closed([3], [5], [3], [0.1]), VoteModel()).value == pytest.approx(1.0)


def test_one_vote_before_a_panel_of_two_by_hand() -> None:
    """d is 0, no ties: the second is against in one case of two, and then a coin decides."""
    pair = ClosedPairs(
        np.array([1]), np.array([2]), np.array([1]), np.array([0.9]), np.zeros(1), np.full(1, 1e-12)
    )
    found = turned_by_panel(pair, VoteModel(1e-9, None, 0.0))
    assert found.value == pytest.approx(0.25, abs=1e-4)


@pytest.mark.parametrize("rule", ["two alike", "one"])
def test_the_interval_holds_how_often_the_whole_panel_really_turns(rule: str) -> None:
    held, worlds, shares = 0, 16, []
    for seed in range(worlds):
        world = crowd_world(seed, n_prompts=14, n_annotators=12).world
        first = first_votes_of(world.vote_pair, np.random.default_rng(seed))
        n_pairs = world.pool.n_pairs
        grade = world.vote_grade
        lead_of = [
            np.bincount(world.vote_pair[first < n], np.sign(grade[first < n]), n_pairs).astype(int)
            for n in (1, 2, 5)
        ]
        stop = np.ones(n_pairs, dtype=np.bool_)
        shown = first < 1
        n_votes, lead = np.ones(n_pairs, dtype=np.int64), lead_of[0]
        if rule == "two alike":
            stop, shown = np.abs(lead_of[1]) == 2, first < 2
            n_votes, lead = 2 * n_votes, lead_of[1]
        shown |= ~stop[world.vote_pair]  # the others get all five
        cast = CrowdVotes(
            world.vote_pair[shown], grade[shown], world.vote_annotator[shown],
            world.vote_left_is_a[shown], n_pairs, 12,
        )  # fmt: skip
        crowd = fit_crowd(cast)
        rows = np.flatnonzero(stop & (np.abs(crowd.preferred - 0.5) > 0.1))
        found = turned_by_panel(
            ClosedPairs(
                n_votes[rows], np.full(len(rows), 5), lead[rows], crowd.preferred[rows],
                crowd.mean[rows], crowd.variance[rows],
            ),
            crowd.model,
        )  # fmt: skip
        side = np.where(crowd.preferred[rows] > 0.5, 1, -1)
        panel = np.sign(lead_of[2][rows])
        really = float(np.where(panel == 0, 0.5, panel != side).mean())
        shares.append(really)
        held += found.low <= really <= found.high
    assert binomtest(held, worlds, 0.95).pvalue > 1e-3, (held, np.mean(shares))
    assert np.mean(shares) > 0.01


def first_votes_of(pair: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The turn of each vote on its pair, from 0, in a random order."""
    turn = np.empty(len(pair), dtype=np.int64)
    order = rng.permutation(len(pair))
    seen: dict[int, int] = {}
    for at in order:
        turn[at] = seen.get(pair[at], 0)
        seen[pair[at]] = turn[at] + 1
    return turn


def test_hanging_together_is_that_of_scipy_without_the_pair_itself() -> None:
    rng = np.random.default_rng(4)
    n = 40
    a = rng.integers(0, n, 45)
    b = np.where(rng.integers(0, n, 45) == a, (a + 1) % n, rng.integers(0, n, 45))
    a, b = a[a != b], b[a != b]
    compared = Comparisons(a, b)
    others_a, others_b = rng.integers(0, n, 100), rng.integers(0, n, 100)
    differ = others_a != others_b
    ask_a = np.concatenate((a, others_a[differ]))
    ask_b = np.concatenate((b, others_b[differ]))
    expected = []
    for x, y in zip(ask_a, ask_b, strict=True):
        own = (np.minimum(a, b) == min(x, y)) & (np.maximum(a, b) == max(x, y))
        graph = coo_array((np.ones((~own).sum()), (a[~own], b[~own])), shape=(n, n))
        _, label = connected_components(graph, directed=False)
        expected.append(bool(label[x] == label[y]))
    found = compared.joined_pairs(ask_a, ask_b)
    assert found.tolist() == expected
    assert 10 < sum(expected) < len(expected) - 10


def test_sure_from_95_per_cent_on() -> None:
    mean = np.array([1.6448, -1.6449, 1.6449, 3.29])
    variance = np.array([1.0, 1.0, 1.0, 4.0])
    assert sure_of(mean, variance).tolist() == [False, True, True, True]


def test_contradictions_with_their_exact_interval() -> None:
    lead = np.array([1, -2, 0, 3, -1, 1])
    mean = np.array([2.0, 1.0, 1.0, 5.0, -1.0, -0.1])
    found = contradicted(lead, mean)
    exact = binomtest(2, 5).proportion_ci(0.95, "exact")
    assert (found.value, found.low, found.high) == pytest.approx((0.4, exact.low, exact.high))
    assert np.isnan(contradicted(lead[2:3], mean[2:3]).value)
