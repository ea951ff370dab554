"""Ranges and policies of overlap: which pairs get one more vote."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from annotator.labels.overlap import (
    EXPECTED_GAIN,
    FIXED,
    POLICIES,
    UNTIL_AGREE,
    Overlap,
    OverlapError,
    OverlapRange,
    Standing,
    by_gain,
    one_more,
)
from annotator.labels.panel import panel_verdict
from annotator.preference.vote_model import VoteModel


def standing(*rows: tuple[int, int, int]) -> Standing:
    """Rows of votes, waiting, lead."""
    n_votes, n_waiting, lead = np.array(rows, dtype=np.int64).T
    return Standing(n_votes, n_waiting, lead)


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [("3", 3, 3), ("2-5", 2, 5), (" 1 - 7 ", 1, 7), ("4-4", 4, 4), ("100", 100, 100)],
)
def test_a_range_is_one_number_or_two(text: str, least: int, most: int) -> None:
    found = OverlapRange.parse(text)
    assert (found.least, found.most) == (least, most)
    assert OverlapRange.parse(str(found)) == found
    assert found.is_fixed == (least == most)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no overlap"),
        ("two", "is no overlap"),
        ("2-", "is no overlap"),
        ("2-5-7", "is no overlap"),
        ("-2", "is no overlap"),
        ("2.5", "is no overlap"),
        ("³", "is no overlap"),
        ("0", "0 to 0 votes"),
        ("5-2", "5 to 2 votes"),
        ("1-101", "1 to 101 votes"),
        ("1" * 5000, "is no overlap"),
    ],
)
def test_a_range_that_is_none_is_said(text: str, said: str) -> None:
    with pytest.raises(OverlapError, match=said) as error:
        OverlapRange.parse(text)
    assert error.value.expected


@pytest.mark.parametrize(
    "spec", ["fixed:3", "until-agree:2-5", "expected-gain:1-5", "expected-gain:1-5@panel"]
)
def test_a_policy_with_its_range(spec: str) -> None:
    assert str(Overlap.parse(spec)) == spec
    assert Overlap.parse(f" {spec} ") == Overlap.parse(spec)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("3", "no overlap policy with its range"),
        ("until-agree", "no overlap policy with its range"),
        ("agree:2-5", "no overlap policy 'agree'"),
        ("fixed:2-5", "a fixed overlap of 2-5"),
        ("fixed:", "is no overlap"),
        ("expected-gain:5-2", "5 to 2"),
        ("expected-gain:1-5@", "the aim ''"),
        ("expected-gain:1-5@panels", "the aim 'panels'"),
        ("until-agree:2-5@panel", "the aim 'panel' of until-agree"),
    ],
)
def test_a_policy_that_is_none_is_said(spec: str, said: str) -> None:
    with pytest.raises(OverlapError, match=said):
        Overlap.parse(spec)


@pytest.mark.parametrize("policy", POLICIES)
def test_everybody_asks_the_least_and_nobody_beyond_the_most(policy: str) -> None:
    """Every state of a pair up to seven votes, by brute force."""
    text = "3" if policy == FIXED else "3-5"
    overlap = Overlap(policy, OverlapRange.parse(text))
    rows = [
        (n_votes, n_waiting, lead)
        for n_votes in range(8)
        for n_waiting in range(4)
        for lead in range(-n_votes, n_votes + 1)
    ]
    asked = one_more(overlap, standing(*rows), np.full(len(rows), 0.1)).tolist()
    for (n_votes, n_waiting, lead), more in zip(rows, asked, strict=True):
        if n_votes + n_waiting < 3:
            assert more
        elif n_votes + n_waiting >= overlap.range.most:
            assert not more
        elif n_waiting:
            assert not more, "what is still to come decides"
        else:
            assert more == (abs(lead) < 2 if policy == UNTIL_AGREE else True)


def test_until_agree_is_the_plain_rule() -> None:
    """Against a rule written out vote by vote: two, then until one side leads by two or the most
    is reached."""
    rng = np.random.default_rng(0)
    votes = rng.choice([-1, 0, 1], size=(400, 5), p=[0.3, 0.2, 0.5])
    overlap = Overlap.parse("until-agree:2-5")
    n_votes = np.zeros(len(votes), dtype=np.int64)
    while True:
        lead = np.array([row[:n].sum() for row, n in zip(votes, n_votes, strict=True)])
        more = one_more(overlap, Standing(n_votes, np.zeros_like(n_votes), lead))
        if not more.any():
            break
        n_votes = n_votes + more
    for row, n in zip(votes.tolist(), n_votes.tolist(), strict=True):
        expected = 2
        while expected < 5 and abs(sum(row[:expected])) < 2:
            expected += 1
        assert n == expected
    assert set(n_votes.tolist()) == {2, 3, 4, 5}


def test_expected_gain_asks_where_a_new_pair_would_gain_less() -> None:
    pairs = standing((2, 0, 0), (2, 0, 1), (2, 0, 2), (1, 0, 1), (5, 0, 1), (2, 1, 0))
    gain = np.array([0.2, 0.1, 0.05, 0.0, 0.4, 0.4])
    overlap = Overlap(EXPECTED_GAIN, OverlapRange(2, 5))
    below_least = [False, False, False, True, False, False]
    for new_pair_gain, expected in (
        (0.0, [True, True, True, True, False, False]),
        (0.1, [True, False, False, True, False, False]),
        (0.5, below_least),
    ):
        assert one_more(overlap, pairs, gain, new_pair_gain).tolist() == expected
    nothing = one_more(overlap, pairs, np.zeros(6))
    assert nothing.tolist() == below_least, "a vote that corrects nothing is not asked for"


def test_expected_gain_without_gains_is_said() -> None:
    with pytest.raises(OverlapError, match="without gains"):
        one_more(Overlap.parse("expected-gain:1-2"), standing((1, 0, 1)))


def test_the_highest_gains_come_first_and_ties_keep_their_order() -> None:
    gain = np.array([0.1, 0.3, 0.3, 0.9, 0.2])
    candidates = np.array([True, True, True, False, True])
    assert by_gain(candidates, gain, 3).tolist() == [1, 2, 4]
    assert by_gain(candidates, gain, 10).tolist() == [1, 2, 4, 0]
    assert by_gain(~candidates, gain, 0).tolist() == []


# What a panel would say.


def by_integral(
    mean: float, variance: float, model: VoteModel, lead: int, n_left: int
) -> tuple[float, float]:
    """P(panel says a) and what the next vote tells, by every sequence of votes and quadrature."""

    def share(votes: tuple[int, ...], also_a: bool) -> float:
        net = lead + sum(votes)
        weight = (0.5 + 0.5 * np.sign(net)) if also_a else 1.0

        def density(d: float) -> float:
            grades = model.grades(np.array([d]))[0]
            middle = len(grades) // 2
            of = {-1: grades[:middle].sum(), 0: grades[middle], 1: grades[middle + 1 :].sum()}
            return float(np.prod([of[v] for v in votes]) * norm.pdf(d, mean, variance**0.5))

        width = 9 * variance**0.5
        return float(weight * quad(density, mean - width, mean + width, epsabs=1e-11)[0])

    def entropy(p: float) -> float:
        return float(-sum(q * np.log(q) for q in (p, 1 - p) if q > 0))

    panels = list(product((-1, 0, 1), repeat=n_left))
    preferred = sum(share(votes, True) for votes in panels)
    after = 0.0
    for first in (-1, 0, 1) if n_left else ():
        its = [votes for votes in panels if votes[0] == first]
        p_first = sum(share(votes, False) for votes in its)
        after += p_first * entropy(sum(share(votes, True) for votes in its) / p_first)
    return preferred, entropy(preferred) - after if n_left else 0.0


@pytest.mark.parametrize("model", [VoteModel(), VoteModel(tie=0.9, much=2.0, lapse=0.2)])
def test_a_panel_against_all_it_could_say(model: VoteModel) -> None:
    rows = [(0.3, 0.5, 0, 1), (-1.0, 2.0, 1, 2), (0.8, 0.01, -1, 3), (0.0, 1.0, 2, 3),
            (2.0, 1.5, 0, 5), (0.7, 0.4, 1, 4)]  # fmt: skip
    mean, variance, lead, n_votes = (np.array(column) for column in zip(*rows, strict=True))
    size = 4
    found = panel_verdict(mean, variance, model, lead.astype(int), n_votes.astype(int), size)
    for i, (m, v, of, n) in enumerate(rows):
        preferred, gain = by_integral(m, v, model, of, max(size - n, 0))
        assert found.preferred[i] == pytest.approx(preferred, abs=1e-5)
        assert found.gain[i] == pytest.approx(gain, abs=1e-5)


def test_votes_that_were_cast_count_whatever_the_model_says() -> None:
    """With three of five for b the panel has decided; with nobody left its majority is it."""
    sure_of_a = np.full(4, 9.0), np.full(4, 0.1), VoteModel()
    lead, n_votes = np.array([-3, -1, 0, 0]), np.array([3, 5, 5, 4])
    found = panel_verdict(*sure_of_a, lead, n_votes, 5)
    assert found.preferred[:2].tolist() == [0.0, 0.0]
    assert found.preferred[2] == pytest.approx(0.5, abs=1e-12)
    assert found.preferred[3] > 0.9
    assert found.gain[:3].tolist() == [0.0, 0.0, 0.0]
    assert found.gain[3] > 0


def test_a_panel_is_the_same_from_either_side() -> None:
    rng = np.random.default_rng(0)
    mean, variance = rng.normal(size=3000), rng.uniform(0.1, 3.0, 3000)
    lead, n_votes = rng.integers(-2, 3, 3000), rng.integers(0, 6, 3000)
    one = panel_verdict(mean, variance, VoteModel(), lead, n_votes, 5)
    other = panel_verdict(-mean, variance, VoteModel(), -lead, n_votes, 5)
    np.testing.assert_allclose(one.preferred, 1.0 - other.preferred, atol=1e-12)
    np.testing.assert_allclose(one.gain, other.gain, atol=1e-12)
    assert np.all(one.gain >= 0)
    assert np.all(one.gain[n_votes == 5] == 0)
