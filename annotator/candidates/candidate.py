"""One prompt with its responses, as a reader hands it over, and what makes it sound.

A row is all or nothing: whatever is wrong with any part of it raises RejectedRow, whose text
is the reason that the person reads in the list of rejected rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from annotator.candidates.identity import Message
from annotator.errors import RejectedRow

MAX_TEXT_CHARS = 1_000_000  # of one response, or of all turns of a prompt
MAX_NAME_CHARS = 1_000  # of an id, a model, an annotator, the name of a score
MAX_RESPONSES = 1_024  # of one prompt: half a million pairs
LABELS = ("a", "b", "tie", "both_bad")
ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(slots=True)
class Response:
    """One answer: its text, who wrote it, the id and the scores the file gives it."""

    text: str
    model: str | None = None
    external_id: str | None = None
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Label:
    """What somebody said of two responses of the row, `a` and `b` being positions in it.

    `label` is one of LABELS in that frame, `kind` is "human", "objective" or "llm:NAME".
    """

    a: int
    b: int
    label: str
    strength: float | None = None
    annotator: str | None = None
    kind: str = "human"


@dataclass(slots=True)
class Candidate:
    """One row of a file, whatever its format was.

    `external_id` is the prompt's id within `dataset`; without a dataset of its own the row
    belongs to that of the file.
    """

    messages: list[Message]
    responses: list[Response]
    labels: list[Label] = field(default_factory=list)
    external_id: str | None = None
    dataset: str | None = None


@dataclass(slots=True)
class Sound:
    """A candidate that passed every check, and what was folded together on the way.

    All its responses differ. `n_folded` responses repeated another one of the row word for
    word: the first stands for them, with its model, id and scores. `n_void` labels compared two
    such responses and are left out, since there is no pair.
    """

    candidate: Candidate
    n_folded: int
    n_void: int


def sound(candidate: Candidate) -> Sound:
    """The candidate with repeated responses folded. Raises RejectedRow if anything is wrong."""
    _check_prompt(candidate.messages)
    if len(candidate.responses) > MAX_RESPONSES:
        raise RejectedRow(f"{len(candidate.responses):,} responses; the limit is {MAX_RESPONSES:,}")
    for number, response in enumerate(candidate.responses, start=1):
        if not response.text or response.text.isspace():
            raise RejectedRow(f"response {number} is empty")
    _check_ids(candidate.responses)
    return _folded(candidate)


def text_of(value: object, what: str) -> str:
    """`value` as text. Raises RejectedRow for another type, NUL, lone surrogates, excess."""
    if not isinstance(value, str):
        raise RejectedRow(f"{what} is {kind_of(value)}, expected text")
    if len(value) > MAX_TEXT_CHARS:
        raise RejectedRow(f"{what} has {len(value):,} characters; the limit is {MAX_TEXT_CHARS:,}")
    if "\0" in value:
        raise RejectedRow(f"{what} holds NUL (U+0000)")
    if not value.isascii():
        _refuse_surrogates(value, what)
    return value


def name_of(value: object, what: str) -> str | None:
    """`value` as an id or a name; None for null and "". A whole number is its digits."""
    if value is None or value == "":
        return None
    if isinstance(value, str) and value.isprintable() and len(value) <= MAX_NAME_CHARS:
        return value  # nearly every name: printable is more than text_of asks
    name = text_of(_digits(value), what)
    if len(name) > MAX_NAME_CHARS:
        raise RejectedRow(f"{what} has {len(name):,} characters; the limit is {MAX_NAME_CHARS:,}")
    return name


def _digits(value: object) -> object:
    """The digits of a whole number; anything else stays what it is."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a table with gaps holds its whole numbers as floats
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def number_of(value: object, what: str) -> float:
    """`value` as a finite number. Raises RejectedRow."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RejectedRow(f"{what} is {kind_of(value)}, expected a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RejectedRow(f"{what} is {number}, expected a finite number")
    return number


def label_kind(value: object) -> str:
    """Who gave a label: null means human. Raises RejectedRow for what we have no word for."""
    kind = name_of(value, "kind") or "human"
    if kind in ("human", "objective") or (kind.startswith("llm:") and len(kind) > len("llm:")):
        return kind
    raise RejectedRow(f'kind {shown(kind)}, expected "human", "objective" or "llm:NAME"')


def kind_of(value: object) -> str:
    """What a person would call the type of `value`."""
    if value is None:
        return "missing"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text"}
    names |= {list: "a list", dict: "an object", bytes: "bytes"}
    return names.get(type(value), type(value).__name__)


def shown(value: str) -> str:
    """`value` in quotes and cut, for a message."""
    return repr(value if len(value) <= 80 else value[:77] + "...")


def _refuse_surrogates(value: str, what: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RejectedRow(
            f"{what} holds a lone surrogate (U+{ord(value[error.start]):04X}), which is no text"
        ) from None


def _check_prompt(messages: Sequence[Message]) -> None:
    if all(not turn["content"] or turn["content"].isspace() for turn in messages):
        raise RejectedRow("the prompt is empty")
    n_chars = sum(len(turn["content"]) for turn in messages)
    if n_chars > MAX_TEXT_CHARS:
        raise RejectedRow(f"the prompt has {n_chars:,} characters; the limit is {MAX_TEXT_CHARS:,}")


def _check_ids(responses: Sequence[Response]) -> None:
    texts: dict[str, str] = {}
    for response in responses:
        name = response.external_id
        if name is not None and texts.setdefault(name, response.text) != response.text:
            raise RejectedRow(f"response id {shown(name)} stands for two texts in this row")


def _folded(candidate: Candidate) -> Sound:
    places: dict[str, int] = {}
    distinct: list[Response] = []
    moved: list[int] = []
    for response in candidate.responses:
        place = places.setdefault(response.text, len(distinct))
        if place == len(distinct):
            distinct.append(response)
        moved.append(place)
    n_folded = len(moved) - len(distinct)
    if len(distinct) < 2:
        raise RejectedRow(_too_few(len(moved)))
    if not n_folded:
        return Sound(candidate, 0, 0)
    labels = _moved_labels(candidate.labels, moved)
    n_void = len(candidate.labels) - len(labels)
    whole = Candidate(
        candidate.messages, distinct, labels, candidate.external_id, candidate.dataset
    )
    return Sound(whole, n_folded, n_void)


def _too_few(n_responses: int) -> str:
    if n_responses < 2:
        return f"{n_responses} response{'' if n_responses == 1 else 's'}, expected at least 2"
    return f"all {n_responses} responses are identical"


def _moved_labels(labels: Sequence[Label], moved: Sequence[int]) -> list[Label]:
    kept = []
    for label in labels:
        a, b = moved[label.a], moved[label.b]
        if a != b:
            kept.append(Label(a, b, label.label, label.strength, label.annotator, label.kind))
    return kept
