"""Fields that several formats share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from annotator.candidates.candidate import kind_of, name_of, number_of
from annotator.errors import RejectedRow

T = TypeVar("T")


def prompt_id_of(row: dict[str, Any]) -> str | None:
    """The id that a row gives its prompt: `prompt_id`, else `id`."""
    return name_of(row.get("prompt_id"), "prompt_id") or name_of(row.get("id"), "id")


def each(values: object, what: str, items: str, read: Callable[[Any], T]) -> list[T]:
    """`read` of every item of the list `values`; a refusal says which item it was."""
    if not isinstance(values, list):
        raise RejectedRow(f"{what} is {kind_of(values)}, expected a list")
    done: list[T] = []
    try:
        for value in values:
            done.append(read(value))
    except RejectedRow as refusal:
        raise RejectedRow(f"{items} {len(done) + 1}: {refusal.found}") from None
    return done


def object_of(value: object, expected: str) -> dict[str, Any]:
    """`value` as an object with the fields `expected`. Raises RejectedRow."""
    if not isinstance(value, dict):
        raise RejectedRow(f"it is {kind_of(value)}, expected an object with {expected}")
    return value


def scores_of(value: object) -> dict[str, float]:
    """Scores by name; null scores are absent. Raises RejectedRow for what is no number."""
    if value is None:
        return {}
    scores = {}
    for name, score in _items(value):
        if score is not None:
            scores[_score_name(name)] = number_of(score, f"score {name!r}")
    return scores


def _score_name(value: object) -> str:
    name = name_of(value, "the name of a score")
    if name is None:
        raise RejectedRow("a score has no name")
    return name


def _items(value: object) -> Iterable[tuple[object, object]]:
    if isinstance(value, dict):
        return value.items()
    # A parquet map comes as a list of pairs.
    if isinstance(value, list) and all(isinstance(v, tuple) and len(v) == 2 for v in value):
        return value
    raise RejectedRow(f"scores is {kind_of(value)}, expected an object of name: number")
