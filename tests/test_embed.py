"""Which texts are embedded, when, and what is left after a fault; by an encoder without a model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from sqlite_utils import Database

from annotator.candidates.catalog import response_table
from annotator.candidates.identity import Message
from annotator.errors import BadVectors, EncoderError, StoreError
from annotator.signals import embeddings
from annotator.signals.embeddings import (
    count_missing,
    embed_missing,
    encoder_row,
    prompt_vectors,
    response_vectors,
    vector_counts,
    vectors_folder,
)
from annotator.signals.encoder import Encoded
from annotator.store import open_db
from tests.fake_encoder import FakeEncoder
from tests.small_world import add_prompt, add_prompts

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "annotator.db"


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(embeddings, "BLOCK_TEXTS", 4)
    return 4


def texts_of(db: Database, table: str = "responses") -> dict[int, str]:
    return dict(db.execute(f"SELECT id, text FROM {table}").fetchall())


def assert_whole(db: Database, path: Path, encoder: FakeEncoder, encoder_id: int = 1) -> None:
    """Every response has the vector of its own text, and no row belongs to two texts."""
    ids = np.array(sorted(texts_of(db)), dtype=np.int64)
    expected = [encoder.vector(texts_of(db)[int(i)]) for i in ids]
    np.testing.assert_array_equal(response_vectors(db, path, encoder_id, ids), expected)
    rows = [row for (row,) in db.execute("SELECT row FROM embeddings ORDER BY row")]
    assert rows == list(range(len(rows)))


def test_every_distinct_text_is_embedded_once(db: Database, path: Path, small_blocks: int) -> None:
    add_prompts(db, [3, 1, 2])
    add_prompt(db, [{"role": "user", "content": "echo"}], ["echo", "answer 0 to question 0"])
    encoder = FakeEncoder()
    assert count_missing(db, encoder_row(db, encoder).id) == 10
    report = embed_missing(db, encoder, path)
    distinct = set(texts_of(db).values()) | {"question 0", "question 1", "question 2"}
    assert sorted(encoder.texts) == sorted(distinct)
    assert (report.total, report.known, report.added) == (10, 0, 10)
    assert max(map(len, encoder.asked)) == small_blocks
    assert_whole(db, path, encoder)


def test_the_second_run_finds_nothing_to_do(db: Database, path: Path) -> None:
    add_prompts(db, [3, 2])
    embed_missing(db, FakeEncoder(), path)
    encoder = FakeEncoder()
    report = embed_missing(db, encoder, path)
    assert encoder.asked == []
    assert (report.total, report.known, report.added) == (7, 7, 0)


def test_only_new_texts_are_computed(db: Database, path: Path) -> None:
    add_prompts(db, [3])
    embed_missing(db, FakeEncoder(), path)
    add_prompt(db, [{"role": "user", "content": "new"}], ["fresh", "answer 1 to question 0"])
    encoder = FakeEncoder()
    report = embed_missing(db, encoder, path)
    assert sorted(encoder.texts) == ["fresh", "new"]
    assert (report.known, report.added) == (4, 2)
    assert_whole(db, path, encoder)


def test_an_empty_database_is_no_error(db: Database, path: Path) -> None:
    report = embed_missing(db, FakeEncoder(), path)
    assert (report.total, report.added) == (0, 0)
    assert response_vectors(db, path, report.encoder_id).shape == (0, 5)


def test_texts_longer_than_the_window_are_counted(db: Database, path: Path) -> None:
    add_prompt(db, [{"role": "user", "content": "q " * 30}], ["short", "long " * 9, "x " * 8])
    assert embed_missing(db, FakeEncoder(), path).chunked == 2
    assert embed_missing(db, FakeEncoder(), path).chunked == 2
    chunks = db.execute("SELECT n_chunks FROM embeddings ORDER BY n_chunks").fetchall()
    assert chunks == [(1,), (1,), (2,), (4,)]


def test_a_dialogue_is_embedded_as_one_text(db: Database, path: Path) -> None:
    turns: list[Message] = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yes?"},
    ]
    add_prompt(db, turns, ["a", "b"])
    encoder = FakeEncoder()
    report = embed_missing(db, encoder, path)
    (prompt_id,) = db.execute("SELECT id FROM prompts").fetchone()
    got = prompt_vectors(db, path, report.encoder_id, np.array([prompt_id]))
    np.testing.assert_array_equal(got, [encoder.vector("user: hi\nassistant: yes?")])


def test_progress_is_told_of_what_is_safe(db: Database, path: Path, small_blocks: int) -> None:
    add_prompts(db, [3, 3])
    told: list[int] = []

    def progress(n: int) -> None:
        told.append(n)
        recorded = db.execute("SELECT count(*) FROM embeddings").fetchone()[0]
        assert recorded == sum(told)

    embed_missing(db, FakeEncoder(), path, progress=progress)
    assert told == [4, 2, 2]


# Reading.


def test_a_pool_in_one_stretch_is_a_view_of_the_file(db: Database, path: Path) -> None:
    add_prompts(db, [3, 1, 4])
    encoder = FakeEncoder()
    report = embed_missing(db, encoder, path)
    vectors = response_vectors(db, path, report.encoder_id)
    in_order = response_table(db).response_ids
    expected = [encoder.vector(texts_of(db)[int(i)]) for i in in_order]
    np.testing.assert_array_equal(vectors, expected)
    assert isinstance(vectors, np.memmap) and not vectors.flags.writeable


def test_any_order_can_be_asked_for_and_repeated(db: Database, path: Path) -> None:
    add_prompts(db, [3, 2])
    add_prompt(db, [{"role": "user", "content": "x"}], ["answer 0 to question 0", "else"])
    encoder = FakeEncoder()
    report = embed_missing(db, encoder, path)
    texts = texts_of(db)
    ids = np.random.default_rng(0).permutation(np.repeat(sorted(texts), 2))
    got = response_vectors(db, path, report.encoder_id, ids)
    np.testing.assert_array_equal(got, [encoder.vector(texts[int(i)]) for i in ids])
    assert not got.flags.writeable


@pytest.mark.parametrize("unknown", [0, 99])
def test_a_response_without_vector_is_named(db: Database, path: Path, unknown: int) -> None:
    add_prompts(db, [2])
    report = embed_missing(db, FakeEncoder(), path)
    with pytest.raises(EncoderError, match="1 of 3 responses have no vector") as caught:
        response_vectors(db, path, report.encoder_id, np.array([1, unknown, 2]))
    assert "annotator embed" in caught.value.todo


def test_vectors_are_not_read_before_new_texts_are_embedded(db: Database, path: Path) -> None:
    add_prompts(db, [2])
    report = embed_missing(db, FakeEncoder(), path)
    add_prompt(db, [{"role": "user", "content": "x"}], ["one more"])
    with pytest.raises(EncoderError, match="1 of 3 responses"):
        response_vectors(db, path, report.encoder_id)


# Encoders.


def test_vectors_of_two_encoders_do_not_mix(db: Database, path: Path) -> None:
    add_prompts(db, [2, 2])
    small, large = FakeEncoder(), FakeEncoder(name="large", dimension=7)
    first = embed_missing(db, small, path)
    second = embed_missing(db, large, path)
    assert first.encoder_id != second.encoder_id
    assert response_vectors(db, path, first.encoder_id).shape == (4, 5)
    assert response_vectors(db, path, second.encoder_id).shape == (4, 7)
    assert vector_counts(db) == [
        {"encoder": "fake", "texts": 6, "of": 6},
        {"encoder": "large", "texts": 6, "of": 6},
    ]


def test_changed_weights_under_the_same_name_are_another_encoder(db: Database, path: Path) -> None:
    add_prompts(db, [2])
    embed_missing(db, FakeEncoder(), path)
    changed = FakeEncoder(fingerprint="weights-2", dimension=6)
    report = embed_missing(db, changed, path)
    assert (report.known, report.added) == (0, 3)
    assert vectors_folder(path, 1) != vectors_folder(path, report.encoder_id)


def test_the_same_weights_cannot_change_their_dimension(db: Database, path: Path) -> None:
    encoder_row(db, FakeEncoder())
    with pytest.raises(BadVectors, match="6 dimensions") as caught:
        embed_missing(db, FakeEncoder(dimension=6), path)
    assert "vectors never mix" in caught.value.todo


class Broken(FakeEncoder):
    """Goes wrong in its second block."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def encode(self, texts: list[str]) -> Encoded:  # type: ignore[override]
        encoded = super().encode(texts)
        if len(self.asked) < 2:
            return encoded
        vectors = encoded.vectors
        if self.fault == "fewer":
            return Encoded(vectors[:-1], encoded.n_chunks[:-1])
        if self.fault == "wider":
            return Encoded(np.hstack([vectors, vectors]), encoded.n_chunks)
        vectors[-1] = {"nan": np.nan, "zero": 0.0, "infinite": np.inf}[self.fault]
        return encoded


