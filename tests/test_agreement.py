"""Agreement against published numbers, another library, hand computation, and known worlds."""

from __future__ import annotations

from itertools import permutations

import evalica
import numpy as np
import pandas as pd
import pytest

from annotator.labels.agreement import (
    ALWAYS_THE_SAME,
    METRICS,
    NO_PAIR_TWICE,
    NO_VOTES,
    ONE_ANNOTATOR,
    GradedVotes,
    agreement,
    agreement_of_each,
    alpha,
    first_votes,
)
from annotator.labels.intervals import exact_median, exact_share, exact_shares, resampled_totals

# Krippendorff (2018), 4 observers and 12 units.
PUBLISHED = """
    1 2 3 3 2 1 4 1 2 . . .
    1 2 3 3 2 2 4 1 2 5 . 3
    . 3 3 3 2 3 4 2 2 5 1 .
    1 2 3 3 2 4 4 1 2 5 1 .
"""


def rows_of(table: str) -> tuple[np.ndarray, np.ndarray]:
    """Units and values, from 0, of a table of observers by units."""
    cells = [
        (unit, int(cell) - 1)
        for line in table.strip().splitlines()
        for unit, cell in enumerate(line.split())
        if cell != "."
    ]
    unit, value = np.array(cells).T
    return unit, value


def uneven(seed: int, n_pairs: int = 60, people: int = 5, n_prompts: int = 25) -> GradedVotes:
    """Votes of one to four people on a pair, pairs unevenly over prompts, rows in any order."""
    rng = np.random.default_rng(seed)
    rows = [
        (pair, who, np.clip(round(truth + rng.normal()), -2, 2))
        for pair, truth in enumerate(rng.normal(size=n_pairs))
        for who in rng.permutation(people)[: rng.integers(1, 5)]
    ]
    pair, who, grade = np.array(rows, dtype=np.int64)[rng.permutation(len(rows))].T
    prompt = rng.choice(n_prompts, n_pairs, p=rng.dirichlet(np.ones(n_prompts)))
    return GradedVotes(pair, grade, who, prompt, people)


def frame(votes: GradedVotes, value: np.ndarray) -> pd.DataFrame:
    """People by pairs, NaN where there is no vote, as evalica takes it."""
    table = np.full((votes.n_annotators, votes.n_pairs), np.nan)
    table[votes.annotator, votes.pair] = value
    return pd.DataFrame(table)


