"""Tables with one column per response, the column's name being the model's.

In such a table nothing but names and values tells a response from a remark, so the rule is
fixed, and a Layout says what came of it. Names are compared without regard to case. The prompt
is the first column of PROMPTS that holds anything. A column is a response unless

- its name is in META or PROMPTS, or it has none, or
- in the first records it holds nothing but numbers, true, false, empty cells and what is no text.

Ids and the data set are read, every other column is passed over. Whoever means it otherwise
names the columns. An empty cell of a response column is a response that is not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annotator.candidates.candidate import Candidate, Response, name_of, text_of
from annotator.candidates.formats.fields import prompt_id_of
from annotator.candidates.formats.messages import prompt_of
from annotator.errors import CandidateError, RejectedRow

PROMPTS = ("prompt", "instruction", "question", "query", "input")
READ = ("prompt_id", "id", "dataset")
META = {
    *READ, "annotation", "annotator", "answer_key", "author", "batch", "category", "chosen",
    "comment", "comments", "completion", "completions", "context", "correct", "cost", "created",
    "created_at", "dataset_name", "date", "datetime", "difficulty", "domain", "duration", "email",
    "explanation", "expected", "feedback", "frequency_penalty", "gold", "ground_truth", "hash",
    "idx", "index", "kind", "label", "labels", "lang", "language", "latency", "length", "level",
    "license", "locale", "max_tokens", "meta", "metadata", "model", "model_a", "model_b", "models",
    "name", "note", "notes", "num_tokens", "presence_penalty", "provider", "question_id",
    "rating", "ratings", "rationale", "reference", "reference_answer", "rejected", "remark",
    "remarks", "response_a", "response_b", "row", "row_id", "rubric", "score", "scores", "seed",
    "session", "session_id", "set", "source", "split", "status", "stop", "subset", "system",
    "system_message", "system_prompt", "tag", "tags", "target", "task", "task_id", "temperature",
    "time", "timestamp", "title", "token_count", "tokens", "top_k", "top_p", "topic", "turn",
    "type", "updated", "updated_at", "url", "user", "user_id", "username", "uuid", "version",
    "winner",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layout:
    """What the columns of one table are, by their names in the file.

    `passed_over` are those of which nothing is read; those in READ are in no list.
    """

    prompt: str
    responses: tuple[str, ...]
    passed_over: tuple[str, ...] = ()

    def read(self, row: dict[str, Any]) -> Candidate:
        """The candidate in one line of the table. Raises RejectedRow."""
        responses = [
            Response(text_of(row[name], f"column {name!r}"), _model(name))
            for name in self.responses
            if row.get(name) not in (None, "")
        ]
        named = {_plain(name): value for name, value in row.items()}
        return Candidate(
            prompt_of(row.get(self.prompt), self.prompt),
            responses,
            external_id=prompt_id_of(named),
            dataset=name_of(named.get("dataset"), "dataset"),
        )


def matches(row: dict[str, Any]) -> bool:
    """A prompt, and at least two columns whose names and types are those of responses."""
    names = [name for name, value in row.items() if isinstance(value, str | None)]
    return _has_prompt(row) and sum(map(_may_be_response, names)) >= 2


def read(row: dict[str, Any]) -> Candidate:
    """The candidate in a line of which nothing else is known. Raises RejectedRow."""
    prompt = _prompt_column([row])
    if prompt is None:
        raise RejectedRow(f"no column {' or '.join(PROMPTS)}")
    return Layout(prompt, tuple(_response_columns([row]))).read(row)


def layout_of(
    sample: Sequence[dict[str, Any]],
    where: Path,
    *,
    prompt: str | None = None,
    responses: Sequence[str] = (),
) -> Layout:
    """What the columns of `where` are, going by its first records.

    `prompt` and `responses` name columns and overrule the rule. Raises CandidateError if there
    is no such column, no prompt, or fewer than two columns of responses.
    """
    names = list(dict.fromkeys(name for row in sample for name in row))
    answers = list(dict.fromkeys(_column(name, names, where) for name in responses))
    asked = _column(prompt, names, where) if prompt else _prompt_column(sample)
    if asked is None:
        raise _no_prompt(names, where)
    answers = answers or [name for name in _response_columns(sample) if name != asked]
    if len(answers) < 2 or asked in answers:
        raise _no_choice(asked, answers, names, where)
    used = {asked, *answers}
    rest = (name for name in names if name not in used and _plain(name) not in READ)
    return Layout(asked, tuple(answers), tuple(rest))


def _plain(name: str) -> str:
    return name.strip().lower()


def _model(name: str) -> str | None:
    return name_of(name.strip(), "name of a column")


def _has_prompt(row: dict[str, Any]) -> bool:
    return any(_plain(name) in PROMPTS and value is not None for name, value in row.items())


def _prompt_column(sample: Sequence[dict[str, Any]]) -> str | None:
    """The first of PROMPTS that holds anything; if none does, the first that is there."""
    filled: dict[str, str] = {}
    there: dict[str, str] = {}
    for row in sample:
        for name, value in row.items():
            there.setdefault(_plain(name), name)
            if value not in (None, ""):
                filled.setdefault(_plain(name), name)
    found = [columns[name] for columns in (filled, there) for name in PROMPTS if name in columns]
    return found[0] if found else None


def _response_columns(sample: Sequence[dict[str, Any]]) -> Iterator[str]:
    for name in dict.fromkeys(name for row in sample for name in row):
        if _may_be_response(name) and any(_is_prose(row.get(name)) for row in sample):
            yield name


def _may_be_response(name: str) -> bool:
    plain = _plain(name)
    if not plain or plain.startswith("unnamed: "):  # the row numbers that pandas writes
        return False
    return plain not in META and plain not in PROMPTS


def _is_prose(value: object) -> bool:
    """Whether `value` is text that is more than a number, a truth value or nothing."""
    if not isinstance(value, str) or value.strip().lower() in ("", "true", "false"):
        return False
    try:
        float(value)
    except ValueError:
        return True
    return False


def _column(name: str, names: Sequence[str], where: Path) -> str:
    """The column meant by `name`: exactly that one, else one that differs in case alone."""
    if name in names:
        return name
    alike = [known for known in names if _plain(known) == _plain(name)]
    if len(alike) != 1:
        raise CandidateError(
            f"{where} has {len(alike) or 'no'} columns {name!r}",
            expected=f"one of its columns: {_listed(names)}",
            todo="name the column as the file does",
        )
    return alike[0]


def _no_prompt(names: Sequence[str], where: Path) -> CandidateError:
    return CandidateError(
        f"{where} has no column of prompts; its columns are {_listed(names)}",
        expected=f"a column {', '.join(PROMPTS[:-1])} or {PROMPTS[-1]}",
        todo="name the column with --prompt COLUMN",
    )


def _no_choice(
    prompt: str, answers: Sequence[str], names: Sequence[str], where: Path
) -> CandidateError:
    return CandidateError(
        f"columns of responses in {where}: {_listed(answers)}; all columns: {_listed(names)}",
        expected=f"two or more columns of text beside the prompt, {prompt!r}",
        todo="name them with --responses COLUMN,COLUMN,...",
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 30} more" if len(names) > 30 else ""
    return (", ".join(name or "(no name)" for name in names[:30]) or "none") + more
