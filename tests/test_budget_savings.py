"""The saving: its parts against hand computations and dense algebra, the whole in known worlds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from annotator.budget.measured import document_of
from annotator.budget.savings import (
    FEWEST,
    FIRST_LOOK,
    LOOK_QUANTILE,
    Ahead,
    CastVotes,
    Measured,
    Saving,
    clustered_error,
    crossing,
    first_above,
    jackknife_error,
    look_sizes,
    measured,
    needed_votes,
    preferred,
    saving,
)
from annotator.errors import PreferenceError
from annotator.preference.posterior import fit_posterior
from annotator.preference.tuning import default_setting, tuned
from annotator.preference.votes import Votes, tally
from annotator.simulate.replay import Plan, cast_in_order
from annotator.simulate.world import World
from tests.crowd_world import crowd_world

COPIES = {"explained": 4.0, "own": 0.05, "pair": 0.05, "tie": 0.2, "skill": (40.0, 1.0)}


def votes_of(world: World, order: np.ndarray) -> Votes:
    pair = world.vote_pair[order]
    return Votes(world.pool.pair_a[pair], world.pool.pair_b[pair], world.vote_grade[order])


def project(world: World, strategy: str, n_votes: int, seed: int = 0) -> CastVotes:
    order, control = cast_in_order(world, Plan((n_votes,), 40, 0.25), strategy, seed)
    return CastVotes(votes_of(world, order), control, np.arange(1, n_votes + 1))


@pytest.fixture(scope="module")
def copies() -> World:
    """Most prompts have nearly equal responses: a uniform choice wastes most of its votes."""
    return crowd_world(1, n_prompts=160, votes_a_pair=2, dimension=6, copies=0.7, **COPIES).world


@pytest.fixture(scope="module")
def chosen(copies: World) -> CastVotes:
    return project(copies, "d-optimal", 480, seed=2)


# Parts.


def test_the_jackknife_of_means_is_the_error_of_the_mean() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=17)
    without = np.array([np.delete(values, i).mean() for i in range(17)])
    assert jackknife_error(without) == pytest.approx(values.std(ddof=1) / np.sqrt(17))


def test_votes_of_one_pair_are_one_observation() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(2, 40))
    alone = clustered_error(values, np.arange(40))
    np.testing.assert_allclose(alone, values.std(axis=1, ddof=1) / np.sqrt(40))
    doubled = clustered_error(np.repeat(values, 2, axis=1), np.repeat(np.arange(40), 2))
    np.testing.assert_allclose(doubled, alone)


def exact(score: np.ndarray, error: float) -> Ahead:
    """Scores whose errors are known: as many degrees of freedom as one likes."""
    return Ahead(score, np.full(len(score), error), np.full(len(score), 1e9))


def test_degrees_of_freedom_are_welchs() -> None:
    """By the formula as it is written for the variances of two means."""
    rng = np.random.default_rng(4)
    score = np.stack((np.zeros(20), rng.normal(size=20)))
    without = np.stack((np.zeros(7), 0.1 * rng.normal(size=7)), axis=1)
    ahead = Measured(score, score > 0, np.arange(20), without).against(0)
    asked = score[1].var(ddof=1) / 20
    taught = 6 / 7 * np.sum((without[:, 1] - without[:, 1].mean()) ** 2)
    assert ahead.error[1] == pytest.approx(np.sqrt(asked + taught))
    freedom = (asked + taught) ** 2 / (asked**2 / 19 + taught**2 / 6)
    assert ahead.freedom[1] == pytest.approx(freedom)
    assert ahead.margin(0.9)[1] == pytest.approx(student.ppf(0.95, freedom) * ahead.error[1])


@pytest.mark.parametrize(
    ("curve", "expected"),
    [([-2.0, -1.0, 1.0, 2.0], 15.0), ([0.5, 1, 2, 3], 0.0), ([-4, -3, -2, -1], np.inf),
     ([-1.0, 0.0, 0.0, 1.0], 10.0), ([-3.0, -3.0, -1.0, 1.0], 30.0)],
)  # fmt: skip
def test_where_a_curve_reaches_zero(curve: list[float], expected: float) -> None:
    assert first_above(np.array([0.0, 10.0, 20.0, 40.0]), np.array(curve)) == expected


def test_the_interval_of_a_crossing_is_where_the_curve_is_not_significantly_off_zero() -> None:
    at = np.array([0.0, 100.0, 200.0, 300.0, 400.0])
    ahead = np.array([-0.4, -0.2, 0.0, 0.2, 0.4])
    found = crossing(at, exact(ahead, 0.1 / 1.959964))
    assert (found.value, found.low, found.high) == pytest.approx((200.0, 150.0, 250.0), abs=1e-3)


def test_ends_that_the_votes_do_not_close_are_open() -> None:
    at = np.array([0.0, 100.0, 200.0])
    found = crossing(at, exact(np.array([-0.1, 0.02, 0.05]), 0.1))
    assert found.low is None and found.high is None
    assert found.value == pytest.approx(100.0 * 0.1 / 0.12)
    behind = crossing(at, exact(np.array([-0.9, -0.8, -0.7]), 0.1))
    assert (behind.value, behind.low, behind.high) == (None, 200.0, None)


def test_a_dip_is_levelled_before_the_crossing_is_sought() -> None:
    at = np.array([0.0, 1.0, 2.0, 3.0])
    found = crossing(at, exact(np.array([-1.0, 0.3, -0.5, 1.0]), 1e-9))
    # The two in the middle become -0.1 each; from there to 1 the line crosses at 2 + 0.1 / 1.1.
    assert found.value == pytest.approx(2.0 + 0.1 / 1.1)


@given(st.integers(0, 500))
def test_looks_double(n: int) -> None:
    sizes = look_sizes(n)
    assert all(size <= n for size in sizes)
    assert [size // FIRST_LOOK for size in sizes] == [2**i for i in range(len(sizes))]
    assert 2 * sizes[-1] > n if sizes else n < FIRST_LOOK


def test_the_looks_together_are_wrong_once_in_four_hundred() -> None:
    """Six tests of a sum whose information doubles: drawn, not integrated as the constant was."""
    rng = np.random.default_rng(3)
    parts = rng.normal(size=(400_000, 6)) * np.sqrt(np.array([1, *2.0 ** np.arange(5)]))
    z = np.cumsum(parts, axis=1) / np.sqrt(2.0 ** np.arange(6))
    assert np.mean(np.any(z > LOOK_QUANTILE, axis=1)) == pytest.approx(0.0025, abs=0.0004)


def test_of_very_many_votes_the_first_are_looked_at() -> None:
    control = np.arange(100_000) % 5 == 0
    needed = needed_votes(control, np.arange(1, 100_001))
    assert needed[:6_000].all()
    np.testing.assert_array_equal(np.flatnonzero(needed & control), np.arange(0, 30_000, 5))
    assert not np.any(needed[6_000:] & ~control[6_000:])


# Votes taken out of a posterior.


def _fitted(world: World, cast: CastVotes):
    counted = tally(cast.votes)
    setting = tuned(world.features, counted, default_setting(counted))
    return fit_posterior(world.features, counted, setting.prior, setting.model), setting


def test_votes_taken_out_are_what_dense_algebra_says(copies: World, chosen: CastVotes) -> None:
    cast = chosen.take(np.arange(120))
    posterior, _ = _fitted(copies, cast)
    counted = tally(cast.votes)
    gone = np.arange(0, len(counted.a), 7)
    a, b = copies.pool.pair_a[::60], copies.pool.pair_b[::60]
    # Every difference of rewards at once, pairs asked last; a vote's site is a Gaussian factor.
    ends_a, ends_b = np.concatenate((counted.a[gone], a)), np.concatenate((counted.b[gone], b))
    rewards = posterior.rewards()
    low, high = np.minimum(ends_a, ends_b), np.maximum(ends_a, ends_b)
    shared = (rewards.loadings[low] - rewards.loadings[high]).astype(np.float64)
    own = (rewards.own_loadings[low] - rewards.own_loadings[high]).astype(np.float64)
    prompt = copies.features.prompt_of_response[low]
    covariance = shared @ shared.T + (own @ own.T) * (prompt[:, None] == prompt)
    mean = rewards.mean[low] - rewards.mean[high]
    sites, place = posterior.approximation.system.sites, posterior._pairs_of(ends_a, ends_b)[0]
    n = len(gone)
    site = place[:n]
    block = slice(0, n)
    precision = np.linalg.inv(covariance[block, block])
    before = np.linalg.inv(precision - np.diag(sites.weight[site]))
    before_mean = before @ (precision @ mean[block] - sites.pull[site])
    gain = covariance[n:, block] @ precision
    expected = mean[n:] + gain @ (before_mean - mean[block])
    variance = np.diag(covariance)[n:] + np.vecdot(gain @ (before - covariance[block, block]), gain)
    # Then each pair's own votes, unless they are gone already.
    mine = (place[n:] >= 0) & ~np.isin(place[n:], site)
    weight, pull = sites.weight[place[n:][mine]], sites.pull[place[n:][mine]]
    expected[mine] = (expected[mine] / variance[mine] - pull) / (1 / variance[mine] - weight)
    variance[mine] = 1 / (1 / variance[mine] - weight)
    expected *= np.where(a < b, 1.0, -1.0)

    found = posterior.before_votes_on(counted.b[gone], counted.a[gone], a, b)
    np.testing.assert_allclose(found[0], expected, atol=2e-4)
    np.testing.assert_allclose(found[1], variance + posterior.prior.pair, rtol=2e-4)


def test_votes_taken_out_are_close_to_never_cast(copies: World, chosen: CastVotes) -> None:
    posterior, setting = _fitted(copies, chosen)
    counted, pair = tally(chosen.votes), chosen.pairs()
    gone = np.random.default_rng(0).random(pair.max() + 1) < 0.05
    rest = tally(chosen.take(~gone[pair]).votes)
    refit = fit_posterior(copies.features, rest, setting.prior, setting.model)
    first = np.unique(pair, return_index=True)[1]
    out = chosen.take(first[gone]).votes
    a, b = copies.pool.pair_a, copies.pool.pair_b
    before, _ = posterior.before_votes(a, b)
    found, _ = posterior.before_votes_on(out.a, out.b, a, b)
    exact, _ = refit.before_votes(a, b)
    assert len(counted.a) > len(rest.a)
    assert np.std(found - exact) < 0.25 * np.std(before - exact)


def test_a_pair_is_taken_out_once(copies: World, chosen: CastVotes) -> None:
    posterior, _ = _fitted(copies, chosen)
    twice = np.array([chosen.votes.a[0]] * 2), np.array([chosen.votes.b[0]] * 2)
    with pytest.raises(PreferenceError, match="taken out twice"):
        posterior.before_votes_on(*twice, copies.pool.pair_a[:3], copies.pool.pair_b[:3])


def test_what_is_foretold_was_not_told(copies: World, chosen: CastVotes) -> None:
    """Turning a control vote round changes nothing of how it is foretold by others' votes."""
    posterior, setting = _fitted(copies, chosen)
    at = int(np.flatnonzero(chosen.control & (chosen.votes.grade != 0))[5])
    one = chosen.take(np.array([at])).votes
    chance = preferred(posterior, one)
    grade = chosen.votes.grade.copy()
    grade[at] *= -1
    votes = Votes(chosen.votes.a, chosen.votes.b, grade)
    turned = fit_posterior(copies.features, tally(votes), setting.prior, setting.model)
    moved = abs(turned.preferred(one.a, one.b) - posterior.preferred(one.a, one.b))
    assert abs(preferred(turned, one) - chance) < 0.1 * moved


