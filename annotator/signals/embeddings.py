"""The vectors of every candidate's text: which are missing, computing them, reading them back.

A vector's key is (encoder, text hash): a text that stands in ten places is embedded once. The
encoder is a name, the fingerprint of its weights and its way of averaging, so vectors of two
models never mix, whatever they are called.

Order of writing: a block of vectors goes to the shards and to disk, then one transaction records
its rows. A run that is killed between the two leaves a tail that nobody refers to, and the next
run writes over it. One process at a time embeds for an encoder; a second waits, then finds
nothing to do.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from annotator.candidates.catalog import response_table
from annotator.candidates.gold import GOLD_ONLY_PROMPTS, GOLD_ONLY_RESPONSES
from annotator.candidates.identity import prompt_text
from annotator.errors import BadVectors, EncoderError
from annotator.progress import progress_bar, stand_still
from annotator.signals.encoder import find_weights, load_weights
from annotator.store import VectorShards, hold_lock, integer_columns, writing

if TYPE_CHECKING:
    from sqlite_utils import Database

    from annotator.progress import Advance
    from annotator.signals.encoder import Encoder
    from annotator.store.vectors import Vectors

BLOCK_TEXTS = 512  # what a kill can cost; some ten seconds on two processors
WAIT_SECONDS = 7 * 86_400.0  # for another process that embeds: as long as it takes
FEW = 0.05  # of a table's ids: looked up one by one they are found sooner than by reading all

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class EncoderRow:
    """An encoder as the database knows it."""

    id: int
    name: str
    chunking: str
    dimension: int


@dataclass(frozen=True)
class EmbedReport:
    """What an embedding run found and did. A text counts once, wherever it stands."""

    encoder_id: int
    encoder: str
    chunking: str
    dimension: int
    total: int  # texts of prompts and responses
    known: int  # had a vector before
    added: int
    chunked: int  # of all, how many are longer than the encoder's window
    seconds: float


def vectors_folder(database_path: Path, encoder_id: int) -> Path:
    """Where the vectors of that encoder lie: beside the database."""
    return database_path.with_name(f"{database_path.name}.vectors") / str(encoder_id)


def ensure_embedded(
    db: Database, database_path: Path, name: str, precision: str = "auto", *, again: bool = False
) -> EmbedReport:
    """Every text has its vector of the encoder `name` afterwards.

    The encoder is loaded only if a text lacks one; `again` computes all of them anew. Shows a
    progress bar. Raises EncoderError, BadVectors, StoreError; what was recorded until then
    stays.
    """
    weights = find_weights(name)
    known = _newest(db, weights.name, weights.fingerprint)
    if known and not again and not count_missing(db, known.id):
        return _report(db, known, added=0, seconds=0.0)
    encoder = load_weights(weights, precision=precision)
    row = encoder_row(db, encoder)
    n_expected = _n_texts(db) if again else count_missing(db, row.id)
    with progress_bar(n_expected, "embed", "texts") as progress:
        return embed_missing(db, encoder, database_path, again=again, progress=progress)


def embed_missing(
    db: Database,
    encoder: Encoder,
    database_path: Path,
    *,
    again: bool = False,
    progress: Advance = stand_still,
) -> EmbedReport:
    """Computes and records the vectors that `encoder` has not computed yet.

    `progress` is told of every block that is safe. Raises BadVectors if a block holds NaN, zero
    or vectors of another dimension: nothing of that block is recorded.
    """
    started = time.monotonic()
    row = encoder_row(db, encoder)
    folder = vectors_folder(database_path, row.id)
    shards = VectorShards(folder, row.dimension)
    added = 0
    with hold_lock(folder / "lock", "embedding", wait_seconds=WAIT_SECONDS):
        if again:
            _forget(db, row.id, folder)
        for block in _missing_blocks(db, row.id):
            _embed_block(db, encoder, row.id, shards, block)
            added += len(block)
            progress(len(block))
    return _report(db, row, added=added, seconds=time.monotonic() - started)


def _embed_block(
    db: Database, encoder: Encoder, encoder_id: int, shards: VectorShards, block: dict[str, str]
) -> None:
    """Vectors to the shards first, then their rows into the database."""
    encoded = encoder.encode(list(block.values()))
    if len(encoded.vectors) != len(block):
        raise BadVectors(
            f"the encoder gave {len(encoded.vectors)} vectors for {len(block)} texts",
            expected="one vector per text",
            todo="check the encoder; nothing of this batch was stored",
        )
    first_row = _next_row(db, encoder_id)
    shards.append(encoded.vectors, first_row)
    rows = [
        (encoder_id, text_hash, first_row + i, int(n_chunks))
        for i, (text_hash, n_chunks) in enumerate(zip(block, encoded.n_chunks, strict=True))
    ]
    with writing(db):
        db.conn.executemany("INSERT INTO embeddings VALUES (?, ?, ?, ?)", rows)


def _next_row(db: Database, encoder_id: int) -> int:
    query = "SELECT coalesce(max(row) + 1, 0) FROM embeddings WHERE encoder_id = ?"
    return _number(db, query, encoder_id)


def _forget(db: Database, encoder_id: int, folder: Path) -> None:
    """Drops the encoder's rows, then its shards.

    The files are removed and not written over: a process that has mapped them keeps reading the
    vectors that its rows speak of.
    """
    with writing(db):
        db.execute("DELETE FROM embeddings WHERE encoder_id = ?", [encoder_id])
    for shard in folder.glob("*.f32"):
        shard.unlink()


# Which texts are missing. Responses come in the order of the pools, so that a pool's vectors
# are, as a rule, one stretch of a shard; prompts after them. What is gold only needs no vector:
# nobody chooses among it.

_A_RESPONSE = f"""SELECT 1 FROM responses r WHERE r.text_hash = p.text_hash
    AND r.id NOT IN ({GOLD_ONLY_RESPONSES})"""  # noqa: S608
_MISSING_RESPONSES = f"""
    SELECT min(r.id) FROM responses r WHERE NOT EXISTS (
        SELECT 1 FROM embeddings e WHERE e.encoder_id = ? AND e.text_hash = r.text_hash)
    AND r.id NOT IN ({GOLD_ONLY_RESPONSES}) GROUP BY r.text_hash"""  # noqa: S608
_MISSING_PROMPTS = f"""
    SELECT min(p.id) FROM prompts p WHERE NOT EXISTS (
        SELECT 1 FROM embeddings e WHERE e.encoder_id = ? AND e.text_hash = p.text_hash)
    AND NOT EXISTS ({_A_RESPONSE})
    AND p.id NOT IN ({GOLD_ONLY_PROMPTS}) GROUP BY p.text_hash"""  # noqa: S608
_RESPONSE_TEXTS = """
    SELECT r.text_hash, r.text FROM json_each(?) wanted
    CROSS JOIN responses r ON r.id = wanted.value ORDER BY wanted.key"""
_PROMPT_TEXTS = """
    SELECT p.text_hash, p.messages FROM json_each(?) wanted
    CROSS JOIN prompts p ON p.id = wanted.value ORDER BY wanted.key"""


def count_missing(db: Database, encoder_id: int) -> int:
    """How many distinct texts have no vector of that encoder."""
    queries = (_MISSING_RESPONSES, _MISSING_PROMPTS)
    return sum(len(_ids(db, query, encoder_id)) for query in queries)


def _missing_blocks(db: Database, encoder_id: int) -> Iterator[dict[str, str]]:
    """Text hash -> text, some hundred at a time; ids are all that is held of the rest."""
    missing = _ids(db, _MISSING_RESPONSES, encoder_id)
    in_order = response_table(db).response_ids
    for ids in _blocks(in_order[np.isin(in_order, missing)]):
        yield dict(db.execute(_RESPONSE_TEXTS, [json.dumps(ids)]).fetchall())
    for ids in _blocks(np.sort(_ids(db, _MISSING_PROMPTS, encoder_id))):
        found = db.execute(_PROMPT_TEXTS, [json.dumps(ids)]).fetchall()
        yield {text_hash: prompt_text(json.loads(messages)) for text_hash, messages in found}


def _blocks(ids: Ids) -> Iterator[list[int]]:
    remaining = iter(ids.tolist())
    while block := list(islice(remaining, BLOCK_TEXTS)):
        yield block


def _ids(db: Database, query: str, encoder_id: int) -> Ids:
    found = (row[0] for row in db.execute(query, [encoder_id]))
    return np.fromiter(found, dtype=np.int64)


# Encoders.


def encoder_row(db: Database, encoder: Encoder) -> EncoderRow:
    """The encoder's row, made if it is new. Raises BadVectors if its dimension has changed."""
    identity = [encoder.name, encoder.fingerprint, encoder.chunking]
    query = """SELECT id, name, chunking, dimension FROM encoders
        WHERE name = ? AND fingerprint = ? AND chunking = ?"""
    found = db.execute(query, identity).fetchone()
    if not found:
        with writing(db):
            db.execute(
                """INSERT OR IGNORE INTO encoders (name, fingerprint, chunking, dimension)
                VALUES (?, ?, ?, ?)""",
                [*identity, encoder.dimension],
            )
        found = db.execute(query, identity).fetchone()
    row = EncoderRow(*found)
    if row.dimension != encoder.dimension:
        raise BadVectors(
            f"{encoder.name} now gives vectors of {encoder.dimension} dimensions",
            expected=f"{row.dimension}, as when it was first used here",
            todo="give the changed encoder another name in annotator.toml: vectors never mix",
        )
    return row


