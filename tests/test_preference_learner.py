"""The learner, against another library and against simulated worlds whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import choix
import numpy as np
import pytest

from annotator.preference.features import COVARIATES, ResponseFeatures, response_features
from annotator.preference.laplace import find_mode
from annotator.preference.layout import Layout, Prior
from annotator.preference.learner import FIRST_TUNING, Learner
from annotator.preference.posterior import Posterior, fit_posterior
from annotator.preference.tuning import Setting, default_setting, tuned
from annotator.preference.vote_model import VoteModel
from annotator.preference.votes import Votes, tally
from strategies.within_prompt import all_pairs
from tests.preference_world import Truth, features_of, pairs_at_random, votes_at_random


class TestAgainstChoix:
    """No features, no pair term, no ties, no lapses: regularised Bradley-Terry, prompt by prompt.

    choix maximises the log likelihood less alpha times the sum of squares, and so does a normal
    prior of variance 1 / (2 alpha) for every response.
    """

    FEATURES = features_of([7, 3, 12], seed=1)
    OWN = 0.8

    def votes(self) -> Votes:
        votes = votes_at_random(self.FEATURES, 400, seed=2)
        decided = np.flatnonzero(votes.grade)
        return Votes(votes.a[decided], votes.b[decided], votes.grade[decided])

    def fitted(self, prior: Prior) -> Posterior:
        model = VoteModel(tie=1e-9, lapse=0.0)
        return fit_posterior(self.FEATURES, tally(self.votes()), prior, model)

    def winners(self, votes: Votes, members: np.ndarray) -> list[tuple[int, int]]:
        place = {int(at): i for i, at in enumerate(members)}
        return [
            (place[a], place[b]) if grade > 0 else (place[b], place[a])
            for a, b, grade in np.stack((votes.a, votes.b, votes.grade), axis=1).tolist()
            if a in place
        ]

    @pytest.mark.parametrize("prompt", [0, 2])
    def test_rewards(self, prompt: int) -> None:
        posterior = self.fitted(Prior(0.0, 0.0, 0.0, 0.0, own=self.OWN, pair=0.0))
        members = np.flatnonzero(self.FEATURES.prompt_of_response == prompt)
        winners = self.winners(self.votes(), members)
        assert len(winners) > 50
        expected = choix.opt_pairwise(
            len(members), winners, alpha=1 / (2 * self.OWN), method="Newton-CG", tol=1e-10
        )
        found = posterior.reward_mean[members]
        np.testing.assert_allclose(found - found.mean(), expected - expected.mean(), atol=2e-4)

    def test_almost_without_a_prior(self) -> None:
        posterior = self.fitted(Prior(0.0, 0.0, 0.0, 0.0, own=1e4, pair=0.0))
        members = np.flatnonzero(self.FEATURES.prompt_of_response == 0)
        expected = choix.ilsr_pairwise(len(members), self.winners(self.votes(), members))
        found = posterior.reward_mean[members]
        np.testing.assert_allclose(found - found.mean(), expected, atol=5e-3)


SIZES = [4] * 60
PRIOR = Prior(response=1.6, product=0.1, form=0.5, model=0.4, own=0.3, pair=0.3)
MODEL = VoteModel(0.7, None, 0.05)


def world(seed: int, sizes: list[int] = SIZES, model: VoteModel = MODEL) -> Truth:
    return Truth.drawn(features_of(sizes, seed, dimension=6), PRIOR, model, seed)


def share_right(truth: Truth, posterior: Posterior) -> float:
    a, b = all_pairs(truth.features.prompt_of_response)
    agrees = np.sign(truth.reward[a] - truth.reward[b]) == np.sign(
        posterior.reward_mean[a] - posterior.reward_mean[b]
    )
    return float(agrees.mean())


@pytest.fixture(scope="module")
def learned() -> list[tuple[Truth, list[Posterior], Learner]]:
    """Worlds, each with the posteriors after 0, 30, 120 and 600 votes."""
    found = []
    for seed in range(4):
        truth, rng = world(seed), np.random.default_rng(seed)
        votes = truth.votes(*pairs_at_random(truth.features, 600, rng), rng)
        learner = Learner(truth.features)
        found.append((truth, [learner.learn(first(votes, n)) for n in (0, 30, 120, 600)], learner))
    return found


def first(votes: Votes, n: int) -> Votes:
    return Votes(votes.a[:n], votes.b[:n], votes.grade[:n])


def test_more_votes_put_more_pairs_right(learned: list) -> None:
    right = np.array([[share_right(truth, p) for p in each] for truth, each, _ in learned])
    mean = right.mean(axis=0)
    assert mean[0] == 0.0  # no order at all
    assert mean[1] > 0.65
    assert mean[2] > mean[1] + 0.03
    assert mean[3] > mean[2] + 0.02
    assert mean[3] > 0.82


def said_and_true(truth: Truth, posterior: Posterior) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """P(a preferred) of pairs that nobody voted on: the posterior's, the real one, and how often
    it comes to that because the vote is no tie."""
    a, b = all_pairs(truth.features.prompt_of_response)
    fresh = posterior.differences(a, b).share == 1.0
    a, b = a[fresh], b[fresh]
    grades = truth.model.grades(truth.difference(a, b))
    decided = grades[:, 0] + grades[:, 2]
    return posterior.preferred(a, b), grades[:, 2] / decided, decided


@pytest.mark.parametrize("n", [30, 300])
def test_with_the_true_setting_probabilities_are_calibrated(n: int) -> None:
    gaps, scores = [], []
    for seed in range(60):
        truth, rng = world(100 + seed, [4] * 25), np.random.default_rng(seed)
        votes = tally(truth.votes(*pairs_at_random(truth.features, n, rng), rng))
        posterior = fit_posterior(truth.features, votes, PRIOR, MODEL)
        p, q, decided = said_and_true(truth, posterior)
        p, q = np.concatenate((p, 1 - p)), np.concatenate((q, 1 - q))
        decided = np.tile(decided, 2)
        bins = np.minimum((10 * p).astype(int), 9)
        gaps.append([np.bincount(bins, decided * x, 10) for x in (p - q, np.ones(len(p)))])
        scores.append([(decided * x).sum() for x in ((p - q) ** 2, q**2 - p**2, (q - 0.5) ** 2)])
    # What is said is true on average, in each tenth of what can be said. Pairs of a world are not
    # independent, so the error is that of a mean over worlds.
    gap, weight = np.array(gaps).transpose(1, 2, 0)
    error = gap.std(axis=1) / np.sqrt(gap.shape[1])
    assert (np.abs(gap.mean(axis=1)) < 3.5 * error + 0.02 * weight.mean(axis=1)).all()
    # Of what can be known, E[(p - q)^2] = E[q^2] - E[p^2]; being too sure would make it more.
    loss, irreducible, of_a_half = np.array(scores).T
    error = (loss - irreducible).std() / np.sqrt(len(loss))
    assert abs((loss - irreducible).mean()) < 3.5 * error + 0.02 * of_a_half.mean()
    assert loss.mean() < (0.8 if n == 30 else 0.4) * of_a_half.mean()
    assert error < 0.1 * of_a_half.mean()


def test_with_tuned_settings_probabilities_stay_calibrated(learned: list) -> None:
    for at in (2, 3):
        worlds = [said_and_true(truth, posteriors[at]) for truth, posteriors, _ in learned]
        p, q, decided = (np.concatenate(column) for column in zip(*worlds, strict=True))
        assert (decided @ (p - q) ** 2) < 0.8 * (decided @ (0.5 - q) ** 2)
        slope = (decided * (p - 0.5) @ (q - 0.5)) / (decided * (p - 0.5) @ (p - 0.5))
        assert 0.85 < slope < 1.35


def test_the_spread_of_differences_is_that_of_the_truth(learned: list) -> None:
    for at in (2, 3):
        z = []
        for truth, posteriors, _ in learned:
            a, b = all_pairs(truth.features.prompt_of_response)
            found = posteriors[at].differences(a, b)
            z.append((truth.difference(a, b) - found.mean) / np.sqrt(found.variance))
        squares = (np.concatenate(z) ** 2).mean()
        assert 0.65 < squares < 1.4, at


class TestTuning:
    def test_raises_the_evidence(self) -> None:
        truth, rng = world(11), np.random.default_rng(11)
        votes = tally(truth.votes(*pairs_at_random(truth.features, 300, rng), rng))

        def evidence(setting: Setting) -> float:
            layout = Layout.of(truth.features, setting.prior, setting.model, votes)
            return find_mode(layout).evidence

        start = default_setting(votes)
        found = tuned(truth.features, votes, start)
        assert evidence(found) > evidence(start)
        # Nor is it far below that of the setting by which the votes were drawn.
        assert evidence(found) > evidence(Setting(PRIOR, MODEL)) - 5.0

    def test_finds_the_order_of_magnitude(self) -> None:
        prior = Prior(response=3.0, product=0.05, form=0.1, model=0.2, own=0.15, pair=0.5)
        model = VoteModel(1.2, None, 0.05)
        found = []
        for seed in range(3):
            features = features_of([4] * 150, seed, dimension=24)
            truth, rng = Truth.drawn(features, prior, model, seed), np.random.default_rng(seed)
            votes = tally(truth.votes(*pairs_at_random(features, 1500, rng), rng))
            setting = tuned(features, votes, default_setting(votes))
            of = setting.prior
            found.append([setting.model.tie, of.response, of.product, of.form, of.own])
        tie, response, product, form, own = np.exp(np.log(found).mean(axis=0))
        assert tie == pytest.approx(1.2, rel=0.25)
        assert 1.0 < response < 6.0  # six times the largest of the others
        assert product < 0.15
        assert form < 0.3
        assert own < 0.45

    def test_finds_the_cuts_of_strengths(self) -> None:
        truth = world(5, [4] * 150, VoteModel(0.5, 2.2, 0.02))
        rng = np.random.default_rng(5)
        votes = tally(truth.votes(*pairs_at_random(truth.features, 1200, rng), rng))
        setting = tuned(truth.features, votes, default_setting(votes))
        assert setting.model.tie == pytest.approx(0.5, rel=0.3)
        assert setting.model.much == pytest.approx(2.2, rel=0.3)

    def test_a_step_moves_one_number(self) -> None:
        setting = Setting(Prior(), VoteModel(0.5, 1.5))
        assert setting.moved("own", np.log(2)).prior == replace(Prior(), own=2 * Prior().own)
        wider = setting.moved("tie", np.log(2)).model
        assert (wider.tie, wider.much) == pytest.approx((1.0, 2.0))
        wider = setting.moved("gap", np.log(2)).model
        assert (wider.tie, wider.much) == pytest.approx((0.5, 2.5))
        for name in ("own", "tie", "gap"):
            step = setting.moved(name, 0.3).logarithm(name) - setting.logarithm(name)
            assert step == pytest.approx(0.3)

    def test_ties_alone_do_not_run_away(self) -> None:
        features = features_of(SIZES, 3)
        a, b = pairs_at_random(features, 200, np.random.default_rng(0))
        posterior = Learner(features).learn(Votes(a, b, np.zeros(200, dtype=np.int64)))
        assert 0.8 < posterior.model.tie < 4.0
        assert posterior.expected(a, b).tie.mean() > 0.4
        np.testing.assert_allclose(posterior.reward_mean, 0.0, atol=1e-6)


class TestLearner:
    def test_settings_depend_on_votes_and_features_alone(self) -> None:
        truth, rng = world(7), np.random.default_rng(7)
        votes = truth.votes(*pairs_at_random(truth.features, 90, rng), rng)
        one, other = Learner(truth.features), Learner(truth.features)
        np.random.default_rng(0).random(100)
        order = np.random.default_rng(1).permutation(90)
        one.learn(votes)
        other.learn(Votes(votes.b[order], votes.a[order], -votes.grade[order]))
        assert one.setting == other.setting != default_setting(tally(votes))

    def test_is_not_tuned_to_a_handful_of_votes(self) -> None:
        truth, rng = world(8), np.random.default_rng(8)
        votes = truth.votes(*pairs_at_random(truth.features, FIRST_TUNING, rng), rng)
        learner = Learner(truth.features)
        learner.learn(first(votes, FIRST_TUNING - 1))
        assert learner.setting == default_setting(tally(votes))
        learner.learn(votes)
        assert learner.setting != default_setting(tally(votes))

    def test_the_first_strength_brings_its_cut(self) -> None:
        features = features_of(SIZES, 9)
        a, b = pairs_at_random(features, 20, np.random.default_rng(0))
        learner, grade = Learner(features), np.ones(20, dtype=np.int64)
        assert learner.learn(Votes(a, b, grade)).model.much is None
        grade[3] = 2
        posterior = learner.learn(Votes(a, b, grade))
        assert posterior.model.much is not None
        assert posterior.differences(a[3:4], b[3:4]).mean[0] > 0

    def test_each_fit_is_that_of_a_fresh_learner_with_its_setting(self) -> None:
        truth, rng = world(10), np.random.default_rng(10)
        votes = truth.votes(*pairs_at_random(truth.features, 70, rng), rng)
        learner = Learner(truth.features)
        for n in (0, 1, 39, 45, 70):
            found = learner.learn(first(votes, n))
            assert learner.setting is not None
            fresh = fit_posterior(
                truth.features,
                tally(first(votes, n)),
                learner.setting.prior,
                learner.setting.model,
            )
            np.testing.assert_allclose(found.reward_mean, fresh.reward_mean, atol=2e-4)

    @pytest.mark.parametrize("key", ["left", "random"])
    def test_annotators_who_do_not_look(self, key: str) -> None:
        """Two votes in five are pressed blindly: the truth is found all the same."""
        right = []
        for seed in range(4):
            truth, rng = world(20 + seed), np.random.default_rng(seed)
            a, b = pairs_at_random(truth.features, 800, rng)
            turned = rng.random(800) < 0.5
            votes = truth.votes(np.where(turned, b, a), np.where(turned, a, b), rng)
            blind = rng.random(800) < 0.4
            pressed = 1 if key == "left" else rng.integers(-1, 2, 800)
            grade = np.where(blind, pressed, votes.grade)
            lapse = np.where(blind, 0.99, 0.02)
            looked = Votes(votes.a[~blind], votes.b[~blind], votes.grade[~blind])
            posteriors = [
                Learner(truth.features).learn(each)
                for each in (
                    Votes(votes.a, votes.b, grade),
                    Votes(votes.a, votes.b, grade, lapse),
                    looked,
                )
            ]
            right.append([share_right(truth, posterior) for posterior in posteriors])
        untold, told, clean = np.mean(right, axis=0)
        assert untold > 0.75
        # Told who did not look, it learns what the others know.
        assert told == pytest.approx(clean, abs=0.02)
        assert told > untold + 0.01

    def test_only_the_left_key(self) -> None:
        truth, rng = world(13), np.random.default_rng(13)
        a, b = pairs_at_random(truth.features, 300, rng)
        turned = rng.random(300) < 0.5
        a, b = np.where(turned, b, a), np.where(turned, a, b)
        posterior = Learner(truth.features).learn(Votes(a, b, np.ones(300, dtype=np.int64)))
        low, high = all_pairs(truth.features.prompt_of_response)
        preferred = posterior.preferred(low, high)
        assert np.isfinite(preferred).all()
        assert abs(preferred.mean() - 0.5) < 0.05


def test_no_votes_and_no_features_to_speak_of() -> None:
    features: ResponseFeatures = features_of([2], seed=0, models=0)
    assert features.n_models == 0
    posterior = Learner(features).learn(Votes.none())
    assert posterior.preferred(np.array([0]), np.array([1])) == pytest.approx(0.5)
    after = Learner(features).learn(Votes(*np.array([[0, 1, 1]]).T))
    assert after.preferred(np.array([0]), np.array([1]))[0] > 0.55


@pytest.mark.parametrize("right", [True, False])
def test_votes_show_how_far_to_believe_a_judge(right: bool) -> None:
    """Who sees the rewards is followed beyond what was voted on, who guesses is not."""
    features = features_of([4] * 80, seed=2, models=0)
    rng = np.random.default_rng(3)
    reward = rng.standard_normal(features.n_responses)
    told = reward + 0.3 * rng.standard_normal(len(reward)) if right else rng.permutation(reward)
    told[rng.random(len(told)) < 0.1] = np.nan
    judged = response_features(
        features.vectors,
        features.prompt_vectors,
        features.prompt_of_response,
        features.form[:, : len(COVARIATES)],
        judged=told[:, None],
    )
    a, b = all_pairs(features.prompt_of_response)
    cast = rng.permutation(len(a))[:120]
    grade = np.sign(reward[a] - reward[b] + 0.3 * rng.logistic(size=len(a))).astype(np.int64)
    votes = Votes(a[cast], b[cast], grade[cast])
    others = np.setdiff1d(np.arange(len(a)), cast)
    right_of = {}
    for name, known in (("judged", judged), ("alone", features)):
        margin = Learner(known).learn(votes).differences(a[others], b[others]).mean
        right_of[name] = np.mean((margin > 0) == (reward[a[others]] > reward[b[others]]))
    if right:
        assert right_of["judged"] > right_of["alone"] + 0.15
    else:
        assert right_of["judged"] == pytest.approx(right_of["alone"], abs=0.05)


@pytest.mark.parametrize("pair_variance", [0.05, 2.5])
def test_several_votes_a_pair_tell_its_own_term_from_noise(pair_variance: float) -> None:
    """With one vote each the pairs' own variance stays what it was; with three it is found."""
    found: dict[int, list[float]] = {1: [], 3: []}
    for seed in range(3):
        rng = np.random.default_rng(seed)
        prior = replace(PRIOR, pair=pair_variance)
        truth = Truth.drawn(features_of([5] * 60, seed, dimension=6), prior, MODEL, seed)
        a, b = all_pairs(truth.features.prompt_of_response)
        for n in found:
            votes = truth.votes(np.repeat(a, n), np.repeat(b, n), rng)
            learner = Learner(truth.features)
            learner.learn(votes)
            assert learner.setting is not None
            found[n].append(learner.setting.prior.pair)
    assert found[1] == [Prior().pair] * 3
    mean = float(np.exp(np.mean(np.log(found[3]))))
    assert mean < 0.35 if pair_variance < 0.5 else mean > 1.0
