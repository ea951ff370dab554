"""The posterior, against the same model written out with every unknown as one long vector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.optimize import minimize

from annotator.errors import PreferenceError
from annotator.preference.acquisition import with_posterior
from annotator.preference.features import ResponseFeatures
from annotator.preference.laplace import State, System
from annotator.preference.layout import Layout, Prior, helmert
from annotator.preference.posterior import Posterior, fit_posterior
from annotator.preference.vote_model import VoteModel
from annotator.preference.votes import Votes, tally
from strategies.joint import PairCovariance
from strategies.pool import Pool
from strategies.within_prompt import all_pairs
from tests.preference_world import features_of, pairs_at_random, votes_at_random

SIZES = [2, 5, 3, 20, 2, 4, 1, 7, 3, 2]
PRIOR = Prior(response=0.7, product=0.3, form=0.2, model=0.9, own=0.5, pair=0.4)


@dataclass(frozen=True, eq=False)
class Dense:
    """w, every response's own term and every pair's, in one vector with a diagonal prior.

    `mode` and `covariance` of that vector; `rewards` (n_responses, n) and `pair_rows` give rewards
    and pairs' differences from it.
    """

    mode: np.ndarray
    covariance: np.ndarray
    evidence: float
    rewards: np.ndarray
    column_of_pair: dict[tuple[int, int], int]
    pair: float

    def design(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows that give each pair's d, and the variance of own terms that the vector lacks."""
        rows, missing = self.rewards[a] - self.rewards[b], np.zeros(len(a))
        for i, (x, y) in enumerate(zip(a.tolist(), b.tolist(), strict=True)):
            column = self.column_of_pair.get((min(x, y), max(x, y)))
            if column is None:
                missing[i] = self.pair
            else:
                rows[i, column] = 1.0 if x < y else -1.0
        return rows, missing


def grade_probabilities(d: float, model: VoteModel, lapse: float) -> np.ndarray:
    """As the module's first lines say it, with no care for rounding."""
    above = [1.0 / (1.0 + np.exp(cut - d)) for cut in model.cuts]
    bounds = np.array([1.0, *above, 0.0])
    return (1.0 - lapse) * (bounds[:-1] - bounds[1:]) + lapse / model.n_grades


