"""Sides, length and style; gold, repeats and pace: by hand, by scipy, and in known worlds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import binomtest

from annotator.labels.answers_known import (
    fast,
    gold_accuracy,
    low_shares,
    one_sided,
    pace,
    self_consistency,
)
from annotator.labels.position import holm, left_or_right_p, side_habits
from annotator.labels.style import (
    LEFT,
    PRIOR_SCALE,
    STYLE,
    logistic,
    longer_wins,
    style_effects,
    style_of,
)


def test_p_is_the_exact_binomial_test() -> None:
    left, n = np.array([0, 5, 12, 26, 40, 0, 1]), np.array([7, 10, 40, 40, 40, 0, 1])
    found = left_or_right_p(left, n)
    expected = [
        binomtest(int(k), int(m)).pvalue if m else 1.0 for k, m in zip(left, n, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_holm_by_hand() -> None:
    """.01, .02, .03, .04 of four: .04, .06, .06, .06; who was not tested counts for nothing."""
    p = np.array([0.03, np.nan, 0.01, 0.04, 0.02])
    np.testing.assert_allclose(holm(p), [0.06, np.nan, 0.04, 0.06, 0.06])
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]
    assert holm(np.array([])).tolist() == []


Votes = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def voted(
    rng: np.random.Generator,
    lapses: list[float],
    *,
    n_pairs: int = 60,
    ties: float = 0.15,
    left: float = 1.0,
) -> Votes:
    """Pair, grade, annotator, whether a was left; each person lapses to the left that often.

    People share what they prefer, each pair has one side for all, and a is preferred more often.
    """
    n_people = len(lapses)
    felt = rng.normal(0.8, 2.0, n_pairs)
    side = rng.random(n_pairs) < 0.5
    pair, who = np.indices((n_pairs, n_people)).reshape(2, -1)
    prefers_a = rng.random(len(pair)) < 1 / (1 + np.exp(-felt[pair]))
    lapsed = rng.random(len(pair)) < np.array(lapses)[who]
    pressed_left = rng.random(len(pair)) < left
    prefers_a = np.where(lapsed, pressed_left == side[pair], prefers_a)
    grade = np.where(prefers_a, 1, -1) * rng.integers(1, 3, len(pair))
    grade[(rng.random(len(pair)) < ties) & ~lapsed] = 0
    order = rng.permutation(len(pair))
    return pair[order], grade[order], who[order], side[pair][order]


def test_habits_are_counted_as_a_loop_would() -> None:
    rng = np.random.default_rng(0)
    pair, grade, who, left_is_a = voted(rng, [0.0, 0.5, 1.0], n_pairs=23)
    some = np.flatnonzero(rng.random(len(pair)) < 0.7)  # not everybody on every pair
    pair, grade, who, left_is_a = (x[some] for x in (pair, grade, who, left_is_a))
    found = side_habits(pair, grade, who, left_is_a, np.array([True, True, False, True]))
    for person in range(3):
        mine = [i for i in range(len(pair)) if who[i] == person]
        sided = [i for i in mine if grade[i] != 0]
        left = [i for i in sided if (grade[i] > 0) == left_is_a[i]]
        assert (found.left.hits[person], found.left.n[person]) == (len(left), len(sided))
        assert found.shown.hits[person] == sum(left_is_a[i] for i in mine)
        assert found.shown.n[person] == len(mine)
        others = [
            (grade[k] > 0) == left_is_a[i]
            for i in sided
            for k in range(len(pair))
            if pair[k] == pair[i] and who[k] != person and grade[k] != 0
        ]
        assert found.others_left[person] == pytest.approx(np.mean(others))
    assert found.left.hits[2] == found.left.n[2]  # always left
    assert np.isnan(found.p[2])
    assert np.isnan(found.p_holm[2])
    assert found.p_holm[1] == pytest.approx(min(1.0, 3 * found.p[1]))
    assert (found.p[3], found.left.n[3]) == (1.0, 0)
    assert np.isnan(found.others_left[3])


def test_honest_people_are_accused_in_at_most_one_world_of_twenty() -> None:
    """Also where one of them always presses left and misleads whoever looks at what others say."""
    n_worlds = 1_500
    for lapses in ([0.0] * 8, [1.0] + [0.0] * 7):
        honest = np.array(lapses) == 0
        accused = 0
        for seed in range(n_worlds):
            votes = voted(np.random.default_rng([seed, len(lapses)]), lapses)
            found = side_habits(*votes, np.ones(8, dtype=bool))
            accused += (found.p_holm[honest] < 0.05).any()
        # 3 standard errors above .05 would be .067; the lot is shared, so alarms come together.
        assert accused / n_worlds <= 0.06


def test_who_always_presses_one_side_is_found_with_forty_votes() -> None:
    for left, kind in ((1.0, "left"), (0.0, "right")):
        for seed in range(100):
            rng = np.random.default_rng([seed, 3])
            votes = voted(rng, [0.0] * 5 + [1.0], n_pairs=40, left=left)
            found = side_habits(*votes, np.ones(6, dtype=bool))
            alarms = {alarm.annotator: alarm for alarm in one_sided(found.left, found.p_holm)}
            assert alarms[5].kind == kind
            assert (alarms[5].bound > 0.5) == (kind == "left")


def test_a_half_habit_is_mostly_found_with_a_hundred_votes() -> None:
    found = 0
    for seed in range(200):
        votes = voted(np.random.default_rng([seed, 4]), [0.0, 0.0, 0.5, 0.0], n_pairs=100)
        found += side_habits(*votes, np.ones(4, dtype=bool)).p_holm[2] < 0.05
    assert found > 0.9 * 200


def test_marks_of_style_are_counted() -> None:
    text = (
        "# Head\n\nSome **bold** and __more__ `code`, 2 * 3 * 4.\n- one\n  * two\n1. three\n"
        "#hashtag\n```py\n# no heading\n- no item\n**no**\n```\n## Second"
    )
    plain, marked = np.expm1(style_of(["nothing here", text]))
    assert plain.tolist() == pytest.approx([12, 0, 0, 0, 0])
    assert marked.tolist() == pytest.approx([len(text), 3, 2, 2, 2])
    assert style_of([]).shape == (0, len(STYLE))
    assert np.expm1(style_of(["```\nnever closed\n- x"]))[0].tolist()[1:] == [0, 0, 0, 1]


def test_the_share_of_longer_ones_leaves_ties_of_either_kind_out() -> None:
    grade = np.array([2, -1, 1, 0, 1, -2, 1])
    longer = np.array([0.5, 0.5, -1.0, 3.0, 0.0, -0.1, 2.0])
    found, n = longer_wins(grade, longer, np.arange(7), np.random.default_rng(0))
    assert (found.value, n) == (3 / 5, 5)
    nothing, n = longer_wins(grade[3:4], longer[3:4], np.zeros(1, int), np.random.default_rng(0))
    assert np.isnan(nothing.value)
    assert n == 0


def regression(seed: int, n_prompts: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differences, votes and prompts, three pairs a prompt; a prompt's pairs lean one way."""
    rng = np.random.default_rng(seed)
    prompt = np.repeat(np.arange(n_prompts), rng.integers(1, 6, n_prompts))
    x = rng.normal(size=(len(prompt), 3))
    # What prompts add depends on the first difference, so votes of one are not independent.
    slope = rng.normal(size=n_prompts)[prompt]
    y = rng.random(len(prompt)) < 1 / (1 + np.exp(-((0.5 + slope) * x[:, 0] - 0.4 * x[:, 1])))
    return x, y, prompt


