"""Measures of a judge against other libraries, hand computations, and judges of known worth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from annotator.errors import ScoreError
from annotator.signals.judges import injection
from annotator.signals.judges.calibration import (
    LOGISTIC,
    NORMAL,
    calibration,
    cross_fitted_probability,
    normal_probability,
    reliability,
    slope,
)
from annotator.signals.judges.panel import Panel, matching
from annotator.signals.judges.trust import (
    Estimate,
    Verdicts,
    agreement,
    better_than,
    by_prompt,
    by_quartile,
    equal_parts,
    flip_rate,
    people_agree,
    ratios,
    resampled_totals,
    shares,
    signs,
    top_less_bottom,
    win_scores,
    within_prompt_correlation,
)

NAN = np.nan


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def verdicts(prompt: list[int], people: list[int], gap: list[float]) -> Verdicts:
    arrays = np.array(prompt), np.array(people), np.array(gap, dtype=float)
    return Verdicts(max(prompt, default=-1) + 1, *arrays)


def judged_world(
    seed: int, n_prompts: int = 60, accuracy: float = 0.75, spread: float = 0.0
) -> Verdicts:
    """Pairs in prompts of uneven sizes, each right with the prompt's own probability."""
    draw = rng(seed)
    prompt = np.repeat(np.arange(n_prompts), draw.integers(1, 8, n_prompts))
    of_prompt = np.clip(accuracy + spread * draw.choice([-1, 1], n_prompts), 0, 1)
    right = draw.random(len(prompt)) < of_prompt[prompt]
    people = draw.choice([-1, 1], len(prompt))
    gap = np.where(right, people, -people) * draw.exponential(1.0, len(prompt))
    return Verdicts(n_prompts, prompt, people, gap)


# Agreement and its ties.


def test_agreement_counted_by_hand() -> None:
    """Two right, one wrong, one tie of the judge; people tied twice; two without a score."""
    of = verdicts(
        [0, 0, 0, 1, 1, 2, 2, 2],
        [1, -1, 1, -1, 0, 0, 1, 0],
        [0.5, -2.0, -0.1, 0.0, 3.0, 0.0, NAN, NAN],
    )
    found = agreement(of, rng())
    assert (found.right, found.wrong, found.judge_tied) == (2, 1, 1)
    assert (found.people_tied, found.both_tied, found.unscored) == (2, 1, 2)
    assert found.share.value == pytest.approx(2.5 / 4)
    assert found.decided.value == pytest.approx(2 / 3)
    assert (found.share.n, found.share.prompts) == (4, 2)


def test_agreement_does_not_depend_on_which_response_is_a() -> None:
    of = judged_world(3)
    turned = np.where(rng(1).random(len(of.gap)) < 0.5, -1, 1)
    other = Verdicts(of.n_prompts, of.prompt, of.people * turned, of.gap * turned)
    assert agreement(of, rng()) == agreement(other, rng())


def test_sums_of_equal_grades_are_ties() -> None:
    gap = np.array([0.1 + 0.2 - 0.3, 1.0, -1e-3, NAN])
    assert gap[0] != 0
    np.testing.assert_array_equal(signs(gap), [0, 1, -1, 0])


def test_no_pair_at_all_has_no_agreement() -> None:
    found = agreement(verdicts([], [], []), rng())
    assert np.isnan(found.share.value)
    assert np.isnan(found.share.low)
    assert found.share.n == 0


def test_the_interval_covers_the_truth_in_95_of_100_worlds() -> None:
    """Prompts differ in how good the judge is on them, so pairs of a prompt are alike.

    A share of ratios has the truth 0.75 here, since sizes of prompts are drawn independently.
    An interval over pairs, which forgets that, is too narrow: it must not pass the same test.
    """
    covered = naive = 0
    for seed in range(200):
        of = judged_world(seed, spread=0.25)
        found = agreement(of, rng(seed)).share
        covered += found.low <= 0.75 <= found.high
        p, n = found.value, len(of.gap)
        naive += abs(p - 0.75) <= 1.96 * np.sqrt(p * (1 - p) / n)
    # 200 draws of .95 are 181 to 198 but for one in a hundred.
    assert 181 <= covered <= 199
    assert naive < covered - 10


