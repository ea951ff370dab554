"""The store's shards of vectors: rows on disk, read in any order, damage named."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from annotator.errors import BadVectors, StoreError
from annotator.store import VectorShards


def numbered(first: int, count: int, dimension: int = 3) -> NDArray[np.float32]:
    """Vectors that say which row they are."""
    rows = np.arange(first, first + count, dtype=np.float32)
    return np.stack([rows + 1, *[rows * 0 + i for i in range(1, dimension)]], axis=1)


@pytest.fixture
def shards(tmp_path: Path) -> VectorShards:
    return VectorShards(tmp_path / "vectors", 3, rows_per_shard=4)


def test_rows_are_read_in_the_order_asked_for_across_shards(shards: VectorShards) -> None:
    shards.append(numbered(0, 3), 0)
    shards.append(numbered(3, 8), 3)
    rows = np.array([10, 0, 4, 3, 3, 7])
    np.testing.assert_array_equal(shards.read(rows)[:, 0], rows + 1)
    assert sorted(path.name for path in shards.folder.iterdir()) == [
        "00000.f32", "00001.f32", "00002.f32",
    ]  # fmt: skip


def test_a_tail_that_nobody_recorded_is_written_over(shards: VectorShards) -> None:
    shards.append(numbered(0, 2), 0)
    shards.append(numbered(100, 7), 2)  # never recorded: the process was killed
    shards.append(numbered(2, 4), 2)
    np.testing.assert_array_equal(shards.read(np.arange(6)), numbered(0, 6))


def test_no_rows_need_no_files(shards: VectorShards) -> None:
    assert shards.read(np.empty(0, dtype=np.int64)).shape == (0, 3)
    shards.append(np.empty((0, 3), dtype=np.float32), 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused_and_nothing_is_written(
    shards: VectorShards, bad: float
) -> None:
    vectors = numbered(0, 3)
    vectors[1, 2] = bad
    with pytest.raises(BadVectors, match=r"1 of 3 vectors .* first: 1"):
        shards.append(vectors, 0)
    assert not shards.folder.exists()


def test_a_vector_without_direction_is_refused(shards: VectorShards) -> None:
    vectors = numbered(0, 3)
    vectors[2] = 0
    with pytest.raises(BadVectors, match="first: 2"):
        shards.append(vectors, 0)


@pytest.mark.parametrize("shape", [(2, 4), (3,), (1, 2, 3)])
def test_another_dimension_is_refused(shards: VectorShards, shape: tuple[int, ...]) -> None:
    with pytest.raises(BadVectors, match="shape"):
        shards.append(np.ones(shape, dtype=np.float32), 0)


def test_wider_numbers_and_other_layouts_are_stored_as_float32(shards: VectorShards) -> None:
    vectors = np.asfortranarray(numbered(0, 5).astype(np.float64))
    shards.append(vectors, 0)  # type: ignore[arg-type]
    np.testing.assert_array_equal(shards.read(np.arange(5)), numbered(0, 5))


def test_a_lost_shard_is_named_with_what_to_do(shards: VectorShards) -> None:
    shards.append(numbered(0, 6), 0)
    (shards.folder / "00001.f32").unlink()
    with pytest.raises(StoreError, match="cannot be read") as caught:
        shards.read(np.array([5]))
    assert "annotator embed --again" in caught.value.todo
    np.testing.assert_array_equal(shards.read(np.arange(4)), numbered(0, 4))


def test_a_shard_that_lost_its_end_is_named(shards: VectorShards) -> None:
    shards.append(numbered(0, 4), 0)
    os.truncate(shards.folder / "00000.f32", 2 * 3 * 4 + 4)  # two rows and a torn third
    np.testing.assert_array_equal(shards.read(np.arange(2)), numbered(0, 2))
    with pytest.raises(StoreError, match="holds 2 rows, row 3 is wanted"):
        shards.read(np.array([0, 3]))


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "00000.f32").mkdir()
    with pytest.raises(StoreError, match="cannot write vectors"):
        VectorShards(tmp_path, 3).append(numbered(0, 1), 0)
