"""Owner of consensus_builds, consensus and annotator_skills: what is believed of pairs and people.

All of it is derived: a build says from which votes it was computed and by what, the newest one
counts, and older ones go when it comes.
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

    from annotator.labels.people import People


@dataclass(frozen=True)
class Build:
    """The head of a build: the votes that it knows, and what it was computed by and with."""

    id: int
    last_vote_id: int
    n_votes: int
    n_pairs: int
    encoder_id: int | None
    settings: dict[str, Any]
    built_at: str


@dataclass(frozen=True, eq=False)
class PairBeliefs:
    """What is believed of n pairs, (n,) each; see annotator.labels.crowd.Crowd.

    `a_ids`, `b_ids` responses; `preferred` P(most who take a side prefer a); `tie` P(one more
    careful vote is a tie); `gain` of one more vote; `verdict` a, b, tie or disputed.
    """

    a_ids: NDArray[np.int64]
    b_ids: NDArray[np.int64]
    n_votes: NDArray[np.int64]
    preferred: NDArray[np.float64]
    tie: NDArray[np.float64]
    gain: NDArray[np.float64]
    verdict: NDArray[np.str_]


@dataclass(frozen=True)
class Skill:
    """What is believed of one annotator, with 95 % intervals; see annotator.labels.people."""

    annotator_id: int
    n_votes: int
    skill: float
    skill_low: float
    skill_high: float
    left_bias: float
    left_low: float
    left_high: float


def newest_vote(db: Database) -> int:
    """The id of the newest row of votes, 0 without any: a build that knows it is up to date."""
    return int(db.execute("SELECT coalesce(max(id), 0) FROM votes").fetchone()[0])


def newest_build(db: Database) -> Build | None:
    """The head of the newest build, None before the first."""
    row = db.execute(
        """SELECT id, last_vote_id, n_votes, n_pairs, encoder_id, settings, built_at
        FROM consensus_builds ORDER BY id DESC LIMIT 1"""
    ).fetchone()
    if row is None:
        return None
    build_id, last_vote_id, n_votes, n_pairs, encoder_id, settings, built_at = row
    return Build(
        build_id, last_vote_id, n_votes, n_pairs, encoder_id, json.loads(settings), built_at
    )


def store_build(
    db: Database,
    beliefs: PairBeliefs,
    people: People,
    annotator_ids: NDArray[np.int64],
    *,
    last_vote_id: int,
    encoder_id: int | None,
    settings: dict[str, Any],
) -> None:
    """Keeps a build in place of all before it, in the caller's transaction.

    `people` in the order of `annotator_ids`.
    """
    build_id = db.execute(
        """INSERT INTO consensus_builds
        (last_vote_id, n_votes, n_pairs, encoder_id, settings, built_at)
        VALUES (?, ?, ?, ?, ?, ?)""",
        [
            last_vote_id,
            int(people.n_votes.sum()),
            len(beliefs.a_ids),
            encoder_id,
            json.dumps(settings, sort_keys=True),
            now(),
        ],
    ).lastrowid
    # The others go last: ids are never used twice, so that an id tells a build from the next.
    db.execute("DELETE FROM consensus_builds WHERE id <> ?", [build_id])
    _insert(db, "consensus", build_id, [*vars(beliefs).values()], tuple(vars(beliefs)))
    columns = {
        "annotator_id": annotator_ids,
        "n_votes": people.n_votes,
        "skill": people.skill,
        "skill_low": people.skill_low,
        "skill_high": people.skill_high,
        "left_bias": people.left,
        "left_low": people.left_low,
        "left_high": people.left_high,
    }
    _insert(db, "annotator_skills", build_id, [*columns.values()], tuple(columns))


_STORED = {"a_ids": "a_id", "b_ids": "b_id"}


def _insert(
    db: Database,
    table: str,
    build_id: int | None,
    columns: list[NDArray[Any]],
    names: tuple[str, ...],
) -> None:
    stored = ", ".join(_STORED.get(name, name) for name in names)
    marks = ", ".join("?" for _ in names)
    db.conn.executemany(
        f"INSERT INTO {table} (build_id, {stored}) VALUES ({build_id}, {marks})",  # noqa: S608
        zip(*(column.tolist() for column in columns), strict=True),
    )


def pair_beliefs(db: Database) -> PairBeliefs:
    """What the newest build says of each pair; empty before the first."""
    import numpy as np

    rows = db.execute(
        """SELECT a_id, b_id, n_votes, preferred, tie, gain, verdict FROM consensus
        WHERE build_id = (SELECT max(id) FROM consensus_builds)"""
    ).fetchall()
    columns = list(zip(*rows, strict=True)) or [()] * 7
    a_ids, b_ids, n_votes = (np.array(column, dtype=np.int64) for column in columns[:3])
    preferred, tie, gain = (np.array(column, dtype=np.float64) for column in columns[3:6])
    verdict = np.array(columns[6], dtype=np.str_)
    return PairBeliefs(a_ids, b_ids, n_votes, preferred, tie, gain, verdict)


def skills(db: Database) -> dict[int, Skill]:
    """Annotator id -> what the newest build says of them."""
    rows = db.execute(
        """SELECT annotator_id, n_votes, skill, skill_low, skill_high, left_bias, left_low,
        left_high FROM annotator_skills
        WHERE build_id = (SELECT max(id) FROM consensus_builds)"""
    )
    return {row[0]: Skill(*row) for row in rows}