def _newest(db: Database, name: str, fingerprint: str) -> EncoderRow | None:
    query = """SELECT id, name, chunking, dimension FROM encoders
        WHERE name = ? AND fingerprint = ? ORDER BY id DESC LIMIT 1"""
    found = db.execute(query, [name, fingerprint]).fetchone()
    return EncoderRow(*found) if found else None


# Reading.


def response_vectors(
    db: Database, database_path: Path, encoder_id: int, response_ids: Ids | None = None
) -> Vectors:
    """The vectors of these responses, in this order, as float32 (n, dimension); read only.

    Without `response_ids` those of all responses, in the order of catalog.response_table. Where
    the vectors lie in one stretch, which is the rule, the array is a view of the file and costs
    no memory of its own. Raises EncoderError if a response has no vector.
    """
    if response_ids is None:
        response_ids = response_table(db).response_ids
    return vectors_in(db, database_path, encoder_id, response_rows(db, encoder_id, response_ids))


def prompt_vectors(db: Database, database_path: Path, encoder_id: int, prompt_ids: Ids) -> Vectors:
    """The vectors of these prompts, in this order; as response_vectors."""
    rows = _rows_of(db, encoder_id, "prompts", prompt_ids)
    return vectors_in(db, database_path, encoder_id, rows)


