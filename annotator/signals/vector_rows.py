"""Which row of an encoder's shards holds the vector of each response, remembered beside them.

Finding it joins all responses with all embeddings, which takes several times as long as reading the
vectors. So it is kept in a derived file, `responses.rows`, which anybody may delete. The file is
believed only if its SHA-256 is that of its numbers together with all that they were made from.
Responses are only ever added, and always under an import with a time of its own; of those that are
gold only, some may become candidates, which changes the number of candidates; vectors are only
added, or all made anew, and either way their shards change. A file that is damaged, half written or
out of date is therefore not used, and is written again.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from annotator.candidates.catalog import n_candidates, response_table
from annotator.signals.embeddings import Ids, response_rows, vectors_folder

if TYPE_CHECKING:
    from sqlite_utils import Database

SETTLED_SECONDS = 2.0  # a shard that is younger could change again within its clock's step
DIGEST_BYTES = 32


@dataclass(frozen=True, eq=False)
class EmbeddedResponses:
    """Every candidate in the order of catalog.response_table, with its prompt and its vector's row.

    All (n_responses,); responses with the same text share a row, and only they do.
    """

    response_ids: Ids
    prompt_ids: Ids
    rows: Ids


def embedded_responses(db: Database, database_path: Path, encoder_id: int) -> EmbeddedResponses:
    """All candidates and the rows of their vectors. Raises EncoderError if one has no vector."""
    folder = vectors_folder(database_path, encoder_id)
    file = folder / "responses.rows"
    made_from = _made_from(db, folder, encoder_id)
    columns = _remembered(file, made_from)
    if columns is None:
        table = response_table(db)
        rows = response_rows(db, encoder_id, table.response_ids)
        columns = np.stack((table.response_ids, table.prompt_ids, rows))
        if _is_settled(folder) and _made_from(db, folder, encoder_id) == made_from:
            _remember(file, made_from, columns)
    return EmbeddedResponses(*columns)


def _made_from(db: Database, folder: Path, encoder_id: int) -> bytes:
    """Changes whenever a candidate or a vector is added, and when another database comes here."""
    queries = {
        "database": "SELECT value FROM meta WHERE key = 'database_id'",
        "imports": "SELECT id, started_at, finished_at FROM imports ORDER BY id",
        "responses": "SELECT count(*), max(id) FROM responses",
        "encoder": f"SELECT * FROM encoders WHERE id = {int(encoder_id)}",  # noqa: S608
        "vectors": f"SELECT max(row) FROM embeddings WHERE encoder_id = {int(encoder_id)}",  # noqa: S608
    }
    found: dict[str, object] = {
        name: db.execute(query).fetchall() for name, query in queries.items()
    }
    found["candidates"] = n_candidates(db)
    found["shards"] = [
        (shard.name, (state := shard.stat()).st_size, state.st_mtime_ns, state.st_ino)
        for shard in sorted(folder.glob("*.f32"))
    ]
    return json.dumps(found).encode()


def _is_settled(folder: Path) -> bool:
    newest = max((shard.stat().st_mtime for shard in folder.glob("*.f32")), default=0.0)
    return time.time() - newest > SETTLED_SECONDS


def _remembered(file: Path, made_from: bytes) -> Ids | None:
    try:
        content = file.read_bytes()
    except OSError:
        return None
    numbers = memoryview(content)[DIGEST_BYTES:]
    if content[:DIGEST_BYTES] != _digest(made_from, numbers):
        return None
    return np.frombuffer(numbers, dtype="<i8").astype(np.int64, copy=False).reshape(3, -1)


def _remember(file: Path, made_from: bytes, columns: Ids) -> None:
    """Writes the file, or does not: where the disk refuses, the next run works it out again.

    Two processes that write at once may spoil each other's file, which its digest will tell.
    """
    numbers = columns.astype("<i8", copy=False).tobytes()
    scratch = file.with_name(f"{file.name}.part")
    with suppress(OSError):
        scratch.write_bytes(_digest(made_from, numbers) + numbers)
        scratch.replace(file)
    with suppress(OSError):
        scratch.unlink(missing_ok=True)


def _digest(made_from: bytes, numbers: bytes | memoryview) -> bytes:
    digest = sha256(len(made_from).to_bytes(8, "little") + made_from)
    digest.update(numbers)
    return digest.digest()
