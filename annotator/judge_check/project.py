"""The evidence of a project: recorded scores, its own votes, the newest data map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from annotator.candidates.catalog import ResponseTable, response_table
from annotator.judge_check import JudgeCheckError, NobodyVoted
from annotator.judge_check.account import JudgeCheck, account
from annotator.judge_check.evidence import (
    Document,
    Evidence,
    PairVotes,
    SwappedVerdicts,
    log_lengths,
    own_regions,
)
from annotator.labels.votes import ARMS, counted_votes
from annotator.signals.datamap import newest_map, placed_prompts
from annotator.signals.judges.panel import Panel
from annotator.signals.scores import Ids, scores_by
from strategies.datamap import NO_REGION
from strategies.within_prompt import Floats, Positions

if TYPE_CHECKING:
    from sqlite_utils import Database

CONTROL_VOTES_NEEDED = 30
GRADE = {"a": 1, "b": -1, "tie": 0, "both_bad": 0}
KINDS = ("human", "objective")  # of labels that came with the data, the first that there are


def check_project(db: Database, methods: Sequence[str], *, seed: int = 0) -> JudgeCheck:
    """What the recorded scores of these methods are worth; of several, their mean.

    Held against the project's control votes where there are CONTROL_VOTES_NEEDED, else against all
    its votes, else against labels that came with the data; the document says which. `seed` draws
    the bootstrap and the folds. Raises JudgeCheckError if nobody voted, if no response has a score
    by one of the methods, or if no pair has both.
    """
    table = response_table(db)
    panel = Panel(tuple(methods), np.stack([_scores(db, m, table.response_ids) for m in methods]))
    prompt_ids, prompts = np.unique(table.prompt_ids, return_inverse=True)
    prompt_of_response: Positions = prompts.astype(np.int64)
    votes, about, notes = _votes(db, table)
    notes += _variances_that_hang_together(db, methods)
    region, region_from = _regions(db, prompt_ids, panel.mean(), prompt_of_response, seed)
    evidence = Evidence(
        panel=panel,
        variance=np.stack([_variances(db, m, table.response_ids) for m in methods]),
        prompt_of_response=prompt_of_response,
        log_length=_log_lengths(db, table.response_ids),
        pair_a=votes.a,
        pair_b=votes.b,
        people=votes.majority,
        votes=votes,
        about=about,
        region=region,
        region_from=region_from,
        swapped=_swapped(db, methods, table, prompt_of_response),
        notes=notes,
    )
    return account(evidence, seed)


def _scores(db: Database, method: str, response_ids: Ids) -> Floats:
    scores = scores_by(db, method, response_ids)
    if np.all(np.isnan(scores)):
        raise JudgeCheckError(
            f"no response has a score by {method}",
            expected="scores that a judge gave, or that came with the data",
            todo="run `annotator judge` first, or name another judge",
        )
    return scores


def _variances(db: Database, method: str, response_ids: Ids) -> Floats:
    """The judge's own variance of each score, NaN where it told none.

    And where it judged pairs: the errors of such scores of one prompt hang together (of two they
    are opposite), so the variance of a gap is not the sum of theirs.
    """
    if _judges_pairs(db, method):
        return np.full(len(response_ids), np.nan)
    query = """SELECT response_id, judge_variance FROM scores
        WHERE method = ? AND judge_variance IS NOT NULL"""
    known = dict(db.execute(query, [method]).fetchall())
    return np.array([known.get(i, np.nan) for i in response_ids.tolist()], dtype=np.float64)


def _judges_pairs(db: Database, method: str) -> bool:
    query = "SELECT EXISTS (SELECT 1 FROM judgements WHERE method = ?)"
    return bool(db.execute(query, [method]).fetchone()[0])


def _variances_that_hang_together(db: Database, methods: Sequence[str]) -> list[str]:
    of_pairs = [method for method in methods if _judges_pairs(db, method)]
    if not of_pairs:
        return []
    return [
        f"Scores of one prompt by {', '.join(of_pairs)} come from the same pairs, so their "
        "variances do not add up to that of a gap: nothing is said of the judge's own variances."
    ]


def _log_lengths(db: Database, response_ids: Ids) -> Floats:
    known = dict(db.execute("SELECT id, length(text) FROM responses").fetchall())
    return log_lengths(np.array([known[i] for i in response_ids.tolist()], dtype=np.float64))


def _places(response_ids: Ids, wanted: Ids) -> Positions:
    """Where each of these ids stands in `response_ids`."""
    order = np.argsort(response_ids)
    places: Positions = order[np.searchsorted(response_ids, wanted, sorter=order)]
    return places


def _votes(db: Database, table: ResponseTable) -> tuple[PairVotes, Document, list[str]]:
    """The votes that count here, whose they are, and what to say of that."""
    cast = counted_votes(db)
    candidate = np.isin(cast.a_ids, table.response_ids) & np.isin(cast.b_ids, table.response_ids)
    cast = cast.take(candidate & (cast.arm != ARMS.index("gold")))
    n_control = int(np.count_nonzero(cast.control))
    if not len(cast.grade):
        return _source_votes(db, table)
    enough = n_control >= CONTROL_VOTES_NEEDED
    used = cast.control if enough else np.ones(len(cast.grade), dtype=np.bool_)
    a, b = (_places(table.response_ids, part[used]) for part in (cast.a_ids, cast.b_ids))
    votes = PairVotes.of(a, b, cast.grade[used])
    about: Document = {"from": "control" if enough else "all", "control_votes": n_control}
    if enough:
        about["words"] = "votes of the control arm, which was drawn uniformly from the pool"
        return votes, about, []
    about["words"] = "votes of all arms"
    note = (
        f"There are {n_control} control votes, and it takes {CONTROL_VOTES_NEEDED} to go by them "
        "alone. The pairs of the other arm were chosen, not drawn: on the pool the judge may be "
        "better or worse than this."
    )
    return votes, about, [note]


def _source_votes(db: Database, table: ResponseTable) -> tuple[PairVotes, Document, list[str]]:
    for kind in KINDS:
        query = "SELECT a_id, b_id, label FROM source_labels WHERE kind = ?"
        rows = [(a, b, GRADE[label]) for a, b, label in db.execute(query, [kind])]
        if rows:
            a_ids, b_ids, grade = np.array(rows, dtype=np.int64).T
            a, b = (_places(table.response_ids, part) for part in (a_ids, b_ids))
            words = f"labels of the kind {kind} that came with the data"
            note = "The project has no votes of its own: these labels came with the data."
            about = {"from": f"data:{kind}", "control_votes": 0, "words": words}
            return PairVotes.of(a, b, grade), about, [note]
    raise NobodyVoted(
        "nobody has voted yet, and no labels by people came with the data",
        expected="votes of people on pairs whose responses the judge has scored",
        todo="label a batch (annotator next-batch), then annotator sync",
    )


def _regions(
    db: Database, prompt_ids: Ids, score: Floats, prompt_of_response: Positions, seed: int
) -> tuple[Positions, str]:
    """Regions of the newest map; without one, of the map that these scores make."""
    build = newest_map(db)
    if build is None:
        return own_regions(score, prompt_of_response, seed), "the same scores"
    placed = placed_prompts(db, build)
    known = dict(zip(placed.prompt_ids.tolist(), placed.region.tolist(), strict=True))
    region = np.array([known.get(i, NO_REGION) for i in prompt_ids.tolist()], dtype=np.int64)
    return region, build.scores_in_words


def _swapped(
    db: Database, methods: Sequence[str], table: ResponseTable, prompt_of_response: Positions
) -> SwappedVerdicts | None:
    """The pairs that these methods judged in both orders; None where they judge no pairs."""
    found: list[tuple[int, int]] = []
    for method in methods:
        query = "SELECT a_id, flipped FROM judgements WHERE method = ? AND flipped IS NOT NULL"
        found += db.execute(query, [method]).fetchall()
    if not found:
        return None
    a_ids, flipped = np.array(found, dtype=np.int64).T
    prompts = prompt_of_response[_places(table.response_ids, a_ids)]
    return SwappedVerdicts(prompts, flipped.astype(np.bool_))
