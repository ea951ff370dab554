"""A sound row with the keys of everything in it: all that hashing can say without a database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from annotator.candidates.candidate import Label, Sound
from annotator.candidates.identity import label_key, pair_key, prompt_key, response_key

_SWAPPED = {"a": "b", "b": "a", "tie": "tie", "both_bad": "both_bad"}


class StoredLabel(NamedTuple):
    """A label in the frame of its pair: the responses' positions in the row, a before b."""

    key: str
    a: int
    b: int
    label: str
    strength: float | None
    annotator: str | None
    kind: str


@dataclass(slots=True)
class KeyedRow:
    """A sound row, where it stands in its file, and its keys; `raw` is what the file holds."""

    line: int
    raw: object
    sound: Sound
    dataset: str
    prompt_key: str
    response_keys: list[str]
    labels: list[StoredLabel]


def keyed(line: int, raw: object, sound: Sound, dataset: str) -> KeyedRow:
    """The row with all its keys; `dataset` is the one of the file, if the row names none."""
    candidate = sound.candidate
    prompt = prompt_key(candidate.messages)
    responses = [response_key(prompt, response.text) for response in candidate.responses]
    labels = _stored_labels(candidate.labels, responses)
    return KeyedRow(line, raw, sound, candidate.dataset or dataset, prompt, responses, labels)


def _stored_labels(labels: Iterable[Label], keys: Sequence[str]) -> list[StoredLabel]:
    seen: Counter[tuple[Any, ...]] = Counter()
    pairs: dict[tuple[int, int], str] = {}
    stored = []
    for label in labels:
        a, b, word = label.a, label.b, label.label
        if keys[a] > keys[b]:
            a, b, word = b, a, _SWAPPED[word]
        verdict = (word, label.strength, label.annotator, label.kind)
        if (a, b) not in pairs:
            pairs[a, b] = pair_key(keys[a], keys[b])
        key = label_key(pairs[a, b], verdict, seen[a, b, verdict])
        seen[a, b, verdict] += 1
        stored.append(StoredLabel(key, a, b, *verdict))
    return stored