def response_rows(db: Database, encoder_id: int, response_ids: Ids) -> Ids:
    """In which row of the encoder's shards the vector of each of these responses lies, (n,).

    Responses with the same text share a row, and only they do. Raises EncoderError if a response
    has no vector.
    """
    return _rows_of(db, encoder_id, "responses", response_ids)


def have_vectors(db: Database, encoder_id: int, response_ids: Ids) -> NDArray[np.bool_]:
    """Which of these responses, and of their prompts, have a vector: (n,), True where both."""
    query = """SELECT r.id FROM json_each(?) wanted
        CROSS JOIN responses r ON r.id = wanted.value CROSS JOIN prompts p ON p.id = r.prompt_id
        CROSS JOIN embeddings e ON e.encoder_id = ?2 AND e.text_hash = r.text_hash
        CROSS JOIN embeddings f ON f.encoder_id = ?2 AND f.text_hash = p.text_hash"""
    found = [row[0] for row in db.execute(query, [json.dumps(response_ids.tolist()), encoder_id])]
    there: NDArray[np.bool_] = np.isin(response_ids, found)
    return there


def vectors_in(db: Database, database_path: Path, encoder_id: int, rows: Ids) -> Vectors:
    """The vectors in these rows of the encoder's shards, in this order; as response_vectors."""
    query = "SELECT dimension FROM encoders WHERE id = ?"
    shards = VectorShards(vectors_folder(database_path, encoder_id), _number(db, query, encoder_id))
    vectors = _stretch(shards, rows)
    if vectors is None:
        vectors = shards.read(rows)
    vectors.flags.writeable = False
    return vectors


