"""Battles of an arena: two models, and which of them won.

    {"model_a", "model_b", "winner", "conversation_a": [turns], "conversation_b": [turns]}
    {"model_a", "model_b", "winner", "prompt": "...", "response_a": "...", "response_b": "..."}

`winner` is one of WINNERS, or three columns winner_model_a, winner_model_b, winner_tie hold
0 or 1. Prompt and responses may be lists, also lists written as JSON text, with one entry a
turn. Where `turn` is given, the dialogue counts up to that turn. Dialogues that part before the
last turn are refused: they are not two responses to one prompt.

`judge` (or `annotator`) is who voted. The label is taken for a human's unless `label_kind` says
otherwise or the judge's name begins with "gpt".
"""

from __future__ import annotations

import json
from typing import Any

from annotator.candidates.candidate import (
    Candidate,
    Label,
    Response,
    kind_of,
    label_kind,
    name_of,
    shown,
    text_of,
)
from annotator.candidates.formats.messages import dialogue_of, shared_history
from annotator.candidates.identity import Message
from annotator.errors import RejectedRow

WINNERS = {
    "model_a": "a",
    "model_b": "b",
    "tie": "tie",
    "tie (bothbad)": "both_bad",
    "both_bad": "both_bad",
    "bothbad": "both_bad",
}
FLAGS = {"winner_model_a": "a", "winner_model_b": "b", "winner_tie": "tie"}
DIALOGUES = ("conversation_a", "conversation_b")
TEXTS = ("prompt", "response_a", "response_b")


def matches(row: dict[str, Any]) -> bool:
    """A winner, and either two dialogues or a prompt with two responses."""
    won = "winner" in row or all(flag in row for flag in FLAGS)
    return won and any(all(name in row for name in names) for names in (DIALOGUES, TEXTS))


def read(row: dict[str, Any]) -> Candidate:
    """The candidate in one battle. Raises RejectedRow."""
    first, second = _dialogues(row)
    names = DIALOGUES if row.get(DIALOGUES[0]) is not None else TEXTS[1:]
    messages, text_a, text_b = shared_history(first, second, (names[0], names[1]))
    return Candidate(
        messages,
        [
            Response(text_a, name_of(row.get("model_a"), "model_a")),
            Response(text_b, name_of(row.get("model_b"), "model_b")),
        ],
        [_label(row)],
        _battle_id(row),
        name_of(row.get("dataset"), "dataset"),
    )


def _dialogues(row: dict[str, Any]) -> list[list[Message]]:
    if row.get(DIALOGUES[0]) is not None:
        whole = [dialogue_of(_decoded(row.get(name)), name) for name in DIALOGUES]
        return [_up_to_turn(dialogue, _turn(row)) for dialogue in whole]
    prompts, *answers = (_texts(row.get(name), name) for name in TEXTS)
    return [_woven(prompts, texts, name) for texts, name in zip(answers, TEXTS[1:], strict=True)]


def _turn(row: dict[str, Any]) -> int | None:
    turn = name_of(row.get("turn"), "turn")
    if turn is None:
        return None
    if not turn.isdecimal() or len(turn) > 6 or int(turn) < 1:
        raise RejectedRow(f"turn is {shown(turn)}, expected 1, 2, ...")
    return int(turn)


def _up_to_turn(dialogue: list[Message], turn: int | None) -> list[Message]:
    ends = [n for n, message in enumerate(dialogue, 1) if message["role"] == "assistant"]
    return dialogue if turn is None or turn > len(ends) else dialogue[: ends[turn - 1]]


def _decoded(value: object) -> object:
    """A list written as JSON text is that list, anything else is itself."""
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _texts(value: object, what: str) -> list[str]:
    listed = _decoded(value)
    if isinstance(listed, list) and all(isinstance(text, str | None) for text in listed):
        return [text_of(text, what) for text in listed]
    return [text_of(value, what)]


def _woven(prompts: list[str], answers: list[str], what: str) -> list[Message]:
    if len(prompts) != len(answers):
        raise RejectedRow(f"{len(prompts)} prompts, but {what} has {len(answers)} turns")
    dialogue = []
    for prompt, answer in zip(prompts, answers, strict=True):
        dialogue.append(Message(role="user", content=prompt))
        dialogue.append(Message(role="assistant", content=answer))
    return dialogue


def _label(row: dict[str, Any]) -> Label:
    judge = name_of(_first(row, "judge", "annotator"), "judge")
    kind = row.get("label_kind")
    if kind is None and judge is not None and judge.lower().startswith("gpt"):
        kind = f"llm:{judge}"
    return Label(0, 1, _verdict(row), annotator=judge, kind=label_kind(kind))


def _verdict(row: dict[str, Any]) -> str:
    if "winner" not in row:
        raised = [label for flag, label in FLAGS.items() if str(row.get(flag)) in ("1", "1.0")]
        if len(raised) != 1:
            raise RejectedRow(f"{len(raised)} of {', '.join(FLAGS)} are 1, expected one")
        return raised[0]
    winner = row["winner"]
    if not isinstance(winner, str) or winner not in WINNERS:
        said = shown(winner) if isinstance(winner, str) else kind_of(winner)
        raise RejectedRow(f"winner is {said}, expected one of {', '.join(WINNERS)}")
    return WINNERS[winner]


def _battle_id(row: dict[str, Any]) -> str | None:
    name = name_of(_first(row, "prompt_id", "question_id", "id"), "id")
    turn = _turn(row) or 1
    # A question of several turns is several prompts under one id.
    return f"{name}/turn-{turn}" if name and turn > 1 else name


def _first(row: dict[str, Any], *names: str) -> object:
    return next((row[name] for name in names if row.get(name) is not None), None)
