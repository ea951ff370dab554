"""Bootstrap, inversion and verdicts against loops, hands, another library and known truths."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from annotator.simulate.savings import (
    COSTS,
    NEITHER,
    SAVES,
    Curve,
    Saving,
    Weights,
    curve,
    percentiles,
    saving,
    target_of,
    votes_to_reach,
    weights,
)

BUDGETS = np.array([100, 200, 400, 800])


def one(values: list[float], budgets: np.ndarray = BUDGETS) -> Curve:
    """A curve whose replicates are all as observed."""
    return Curve(budgets, np.tile(np.array(values), (4, 1)))


def test_votes_are_read_off_by_hand() -> None:
    # 0.70 lies a quarter of the way from 0.65 at 200 to 0.85 at 400: 200 * 2 ** 0.25.
    rising = one([0.6, 0.65, 0.85, 0.9])
    assert votes_to_reach(rising, np.full(4, 0.70)) == pytest.approx(np.full(4, 237.841423))
    assert votes_to_reach(rising, np.full(4, 0.65)) == pytest.approx(np.full(4, 200.0))
    assert votes_to_reach(rising, np.full(4, 0.5)) == pytest.approx(np.full(4, 100.0))
    assert np.isinf(votes_to_reach(rising, np.full(4, 0.91))).all()
    flat = one([0.6, 0.7, 0.7, 0.8])
    assert votes_to_reach(flat, np.full(4, 0.7)) == pytest.approx(np.full(4, 200.0))


def test_each_replicate_has_its_own_target() -> None:
    both = Curve(BUDGETS, np.array([[0.6, 0.7, 0.8, 0.9], [0.5, 0.6, 0.7, 0.8]]))
    found = votes_to_reach(both, np.array([0.85, 0.65]))
    assert found == pytest.approx([400 * 2**0.5, 200 * 2**0.5])


def test_monotone_curves_are_isotonic_regressions() -> None:
    rng = np.random.default_rng(3)
    values = np.linspace(0.5, 0.8, 9) + 0.2 * rng.standard_normal((40, 9))
    values[1] = 0.7
    fitted = Curve(np.arange(1, 10), values).monotone().values
    for row, expected in zip(fitted, values, strict=True):
        assert row == pytest.approx(IsotonicRegression().fit_transform(np.arange(9), expected))


def test_the_bootstrap_is_the_plain_loop() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 6, size=(3, 1, 7)).astype(np.float64)
    counts[:, :, 4] = 0
    sums = rng.random((3, 2, 7)) * counts
    drawn = weights(counts[:, 0], np.random.default_rng(1), 50)
    found = curve(np.array([10, 20]), sums, counts, drawn).values
    for r in range(51):
        for budget in range(2):
            top = bottom = 0.0
            for seed in range(3):
                for prompt in range(7):
                    times = drawn.seeds[r, seed] * drawn.prompts[r, prompt]
                    top += times * sums[seed, budget, prompt]
                    bottom += times * counts[seed, 0, prompt]
            assert found[r, budget] == pytest.approx(top / bottom)


def test_draws_are_resamples_of_what_counts() -> None:
    counts = np.ones((4, 9))
    counts[:, [2, 5]] = 0
    drawn = weights(counts, np.random.default_rng(0), 2000)
    assert drawn.prompts[0].tolist() == [1, 1, 0, 1, 1, 0, 1, 1, 1]
    assert drawn.seeds[0].tolist() == [1] * 4
    assert set(drawn.prompts[1:].sum(axis=1)) == {7.0}
    assert set(drawn.seeds[1:].sum(axis=1)) == {4.0}
    # A multinomial count of 7 draws from 7: variance 1 - 1/7.
    assert drawn.prompts[1:, 0].var() == pytest.approx(6 / 7, abs=0.08)


def test_a_draw_that_holds_nothing_is_drawn_again() -> None:
    counts = np.zeros((5, 5))
    np.fill_diagonal(counts, 1)  # each seed measures one prompt, as held-out prompts may
    drawn = weights(counts, np.random.default_rng(0), 500)
    assert (np.vecdot(drawn.seeds, drawn.prompts @ counts.T) > 0).all()


def test_one_seed_has_no_second_level() -> None:
    drawn = weights(np.ones((1, 6)), np.random.default_rng(0), 20)
    assert (drawn.seeds == 1).all()


def test_ends_of_an_interval_may_be_open() -> None:
    values = np.array([[-np.inf] * 30 + [0.1] * 970, [0.2] * 1000]).T
    low, high = percentiles(values)
    assert low.tolist() == [-np.inf, 0.2]
    assert high.tolist() == [0.1, 0.2]


# Verdicts by hand.


def test_a_saving_by_hand() -> None:
    random, better = one([0.6, 0.7, 0.8, 0.9]), one([0.7, 0.8, 0.9, 0.95])
    found = saving(better, random, target_of(random))
    assert found.target == pytest.approx(0.9)
    assert (found.reference_votes, found.votes) == pytest.approx((800, 400))
    assert (found.fraction, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert (found.verdict, found.at_least, found.reached) == (SAVES, False, 1.0)


def test_a_cost_beyond_the_budgets_is_open_below() -> None:
    random, worse = one([0.7, 0.8, 0.9, 0.95]), one([0.6, 0.7, 0.8, 0.9])
    found = saving(worse, random, target_of(random))
    assert (found.votes, found.fraction, found.low, found.high) == (None, None, None, None)
    assert (found.verdict, found.reached) == (COSTS, 0.0)
    assert found.overtaken == pytest.approx(400)


def test_a_cost_within_the_budgets_is_a_number() -> None:
    random, worse = one([0.7, 0.8, 0.8, 0.8]), one([0.6, 0.7, 0.8, 0.8])
    found = saving(worse, random, target_of(random))
    assert (found.votes, found.fraction) == pytest.approx((400, -1.0))
    assert found.verdict == COSTS


def test_there_from_the_start_is_a_bound() -> None:
    random, better = one([0.6, 0.7, 0.8, 0.9]), one([0.92, 0.93, 0.94, 0.95])
    found = saving(better, random, target_of(random))
    assert (found.votes, found.fraction) == pytest.approx((100, 0.875))
    assert found.at_least
    assert found.high_at_least


def test_an_upper_end_at_the_smallest_budget_is_a_bound() -> None:
    """Where some replicates are there from the start, smaller budgets would have shown more."""
    random = one([0.6, 0.7, 0.8, 0.9])
    better = Curve(BUDGETS, np.array([[0.7, 0.8, 0.9, 0.95]] * 3 + [[0.91, 0.92, 0.93, 0.95]]))
    found = saving(better, random, target_of(random))
    assert (found.votes, found.fraction) == pytest.approx((400, 0.5))
    assert (found.high, found.at_least, found.high_at_least) == (0.875, False, True)
    within = saving(one([0.7, 0.8, 0.9, 0.95]), random, target_of(random))
    assert not within.high_at_least


def test_the_same_curve_is_no_difference() -> None:
    random = one([0.6, 0.7, 0.8, 0.9])
    found = saving(random, random, target_of(random))
    assert (found.fraction, found.low, found.high, found.verdict) == (0.0, 0.0, 0.0, NEITHER)


def test_too_many_replicates_out_of_reach_are_no_saving() -> None:
    values = np.tile([0.7, 0.8, 0.9, 0.95], (1001, 1))
    values[1:41] = [0.5, 0.6, 0.7, 0.75]  # 4 % never get there
    random = Curve(BUDGETS, np.tile([0.6, 0.7, 0.8, 0.9], (1001, 1)))
    found = saving(Curve(BUDGETS, values), random, target_of(random))
    assert found.fraction == pytest.approx(0.5)
    assert (found.low, found.verdict) == (None, NEITHER)
    assert found.reached == pytest.approx(0.96)


def test_a_target_that_replicates_of_random_miss_counts_against_the_strategy() -> None:
    random = Curve(BUDGETS, np.array([[0.6, 0.7, 0.8, 0.9], [0.6, 0.7, 0.8, 0.85]]))
    better = Curve(BUDGETS, np.array([[0.7, 0.8, 0.9, 0.95], [0.6, 0.7, 0.8, 0.86]]))
    found = saving(better, random, target_of(random, 0.9))
    assert (found.low, found.high) == (0.0, 0.0)  # neither gets there: nothing is known


# Simulated truths: what people answer is noise around curves that we choose.


def simulated(rng: np.random.Generator, speeds: list[float]) -> list[Saving]:
    """Savings on the first curve of those that learn at these speeds, ten seeds, 24 prompts.

    Quality of a prompt is a + b log(speed * votes); prompts differ in both, and each seed, budget
    and prompt has noise of its own, as large as what the real sets show.
    """
    n_seeds, n_prompts = 10, 24
    counts = rng.integers(5, 40, size=n_prompts).astype(np.float64)
    level = rng.normal(0.55, 0.08, size=n_prompts)
    slope = rng.normal(0.05, 0.01, size=n_prompts)
    drawn = weights(np.tile(counts, (n_seeds, 1)), rng, 200)
    curves = []
    for speed in speeds:
        truth = level + slope * np.log(speed * BUDGETS[:, None] / 50)
        of_seed = rng.normal(0, 0.01, size=(n_seeds, len(BUDGETS), 1))
        noise = rng.normal(0, 0.03, size=(n_seeds, len(BUDGETS), n_prompts))
        curves.append(curve(BUDGETS, (truth + of_seed + noise) * counts, counts, drawn))
    target = target_of(curves[0])
    return [saving(c, curves[0], target) for c in curves[1:]]


def test_two_equal_strategies_seldom_get_a_verdict() -> None:
    rng = np.random.default_rng(12)
    verdicts = [simulated(rng, [1.0, 1.0])[0].verdict for _ in range(400)]
    # 5 % may be wrong by design, 2.5 % on each side; 400 draws have a standard error of 1.1 %.
    assert verdicts.count(NEITHER) >= 0.91 * 400
    assert verdicts.count(SAVES) <= 0.05 * 400
    assert verdicts.count(COSTS) <= 0.05 * 400


def test_a_known_saving_lies_in_its_interval() -> None:
    rng = np.random.default_rng(5)
    found = [simulated(rng, [1.0, 2.0])[0] for _ in range(200)]
    assert np.mean([f.fraction for f in found]) == pytest.approx(0.5, abs=0.02)
    assert sum(f.verdict == SAVES for f in found) >= 195
    covered = sum((f.low or -9) <= 0.5 <= (f.high or 9) for f in found)
    assert covered >= 0.9 * 200


def test_a_known_cost_is_found() -> None:
    rng = np.random.default_rng(6)
    found = [simulated(rng, [1.0, 0.5])[0] for _ in range(50)]
    assert sum(f.verdict == COSTS for f in found) >= 48
    overtaken = np.mean([f.overtaken for f in found if f.overtaken])
    assert overtaken == pytest.approx(400, rel=0.05)


def test_differences_are_paired() -> None:
    """Prompts of very different difficulty move both curves; what is between them stays."""
    rng = np.random.default_rng(8)
    counts = rng.integers(1, 30, size=20).astype(np.float64)
    sums = rng.random((6, 4, 20)) * counts
    drawn = weights(np.tile(counts, (6, 1)), rng, 100)
    low = curve(BUDGETS, sums, counts, drawn).values
    high = curve(BUDGETS, sums + 0.05 * counts, counts, drawn).values
    assert low[1:].std(axis=0).min() > 0.02
    assert high - low == pytest.approx(np.full((101, 4), 0.05))


def test_observed_row_ignores_the_draws() -> None:
    sums, counts = np.array([[[1.0, 3.0]]]), np.array([[[2.0, 4.0]]])
    drawn = Weights(np.array([[1.0, 1.0], [0.0, 2.0]]), np.ones((2, 1)))
    found = curve(np.array([10]), sums, counts, drawn)
    assert found.mean.tolist() == [pytest.approx(4 / 6)]
    assert found.values[1].tolist() == [0.75]
