"""Votes: what is kept, what counts, and the majority of a pair."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sqlite_utils import Database

from annotator.errors import StoreError
from annotator.labels.consensus import majority
from annotator.labels.votes import (
    Vote,
    VoteCounts,
    annotator_ids,
    known_annotations,
    record_annotators,
    record_votes,
    rejected_answers,
    vote_counts,
)
from annotator.store import writing
from tests.small_world import add_prompts, add_round

SERVER = "http://studio"
STATES = ("vote", "skip", "deleted", "rejected")


@pytest.fixture
def project(db: Database) -> int:
    """Two picks that are tasks 101 and 102 of a project, and two annotators."""
    (one, two) = add_prompts(db, [2, 2])
    add_round(db, [(one[0], one[1]), (two[0], two[1])])
    with writing(db):
        db.execute(
            """INSERT INTO projects (id, server, mark, studio_id, title, screen, overlap,
            created_at) VALUES (1, ?, 'm', 5, 't', 's', 1, '')""",
            [SERVER],
        )
        record_annotators(db, SERVER, {11: "anna", 12: "ben"})
    return 1


def _vote(number: int, annotator: int, grade: str, at: str = "2026-01-01T10:00:00Z") -> Vote:
    return Vote(
        annotation_id=number,
        studio_task_id=101,
        status="vote",
        updated_at=at,
        raw={"id": number},
        pick_id=1,
        annotator_id=annotator,
        grade=grade,
    )


def _record(db: Database, *votes: Vote) -> VoteCounts:
    known = known_annotations(db, 1, [101, 102])
    with writing(db):
        return record_votes(db, 1, list(votes), known)


def _current(db: Database) -> list[tuple[int, str, str | None]]:
    return db.execute(
        "SELECT annotator_id, status, grade FROM current_votes ORDER BY annotator_id"
    ).fetchall()


def test_the_same_state_twice_is_one_row(db: Database, project: int) -> None:
    assert _record(db, _vote(1, 1, "a_better")).votes == 1
    assert _record(db, _vote(1, 1, "a_better")).total == 0
    assert db.execute("SELECT count(*) FROM votes").fetchone()[0] == 1


def test_an_edit_is_a_new_row_and_the_new_one_counts(db: Database, project: int) -> None:
    _record(db, _vote(1, 1, "a_better"))
    counts = _record(db, _vote(1, 1, "tie", at="2026-01-01T10:05:00Z"))
    assert (counts.votes, counts.edits) == (0, 1)
    assert _current(db) == [(1, "vote", "tie")]
    assert db.execute("SELECT count(*) FROM votes").fetchone()[0] == 2


def test_a_deleted_annotation_no_longer_counts_but_stays(db: Database, project: int) -> None:
    vote = _vote(1, 1, "a_better")
    _record(db, vote)
    assert _record(db, replace(vote, status="deleted", grade=None, raw={})).deletions == 1
    assert _current(db) == []
    assert db.execute("SELECT grade FROM votes WHERE status = 'vote'").fetchall() == [("a_better",)]


def test_of_two_annotations_by_one_person_the_newest_counts(db: Database, project: int) -> None:
    _record(db, _vote(2, 1, "b_better", at="2026-01-01T12:00:00Z"))
    _record(db, _vote(1, 1, "a_better", at="2026-01-01T10:00:00Z"))
    assert _current(db) == [(1, "vote", "b_better")]


def test_when_the_newest_is_deleted_the_other_counts_again(db: Database, project: int) -> None:
    _record(db, _vote(1, 1, "a_better"), _vote(2, 1, "b_better", at="2026-01-01T12:00:00Z"))
    gone = replace(_vote(2, 1, "b_better", at="2026-01-01T12:00:00Z"), status="deleted", grade=None)
    _record(db, gone)
    assert _current(db) == [(1, "vote", "a_better")]


def test_two_people_on_one_pair_both_count(db: Database, project: int) -> None:
    _record(db, _vote(1, 1, "a_better"), _vote(2, 2, "b_much_better"))
    assert _current(db) == [(1, "vote", "a_better"), (2, "vote", "b_much_better")]
    assert vote_counts(db)["pairs_voted"] == 1


def test_a_vote_edited_into_nonsense_stops_counting_and_is_listed(
    db: Database, project: int
) -> None:
    vote = _vote(1, 1, "a_better")
    _record(db, vote)
    broken = replace(
        vote, status="rejected", grade=None, reason="two answers", updated_at="2026-01-02T00:00:00Z"
    )
    assert _record(db, broken).rejected == 1
    assert _current(db) == []
    assert [answer["reason"] for answer in rejected_answers(db)] == ["two answers"]
    _record(db, replace(vote, updated_at="2026-01-03T00:00:00Z"))
    assert _current(db) == [(1, "vote", "a_better")]
    assert rejected_answers(db) == []


def test_a_vote_without_a_pick_is_impossible(db: Database, project: int) -> None:
    with pytest.raises(StoreError, match="CHECK"):
        _record(db, replace(_vote(1, 1, "a_better"), pick_id=None))


def test_an_unknown_grade_is_impossible(db: Database, project: int) -> None:
    with pytest.raises(StoreError, match="CHECK"):
        _record(db, _vote(1, 1, "left_better"))


def test_annotators_are_known_by_server_and_id(db: Database, project: int) -> None:
    assert annotator_ids(db, SERVER) == {11: 1, 12: 2}
    assert annotator_ids(db, "http://other") == {}


@pytest.mark.parametrize(
    ("grades", "verdict", "agreement"),
    [
        (["a_better"], "a", 1.0),
        (["a_better", "a_much_better", "b_much_better"], "a", 2 / 3),
        (["a_better", "b_better"], "disputed", 0.5),
        (["tie", "tie", "b_better"], "tie", 2 / 3),
        (["both_bad"], "both_bad", 1.0),
        (["a_better", "b_better", "tie"], "disputed", 1 / 3),
        (["b_better", "b_much_better", "tie", "a_better"], "b", 0.5),
    ],
)
def test_majority(grades: list[str], verdict: str, agreement: float) -> None:
    consensus = majority(grades)
    assert (consensus.verdict, consensus.n_votes) == (verdict, len(grades))
    assert consensus.agreement == pytest.approx(agreement)


def test_majority_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="without votes"):
        majority([])


def test_what_counts_by_going_through_the_rows_one_by_one(db: Database, project: int) -> None:
    """The view against a loop, on random histories of edits, deletions and second annotations."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(1, 401):
        annotation, status = (
            int(rng.integers(1, 60)),
            str(rng.choice(STATES, p=[0.6, 0.2, 0.1, 0.1])),
        )
        pick, who = 1 + annotation % 2, 1 + annotation % 3 % 2
        at = f"2026-01-01T10:00:{rng.integers(0, 9):02d}Z"
        rows.append((number, annotation, pick, who, status, at))
    with writing(db):
        db.conn.executemany(
            """INSERT INTO votes (id, project_id, annotation_id, studio_task_id, pick_id,
            annotator_id, status, grade, updated_at, seen_at, raw)
            VALUES (?1, 1, ?2, 101, ?3, ?4, ?5, CASE ?5 WHEN 'vote' THEN 'tie' END, ?6, '',
            '{}')""",
            rows,
        )
    newest = {row[1]: row for row in rows}  # later rows replace earlier ones
    counts: dict[tuple[int, int], tuple[str, int]] = {}
    for number, _, pick, who, status, at in newest.values():
        if status in ("vote", "skip"):
            counts[pick, who] = max(counts.get((pick, who), ("", 0)), (at, number))
    found = db.execute("SELECT pick_id, annotator_id, updated_at, id FROM current_votes").fetchall()
    assert {(pick, who): (at, number) for pick, who, at, number in found} == counts
    assert len(found) == len(counts) == 4
