"""Influence before the label: its identities, its bands, and rankings by plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.special import expit, log_expit, rel_entr

from strategies import STRATEGIES
from strategies.influence import (
    BAND,
    Band,
    ByWinner,
    dpo_loss,
    implicit_reward_margin,
    influence_on_validation,
    inside,
    loss_difference,
    middle_band,
)
from strategies.pool import MissingSignal, Pool, Selection, check_selection, signals_needed
from tests.test_strategies_contract import SIZES, pool_of, rearranged, unit_vectors

BOTH = ["expected-lossdiff-irm", "expected-influence"]

RNG = np.random.default_rng(0)
POLICY, VALIDATION, INFLUENCE = RNG.normal(scale=3, size=(3, 500))
P = RNG.random(500)


def choose(name: str, pool: Pool, n: int, seed: int = 0) -> Selection:
    selection = STRATEGIES[name](pool, n, np.random.default_rng(seed))
    check_selection(pool, selection, n)
    return selection


def divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL of Bernoulli distributions."""
    found: np.ndarray = rel_entr(p, q) + rel_entr(1 - p, 1 - q)
    return found


class TestIdentities:
    """Methods page, section 8."""

    def test_moments_are_those_of_the_two_labels(self) -> None:
        either = ByWinner(POLICY, VALIDATION)
        two = np.stack((POLICY, VALIDATION))
        weights = np.stack((P, 1 - P))
        mean = (weights * two).sum(axis=0)
        assert either.expected(P) == pytest.approx(mean, abs=1e-13)
        spread = (weights * (two - mean) ** 2).sum(axis=0)
        assert either.variance(P) == pytest.approx(spread, rel=1e-10, abs=1e-13)

    def test_expected_irm(self) -> None:
        found = implicit_reward_margin(POLICY).expected(P)
        assert found == pytest.approx((2 * P - 1) * POLICY, abs=1e-13)

    def test_loss_is_minus_log_sigma_in_both_tails(self) -> None:
        margins = np.array([-800.0, -30.0, -1e-9, 0.0, 2.0, 40.0, 800.0])
        assert dpo_loss(margins) == pytest.approx(-log_expit(margins), rel=1e-14)

    def test_loss_difference_turns_by_the_difference_of_margins(self) -> None:
        found = loss_difference(POLICY, VALIDATION)
        assert found.a_wins == pytest.approx(dpo_loss(POLICY) - dpo_loss(VALIDATION), abs=1e-13)
        assert found.b_wins == pytest.approx(found.a_wins + POLICY - VALIDATION, abs=1e-13)

    def test_expected_loss_difference_is_a_difference_of_divergences(self) -> None:
        found = loss_difference(POLICY, VALIDATION).expected(P)
        expected = divergence(P, expit(POLICY)) - divergence(P, expit(VALIDATION))
        assert found == pytest.approx(expected, abs=1e-12)

    def test_under_the_validated_policy_it_is_one_divergence(self) -> None:
        validated = expit(VALIDATION)
        found = loss_difference(POLICY, VALIDATION).expected(validated)
        assert found == pytest.approx(divergence(validated, expit(POLICY)), abs=1e-12)
        assert (found >= -1e-13).all()

    def test_influence_is_the_product_of_gradients(self) -> None:
        rng = np.random.default_rng(1)
        v, g = rng.normal(size=(2, 500, 7))
        found = influence_on_validation(POLICY, np.vecdot(v, g))
        step = 1e-6
        for wins, sign in ((found.a_wins, 1.0), (found.b_wins, -1.0)):
            slope = (dpo_loss(sign * (POLICY + step)) - dpo_loss(sign * (POLICY - step))) / 2 / step
            assert wins == pytest.approx(np.vecdot(v, slope[:, None] * g), abs=1e-7)

    def test_expected_influence(self) -> None:
        found = influence_on_validation(POLICY, INFLUENCE).expected(P)
        assert found == pytest.approx(INFLUENCE * (expit(POLICY) - P), abs=1e-13)

    def test_own_label_has_no_expected_influence(self) -> None:
        own = expit(POLICY)
        found = influence_on_validation(POLICY, INFLUENCE)
        assert found.expected(own) == pytest.approx(0, abs=1e-13)


