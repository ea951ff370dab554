"""From what a brain says to tokens: where the grade stands, and how likely each label was.

An answer is a row of pieces, texts and distributions. A choice draws one label from each
distribution and splits the texts, so that the tokens add up to the message letter by letter.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

_TOKENS = re.compile(r"\s?[^\W\d_]+|\d{1,3}|\s+|[^\w\s]+|_")
_PROSE = (("The", 0.5), ("I", 0.3), ("Overall", 0.2))
_PROSE_REST = " answer is clear and mostly to the point."


@dataclass(frozen=True)
class Distribution:
    """How likely each label is in the grade's place; `probabilities` add up to 1.

    `mass` is the share of the labels in the model's whole distribution; the first words of prose
    have the rest. `spaced` is the share of each label on its variant with a leading blank.
    """

    probabilities: tuple[tuple[str, float], ...]
    mass: float = 1.0
    spaced: float = 0.03
    before: str = ""
    field: str = "score"
    why: str = "It answers what was asked."

    @classmethod
    def over(cls, probabilities: Mapping[str, float], **more: Any) -> Distribution:
        """The given probabilities, divided by their sum."""
        total = sum(probabilities.values())
        return cls(tuple((k, p / total) for k, p in probabilities.items() if p > 0), **more)

    @classmethod
    def certain(cls, label: str, **more: Any) -> Distribution:
        """One label, always."""
        return cls(((label, 1.0),), **more)

    @classmethod
    def around(
        cls, mean: float, sd: float = 0.7, scale: tuple[int, int] = (1, 5), **more: Any
    ) -> Distribution:
        """A bell over the whole numbers of `scale` whose mean is exactly `mean`, cut to it."""
        return cls(_bell(mean, sd, scale), **more)

    @property
    def mean(self) -> float:
        return sum(float(label) * p for label, p in self.probabilities)

    @property
    def variance(self) -> float:
        mean = self.mean
        return sum(p * (float(label) - mean) ** 2 for label, p in self.probabilities)

    def first_tokens(self, *, joined: bool = False) -> list[tuple[str, float]]:
        """(token, probability) of every token that may stand here, likeliest first.

        `joined`: the usual token has the leading blank, the variant does not.
        """
        usual, variant = (" ", "") if joined else ("", " ")
        tokens: list[tuple[str, float]] = []
        for label, p in self.probabilities:
            tokens.append((usual + label, self.mass * p * (1 - self.spaced)))
            tokens.append((variant + label, self.mass * p * self.spaced))
        tokens += [(usual + word, (1 - self.mass) * p) for word, p in _PROSE]
        return sorted(((t, p) for t, p in tokens if p > 0), key=lambda pair: (-pair[1], pair[0]))

    def draw(self, temperature: float, u: float) -> str | None:
        """The label at quantile `u` of the tempered distribution; None: prose."""
        labels: list[tuple[str | None, float]] = [(k, p * self.mass) for k, p in self.probabilities]
        if self.mass < 1:
            labels.append((None, 1 - self.mass))
        if temperature <= 0:
            return max(labels, key=lambda pair: pair[1])[0]
        top = max(p for _, p in labels)
        weights = [(p / top) ** (1 / temperature) for _, p in labels]
        left = u * sum(weights)
        for (label, _), weight in zip(labels, weights, strict=True):
            left -= weight
            if left < 0:
                return label
        return labels[-1][0]


@lru_cache(maxsize=65_536)
def _bell(mean: float, sd: float, scale: tuple[int, int]) -> tuple[tuple[str, float], ...]:
    low, high = scale
    if not low < mean < high:
        return ((str(low if mean <= low else high), 1.0),)
    grades = range(low, high + 1)

    def tilted(tilt: float) -> list[float]:
        exponents = [tilt * (k - mean) - (k - mean) ** 2 / (2 * sd**2) for k in grades]
        top = max(exponents)
        weights = [math.exp(e - top) for e in exponents]
        total = sum(weights)
        return [w / total for w in weights]

    lower, upper = -100.0 / sd, 100.0 / sd
    for _ in range(80):
        middle = (lower + upper) / 2
        found = sum(k * p for k, p in zip(grades, tilted(middle), strict=True))
        lower, upper = (middle, upper) if found < mean else (lower, middle)
    return tuple((str(k), p) for k, p in zip(grades, tilted(lower), strict=True))


class Token(NamedTuple):
    """One token with the alternatives that stood in its place, as (text, log-prob)."""

    text: str
    logprob: float
    top: Sequence[tuple[str, float]]
    part: bytes | None = None
    """The bytes of a token that is a piece of a character; `text` then spells them out."""

    @property
    def raw(self) -> bytes:
        """The token's bytes."""
        return self.text.encode("utf-8") if self.part is None else self.part


Answer = Distribution | str | Mapping[str, "Distribution | str"]
Piece = Distribution | str


