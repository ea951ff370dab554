"""The vote model, against closed forms, finite differences and dense quadrature."""

from __future__ import annotations

import numpy as np
import pytest

from annotator.errors import PreferenceError
from annotator.preference.vote_model import VoteModel

MODELS = {
    "ties": VoteModel(0.4, None, 0.0),
    "ties and lapses": VoteModel(),
    "strengths": VoteModel(0.3, 1.5, 0.0),
    "strengths and lapses": VoteModel(0.8, 1.1, 0.2),
    "hardly a tie": VoteModel(1e-6, None, 0.02),
    "mostly ties": VoteModel(6.0, None, 0.05),
}
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
ANY = np.concatenate([np.linspace(-9, 9, 73), [-1e3, -200, -40, 0.0, 40, 200, 1e3]])


def plainly(d: np.ndarray, model: VoteModel) -> np.ndarray:
    """P(grade) in 80-bit numbers, by the definition."""
    d = np.asarray(d, dtype=np.longdouble)[..., None]
    above = 1.0 / (1.0 + np.exp(model.cuts.astype(np.longdouble) - d))
    ones, zeros = np.ones_like(d), np.zeros_like(d)
    above = np.concatenate([ones, above, zeros], axis=-1)
    lapse = np.longdouble(model.lapse)
    return (1 - lapse) * (above[..., :-1] - above[..., 1:]) + lapse / model.n_grades


@every_model
def test_probabilities_are_those_of_the_definition(model: VoteModel) -> None:
    found = model.grades(ANY)
    assert found.shape == (len(ANY), model.n_grades)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-13)
    np.testing.assert_allclose(found, plainly(ANY, model).astype(float), rtol=1e-9, atol=1e-16)
    np.testing.assert_allclose(found[:, ::-1], model.grades(-ANY), rtol=1e-13)
    np.testing.assert_array_equal(model.grades(ANY.reshape(4, -1)).reshape(found.shape), found)


@every_model
def test_the_score_is_the_slope_of_the_logarithm(model: VoteModel) -> None:
    d, h = np.linspace(-9, 9, 73), 1e-5
    found = model.likelihood(d)
    np.testing.assert_allclose(np.exp(found.log), model.grades(d), rtol=1e-14)
    slope = (model.likelihood(d + h).log - model.likelihood(d - h).log) / (2 * h)
    np.testing.assert_allclose(found.score, slope, atol=2e-8)
    fisher = (np.exp(found.log) * slope**2).sum(axis=1)
    np.testing.assert_allclose(found.fisher, fisher, rtol=1e-6, atol=1e-12)


@every_model
def test_nothing_overflows_far_out(model: VoteModel) -> None:
    found = model.likelihood(np.array([-1e3, -80.0, 80.0, 1e3]))
    for array in (found.log, found.score, found.fisher):
        assert np.isfinite(array).all()
    if model.lapse == 0.0:
        # Where a was sure to win and lost, the likelihood falls by 1 for every 1 in d.
        cut = model.cuts[-1]
        assert found.log[-1, 0] == pytest.approx(-1e3 - cut)
        assert found.score[-1, 0] == pytest.approx(-1.0)
        assert found.score[0, -1] == pytest.approx(1.0)
    else:
        assert found.log.min() == pytest.approx(np.log(model.lapse / model.n_grades), rel=1e-6)


def test_a_lapse_for_each_vote() -> None:
    model, d = VoteModel(0.4, None, 0.3), np.linspace(-3, 3, 7)
    lapse = np.array([0.0, 0.1, 0.2, 0.5, 0.9, 0.0, 0.3])
    found = model.likelihood(d, lapse)
    for i, one in enumerate(lapse):
        alone = VoteModel(0.4, None, one).likelihood(d[i : i + 1])
        np.testing.assert_allclose(found.log[i], alone.log[0], rtol=1e-14)
        np.testing.assert_allclose(found.score[i], alone.score[0], rtol=1e-13)
        assert found.fisher[i] == pytest.approx(alone.fisher[0], rel=1e-13)


def test_without_strengths_it_is_rao_and_kupper() -> None:
    # Of items with strengths x and y: x / (x + theta y), and what is left is a tie.
    theta, d = 1.7, np.linspace(-4, 4, 17)
    x, y = np.exp(d), 1.0
    expected = np.stack([y / (y + theta * x), np.zeros_like(d), x / (x + theta * y)], axis=1)
    expected[:, 1] = 1.0 - expected.sum(axis=1)
    np.testing.assert_allclose(VoteModel(np.log(theta), None, 0.0).grades(d), expected, atol=1e-12)


