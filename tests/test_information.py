"""Choosing by the posterior, against hand-made arrays, plain loops and explicit matrices."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from strategies import STRATEGIES
from strategies.pool import MissingSignal, Pool, Selection, check_selection, signals_needed
from tests.test_joint import explicit_covariance
from tests.test_strategies_contract import pool_of, unit_vectors

RANKED = ["uncertainty", "certainty", "information", "expected-error"]


def choose(name: str, pool: Pool, n: int, seed: int = 0) -> Selection:
    selection = STRATEGIES[name](pool, n, np.random.default_rng(seed))
    check_selection(pool, selection, n)
    return selection


def one_prompt(**signals: list[float]) -> Pool:
    """Four responses, six pairs 01 02 03 12 13 23, of which the last was picked before."""
    pool = Pool.of_responses(unit_vectors(4, np.random.default_rng(0)), np.zeros(4, np.int64))
    arrays = {name: np.array(values) for name, values in signals.items()}
    return pool.with_signals(**arrays).without(np.array([5]))


class TestByHand:
    POOL = one_prompt(
        pair_preferred=[0.9, 0.5, 0.25, 0.75, 0.05, 0.5],
        pair_information=[0.1, 0.3, 0.2, 0.25, 0.05, 0.9],
        pair_error=[0.2, 0.5, 0.3, 0.1, 0.4, 0.5],
    )

    @pytest.mark.parametrize(
        ("name", "order", "scores"),
        [
            # 02 and 12 are equally certain: the vote on 12 tells more.
            ("uncertainty", [1, 3, 2, 0, 4], [1.0, 0.5, 0.5, 0.2, 0.1]),
            ("certainty", [4, 0, 3, 2, 1], [0.9, 0.8, 0.5, 0.5, 0.0]),
            ("information", [1, 3, 2, 0, 4], [0.3, 0.25, 0.2, 0.1, 0.05]),
            ("expected-error", [1, 4, 2, 0, 3], [0.5, 0.4, 0.3, 0.2, 0.1]),
        ],
    )
    def test_ranks_by_its_score(self, name: str, order: list[int], scores: list[float]) -> None:
        for n in range(1, 6):
            found = choose(name, self.POOL, n)
            assert found.positions.tolist() == order[:n]
            assert found.scores == pytest.approx(scores[:n])
            assert np.isnan(found.propensities).all()

    @pytest.mark.parametrize("name", RANKED)
    def test_what_is_equal_in_all_stands_in_drawn_order(self, name: str) -> None:
        pool = one_prompt(
            pair_preferred=[0.5] * 6, pair_information=[0.2] * 6, pair_error=[0.5] * 6
        )
        firsts = [int(choose(name, pool, 1, seed).positions[0]) for seed in range(400)]
        counts = np.bincount(firsts, minlength=6)
        assert counts[5] == 0
        assert np.abs(counts[:5] - 80).max() < 4 * np.sqrt(400 * 0.2 * 0.8)


@pytest.mark.parametrize("seed", range(5))
def test_rankings_agree_with_sorting_everything(seed: int) -> None:
    pool = pool_of([5, 2, 9, 3], seed)
    p, information = pool.signal("pair_preferred"), pool.signal("pair_information")
    keys = {
        "uncertainty": lambda at: (abs(p[at] - 0.5), -information[at]),
        "certainty": lambda at: (-abs(p[at] - 0.5), -information[at]),
        "information": lambda at: -information[at],
        "expected-error": lambda at: -pool.signal("pair_error")[at],
    }
    eligible = np.flatnonzero(pool.pair_eligible).tolist()
    for name, key in keys.items():
        for n in (1, 7, len(eligible)):
            assert choose(name, pool, n).positions.tolist() == sorted(eligible, key=key)[:n]


@pytest.mark.parametrize("name", [*RANKED, "d-optimal"])
def test_needs_the_posterior(name: str) -> None:
    assert signals_needed(STRATEGIES[name]) == {"posterior"}
    bare = Pool.of_responses(unit_vectors(4, np.random.default_rng(0)), np.zeros(4, np.int64))
    with pytest.raises(MissingSignal, match="the pool has no"):
        choose(name, bare, 1)


def explicit_margins(pool: Pool) -> np.ndarray:
    """The covariance of all pairs' margins as one matrix."""
    share = pool.signal("pair_share")
    of_rewards = np.outer(share, share) * explicit_covariance(pool)
    own = pool.signal("pair_variance") - np.diag(of_rewards)
    covariance: np.ndarray = of_rewards + np.diag(own)
    return covariance


