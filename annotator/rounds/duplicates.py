"""Pairs that nobody need be asked: nothing to compare, or the same question once more.

The rule is cautious. A cosine alone cannot carry it: in a text of several hundred words "the answer
is 42" and "the answer is not 42" have a cosine above 0.999. So two texts are held for one only if
they *read the same*. Responses do if they are equal but for what nobody can see, kinds of line end
and space where a line ends; prompts, under which the same two responses then stand, also if white
space and case differ. Vectors and hashes only say which texts to read: of a million responses that
is a handful.

- Two responses to a prompt that read the same are nothing to compare.
- Two pairs are one question if their responses read the same, in one order or the other, and so do
  their prompts. A pair that was picked stands for it, else the first in the pool.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from annotator.candidates.catalog import shown_responses

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sqlite_utils import Database

    from annotator.candidates.catalog import Shown
    from strategies.within_prompt import Bools, Positions, Vectors

# The same words in bf16 and in float32, or batched with others, differ by up to 5e-5.
NEAR_DUPLICATES = 0.9995
READ_AT_ONCE = 2000


def redundant_pairs(
    db: Database,
    vectors: Vectors,
    response_ids: Positions,
    prompt_of_response: Positions,
    pair_a: Positions,
    pair_b: Positions,
    picked: Bools,
    threshold: float,
) -> Bools:
    """Which pairs need not be asked, (n_pairs,); none that was picked, none at threshold 1.

    `response_ids` (n_responses,) are those of the vectors' rows; `pair_a`, `pair_b` positions of
    them. `threshold` is the cosine from which two responses to a prompt are read.
    """
    import numpy as np

    if threshold >= 1.0:
        return np.zeros(len(pair_a), dtype=np.bool_)
    suspects = _suspects(db, vectors, response_ids, prompt_of_response, pair_a, pair_b, threshold)
    texts = _read(db, response_ids[suspects].tolist())
    shown = [texts[i] for i in response_ids[suspects].tolist()]
    # A text that was not read is like no other: its number is its own.
    reading = len(suspects) + np.arange(len(response_ids))
    reading[suspects] = _numbered(text for text, _ in shown)
    prompt_reading = np.full(len(response_ids), -1, dtype=np.int64)
    prompt_reading[suspects] = _numbered(prompt for _, prompt in shown)

    a, b = reading[pair_a], reading[pair_b]
    redundant: Bools = a == b
    prompt = np.maximum(prompt_reading[pair_a], prompt_reading[pair_b])
    read = np.flatnonzero((prompt >= 0) & ~redundant)
    question = np.stack((prompt, np.minimum(a, b), np.maximum(a, b)))[:, read]
    # Of each question the picked pair comes first, then the first in the pool; it is kept.
    order = np.lexsort((read, ~picked[read], *question))
    sorted_ = question[:, order]
    redundant[read[order[1:][(sorted_[:, 1:] == sorted_[:, :-1]).all(axis=0)]]] = True
    return redundant & ~picked


def _suspects(
    db: Database,
    vectors: Vectors,
    response_ids: Positions,
    prompt_of_response: Positions,
    pair_a: Positions,
    pair_b: Positions,
    threshold: float,
) -> Positions:
    """Positions of responses near another of their prompt, or whose very text stands elsewhere."""
    import numpy as np

    from strategies.within_prompt import cosines_of_pairs

    near = cosines_of_pairs(vectors, prompt_of_response, pair_a, pair_b) >= threshold
    query = """SELECT id FROM responses WHERE text_hash IN
        (SELECT text_hash FROM responses GROUP BY text_hash HAVING count(*) > 1)"""
    again = np.fromiter((row[0] for row in db.execute(query)), dtype=np.int64)
    suspect = np.isin(response_ids, again)
    suspect[pair_a[near]] = True
    suspect[pair_b[near]] = True
    return np.flatnonzero(suspect)


def _read(db: Database, response_ids: list[int]) -> dict[int, tuple[str, str]]:
    """Response id -> how it and its prompt read."""
    found: dict[int, tuple[str, str]] = {}
    for start in range(0, len(response_ids), READ_AT_ONCE):
        shown = shown_responses(db, response_ids[start : start + READ_AT_ONCE])
        found |= {i: _as_read(one) for i, one in shown.items()}
    return found


def _as_read(shown: Shown) -> tuple[str, str]:
    turns = [
        [turn["role"], " ".join(turn["content"].casefold().split())] for turn in shown.messages
    ]
    return _visible(shown.text), json.dumps(turns)


def _visible(text: str) -> str:
    """The text without what nobody can see.

    Indentation, blank lines and case stay: code, verse and "answer in capitals" live by them.
    """
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _numbered(texts: Iterable[str]) -> NDArray[np.int64]:
    """Equal numbers for equal texts, from 0."""
    import numpy as np

    number: dict[str, int] = {}
    return np.array([number.setdefault(text, len(number)) for text in texts], dtype=np.int64)
