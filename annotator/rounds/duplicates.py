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
HEAD = 32  # entries of a vector that tell most pairs apart
ROUNDING = 1e-4  # of a squared distance in float32, generously
BLOCK_PAIRS = 8192


def redundant_pairs(
    db: Database,
    response_ids: Positions,
    text_of_response: Positions,
    vectors: Vectors,
    prompt_of_response: Positions,
    pair_a: Positions,
    pair_b: Positions,
    picked: Bools,
    threshold: float,
) -> Bools:
    """Which pairs need not be asked, (n_pairs,); none that was picked, none at threshold 1.

    `text_of_response` (n_responses,) numbers from 0, equal where texts are; `vectors`
    (n_responses, d) of length 1; `pair_a`, `pair_b` positions of responses. `threshold` is the
    cosine from which two responses to a prompt are read.
    """
    import numpy as np

    if threshold >= 1.0 or not len(pair_a):
        return np.zeros(len(pair_a), dtype=np.bool_)
    near = _near(vectors, prompt_of_response, pair_a, pair_b, threshold)
    suspect = np.bincount(text_of_response)[text_of_response] > 1
    suspect[pair_a[near]] = suspect[pair_b[near]] = True
    suspects = np.flatnonzero(suspect)
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


def _near(
    vectors: Vectors,
    prompt_of_response: Positions,
    pair_a: Positions,
    pair_b: Positions,
    threshold: float,
) -> Positions:
    """Positions of the pairs whose cosine is at least `threshold`.

    Vectors are no nearer to each other than their first entries are, and nearly all pairs differ
    enough in those: |x - y|^2 = |x|^2 + |y|^2 - 2 x.y.
    """
    import numpy as np

    from strategies.pool import LENGTH_TOLERANCE
    from strategies.within_prompt import cosines_of_pairs

    head = np.ascontiguousarray(vectors[:, :HEAD])
    farthest = 2.0 * (1.0 + LENGTH_TOLERANCE) ** 2 - 2.0 * threshold + ROUNDING
    maybe = []
    for start in range(0, len(pair_a), BLOCK_PAIRS):
        at = slice(start, start + BLOCK_PAIRS)
        with np.errstate(over="ignore", invalid="ignore"):  # bad vectors are named by the pool
            apart = head[pair_a[at]] - head[pair_b[at]]
            maybe.append(start + np.flatnonzero(np.vecdot(apart, apart) <= farthest))
    left = np.concatenate(maybe)
    cosines = cosines_of_pairs(vectors, prompt_of_response, pair_a[left], pair_b[left])
    return left[cosines >= threshold]


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
