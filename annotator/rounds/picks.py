"""Owner of rounds, picks and extra_votes: what was chosen, when, why and with what chance."""

from __future__ import annotations

import json
import math
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

from annotator import __version__
from annotator.candidates.gold import GOLD_ONLY_RESPONSES
from annotator.errors import RoundConflict
from annotator.store import now

if TYPE_CHECKING:
    from sqlite_utils import Database


@dataclass(frozen=True)
class Pick:
    """One pair of a batch, as it is recorded. `a_id` and `b_id` are response ids."""

    place: int
    pair_key: str
    a_id: int
    b_id: int
    arm: str
    draw: int
    side_order: str
    strategy: str
    score: float | None
    propensity: float | None


@dataclass(frozen=True)
class Round:
    """The head of a round: everything needed to choose the same batch again."""

    strategy: str
    seed: int
    n_acquired: int
    n_control: int
    overlap: int
    encoder_id: int | None
    pool: dict[str, object]
    n_gold: int = 0
    n_repeat: int = 0
    overlap_most: int | None = None
    overlap_policy: str | None = None


@dataclass(frozen=True)
class ExtraVote:
    """`n_more` votes asked on an earlier round's pick, which has `n_votes` that count.

    `overlap` is how many people its task then asks for. `gain` of one more vote, as it was
    expected; None where nobody asked. `reason`: which policy or command wants it.
    """

    pick_id: int
    a_id: int
    b_id: int
    n_votes: int
    n_more: int
    overlap: int
    gain: float | None
    reason: str


_ROUND = """INSERT INTO rounds
    (started_at, strategy, seed, n_acquired, n_control, overlap, encoder_id, pool, version,
    n_gold, n_repeat, overlap_most, overlap_policy)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""

_PICK = """INSERT INTO picks (round_id, place, pair_key, a_id, b_id, arm, draw, side_order,
    strategy, score, propensity) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""


def record_round(db: Database, head: Round, picks: list[Pick]) -> tuple[int, list[int]]:
    """The ids of the round and of its picks, written in the caller's transaction.

    Raises RoundConflict when one of the pairs is already in another round.
    """
    round_id = db.execute(
        _ROUND,
        [
            now(),
            head.strategy,
            head.seed,
            head.n_acquired,
            head.n_control,
            head.overlap,
            head.encoder_id,
            json.dumps(head.pool),
            __version__,
            head.n_gold,
            head.n_repeat,
            head.overlap_most,
            head.overlap_policy,
        ],
    ).lastrowid
    assert round_id is not None
    return round_id, [_record_pick(db, round_id, pick) for pick in picks]


def _record_pick(db: Database, round_id: int, pick: Pick) -> int:
    try:
        cursor = db.execute(
            _PICK,
            [
                round_id,
                pick.place,
                pick.pair_key,
                pick.a_id,
                pick.b_id,
                pick.arm,
                pick.draw,
                pick.side_order,
                pick.strategy,
                pick.score,
                pick.propensity,
            ],
        )
    except sqlite3.IntegrityError as error:
        raise RoundConflict(
            f"pair {pick.pair_key} was taken by another round meanwhile",
            expected="a pair that is in no round",
            todo="run the command again",
        ) from error
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def record_extra_votes(db: Database, round_id: int, extra: list[ExtraVote]) -> None:
    """Writes what the round asks of earlier picks, in the caller's transaction.

    Raises RoundConflict when another round has asked for one of these votes meanwhile.
    """
    try:
        db.conn.executemany(
            """INSERT INTO extra_votes (round_id, pick_id, n_votes, overlap, gain, reason)
            VALUES (?, ?, ?, ?, ?, ?)""",
            [(round_id, e.pick_id, e.n_votes, e.overlap, e.gain, e.reason) for e in extra],
        )
    except sqlite3.IntegrityError as error:
        raise RoundConflict(
            "another round has asked for the same further votes meanwhile",
            expected="votes that nobody has asked for",
            todo="run the command again",
        ) from error


def times_sent(db: Database, pair_key: str) -> int:
    """How often the pair has been picked so far, in any arm."""
    query = "SELECT count(*) FROM picks WHERE pair_key = ?"
    return int(db.execute(query, [pair_key]).fetchone()[0])


def number_or_none(value: float) -> float | None:
    """NaN, which SQLite and JSON do not have, as None."""
    return None if math.isnan(value) else float(value)


def round_counts(db: Database) -> list[dict[str, object]]:
    """Per round: when, strategy, seed and size of each arm."""
    query = """SELECT id, started_at, strategy, seed, n_acquired, n_control, n_gold, n_repeat,
        overlap FROM rounds ORDER BY id"""
    return list(db.query(query))


def arm_counts(db: Database) -> dict[str, int]:
    """How many picks each arm has."""
    return dict(db.execute("SELECT arm, count(*) FROM picks GROUP BY arm").fetchall())


def control_votes(db: Database) -> int:
    """Votes that count on picks of the control arm."""
    query = """SELECT count(*) FROM current_votes v JOIN picks p ON p.id = v.pick_id
        WHERE p.arm = 'control' AND v.status = 'vote'"""
    return int(db.execute(query).fetchone()[0])


def votes_per_pair(db: Database) -> dict[int, int]:
    """Number of votes -> how many pairs have so many, each by another person."""
    query = """SELECT n, count(*) FROM (
          SELECT count(DISTINCT v.annotator_id) AS n FROM current_votes v
          JOIN picks p ON p.id = v.pick_id WHERE v.status = 'vote' AND NOT v.prefilled
          GROUP BY p.a_id, p.b_id)
        GROUP BY n ORDER BY n"""
    return dict(db.execute(query).fetchall())


def arm_progress(db: Database) -> dict[str, dict[str, int]]:
    """Per arm: picks, `answered` by at least one vote, `open` without one, `gone` without one.

    Gone are those whose task was deleted on the server.
    """
    query = """SELECT p.arm, count(*) AS picks, sum(v.voted IS NOT NULL) AS answered,
          sum(v.voted IS NULL AND coalesce(t.state, '') <> 'gone') AS open,
          sum(v.voted IS NULL AND coalesce(t.state, '') = 'gone') AS gone
        FROM picks p LEFT JOIN tasks t ON t.pick_id = p.id
        LEFT JOIN (SELECT DISTINCT pick_id AS voted FROM current_votes WHERE status = 'vote') v
          ON v.voted = p.id
        GROUP BY p.arm ORDER BY p.arm"""
    return {str(row.pop("arm")): row for row in db.query(query)}


def pairs_taken(db: Database) -> int:
    """How many pairs of candidates are not to be chosen: in a round already, or gold."""
    return int(db.execute(f"SELECT count(*) FROM ({TAKEN_PAIRS})").fetchone()[0])  # noqa: S608


# SQL: a_id and b_id of each such pair.
TAKEN_PAIRS = f"""
    SELECT a_id, b_id FROM picks WHERE arm IN ('acquired', 'control') UNION
    SELECT a_id, b_id FROM gold WHERE a_id NOT IN ({GOLD_ONLY_RESPONSES})
      AND b_id NOT IN ({GOLD_ONLY_RESPONSES})"""  # noqa: S608