@pytest.mark.parametrize("fault", ["nan", "zero", "infinite", "wider", "fewer"])
def test_bad_vectors_are_refused_and_nothing_of_their_block_is_kept(
    db: Database, path: Path, small_blocks: int, fault: str
) -> None:
    add_prompts(db, [5, 5])
    with pytest.raises(BadVectors):
        embed_missing(db, Broken(fault), path)
    assert db.execute("SELECT count(*) FROM embeddings").fetchone() == (small_blocks,)
    encoder = FakeEncoder()
    report = embed_missing(db, encoder, path)
    assert report.added == 12 - small_blocks
    assert_whole(db, path, encoder)


# Faults.


def test_an_interrupt_keeps_the_blocks_before_it(
    db: Database, path: Path, small_blocks: int
) -> None:
    class Interrupted(FakeEncoder):
        def encode(self, texts: list[str]) -> Encoded:  # type: ignore[override]
            if len(self.asked) == 2:
                raise KeyboardInterrupt
            return super().encode(texts)

    add_prompts(db, [6, 6])
    with pytest.raises(KeyboardInterrupt):
        embed_missing(db, Interrupted(), path)
    assert not db.conn.in_transaction
    assert count_missing(db, 1) == 14 - 2 * small_blocks
    encoder = FakeEncoder()
    assert embed_missing(db, encoder, path).added == 14 - 2 * small_blocks
    assert_whole(db, path, encoder)


