"""Connections to the database, writing through them, and SQLite's errors as ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from annotator.errors import DamagedDatabase, NewerSchema, StoreBusy, StoreError

if TYPE_CHECKING:
    from sqlite_utils import Database

APPLICATION_ID = 0x616E6E6F  # "anno", so that another program's file is recognised as foreign
BUSY_SECONDS = 30.0
PAGE_BYTES = 16384  # texts of 1-3 kB waste a quarter of a 4 kB page


def now() -> str:
    """The current time as ISO 8601 in UTC with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def connect(path: Path, *, readonly: bool, busy_seconds: float = BUSY_SECONDS) -> Database:
    from sqlite_utils import Database

    uri = f"{path.resolve().as_uri()}?mode={'ro' if readonly else 'rwc'}"
    # isolation_level None: the module must open no deferred transaction of its own, since a
    # deferred one that turns to writing fails at once when somebody else wrote meanwhile.
    connection = sqlite3.connect(uri, uri=True, timeout=busy_seconds, isolation_level=None)
    db = Database(connection)
    db.execute(f"PRAGMA busy_timeout={int(busy_seconds * 1000)}")
    db.execute("PRAGMA foreign_keys=ON")
    return db


def prepare(db: Database, path: Path) -> None:
    """Write-ahead log and full synchronisation; raises StoreError where the disk has no WAL."""
    if is_blank(db):
        db.execute(f"PRAGMA page_size={PAGE_BYTES}")
    mode = db.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode != "wal":
        raise StoreError(
            f"{path} cannot have a write-ahead log here (SQLite keeps to {mode!r})",
            expected="a local file system, not a network one",
            todo="move the project to a local disk",
        )
    db.execute("PRAGMA synchronous=FULL")


def pragma(db: Database, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])


def is_blank(db: Database) -> bool:
    return pragma(db, "schema_version") == 0


def check_integrity(db: Database, path: Path, *, thorough: bool) -> None:
    """Raises DamagedDatabase unless SQLite finds the file whole.

    `thorough` compares indexes with tables as well and looks for dangling references.
    """
    problems = [row[0] for row in db.execute("PRAGMA quick_check(5)") if row[0] != "ok"]
    if thorough and not problems:
        problems = [row[0] for row in db.execute("PRAGMA integrity_check(5)") if row[0] != "ok"]
        problems += [f"dangling reference: {row[0]}" for row in db.execute(_FOREIGN_KEYS)]
    if problems:
        raise _damaged(path, "; ".join(problems))


_FOREIGN_KEYS = "PRAGMA foreign_key_check"


def _damaged(path: Path | None, detail: str) -> DamagedDatabase:
    place = str(path) if path else "the database"
    return DamagedDatabase(
        f"{place} is damaged: {detail}",
        expected="a file that passes SQLite's own check",
        todo="restore the newest backup beside it (*.backup-*), or `sqlite3 FILE .recover`",
    )


@contextmanager
def writing(db: Database) -> Iterator[Database]:
    """One transaction that holds the write lock from its start: all of it is kept, or nothing.

    Never wait for a network inside it. Raises StoreBusy when another writer does not finish
    in time, StoreError when the disk is full or fails.
    """
    with store_errors(None):
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
            db.execute("COMMIT")
        except BaseException:
            if db.conn.in_transaction:
                db.execute("ROLLBACK")
            raise


@contextmanager
def store_errors(path: Path | None) -> Iterator[None]:
    """SQLite's errors leave this block as ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise as_store_error(error, path) from error


def as_store_error(error: sqlite3.Error, path: Path | None = None) -> StoreError:
    """Our name for an error of SQLite, with what to do about it."""
    text = str(error)
    if "locked" in text or "busy" in text:
        return StoreBusy(
            f"the database was in use by another process for over {BUSY_SECONDS:.0f} s",
            expected="writers that finish within seconds",
            todo="see which annotator process is still running, then try again",
        )
    if "malformed" in text or "not a database" in text:
        return _damaged(path, text)
    if "full" in text or "disk I/O" in text:
        return StoreError(
            f"the disk refused a write: {text}",
            expected="free space and a healthy disk; what was reported as done is safe",
            todo="make room, then run the same command again: it goes on where it stopped",
        )
    if "readonly" in text or "unable to open" in text:
        return StoreError(
            f"cannot open {path or 'the database'} for writing: {text}",
            expected="a folder and file that this user may write to",
            todo="check owner and permissions",
        )
    return StoreError(f"SQLite: {text}")


def newer_schema(path: Path, unknown: list[str]) -> NewerSchema:
    """The refusal of a database that a later release has migrated."""
    from annotator import __version__

    return NewerSchema(
        f"{path} was written by a later release: it has {', '.join(unknown)}",
        expected=f"a database of annotator {__version__} or earlier",
        todo="upgrade annotator, or use the backup made before that upgrade (*.backup-*)",
    )
