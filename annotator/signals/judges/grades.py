"""A judge's answer as a grade: the mean and, where the answer shows it, the judge's own doubt.

With log-probs the grade is an expectation over the scale (G-Eval, arXiv 2303.16634, section 2;
the mean beats the mode, arXiv 2503.03064):

    mass_k = sum of exp(logprob) over the tokens that say k,   M = sum_k mass_k,   p_k = mass_k / M
    mean = sum_k k p_k,   variance = sum_k p_k (k - mean)^2

Everything here refuses rather than guesses. An answer that cannot be read is Unparsable, never a
default grade, and log-probs that are missing or weak never turn silently into a bare integer.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from annotator.signals.judges.reply import Choice, Reply, Token

LEAST_MASS = 0.9  # probability on the scale below which the rest says too much
MOST_MASS = 1.05  # one, and the rounding of log-probs computed in half precision
HOWS = ("logprobs", "samples", "integer")

# A number as people write one, whole or not: 4, -4, 4.5, 4/5, 4-5, 4 to 5, 4 out of 5. Every
# repetition below is bounded, so that no text makes the search slow.
_BEYOND = r"(?:/|[-–—]|(?:to|or|and|of|out\s{1,3}of)\b)"  # what makes a ratio or a range of it
_NUMBER = (
    rf"[-+−]?[0-9]{{1,12}}(?:[.,][0-9]{{1,12}})?%?(?:\s{{0,3}}{_BEYOND}\s{{0,3}}[0-9.,]{{1,12}})?"
)
_MARKS = r"[^\S\n]{0,9}[*_`\"'()\[\]]{0,9}[^\S\n]{0,9}"
_ALONE = re.compile(
    rf"^{_MARKS}(?P<grade>(?>{_NUMBER})){_MARKS}\.?[*_`\"'\s]{{0,9}}$", re.MULTILINE
)
_NAMED = re.compile(
    rf"\b(?:score|grade|rating)\b{_MARKS}(?::|=|is\b){_MARKS}\n?{_MARKS}"
    rf"(?P<grade>(?>{_NUMBER})(?:\w{{1,12}}|{_MARKS}(?:/|(?:to|or|of|out)\b))?)",
    re.IGNORECASE,
)
# Behind an answer in its own token these change nothing; ".", "/" or a letter would.
_AFTER = re.compile(r"""[\s"'`*,:;)\]}]*""")
_AROUND = re.compile(r"""[\s"'`*]+""")
_END_MARK = re.compile(r"\s*(?:<[^<>\s]+>|\[/?[A-Z_]+\])?\s*")
_END_MARKS = 4  # more than a chat template puts behind an answer


class Unparsable(ValueError):
    """The answer holds no grade that can be trusted; `reason` says why in a few fixed words."""

    def __init__(self, reason: str, text: str | None = None) -> None:
        super().__init__(reason if text is None else f"{reason}: {_excerpt(text)}")
        self.reason = reason