# The whole.


@pytest.fixture(scope="module")
def found(copies: World, chosen: CastVotes) -> Saving:
    return saving(copies.features, chosen, np.random.default_rng(0))


def test_a_choice_that_wastes_nothing_saves(copies: World, found: Saving) -> None:
    """A uniform choice spends most of its votes on copies, and d-optimal none."""
    assert found.n_uniform == 120
    assert found.share.value is not None and found.share.value > 0.3
    assert found.learned
    assert found.evidence > 2.5
    assert found.shown


def test_other_votes_are_charged(copies: World, chosen: CastVotes, found: Saving) -> None:
    """Thirty answers on gold before the first round make every count thirty votes later."""
    later = CastVotes(chosen.votes, chosen.control, chosen.number + 30)
    charged = saving(copies.features, later, np.random.default_rng(0))
    assert charged.votes.value == pytest.approx(found.votes.value + 30, abs=12)


def test_the_same_votes_say_the_same(copies: World, chosen: CastVotes, found: Saving) -> None:
    again = saving(copies.features, chosen, np.random.default_rng(0))
    for name in ("value", "low", "high"):
        assert getattr(again.share, name) == getattr(found.share, name)
    assert again.looks == found.looks
    np.testing.assert_array_equal(again.ours, found.ours)


def test_a_look_that_was_taken_stands(copies: World, chosen: CastVotes, found: Saving) -> None:
    """Later votes change nothing of it, and what is kept of it goes before what would be found."""
    looks = {
        n: [saving(copies.features, chosen.take(np.arange(m)), np.random.default_rng(0)).looks[0]]
        for n, m in ((60, 300), (61, 420))
    }
    assert looks[60] == looks[61] == [found.looks[0]]
    turned = {60: not found.looks[0][1]}
    again = saving(copies.features, chosen, np.random.default_rng(0), looked=turned)
    assert again.looks == ((60, turned[60]), *found.looks[1:])


