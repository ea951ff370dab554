"""Owner of the table gold: pairs whose answer is known, to be mixed in among those that are asked.

Gold comes out of any labelled file that `import` reads. Of its labels those of the kind `objective`
are the answers, where a pair has none those of people; what a language model said is no gold. A
prompt and its responses that came with gold alone are *gold only*: they are shown as gold and are
no candidates, so nobody embeds, judges, maps or chooses them. They become candidates when a file
of candidates brings them too. The pair itself stays gold, and is never chosen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from annotator.candidates.candidate import Sound, shown
from annotator.candidates.keyed import KeyedRow, StoredLabel
from annotator.errors import RejectedRow

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sqlite_utils import Database

GOLD_UNKNOWN = -9  # of a pair whose answer is not known

# SQL: ids of the responses, and of the prompts, that are gold only. Gold is little beside
# candidates, so they are looked up from gold and not found by reading all texts.
GOLD_ONLY_RESPONSES = """
    SELECT r.id FROM gold g CROSS JOIN responses r ON r.id IN (g.a_id, g.b_id)
    CROSS JOIN imports i ON i.id = r.import_id WHERE i.purpose = 'gold'"""
GOLD_ONLY_PROMPTS = """
    SELECT p.id FROM gold g CROSS JOIN responses r ON r.id = g.a_id
    CROSS JOIN prompts p ON p.id = r.prompt_id
    CROSS JOIN imports i ON i.id = p.import_id WHERE i.purpose = 'gold'"""

_GRADE = {"a": 1, "tie": 0, "b": -1}


def gold_answers(
    db: Database, a_ids: NDArray[np.int64], b_ids: NDArray[np.int64]
) -> NDArray[np.int64]:
    """What is known of these pairs (n,): 1 that a is better, -1 b, 0 a tie, else GOLD_UNKNOWN.

    Pairs are response ids in the order of their keys, as picks have them.
    """
    import numpy as np

    found = db.execute("SELECT a_id, b_id, label FROM gold")
    known = {(a, b): _GRADE[label] for a, b, label in found}
    pairs = zip(a_ids.tolist(), b_ids.tolist(), strict=True)
    return np.array([known.get(pair, GOLD_UNKNOWN) for pair in pairs], dtype=np.int64)


def gold_pairs(db: Database) -> list[tuple[int, int]]:
    """Response ids (a, b) of every pair whose answer is known, in the order of their ids."""
    return list(db.execute("SELECT a_id, b_id FROM gold ORDER BY a_id, b_id").fetchall())


def as_gold(row: KeyedRow) -> KeyedRow:
    """What a file of gold says in this row: one answer to each pair, and what is needed to show it.

    Responses that no answer is about are left out, and so are scores. Raises RejectedRow if there
    is no answer, or there are two to one pair.
    """
    answers = _answers(row)
    kept = sorted({place for pair in answers for place in pair})
    moved = {place: n for n, place in enumerate(kept)}
    candidate = row.sound.candidate
    responses = [replace(candidate.responses[place], scores={}) for place in kept]
    labels = [
        label._replace(a=moved[label.a], b=moved[label.b], label=_settled(label.label))
        for label in answers.values()
    ]
    return replace(
        row,
        sound=Sound(replace(candidate, responses=responses), 0, row.sound.n_void),
        response_keys=[row.response_keys[place] for place in kept],
        labels=labels,
    )


def _answers(row: KeyedRow) -> dict[tuple[int, int], StoredLabel]:
    """Positions of a pair's responses -> its answer."""
    usable = [label for label in row.labels if label.kind in ("objective", "human")]
    known = {(label.a, label.b) for label in usable if label.kind == "objective"}
    answers: dict[tuple[int, int], StoredLabel] = {}
    for label in usable:
        pair = label.a, label.b
        if pair in known and label.kind != "objective":
            continue
        first = answers.setdefault(pair, label)
        if _settled(first.label) != _settled(label.label):
            raise RejectedRow(
                f"its labels contradict each other: {said(row, first)}, and {said(row, label)}"
            )
    if not answers:
        raise RejectedRow(
            "no label says which of two responses is better: gold needs one, of the kind human or "
            "objective"
        )
    return answers


def _settled(label: str) -> str:
    """As an answer: of two responses that are both bad neither is the better one."""
    return "tie" if label == "both_bad" else label


def said(row: KeyedRow, label: StoredLabel) -> str:
    """A label in words, by how the responses begin: their order in the file may be another one."""
    texts = [row.sound.candidate.responses[place].text for place in (label.a, label.b)]
    a, b = (shown(" ".join(text.split())[:60]) for text in texts)
    if _settled(label.label) == "tie":
        return f"{a} and {b} are equally good"
    return f"{a} is better than {b}" if label.label == "a" else f"{b} is better than {a}"


class GoldTable:
    """The gold answers that a batch of rows speaks of, and those that it adds."""

    def __init__(self, db: Database, rows: Sequence[KeyedRow]) -> None:
        self._db = db
        wanted = sorted({row.response_keys[label.a] for row in rows for label in row.labels})
        found = db.execute(_KNOWN, [json.dumps(wanted)]).fetchall()
        self._known: dict[tuple[str, str], str] = {(a, b): label for a, b, label in found}
        self._new: list[tuple[int, int, str]] = []

    def check(self, row: KeyedRow) -> None:
        """Raises RejectedRow if an answer of the row contradicts one that is there."""
        for label in row.labels:
            known = self._known.get(_pair(row, label), label.label)
            if known != label.label:
                raise RejectedRow(
                    f"contradicts an earlier gold answer: this row says that {said(row, label)}, "
                    f"earlier it was that {said(row, label._replace(label=known))}"
                )

    def add(self, row: KeyedRow, ids: Sequence[int]) -> int:
        """Takes in the answers of a row whose responses have these ids; how many were new."""
        n_before = len(self._new)
        for label in row.labels:
            pair = _pair(row, label)
            if pair not in self._known:
                self._known[pair] = label.label
                self._new.append((ids[label.a], ids[label.b], label.label))
        return len(self._new) - n_before

    def insert(self, import_id: int) -> None:
        """Writes the new answers, in the caller's transaction."""
        self._db.conn.executemany(
            "INSERT INTO gold (a_id, b_id, label, import_id) VALUES (?, ?, ?, ?)",
            ((*answer, import_id) for answer in self._new),
        )


def _pair(row: KeyedRow, label: StoredLabel) -> tuple[str, str]:
    return row.response_keys[label.a], row.response_keys[label.b]


_KNOWN = """
    SELECT a.response_key, b.response_key, g.label FROM json_each(?) AS want
    CROSS JOIN responses a ON a.response_key = want.value
    CROSS JOIN gold g ON g.a_id = a.id CROSS JOIN responses b ON b.id = g.b_id"""
