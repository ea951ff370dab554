"""Neighbours of vectors over a whole corpus, by FAISS; the only module that imports it.

For neighbours within a prompt see strategies.within_prompt: FAISS starts its threads at every call,
which costs hundreds of times the arithmetic of a handful of vectors.

All functions take float32 vectors (n, d) of length 1, so that inner product and cosine are the
same, and give the same answer for the same input: nothing is drawn but from a given seed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from annotator.store.vectors import Vectors

Rows = NDArray[np.int64]

EXACT_ROWS = 20_000  # up to here comparing all with all takes seconds
PROBES = 4
SEARCH_ROWS = 4096
TRAINING_SEED = 1

# An index may miss by rounding what lies right at the threshold; a re-check decides.
ROUNDING = 1e-5
SAME = 1e-12  # so that equal rows have a cosine of 1 in float64 too


def near_duplicates(vectors: Vectors, threshold: float, *, exact_rows: int = EXACT_ROWS) -> Rows:
    """For each row the lowest row of its group of near-duplicates, (n,); its own if it has none.

    Two rows with a cosine of at least `threshold`, from -1 to 1, are in one group, and so are all
    that are joined by a chain of such rows. Cosines are computed in float64. Up to `exact_rows`
    rows all are compared with all. Beyond, only rows in the PROBES cells of a k-means partition
    that are nearest to a row are: near-duplicates fall into the same or the next cell, and the
    closer they are the surer, but a pair just above a low threshold can be missed.

    Raises ValueError if `threshold` is not from -1 to 1.
    """
    if not -1.0 <= threshold <= 1.0:
        raise ValueError(f"a threshold of {threshold}, where cosines are from -1 to 1")
    n = len(vectors)
    if not n:
        return np.empty(0, dtype=np.int64)
    index = _index(vectors, exact=n <= exact_rows)
    found = [_alike(index, vectors, start, threshold) for start in range(0, n, SEARCH_ROWS)]
    return _lowest_reached(n, *np.concatenate(found, axis=1))


def _lowest_reached(n: int, a: Rows, b: Rows) -> Rows:
    """For each of n rows the lowest that a chain of the joints a - b, (m,) each, leads to."""
    lowest: Rows = np.arange(n)
    while True:
        lower = lowest.copy()
        np.minimum.at(lower, a, lowest[b])
        np.minimum.at(lower, b, lowest[a])
        lower = lower[lower]  # what the lowest has reached itself: long chains end soon
        if np.array_equal(lower, lowest):
            return lowest
        lowest = lower


def nearest(
    vectors: Vectors, queries: Vectors, k: int, *, exact_rows: int = EXACT_ROWS * 50
) -> tuple[Rows, Vectors]:
    """The k rows with the highest cosine to each query, and those cosines, both (m, k).

    Highest first, of equal cosines the lower row. Up to `exact_rows` rows exact, beyond among
    the PROBES nearest cells of a k-means partition; where those hold fewer than k rows the last
    places are row -1 with cosine -inf. Raises ValueError unless 1 <= k <= n.
    """
    if not 1 <= k <= len(vectors):
        raise ValueError(f"{k} neighbours among {len(vectors)} vectors")
    index = _index(vectors, exact=len(vectors) <= exact_rows)
    cosines, rows = index.search(np.ascontiguousarray(queries, dtype=np.float32), k)
    cosines[rows < 0] = -np.inf
    order = np.lexsort((rows, -cosines), axis=1)
    return (
        np.take_along_axis(rows, order, axis=1).astype(np.int64),
        np.take_along_axis(cosines, order, axis=1),
    )


def kmeans_centres(vectors: Vectors, k: int, seed: int, *, iterations: int = 20) -> Vectors:
    """k centres of length 1, (k, d), by spherical k-means seeded with `seed`.

    Trained on at most 256 rows a centre, drawn with the same seed. A centre may be that of few
    rows, never of none. Raises ValueError unless 1 <= k <= n.
    """
    import faiss

    if not 1 <= k <= len(vectors):
        raise ValueError(f"{k} centres of {len(vectors)} vectors")
    kmeans = faiss.Kmeans(
        vectors.shape[1],
        k,
        niter=iterations,
        seed=seed,
        spherical=True,
        min_points_per_centroid=1,  # else FAISS warns on stdout
    )
    kmeans.train(np.ascontiguousarray(vectors, dtype=np.float32))
    centres: Vectors = np.asarray(kmeans.centroids, dtype=np.float32)
    return centres


def _index(vectors: Vectors, *, exact: bool) -> Any:
    """A FAISS index of inner products that holds the vectors in their order."""
    import faiss

    n, d = vectors.shape
    flat = faiss.IndexFlatIP(d)
    index: Any = flat
    if not exact:
        index = faiss.IndexIVFFlat(flat, d, _n_cells(n), faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = TRAINING_SEED
        index.cp.niter = 5
        index.cp.max_points_per_centroid = 64
        index.cp.min_points_per_centroid = 1
        index.nprobe = PROBES
        index.train(np.ascontiguousarray(vectors))
    for start in range(0, n, SEARCH_ROWS):  # a memmap is never held as a whole beside the index
        index.add(np.ascontiguousarray(vectors[start : start + SEARCH_ROWS]))
    return index


def _n_cells(n: int) -> int:
    """About sqrt(n) rows a cell, so that finding the cells and reading them cost alike."""
    return int(2 ** np.round(np.log2(np.sqrt(n))))


def _alike(index: Any, vectors: Vectors, start: int, threshold: float) -> Rows:
    """Pairs of rows (2, m), one of them in the block from `start`, that are alike for certain."""
    block = np.ascontiguousarray(vectors[start : start + SEARCH_ROWS])
    limits, _, found = index.range_search(block, threshold - ROUNDING)
    a = start + np.repeat(np.arange(len(block)), np.diff(limits.astype(np.int64)))
    b = found.astype(np.int64)
    # From a cell that one row probes the other need not be seen: both directions count.
    a, b = a[a != b], b[a != b]
    sure = np.zeros(len(a), dtype=np.bool_)
    for at in range(0, len(a), SEARCH_ROWS):
        part = slice(at, at + SEARCH_ROWS)
        left, right = (vectors[rows[part]].astype(np.float64) for rows in (a, b))
        lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        sure[part] = np.vecdot(left, right) >= (threshold - SAME) * lengths
    return np.stack((a[sure], b[sure]))