def _rows_of(db: Database, encoder_id: int, table: str, ids: Ids) -> Ids:
    """The shard row of each id. Raises EncoderError if one has none."""
    known, rows = _recorded_rows(db, encoder_id, table, ids)
    places = np.searchsorted(known, ids)
    there = places < len(known)
    there[there] = known[places[there]] == ids[there]
    if not there.all():
        raise EncoderError(
            f"{np.count_nonzero(~there):,} of {len(ids):,} {table} have no vector",
            expected="a vector of each",
            todo="run `annotator embed`",
        )
    return np.asarray(rows[places], dtype=np.int64)


def _recorded_rows(db: Database, encoder_id: int, table: str, ids: Ids) -> tuple[Ids, Ids]:
    """Ids, ascending, with the shard row of each: of all that have one, or of these if few."""
    # CROSS JOIN fixes the order of the loops. Without `wanted` both sides are then read in the
    # order of text_hash, out of indexes alone, five times as fast as SQLite's own choice.
    source: str = f"{table} t"
    values: list[object] = [encoder_id]
    highest = _number(db, f"SELECT coalesce(max(id), 0) FROM {table}")  # noqa: S608
    if len(ids) < FEW * highest:
        source = f"json_each(?) wanted CROSS JOIN {table} t ON t.id = wanted.value"
        values = [json.dumps(ids.tolist()), encoder_id]
    query = f"""SELECT t.id, e.row FROM {source}
        CROSS JOIN embeddings e ON e.encoder_id = ? AND e.text_hash = t.text_hash"""  # noqa: S608
    known, rows = integer_columns(db, query, 2, values)
    order = np.argsort(known)
    return known[order], rows[order]


def _stretch(shards: VectorShards, rows: Ids) -> Vectors | None:
    """The vectors without copying, if the rows follow each other within one shard."""
    if not len(rows) or np.any(np.diff(rows) != 1):
        return None
    return shards.view(int(rows[0]), len(rows))


# Counting.


def vector_counts(db: Database) -> list[dict[str, str | int]]:
    """For each encoder its name, how many texts have a vector, and how many there are."""
    n_texts = _n_texts(db)
    query = """SELECT n.name, count(e.row) FROM encoders n
        LEFT JOIN embeddings e ON e.encoder_id = n.id GROUP BY n.id ORDER BY n.id"""
    return [{"encoder": name, "texts": count, "of": n_texts} for name, count in db.execute(query)]


def _n_texts(db: Database) -> int:
    return _number(
        db,
        f"""SELECT (SELECT count(DISTINCT text_hash) FROM responses
            WHERE id NOT IN ({GOLD_ONLY_RESPONSES})) +
        (SELECT count(DISTINCT text_hash) FROM prompts p WHERE NOT EXISTS ({_A_RESPONSE})
            AND p.id NOT IN ({GOLD_ONLY_PROMPTS}))""",  # noqa: S608
    )


def _report(db: Database, row: EncoderRow, *, added: int, seconds: float) -> EmbedReport:
    embedded = "SELECT count(*) FROM embeddings WHERE encoder_id = ?"
    n_embedded = _number(db, embedded, row.id)
    return EmbedReport(
        encoder_id=row.id,
        encoder=row.name,
        chunking=row.chunking,
        dimension=row.dimension,
        total=_n_texts(db),
        known=n_embedded - added,
        added=added,
        chunked=_number(db, f"{embedded} AND n_chunks > 1", row.id),
        seconds=seconds,
    )


def _number(db: Database, query: str, *values: object) -> int:
    return int(db.execute(query, list(values)).fetchone()[0])
