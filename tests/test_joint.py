"""Covariances of pairs and greedy batches against explicit matrices and the plain loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.joint import (
    ExpectedVotes,
    GreedyPicks,
    PairCovariance,
    Value,
    greedy_with_redundancy,
)
from strategies.pool import BadPool, MissingSignal, Pool
from tests.test_strategies_contract import SIZES, pool_of, rearranged, unit_vectors

Chosen = tuple[list[int], list[float]]


def explicit_covariance(pool: Pool) -> np.ndarray:
    """The covariance of all pairs' reward differences as one matrix, entry by entry."""
    shared = pool.signal("reward_loadings").astype(float)
    own = pool.signal("residual_loadings").astype(float)
    same_prompt = pool.prompt_of_response[:, None] == pool.prompt_of_response
    rewards = shared @ shared.T + same_prompt * (own @ own.T)
    contrast = np.zeros((pool.n_pairs, pool.n_responses))
    contrast[np.arange(pool.n_pairs), pool.pair_a] += 1
    contrast[np.arange(pool.n_pairs), pool.pair_b] -= 1
    covariance: np.ndarray = contrast @ rewards @ contrast.T
    return covariance


def after_votes(covariance: np.ndarray, votes: list[int], fisher: np.ndarray) -> np.ndarray:
    """The covariance given measurements of these pairs with noise variance 1 / fisher, in one."""
    votes = [at for at in votes if fisher[at] > 0]
    cross = covariance[:, votes]
    noisy = covariance[np.ix_(votes, votes)] + np.diag(1 / fisher[votes])
    left: np.ndarray = covariance - cross @ np.linalg.solve(noisy, cross.T)
    return left


def plain_loop(pool: Pool, n: int, fisher: np.ndarray, value: Value) -> Chosen:
    """Every value computed anew from explicit matrices before every pick."""
    covariance = explicit_covariance(pool)
    left = np.flatnonzero(pool.pair_eligible).tolist()
    chosen: list[int] = []
    values = []
    for _ in range(n):
        variances = np.diag(after_votes(covariance, chosen, fisher))
        worth = value(np.array(left), variances[left])
        best = int(np.argmax(worth))
        values.append(float(worth[best]))
        chosen.append(left.pop(best))
    return chosen, values


def log_det_gain(fisher: np.ndarray) -> Value:
    return lambda at, variance: np.log1p(fisher[at] * variance)


def greedy(pool: Pool, n: int, **options: object) -> GreedyPicks:
    fisher = pool.signal("pair_fisher")
    return greedy_with_redundancy(
        PairCovariance(pool),
        np.flatnonzero(pool.pair_eligible),
        n,
        fisher=fisher,
        **({"value": log_det_gain(fisher)} | options),  # type: ignore[arg-type]
    )


@pytest.fixture(params=sorted(SIZES))
def pool(request: pytest.FixtureRequest) -> Pool:
    return pool_of(SIZES[request.param], seed=3)


