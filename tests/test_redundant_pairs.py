"""Which pairs are near enough for their texts to be read, against all cosines by hand."""

from __future__ import annotations

import numpy as np
import pytest

from annotator.rounds.duplicates import NEAR_DUPLICATES, _near
from strategies.within_prompt import Positions, Vectors, all_pairs


def spread_world(
    d: int, seed: int, first_entries: float = 1.0
) -> tuple[Vectors, Positions, Positions, Positions]:
    """Prompts with 1 to 7 responses, many of them at every distance from another of theirs."""
    rng = np.random.default_rng(seed)
    prompts = np.repeat(np.arange(300), rng.integers(1, 8, 300))
    vectors = rng.standard_normal((len(prompts), d))
    follows = np.flatnonzero((prompts[1:] == prompts[:-1]) & (rng.random(len(prompts) - 1) < 0.5))
    far = 10.0 ** rng.uniform(-5, 0, (len(follows), 1))
    vectors[follows + 1] = vectors[follows] + far * rng.standard_normal((len(follows), d))
    vectors[:, : d // 2] *= first_entries
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors *= rng.uniform(1 - 9e-4, 1 + 9e-4, (len(prompts), 1))  # what a pool still takes
    shuffled = rng.permutation(len(prompts))
    prompts, vectors = prompts[shuffled], vectors[shuffled].astype(np.float32)
    pair_a, pair_b = all_pairs(prompts)
    kept = np.sort(rng.permutation(len(pair_a))[: int(rng.uniform(0.5, 1) * len(pair_a))])
    return vectors, prompts, pair_a[kept], pair_b[kept]


@pytest.mark.parametrize("threshold", [-0.5, 0.3, 0.9, 0.99, NEAR_DUPLICATES, 0.99999])
@pytest.mark.parametrize(("d", "first_entries"), [(3, 1.0), (32, 1.0), (64, 0.0), (384, 1.0)])
def test_exactly_the_pairs_from_the_threshold_on(
    threshold: float, d: int, first_entries: float
) -> None:
    n_near = 0
    for seed in range(3):
        vectors, prompts, a, b = spread_world(d, seed, first_entries)
        cosines = (vectors[a].astype(np.float64) * vectors[b]).sum(axis=1)
        found = np.zeros(len(a), dtype=bool)
        found[_near(vectors, prompts, a, b, threshold)] = True
        sure = np.abs(cosines - threshold) > 1e-6  # float32 may fall on either side
        assert sure.mean() > 0.9
        np.testing.assert_array_equal(found[sure], (cosines >= threshold)[sure])
        n_near += found.sum()
    assert n_near > 100


def test_bad_vectors_are_near_nothing() -> None:
    """The pool names them."""
    vectors, prompts, a, b = spread_world(40, 0)
    before = _near(vectors, prompts, a, b, 0.99)
    bad = a[before[::2]]
    vectors[bad[::2], 3] = vectors[bad[1::2], 39] = np.nan
    found = _near(vectors, prompts, a, b, 0.99)
    expected = before[~np.isin(a[before], bad) & ~np.isin(b[before], bad)]
    assert 0 < len(expected) < len(before)
    np.testing.assert_array_equal(found, expected)