def plain_quantile(values: list[float], weights: list[float], q: float) -> float:
    total, below = sum(weights), 0.0
    for value, weight in sorted(zip(values, weights, strict=True)):
        below += weight
        if below >= q * total:
            return value
    raise AssertionError


class TestBands:
    def test_by_hand(self) -> None:
        # Labels that are certain: the values 0 .. 9, of which the middle 70 % are 1 .. 8.
        values = ByWinner(np.arange(10.0), np.full(10, 99.0))
        assert middle_band(values, np.ones(10)) == Band(1.0, 8.0)
        assert middle_band(values, np.ones(10), (0.35, 0.55)) == Band(3.0, 5.0)
        # An even chance of each: half of the weight lies at 99.
        assert middle_band(values, np.full(10, 0.5)) == Band(2.0, 99.0)
        assert middle_band(ByWinner(np.array([4.0]), np.array([-4.0])), np.ones(1)) == Band(
            4.0, 4.0
        )

    def test_agrees_with_the_plain_loop(self) -> None:
        values = ByWinner(POLICY, VALIDATION)
        found = middle_band(values, P)
        both, weights = [*POLICY, *VALIDATION], [*P, *(1 - P)]
        assert found.low == plain_quantile(both, weights, BAND[0])
        assert found.high == plain_quantile(both, weights, BAND[1])

    def test_are_what_labelling_the_pool_gives_on_average(self) -> None:
        rng = np.random.default_rng(4)
        values = influence_on_validation(POLICY, INFLUENCE)
        edges = []
        for _ in range(400):
            labelled = np.where(rng.random(500) < P, values.a_wins, values.b_wins)
            edges.append(np.quantile(labelled, BAND))
        found = middle_band(values, P)
        spread = np.std(edges, axis=0)
        assert abs(found.low - np.mean(edges, axis=0)[0]) < spread[0]
        assert abs(found.high - np.mean(edges, axis=0)[1]) < spread[1]

    def test_distance_is_zero_inside(self) -> None:
        band = Band(-1.0, 2.0)
        values = np.array([-3.0, -1.0, 0.0, 2.0, 2.5])
        assert band.distance(values).tolist() == [2.0, 0.0, 0.0, 0.0, 0.5]
        assert band.holds(values).tolist() == [False, True, True, True, False]

    def test_inside_means_inside_all(self) -> None:
        one = ByWinner(np.array([0.0, 0.0, 5.0]), np.array([5.0, 0.0, 0.0]))
        two = ByWinner(np.array([0.0, 7.0, 0.0]), np.array([0.0, 0.0, 0.0]))
        found = inside((one, Band(-1, 1)), (two, Band(-1, 1)))
        assert (found.a_wins.tolist(), found.b_wins.tolist()) == ([1, 0, 0], [0, 1, 1])


def plain_scores(name: str, pool: Pool) -> tuple[list[float], list[float]]:
    """The probability of being kept and the expected distance, label by label."""
    p, policy = pool.signal("pair_preferred"), pool.signal("policy_margin")
    validation, influence = pool.signal("validation_margin"), pool.signal("policy_influence")

    def values(at: int, sign: float) -> list[float]:
        if name == "expected-influence":
            return [-expit(-sign * policy[at]) * sign * influence[at]]
        loss = -log_expit(sign * policy[at]) + log_expit(sign * validation[at])
        return [float(loss), sign * policy[at]]

    labels = [
        (at, sign, w) for at in range(pool.n_pairs) for sign, w in ((1, p[at]), (-1, 1 - p[at]))
    ]
    columns = list(zip(*(values(at, sign) for at, sign, _ in labels), strict=True))
    weights = [w for _, _, w in labels]
    bands = [[plain_quantile(list(c), weights, q) for q in BAND] for c in columns]
    kept, distance = np.zeros(pool.n_pairs), np.zeros(pool.n_pairs)
    for at, sign, w in labels:
        pairs = list(zip(values(at, sign), bands, strict=True))
        kept[at] += w * all(low - 1e-12 <= x <= high + 1e-12 for x, (low, high) in pairs)
        distance[at] += w * sum(max(low - x, x - high, 0) for x, (low, high) in pairs)
    return kept.tolist(), distance.tolist()


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("sizes", ["mixed", "one large prompt", "lone responses"])
def test_score_is_the_probability_that_the_label_puts_it_inside(name: str, sizes: str) -> None:
    pool = pool_of(SIZES[sizes], seed=3)
    kept, distance = plain_scores(name, pool)
    found = choose(name, pool, pool.n_eligible)
    at = found.positions.tolist()
    assert found.scores == pytest.approx([kept[i] for i in at])
    assert np.isnan(found.propensities).all()
    order = [(-round(kept[i], 9), distance[i]) for i in at]
    if name == "expected-influence":
        for one, after in itertools.pairwise(order):
            assert one[0] < after[0] or one[1] <= after[1] + 1e-12
    else:
        assert [kept for kept, _ in order] == sorted(kept for kept, _ in order)