def fraction(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts and on nothing else."""
    text = "\0".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=7).digest()) / 2**56


def pieces(answer: Answer, response_format: Mapping[str, Any] | None) -> list[Piece]:
    """The answer laid out: bare, or in the places of a JSON object."""
    kind = (response_format or {}).get("type", "text")
    if isinstance(answer, str):
        return [answer]
    if kind == "json_schema" and response_format is not None:
        return _object(_filled(answer, response_format["json_schema"].get("schema") or {}))
    if kind == "json_object" or not isinstance(answer, Distribution):
        return _object(_free(answer))
    return [answer.before, answer] if answer.before else [answer]


def _free(answer: Answer) -> dict[str, Any]:
    if isinstance(answer, Distribution):
        return {answer.field: answer, "reason": answer.why}
    assert not isinstance(answer, str)
    return dict(answer)


def _filled(answer: Answer, schema: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, spec in schema.get("properties", {}).items():
        if isinstance(answer, Mapping) and name in answer:
            fields[name] = answer[name]
        else:
            fields[name] = _value(answer, spec)
    return fields


def _value(answer: Answer, spec: Mapping[str, Any]) -> Any:
    dist = answer if isinstance(answer, Distribution) else None
    kind = spec.get("type", "enum" if "enum" in spec else "string")
    if dist is not None and (kind in ("integer", "number") or "enum" in spec):
        return dist
    plain = {"integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {}, "null": None}
    if "enum" in spec:
        return spec["enum"][0]
    return plain.get(kind, dist.why if dist else "Said in one sentence.")


def _object(fields: Mapping[str, Any]) -> list[Piece]:
    row: list[Piece] = []
    text = "{"
    for place, (name, value) in enumerate(fields.items()):
        text += (", " if place else "") + json.dumps(name, ensure_ascii=False) + ": "
        if isinstance(value, Distribution):
            quote = "" if all(_is_number(label) for label, _ in value.probabilities) else '"'
            row += [text + quote, value]
            text = quote
        else:
            text += json.dumps(value, ensure_ascii=False)
    return [*row, text + "}"]


def _is_number(label: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?", label) is not None


def tokens_of(
    row: Sequence[Piece],
    temperature: float,
    source: object,
    top: int,
    *,
    joined: bool = False,
    in_bytes: bool = False,
) -> list[Token]:
    """One choice: a label drawn for each distribution, everything split, `top` alternatives each.

    `source` decides what is drawn. Prose that is drawn in a grade's place ends the message.
    `joined` puts a blank before a grade into its token, `in_bytes` splits characters beyond ASCII.
    """
    tokens: list[Token] = []
    for place, piece in enumerate(row):
        if isinstance(piece, str):
            follows = place + 1 < len(row)
            blank = joined and follows and piece.endswith(" ")
            tokens += _split(piece[:-1] if blank else piece, top, in_bytes)
            continue
        before = row[place - 1] if place else ""
        blank = joined and isinstance(before, str) and before.endswith(" ")
        label = piece.draw(temperature, fraction(source, place))
        likely = piece.first_tokens(joined=blank)
        if label is None:
            word = (" " if blank else "") + _PROSE[0][0]
            return [*tokens, _chosen(word, likely, top), *_split(_PROSE_REST, top, in_bytes)]
        tokens.append(_chosen((" " if blank else "") + label, likely, top))
    return tokens


def _chosen(text: str, likely: Sequence[tuple[str, float]], top: int) -> Token:
    logprob = next(math.log(p) for token, p in likely if token == text)
    return Token(text, logprob, [(token, math.log(p)) for token, p in likely[:top]])


def _split(text: str, top: int, in_bytes: bool) -> Iterator[Token]:
    for word in _TOKENS.findall(text):
        if not in_bytes or word.isascii():
            yield _sure(word, top)
            continue
        for letter in word:
            raw = letter.encode("utf-8")
            for part in (raw[:-1], raw[-1:]) if len(raw) > 1 else (raw,):
                # As the vendor shows what is no text: escaped, the bytes beside it.
                shown = letter if part == raw else "".join(f"\\x{byte:02x}" for byte in part)
                yield _sure(shown, top)._replace(part=part)


@lru_cache(maxsize=8_192)
def _sure(word: str, top: int) -> Token:
    p = 0.90 + 0.09 * fraction(word)
    others = [(" " + word, (1 - p) * 0.6), (word.swapcase() + "s", (1 - p) * 0.3)]
    likely = [(word, p), *others]
    return Token(word, math.log(p), tuple((t, math.log(q)) for t, q in likely[:top]))


def with_mass(row: Sequence[Piece], mass: float) -> list[Piece]:
    """The same pieces, with `mass` as the labels' share of every distribution."""
    return [p if isinstance(p, str) else replace(p, mass=mass) for p in row]
