"""Suspicions held against integrals, refits, brute force, and worlds of known wrong labels."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cleanlab.rank import get_label_quality_scores
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import norm, pearsonr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from annotator.diagnose.account import (
    CONTESTED,
    LIKELY_WRONG,
    LOW_IMPACT,
    Diagnosis,
    all_rows,
    diagnose,
    document,
    related_to,
)
from annotator.diagnose.labels_of import Labelled
from annotator.diagnose.methods import (
    MAP_METHODS,
    METHODS,
    Labels,
    confidence,
    foretell,
    leave_one_out,
    map_suspicion,
    members_of,
    variability,
)
from annotator.preference.features import ResponseFeatures
from annotator.preference.layout import Prior
from annotator.preference.posterior import fit_posterior
from annotator.preference.vote_model import VoteModel
from annotator.preference.votes import Votes, tally
from strategies.within_prompt import all_pairs
from tests.preference_world import Truth, features_of, pairs_at_random, votes_at_random

UNEVEN = [2, 5, 3, 6, 4, 2, 2, 7, 1, 3, 5, 4]
PREFERENCES = Prior(response=3.0, product=1.0, own=0.6, pair=0.3)


def labels_of(
    a: np.ndarray, b: np.ndarray, grade: np.ndarray, annotator: np.ndarray | None = None
) -> tuple[Labels, np.ndarray]:
    """Votes in any frame and order as Labels, and which vote each label is."""
    low, high = np.minimum(a, b), np.maximum(a, b)
    code = low * (high.max() + 1) + high
    order = np.argsort(code, kind="stable")
    _, first, pair = np.unique(code[order], return_index=True, return_inverse=True)
    labels = Labels(
        a=low[order][first],
        b=high[order][first],
        pair=pair,
        grade=np.where(a > b, -grade, grade)[order],
        annotator=(np.zeros(len(a), dtype=np.int64) if annotator is None else annotator)[order],
        left_is_a=np.random.default_rng(1).random(len(a)) < 0.5,
    )
    return labels, order


def random_labels(n: int, seed: int) -> tuple[ResponseFeatures, Labels]:
    features = features_of(UNEVEN, seed)
    a, b = pairs_at_random(features, n, np.random.default_rng(seed))
    grade = np.random.default_rng(seed + 1).integers(-2, 3, n)
    return features, labels_of(a, b, grade)[0]


def labelled_by(features: ResponseFeatures, labels: Labels, score: np.ndarray) -> Labelled:
    return Labelled(
        source="labels of a test",
        labels=labels,
        label_ids=np.arange(len(labels)),
        annotators=tuple(f"person {i}" for i in range(labels.n_annotators)),
        response_ids=100 + np.arange(features.n_responses),
        features=features,
        score=score,
        scores="a judge of the test",
        judged=True,
    )


def planted_world(
    sizes: list[int], seed: int, *, flipped: float = 0.1, dimension: int = 6
) -> tuple[ResponseFeatures, Labels, np.ndarray, np.ndarray]:
    """One careful label on every pair, a tenth of them flipped; scores of some worth."""
    features = features_of(sizes, seed, dimension=dimension, models=0)
    truth = Truth.drawn(features, PREFERENCES, VoteModel(tie=0.2, lapse=0.0), seed)
    rng = np.random.default_rng(seed)
    votes = truth.votes(*all_pairs(features.prompt_of_response), rng)
    wrong = np.zeros(len(votes), dtype=np.bool_)
    wrong[rng.permutation(len(votes))[: round(flipped * len(votes))]] = True
    labels, order = labels_of(votes.a, votes.b, np.where(wrong, -votes.grade, votes.grade))
    score = 5.0 + truth.reward + 2.0 * rng.standard_normal(len(truth.reward))
    return features, labels, (wrong & (votes.grade != 0))[order], score


# The data map.


@pytest.mark.parametrize("grade", [2, 1, -1, -2, 0])
def test_map_methods_of_one_pair_are_what_one_computes_by_hand(grade: int) -> None:
    labels, _ = labels_of(np.array([0]), np.array([1]), np.array([grade]))
    s = np.array([0.9, 0.6])
    annotation = {1: [1.0, 0.0], -1: [0.0, 1.0], 0: [0.5, 0.5]}[int(np.sign(grade))]

    def suspicion(name: str) -> float:
        return float(map_suspicion(name, labels, s, np.zeros(2, dtype=np.int64))[0])

    cosine = np.dot(s, annotation) / np.linalg.norm(s) / np.linalg.norm(annotation)
    assert suspicion("map-cosine") == pytest.approx(-cosine)
    if grade:
        winner = 0 if grade > 0 else 1
        assert suspicion("map-cosine") == pytest.approx(-s[winner] / np.hypot(*s))
    assert suspicion("map-covariance") == pytest.approx(-np.cov(s, annotation, ddof=0)[0, 1])
    assert suspicion("map-covariance") == pytest.approx(-np.sign(grade) * (s[0] - s[1]) / 4)
    pearson = suspicion("map-pearson")
    assert np.isnan(pearson) if grade == 0 else pearson == pytest.approx(-np.sign(grade))


def test_map_methods_by_prompt_hold_scores_against_shares_of_wins() -> None:
    features, labels = random_labels(90, seed=3)
    score = np.random.default_rng(0).random(features.n_responses)
    score[::7] = np.nan
    found = map_suspicion("map-pearson-prompt", labels, score, features.prompt_of_response)
    wins: dict[int, list[float]] = {}
    for pair, side in zip(labels.pair, labels.side, strict=True):
        wins.setdefault(int(labels.a[pair]), []).append(0.5 + side / 2)
        wins.setdefault(int(labels.b[pair]), []).append(0.5 - side / 2)
    for i, pair in enumerate(labels.pair):
        prompt = features.prompt_of_response[labels.a[pair]]
        inside = [
            r for r in wins if features.prompt_of_response[r] == prompt and np.isfinite(score[r])
        ]
        x, y = score[inside], [np.mean(wins[r]) for r in inside]
        if len(inside) < 2 or np.ptp(y) == 0:
            assert np.isnan(found[i])
        else:
            assert found[i] == pytest.approx(-pearsonr(x, y)[0])


@pytest.mark.parametrize("method", list(MAP_METHODS))
def test_a_missing_score_says_nothing(method: str) -> None:
    labels, _ = labels_of(np.array([0, 2]), np.array([1, 3]), np.array([1, -1]))
    score, prompts = np.array([1.0, np.nan, 1.0, 2.0]), np.array([0, 0, 1, 1])
    found = map_suspicion(method, labels, score, prompts)
    assert np.isnan(found[0]) and np.isfinite(found[1])


# Each label from the rest.


@pytest.mark.parametrize("much", [None, 1.7])
@pytest.mark.parametrize("lapses", [(0.05,), (0.0, 0.3, 0.6)])
def test_leaving_one_out_agrees_with_integrals(much: float | None, lapses: tuple[float]) -> None:
    _, labels = random_labels(40, seed=8)
    rng = np.random.default_rng(0)
    model = VoteModel(tie=0.5, much=much, lapse=0.05)
    mean, variance = 3.0 * rng.standard_normal(labels.n_pairs), rng.exponential(2, labels.n_pairs)
    lapse = rng.choice(lapses, len(labels))
    rest = leave_one_out(labels, mean, variance, model, lapse)
    middle = model.n_grades // 2

    def grades(d: float) -> np.ndarray:
        above = expit(d - model.cuts)
        return -np.diff(above, prepend=1.0, append=0.0)

    def likelihood(label: int, d: float) -> float:
        at = np.clip(labels.grade[label], -middle, middle) + middle
        share = lapse[label]
        return float((1 - share) * grades(d)[at] + share / model.n_grades)

    def sides(d: float) -> np.ndarray:
        p = grades(d)
        return np.array([p[:middle].sum(), p[middle], p[middle + 1 :].sum()])

    for i in range(0, len(labels), 3):
        pair = labels.pair[i]
        others = [j for j in np.flatnonzero(labels.pair == pair) if j != i]
        law = norm(mean[pair], np.sqrt(variance[pair]))

        def weigh(value: Any, used: list[int], law: Any = law) -> float:
            def at(d: float) -> float:
                return float(value(d) * law.pdf(d) * np.prod([likelihood(j, d) for j in used]))

            low, high = law.ppf(1e-9), law.ppf(1 - 1e-9)
            return float(
                quad(at, low, high, limit=200, points=[0.0] if low < 0 < high else None)[0]
            )

        total = weigh(lambda d: 1.0, others)
        for s in range(3):
            expected = weigh(lambda d, s=s: sides(d)[s], others) / total
            assert rest.sides[i, s] == pytest.approx(expected, abs=2e-4)
        every = [*others, i]
        positive = weigh(lambda d: float(d > 0), every) / weigh(lambda d: 1.0, every)
        assert rest.preferred[pair] == pytest.approx(positive, abs=2e-3)


def test_a_pair_is_close_where_fewer_than_two_in_three_agree() -> None:
    labels, _ = labels_of(np.zeros(1, int), np.ones(1, int), np.ones(1, int))
    cases = [(0.0, 1.0, 1e-9), (2.0, 0.5, 0.4), (-0.5, 4.0, 1.5), (0.1, 0.01, 0.1)]
    for mean, variance, tie in cases:
        model = VoteModel(tie=tie, lapse=0.0)
        rest = leave_one_out(labels, np.array([mean]), np.array([variance]), model, np.zeros(1))
        at = brentq(lambda d, c=tie: expit(d - c) / (expit(d - c) + expit(-d - c)) - 2 / 3, 0, 9)
        law = norm(mean, np.sqrt(variance))
        assert rest.close[0] == pytest.approx(law.cdf(at) - law.cdf(-at), abs=2e-3)


def test_the_rest_of_a_label_is_a_refit_without_its_pair() -> None:
    features = features_of([2, 3, 4, 2, 5, 3] * 4, 5, dimension=4, models=2)
    truth = Truth.drawn(features, PREFERENCES, VoteModel(tie=0.4), 5)
    rng = np.random.default_rng(2)
    votes = truth.votes(*pairs_at_random(features, 150, rng), rng)
    labels, _ = labels_of(votes.a, votes.b, votes.grade)
    foretold = foretell(features, labels)
    expected, found = [], []
    for i in range(0, len(labels), 5):
        pair = labels.pair[i]
        rows = labels.pair != pair
        left = Votes(labels.a[labels.pair][rows], labels.b[labels.pair][rows], labels.grade[rows])
        without = fit_posterior(
            features, tally(left), foretold.posterior.prior, foretold.posterior.model
        )
        difference = without.differences(labels.a[[pair]], labels.b[[pair]])
        places = np.flatnonzero(labels.pair == pair)
        alone = replace(
            labels,
            a=labels.a[[pair]],
            b=labels.b[[pair]],
            pair=np.zeros(len(places), dtype=np.int64),
            grade=labels.grade[places],
            annotator=labels.annotator[places],
            left_is_a=labels.left_is_a[places],
        )
        rest = leave_one_out(
            alone, difference.mean, difference.variance, without.model, foretold.lapse[places]
        )
        expected += rest.sides.tolist()
        found += foretold.rest.sides[places].tolist()
    assert np.abs(np.array(found) - expected).max() < 0.05
    assert np.abs(np.array(found) - expected).mean() < 0.01


class EvenWeights(np.random.Generator):
    """Draws every weight as 1."""

    def exponential(self, scale: object = 1.0, size: object = None) -> np.ndarray:
        return np.ones(size)


def test_a_member_with_even_weights_is_the_posterior_itself() -> None:
    features, labels = random_labels(80, seed=1)
    foretold = foretell(features, labels)
    members = members_of(foretold, labels, EvenWeights(np.random.PCG64(0)), 2)
    expected = foretold.rest.probability(labels)
    assert np.abs(members - expected).max() < 1e-4
    assert np.abs(confidence(members) - expected).max() < 1e-4
    assert variability(members).max() < 1e-4


def test_members_weigh_whole_prompts_and_follow_their_seed() -> None:
    features, labels = random_labels(80, seed=1)
    foretold = foretell(features, labels)
    once, again, other = (
        members_of(foretold, labels, np.random.default_rng(seed), 3) for seed in (0, 0, 1)
    )
    assert np.array_equal(once, again)
    assert np.abs(once - other).max() > 1e-3
    assert np.all((once > 0) & (once < 1))


def test_the_same_labels_named_the_other_way_round_are_as_suspect() -> None:
    """What a file calls a, or puts first, says nothing."""
    features = features_of(UNEVEN, 4)
    votes = votes_at_random(features, 70, 4)
    labels, order = labels_of(votes.a, votes.b, votes.grade)
    turned = np.random.default_rng(0).permutation(len(votes))
    mirrored, its_order = labels_of(votes.b[turned], votes.a[turned], -votes.grade[turned])
    one, other = np.empty((2, len(votes)))
    one[order] = foretell(features, labels).surprise(labels)
    other[turned[its_order]] = foretell(features, mirrored).surprise(mirrored)
    assert np.allclose(one, other, atol=1e-6)


# Worlds whose wrong labels are known.


def assert_that_cleanlab_says_so(
    quality: np.ndarray, label: np.ndarray, probability: np.ndarray
) -> None:
    """The self-confidence that was computed here is cleanlab's own."""
    assert np.allclose(get_label_quality_scores(label, probability), quality)


