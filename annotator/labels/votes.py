"""Owner of the tables votes and annotators: every answer as it came, nothing ever overwritten.

An edited annotation is a new row, a deleted one a row that says so; the view `current_votes`
gives what counts now.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from annotator.store import now

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sqlite_utils import Database


@dataclass(frozen=True)
class Vote:
    """One state of one annotation. `status` is vote, skip, deleted or rejected.

    `grade` is in the pair's frame (a and b), whatever side each response was shown on.
    """

    annotation_id: int
    studio_task_id: int
    status: str
    updated_at: str
    raw: dict[str, Any]
    pick_id: int | None = None
    annotator_id: int | None = None
    grade: str | None = None
    confidence: str | None = None
    rationale: str | None = None
    seconds: float | None = None
    prefilled: bool = False
    reason: str | None = None


@dataclass
class VoteCounts:
    """How many rows of each kind were new."""

    votes: int = 0
    edits: int = 0
    skips: int = 0
    deletions: int = 0
    rejected: int = 0

    @property
    def total(self) -> int:
        """Everything that was new."""
        return self.votes + self.edits + self.skips + self.deletions + self.rejected


@dataclass(frozen=True)
class Known:
    """The newest state that we have of an annotation."""

    annotation_id: int
    studio_task_id: int
    pick_id: int | None
    annotator_id: int | None
    status: str
    updated_at: str


def known_annotations(
    db: Database, project_id: int, studio_task_ids: list[int]
) -> dict[int, Known]:
    """Annotation id -> newest state, for the annotations of those tasks."""
    rows = db.execute(
        """SELECT annotation_id, studio_task_id, pick_id, annotator_id, status, updated_at
        FROM votes WHERE project_id = ?
        AND studio_task_id IN (SELECT value FROM json_each(?)) ORDER BY id""",
        [project_id, json.dumps(studio_task_ids)],
    )
    return {row[0]: Known(*row) for row in rows}


_VOTE = """INSERT INTO votes (project_id, annotation_id, studio_task_id, pick_id,
    annotator_id, status, grade, confidence, rationale, seconds, prefilled, reason, updated_at,
    seen_at, raw) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""


def record_votes(
    db: Database, project_id: int, votes: list[Vote], known: dict[int, Known]
) -> VoteCounts:
    """Writes what differs from the newest state that is known, in the caller's transaction.

    `known` was read in the same transaction. An annotation may come back to an earlier state,
    as after the restore of a backup: that is a new row too.
    """
    counts = VoteCounts()
    seen_at = now()
    for vote in votes:
        before = known.get(vote.annotation_id)
        if before and (before.updated_at, before.status) == (vote.updated_at, vote.status):
            continue
        db.execute(_VOTE, [project_id, *_row(vote, seen_at)])
        _count(counts, vote.status, edited=before is not None)
    return counts


def _row(vote: Vote, seen_at: str) -> list[object]:
    return [
        vote.annotation_id,
        vote.studio_task_id,
        vote.pick_id,
        vote.annotator_id,
        vote.status,
        vote.grade,
        vote.confidence,
        vote.rationale,
        vote.seconds,
        int(vote.prefilled),
        vote.reason,
        vote.updated_at,
        seen_at,
        json.dumps(vote.raw, ensure_ascii=True),
    ]


def _count(counts: VoteCounts, status: str, *, edited: bool) -> None:
    if status == "deleted":
        counts.deletions += 1
    elif status == "rejected":
        counts.rejected += 1
    elif edited:
        counts.edits += 1
    elif status == "skip":
        counts.skips += 1
    else:
        counts.votes += 1


def annotator_ids(db: Database, server: str) -> dict[int, int]:
    """The server's user id -> our annotator id, for everyone we have met."""
    query = "SELECT studio_id, id FROM annotators WHERE server = ?"
    return dict(db.execute(query, [server]).fetchall())


def move_annotators(db: Database, old: str, new: str) -> None:
    """Records the address under which these people's server is known now; in the caller's
    transaction. Whoever is known under the new one already is left as they are."""
    db.execute("UPDATE OR IGNORE annotators SET server = ? WHERE server = ?", [new, old])


def alive_annotations(db: Database, project_id: int) -> int:
    """How many annotations of the project we have that are not known to be deleted."""
    query = """SELECT count(*) FROM votes v WHERE project_id = ? AND status <> 'deleted'
        AND id = (SELECT max(id) FROM votes WHERE project_id = v.project_id
                  AND annotation_id = v.annotation_id)"""
    return int(db.execute(query, [project_id]).fetchone()[0])


def record_annotators(db: Database, server: str, names: dict[int, str]) -> None:
    """Adds people by the server's user id; in the caller's transaction."""
    db.conn.executemany(
        """INSERT INTO annotators (server, studio_id, name) VALUES (?, ?, ?)
        ON CONFLICT (server, studio_id) DO NOTHING""",
        [(server, studio_id, name) for studio_id, name in names.items()],
    )


def vote_counts(db: Database) -> dict[str, int]:
    """What stands now: votes and skips that count, pairs with a vote, rejected answers."""
    queries = {
        "votes": "SELECT count(*) FROM current_votes WHERE status = 'vote'",
        "skips": "SELECT count(*) FROM current_votes WHERE status = 'skip'",
        "pairs_voted": """SELECT count(DISTINCT p.pair_key) FROM current_votes v
            JOIN picks p ON p.id = v.pick_id WHERE v.status = 'vote'""",
        "rejected": f"SELECT count(*) FROM ({_REJECTED})",  # noqa: S608
        "annotators": "SELECT count(DISTINCT annotator_id) FROM current_votes",
    }
    return {name: int(db.execute(query).fetchone()[0]) for name, query in queries.items()}


