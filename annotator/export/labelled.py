"""Reads what is labelled: one record per vote, or one per pair with its consensus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from annotator.candidates.catalog import Shown, shown_responses
from annotator.labels.consensus import Consensus, majority

if TYPE_CHECKING:
    from sqlite_utils import Database

PAIRS_PER_READ = 2_000


@dataclass(frozen=True)
class VoteRecord:
    """One vote that counts, and the pick it answers."""

    pick_id: int
    pair_key: str
    a_id: int
    b_id: int
    arm: str
    side_order: str
    strategy: str
    score: float | None
    propensity: float | None
    round_id: int
    seed: int
    vote_id: int
    annotator_id: int
    grade: str
    confidence: str | None
    rationale: str | None
    seconds: float | None
    prefilled: int
    updated_at: str


@dataclass(frozen=True)
class LabelledPair:
    """One pair with its votes, its consensus and its texts. `a` and `b` by response key."""

    pair_key: str
    a: Shown
    b: Shown
    consensus: Consensus
    votes: list[VoteRecord]


_VOTES = """
SELECT p.id, p.pair_key, p.a_id, p.b_id, p.arm, p.side_order, p.strategy, p.score,
  p.propensity, p.round_id, r.seed, v.id, v.annotator_id, v.grade, v.confidence, v.rationale,
  v.seconds, v.prefilled, v.updated_at
FROM current_votes v JOIN picks p ON p.id = v.pick_id JOIN rounds r ON r.id = p.round_id
WHERE v.status = 'vote' ORDER BY p.pair_key, v.id"""


def labelled_pairs(db: Database) -> Iterator[LabelledPair]:
    """Every pair that has a vote, in the order of pair keys; few are in memory at a time."""
    records = (VoteRecord(*row) for row in db.execute(_VOTES))
    block: list[list[VoteRecord]] = []
    for _, votes in groupby(records, key=lambda record: record.pair_key):
        block.append(list(votes))
        if len(block) == PAIRS_PER_READ:
            yield from _with_texts(db, block)
            block = []
    yield from _with_texts(db, block)


def _with_texts(db: Database, block: list[list[VoteRecord]]) -> Iterator[LabelledPair]:
    shown = shown_responses(db, (i for votes in block for i in (votes[0].a_id, votes[0].b_id)))
    for votes in block:
        first = votes[0]
        yield LabelledPair(
            pair_key=first.pair_key,
            a=shown[first.a_id],
            b=shown[first.b_id],
            consensus=majority(vote.grade for vote in votes),
            votes=votes,
        )
