"""The formats we read, and how a file's format is found.

A format is a module with two functions of one raw record: `matches` says whether it looks like
one, `read` makes a Candidate of it or raises RejectedRow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annotator.candidates.candidate import Candidate
from annotator.candidates.formats import arena, columns, hh, native, trl, ultrafeedback
from annotator.errors import UnknownFormat

SAMPLE = 20  # records that are looked at


@dataclass(frozen=True)
class Format:
    """One family of files. `tables_only`: found by itself only in CSV and parquet."""

    name: str
    needs: str
    matches: Callable[[dict[str, Any]], bool]
    read: Callable[[dict[str, Any]], Candidate]
    tables_only: bool = False


# In this order: a record counts for the first format that it matches, so the more telling
# one stands before the one that would also do.
FORMATS = {
    f.name: f
    for f in (
        Format("native", "prompt, responses (a list)", native.matches, native.read),
        Format(
            "arena",
            "winner, and conversation_a, conversation_b or prompt, response_a, response_b",
            arena.matches,
            arena.read,
        ),
        Format(
            "ultrafeedback",
            "instruction or prompt, completions (a list)",
            ultrafeedback.matches,
            ultrafeedback.read,
        ),
        Format("hh", 'chosen, rejected, both beginning with "Human:"', hh.matches, hh.read),
        Format(
            "trl", "chosen, rejected (texts or dialogues), prompt if any", trl.matches, trl.read
        ),
        Format(
            "columns",
            "prompt, instruction, question, query or input, and two or more columns of text",
            columns.matches,
            columns.read,
            tables_only=True,
        ),
    )
}


def find_format(sample: Sequence[dict[str, Any]], *, table: bool, where: Path) -> Format:
    """The format that most records of `sample` match; of equals, the first in FORMATS.

    Raises UnknownFormat, saying which fields `where` has and which each format needs.
    """
    claims = Counter(name for row in sample if (name := _claim(row, table)) is not None)
    if not claims:
        raise _unknown(sample, where)
    order = list(FORMATS)
    best = max(claims, key=lambda name: (claims[name], -order.index(name)))
    return FORMATS[best]


def _claim(row: dict[str, Any], table: bool) -> str | None:
    fit = (f.name for f in FORMATS.values() if (table or not f.tables_only) and f.matches(row))
    return next(fit, None)


def _unknown(sample: Sequence[dict[str, Any]], where: Path) -> UnknownFormat:
    keys = sorted({key for row in sample for key in row})
    return UnknownFormat(
        f"no format fits {where}; its first records have {', '.join(keys[:30]) or 'no fields'}",
        expected="\n".join(["one of", *(f"  {f.name}: {f.needs}" for f in FORMATS.values())]),
        todo="rename the fields, or say what the file is: --format, or --prompt and --responses",
    )
