"""Cutting long texts and averaging their chunks, against arithmetic by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotator.signals.chunking import average, batches, cut, unit


def test_texts_are_cut_at_the_window_and_none_is_lost() -> None:
    chunks = cut([[1, 2, 3, 4, 5, 6, 7], [], [8, 9, 10], [11]], window=3)
    assert chunks.token_ids == [[1, 2, 3], [4, 5, 6], [7], [], [8, 9, 10], [11]]
    assert chunks.n_chunks.tolist() == [3, 1, 1, 1]
    assert chunks.lengths.tolist() == [3, 3, 1, 0, 3, 1]


@given(st.lists(st.lists(st.integers(0, 9), max_size=30), max_size=8), st.integers(1, 12))
def test_the_chunks_of_a_text_are_the_text(texts: list[list[int]], window: int) -> None:
    chunks = cut(texts, window)
    pieces = iter(chunks.token_ids)
    for text, n in zip(texts, chunks.n_chunks, strict=True):
        mine = [next(pieces) for _ in range(n)]
        assert [token for piece in mine for token in piece] == text
        assert all(0 < len(piece) <= window for piece in mine) or (not text and n == 1)
    assert not list(pieces)


def test_the_average_weighs_chunks_by_their_length() -> None:
    vectors = np.array([[1, 0], [0, 1], [3, 4], [0, 2]], dtype=np.float32)
    got = average(vectors, np.array([3, 1, 7, 0]), np.array([2, 1, 1]))
    np.testing.assert_allclose(
        got, [[3 / np.sqrt(10), 1 / np.sqrt(10)], [0.6, 0.8], [0, 1]], rtol=1e-6
    )
    assert got.dtype == np.float32


def test_a_long_chunk_vector_weighs_no_more_than_a_short_one() -> None:
    vectors = np.array([[100, 0], [0, 0.01]], dtype=np.float32)
    got = average(vectors, np.array([5, 5]), np.array([2]))
    np.testing.assert_allclose(got, [[np.sqrt(0.5), np.sqrt(0.5)]], rtol=1e-6)


def test_what_has_no_direction_is_left_for_the_store_to_refuse() -> None:
    vectors = np.array([[0, 0], [np.nan, 1], [1, 0], [-1, 0]], dtype=np.float32)
    got = average(vectors, np.array([1, 1, 2, 2]), np.array([1, 1, 2]))
    assert got[0].tolist() == [0, 0]
    assert np.isnan(got[1]).any()
    assert got[2].tolist() == [0, 0]


def test_units_leave_what_came_in_alone() -> None:
    vectors = np.array([[3, 4]], dtype=np.float32)
    np.testing.assert_allclose(unit(vectors), [[0.6, 0.8]], rtol=1e-6)
    assert vectors.tolist() == [[3, 4]]


@given(st.lists(st.integers(0, 300), max_size=60), st.integers(1, 1000))
def test_batches_hold_every_position_once_within_the_budget(
    lengths: list[int], tokens: int
) -> None:
    groups = batches(np.array(lengths, dtype=np.int64), tokens)
    assert sorted(int(i) for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[i] for i in group)
        assert len(group) == 1 or len(group) * longest <= tokens
    in_order = [lengths[i] for group in groups for i in group]
    assert in_order == sorted(lengths, reverse=True)


def test_batches_are_as_large_as_the_budget_allows() -> None:
    groups = batches(np.array([2, 10, 4, 4, 3]), tokens=10)
    assert [group.tolist() for group in groups] == [[1], [2, 3], [4, 0]]


@pytest.mark.parametrize("tokens", [1, 5])
def test_a_text_beyond_the_budget_is_a_batch_of_its_own(tokens: int) -> None:
    assert [len(group) for group in batches(np.array([9, 9]), tokens)] == [1, 1]
