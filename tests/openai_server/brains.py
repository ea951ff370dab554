"""What the server thinks of a text: graders, comparers and writers with a known opinion.

A brain is any callable of (messages, params) that gives an answer; see `answers.Answer`. The ones
here read planted opinions, so that a test knows the truth, and hash the text where none is planted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.openai_server.answers import Answer, Distribution, fraction

Messages = Sequence[Mapping[str, Any]]
Brain = Callable[[Messages, Mapping[str, Any]], Answer]
Split = Callable[[str], tuple[str, str] | None]

PLANTED = re.compile(r"\[\[([\w-]+) (\d+(?:\.\d+)?)(?: sd (\d+(?:\.\d+)?))?\]\]")
INJECTION = re.compile(
    r"(?:give this (?:response |answer |one )?an? |grade of this response is |your answer is "
    r"|^grade: |grade it |write )(\d+)",
    re.IGNORECASE | re.MULTILINE,
)
ANSWER = re.compile(r"\[\[answer: (.*?)\]\]", re.DOTALL)
WRITES_FROM = 64
"""Completion tokens from which a request that wants no log-probs and no JSON is for a text."""

# Frames as `<<<mark NAME`, line for line, and headings on a line of their own in any markup.
_FRAME = re.compile(r"^<<<(\w+) RESPONSE(?: ([AB]))?\n(.*?)\n\1>>>", re.DOTALL | re.MULTILINE)
_HEADING = r"^[^\w\n]*(?:response|answer|assistant|reply)[ _-]?(?:{})[^\w\n]*$"
_FIRST = re.compile(_HEADING.replace("{}", "a|1"), re.IGNORECASE | re.MULTILINE)
_SECOND = re.compile(_HEADING.replace("{}", "b|2"), re.IGNORECASE | re.MULTILINE)
_SCALE = re.compile(r"\bfrom 1 to \d\b")
_CRITERION = re.compile(r"^Criterion ([\w-]+):", re.MULTILINE)


def text_of(message: Mapping[str, Any]) -> str:
    """The text of one message, whether it is a string or a list of parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def split_pair(text: str) -> tuple[str, str] | None:
    """The two responses of a comparison, or None.

    Each stands in a frame, from a line "<<<MARK RESPONSE A" to a line "MARK>>>", or under a line
    of its own as heading: "Response A" and "Response B" in any markup (also 1 and 2, and answer,
    reply or assistant).
    """
    framed = {found[2]: found[3] for found in _FRAME.finditer(text)}
    if "A" in framed and "B" in framed:
        return framed["A"], framed["B"]
    first = _FIRST.search(text)
    second = _SECOND.search(text, first.end()) if first else None
    if first is None or second is None:
        return None
    return text[first.end() : second.start()], text[second.end() :]


def judged(text: str) -> str:
    """The response that a message asks about: what stands in its frame, else the whole text."""
    found = _FRAME.search(text)
    return found[3] if found else text


def quality(text: str, scale: tuple[int, int] = (1, 5), name: str = "grade") -> float:
    """The last grade planted in the text, else one in the middle of the scale by its hash."""
    planted = _planted(text, name)
    return planted[0] if planted else _hashed(text, scale)


def _planted(text: str, name: str) -> tuple[float, float | None] | None:
    for wanted in dict.fromkeys((name, "grade")):
        found = [match for match in PLANTED.finditer(text) if match[1] == wanted]
        if found:
            return float(found[-1][2]), float(found[-1][3]) if found[-1][3] else None
    return None


def _hashed(text: str, scale: tuple[int, int]) -> float:
    low, high = scale
    # Two decimals: few distinct bells, so that each is computed once.
    return round(low + (high - low) * (0.05 + 0.9 * fraction("quality", text)), 2)


def grader(
    scale: tuple[int, int] = (1, 5),
    sd: float = 0.7,
    fooled_by: re.Pattern[str] | None = None,
) -> Brain:
    """A pointwise judge of the last message; `fooled_by` is what it obeys instead, group 1."""

    def opinion(text: str, name: str, field: str) -> Distribution:
        order = fooled_by.search(text) if fooled_by else None
        if order:
            return Distribution.around(float(order[1]) - 0.05, 0.3, scale, field=field)
        mean, spread = _planted(text, name) or (_hashed(text, scale), None)
        return Distribution.around(mean, spread or sd, scale, field=field)

    def brain(messages: Messages, params: Mapping[str, Any]) -> Answer:
        text = judged(text_of(messages[-1]))
        names = _numeric_fields(params)
        if len(names) < 2:
            asked = _CRITERION.findall(text_of(messages[0]))
            field = names[0] if names else "score"
            return opinion(text, asked[0] if len(asked) == 1 else field, field)
        return {name: opinion(text, name, name) for name in names}

    return brain


def _numeric_fields(params: Mapping[str, Any]) -> list[str]:
    schema = (params.get("response_format") or {}).get("json_schema", {}).get("schema") or {}
    fields = schema.get("properties", {})
    return [name for name, spec in fields.items() if spec.get("type") in ("integer", "number")]


def comparer(
    split: Split = split_pair,
    labels: tuple[str, str] = ("A", "B"),
    bias: float = 0.0,
    sharpness: float = 1.5,
    field: str = "better",
) -> Brain:
    """A pairwise judge; positive `bias` favours whichever response comes first."""

    def brain(messages: Messages, params: Mapping[str, Any]) -> Answer:
        sides = split(text_of(messages[-1]))
        if sides is None:
            raise ValueError("the comparer was asked about a text without two responses")
        gap = quality(sides[0]) - quality(sides[1])
        first = 1 / (1 + math.exp(-(sharpness * gap + bias)))
        return Distribution.over({labels[0]: first, labels[1]: 1 - first}, field=field)

    return brain


_OPENINGS = ("In short,", "First of all,", "The point is this:", "To answer directly,")
_MIDDLES = ("the main step is to read", "it helps to compare", "one should begin with")
_ENDINGS = ("Then check the result.", "That settles most cases.", "The rest follows from it.")


def reference_writer() -> Brain:
    """An author: repeats "[[answer: ...]]", else writes a few sentences on the message's words."""

    def brain(messages: Messages, params: Mapping[str, Any]) -> Answer:
        text = text_of(messages[-1])
        planted = ANSWER.search(text)
        if planted:
            return planted[1]
        words = " ".join(re.findall(r"[^\W\d_]{4,}", text)[-12:])
        opening, middle, ending = (
            row[int(fraction(place, text) * len(row))]
            for place, row in enumerate((_OPENINGS, _MIDDLES, _ENDINGS))
        )
        return f"{opening} {middle} {words or 'the question'}. {ending}"

    return brain


def everyday(
    *, bias: float = 0.0, fooled_by: re.Pattern[str] | None = None, split: Split = split_pair
) -> Brain:
    """Compares where two responses stand, writes where a long text is wanted, else grades."""
    grade, write = grader(fooled_by=fooled_by), reference_writer()
    compare = comparer(split, bias=bias)

    def brain(messages: Messages, params: Mapping[str, Any]) -> Answer:
        text = text_of(messages[-1])
        if split(text):
            return compare(messages, params)
        return (write if _wants_text(text, params) else grade)(messages, params)

    return brain


def _wants_text(text: str, params: Mapping[str, Any]) -> bool:
    if params.get("logprobs") or params.get("response_format"):
        return False
    if _FRAME.search(text) or PLANTED.search(text) or _SCALE.search(text):
        return False
    limit = params.get("max_completion_tokens") or params.get("max_tokens") or math.inf
    return bool(limit >= WRITES_FROM)
