"""The database: opening, migrating, refusing, writing from several processes."""

from __future__ import annotations

import multiprocessing
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlite_utils import Database

from annotator.errors import DamagedDatabase, NewerSchema, NotOurDatabase, StoreBusy, StoreError
from annotator.store import database as database_module
from annotator.store import hold_lock, open_db, open_readonly, writing
from annotator.store.migrations import MIGRATIONS, migrate

# Writing a table's name wrong would create it, so the full list is stated here.
TABLES = {
    "_sqlite_migrations", "meta", "imports", "prompts", "responses", "source_labels",
    "source_scores", "encoders", "embeddings", "projects", "rounds", "picks", "tasks",
    "annotators", "votes", "scores", "datamap_builds", "datamap", "judge_servers", "judge_calls",
    "judge_attempts", "judge_batches", "judge_batch_calls", "judgements",
    "gold", "extra_votes", "consensus_builds", "consensus", "annotator_skills",
    "spend", "certificates", "routing_looks", "routed", "snapshots",
}  # fmt: skip


def test_blank_database_has_exactly_the_known_tables(db: Database) -> None:
    assert set(db.table_names()) == TABLES
    assert db.view_names() == ["current_votes"]


def test_every_connection_is_set_up(db: Database) -> None:
    assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert db.execute("PRAGMA foreign_keys").fetchone()[0] == 1
    assert db.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert db.execute("PRAGMA page_size").fetchone()[0] == 16384


def test_foreign_keys_are_enforced(db: Database) -> None:
    with pytest.raises(StoreError, match="FOREIGN KEY"), writing(db):
        db.execute(
            """INSERT INTO prompts (prompt_key, messages, text_hash, dataset, import_id)
            VALUES ('k', '[]', 'h', 'd', 77)"""
        )


