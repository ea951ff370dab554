"""Pairs in both orders, and scores from pairs, against numpy's least squares and hand sums."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotator.signals.judges.grades import Refused, Unparsable
from annotator.signals.judges.pairwise import (
    PairJudgement,
    find_letter,
    first_wins,
    judge_pair,
    pairs_to_judge,
    pairwise_scores,
    potential,
)
from annotator.signals.judges.reply import Choice, Reply, Token


def _said(text: str, *more: str) -> list[Reply]:
    return [Reply(tuple(Choice(one, None, "stop", None) for one in (text, *more)), None, "m", "")]


def _weighed(p_a: float, mass: float = 1.0, spelling: str = "{}") -> list[Reply]:
    a, b = (spelling.format(letter) for letter in "AB")
    top = [(a, mass * p_a), (b, mass * (1 - p_a)), ("Both", 1 - mass)]
    logs = tuple((text, math.log(p) if p > 0 else -9999.0) for text, p in top)
    sampled = a if p_a >= 0.5 else b
    token = Token(sampled, dict(logs)[sampled], logs)
    return [Reply((Choice(sampled, None, "stop", (token,)),), None, "m", "")]


# -- One pair -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a_first", "b_first", "p", "v_swap", "flipped"),
    [
        (0.9, 0.1, 0.9, 0.0, False),  # a in both orders
        (0.9, 0.3, 0.8, 0.04, False),
        (0.8, 0.8, 0.5, 0.36, True),  # whichever stands first: no opinion, much doubt
        (0.6, 0.7, 0.5, 0.09, True),
        (0.95, 0.55, 0.5, 0.25, True),  # sure of a once and of b hardly: no win all the same
        (0.45, 0.05, 0.5, 0.25, True),
        (0.2, 0.9, 0.15, 0.01, False),  # b in both orders
        (0.5, 0.1, 0.7, 0.16, False),  # one order names no winner
    ],
)
def test_both_orders_together(
    a_first: float, b_first: float, p: float, v_swap: float, flipped: bool
) -> None:
    found = judge_pair(_weighed(a_first, 0.98), _weighed(b_first, 0.95), "logprobs")
    assert found.p == pytest.approx(p)
    assert found.v_swap == pytest.approx(v_swap)
    assert found.variance == pytest.approx(v_swap / 4)
    assert found.flipped is flipped
    assert (found.how, found.mass) == ("logprobs", pytest.approx(0.95))


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_naming_the_responses_the_other_way_mirrors_the_judgement(one: float, other: float) -> None:
    ab = judge_pair(_weighed(one), _weighed(other), "logprobs")
    ba = judge_pair(_weighed(other), _weighed(one), "logprobs")
    assert ab.p == pytest.approx(1 - ba.p)
    assert ab.v_swap == pytest.approx(ba.v_swap)
    assert ab.flipped == ba.flipped
    # The unbiased variance of the mean of the two looks, by numpy.
    assert ab.variance == pytest.approx(np.var([one, 1 - other], ddof=1) / 2)


@pytest.mark.parametrize(
    ("a_first", "b_first", "expected"),
    [
        ("A", "B", PairJudgement(1.0, None, False, "integer", None)),
        ("B", "A", PairJudgement(0.0, None, False, "integer", None)),
        ("A", "A", PairJudgement(0.5, 1.0, True, "integer", None)),
        ("B", "B", PairJudgement(0.5, 1.0, True, "integer", None)),
    ],
)
def test_letters_alone(a_first: str, b_first: str, expected: PairJudgement) -> None:
    """Two that agree say nothing of the judge's doubt: it is unknown, not none."""
    found = judge_pair(_said(a_first), _said(b_first), "integer")
    assert found == expected
    assert found.variance == (0.25 if expected.flipped else None)


def test_samples_give_shares() -> None:
    assert first_wins(_said("A", "A", "B", "A"), "samples") == (0.75, None)
    found = judge_pair(_said("A", "A", "B", "A"), _said("B", "B") + _said("B", "A"), "samples")
    assert found.p == pytest.approx((0.75 + 0.75) / 2)


