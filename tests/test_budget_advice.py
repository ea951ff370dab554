"""What the next votes would buy, and when to stop: in worlds where the answer is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.metrics import cohen_kappa_score

from annotator.budget.advice import (
    AHEAD,
    Decisions,
    ahead_by,
    budget_reached,
    deviation_of_gain,
    gained,
    kappa,
    next_gain,
    stabilised,
    too_little_gain,
)
from annotator.budget.quality import Outcomes, Pool
from annotator.labels.intervals import NOTHING, Estimate
from annotator.preference.layout import Prior
from annotator.preference.posterior import Posterior, fit_posterior
from annotator.preference.vote_model import VoteModel
from annotator.preference.votes import Votes, tally
from strategies.within_prompt import all_pairs
from tests.preference_world import Truth, features_of

MODEL = VoteModel(0.5, None, 0.05)


def test_kappa_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    for share in (0.5, 0.9, 0.02):
        one = rng.random(500) < share
        other = np.where(rng.random(500) < 0.1, ~one, one)
        assert kappa(one, other) == pytest.approx(cohen_kappa_score(one, other))


def test_kappa_of_one_sided_models_and_of_nothing() -> None:
    ones = np.ones(5, dtype=np.bool_)
    assert kappa(ones, ones) == 1.0
    assert kappa(ones, ~ones) == 0.0
    assert np.isnan(kappa(ones[:0], ones[:0]))


@pytest.mark.parametrize(
    ("kappas", "fires"),
    [([0.99, 0.995, 1.0], True), ([1.0, 0.98, 1.0, 1.0], False), ([0.5, 1.0, 1.0, 1.0], True),
     ([1.0, 1.0], False), ([], False)],
)  # fmt: skip
def test_stabilised_is_three_times_running(kappas: list[float], fires: bool) -> None:
    assert stabilised(kappas, 200).fires is fires


def test_a_gain_is_small_only_where_its_upper_end_is() -> None:
    assert too_little_gain(Estimate(0.001, -0.01, 0.0049), 0.5).fires
    assert not too_little_gain(Estimate(0.001, -0.01, 0.0051), 0.5).fires
    assert not too_little_gain(NOTHING, 0.5).fires
    detail = too_little_gain(Estimate(0.001, -0.01, 0.0049), 0.5).detail
    assert detail.startswith("by today's votes the next 100 bring +0.49 points at best")
    assert "looked at often" in detail


def test_reserved_votes_count_towards_the_cap() -> None:
    rule = budget_reached(90, 10, 100, "votes")
    assert rule is not None
    assert rule.fires
    rule = budget_reached(90, 9, 100, "votes")
    assert rule is not None
    assert not rule.fires
    assert budget_reached(90, 9, None, "votes") is None
    unknown = budget_reached(None, None, 100.0, "EUR")
    assert unknown is not None
    assert not unknown.fires


def test_the_power_law_by_hand() -> None:
    """quality = 0.9 - 2 / sqrt(n): from 100 to 400 it gains 0.1, from 400 to 500 less by far."""

    def quality(n: int) -> float:
        return 0.9 - 2.0 / np.sqrt(n)

    gain = quality(400) - quality(100)
    assert gain == pytest.approx(0.1)
    found = next_gain(Estimate(gain, gain, gain), 100, 400)
    assert found.value == pytest.approx(quality(500) - quality(400))
    assert found.low < found.value < found.high  # nobody knows the exponent
    for exponent in (0.25, 1.0):
        then = (400.0**-exponent - 500.0**-exponent) / (100.0**-exponent - 400.0**-exponent)
        assert ahead_by(100, 400, AHEAD, exponent) == pytest.approx(then)


def test_a_loss_goes_on_as_a_loss_and_the_interval_stays_in_order() -> None:
    found = next_gain(Estimate(-0.05, -0.12, 0.02), 200, 400)
    assert found.low < found.value < 0.0 < found.high
    wider = next_gain(Estimate(-0.05, -0.12, 0.02), 200, 400, deviation=0.03)
    assert wider.value == found.value
    assert wider.low < found.low
    assert wider.high > found.high


def test_nothing_is_said_of_what_was_not_measured() -> None:
    assert np.isnan(next_gain(NOTHING, 100, 200).value)
    assert np.isnan(next_gain(Estimate(0.1, 0.0, 0.2), 200, 200).value)
    nobody = np.empty(0)
    whole = np.empty(0, dtype=np.int64)
    empty = Outcomes(whole, nobody, nobody, nobody, nobody, nobody)
    assert np.isnan(gained(empty, Pool(whole, nobody, nobody)).value)


def test_where_no_prediction_changed_a_gain_is_still_possible() -> None:
    """60 pairs, none decided otherwise: the exact upper end of the share is 1 - 0.025^(1/60)."""
    prompt, zero, ones = np.arange(60), np.zeros(60), np.ones(60)
    found = gained(Outcomes(prompt, ones / 60, zero, ones, zero, ones), Pool(prompt, zero, ones))
    assert found.value == 0.0
    assert -found.low == found.high == pytest.approx(1 - 0.025 ** (1 / 60), abs=0.015)


def test_the_later_model_expects_something_only_where_it_decides_otherwise() -> None:
    decisions = Decisions(
        np.array([True, True, False]), np.array([True, False, True]), np.array([0.9, 0.3, 0.6])
    )
    assert decisions.expected_gain == pytest.approx([0.0, 0.4, 0.2])


@dataclass(frozen=True, eq=False)
class Labelled:
    """A world with rewards drawn from the prior, all its pairs, and votes on random ones."""

    truth: Truth
    a: np.ndarray
    b: np.ndarray
    votes: Votes
    pairs: np.ndarray
    rng: np.random.Generator

    @classmethod
    def drawn(cls, seed: int, n_prompts: int, n: int) -> Labelled:
        rng = np.random.default_rng(seed)
        features = features_of(list(rng.integers(2, 7, n_prompts)), seed)
        truth = Truth.drawn(features, Prior(), MODEL, seed)
        a, b = all_pairs(features.prompt_of_response)
        pairs = rng.permutation(len(a))[:n]
        return cls(truth, a, b, truth.votes(a[pairs], b[pairs], rng), pairs, rng)

    def taught(self, n: int, more: Votes | None = None) -> Posterior:
        """The posterior after the first n votes, and more."""
        votes = Votes(self.votes.a[:n], self.votes.b[:n], self.votes.grade[:n])
        if more is not None:
            votes = Votes(
                *(
                    np.concatenate((getattr(votes, k), getattr(more, k)))
                    for k in ("a", "b", "grade")
                )
            )
        return fit_posterior(self.truth.features, tally(votes), Prior(), MODEL)

    def decides(self, posterior: Posterior) -> np.ndarray:
        decisions: np.ndarray = posterior.before_votes(self.a, self.b)[0] > 0
        return decisions

    def accuracy(self, posterior: Posterior) -> float:
        """The share of sided votes on all pairs that it foretells, in truth."""
        grades = MODEL.grades(self.truth.difference(self.a, self.b))
        right = np.where(self.decides(posterior), grades[:, 2], grades[:, 0])
        return float(right.sum() / (grades[:, 0] + grades[:, 2]).sum())

    def next_hundred(self) -> Votes:
        """Votes on pairs that have none."""
        free = np.setdiff1d(np.arange(len(self.a)), self.pairs)
        chosen = self.rng.choice(free, AHEAD, replace=False)
        return self.truth.votes(self.a[chosen], self.b[chosen], self.rng)

    def advice(self, n_control: int) -> Estimate:
        """What the next hundred would bring, by so many control votes."""
        n = len(self.pairs)
        now, before, last = (self.taught(m) for m in (n, n // 2, n - AHEAD))
        later, earlier = self.decides(now), self.decides(before)
        said = MODEL.expected(*now.before_votes(self.a, self.b))
        expected = Decisions(earlier, later, said.preferred).expected_gain * (1 - said.tie)
        control = self.rng.choice(n, n_control, replace=False)
        pairs, side = self.pairs[control], np.sign(self.votes.grade[control])
        right = [
            (np.where(said_a[pairs], 1, -1) == side).astype(float) for said_a in (later, earlier)
        ]
        prompt = self.truth.features.prompt_of_response[self.a]
        past = gained(
            Outcomes(
                prompt[pairs],
                np.full(n_control, 1 / n_control),
                right[0] - right[1],
                (side != 0).astype(float),
                expected[pairs],
                1 - said.tie[pairs],
            ),
            Pool(prompt, expected, 1 - said.tie),
        )
        deviation = deviation_of_gain(now, self.a, self.b, self.decides(last), later, self.rng)
        return next_gain(past, n // 2, n, deviation)


@pytest.mark.parametrize(
    ("n_prompts", "n", "n_control", "worlds"), [(80, 300, 45, 24), (140, 600, 300, 24)]
)
def test_the_interval_holds_what_the_next_hundred_votes_bring(
    n_prompts: int, n: int, n_control: int, worlds: int
) -> None:
    held, widths = 0, []
    for seed in range(worlds):
        world = Labelled.drawn(seed, n_prompts, n)
        found = world.advice(n_control)
        brought = world.accuracy(world.taught(n, world.next_hundred())) - world.accuracy(
            world.taught(n)
        )
        held += found.low <= brought <= found.high
        widths.append(found.high - found.low)
    assert binom.cdf(held, worlds, 0.95) > 1e-3
    assert np.mean(widths) < (0.14 if n == 300 else 0.035)  # and says something


def test_the_deviation_is_that_of_what_last_votes_brought() -> None:
    """Over worlds, what changing decisions really brought lies as far apart as is believed."""
    scaled = []
    for seed in range(30):
        world = Labelled.drawn(seed, 70, 300)
        now, last = world.taught(300), world.taught(200)
        decisions = world.decides(last), world.decides(now)
        deviation = deviation_of_gain(now, world.a, world.b, *decisions, world.rng)
        said = MODEL.expected(*now.before_votes(world.a, world.b))
        expected = Decisions(*decisions, said.preferred).expected_gain * (1 - said.tie)
        brought = world.accuracy(now) - world.accuracy(last)
        scaled.append((brought - expected.sum() / (1 - said.tie).sum()) / deviation)
    assert 0.65 < np.std(scaled) < 1.45
    assert abs(np.mean(scaled)) < 0.6


def test_nothing_changed_nothing_varies() -> None:
    world = Labelled.drawn(0, 20, 60)
    now = world.taught(60)
    said = world.decides(now)
    assert deviation_of_gain(now, world.a, world.b, said, said, world.rng) == 0.0
