"""Duels within a prompt, against plain loops and against frequencies of an independent sampler."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import multivariate_normal

from strategies import STRATEGIES
from strategies.dueling import WIDTH, reward_bounds
from strategies.pool import MissingSignal, Pool, Selection, check_selection, signals_needed
from tests.test_strategies_contract import SIZES, pool_of, unit_vectors

DUELS = ["drts", "delta-ucb", "infomax"]


def choose(name: str, pool: Pool, n: int, seed: int = 0) -> Selection:
    selection = STRATEGIES[name](pool, n, np.random.default_rng(seed))
    check_selection(pool, selection, n)
    return selection


def ends(pool: Pool, at: int) -> tuple[int, int]:
    a, b = int(pool.pair_a[at]), int(pool.pair_b[at])
    return min(a, b), max(a, b)


def joint_of_prompt(pool: Pool, prompt: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, mean and covariance of a prompt's rewards, less the mean of the prompt."""
    at = np.flatnonzero(pool.prompt_of_response == prompt)
    shared, own = pool.signal("reward_loadings")[at], pool.signal("residual_loadings")[at]
    covariance = shared.astype(float) @ shared.T + own.astype(float) @ own.T
    centre = np.eye(len(at)) - 1 / len(at)
    return at, centre @ pool.signal("reward_mean")[at], centre @ covariance @ centre.T


def plain_score(name: str, pool: Pool, at: int) -> float:
    prompt = pool.prompt_of_response[pool.pair_a[at]]
    members, mean, covariance = joint_of_prompt(pool, prompt)
    deviation = WIDTH * np.sqrt(np.diag(covariance))
    slots = [int(np.flatnonzero(members == end)[0]) for end in ends(pool, at)]
    scores = []
    for i, j in (slots, slots[::-1]):
        high, low = mean + deviation, mean - deviation
        if name == "delta-ucb":
            scores.append(high[i] - low[j])
        else:
            scores.append(expit(high[i] - low[j]) - expit(low[i] - high[j]))
    return max(scores)


def two_prompts() -> Pool:
    """Responses 0 1 2 with rewards 3 0 -1, and 3 4 5 with 0 0 0; the last of each uncertain."""
    pool = Pool.of_responses(unit_vectors(6, np.random.default_rng(0)), np.repeat([0, 1], 3))
    loadings = np.zeros((6, 6), dtype=np.float32)
    loadings[[0, 1, 3, 4], [0, 1, 3, 4]] = 0.25
    loadings[[2, 5], [2, 5]] = 2.0
    return pool.with_signals(
        reward_mean=np.array([3.0, 0.0, -1.0, 0.0, 0.0, 0.0]),
        reward_loadings=loadings,
        residual_loadings=np.zeros((6, 0), dtype=np.float32),
    )


class TestBounds:
    def test_are_of_rewards_less_the_mean_of_their_prompt(self) -> None:
        low, high = reward_bounds(two_prompts())
        # Of 3, 0, -1 with variances 1/16, 1/16, 4: the mean is 2/3, its third has weight 2/3 in its
        # own difference from the mean and 1/3 in the others'.
        variance = np.array([4 / 16 + 1 / 16 + 4, 1 / 16 + 4 / 16 + 4, 2 / 16 + 16]) / 9
        assert 0.5 * (low + high)[:3] == pytest.approx([7 / 3, -2 / 3, -5 / 3])
        assert 0.5 * (high - low)[:3] == pytest.approx(WIDTH * np.sqrt(variance))

    def test_what_a_prompts_rewards_share_changes_nothing(self) -> None:
        pool = pool_of(SIZES["mixed"])
        low, high = reward_bounds(pool)
        by_prompt = np.random.default_rng(0).normal(size=(pool.n_prompts, 4)) * 8
        shift = by_prompt[pool.prompt_of_response]
        moved = pool.with_signals(
            reward_mean=pool.signal("reward_mean") + shift[:, 0],
            reward_loadings=np.hstack(
                (pool.signal("reward_loadings"), shift.astype(np.float32)), dtype=np.float32
            ),
        )
        assert reward_bounds(moved)[0] == pytest.approx(low, abs=1e-9)
        assert reward_bounds(moved)[1] == pytest.approx(high, abs=1e-9)

    def test_for_two_responses_bound_their_difference(self) -> None:
        pool = pool_of([2] * 9, picked=0)
        z = (pool.reward_loadings[pool.pair_a] - pool.reward_loadings[pool.pair_b]).astype(float)
        rho = pool.residual_loadings[pool.pair_a] - pool.residual_loadings[pool.pair_b]
        deviation = np.sqrt((z**2).sum(axis=1) + (rho.astype(float) ** 2).sum(axis=1))
        margin = pool.reward_mean[pool.pair_a] - pool.reward_mean[pool.pair_b]
        found = choose("delta-ucb", pool, 9)
        expected = np.abs(margin) + WIDTH * deviation
        assert found.scores == pytest.approx(expected[found.positions], rel=1e-6)


