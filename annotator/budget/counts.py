"""What people have done: votes, skips and time by round, arm, person and hour, kept up to date.

Going through hundreds of thousands of votes takes seconds. So the counts are kept as a snapshot,
and only picks that something has happened to since are counted again: what they added is taken off,
what they add now is put on. All of it is whole numbers, so that nothing creeps in on the way.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from annotator.budget.snapshots import newest, put

if TYPE_CHECKING:
    from sqlite_utils import Database

VERSION = 1
KIND = "counts"
MOST_POINTS = 250  # in time
MILLISECONDS = 1000  # in a second
MOST_AT_ONCE = 20_000  # picks to count again; of more, everything is counted afresh


@dataclass(slots=True)
class Work:
    """`votes` and `skips` that count, how long their tasks were open, votes that tell how long."""

    votes: int = 0
    skips: int = 0
    milliseconds: int = 0
    timed: int = 0

    @property
    def seconds(self) -> float:
        return self.milliseconds / MILLISECONDS

    def add(self, other: Work, times: int = 1) -> None:
        """Adds the other, or takes it off where `times` is -1."""
        self.votes += times * other.votes
        self.skips += times * other.skips
        self.milliseconds += times * other.milliseconds
        self.timed += times * other.timed

    def row(self) -> list[int]:
        return [self.votes, self.skips, self.milliseconds, self.timed]

    def __bool__(self) -> bool:
        return any(self.row())


Cell = tuple[int, str, int]  # round, arm, annotator


@dataclass(frozen=True, slots=True)
class _Answer:
    """A vote or skip that counts; `at` in seconds since 1970, None where nobody knows."""

    cell: Cell
    pick: int
    work: Work
    at: int | None


@dataclass
class Counts:
    """The sums.

    - `cells`: by round, arm and annotator id.
    - `voted`: by round and arm, picks with a vote.
    - `slots`: by time and annotator id, the time in units of `width` seconds since 1970.
    - `open_`: by pick, votes that were asked for and have not come, tasks deleted on the server
      among them.
    """

    cells: dict[Cell, Work] = field(default_factory=lambda: defaultdict(Work))
    voted: Counter[tuple[int, str]] = field(default_factory=Counter)
    slots: dict[tuple[int, int], Work] = field(default_factory=lambda: defaultdict(Work))
    width: int = 1
    open_: dict[int, int] = field(default_factory=dict)

    def add(self, answers: Iterable[_Answer], times: int = 1) -> None:
        """Puts these on, or takes them off."""
        voted = set()
        for answer in answers:
            self.cells[answer.cell].add(answer.work, times)
            if answer.work.votes:
                voted.add((answer.pick, answer.cell[:2]))
            if answer.at is not None:
                self.slots[answer.at // self.width, answer.cell[2]].add(answer.work, times)
        for _, of in voted:
            self.voted[of] += times

    def settle(self) -> None:
        """Drops what has come to nothing, and makes slots wider until they are few enough."""
        self.cells = defaultdict(Work, {cell: work for cell, work in self.cells.items() if work})
        self.voted = +self.voted
        self._widen()
        self.slots = defaultdict(Work, {key: work for key, work in self.slots.items() if work})

    def _widen(self) -> None:
        times = [slot for slot, _ in self.slots]
        factor = 1
        while times and max(times) // factor - min(times) // factor >= MOST_POINTS:
            factor *= 2
        if factor == 1:
            return
        merged: dict[tuple[int, int], Work] = defaultdict(Work)
        for (slot, who), work in self.slots.items():
            merged[slot // factor, who].add(work)
        self.slots, self.width = merged, self.width * factor

    def document(self) -> dict[str, Any]:
        """The same as JSON can hold it."""
        return {
            "cells": [[*cell, *work.row()] for cell, work in self.cells.items()],
            "voted": [[*of, n] for of, n in self.voted.items()],
            "slots": [[*key, *work.row()] for key, work in self.slots.items()],
            "width": self.width,
            "open": list(self.open_.items()),
        }

    @classmethod
    def of(cls, document: dict[str, Any]) -> Counts:
        """What `document` gave."""
        found = cls(width=document["width"], open_=dict(document["open"]))
        for round_id, arm, who, *work in document["cells"]:
            found.cells[round_id, arm, who] = Work(*work)
        for round_id, arm, n in document["voted"]:
            found.voted[round_id, arm] = n
        for slot, who, *work in document["slots"]:
            found.slots[slot, who] = Work(*work)
        return found


@dataclass(frozen=True)
class _Stand:
    """The newest row of each table that counts are made of."""

    vote: int
    pick: int
    further: int

    @classmethod
    def of(cls, db: Database) -> _Stand:
        row = db.execute(
            """SELECT (SELECT coalesce(max(id), 0) FROM votes),
            (SELECT coalesce(max(id), 0) FROM picks),
            (SELECT coalesce(max(id), 0) FROM extra_votes)"""
        ).fetchone()
        return cls(*row)

    def made_of(self) -> dict[str, int]:
        return {"version": VERSION, **vars(self)}


def current_counts(db: Database) -> Counts:
    """The counts as of now; what changed since they were last kept is all that is counted."""
    stand = _Stand.of(db)
    known = newest(db, KIND)
    if known is not None and known[0] == stand.made_of():
        return Counts.of(known[1])
    counts = None if known is None else _brought_up(db, *known, stand)
    if counts is None:
        counts = count_all(db, stand)
    put(db, KIND, stand.made_of(), counts.document())
    return counts


def count_all(db: Database, stand: _Stand | None = None) -> Counts:
    """The counts out of every row there is."""
    stand = stand or _Stand.of(db)
    counts = Counts()
    rows = _newest_rows(db, stand.vote)
    counts.add(_answers(rows))
    counts.open_ = _open(rows, _wanted(db, "WHERE p.id <= ?", [stand.pick]))
    counts.settle()
    return counts


def votes_waiting(db: Database, counts: Counts) -> int:
    """Votes asked for that may still come: those of tasks deleted on the server do not."""
    gone = db.execute(
        """SELECT pick_id FROM tasks WHERE state = 'gone'
        AND pick_id IN (SELECT value FROM json_each(?))""",
        [json.dumps(list(counts.open_))],
    )
    return sum(counts.open_.values()) - sum(counts.open_[pick] for (pick,) in gone)


def _brought_up(
    db: Database, made_of: dict[str, int], document: dict[str, Any], stand: _Stand
) -> Counts | None:
    """What was kept, with all that came since; None where counting afresh is quicker or needed."""
    if made_of.get("version") != VERSION:
        return None
    before = _Stand(made_of["vote"], made_of["pick"], made_of["further"])
    if min(stand.vote - before.vote, stand.pick - before.pick) < 0:
        return None  # an older copy of the database was put back
    picks = _changed(db, before, stand)
    if len(picks) > MOST_AT_ONCE:
        return None
    counts = Counts.of(document)
    ids = json.dumps(picks)
    counts.add(_answers(_newest_rows(db, before.vote, ids)), -1)
    rows = _newest_rows(db, stand.vote, ids)
    counts.add(_answers(rows))
    for pick in picks:
        counts.open_.pop(pick, None)
    some = "WHERE p.id IN (SELECT value FROM json_each(?))"
    counts.open_ |= _open(rows, _wanted(db, some, [ids]))
    counts.settle()
    return counts


def _changed(db: Database, before: _Stand, stand: _Stand) -> list[int]:
    """Picks that are new, have a new row of votes, or shall get further ones."""
    rows = db.execute(
        """SELECT o.pick_id FROM (SELECT DISTINCT project_id, annotation_id FROM votes
            WHERE id > ? AND id <= ?) n
          JOIN votes o ON (o.project_id, o.annotation_id) = (n.project_id, n.annotation_id)
          WHERE o.pick_id IS NOT NULL
        UNION SELECT id FROM picks WHERE id > ? AND id <= ?
        UNION SELECT pick_id FROM extra_votes WHERE id > ?""",
        [before.vote, stand.vote, before.pick, stand.pick, before.further],
    )
    return [pick for (pick,) in rows]


_Row = tuple[Any, ...]  # of _NEWEST, without the first

# The newest state of each annotation: with max(), SQLite takes the other columns from its row.
_NEWEST = """SELECT n.id, n.pick_id, p.round_id, p.arm, n.annotator_id, n.status, n.seconds,
      n.updated_at, n.at
    FROM (SELECT max(v.id) AS id, v.pick_id, v.annotator_id, v.status, v.seconds, v.updated_at,
        coalesce(strftime('%s', v.updated_at), strftime('%s', v.seen_at)) AS at
      FROM {source} WHERE v.id <= ? GROUP BY v.project_id, v.annotation_id) n
    JOIN picks p ON p.id = n.pick_id"""

_ON_PICKS = """(SELECT DISTINCT project_id, annotation_id FROM votes
        WHERE pick_id IN (SELECT value FROM json_each(?))) m
      JOIN votes v ON (v.project_id, v.annotation_id) = (m.project_id, m.annotation_id)"""


def _newest_rows(db: Database, last: int, picks: str | None = None) -> list[_Row]:
    """The newest state of every annotation that has a pick, of rows up to the last, by pick.

    `picks`: of these alone, a JSON list.
    """
    if picks is None:
        return db.execute(_NEWEST.format(source="votes v"), [last]).fetchall()
    query = _NEWEST.format(source=_ON_PICKS)
    query += " WHERE n.pick_id IN (SELECT value FROM json_each(?))"
    return db.execute(query, [picks, last, picks]).fetchall()


def _answers(rows: Iterable[_Row]) -> Iterator[_Answer]:
    """What counts: of one person's answers on a pick the newest, as in the view current_votes."""
    newest_of: dict[tuple[int, int], _Row] = {}
    for row in rows:
        vote_id, pick, _, _, who, status, _, updated_at, _ = row
        if status not in ("vote", "skip"):
            continue
        other = newest_of.get((pick, who))
        if other is None or (updated_at, vote_id) > (other[7], other[0]):
            newest_of[pick, who] = row
    for _, pick, round_id, arm, who, status, seconds, _, at in newest_of.values():
        vote = status == "vote"
        work = Work(
            int(vote),
            int(not vote),
            0 if seconds is None else round(seconds * MILLISECONDS),
            int(vote and seconds is not None),
        )
        yield _Answer((round_id, arm, who), pick, work, None if at is None else int(at))


def _wanted(db: Database, where: str, values: list[Any]) -> list[tuple[int, int]]:
    """Picks and how many people are to answer each."""
    return db.execute(
        f"""SELECT p.id, coalesce(t.overlap, r.overlap) FROM picks p
        JOIN tasks t ON t.pick_id = p.id JOIN rounds r ON r.id = p.round_id {where}""",  # noqa: S608
        values,
    ).fetchall()


def _open(rows: Iterable[_Row], wanted: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Votes still to come, by pick. The server counts a rejected answer, and not a skip."""
    people: dict[int, set[Any]] = defaultdict(set)
    for _, pick, _, _, who, status, *_ in rows:
        if status not in ("skip", "deleted"):
            people[pick].add(who)
    missing = ((pick, n - len(people.get(pick, ()))) for pick, n in wanted)
    return {pick: n for pick, n in missing if n > 0}
