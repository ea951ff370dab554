"""The crowd and the preference model together, and what a posterior says without a pair's votes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import choix
import numpy as np
import pytest

from annotator.errors import PreferenceError
from annotator.labels.crowd import GOLD_UNKNOWN, Crowd, CrowdVotes
from annotator.labels.joint_fit import fit_jointly
from annotator.preference.features import ResponseFeatures
from annotator.preference.layout import Prior
from annotator.preference.learner import Learner
from annotator.preference.posterior import Posterior, fit_posterior
from annotator.preference.vote_model import VoteModel
from annotator.preference.votes import Votes, tally
from strategies.within_prompt import all_pairs
from tests.preference_world import Truth, features_of, votes_at_random

SIZES = [2, 5, 3, 12, 2, 4, 1, 7, 3, 2]
PRIOR = Prior(response=0.7, product=0.3, form=0.2, model=0.9, own=0.5, pair=0.4)


# Posterior.before_votes


def without(votes: Votes, a: int, b: int) -> Votes:
    kept = (np.minimum(votes.a, votes.b) != min(a, b)) | (np.maximum(votes.a, votes.b) != max(a, b))
    lapse = None if votes.lapse is None else votes.lapse[kept]
    return Votes(votes.a[kept], votes.b[kept], votes.grade[kept], lapse)


@pytest.mark.parametrize("lapses", [None, (0.02, 0.3)])
def test_before_its_votes_a_pair_is_what_a_fit_without_them_says(
    lapses: tuple[float, ...] | None,
) -> None:
    """Other votes keep the approximation that was made with the pair's: hence the tolerance."""
    features = features_of(SIZES, seed=1)
    votes = votes_at_random(features, 120, seed=2, lapses=lapses)
    model = VoteModel()
    posterior = fit_posterior(features, tally(votes), PRIOR, model)
    pairs = np.unique(np.stack((votes.a, votes.b), axis=1), axis=0)[::5]
    mean, variance = posterior.before_votes(pairs[:, 0], pairs[:, 1])
    after = posterior.differences(pairs[:, 0], pairs[:, 1])
    off, moved = [], []
    for i, (a, b) in enumerate(pairs.tolist()):
        refit = fit_posterior(features, tally(without(votes, a, b)), PRIOR, model)
        expected = refit.differences(pairs[i : i + 1, 0], pairs[i : i + 1, 1])
        assert mean[i] == pytest.approx(expected.mean[0], abs=0.12)
        assert variance[i] == pytest.approx(expected.variance[0], rel=0.12)
        off.append(mean[i] - expected.mean[0])
        moved.append(after.mean[i] - expected.mean[0])
    # The approximation is an order of magnitude closer than the posterior that has the votes.
    assert np.std(off) < 0.1 * np.std(moved)


def test_the_only_pair_with_votes_goes_back_to_its_prior() -> None:
    features = features_of(SIZES, seed=3)
    a, b = np.flatnonzero(features.prompt_of_response == 3)[[4, 1]]
    grade = np.array([1, 1, -1, 1, 0, 1, 1])
    votes = Votes(np.full(7, a), np.full(7, b), grade)
    posterior = fit_posterior(features, tally(votes), PRIOR, VoteModel())
    nothing = fit_posterior(features, tally(Votes.none()), PRIOR, VoteModel())
    one = np.array([a]), np.array([b])
    mean, variance = posterior.before_votes(*one)
    assert mean[0] == pytest.approx(0.0, abs=1e-4)
    assert variance[0] == pytest.approx(nothing.variance(*one)[0], rel=1e-4)
    assert abs(posterior.differences(*one).mean[0]) > 0.3


def test_hundreds_of_votes_on_a_pair_are_taken_out_without_a_trace() -> None:
    features = features_of([2, 2], seed=4)
    a, b = np.flatnonzero(features.prompt_of_response == 0)
    grade = np.repeat([1, 0, -1], [700, 200, 100])
    votes = Votes(np.full(1000, a), np.full(1000, b), grade)
    posterior = fit_posterior(features, tally(votes), PRIOR, VoteModel())
    nothing = fit_posterior(features, tally(Votes.none()), PRIOR, VoteModel())
    one = np.array([a]), np.array([b])
    mean, variance = posterior.before_votes(*one)
    assert mean[0] == pytest.approx(0.0, abs=1e-3)
    assert variance[0] == pytest.approx(nothing.variance(*one)[0], rel=1e-3)


