"""Preference rows of TRL: `chosen` and `rejected`, with the prompt or without it.

    {"prompt": "...", "chosen": "...", "rejected": "..."}
    {"chosen": "...", "rejected": "..."}                        the prompt is how both begin
    {"prompt"?: [turns], "chosen": [turns], "rejected": [turns]}

A dialogue may repeat the prompt at its beginning, and must end in one turn of the assistant.
Known beside them: `prompt_id` or `id`, `dataset`, `annotator`, and a score or model of each side
under one of the names in SCORES and MODELS. The label is taken for a human's unless `label_kind`
("llm:NAME", "objective") says otherwise. Rows with one prompt become one prompt with as many
responses as there are different ones.
"""

from __future__ import annotations

from typing import Any

from annotator.candidates.candidate import (
    Candidate,
    Label,
    Response,
    label_kind,
    name_of,
    number_of,
    text_of,
)
from annotator.candidates.formats.fields import prompt_id_of
from annotator.candidates.formats.messages import dialogue_of, prompt_of, shared_history
from annotator.candidates.identity import Message
from annotator.errors import RejectedRow

SCORES = ("score_{}", "{}_score", "{}-rating", "{}_rating")
MODELS = ("model_{}", "{}_model", "{}-model")
SIDES = ("chosen", "rejected")

Split = tuple[list[Message], str, str]


def matches(row: dict[str, Any]) -> bool:
    """Both sides are there, as text or as dialogues."""
    return all(isinstance(row.get(side), str | list) for side in SIDES)


def read(row: dict[str, Any]) -> Candidate:
    """The candidate in a row of chosen and rejected. Raises RejectedRow."""
    return preference(row, *_split(row))


def preference(
    row: dict[str, Any], messages: list[Message], chosen: str, rejected: str
) -> Candidate:
    """Two responses, the first preferred, with what else the row says of them."""
    responses = [
        Response(text, _model(row, side), None, _score(row, side))
        for side, text in zip(SIDES, (chosen, rejected), strict=True)
    ]
    label = Label(
        0,
        1,
        "a",
        annotator=name_of(row.get("annotator"), "annotator"),
        kind=label_kind(row.get("label_kind")),
    )
    dataset = name_of(row.get("dataset"), "dataset")
    return Candidate(messages, responses, [label], prompt_id_of(row), dataset)


def _split(row: dict[str, Any]) -> Split:
    chosen, rejected, prompt = row.get("chosen"), row.get("rejected"), row.get("prompt")
    if isinstance(chosen, list) and isinstance(rejected, list):
        return _split_dialogues(prompt, chosen, rejected)
    texts = text_of(chosen, "chosen"), text_of(rejected, "rejected")
    if prompt is None:
        return _split_texts(*texts)
    return (prompt_of(prompt), *texts)


def _split_dialogues(prompt: object, chosen: list[object], rejected: list[object]) -> Split:
    first, second = dialogue_of(chosen, "chosen"), dialogue_of(rejected, "rejected")
    if prompt is None:
        return shared_history(first, second, SIDES)
    start = prompt_of(prompt)
    whole = (_after(start, first), _after(start, second))
    return shared_history(*whole, SIDES)


def _after(start: list[Message], dialogue: list[Message]) -> list[Message]:
    """The prompt and the completion, whether or not the dialogue repeats the prompt."""
    return dialogue if dialogue[: len(start)] == start else [*start, *dialogue]


def _split_texts(chosen: str, rejected: str) -> Split:
    # prompt + response is the text as it was, and a space between them belongs to the response,
    # as in trl.extract_prompt; unlike there, no word is cut in two.
    shared = _shared_start(chosen, rejected)
    cut = max(shared.rfind(space) for space in " \n\t")
    if cut <= 0 or not shared[:cut].strip():
        raise RejectedRow("there is no prompt, and chosen and rejected do not begin alike")
    prompt = [Message(role="user", content=shared[:cut])]
    return prompt, chosen[cut:], rejected[cut:]


def _shared_start(first: str, second: str) -> str:
    pairs = enumerate(zip(first, second, strict=False))
    return first[: next((n for n, (x, y) in pairs if x != y), min(len(first), len(second)))]


def _model(row: dict[str, Any], side: str) -> str | None:
    names = (pattern.format(side) for pattern in MODELS)
    return next((name_of(row[name], name) for name in names if row.get(name)), None)


def _score(row: dict[str, Any], side: str) -> dict[str, float]:
    for pattern in SCORES:
        name = pattern.format(side)
        if row.get(name) is not None:
            return {_score_name(pattern): number_of(row[name], name)}
    return {}


def _score_name(pattern: str) -> str:
    return "rating" if "rating" in pattern else "score"
