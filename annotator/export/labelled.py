"""Reads what is labelled: one record per vote, or one per pair with its consensus."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from annotator.candidates.catalog import Shown, shown_responses
from annotator.labels.consensus import Consensus, majority
from annotator.labels.consensus_store import pair_beliefs

if TYPE_CHECKING:
    from sqlite_utils import Database

PAIRS_PER_READ = 2_000

Annotator = int | str  # an id of this database, or a name that stands for it


@dataclass(frozen=True)
class VoteRecord:
    """One vote that counts, and the pick it answers. `annotator_id` may be a name for it."""

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
    annotator_id: Annotator
    grade: str
    confidence: str | None
    rationale: str | None
    seconds: float | None
    prefilled: int
    updated_at: str


@dataclass(frozen=True)
class LabelledPair:
    """One pair with its votes, its consensus and its texts. `a` and `b` by response key.

    The consensus is that of `votes`, or the crowd's where that was asked for. `checks` are the
    others: on gold, which is known already, and what somebody said when shown the pair again. Where
    there is nothing else it is None. `preferred`: the crowd's P(most who take a side prefer a),
    None where there is no build that knows the pair.
    """

    pair_key: str
    a: Shown
    b: Shown
    consensus: Consensus | None
    votes: list[VoteRecord]
    checks: list[VoteRecord]
    preferred: float | None = None


_VOTES = """
SELECT p.id, p.pair_key, p.a_id, p.b_id, p.arm, p.side_order, p.strategy, p.score,
  p.propensity, p.round_id, r.seed, v.id, v.annotator_id, v.grade, v.confidence, v.rationale,
  v.seconds, v.prefilled, v.updated_at
FROM current_votes v JOIN picks p ON p.id = v.pick_id JOIN rounds r ON r.id = p.round_id
WHERE v.status = 'vote' ORDER BY p.pair_key, p.id, v.id"""


def labelled_pairs(
    db: Database, *, hash_annotators: bool = False, by_crowd: bool = False
) -> Iterator[LabelledPair]:
    """Every pair that has a vote, in the order of pair keys; their texts not all at a time.

    With `hash_annotators` names stand for the ids of annotators; see hashed_annotators. With
    `by_crowd` the consensus is what the newest build believes, and not the majority of the votes.
    """
    beliefs = _beliefs(db)
    records = (VoteRecord(*row) for row in db.execute(_VOTES))
    if hash_annotators:
        named = hashed_annotators(db)
        records = (replace(record, annotator_id=named(record.annotator_id)) for record in records)
    block: list[list[VoteRecord]] = []
    for _, votes in groupby(records, key=lambda record: record.pair_key):
        block.append(list(votes))
        if len(block) == PAIRS_PER_READ:
            yield from _with_texts(db, block, beliefs, by_crowd)
            block = []
    yield from _with_texts(db, block, beliefs, by_crowd)


def _beliefs(db: Database) -> dict[tuple[int, int], tuple[float, str]]:
    """The pair's responses -> P(a preferred) and verdict, as the newest build has them."""
    found = pair_beliefs(db)
    pairs = zip(found.a_ids.tolist(), found.b_ids.tolist(), strict=True)
    beliefs = zip(found.preferred.tolist(), found.verdict.tolist(), strict=True)
    return dict(zip(pairs, beliefs, strict=True))


def hashed_annotators(db: Database) -> Callable[[Annotator], str]:
    """Annotator id -> a name of 16 hexadecimal digits that is the same in every export.

    HMAC-SHA-256 of the id under a random key that stands in the database and nowhere else: without
    the database nobody can try out ids until one fits; whoever has it can.
    """
    query = "SELECT value FROM meta WHERE key = 'annotator_key'"
    key = str(db.execute(query).fetchone()[0]).encode()
    names: dict[Annotator, str] = {}

    def named(annotator_id: Annotator) -> str:
        if annotator_id not in names:
            digest = hmac.digest(key, f"annotator {annotator_id}".encode(), "sha256")
            names[annotator_id] = digest.hex()[:16]
        return names[annotator_id]

    return named


def _with_texts(
    db: Database,
    block: list[list[VoteRecord]],
    beliefs: dict[tuple[int, int], tuple[float, str]],
    by_crowd: bool,
) -> Iterator[LabelledPair]:
    shown = shown_responses(db, (i for votes in block for i in (votes[0].a_id, votes[0].b_id)))
    for every in block:
        first = every[0]
        votes, checks = _told_apart(every)
        consensus = majority(vote.grade for vote in votes) if votes else None
        preferred, verdict = beliefs.get((first.a_id, first.b_id), (None, None))
        if consensus and verdict and by_crowd:
            consensus = replace(consensus, verdict=verdict)
        yield LabelledPair(
            pair_key=first.pair_key,
            a=shown[first.a_id],
            b=shown[first.b_id],
            consensus=consensus,
            votes=votes,
            checks=checks,
            preferred=preferred,
        )


def _told_apart(every: list[VoteRecord]) -> tuple[list[VoteRecord], list[VoteRecord]]:
    """What people said of the pair, each once, and what they said to be checked."""
    votes: list[VoteRecord] = []
    checks: list[VoteRecord] = []
    heard: set[Annotator] = set()
    for vote in every:
        said = vote.arm != "gold" and not vote.prefilled  # a machine's answer is nobody's vote
        counts = said and vote.annotator_id not in heard
        heard |= {vote.annotator_id} if said else set()
        (votes if counts else checks).append(vote)
    return votes, checks