def test_a_pair_without_votes_stays_and_a_turned_pair_turns() -> None:
    features = features_of(SIZES, seed=5)
    votes = votes_at_random(features, 60, seed=6)
    posterior = fit_posterior(features, tally(votes), PRIOR, VoteModel())
    a, b = all_pairs(features.prompt_of_response)
    mean, variance = posterior.before_votes(a, b)
    voted = set(zip(np.minimum(votes.a, votes.b), np.maximum(votes.a, votes.b), strict=True))
    bare = np.array([pair not in voted for pair in zip(a, b, strict=True)])
    now = posterior.differences(a, b)
    np.testing.assert_allclose(mean[bare], now.mean[bare], atol=1e-6)
    np.testing.assert_allclose(variance[bare], now.variance[bare], rtol=1e-6)
    assert np.abs(mean - now.mean)[~bare].max() > 0.1
    other, same = posterior.before_votes(b, a)
    np.testing.assert_allclose(other, -mean, atol=1e-6)
    np.testing.assert_allclose(same, variance, rtol=1e-6)
    assert posterior.before_votes(a[:0], b[:0])[0].shape == (0,)


# fit_jointly


@dataclass(frozen=True, eq=False)
class World:
    features: ResponseFeatures
    a: np.ndarray
    b: np.ndarray
    difference: np.ndarray
    skill: np.ndarray
    votes: CrowdVotes


def world(seed: int, skill: np.ndarray, n_pairs: int, per_pair: int, prompts: int) -> World:
    """Pairs of prompts with 2 to 5 responses; careless people press keys at random."""
    rng = np.random.default_rng(seed)
    features = features_of(rng.integers(2, 6, prompts).tolist(), seed)
    truth = Truth.drawn(features, Prior(), VoteModel(0.4, None, 0.0), seed)
    a, b = all_pairs(features.prompt_of_response)
    chosen = rng.choice(len(a), n_pairs, replace=False)
    swap = rng.random(n_pairs) < 0.5
    a, b = np.where(swap, b[chosen], a[chosen]), np.where(swap, a[chosen], b[chosen])
    pair = np.repeat(np.arange(n_pairs), per_pair)
    annotator = np.concatenate(
        [rng.choice(len(skill), per_pair, replace=False) for _ in range(n_pairs)]
    )
    looked = truth.votes(a[pair], b[pair], rng).grade
    lapsed = rng.random(len(pair)) > skill[annotator]
    grade = np.where(lapsed, rng.integers(-1, 2, len(pair)), looked)
    votes = CrowdVotes(pair, grade, annotator, rng.random(len(pair)) < 0.5, n_pairs, len(skill))
    return World(features, a, b, truth.difference(a, b), skill, votes)


def log_loss(crowd: Crowd, difference: np.ndarray) -> float:
    p = np.clip(crowd.preferred, 1e-12, 1.0 - 1e-12)
    return float(-np.log(np.where(difference > 0, p, 1.0 - p)).mean())


def right(crowd: Crowd, difference: np.ndarray) -> float:
    return float(((crowd.preferred > 0.5) == (difference > 0)).mean())


def test_it_pays_to_know_who_is_careless() -> None:
    skill = np.where(np.arange(10) < 3, 0.05, 0.95)
    knowing, alike, error = [], [], []
    for seed in range(3):
        true = world(seed, skill, 800, 3, 260)
        posterior, crowd = fit_jointly(Learner(true.features), true.a, true.b, true.votes)
        one = replace(true.votes, annotator=np.zeros_like(true.votes.annotator), n_annotators=1)
        _, same = fit_jointly(Learner(true.features), true.a, true.b, one)
        knowing.append((right(crowd, true.difference), -log_loss(crowd, true.difference)))
        alike.append((right(same, true.difference), -log_loss(same, true.difference)))
        error.append(np.abs(crowd.people.skill - skill))
        assert crowd.people.skill[skill > 0.5].min() > crowd.people.skill[skill < 0.5].max()
        assert isinstance(posterior, Posterior)
        # Calibration: as often right as it says.
        expected = 1.0 - crowd.error.mean()
        assert right(crowd, true.difference) == pytest.approx(expected, abs=0.05)
    gain = np.mean(knowing, axis=0) - np.mean(alike, axis=0)
    assert gain[0] > 0.015 and gain[1] > 0.02
    assert np.mean(error) < 0.15


