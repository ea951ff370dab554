"""Owner of the table judgements: what a judge says of two responses, seen in both orders."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database


@dataclass(frozen=True)
class Judgement:
    """One pair, a_id < b_id: P(a is better), the variance between the two orders (None: unknown),
    and whether the winner changed with the order.
    """

    a_id: int
    b_id: int
    p_a: float
    variance: float | None
    flipped: bool


def record_judgements(db: Database, method: str, judgements: Iterable[Judgement]) -> None:
    """Puts these judgements in the place of all of that method, in the caller's transaction."""
    db.execute("DELETE FROM judgements WHERE method = ?", [method])
    db.conn.executemany(
        "INSERT INTO judgements VALUES (?, ?, ?, ?, ?, ?)",
        ((method, j.a_id, j.b_id, j.p_a, j.variance, int(j.flipped)) for j in judgements),
    )
