"""Farthest-first against the loop that reads every row for every pick."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.farthest_first import Cover, farthest_first


def plain_loop(
    rows: np.ndarray, n: int, centres: list[int], candidates: np.ndarray, sign_free: bool
) -> tuple[list[int], list[float]]:
    """The definition: the farthest candidate becomes a centre, n times."""
    norms = np.vecdot(rows, rows)
    nearest = norms.copy() if sign_free else np.full(len(rows), np.inf, np.float32)

    def cover(centre: int) -> None:
        products = np.vecdot(rows, rows[centre])
        products = np.abs(products) if sign_free else products
        squared = np.maximum((norms + norms[centre]) - np.float32(2) * products, 0)
        np.minimum(nearest, squared, out=nearest)

    for centre in centres:
        cover(centre)
    open_ = np.zeros(len(rows), dtype=bool)
    open_[candidates] = True
    picks, distances = [], []
    for _ in range(n):
        best = int(np.argmax(np.where(open_, nearest, -np.inf)))
        picks.append(best)
        distances.append(float(np.sqrt(nearest[best])))
        open_[best] = False
        cover(best)
    return picks, distances


def unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def made(kind: str, n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    normal = rng.standard_normal((n, d))
    if kind == "sphere":
        return unit(normal)
    if kind == "clusters":
        centres = rng.standard_normal((5, d))
        return unit(centres[rng.integers(5, size=n)] + 0.05 * normal)
    if kind == "duplicates":
        return unit(normal)[rng.integers(max(1, n // 4), size=n)]
    if kind == "almost duplicates":  # apart by less than a float32 product can tell
        return unit(normal[rng.integers(max(1, n // 4), size=n)] + 3e-4 * normal)
    if kind == "grid":  # equal distances everywhere, between rows that are not equal
        return rng.integers(-1, 2, size=(n, d)).astype(np.float32)
    if kind == "opposites":
        return unit(normal[rng.integers(max(1, n // 3), size=n)]) * rng.choice([-1, 1], (n, 1))
    if kind == "lengths":
        return (normal * rng.choice([1e-3, 1.0, 30.0], (n, 1))).astype(np.float32)
    return np.repeat(unit(normal[:1]), n, axis=0)


KINDS = (
    "sphere",
    "clusters",
    "duplicates",
    "almost duplicates",
    "grid",
    "opposites",
    "lengths",
    "all equal",
)


@pytest.mark.parametrize("sign_free", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "d", "pool_rows"), [(60, 3, 7), (700, 24, 40), (1500, 96, 64)])
def test_the_same_picks_in_the_same_order(
    kind: str, n: int, d: int, pool_rows: int, sign_free: bool
) -> None:
    rng = np.random.default_rng([n, d])
    rows = made(kind, n, d, rng).astype(np.float32)
    k = n if n < 1000 else 400
    expected, distances = plain_loop(rows, k, [], np.arange(n), sign_free)
    picks, found = farthest_first(rows, k, sign_free=sign_free, pool_rows=pool_rows)
    assert picks.tolist() == expected
    assert found.tolist() == distances


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    n=st.integers(1, 90),
    d=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
    pool_rows=st.integers(1, 30),
    sign_free=st.booleans(),
    share=st.floats(0, 1),
)
def test_the_same_picks_from_given_centres(
    kind: str, n: int, d: int, seed: int, pool_rows: int, sign_free: bool, share: float
) -> None:
    rng = np.random.default_rng(seed)
    rows = made(kind, n, d, rng).astype(np.float32)
    shuffled = rng.permutation(n)
    n_centres, n_barred = rng.integers(0, n, size=2) // 2
    centres, candidates = shuffled[:n_centres], np.sort(shuffled[n_centres + n_barred :])
    k = round(share * len(candidates))
    expected = plain_loop(rows, k, centres.tolist(), candidates, sign_free)
    found = farthest_first(
        rows, k, centres=centres, candidates=candidates, sign_free=sign_free, pool_rows=pool_rows
    )
    assert (found[0].tolist(), found[1].tolist()) == expected


def test_more_rows_than_one_block_of_products_holds() -> None:
    rows = made("clusters", 20_000, 16, np.random.default_rng(3))
    picks, distances = farthest_first(rows, 900)
    assert (picks.tolist(), distances.tolist()) == plain_loop(
        rows, 900, [], np.arange(20_000), False
    )


def test_a_memmap_and_strided_rows_give_the_same_picks(tmp_path: Path) -> None:
    rows = made("almost duplicates", 1500, 384, np.random.default_rng(4))
    rows.tofile(tmp_path / "rows")
    mapped = np.memmap(tmp_path / "rows", np.float32, "r", shape=rows.shape)
    strided = np.repeat(rows, 2, axis=1)[:, ::2]
    expected, _ = farthest_first(rows, 300)
    for same in (mapped, strided, np.asfortranarray(rows)):
        assert np.array_equal(farthest_first(same, 300)[0], expected)


def test_the_kernel_does_not_ask_where_a_row_stands() -> None:
    """What "same picks" rests on: np.vecdot of two rows is one number, wherever they lie."""
    rng = np.random.default_rng(5)
    for d in (1, 7, 31, 64, 384, 771):
        rows = rng.standard_normal((50, d), dtype=np.float32)
        expected = np.vecdot(rows, rows[7])
        shifted = np.empty(50 * d + 3, dtype=np.float32)[3:].reshape(50, d)
        shifted[...] = rows
        assert np.array_equal(np.vecdot(shifted, rows[7].copy()), expected)
        assert [np.vecdot(row, rows[7]) for row in rows] == expected.tolist()
        assert np.array_equal(np.vecdot(-rows[7], shifted), -expected)


@pytest.mark.parametrize("d", [2, 100, 1024])
def test_products_stay_within_the_slack(d: int) -> None:
    rng = np.random.default_rng(d)
    rows = made("lengths", 400, d, rng)
    cover = Cover(rows)
    cover.add(np.arange(30))
    exact = cover.exact(np.arange(400))
    assert np.abs(cover.squared - exact).max() <= cover.slack
    wide = rows.astype(np.float64)
    truth = ((wide[:, None] - wide[:30]) ** 2).sum(axis=2).min(axis=1)
    assert np.abs(exact - truth).max() <= cover.slack


def test_a_line_by_hand() -> None:
    rows = np.array([[0.0], [1.0], [4.0], [9.0], [9.0], [6.0]], dtype=np.float32)
    picks, distances = farthest_first(rows, 6)
    assert picks.tolist() == [0, 3, 2, 5, 1, 4]
    assert distances.tolist() == [np.inf, 9, 4, 2, 1, 0]
    picks, distances = farthest_first(rows, 2, centres=[0], candidates=np.array([1, 2, 5]))
    assert (picks.tolist(), distances.tolist()) == ([5, 2], [6, 2])


def test_opposites_are_one_and_the_origin_is_covered() -> None:
    rows = np.array([[1, 0], [0, 3], [0, -3], [-2, 0], [0, 0]], dtype=np.float32)
    picks, distances = farthest_first(rows, 5, sign_free=True)
    assert picks.tolist() == [1, 3, 0, 2, 4]
    assert distances.tolist() == [3, 2, 1, 0, 0]


def test_every_row_is_within_the_last_distance_and_within_twice_the_best() -> None:
    rng = np.random.default_rng(6)
    rows = made("sphere", 12, 2, rng)
    apart = np.linalg.norm(rows[:, None] - rows[None], axis=2)
    for k in range(1, 5):
        picks, _ = farthest_first(rows, k)
        radius = apart[:, picks].min(axis=1).max()
        assert radius <= farthest_first(rows, k + 1)[1][-1] + 1e-6
        best = min(apart[:, list(some)].min(axis=1).max() for some in combinations(range(12), k))
        assert radius <= 2 * best + 1e-6


def test_too_few_candidates() -> None:
    rows = made("sphere", 5, 3, np.random.default_rng(0))
    with pytest.raises(ValueError, match="4 rows were asked for, and 3 are candidates"):
        farthest_first(rows, 4, centres=[1, 2])
    assert farthest_first(rows, 0)[0].tolist() == []
