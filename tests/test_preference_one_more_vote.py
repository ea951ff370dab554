"""One more vote at a time, against fitting everything again."""

from __future__ import annotations

import numpy as np
import pytest

from annotator.errors import PreferenceError
from annotator.preference.laplace import BlockStep, System
from annotator.preference.layout import Prior
from annotator.preference.one_more_vote import TAIL_ROWS
from annotator.preference.posterior import Posterior, fit_posterior
from annotator.preference.vote_model import VoteModel
from annotator.preference.votes import Votes, tally
from strategies.within_prompt import all_pairs
from tests.preference_world import features_of, votes_at_random

SIZES = [2, 5, 3, 20, 2, 4, 1, 7, 3, 2]
FEATURES = features_of(SIZES, seed=1)
PRIOR = Prior(response=0.7, product=0.3, form=0.2, model=0.9, own=0.5, pair=0.4)
A, B = all_pairs(FEATURES.prompt_of_response)


def fitted(votes: Votes, model: VoteModel) -> Posterior:
    return fit_posterior(FEATURES, tally(votes), PRIOR, model)


def first(votes: Votes, n: int) -> Votes:
    lapse = None if votes.lapse is None else votes.lapse[:n]
    return Votes(votes.a[:n], votes.b[:n], votes.grade[:n], lapse)


def since(votes: Votes, n: int) -> Votes:
    lapse = None if votes.lapse is None else votes.lapse[n:]
    return Votes(votes.a[n:], votes.b[n:], votes.grade[n:], lapse)


def one_by_one(posterior: Posterior, votes: Votes) -> Posterior:
    lapses = [None] * len(votes) if votes.lapse is None else votes.lapse.tolist()
    for a, b, grade, lapse in zip(
        votes.a.tolist(), votes.b.tolist(), votes.grade.tolist(), lapses, strict=True
    ):
        posterior = posterior.with_vote(a, b, grade, lapse)
    return posterior


def gap(one: Posterior, other: Posterior) -> float:
    """The largest difference of means, in posterior deviations, and of log deviations."""
    mine, its = one.differences(A, B), other.differences(A, B)
    in_mean = np.abs(mine.mean - its.mean) / np.sqrt(its.variance)
    in_deviation = np.abs(np.log(mine.variance / its.variance)) / 2
    return float(max(in_mean.max(), in_deviation.max()))


CASES = [
    ({}, VoteModel()),
    ({"strengths": True}, VoteModel(0.5, 1.4, 0.03)),
    ({"lapses": (0.0, 0.1, 0.4)}, VoteModel(0.3, None, 0.05)),
]


@pytest.mark.parametrize(("how", "model"), CASES)
def test_each_vote_agrees_with_a_refit(how: dict, model: VoteModel) -> None:
    votes = votes_at_random(FEATURES, 60, seed=2, **how)
    gaps, moves = [], []
    for n in range(15, 60):
        before, after = fitted(first(votes, n), model), fitted(first(votes, n + 1), model)
        lapse = None if votes.lapse is None else float(votes.lapse[n])
        found = before.with_vote(int(votes.a[n]), int(votes.b[n]), int(votes.grade[n]), lapse)
        gaps.append(gap(found, after))
        moves.append(gap(before, after))
        assert found.evidence == pytest.approx(after.evidence, abs=0.05)
    # How far a vote moves the beliefs, and how much of that is missed.
    assert np.median(moves) > 0.3
    assert np.median(gaps) < 0.01
    assert max(gaps) < 0.03


@pytest.mark.parametrize(("how", "model"), CASES)
def test_many_votes_stay_close_to_a_refit(how: dict, model: VoteModel) -> None:
    votes = votes_at_random(FEATURES, 60, seed=3, **how)
    after = fitted(votes, model)
    found = one_by_one(fitted(first(votes, 30), model), since(votes, 30))
    assert gap(found, after) < 0.06
    assert found.evidence == pytest.approx(after.evidence, abs=0.05)
    np.testing.assert_allclose(found.reward_mean, found.rewards().mean, atol=1e-9)


