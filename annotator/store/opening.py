"""Opening the database: ours, whole, migrated, or refused with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from annotator.errors import NotOurDatabase, StoreError
from annotator.store.database import (
    APPLICATION_ID,
    BUSY_SECONDS,
    check_integrity,
    connect,
    is_blank,
    pragma,
    prepare,
    store_errors,
)
from annotator.store.migrations import migrate

if TYPE_CHECKING:
    from sqlite_utils import Database

# quick_check reads the whole file: at every start it is free below this size, above it
# `annotator doctor` does it on request.
QUICK_CHECK_BYTES = 32 * 1024 * 1024


def open_db(path: Path, *, create: bool = False) -> Database:
    """A database that is migrated and ready: WAL, foreign keys on, full synchronisation.

    With `create` an absent file is made, without it an absent file is an error. Raises
    NotOurDatabase, NewerSchema, DamagedDatabase, StoreBusy or StoreError.
    """
    if not create and not path.exists():
        raise StoreError(
            f"there is no database at {path}",
            expected="a project made by `annotator init`",
            todo="run `annotator init`, or go to the project's folder, or pass --project DIR",
        )
    with store_errors(path):
        db = connect(path, readonly=False)
        try:
            _check_ours(db, path)  # before anything is changed: the file may be another program's
            prepare(db, path)
            migrate(db, path)
            _check_health(db, path)
        except BaseException:
            db.close()
            raise
    return db


def open_readonly(path: Path, *, busy_seconds: float = BUSY_SECONDS) -> Database:
    """The database for reading only; never migrated, never written, safe beside any writer.

    Waits up to `busy_seconds` for whoever keeps readers out as well, which few do.
    """
    with store_errors(path):
        db = connect(path, readonly=True, busy_seconds=busy_seconds)
        try:
            _check_ours(db, path)
        except BaseException:
            db.close()
            raise
    return db


def _check_ours(db: Database, path: Path) -> None:
    if pragma(db, "application_id") == APPLICATION_ID or is_blank(db):
        return
    raise NotOurDatabase(
        f"{path} is an SQLite file of another program",
        expected="a database made by annotator, or a path where none is",
        todo="choose another path in annotator.toml under [project] database",
    )


def _check_health(db: Database, path: Path) -> None:
    if path.stat().st_size > QUICK_CHECK_BYTES:
        return
    check_integrity(db, path, thorough=False)
