"""Owner of the table scores: what a machine thinks of each response, whoever the machine is.

Scores are named by their method. PEER_AGREEMENT needs no judge: it is the mean cosine of a response
to the other responses of its prompt, the quality proxy of minimum-Bayes-risk decoding. It says how
typical an answer is, not how good. `data:NAME` is a score that came with the data; those rows stay
where the import put them. `judge:...` and `reward-model:...` are recorded once by the judge that
gave them, each with the judge's own variance; a map made of them leaves them as they are.
"""

from __future__ import annotations

import re
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
NEWEST_JUDGE = "judge"
BY_JUDGE = "judge:"
PEOPLE = "human"  # what the names of people's scores begin with
BY_REWARD_MODEL = "reward-model:"

Ids = NDArray[np.int64]


def method_named(db: Database, name: str | None) -> str:
    """The method that a person means by `name`; None means PEER_AGREEMENT.

    `judge` is the judge whose map was made last. A recorded method may be named by any beginning
    that no other one shares. Raises ScoreError, with the names there are, if there is no such
    score or more than one.
    """
    if name is None or name == PEER_AGREEMENT:
        return PEER_AGREEMENT
    if name == NEWEST_JUDGE:
        return _newest_judge(db)
    names = source_score_names(db)
    wanted = name.removeprefix(FROM_DATA)
    if wanted in names:
        return FROM_DATA + wanted
    judges = judge_methods(db)
    found = [name] if name in judges else [m for m in judges if m.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ScoreError(
            f"{name!r} may be any of {', '.join(found)}",
            expected="the name of one",
            todo="write more of it",
        )
    known = bool(names or judges)
    raise ScoreError(
        f"no response has a score {name!r}",
        expected=f"one of {', '.join([PEER_AGREEMENT, *judges, *names])}",
        todo="" if known else "import a file that brings scores, or leave --scores out",
    )


def judge_methods(db: Database) -> list[str]:
    """The judges, reward models among them, that have scored a response; sorted."""
    # One seek for each name: a project has few judges and many scores.
    query = """WITH RECURSIVE names(method) AS (
        SELECT min(method) FROM scores
        UNION ALL
        SELECT (SELECT min(method) FROM scores WHERE method > names.method) FROM names
        WHERE names.method IS NOT NULL)
        SELECT method FROM names WHERE method IS NOT NULL"""
    return [method for (method,) in db.execute(query) if is_judge(method)]


def is_judge(method: str) -> bool:
    """Whether scores of that method are a judge's, and so recorded once and kept."""
    return method.startswith((BY_JUDGE, BY_REWARD_MODEL))


def _newest_judge(db: Database) -> str:
    mapped = [m for (m,) in db.execute("SELECT method FROM datamap_builds ORDER BY id DESC")]
    scored = judge_methods(db)
    newest = [method for method in mapped if method in scored]
    if not scored:
        raise ScoreError(
            "no judge has scored a response",
            expected="scores by a judge",
            todo="run `annotator judge` first",
        )
    if not newest and len(scored) > 1:
        raise ScoreError(
            f"which judge is meant: {', '.join(scored)}?",
            expected="the name of one",
            todo="write its name after --scores",
        )
    return (newest or scored)[0]


def told_method(db: Database) -> str | None:
    """The method whose scores the preference model is told beside the vectors; None: no scores.

    The judge, or the score that came with the data, whose map was made last; maps by peer
    agreement, which is among the features as it is, and by people's scores, which are no signal
    but the answer, leave that as it was. Where there is no such map: the judge, if there is one
    alone; which of several was recorded last is not on record, so then it is none.
    """
    judges, sources = judge_methods(db), source_score_names(db)
    offered = {*judges, *(FROM_DATA + name for name in sources if not name.startswith(PEOPLE))}
    mapped = db.execute("SELECT method FROM datamap_builds ORDER BY id DESC")
    newest = next((method for (method,) in mapped if method in offered), None)
    return newest or (judges[0] if len(judges) == 1 else None)


def source_score_names(db: Database) -> list[str]:
    """The names of the scores that came with the data, sorted."""
    query = "SELECT DISTINCT name FROM source_scores ORDER BY name"
    return [str(name) for (name,) in db.execute(query)]


def method_in_words(method: str, encoder: str | None) -> str:
    """What the scores of that method are, said so that nobody takes them for more."""
    if method == PEER_AGREEMENT:
        return f"peer agreement by {encoder}: no judge has scored these responses"
    if method.startswith(BY_REWARD_MODEL):
        return f"reward model {_without_hash(method.removeprefix(BY_REWARD_MODEL))}"
    if method.startswith(BY_JUDGE):
        return _judge_in_words(_without_hash(method.removeprefix(BY_JUDGE)))
    return f"{method.removeprefix(FROM_DATA)!r}, a score that came with the data"


def _without_hash(name: str) -> str:
    return name.rpartition(":")[0] or name


_READING = re.compile(r"-(logprobs|integer|samples-(\d+))$")


def _judge_in_words(name: str) -> str:
    """ROUTE:MODEL@HOST:RUBRIC[-READING]; the model and the host may hold colons themselves."""
    reading = _READING.search(name)
    name = name[: reading.start()] if reading else name
    route, _, rest = name.partition(":")
    judge, _, rubric = rest.rpartition(":")
    model, _, host = judge.rpartition("@")
    words = f"{route} {rubric} by {model} at {host}"
    if reading is None:
        return words
    read = {"logprobs": "from log-probs", "integer": "as written"}
    return f"{words}, {read.get(reading[1], f'from {reading[2]} samples')}"


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

    Those of the data and of judges, which a map only reads, are left where they are.
    """
    if method.startswith(FROM_DATA) or is_judge(method):
        return
    db.execute("DELETE FROM scores WHERE method = ?", [method])
    _add_scores(db, method, encoder_id, response_ids, scores, np.full(len(scores), np.nan))


def record_judged(
    db: Database,
    method: str,
    response_ids: Ids,
    scores: Floats,
    judge_variance: Floats,
    *,
    encoder_id: int | None = None,
    beside: bool = False,
) -> None:
    """Records a judge's scores (n,), each with the judge's variance, in the caller's transaction.

    They replace all scores of that method; with `beside` the others stay, and these responses
    must have none. A NaN score is no row; a NaN variance is NULL, unknown. `encoder_id` says whose
    vectors the scores were computed from, if any.
    """
    if not beside:
        db.execute("DELETE FROM scores WHERE method = ?", [method])
    _add_scores(db, method, encoder_id, response_ids, scores, judge_variance)


def _add_scores(
    db: Database,
    method: str,
    encoder_id: int | None,
    response_ids: Ids,
    scores: Floats,
    judge_variance: Floats,
) -> None:
    order = np.argsort(response_ids)
    order = order[~np.isnan(scores[order])]
    columns = (response_ids[order], scores[order], judge_variance[order])
    db.conn.executemany(
        """INSERT INTO scores (method, encoder_id, response_id, score, judge_variance)
        VALUES (?, ?, ?, ?, ?)""",  # SQLite keeps NaN as NULL
        (
            (method, encoder_id, *row)
            for row in zip(*(column.tolist() for column in columns), strict=True)
        ),
    )


def judge_counts(db: Database) -> dict[str, int]:
    """Judge's method -> how many responses have a score by it."""
    return {method: count_scores(db, method) for method in judge_methods(db)}


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