def test_from_no_vote_on() -> None:
    votes = votes_at_random(FEATURES, 25, seed=4)
    found = one_by_one(fitted(Votes.none(), VoteModel()), votes)
    assert gap(found, fitted(votes, VoteModel())) < 0.1


def test_with_one_prompt_it_is_the_refit() -> None:
    # Nothing else could be approximated anew, so both are the same mode and the same curvature.
    votes = votes_at_random(FEATURES, 80, seed=5)
    at = np.flatnonzero(FEATURES.prompt_of_response[votes.a] == 3)
    alone = Votes(votes.a[at], votes.b[at], votes.grade[at])
    assert len(alone) > 10
    found = one_by_one(fitted(first(alone, 4), VoteModel()), since(alone, 4))
    assert gap(found, fitted(alone, VoteModel())) < 1e-3


def test_the_posterior_before_is_untouched() -> None:
    votes = votes_at_random(FEATURES, 40, seed=6)
    before = fitted(votes, VoteModel())
    untouched = before.differences(A, B).mean.copy()
    fresh = fitted(votes, VoteModel())
    after = fresh.with_vote(int(votes.a[0]), int(votes.b[0]), 1)
    assert gap(before, after) > 1e-3
    np.testing.assert_array_equal(fresh.differences(A, B).mean, untouched)
    np.testing.assert_array_equal(fresh.reward_mean, before.reward_mean)


def test_a_refit_can_begin_from_it() -> None:
    votes = votes_at_random(FEATURES, 40, seed=7)
    late = one_by_one(fitted(first(votes, 20), VoteModel()), since(votes, 20))
    again = fit_posterior(FEATURES, tally(votes), PRIOR, VoteModel(), late)
    assert gap(again, fitted(votes, VoteModel())) < 1e-3


def test_a_vote_that_cannot_be() -> None:
    posterior = fitted(Votes.none(), VoteModel())
    a, b = int(A[0]), int(B[0])
    other = int(np.flatnonzero(FEATURES.prompt_of_response != FEATURES.prompt_of_response[a])[0])
    with pytest.raises(PreferenceError, match="the prompts"):
        posterior.with_vote(a, other, 1)
    with pytest.raises(PreferenceError, match="positions of the 49 responses"):
        posterior.with_vote(a, FEATURES.n_responses, 1)
    with pytest.raises(PreferenceError, match="the grade 3"):
        posterior.with_vote(a, b, 3)
    with pytest.raises(PreferenceError, match="itself"):
        posterior.with_vote(a, a, 1)
    with pytest.raises(PreferenceError, match="lapse"):
        posterior.with_vote(a, b, 1, lapse=1.0)


@pytest.mark.parametrize(("how", "model"), CASES)
def test_what_is_kept_of_each_prompt_is_what_its_votes_say(how: dict, model: VoteModel) -> None:
    votes = votes_at_random(FEATURES, 60, seed=8, **how)
    found = one_by_one(fitted(first(votes, 30), model), since(votes, 30)).approximation.system
    assert len({block.k for block in found.layout.blocks}) > 3
    assert sum(len(block.pairs) for block in found.layout.blocks) == found.layout.n_pairs
    assert_consistent(found)


def test_prompts_that_are_new_one_after_the_other_share_blocks() -> None:
    features = features_of([2] * 200, seed=9)
    a, b = all_pairs(features.prompt_of_response)
    posterior = fit_posterior(features, tally(Votes.none()), PRIOR, VoteModel())
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        posterior = posterior.with_vote(x, y, 1 - x % 3)
    found = posterior.approximation.system
    assert [len(block.rows) for block in found.layout.blocks] == [TAIL_ROWS, 200 - TAIL_ROWS]
    assert_consistent(found)


def assert_consistent(system: System) -> None:
    for block, step in zip(system.layout.blocks, system.steps, strict=True):
        again = BlockStep.of(system.layout, block, system.sites)
        for name in ("shrink", "laplacian", "pull", "log_det"):
            np.testing.assert_allclose(getattr(step, name), getattr(again, name), atol=1e-12)
