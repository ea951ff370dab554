"""The data map: its mathematics, its strategies, its tables, its correlations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sqlite_utils import Database

from annotator.candidates.catalog import response_table
from annotator.errors import EncoderError, ScoreError
from annotator.signals.datamap import (
    build_map,
    ensure_map,
    map_entries,
    newest_map,
    placed_prompts,
    response_scores,
)
from annotator.signals.embeddings import embed_missing, response_vectors
from annotator.signals.map_correlation import CORRELATIONS, map_correlation
from annotator.signals.scores import PEER_AGREEMENT, method_named, scores_by
from annotator.store import writing
from strategies import STRATEGIES
from strategies.datamap import (
    HIGH_MEAN_LOW_VARIANCE,
    HIGH_VARIANCE,
    LOW_MEAN,
    NO_REGION,
    REGIONS,
    cut_offs,
    map_of_scores,
    regions,
)
from strategies.pool import MissingSignal, Pool
from strategies.within_prompt import peer_agreement
from tests.fake_encoder import FakeEncoder
from tests.small_world import add_prompt, add_prompts

SIZES = [4, 2, 3, 1, 5, 2, 4, 3]


def unit_vectors(n: int, rng: np.random.Generator, d: int = 6) -> np.ndarray:
    vectors = rng.standard_normal((n, d), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def scattered(sizes: list[int], rng: np.random.Generator) -> np.ndarray:
    """prompt_of_response with these numbers of responses, standing apart, numbers with gaps."""
    return rng.permutation(np.repeat(2 * np.arange(len(sizes)) + 1, sizes))


def as_published(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """The sequential split in plain Python lists, for distinct values without NaN."""
    by_variance = sorted(range(len(mean)), key=lambda i: variance[i])
    cut = 2 * len(mean) // 3
    rest = sorted(by_variance[:cut], key=lambda i: mean[i])
    found = np.full(len(mean), NO_REGION)
    found[by_variance[cut:]] = HIGH_VARIANCE
    found[rest[: cut // 2]] = LOW_MEAN
    found[rest[cut // 2 :]] = HIGH_MEAN_LOW_VARIANCE
    return found


class TestMapOfScores:
    def test_four_numbers_by_hand(self) -> None:
        placed = map_of_scores(np.array([1.0, 0.5, 2.0, 6.0]), np.array([0, 1, 0, 0]))
        assert placed.mean[0] == 3.0
        assert placed.variance[0] == pytest.approx((4 + 1 + 9) / 3)  # ddof 0, not 7
        assert np.isnan([placed.mean[1], placed.variance[1]]).all()
        assert placed.n_scored.tolist() == [3, 1]

    @pytest.mark.parametrize("seed", range(4))
    def test_agrees_with_numpy_prompt_by_prompt(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        prompts = scattered(SIZES, rng)
        score = 1500 + 200 * rng.standard_normal(len(prompts))
        score[rng.random(len(score)) < 0.2] = np.nan
        placed = map_of_scores(score, prompts)
        for prompt in range(prompts.max() + 1):
            own = score[prompts == prompt]
            own = own[~np.isnan(own)]
            assert placed.n_scored[prompt] == len(own)
            expected = [own.mean(), own.var()] if len(own) >= 2 else [np.nan, np.nan]
            got = [placed.mean[prompt], placed.variance[prompt]]
            np.testing.assert_allclose(got, expected, rtol=1e-9)

    def test_equal_scores_have_no_variance_at_all(self) -> None:
        placed = map_of_scores(np.full(7, 0.1), np.array([0, 0, 0, 1, 1, 1, 1]))
        assert placed.variance.tolist() == [0.0, 0.0]

    def test_of_two_responses_the_variance_is_the_squared_half_margin(self) -> None:
        placed = map_of_scores(np.array([0.3, 0.9]), np.array([0, 0]))
        assert placed.variance[0] == pytest.approx(0.09)

    def test_of_nothing_there_is_an_empty_map(self) -> None:
        placed = map_of_scores(np.empty(0), np.empty(0, dtype=np.int64))
        assert len(placed.mean) == len(placed.variance) == 0
        unscored = map_of_scores(np.full(4, np.nan), np.array([0, 0, 1, 1]))
        assert np.isnan(unscored.mean).all()
        tied = regions(unscored.mean, unscored.variance, np.arange(2))
        assert tied.tolist() == [NO_REGION, NO_REGION]


class TestRegions:
    def test_nine_prompts_by_hand(self) -> None:
        variance = np.array([9.0, 1, 8, 2, 7, 3, 6, 4, 5])
        mean = np.array([0.9, 0.1, 0.8, 0.6, 0.1, 0.5, 0.2, 0.4, 0.3])
        region = regions(mean, variance, np.arange(9))
        # 9, 8, 7 have high variance; of the other means .1 .6 .5 .2 .4 .3 the upper half is left.
        high = "high-variance", "high-mean-low-variance", "low-mean"
        names = [REGIONS[code] for code in region]
        assert names == [high[i] for i in (0, 2, 0, 1, 0, 1, 2, 1, 2)]
        cuts = cut_offs(mean, variance, region)
        assert (cuts.variance, cuts.mean) == (7.0, 0.4)

    @pytest.mark.parametrize(
        ("n", "high_mean", "high_variance", "low_mean"),
        [(1, 0, 1, 0), (2, 1, 1, 0), (3, 1, 1, 1), (4, 1, 2, 1), (10, 3, 4, 3), (11, 4, 4, 3)],
    )
    def test_sizes_are_rounded_as_published(
        self, n: int, high_mean: int, high_variance: int, low_mean: int
    ) -> None:
        rng = np.random.default_rng(n)
        region = regions(rng.random(n), rng.random(n), np.arange(n))
        assert np.bincount(region, minlength=3).tolist() == [high_mean, high_variance, low_mean]

    def test_the_published_pool_splits_into_equal_thirds(self) -> None:
        rng = np.random.default_rng(0)
        region = regions(rng.random(19_578), rng.random(19_578), np.arange(19_578))
        assert np.bincount(region).tolist() == [6526] * 3

    @settings(max_examples=80, deadline=None)
    @given(n=st.integers(1, 60), seed=st.integers(0, 2**32 - 1))
    def test_agrees_with_the_plain_split(self, n: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        mean, variance = rng.normal(size=n), rng.random(n)
        spread = np.full((2, 2 * n), np.nan)
        places = np.sort(rng.choice(2 * n, size=n, replace=False))
        spread[:, places] = mean, variance
        region = regions(*spread, rng.permutation(2 * n))
        assert np.array_equal(region[places], as_published(mean, variance))
        assert (np.delete(region, places) == NO_REGION).all()

    def test_ties_are_the_callers_to_break(self) -> None:
        mean = variance = np.zeros(300)
        first = regions(mean, variance, np.random.default_rng(1).permutation(300))
        again = regions(mean, variance, np.random.default_rng(1).permutation(300))
        other = regions(mean, variance, np.random.default_rng(2).permutation(300))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)
        assert np.bincount(first).tolist() == np.bincount(other).tolist() == [100] * 3

    def test_rounding_breaks_no_tie(self) -> None:
        """Tenths that differ by 0.1, 0.2 are one variance, whatever their last bit says."""
        low = np.round(np.arange(30) / 10, 1)
        score = np.stack([low, np.round(low + 0.1, 1), np.round(low + 0.3, 1)], axis=1)
        placed = map_of_scores(score.ravel(), np.repeat(np.arange(30), 3))
        assert len(np.unique(placed.variance)) > 1
        backwards = np.arange(30)[::-1]
        high = np.flatnonzero(regions(placed.mean, placed.variance, backwards) == HIGH_VARIANCE)
        assert high.tolist() == list(range(10))


class TestStrategies:
    """The contract is tested for all strategies elsewhere; here what these choose."""

    def pool(self, seed: int = 0) -> Pool:
        rng = np.random.default_rng(seed)
        prompts = scattered([4] * 30 + [2, 3, 1, 5], rng)
        pool = Pool.of_responses(unit_vectors(len(prompts), rng), prompts)
        score = rng.random(len(prompts))
        score[prompts == 7] = np.nan
        picked = rng.choice(pool.n_pairs, size=20, replace=False)
        return pool.with_signals(response_score=score).without(picked)

    def region_of_pairs(self, pool: Pool) -> np.ndarray:
        placed = map_of_scores(pool.signal("response_score"), pool.prompt_of_response)
        region = regions(placed.mean, placed.variance, np.arange(pool.n_prompts))
        return region[pool.prompt_of_pair]

    @pytest.mark.parametrize(
        ("name", "order"),
        [
            ("high-mean-low-variance", (HIGH_MEAN_LOW_VARIANCE, LOW_MEAN, HIGH_VARIANCE)),
            ("high-variance", (HIGH_VARIANCE, HIGH_MEAN_LOW_VARIANCE, LOW_MEAN)),
            ("low-mean", (LOW_MEAN, HIGH_MEAN_LOW_VARIANCE, HIGH_VARIANCE)),
        ],
    )
    def test_its_region_first_then_the_others_then_the_unplaced(
        self, name: str, order: tuple[int, ...]
    ) -> None:
        pool = self.pool()
        chosen = STRATEGIES[f"datamap-{name}"](pool, pool.n_eligible, np.random.default_rng(0))
        came = self.region_of_pairs(pool)[chosen.positions]
        turns = [[*order, NO_REGION].index(code) for code in came]
        assert turns == sorted(turns)
        assert set(turns) == {0, 1, 2, 3}
        assert chosen.scores.tolist() == [3.0 - turn for turn in turns]
        assert np.isnan(chosen.propensities).all()

    def test_prompts_come_whole_and_only_the_last_is_cut(self) -> None:
        pool = self.pool()
        eligible_of = np.bincount(pool.prompt_of_pair[pool.pair_eligible])
        for n in (1, 10, 31):
            chosen = STRATEGIES["datamap-low-mean"](pool, n, np.random.default_rng(3)).positions
            prompts = pool.prompt_of_pair[chosen]
            runs = np.flatnonzero(np.diff(prompts)) + 1
            blocks = np.split(prompts, runs)
            assert len(blocks) == len(set(prompts.tolist()))
            for block in blocks[:-1]:
                assert len(block) == eligible_of[block[0]]

    def test_prompts_and_their_pairs_are_drawn(self) -> None:
        pool = self.pool()
        first_pairs = {
            int(STRATEGIES["datamap-high-variance"](pool, 1, np.random.default_rng(s)).positions[0])
            for s in range(400)
        }
        in_region = np.flatnonzero(self.region_of_pairs(pool) == HIGH_VARIANCE)
        assert first_pairs == set(in_region[pool.pair_eligible[in_region]].tolist())

    def test_without_scores_it_says_what_is_missing(self) -> None:
        pool = Pool.of_responses(unit_vectors(4, np.random.default_rng(0)), np.zeros(4, int))
        with pytest.raises(MissingSignal, match="response_score"):
            STRATEGIES["datamap-low-mean"](pool, 1, np.random.default_rng(0))


class TestPeerAgreement:
    @pytest.mark.parametrize("seed", range(3))
    def test_agrees_with_the_plain_loop(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        prompts = scattered([*SIZES, 40], rng)
        vectors = unit_vectors(len(prompts), rng, d=33)
        found = peer_agreement(vectors, prompts)
        for i in range(len(prompts)):
            peers = [j for j in np.flatnonzero(prompts == prompts[i]) if j != i]
            expected = np.mean([float(vectors[i] @ vectors[j]) for j in peers]) if peers else np.nan
            assert found[i] == pytest.approx(expected, abs=1e-6, nan_ok=True)

    def test_blocks_leave_no_seam(self) -> None:
        rng = np.random.default_rng(0)
        prompts = np.repeat(np.arange(3000), 3)
        vectors = unit_vectors(9000, rng, d=64)
        cosines = np.einsum("pid,pjd->pij", *[vectors.reshape(3000, 3, 64)] * 2)
        expected = (cosines.sum(axis=2) - np.einsum("pii->pi", cosines)) / 2
        np.testing.assert_allclose(peer_agreement(vectors, prompts), expected.ravel(), atol=1e-6)

    def test_of_two_both_have_exactly_the_same(self) -> None:
        rng = np.random.default_rng(0)
        uneven = unit_vectors(2000, rng, d=384) * 10.0 ** rng.uniform(-15, 0, (2000, 384))
        vectors = (uneven / np.linalg.norm(uneven, axis=1, keepdims=True)).astype(np.float32)
        prompts = np.repeat(np.arange(1000), 2)
        placed = map_of_scores(peer_agreement(vectors, prompts), prompts)
        assert (placed.variance == 0.0).all()

    def test_equal_responses_agree_by_one_and_never_more(self) -> None:
        vectors = np.repeat(unit_vectors(1, np.random.default_rng(0), d=384), 5, axis=0)
        found = peer_agreement(vectors, np.zeros(5, dtype=np.int64))
        assert found.max() <= 1.0
        np.testing.assert_allclose(found, 1.0, atol=1e-6)


ORACLES = {
    "cosine": lambda s, a: s @ a / np.linalg.norm(s) / np.linalg.norm(a),
    "pearson": lambda s, a: stats.pearsonr(s, a).statistic,
    "minmax-pearson": lambda s, a: stats.pearsonr(s, a).statistic,
    "kendall": lambda s, a: stats.kendalltau(s, a).statistic,
    "kl": lambda s, a: np.exp(-stats.entropy(a, s)),
    "covariance": lambda s, a: np.cov(s, a, ddof=0)[0, 1],
}


class TestCorrelations:
    def of(self, kind: str, score: list[float], annotation: list[float]) -> float:
        prompts = np.zeros(len(score), dtype=np.int64)
        return float(map_correlation(kind, np.array(score), np.array(annotation), prompts)[0])

    def test_the_published_cosine_is_nearly_blind(self) -> None:
        score = [0.9, 0.8, 0.7, 0.6]
        right, reversed_ = [5.0, 4.0, 3.0, 2.0], [2.0, 3.0, 4.0, 5.0]
        assert self.of("cosine", score, right) == pytest.approx(0.987, abs=5e-4)
        assert self.of("cosine", score, reversed_) == pytest.approx(0.897, abs=5e-4)
        for kind in ("pearson", "minmax-pearson", "kendall"):
            assert self.of(kind, score, right) == pytest.approx(1.0)
            assert self.of(kind, score, reversed_) == pytest.approx(-1.0)
        assert self.of("covariance", score, right) == pytest.approx(0.125)
        assert self.of("covariance", score, reversed_) == pytest.approx(-0.125)

    def test_the_cosine_of_a_one_hot_label_at_a_tie(self) -> None:
        assert self.of("cosine", [0.6, 0.6], [1.0, 0.0]) == pytest.approx(0.7071, abs=1e-4)

    @pytest.mark.parametrize("kind", sorted(CORRELATIONS))
    def test_agrees_with_scipy_on_uneven_prompts(self, kind: str) -> None:
        rng = np.random.default_rng(5)
        prompts = scattered([*SIZES, 12], rng)
        score, annotation = rng.random((2, len(prompts)))
        score[rng.random(len(score)) < 0.15] = np.nan
        annotation[rng.random(len(score)) < 0.15] = np.nan
        found = map_correlation(kind, score, annotation, prompts)
        assert len(found) == prompts.max() + 1
        for prompt in range(len(found)):
            own = (prompts == prompt) & ~np.isnan(score) & ~np.isnan(annotation)
            many = np.count_nonzero(own) >= 2
            expected = ORACLES[kind](score[own], annotation[own]) if many else np.nan
            assert found[prompt] == pytest.approx(expected, nan_ok=True)

    def test_kendall_is_the_mean_over_random_breaking_of_ties(self) -> None:
        rng = np.random.default_rng(0)
        score, annotation = np.array([0.9, 0.4, 0.7, 0.2, 0.5]), np.array([5.0, 4, 4, 4, 1])
        broken = [
            stats.kendalltau(score, annotation + rng.uniform(-1e-9, 1e-9, 5)).statistic
            for _ in range(3000)
        ]
        found = self.of("kendall", score.tolist(), annotation.tolist())
        assert found == pytest.approx(np.mean(broken), abs=4 * np.std(broken) / np.sqrt(3000))

    def test_what_is_not_defined_is_nan(self) -> None:
        constant, rising = [0.3, 0.3, 0.3], [1.0, 2.0, 3.0]
        assert np.isnan(self.of("pearson", constant, rising))
        assert np.isnan(self.of("minmax-pearson", constant, rising))
        assert self.of("covariance", constant, rising) == 0.0
        assert np.isnan(self.of("kl", [-0.1, 0.5], [1.0, 2.0]))
        assert np.isnan(self.of("kl", [0.0, 0.0], [1.0, 2.0]))
        assert self.of("kl", [0.0, 1.0], [1.0, 2.0]) == 0.0
        assert np.isnan(self.of("cosine", [0.0, 0.0], [1.0, 2.0]))

    def test_an_unknown_kind_is_refused(self) -> None:
        with pytest.raises(ValueError, match="there are cosine, pearson"):
            self.of("spearman", [1.0, 2.0], [1.0, 2.0])


@pytest.fixture
def world(db: Database, tmp_path: Path) -> tuple[Database, Path, int]:
    """Prompts of uneven K with vectors: database, its path, the encoder's id."""
    add_prompts(db, SIZES)
    path = tmp_path / "annotator.db"
    return db, path, embed_missing(db, FakeEncoder(), path).encoder_id


