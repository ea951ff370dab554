"""What the database knows of a batch of rows, asked in a handful of queries whatever its size."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from annotator.candidates.gold import GOLD_ONLY_PROMPTS, GOLD_ONLY_RESPONSES
from annotator.candidates.keyed import KeyedRow

if TYPE_CHECKING:
    from sqlite_utils import Database


class KnownPrompt(NamedTuple):
    """A prompt as it is stored: its row, and the name it was first imported under."""

    id: int
    dataset: str
    external_id: str | None


class Known:
    """Everything stored under a key that the batch speaks of; the batch adds to it as it goes.

    prompts         prompt key -> KnownPrompt
    prompt_names    (dataset, id of the prompt in it) -> prompt key
    responses       response key -> row number
    response_names  (prompt, id of the response to it) -> response key
    n_responses     prompt -> how many responses it has
    scores          (response, name of the score) -> value
    labels          label keys
    gold_prompts    ids of the prompts, of all, that are gold only
    gold_responses  ids of the responses, of all, that are gold only
    """

    def __init__(self, db: Database, rows: Sequence[KeyedRow]) -> None:
        self._db = db
        self.prompts = self._prompts(rows)
        self.prompt_names = self._prompt_names(rows)
        self.responses = self._responses(rows)
        self.response_names = self._response_names(rows)
        self.n_responses = self._n_responses()
        self.scores = self._scores(rows)
        self.labels = self._labels(rows)
        self.gold_prompts = self._ids(GOLD_ONLY_PROMPTS)
        self.gold_responses = self._ids(GOLD_ONLY_RESPONSES)

    def _prompts(self, rows: Sequence[KeyedRow]) -> dict[str, KnownPrompt]:
        found = self._ask(_PROMPTS, {row.prompt_key for row in rows})
        return {key: KnownPrompt(*values) for key, *values in found}

    def _prompt_names(self, rows: Sequence[KeyedRow]) -> dict[tuple[str, str], str]:
        names = {(row.dataset, row.sound.candidate.external_id) for row in rows}
        found = self._ask(_PROMPT_NAMES, (name for name in names if name[1] is not None))
        return {(dataset, name): key for dataset, name, key in found}

    def _responses(self, rows: Sequence[KeyedRow]) -> dict[str, int]:
        return dict(self._ask(_RESPONSES, {key for row in rows for key in row.response_keys}))

    def _response_names(self, rows: Sequence[KeyedRow]) -> dict[tuple[int, str], str]:
        wanted = [
            (prompt.id, name)
            for row in rows
            if (prompt := self.prompts.get(row.prompt_key)) is not None
            for name in response_names(row, prompt)
            if name is not None
        ]
        found = self._ask(_RESPONSE_NAMES, wanted)
        return {(prompt, name): key for prompt, name, key in found}

    def _n_responses(self) -> dict[int, int]:
        return dict(self._ask(_N_RESPONSES, (prompt.id for prompt in self.prompts.values())))

    def _scores(self, rows: Sequence[KeyedRow]) -> dict[tuple[int, str], float]:
        wanted = [
            (known, name)
            for row in rows
            for key, response in zip(row.response_keys, row.sound.candidate.responses, strict=True)
            if (known := self.responses.get(key)) is not None
            for name in response.scores
        ]
        return {(response, name): value for response, name, value in self._ask(_SCORES, wanted)}

    def _labels(self, rows: Sequence[KeyedRow]) -> set[str]:
        found = self._ask(_LABELS, {label.key for row in rows for label in row.labels})
        return {key for (key,) in found}

    def _ids(self, query: str) -> set[int]:
        return {known for (known,) in self._db.execute(query)}

    def _ask(self, query: str, wanted: Iterable[Any]) -> Sequence[tuple[Any, ...]]:
        values = list(wanted)
        if not values:
            return []
        return self._db.execute(query, [json.dumps(values, ensure_ascii=False)]).fetchall()


def response_names(row: KeyedRow, prompt: KnownPrompt | None) -> list[str | None]:
    """The ids of the row's responses among all responses to its prompt.

    An id of a response means something only beside the id of its prompt. Where the same prompt
    is already there under another id or in another dataset, the row's ids say whose they are.
    """
    candidate = row.sound.candidate
    names = [response.external_id for response in candidate.responses]
    if prompt is None or prompt[1:] == (row.dataset, candidate.external_id):
        return names
    scope = f"{row.dataset}/{candidate.external_id or ''}/"
    return [None if name is None else scope + name for name in names]


# What is asked for comes as one JSON list. CROSS JOIN keeps SQLite from turning the join round:
# one look-up in the index for each thing wanted.
_PROMPTS = """
    SELECT prompt_key, id, dataset, external_id FROM prompts
    WHERE prompt_key IN (SELECT value FROM json_each(?))"""
_PROMPT_NAMES = """
    SELECT p.dataset, p.external_id, p.prompt_key FROM json_each(?) AS want
    CROSS JOIN prompts p ON p.dataset = json_extract(want.value, '$[0]')
      AND p.external_id = json_extract(want.value, '$[1]') AND p.external_id IS NOT NULL"""
_RESPONSES = """
    SELECT response_key, id FROM responses
    WHERE response_key IN (SELECT value FROM json_each(?))"""
_RESPONSE_NAMES = """
    SELECT r.prompt_id, r.external_id, r.response_key FROM json_each(?) AS want
    CROSS JOIN responses r ON r.prompt_id = json_extract(want.value, '$[0]')
      AND r.external_id = json_extract(want.value, '$[1]') AND r.external_id IS NOT NULL"""
_N_RESPONSES = """
    SELECT prompt_id, count(*) FROM responses
    WHERE prompt_id IN (SELECT value FROM json_each(?)) GROUP BY prompt_id"""
_SCORES = """
    SELECT s.response_id, s.name, s.value FROM json_each(?) AS want
    CROSS JOIN source_scores s ON s.response_id = json_extract(want.value, '$[0]')
      AND s.name = json_extract(want.value, '$[1]')"""
_LABELS = """
    SELECT label_key FROM source_labels WHERE label_key IN (SELECT value FROM json_each(?))"""
