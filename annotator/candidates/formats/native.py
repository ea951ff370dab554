"""Our own JSON lines: one prompt a line, any number of responses, labels beside them.

    {"prompt": "..." or [{"role", "content"}], "prompt_id"?, "dataset"?,
     "responses": ["...", {"text", "id"?, "model"?, "scores"?: {name: number}}],
     "comparisons"?: [{"a", "b": ids of responses, "label": "a"|"b"|"tie"|"both_bad",
                       "annotator"?, "kind"?, "strength"?}],
     "gold"?: [{"a", "b", "label": the same or null, "method"?}]}

`gold` are answers known to be right, labels of the kind `objective`: null means that nobody knows,
and is passed over; `method`, where the answer comes from, stands for the annotator. `id` may stand
for `prompt_id` and `source` for `model`. Other fields are passed over.
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
        _labels(row, responses),
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


def _labels(row: dict[str, Any], responses: list[Response]) -> list[Label]:
    places = {
        response.external_id: place
        for place, response in enumerate(responses)
        if response.external_id is not None
    }
    labels: list[Label] = []
    if (comparisons := row.get("comparisons")) is not None:
        labels += each(comparisons, "comparisons", "comparison", lambda one: _label(one, places))
    if (gold := row.get("gold")) is not None:
        found = each(gold, "gold", "gold label", lambda one: _gold_label(one, places))
        labels += [label for label in found if label is not None]
    return labels


def _label(value: object, places: dict[str, int]) -> Label:
    fields = object_of(value, "a, b and label")
    strength = fields.get("strength")
    return Label(
        *_pair(fields, places),
        _verdict(fields),
        None if strength is None else number_of(strength, "strength"),
        name_of(fields.get("annotator"), "annotator"),
        label_kind(fields.get("kind")),
    )


def _gold_label(value: object, places: dict[str, int]) -> Label | None:
    """The label, or None where the file says that the answer is not known."""
    fields = object_of(value, "a, b and label")
    if "label" in fields and fields["label"] is None:
        return None
    method = name_of(fields.get("method"), "method")
    return Label(*_pair(fields, places), _verdict(fields), None, method, "objective")


def _pair(fields: dict[str, Any], places: dict[str, int]) -> tuple[int, int]:
    a, b = _place(fields.get("a"), "a", places), _place(fields.get("b"), "b", places)
    if a == b:
        raise RejectedRow("it compares a response with itself")
    return a, b


def _verdict(fields: dict[str, Any]) -> str:
    label = fields.get("label")
    if label not in LABELS:
        said = shown(label) if isinstance(label, str) else kind_of(label)
        raise RejectedRow(f"label is {said}, expected one of {', '.join(LABELS)}")
    return str(label)


def _place(value: object, side: str, places: dict[str, int]) -> int:
    name = name_of(value, side)
    place = None if name is None else places.get(name)
    if place is None:
        raise RejectedRow(f"{side} is {shown(str(name))}, the id of no response here")
    return place
