"""Prompts and dialogues as lists of turns."""

from __future__ import annotations

from collections.abc import Sequence

from annotator.candidates.candidate import ROLES, kind_of, shown, text_of
from annotator.candidates.formats.fields import each, object_of
from annotator.candidates.identity import Message
from annotator.errors import RejectedRow


def prompt_of(value: object, what: str = "prompt") -> list[Message]:
    """The turns of a prompt: text is one user turn, a list is read turn by turn."""
    if isinstance(value, list):
        return dialogue_of(value, what)
    return [Message(role="user", content=text_of(value, what))]


def dialogue_of(value: object, what: str) -> list[Message]:
    """A list of {role, content}. Raises RejectedRow for anything else."""
    return each(value, what, f"{what}, turn", _turn)


def shared_history(
    first: Sequence[Message], second: Sequence[Message], names: tuple[str, str]
) -> tuple[list[Message], str, str]:
    """The turns before the last, which both dialogues share, and the two last turns' texts.

    Raises RejectedRow unless both end with one assistant turn and are equal up to there: a
    verdict on dialogues that part earlier says nothing about two responses to one prompt.
    """
    for dialogue, name in zip((first, second), names, strict=True):
        if not dialogue or dialogue[-1]["role"] != "assistant":
            raise RejectedRow(f"{name} does not end with a turn of the assistant")
    history = list(first[:-1])
    if history != list(second[:-1]):
        raise RejectedRow(f"{names[0]} and {names[1]} differ before their last turn")
    if not history:
        raise RejectedRow(f"{names[0]} and {names[1]} share no turn that could be the prompt")
    return history, first[-1]["content"], second[-1]["content"]


def _turn(value: object) -> Message:
    fields = object_of(value, "role and content")
    role = fields.get("role")
    if role not in ROLES:
        said = shown(role) if isinstance(role, str) else kind_of(role)
        raise RejectedRow(f"role is {said}, expected one of {', '.join(ROLES)}")
    return Message(role=role, content=text_of(_content(fields.get("content")), "content"))


def _content(value: object) -> object:
    # Newer chat logs wrap the text in a list of parts; one part of text is that text.
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        return value[0].get("text")
    return value