class TestPairCovariance:
    def test_agrees_with_the_explicit_matrix(self, pool: Pool) -> None:
        expected = explicit_covariance(pool)
        found = PairCovariance(pool)
        rng = np.random.default_rng(0)
        some = rng.permutation(pool.n_pairs)[: 3 + pool.n_pairs // 2]
        picks = rng.integers(0, pool.n_pairs, size=7)
        assert found.variances(some) == pytest.approx(np.diag(expected)[some], rel=1e-12)
        assert found.covariances(some, picks) == pytest.approx(
            expected[np.ix_(some, picks)], rel=1e-10, abs=1e-12
        )

    def test_of_nothing_is_nothing(self) -> None:
        found = PairCovariance(pool_of([3, 3]))
        none = np.empty(0, dtype=np.int64)
        assert found.variances(none).shape == (0,)
        assert found.covariances(none, np.array([1, 2])).shape == (0, 2)
        assert found.covariances(np.array([1, 2]), none).shape == (2, 0)

    def test_needs_the_posterior(self) -> None:
        bare = Pool.of_responses(unit_vectors(3, np.random.default_rng(0)), np.zeros(3, np.int64))
        with pytest.raises(MissingSignal, match="reward_loadings"):
            PairCovariance(bare)


class TestExpectedVotes:
    # More votes than factors, so that the covariance of g is folded into one matrix on the way.
    @pytest.mark.parametrize("n_votes", [0, 1, 4, 5, 6, 23])
    def test_variances_are_those_of_conditioning_in_one(self, pool: Pool, n_votes: int) -> None:
        rng = np.random.default_rng(n_votes)
        fisher = rng.uniform(0, 40, size=pool.n_pairs) * (rng.random(pool.n_pairs) < 0.8)
        asked = rng.integers(0, pool.n_pairs, size=n_votes).tolist()  # some pairs more than once
        votes = ExpectedVotes(PairCovariance(pool))
        everything = np.arange(pool.n_pairs)
        known, since = votes.variances(everything), np.zeros(pool.n_pairs, dtype=np.int64)
        for at in asked:
            before = votes.variances(np.array([at]))[0]
            variance, _ = votes.expect(at, fisher[at])
            assert variance == pytest.approx(before, rel=1e-9, abs=1e-12)
            some = rng.random(pool.n_pairs) < 0.1
            known[some], since[some] = votes.variances(everything[some]), votes.n_votes
        expected = np.diag(after_votes(explicit_covariance(pool), asked, fisher))
        assert votes.lowered(everything, known, since) == pytest.approx(
            expected, rel=1e-8, abs=1e-10
        )
        assert votes.variances(everything) == pytest.approx(expected, rel=1e-8, abs=1e-10)

    def test_the_rank_one_rule_of_one_vote(self) -> None:
        pool = pool_of([4, 3])
        covariance = PairCovariance(pool)
        everything = np.arange(pool.n_pairs)
        before = covariance.variances(everything)
        k = covariance.covariances(everything, np.array([2]))[:, 0]
        votes = ExpectedVotes(covariance)
        votes.expect(2, 1.7)
        assert votes.variances(everything) == pytest.approx(
            before - 1.7 * k**2 / (1 + 1.7 * before[2]), rel=1e-12
        )


def check_against_plain_loop(
    pool: Pool, n: int, shortlist: int, value: Value | None = None
) -> None:
    fisher = pool.signal("pair_fisher")
    value = value or log_det_gain(fisher)
    chosen, values = plain_loop(pool, n, fisher, value)
    found = greedy(pool, n, value=value, shortlist=shortlist)
    assert found.positions.tolist() == chosen
    assert found.values == pytest.approx(values, rel=1e-8, abs=1e-10)
    assert not found.drawn.any()
    assert found.propensities.tolist() == [1.0] * n


class TestGreedy:
    @pytest.mark.parametrize("shortlist", [1, 2, 7, 1024])
    def test_picks_what_the_plain_loop_picks(self, pool: Pool, shortlist: int) -> None:
        check_against_plain_loop(pool, min(40, pool.n_eligible), shortlist)

    @pytest.mark.parametrize("shortlist", [1, 3, 1024])
    def test_of_any_value_that_grows_with_the_variance(self, shortlist: int) -> None:
        pool = pool_of(SIZES["mixed"], seed=8)
        constants = np.random.default_rng(5).random(pool.n_pairs)
        information, fisher = pool.signal("pair_information"), pool.signal("pair_fisher")
        start = PairCovariance(pool).variances(np.arange(pool.n_pairs))

        def scaled(at: np.ndarray, variance: np.ndarray) -> np.ndarray:
            share = np.log1p(fisher[at] * variance) / np.log1p(fisher[at] * start[at])
            worth: np.ndarray = constants[at] * information[at] * share
            return worth

        def steps(at: np.ndarray, variance: np.ndarray) -> np.ndarray:
            return np.floor(4 * variance) + np.floor(3 * constants[at])  # mostly ties

        for value in (scaled, steps):
            check_against_plain_loop(pool, pool.n_eligible, shortlist, value)

    def test_its_values_add_up_to_the_log_det(self) -> None:
        pool = pool_of(SIZES["mixed"])
        fisher = pool.signal("pair_fisher")
        found = greedy(pool, 25)
        covariance = explicit_covariance(pool)[np.ix_(found.positions, found.positions)]
        weighted = np.sqrt(fisher[found.positions])[:, None] * covariance
        weighted = weighted * np.sqrt(fisher[found.positions])
        _, expected = np.linalg.slogdet(np.eye(25) + weighted)
        assert found.values.sum() == pytest.approx(expected, rel=1e-9)

    def test_of_equal_values_the_first_candidate_goes_first(self) -> None:
        pool = pool_of([6, 5, 4], seed=2)
        candidates = np.random.default_rng(0).permutation(np.flatnonzero(pool.pair_eligible))
        for shortlist in (1, 2, 5, 100):
            found = greedy_with_redundancy(
                PairCovariance(pool),
                candidates,
                len(candidates),
                fisher=pool.signal("pair_fisher"),
                value=lambda at, variance: np.zeros(len(at)),
                shortlist=shortlist,
            )
            assert found.positions.tolist() == candidates.tolist()

    def test_one_response_twice_is_asked_about_once(self) -> None:
        loadings = np.array([[1, 0], [0, 1], [0, 1], [1, 0], [0.5, 0]], dtype=np.float32)
        pool = Pool.of_responses(
            unit_vectors(5, np.random.default_rng(0)), np.array([0, 0, 0, 1, 1])
        ).with_signals(
            reward_loadings=loadings,
            residual_loadings=np.zeros((5, 0), dtype=np.float32),
            pair_fisher=np.full(4, 1000.0),
        )
        # The pairs 0-1 and 0-2 are one question, with variance 2; 3-4, with variance 1/4, has
        # covariance 1/2 with them; 1-2 has nothing to ask.
        found = greedy(pool, 4)
        assert found.positions.tolist() == [0, 3, 1, 2]
        left = 0.25 - 1000 * 0.5**2 / (1 + 1000 * 2)
        assert np.expm1(found.values[:2]) == pytest.approx([1000 * 2, 1000 * left], rel=1e-9)
        assert found.values[2] < np.log(2)  # a second vote on the same question
        assert found.values[3] == 0.0

    def test_a_pair_without_information_comes_last_and_changes_nothing(self) -> None:
        pool = pool_of(SIZES["mixed"])
        fisher = pool.signal("pair_fisher").copy()
        fisher[::3] = 0.0
        pool = pool.with_signals(pair_fisher=fisher)
        found = greedy(pool, pool.n_eligible)
        n_last = np.count_nonzero(fisher[pool.pair_eligible] == 0)
        assert (fisher[found.positions[-n_last:]] == 0).all()
        assert found.values[-n_last:].tolist() == [0.0] * n_last

    @pytest.mark.parametrize(
        ("name", "bad"),
        [("pair_fisher", -0.1), ("pair_fisher", np.nan), ("reward_loadings", np.inf)],
    )
    def test_refuses_what_is_no_number(self, name: str, bad: float) -> None:
        pool = pool_of([4, 4], picked=0)
        array = pool.signal(name).copy()
        array[3] = bad
        with pytest.raises(BadPool, match=r"of pair \d+ is"), np.errstate(invalid="ignore"):
            greedy(pool.with_signals(**{name: array}), 2)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    seed=st.integers(0, 2**32 - 1),
    shortlist=st.integers(1, 30),
    strength=st.floats(0.01, 100),
)
def test_greedy_agrees_with_the_plain_loop_on_any_pool(
    sizes: list[int], seed: int, shortlist: int, strength: float
) -> None:
    pool = pool_of([*sizes, 3], seed)
    pool = pool.with_signals(pair_fisher=strength * pool.signal("pair_fisher"))
    if pool.n_eligible:
        check_against_plain_loop(pool, pool.n_eligible, shortlist)