def add_scores(db: Database, name: str, scores: dict[int, float]) -> None:
    with writing(db):
        db.conn.executemany(
            "INSERT INTO source_scores VALUES (?, ?, ?, 1)",
            [(response_id, name, value) for response_id, value in scores.items()],
        )


class TestTables:
    def test_the_map_says_what_the_mathematics_says(
        self, world: tuple[Database, Path, int]
    ) -> None:
        db, path, encoder_id = world
        build = build_map(db, path, encoder_id, seed=4)
        table = response_table(db)
        _, prompts = np.unique(table.prompt_ids, return_inverse=True)
        vectors = response_vectors(db, path, encoder_id, table.response_ids)
        scores = peer_agreement(vectors, prompts)
        shuffled = np.random.default_rng(0).permutation(len(scores))
        kept = response_scores(db, table.response_ids[shuffled])
        np.testing.assert_array_equal(kept, scores[shuffled])
        expected = map_of_scores(scores, prompts)
        placed = placed_prompts(db, build)
        np.testing.assert_array_equal(placed.mean, expected.mean)
        np.testing.assert_array_equal(placed.variance, expected.variance)
        assert placed.n_scored.tolist() == [0 if k == 1 else k for k in SIZES]
        assert (placed.n_on_map, placed.n_off_map, placed.n_of_two) == (7, 1, 2)
        assert placed.counts == {REGIONS[0]: 2, REGIONS[1]: 3, REGIONS[2]: 2}
        assert build.cuts.variance == np.sort(expected.variance[expected.n_scored > 1])[4]
        assert (build.seed, build.n_responses, build.n_scored) == (4, sum(SIZES), sum(SIZES) - 1)
        rows = db.execute("SELECT DISTINCT method, encoder_id, judge_variance FROM scores")
        assert rows.fetchall() == [(PEER_AGREEMENT, encoder_id, None)]
        assert "no judge has scored" in build.scores_in_words
        assert "fake" in build.scores_in_words

    def test_building_again_leaves_one_map_a_method(
        self, world: tuple[Database, Path, int]
    ) -> None:
        db, path, encoder_id = world
        ids = response_table(db).response_ids
        add_scores(db, "grade", {int(i): float(i % 3) for i in ids})
        for _ in range(2):
            build_map(db, path, encoder_id)
            build_map(db, path, None, "data:grade", 9)
        assert db["datamap_builds"].count == 2
        assert db["datamap"].count == 2 * len(SIZES)
        assert db["scores"].count == sum(SIZES) - 1  # those of the data stay where they are
        newest = newest_map(db)
        assert newest is not None
        assert (newest.method, newest.seed, newest.encoder_id) == ("data:grade", 9, None)
        np.testing.assert_array_equal(response_scores(db, ids), ids % 3)

    def test_scores_of_the_data_may_be_few(self, world: tuple[Database, Path, int]) -> None:
        db, path, _ = world
        table = response_table(db)
        first = np.flatnonzero(table.prompt_ids == table.prompt_ids[0])
        some = table.response_ids[first[:3]]
        add_scores(db, "grade", dict(zip(some.tolist(), [1.0, 4.0, 4.0], strict=True)))
        build = build_map(db, path, None, "data:grade")
        placed = placed_prompts(db, build)
        assert (placed.mean[0], placed.variance[0]) == (3.0, 2.0)
        assert placed.counts == {REGIONS[0]: 0, REGIONS[1]: 1, REGIONS[2]: 0}
        assert np.isnan(build.cuts.mean)
        known = scores_by(db, "data:grade", table.response_ids)
        assert np.flatnonzero(~np.isnan(known)).tolist() == first[:3].tolist()

    def test_a_map_is_made_anew_only_when_something_came(
        self, world: tuple[Database, Path, int]
    ) -> None:
        db, path, encoder_id = world
        first = ensure_map(db, path, encoder_id)
        assert ensure_map(db, path, encoder_id) == first
        add_prompt(db, [{"role": "user", "content": "new"}], ["one", "two", "three"])
        with pytest.raises(EncoderError, match="3 of"):
            ensure_map(db, path, encoder_id)
        embed_missing(db, FakeEncoder(), path)
        second = ensure_map(db, path, encoder_id)
        assert second.n_responses == first.n_responses + 3
        assert not np.isnan(response_scores(db, response_table(db).response_ids)[-3:]).any()
        other = embed_missing(db, FakeEncoder(name="other", salt="x"), path).encoder_id
        assert ensure_map(db, path, other).encoder_id == other

    def test_a_map_of_the_datas_scores_stays_one_of_them(
        self, world: tuple[Database, Path, int]
    ) -> None:
        db, path, encoder_id = world
        ids = response_table(db).response_ids.tolist()
        add_scores(db, "grade", dict.fromkeys(ids[:4], 0.5))
        build_map(db, path, None, "data:grade", 3)
        add_scores(db, "grade", dict.fromkeys(ids[4:], 0.7))
        again = ensure_map(db, path, encoder_id)
        assert (again.method, again.seed, again.n_scored) == ("data:grade", 3, len(ids))

    def test_without_a_map_every_score_is_unknown(self, world: tuple[Database, Path, int]) -> None:
        db, _, _ = world
        assert np.isnan(response_scores(db, response_table(db).response_ids)).all()

    def test_a_map_of_nothing_is_refused_and_the_former_stays(
        self, world: tuple[Database, Path, int], tmp_path: Path
    ) -> None:
        db, path, encoder_id = world
        build = build_map(db, path, encoder_id)
        add_scores(db, "rare", {int(response_table(db).response_ids[0]): 1.0})
        with pytest.raises(ScoreError, match="none of the 8 prompts has two"):
            build_map(db, path, None, "data:rare")
        assert newest_map(db) == build

    def test_names_of_scores(self, world: tuple[Database, Path, int]) -> None:
        db, _, _ = world
        assert method_named(db, None) == method_named(db, "peer-agreement") == PEER_AGREEMENT
        with pytest.raises(ScoreError, match="leave --scores out"):
            method_named(db, "grade")
        add_scores(db, "grade", {1: 1.0})
        add_scores(db, "length", {1: 1.0})
        assert method_named(db, "grade") == method_named(db, "data:grade") == "data:grade"
        with pytest.raises(ScoreError, match="one of peer-agreement, grade, length"):
            method_named(db, "grad")

    def test_entries_come_in_the_order_asked_for_and_best_first(
        self, world: tuple[Database, Path, int]
    ) -> None:
        db, path, encoder_id = world
        build = build_map(db, path, encoder_id)
        prompt_ids = placed_prompts(db, build).prompt_ids[::-1].tolist()
        entries = list(map_entries(db, build, prompt_ids))
        assert [entry.prompt_id for entry in entries] == prompt_ids
        assert [len(entry.responses) for entry in entries] == SIZES[::-1]
        for entry in entries:
            scores = [score for score, _ in entry.responses if score is not None]
            assert scores == sorted(scores, reverse=True)
            assert {shown.messages[0]["content"] for _, shown in entry.responses} == {
                entry.messages[0]["content"]
            }