@pytest.mark.parametrize("spelling", ["{}", " {}", "{}\n", '"{}"', "**{}**"])
def test_the_letter_in_any_spelling(spelling: str) -> None:
    p, mass = first_wins(_weighed(0.7, spelling=spelling), "logprobs")
    assert (p, mass) == (pytest.approx(0.7), pytest.approx(1.0))


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"),
        (" b".upper(), "B"),
        ("**B**", "B"),
        ("(A).", "A"),
        ("Response B", "B"),
        ("Answer: A", "A"),
        ("First [[A]] seemed better, but it is [[B]]", "B"),
    ],
)
def test_letters_that_are_read(text: str, letter: str) -> None:
    place = find_letter(Choice(text, None, "stop", None))
    assert place.answer == letter
    assert text[place.start : place.end] == letter


@pytest.mark.parametrize(
    "text",
    [
        "C",
        "tie",
        "A or B",
        "A is better",
        "AB",
        "A B",
        "a",
        "Both",
        "Neither",
        "4",
        "A good answer",
        "[[C]]",
    ],
)
def test_what_names_no_winner(text: str) -> None:
    with pytest.raises(Unparsable, match="no winner"):
        find_letter(Choice(text, None, "stop", None))


def test_weak_mass_missing_log_probs_and_refusals() -> None:
    with pytest.raises(Unparsable, match="weak mass"):
        first_wins(_weighed(0.7, 0.8), "logprobs")
    with pytest.raises(Unparsable, match="no log-probs"):
        first_wins(_said("A"), "logprobs")
    with pytest.raises(Refused):
        first_wins([Reply((Choice(None, "no", "stop", None),), None, "m", "")], "integer")
    with pytest.raises(ValueError, match="how is one of"):
        first_wins(_said("A"), "swap")


# -- Scores ---------------------------------------------------------------------------------------