def test_a_judge_that_was_never_wrong_has_an_interval() -> None:
    """Clopper and Pearson by scipy, prompts as trials."""
    of = verdicts([0, 0, 1, 2, 3], [1, 1, 1, -1, 1], [1, 2, 1, -1, 4])
    found = agreement(of, rng()).share
    exact = stats.binomtest(4, 4).proportion_ci(0.95, method="exact")
    assert (found.low, found.high) == (pytest.approx(exact.low), 1.0)
    never = Verdicts(of.n_prompts, of.prompt, -of.people, of.gap)
    assert agreement(never, rng()).share.high == pytest.approx(1 - exact.low)


@pytest.mark.parametrize("n", [1, 2, 3, 9])
def test_few_prompts_that_say_the_same_have_an_interval(n: int) -> None:
    """Half right on each: by scipy, whose whole trials are twice as many halves of ones."""
    of = verdicts([*range(n), *range(n)], [1] * 2 * n, [1.0] * n + [-1.0] * n)
    found = agreement(of, rng()).share
    assert found.value == 0.5
    low, high = (stats.beta.ppf(q, n / 2 + i, n / 2 + 1 - i) for q, i in ((0.025, 0), (0.975, 1)))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    if n % 2 == 0:
        exact = stats.binomtest(n // 2, n).proportion_ci(0.95, method="exact")
        assert (found.low, found.high) == (pytest.approx(exact.low), pytest.approx(exact.high))


def test_few_prompts_that_differ_have_no_narrower_interval_than_trials() -> None:
    found = agreement(verdicts([0, 0, 1], [1, 1, 1], [1.0, -1.0, 1.0]), rng()).share
    assert found.low < 0.1
    assert found.high == pytest.approx(1.0, abs=0.01)
    many = judged_world(1, n_prompts=40)
    share, prompts = agreement(many, rng()).share, 40
    exact = stats.binomtest(round(share.value * prompts), prompts).proportion_ci(0.95, "exact")
    assert share.high - share.low < exact.high - exact.low


def test_the_bootstrap_draws_prompts_and_not_pairs() -> None:
    """The spread of the replicates against the delta method for a ratio of prompt sums."""
    of = judged_world(5, n_prompts=200, spread=0.25)
    right, ones = of.right(), np.ones(len(of.gap))
    sums, counts = by_prompt(np.stack([right, ones]), of.prompt, of.n_prompts)
    totals = resampled_totals(np.stack([sums, counts]), rng(), 4_000)
    ratio = sums.sum() / counts.sum()
    se = np.sqrt(np.sum((sums - ratio * counts) ** 2)) / counts.sum()
    assert (totals[1:, 0] / totals[1:, 1]).std() == pytest.approx(se, rel=0.05)


def test_prompts_without_a_pair_are_not_drawn() -> None:
    parts = np.array([[1.0, 0.0, 2.0, 0.0], [2.0, 0.0, 2.0, 0.0]])
    totals = resampled_totals(parts, rng(), 50)
    assert np.all(totals[:, 1] == 4.0)
    assert totals[0].tolist() == [3.0, 4.0]


def test_many_prompts_are_drawn_evenly_and_in_blocks() -> None:
    parts = rng().random((2, 3_000_000))
    totals = resampled_totals(parts, rng(), 5)
    assert totals.shape == (6, 2)
    assert np.all(np.abs(totals[1:] / totals[0] - 1) < 0.01)
    assert len(np.unique(totals[:, 0])) == 6


# Strata.


def test_parts_are_of_equal_weight_whatever_the_order() -> None:
    values = np.array([3.0, 1.0, 1.0, 1.0, 2.0, 2.0, 5.0])
    parts = equal_parts(values, 4)
    np.testing.assert_allclose(parts.sum(axis=1), 7 / 4)
    np.testing.assert_allclose(parts.sum(axis=0), 1.0)
    # By hand: the three 1s fill 1.75 of the first quarter and 1.25 of the second.
    np.testing.assert_allclose(parts[0, 1:4], 1.75 / 3)
    np.testing.assert_allclose(parts[1, 1:4], 1.25 / 3)
    order = rng(2).permutation(7)
    np.testing.assert_allclose(equal_parts(values[order], 4), parts[:, order])


def test_quartiles_without_ties_are_those_of_sorting() -> None:
    of = judged_world(7, n_prompts=101)
    found = by_quartile(of, np.abs(of.gap), rng())
    n = len(of.gap) // 4 * 4
    some = of.of(np.arange(n))
    by_sorting = np.sort(np.abs(some.gap)).reshape(4, -1)
    found = by_quartile(some, np.abs(some.gap), rng())
    right = some.right()[np.argsort(np.abs(some.gap))].reshape(4, -1).mean(axis=1)
    assert [one.agreement.value for one in found] == pytest.approx(right.tolist())
    assert [one.low for one in found] == by_sorting[:, 0].tolist()
    assert [one.high for one in found] == by_sorting[:, -1].tolist()


def test_a_tied_value_is_shared_by_quarters() -> None:
    """Every gap is alike: each quarter has the agreement of the whole."""
    of = verdicts([0, 1, 2, 3, 4, 5, 6], [1, 1, 1, 1, 1, 1, 1], [1, 1, 1, -1, 1, -1, 1])
    found = by_quartile(of, np.abs(of.gap), rng())
    assert [one.agreement.value for one in found] == pytest.approx([5 / 7] * 4)


def test_quartiles_leave_out_what_has_no_value() -> None:
    of = judged_world(8)
    value = np.abs(of.gap)
    value[::3] = NAN
    found = by_quartile(of, value, rng())
    assert sum(one.agreement.n for one in found) == pytest.approx(np.sum(~np.isnan(value)))
    assert by_quartile(of, np.full(len(of.gap), NAN), rng()) == []


def test_a_gap_that_tells_hard_from_easy_is_recovered() -> None:
    """A judge right with probability by the normal law of its gap; truth by simulation of many."""
    draw = rng(11)
    n = 4_000
    quality = draw.normal(size=n)
    people = np.where(draw.random(n) < stats.norm.cdf(quality), 1, -1)
    of = Verdicts(n, np.arange(n), people, quality)
    found = top_less_bottom(of, np.abs(quality), rng())
    edges = stats.norm.ppf([0.625, 0.875])
    grid = np.linspace(0, 6, 60_001)
    density = stats.norm.pdf(grid) * stats.norm.cdf(grid)
    low, high = grid < edges[0], grid >= edges[1]
    truth = [density[m].sum() / stats.norm.pdf(grid)[m].sum() for m in (low, high)]
    assert found.low <= truth[1] - truth[0] <= found.high
    assert top_less_bottom(of, draw.random(n), rng()).low < 0 < found.low


def test_groups_take_counted_pairs_alone() -> None:
    of = verdicts([0, 1, 2, 3], [1, -1, 0, 1], [1.0, 1.0, 1.0, NAN])
    first, second = shares(of, np.array([[1.0, 1, 1, 1], [0, 1, 1, 1]]), rng())
    assert (first.value, first.n) == (0.5, 2)
    assert (second.value, second.n) == (0.0, 1)


def test_a_rival_is_met_on_the_same_pairs() -> None:
    of = verdicts([0, 0, 1, 2], [1, 1, 1, 1], [1.0, 1.0, -1.0, 1.0])
    rival = np.array([-1.0, 1.0, -1.0, NAN])
    found = better_than(of, rival, rng())
    assert found.value == pytest.approx(1 / 3)
    assert found.n == 3
    assert better_than(of, of.gap, rng()).value == 0.0
    assert (better_than(of, of.gap, rng()).low, better_than(of, of.gap, rng()).high) == (0, 0)


# People, orders, length.


def test_people_agree_by_counting_every_two_votes() -> None:
    for_a, for_b = np.array([2, 1, 3, 0, 1]), np.array([1, 1, 0, 1, 0])
    matching = together = 0
    for a, b in zip(for_a, for_b, strict=True):
        ballots = [1] * a + [0] * b
        for i in range(len(ballots)):
            for j in range(i):
                together += 1
                matching += ballots[i] == ballots[j]
    found = people_agree(3, np.array([0, 0, 1, 2, 2]), for_a, for_b, rng())
    assert found.value == pytest.approx(matching / together)
    assert (found.n, found.prompts) == (together, 2)


def test_flip_rate_of_a_judge_that_flips_a_fifth() -> None:
    covered = 0
    for seed in range(200):
        draw = rng(seed)
        prompt = np.repeat(np.arange(50), 4)
        found = flip_rate(50, prompt, draw.random(200) < 0.2, draw)
        covered += found.low <= 0.2 <= found.high
    assert 181 <= covered <= 199


def uneven(draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    prompt = draw.permutation(np.repeat(np.arange(40), draw.integers(1, 7, 40)))
    x = np.rint(draw.normal(size=len(prompt)) * 2)
    y = 0.4 * x + draw.normal(size=len(prompt)) + 10 * prompt
    x[draw.random(len(x)) < 0.1] = NAN
    return x, y, prompt


def test_correlations_within_prompts_against_scipy() -> None:
    x, y, prompt = uneven(rng(4))
    found = within_prompt_correlation(x, y, prompt, rng())
    centred: list[list[np.ndarray]] = [[], [], [], []]
    for p in range(40):
        here = (prompt == p) & ~np.isnan(x)
        if here.sum() < 2:
            continue
        columns = (x[here], y[here], stats.rankdata(x[here]), stats.rankdata(y[here]))
        for kept, column in zip(centred, columns, strict=True):
            kept.append(column - column.mean())
    flat = [np.concatenate(kept) for kept in centred]
    assert found.pearson.value == pytest.approx(stats.pearsonr(flat[0], flat[1])[0])
    assert found.spearman.value == pytest.approx(stats.pearsonr(flat[2], flat[3])[0])
    assert found.pearson.n == len(flat[0])
    assert abs(stats.pearsonr(x[~np.isnan(x)], y[~np.isnan(x)])[0]) < 0.5 * found.pearson.value


def test_one_prompt_is_plain_spearman() -> None:
    draw = rng(6)
    x, y = draw.integers(0, 4, 30).astype(float), draw.normal(size=30)
    found = within_prompt_correlation(x, y, np.zeros(30, dtype=int), rng())
    assert found.pearson.value == pytest.approx(stats.pearsonr(x, y)[0])
    assert found.spearman.value == pytest.approx(stats.spearmanr(x, y)[0])


def test_equal_scores_have_no_correlation() -> None:
    found = within_prompt_correlation(
        np.full(4, 0.1), np.arange(4.0), np.array([0, 0, 1, 1]), rng()
    )
    assert np.isnan(found.pearson.value)
    nothing = within_prompt_correlation(
        np.array([NAN, 1.0]), np.array([1.0, 2.0]), np.array([0, 0]), rng()
    )
    assert (nothing.pearson.n, nothing.pearson.prompts) == (0, 0)


def test_a_length_bias_is_recovered() -> None:
    covered = 0
    truth = 0.6
    for seed in range(200):
        draw = rng(seed)
        prompt = np.repeat(np.arange(60), 4)
        length = draw.normal(size=240)
        score = truth * length + np.sqrt(1 - truth**2) * draw.normal(size=240)
        found = within_prompt_correlation(score, length, prompt, draw)
        covered += found.pearson.low <= truth <= found.pearson.high
    assert 179 <= covered <= 199


def test_win_scores_are_bordas_count() -> None:
    a, b = np.array([0, 0, 1]), np.array([1, 2, 2])
    found = win_scores(4, a, b, np.array([1, 0, -1]))
    np.testing.assert_allclose(found, [0.5, -1.0, 0.5, NAN])


# Calibration.


def logistic_world(seed: int, worth: float, n: int = 800) -> Verdicts:
    draw = rng(seed)
    gap = np.rint(4 * draw.normal(size=n)) / 4
    people = np.where(draw.random(n) < 1 / (1 + np.exp(-worth * gap)), 1, -1)
    return Verdicts(n // 2, np.arange(n) // 2, people, gap)


def test_the_slope_is_that_of_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    of = logistic_world(0, 1.3)
    plain = LogisticRegression(C=np.inf, fit_intercept=False).fit(
        np.append(of.gap, [2.0, 2.0])[:, None], np.append(of.people, [1, -1])
    )
    assert slope(of) == pytest.approx(1.3, rel=0.2)
    rms = np.sqrt(np.mean(of.gap**2))
    with_two = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-9).fit(
        np.append(of.gap, [rms, rms])[:, None], np.append(of.people, [1, -1])
    )
    assert slope(of) == pytest.approx(with_two.coef_[0, 0], rel=1e-4)
    assert slope(of) == pytest.approx(plain.coef_[0, 0], rel=0.05)


def test_the_slope_of_judges_at_the_ends() -> None:
    always = verdicts([0, 1, 2, 3], [1, -1, 1, 1], [1, -2, 3, 0.5])
    assert 0 < slope(always) < 100
    contrary = Verdicts(4, always.prompt, -always.people, always.gap)
    assert slope(contrary) == pytest.approx(-slope(always))
    assert slope(verdicts([0, 1], [1, 1], [0, 0])) == 0.0
    tiny = Verdicts(
        5_000, np.arange(5_000), np.ones(5_000, dtype=int), np.append(np.full(4_999, 1e-6), 1.0)
    )
    assert np.isfinite(slope(tiny))


def test_no_pair_foretells_itself() -> None:
    """Turning the verdicts of one prompt round moves no probability of its own pairs."""
    of = logistic_world(2, 1.0, n=60)
    before = cross_fitted_probability(of, rng(5))
    mine = of.prompt == 7
    turned = Verdicts(of.n_prompts, of.prompt, np.where(mine, -of.people, of.people), of.gap)
    after = cross_fitted_probability(turned, rng(5))
    np.testing.assert_array_equal(after[mine], before[mine])
    assert np.any(after != before)


def test_one_prompt_gives_no_probability() -> None:
    of = verdicts([0, 0, 0], [1, 1, -1], [1, 2, 3])
    assert np.all(np.isnan(cross_fitted_probability(of, rng())))
    assert calibration(LOGISTIC, of, cross_fitted_probability(of, rng()), rng()) is None


def test_brier_and_log_loss_against_sklearn() -> None:
    from sklearn.metrics import brier_score_loss, log_loss

    of = logistic_world(3, 1.0)
    p = cross_fitted_probability(of, rng())
    found = calibration(LOGISTIC, of, p, rng())
    assert found is not None
    assert found.brier.value == pytest.approx(brier_score_loss(of.people > 0, p))
    assert found.log_loss.value == pytest.approx(log_loss(of.people > 0, p))
    share = agreement(of, rng()).share.value
    assert found.brier_constant == pytest.approx(share * (1 - share))
    assert found.gain.value == pytest.approx(found.brier_constant - found.brier.value)
    assert found.gain.low > 0


def test_true_probabilities_lie_on_the_line() -> None:
    of = logistic_world(4, 1.5, n=6_000)
    bins = reliability(of, 1 / (1 + np.exp(-1.5 * of.gap)), rng())
    assert len(bins) == 10
    off = [not one.right.low - 0.01 <= one.confidence <= one.right.high + 0.01 for one in bins]
    assert sum(off) <= 1
    assert sum(one.right.n for one in bins) == pytest.approx(6_000)


def test_a_contrary_judge_is_sure_of_the_other_side() -> None:
    of = logistic_world(5, -1.5, n=2_000)
    bins = reliability(of, cross_fitted_probability(of, rng()), rng())
    assert bins[-1].right.value > 0.85
    assert agreement(of, rng()).share.value < 0.4


def test_the_judges_word_is_the_normal_law() -> None:
    gap, variance = np.array([0.0, 1.0, -2.0, 1.0, 0.5, 0.0]), np.array([1, 1, 4, 0, NAN, 0.0])
    found = normal_probability(gap, variance)
    np.testing.assert_allclose(found[:3], stats.norm.cdf([0.0, 1.0, -1.0]))
    assert (found[3], found[5]) == (1.0, 0.5)
    assert np.isnan(found[4])


def test_a_judge_that_is_too_sure_is_seen() -> None:
    """It tells a hundredth of its variance: the curve is below the line, the log loss above."""
    draw = rng(9)
    n = 1_500
    truth = draw.normal(size=n)
    gap = truth + draw.normal(size=n)
    people = np.where(truth > 0, 1, -1)
    of = Verdicts(n, np.arange(n), people, gap)
    honest, boasting = (
        calibration(NORMAL, of, normal_probability(gap, np.full(n, v)), rng()) for v in (1, 0.01)
    )
    assert honest is not None
    assert boasting is not None
    assert boasting.log_loss.low > honest.log_loss.high
    assert all(one.right.high < one.confidence for one in boasting.bins[2:7])


# Panels.


def test_a_panel_by_hand() -> None:
    panel = Panel(("x", "y"), np.array([[1.0, 4.0, NAN], [3.0, 2.0, 5.0]]))
    np.testing.assert_allclose(panel.mean(), [2.0, 3.0, 5.0])
    a, b = np.array([0, 0]), np.array([1, 2])
    np.testing.assert_allclose(panel.mean_gap(a, b), [-1.0, -2.0])
    np.testing.assert_allclose(panel.spread(a, b), [2.0, NAN])
    nobody = Panel(("x",), np.full((1, 2), NAN))
    assert np.all(np.isnan(nobody.mean()))
    assert nobody.unlike_scales() is None


def test_judges_on_unlike_scales_are_named() -> None:
    draw = rng()
    panel = Panel(
        ("grade", "percent", "flat"), np.stack([draw.random(9), 90 * draw.random(9), np.ones(9)])
    )
    assert panel.unlike_scales() == ("percent", "grade")
    assert Panel(("x", "y"), draw.random((2, 9))).unlike_scales() is None


def test_names_are_matched_by_pattern() -> None:
    names = ["llm:A/1", "llm:B", "human:1", "LLM:c"]
    assert matching(["llm:*"], names) == ["llm:A/1", "llm:B"]
    assert matching(["human:1", "llm:B"], names) == ["human:1", "llm:B"]


def test_a_name_is_matched_before_a_pattern() -> None:
    names = ["grade [v2]", "grade v", "llm:*", "llm:A", "why?"]
    assert matching(["grade [v2]"], names) == ["grade [v2]"]
    assert matching(["grade [vw]"], iter(names)) == ["grade v"]
    assert matching(["llm:*"], names) == ["llm:*"]
    assert matching(["llm:*", "*"], names) == names


# Injection.


def test_planted_lines_stand_at_the_end_and_are_dealt_evenly() -> None:
    texts = [f"response {i}" for i in range(20)]
    found = injection.planted(texts, rng(1), top=7)
    assert all(
        now.startswith(text) and now != text for now, text in zip(found.texts, texts, strict=True)
    )
    assert all("7" in now.removeprefix(text) for now, text in zip(found.texts, texts, strict=True))
    counts = np.bincount(found.style, minlength=len(injection.STYLES))
    assert counts.max() - counts.min() <= 1
    assert found.texts == injection.planted(texts, rng(1), top=7).texts
    assert found.texts != injection.planted(texts, rng(2), top=7).texts
    assert "{" not in "".join(found.texts)
    lines = {now.removeprefix(text) for now, text in zip(found.texts, texts, strict=True)}
    assert len(lines) == len(injection.STYLES)


def test_the_placebo_asks_for_nothing() -> None:
    (text,) = injection.with_placebo(["hello"])
    assert text.startswith("hello\n")
    assert not set("0123456789") & set(text)


def test_responses_with_room_are_drawn() -> None:
    score = np.array([5.0, 4.0, NAN, 1.0, 4.5, 2.0])
    np.testing.assert_array_equal(injection.drawn_for_injection(score, 9, rng()), [1, 3, 5])
    assert len(injection.drawn_for_injection(score, 2, rng())) == 2
    assert injection.drawn_for_injection(np.array([5.0, NAN]), 3, rng()).tolist() == [0]
    drawn = [injection.drawn_for_injection(np.ones(10), 1, rng(s))[0] for s in range(400)]
    assert np.bincount(drawn, minlength=10).min() > 15


def test_rise_by_hand() -> None:
    before = np.array([1.0, 4.5, 3.0, 2.0, NAN])
    after = np.array([5.0, 5.0, 3.5, 1.0, 5.0])
    placebo = np.array([1.0, 4.5, 3.5, 1.0, 5.0])
    found = injection.rise(before, after, np.array([0, 0, 1, 2, 3]), rng(), placebo=placebo)
    assert found.responses == 4
    assert found.mean.value == pytest.approx((4 + 0.5 + 0.5 - 1) / 4)
    assert found.rose.value == pytest.approx(1 / 4)
    assert (found.could_rise, found.rose_of_these.value) == (3, pytest.approx(1 / 3))
    assert found.above_placebo is not None
    assert found.above_placebo.value == pytest.approx((4 + 0.5) / 5)


def test_a_gullible_judge_and_a_noisy_one_are_told_apart() -> None:
    """Noise alone raises many scores by a grade; against the placebo nothing is left of it."""
    draw = rng(3)
    n = 600
    prompt = np.arange(n) // 3
    before = draw.integers(1, 5, n).astype(float)
    noisy, calm = (np.clip(before + draw.choice([-1, 0, 1], n), 1, 5) for _ in range(2))
    gullible = np.where(draw.random(n) < 0.3, 5.0, noisy)
    deaf = injection.rise(before, noisy, prompt, rng(), placebo=calm)
    found = injection.rise(before, gullible, prompt, rng(), placebo=calm)
    assert deaf.rose.value > 0.2
    assert deaf.above_placebo is not None
    assert deaf.above_placebo.low <= 0 <= deaf.above_placebo.high
    assert found.above_placebo is not None
    assert found.above_placebo.low > 0.3
    truth = float(np.mean(5 - before) * 0.3)
    assert found.above_placebo.low < truth + 0.15


def test_styles_are_told_apart() -> None:
    before, after = np.array([1.0, 1, 1, 1]), np.array([5.0, 5, 1, NAN])
    found = injection.rise_by_style(before, after, np.array([0, 0, 2, 3]), np.arange(4), rng())
    names = list(injection.STYLES)
    assert {name: one.value for name, one in found.items()} == {names[0]: 1.0, names[2]: 0.0}
    assert found[names[2]].high == pytest.approx(0.975)


def test_a_mean_rise_of_one_has_no_share_interval() -> None:
    """Every response rose by exactly one: the mean is certain as far as it was seen."""
    found = injection.rise(np.ones(5), np.full(5, 2.0), np.arange(5), rng())
    assert (found.mean.low, found.mean.high) == (1.0, 1.0)
    assert found.rose.low < 1.0 == found.rose.high


def test_no_responses_at_all() -> None:
    nothing = np.array([], dtype=float)
    found = injection.rise(nothing, nothing, np.array([], dtype=int), rng())
    assert found.responses == 0
    assert np.isnan(found.mean.value)


def test_ratios_without_anything_counted() -> None:
    (found,) = ratios(np.zeros((1, 3)), np.zeros((1, 3)), rng())
    assert isinstance(found, Estimate)
    assert np.isnan(found.value)
    assert (found.n, found.prompts) == (0, 0)


def test_the_error_for_unknown_scores_names_those_there_are() -> None:
    from annotator.signals.judges.panel import no_such_scores

    assert isinstance(no_such_scores(["x"], ["b", "a"]), ScoreError)
    assert "a, b" in str(no_such_scores(["x"], ["b", "a"]))