@pytest.mark.parametrize(
    ("sizes", "ahead"),
    [([2] * 250, 0.0), ([7] * 12, 0.03), ([2, 3, 5, 8] * 8, 0.03)],
    ids=["2", "7", "uneven"],
)
def test_the_default_finds_planted_errors_that_cosine_and_cleanlab_miss(
    sizes: list[int], ahead: float
) -> None:
    """Mean area under the curve over three worlds, all methods at their defaults.

    Where K = 2 there is nothing to know but the features, which cleanlab's model has too.
    """
    area: dict[str, list[float]] = {}
    for seed in range(3):
        features, labels, wrong, score = planted_world(sizes, seed)
        found = diagnose(labelled_by(features, labels, score), seed=seed)
        kept = labels.side != 0
        for name in METHODS:
            suspicion = np.nan_to_num(found.suspicion(name)[kept], nan=-1.0)
            area.setdefault(name, []).append(roc_auc_score(wrong[kept], suspicion))
        rows = [np.hstack(list(features.rows(end).values())) for end in (labels.a, labels.b)]
        turned = np.where(np.random.default_rng(seed).random(labels.n_pairs) < 0.5, -1, 1)
        x = ((rows[0] - rows[1]) * turned[:, None])[kept]
        y = (labels.side * turned > 0).astype(int)[kept]
        probability = cross_val_predict(
            LogisticRegression(C=2.0, fit_intercept=False, max_iter=1000),
            x,
            y,
            groups=features.prompt_of_response[labels.a][kept],
            cv=GroupKFold(5),
            method="predict_proba",
        )
        quality = probability[np.arange(len(y)), y]  # cleanlab's self-confidence
        assert_that_cleanlab_says_so(quality, y, probability)
        area.setdefault("cleanlab", []).append(roc_auc_score(wrong[kept], -quality))
    mean = {name: np.mean(values) for name, values in area.items()}
    assert mean["surprise"] > 0.75
    assert mean["surprise"] > mean["map-cosine"] + 0.03
    assert mean["surprise"] > mean["cleanlab"] + ahead
    assert abs(mean["surprise"] - mean["confidence"]) < 0.03
    assert mean["map-covariance"] > mean["map-covariance-prompt"] - 0.01


