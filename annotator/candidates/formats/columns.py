"""Tables with one column per response, the column's name being the model's.

The column `prompt` or `instruction` is the prompt. Columns named in META, or without a name,
are not responses: ids are read, the rest is passed over. Every other column that holds text is
a response; an empty cell is a response that is not there. In a table nothing else tells a
response from a remark, so a remark must have a name in META or be taken out of the file.
"""

from __future__ import annotations

from typing import Any

from annotator.candidates.candidate import Candidate, Response, name_of, text_of
from annotator.candidates.formats.fields import prompt_id_of
from annotator.candidates.formats.messages import prompt_of
from annotator.errors import RejectedRow

PROMPTS = ("prompt", "instruction")
META = {
    "annotator", "category", "chosen", "completion", "completions", "context", "dataset",
    "date", "domain", "id", "index", "input", "kind", "label", "labels", "language", "lang",
    "level", "license", "meta", "metadata", "model", "model_a", "model_b", "name", "note",
    "notes", "prompt_id", "question_id", "rating", "rejected", "response_a", "response_b",
    "row", "score", "scores", "set", "source", "split", "subset", "tag", "tags", "task",
    "timestamp", "topic", "turn", "type", "url", "winner",
}  # fmt: skip


def matches(row: dict[str, Any]) -> bool:
    """A prompt and at least two columns that can be responses."""
    return _prompt_column(row) is not None and len(_response_columns(row)) >= 2


def read(row: dict[str, Any]) -> Candidate:
    """The candidate in one line of the table. Raises RejectedRow."""
    column = _prompt_column(row)
    if column is None:
        raise RejectedRow(f"no column {' or '.join(PROMPTS)}")
    responses = [
        Response(text_of(row[name], f"column {name!r}"), name_of(name, "name of a column"))
        for name in _response_columns(row)
        if row[name] not in (None, "")
    ]
    return Candidate(
        prompt_of(row[column], column),
        responses,
        external_id=prompt_id_of(row),
        dataset=name_of(row.get("dataset"), "dataset"),
    )


def _prompt_column(row: dict[str, Any]) -> str | None:
    return next((name for name in PROMPTS if row.get(name) is not None), None)


def _response_columns(row: dict[str, Any]) -> list[str]:
    return [name for name, value in row.items() if _may_be_response(name, value)]


def _may_be_response(name: str, value: object) -> bool:
    if not name or name.startswith("Unnamed: "):  # the row numbers that pandas writes
        return False
    return name.lower() not in (*META, *PROMPTS) and isinstance(value, str | None)