class TestConfidenceBounds:
    def test_by_hand(self) -> None:
        pool = two_prompts()
        # 0 against 2 is far apart and uncertain. 1 against 2 is the less known preference.
        for name, pair in (("delta-ucb", (0, 2)), ("infomax", (1, 2))):
            chosen = {ends(pool, int(at)) for at in choose(name, pool, 2).positions}
            assert pair in chosen
            assert len(chosen & {(3, 5), (4, 5)}) == 1

    @pytest.mark.parametrize("name", ["delta-ucb", "infomax"])
    @pytest.mark.parametrize("sizes", sorted(SIZES))
    def test_agrees_with_the_plain_loop(self, name: str, sizes: str) -> None:
        pool = pool_of(SIZES[sizes], seed=2)
        expected = {
            int(at): plain_score(name, pool, int(at)) for at in np.flatnonzero(pool.pair_eligible)
        }
        found = choose(name, pool, pool.n_eligible)
        assert found.scores == pytest.approx([expected[int(at)] for at in found.positions])
        check_passes(pool, found)

    @pytest.mark.parametrize("name", ["delta-ucb", "infomax"])
    def test_equal_pairs_of_a_prompt_stand_in_drawn_order(self, name: str) -> None:
        pool = two_prompts()
        firsts = Counter()
        for seed in range(300):
            chosen = choose(name, pool, 2, seed).positions
            firsts.update(ends(pool, int(at)) for at in chosen if pool.prompt_of_pair[at] == 1)
        assert set(firsts) == {(3, 5), (4, 5)}
        assert abs(firsts[3, 5] - 150) < 4 * np.sqrt(300 / 4)


def check_passes(pool: Pool, found: Selection) -> None:
    """Each prompt's pairs come by score, and every pass is over before the next one begins."""
    before = np.bincount(pool.prompt_of_pair[~pool.pair_eligible], minlength=pool.n_prompts)
    done, turns = before.copy(), []
    last: dict[int, float] = {}
    for at, score in zip(found.positions, found.scores, strict=True):
        prompt = int(pool.prompt_of_pair[at])
        turns.append(int(done[prompt]))
        done[prompt] += 1
        assert score <= last.get(prompt, np.inf) + 1e-12
        last[prompt] = score
    assert turns == sorted(turns)