class TestDOptimal:
    def test_adds_at_every_step_what_lifts_the_log_det_most(self) -> None:
        pool = pool_of([4, 3, 2, 5], seed=6)
        covariance, fisher = explicit_margins(pool), pool.signal("pair_fisher")

        def log_det(pairs: list[int]) -> float:
            root = np.sqrt(fisher[pairs])
            precision = np.eye(len(pairs)) + np.outer(root, root) * covariance[np.ix_(pairs, pairs)]
            return float(np.linalg.slogdet(precision)[1])

        found = choose("d-optimal", pool, pool.n_eligible)
        chosen: list[int] = []
        left = set(np.flatnonzero(pool.pair_eligible).tolist())
        for at, score in zip(found.positions.tolist(), found.scores.tolist(), strict=True):
            gains = {one: log_det([*chosen, one]) - log_det(chosen) for one in left}
            assert score == pytest.approx(gains[at], rel=1e-7, abs=1e-9)
            assert gains[at] >= max(gains.values()) - 1e-9
            chosen.append(at)
            left.remove(at)
        assert np.isnan(found.propensities).all()

    def test_is_within_its_guarantee_of_the_best_batch(self) -> None:
        pool = pool_of([4, 3], seed=1, picked=0)
        covariance, fisher = explicit_margins(pool), pool.signal("pair_fisher")
        best = 0.0
        for pairs in itertools.combinations(range(pool.n_pairs), 4):
            root = np.sqrt(fisher[list(pairs)])
            precision = np.eye(4) + np.outer(root, root) * covariance[np.ix_(pairs, pairs)]
            best = max(best, float(np.linalg.slogdet(precision)[1]))
        total = choose("d-optimal", pool, 4).scores.sum()
        assert (1 - 1 / np.e) * best <= total <= best + 1e-9

    def test_beats_the_most_distant_pairs_as_a_batch(self) -> None:
        # The toy of the methods page: 60 unit vectors in 16 dimensions, prior variance 9, 16 picks.
        pool = zero_votes([60], 16, prior=9.0, seed=0)
        covariance = explicit_margins(pool)

        def gain(pairs: np.ndarray) -> float:
            inner = np.eye(16) + 0.25 * covariance[np.ix_(pairs, pairs)]
            return float(np.linalg.slogdet(inner)[1])

        distant = np.argsort(-np.diag(covariance))[:16]
        assert gain(choose("d-optimal", pool, 16).positions) > gain(distant) + 2


def zero_votes(sizes: list[int], d: int, *, prior: float, seed: int, own: float = 0.0) -> Pool:
    """No vote yet and an isotropic prior: r = w . e, w ~ N(0, prior I), unit vectors e.

    Each pair's margin has a further term with variance `own`.

    Loadings are the vectors times a power of 2, if prior is one of 4: then nothing is rounded.
    """
    rng = np.random.default_rng(seed)
    prompts = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    pool = Pool.of_responses(unit_vectors(len(prompts), rng, d), prompts)
    loadings = pool.response_vectors * np.float32(np.sqrt(prior))
    difference = (loadings[pool.pair_a] - loadings[pool.pair_b]).astype(float)
    variance = (difference**2).sum(axis=1) + own
    return pool.with_signals(
        reward_mean=np.zeros(pool.n_responses),
        reward_loadings=loadings,
        residual_loadings=np.zeros((pool.n_responses, 0), dtype=np.float32),
        pair_variance=variance,
        pair_share=np.ones(pool.n_pairs),
        # Even chances, but for rounding, which must not decide.
        pair_preferred=0.5 + 2.0**-52 * rng.integers(-1, 2, size=pool.n_pairs),
        pair_error=np.full(pool.n_pairs, 0.5),
        pair_information=np.array([mutual_information(v) for v in variance]),
        pair_fisher=np.full(pool.n_pairs, 0.25),
    )


def mutual_information(variance: float) -> float:
    """Of a vote and t ~ N(0, variance), P(vote) = sigma(t): log 2 - E[H(sigma(t))]."""
    t = np.linspace(-9, 9, 2001) * np.sqrt(variance)
    weight = np.exp(-0.5 * np.linspace(-9, 9, 2001) ** 2)
    entropy = np.logaddexp(0, -t) / (1 + np.exp(-t)) + np.logaddexp(0, t) / (1 + np.exp(t))
    return float(np.log(2) - (weight * entropy).sum() / weight.sum())


@pytest.mark.parametrize(("prior", "own"), [(0.25, 0.0), (1.0, 0.0), (1.0, 0.5), (9.0, 0.5)])
@pytest.mark.parametrize("seed", range(3))
def test_without_votes_real_easy_is_the_most_informative_pair(
    prior: float, own: float, seed: int
) -> None:
    """Methods page, section 9: with p = 1/2 all of them rank by 2 prior (1 - cos) alone."""
    pool = zero_votes([3, 7, 4, 12, 5, 3], 8, prior=prior, seed=seed, own=own)
    everything = np.arange(pool.n_pairs)
    for prompt in range(6):
        alone = pool.without(everything[pool.prompt_of_pair != prompt])
        chosen = {
            name: int(choose(name, alone, 1).positions[0])
            for name in ("real-easy", "d-optimal", *RANKED)
        }
        assert len(set(chosen.values())) == 1, chosen
    # One batch over all prompts: the same pair of each, before any prompt has its second.
    best = {int(at) for at in choose("real-easy", pool, 6).positions}
    order = choose("information", pool, pool.n_pairs).positions
    _, first = np.unique(pool.prompt_of_pair[order], return_index=True)
    assert {int(at) for at in order[first]} == best