def test_without_ties_it_is_bradley_and_terry() -> None:
    d = np.linspace(-30, 30, 61)
    found = VoteModel(1e-12, None, 0.0)
    np.testing.assert_allclose(found.grades(d)[:, 2], 1 / (1 + np.exp(-d)), rtol=1e-9)
    np.testing.assert_allclose(found.likelihood(d).fisher, 0.5 / (1 + np.cosh(d)), rtol=1e-9)


def test_strengths_are_folded_where_the_model_has_none() -> None:
    five = np.array([[1.0, 2.0, 3.0, 4.0, 5.0]])
    assert VoteModel().counts(five).tolist() == [[3.0, 3.0, 9.0]]
    assert VoteModel(0.4, 1.0).counts(five).tolist() == five.tolist()


@pytest.mark.parametrize(
    "wrong", [(0.0, None, 0.1), (-1.0, None, 0.1), (0.5, 0.5, 0.1), (0.5, None, 1.0),
              (float("nan"), None, 0.0), (0.5, None, float("nan"))],
)  # fmt: skip
def test_cuts_and_lapses_that_cannot_be(wrong: tuple) -> None:
    with pytest.raises(PreferenceError, match="cuts"):
        VoteModel(*wrong)


def integrals(mean: float, variance: float, model: VoteModel) -> tuple[np.ndarray, float, float]:
    """P(grade), information and Fisher information by sums over 8001 points."""
    z = np.linspace(-9.5, 9.5, 8001)
    weight = np.exp(-0.5 * z**2)
    weight /= weight.sum()
    d = mean + np.sqrt(variance) * z
    p = plainly(d, model).astype(float)
    log = np.log(np.maximum(p, 1e-300))
    grades = weight @ p
    information = float(
        weight @ (p * log).sum(axis=1) - grades @ np.log(np.maximum(grades, 1e-300))
    )
    fisher = float(weight @ model.likelihood(d).fisher)
    return grades, information, fisher


@every_model
@pytest.mark.parametrize("variance", [1e-4, 0.3, 0.999, 1.0, 4.0, 30.0, 1e4])
def test_expectations_agree_with_dense_quadrature(model: VoteModel, variance: float) -> None:
    means = np.array([0.0, 0.4, -1.7, 5.0, -25.0, 300.0])
    found = model.expected(means, np.full(len(means), variance))
    wanted = [integrals(mean, variance, model) for mean in means]
    np.testing.assert_allclose(found.grades, [w[0] for w in wanted], atol=1e-6)
    np.testing.assert_allclose(found.information, [w[1] for w in wanted], atol=1e-6)
    np.testing.assert_allclose(found.fisher, [w[2] for w in wanted], atol=1e-6)
    np.testing.assert_allclose(found.grades.sum(axis=1), 1.0, atol=1e-7)
    np.testing.assert_allclose(found.tie, found.grades[:, model.n_grades // 2])


@every_model
def test_information_is_never_negative_and_goes_with_the_variance(model: VoteModel) -> None:
    rng = np.random.default_rng(0)
    mean = rng.uniform(-8, 8, 500)
    found = model.expected(mean, 10 ** rng.uniform(-12, 5, 500))
    assert (found.information >= 0).all() and (found.fisher >= 0).all()
    assert np.isfinite(found.preferred).all()
    assert ((found.preferred >= 0) & (found.preferred <= 1)).all()
    for variance in (1e-3, 1e-5, 1e-7):
        found = model.expected(mean, np.full(500, variance))
        # To first order a vote tells half its Fisher information times the variance.
        expected = 0.5 * model.likelihood(mean).fisher * variance
        np.testing.assert_allclose(found.information, expected, rtol=0.02, atol=1e-10)


def test_many_pairs_are_each_as_if_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rng = VoteModel(0.4, 1.2), np.random.default_rng(1)
    mean, variance = rng.normal(0, 3, 40), 10 ** rng.uniform(-3, 3, 40)
    monkeypatch.setattr("annotator.preference.vote_model.BLOCK", 7)
    found = model.expected(mean, variance)
    for i in range(40):
        alone = model.expected(mean[i : i + 1], variance[i : i + 1])
        np.testing.assert_allclose(found.grades[i], alone.grades[0], atol=1e-14)
        assert found.information[i] == pytest.approx(alone.information[0], abs=1e-14)


def test_preferred_of_pairs_that_are_always_ties_is_a_half() -> None:
    found = VoteModel(800.0, None, 0.0).expected(np.zeros(2), np.array([0.5, 5.0]))
    np.testing.assert_allclose(found.preferred, 0.5)