def test_a_label_is_more_suspect_from_somebody_careless() -> None:
    """Four people, one of whom presses any key four times in ten."""
    gains, areas = [], []
    for seed in range(3):
        features = features_of([2] * 300, seed, dimension=6, models=0)
        truth = Truth.drawn(features, PREFERENCES, VoteModel(tie=0.2, lapse=0.0), seed)
        rng = np.random.default_rng(seed)
        votes = truth.votes(*all_pairs(features.prompt_of_response), rng)
        who = rng.integers(0, 4, len(votes))
        slipped = rng.random(len(votes)) < np.array([0.02, 0.05, 0.05, 0.4])[who]
        grade = np.where(slipped, rng.integers(-1, 2, len(votes)), votes.grade)
        labels, order = labels_of(votes.a, votes.b, grade, who)
        wrong = (grade != votes.grade)[order]
        foretold = foretell(features, labels)
        assert np.argmax(np.bincount(labels.annotator, foretold.lapse)) == 3
        areas.append(roc_auc_score(wrong, foretold.surprise(labels)))
        gains.append(areas[-1] - roc_auc_score(wrong, foretold.rest.log_odds(labels)))
    assert np.mean(areas) > 0.85
    assert np.mean(gains) > 0.01


def test_where_labels_are_noise_nothing_is_called_wrong() -> None:
    features = features_of([2] * 120, 3, dimension=6, models=0)
    a, b = all_pairs(features.prompt_of_response)
    grade = np.where(np.random.default_rng(3).random(len(a)) < 0.5, 1, -1)
    labels, _ = labels_of(a, b, grade)
    found = diagnose(labelled_by(features, labels, np.full(features.n_responses, np.nan)))
    assert not found.works
    assert found.right.low <= 0.5 <= found.right.high
    assert len(found.of_class(LIKELY_WRONG)) == 0
    assert document(found, 3)["foretold"]["works"] is False