# The newest state of an annotation decides: one that was mended later is no longer listed.
_REJECTED = """SELECT * FROM votes v WHERE status = 'rejected' AND id = (
    SELECT max(id) FROM votes WHERE project_id = v.project_id
    AND annotation_id = v.annotation_id)"""


def rejected_answers(db: Database) -> list[dict[str, Any]]:
    """Answers that do not count, with the reason, for a person to look at."""
    query = f"SELECT studio_task_id, annotation_id, reason, raw FROM ({_REJECTED}) ORDER BY id"  # noqa: S608
    return list(db.query(query))


def median_seconds(db: Database) -> float | None:
    """Median time that an annotator had a task open; None before the first vote."""
    import statistics

    rows = db.execute("SELECT seconds FROM current_votes WHERE seconds IS NOT NULL")
    seconds = [row[0] for row in rows]
    return float(statistics.median(seconds)) if seconds else None


ARMS = ("acquired", "control", "gold", "repeat")


@dataclass(frozen=True, eq=False)
class CountedVotes:
    """The votes that count, one row each, (n_votes,): of several by one person on a pair the first.

    - `pick_ids`, `a_ids`, `b_ids`: the pick that it answers, and the pair's responses.
    - `grade` from 2, a is much better, to -2; a tie and "both bad" are 0.
    - `annotator_ids`; `arm`: positions in ARMS; `left_is_a`: whether a stood on the left.
    - `seconds` that the annotator had the task open, NaN where not known.
    """

    pick_ids: NDArray[np.int64]
    a_ids: NDArray[np.int64]
    b_ids: NDArray[np.int64]
    grade: NDArray[np.int64]
    annotator_ids: NDArray[np.int64]
    arm: NDArray[np.int64]
    left_is_a: NDArray[np.bool_]
    seconds: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.grade)

    @property
    def control(self) -> NDArray[np.bool_]:
        """Which are of the control arm."""
        of_control: NDArray[np.bool_] = self.arm == ARMS.index("control")
        return of_control

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> CountedVotes:
        """The same of these votes."""
        return CountedVotes(**{name: column[rows] for name, column in vars(self).items()})


_GRADE = {
    "a_much_better": 2,
    "a_better": 1,
    "tie": 0,
    "both_bad": 0,
    "b_better": -1,
    "b_much_better": -2,
}


_COUNTED = """SELECT p.id, p.a_id, p.b_id, v.grade, v.annotator_id, p.arm, p.side_order = 'ab',
    v.seconds FROM current_votes v JOIN picks p ON p.id = v.pick_id
    WHERE v.status = 'vote' AND NOT v.prefilled ORDER BY v.id"""


def counted_votes(db: Database) -> CountedVotes:
    """Every vote that counts now, in the order in which votes were first seen.

    Not among them: a machine's answer that was offered and submitted, and what somebody said when
    shown a pair again (`repeated_votes`).
    """
    import numpy as np

    votes = _counted(db)
    return votes.take(_first_of_each(votes) == np.arange(len(votes)))


def repeated_votes(db: Database) -> tuple[CountedVotes, CountedVotes]:
    """What people said of a pair the first time, and what the same person said later.

    Two lists of one length; somebody asked three times is in both twice.
    """
    import numpy as np

    votes = _counted(db)
    first = _first_of_each(votes)
    later = np.flatnonzero(first != np.arange(len(votes)))
    return votes.take(first[later]), votes.take(later)


def _counted(db: Database) -> CountedVotes:
    import numpy as np

    found = db.execute(_COUNTED).fetchall()
    rows = [
        (pick, a, b, _GRADE[grade], who, ARMS.index(arm), left_is_a)
        for pick, a, b, grade, who, arm, left_is_a, _ in found
    ]
    columns = np.array(rows, dtype=np.int64).reshape(-1, 7).T
    seconds = np.array([np.nan if row[7] is None else row[7] for row in found], dtype=np.float64)
    pick_ids, a_ids, b_ids, grade, annotator_ids, arm, left = columns
    return CountedVotes(pick_ids, a_ids, b_ids, grade, annotator_ids, arm, left == 1, seconds)


def _first_of_each(votes: CountedVotes) -> NDArray[np.int64]:
    """For each vote the row of its annotator's first on its pair: on the pick that came first.

    An edited vote is a newer row, so the order of the rows decides nothing.
    """
    import numpy as np

    low, high = np.minimum(votes.a_ids, votes.b_ids), np.maximum(votes.a_ids, votes.b_ids)
    keys = (high, low, votes.annotator_ids)
    order = np.lexsort((votes.pick_ids, *keys))
    new = np.ones(len(votes), dtype=np.bool_)
    new[1:] = np.any([key[order[1:]] != key[order[:-1]] for key in keys], axis=0)
    first = np.empty(len(votes), dtype=np.int64)
    first[order] = order[np.maximum.accumulate(np.where(new, np.arange(len(votes)), 0))]
    return first


def first_seen(db: Database, votes: CountedVotes) -> NDArray[np.int64]:
    """The row in which each vote first came, whatever was edited since, (n_votes,).

    Ascending in the order in which people voted, as far as `sync` saw it.
    """
    import numpy as np

    rows = db.execute(
        """SELECT pick_id, annotator_id, min(id) FROM votes
        WHERE status = 'vote' AND pick_id IN (SELECT value FROM json_each(?))
        GROUP BY pick_id, annotator_id""",
        [json.dumps(np.unique(votes.pick_ids).tolist())],
    )
    seen = {(pick, who): row for pick, who, row in rows}
    keys = zip(votes.pick_ids.tolist(), votes.annotator_ids.tolist(), strict=True)
    return np.array([seen[key] for key in keys], dtype=np.int64)
