"""Suspects are put before one more annotator: a round of further votes and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlite_utils import Database

from annotator.labels.votes import Vote, record_annotators, record_votes
from annotator.rounds.again import send_again
from annotator.store import writing
from annotator.studio.outbox import untold_raises
from tests.small_world import add_prompts, add_round


@pytest.fixture
def picks(db: Database) -> list[int]:
    """Six picks on a server, the fifth of the control arm; all but the sixth have a vote, the
    fourth two."""
    pairs = [(ids[0], ids[1]) for ids in add_prompts(db, [2, 3, 2, 4, 2, 2])]
    found = add_round(db, pairs)
    with writing(db):
        db.execute(
            """INSERT INTO projects (id, server, mark, studio_id, title, screen, overlap,
            created_at) VALUES (1, 'http://s', 'm', 1, 't', 's', 1, '')"""
        )
        db.execute("UPDATE tasks SET project_id = 1, state = 'swept', studio_id = 100 + id")
        record_annotators(db, "http://s", {7: "ada", 8: "bo"})
        record_votes(
            db,
            1,
            [
                Vote(n, 100 + n, "vote", f"2026-01-01T10:00:0{n}Z", {}, pick, 1, grade="a_better")
                for n, pick in enumerate(found[:4], start=1)
            ]
            + [
                Vote(8, 104, "vote", "2026-01-01T10:00:08Z", {}, found[3], 2, grade="tie"),
                Vote(9, 105, "vote", "2026-01-01T10:00:09Z", {}, found[4], 1, grade="tie"),
            ],
            {},
        )
    return found


def asked(db: Database) -> dict[int, int]:
    """Pick -> how many votes its task shall have, where that was raised."""
    query = "SELECT pick_id, overlap FROM tasks WHERE overlap IS NOT NULL"
    return dict(db.execute(query).fetchall())


def test_each_suspect_gets_one_more_vote(db: Database, picks: list[int], tmp_path: Path) -> None:
    path = tmp_path / "annotator.db"
    suspects = [picks[2], picks[0], picks[2]]
    extra = send_again(db, path, suspects, reason="diagnose")
    assert [(vote.pick_id, vote.n_votes, vote.overlap) for vote in extra] == [
        (picks[2], 1, 2),
        (picks[0], 1, 2),
    ]
    assert asked(db) == {picks[0]: 2, picks[2]: 2}
    assert untold_raises(db) == 2
    rows = db.execute("SELECT round_id, pick_id, n_votes, overlap, reason FROM extra_votes")
    assert rows.fetchall() == [(2, picks[2], 1, 2, "diagnose"), (2, picks[0], 1, 2, "diagnose")]
    heads = db.execute("SELECT strategy, n_acquired, n_control FROM rounds").fetchall()
    assert heads[1] == ("diagnose", 0, 0)


def test_a_vote_to_come_is_waited_for(db: Database, picks: list[int], tmp_path: Path) -> None:
    """Asked twice in a row, or not answered at all yet: there is nothing to add."""
    path = tmp_path / "annotator.db"
    assert send_again(db, path, [picks[0], picks[5]], reason="diagnose")[0].pick_id == picks[0]
    before = db.execute("SELECT count(*) FROM rounds").fetchone()
    assert send_again(db, path, [picks[0], picks[5]], reason="diagnose") == []
    assert db.execute("SELECT count(*) FROM rounds").fetchone() == before


def test_what_everybody_has_seen_is_put_before_nobody(
    db: Database, picks: list[int], tmp_path: Path
) -> None:
    """Both who vote have answered the fourth pick: a place there would never be taken."""
    assert send_again(db, tmp_path / "annotator.db", [picks[3]], reason="diagnose") == []
    assert asked(db) == {}


def test_control_picks_are_never_asked_again(
    db: Database, picks: list[int], tmp_path: Path
) -> None:
    assert send_again(db, tmp_path / "annotator.db", [picks[4], 999], reason="diagnose") == []
    assert asked(db) == {}