class TestThompson:
    def test_pairs_are_as_frequent_as_best_against_worst_of_independent_draws(self) -> None:
        pool = pool_of([4], seed=5, picked=0)
        prompt = int(pool.prompt_of_response[0])
        members, mean, covariance = joint_of_prompt(pool, prompt)
        draws = 4000
        # The best stays while the worst is drawn again: P(i best) P(j worst | not i worst).
        rng = np.random.default_rng(11)
        normal = multivariate_normal(mean, covariance, allow_singular=True, seed=rng)
        best = np.bincount(normal.rvs(200_000).argmax(axis=1), minlength=4) / 200_000
        worst = np.bincount(normal.rvs(200_000).argmin(axis=1), minlength=4) / 200_000
        expected = Counter()
        for i in range(4):
            for j in range(4):
                if i != j:
                    pair = min(members[i], members[j]), max(members[i], members[j])
                    expected[pair] += best[i] * worst[j] / (1 - worst[i])
        found = Counter(
            ends(pool, int(choose("drts", pool, 1, seed).positions[0])) for seed in range(draws)
        )
        for pair, share in expected.items():
            assert abs(found[pair] - draws * share) < 4 * np.sqrt(draws * share * (1 - share)) + 8

    def test_a_known_best_always_meets_a_known_worst(self) -> None:
        pool = pool_of([5, 4, 3], seed=1, picked=0)
        sure = pool.with_signals(
            reward_loadings=1e-6 * pool.signal("reward_loadings"),
            residual_loadings=1e-6 * pool.signal("residual_loadings"),
        )
        mean = pool.signal("reward_mean")
        expected = set()
        for prompt in np.unique(pool.prompt_of_response):
            at = np.flatnonzero(pool.prompt_of_response == prompt)
            pair = int(at[np.argmax(mean[at])]), int(at[np.argmin(mean[at])])
            expected.add((min(pair), max(pair)))
        for seed in range(5):
            found = choose("drts", sure, 3, seed)
            assert {ends(pool, int(at)) for at in found.positions} == expected
            margins = mean[pool.pair_a[found.positions]] - mean[pool.pair_b[found.positions]]
            assert found.scores == pytest.approx(np.abs(margins), abs=1e-4)

    def test_falls_to_the_next_gap_where_the_best_is_not_eligible(self) -> None:
        pool = pool_of([5], seed=1, picked=0)
        mean = pool.signal("reward_mean")
        sure = pool.with_signals(
            reward_loadings=1e-6 * pool.signal("reward_loadings"),
            residual_loadings=1e-6 * pool.signal("residual_loadings"),
        )
        by_margin = np.argsort(-np.abs(mean[pool.pair_a] - mean[pool.pair_b]))
        for barred in range(9):
            less = sure.without(by_margin[:barred])
            assert choose("drts", less, 1).positions[0] == by_margin[barred]
        assert choose("drts", sure, 10).positions.tolist() == by_margin.tolist()

    def test_one_best_in_both_draws_still_makes_a_pair(self) -> None:
        # Response 0 is above the rest or below them, all at once: it is drawn as best and worst.
        pool = Pool.of_responses(unit_vectors(3, np.random.default_rng(0)), np.zeros(3, np.int64))
        loadings = np.zeros((3, 1), dtype=np.float32)
        loadings[0] = 100
        pool = pool.with_signals(
            reward_mean=np.zeros(3),
            reward_loadings=loadings,
            residual_loadings=np.zeros((3, 0), dtype=np.float32),
        )
        found = Counter(ends(pool, int(choose("drts", pool, 1, s).positions[0])) for s in range(60))
        assert set(found) <= {(0, 1), (0, 2)}

    @pytest.mark.parametrize("sizes", sorted(SIZES))
    def test_fills_the_batch_in_passes(self, sizes: str) -> None:
        pool = pool_of(SIZES[sizes], seed=4)
        check_passes(pool, choose("drts", pool, pool.n_eligible, seed=3))
        check_passes(pool, choose("drts", pool, pool.n_eligible // 2, seed=3))

    def test_draws_of_a_prompt_do_not_depend_on_the_others(self) -> None:
        pool = pool_of([4, 3, 5], seed=4, picked=0)
        whole = choose("drts", pool, pool.n_eligible, seed=8)
        prompt = int(pool.prompt_of_pair[0])
        alone = pool.without(np.flatnonzero(pool.prompt_of_pair != prompt))
        some = choose("drts", alone, alone.n_eligible, seed=8)
        scores = dict(zip(whole.positions.tolist(), whole.scores.tolist(), strict=True))
        assert [scores[at] for at in some.positions.tolist()] == some.scores.tolist()


@pytest.mark.parametrize("name", DUELS)
def test_needs_the_posterior(name: str) -> None:
    assert signals_needed(STRATEGIES[name]) == {"posterior"}
    bare = Pool.of_responses(unit_vectors(4, np.random.default_rng(0)), np.zeros(4, np.int64))
    with pytest.raises(MissingSignal, match="the pool has no"):
        choose(name, bare, 1)


@pytest.mark.parametrize("name", DUELS)
def test_prompts_within_a_pass_stand_in_drawn_order(name: str) -> None:
    pool = pool_of([3] * 4, picked=0)
    firsts = Counter(
        int(pool.prompt_of_pair[choose(name, pool, 1, seed).positions[0]]) for seed in range(400)
    )
    assert len(firsts) == 4
    assert all(abs(count - 100) < 4 * np.sqrt(75) for count in firsts.values())
