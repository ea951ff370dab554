"""Owner of the table scores: what a machine thinks of each response, whoever the machine is.

Scores are named by their method. PEER_AGREEMENT needs no judge: it is the mean cosine of a response
to the other responses of its prompt, the quality proxy of minimum-Bayes-risk decoding. It says how
typical an answer is, not how good. `data:NAME` is a score that came with the data; those rows stay
where the import put them.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from annotator.candidates.catalog import ResponseTable, source_scores
from annotator.errors import ScoreError
from annotator.signals.embeddings import response_vectors
from strategies.within_prompt import Floats, peer_agreement

if TYPE_CHECKING:
    from sqlite_utils import Database

PEER_AGREEMENT = "peer-agreement"
FROM_DATA = "data:"

Ids = NDArray[np.int64]


def method_named(db: Database, name: str | None) -> str:
    """The method that a person means by `name`; None means PEER_AGREEMENT.

    Raises ScoreError, with the names there are, if no score of that name came with the data.
    """
    if name is None or name == PEER_AGREEMENT:
        return PEER_AGREEMENT
    names = source_score_names(db)
    wanted = name.removeprefix(FROM_DATA)
    if wanted in names:
        return FROM_DATA + wanted
    raise ScoreError(
        f"no response has a score {name!r}",
        expected=f"one of {', '.join([PEER_AGREEMENT, *names])}",
        todo="" if names else "import a file that brings scores, or leave --scores out",
    )


def source_score_names(db: Database) -> list[str]:
    """The names of the scores that came with the data, sorted."""
    query = "SELECT DISTINCT name FROM source_scores ORDER BY name"
    return [str(name) for (name,) in db.execute(query)]


def method_in_words(method: str, encoder: str | None) -> str:
    """What the scores of that method are, said so that nobody takes them for more."""
    if method == PEER_AGREEMENT:
        return f"peer agreement by {encoder}: no judge has scored these responses"
    return f"{method.removeprefix(FROM_DATA)!r}, a score that came with the data"


def compute_scores(
    db: Database, database_path: Path, encoder_id: int | None, method: str, table: ResponseTable
) -> Floats:
    """The scores of all responses of `table` by that method, NaN where there is none.

    Peer agreement is computed anew from the vectors of `encoder_id`. Raises EncoderError if a
    response has no vector.
    """
    if method != PEER_AGREEMENT:
        return scores_by(db, method, table.response_ids)
    if encoder_id is None:
        raise ValueError("peer agreement needs an encoder")
    vectors = response_vectors(db, database_path, encoder_id, table.response_ids)
    _, prompts = np.unique(table.prompt_ids, return_inverse=True)
    return peer_agreement(vectors, prompts)


def record_scores(
    db: Database, method: str, encoder_id: int | None, response_ids: Ids, scores: Floats
) -> None:
    """Puts these scores in the place of all of that method, in the caller's transaction.

    Those of the data are left where they are.
    """
    if method.startswith(FROM_DATA):
        return
    order = np.argsort(response_ids)
    order = order[~np.isnan(scores[order])]
    ids, values = response_ids[order].tolist(), scores[order].tolist()
    db.execute("DELETE FROM scores WHERE method = ?", [method])
    db.conn.executemany(
        "INSERT INTO scores (method, response_id, score, encoder_id) VALUES (?, ?, ?, ?)",
        ((method, i, value, encoder_id) for i, value in zip(ids, values, strict=True)),
    )


def count_scores(db: Database, method: str) -> int:
    """How many responses have a score by that method."""
    table, column, name = "scores", "method", method
    if method.startswith(FROM_DATA):
        table, column, name = "source_scores", "name", method.removeprefix(FROM_DATA)
    query = f"SELECT count(*) FROM {table} WHERE {column} = ?"  # noqa: S608
    return int(db.execute(query, [name]).fetchone()[0])


def scores_by(db: Database, method: str, response_ids: Ids) -> Floats:
    """The recorded scores of these responses, in this order; NaN where there is none."""
    known, values = _recorded(db, method)
    scores = np.full(len(response_ids), np.nan)
    if len(known):
        places = np.minimum(np.searchsorted(known, response_ids), len(known) - 1)
        there = known[places] == response_ids
        scores[there] = values[places[there]]
    return scores


def _recorded(db: Database, method: str) -> tuple[Ids, Floats]:
    """Ids, ascending, of the responses that have a score by that method, and the scores."""
    rows: Iterable[tuple[int, float]]
    if method.startswith(FROM_DATA):
        rows = source_scores(db, method.removeprefix(FROM_DATA)).items()
    else:
        rows = db.execute("SELECT response_id, score FROM scores WHERE method = ?", [method])
    # Ids are exact in float64 up to 2**53.
    found: Floats = np.fromiter(chain.from_iterable(rows), dtype=np.float64).reshape(-1, 2)
    found = found[np.argsort(found[:, 0])]
    return found[:, 0].astype(np.int64), found[:, 1]
