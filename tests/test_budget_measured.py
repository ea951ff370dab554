"""The saving of a project in a database: what is charged, what is refused, what is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlite_utils import Database

from annotator.budget import measured
from annotator.budget.measured import in_order, project_saving
from annotator.labels.votes import ARMS, counted_votes
from annotator.store import open_db
from tests.played_project import play


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four rounds of sixty pairs, nine of each by chance, some pairs asked again."""
    return play(tmp_path_factory.mktemp("saving"), rounds=4, batch=60, leave_open=0)


@pytest.fixture
def db(played: Path) -> Iterator[Database]:
    opened = open_db(played / "annotator.db")
    opened.execute("DELETE FROM snapshots")
    yield opened
    opened.close()


def test_every_vote_is_charged(db: Database) -> None:
    votes = counted_votes(db)
    ordered, number, n_cast = in_order(db, votes)
    assert (
        n_cast
        == db.execute(
            "SELECT count(*) FROM current_votes WHERE status = 'vote' AND NOT prefilled"
        ).fetchone()[0]
    )
    assert n_cast > len(votes)  # what was asked twice counts twice
    assert np.all(np.diff(number) > 0) and number[-1] <= n_cast
    rounds = dict(db.execute("SELECT id, round_id FROM picks").fetchall())
    assert np.all(np.diff([rounds[pick] for pick in ordered.pick_ids.tolist()]) >= 0)


def test_an_edited_vote_keeps_its_place(db: Database) -> None:
    before, number, _ = in_order(db, counted_votes(db))
    pick, who = int(before.pick_ids[3]), int(before.annotator_ids[3])
    columns = [row[1] for row in db.execute("PRAGMA table_info(votes)") if row[1] != "id"]
    names = ", ".join(columns)
    db.execute("BEGIN IMMEDIATE")
    try:
        db.execute(
            f"""INSERT INTO votes ({names}) SELECT {names.replace("updated_at", "'2099-01-01'")}
            FROM votes WHERE pick_id = ? AND annotator_id = ?""",
            [pick, who],
        )
        after, its_number, _ = in_order(db, counted_votes(db))
    finally:
        db.execute("ROLLBACK")
    np.testing.assert_array_equal(after.pick_ids, before.pick_ids)
    np.testing.assert_array_equal(its_number, number)


def test_a_saving_is_measured_and_kept(
    db: Database, played: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = project_saving(db, played / "annotator.db")
    n_control = int(counted_votes(db).control.sum())
    assert document["control_votes"] == document["votes_uniform"] == n_control >= 30
    assert document["looks"]["next"] == 60
    ours = document["curve"]["ours"]
    assert ours[0] == {"votes": 0, "quality": 0.0, "low": 0.0, "high": 0.0}
    assert all(point["low"] <= point["quality"] <= point["high"] for point in ours)
    monkeypatch.setattr(measured, "_measure", None)  # nothing is measured a second time
    assert project_saving(db, played / "annotator.db") == document


def test_too_few_control_votes_say_how_many_more(
    db: Database, played: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    votes = counted_votes(db)
    few = votes.take(np.cumsum(votes.control) <= 12)
    monkeypatch.setattr(measured, "counted_votes", lambda _: few)
    document = project_saving(db, played / "annotator.db")
    assert (document["answer"], document["control_votes"]) == ("too-few", 12)
    assert document["more_votes"] == round(18 * len(few) / 12)
    assert "12 of at least 30" in document["sentence"]
    assert document["share"] is document["curve"] is None


def test_without_a_control_arm_nothing_is_measured(
    db: Database, played: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    votes = counted_votes(db)
    chosen = votes.take(votes.arm == ARMS.index("acquired"))
    monkeypatch.setattr(measured, "counted_votes", lambda _: chosen)
    document = project_saving(db, played / "annotator.db")
    assert document["answer"] == "no-control"
    assert "--control" in document["sentence"]


def test_without_vectors_it_says_so(
    db: Database, played: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "_encoder", lambda _: None)
    assert "annotator embed" in project_saving(db, played / "annotator.db")["sentence"]


def test_looks_are_kept_and_stand(db: Database, played: Path) -> None:
    from annotator.budget import snapshots

    assert measured._looked(db) == {}
    measured._keep_looks(db, {60: True, 120: False})
    assert measured._looked(db) == {60: True, 120: False}
    assert snapshots.newest(db, measured.LOOKS) is not None


def test_what_is_kept_is_made_anew_when_scores_are_told(db: Database) -> None:
    before = measured._made_of(db)
    db.execute("BEGIN IMMEDIATE")
    try:
        db.execute("DELETE FROM embeddings WHERE row = (SELECT max(row) FROM embeddings)")
        assert measured._made_of(db) != before
    finally:
        db.execute("ROLLBACK")
