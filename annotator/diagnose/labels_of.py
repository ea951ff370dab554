"""From a database to the labels in it, the responses they are on, and what machines say of these.

A project's labels are the votes that count; a labelled file's are those that it brought.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from annotator.candidates.catalog import ResponseTable, response_table
from annotator.diagnose import DiagnoseError
from annotator.diagnose.methods import Labels
from annotator.labels.votes import counted_votes
from annotator.preference.features import ResponseFeatures
from annotator.rounds.features import features_of
from annotator.signals.embeddings import have_vectors, response_vectors
from annotator.signals.judges.panel import scores_in_data
from annotator.signals.scores import (
    FROM_DATA,
    PEER_AGREEMENT,
    PEOPLE,
    Ids,
    compute_scores,
    method_in_words,
    method_named,
    told_method,
)
from strategies.within_prompt import Bools, Floats, Positions, peer_agreement

if TYPE_CHECKING:
    from sqlite_utils import Database

GRADE = {"a": 1, "b": -1, "tie": 0, "both_bad": 0}
KINDS = ("human", "objective")  # whose labels count; the second where there are none of the first


@dataclass(frozen=True, eq=False)
class Labelled:
    """Labels, and what there is to hold them against.

    - `labels`; `features` and `score` (n_responses,), NaN where there is none, of all responses to
      the labelled prompts, in the order of `response_ids`.
    - `scores`: what gave the scores, in words; `judged`: whether it was a judge rather than peer
      agreement.
    - `source`: what the labels are, in words; `annotators`: the name behind each number in
      `labels.annotator`, None where nobody knows.
    - `label_ids` (n_labels,): row of source_labels, or pick, that each label is of.
    """

    source: str
    labels: Labels
    label_ids: Ids
    annotators: tuple[str | None, ...]
    response_ids: Ids
    features: ResponseFeatures
    score: Floats
    scores: str
    judged: bool

    @property
    def prompt_of_pair(self) -> Positions:
        """Which prompt each labelled pair belongs to, (n_pairs,)."""
        prompts: Positions = self.features.prompt_of_response[self.labels.a]
        return prompts


@dataclass(frozen=True, eq=False)
class _Raw:
    """Labels by the ids of their responses, (n_labels,) each, in any order, in the pair's frame."""

    source: str
    ids: Ids
    a: Ids
    b: Ids
    grade: Positions
    annotator: Positions
    left_is_a: Bools
    annotators: tuple[str | None, ...]


def labels_of_project(
    db: Database, database_path: Path, encoder_id: int, scores: str | None = None
) -> Labelled:
    """The votes that count in a project. `scores` as `annotator map --scores` names them.

    None: the judge, or the data's score, whose map was made last; without one peer agreement.
    Raises DiagnoseError if nobody has voted, ScoreError if there are no such scores.
    """
    raw = _votes(db, encoder_id)
    method = method_named(db, scores) if scores else told_method(db) or PEER_AGREEMENT
    _refuse_people(method.removeprefix(FROM_DATA))
    table = _responses_of(db, raw)
    if method == PEER_AGREEMENT:
        return _labelled(db, database_path, encoder_id, table, raw, None, "")
    score = compute_scores(db, database_path, encoder_id, method, table)
    words = method_in_words(method, None)
    return _labelled(db, database_path, encoder_id, table, raw, score, words)


def labels_of_data(
    db: Database, database_path: Path, encoder_id: int, scores: str | None = None
) -> Labelled:
    """The labels that came with the data: people's, or gold ones where there are none of people.

    `scores`: a judge's that came with it, or a pattern such as `llm:*` for the mean of several;
    None: peer agreement. Raises DiagnoseError if there are no such labels, ScoreError if there are
    no such scores or people gave them.
    """
    raw = _source_labels(db)
    table = _responses_of(db, raw)
    score, words = None, ""
    if scores and scores != PEER_AGREEMENT:
        panel = scores_in_data(db, [scores], table.response_ids)
        for name in panel.names:
            _refuse_people(name)
        score = panel.mean()
        named = panel.names[0] if len(panel.names) == 1 else f"mean of {len(panel.names)} {scores}"
        words = f"{named}, scores that came with the data"
    return _labelled(db, database_path, encoder_id, table, raw, score, words)


def _refuse_people(name: str) -> None:
    if name.startswith(PEOPLE):
        raise DiagnoseError(
            f"people gave the scores {name!r}",
            expected="scores of a judge: people's own cannot speak against their labels",
            todo="name a judge, such as 'llm:*', or leave --scores out",
        )