def test_people_who_share_no_pair_are_told_apart_by_what_the_preference_model_knows() -> None:
    """With one vote a pair the crowd alone could not."""
    skill = np.array([0.95, 0.95, 0.0, 0.95, 0.0])
    true = world(7, skill, 900, 1, 200)
    _, crowd = fit_jointly(Learner(true.features), true.a, true.b, true.votes)
    assert crowd.people.skill[skill > 0.5].min() > crowd.people.skill[skill < 0.5].max() + 0.2


def test_honest_annotators_give_the_strengths_of_bradley_and_terry() -> None:
    rng = np.random.default_rng(9)
    features = features_of([9, 2], seed=9)
    items = np.flatnonzero(features.prompt_of_response == 0)
    strength = rng.normal(0.0, 1.2, 9)
    slots = np.array([(i, j) for i in range(9) for j in range(i + 1, 9)])
    pair = np.repeat(np.arange(len(slots)), 40)
    d = strength[slots[pair, 0]] - strength[slots[pair, 1]]
    grade = np.where(rng.random(len(pair)) < 1.0 / (1.0 + np.exp(-d)), 1, -1)
    votes = CrowdVotes(
        pair, grade, np.tile(np.arange(40), len(slots)), rng.random(len(pair)) < 0.5, len(slots), 40
    )
    a, b = items[slots[:, 0]], items[slots[:, 1]]
    posterior, crowd = fit_jointly(Learner(features), a, b, votes)
    winners = np.where(grade > 0, slots[pair, 0], slots[pair, 1])
    losers = np.where(grade > 0, slots[pair, 1], slots[pair, 0])
    told = choix.ilsr_pairwise(9, np.stack((winners, losers), axis=1).tolist(), alpha=1e-3)
    ours = posterior.reward_mean[items] - posterior.reward_mean[items].mean()
    assert np.corrcoef(ours, told)[0, 1] > 0.995
    # Ours are a little larger: some votes are taken to be lapses, some of d to be the pair's own.
    slope = (ours @ told) / (told @ told)
    assert 1.0 < slope < 1.4
    assert crowd.people.skill.mean() > 0.85
    between = told[slots[:, 0]] - told[slots[:, 1]]
    far = np.abs(between) > 0.5
    np.testing.assert_array_equal((crowd.preferred > 0.5)[far], (between > 0.0)[far])


def test_gold_reaches_the_crowd() -> None:
    true = world(10, np.full(4, 0.9), 60, 2, 30)
    gold = np.full(60, GOLD_UNKNOWN)
    gold[:3] = 1, -1, 0
    _, crowd = fit_jointly(Learner(true.features), true.a, true.b, true.votes, gold)
    np.testing.assert_array_equal(crowd.gold, gold)
    np.testing.assert_allclose(crowd.preferred[:2], [1.0, 0.0], atol=1e-12)


def test_pairs_that_the_preference_model_cannot_see_are_left_to_the_crowd() -> None:
    true = world(12, np.full(5, 0.9), 200, 2, 80)
    seen = np.arange(200) % 4 > 0
    a, b = np.where(seen, true.a, -1), np.where(np.arange(200) % 8 > 0, true.b, -1)
    posterior, crowd = fit_jointly(Learner(true.features), a, b, true.votes)
    assert len(np.unique(crowd.prior.variance[~seen])) == 1
    assert not crowd.prior.mean[~seen].any()
    mean, variance = posterior.before_votes(true.a[seen], true.b[seen])
    np.testing.assert_allclose(crowd.prior.mean[seen], mean, atol=1e-6)
    np.testing.assert_allclose(crowd.prior.variance[seen], variance, rtol=1e-6)
    assert right(crowd, true.difference) > 0.7


def test_what_does_not_fit_is_refused() -> None:
    true = world(11, np.full(3, 0.9), 20, 1, 10)
    learner = Learner(true.features)
    with pytest.raises(PreferenceError, match="twice"):
        fit_jointly(learner, np.append(true.a[:19], true.b[0]), np.append(true.b[:19], true.a[0]),
                    true.votes)  # fmt: skip
    with pytest.raises(PreferenceError, match="shapes"):
        fit_jointly(learner, true.a[:5], true.b[:5], true.votes)
    with pytest.raises(PreferenceError, match="0 rounds"):
        fit_jointly(learner, true.a, true.b, true.votes, rounds=0)
