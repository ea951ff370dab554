"""UltraFeedback and its kin: an instruction, and completions with the ratings of a judge.

    {"instruction" or "prompt": "...", "prompt_id"? or "id"?, "dataset"?,
     "completions": [{"model"?, "response", "overall_score"?, "fine-grained_score"?,
                      "annotations"?: {aspect: {"Rating": "4"}}}]}

Scores keep the names that the file has: `overall_score`, `fine-grained_score` and each aspect.
A rating of "N/A" is absent.
"""

from __future__ import annotations

from typing import Any

from annotator.candidates.candidate import (
    Candidate,
    Response,
    kind_of,
    name_of,
    number_of,
    shown,
    text_of,
)
from annotator.candidates.formats.fields import each, object_of, prompt_id_of
from annotator.candidates.formats.messages import prompt_of
from annotator.errors import RejectedRow

TOTALS = ("overall_score", "fine-grained_score")
NOT_RATED = ("", "N/A")


def matches(row: dict[str, Any]) -> bool:
    """An instruction and a list of completions."""
    return _prompt(row) is not None and isinstance(row.get("completions"), list)


def read(row: dict[str, Any]) -> Candidate:
    """The candidate in a row of completions. Raises RejectedRow."""
    return Candidate(
        prompt_of(_prompt(row), "instruction"),
        each(row.get("completions"), "completions", "completion", _response),
        external_id=prompt_id_of(row),
        dataset=name_of(row.get("dataset"), "dataset"),
    )


def _prompt(row: dict[str, Any]) -> object:
    return row.get("instruction") if row.get("instruction") is not None else row.get("prompt")


def _response(value: object) -> Response:
    fields = object_of(value, "response")
    totals = {
        name: number_of(fields[name], name) for name in TOTALS if fields.get(name) is not None
    }
    return Response(
        text_of(fields.get("response"), "response"),
        name_of(fields.get("model"), "model"),
        scores=totals | _ratings(fields.get("annotations")),
    )


def _ratings(annotations: object) -> dict[str, float]:
    if annotations is None:
        return {}
    if not isinstance(annotations, dict):
        raise RejectedRow(f"annotations is {kind_of(annotations)}, expected an object")
    ratings = {}
    for aspect, annotation in annotations.items():
        rating = annotation.get("Rating") if isinstance(annotation, dict) else annotation
        if rating is not None and rating not in NOT_RATED:
            name = name_of(aspect, "the name of an aspect") or "rating"
            ratings[name] = _rating(rating, f"the rating of {shown(str(aspect))}")
    return ratings


def _rating(value: object, what: str) -> float:
    if not isinstance(value, str):
        return number_of(value, what)
    try:
        number = float(value)
    except ValueError:
        raise RejectedRow(f"{what} is {shown(value)}, expected a number") from None
    return number_of(number, what)