def test_absent_database_is_made_only_when_asked(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="annotator init"):
        open_db(tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()


def test_opening_twice_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    first = open_db(path, create=True)
    identity = first.execute("SELECT value FROM meta WHERE key = 'database_id'").fetchone()
    first.close()
    second = open_db(path)
    assert second.execute("SELECT value FROM meta WHERE key = 'database_id'").fetchone() == identity
    second.close()
    assert not list(tmp_path.glob("*.backup-*"))


@pytest.fixture
def next_migration() -> object:
    """A migration of the future, as the next release would append it."""
    kept = list(MIGRATIONS._migrations)

    @MIGRATIONS()
    def m999_next(db: Database) -> None:
        db.execute("ALTER TABLE prompts ADD COLUMN language TEXT")
        db.execute("UPDATE prompts SET language = 'en'")

    yield m999_next
    MIGRATIONS._migrations[:] = kept


def _old_database_with_rows(path: Path) -> None:
    """As the release before `next_migration` left it."""
    db = database_module.connect(path, readonly=False)
    database_module.prepare(db, path)
    migrate(db, path, stop_before="m999_next")
    with writing(db):
        db.execute(
            "INSERT INTO imports (id, file, dataset, format, started_at) "
            "VALUES (1, 'f', 'd', 'native', '')"
        )
        db.execute(
            """INSERT INTO prompts (prompt_key, messages, text_hash, dataset, import_id)
            VALUES ('k', '[]', 'h', 'd', 1)"""
        )
    db.close()


def test_old_database_with_rows_is_copied_and_then_migrated(
    tmp_path: Path, next_migration: object
) -> None:
    path = tmp_path / "a.db"
    _old_database_with_rows(path)
    db = open_db(path)
    assert db.execute("SELECT prompt_key, language FROM prompts").fetchall() == [("k", "en")]
    db.close()
    (backup,) = tmp_path.glob("a.db.backup-*")
    released = MIGRATIONS._migrations[-2].name  # the last before next_migration
    assert backup.name == f"a.db.backup-{released}"
    with sqlite3.connect(backup) as copy:
        assert copy.execute("SELECT count(*) FROM prompts").fetchone() == (1,)
        assert "language" not in copy.execute("SELECT sql FROM sqlite_master").fetchall().__str__()
    copy.close()


def test_migration_that_fails_midway_leaves_the_old_schema(
    tmp_path: Path, next_migration: object
) -> None:
    path = tmp_path / "a.db"
    _old_database_with_rows(path)

    @MIGRATIONS()
    def m999_z_breaks(db: Database) -> None:
        db.execute("CREATE TABLE half (x)")
        raise sqlite3.OperationalError("database or disk is full")

    with pytest.raises(StoreError, match="full"):
        open_db(path)
    raw = sqlite3.connect(path)
    names = {row[0] for row in raw.execute("SELECT name FROM sqlite_master WHERE type='table'")}
    columns = {row[1] for row in raw.execute("PRAGMA table_info(prompts)")}
    raw.close()
    assert names == TABLES
    assert "language" not in columns


_KILLED_IN_MIGRATION = """
import os, signal, sys
from pathlib import Path
from annotator.store.migrations import MIGRATIONS
from annotator.store import open_db
@MIGRATIONS()
def m999_next(db):
    db.execute("CREATE TABLE half (x)")
    os.kill(os.getpid(), signal.SIGKILL)
open_db(Path(sys.argv[1]))
"""


def test_kill_in_a_migration_leaves_the_old_schema(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    open_db(path, create=True).close()
    done = subprocess.run([sys.executable, "-c", _KILLED_IN_MIGRATION, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    db = open_db(path)
    assert set(db.table_names()) == TABLES
    db.close()


def test_newer_schema_is_refused_and_left_alone(tmp_path: Path, next_migration: object) -> None:
    path = tmp_path / "a.db"
    open_db(path, create=True).close()
    MIGRATIONS._migrations.pop()
    with pytest.raises(NewerSchema, match="m999_next"):
        open_db(path)


def test_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(NotOurDatabase):
        open_db(path)
    assert path.read_bytes() == before
    text = tmp_path / "text.db"
    text.write_text("no database at all, but long enough to be looked at" * 100)
    with pytest.raises(DamagedDatabase):
        open_db(text)


def test_damage_is_found_at_start(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    db = open_db(path, create=True)
    with writing(db):
        db.execute(
            "INSERT INTO imports (id, file, dataset, format, started_at) "
            "VALUES (1, 'f', 'd', 'native', '')"
        )
        db.conn.executemany(
            """INSERT INTO prompts (prompt_key, messages, text_hash, dataset, import_id)
            VALUES (?, ?, 'h', 'd', 1)""",
            [(f"k{i}", "x" * 500) for i in range(2000)],
        )
    db.close()
    content = bytearray(path.read_bytes())
    for page in range(20, 40):
        content[page * 16384 : page * 16384 + 100] = b"\xff" * 100
    path.write_bytes(content)
    with pytest.raises(DamagedDatabase, match="backup"):
        open_db(path)


def test_readonly_database_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    open_db(path, create=True).close()
    db = open_readonly(path)
    with pytest.raises(StoreError, match="readonly"), writing(db):
        db.execute("INSERT INTO meta VALUES ('x', 'y')")
    db.close()


def test_a_failed_block_writes_nothing(db: Database) -> None:
    with pytest.raises(RuntimeError), writing(db):
        db.execute("INSERT INTO meta VALUES ('x', 'y')")
        raise RuntimeError
    assert db.execute("SELECT count(*) FROM meta WHERE key = 'x'").fetchone()[0] == 0


def _claim(path: str, start: object, out: object) -> None:
    """Reads a number, adds one, writes it back, 50 times: loses counts unless locked first."""
    db = open_db(Path(path))
    start.wait()
    for _ in range(50):
        with writing(db):
            value = int(db.execute("SELECT value FROM meta WHERE key = 'n'").fetchone()[0])
            db.execute("UPDATE meta SET value = ? WHERE key = 'n'", [str(value + 1)])
    db.close()
    out.put("done")


def test_four_processes_lose_no_write_and_meet_no_lock_error(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    db = open_db(path, create=True)
    db.execute("INSERT INTO meta VALUES ('n', '0')")
    context = multiprocessing.get_context("spawn")
    start, out = context.Barrier(4), context.Queue()
    workers = [context.Process(target=_claim, args=(str(path), start, out)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert db.execute("SELECT value FROM meta WHERE key = 'n'").fetchone()[0] == "200"
    db.close()


def test_busy_database_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.1)
    path = tmp_path / "a.db"
    one = open_db(path, create=True)
    other = open_db(path)
    with writing(one), pytest.raises(StoreBusy), writing(other):
        pass
    one.close()
    other.close()


def test_full_disk_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    script = """
import resource, signal, sys
from pathlib import Path
from annotator.store import open_db, writing
from annotator.errors import StoreError
db = open_db(Path(sys.argv[1]), create=True)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
done = 0
try:
    for i in range(1000):
        with writing(db):
            db.execute("INSERT INTO meta VALUES (?, ?)", [f"k{i}", "x" * 5000])
        done += 1
except StoreError as error:
    print(done, str(error).splitlines()[0])
"""
    ran = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    done, message = ran.stdout.split(" ", 1)
    assert "disk" in message
    assert int(done) > 0
    db = open_db(path)
    rows = db.execute("SELECT count(*) FROM meta WHERE key LIKE 'k%'").fetchone()[0]
    assert rows >= int(done)
    db.close()


def test_lock_is_exclusive_and_ends_with_its_process(tmp_path: Path) -> None:
    lock = tmp_path / "a.lock"
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time\nfrom pathlib import Path\nfrom annotator.store import hold_lock\n"
            "with hold_lock(Path(sys.argv[1]), 'x'):\n    print('held', flush=True)\n"
            "    time.sleep(60)",
            str(lock),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(StoreBusy, match="a push"), hold_lock(lock, "a push", wait_seconds=0.2):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with hold_lock(lock, "a push", wait_seconds=5):
        pass
