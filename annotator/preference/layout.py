"""Votes laid out by prompt, with the features of the responses that they are on.

Votes tie together responses of one prompt only, and only differences within a prompt are seen. So
all that a prompt's votes say lives in K - 1 dimensions, K being its responses with a vote; the
basis is Helmert's. Prompts of equal K are handled together, as arrays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from annotator.errors import PreferenceError
from annotator.preference.features import GROUPS, ResponseFeatures
from annotator.preference.vote_model import VoteModel
from annotator.preference.votes import Tally
from strategies.within_prompt import Bools, Floats, Positions, rows_of_equal_length

BLOCK_ROWS = 1024  # rows of features in a block, about: 6 MB


@dataclass(frozen=True)
class Prior:
    """Prior variances of reward differences.

    `response`, `product`, `form`, `model`, `judge`: what each feature group gives to the difference
    of two typical responses to one prompt. `own`: of each response's own term. `pair`: of the
    pair's.
    """

    response: float = 0.6
    product: float = 0.2
    form: float = 0.4
    model: float = 0.5
    judge: float = 0.5
    own: float = 0.6
    pair: float = 0.5

    def weigh(self, features: dict[str, Floats]) -> Floats:
        """The feature groups side by side, each times its prior deviation, (n, f)."""
        return np.concatenate(
            [features[name] * np.sqrt(getattr(self, name)) for name in GROUPS], axis=1
        )


@cache
def helmert(k: int) -> Floats:
    """Orthonormal basis (k, k - 1) of the vectors that sum to 0."""
    basis = np.zeros((k, k - 1))
    for j in range(1, k):
        basis[:j, j - 1] = 1.0 / np.sqrt(j * (j + 1))
        basis[j, j - 1] = -j / np.sqrt(j * (j + 1))
    basis.flags.writeable = False
    return basis


@dataclass(frozen=True, eq=False)
class Block:
    """Prompts with the same number K of labelled responses, and the pairs that have votes.

    `rows` (m, K) places in the list of labelled responses; `contrasts` (m, K - 1, f) their weighed
    features in Helmert's basis, `offset` (m, K - 1) their prior mean rewards in it; `pairs`
    (n_pairs,) which of the layout's pairs these are, `of_a` and `of_b` where in `rows`, flattened,
    each of these has its responses.
    """

    rows: Positions
    contrasts: Floats
    offset: Floats
    pairs: Positions
    of_a: Positions
    of_b: Positions

    @classmethod
    def of(
        cls,
        rows: Positions,
        contrasts: Floats,
        pairs: Positions,
        a: Positions,
        b: Positions,
        offset: Floats | None = None,
    ) -> Block:
        """The block whose pairs have their responses at the places a and b, (n_pairs,)."""
        flat = rows.ravel()
        order = np.argsort(flat)
        of_a, of_b = (order[np.searchsorted(flat, ends, sorter=order)] for ends in (a, b))
        if offset is None:
            offset = np.zeros(contrasts.shape[:2])
        return cls(rows, contrasts, offset, pairs, of_a, of_b)

    @property
    def k(self) -> int:
        """Labelled responses of each prompt."""
        return self.rows.shape[1]

    @property
    def n_rows(self) -> int:
        """Rows of features that the block holds."""
        return self.contrasts.shape[0] * self.contrasts.shape[1]

    @property
    def flat(self) -> Floats:
        """The contrasts as one matrix (n_rows, f)."""
        return self.contrasts.reshape(self.n_rows, -1)

    def laplacian(self, weight: Floats) -> Floats:
        """In Helmert's basis, (m, K - 1, K - 1), from a weight for each of the layout's pairs."""
        k, w = self.k, weight[self.pairs]
        slot_a, slot_b = self.of_a % k, self.of_b % k
        cells = np.concatenate(
            (
                self.of_a * k + slot_a,
                self.of_b * k + slot_b,
                self.of_a * k + slot_b,
                self.of_b * k + slot_a,
            )
        )
        signed = np.concatenate((w, w, -w, -w))
        full = np.bincount(cells, signed, minlength=self.rows.size * k).reshape(-1, k, k)
        inner: Floats = helmert(k).T @ full @ helmert(k)
        return inner

    def summed(self, pull: Floats) -> Floats:
        """Pulls of the layout's pairs, towards a and away from b, in Helmert's basis."""
        of_pair = pull[self.pairs]
        total = np.bincount(self.of_a, of_pair, self.rows.size)
        total -= np.bincount(self.of_b, of_pair, self.rows.size)
        inner: Floats = total.reshape(self.rows.shape) @ helmert(self.k)
        return inner

    def outwards(self, inner: Floats, into: Floats) -> None:
        """Writes values (m, K - 1) in Helmert's basis to the labelled responses."""
        into[self.rows] = inner @ helmert(self.k).T

    def select(self, kept: Bools | Positions) -> Block:
        """The block of these prompts alone, in their order."""
        rows = self.rows[kept]
        slot_of = np.full(self.rows.size, -1)
        slot_of[np.arange(self.rows.size).reshape(self.rows.shape)[kept]] = np.arange(
            rows.size
        ).reshape(rows.shape)
        of_a = slot_of[self.of_a]
        inside = of_a >= 0
        return Block(
            rows,
            self.contrasts[kept],
            self.offset[kept],
            self.pairs[inside],
            of_a[inside],
            slot_of[self.of_b[inside]],
        )

    def joined(self, other: Block) -> Block:
        """The block of both blocks' prompts, of equal K."""
        return Block(
            np.concatenate((self.rows, other.rows)),
            np.concatenate((self.contrasts, other.contrasts)),
            np.concatenate((self.offset, other.offset)),
            np.concatenate((self.pairs, other.pairs)),
            np.concatenate((self.of_a, other.of_a + self.rows.size)),
            np.concatenate((self.of_b, other.of_b + self.rows.size)),
        )