def test_what_is_not_shown_to_work_calls_nothing_wrong() -> None:
    """The same odds, but for all that is known the rest may be a coin."""
    features, labels, _, score = planted_world([2] * 250, 0)
    found = diagnose(labelled_by(features, labels, score))
    assert found.works and len(found.of_class(LIKELY_WRONG)) > 3
    coin = replace(found, right=replace(found.right, low=0.49))
    assert not coin.works and len(coin.of_class(LIKELY_WRONG)) == 0


# Classes and reasons.


def crowded(votes_on_first: list[int]) -> tuple[Diagnosis, np.ndarray]:
    """A world of clear pairs with three agreeing votes each, but for the first pair."""
    features = features_of([2] * 60, 7, dimension=3, models=0)
    direction = features.rows(np.arange(features.n_responses))["response"][:, 0]
    a, b = all_pairs(features.prompt_of_response)
    better = np.where(direction[a] > direction[b], 1, -1)
    near = int(np.argmin(np.abs(direction[a] - direction[b])))  # the pair nobody can tell
    rows = np.concatenate(
        (np.repeat(np.delete(np.arange(len(a)), near), 3), np.full(len(votes_on_first), near))
    )
    grade = np.concatenate((np.repeat(np.delete(better, near), 3), votes_on_first))
    labels, order = labels_of(a[rows], b[rows], grade)
    found = diagnose(labelled_by(features, labels, np.full(features.n_responses, np.nan)))
    return found, np.flatnonzero(rows[order] == near)


