"""Owner of certificates, routing_looks and routed: promises about pairs that no person need see.

A certificate is in force until it is void. It is checked before every use: it voids itself when
what it stands on has changed, and when control votes no longer bear it out. Nothing is ever
deleted, since exports refer to it.

No two in force share a pair. A promise is about a whole set: what another certificate would leave
of it, the harder part where that one is stricter, is a set that nobody has tested.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from annotator.budget.opinions import Depends, changes
from annotator.budget.routing import lower_bound
from annotator.errors import RoundConflict, RoundError
from annotator.export.machine import guarantee, percent
from annotator.store import now, writing

if TYPE_CHECKING:
    from sqlite_utils import Database

LABELS = {1: "a", -1: "b"}


@dataclass(frozen=True)
class Certificate:
    """One promise; the columns of its table, JSON read.

    `calibration`: of every control pair at or above the threshold, answered or not, the response
    ids, the source's label and the agreement that it has to show.
    """

    id: int
    source: str
    agree: float
    confidence: float
    threshold: float
    n_calibration: int
    n_above: int
    n_agreed: int
    n_pairs: int
    calibration: list[tuple[int, int, str, float]]
    depends: Depends
    last_vote_id: int
    made_at: str
    void_at: str | None
    void_because: str | None

    @property
    def guarantee(self) -> str:
        """The promise in words."""
        return guarantee(self.agree, self.confidence)


@dataclass(frozen=True)
class Look:
    """One look at control votes; `certificate_id` None: it certified nothing."""

    promise: int
    n_calibration: int
    level: float
    certificate_id: int | None
    looked_at: str


@dataclass(frozen=True)
class Standing:
    """What all control votes say of a certificate now: `n` at or above its threshold, `agreed`."""

    n: int
    agreed: int
    required: float
    lower: float

    @property
    def stands(self) -> bool:
        """Whether they still show what was promised, at its confidence."""
        return not self.n or self.lower >= self.required


def certificates(db: Database, *, in_force: bool = False) -> list[Certificate]:
    """Every certificate there ever was, oldest first; or those that nothing has made void."""
    only = " WHERE void_at IS NULL" if in_force else ""
    return [_read(row) for row in db.query(f"SELECT * FROM certificates{only} ORDER BY id")]  # noqa: S608


def _read(row: dict[str, Any]) -> Certificate:
    pairs = [tuple(pair) for pair in json.loads(row["calibration"])]
    return Certificate(**(row | {"calibration": pairs, "depends": json.loads(row["depends"])}))


def looks_at(
    db: Database, depends: Depends, agree: float, confidence: float
) -> tuple[int, list[Look]]:
    """The number of this promise among all that were ever tried, and its looks, oldest first."""
    query = """SELECT promise, n_calibration, level, certificate_id, looked_at FROM routing_looks
        WHERE depends = ? AND agree = ? AND confidence = ? ORDER BY id"""
    rows = db.execute(query, [_text(depends), agree, confidence]).fetchall()
    if rows:
        return int(rows[0][0]), [Look(*row) for row in rows]
    newest = db.execute("SELECT coalesce(max(promise), 0) FROM routing_looks").fetchone()[0]
    return int(newest) + 1, []


def _text(depends: Depends) -> str:
    return json.dumps(depends, sort_keys=True)


def record_look(
    db: Database,
    look: Look,
    depends: Depends,
    agree: float,
    confidence: float,
) -> None:
    """Keeps a look, in the caller's transaction. Raises RoundConflict if it was taken meanwhile."""
    try:
        db.execute(
            """INSERT INTO routing_looks (promise, source, agree, confidence, depends,
            n_calibration, level, certificate_id, looked_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)""",
            [
                look.promise,
                depends["source"],
                agree,
                confidence,
                _text(depends),
                look.n_calibration,
                look.level,
                look.certificate_id,
                look.looked_at,
            ],
        )
    except sqlite3.IntegrityError as error:
        raise RoundConflict(
            "another process has looked at the same control votes meanwhile",
            expected="a look that nobody has taken",
            todo="run the command again",
        ) from error


def record_certificate(
    db: Database, made: Certificate, routed: Iterable[tuple[int, int, str, float]]
) -> int:
    """The id of a new certificate with its pairs (a_id, b_id, label, probability); in the caller's
    transaction. `made.id` says nothing. Certificates in force that share a pair with it end."""
    row = vars(made) | {
        "calibration": json.dumps(made.calibration),
        "depends": _text(made.depends),
    }
    del row["id"]
    marks = ", ".join("?" for _ in row)
    cursor = db.execute(
        f"INSERT INTO certificates ({', '.join(row)}) VALUES ({marks})",  # noqa: S608
        list(row.values()),
    )
    certificate_id = cursor.lastrowid
    assert certificate_id is not None
    db.conn.executemany(
        """INSERT INTO routed (certificate_id, a_id, b_id, label, probability)
        VALUES (?, ?, ?, ?, ?)""",
        ((certificate_id, *pair) for pair in routed),
    )
    end_overtaken(db, certificate_id)
    return certificate_id


def end_overtaken(db: Database, certificate_id: int) -> None:
    """Ends the older certificates that share a pair with this one, in the caller's transaction."""
    for older in certificates(db, in_force=True):
        if older.id < certificate_id and _share_a_pair(db, older.id, certificate_id):
            void(db, older.id, took_its_place(certificate_id))


