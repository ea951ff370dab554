"""Reads what a certified source says of pairs that no person was asked about.

These are no votes and are never counted among them: each carries its source, its certificate and
what that promises. Where a person has voted, the person's label is exported and not this one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from annotator.candidates.catalog import Shown, shown_responses
from annotator.candidates.identity import pair_key
from annotator.export.labelled import PAIRS_PER_READ

if TYPE_CHECKING:
    from sqlite_utils import Database


@dataclass(frozen=True)
class MachineLabel:
    """One pair, `a` and `b` by response key, and which of them the source prefers.

    `probability` that a person agrees, as the source says; of the votes that people would cast on
    the pairs of the certificate a share `agree` at least agrees, which holds with probability
    `confidence`.
    """

    a: Shown
    b: Shown
    label: str
    probability: float
    source: str
    certificate: int
    agree: float
    confidence: float
    certified_at: str

    @property
    def pair_key(self) -> str:
        """The key of the pair, as everywhere."""
        return pair_key(self.a.response_key, self.b.response_key)


def guarantee(agree: float, confidence: float) -> str:
    """What a certificate promises of all pairs that it covers, in words.

    Of votes, since a pair that everybody would skip has none.
    """
    return (
        f"of the votes that people would cast on its pairs at least {percent(agree)} agree with "
        f"it; false with probability {percent(1.0 - confidence)} at most"
    )


def percent(share: float) -> str:
    """A share as people write it: 85 %, 2.5 %."""
    return f"{round(100.0 * share, 6):g} %"


_HUMAN = """SELECT p.a_id, p.b_id FROM current_votes v JOIN picks p ON p.id = v.pick_id
    WHERE v.status = 'vote' AND NOT v.prefilled UNION SELECT a_id, b_id FROM gold"""

# Certificates in force share no pair; were there two, the newest would speak.
_LABELS = f"""SELECT a_id, b_id, label, probability, source, certificate_id, agree, confidence,
    made_at FROM (
      SELECT r.*, c.source, c.agree, c.confidence, c.made_at, row_number() OVER (
        PARTITION BY r.a_id, r.b_id ORDER BY r.certificate_id DESC) AS age
      FROM routed r JOIN certificates c ON c.id = r.certificate_id WHERE c.void_at IS NULL)
    WHERE age = 1 AND (a_id, b_id) NOT IN ({_HUMAN}) ORDER BY certificate_id, a_id, b_id"""  # noqa: S608


def machine_labels(db: Database) -> Iterator[MachineLabel]:
    """Every pair that a certificate in force leaves to a machine and that no person has voted on.

    Certificates are taken as they stand: whoever calls has them checked before.
    """
    rows = db.execute(_LABELS)
    while block := rows.fetchmany(PAIRS_PER_READ):
        shown = shown_responses(db, (i for row in block for i in row[:2]))
        for a_id, b_id, *rest in block:
            yield MachineLabel(shown[a_id], shown[b_id], *rest)


def void_labels(db: Database) -> Counter[int]:
    """Certificate -> how many labels it has that no certificate in force gives: left out."""
    rows = db.execute(
        f"""SELECT r.certificate_id, count(*) FROM routed r
        JOIN certificates c ON c.id = r.certificate_id
        WHERE c.void_at IS NOT NULL AND (r.a_id, r.b_id) NOT IN ({_HUMAN}) AND NOT EXISTS (
          SELECT 1 FROM routed o JOIN certificates k ON k.id = o.certificate_id
          WHERE o.a_id = r.a_id AND o.b_id = r.b_id AND k.void_at IS NULL)
        GROUP BY r.certificate_id"""  # noqa: S608
    )
    return Counter(dict(rows.fetchall()))
