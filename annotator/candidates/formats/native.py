"""Our own JSON lines: one prompt a line, any number of responses, labels beside them.

    {"prompt": "..." or [{"role", "content"}], "prompt_id"?, "dataset"?,
     "responses": ["...", {"text", "id"?, "model"?, "scores"?: {name: number}}],
     "comparisons"?: [{"a", "b": ids of responses, "label": "a"|"b"|"tie"|"both_bad",
                       "annotator"?, "kind"?, "strength"?}]}

`id` may stand for `prompt_id` and `source` for `model`. Other fields are passed over.
"""

from __future__ import annotations

from typing import Any

from annotator.candidates.candidate import (
    LABELS,
    Candidate,
    Label,
    Response,
    kind_of,
    label_kind,
    name_of,
    number_of,
    shown,
    text_of,
)
from annotator.candidates.formats.fields import each, object_of, prompt_id_of, scores_of
from annotator.candidates.formats.messages import prompt_of
from annotator.errors import RejectedRow


def matches(row: dict[str, Any]) -> bool:
    """A prompt and a list of responses."""
    return "prompt" in row and isinstance(row.get("responses"), list)


def read(row: dict[str, Any]) -> Candidate:
    """The candidate in a native row. Raises RejectedRow."""
    responses = each(row.get("responses"), "responses", "response", _response)
    return Candidate(
        prompt_of(row.get("prompt")),
        responses,
        _labels(row.get("comparisons"), responses),
        prompt_id_of(row),
        name_of(row.get("dataset"), "dataset"),
    )


def _response(value: object) -> Response:
    if isinstance(value, str):
        return Response(text_of(value, "text"))
    fields = object_of(value, "text")
    return Response(
        text_of(fields.get("text"), "text"),
        name_of(_model(fields), "model"),
        name_of(fields.get("id"), "id"),
        scores_of(fields.get("scores")),
    )


def _model(fields: dict[str, Any]) -> object:
    if fields.get("model") is not None:
        return fields["model"]
    source = fields.get("source")
    return source if isinstance(source, str) else None


def _labels(comparisons: object, responses: list[Response]) -> list[Label]:
    if comparisons is None:
        return []
    places = {
        response.external_id: place
        for place, response in enumerate(responses)
        if response.external_id is not None
    }
    return each(comparisons, "comparisons", "comparison", lambda item: _label(item, places))


def _label(value: object, places: dict[str, int]) -> Label:
    fields = object_of(value, "a, b and label")
    a, b = _place(fields.get("a"), "a", places), _place(fields.get("b"), "b", places)
    if a == b:
        raise RejectedRow("it compares a response with itself")
    label = fields.get("label")
    if label not in LABELS:
        said = shown(label) if isinstance(label, str) else kind_of(label)
        raise RejectedRow(f"label is {said}, expected one of {', '.join(LABELS)}")
    strength = fields.get("strength")
    return Label(
        a,
        b,
        label,
        None if strength is None else number_of(strength, "strength"),
        name_of(fields.get("annotator"), "annotator"),
        label_kind(fields.get("kind")),
    )


def _place(value: object, side: str, places: dict[str, int]) -> int:
    name = name_of(value, side)
    place = None if name is None else places.get(name)
    if place is None:
        raise RejectedRow(f"{side} is {shown(str(name))}, the id of no response here")
    return place
