"""Texts longer than the encoder's window: cut in chunks, embedded, averaged, never cut off.

A chunk counts by its length in tokens. Arrays in, arrays out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Chunks:
    """The chunks of some texts, in the order of the texts."""

    token_ids: list[Sequence[int]]
    n_chunks: NDArray[np.int64]  # of each text, at least 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each chunk."""
        return np.fromiter(map(len, self.token_ids), dtype=np.int64, count=len(self.token_ids))


def cut(texts: Sequence[Sequence[int]], window: int) -> Chunks:
    """Each text (as token ids) in consecutive chunks of at most `window` tokens.

    A text of no tokens is one empty chunk: the encoder sees its special tokens alone.
    """
    pieces = [
        [ids[start : start + window] for start in range(0, max(len(ids), 1), window)]
        for ids in texts
    ]
    n_chunks = np.array([len(piece) for piece in pieces], dtype=np.int64)
    return Chunks([chunk for piece in pieces for chunk in piece], n_chunks)


def average(vectors: Vectors, lengths: NDArray[np.int64], n_chunks: NDArray[np.int64]) -> Vectors:
    """One unit vector per text: the mean of its chunks' unit vectors, weighted by their lengths.

    `vectors` is (chunks, d) and `lengths` (chunks,), chunks of one text together; `n_chunks` is
    (texts,). A vector without a direction stays as it is, for the store to refuse.
    """
    if not len(n_chunks):
        return vectors
    weights = np.maximum(lengths, 1).astype(np.float32)
    starts = np.cumsum(n_chunks) - n_chunks
    sums = np.add.reduceat(unit(vectors) * weights[:, np.newaxis], starts, axis=0)
    return unit(sums)


def unit(vectors: Vectors) -> Vectors:
    """The vectors (n, d) at length 1; a zero vector stays zero, NaN stays NaN."""
    norms: Vectors = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=vectors.copy(), where=norms != 0)


def batches(lengths: NDArray[np.int64], tokens: int) -> list[NDArray[np.intp]]:
    """Positions grouped by similar length, the longest first.

    A batch padded to its longest member holds at most `tokens` tokens, or one member.
    """
    order = np.argsort(-lengths, kind="stable")
    groups = []
    start = 0
    while start < len(order):
        longest = max(int(lengths[order[start]]), 1)
        stop = start + max(tokens // longest, 1)
        groups.append(order[start:stop])
        start = stop
    return groups