def test_a_split_pair_is_contested_and_no_label_of_it_wrong() -> None:
    found, here = crowded([1, -1, 1, -1])
    assert found.works
    assert {found.class_of(i) for i in here} == {CONTESTED}


def test_a_lone_vote_against_many_is_likely_wrong_and_theirs_are_not() -> None:
    found, here = crowded([1, 1, 1, 1, 1, 1, -1])
    lone = here[found.labels.side[here] < 0]
    assert [found.class_of(i) for i in lone] == [LIKELY_WRONG]
    assert LIKELY_WRONG not in {found.class_of(i) for i in np.setdiff1d(here, lone)}
    first = found.ranking[0]
    assert first == lone[0]
    row = next(all_rows(found))
    assert row["rank"] == 1
    assert row["reason"].startswith(
        "6 of 6 other votes on this pair prefer the other response; everything else gives this"
    )
    assert row["votes"] == {"a": 6, "tie": 0, "b": 1}


def test_votes_that_agree_on_a_tie_are_not_contested() -> None:
    found, here = crowded([0, 0, 0, 0])
    assert CONTESTED not in {found.class_of(i) for i in here}


def test_labels_that_everything_foretells_are_of_low_impact() -> None:
    found, here = crowded([1, -1])
    low = found.of_class(LOW_IMPACT)
    assert len(low) and not np.isin(low, here).any()
    assert found.foretold.rest.probability(found.labels)[low].min() >= 0.95


