"""What the other stages may ask about the candidates."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from annotator.candidates.gold import GOLD_ONLY_PROMPTS, GOLD_ONLY_RESPONSES
from annotator.candidates.identity import Message
from annotator.store import integer_columns

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sqlite_utils import Database


@dataclass(frozen=True)
class ResponseTable:
    """Ids of every candidate and of its prompt, ordered by prompt and then by response key.

    In this order the responses of a prompt are contiguous, and of two of them the one that
    comes first is `a` of the pair.
    """

    response_ids: NDArray[np.int64]
    prompt_ids: NDArray[np.int64]


@dataclass(frozen=True)
class Shown:
    """The texts of one response and of its prompt."""

    response_key: str
    text: str
    model: str | None
    prompt_key: str
    messages: list[Message]
    dataset: str
    external_id: str | None


def response_table(db: Database) -> ResponseTable:
    """All responses that are candidates, in the order in which pools are built.

    Not those that are gold only: see `annotator.candidates.gold`.
    """
    import numpy as np

    query = "SELECT id, prompt_id FROM responses ORDER BY prompt_id, response_key"
    columns = integer_columns(db, query, 2)
    (gold_only,) = integer_columns(db, f"SELECT DISTINCT id FROM ({GOLD_ONLY_RESPONSES})", 1)  # noqa: S608
    if len(gold_only):
        columns = columns[:, ~np.isin(columns[0], gold_only)]
    return ResponseTable(*columns)


def n_candidates(db: Database) -> int:
    """How many responses are candidates: the rows of `response_table`."""
    return int(db.execute(_N_CANDIDATES).fetchone()[0])


_N_CANDIDATES = f"""SELECT (SELECT count(*) FROM responses)
    - (SELECT count(DISTINCT id) FROM ({GOLD_ONLY_RESPONSES}))"""  # noqa: S608


def response_keys(db: Database, response_ids: Iterable[int]) -> dict[int, str]:
    """Response id -> response key."""
    query = "SELECT id, response_key FROM responses WHERE id IN (SELECT value FROM json_each(?))"
    return dict(db.execute(query, [json.dumps(list(response_ids))]).fetchall())


def shown_responses(db: Database, response_ids: Iterable[int]) -> dict[int, Shown]:
    """Response id -> its text and its prompt, for the responses asked for."""
    query = """
        SELECT r.id, r.response_key, r.text, r.model, p.prompt_key, p.messages, p.dataset,
               p.external_id
        FROM responses r JOIN prompts p ON p.id = r.prompt_id
        WHERE r.id IN (SELECT value FROM json_each(?))"""
    found = db.execute(query, [json.dumps(sorted(set(response_ids)))])
    return {
        row[0]: Shown(
            response_key=row[1],
            text=row[2],
            model=row[3],
            prompt_key=row[4],
            messages=json.loads(row[5]),
            dataset=row[6],
            external_id=row[7],
        )
        for row in found
    }


def texts_and_models(
    db: Database, response_ids: Iterable[int]
) -> tuple[list[str], list[str | None]]:
    """The text of each of these responses, in this order, and the model that wrote it if known."""
    query = """SELECT r.text, r.model FROM json_each(?) wanted
        CROSS JOIN responses r ON r.id = wanted.value ORDER BY wanted.key"""
    rows = db.execute(query, [json.dumps(list(response_ids))]).fetchall()
    return [text for text, _ in rows], [model for _, model in rows]


def source_scores(db: Database, name: str) -> dict[int, float]:
    """Response id -> the score `name` that came with the data, where there is one."""
    query = "SELECT response_id, value FROM source_scores WHERE name = ?"
    return dict(db.execute(query, [name]).fetchall())


def count_candidates(db: Database) -> dict[str, int]:
    """How many candidates (prompts, responses, pairs), labels with the data, gold answers."""
    queries = {
        "prompts": f"SELECT count(*) FROM prompts WHERE id NOT IN ({GOLD_ONLY_PROMPTS})",  # noqa: S608
        "responses": _N_CANDIDATES,
        "pairs": f"""SELECT coalesce(sum(k * (k - 1) / 2), 0) FROM (SELECT count(*) AS k
            FROM responses WHERE id NOT IN ({GOLD_ONLY_RESPONSES}) GROUP BY prompt_id)""",  # noqa: S608
        "source_labels": "SELECT count(*) FROM source_labels",
        "gold": "SELECT count(*) FROM gold",
    }
    return {name: int(db.execute(query).fetchone()[0]) for name, query in queries.items()}
