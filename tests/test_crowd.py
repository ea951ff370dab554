"""The crowd, against quadrature, other packages, and simulated people of known skill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import pandas as pd
import pytest
from crowdkit.aggregation import MACE, OneCoinDawidSkene
from scipy.integrate import simpson
from scipy.stats import norm

from annotator.errors import PreferenceError
from annotator.labels import crowd_fit
from annotator.labels.crowd import (
    GOLD_UNKNOWN,
    Crowd,
    CrowdVotes,
    PairPrior,
    fit_crowd,
    gain_of_vote,
    people_of_crowd,
)
from annotator.preference.vote_model import VoteModel

MODEL = VoteModel(0.4, None, 0.0)
STRENGTHS = VoteModel(0.5, 1.7, 0.0)


# A world whose truth is known


@dataclass(frozen=True, eq=False)
class World:
    difference: np.ndarray
    skill: np.ndarray
    habit: np.ndarray
    votes: CrowdVotes

    @property
    def left(self) -> np.ndarray:
        return (1.0 - self.skill) * (self.habit[:, 0] - self.habit[:, 2])


def one_of(rng: np.random.Generator, probability: np.ndarray) -> np.ndarray:
    below = probability.cumsum(axis=1)
    return (rng.random((len(below), 1)) * below[:, -1:] > below).sum(axis=1)


def world(
    seed: int,
    often: np.ndarray,
    n_pairs: int,
    skill: np.ndarray | None = None,
    model: VoteModel = MODEL,
    deviation: float = 2.0,
) -> World:
    """Annotator j votes on often[j] pairs drawn at random, none of them twice."""
    rng = np.random.default_rng(seed)
    n = len(often)
    difference = rng.normal(0.0, deviation, n_pairs)
    skill = rng.beta(4.0, 1.0, n) if skill is None else skill
    habit = rng.dirichlet([1.0, 1.0, 1.0], n)
    pair = np.concatenate([rng.choice(n_pairs, count, replace=False) for count in often])
    annotator = np.repeat(np.arange(n), often)
    left_is_a = rng.random(len(pair)) < 0.5
    half = model.n_grades // 2
    looked = one_of(rng, model.grades(difference[pair])) - half
    keys = (1 - one_of(rng, habit[annotator])) * rng.integers(1, half + 1, len(pair))
    lapsed = rng.random(len(pair)) > skill[annotator]
    grade = np.where(lapsed, np.where(left_is_a, keys, -keys), looked)
    order = rng.permutation(len(pair))
    votes = CrowdVotes(pair[order], grade[order], annotator[order], left_is_a[order], n_pairs, n)
    return World(difference, skill, habit, votes)


# The same by brute force, one pair at a time


def careful(d: np.ndarray, grade: int, model: VoteModel) -> np.ndarray:
    above = [1.0, *(1.0 / (1.0 + np.exp(np.minimum(cut - d, 700))) for cut in model.cuts), 0.0]
    place = int(np.clip(grade, -(model.n_grades // 2), model.n_grades // 2)) + model.n_grades // 2
    return above[place] - above[place + 1]


def of_vote(d: np.ndarray, crowd: Crowd, row: int) -> np.ndarray:
    votes, people = crowd.votes, crowd.people
    grade, j = int(votes.grade[row]), votes.annotator[row]
    towards_left = np.sign(grade) * (1 if votes.left_is_a[row] else -1)
    keys = 2 if grade and crowd.model.much is not None else 1
    habit = people.habit[j][1 - towards_left] / keys
    return people.skill[j] * careful(d, grade, crowd.model) + people.lapse[j] * habit


Function: TypeAlias = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Integral:
    """Integrals over d of one pair; `rows` are the votes that count, `gold` its known truth."""

    crowd: Crowd
    pair: int
    rows: np.ndarray

    def of(
        self, function: Function = np.ones_like, low: float = -np.inf, high: float = np.inf
    ) -> float:
        mean = self.crowd.prior.mean[self.pair]
        deviation = np.sqrt(self.crowd.prior.variance[self.pair])
        gold, tie = self.crowd.gold[self.pair], self.crowd.model.tie
        bounds = {1: (0.0, np.inf), -1: (-np.inf, 0.0), 0: (-tie, tie)}.get(gold, (low, high))
        low, high = max(low, bounds[0]), min(high, bounds[1])
        low, high = max(low, mean - 12 * deviation), min(high, mean + 12 * deviation)
        if low >= high:
            return 0.0

        d = np.linspace(low, high, 20_001)
        likelihood = np.prod([of_vote(d, self.crowd, row) for row in self.rows], axis=0)
        return float(simpson(norm.pdf(d, mean, deviation) * likelihood * function(d), x=d))


def check_by_quadrature(crowd: Crowd, pair: int, tolerance: float) -> None:
    rows = np.flatnonzero(crowd.votes.pair == pair)
    whole = Integral(crowd, pair, rows)
    total = whole.of()
    mean, above = whole.of(lambda d: d) / total, whole.of(low=0.0)
    found = [crowd.preferred[pair], crowd.tie[pair], crowd.mean[pair], crowd.variance[pair]]
    expected = [
        above / total,
        whole.of(lambda d: careful(d, 0, crowd.model)) / total,
        mean,
        whole.of(lambda d: (d - mean) ** 2) / total,
    ]
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    wrong = min(above, whole.of(high=0.0)) / total
    np.testing.assert_allclose(crowd.error[pair], wrong, rtol=1e-4, atol=1e-12)
    for row in rows[:4]:
        others = Integral(crowd, pair, rows[rows != row])
        surprise = np.log(others.of()) - np.log(total)
        np.testing.assert_allclose(crowd.surprise[row], surprise, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("model", [MODEL, STRENGTHS, None])
def test_pairs_and_surprise_are_what_quadrature_says(model: VoteModel | None) -> None:
    true = world(3, np.array([25, 14, 6, 1]), 25, model=STRENGTHS if model is None else model)
    crowd = fit_crowd(true.votes, model)
    assert (crowd.model.n_grades == 5) == (model is not MODEL)
    for pair in range(8):
        check_by_quadrature(crowd, pair, 1e-5)


PRIORS = {
    "narrow": (0.3, 0.01), "a needle": (0.3, 1e-8), "wide": (-1.0, 30.0), "far out": (9.0, 1.0),
    "very far out": (60.0, 4.0), "far and narrow": (-6.0, 0.04),
}  # fmt: skip


@pytest.mark.parametrize("mean, variance", PRIORS.values(), ids=PRIORS)
def test_any_prior_is_integrated_as_it_is(mean: float, variance: float) -> None:
    """Beyond what the grid shows that all pairs share."""
    true = world(5, np.array([12, 9, 7]), 12)
    prior = PairPrior(np.full(12, mean), np.full(12, variance))
    crowd = fit_crowd(true.votes, MODEL, prior)
    for pair in range(4):
        check_by_quadrature(crowd, pair, 1e-5)


def test_a_pair_of_hundreds_of_votes_is_as_exact() -> None:
    n = 300
    rng = np.random.default_rng(0)
    grade = rng.choice([-1, 0, 1], n, p=[0.3, 0.2, 0.5])
    votes = CrowdVotes(np.zeros(n, int), grade, np.arange(n) % 20, rng.random(n) < 0.5, 1, 20)
    check_by_quadrature(fit_crowd(votes, MODEL), 0, 1e-5)


def test_gold_cuts_off_what_is_known_to_be_false() -> None:
    true = world(6, np.array([20, 15, 8]), 20)
    gold = np.full(20, GOLD_UNKNOWN)
    gold[:4] = 1, -1, 0, 0
    crowd = fit_crowd(true.votes, MODEL, gold=gold)
    np.testing.assert_allclose(crowd.preferred[:2], [1.0, 0.0], atol=1e-12)
    assert crowd.error[:2].tolist() == [0.0, 0.0]
    assert crowd.mean[0] > 0.0 > crowd.mean[1]
    # The truth ends within a step of the nodes; that step is what the tolerance is for.
    for pair in range(4):
        whole = Integral(crowd, pair, np.flatnonzero(true.votes.pair == pair))
        tie = whole.of(lambda d: careful(d, 0, MODEL)) / whole.of()
        assert crowd.tie[pair] == pytest.approx(tie, abs=0.01)
        assert crowd.mean[pair] == pytest.approx(whole.of(lambda d: d) / whole.of(), abs=0.02)


def test_gold_tells_the_careful_from_the_careless_who_share_no_pair() -> None:
    """Without it nothing could: every pair has one vote."""
    n = 60
    truth = np.where(np.arange(n) % 2 == 0, 1, -1)
    grade = np.where(np.arange(n) < 30, truth, 1)
    annotator = np.repeat([0, 1], 30)
    left_is_a = np.arange(n) % 4 < 2
    votes = CrowdVotes(np.arange(n), grade, annotator, left_is_a, n, 2)
    blind, told = fit_crowd(votes, MODEL), fit_crowd(votes, MODEL, gold=truth)
    assert abs(blind.people.skill[0] - blind.people.skill[1]) < 0.15
    assert told.people.skill_low[0] > told.people.skill_high[1]


def test_gold_says_also_whom_to_believe_where_there_is_none() -> None:
    """Two people guess: one beside somebody who is right on gold, one beside a guesser."""
    n = 120
    gold = np.full(n, GOLD_UNKNOWN)
    gold[:60] = np.where(np.arange(60) % 2 == 0, 1, -1)
    rng = np.random.default_rng(0)
    first = np.where(gold == GOLD_UNKNOWN, rng.choice([-1, 1], n), gold)
    first[30:60] = rng.choice([-1, 1], 30)
    # 0 answers the first and third quarter, 1 the others; 2 and 3 differ from them alike.
    second = first[60:] * np.tile([1, -1], 30)
    votes = CrowdVotes(
        np.concatenate((np.arange(n), np.arange(60, n))),
        np.concatenate((first, second)),
        np.repeat([0, 1, 0, 1, 2, 3], 30),
        rng.random(n + 60) < 0.5,
        n,
        4,
    )
    skill = fit_crowd(votes, MODEL, gold=gold).people.skill
    assert skill[2] < skill[3] - 0.1


# The gain of a vote, against votes that are drawn


def drawn_gain(
    d: np.ndarray, weight: np.ndarray, model: VoteModel, n_votes: int, rng: np.random.Generator
) -> float:
    """How much less often the better guess is wrong once further votes are known."""

    def wrong(groups: np.ndarray) -> float:
        over = np.bincount(groups, weight * (d > 0))
        under = np.bincount(groups, weight * (d <= 0))
        return float(np.minimum(over, under).sum() / weight.sum())

    p = model.grades(d)
    said = np.sort([one_of(rng, p) for _ in range(n_votes)], axis=0)
    return wrong(np.zeros(len(d), int)) - wrong(np.ravel_multi_index(tuple(said), (5,) * n_votes))


@pytest.mark.parametrize("model", [MODEL, STRENGTHS])
def test_the_gain_of_a_vote_is_what_further_votes_turn_out_to_gain(model: VoteModel) -> None:
    rng = np.random.default_rng(1)
    mean, variance = np.array([0.0, 0.3, -0.8, 1.0, 3.0]), np.array([4.0, 0.7, 2.0, 0.5, 1.0])
    found = gain_of_vote(mean, variance, model, 0.2)
    ahead = gain_of_vote(mean, variance, model, 0.2, ahead=2)
    voter = replace(model, lapse=0.2)
    for i in range(len(mean)):
        d = rng.normal(mean[i], np.sqrt(variance[i]), 400_000)
        one, two = (drawn_gain(d, np.ones(len(d)), voter, n, rng) for n in (1, 2))
        assert found[i] == pytest.approx(one, abs=0.003)
        assert ahead[i] == pytest.approx(max(one, two / 2.0), abs=0.003)


def test_the_gain_of_a_pair_with_votes_counts_them() -> None:
    rng = np.random.default_rng(2)
    true = world(8, np.array([30, 30, 20, 12]), 30)
    crowd = fit_crowd(true.votes, MODEL)
    gain = crowd.gain()
    d = rng.normal(0.0, np.sqrt(crowd.prior.variance[0]), 300_000)
    for pair in range(5):
        weight = np.ones(len(d))
        for row in np.flatnonzero(true.votes.pair == pair):
            j, grade = true.votes.annotator[row], true.votes.grade[row]
            side = 1 - np.sign(grade) * (1 if true.votes.left_is_a[row] else -1)
            looked = crowd.people.skill[j] * MODEL.grades(d)[:, grade + 1]
            weight *= looked + crowd.people.lapse[j] * crowd.people.habit[j, side]
        assert gain[pair] == pytest.approx(drawn_gain(d, weight, crowd.model, 1, rng), abs=0.004)
    chosen = np.array([7, 2, 2])
    np.testing.assert_allclose(crowd.gain(chosen), gain[chosen], atol=1e-12)


def test_two_votes_ahead_see_what_one_vote_cannot_turn() -> None:
    """Two to nothing: one more changes no mind, two may."""
    votes = CrowdVotes(np.zeros(2, int), np.ones(2, int), np.arange(2), np.ones(2, bool), 1, 2)
    crowd = fit_crowd(votes, MODEL, PairPrior(np.zeros(1), np.full(1, 4.0)))
    assert crowd.gain()[0] < 1e-3 < crowd.gain(ahead=3)[0]


def test_the_gain_of_a_pair_nobody_saw_is_that_of_its_prior() -> None:
    true = world(9, np.array([9, 9]), 9)
    mean, variance = np.linspace(-2, 2, 12), np.linspace(0.5, 3.0, 12)
    votes = replace(true.votes, n_pairs=12)
    crowd = fit_crowd(votes, MODEL, PairPrior(mean, variance))
    unseen = np.flatnonzero(crowd.n_votes == 0)
    expected = gain_of_vote(mean[unseen], variance[unseen], MODEL, crowd.model.lapse)
    np.testing.assert_allclose(crowd.gain(unseen), expected, atol=1e-12)
    np.testing.assert_allclose(crowd.preferred[unseen], norm.cdf(mean / variance**0.5)[unseen])
    np.testing.assert_array_equal(crowd.mean[unseen], mean[unseen])
    np.testing.assert_array_equal(crowd.variance[unseen], variance[unseen])


# People of known skill


def often(rng: np.random.Generator, n: int) -> np.ndarray:
    """From 5 to 400 votes, as uneven as in life."""
    return np.exp(rng.uniform(np.log(5), np.log(400), n)).astype(int)


@pytest.mark.parametrize("known", [True, False], ids=["prior known", "nothing known"])
def test_intervals_hold_the_truth_about_as_often_as_they_say(known: bool) -> None:
    inside: list[np.ndarray] = []
    for seed in range(10):
        counts = often(np.random.default_rng(seed), 30)
        true = world(seed, counts, 800)
        prior = PairPrior(np.zeros(800), np.full(800, 4.0)) if known else None
        people = fit_crowd(true.votes, MODEL if known else None, prior).people
        np.testing.assert_array_equal(people.n_votes, counts)
        inside += [
            (people.skill_low <= true.skill) & (true.skill <= people.skill_high),
            (people.left_low <= true.left) & (true.left <= people.left_high),
        ]
    skill, left = np.mean(inside[::2]), np.mean(inside[1::2])
    assert 0.90 <= skill <= 0.99
    assert 0.90 <= left <= 0.995


def test_intervals_close_in_on_people_of_many_votes() -> None:
    counts = np.array([1500, 400, 100, 25, 5, 0] + [700] * 8)
    skill = np.array([0.7] * 6 + [0.9] * 8)
    true = world(11, counts, 1500, skill)
    people = fit_crowd(true.votes).people
    width = (people.skill_high - people.skill_low)[:6]
    assert np.all(np.diff(width) > 0.0)
    assert width[0] < 0.15 and width[5] > 0.9
    many = counts >= 400
    np.testing.assert_allclose(people.skill[many], skill[many], atol=0.1)
    np.testing.assert_allclose(people.left[many], true.left[many], atol=0.1)
    assert people.shown[:6].tolist() == [True, True, True, True, False, False]
    assert np.all((people.skill_low <= people.skill) & (people.skill <= people.skill_high))
    assert np.all((people.left_low <= people.left) & (people.left <= people.left_high))
    # Of somebody who never voted nothing is known but what everybody begins with.
    assert people.skill[5] == pytest.approx(0.8, abs=1e-3)
    assert people.left[5] == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("known", [True, False], ids=["prior known", "nothing known"])
def test_the_people_alone_are_those_of_the_crowd(known: bool) -> None:
    true = world(19, np.array([60, 40, 30, 10, 3]), 60)
    prior = PairPrior(np.zeros(60), np.full(60, 4.0)) if known else None
    gold = np.where(np.arange(60) < 9, np.sign(true.difference).astype(int), GOLD_UNKNOWN)
    given = MODEL if known else None, prior, gold
    alone, whole = people_of_crowd(true.votes, *given), fit_crowd(true.votes, *given).people
    for name in ("n_votes", "skill", "left", "habit", "skill_low", "left_high"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(whole, name))


@pytest.mark.parametrize("deviation, tie, much", [(1.2, 0.3, None), (3.0, 0.8, 2.4)])
def test_deviation_and_cuts_are_found_from_the_votes(
    deviation: float, tie: float, much: float | None
) -> None:
    model = VoteModel(tie, much, 0.0)
    true = world(12, np.full(20, 1000), 4000, model=model, deviation=deviation)
    crowd = fit_crowd(true.votes)
    assert np.sqrt(crowd.prior.variance[0]) == pytest.approx(deviation, rel=0.12)
    assert crowd.model.tie == pytest.approx(tie, rel=0.12)
    assert (crowd.model.much is None) == (much is None)
    if much is not None:
        assert crowd.model.much == pytest.approx(much, rel=0.12)
    assert crowd.model.lapse == pytest.approx(1.0 - true.skill.mean(), abs=0.04)
    # What is believed of pairs is as often right as it says.
    right = (crowd.preferred > 0.5) == (true.difference > 0.0)
    assert right.mean() == pytest.approx(1.0 - crowd.error.mean(), abs=0.02)


def test_a_crowd_of_mostly_careless_people_is_not_turned_upside_down() -> None:
    skill = np.where(np.arange(20) % 10 < 7, 0.05, 0.95)
    true = world(13, np.full(20, 200), 700, skill)
    crowd = fit_crowd(true.votes)
    careful_ones = skill > 0.5
    assert crowd.people.skill[careful_ones].min() > crowd.people.skill[~careful_ones].max()
    right = (crowd.preferred > 0.5) == (true.difference > 0.0)
    sides = np.sign(true.votes.grade)
    count = np.bincount(true.votes.pair, sides, len(right))
    majority = np.where(count > 0, 1.0, np.where(count < 0, 0.0, 0.5))
    majority_right = 1.0 - np.abs(majority - (true.difference > 0.0)).mean()
    assert right.mean() > majority_right + 0.03 > 0.6


def test_whoever_always_presses_left_is_found_out() -> None:
    true = world(14, np.full(6, 150), 200, np.full(6, 0.95))
    lefty = true.votes.annotator == 2
    grade = np.where(lefty, np.where(true.votes.left_is_a, 1, -1), true.votes.grade)
    people = fit_crowd(replace(true.votes, grade=grade)).people
    assert people.skill_high[2] < 0.3 < people.skill_low[[0, 1, 3, 4, 5]].min()
    assert people.left_low[2] > 0.7
    assert np.abs(people.left[[0, 1, 3, 4, 5]]).max() < 0.15


# Other packages


@pytest.fixture(scope="module")
def clear() -> tuple[World, Crowd, pd.DataFrame]:
    """Pairs whose truth nobody careful can miss: there all models are one."""
    skill = np.array([0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.35, 0.2])
    true = world(15, np.full(8, 500), 600, skill, VoteModel(1e-3, None, 0.0), 500.0)
    # No ties from habit, and a always on the left: other packages know of no sides.
    rng = np.random.default_rng(0)
    share = np.array([0.5, 0.4, 0.6, 0.5, 0.3, 0.5, 0.7, 0.5])[true.votes.annotator]
    looked = np.sign(true.difference).astype(int)[true.votes.pair]
    pressed = np.where(rng.random(len(share)) < share, 1, -1)
    lapsed = rng.random(len(share)) > skill[true.votes.annotator]
    votes = replace(
        true.votes,
        grade=np.where(lapsed, pressed, looked),
        left_is_a=np.ones(len(share), dtype=np.bool_),
    )
    prior = PairPrior(np.zeros(600), np.full(600, 1e4))
    crowd = fit_crowd(votes, VoteModel(1e-3, None, 0.0), prior)
    frame = pd.DataFrame({"task": votes.pair, "worker": votes.annotator, "label": votes.grade})
    return replace(true, votes=votes), crowd, frame


@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_it_agrees_with_mace_where_the_models_are_one(
    clear: tuple[World, Crowd, pd.DataFrame],
) -> None:
    _, crowd, frame = clear
    mace = MACE(n_restarts=3, n_iter=50, random_state=0)
    labels = mace.fit_predict(frame)
    seen = labels.index.to_numpy()
    assert np.mean(np.sign(crowd.preferred - 0.5)[seen] == labels.to_numpy()) > 0.99
    # Weights of spamming and not, of workers as they first occur; their sum is below 1.
    weights = mace.spamming_[np.argsort(pd.unique(frame["worker"]))]
    skill = weights[:, 1] / weights.sum(axis=1)
    np.testing.assert_allclose(crowd.people.skill, skill, atol=0.04)


@pytest.mark.filterwarnings("ignore:The (inplace|copy) keyword")
def test_it_agrees_with_one_coin_dawid_skene_where_the_models_are_one(
    clear: tuple[World, Crowd, pd.DataFrame],
) -> None:
    _, crowd, frame = clear
    coin = OneCoinDawidSkene(n_iter=200, tol=1e-9).fit(frame)
    labels = coin.labels_
    assert labels is not None and coin.skills_ is not None
    same = np.sign(crowd.preferred - 0.5)[labels.index.to_numpy()] == labels.to_numpy()
    assert same.mean() > 0.99
    # Who does not look is right half of the time.
    accuracy = crowd.people.skill + crowd.people.lapse / 2.0
    np.testing.assert_allclose(coin.skills_.sort_index().to_numpy(), accuracy, atol=0.03)


# What cannot matter, does not


def turned(votes: CrowdVotes, pairs: np.ndarray) -> CrowdVotes:
    its = pairs[votes.pair]
    grade = np.where(its, -votes.grade, votes.grade)
    return replace(votes, grade=grade, left_is_a=votes.left_is_a ^ its)


def test_which_response_is_called_a_does_not_matter() -> None:
    true = world(16, np.array([60, 40, 30, 10]), 60, model=STRENGTHS)
    rng = np.random.default_rng(3)
    swap, mean = rng.random(60) < 0.5, rng.normal(0.0, 1.0, 60)
    prior = PairPrior(mean, np.full(60, 2.0))
    other = PairPrior(np.where(swap, -mean, mean), prior.variance)
    one = fit_crowd(true.votes, STRENGTHS, prior)
    two = fit_crowd(turned(true.votes, swap), STRENGTHS, other)
    preferred = np.where(swap, 1.0 - two.preferred, two.preferred)
    np.testing.assert_allclose(one.preferred, preferred, atol=1e-4)
    np.testing.assert_allclose(one.surprise, two.surprise, atol=1e-3)
    np.testing.assert_allclose(one.people.left, two.people.left, atol=1e-3)


def test_the_order_of_votes_and_names_does_not_matter() -> None:
    true = world(17, np.array([60, 40, 30, 10]), 60)
    rng = np.random.default_rng(4)
    order, names, places = rng.permutation(140), rng.permutation(4), rng.permutation(60)
    other = true.votes.take(order)
    other = replace(other, annotator=names[other.annotator], pair=places[other.pair])
    one, two = fit_crowd(true.votes), fit_crowd(other)
    np.testing.assert_allclose(one.preferred, two.preferred[places], atol=1e-4)
    np.testing.assert_allclose(one.surprise[order], two.surprise, atol=1e-3)
    np.testing.assert_allclose(one.people.skill, two.people.skill[names], atol=1e-3)


def test_a_search_that_begins_on_some_pairs_ends_where_the_other_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    true = world(18, np.full(10, 600), 900, np.linspace(0.5, 0.8, 10))
    whole = fit_crowd(true.votes)
    monkeypatch.setattr(crowd_fit, "MANY_PAIRS", 500)
    monkeypatch.setattr(crowd_fit, "SOME_PAIRS", 300)
    monkeypatch.setattr(crowd_fit, "BLOCK_PAIRS", 100)
    begun = fit_crowd(true.votes)
    # One "much better" that is not among those pairs is seen all the same.
    grade = true.votes.grade.copy()
    grade[np.flatnonzero(true.votes.pair % 3 == 1)[0]] = 2
    assert fit_crowd(replace(true.votes, grade=grade)).model.n_grades == 5
    np.testing.assert_allclose(begun.people.skill, whole.people.skill, atol=0.005)
    np.testing.assert_allclose(begun.preferred, whole.preferred, atol=0.01)


# Little, one-sided and contradictory votes


def crowd_of(pair: list[int], grade: list[int], annotator: list[int], **sizes: int) -> CrowdVotes:
    columns = (np.array(column, dtype=np.int64) for column in (pair, grade, annotator))
    left_is_a = np.arange(len(pair)) % 2 == 0
    return CrowdVotes(*columns, left_is_a, sizes.get("pairs", 3), sizes.get("annotators", 2))


LITTLE = {
    "no vote": crowd_of([], [], []),
    "one vote": crowd_of([1], [1], [0]),
    "one annotator": crowd_of([0, 1, 2], [1, 0, -1], [0, 0, 0], annotators=1),
    "ties alone": crowd_of([0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 1]),
    "at odds": crowd_of([0, 0, 1, 1], [2, -2, -1, 1], [0, 1, 0, 1]),
    "all of one mind": crowd_of([0] * 40, [1] * 40, list(range(40)), annotators=40),
    "no pair at all": crowd_of([], [], [], pairs=0, annotators=0),
}


@pytest.mark.parametrize("votes", LITTLE.values(), ids=LITTLE)
def test_little_is_believed_of_few_votes(votes: CrowdVotes) -> None:
    crowd = fit_crowd(votes)
    people = crowd.people
    everything = [
        crowd.preferred, crowd.tie, crowd.mean, crowd.variance, crowd.error, crowd.surprise,
        crowd.gain(), people.skill, people.skill_low, people.skill_high, people.left,
        people.left_low, people.left_high,
    ]  # fmt: skip
    assert all(np.isfinite(values).all() for values in everything)
    assert np.all((crowd.preferred >= 0.0) & (crowd.preferred <= 1.0))
    assert np.all(crowd.surprise >= 0.0) and np.all(crowd.gain() >= 0.0)
    unseen = crowd.n_votes == 0
    np.testing.assert_allclose(crowd.preferred[unseen], 0.5)


def test_ties_and_votes_at_odds_leave_a_pair_open() -> None:
    ties, odds = fit_crowd(LITTLE["ties alone"]), fit_crowd(LITTLE["at odds"])
    np.testing.assert_allclose(ties.preferred, 0.5, atol=1e-6)
    assert ties.tie[0] > 1.1 * ties.tie[2] and ties.tie[2] > odds.tie[0]
    np.testing.assert_allclose(odds.preferred[:2], 0.5, atol=0.05)
    mind = fit_crowd(LITTLE["all of one mind"])
    assert mind.preferred[0] > 0.999 and mind.error[0] < 1e-3


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"grade": np.array([3])}, "grade 3"),
        ({"pair": np.array([5])}, "pair 5"),
        ({"annotator": np.array([-1])}, "annotator -1"),
        ({"left_is_a": np.array([True, False])}, "left_is_a"),
    ],
)
def test_votes_that_cannot_be_are_refused(wrong: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(PreferenceError, match=words):
        replace(crowd_of([1], [1], [0]), **wrong)


@pytest.mark.parametrize("mean, variance", [(np.nan, 1.0), (0.0, np.inf), (0.0, 0.0), (0.0, -1.0)])
def test_a_prior_that_is_none_is_refused(mean: float, variance: float) -> None:
    with pytest.raises(PreferenceError, match="pair 1"):
        PairPrior(np.array([0.0, mean, 0.0]), np.array([1.0, variance, 1.0]))
    with pytest.raises(PreferenceError, match="no number"):
        gain_of_vote(np.array([mean]), np.array([variance]), MODEL, 0.1)


def test_gold_and_priors_of_another_size_are_refused() -> None:
    votes = crowd_of([1], [1], [0])
    with pytest.raises(PreferenceError, match="gold"):
        fit_crowd(votes, gold=np.array([1, 0]))
    with pytest.raises(PreferenceError, match="gold"):
        fit_crowd(votes, gold=np.array([1, 0, 2]))
    with pytest.raises(PreferenceError, match="2 pairs for votes on 3"):
        fit_crowd(votes, prior=PairPrior(np.zeros(2), np.ones(2)))