def took_its_place(certificate_id: int) -> str:
    """Why an older certificate is void."""
    return f"certificate {certificate_id} took its place"


def _share_a_pair(db: Database, one: int, other: int) -> bool:
    query = """SELECT 1 FROM routed r JOIN routed o ON o.certificate_id = ?
        AND o.a_id = r.a_id AND o.b_id = r.b_id WHERE r.certificate_id = ? LIMIT 1"""
    return db.execute(query, [other, one]).fetchone() is not None


def void(db: Database, certificate_id: int, because: str) -> None:
    """Ends a certificate, in the caller's transaction; one that is void stays as it is."""
    db.execute(
        "UPDATE certificates SET void_at = ?, void_because = ? WHERE id = ? AND void_at IS NULL",
        [now(), because, certificate_id],
    )


def void_by_hand(db: Database, certificate_id: int) -> Certificate:
    """Ends the certificate that somebody names. Raises RoundError where there is none to end."""
    known = {one.id: one for one in certificates(db)}
    found = known.get(certificate_id)
    if found is None or found.void_at is not None:
        standing = ", ".join(str(i) for i, one in known.items() if one.void_at is None)
        raise RoundError(
            f"certificate {certificate_id} "
            + ("does not exist" if found is None else f"is void already: {found.void_because}"),
            expected=f"one that is in force: {standing or 'there is none'}",
            todo="`annotator route` lists them",
        )
    with writing(db):
        void(db, certificate_id, "by hand")
    return found


def check_certificates(db: Database, encoder_id: int | None) -> list[tuple[Certificate, str]]:
    """Ends every certificate whose ground is gone; those, each with the reason.

    Another encoder, judge, rubric or model; or control votes that no longer bear it out. With
    `encoder_id` None, where nobody knows what encoder comes next, that alone is not looked at.
    To be called before every use: a new batch, an export of machine labels, a new certificate.
    """
    ended = without_ground(db, encoder_id)
    if ended:
        with writing(db):
            for certificate, because in ended:
                void(db, certificate.id, because)
    return ended


def without_ground(db: Database, encoder_id: int | None) -> list[tuple[Certificate, str]]:
    """What check_certificates would end, each with the reason; writes nothing."""
    in_force = certificates(db, in_force=True)
    found = []
    for i, certificate in enumerate(in_force):
        because = "; ".join(changes(db, certificate.depends, encoder_id))
        for newer in in_force[i + 1 :]:
            if not because and _share_a_pair(db, certificate.id, newer.id):
                because = took_its_place(newer.id)
        if not because:
            because = _not_borne_out(certificate, standing(db, certificate))
        if because:
            found.append((certificate, because))
    return found


def newest_encoder(db: Database) -> int | None:
    """The encoder of the newest round that had one."""
    row = db.execute(
        "SELECT encoder_id FROM rounds WHERE encoder_id IS NOT NULL ORDER BY id DESC LIMIT 1"
    ).fetchone()
    return None if row is None else int(row[0])


def _not_borne_out(certificate: Certificate, found: Standing) -> str:
    if found.stands:
        return ""
    return (
        f"of {found.n:,} control votes on such pairs {found.agreed:,} agree, "
        f"which does not show {percent(certificate.agree)} any more"
    )


def standing(db: Database, certificate: Certificate) -> Standing:
    """What the control votes say now, those that came or were changed since among them.

    Control pairs that were drawn since then and are covered speak with the label that they have.
    """
    said = first_votes(db, "control")
    pairs = {(a, b): (label, required) for a, b, label, required in certificate.calibration}
    query = """SELECT r.a_id, r.b_id, r.label FROM routed r JOIN picks p
        ON p.a_id = r.a_id AND p.b_id = r.b_id
        WHERE r.certificate_id = ? AND p.arm = 'control'"""
    for a, b, label in db.execute(query, [certificate.id]):
        pairs[a, b] = (label, certificate.agree)
    heard = {pair: LABELS.get(sign) for pair, sign in said.items() if pair in pairs}
    n = len(heard)
    agreed = sum(label == pairs[pair][0] for pair, label in heard.items())
    required = sum(pairs[pair][1] for pair in heard) / n if n else certificate.agree
    lower = lower_bound(agreed, n, 1.0 - certificate.confidence, certificate.n_pairs)
    return Standing(n, agreed, required, lower)


def first_votes(db: Database, arm: str) -> dict[tuple[int, int], int]:
    """(a_id, b_id) -> the side that the first person took on it, 1 a, -1 b, 0 a tie.

    Of pairs of that arm, in the order in which they were first answered. Later votes may have been
    asked for because people differed, so they say something else; skips are no votes.
    """
    rows = db.execute(
        """SELECT p.a_id, p.b_id, v.grade FROM current_votes v JOIN picks p ON p.id = v.pick_id
        JOIN (SELECT pick_id, annotator_id, min(id) AS first FROM votes WHERE status = 'vote'
              GROUP BY pick_id, annotator_id) s
          ON s.pick_id = v.pick_id AND s.annotator_id = v.annotator_id
        WHERE p.arm = ? AND v.status = 'vote' AND NOT v.prefilled ORDER BY s.first""",
        [arm],
    )
    found: dict[tuple[int, int], int] = {}
    for a, b, grade in rows:
        found.setdefault((a, b), _SIDES.get(grade, 0))
    return found


_SIDES = {"a_much_better": 1, "a_better": 1, "b_better": -1, "b_much_better": -1}
