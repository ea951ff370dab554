"""Vectors in append-only float32 shards beside the database.

A set of shards is one encoder's. Row r lives in shard r // ROWS_PER_SHARD. SQLite says which
rows count: whatever lies behind the last recorded row is the remains of a killed run and is
overwritten by the next append.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from annotator.errors import BadVectors, StoreError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

ROWS_PER_SHARD = 1_000_000


class VectorShards:
    """Rows of float32, all of one dimension, in files `00000.f32`, `00001.f32`, ..."""

    def __init__(
        self, folder: Path, dimension: int, *, rows_per_shard: int = ROWS_PER_SHARD
    ) -> None:
        self.folder = folder
        self.dimension = dimension
        self.rows_per_shard = rows_per_shard

    def append(self, vectors: Vectors, first_row: int) -> None:
        """Writes `vectors` (n, dimension) from row `first_row` on; they are on disk on return.

        The caller holds the lock and records the rows afterwards. Raises BadVectors for NaN,
        infinity, zero length or another dimension, StoreError when the disk refuses.
        """
        check_vectors(vectors, self.dimension)
        done = 0
        while done < len(vectors):
            shard, start = divmod(first_row + done, self.rows_per_shard)
            count = min(len(vectors) - done, self.rows_per_shard - start)
            self._write(shard, start, vectors[done : done + count])
            done += count

    def read(self, rows: NDArray[np.int64]) -> Vectors:
        """The vectors of `rows` (n,), in that order, as one array (n, dimension)."""
        import numpy as np

        out = np.empty((len(rows), self.dimension), dtype=np.float32)
        if not len(rows):
            return out
        shards = rows // self.rows_per_shard
        for shard in np.unique(shards):
            wanted = np.flatnonzero(shards == shard)
            _gather(self._map(int(shard)), rows[wanted] % self.rows_per_shard, out, wanted)
        return out

    def view(self, first_row: int, n: int) -> Vectors | None:
        """The n vectors from `first_row` on without copying them; None if they lie in two shards.

        A read-only map of the file: what is not touched takes no memory.
        """
        shard, start = divmod(first_row, self.rows_per_shard)
        if start + n > self.rows_per_shard:
            return None
        mapped = self._map(shard)
        return mapped[start : start + n] if start + n <= len(mapped) else None

    def _path(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.f32"

    def _write(self, shard: int, start: int, vectors: Vectors) -> None:
        data = vectors.astype("<f4", order="C", copy=False).tobytes()
        path = self._path(shard)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            is_new = not path.exists()
            _write_at(path, start * self.dimension * 4, data)
            if is_new:
                _sync_folder(self.folder)
        except OSError as error:
            raise StoreError(
                f"cannot write vectors to {path}: {error.strerror}",
                expected="free space and permission to write",
                todo="make room, then run the same command again: it goes on where it stopped",
            ) from error

    def _map(self, shard: int) -> Vectors:
        import numpy as np

        try:
            flat = np.memmap(self._path(shard), dtype="<f4", mode="r")
        except (OSError, ValueError) as error:
            raise StoreError(
                f"the vectors in {self._path(shard)} cannot be read: {error}",
                expected="the shard that the database speaks of",
                todo="run `annotator embed --again`: vectors can always be computed anew",
            ) from error
        whole = len(flat) // self.dimension
        return flat[: whole * self.dimension].reshape(whole, self.dimension)


def _write_at(path: Path, offset: int, data: bytes) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        view = memoryview(data)
        while view:
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """A new file is safe only when its folder's entry is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _gather(
    shard: Vectors, rows: NDArray[np.int64], out: Vectors, places: NDArray[np.int64]
) -> None:
    import numpy as np

    if rows.max() >= len(shard):
        raise StoreError(
            f"a shard of vectors holds {len(shard)} rows, row {int(rows.max())} is wanted",
            expected="every row that the database speaks of",
            todo="run `annotator embed --again`: vectors can always be computed anew",
        )
    # Reading in row order keeps the disk access sequential when the page cache is cold.
    order = np.argsort(rows, kind="stable")
    out[places[order]] = shard[rows[order]]


def check_vectors(vectors: Vectors, dimension: int) -> None:
    """Raises BadVectors unless `vectors` is (n, dimension), finite, and no row is zero."""
    import numpy as np

    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        raise BadVectors(
            f"vectors of shape {vectors.shape}",
            expected=f"(n, {dimension})",
            todo="another encoder needs its own name in annotator.toml: vectors never mix",
        )
    norms = np.linalg.norm(vectors, axis=1)
    bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if len(bad):
        raise BadVectors(
            f"{len(bad)} of {len(vectors)} vectors are NaN, infinite or zero; first: {bad[0]}",
            expected="finite vectors with a direction",
            todo="check the encoder; nothing of this batch was stored",
        )