def _votes(db: Database, encoder_id: int) -> _Raw:
    votes = counted_votes(db)
    ends = np.concatenate((votes.a_ids, votes.b_ids))
    known = have_vectors(db, encoder_id, ends) if len(ends) else np.empty(0, dtype=np.bool_)
    n = len(votes)
    votes = votes.take(known[:n] & known[n:])  # gold answers may be on prompts without vectors
    if not len(votes):
        raise DiagnoseError(
            "nobody has voted yet",
            expected="votes of people on pairs",
            todo="label a batch (annotator next-batch), then annotator sync; or name a labelled "
            "file: annotator diagnose FILE",
        )
    who, annotator = np.unique(votes.annotator_ids, return_inverse=True)
    names = dict(db.execute("SELECT id, name FROM annotators").fetchall())
    return _Raw(
        "votes of the project",
        votes.pick_ids,
        votes.a_ids,
        votes.b_ids,
        votes.grade,
        annotator.astype(np.int64).reshape(-1),
        votes.left_is_a,
        tuple(names.get(i) for i in who.tolist()),
    )


_SOURCE = "SELECT id, a_id, b_id, label, annotator FROM source_labels WHERE kind = ? ORDER BY id"


def _source_labels(db: Database) -> _Raw:
    for kind in KINDS:
        rows = db.execute(_SOURCE, [kind]).fetchall()
        if rows:
            return _raw_of(kind, rows)
    kinds = [kind for (kind,) in db.execute("SELECT DISTINCT kind FROM source_labels")]
    raise DiagnoseError(
        f"the files carry no labels of people; labels in them: {', '.join(kinds) or 'none'}",
        expected="labels of the kind human, or objective for gold labels",
        todo="give labelled pairs, such as comparisons, chosen and rejected, or a winner",
    )


def _raw_of(kind: str, rows: Sequence[tuple[int, int, int, str, str | None]]) -> _Raw:
    numbers: dict[str | None, int] = {}
    columns = np.array(
        [
            (i, a, b, GRADE[label], numbers.setdefault(who, len(numbers)))
            for i, a, b, label, who in rows
        ],
        dtype=np.int64,
    ).T
    ids, a, b, grade, annotator = columns
    source = f"labels of the kind {kind}"
    # Where each stood is not known; the file's own order often says who won.
    left_is_a = np.random.default_rng(0).random(len(ids)) < 0.5
    return _Raw(source, ids, a, b, grade, annotator, left_is_a, tuple(numbers))


def _responses_of(db: Database, raw: _Raw) -> ResponseTable:
    """All responses to the prompts that carry a label."""
    table = response_table(db)
    labelled = np.isin(table.response_ids, np.concatenate((raw.a, raw.b)))
    kept = np.isin(table.prompt_ids, np.unique(table.prompt_ids[labelled]))
    return ResponseTable(table.response_ids[kept], table.prompt_ids[kept])


def _labelled(
    db: Database,
    database_path: Path,
    encoder_id: int,
    table: ResponseTable,
    raw: _Raw,
    score: Floats | None,
    scores: str,
) -> Labelled:
    prompt_ids, prompts = np.unique(table.prompt_ids, return_inverse=True)
    prompts = prompts.astype(np.int64).reshape(-1)
    vectors = response_vectors(db, database_path, encoder_id, table.response_ids)
    judged = None if score is None else score[:, None]
    features = features_of(
        db, database_path, encoder_id, table.response_ids, prompt_ids, vectors, prompts, judged
    )
    labels, order = _labels(raw, table)
    return Labelled(
        source=raw.source,
        labels=labels,
        label_ids=raw.ids[order],
        annotators=raw.annotators,
        response_ids=table.response_ids,
        features=features,
        score=peer_agreement(vectors, prompts) if score is None else score,
        scores=scores or "peer agreement: no judge has scored these responses",
        judged=score is not None,
    )


def _labels(raw: _Raw, table: ResponseTable) -> tuple[Labels, Positions]:
    """The labels sorted by pair, and the row of `raw` that each comes from.

    Pairs are stored in the order in which the table has their responses.
    """
    by_id = np.argsort(table.response_ids)
    ends = np.stack((raw.a, raw.b))
    a, b = by_id[np.searchsorted(table.response_ids, ends, sorter=by_id)]
    code = a * len(by_id) + b
    order = np.argsort(code, kind="stable")
    _, starts, pair = np.unique(code[order], return_index=True, return_inverse=True)
    labels = Labels(
        a=a[order][starts],
        b=b[order][starts],
        pair=pair.astype(np.int64).reshape(-1),
        grade=raw.grade[order],
        annotator=raw.annotator[order],
        left_is_a=raw.left_is_a[order],
    )
    return labels, order