def dense(features: ResponseFeatures, votes: Votes, prior: Prior, model: VoteModel) -> Dense:
    n = features.n_responses
    phi = prior.weigh(features.rows(np.arange(n)))
    pairs = sorted({(min(a, b), max(a, b)) for a, b in zip(votes.a, votes.b, strict=True)})
    column = {pair: phi.shape[1] + n + i for i, pair in enumerate(pairs)}
    rewards = np.hstack([phi, np.eye(n), np.zeros((n, len(pairs)))])
    found = Dense(np.empty(0), np.empty(0), 0.0, rewards, column, prior.pair)
    design, _ = found.design(votes.a, votes.b)
    variance = np.concatenate(
        [np.ones(phi.shape[1]), np.full(n, prior.own), np.full(len(pairs), prior.pair)]
    )
    lapse = np.full(len(votes), model.lapse) if votes.lapse is None else votes.lapse
    column_of_grade = np.clip(votes.grade + model.n_grades // 2, 0, model.n_grades - 1)

    def log_likelihood(d: np.ndarray) -> np.ndarray:
        return np.array(
            [
                np.log(grade_probabilities(one, model, its)[grade])
                for one, its, grade in zip(d, lapse, column_of_grade, strict=True)
            ]
        )

    def slope_of(d: np.ndarray) -> np.ndarray:
        return (log_likelihood(d + 1e-5) - log_likelihood(d - 1e-5)) / 2e-5

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        d = design @ x
        value = log_likelihood(d).sum() - 0.5 * (x**2 / variance).sum()
        return -value, -(design.T @ slope_of(d)) + x / variance

    result = minimize(
        loss, np.zeros(len(variance)), jac=True, method="L-BFGS-B",
        options={"maxiter": 5000, "maxfun": 10000, "ftol": 1e-16, "gtol": 1e-7, "maxcor": 30},
    )  # fmt: skip
    d = design @ result.x
    fisher = np.empty(len(d))
    for i, (one, its) in enumerate(zip(d, lapse, strict=True)):
        p = grade_probabilities(one, model, its)
        up, down = (grade_probabilities(one + h, model, its) for h in (1e-5, -1e-5))
        fisher[i] = (((up - down) / 2e-5) ** 2 / p).sum()
    precision = np.diag(1.0 / variance) + design.T @ (fisher[:, None] * design)
    log_det = np.linalg.slogdet(precision)[1] + np.log(variance).sum()
    return Dense(
        result.x, np.linalg.inv(precision), -result.fun - 0.5 * log_det, rewards, column, prior.pair
    )


CASES = {
    "three grades": ({}, VoteModel()),
    "five grades": ({"strengths": True}, VoteModel(0.5, 1.4, 0.03)),
    "a lapse for each annotator": ({"lapses": (0.0, 0.1, 0.4)}, VoteModel(0.3, None, 0.05)),
    "both": ({"strengths": True, "lapses": (0.02, 0.3)}, VoteModel(0.2, 1.0, 0.1)),
    "no lapse": ({}, VoteModel(0.4, None, 0.0)),
}


@pytest.fixture(params=CASES, scope="module")
def case(request: pytest.FixtureRequest) -> tuple[ResponseFeatures, Votes, Posterior, Dense]:
    how, model = CASES[request.param]
    features = features_of(SIZES, seed=1, judges=2)
    votes = votes_at_random(features, 70, seed=2, **how)
    posterior = fit_posterior(features, tally(votes), PRIOR, model)
    return features, votes, posterior, dense(features, votes, PRIOR, model)


def test_the_cases_are_uneven(case: tuple[ResponseFeatures, Votes, Posterior, Dense]) -> None:
    features, votes, *_ = case
    prompts = features.prompt_of_response
    assert np.any(np.diff(prompts) < 0)
    assert len(np.unique(prompts[votes.a])) < len(SIZES) - 2
    assert np.any(votes.a > votes.b) and np.any(votes.a < votes.b)
    codes = np.minimum(votes.a, votes.b) * 1000 + np.maximum(votes.a, votes.b)
    assert np.bincount(np.unique(codes, return_inverse=True)[1]).max() >= 3
    assert -1 in features.model and features.n_models == 3


def test_agrees_with_the_dense_model(
    case: tuple[ResponseFeatures, Votes, Posterior, Dense],
) -> None:
    features, _, posterior, expected = case
    a, b = all_pairs(features.prompt_of_response)
    turned = np.arange(len(a)) % 3 == 0
    a, b = np.where(turned, b, a), np.where(turned, a, b)
    rows, missing = expected.design(a, b)
    mean = rows @ expected.mode
    variance = np.vecdot(rows @ expected.covariance, rows) + missing
    assert posterior.evidence == pytest.approx(expected.evidence, abs=2e-4)
    found = posterior.differences(a, b)
    np.testing.assert_allclose(found.mean, mean, atol=2e-4)
    np.testing.assert_allclose(found.variance, variance, rtol=1e-4)
    between = expected.rewards[a] - expected.rewards[b]
    of_rewards = np.vecdot(between @ expected.covariance, between)
    np.testing.assert_allclose(
        found.share**2 * of_rewards + found.own_variance, variance, rtol=1e-4
    )
    np.testing.assert_allclose(
        posterior.reward_mean[a] - posterior.reward_mean[b], between @ expected.mode, atol=2e-4
    )


def test_pairs_covary_as_in_the_dense_model(
    case: tuple[ResponseFeatures, Votes, Posterior, Dense],
) -> None:
    features, _, posterior, expected = case
    pool = Pool.of_responses(np.ascontiguousarray(features.vectors), features.prompt_of_response)
    pool = with_posterior(pool, posterior, np.zeros(pool.n_pairs, dtype=np.int64))
    everything = np.arange(pool.n_pairs)
    found = PairCovariance(pool).covariances(everything, everything)
    between = expected.rewards[pool.pair_a] - expected.rewards[pool.pair_b]
    wanted = between @ expected.covariance @ between.T
    np.testing.assert_allclose(found, wanted, atol=3e-5)
    other_prompts = pool.prompt_of_pair[:, None] != pool.prompt_of_pair
    assert np.abs(wanted[other_prompts]).max() > 0.01
    np.testing.assert_allclose(pool.signal("pair_margin"), expected.design(
        pool.pair_a, pool.pair_b)[0] @ expected.mode, atol=2e-4)  # fmt: skip


class TestInvariance:
    FEATURES = features_of(SIZES, seed=3, judges=2)
    VOTES = votes_at_random(FEATURES, 60, seed=4, strengths=True, lapses=(0.05, 0.2))
    MODEL = VoteModel(0.4, 1.2)

    def fitted(self, votes: Votes) -> Posterior:
        return fit_posterior(self.FEATURES, tally(votes), PRIOR, self.MODEL)

    def assert_same(self, one: Posterior, other: Posterior, rtol: float = 1e-9) -> None:
        a, b = all_pairs(self.FEATURES.prompt_of_response)
        mine, its = one.differences(a, b), other.differences(a, b)
        np.testing.assert_allclose(mine.mean, its.mean, rtol=rtol, atol=rtol)
        np.testing.assert_allclose(mine.variance, its.variance, rtol=max(rtol, 1e-5))
        assert one.evidence == pytest.approx(other.evidence, rel=rtol)

    def test_to_the_order_of_votes(self) -> None:
        order = np.random.default_rng(0).permutation(len(self.VOTES))
        v = self.VOTES
        assert v.lapse is not None
        shuffled = Votes(v.a[order], v.b[order], v.grade[order], v.lapse[order])
        self.assert_same(self.fitted(v), self.fitted(shuffled))

    def test_to_the_sides(self) -> None:
        v = self.VOTES
        self.assert_same(self.fitted(v), self.fitted(Votes(v.b, v.a, -v.grade, v.lapse)))

    def test_to_where_the_search_begins(self) -> None:
        v = self.VOTES
        assert v.lapse is not None
        some = Votes(v.a[:20], v.b[:20], v.grade[:20], v.lapse[:20])
        early = self.fitted(some)
        warm = fit_posterior(self.FEATURES, tally(v), PRIOR, self.MODEL, early)
        self.assert_same(self.fitted(v), warm, rtol=2e-4)
        again = fit_posterior(self.FEATURES, tally(some), PRIOR, self.MODEL, warm)
        self.assert_same(early, again, rtol=2e-4)

    def test_a_fit_that_begins_at_its_own_end_is_over_at_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steps: list[int] = []
        once = System.at

        def counted(layout: Layout, state: State) -> System:
            steps.append(1)
            return once(layout, state)

        monkeypatch.setattr(System, "at", counted)
        found = self.fitted(self.VOTES)
        assert len(steps) > 3
        steps.clear()
        fit_posterior(self.FEATURES, tally(self.VOTES), PRIOR, self.MODEL, found)
        assert len(steps) == 1

    def test_turned_pairs_have_turned_differences(self) -> None:
        posterior = self.fitted(self.VOTES)
        a, b = all_pairs(self.FEATURES.prompt_of_response)
        ahead, back = posterior.differences(a, b), posterior.differences(b, a)
        np.testing.assert_array_equal(ahead.mean, -back.mean)
        np.testing.assert_array_equal(ahead.variance, back.variance)
        np.testing.assert_allclose(
            posterior.preferred(a, b) + posterior.preferred(b, a), 1.0, atol=1e-12
        )


class TestSomeResponses:
    FEATURES = features_of(SIZES, seed=5, judges=1)
    VOTES = votes_at_random(FEATURES, 60, seed=6)

    def fitted(self) -> Posterior:
        return fit_posterior(self.FEATURES, tally(self.VOTES), PRIOR, VoteModel())

    def test_rewards_of_some_are_those_of_all(self) -> None:
        whole = self.fitted().rewards()
        covariance = whole.loadings @ whole.loadings.T
        same = np.equal.outer(*[self.FEATURES.prompt_of_response] * 2)
        covariance += same * (whole.own_loadings @ whole.own_loadings.T)
        rng = np.random.default_rng(0)
        for n in (1, 2, 7, 30):
            asked = rng.choice(self.FEATURES.n_responses, n)
            some = self.fitted().rewards_of(asked)
            np.testing.assert_allclose(some.mean, whole.mean[asked], atol=1e-12)
            same = np.equal.outer(*[self.FEATURES.prompt_of_response[asked]] * 2)
            found = some.loadings @ some.loadings.T
            found += same * (some.own_loadings @ some.own_loadings.T)
            np.testing.assert_allclose(found, covariance[np.ix_(asked, asked)], atol=2e-6)

    def test_differences_of_some_are_those_of_all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("annotator.preference.posterior.BLOCK_PAIRS", 7)
        a, b = all_pairs(self.FEATURES.prompt_of_response)
        order = np.random.default_rng(1).permutation(len(a))
        a, b = a[order], b[order]
        kept = self.fitted()
        kept.rewards()
        wanted = kept.differences(a, b)
        monkeypatch.setattr("annotator.preference.posterior.KEEP_BYTES", 0)
        lean = self.fitted()
        found = lean.differences(a, b)
        assert lean._rewards is None
        np.testing.assert_allclose(found.mean, wanted.mean, atol=1e-12)
        np.testing.assert_allclose(found.variance, wanted.variance, rtol=1e-5)
        np.testing.assert_allclose(lean.reward_mean, kept.reward_mean, atol=1e-12)

    def test_nothing_asked(self) -> None:
        nothing = np.empty(0, dtype=np.int64)
        posterior = self.fitted()
        assert len(posterior.differences(nothing, nothing).mean) == 0
        assert len(posterior.preferred(nothing, nothing)) == 0
        assert len(posterior.rewards_of(nothing).mean) == 0


class TestDegenerate:
    FEATURES = features_of([2, 4, 3, 1], seed=7)

    def fitted(self, *votes: tuple[int, int, int], model: VoteModel | None = None) -> Posterior:
        columns = np.array(votes, dtype=np.int64).reshape(-1, 3).T
        counted = tally(Votes(*columns))
        posterior = fit_posterior(self.FEATURES, counted, PRIOR, model or VoteModel())
        found = posterior.differences(*all_pairs(self.FEATURES.prompt_of_response))
        assert all(np.isfinite(array).all() for array in vars(found).values())
        return posterior

    def pair(self, prompt: int = 1) -> tuple[int, int]:
        a, b = np.flatnonzero(self.FEATURES.prompt_of_response == prompt)[:2].tolist()
        return a, b

    def test_without_votes_it_is_the_prior(self) -> None:
        posterior = self.fitted()
        assert posterior.evidence == 0.0
        assert not posterior.reward_mean.any()
        a, b = all_pairs(self.FEATURES.prompt_of_response)
        phi = PRIOR.weigh(self.FEATURES.rows(np.arange(10)))
        prior = ((phi[a] - phi[b]) ** 2).sum(axis=1) + 2 * PRIOR.own + PRIOR.pair
        np.testing.assert_allclose(posterior.variance(a, b), prior, rtol=1e-5)
        np.testing.assert_allclose(posterior.preferred(a, b), 0.5, atol=1e-12)
        np.testing.assert_allclose(posterior.error(a, b), 0.5)

    def test_one_vote_has_the_evidence_of_its_probability(self) -> None:
        # By symmetry P(tie) aside both sides are equally probable before the first vote.
        a, b = self.pair()
        model = VoteModel(1e-3, None, 0.0)
        assert self.fitted((a, b, 1), model=model).evidence == pytest.approx(-np.log(2), abs=0.08)
        assert self.fitted((a, b, 1), model=model).preferred(*np.array([[a], [b]]))[0] > 0.6

    def test_only_ties_say_that_responses_are_alike(self) -> None:
        a, b = self.pair()
        before, after = self.fitted(), self.fitted(*[(a, b, 0)] * 30)
        pair = np.array([a]), np.array([b])
        assert after.differences(*pair).mean[0] == pytest.approx(0.0, abs=1e-9)
        assert after.variance(*pair)[0] < 0.3 * before.variance(*pair)[0]
        assert after.expected(*pair).tie[0] > before.expected(*pair).tie[0]

    def test_contradictory_votes_cancel(self) -> None:
        a, b = self.pair()
        posterior = self.fitted(*[(a, b, 1), (a, b, -1), (b, a, 1), (b, a, -1)] * 5)
        pair = np.array([a]), np.array([b])
        assert posterior.differences(*pair).mean[0] == pytest.approx(0.0, abs=1e-9)
        assert posterior.preferred(*pair)[0] == pytest.approx(0.5)

    def test_a_thousand_equal_votes_stay_finite(self) -> None:
        a, b = self.pair()
        posterior = self.fitted(*[(a, b, 1)] * 1000, model=VoteModel(0.4, None, 0.0))
        pair = np.array([a]), np.array([b])
        assert 3 < posterior.differences(*pair).mean[0] < 20
        assert posterior.preferred(*pair)[0] > 0.98

    def test_a_prompt_whose_votes_do_not_connect(self) -> None:
        # Two pairs of four responses: their Laplacian has rank 2 of 3.
        four = np.flatnonzero(self.FEATURES.prompt_of_response == 1).tolist()
        posterior = self.fitted((four[0], four[1], 1), (four[2], four[3], -1))
        assert np.isfinite(posterior.evidence)

    def test_no_features_matter(self) -> None:
        prior = Prior(0.0, 0.0, 0.0, 0.0, own=0.5, pair=0.0)
        a, b = self.pair()
        votes = tally(Votes(*np.array([[a, b, 1]]).T))
        posterior = fit_posterior(self.FEATURES, votes, prior, VoteModel())
        others = np.flatnonzero(~np.isin(np.arange(10), (a, b)))
        np.testing.assert_allclose(posterior.reward_mean[others], 0.0, atol=1e-12)
        assert posterior.reward_mean[a] > 0.1

    def test_prompts_must_not_be_joined(self) -> None:
        (a, _), (c, _) = self.pair(1), self.pair(2)
        with pytest.raises(PreferenceError, match=r"the prompts [12] and [12]"):
            self.fitted((a, c, 1))

    @pytest.mark.parametrize("position", [-1, 10])
    def test_responses_must_exist(self, position: int) -> None:
        with pytest.raises(PreferenceError, match=f"on response {position}"):
            self.fitted((self.pair()[0], position, 1))

    def test_features_must_be_finite(self) -> None:
        features = features_of([2, 4, 3, 1], seed=7)
        a, b = self.pair()
        features.vectors[a, 2] = np.nan
        votes = tally(Votes(*np.array([[a, b, 1]]).T))
        with pytest.raises(PreferenceError, match=f"features of response {a} hold NaN"):
            fit_posterior(features, votes, PRIOR, VoteModel())
        lean = fit_posterior(features, tally(Votes.none()), PRIOR, VoteModel())
        with pytest.raises(PreferenceError, match=f"features of response {a} hold NaN"):
            lean.rewards()
        fine = np.flatnonzero(features.prompt_of_response == 2)
        assert np.isfinite(lean.rewards_of(fine).mean).all()


@pytest.mark.parametrize("k", [2, 3, 7, 33])
def test_helmert_is_an_orthonormal_basis_of_what_sums_to_nothing(k: int) -> None:
    basis = helmert(k)
    np.testing.assert_allclose(basis.T @ basis, np.eye(k - 1), atol=1e-14)
    np.testing.assert_allclose(basis.sum(axis=0), 0.0, atol=1e-14)


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    features = features_of(SIZES, seed=8)
    votes = votes_at_random(features, 60, seed=9)
    whole = fit_posterior(features, tally(votes), PRIOR, VoteModel())
    monkeypatch.setattr("annotator.preference.layout.BLOCK_ROWS", 2)
    monkeypatch.setattr("annotator.preference.posterior.BLOCK_RESPONSES", 5)
    parts = fit_posterior(features, tally(votes), PRIOR, VoteModel())
    assert parts.evidence == pytest.approx(whole.evidence, rel=1e-10)
    np.testing.assert_allclose(parts.reward_mean, whole.reward_mean, atol=1e-9)
    a, b = pairs_at_random(features, 40, np.random.default_rng(0))
    np.testing.assert_allclose(parts.variance(a, b), whole.variance(a, b), rtol=1e-5)