class Refused(ValueError):
    """The model, or its filter, declined to answer; `reason` is what it said."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"refused: {_excerpt(reason)}")
        self.reason = reason


@dataclass(frozen=True)
class Grade:
    """What a judge thinks of one response."""

    mean: float
    variance: float | None  # of the judge, not between responses; None: unknown
    how: str  # "logprobs", "samples" or "integer"
    mass: float | None  # probability on the scale's tokens, with log-probs


@dataclass(frozen=True)
class Place:
    """An answer within a text: what it says and the half-open range of characters it stands in."""

    answer: str
    start: int
    end: int


def grade(
    replies: Sequence[Reply],
    how: str,
    scale: tuple[int, int] = (1, 5),
    field: str | None = None,
) -> Grade:
    """The grade in `replies`, read as `how` says, on the scale low to high.

    "logprobs" and "integer" read one reply's first choice; "samples" reads every choice of every
    reply, all of which must hold a grade, and gives their unbiased variance (None for one sample).
    `field` names the grade's key where the answer is a JSON object.

    Raises Refused, or Unparsable with its reason. Raises ValueError for another `how`, and for
    log-probs on a scale with grades of two digits, whose first digit alone is another grade.
    """
    if how not in HOWS:
        raise ValueError(f"how is one of {', '.join(HOWS)}, not {how!r}")
    choices = answered_choices(replies, all_of_them=how == "samples")
    if how == "logprobs":
        return _expected_grade(choices[0], scale, field)
    values = [_whole_grade(choice, scale, field) for choice in choices]
    variance = float(np.var(values, ddof=1)) if len(values) > 1 else None
    return Grade(float(np.mean(values)), variance, how, None)


def answered_choices(replies: Sequence[Reply], *, all_of_them: bool) -> list[Choice]:
    """The choices to read: every one, or the first of the only reply.

    Raises Refused if one of them is a refusal, Unparsable if one is empty or there is none.
    """
    if not all_of_them and len(replies) > 1:
        raise ValueError(f"{len(replies)} replies where one is read")
    choices = [choice for reply in replies for choice in reply.choices]
    if not choices:
        raise Unparsable("no answer")
    choices = choices if all_of_them else choices[:1]
    for choice in choices:
        if choice.refusal:
            raise Refused(choice.refusal)
        if choice.finish_reason == "content_filter":
            raise Refused("content filter")
        if not (choice.text or "").strip():
            raise Unparsable("cut off" if choice.finish_reason == "length" else "empty answer")
    return choices


def _whole_grade(choice: Choice, scale: tuple[int, int], field: str | None) -> int:
    text = choice.text or ""
    place = find_grade(text, field)
    value = _on_scale(place.answer, scale, text)
    # Cut behind a digit that begins a longer grade, nobody knows which of the two was meant.
    cut = choice.finish_reason == "length" and not text[place.end :].strip()
    if cut and 10 * value <= scale[1] and value > 0:
        raise Unparsable("cut off", text)
    return value


def _expected_grade(choice: Choice, scale: tuple[int, int], field: str | None) -> Grade:
    if not 0 <= scale[0] < scale[1] <= 9:
        raise ValueError(f"log-probs need a scale of single digits, not {scale}")
    text = choice.text or ""
    place = find_grade(text, field, only=True)
    _on_scale(place.answer, scale, text)
    grades = np.arange(scale[0], scale[1] + 1)
    p, mass = answer_probabilities(choice, place, [str(k) for k in grades])
    mean = float(p @ grades)
    return Grade(mean, float(p @ (grades - mean) ** 2), "logprobs", mass)


def find_grade(text: str, field: str | None = None, *, only: bool = False) -> Place:
    """Where `text` states its grade, and how it spells it; the spelling may be no valid grade.

    With `field`, the value of that key of a JSON object, whole or within other text. Without, a
    number alone on its line, or behind score, grade or rating and one of `:`, `=`, "is". The last
    statement counts, since a text may first repeat its instructions; but a text that opens with
    one number and ends on another says two things. `only` refuses every second statement.

    Raises Unparsable: "no grade" or "two grades".
    """
    places = _free_places(text) if field is None else _json_places(text, field)
    if not places:
        raise Unparsable("no grade", text)
    if only and len(places) > 1:
        raise Unparsable("two grades", text)
    return places[-1]


def _free_places(text: str) -> list[Place]:
    found = {_place(match) for pattern in (_ALONE, _NAMED) for match in pattern.finditer(text)}
    places = sorted(found, key=lambda place: place.start)
    opens = places and not text[: places[0].start].strip(" \t\r\n*_`\"'()[]")
    if opens and places[0].answer != places[-1].answer:
        raise Unparsable("two grades", text)
    return places


def _json_places(text: str, field: str) -> list[Place]:
    """Values of the key `field`; in a text that is a JSON object, of its own key alone."""
    spelling = (
        rf'"{re.escape(field)}"\s{{0,9}}:\s{{0,9}}'
        r'"?(?P<grade>[-+]?[0-9][^\s",{}\[\]]{0,40})"?(?=\s{0,40}[,}])'
    )
    places = [_place(match) for match in re.finditer(spelling, text)]
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return places
    if not isinstance(document, dict) or field not in document:
        return []
    if len({place.answer for place in places}) > 1:
        raise Unparsable("two grades", text)
    # A key of the same name further in is not the one that was asked for.
    return [place for place in places if place.answer == str(document[field])]


def _place(match: re.Match[str]) -> Place:
    return Place(match["grade"], match.start("grade"), match.end("grade"))


def _on_scale(spelling: str, scale: tuple[int, int], text: str) -> int:
    if not re.fullmatch(r"[-+−]?[0-9]{1,12}", spelling):
        raise Unparsable("no whole number", text)
    value = int(spelling.replace("−", "-"))
    if not scale[0] <= value <= scale[1]:
        raise Unparsable("out of scale", text)
    return value


def answer_probabilities(
    choice: Choice, place: Place, answers: Sequence[str]
) -> tuple[NDArray[np.float64], float]:
    """The distribution over `answers` (n,) where the answer stands, and the mass M it is made of.

    `answers` are single characters. A token counts for an answer if it is that character in any
    spacing or quotes, with the same characters before it as the token that was sampled there:
    " 4", "4" and '4"' say 4, "4." and "45" do not. The sampled token counts even where the
    server leaves it out of its alternatives. Raises Unparsable: "no log-probs",
    "log-probs do not fit the text", "no alternatives", "weak mass" or "wrong log-probs".
    """
    text = choice.text or ""
    if choice.tokens is None:
        raise Unparsable("no log-probs", text)
    token, offset = _token_at(choice.tokens, text, place)
    if not token.top:
        raise Unparsable("no alternatives", text)
    top = list(token.top)
    if all(alternative != token.text for alternative, _ in top):
        top.append((token.text, token.logprob))
    lead = _AROUND.sub("", token.text[:offset])
    masses = np.zeros(len(answers))
    for alternative, logprob in top:
        said = _said(alternative, lead, tuple(answers))
        if said is not None:
            # Above 0 only by a fault; not let overflow before it is refused.
            masses[said] += math.exp(min(logprob, 1.0))
    mass = float(masses.sum())
    if mass > MOST_MASS:
        raise Unparsable("wrong log-probs", text)
    if mass < LEAST_MASS:
        raise Unparsable("weak mass", text)
    return masses / mass, min(mass, 1.0)


@lru_cache(maxsize=4096)  # the same few tokens come with every answer
def _said(alternative: str, lead: str, answers: tuple[str, ...]) -> int | None:
    """Which answer a token says behind the characters `lead`, or None."""
    for position, answer in enumerate(answers):
        before, found, after = alternative.partition(answer)
        while found:
            if _AROUND.sub("", before) == lead and _AFTER.fullmatch(after):
                return position
            more, found, after = after.partition(answer)
            before += answer + more
    return None


def _token_at(tokens: Sequence[Token], text: str, place: Place) -> tuple[Token, int]:
    """The token that holds the whole of `place`, and where in the token it begins.

    Spaces are left out of the comparison, since servers strip them from one of the two. What
    stands in the tokens before the text is reasoning that the server took out of it.
    """
    wanted = "".join(text.split())
    tokens = _without_end_marks(list(tokens), wanted)
    before = len(_joined(tokens)) - len(wanted)
    start = before + len("".join(text[: place.start].split()))
    for token in tokens:
        solid = [i for i, character in enumerate(token.text) if not character.isspace()]
        if 0 < before < len(solid):
            break  # the text begins within a token: the two do not speak of the same thing
        if start < len(solid):
            if token.text.startswith(place.answer, solid[start]):
                return token, solid[start]
            break
        start -= len(solid)
        before -= len(solid)
    raise Unparsable("log-probs do not fit the text", text)


def _without_end_marks(tokens: list[Token], wanted: str) -> list[Token]:
    """The tokens up to the last of the characters `wanted`."""
    for _ in range(_END_MARKS):
        if not tokens or _joined(tokens).endswith(wanted):
            break
        if not _END_MARK.fullmatch(tokens[-1].text):
            break
        tokens = tokens[:-1]
    if not _joined(tokens).endswith(wanted):
        raise Unparsable("log-probs do not fit the text", wanted)
    return tokens


def _joined(tokens: Sequence[Token]) -> str:
    return "".join("".join(token.text.split()) for token in tokens)


def _excerpt(text: str, length: int = 80) -> str:
    return repr(text if len(text) <= length else text[:length] + "…")
