"""The labelling screen: what a task holds, and what an answer says.

The screen itself is `label_studio_config/pairwise.xml`; a test holds every name in it against this
module. It speaks of LEFT and RIGHT, never of a and b, because a pair's stored order (a before b)
and the order in which an annotator saw it are different things. `to_pair_frame` is the one place
where the first is recovered from the second.

Label Studio stores any answer it is sent, so `read_answer` checks all of it.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from annotator.errors import StudioError

Confidence = Literal["low", "high"]

TASK_KEY, MESSAGES, LEFT, RIGHT = "task_key", "messages", "response_left", "response_right"
PREFERENCE, CONFIDENCE, RATIONALE = "preference", "confidence", "rationale"

# Every control of the screen answers for the task as a whole; Label Studio still wants one text
# that it belongs to.
ANSWERED_TEXT = "left"
TYPES = {PREFERENCE: "choices", CONFIDENCE: "choices", RATIONALE: "textarea"}

SCREEN_GRADES = (
    "left_much_better",
    "left_better",
    "tie",
    "both_bad",
    "right_better",
    "right_much_better",
)
PAIR_GRADES = ("a_much_better", "a_better", "tie", "both_bad", "b_better", "b_much_better")
CONFIDENCES = ("low", "high")

_MIRRORED = {0: 5, 1: 4, 2: 2, 3: 3, 4: 1, 5: 0}

ROLES = {
    "system": "System",
    "developer": "System",
    "user": "User",
    "human": "User",
    "assistant": "Assistant",
    "gpt": "Assistant",
    "tool": "Tool",
}

# Embeddings, overrides and isolates reorder text around them, so that a reader judges something
# other than what the model wrote. The marks U+200E, U+200F and U+061C move nothing else and are
# part of ordinary Arabic and Hebrew. NUL and lone surrogates cannot travel: PostgreSQL refuses
# the one, UTF-8 the other.
_UNSHOWABLE = re.compile("[\u202a-\u202e\u2066-\u2069\x00\ud800-\udfff]")

_LONGEST_QUOTE = 60


class BrokenAnswer(StudioError):
    """An annotation that cannot be read as an answer; `found` is the reason."""


@dataclass(frozen=True)
class Answer:
    """What one annotator said of one pair, as seen on the screen.

    `grade` is one of SCREEN_GRADES, None where the task was skipped. `lead_seconds` is the time
    Label Studio measured, None where it has none. `origin_prediction` is true where the screen
    had the answer filled in beforehand, so that it may be a machine's.
    """

    grade: str | None
    confidence: Confidence | None = None
    rationale: str = ""
    skipped: bool = False
    lead_seconds: float | None = None
    origin_prediction: bool = False


@cache
def config_xml() -> str:
    """The labelling configuration, as Label Studio takes it and gives it back."""
    config = files("label_studio_config").joinpath("pairwise.xml")
    return config.read_text(encoding="utf-8").strip()


@cache
def screen_version() -> str:
    """Twelve hexadecimal digits that change whenever the configuration does."""
    return hashlib.sha256(config_xml().encode()).hexdigest()[:12]


def task_data(
    task_key: str, messages: Sequence[Mapping[str, Any]], left: str, right: str
) -> dict[str, Any]:
    """The data of one task: the key, the prompt as a dialogue, and the two responses.

    `messages` hold `role` and `content`. Characters that reorder text or cannot travel are spelt
    out, as in ⟦U+202E⟧; nothing else is altered.
    """
    # The dialogue does not draw an empty list: the whole screen stays blank.
    shown = [_shown_message(message) for message in messages] or [_shown_message({})]
    return {
        TASK_KEY: task_key,
        MESSAGES: shown,
        LEFT: spell_out(left),
        RIGHT: spell_out(right),
    }


def _shown_message(message: Mapping[str, Any]) -> dict[str, str]:
    role = message.get("role", "")
    return {
        "role": ROLES.get(role.lower(), spell_out(role) or "Prompt"),
        "content": spell_out(message.get("content", "")),
    }


def spell_out(text: str) -> str:
    """The text with direction controls, NUL and lone surrogates written as ⟦U+....⟧."""
    return _UNSHOWABLE.sub(lambda found: f"⟦U+{ord(found.group()):04X}⟧", text)


def answer_result(
    grade: str, *, confidence: Confidence | None = None, rationale: str = ""
) -> list[dict[str, Any]]:
    """The `result` that the screen sends for an answer; `grade` is one of SCREEN_GRADES."""
    items = [_item(PREFERENCE, {"choices": [grade]})]
    if confidence is not None:
        items.append(_item(CONFIDENCE, {"choices": [confidence]}))
    if rationale:
        items.append(_item(RATIONALE, {"text": [rationale]}))
    return items


def _item(name: str, value: dict[str, Any]) -> dict[str, Any]:
    return {
        "from_name": name,
        "to_name": ANSWERED_TEXT,
        "type": TYPES[name],
        "value": value,
        "origin": "manual",
    }


def to_pair_frame(grade: str, side_order: str) -> str:
    """The grade about a and b, from the one about left and right.

    `side_order` is "ab" where a was shown on the left, "ba" where b was.
    """
    return PAIR_GRADES[_position(grade, SCREEN_GRADES, side_order)]


def to_screen_frame(grade: str, side_order: str) -> str:
    """The grade about left and right, from the one about a and b; undoes `to_pair_frame`."""
    return SCREEN_GRADES[_position(grade, PAIR_GRADES, side_order)]


def _position(grade: str, known: tuple[str, ...], side_order: str) -> int:
    if grade not in known:
        raise ValueError(f"unknown grade {grade!r}; known are {', '.join(known)}")
    if side_order not in ("ab", "ba"):
        raise ValueError(f"side order {side_order!r} is neither 'ab' nor 'ba'")
    position = known.index(grade)
    return position if side_order == "ab" else _MIRRORED[position]


def read_answer(annotation: object) -> Answer:
    """The answer that an annotation of Label Studio holds.

    An answer has exactly one preference with one known code; confidence and rationale may be
    there once; anything the screen does not have makes it broken. A skip needs no result.

    Raises BrokenAnswer, and nothing else, whatever it is given.
    """
    if not isinstance(annotation, dict):
        raise BrokenAnswer(f"an annotation that is {_kind(annotation)}, not an object")
    lead_seconds = _lead_seconds(annotation.get("lead_time"))
    if _was_skipped(annotation):
        return Answer(grade=None, skipped=True, lead_seconds=lead_seconds)
    items = _items_by_name(annotation.get("result"))
    if PREFERENCE not in items:
        raise BrokenAnswer("no preference was chosen")
    return Answer(
        grade=_one_choice(items[PREFERENCE], SCREEN_GRADES),
        confidence=_confidence(items.get(CONFIDENCE)),
        rationale=_rationale(items.get(RATIONALE)),
        lead_seconds=lead_seconds,
        origin_prediction=_came_from_prediction(items[PREFERENCE]),
    )


def _was_skipped(annotation: dict[str, Any]) -> bool:
    skipped = annotation.get("was_cancelled")
    if skipped is None or isinstance(skipped, bool):
        return bool(skipped)
    raise BrokenAnswer(f"was_cancelled is {_kind(skipped)}, not true or false")


def _items_by_name(result: object) -> dict[str, dict[str, Any]]:
    if not isinstance(result, list):
        raise BrokenAnswer(f"the result is {_kind(result)}, not a list")
    items: dict[str, dict[str, Any]] = {}
    for item in result:
        name = _checked_name(item)
        if name in items:
            raise BrokenAnswer(f"two answers under {name}, where one was expected")
        items[name] = item
    return items


def _checked_name(item: object) -> str:
    if not isinstance(item, dict):
        raise BrokenAnswer(f"the result holds {_kind(item)}, not an object")
    name = item.get("from_name")
    if not isinstance(name, str) or name not in TYPES:
        raise BrokenAnswer(f"an answer under {_kind(name)}, which the screen does not have")
    if item.get("type") != TYPES[name]:
        raise BrokenAnswer(f"{name} has type {_kind(item.get('type'))}, not {TYPES[name]!r}")
    if item.get("to_name") != ANSWERED_TEXT:
        found = _kind(item.get("to_name"))
        raise BrokenAnswer(f"{name} belongs to {found}, not to {ANSWERED_TEXT!r}")
    if not isinstance(item.get("value"), dict):
        raise BrokenAnswer(f"the value of {name} is {_kind(item.get('value'))}, not an object")
    return name


def _one_choice(item: dict[str, Any], known: tuple[str, ...]) -> str:
    name, choices = item["from_name"], item["value"].get("choices")
    if not isinstance(choices, list) or len(choices) != 1:
        found = f"{len(choices)} of them" if isinstance(choices, list) else _kind(choices)
        raise BrokenAnswer(f"{name} should hold one choice; found {found}")
    choice = choices[0]
    if not isinstance(choice, str) or choice not in known:
        raise BrokenAnswer(f"{name} is {_kind(choice)}, not one of {', '.join(known)}")
    return choice


def _confidence(item: dict[str, Any] | None) -> Confidence | None:
    if item is None:
        return None
    return "high" if _one_choice(item, CONFIDENCES) == "high" else "low"


def _rationale(item: dict[str, Any] | None) -> str:
    if item is None:
        return ""
    text = item["value"].get("text")
    parts = text if isinstance(text, list) else [text]
    if not all(isinstance(part, str) for part in parts):
        raise BrokenAnswer("the rationale is not text")
    return "\n".join(parts)


def _came_from_prediction(item: dict[str, Any]) -> bool:
    origin = item.get("origin")
    return isinstance(origin, str) and origin.startswith("prediction")


def _lead_seconds(value: object) -> float | None:
    # A wrong time is no reason to throw a verdict away.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _kind(value: object) -> str:
    """A few words for a value found where another was expected."""
    if isinstance(value, str):
        return repr(value if len(value) <= _LONGEST_QUOTE else value[:_LONGEST_QUOTE] + "…")
    if value is None:
        return "missing"
    if isinstance(value, bool):
        return "true" if value else "false"
    return {int: "a number", float: "a number", list: "a list", dict: "an object"}.get(
        type(value), type(value).__name__
    )
