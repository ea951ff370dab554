"""Responses grouped by prompt: the pairs they make, their cosines, their two clusters.

Prompts with the same number of responses K are handled together, as arrays of m prompts x K
responses, so that no loop runs over prompts. Work goes block by block: a block is small enough for
the processor's cache, and the vectors, which may be a memmap larger than memory, are never copied
as a whole.

*Condensed* order is that of scipy's pdist: (0, 1), (0, 2) ... (0, K-1), (1, 2) ... for the K
responses of a prompt in ascending position.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Bools: TypeAlias = npt.NDArray[np.bool_]
Floats: TypeAlias = npt.NDArray[np.float64]
Positions: TypeAlias = npt.NDArray[np.int64]
Vectors: TypeAlias = npt.NDArray[np.float32]

BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, eq=False)
class TwoMeans:
    """What 2-means made of every prompt.

    `second` (n_responses,) tells the two clusters of a prompt apart; `to_centre` (n_responses,) is
    the Euclidean distance of a response to the centre of its own cluster.
    """

    second: Bools
    to_centre: Floats


def rows_of_equal_length(prompts: Positions) -> Iterator[Positions]:
    """Where each prompt occurs in `prompts` (n,), gathered by how often it does.

    Arrays (m, K), K ascending: a row for each of m prompts that occur K times, holding their K
    places in ascending order. Where there are many such prompts, several arrays of the same K.
    """
    by_prompt = np.argsort(prompts, kind="stable").astype(np.int64, copy=False)
    occurrences = np.bincount(prompts)
    start = np.cumsum(occurrences) - occurrences
    for k in np.unique(occurrences[occurrences > 0]).tolist():
        starts = start[occurrences == k]
        for block in _blocks(len(starts), 8 * k):
            yield by_prompt[starts[block, None] + np.arange(k)]


def all_pairs(prompt_of_response: Positions) -> tuple[Positions, Positions]:
    """Every pair of responses to the same prompt: two arrays (n_pairs,) of positions, a < b.

    Sorted by prompt, then a, then b.
    """
    first_pair, n_pairs = _first_pair_of_prompt(prompt_of_response)
    pair_a = np.empty(n_pairs, dtype=np.int64)
    pair_b = np.empty(n_pairs, dtype=np.int64)
    for rows in rows_of_equal_length(prompt_of_response):
        slot_a, slot_b = np.triu_indices(rows.shape[1], 1)
        at = first_pair[prompt_of_response[rows[:, 0]], None] + np.arange(len(slot_a))
        pair_a[at] = rows[:, slot_a]
        pair_b[at] = rows[:, slot_b]
    return pair_a, pair_b


def cosines_of_pairs(
    vectors: Vectors, prompt_of_response: Positions, pair_a: Positions, pair_b: Positions
) -> Vectors:
    """The cosine of each pair, (n_pairs,) float32.

    `vectors` (n_responses, d) have unit length; the two responses of a pair have the same prompt.
    """
    first_pair, n_possible = _first_pair_of_prompt(prompt_of_response)
    # All pairs of a prompt together read its vectors once; but a prompt of thousands of responses
    # has millions of pairs, and a pool may hold a handful of them.
    if n_possible > 4 * len(pair_a):
        return _cosines_one_by_one(vectors, pair_a, pair_b)
    condensed = np.empty(n_possible, dtype=np.float32)
    # The pair (low, high) stands at before[low] + slot[high] of `condensed`.
    before = np.empty(len(vectors), dtype=np.int64)
    slot = np.empty(len(vectors), dtype=np.int64)
    for rows in rows_of_equal_length(prompt_of_response):
        k = rows.shape[1]
        first = first_pair[prompt_of_response[rows[:, 0]]]
        slots = np.arange(k)
        before[rows] = first[:, None] + slots * k - slots * (slots + 1) // 2 - slots - 1
        slot[rows] = slots
        _fill_condensed(condensed, first, vectors, rows)
    cosines = np.empty(len(pair_a), dtype=np.float32)
    for block in _blocks(len(pair_a), 8):
        a, b = pair_a[block], pair_b[block]
        cosines[block] = condensed[before[np.minimum(a, b)] + slot[np.maximum(a, b)]]
    return cosines


def two_means(vectors: Vectors, prompt_of_response: Positions) -> TwoMeans:
    """The responses of every prompt parted into two clusters by k-means with k = 2.

    Lloyd's iterations from the two responses farthest apart, so nothing is drawn. Neither cluster
    is ever empty when K >= 2, even where all responses are the same; a lone response is its own
    centre. The result is a local optimum of the sum of squared distances, as with any k-means.
    """
    second = np.zeros(len(vectors), dtype=np.bool_)
    to_centre = np.zeros(len(vectors), dtype=np.float64)
    for rows in rows_of_equal_length(prompt_of_response):
        k = rows.shape[1]
        if k == 1:
            continue
        for block in _blocks(len(rows), 8 * k * max(vectors.shape[1], k)):
            squared = _squared_distances(_take(vectors, rows[block]).astype(np.float64))
            second[rows[block]], to_centre[rows[block]] = _part(squared)
    return TwoMeans(second, to_centre)


def peer_agreement(vectors: Vectors, prompt_of_response: Positions) -> Floats:
    """Mean cosine of each response to the other responses of its prompt, (n_responses,).

    From -1 to 1, high = the others say much the same; NaN for the only response of a prompt. Two
    responses of one prompt have the same agreement, so for K = 2 it cannot tell them apart.
    `vectors` (n_responses, d) have length 1 and may be a memmap: they are read in blocks.
    """
    agreement = np.full(len(vectors), np.nan)
    for rows in rows_of_equal_length(prompt_of_response):
        k = rows.shape[1]
        if k == 1:
            continue
        step = max(1, BLOCK_BYTES // (4 * k * vectors.shape[1]))
        for start in range(0, len(rows), step):
            block = rows[start : start + step]
            agreement[block] = _agreement(vectors[block])
    return np.clip(agreement, -1.0, 1.0, out=agreement)


def _first_pair_of_prompt(prompt_of_response: Positions) -> tuple[Positions, int]:
    """Where the pairs of each prompt begin when all are listed, and how many there are."""
    k = np.bincount(prompt_of_response).astype(np.int64)
    pairs = k * (k - 1) // 2
    end = np.cumsum(pairs)
    return end - pairs, int(end[-1]) if len(end) else 0


def _blocks(n: int, bytes_each: int) -> Iterator[slice]:
    """Slices over n things, a cacheful at a time."""
    step = max(1, BLOCK_BYTES // bytes_each)
    return (slice(start, start + step) for start in range(0, n, step))


def _take(vectors: Vectors, rows: Positions) -> Vectors:
    """The vectors of these rows, (m, K, d): a view where the rows follow each other."""
    flat = rows.ravel()
    if np.all(flat[1:] - flat[:-1] == 1):
        block = vectors[flat[0] : flat[0] + flat.size]
        return block.reshape(*rows.shape, vectors.shape[1])
    return vectors[rows]


def _fill_condensed(
    condensed: Vectors, first: Positions, vectors: Vectors, rows: Positions
) -> None:
    """Write the cosines of these prompts, whose pairs begin at `first` (m,) of `condensed`."""
    k = rows.shape[1]
    n_pairs = k * (k - 1) // 2
    if n_pairs == 0:
        return
    for block in _blocks(len(rows), 4 * k * vectors.shape[1]):
        begins = first[block]
        cosines = _dot_products(_take(vectors, rows[block]))
        if begins[-1] - begins[0] == (len(begins) - 1) * n_pairs:  # nothing stands in between
            condensed[begins[0] : begins[0] + cosines.size] = cosines.ravel()
        else:
            condensed[begins[:, None] + np.arange(n_pairs)] = cosines


def _dot_products(block: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Dot products within each prompt, condensed: (m, K, d) -> (m, K (K - 1) / 2)."""
    m, k, _ = block.shape
    products = np.empty((m, k * (k - 1) // 2), dtype=block.dtype)
    start = 0
    for i in range(k - 1):
        stop = start + k - 1 - i
        # Measured for K from 2 to 70: faster than a batched matrix product, which computes both
        # halves and spends more on each call than so small a product costs.
        np.vecdot(block[:, i, None], block[:, i + 1 :], out=products[:, start:stop])
        start = stop
    return products


def _cosines_one_by_one(vectors: Vectors, pair_a: Positions, pair_b: Positions) -> Vectors:
    cosines = np.empty(len(pair_a), dtype=np.float32)
    for block in _blocks(len(pair_a), 8 * vectors.shape[1]):
        np.vecdot(vectors[pair_a[block]], vectors[pair_b[block]], out=cosines[block])
    return cosines


def _squared_distances(block: Floats) -> Floats:
    """Squared Euclidean distances within each prompt: (m, K, d) -> (m, K, K)."""
    m, k, _ = block.shape
    slot_a, slot_b = np.triu_indices(k, 1)
    norms = np.vecdot(block, block)
    between = norms[:, slot_a] + norms[:, slot_b] - 2.0 * _dot_products(block)
    squared = np.zeros((m, k, k), dtype=np.float64)
    squared[:, slot_a, slot_b] = between
    squared[:, slot_b, slot_a] = between
    return squared


def _part(squared: Floats) -> tuple[Bools, Floats]:
    """2-means from squared distances (m, K, K): who is in the second cluster, and to_centre."""
    second = _nearer_to_second_seed(squared)
    while True:
        to_first, to_second = _to_centre(squared, ~second), _to_centre(squared, second)
        own = np.where(second, to_second, to_first)
        # A response moves only if it gains more than rounding can feign. Every round then lowers
        # the sum of squares, so the loop ends; and equal responses cannot change sides all at
        # once, so no cluster runs empty.
        moves = np.where(second, to_first, to_second) < own - 1e-12
        if not moves.any():
            return second, np.sqrt(np.maximum(own, 0.0))
        second ^= moves


def _nearer_to_second_seed(squared: Floats) -> Bools:
    """First clusters: the two responses farthest apart gather those nearer to them, (m, K)."""
    m, k, _ = squared.shape
    slot_a, slot_b = np.triu_indices(k, 1)
    farthest = np.argmax(squared[:, slot_a, slot_b], axis=1)
    prompts, first, last = np.arange(m), slot_a[farthest], slot_b[farthest]
    nearer: Bools = squared[prompts, last] < squared[prompts, first]
    nearer[prompts, last] = True  # even where the two are the same point
    return nearer


def _to_centre(squared: Floats, members: Bools) -> Floats:
    """Squared distance of every response to the mean of the members, (m, K).

    |x - c|^2 = mean over members of |x - y|^2, less half the mean of |y - z|^2 over pairs of
    members: the centre itself is never formed.
    """
    weights = members / members.sum(axis=1, keepdims=True)
    to_members = np.vecdot(squared, weights[:, None, :])
    spread = np.vecdot(weights, to_members)
    distances: Floats = to_members - 0.5 * spread[:, None]
    return distances


def _agreement(block: Vectors) -> Floats:
    """Mean cosine to the others: (m, K, d) -> (m, K), in K products a prompt instead of K^2."""
    m, k, _ = block.shape
    if k == 2:  # the very same number for both: what rounding makes of it is no variance
        both = np.vecdot(block[:, 0], block[:, 1]).astype(np.float64)
        return np.broadcast_to(both[:, None], (m, k))
    exact = block.astype(np.float64)
    others = exact.sum(axis=1, keepdims=True) - exact
    cosines: Floats = np.vecdot(exact, others) / (k - 1)
    return cosines
