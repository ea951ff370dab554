"""Where each response's vector lies: worked out or remembered, the same as row by row by hand."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sqlite_utils import Database

from annotator.errors import EncoderError
from annotator.signals import embeddings, vector_rows
from annotator.signals.embeddings import (
    embed_missing,
    prompt_vectors,
    response_vectors,
    vectors_folder,
    vectors_in,
)
from annotator.signals.vector_rows import EmbeddedResponses, embedded_responses
from annotator.store import integer_columns, open_db, writing
from tests.fake_encoder import FakeEncoder
from tests.small_world import add_prompt

ROOT = Path(__file__).resolve().parents[1]
FILE = "responses.rows"
Numbers = tuple[list[int], list[int], list[int]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "annotator.db"


def fill(db: Database, seed: int, n_prompts: int = 40) -> None:
    """Prompts with 1 to 7 responses; some texts stand under several prompts."""
    rng = np.random.default_rng(seed)
    for i in range(n_prompts):
        texts = {
            f"said everywhere {rng.integers(9)}"
            if rng.random() < 0.3
            else f"answer {j} to {seed}.{i}"
            for j in range(rng.integers(1, 8))
        }
        add_prompt(db, [{"role": "user", "content": f"question {seed}.{i}"}], sorted(texts))


def embed(db: Database, path: Path, *, settle: bool = True, **settings: object) -> int:
    again = bool(settings.pop("again", False))
    encoder_id = embed_missing(db, FakeEncoder(**settings), path, again=again).encoder_id  # type: ignore[arg-type]
    if settle:
        age(path, encoder_id)
    return encoder_id


def age(path: Path, encoder_id: int) -> None:
    """The shards look as if they had been written some seconds earlier than they were."""
    for shard in vectors_folder(path, encoder_id).glob("*.f32"):
        state = shard.stat()
        os.utime(shard, ns=(state.st_atime_ns, state.st_mtime_ns - 10_000_000_000))


def by_hand(db: Database, encoder_id: int) -> Numbers:
    """Response by response, in Python."""
    row_of = dict(
        db.execute("SELECT text_hash, row FROM embeddings WHERE encoder_id = ?", [encoder_id])
    )
    query = "SELECT prompt_id, response_key, id, text_hash FROM responses"
    rows = sorted(db.execute(query).fetchall())
    return (
        [row[2] for row in rows],
        [row[0] for row in rows],
        [row_of[row[3]] for row in rows],
    )


def as_lists(found: EmbeddedResponses) -> Numbers:
    return found.response_ids.tolist(), found.prompt_ids.tolist(), found.rows.tolist()


def check(db: Database, path: Path, encoder_id: int) -> None:
    """Twice: the second time it may be remembered."""
    expected = by_hand(db, encoder_id)
    assert as_lists(embedded_responses(db, path, encoder_id)) == expected
    assert as_lists(embedded_responses(db, path, encoder_id)) == expected


def is_remembered(db: Database, path: Path, encoder_id: int) -> bool:
    def forgotten(*_: object) -> None:
        raise AssertionError("it was worked out")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vector_rows, "response_rows", forgotten)
        try:
            embedded_responses(db, path, encoder_id)
        except AssertionError:
            return False
    return True


@pytest.mark.parametrize("seed", range(4))
def test_remembered_or_not_it_is_what_the_tables_say(db: Database, path: Path, seed: int) -> None:
    fill(db, seed)
    first = embed(db, path)
    assert not is_remembered(db, path, first)
    check(db, path, first)
    assert is_remembered(db, path, first)
    # Another encoder meets the texts in another order, since more have come in between.
    fill(db, seed + 10, n_prompts=15)
    second = embed(db, path, name="other", dimension=7)
    with pytest.raises(EncoderError, match="have no vector"):
        embedded_responses(db, path, first)
    check(db, path, second)
    embed(db, path)
    for encoder_id in (first, second):
        assert by_hand(db, encoder_id)[2] != list(range(len(by_hand(db, encoder_id)[2])))
        check(db, path, encoder_id)
        assert is_remembered(db, path, encoder_id)


def test_the_vectors_in_the_rows_are_those_of_the_responses(db: Database, path: Path) -> None:
    fill(db, 1)
    encoder_id = embed(db, path)
    texts = dict(db.execute("SELECT id, text FROM responses").fetchall())
    for _ in range(2):
        found = embedded_responses(db, path, encoder_id)
        expected = [FakeEncoder().vector(texts[i]) for i in found.response_ids.tolist()]
        np.testing.assert_array_equal(vectors_in(db, path, encoder_id, found.rows), expected)


def test_rows_that_another_process_adds_are_seen(db: Database, path: Path) -> None:
    fill(db, 1)
    encoder_id = embed(db, path)
    check(db, path, encoder_id)
    script = (
        "import sys; from pathlib import Path; from annotator.store import open_db\n"
        "from tests.test_vector_rows import embed, fill\n"
        "path = Path(sys.argv[1]); db = open_db(path); fill(db, 2); embed(db, path)"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT, check=True)
    before = len(embedded_responses(db, path, encoder_id).rows)
    check(db, path, encoder_id)
    assert before == len(by_hand(db, encoder_id)[0])


def test_vectors_computed_anew_in_another_order_are_seen(db: Database, path: Path) -> None:
    """As many rows, as many bytes: only the shards' own times differ."""
    fill(db, 1, n_prompts=10)
    encoder_id = embed(db, path)
    fill(db, 2, n_prompts=10)
    for prompt_id, key in db.execute("SELECT id, prompt_key FROM prompts").fetchall():
        add_response(db, prompt_id, key, f"later {prompt_id}")
    embed(db, path)
    check(db, path, encoder_id)
    before = by_hand(db, encoder_id)
    embed(db, path, again=True)
    after = by_hand(db, encoder_id)
    assert before[:2] == after[:2] and before[2] != after[2]
    assert as_lists(embedded_responses(db, path, encoder_id)) == after