class TestExploration:
    def test_propensities_are_the_frequencies_of_the_picks(self) -> None:
        pool = pool_of([3, 2, 4], seed=1, picked=0.2)
        fisher, eligible = pool.signal("pair_fisher"), np.flatnonzero(pool.pair_eligible)
        rng, epsilon, draws = np.random.default_rng(3), 0.4, 4000
        first = np.zeros((draws, 2))
        for i in range(draws):
            found = greedy(pool, 2, epsilon=epsilon, rng=rng)
            first[i] = found.positions[0], found.propensities[0]
        best = plain_loop(pool, 1, fisher, log_det_gain(fisher))[0][0]
        for at in eligible:
            expected = epsilon / len(eligible) + (1 - epsilon) * (at == best)
            got = first[first[:, 0] == at]
            assert got[:, 1] == pytest.approx(np.full(len(got), expected))
            deviation = np.sqrt(draws * expected * (1 - expected))
            assert abs(len(got) - draws * expected) < 4 * deviation

    def test_every_pick_is_the_best_given_those_before_it_or_was_drawn(self) -> None:
        pool = pool_of(SIZES["large and small"], seed=4)
        fisher, n, epsilon = pool.signal("pair_fisher"), 60, 0.3
        covariance = explicit_covariance(pool)
        found = greedy(pool, n, epsilon=epsilon, rng=np.random.default_rng(0), shortlist=20)
        left = np.flatnonzero(pool.pair_eligible).tolist()
        for i, at in enumerate(found.positions.tolist()):
            before = found.positions[:i].tolist()
            variances = np.diag(after_votes(covariance, before, fisher))
            worth = np.log1p(fisher[left] * variances[left])
            best = left[int(np.argmax(worth))]
            assert found.drawn[i] or at == best
            share = epsilon / len(left)
            assert found.propensities[i] == pytest.approx(share + (1 - epsilon) * (at == best))
            assert found.values[i] == pytest.approx(worth[left.index(at)], rel=1e-8)
            left.remove(at)
        assert 0.15 < found.drawn.mean() < 0.45

    def test_a_smaller_batch_is_the_beginning_of_a_larger_one(self) -> None:
        pool = pool_of(SIZES["large and small"])
        large = greedy(pool, 50, epsilon=0.3, rng=np.random.default_rng(9))
        small = greedy(pool, 20, epsilon=0.3, rng=np.random.default_rng(9))
        assert small.positions.tolist() == large.positions[:20].tolist()
        assert small.values.tolist() == large.values[:20].tolist()

    def test_draws_everything_down_to_the_last(self) -> None:
        pool = pool_of([4, 3])
        found = greedy(pool, pool.n_eligible, epsilon=1.0, rng=np.random.default_rng(0))
        assert sorted(found.positions) == np.flatnonzero(pool.pair_eligible).tolist()
        expected = 1 / np.arange(pool.n_eligible, 0, -1)
        assert found.propensities == pytest.approx(expected)
        assert found.drawn.all()

    def test_refuses_to_draw_without_a_generator(self) -> None:
        with pytest.raises(ValueError, match="generator"):
            greedy(pool_of([4, 3]), 2, epsilon=0.1)


def test_the_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    pool = pool_of(SIZES["large and small"], 6)
    new = rng.permutation(pool.n_responses)
    moved = replace(rearranged(pool, rng, new, rng.permutation(pool.n_prompts)))
    here, there = greedy(pool, 300), greedy(moved, 300)
    assert [{int(new[pool.pair_a[at]]), int(new[pool.pair_b[at]])} for at in here.positions] == [
        {int(moved.pair_a[at]), int(moved.pair_b[at])} for at in there.positions
    ]
    assert np.array_equal(here.values, there.values)