def test_related_labels_are_counted_as_one_counts_them() -> None:
    features, labels = random_labels(60, seed=9)
    found = related_to(labels, features.n_responses)
    votes = [
        (int(labels.pair[i]), int(labels.a[labels.pair[i]]), int(labels.b[labels.pair[i]]), int(s))
        for i, s in enumerate(labels.side)
    ]
    for i, (pair, a, b, side) in enumerate(votes):
        others = [v for j, v in enumerate(votes) if j != i]
        same_pair = [v[3] for v in others if v[0] == pair]
        assert found.same[i] == same_pair.count(side)
        if side:
            assert found.opposite[i] == same_pair.count(-side)
            assert found.tied[i] == same_pair.count(0)
        else:
            assert found.opposite[i] == len(same_pair) - same_pair.count(0)
        winner, loser = (a, b) if side > 0 else (b, a)
        speaks = [0, 0]
        for other, x, y, its in others:
            if other == pair or not its or not side:
                continue
            won, lost = (x, y) if its > 0 else (y, x)
            speaks[0] += (won == winner) + (lost == loser)
            speaks[1] += (lost == winner) + (won == loser)
        assert [found.speak_for[i], found.against[i]] == speaks
        ends = [{v[1], v[2]} for v in others if v[0] != pair]
        assert found.on_both[i] == (any(a in e for e in ends) and any(b in e for e in ends))


# The figures of the page.


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "scripts" / "diagnosis.py"
    spec = importlib.util.spec_from_file_location("diagnosis_script", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_areas_and_precision_are_those_of_scikit_learn_and_of_counting(script: ModuleType) -> None:
    rng = np.random.default_rng(0)
    suspicion = np.round(rng.standard_normal(200), 1)  # many ties
    wrong = rng.random(200) < expit(suspicion - 2)
    found = script.measures(suspicion, wrong)
    assert found["auc"] == pytest.approx(roc_auc_score(wrong, suspicion))
    drawn = []
    for _ in range(4000):
        order = np.lexsort((rng.random(200), -suspicion))
        drawn.append(wrong[order[:20]].mean())
    assert found["precision at 10 %"] == pytest.approx(np.mean(drawn), abs=0.01)


def test_a_set_on_which_nothing_works_is_said_to_be_one(script: ModuleType) -> None:
    rng = np.random.default_rng(0)

    def run(auc: float) -> dict[str, object]:
        drawn = lambda: {m: auc + 0.01 * rng.standard_normal() for m in script.MEASURES}  # noqa: E731
        methods = {name: drawn() for name in [*METHODS, script.GROUPED, script.PLAIN]}
        flagged = {name: [10, 1] for name in ("surprise", script.GROUPED, script.PLAIN)}
        return {"methods": methods, "flagged": flagged, "foretold": 0.5}

    document = {
        "dataset": "noise", "scores": None, "scored_only": False, "labels": 100, "prompts": 50,
        "seeds": 10, "encoder": "e", "annotator": "0", "runs": [run(0.5) for _ in range(10)],
    }  # fmt: skip
    assert script.verdict(document) == "nothing beats chance here"
    assert "(not above chance)" in script.page([document])
    document["runs"] = [run(0.7) for _ in range(10)]
    assert script.verdict(document).startswith("by auc not shown to be above")
    for one in document["runs"]:
        one["methods"]["surprise"]["auc"] += 0.1
    assert "above all four otherwise; by precision at 5 % not" in script.verdict(document)
    for one in document["runs"]:
        for measure in script.MEASURES[1:]:
            one["methods"]["surprise"][measure] += 0.1
    assert script.verdict(document) == "above all four by every measure"


def test_log_odds_are_of_the_likeliest_other_verdict() -> None:
    features, labels = random_labels(50, seed=2)
    foretold = foretell(features, labels)
    for i, side in enumerate(labels.side):
        p = foretold.rest.sides[i]
        other = max(p[s] for s in range(3) if s != side + 1)
        assert foretold.rest.log_odds(labels)[i] == pytest.approx(np.log(other / p[side + 1]))
    assert foretold.surprise(labels) == pytest.approx(foretold.rest.log_odds(labels))
    assert np.allclose(logit(foretold.lapse), logit(foretold.lapse[0]))
