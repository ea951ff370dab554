"""The evidence of a project: its votes, its gold, its repeats, the newest skills and data map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from annotator.annotators.account import account
from annotator.annotators.evidence import (
    Document,
    Evidence,
    GoldAnswers,
    Person,
    Repeats,
)
from annotator.candidates.catalog import texts_and_models
from annotator.candidates.gold import GOLD_UNKNOWN, gold_answers
from annotator.labels.agreement import GradedVotes, first_votes
from annotator.labels.consensus_store import newest_build, newest_vote, skills
from annotator.labels.votes import (
    ARMS,
    CountedVotes,
    counted_votes,
    first_seen,
    repeated_votes,
)
from annotator.signals.datamap import newest_map, placed_prompts
from annotator.store import integer_columns
from strategies.datamap import NO_REGION
from strategies.within_prompt import Bools, Positions

if TYPE_CHECKING:
    from sqlite_utils import Database


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Pairs that were sent, by their responses a and b, in the order of both: arrays (n_pairs,).

    `least` votes that its round asks for in any case.
    """

    a: Positions
    b: Positions
    prompt: Positions
    least: Positions
    asked: Bools
    control: Bools

    def of(self, votes: CountedVotes) -> Positions:
        """Which pair each vote is on."""
        place: Positions = np.searchsorted(_key(self.a, self.b), _key(votes.a_ids, votes.b_ids))
        return place


def people_of_project(db: Database, minimum: float, *, seed: int = 0) -> Document:
    """What can be said of the project's annotators, as one document.

    `minimum` is the least share of gold answers, repeats and careful votes that is not worth an
    alarm; `seed` draws the bootstrap.
    """
    return account(evidence_of_project(db), minimum, seed)


def evidence_of_project(db: Database) -> Evidence:
    """Everything that the account measures."""
    votes = counted_votes(db)
    first, later = _repeats(db, votes)
    pairs = _pairs(db)
    people = _people(db, votes, later)
    ids = np.array([person.id for person in people], dtype=np.int64)
    pair = pairs.of(votes)
    prompt_ids, prompt_of_pair = np.unique(pairs.prompt, return_inverse=True)
    region, region_from = _regions(db, prompt_ids)
    cast = GradedVotes(
        pair=pair,
        grade=votes.grade,
        annotator=np.searchsorted(ids, votes.annotator_ids),
        prompt_of_pair=prompt_of_pair,
        n_annotators=len(ids),
    )
    return Evidence(
        people=people,
        votes=cast,
        left_is_a=votes.left_is_a,
        seconds=votes.seconds,
        early=_early(db, votes, pair, pairs.least),
        asked=pairs.asked,
        control=pairs.control,
        gold=_gold(db, votes, ids),
        repeats=Repeats(first.grade, later.grade, np.searchsorted(ids, later.annotator_ids)),
        texts=lambda some: (_texts(db, pairs.a[some]), _texts(db, pairs.b[some])),
        region=None if region is None else region[prompt_of_pair],
        region_from=region_from,
        skills_from=_skills_from(db),
    )


def _key(a: Positions, b: Positions) -> Positions:
    """One number for each pair of response ids, which stay far below 2^31."""
    return (a << 32) | b


def _pairs(db: Database) -> _Pairs:
    """Every pair that was picked. The first pick that was not made to test people speaks for it."""
    query = """SELECT p.a_id, p.b_id, r.prompt_id, k.overlap,
        p.arm IN ('acquired', 'control'), p.arm = 'control'
        FROM picks p JOIN rounds k ON k.id = p.round_id JOIN responses r ON r.id = p.a_id
        ORDER BY p.arm NOT IN ('acquired', 'control'), p.id"""
    columns = integer_columns(db, query, 6)
    _, first = np.unique(_key(columns[0], columns[1]), return_index=True)
    a, b, prompt, least, asked, control = columns[:, first]
    return _Pairs(a, b, prompt, least, asked == 1, control == 1)


def _repeats(db: Database, votes: CountedVotes) -> tuple[CountedVotes, CountedVotes]:
    """What people said at first and later; nothing is read where no pair was ever sent twice."""
    again = "SELECT EXISTS (SELECT 1 FROM picks GROUP BY pair_key HAVING count(*) > 1)"
    if db.execute(again).fetchone()[0]:
        return repeated_votes(db)
    none = votes.take(np.empty(0, dtype=np.int64))
    return none, none


def _people(db: Database, votes: CountedVotes, later: CountedVotes) -> list[Person]:
    """Everybody who gave a vote or a skip that counts, in the order of their ids."""
    skips: dict[int, int] = dict(
        db.execute(
            """SELECT annotator_id, count(*) FROM current_votes WHERE status = 'skip'
            GROUP BY annotator_id"""
        ).fetchall()
    )
    given = np.concatenate((votes.annotator_ids, later.annotator_ids))
    n_votes = dict(
        zip(*(part.tolist() for part in np.unique(given, return_counts=True)), strict=True)
    )
    known = skills(db)
    rows = db.execute("SELECT id, name, server FROM annotators ORDER BY id").fetchall()
    return [
        Person(i, name, server, n_votes.get(i, 0), skips.get(i, 0), known.get(i))
        for i, name, server in rows
        if i in n_votes or i in skips
    ]


def _early(db: Database, votes: CountedVotes, pair: Positions, least: Positions) -> Bools:
    """Which votes are among the first `least` of their pair, by when each was first seen.

    An edit makes a vote a newer row, but no later one.
    """
    early = np.ones(len(pair), dtype=np.bool_)
    crowded = np.flatnonzero(np.bincount(pair, minlength=len(least))[pair] > least[pair])
    if not len(crowded):
        return early
    seen = first_seen(db, votes.take(crowded))
    in_order = crowded[np.argsort(seen, kind="stable")]
    early[in_order] = first_votes(pair[in_order], least)
    return early


def _gold(db: Database, votes: CountedVotes, ids: Positions) -> GoldAnswers:
    """The votes on picks of the arm gold whose answer is known."""
    asked = votes.take(votes.arm == ARMS.index("gold"))
    answers = gold_answers(db, asked.a_ids, asked.b_ids)
    known = answers != GOLD_UNKNOWN
    annotator = np.searchsorted(ids, asked.annotator_ids[known])
    return GoldAnswers(asked.grade[known], answers[known], annotator)


def _regions(db: Database, prompt_ids: Positions) -> tuple[Positions | None, str | None]:
    """The region of each prompt on the newest map, and what scored it; None without a map."""
    build = newest_map(db)
    if build is None:
        return None, None
    placed = placed_prompts(db, build)
    at = np.minimum(np.searchsorted(placed.prompt_ids, prompt_ids), len(placed.prompt_ids) - 1)
    on_map = placed.prompt_ids[at] == prompt_ids
    return np.where(on_map, placed.region[at], NO_REGION), build.scores_in_words


def _skills_from(db: Database) -> Document | None:
    """Which build the skills are of, and whether votes have come since."""
    build = newest_build(db)
    if build is None:
        return None
    return {
        "built_at": build.built_at,
        "votes": build.n_votes,
        "behind": newest_vote(db) > build.last_vote_id,
    }


def _texts(db: Database, response_ids: Positions) -> Sequence[str]:
    texts, _ = texts_and_models(db, response_ids.tolist())
    return texts