@dataclass(frozen=True, eq=False)
class Layout:
    """The votes of a tally laid out by prompt.

    - `labelled` (n_labelled,) positions of the responses with a vote.
    - `a`, `b` (n_pairs,) places in it of the responses of each pair with a vote, a before b in the
      pool.
    - `pair_of_row` (n_rows,) the pair of each row of the tally, `counts` (n_rows, n_grades) and
      `lapse` (n_rows,) or None as there: annotators with different lapses share the pair's own
      term, and so the pair.
    """

    prior: Prior
    model: VoteModel
    labelled: Positions
    a: Positions
    b: Positions
    pair_of_row: Positions
    counts: Floats
    lapse: Floats | None
    blocks: list[Block]
    n_features: int

    @classmethod
    def of(cls, features: ResponseFeatures, prior: Prior, model: VoteModel, votes: Tally) -> Layout:
        """The layout of these votes. Raises PreferenceError if a vote joins two prompts, or if its
        responses do not exist or have features that are not finite."""
        _check(features, votes)
        labelled = np.unique(np.concatenate((votes.a, votes.b)))
        first, pair_of_row = _pairs(votes)
        a = np.searchsorted(labelled, votes.a[first])
        b = np.searchsorted(labelled, votes.b[first])
        n_features = sum(features.sizes.values())
        blocks = list(_blocks(features, prior, labelled, a, b))
        counts = model.counts(votes.counts)
        return cls(
            prior, model, labelled, a, b, pair_of_row, counts, votes.lapse, blocks, n_features
        )

    @property
    def n_pairs(self) -> int:
        """Pairs that have a vote."""
        return len(self.a)

    def by_pair(self, of_row: Floats) -> Floats:
        """The sums over the tally's rows of each pair, (n_pairs,)."""
        return np.bincount(self.pair_of_row, of_row, self.n_pairs).astype(np.float64)

    def codes(self, n_responses: int) -> Positions:
        """One number for each pair, as pair_codes gives them."""
        return self.labelled[self.a] * n_responses + self.labelled[self.b]


def contrasts_of(features: ResponseFeatures, prior: Prior, positions: Positions) -> Floats:
    """The weighed features of m prompts' responses (m, K), in Helmert's basis (m, K - 1, f).

    Raises PreferenceError where they are not finite.
    """
    m, k = positions.shape
    phi = prior.weigh(features.rows(positions.ravel()))
    check_finite(phi.sum(axis=1), positions.ravel())
    found: Floats = helmert(k).T @ phi.reshape(m, k, -1)
    return found


def check_finite(of_response: Floats, positions: Positions) -> None:
    """Raises PreferenceError if a value that responses' features made is not finite."""
    wrong = ~np.isfinite(of_response)
    if wrong.any():
        raise PreferenceError(
            f"the features of response {positions[np.argmax(wrong)]} hold NaN or infinity",
            expected="finite features",
            todo="check the embeddings with `annotator doctor`",
        )


def _check(features: ResponseFeatures, votes: Tally) -> None:
    n = features.n_responses
    for end in (votes.a, votes.b):
        if len(end) and not 0 <= end.min() <= end.max() < n:
            raise PreferenceError(
                f"a vote is on response {end.min() if end.min() < 0 else end.max()}",
                expected=f"positions of the {n} responses",
            )
    of_a, of_b = features.prompt_of_response[votes.a], features.prompt_of_response[votes.b]
    if np.any(of_a != of_b):
        at = int(np.argmax(of_a != of_b))
        raise PreferenceError(
            f"a vote is on responses to the prompts {of_a[at]} and {of_b[at]}",
            expected="two responses to the same prompt",
        )


def _pairs(votes: Tally) -> tuple[Positions, Positions]:
    """The first row of each pair of the tally, and the pair of each row."""
    new = np.ones(len(votes.a), dtype=np.bool_)
    new[1:] = (votes.a[1:] != votes.a[:-1]) | (votes.b[1:] != votes.b[:-1])
    return np.flatnonzero(new), np.cumsum(new) - 1


def _blocks(
    features: ResponseFeatures, prior: Prior, labelled: Positions, a: Positions, b: Positions
) -> Iterator[Block]:
    all_rows = [
        rows[start : start + step]
        for rows in rows_of_equal_length(features.prompt_of_response[labelled])
        for step in (max(1, BLOCK_ROWS // (rows.shape[1] - 1)),)
        for start in range(0, len(rows), step)
    ]
    block_of = np.empty(len(labelled), dtype=np.int64)
    for number, rows in enumerate(all_rows):
        block_of[rows] = number
    by_block = np.argsort(block_of[a], kind="stable")
    ends = np.cumsum(np.bincount(block_of[a], minlength=len(all_rows)))
    for rows, pairs in zip(all_rows, np.split(by_block, ends[:-1]), strict=False):
        contrasts = contrasts_of(features, prior, labelled[rows])
        yield Block.of(rows, contrasts, pairs, a[pairs], b[pairs])
