"""Features and votes as arrays: by hand, by brute force, and with input that cannot be."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from annotator.errors import PreferenceError
from annotator.preference.acquisition import votes_of_pairs
from annotator.preference.features import (
    COVARIATES,
    ResponseFeatures,
    form_covariates,
    response_features,
)
from annotator.preference.votes import Votes, tally
from strategies.pool import Pool
from strategies.within_prompt import all_pairs
from tests.preference_world import features_of, scores_of_judges, votes_at_random
from tests.test_strategies_contract import unit_vectors

SIZES = [2, 5, 3, 20, 2, 4, 1, 7]


def arrays(sizes: list[int] = SIZES, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    prompts = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return {
        "vectors": unit_vectors(len(prompts), rng, 5),
        "prompt_vectors": unit_vectors(len(sizes), rng, 5),
        "prompt_of_response": prompts,
        "form": rng.gamma(1.0, 50.0, (len(prompts), 8)).astype(np.float32),
    }


class TestFeatures:
    @pytest.mark.parametrize("seed", range(3))
    def test_in_every_group_two_responses_to_a_prompt_differ_by_one(self, seed: int) -> None:
        names = ["x", "y", "z"]
        given = arrays(seed=seed)
        n = len(given["form"])
        models = [names[i] for i in np.random.default_rng(seed).integers(0, 3, n)]
        judged = scores_of_judges(n, 3, seed)
        features = response_features(**given, models=models, judged=judged)
        prompts, rows = features.prompt_of_response, features.rows(np.arange(n))
        for group in rows.values():
            # The mean over a prompt's pairs of the squared distance, prompts weighed by K - 1.
            total = 0.0
            for prompt in range(len(SIZES)):
                its = group[prompts == prompt]
                k = len(its)
                squared = ((its[:, None] - its) ** 2).sum()
                total += squared / (k * (k - 1)) * (k - 1) if k > 1 else 0.0
            assert total / (n - len(SIZES)) == pytest.approx(1.0, rel=1e-5)

    def test_a_few_rows_are_those_of_all(self) -> None:
        features = features_of(SIZES, 1)
        everything = features.rows(np.arange(features.n_responses))
        some = np.array([7, 3, 3, 40, 0])
        for name, group in features.rows(some).items():
            np.testing.assert_array_equal(group, everything[name][some])
            assert group.shape[1] == features.sizes[name]

    def test_the_product_is_with_the_prompt_that_was_answered(self) -> None:
        given = arrays()
        features = response_features(**given)
        topic = given["prompt_vectors"][given["prompt_of_response"]]
        product = features.rows(np.arange(len(topic)))["product"]
        ratio = product / (given["vectors"].astype(float) * topic)
        np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)

    def test_scales_do_not_change_with_the_encoder_s(self) -> None:
        given = arrays()
        one = response_features(**given)
        stretched = response_features(**given | {"form": given["form"] * 1000})
        for name, group in one.rows(np.arange(10)).items():
            np.testing.assert_allclose(stretched.rows(np.arange(10))[name], group, rtol=1e-4)

    def test_models_that_answered_one_prompt_only_are_nobody(self) -> None:
        given = arrays([2, 2, 2])
        prompts = given["prompt_of_response"]
        models: list[str | None] = ["common" if i % 2 else None for i in range(6)]
        first = int(np.flatnonzero(prompts == 0)[0])
        models[first] = "rare"
        common = {int(p) for p, m in zip(prompts, models, strict=True) if m == "common"}
        features = response_features(**given, models=models)
        assert len(common) > 1
        # One common model alone tells nobody apart.
        assert features.n_models == 0
        assert (features.model == -1).all()

    def test_a_judge_s_scores_are_compared_within_prompts(self) -> None:
        given = arrays()
        prompts = given["prompt_of_response"]
        judged = scores_of_judges(len(prompts), 2, 5)
        features = response_features(**given, judged=judged)
        rows = features.rows(np.arange(len(prompts)))["judge"]
        assert features.sizes["judge"] == features.n_judges == 2
        for judge in range(2):
            scores, found = judged[:, judge], rows[:, judge]
            known = np.isfinite(scores)
            assert not found[~known].any()
            expected = np.zeros(len(scores))
            for prompt in np.unique(prompts):
                its = known & (prompts == prompt)
                if its.any():
                    expected[its] = scores[its] - scores[its].mean()
            ratio = found[known] / np.where(expected[known] == 0, 1.0, expected[known])
            np.testing.assert_allclose(ratio[expected[known] != 0], ratio.max(), rtol=1e-4)
            assert ratio.max() > 0

    def test_a_judge_that_never_differs_says_nothing(self) -> None:
        given = arrays()
        n = len(given["form"])
        features = response_features(
            **given, judged=np.column_stack((np.ones(n), np.full(n, np.nan)))
        )
        assert not features.rows(np.arange(n))["judge"].any()

    @pytest.mark.parametrize("judged", [np.ones(3), np.ones((3, 1)), np.full((44, 1), np.inf)])
    def test_scores_that_cannot_be(self, judged: np.ndarray) -> None:
        with pytest.raises(PreferenceError, match="judges' scores are of shape"):
            response_features(**arrays(), judged=judged)

    def test_one_lone_response(self) -> None:
        features = response_features(**arrays([1]))
        assert all(np.isfinite(g).all() for g in features.rows(np.array([0])).values())

    def test_no_response_at_all(self) -> None:
        features = response_features(
            np.empty((0, 5), np.float32), np.empty((0, 5), np.float32),
            np.empty(0, np.int64), np.empty((0, 8), np.float32),
        )  # fmt: skip
        assert features.n_responses == 0

    @pytest.mark.parametrize("name", ["vectors", "prompt_vectors", "form"])
    def test_numbers_must_be_finite(self, name: str) -> None:
        given = arrays()
        given[name][3, 2] = np.nan
        with pytest.raises(PreferenceError, match="NaN or infinity"):
            response_features(**given)

    @pytest.mark.parametrize(
        ("name", "wrong"),
        [
            ("vectors", np.zeros((3, 5), np.float32)),
            ("form", np.zeros((44, 3), np.float32)),
            ("prompt_vectors", np.zeros((2, 5), np.float32)),
            ("models", ["x"]),
        ],
    )
    def test_shapes_must_fit(self, name: str, wrong: object) -> None:
        with pytest.raises(PreferenceError):
            response_features(**arrays() | {name: wrong})


class TestForm:
    def test_by_hand(self) -> None:
        text = "Yes, I do.\nDo you?"
        (found,) = form_covariates([text]).tolist()
        words, characters = 5, 18
        assert found == pytest.approx(
            [
                np.log(1 + characters), np.log(1 + words),
                1 / (1 + words), 1 / (1 + words), 1 / (1 + words), 1 / (1 + words),
                3 / (1 + characters), 14 / words,
            ],
            rel=1e-6,
        )  # fmt: skip
        assert len(found) == len(COVARIATES)

    def test_texts_of_other_scripts_ask_no_questions(self) -> None:
        found = form_covariates(["Это не вопрос.", "これは質問ではない", "\ud800", ""])
        assert np.isfinite(found).all()
        assert (found[:, COVARIATES.index("questions")] == 0).all()
        assert form_covariates(["Это вопрос?"])[0, COVARIATES.index("questions")] > 0

    def test_no_texts(self) -> None:
        assert form_covariates([]).shape == (0, 8)


class TestVotes:
    @pytest.mark.parametrize("lapses", [None, (0.0, 0.1, 0.25)])
    def test_tally_counts_as_a_loop_does(self, lapses: tuple[float, ...] | None) -> None:
        votes = votes_at_random(features_of(SIZES, 1), 90, 2, strengths=True, lapses=lapses)
        expected: Counter[tuple] = Counter()
        lapse = np.full(len(votes), -1.0) if votes.lapse is None else votes.lapse
        for a, b, grade, its in zip(
            votes.a.tolist(), votes.b.tolist(), votes.grade.tolist(), lapse.tolist(), strict=True
        ):
            expected[(min(a, b), max(a, b), its, grade if a < b else -grade)] += 1
        found = tally(votes)
        its = np.full(len(found.a), -1.0) if found.lapse is None else found.lapse
        rows = [(int(a), int(b), float(x)) for a, b, x in zip(found.a, found.b, its, strict=True)]
        assert len(set(rows)) == len(rows)
        assert [row[:2] for row in rows] == sorted(row[:2] for row in rows)
        counted = {
            (*row, grade): int(found.counts[i, grade + 2])
            for i, row in enumerate(rows)
            for grade in range(-2, 3)
            if found.counts[i, grade + 2]
        }
        assert counted == expected
        assert found.n_votes.sum() == len(votes)
        assert found.has_strength

    def test_no_votes(self) -> None:
        found = tally(Votes.none())
        assert len(found.a) == len(found.b) == 0
        assert found.counts.shape == (0, 5)
        assert not found.has_strength

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            (([0, 1], [1, 0], [1]), "grade of shape"),
            (([[0]], [[1]], [[1]]), "of shape"),
            (([0], [0], [1]), "itself"),
            (([0], [1], [3]), "grade 3"),
            (([0.5], [1.0], [1.0]), "of type float64"),
            (([0], [1], [1], [1.0]), r"outside \[0, 1\)"),
            (([0], [1], [1], [float("nan")]), r"outside \[0, 1\)"),
        ],
    )
    def test_votes_that_cannot_be(self, columns: tuple, message: str) -> None:
        with pytest.raises(PreferenceError, match=message):
            Votes(*map(np.array, columns))

    def test_votes_of_pairs_are_counted_in_both_orders(self) -> None:
        features: ResponseFeatures = features_of(SIZES, 3)
        votes = votes_at_random(features, 50, 4)
        pool = Pool.of_responses(
            np.ascontiguousarray(features.vectors), features.prompt_of_response
        )
        found = votes_of_pairs(pool, votes)
        expected = Counter(
            (min(a, b), max(a, b)) for a, b in zip(votes.a.tolist(), votes.b.tolist(), strict=True)
        )
        a, b = all_pairs(features.prompt_of_response)
        assert dict(zip(zip(a.tolist(), b.tolist(), strict=True), found.tolist(), strict=True)) == {
            pair: expected[pair] for pair in zip(a.tolist(), b.tolist(), strict=True)
        }
        assert found.sum() == len(votes) > 30
        assert not votes_of_pairs(pool, Votes.none()).any()
