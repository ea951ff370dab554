"""The test behind a certificate: exact tails, fixed thresholds, looks that share one chance."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest

from annotator.budget import routing
from annotator.budget.routing import (
    GRID,
    Calibration,
    Taken,
    bears_out,
    certified,
    certify,
    fewest_pairs,
    labels_needed,
    least_agreements,
    level_of,
    look_due,
    look_share,
    look_size,
    lower_bound,
    promise_share,
    required_agreement,
    shows,
    thresholds,
)

NOTHING = Taken.nothing()


def votes(confidence: np.ndarray, agreed: np.ndarray, drawn: int = 1) -> Calibration:
    return Calibration(
        np.asarray(confidence, dtype=np.float64),
        np.asarray(agreed, dtype=np.bool_),
        np.full(len(agreed), drawn),
    )


# Exact tails


@pytest.mark.parametrize(
    ("agree", "least"),
    [
        (0.8, {30: 28, 50: 45, 100: 86, 200: 168, 400: 331}),
        (0.9, {30: 30, 50: 49, 100: 95, 200: 186, 400: 369}),
    ],
)
def test_least_agreements_are_those_known(agree: float, least: dict[int, int]) -> None:
    assert {n: least_agreements(n, agree, 0.1) for n in least} == least


def binomial_tail(agreed: int, n: int, share: Fraction) -> Fraction:
    """P(at least `agreed` of n), in whole numbers."""
    return sum(
        (comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(agreed, n + 1)), Fraction(0)
    )


@pytest.mark.parametrize(("agreed", "n"), [(1, 1), (3, 7), (28, 30), (29, 30), (30, 30), (41, 57)])
@pytest.mark.parametrize("level", [0.1, 0.0225])
def test_the_bound_is_where_so_many_agreements_are_as_rare_as_the_level(
    agreed: int, n: int, level: float
) -> None:
    bound = Fraction(lower_bound(agreed, n, level))
    assert float(binomial_tail(agreed, n, bound)) == pytest.approx(level, rel=1e-9)


def test_nothing_agreed_shows_nothing() -> None:
    assert lower_bound(0, 40, 0.1) == 0.0
    assert lower_bound(0, 40, 0.1, 100) == 0.0
    assert not shows(0, 0, 0.8, 0.1, 100)


def hypergeometric_tail(agreed: int, n: int, agree: int, size: int) -> Fraction:
    return sum(
        (
            Fraction(comb(agree, k) * comb(size - agree, n - k), comb(size, n))
            for k in range(agreed, min(n, agree) + 1)
        ),
        Fraction(0),
    )


@pytest.mark.parametrize(("n", "left"), [(5, 9), (12, 3), (20, 20), (7, 40)])
def test_of_few_pairs_left_the_bound_counts_every_urn(n: int, left: int) -> None:
    for agreed in range(1, n + 1):
        for level in (0.2, 0.03):
            # Every number of agreements among those left that is not ruled out at the level.
            possible = [
                r
                for r in range(left + 1)
                if hypergeometric_tail(agreed, n, agreed + r, n + left) > Fraction(level)
            ]
            assert lower_bound(agreed, n, level, left) == pytest.approx(min(possible) / left)
            for share in (0.3, 0.8, 0.95):
                shown = min(possible) >= share * left - 1e-9
                assert shows(agreed, n, share, level, left) == shown


def test_many_pairs_left_are_pairs_without_end() -> None:
    endless = lower_bound(168, 200, 0.1)
    few = [lower_bound(168, 200, 0.1, left) for left in (50, 500, 5_000, 5_000_000)]
    assert few == sorted(few)
    assert few[-1] == pytest.approx(endless, abs=1e-5)
    assert few[0] < endless - 0.02


# Looks and promises share one chance of being wrong


def test_looks_are_at_doubled_numbers() -> None:
    assert [look_size(i) for i in range(5)] == [100, 200, 400, 800, 1600]
    for n in range(1, 4_000, 7):
        sizes = [i for i in range(20) if look_size(i) <= n]
        assert look_due(n) == (max(sizes) if sizes else None)


def test_all_looks_at_all_promises_take_no_more_than_there_is() -> None:
    assert sum(look_share(i) for i in range(200)) == pytest.approx(1.0)
    assert sum(promise_share(i) for i in range(1, 100_000)) == pytest.approx(1.0, abs=1e-5)
    spent = sum(level_of(i, j, 0.1) for i in range(50) for j in range(1, 500))
    assert 0.099 < spent < 0.1


@pytest.mark.parametrize(("n", "agree", "level"), [(100, 0.8, 0.0075), (400, 0.9, 0.02)])
def test_the_strictest_threshold_can_bear_two_misses(n: int, agree: float, level: float) -> None:
    fewest = fewest_pairs(n, agree, level)
    assert binomial_tail(fewest - 2, fewest, Fraction(agree)) <= level
    assert binomial_tail(fewest - 3, fewest - 1, Fraction(agree)) > level


def test_the_strictest_threshold_has_thirty_pairs_and_a_tenth() -> None:
    assert fewest_pairs(100, 0.6, 0.1) == 30
    assert fewest_pairs(1_000, 0.6, 0.1) == 100
    assert fewest_pairs(100, 0.99, 0.01) > 100


# Thresholds


def test_thresholds_cover_equal_steps_of_the_pool() -> None:
    confidence = np.random.default_rng(0).permutation(np.arange(1_000.0))
    found = thresholds(confidence, 400, 0.6, 0.1)
    covered = [int((confidence >= t).sum()) for t in found]
    assert covered == [round(np.ceil(k / 400 * 1_000 - 1e-9)) for k in np.linspace(40, 400, GRID)]
    assert list(found) == sorted(found, reverse=True)


def test_where_no_side_is_taken_nothing_is_covered() -> None:
    confidence = np.array([0.9, np.nan, 0.7, np.nan] * 100)
    found = thresholds(confidence, 100, 0.6, 0.1)
    assert found.tolist() == [0.9, 0.7]
    assert len(thresholds(np.full(50, np.nan), 100, 0.6, 0.1)) == 0
    assert len(thresholds(confidence, 100, 0.99, 0.001)) == 0


def test_pairs_of_one_confidence_are_tested_together_and_used_together() -> None:
    # The first fifty of the middle level agree, the others do not: a cut through it would pass.
    confidence = np.repeat([3.0, 2.0, 1.0], [60, 100, 40])
    agreed = np.repeat([True, True, False, False], [60, 50, 50, 40])
    pool = np.repeat([3.0, 2.0, 1.0], [600, 1_000, 400])
    tests = certify(votes(confidence, agreed), pool, NOTHING, 0.8, 0.05)
    assert [(test.threshold, test.n, test.covered) for test in tests] == [
        (3.0, 60, 600),
        (2.0, 160, 1_600),
    ]
    assert certified(tests) == tests[0]


def test_nothing_is_tested_after_a_failure() -> None:
    # The surest fifth is wrong and all the rest is right: everything together would pass.
    confidence = np.linspace(1.0, 0.0, 400)
    agreed = np.arange(400) >= 60
    pool = np.linspace(1.0, 0.0, 4_000)
    tests = certify(votes(confidence, agreed), pool, NOTHING, 0.8, 0.05)
    assert len(tests) == 1
    assert certified(tests) is None
    assert bears_out(0.0, votes(confidence, agreed), pool, NOTHING, 0.8, 0.05)


def test_the_lowest_threshold_before_the_first_failure_is_certified() -> None:
    rng = np.random.default_rng(3)
    confidence = rng.random(400)
    agreed = rng.random(400) < np.where(confidence > 0.5, 0.97, 0.3)
    pool = rng.random(5_000)
    tests = certify(votes(confidence, agreed), pool, NOTHING, 0.85, 0.02)
    found = certified(tests)
    assert found is not None
    assert [test.passed for test in tests] == [True] * (len(tests) - 1) + [False]
    assert found == tests[-2]
    # Held against tails in whole numbers.
    for test in tests:
        above = confidence >= test.threshold
        n, s = int(above.sum()), int((agreed & above).sum())
        assert (test.n, test.agreed) == (n, s)
        too_few = int(np.ceil(0.85 * test.covered - 1e-9)) - 1
        tail = hypergeometric_tail(s, n, s + too_few, n + test.covered)
        assert test.passed == (tail <= 0.02)


def test_a_threshold_that_happens_to_have_few_pairs_is_passed_over() -> None:
    # Of the pool a fifth is above 0.8, of the control pairs drawn only four are.
    confidence = np.concatenate((np.full(4, 0.9), np.linspace(0.79, 0.0, 196)))
    pool = np.linspace(1.0, 0.0, 2_000)
    tests = certify(votes(confidence, np.ones(200)), pool, NOTHING, 0.6, 0.1)
    assert tests[0].n >= 30
    assert certified(tests) == tests[-1]
    assert tests[-1].covered == 2_000


# What strategies have taken


def test_what_was_taken_raises_what_must_be_shown() -> None:
    taken = Taken(
        np.array([0.9, 0.9, 0.9, 0.2, 0.9]), np.array([1.0, 1, 1, 1, 0]), np.array([1, 2, 3, 3, 3])
    )
    required = required_agreement(0.8, 0.5, 6, np.array([1, 2, 3, 4]), taken)
    # Since round 1 four were taken, three of whom agree: fewer than promised, so nothing changes.
    # Since round 3 there is one of two; since round 4 none.
    assert required == pytest.approx([0.8, 0.8, 0.8, 0.8])
    easy = Taken(taken.confidence, np.ones(5), taken.round)
    required = required_agreement(0.8, 0.5, 6, np.array([1, 2, 3, 4]), easy)
    # (6 x 0.8 + 4) / 10, (6 x 0.8 + 3) / 9, (6 x 0.8 + 2) / 8, 0.8.
    assert required == pytest.approx([0.88, 7.8 / 9, 0.85, 0.8])


def test_a_pool_whose_easy_pairs_were_taken_is_not_certified() -> None:
    control = votes(np.ones(400), np.arange(400) < 352)  # 88 %
    pool, taken = np.ones(2_000), Taken(np.ones(2_000), np.ones(2_000), np.ones(2_000, dtype=int))
    assert certified(certify(control, pool, NOTHING, 0.8, 0.05)) is not None
    # As many were taken as are left, and all agree: 80 % of the rest are 90 % of both.
    (test,) = certify(control, pool, taken, 0.8, 0.05)
    assert test.required == pytest.approx(0.9)
    assert not test.passed


# What is still needed


def test_the_labels_that_are_needed_suffice_in_four_of_five_cases() -> None:
    rng = np.random.default_rng(5)
    pool = rng.random(20_000)
    seen = rng.random(200)
    agreed = rng.random(200) < 0.55 + 0.4 * seen
    found = labels_needed(votes(seen, agreed), pool, 0.8, 0.1, 1, 0)
    assert found is not None

    def passes(look: int) -> float:
        """How often a look finds something, if the surest agree as the 200 votes show."""
        hits = 0
        for _ in range(400):
            n, level = look_size(look), level_of(look, 1, 0.1)
            first = thresholds(pool, n, 0.8, level)[0]
            above = seen >= first
            share = (np.count_nonzero(agreed & above) + 0.5) / (np.count_nonzero(above) + 1)
            k = round(n * float((pool >= first).mean()))
            s = rng.binomial(k, share)
            hits += binomial_tail(int(s), k, Fraction(0.8)) <= level
        return hits / 400

    look = look_due(found.n)
    assert look is not None
    assert passes(look) > 0.74
    assert look == 0 or passes(look - 1) < 0.86
    assert 0 < found.share < 1


def test_where_the_surest_pairs_fall_short_no_number_is_named() -> None:
    rng = np.random.default_rng(1)
    control = votes(rng.random(300), rng.random(300) < 0.7)
    assert labels_needed(control, rng.random(5_000), 0.8, 0.1, 1, 0) is None
    assert labels_needed(votes(np.empty(0), np.empty(0)), rng.random(50), 0.8, 0.1, 1, 0) is None


# The promise


def on_the_edge(rng: np.random.Generator, *, looks: bool) -> bool:
    """Whether a source that is just below the promise is ever certified in 800 control votes."""
    pool, confidence = rng.random(8_000), rng.random(800)
    agreed = rng.random(800) < 0.799
    for n in range(100, 801, 25):
        look = look_due(n)
        assert look is not None
        if looks and n != look_size(look):
            continue
        level = level_of(look, 1, 0.1) if looks else 0.1
        if certified(certify(votes(confidence[:n], agreed[:n]), pool, NOTHING, 0.8, level)):
            return True
    return False


def test_testing_after_every_round_breaks_the_promise_and_looks_keep_it() -> None:
    broken = {
        looks: sum(on_the_edge(np.random.default_rng([7, i]), looks=looks) for i in range(150))
        for looks in (True, False)
    }
    assert broken[True] <= 15  # a tenth, and P(more | a fourteenth) is below 0.1
    assert broken[False] > 30


def test_levels_are_where_the_module_says() -> None:
    assert routing.FIRST_PROMISE + (1 - routing.FIRST_PROMISE) == 1
    assert level_of(2, 1, 0.1) == pytest.approx(0.1 * 0.3 * 0.75)
    assert level_of(2, 3, 0.1) == pytest.approx(0.1 * 0.3 * 0.25 / 6)
    assert level_of(5, 1, 0.1) == pytest.approx(0.1 * 0.05 * 0.75)