def test_the_regression_is_the_maximum_that_scipy_finds_and_its_sandwich_that_of_a_loop() -> None:
    x, y, prompt = regression(0)
    fit = logistic(x, y, prompt)

    def loss(w: np.ndarray) -> float:
        likelihood = -np.logaddexp(0, np.where(y, -1, 1) * (x @ w)).sum()
        return float(-likelihood + (w**2).sum() / (2 * PRIOR_SCALE**2))

    expected = minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-9})
    np.testing.assert_allclose(fit.coefficients, expected.x, atol=1e-6)

    p = 1 / (1 + np.exp(-x @ fit.coefficients))
    meat, hessian = np.zeros((3, 3)), np.eye(3) / PRIOR_SCALE**2
    for one in range(60):
        score = sum((y[i] - p[i]) * x[i] for i in np.flatnonzero(prompt == one))
        meat += np.outer(score, score)
    for i in range(len(y)):
        hessian += p[i] * (1 - p[i]) * np.outer(x[i], x[i])
    bread = np.linalg.inv(hessian)
    correction = 60 / 59 * (len(y) - 1) / (len(y) - 3)
    np.testing.assert_allclose(fit.covariance, correction * bread @ meat @ bread, rtol=1e-9)
    assert fit.n_clusters == 60


def test_intervals_of_the_regression_know_that_votes_of_a_prompt_hang_together() -> None:
    truth = logistic(*regression(999, 30_000)).coefficients
    inside = np.zeros(3)
    for seed in range(300):
        fit = logistic(*regression(seed))
        found = [fit.interval(i) for i in range(3)]
        inside += [one.low <= t <= one.high for one, t in zip(found, truth, strict=True)]
    assert (inside / 300 >= 0.91).all(), inside / 300


