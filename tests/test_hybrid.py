"""hybrid: the worth of a vote, against simulated measurements; its choice, against plain loops."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import numpy as np
import pytest

from annotator.preference.acquisition import votes_of_pairs, with_posterior
from annotator.preference.layout import Prior
from annotator.preference.posterior import fit_posterior
from annotator.preference.vote_model import VoteModel
from annotator.preference.votes import tally
from strategies import STRATEGIES
from strategies.hybrid import error_reduction
from strategies.pool import Pool, check_selection
from tests.preference_world import features_of, votes_at_random
from tests.test_strategies_contract import unit_vectors


class TestErrorReduction:
    @pytest.mark.parametrize("margin", [0.0, 0.3, -1.2, 4.0])
    @pytest.mark.parametrize("variance", [0.2, 3.0])
    @pytest.mark.parametrize("fisher", [0.05, 0.5, 20.0])
    def test_is_what_a_simulated_measurement_brings(
        self, margin: float, variance: float, fisher: float
    ) -> None:
        rng, n = np.random.default_rng(0), 1_000_000
        d = margin + np.sqrt(variance) * rng.standard_normal(n)
        measured = d + rng.standard_normal(n) / np.sqrt(fisher)
        after = (margin / variance + fisher * measured) / (1 / variance + fisher)
        wrong_before = np.sign(d) != (1.0 if margin >= 0 else -1.0)
        wrong_after = np.sign(d) != np.sign(after)
        gains = wrong_before.astype(float) - wrong_after
        found = error_reduction(*(np.array([x]) for x in (margin, variance, fisher)))[0]
        assert found == pytest.approx(gains.mean(), abs=5 * gains.std() / np.sqrt(n) + 1e-6)

    def test_limits(self) -> None:
        def of(margin: float, variance: float, fisher: float) -> float:
            return float(error_reduction(*(np.array([x]) for x in (margin, variance, fisher)))[0])

        assert of(1.0, 2.0, 0.0) == 0.0  # a vote that tells nothing
        assert of(1.0, 0.0, 1.0) == 0.0  # a pair that is known
        assert of(0.0, 0.0, 0.0) == 0.0
        assert of(30.0, 1.0, 1.0) == pytest.approx(0.0, abs=1e-12)  # a pair that is clear
        # A vote that tells all leaves no error; one that tells half of the variance, a quarter.
        assert of(0.0, 1.0, 1e12) == pytest.approx(0.5, abs=1e-5)
        assert of(0.0, 1.0, 1.0) == pytest.approx(0.25)
        assert of(1.0, 1.0, 1e12) == pytest.approx(0.158655, abs=1e-5)

    def test_never_falls_as_the_variance_or_the_information_grows(self) -> None:
        # What the greedy search relies on: values only fall as picks are made.
        grid = np.geomspace(1e-6, 1e6, 400)
        for margin in (0.0, 0.01, 0.3, 2.0, 10.0):
            for other in np.geomspace(1e-4, 1e4, 30):
                same = np.full(400, margin), np.full(400, other)
                assert (np.diff(error_reduction(same[0], grid, same[1])) > -1e-12).all()
                assert (np.diff(error_reduction(same[0], same[1], grid)) > -1e-12).all()

    def test_is_between_nothing_and_a_half_everywhere(self) -> None:
        rng = np.random.default_rng(1)
        found = error_reduction(
            rng.normal(0, 10, 5000),
            10 ** rng.uniform(-12, 8, 5000),
            10 ** rng.uniform(-12, 8, 5000),
        )
        assert np.isfinite(found).all() and found.min() >= 0.0 and found.max() <= 0.5


def without_votes(sizes: list[int], prior: float, seed: int) -> Pool:
    """No vote yet, r = w . e with w ~ N(0, prior I): signals as the preference model gives them."""
    rng = np.random.default_rng(seed)
    prompts = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return prior_signals(Pool.of_responses(unit_vectors(len(prompts), rng, 8), prompts), prior)


def prior_signals(pool: Pool, prior: float) -> Pool:
    """The signals before the first vote, w ~ N(0, prior I)."""
    loadings = pool.response_vectors * np.float32(np.sqrt(prior))
    difference = (loadings[pool.pair_a] - loadings[pool.pair_b]).astype(float)
    variance = (difference**2).sum(axis=1)
    vote = VoteModel().expected(np.zeros(pool.n_pairs), variance)
    return pool.with_signals(
        reward_mean=np.zeros(pool.n_responses),
        reward_loadings=loadings,
        residual_loadings=np.zeros((pool.n_responses, 0), dtype=np.float32),
        pair_margin=np.zeros(pool.n_pairs),
        pair_variance=variance,
        pair_share=np.ones(pool.n_pairs),
        pair_preferred=vote.preferred,
        pair_tie=vote.tie,
        pair_error=np.full(pool.n_pairs, 0.5),
        pair_information=vote.information,
        pair_fisher=vote.fisher,
        pair_votes=np.zeros(pool.n_pairs, dtype=np.int64),
    )


@pytest.mark.parametrize("prior", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("seed", range(3))
def test_without_votes_a_pair_alone_is_worth_the_more_the_less_alike_it_is(
    prior: float, seed: int
) -> None:
    # What hybrid counts of the pair itself ranks as REAL does; its worth for others comes on top.
    pool = without_votes([3, 7, 4, 12, 5, 3], prior, seed)
    worth = (1 - pool.signal("pair_tie")) * error_reduction(
        pool.signal("pair_margin"), pool.signal("pair_variance"), pool.signal("pair_fisher")
    )
    for prompt in range(6):
        pairs = np.flatnonzero(pool.prompt_of_pair == prompt)
        alone = pool.without(np.flatnonzero(pool.prompt_of_pair != prompt))
        real = STRATEGIES["real-easy"](alone, len(pairs), np.random.default_rng(0))
        np.testing.assert_array_equal(pairs[np.argsort(-worth[pairs])], real.positions)


@pytest.mark.parametrize("seed", range(5))
def test_without_votes_and_one_pair_a_prompt_it_takes_the_most_dissimilar_first(
    seed: int,
) -> None:
    # Responses that share nothing with other prompts: only the pair itself is left to count.
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.standard_normal((24, 24)))[0]
    angle = rng.uniform(0.1, 3.0, 12)
    vectors = np.empty((24, 24))
    vectors[::2] = axes[:12]
    vectors[1::2] = np.cos(angle)[:, None] * axes[:12] + np.sin(angle)[:, None] * axes[12:]
    prompts = np.repeat(np.arange(12), 2)
    pool = Pool.of_responses(vectors.astype(np.float32), prompts)
    pool = prior_signals(pool, 1.0)
    found = STRATEGIES["hybrid"](pool, 1, np.random.default_rng(0))
    real = STRATEGIES["real-easy"](pool, 1, np.random.default_rng(0))
    assert found.positions.tolist() == real.positions.tolist()


def after_votes() -> Pool:
    features = features_of([2, 5, 3, 6, 4, 2, 3], seed=1)
    votes = votes_at_random(features, 40, seed=2)
    posterior = fit_posterior(features, tally(votes), Prior(), VoteModel())
    pool = Pool.of_responses(np.ascontiguousarray(features.vectors), features.prompt_of_response)
    return with_posterior(pool, posterior, votes_of_pairs(pool, votes))


@dataclass
class Plain:
    """The worth of every vote from the covariance of all rewards, written down whole."""

    pool: Pool
    covariance: np.ndarray
    own: np.ndarray = field(init=False)
    weight: np.ndarray = field(init=False)

    @classmethod
    def of(cls, pool: Pool) -> Plain:
        shared, own = (
            pool.signal(name).astype(float) for name in ("reward_loadings", "residual_loadings")
        )
        same = np.equal.outer(pool.prompt_of_response, pool.prompt_of_response)
        plain = cls(pool, shared @ shared.T + same * (own @ own.T))
        between, variance = plain.between(), pool.signal("pair_variance")
        plain.own = variance - pool.signal("pair_share") ** 2 * np.diag(between)
        t = pool.signal("pair_margin") / np.sqrt(variance)
        density = np.exp(-0.5 * t**2) / np.sqrt(2 * np.pi)
        decided = 1 - pool.signal("pair_tie")
        plain.weight = density * decided / (np.sqrt(2 * np.pi) * variance)
        return plain

    def between(self) -> np.ndarray:
        """The covariance of r_a - r_b of all pairs."""
        contrast = np.zeros((self.pool.n_pairs, self.pool.n_responses))
        everything = np.arange(self.pool.n_pairs)
        contrast[everything, self.pool.pair_a] = 1.0
        contrast[everything, self.pool.pair_b] = -1.0
        return contrast @ self.covariance @ contrast.T

    def worth(self) -> np.ndarray:
        share, fisher = self.pool.signal("pair_share"), self.pool.signal("pair_fisher")
        between = self.between() * np.outer(share, share)
        variance = np.diag(between) + self.own
        here = error_reduction(self.pool.signal("pair_margin"), variance, fisher)
        of_others = between**2 * (1 - np.eye(len(share))) / (variance + 1 / fisher)[:, None]
        return (1 - self.pool.signal("pair_tie")) * here + of_others @ self.weight

    def expect(self, position: int) -> None:
        share = self.pool.signal("pair_share")[position]
        z = np.zeros(self.pool.n_responses)
        z[[self.pool.pair_a[position], self.pool.pair_b[position]]] = share, -share
        seen = self.covariance @ z
        noise = self.own[position] + 1 / self.pool.signal("pair_fisher")[position]
        self.covariance = self.covariance - np.outer(seen, seen) / (z @ seen + noise)


def test_every_pick_is_worth_most_by_the_plain_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["strategies.hybrid"], "EXPLORATION", 0.0)
    pool = after_votes()
    share = pool.signal("pair_share")
    assert (share < 1).any() and (share == 1).any()
    found = STRATEGIES["hybrid"](pool, pool.n_pairs, np.random.default_rng(0))
    check_selection(pool, found, pool.n_pairs)
    plain, left = Plain.of(pool), set(range(pool.n_pairs))
    for at, score in zip(found.positions.tolist(), found.scores.tolist(), strict=True):
        worth = plain.worth()
        assert score == pytest.approx(worth[at], rel=1e-3, abs=1e-5)
        assert worth[at] >= max(worth[one] for one in left) * (1 - 1e-3) - 1e-5
        plain.expect(at)
        left.remove(at)
    assert not left


def test_propensities_are_those_of_the_draw() -> None:
    pool = after_votes()
    counts = np.zeros(pool.n_pairs)
    n = 4000
    for seed in range(n):
        counts[STRATEGIES["hybrid"](pool, 1, np.random.default_rng(seed)).positions] += 1
    found = STRATEGIES["hybrid"](pool, 1, np.random.default_rng(0))
    best = np.argmax(counts)
    assert found.positions[0] == best
    share = sys.modules["strategies.hybrid"].EXPLORATION
    chance = np.full(pool.n_pairs, share / pool.n_pairs)
    chance[best] += 1 - share
    assert found.propensities[0] == pytest.approx(chance[best])
    deviation = np.sqrt(n * chance * (1 - chance))
    assert (np.abs(counts - n * chance) < 4.5 * deviation + 1).all()