def _by_lstsq(
    k: int, a: np.ndarray, b: np.ndarray, gap: np.ndarray, gap_variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The least-squares solution of smallest norm, which has mean 0, and its covariance."""
    incidence = np.zeros((len(a), k))
    incidence[np.arange(len(a)), a], incidence[np.arange(len(a)), b] = 1, -1
    inverse = np.linalg.pinv(incidence)
    score = np.linalg.lstsq(incidence, gap, rcond=None)[0]
    return score, np.diag(inverse @ np.diag(gap_variance) @ inverse.T)


@st.composite
def connected_graphs(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    k = draw(st.integers(2, 7))
    tree = [(i, draw(st.integers(0, i - 1))) for i in range(1, k)]
    more = draw(st.lists(st.tuples(st.integers(0, k - 1), st.integers(0, k - 1)), max_size=8))
    return k, tree + [(a, b) for a, b in more if a != b]


@given(connected_graphs(), st.integers(0, 2**32 - 1))
def test_scores_are_numpys_least_squares(
    graph: tuple[int, list[tuple[int, int]]], seed: int
) -> None:
    k, pairs = graph
    rng = np.random.default_rng(seed)
    a, b = np.array(pairs, dtype=np.int64).T
    p, v_swap = rng.random(len(a)), rng.random(len(a))
    score, variance = pairwise_scores(np.zeros(k, dtype=np.int64), a, b, p, v_swap)
    expected = _by_lstsq(k, a, b, 2 * p - 1, v_swap)
    np.testing.assert_allclose(score, expected[0], atol=1e-9)
    np.testing.assert_allclose(variance, expected[1], atol=1e-9)


def test_all_pairs_by_hand() -> None:
    """Three responses: s = (K - 1) / K (2 mean win - 1), here (1 + .6) / 3 for the first."""
    a, b = np.array([0, 0, 1]), np.array([1, 2, 2])
    score, variance = pairwise_scores(
        np.zeros(3, dtype=np.int64), a, b, np.array([1.0, 0.8, 0.5]), np.array([0.0, 0.36, 0.0])
    )
    np.testing.assert_allclose(score, [1.6 / 3, -1.0 / 3, -0.6 / 3])
    np.testing.assert_allclose(variance, [0.36 / 9, 0.0, 0.36 / 9], atol=1e-12)


def test_a_chain_by_hand() -> None:
    score, variance = potential(
        3, np.array([0, 1]), np.array([1, 2]), np.array([1.0, 1.0]), np.array([0.09, 0.0])
    )
    np.testing.assert_allclose(score, [1, 0, -1], atol=1e-12)
    np.testing.assert_allclose(variance, np.array([4, 1, 1]) / 9 * 0.09, atol=1e-12)


def test_the_variance_is_that_of_scores_under_the_judges_noise() -> None:
    """Simulated: gaps redrawn with their variance; the scatter of the scores is as stated."""
    rng = np.random.default_rng(0)
    a, b = np.array([0, 1, 2, 3, 0]), np.array([1, 2, 3, 0, 2])
    gap, noise = rng.uniform(-1, 1, 5), rng.uniform(0.01, 0.2, 5)
    drawn = [potential(4, a, b, gap + rng.normal(0, np.sqrt(noise)), noise)[0] for _ in range(4000)]
    stated = potential(4, a, b, gap, noise)[1]
    np.testing.assert_allclose(np.var(drawn, axis=0), stated, rtol=0.1)


def test_an_unknown_variance_is_that_of_the_scores_it_is_part_of() -> None:
    """All pairs of four: a pair is in the scores of its two ends alone. A chain: in all."""
    a, b = np.array(list(combinations(range(4), 2))).T
    doubt = np.array([np.nan, 0.1, 0.2, 0.3, 0.4, 0.5])
    prompts = np.zeros(4, dtype=np.int64)
    score, variance = pairwise_scores(prompts, a, b, np.full(6, 0.7), doubt)
    known = pairwise_scores(prompts, a, b, np.full(6, 0.7), np.nan_to_num(doubt))
    np.testing.assert_allclose(score, known[0])
    np.testing.assert_allclose(variance, [np.nan, np.nan, *known[1][2:]])
    chain = pairwise_scores(prompts, a[[0, 3, 5]], b[[0, 3, 5]], np.full(3, 0.7), doubt[:3])
    assert np.isnan(chain[1]).all()


def test_many_prompts_shuffled_are_each_solved_alone() -> None:
    rng = np.random.default_rng(1)
    prompts = rng.permutation(np.repeat(np.arange(30), rng.integers(1, 7, 30)))
    a, b = [], []
    for prompt in range(30):
        members = np.flatnonzero(prompts == prompt)
        for one, other in combinations(members, 2):
            a.append(max(one, other) if rng.random() < 0.5 else min(one, other))
            b.append(one + other - a[-1])
    order = rng.permutation(len(a))
    first, second = np.array(a)[order], np.array(b)[order]
    p, v_swap = rng.random(len(a)), rng.random(len(a))
    score, variance = pairwise_scores(prompts, first, second, p, v_swap)
    for prompt in range(30):
        members = np.flatnonzero(prompts == prompt)
        rows = np.flatnonzero(np.isin(first, members))
        if len(members) == 1:
            assert np.isnan(score[members]).all() and np.isnan(variance[members]).all()
            continue
        local = [np.searchsorted(members, ends[rows]) for ends in (first, second)]
        expected = _by_lstsq(len(members), *local, 2 * p[rows] - 1, v_swap[rows])
        np.testing.assert_allclose(score[members], expected[0], atol=1e-9)
        np.testing.assert_allclose(variance[members], expected[1], atol=1e-9)


def test_a_response_without_judgements_is_nan_and_the_others_stand() -> None:
    score, variance = pairwise_scores(
        np.zeros(4, dtype=np.int64), np.array([0]), np.array([2]), np.array([1.0]), np.array([0.0])
    )
    np.testing.assert_array_equal(np.isnan(score), [False, True, False, True])
    np.testing.assert_array_equal(np.isnan(variance), np.isnan(score))
    np.testing.assert_allclose(score[[0, 2]], [0.5, -0.5])


def test_pieces_have_no_common_origin() -> None:
    prompts = np.zeros(7, dtype=np.int64)
    one, two = np.array([0, 1, 3]), np.array([1, 2, 4])  # {0, 1, 2}, {3, 4}, {5}, {6}
    flat = np.full(3, 0.7)
    score, _ = pairwise_scores(prompts, one, two, flat, flat * 0)
    np.testing.assert_array_equal(np.isnan(score), [False] * 3 + [True] * 4)
    one, two = np.array([0, 3]), np.array([1, 4])  # two pieces of two
    score, variance = pairwise_scores(prompts, one, two, flat[:2], flat[:2] * 0)
    assert np.isnan(score).all() and np.isnan(variance).all()


def test_no_judgements_no_scores() -> None:
    empty, none = np.zeros(0, dtype=np.int64), np.zeros(0)
    assert np.isnan(pairwise_scores(np.array([0, 0, 1]), empty, empty, none, none)[0]).all()
    assert len(pairwise_scores(empty, empty, empty, none, none)[0]) == 0


@pytest.mark.parametrize(
    ("a", "b", "p", "v_swap"),
    [
        ([0], [0], [0.5], [0.0]),
        ([0], [2], [0.5], [0.0]),
        ([0], [1], [1.5], [0.0]),
        ([0], [1], [math.nan], [0.0]),
        ([0], [1], [0.5], [-0.1]),
        ([0], [1], [0.5, 0.5], [0.0]),
    ],
)
def test_judgements_that_are_none(
    a: list[int], b: list[int], p: list[float], v_swap: list[float]
) -> None:
    with pytest.raises(ValueError):
        pairwise_scores(
            np.array([0, 0, 1]), np.array(a), np.array(b), np.array(p), np.array(v_swap)
        )


# -- Which pairs ----------------------------------------------------------------------------------


@given(st.integers(0, 40), st.integers(2, 8), st.integers(0, 2**32 - 1))
def test_designs_are_regular_connected_and_distinct(k: int, degree: int, seed: int) -> None:
    pairs = pairs_to_judge(k, degree, np.random.default_rng(seed))
    assert pairs.shape == (len(pairs), 2)
    assert len({tuple(pair) for pair in pairs.tolist()}) == len(pairs)
    assert np.all(pairs[:, 0] < pairs[:, 1])
    met = np.bincount(pairs.ravel(), minlength=k)
    full = k <= 5 or degree + (degree % 2) * (k % 2) >= k - 1
    assert np.all(met == (max(k - 1, 0) if full else degree + (degree % 2) * (k % 2)))
    if k > 1:
        graph = np.eye(k)
        graph[pairs[:, 0], pairs[:, 1]] = graph[pairs[:, 1], pairs[:, 0]] = 1
        assert np.all(np.linalg.matrix_power(graph, k) > 0)


def test_a_seed_fixes_the_design_and_another_gives_another() -> None:
    one, same, other = (pairs_to_judge(12, 4, np.random.default_rng(seed)) for seed in (7, 7, 8))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_the_design_spreads_doubt_better_than_a_ring_of_neighbours() -> None:
    k, degree = 24, 4

    def mean_variance(pairs: np.ndarray) -> float:
        ones = np.ones(len(pairs))
        return float(potential(k, pairs[:, 0], pairs[:, 1], 0 * ones, ones)[1].mean())

    ring = np.array([(i, (i + step) % k) for step in (1, 2) for i in range(k)])
    drawn = [pairs_to_judge(k, degree, np.random.default_rng(seed)) for seed in range(5)]
    assert max(mean_variance(pairs) for pairs in drawn) < 0.7 * mean_variance(ring)


def test_degree_one_connects_nothing() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        pairs_to_judge(8, 1, np.random.default_rng(0))