@pytest.mark.parametrize(
    ("metric", "expected"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_alpha_of_the_published_example(metric: str, expected: float) -> None:
    assert alpha(*rows_of(PUBLISHED), metric) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("seed", range(5))
def test_alpha_is_evalicas(metric: str, seed: int) -> None:
    votes = uneven(seed)
    expected = evalica.alpha(frame(votes, votes.grade + 3.0), metric).alpha
    assert alpha(votes.pair, votes.grade + 2, metric) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_agreement_is_alpha_of_sides_and_of_grades(seed: int) -> None:
    votes = uneven(seed)
    found = agreement(votes, np.random.default_rng(0))
    nominal = evalica.alpha(frame(votes, np.sign(votes.grade) + 2.0), "nominal")
    ordinal = evalica.alpha(frame(votes, votes.grade + 3.0), "ordinal")
    assert found.nominal.value == pytest.approx(nominal.alpha)
    assert found.ordinal.value == pytest.approx(ordinal.alpha)
    of_person, by_chance = by_hand(votes)
    share = np.mean([match for matches in of_person.values() for match in matches])
    assert found.share.value == pytest.approx(share)
    assert found.nominal.value == pytest.approx(1 - (1 - share) / by_chance)


def by_hand(votes: GradedVotes) -> tuple[dict[int, list[float]], float]:
    """Each person's matches with each other on one pair, their mean by vote; and D_e of all."""
    side = np.sign(votes.grade)
    of_person: dict[int, list[float]] = {who: [] for who in range(votes.n_annotators)}
    used: list[int] = []
    for pair in range(votes.n_pairs):
        rows = np.flatnonzero(votes.pair == pair)
        if len(rows) < 2:
            continue
        used += side[rows].tolist()
        for row in rows:
            others = side[rows[rows != row]]
            of_person[int(votes.annotator[row])].append(float(np.mean(others == side[row])))
    differ = [a != b for a, b in permutations(used, 2)]
    return of_person, float(np.mean(differ))


def test_each_person_is_held_against_the_others_on_the_same_pairs() -> None:
    votes = uneven(7)
    expected, by_chance = by_hand(votes)
    found = agreement_of_each(votes, np.random.default_rng(0))
    assert len(found) == votes.n_annotators
    for who, one in enumerate(found):
        assert one.votes == len(expected[who])
        share = np.mean(expected[who])
        assert one.share.value == pytest.approx(share)
        assert one.nominal.value == pytest.approx(1 - (1 - share) / by_chance)
        assert one.share.low < share < one.share.high


def test_alpha_of_all_is_the_mean_of_alphas_of_each_by_votes() -> None:
    votes = uneven(8)
    each = agreement_of_each(votes, np.random.default_rng(0))
    weights = [one.votes for one in each]
    mean = np.average([one.nominal.value for one in each], weights=weights)
    assert mean == pytest.approx(agreement(votes, np.random.default_rng(0)).nominal.value)


def test_order_of_rows_numbering_of_pairs_and_names_of_sides_do_not_matter() -> None:
    votes = uneven(3)
    rng = np.random.default_rng(1)
    again = votes.take(rng.permutation(len(votes.pair)))
    number = rng.permutation(votes.n_pairs)
    prompts = np.empty_like(votes.prompt_of_pair)
    prompts[number] = votes.prompt_of_pair * 1000 + 5
    again = GradedVotes(number[again.pair], -again.grade, again.annotator, prompts, 5)
    one, other = (agreement(v, np.random.default_rng(0)) for v in (votes, again))
    for name in ("share", "nominal", "ordinal"):
        assert getattr(one, name).value == pytest.approx(getattr(other, name).value)
    assert (one.pairs, one.votes, one.prompts) == (other.pairs, other.votes, other.prompts)


def votes_of(
    pairs: list[list[int]], people: list[list[int]] | None = None, prompts: list[int] | None = None
) -> GradedVotes:
    """Grades pair by pair; by person 0, 1, ... unless said otherwise; each pair its own prompt."""
    pair = np.repeat(np.arange(len(pairs)), [len(grades) for grades in pairs])
    who = people or [list(range(len(grades))) for grades in pairs]
    flat = np.array([g for grades in pairs for g in grades], dtype=np.int64)
    annotator = np.array([a for row in who for a in row], dtype=np.int64)
    prompt = np.array(prompts or range(len(pairs)), dtype=np.int64)
    return GradedVotes(pair, flat, annotator, prompt, int(annotator.max(initial=-1)) + 1)


@pytest.mark.parametrize(
    ("votes", "why"),
    [
        (votes_of([]), NO_VOTES),
        (votes_of([[1], [2], [-1]]), ONE_ANNOTATOR),
        (votes_of([[1], [2]], [[0], [1]]), NO_PAIR_TWICE),
        (votes_of([[0, 0]] * 12), ALWAYS_THE_SAME),
        (votes_of([[1, 2]] * 12), ALWAYS_THE_SAME),
    ],
)
def test_alpha_is_undefined_for_a_reason_and_never_one(votes: GradedVotes, why: str) -> None:
    found = agreement(votes, np.random.default_rng(0))
    assert found.undefined == why
    assert np.isnan([found.nominal.value, found.ordinal.value]).all()
    for one in agreement_of_each(votes, np.random.default_rng(0)):
        assert np.isnan(one.nominal.value)


def test_all_ties_agree_with_an_interval_that_does_not_end_at_one() -> None:
    found = agreement(votes_of([[0, 0]] * 12), np.random.default_rng(0))
    assert (found.share.value, found.share.high) == (1.0, 1.0)
    assert found.share.low == pytest.approx(0.025 ** (1 / 12))  # Clopper and Pearson, 12 of 12


def test_full_agreement_on_different_sides_has_alpha_one_and_room_below() -> None:
    found = agreement(votes_of([[2, 2], [-1, -1]] * 8), np.random.default_rng(0))
    assert found.undefined is None
    for one in (found.nominal, found.ordinal):
        assert (one.value, one.high) == (1.0, 1.0)
        assert 0.3 < one.low < 0.7
    worse = agreement(votes_of([[2, 2], [-1, -1]] * 3), np.random.default_rng(0))
    assert worse.nominal.low < found.nominal.low


def test_prompts_are_drawn_whole_and_pairs_only_where_there_are_few() -> None:
    """The same votes say less where they are all of a few prompts."""
    rng = np.random.default_rng(0)
    hard = rng.random(40) < 0.5
    pairs = [[1, int(rng.choice([-1, 1]) if hard[i // 5] else 1)] for i in range(200)]
    worlds = [votes_of(pairs, prompts=[i // n for i in range(200)]) for n in (1, 5, 50)]
    apart, together, few = (agreement(votes, np.random.default_rng(0)) for votes in worlds)
    assert (apart.resampled, together.resampled, few.resampled) == ("prompts", "prompts", "pairs")
    assert (apart.prompts, together.prompts, few.prompts) == (200, 40, 4)
    each = [agreement_of_each(votes, np.random.default_rng(0))[0] for votes in worlds]
    for of_all in (True, False):
        found = (apart, together, few) if of_all else each
        narrow, wide, of_pairs = (one.share.high - one.share.low for one in found)
        assert wide > 1.25 * narrow
        assert of_pairs == pytest.approx(narrow, rel=0.1)


def crowd(
    rng: np.random.Generator, n_prompts: int, per_prompt: int, people: int = 6
) -> GradedVotes:
    """Graded votes by two or three people a pair; prompts differ in how hard they are."""
    n = n_prompts * per_prompt
    prompt = np.repeat(np.arange(n_prompts), per_prompt)
    noise = 0.6 * np.exp(0.6 * rng.normal(size=n_prompts))[prompt]
    n_votes = rng.integers(2, 4, n)
    pair = np.repeat(np.arange(n), n_votes)
    who = np.argsort(rng.random((n, people)), axis=1)[pair, _place_within(pair)]
    felt = rng.normal(size=n)[pair] + noise[pair] * rng.normal(size=len(pair))
    return GradedVotes(pair, np.digitize(felt, [-1.2, -0.2, 0.2, 1.2]) - 2, who, prompt, people)


def _place_within(pair: np.ndarray) -> np.ndarray:
    return np.arange(len(pair)) - np.searchsorted(pair, pair)


@pytest.mark.parametrize(("n_prompts", "per_prompt"), [(8, 6), (40, 1)])
def test_intervals_hold_the_truth_about_as_often_as_they_say(
    n_prompts: int, per_prompt: int
) -> None:
    """Of 250 worlds; with 95 % coverage fewer than 90 % would be a wonder (p < .001)."""
    big = crowd(np.random.default_rng(99), 12_000, per_prompt)
    truth = agreement(big, np.random.default_rng(0))
    truth_of_one = agreement_of_each(big, np.random.default_rng(0))[0]
    inside = {name: 0 for name in ("share", "nominal", "ordinal", "one's share", "one's alpha")}
    n_worlds = 250
    for seed in range(n_worlds):
        rng = np.random.default_rng([seed, n_prompts])
        votes = crowd(rng, n_prompts, per_prompt)
        found, one = agreement(votes, rng), agreement_of_each(votes, rng)[0]
        for name, estimate, true in [
            *((name, getattr(found, name), getattr(truth, name)) for name in list(inside)[:3]),
            ("one's share", one.share, truth_of_one.share),
            ("one's alpha", one.nominal, truth_of_one.nominal),
        ]:
            inside[name] += estimate.low <= true.value <= estimate.high
    coverage = {name: n / n_worlds for name, n in inside.items()}
    assert min(coverage.values()) >= 0.89, coverage


def test_first_votes_are_those_that_came_first() -> None:
    pair = np.array([2, 0, 2, 1, 2, 0, 0, 2])
    most = np.array([2, 2, 3, 5])
    expected = [True, True, True, True, True, True, False, False]
    assert first_votes(pair, most).tolist() == expected
    assert first_votes(pair[:0], most).tolist() == []


def until_agreed(rng: np.random.Generator, n: int) -> GradedVotes:
    """Two votes a pair, and a third where these differ."""
    true = rng.choice([-1, 1], n)
    votes = np.where(rng.random((n, 3)) < 0.8, 1, -1) * true[:, None]
    asked = np.ones((n, 3), dtype=bool)
    asked[:, 2] = votes[:, 0] != votes[:, 1]
    pair, place = np.nonzero(asked)
    return GradedVotes(pair, votes[asked], place, np.arange(n), 3)


def test_votes_that_were_asked_for_because_people_differed_would_bias_agreement() -> None:
    """Right with .8 each, two people agree with .68 and alpha is .36.

    A third vote sides with one of two who differ: pairs with no match then have one in three.
    """
    votes = until_agreed(np.random.default_rng(0), 6_000)
    early = first_votes(votes.pair, np.full(votes.n_pairs, 2))
    fair, every = (agreement(v, np.random.default_rng(0)) for v in (votes.take(early), votes))
    assert fair.share.low < 0.68 < fair.share.high
    assert fair.nominal.low < 0.36 < fair.nominal.high
    assert every.share.low > 0.68 + 0.02
    assert every.nominal.low > 0.36 + 0.03


def test_totals_of_equal_clusters_are_drawn_as_those_of_clusters_one_by_one() -> None:
    """Mean and spread of the totals are those of drawing n of n with replacement."""
    rng = np.random.default_rng(0)
    parts = rng.integers(0, 3, (400, 2)).astype(float)
    some = resampled_totals(parts, np.random.default_rng(1))
    apart = resampled_totals(parts + 1e-9 * rng.random((400, 2)), np.random.default_rng(2))
    for totals in (some, apart):
        assert totals[0] == pytest.approx(parts.sum(axis=0))
        assert totals[1:].mean(axis=0) == pytest.approx(parts.sum(axis=0), rel=0.02)
        np.testing.assert_allclose(totals[1:].std(axis=0), parts.std(axis=0) * 20, rtol=0.12)


def test_exact_intervals_are_scipys() -> None:
    from scipy.stats import binomtest

    hits, n = np.array([0, 3, 17, 20, 0]), np.array([9, 11, 40, 20, 0])
    found = exact_shares(hits, n)
    for i in range(4):
        expected = binomtest(int(hits[i]), int(n[i])).proportion_ci(method="exact")
        assert (found.low[i], found.high[i]) == pytest.approx((expected.low, expected.high))
        one = exact_share(float(hits[i]), float(n[i]))
        assert (one.low, one.high) == pytest.approx((expected.low, expected.high))
    assert np.isnan([found.share[4], found.low[4], found.high[4]]).all()


def test_the_interval_of_a_median_lies_between_the_order_statistics_of_the_tables() -> None:
    """Ranks 6 and 15 of 20, 2 and 9 of 10 (David and Nagaraja, Order Statistics, 2003)."""
    rng = np.random.default_rng(0)
    for n, low, high in ((20, 6, 15), (10, 2, 9), (6, 1, 6)):
        values = np.append(rng.permutation(np.arange(1.0, n + 1)), np.nan)
        found = exact_median(values)
        assert (found.value, found.low, found.high) == ((n + 1) / 2, low, high)
    assert np.isinf(exact_median(np.arange(5.0)).high)
    assert np.isnan(exact_median(np.array([np.nan])).value)
