"""From pool to batch: control arm, sides, order, seeds. Arrays only."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from annotator.rounds.choose import (
    BLOCK,
    EITHER,
    LEFT,
    RIGHT,
    arranged,
    choose_batch,
    control_size,
)
from strategies import STRATEGIES, strategy_named
from strategies.pool import Pool, PoolTooSmall, Selection, StrategyViolation
from tests.signalled_pool import with_all_signals


def _pool(sizes: list[int], seed: int = 0) -> Pool:
    """Prompts with these numbers of responses, vectors drawn on the unit sphere."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(sum(sizes), 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    prompts = np.repeat(np.arange(len(sizes)), sizes)
    return Pool.of_responses(vectors, prompts)


UNEVEN = [2, 5, 3, 2, 4, 7, 2, 3]


@pytest.mark.parametrize(
    ("n", "share", "expected"),
    [(100, 0.15, 15), (3, 0.15, 1), (1, 0.15, 1), (10, 0.0, 0), (7, 0.5, 4), (10, 0.25, 2)],
)
def test_control_size(n: int, share: float, expected: int) -> None:
    assert control_size(n, share) == expected


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_a_batch_is_distinct_eligible_and_mixed(name: str) -> None:
    pool = with_all_signals(_pool(UNEVEN), np.random.default_rng(0))
    pool = pool.without(np.array([0, 4, 5, 17]))
    choice = choose_batch(pool, strategy_named(name), 20, 6, seed=3)
    assert len(set(choice.positions.tolist())) == 20
    assert pool.pair_eligible[choice.positions].all()
    assert choice.control.sum() == 6
    assert sorted(choice.draws[choice.control].tolist()) == list(range(6))
    assert sorted(choice.draws[~choice.control].tolist()) == list(range(14))
    np.testing.assert_allclose(choice.propensities[choice.control], 6 / pool.n_eligible)


def test_propensities_are_those_of_the_whole_round() -> None:
    """Counted: how often each pair is acquired by `random`, over many seeds."""
    pool = _pool([4, 3, 2])  # 10 pairs
    acquired = np.zeros(10)
    repeats = 4000
    for seed in range(repeats):
        choice = choose_batch(pool, STRATEGIES["random"], 7, 3, seed)
        acquired[choice.positions[~choice.control]] += 1
        np.testing.assert_allclose(choice.propensities[~choice.control], 0.4)
    assert np.abs(acquired - repeats * 0.4).max() < 5 * np.sqrt(repeats * 0.4 * 0.6)


def test_sides_are_balanced_within_each_arm() -> None:
    choice = choose_batch(_pool(UNEVEN), STRATEGIES["real-easy"], 24, 8, seed=1)
    assert choice.left_is_a[choice.control].sum() == 4
    assert choice.left_is_a[~choice.control].sum() == 8


def test_an_odd_side_goes_either_way() -> None:
    totals = {
        int(choose_batch(_pool(UNEVEN), STRATEGIES["real-easy"], 5, 1, s).left_is_a.sum())
        for s in range(20)
    }
    assert totals == {2, 3}


