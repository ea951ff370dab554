"""Documents that take long to make: kept until what they are made of changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlite_utils import Database

from annotator.budget.snapshots import get, kept, newest, put
from annotator.errors import StoreBusy
from annotator.store import open_db, open_readonly


def test_a_document_is_given_back_only_for_what_it_was_made_of(db: Database) -> None:
    assert get(db, "saving", {"vote": 1}) is None
    put(db, "saving", {"vote": 1, "of": [1, 2]}, {"share": 0.25, "said": "ü"})
    assert get(db, "saving", {"of": [1, 2], "vote": 1}) == {"share": 0.25, "said": "ü"}
    assert get(db, "saving", {"vote": 2, "of": [1, 2]}) is None
    assert get(db, "quality", {"vote": 1, "of": [1, 2]}) is None
    put(db, "saving", {"vote": 2}, {"share": 0.5})
    assert get(db, "saving", {"vote": 1, "of": [1, 2]}) is None
    assert newest(db, "saving") == ({"vote": 2}, {"share": 0.5})
    assert db["snapshots"].count == 1


def test_it_is_made_once(db: Database) -> None:
    made = []

    def make() -> dict[str, object]:
        made.append(1)
        return {"n": len(made)}

    assert [kept(db, "x", {"vote": 7}, make)["n"] for _ in range(3)] == [1, 1, 1]
    assert kept(db, "x", {"vote": 8}, make)["n"] == 2


def test_a_number_that_json_lacks_is_refused_and_nothing_is_lost(db: Database) -> None:
    put(db, "x", {"vote": 1}, {"n": 1})
    with pytest.raises(ValueError, match="Out of range"):
        put(db, "x", {"vote": 2}, {"n": float("nan")})
    assert newest(db, "x") == ({"vote": 1}, {"n": 1})


def test_who_may_only_read_remembers_what_was_made(db: Database, tmp_path: Path) -> None:
    put(db, "x", {"vote": 1}, {"n": 1})
    reader = open_readonly(tmp_path / "annotator.db")
    assert kept(reader, "x", {"vote": 1}, lambda: {"n": 9}) == {"n": 1}
    assert kept(reader, "x", {"vote": 2}, lambda: {"n": 2}) == {"n": 2}
    assert kept(reader, "x", {"vote": 2}, lambda: {"n": 9}) == {"n": 2}
    assert db.execute("SELECT document FROM snapshots").fetchall() == [('{"n": 1}',)]
    put(db, "x", {"vote": 3}, {"n": 3})
    assert newest(reader, "x") == ({"vote": 3}, {"n": 3})
    reader.close()
    # Another database is another matter.
    other = open_db(tmp_path / "other.db", create=True)
    assert newest(other, "x") is None
    other.close()


def test_a_lock_is_no_reason_to_forget(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = open_db(tmp_path / "annotator.db")
    db.execute("PRAGMA busy_timeout=10")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy):
        put(db, "x", {"vote": 1}, {"n": 1})
    other.execute("ROLLBACK")
    assert newest(db, "x") is None
    other.close()