def add_response(db: Database, prompt_id: int, prompt_key: str, text: str) -> None:
    from annotator.candidates.identity import response_key, text_hash

    with writing(db):
        db.execute(
            """INSERT INTO responses (response_key, prompt_id, text, text_hash, import_id)
            VALUES (?, ?, ?, ?, 1)""",
            [response_key(prompt_key, text), prompt_id, text, text_hash(text)],
        )


def test_a_restored_backup_that_went_on_otherwise_is_another_database(
    db: Database, path: Path, tmp_path: Path
) -> None:
    """As many responses and vectors as before the restoration, and not the same ones."""
    fill(db, 1, n_prompts=5)
    encoder_id = embed(db, path)
    backup = tmp_path / "backup.db"
    db.execute("VACUUM INTO ?", [str(backup)])
    (shard,) = vectors_folder(path, encoder_id).glob("*.f32")
    found, times = [], []
    for name, said in (("one", ["yes", "no"]), ("two", ["no", "yes"])):
        for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            file.unlink(missing_ok=True)
        shutil.copy(backup, path)
        other = open_db(path)
        with writing(other):
            other.execute(
                "INSERT INTO imports (id, file, dataset, format, started_at, finished_at) "
                "VALUES (2, 'f', 'w', 'native', ?, '')",
                [name],
            )
        prompts = other.execute("SELECT id, prompt_key FROM prompts LIMIT 2").fetchall()
        for (prompt_id, key), text in zip(prompts, said, strict=True):
            add_response(other, prompt_id, key, text)
        embed(other, path)
        # Even if the shard's time were that of the first turn.
        times.append(shard.stat().st_mtime_ns)
        os.utime(shard, ns=(times[0], times[0]))
        check(other, path, encoder_id)
        found.append((by_hand(other, encoder_id), shard.stat().st_size, shard.stat().st_ino))
        other.close()
    (one, *state), (two, *other_state) = found
    assert state == other_state and len(one[0]) == len(two[0]) and one != two


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut short": lambda content: content[:-8],
    "cut in its head": lambda content: content[:9],
    "one bit of a number": lambda content: content[:-3] + bytes([content[-3] ^ 1]) + content[-2:],
    "one bit of the digest": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "longer": lambda content: content + bytes(24),
    "zeros": lambda content: bytes(len(content)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_not_believed_and_is_written_again(
    db: Database, path: Path, damage: str
) -> None:
    fill(db, 3)
    encoder_id = embed(db, path)
    check(db, path, encoder_id)
    file = vectors_folder(path, encoder_id) / FILE
    whole = file.read_bytes()
    file.write_bytes(DAMAGE[damage](whole))
    assert not is_remembered(db, path, encoder_id)
    check(db, path, encoder_id)
    assert file.read_bytes() == whole


def test_the_file_of_another_encoder_is_not_believed(db: Database, path: Path) -> None:
    fill(db, 3)
    first = embed(db, path)
    fill(db, 4)
    second = embed(db, path, name="other")
    embed(db, path)
    check(db, path, first)
    shutil.copy(vectors_folder(path, first) / FILE, vectors_folder(path, second) / FILE)
    assert by_hand(db, first)[2] != by_hand(db, second)[2]
    check(db, path, second)


def test_a_file_that_was_deleted_or_half_written_costs_time_alone(db: Database, path: Path) -> None:
    fill(db, 3)
    encoder_id = embed(db, path)
    check(db, path, encoder_id)
    folder = vectors_folder(path, encoder_id)
    content = (folder / FILE).read_bytes()
    (folder / FILE).unlink()
    (folder / f"{FILE}.part").write_bytes(content[:100])  # of a process that was killed
    check(db, path, encoder_id)
    assert is_remembered(db, path, encoder_id)
    assert sorted(file.name for file in folder.iterdir()) == ["00000.f32", "lock", FILE]


def test_where_the_disk_refuses_the_result_is_the_same(
    db: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    fill(db, 3)
    encoder_id = embed(db, path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        check(db, path, encoder_id)
    assert not list(vectors_folder(path, encoder_id).glob(f"{FILE}*"))


def test_nothing_is_remembered_of_shards_that_were_written_just_now(
    db: Database, path: Path
) -> None:
    """A clock's step later they could have changed again and look the same."""
    fill(db, 3)
    encoder_id = embed(db, path, settle=False)
    check(db, path, encoder_id)
    assert not is_remembered(db, path, encoder_id)
    age(path, encoder_id)
    check(db, path, encoder_id)
    assert is_remembered(db, path, encoder_id)


def test_nothing_is_remembered_that_changed_while_it_was_read(
    db: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(db, 3)
    encoder_id = embed(db, path)

    def slow(
        *values: object, original: Callable[..., object] = vector_rows.response_rows
    ) -> object:
        found = original(*values)
        fill(db, 4)
        embed(db, path)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(vector_rows, "response_rows", slow)
        embedded_responses(db, path, encoder_id)
    assert not (vectors_folder(path, encoder_id) / FILE).exists()
    check(db, path, encoder_id)


def test_many_processes_at_once(db: Database, path: Path) -> None:
    fill(db, 5)
    encoder_id = embed(db, path)
    script = (
        "import sys; from pathlib import Path; from annotator.store import open_db\n"
        "from tests.test_vector_rows import check, vectors_folder\n"
        "path = Path(sys.argv[1]); db = open_db(path)\n"
        "for _ in range(15):\n"
        "    check(db, path, 1); (vectors_folder(path, 1) / 'responses.rows').unlink(True)"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", script, str(path)], cwd=ROOT) for _ in range(3)
    ]
    assert [process.wait(200) for process in running] == [0, 0, 0]
    check(db, path, encoder_id)


# Few ids are looked up one by one, many out of all.


@pytest.mark.parametrize("few", [0.0, 1e9], ids=["all read", "one by one"])
def test_vectors_of_any_ids_in_any_order(
    db: Database, path: Path, few: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(db, 6)
    encoder_id = embed(db, path)
    monkeypatch.setattr(embeddings, "FEW", few)
    texts = dict(db.execute("SELECT id, text FROM responses").fetchall())
    questions = dict(
        db.execute("SELECT id, json_extract(messages, '$[0].content') FROM prompts").fetchall()
    )
    rng = np.random.default_rng(0)
    for read, of in ((response_vectors, texts), (prompt_vectors, questions)):
        for n in (0, 1, 7, 90):
            ids = rng.choice(list(of), n)
            expected = np.reshape([FakeEncoder().vector(of[int(i)]) for i in ids], (-1, 5))
            np.testing.assert_array_equal(read(db, path, encoder_id, ids), expected)
        with pytest.raises(EncoderError, match=r"2 of 3 .* have no vector"):
            read(db, path, encoder_id, np.array([1, 10**6, -3]))


# Columns.


def test_columns_keep_the_order_and_the_values_of_the_query(db: Database) -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(-(2**63), 2**63 - 1, (5000, 2)).tolist()
    rows += [[2**63 - 1, -(2**63)], [0, 0]]
    db.execute("CREATE TABLE numbers (x INTEGER, y INTEGER)")
    db.conn.executemany("INSERT INTO numbers VALUES (?, ?)", rows)
    for order in ("y", "x DESC", "abs(x / 3), y", "y % 100, x"):
        query = f"SELECT x, y FROM numbers WHERE x < ? ORDER BY {order}"
        expected = db.execute(query, [2**62]).fetchall()
        found = integer_columns(db, query, 2, [2**62])
        assert found.dtype == np.int64
        assert list(map(tuple, found.T.tolist())) == expected
    assert integer_columns(db, "SELECT x FROM numbers WHERE 0", 1).shape == (1, 0)


def test_columns_say_what_sqlite_says(db: Database) -> None:
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        integer_columns(db, "SELECT x FROM nowhere", 1)
