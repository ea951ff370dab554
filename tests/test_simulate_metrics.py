"""What is measured, against other libraries, loops and cases small enough to do by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import kendalltau

from annotator.simulate.metrics import (
    BINS,
    calibration,
    human_scores,
    net_votes,
    targets_of,
)
from annotator.simulate.replay import votes_alone
from annotator.simulate.world import World, world_of
from tests.synthetic_world import RidgeBelief, synthetic_features, synthetic_world


def small(votes: list[tuple[int, int, int]], prompts: list[int]) -> World:
    """A world of these votes: a, b, grade."""
    features = synthetic_features(np.random.default_rng(0), np.array(prompts))
    return world_of("small", features, tuple(np.array(votes, dtype=np.int64).T))


def everything(world: World) -> np.ndarray:
    return np.ones(world.pool.n_prompts, dtype=np.bool_)


def test_votes_are_turned_into_the_frame_of_their_pair() -> None:
    world = small([(2, 0, 1), (0, 2, 1), (0, 2, -1), (1, 3, 0)], [0, 1, 0, 1])
    pool = world.pool
    assert list(zip(pool.pair_a, pool.pair_b, strict=True)) == [(0, 2), (1, 3)]
    assert world.vote_pair.tolist() == [0, 0, 0, 1]
    assert sorted(world.vote_grade[:3].tolist()) == [-1, -1, 1]
    assert net_votes(world).tolist() == [-1, 0]
    assert targets_of(world, everything(world)).pairs.tolist() == [0]


def test_pairs_stand_as_in_any_pool() -> None:
    world = synthetic_world(share_voted=1.0).world
    from strategies.pool import Pool

    whole = Pool.of_responses(world.pool.response_vectors, world.pool.prompt_of_response)
    assert np.array_equal(world.pool.pair_a, whole.pair_a)
    assert np.array_equal(world.pool.pair_b, whole.pair_b)


def test_pairs_ordered_right_are_counted_by_a_loop() -> None:
    world = synthetic_world(3).world
    rng = np.random.default_rng(1)
    preferred = np.round(rng.random(world.pool.n_pairs), 1)  # some are 0.5
    targets = targets_of(world, everything(world))
    expected = np.zeros(world.pool.n_prompts)
    counted = np.zeros(world.pool.n_prompts)
    for pair in range(world.pool.n_pairs):
        grades = world.vote_grade[world.vote_pair == pair]
        for_a, for_b = np.sum(grades > 0), np.sum(grades < 0)
        if for_a == for_b:
            continue
        prompt = world.pool.prompt_of_pair[pair]
        counted[prompt] += 1
        if preferred[pair] == 0.5:
            expected[prompt] += 0.5
        else:
            expected[prompt] += (preferred[pair] > 0.5) == (for_a > for_b)
    assert targets.counted == pytest.approx(counted)
    assert targets.right(preferred) == pytest.approx(expected)
    assert counted.sum() > 50


def test_prompts_that_are_not_measured_count_nothing() -> None:
    world = synthetic_world(3).world
    measured = everything(world)
    measured[[1, 4]] = False
    targets = targets_of(world, measured)
    assert not targets.counted[[1, 4]].any()
    assert targets.counted[2] > 0
    tau = targets.rank_correlation(np.arange(world.pool.n_responses, dtype=np.float64))
    assert np.isnan(tau[[1, 4]]).all()


@pytest.mark.parametrize("seed", range(4))
def test_tau_is_scipys(seed: int) -> None:
    world = synthetic_world(seed, share_voted=1.0, ties=0.4, votes_a_pair=2).world
    rng = np.random.default_rng(seed)
    reward = np.round(rng.standard_normal(world.pool.n_responses), 1)
    scores, _ = human_scores(world)
    tau = targets_of(world, everything(world)).rank_correlation(reward)
    compared = 0
    for prompt in range(world.pool.n_prompts):
        members = np.flatnonzero(world.pool.prompt_of_response == prompt)
        if len(members) < 3:
            assert np.isnan(tau[prompt])
            continue
        expected = kendalltau(np.round(scores[members], 9), reward[members]).statistic
        assert tau[prompt] == pytest.approx(expected)
        compared += 1
    assert compared >= 9


def test_scores_are_the_least_squares_solution() -> None:
    world = synthetic_world(9, share_voted=0.8).world
    scores, component = human_scores(world)
    for number in np.unique(component):
        members = np.flatnonzero(component == number)
        inside = np.isin(world.pool.pair_a[world.vote_pair], members)
        if not inside.any():
            continue
        pairs = world.vote_pair[inside]
        design = np.zeros((len(pairs), world.pool.n_responses))
        design[np.arange(len(pairs)), world.pool.pair_a[pairs]] = 1
        design[np.arange(len(pairs)), world.pool.pair_b[pairs]] = -1
        expected = np.linalg.lstsq(design, world.vote_grade[inside].astype(float), rcond=None)[0]
        assert scores[members] == pytest.approx(expected[members], abs=1e-9)


def test_with_one_vote_on_every_pair_scores_are_bordas() -> None:
    votes = [(a, b, g) for (a, b), g in zip(combinations(range(4), 2), [1, 1, 0, 1, -1, 1])]  # noqa: B905
    scores, _ = human_scores(small(votes, [0] * 4))
    wins = np.zeros(4)
    for a, b, grade in votes:
        wins[a] += grade
        wins[b] -= grade
    assert scores == pytest.approx(wins / 4)


def test_responses_that_nothing_joins_are_not_compared() -> None:
    # 0-1-2 and 3-4 of one prompt: only the chain of three has a rank correlation.
    world = small([(0, 1, 1), (1, 2, 1), (3, 4, 1)], [0] * 5)
    targets = targets_of(world, everything(world))
    assert set(targets.low.tolist() + targets.high.tolist()) == {0, 1, 2}
    assert targets.rank_correlation(np.array([3.0, 2.0, 1.0, 0.0, 9.0])) == pytest.approx([1.0])
    assert targets.rank_correlation(np.zeros(5)) == pytest.approx([0.0])


def test_a_prompt_where_people_tie_everything_has_no_tau() -> None:
    world = small([(0, 1, 0), (1, 2, 0), (0, 2, 0)], [0] * 3)
    assert np.isnan(targets_of(world, everything(world)).rank_correlation(np.arange(3.0))).all()


def test_calibration_by_hand() -> None:
    world = small([(0, 1, 1), (0, 1, 1), (0, 1, -1), (0, 1, 0), (2, 3, 1)], [0, 0, 1, 1])
    belief = RidgeBelief(np.array([0.5 * np.log(4.0), 0.0, 0.0, 0.0]))  # P = 0.8 and 0.5
    assert belief.preferred(np.array([0]), np.array([1])) == pytest.approx([0.8])
    unseen = np.array([False, True, True, True, True])
    grades = world.vote_grade
    assert grades[:4].tolist() == [1, 1, -1, 0]
    preferred = belief.preferred(world.pool.pair_a, world.pool.pair_b)
    found = calibration(world, preferred, unseen, everything(world))
    assert found.votes.tolist() == [2, 1]  # one was seen, one is a tie
    assert found.brier == pytest.approx([0.2**2 + 0.8**2, 0.25])
    assert found.log_loss == pytest.approx([-np.log(0.8) - np.log(0.2), -np.log(0.5)])
    assert found.bins.shape == (BINS, 3)
    assert found.bins[0] == pytest.approx([1, 0.5, 0.5])
    assert found.bins[np.flatnonzero(found.bins[:, 0] == 2)[0]] == pytest.approx([2, 1.6, 1.0])
    assert found.bins[:, 0].sum() == 3


def test_probabilities_that_are_true_are_calibrated() -> None:
    rng = np.random.default_rng(2)
    prompts = np.repeat(np.arange(300), 2)
    reward = rng.standard_normal(600)
    a, b = np.repeat(np.arange(0, 600, 2), 40), np.repeat(np.arange(1, 600, 2), 40)
    belief = RidgeBelief(reward)
    grade = np.where(rng.random(len(a)) < belief.preferred(a, b), 1, -1)
    world = world_of("true", synthetic_features(rng, prompts), (a, b, grade))
    preferred = belief.preferred(world.pool.pair_a, world.pool.pair_b)
    found = calibration(world, preferred, np.ones(len(a), dtype=np.bool_), everything(world))
    n, confidence, right = found.bins.T
    assert right / n == pytest.approx(confidence / n, abs=0.04)
    p = belief.preferred(a, b)
    assert found.brier.sum() / len(a) == pytest.approx(np.mean(p * (1 - p)), abs=0.01)


def test_all_votes_by_themselves_are_always_right() -> None:
    world = synthetic_world(4).world
    budgets = (1, world.n_votes // 2, world.n_votes)
    none, half, all_ = votes_alone(world, budgets, seed=0).sum(axis=1)
    n = len(targets_of(world, everything(world)).pairs)
    assert all_ == n
    assert none == pytest.approx(n / 2, abs=0.5)
    assert none < half < all_
