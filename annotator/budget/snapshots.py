"""Owner of the table snapshots: documents that take long to make, kept until their sources change.

A document is kept under its kind, one of each. `made_of` says what it was made of: the newest row
of votes, settings, the version of what computed it. Whoever asks says what it should be made of,
and gets it only if that is the same.

A database that is open for reading only keeps nothing; what was made from it is remembered by the
process instead, so that a dashboard does not make the same document again and again.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from annotator.errors import StoreError
from annotator.store import now, writing

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlite_utils import Database

Document = dict[str, Any]

# (database id, kind) -> made_of and document, as JSON, and when that was.
_remembered: dict[tuple[str, str], tuple[str, str, str]] = {}

_KEEP = """INSERT INTO snapshots (kind, made_of, document, built_at) VALUES (?, ?, ?, ?)
    ON CONFLICT (kind) DO UPDATE SET made_of = excluded.made_of, document = excluded.document,
      built_at = excluded.built_at"""


def get(db: Database, kind: str, made_of: Document) -> Document | None:
    """The document of that kind, if it was made of exactly this; None otherwise."""
    wanted = _text(made_of)
    for text, document, _ in _known(db, kind):
        if text == wanted:
            found: Document = json.loads(document)
            return found
    return None


def newest(db: Database, kind: str) -> tuple[Document, Document] | None:
    """What the document of that kind was made of, and the document, up to date or not."""
    known = max(_known(db, kind), key=lambda one: one[2], default=None)
    return None if known is None else (json.loads(known[0]), json.loads(known[1]))


def put(db: Database, kind: str, made_of: Document, document: Document) -> None:
    """Keeps the document in place of the last of its kind, in a transaction of its own.

    Where the database is open for reading only the process remembers it. Raises StoreError, and
    ValueError if a number in it is not finite.
    """
    row = (_text(made_of), json.dumps(document, ensure_ascii=False, allow_nan=False), now())
    try:
        with writing(db):
            db.execute(_KEEP, [kind, *row])
    except StoreError as error:
        if "readonly" not in str(error.__cause__):
            raise
        _remembered[_database_id(db), kind] = row


def kept(db: Database, kind: str, made_of: Document, make: Callable[[], Document]) -> Document:
    """The document made of this: as it is kept, or else made now and kept."""
    known = get(db, kind, made_of)
    if known is not None:
        return known
    document = make()
    put(db, kind, made_of, document)
    return document


def _known(db: Database, kind: str) -> list[tuple[str, str, str]]:
    """What is kept and what is remembered of that kind."""
    query = "SELECT made_of, document, built_at FROM snapshots WHERE kind = ?"
    rows: list[tuple[str, str, str]] = db.execute(query, [kind]).fetchall()
    remembered = _remembered.get((_database_id(db), kind)) if _remembered else None
    return rows if remembered is None else [*rows, remembered]


def _database_id(db: Database) -> str:
    row = db.execute("SELECT value FROM meta WHERE key = 'database_id'").fetchone()
    return str(row[0])


def _text(made_of: Document) -> str:
    return json.dumps(made_of, sort_keys=True, ensure_ascii=False, allow_nan=False)