def test_a_control_arm_that_knows_nothing_yields_no_figure() -> None:
    """Even without any vote the project is no worse: nothing is claimed, and nothing breaks."""
    at = np.array([0.0, 100.0, 200.0])
    votes = crossing(at, exact(np.array([0.005, 0.06, 0.1]), 0.02))
    assert (votes.value, votes.low) == (None, None)
    found = _saving(votes=votes)
    assert not found.shown
    assert document_of(found, 400, 2_000)["answer"] == "not-shown"


def test_both_learners_foretell_the_same_votes(copies: World, chosen: CastVotes) -> None:
    lessons = [chosen.control, np.zeros(len(chosen.control), dtype=bool)]
    both = measured(copies.features, chosen, lessons, np.random.default_rng(0), groups=5)
    sided = chosen.control & (chosen.votes.grade != 0)
    assert both.score.shape == (2, int(sided.sum()))
    # Taught nothing, a learner knows nothing.
    np.testing.assert_allclose(both.score[1], np.log(0.5), atol=1e-9)
    np.testing.assert_array_equal(both.right[1], 0.5)


def test_too_few_control_votes_are_refused(copies: World, chosen: CastVotes) -> None:
    with pytest.raises(PreferenceError, match="29 votes of the control arm"):
        saving(copies.features, chosen.until(FEWEST - 1), np.random.default_rng(0))


