"""Ties to come, held against worlds in which every pair's own share of ties is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import betabinom

from annotator.labels.ties import WORTH, _worth, tie_beliefs
from strategies.within_prompt import Bools, Floats, Positions


def cast(
    share: Floats, n_votes: Positions, rng: np.random.Generator
) -> tuple[Positions, Bools, Floats]:
    """Votes on pairs with these shares of ties: pair, tied, weight."""
    pair = np.repeat(np.arange(len(share)), n_votes)
    order = rng.permutation(len(pair))
    tied = rng.random(len(pair)) < share[pair]
    return pair[order], tied[order], np.ones(len(pair))


@pytest.mark.parametrize("worth", [1.0, 6.0])
def test_pairs_that_differ_are_told_apart(worth: float) -> None:
    """The share expected of the pairs that had 0, 1, 2, ... ties is the share they have."""
    rng = np.random.default_rng(3)
    tie = rng.choice([0.1, 0.25, 0.4], 12_000)
    share = rng.beta(worth * tie, worth * (1.0 - tie))
    pair, tied, weight = cast(share, rng.integers(1, 6, len(tie)), rng)
    found = tie_beliefs(tie, pair, tied, weight)
    ties = np.bincount(pair, weights=tied, minlength=len(tie))
    for n in range(5):
        its = ties == n
        error = share[its].std() / np.sqrt(its.sum())
        assert found[its].mean() == pytest.approx(share[its].mean(), abs=4.0 * error)


def test_pairs_that_do_not_differ_keep_the_vote_models_share() -> None:
    rng = np.random.default_rng(4)
    tie = rng.uniform(0.05, 0.5, 8_000)
    pair, tied, weight = cast(tie, rng.integers(1, 6, len(tie)), rng)
    found = tie_beliefs(tie, pair, tied, weight)
    assert np.abs(found - tie).max() < 0.08


def test_the_worth_is_that_of_scipys_beta_binomial() -> None:
    """Where all pairs have one mean and as many votes, the best worth is near that of most
    likelihood by the distribution itself."""
    rng = np.random.default_rng(5)
    tie, n = np.full(4_000, 0.3), 5
    share = rng.beta(4.0 * 0.3, 4.0 * 0.7, len(tie))
    pair, tied, weight = cast(share, np.full(len(tie), n), rng)
    ties = np.bincount(pair, weights=tied, minlength=len(tie))
    likelihood = [betabinom.logpmf(ties, n, k * 0.3, k * 0.7).sum() for k in WORTH[:-1]]
    best = WORTH[int(np.argmax(likelihood))]
    votes = np.full(len(tie), float(n))
    assert 0.75 < _worth(tie, pair, tied, weight, ties, votes) / best < 1.33


def test_by_hand_and_by_weight() -> None:
    tie = np.array([0.2, 0.2, 0.2])
    pair = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    tied = np.array([True] * 4 + [False] * 4)
    weight = np.ones(8)
    found = tie_beliefs(tie, pair, tied, weight)
    assert found[0] > 0.85 and found[1] < 0.05 and found[2] == 0.2
    doubted = tie_beliefs(tie, pair, tied, np.where(pair == 0, 0.1, 1.0))
    assert doubted[0] < found[0]


def test_nobody_voted_twice() -> None:
    """One vote a pair, or none: there is nothing to tell pairs apart by."""
    tie = np.array([0.1, 0.3])
    one = tie_beliefs(tie, np.array([0, 1]), np.array([True, False]), np.ones(2))
    assert one == pytest.approx(tie, abs=1e-6)
    empty = np.empty(0, dtype=np.int64)
    none = tie_beliefs(tie, empty, empty.astype(np.bool_), np.empty(0))
    assert none == pytest.approx(tie)
