"""k-center, BADGE and AEPO against brute force and against chances worked out by hand."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest

from strategies.diversity import HELD_BYTES, PairVectors, aepo, badge, k_center
from strategies.farthest_first import Cover
from strategies.kmeans_seeding import draw_by_distance
from strategies.pool import MissingSignal, Pool, check_selection, signals_needed
from tests.signalled_pool import with_all_signals
from tests.test_strategies_contract import SIZES, pool_of, unit_vectors


def differences(pool: Pool) -> np.ndarray:
    vectors = pool.response_vectors.astype(float)
    return vectors[pool.pair_a] - vectors[pool.pair_b]


def apart(z: np.ndarray, other: np.ndarray) -> float:
    return float(min(np.linalg.norm(z - other), np.linalg.norm(z + other)))


class TestKCenter:
    @pytest.mark.parametrize("name", ["mixed", "corpus of pairs", "lone responses"])
    def test_each_pick_is_the_farthest_from_all_before(self, name: str) -> None:
        pool = pool_of(SIZES[name], seed=3)
        z = differences(pool)
        chosen = k_center(pool, pool.n_eligible, np.random.default_rng(0))
        centres = np.vstack([np.zeros((1, z.shape[1])), z[~pool.pair_eligible]])
        for at, score in zip(chosen.positions.tolist()[:60], chosen.scores, strict=False):
            far = np.full(len(z), -1.0)
            for i in np.flatnonzero(pool.pair_eligible):
                both = np.stack([z[i] - centres, z[i] + centres])
                far[i] = np.sqrt((both**2).sum(axis=2)).min()
            assert score == pytest.approx(far[at], abs=2e-3)
            assert far[at] >= far.max() - 2e-3
            centres = np.vstack([centres, z[at : at + 1]])

    def test_by_hand(self) -> None:
        """Four directions; the pair picked before covers its like, turned round or not."""
        east, north = np.eye(2)
        rows = [east, -east, north, -north, east, -east, north, east]
        pool = Pool(
            response_vectors=np.array(rows, dtype=np.float32),
            prompt_of_response=np.repeat(np.arange(4), 2),
            pair_a=np.array([0, 2, 5, 6]),
            pair_b=np.array([1, 3, 4, 7]),
            pair_eligible=np.array([False, True, True, True]),
        )
        chosen = k_center(pool, 3, np.random.default_rng(0))
        # z: (2, 0) picked, (0, 2), (-2, 0) like the picked one, (-1, 1).
        assert chosen.positions.tolist() == [1, 3, 2]
        assert chosen.scores == pytest.approx([2.0, np.sqrt(2), 0.0])

    def test_starts_with_the_most_dissimilar_pair(self) -> None:
        pool = pool_of([4] * 20, picked=0)
        first = k_center(pool, 1, np.random.default_rng(0)).positions[0]
        assert first == np.argmax(np.linalg.norm(differences(pool), axis=1))

    def test_rows_made_when_read_choose_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pool = pool_of([5] * 30, seed=8)
        held = [f(pool, 60, np.random.default_rng(1)) for f in (k_center, badge)]
        assert 4 * pool.n_pairs * 6 < HELD_BYTES
        monkeypatch.setattr("strategies.diversity.HELD_BYTES", 0)
        made = [f(pool, 60, np.random.default_rng(1)) for f in (k_center, badge)]
        for one, other in zip(held, made, strict=True):
            assert np.array_equal(one.positions, other.positions)
            assert np.array_equal(one.scores, other.scores)

    def test_covers_better_than_chance(self) -> None:
        """The cover radius that the traversal promises, against that of random batches."""
        rng = np.random.default_rng(9)
        pool = Pool.of_responses(unit_vectors(200, rng, d=4), np.repeat(np.arange(50), 4))
        z = differences(pool)

        def radius(positions: np.ndarray) -> float:
            between = np.abs(z @ z[positions].T)
            norms = (z**2).sum(axis=1)
            squared = norms[:, None] + norms[positions] - 2 * between
            return float(np.minimum(squared.min(axis=1), norms).max())

        ours = radius(k_center(pool, 40, rng).positions)
        drawn = [radius(rng.choice(pool.n_pairs, 40, replace=False)) for _ in range(50)]
        assert ours < min(drawn) and ours < 0.6 * np.median(drawn)


class TestBadge:
    def test_needs_the_posterior(self) -> None:
        assert signals_needed(badge) == {"posterior"}
        pool = Pool.of_responses(unit_vectors(4, np.random.default_rng(0)), np.zeros(4, int))
        with pytest.raises(MissingSignal, match="pair_preferred"):
            badge(pool, 1, np.random.default_rng(0))

    def test_chances_of_all_ordered_batches(self) -> None:
        """Every ordered batch of two, as often as D^2 sampling says; one pair picked before."""
        pool = with_all_signals(
            Pool.of_responses(unit_vectors(4, np.random.default_rng(5), d=3), np.zeros(4, int)),
            np.random.default_rng(6),
        ).without(np.array([2]))
        p = pool.signal("pair_preferred")
        g = np.minimum(p, 1 - p)[:, None] * differences(pool)
        draws = 4000
        rng = np.random.default_rng(7)
        seen: dict[tuple[int, ...], int] = {}
        for _ in range(draws):
            batch = tuple(badge(pool, 2, rng).positions.tolist())
            seen[batch] = seen.get(batch, 0) + 1
        covered = [np.zeros(3), g[2]]

        def chances(extra: list[np.ndarray], left: list[int]) -> dict[int, float]:
            squared = {i: min(apart(g[i], c) for c in covered + extra) ** 2 for i in left}
            return {i: d / sum(squared.values()) for i, d in squared.items()}

        open_ = [0, 1, 3, 4, 5]
        surprise = 0.0
        for first, second in permutations(open_, 2):
            one = chances([], open_)[first]
            two = chances([g[first]], [i for i in open_ if i != first])[second]
            expected = draws * one * two
            surprise += (seen.pop((first, second), 0) - expected) ** 2 / expected
        assert not seen
        assert surprise < 43.8  # 0.1 % of chi-squared with 19 degrees of freedom

    def test_many_draws_from_stale_chances_are_right(self) -> None:
        """The k-th draw, k = 6 of 8 rows on a line, all within one pass: by enumeration."""
        rows = np.array([[1], [2], [3], [5], [8], [8], [13], [0]], dtype=np.float32)
        exact = np.zeros(len(rows))

        def go_on(prefix: tuple[int, ...], chance: float) -> None:
            centres = [0.0, *(float(rows[i, 0]) for i in prefix)]
            squared = [min((float(x) - c) ** 2 for c in centres) for x in rows[:, 0]]
            for i, d in enumerate(squared):
                if d == 0 or i in prefix:
                    continue
                share = chance * d / sum(squared)
                if len(prefix) == 4:
                    exact[i] += share
                else:
                    go_on((*prefix, i), share)

        go_on((), 1.0)
        draws = 4000
        rng = np.random.default_rng(8)
        fifth = np.zeros(len(rows))
        for _ in range(draws):
            cover = Cover(rows, sign_free=True)
            fifth[draw_by_distance(cover, 5, rng)[0][4]] += 1
        spread = np.sqrt(draws * exact * (1 - exact))
        assert (np.abs(fifth - draws * exact) <= 4.5 * spread).all()

    def test_copies_of_a_pick_come_last(self) -> None:
        rng = np.random.default_rng(9)
        vectors = np.repeat(unit_vectors(20, rng, d=16), 5, axis=0).reshape(10, 2, 5, 16)
        vectors = vectors.transpose(0, 2, 1, 3).reshape(100, 16)  # each pair five times over
        pool = Pool.of_responses(vectors, np.repeat(np.arange(50), 2))
        pool = with_all_signals(pool, rng).with_signals(pair_preferred=np.full(50, 0.4))
        chosen = badge(pool, 50, rng)
        assert sorted((chosen.positions[:10] // 5).tolist()) == list(range(10))
        assert (chosen.scores[:10] > 0).all() and (chosen.scores[10:] == 0).all()

    def test_pairs_that_the_model_is_sure_of_are_last(self) -> None:
        rng = np.random.default_rng(10)
        pool = pool_of([4] * 20, picked=0)
        sure = rng.random(pool.n_pairs) < 0.5
        preferred = np.where(sure, rng.choice([0.0, 1.0], pool.n_pairs), 0.3)
        pool = pool.with_signals(pair_preferred=preferred)
        unsure_first = badge(pool, pool.n_eligible, rng).positions
        assert not sure[unsure_first[: np.count_nonzero(~sure)]].any()

    def test_a_line_of_more_draws_than_there_are_rows(self) -> None:
        with pytest.raises(ValueError, match="3 rows were asked for, and 2 are candidates"):
            draw_by_distance(Cover(np.eye(2, dtype=np.float32)), 3, np.random.default_rng(0))


class TestAEPO:
    @pytest.mark.parametrize("seed", range(3))
    def test_first_pass_maximises_f_of_every_prompt(self, seed: int) -> None:
        """f as the paper writes it, over sets Y of two, on similarities with themselves removed."""
        sizes = [2, 5, 3, 7, 4, 4, 1]
        rng = np.random.default_rng(seed)
        prompts = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
        pool = Pool.of_responses(unit_vectors(len(prompts), rng), prompts)
        chosen = aepo(pool, 6, rng)
        check_selection(pool, chosen, 6)
        assert set(pool.prompt_of_pair[chosen.positions].tolist()) == set(range(6))
        for at, score in zip(chosen.positions, chosen.scores, strict=True):
            rows = np.flatnonzero(prompts == pool.prompt_of_pair[at])
            best = max(combinations(rows.tolist(), 2), key=lambda y: f(pool, rows, y))
            assert set(best) == {pool.pair_a[at], pool.pair_b[at]} or len(rows) == 2
            assert score == pytest.approx(f(pool, rows, best), abs=1e-6)

    def test_a_prompt_whose_best_pair_was_picked_waits_its_turn(self) -> None:
        rng = np.random.default_rng(4)
        pool = Pool.of_responses(unit_vectors(16, rng), np.repeat(np.arange(4), 4))
        first = aepo(pool, 4, rng).positions
        pool = pool.without(first[:1])
        waits = pool.prompt_of_pair[first[0]]
        again = aepo(pool, 7, rng).positions
        assert set(again[:3].tolist()) == set(first[1:].tolist())
        assert waits in pool.prompt_of_pair[again[3:]]

    def test_two_responses_score_nothing(self) -> None:
        pool = pool_of([2] * 9, picked=0)
        assert aepo(pool, 9, np.random.default_rng(0)).scores.tolist() == [0.0] * 9


def f(pool: Pool, rows: np.ndarray, chosen: tuple[int, ...]) -> float:
    vectors = pool.response_vectors.astype(float)
    n, k = len(rows), len(chosen)
    typical = sum(vectors[j] @ vectors[y] for y in chosen for j in rows if j != y)
    alike = sum(vectors[y] @ vectors[x] for y in chosen for x in chosen if x != y)
    return float(typical / ((n - 1) * k) - alike / (k * (k - 1)))


def test_pair_vectors_are_differences_scaled() -> None:
    rng = np.random.default_rng(11)
    vectors = unit_vectors(6, rng)
    a, b = np.array([0, 3, 5]), np.array([1, 2, 4])
    rows = PairVectors(vectors, a, b, np.array([1.0, 0.5, 0.0], dtype=np.float32))
    assert rows.shape == (3, 6)
    assert np.array_equal(rows[slice(1, 3)][0], (vectors[3] - vectors[2]) / 2)
    assert np.array_equal(rows[np.array([0])], vectors[:1] - vectors[1:2])