def by_hand(margins: list[float], **signals: list[float]) -> Pool:
    """A prompt of five responses whose first ten pairs have these signals; a wins for certain."""
    pool = Pool.of_responses(unit_vectors(5, np.random.default_rng(0)), np.zeros(5, np.int64))
    arrays = {name: np.array(values) for name, values in signals.items()}
    return pool.with_signals(pair_preferred=np.ones(10), policy_margin=np.array(margins), **arrays)


class TestByHand:
    def test_extremes_of_either_proxy_come_last(self) -> None:
        # IRM is -5 .. 4; LossDiff is that of margins 0 on the validated side, so falls with IRM,
        # but for pair 4, which the validated policy has learnt to get very wrong.
        pool = by_hand(
            [-5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0],
            validation_margin=[0.0] * 4 + [-60.0] + [0.0] * 5,
        )
        found = choose("expected-lossdiff-irm", pool, 10)
        # Middle 70 % of ten values: second to ninth. IRM keeps 1 .. 8. LossDiff, ascending, is
        # 4 9 8 7 6 5 3 2 1 0, of which 9 8 7 6 5 3 2 1 stay. Both: 1 2 3 5 6 7 8.
        assert sorted(found.positions[:7].tolist()) == [1, 2, 3, 5, 6, 7, 8]
        assert found.scores.tolist() == [1.0] * 7 + [0.0] * 3

    def test_medium_influence_comes_first_then_the_nearest(self) -> None:
        # At margin 0 the influence of a's win is minus half the product.
        wanted = [9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, -30.0]
        pool = by_hand([0.0] * 10, policy_influence=[-2 * value for value in wanted])
        found = choose("expected-influence", pool, 10)
        assert sorted(found.positions[:8].tolist()) == [1, 2, 3, 4, 5, 6, 7, 8]
        assert found.positions[8:].tolist() == [0, 9]  # 1 above the band, 31 below it
        assert found.scores.tolist() == [1.0] * 8 + [0.0] * 2

    @pytest.mark.parametrize("name", BOTH)
    def test_equal_scores_stand_in_drawn_order(self, name: str) -> None:
        pool = by_hand([0.0] * 10, policy_influence=[1.0] * 10, validation_margin=[0.0] * 10)
        firsts = np.bincount(
            [choose(name, pool, 1, seed).positions[0] for seed in range(500)], minlength=10
        )
        assert np.abs(firsts - 50).max() < 4 * np.sqrt(500 * 0.1 * 0.9)


@pytest.mark.parametrize("name", BOTH)
def test_scores_do_not_depend_on_which_response_is_called_a(name: str) -> None:
    rng = np.random.default_rng(5)
    pool = pool_of(SIZES["mixed"], seed=5)
    new = rng.permutation(pool.n_responses)
    moved = rearranged(pool, rng, new, rng.permutation(pool.n_prompts))

    def scores(of: Pool, names: np.ndarray) -> dict[frozenset[int], float]:
        found = choose(name, of, of.n_eligible)
        keys = (
            frozenset({int(names[of.pair_a[at]]), int(names[of.pair_b[at]])})
            for at in found.positions
        )
        return dict(zip(keys, found.scores.tolist(), strict=True))

    assert scores(pool, new) == scores(moved, np.arange(pool.n_responses))


@pytest.mark.parametrize("name", BOTH)
def test_needs_the_posterior_and_the_policy(name: str) -> None:
    assert signals_needed(STRATEGIES[name]) == {"posterior", "policy"}
    bare = Pool.of_responses(unit_vectors(4, np.random.default_rng(0)), np.zeros(4, np.int64))
    with pytest.raises(MissingSignal, match="the pool has no"):
        choose(name, bare, 1)