def styled(seed: int, n: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Votes for what is longer and has lists, and for the left; nobody writes headings."""
    rng = np.random.default_rng(seed)
    difference = rng.normal(size=(n, 5)) * [0.7, 1.2, 0.0, 0.3, 0.5]
    left_is_a = rng.random(n) < 0.5
    z = difference[:, 0] + 0.6 * difference[:, 1] + 0.7 * np.where(left_is_a, 0.5, -0.5)
    grade = np.where(rng.random(n) < 1 / (1 + np.exp(-z)), 1, -2)
    grade[rng.random(n) < 0.1] = 0
    return grade, difference, left_is_a, np.arange(n) // 2


def test_effects_of_style_and_side_are_found_and_told_per_standard_deviation() -> None:
    found = {effect.name: effect for effect in style_effects(*styled(0, 6_000))}
    assert list(found) == ["length", "lists", "bold", "code", LEFT]  # no two differ in headings
    for name, log_odds in (("length", 0.7), ("lists", 0.72), ("bold", 0), ("code", 0), (LEFT, 0.7)):
        odds = found[name].odds_ratio
        assert odds.low < np.exp(log_odds) < odds.high, name
        assert odds.high / odds.low < 1.5
    assert found["length"].sd == pytest.approx(0.7, rel=0.05)


def test_effects_do_not_depend_on_which_response_is_called_a() -> None:
    grade, difference, left_is_a, prompt = styled(1)
    turned = np.random.default_rng(0).random(len(grade)) < 0.5
    sign = np.where(turned, -1, 1)
    again = style_effects(grade * sign, difference * sign[:, None], left_is_a ^ turned, prompt)
    for one, other in zip(style_effects(grade, difference, left_is_a, prompt), again, strict=True):
        assert one.odds_ratio.value == pytest.approx(other.odds_ratio.value)
        assert one.odds_ratio.high == pytest.approx(other.odds_ratio.high)


def test_what_always_wins_has_a_finite_effect_and_too_few_votes_none() -> None:
    grade, difference, left_is_a, prompt = styled(2, 200)
    grade = np.where(difference[:, 0] > 0, 1, -1)
    length = style_effects(grade, difference, left_is_a, prompt)[0].odds_ratio
    assert 5 < length.low < length.value < length.high < np.inf
    assert style_effects(grade[:40], difference[:40], left_is_a[:40], prompt[:40]) == []
    assert style_effects(grade, difference, left_is_a, prompt // 10) == []  # 10 prompts
    assert style_effects(grade * 0, difference, left_is_a, prompt) == []


def test_gold_counts_a_tie_as_wrong_where_a_side_is_right_and_the_other_way_round() -> None:
    grade = np.array([2, 1, 0, -1, 0, 1, -2])
    gold = np.array([1, 1, 1, 1, 0, 0, -1])
    found = gold_accuracy(grade, gold, np.array([0, 0, 0, 2, 2, 2, 2]), 4)
    assert found.hits.tolist() == [2, 0, 2, 0]
    assert found.n.tolist() == [3, 0, 4, 0]
    assert np.isnan(found.share[[1, 3]]).all()
    expected = binomtest(2, 3).proportion_ci(method="exact")
    assert (found.low[0], found.high[0]) == pytest.approx((expected.low, expected.high))


def test_the_same_again_is_of_sides_not_of_grades() -> None:
    first, later = np.array([2, 1, 0, -1, 0]), np.array([1, -1, 0, -2, 1])
    found = self_consistency(first, later, np.array([1, 1, 1, 1, 0]), 2)
    assert found.hits.tolist() == [0, 3]
    assert found.n.tolist() == [1, 4]


def test_an_alarm_goes_by_the_end_of_the_interval() -> None:
    """6 of 14 is 43 % and may be 71; 8 of 20 is 40 % and at most 64."""
    hits, n = np.array([6, 8, 14, 0]), np.array([14, 20, 20, 0])
    found = gold_accuracy(
        np.ones(54, int),
        np.concatenate([np.where(np.arange(m) < k, 1, -1) for k, m in zip(hits, n, strict=True)]),
        np.repeat(np.arange(4), n),
        4,
    )
    (alarm,) = low_shares("gold", found.high, 0.7)
    assert (alarm.kind, alarm.annotator, alarm.line) == ("gold", 1, 0.7)
    assert alarm.bound == pytest.approx(0.639, abs=1e-3)


def test_who_answers_in_a_third_of_the_others_time_is_told_of_if_that_is_sure() -> None:
    rng = np.random.default_rng(0)
    seconds = np.concatenate(
        [rng.gamma(4, 8, 60), rng.gamma(4, 10, 60), rng.gamma(4, 1, 60), rng.gamma(4, 1, 4)]
    )
    seconds[[3, 70]] = np.nan
    who = np.repeat(np.arange(4), [60, 60, 60, 4])
    order = rng.permutation(len(who))
    found = pace(seconds[order], who[order], 5)
    for person in range(4):
        assert found.median[person].value == np.nanmedian(seconds[who == person])
    medians = [found.median[person].value for person in range(3)]
    assert found.others[0] == np.median(medians[1:])
    assert found.others[4] == found.others[3] == np.median(medians)  # who has few is no measure
    assert np.isnan(found.median[4].value)
    assert [alarm.annotator for alarm in fast(found)] == [2]  # of 3 nobody can be sure
    alone = pace(seconds[:60], who[:60], 1)
    assert np.isnan(alone.others[0])
    assert fast(alone) == []