def _batch(sizes: list[int], settled: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Arms of these sizes, and an arm more of `settled` picks, every third to be on the left."""
    arm = np.repeat(np.arange(len(sizes) + 1), [*sizes, settled])
    wanted = np.full(len(arm), EITHER)
    wanted[sum(sizes) :] = np.where(np.arange(settled) % 3 == 0, LEFT, RIGHT)
    return arm, wanted


@pytest.mark.parametrize("settled", [0, 1, 5], ids="{} settled".format)
@pytest.mark.parametrize(
    "sizes", [[85, 15, 3], [4, 1], [1], [], [7, 5, 2], [40, 9, 1], [6, 6, 6]], ids=str
)
def test_sides_are_balanced_in_every_run_of_tasks(sizes: list[int], settled: int) -> None:
    arm, wanted = _batch(sizes, settled)
    n = len(arm)
    for seed in range(40):
        order, left = arranged(arm, wanted, np.random.default_rng(seed))
        assert sorted(order.tolist()) == list(range(n))
        kept = wanted[order] != EITHER
        np.testing.assert_array_equal(left[kept], wanted[order][kept] == LEFT)
        if settled > sum(sizes):  # nobody is left to make up for that many
            continue
        assert int(left.sum()) in {n // 2, (n + 1) // 2}
        for start in range(0, n - BLOCK + 1, BLOCK):
            assert left[start : start + BLOCK].sum() == BLOCK // 2
        for start in range(n - 7):
            assert 2 <= left[start : start + 8].sum() <= 6
        for number, size in enumerate(sizes):
            uneven = abs(2 * int(left[arm[order] == number].sum()) - size)
            assert uneven <= (1 if settled == 0 else 2)


def test_what_cannot_be_balanced_is_spread_over_the_batch() -> None:
    """Twelve of sixteen have to stand on the left: three in each block."""
    wanted = np.array([LEFT] * 12 + [RIGHT] * 2 + [EITHER] * 2)
    for seed in range(20):
        order, left = arranged(np.zeros(16, np.int64), wanted, np.random.default_rng(seed))
        np.testing.assert_array_equal(left, np.isin(order, range(12)))
        assert left.reshape(4, 4).sum(axis=1).tolist() == [3, 3, 3, 3]


def test_neither_side_nor_place_depends_on_the_arm() -> None:
    """Of 4,000 batches: how often each arm is on the left, and where in the batch it stands."""
    arm, wanted = _batch([7, 5, 2], 3)
    sides, places, together = np.zeros(4), np.zeros((4, len(arm))), np.zeros(len(arm))
    repeats = 4000
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        wanted[14:] = rng.integers(2, size=3)  # as it was the first time: either way
        order, left = arranged(arm, wanted, rng)
        sides += np.bincount(arm[order], left, 4)
        np.add.at(places, (arm[order], np.arange(len(arm))), 1)
        together += left
    n = repeats * np.bincount(arm)
    # Picks of one batch balance each other, so that independent throws vary more than these.
    assert (np.abs(sides - n / 2) < 5 * np.sqrt(n / 4)).all()
    assert (np.abs(together - repeats / 2) < 5 * np.sqrt(repeats / 4)).all()
    share = np.bincount(arm)[:, None] / len(arm)
    assert (np.abs(places - repeats * share) < 5 * np.sqrt(repeats * share * (1 - share))).all()


def test_a_batch_is_arranged_the_same_way_by_the_same_seed() -> None:
    arm, wanted = _batch([20, 4], 2)
    one, same, other = (arranged(arm, wanted, np.random.default_rng(s)) for s in (3, 3, 4))
    for mine, yours in zip(one, same, strict=True):
        np.testing.assert_array_equal(mine, yours)
    assert one[0].tolist() != other[0].tolist()


def test_the_same_seed_is_the_same_batch_and_another_is_not() -> None:
    pool = _pool(UNEVEN)
    one, same, other = (
        choose_batch(pool, STRATEGIES["real-easy"], 15, 5, seed=s) for s in (8, 8, 9)
    )
    np.testing.assert_array_equal(one.positions, same.positions)
    np.testing.assert_array_equal(one.left_is_a, same.left_is_a)
    assert one.positions.tolist() != other.positions.tolist()


def test_another_strategy_leaves_the_control_draw_as_it_was() -> None:
    pool = _pool(UNEVEN)
    draws = []
    for name in ("real-easy", "real-hard", "random"):
        choice = choose_batch(pool, STRATEGIES[name], 15, 5, seed=8)
        draws.append(set(choice.positions[choice.control].tolist()))
    assert draws[0] == draws[1] == draws[2]


def test_control_is_uniform_over_the_whole_pool() -> None:
    """Also over pairs that the strategy wants: each pair as often as any other."""
    pool = _pool([4, 3, 2])  # 10 pairs
    counts = np.zeros(10)
    repeats = 4000
    for seed in range(repeats):
        choice = choose_batch(pool, STRATEGIES["real-easy-ranked"], 4, 2, seed)
        counts[choice.positions[choice.control]] += 1
    # A binomial with p = 0.2 has standard deviation 25.3 here: five of them on either side.
    assert np.abs(counts - repeats * 0.2).max() < 5 * np.sqrt(repeats * 0.2 * 0.8)


def test_order_does_not_give_the_arm_away() -> None:
    first_half = 0
    for seed in range(400):
        choice = choose_batch(_pool(UNEVEN), STRATEGIES["real-easy"], 20, 4, seed)
        first_half += int(choice.control[:10].sum())
    assert abs(first_half - 800) < 5 * np.sqrt(400 * 4 * 0.25)


def test_a_batch_larger_than_the_pool_is_refused_with_both_numbers() -> None:
    with pytest.raises(PoolTooSmall) as caught:
        choose_batch(_pool([2, 2]), STRATEGIES["real-easy"], 3, 1, seed=0)
    assert (caught.value.asked, caught.value.eligible) == (3, 2)


def test_the_whole_pool_can_be_asked_for() -> None:
    choice = choose_batch(_pool([2, 3]), STRATEGIES["real-hard"], 4, 1, seed=0)
    assert sorted(choice.positions.tolist()) == [0, 1, 2, 3]


def test_a_strategy_that_repeats_a_position_is_caught() -> None:
    def twice(pool: Pool, n: int, rng: np.random.Generator) -> Selection:
        same: NDArray[np.int64] = np.zeros(n, dtype=np.int64)
        return Selection(same, np.zeros(n), np.full(n, np.nan))

    with pytest.raises(StrategyViolation):
        choose_batch(_pool(UNEVEN), twice, 5, 1, seed=0)
