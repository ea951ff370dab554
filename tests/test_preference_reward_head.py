"""The reward head as a policy, against finite differences and an explicit Newton step."""

from __future__ import annotations

import numpy as np
import pytest

from annotator.preference.layout import Prior
from annotator.preference.posterior import Posterior, fit_posterior
from annotator.preference.reward_head import validation_gradient, with_reward_head
from annotator.preference.vote_model import VoteModel
from annotator.preference.votes import Votes, tally
from strategies.pool import Pool
from tests.preference_world import features_of, votes_at_random

PRIOR = Prior(response=0.7, product=0.3, form=0.2, model=0.9, own=0.5, pair=0.4)
FEATURES = features_of([2, 5, 3, 6, 4, 2, 3], seed=1)
PHI = PRIOR.weigh(FEATURES.rows(np.arange(FEATURES.n_responses)))
CASES = [
    ({}, VoteModel()),
    ({"strengths": True}, VoteModel()),
    ({"strengths": True, "lapses": (0.0, 0.3)}, VoteModel(0.3, 1.1)),
]


def fitted(how: dict, model: VoteModel) -> tuple[Posterior, Votes, np.ndarray]:
    votes = votes_at_random(FEATURES, 50, seed=2, **how)
    validation = np.random.default_rng(0).random(len(votes)) < 0.3
    return fit_posterior(FEATURES, tally(votes), PRIOR, model), votes, validation


def loss(posterior: Posterior, votes: Votes, shift: np.ndarray) -> float:
    """The summed -log P(vote) when the weights move by `shift`, all own terms staying."""
    d = posterior.differences(votes.a, votes.b).mean + (PHI[votes.a] - PHI[votes.b]) @ shift
    grades = posterior.model.grades(d, votes.lapse)
    middle = posterior.model.n_grades // 2
    column = np.clip(votes.grade, -middle, middle) + middle
    return -float(np.log(grades[np.arange(len(votes)), column]).sum())


@pytest.mark.parametrize(("how", "model"), CASES)
def test_the_gradient_is_that_of_the_validation_votes(how: dict, model: VoteModel) -> None:
    posterior, votes, validation = fitted(how, model)
    lapse = None if votes.lapse is None else votes.lapse[validation]
    chosen = Votes(votes.a[validation], votes.b[validation], votes.grade[validation], lapse)
    found = validation_gradient(posterior, votes, validation)
    steps = 1e-5 * np.eye(len(found))
    expected = [(loss(posterior, chosen, h) - loss(posterior, chosen, -h)) / 2e-5 for h in steps]
    np.testing.assert_allclose(found, expected, atol=1e-7)
    nothing = validation_gradient(posterior, votes, np.zeros(len(votes), dtype=np.bool_))
    assert not nothing.any()


def test_the_validated_head_is_one_newton_step_on() -> None:
    posterior, votes, validation = fitted({}, VoteModel())
    pool = Pool.of_responses(np.ascontiguousarray(FEATURES.vectors), FEATURES.prompt_of_response)
    found = with_reward_head(pool, posterior, votes, validation)
    gradient = validation_gradient(posterior, votes, validation)
    system = posterior.system_factor @ posterior.system_factor.T
    contrast = PHI[pool.pair_a] - PHI[pool.pair_b]
    margin = contrast @ posterior.weights
    np.testing.assert_allclose(found.signal("policy_margin"), margin)
    np.testing.assert_allclose(
        found.signal("validation_margin") - margin,
        -contrast @ np.linalg.solve(system, gradient),
        atol=1e-10,
    )
    np.testing.assert_allclose(
        found.signal("policy_influence"), contrast @ gradient / validation.sum(), atol=1e-12
    )
    # A short step that way lowers the validation loss.
    chosen = Votes(votes.a[validation], votes.b[validation], votes.grade[validation])
    step = -0.1 * np.linalg.solve(system, gradient)
    assert loss(posterior, chosen, step) < loss(posterior, chosen, np.zeros_like(step))


def test_without_votes_the_head_stays() -> None:
    posterior = fit_posterior(FEATURES, tally(Votes.none()), PRIOR, VoteModel())
    pool = Pool.of_responses(np.ascontiguousarray(FEATURES.vectors), FEATURES.prompt_of_response)
    found = with_reward_head(pool, posterior, Votes.none(), np.empty(0, dtype=np.bool_))
    assert not found.signal("policy_margin").any()
    assert not found.signal("validation_margin").any()
    assert not found.signal("policy_influence").any()
