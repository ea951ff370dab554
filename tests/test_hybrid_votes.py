"""hybrid against the dense algebra that it avoids: the explicit covariance of all rewards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from strategies import STRATEGIES
from strategies.hybrid import EXPLORATION, ExpectedVotes, error_reduction
from strategies.pool import Pool
from tests.test_strategies_contract import SIZES, pool_of


@dataclass
class Dense:
    """The same worth with every matrix written out; `covariance` (n_responses, n_responses)."""

    pool: Pool
    covariance: np.ndarray
    own: np.ndarray  # variance of the pairs' own terms
    weight: np.ndarray

    @classmethod
    def of(cls, pool: Pool) -> Dense:
        shared = pool.signal("reward_loadings").astype(np.float64)
        own_loadings = pool.signal("residual_loadings").astype(np.float64)
        same = pool.prompt_of_response[:, None] == pool.prompt_of_response
        covariance = shared @ shared.T + same * (own_loadings @ own_loadings.T)
        dense = cls(pool, covariance, np.empty(0), np.empty(0))
        share, variance = pool.signal("pair_share"), pool.signal("pair_variance")
        dense.own = np.maximum(variance - share**2 * np.diag(dense.of_pairs()), 0.0)
        total = share**2 * np.diag(dense.of_pairs()) + dense.own
        density = np.exp(-0.5 * pool.signal("pair_margin") ** 2 / total) / np.sqrt(2 * np.pi)
        decided = 1.0 - pool.signal("pair_tie")
        dense.weight = density * decided * share**2 / (total * np.sqrt(2 * np.pi))
        return dense

    def of_pairs(self) -> np.ndarray:
        contrast = np.eye(self.pool.n_responses)
        contrast = contrast[self.pool.pair_a] - contrast[self.pool.pair_b]
        return contrast @ self.covariance @ contrast.T

    def worth(self) -> np.ndarray:
        between = self.of_pairs()
        of_rewards = np.diag(between)
        share, fisher = self.pool.signal("pair_share"), self.pool.signal("pair_fisher")
        variance = share**2 * of_rewards + self.own
        reduction = error_reduction(self.pool.signal("pair_margin"), variance, fisher)
        here = (1.0 - self.pool.signal("pair_tie")) * reduction
        others = np.where(np.eye(len(between), dtype=bool), 0.0, between**2)
        explained = share**2 * fisher / (1.0 + fisher * variance)
        return here + explained * (others @ self.weight)

    def expect(self, pair: int) -> None:
        contrast = np.zeros(self.pool.n_responses)
        contrast[self.pool.pair_a[pair]], contrast[self.pool.pair_b[pair]] = 1.0, -1.0
        column = self.covariance @ contrast
        share, fisher = self.pool.signal("pair_share")[pair], self.pool.signal("pair_fisher")[pair]
        noise = self.own[pair] + 1.0 / fisher
        seen = share**2 * (contrast @ column) + noise
        self.covariance = self.covariance - share**2 * np.outer(column, column) / seen


@pytest.mark.parametrize("sizes", sorted(SIZES))
def test_the_worth_is_that_of_the_dense_algebra_after_every_vote(sizes: str) -> None:
    pool = pool_of(SIZES[sizes], seed=3)
    dense, votes = Dense.of(pool), ExpectedVotes(pool, 6)
    everything = np.arange(pool.n_pairs)
    rng = np.random.default_rng(0)
    for _ in range(6):
        expected = dense.worth()
        np.testing.assert_allclose(votes.worth(everything), expected, rtol=1e-5, atol=1e-6)
        pair = int(rng.integers(pool.n_pairs))
        dense.expect(pair)
        votes.expect(pair)


def test_the_batch_is_that_of_the_plain_greedy_loop() -> None:
    pool = pool_of(SIZES["mixed"], seed=1)
    for seed in range(20):
        chosen = STRATEGIES["hybrid"](pool, 10, np.random.default_rng(seed))
        dense, left = Dense.of(pool), np.flatnonzero(pool.pair_eligible).tolist()
        for at, score, chance in zip(
            chosen.positions, chosen.scores, chosen.propensities, strict=True
        ):
            worth = dense.worth()
            best = max(left, key=lambda pair: worth[pair])
            drawn = EXPLORATION / len(left)
            assert chance == pytest.approx(drawn + (1 - EXPLORATION) * (at == best))
            assert score == pytest.approx(worth[at], rel=1e-4)
            left.remove(int(at))
            dense.expect(int(at))


def test_one_pick_in_fifty_is_drawn_from_what_is_left() -> None:
    pool = pool_of([4] * 20, picked=0.0)
    drawn = 0
    for seed in range(300):
        chosen = STRATEGIES["hybrid"](pool, 5, np.random.default_rng(seed))
        drawn += int(np.count_nonzero(chosen.propensities < 0.5))
    expected = 1500 * EXPLORATION * (1 - 1 / pool.n_pairs)
    assert abs(drawn - expected) < 4 * np.sqrt(expected)


def test_before_the_first_vote_the_most_dissimilar_pair_of_unrelated_ones_goes_first() -> None:
    """One prompt of three responses in each plane of its own: nothing tells of another prompt."""
    rng = np.random.default_rng(2)
    vectors = np.zeros((18, 12), dtype=np.float32)
    for prompt in range(6):
        angle = rng.uniform(0, 2.5, size=3)
        plane = slice(2 * prompt, 2 * prompt + 2)
        vectors[3 * prompt : 3 * prompt + 3, plane] = np.c_[np.cos(angle), np.sin(angle)]
    pool = Pool.of_responses(vectors, np.repeat(np.arange(6), 3))
    difference = vectors[pool.pair_a] - vectors[pool.pair_b]
    variance = (difference.astype(np.float64) ** 2).sum(axis=1)
    n = pool.n_pairs
    pool = pool.with_signals(
        reward_loadings=vectors,
        residual_loadings=np.zeros((18, 1), dtype=np.float32),
        pair_margin=np.zeros(n),
        pair_variance=variance,
        pair_share=np.ones(n),
        pair_tie=np.zeros(n),
        pair_fisher=np.full(n, 0.25),
    )
    first = ExpectedVotes(pool, 1).worth(np.arange(n))
    for prompt in range(6):
        own = np.flatnonzero(pool.prompt_of_pair == prompt)
        assert own[np.argmax(first[own])] == own[np.argmax(variance[own])]


@pytest.mark.parametrize("fisher", [0.01, 0.25, 4.0, 1e6])
@pytest.mark.parametrize("margin", [0.0, 0.3, 2.0])
def test_the_error_falls_as_in_a_simulated_vote(margin: float, fisher: float) -> None:
    rng = np.random.default_rng(4)
    n, variance = 2_000_000, 1.7
    truth = margin + np.sqrt(variance) * rng.standard_normal(n)
    seen = truth + rng.standard_normal(n) / np.sqrt(fisher)
    explained = fisher * variance / (1.0 + fisher * variance)
    after = margin + explained * (seen - margin)
    before_wrong = np.mean((truth > 0) != (margin >= 0))
    after_wrong = np.mean((truth > 0) != (after > 0))
    found = error_reduction(np.array([margin]), np.array([variance]), np.array([fisher]))[0]
    assert found == pytest.approx(before_wrong - after_wrong, abs=1.5e-3)


def test_a_vote_that_tells_nothing_is_worth_nothing() -> None:
    nothing = error_reduction(np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0]), np.zeros(3))
    assert nothing.tolist() == [0.0, 0.0, 0.0]