def test_vectors_that_were_written_and_never_recorded_are_written_over(
    db: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_prompts(db, [6])

    def no_transaction(_: Database) -> None:
        raise StoreError("the disk refused a write")

    encoder_row(db, FakeEncoder())
    with monkeypatch.context() as patch, pytest.raises(StoreError):
        patch.setattr(embeddings, "writing", no_transaction)
        embed_missing(db, FakeEncoder(), path)
    assert (vectors_folder(path, 1) / "00000.f32").stat().st_size == 6 * 5 * 4
    assert count_missing(db, 1) == 7
    encoder = FakeEncoder()
    embed_missing(db, encoder, path)
    assert_whole(db, path, encoder)


def test_again_computes_everything_anew_and_readers_keep_what_they_had(
    db: Database, path: Path
) -> None:
    add_prompts(db, [3, 2])
    first = embed_missing(db, FakeEncoder(), path)
    before = response_vectors(db, path, first.encoder_id)
    copy = before.copy()
    encoder = FakeEncoder(salt="the model was mended")
    report = embed_missing(db, encoder, path, again=True)
    assert (report.encoder_id, report.known, report.added) == (first.encoder_id, 0, 7)
    assert len(encoder.texts) == 7
    np.testing.assert_array_equal(before, copy)
    assert_whole(db, path, encoder)


def test_again_mends_a_damaged_shard(db: Database, path: Path) -> None:
    add_prompts(db, [3, 2])
    report = embed_missing(db, FakeEncoder(), path)
    os.truncate(vectors_folder(path, report.encoder_id) / "00000.f32", 10)
    with pytest.raises(StoreError, match=r"shard|cannot be read") as caught:
        response_vectors(db, path, report.encoder_id)
    assert "annotator embed --again" in caught.value.todo
    encoder = FakeEncoder()
    embed_missing(db, encoder, path, again=True)
    assert_whole(db, path, encoder)


def test_a_second_process_waits_and_finds_nothing_to_do(db: Database, path: Path) -> None:
    add_prompts(db, [4, 4])
    begun, go_on = threading.Event(), threading.Event()

    class Slow(FakeEncoder):
        def encode(self, texts: list[str]) -> Encoded:  # type: ignore[override]
            begun.set()
            assert go_on.wait(60)
            return super().encode(texts)

    # A thread with a connection of its own: the lock is between open files, so it is as
    # strange to the first as another process is.
    slow = Slow()

    def first() -> None:
        mine = open_db(path)
        embed_missing(mine, slow, path)
        mine.close()

    worker = threading.Thread(target=first)
    worker.start()
    assert begun.wait(60)
    second = FakeEncoder()
    waiter = threading.Thread(target=lambda: _embed_and_close(path, second))
    waiter.start()
    time.sleep(0.2)
    assert waiter.is_alive() and second.asked == []
    go_on.set()
    worker.join(60)
    waiter.join(60)
    assert len(slow.texts) == 10 and second.asked == []
    assert_whole(db, path, slow)


def _embed_and_close(path: Path, encoder: FakeEncoder) -> None:
    db = open_db(path)
    embed_missing(db, encoder, path)
    db.close()


VICTIM = """
import os, sys
from pathlib import Path
from annotator.signals import embeddings
from annotator.store import VectorShards, open_db
from tests.fake_encoder import FakeEncoder

embeddings.BLOCK_TEXTS = 4
path, moment, after = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
count = 0

def die_in(function, when):
    def dying(*values, **named):
        global count
        count += 1
        if count > after and when == "before":
            os.kill(os.getpid(), 9)
        result = function(*values, **named)
        if count > after:
            os.kill(os.getpid(), 9)
        return result
    return dying

if moment == "torn":
    def write(self, shard, start, vectors, original=VectorShards._write):
        global count
        count += 1
        if count > after:
            original(self, shard, start, vectors[:-2])
            os.kill(os.getpid(), 9)
        original(self, shard, start, vectors)
    VectorShards._write = write
elif moment == "appended":
    VectorShards.append = die_in(VectorShards.append, "after")
elif moment == "recorded":
    embeddings._embed_block = die_in(embeddings._embed_block, "after")
db = open_db(path)
embeddings.embed_missing(db, FakeEncoder(), path)
"""


def die_embedding(path: Path, moment: str, after: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", VICTIM, str(path), moment, str(after)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("moment", ["torn", "appended", "recorded"])
def test_kill_9_loses_nothing_that_was_recorded(db: Database, path: Path, moment: str) -> None:
    add_prompts(db, [5, 4, 3])
    n_texts = 15
    for after in (0, 1):  # a second kill finds the orphans of the first
        before = db.execute("SELECT * FROM embeddings ORDER BY row").fetchall()
        die_embedding(path, moment, after)
        kept = db.execute("SELECT * FROM embeddings ORDER BY row").fetchall()
        assert kept[: len(before)] == before
    recorded = {"torn": 4, "appended": 4, "recorded": 12}[moment]
    assert len(kept) == recorded
    encoder = FakeEncoder()
    report = embed_missing(db, encoder, path)
    assert (report.known, report.added) == (recorded, n_texts - recorded)
    assert_whole(db, path, encoder)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_the_missing_are_found_without_reading_texts(db: Database) -> None:
    for query in (embeddings._MISSING_RESPONSES, embeddings._MISSING_PROMPTS):
        plan = json.dumps(db.execute(f"EXPLAIN QUERY PLAN {query}", [1]).fetchall())
        assert "COVERING INDEX" in plan and "TEMP B-TREE" not in plan