# What is said of it.


def _saving(**changes: object) -> Saving:
    from annotator.budget.savings import Interval

    flat = np.tile([0.1, 0.05, 0.15], (3, 1))
    values = {
        "n_uniform": 400, "votes": Interval(260.0, 210.0, 330.0),
        "right": Interval(0.02, -0.01, 0.05), "evidence": 3.0,
        "looks": ((60, False), (120, True), (240, True)), "learned": True,
        "at": np.array([0, 400, 800]), "ours": flat, "uniform_at": np.array([200, 400]),
        "uniform": flat[:2],
    }  # fmt: skip
    return Saving(**(values | changes))  # type: ignore[arg-type]


def test_a_saving_is_a_number_with_an_interval() -> None:
    document = document_of(_saving(), 400, 2_000)
    assert document["answer"] == "saving"
    assert (document["share"], document["low"], document["high"]) == (0.35, 0.175, 0.475)
    assert document["looks"] == {"shown_at": [120, 240], "next": 480}
    assert "35% fewer (95 %: 18% to 48%)" in document["sentence"]


@pytest.mark.parametrize(
    ("changes", "answer", "words"),
    [
        ({"looks": ((60, True), (240, False))}, "not-shown", "No saving is shown yet"),
        ({"votes": ("v", 300.0, 410.0)}, "not-shown", "between 300 and 410 votes"),
        ({"votes": (None, 395.0, None)}, "not-saving", "`random` is as good"),
        ({"votes": (None, 500.0, None)}, "not-saving", "a loss of 25% or more"),
        ({"learned": False, "looks": ((60, False),)}, "not-saving", "better than a coin"),
        ({"evidence": -0.5, "looks": ((60, False),)}, "not-shown", "does not look as though"),
        ({"evidence": 1.0, "looks": ((60, False),)}, "not-shown", "more votes will show it"),
        ({"votes": ("v", 370.0, 390.0), "looks": ((60, False),)}, "not-shown", "370 and 390"),
        ({"votes": (None, 395.0, None), "looks": ()}, "not-shown", "at least 395 votes"),
        ({"votes": (None, None, 50.0)}, "not-shown", "at most 50 votes"),
        ({"evidence": 0.1, "looks": ((60, False),)}, "not-shown", "so small"),
    ],
)
def test_other_answers(changes: dict[str, object], answer: str, words: str) -> None:
    from annotator.budget.savings import Interval

    votes = changes.get("votes")
    if isinstance(votes, tuple):
        value = 350.0 if votes[0] == "v" else None
        changes = changes | {"votes": Interval(value, votes[1], votes[2])}
    document = document_of(_saving(**changes), 400, 2_000)
    assert document["answer"] == answer
    assert words in document["sentence"]


@settings(max_examples=30, deadline=None)
@given(st.floats(0.01, 5.0), st.integers(30, 5_000))
def test_more_votes_end_at_a_look(evidence: float, n_control: int) -> None:
    found = _saving(evidence=evidence, n_uniform=n_control, looks=((60, False),))
    document = document_of(found, n_control, 5 * n_control)
    if document["more_votes"] is not None:
        assert document["more_votes"] >= 5 * (document["looks"]["next"] - n_control) - 5
