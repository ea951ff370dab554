"""Choose pairs that differ from each other and from what was picked before.

A pair (a, b) is the point z = e_a - e_b, the difference of its response vectors, which is what a
linear reward model learns from. A pair has no order, so z and -z are the same pair: the distance of
two pairs is the smaller of |z - z'| and |z + z'|. The origin is where two equal responses meet;
what a vote on them would say is known without asking, so the origin counts as picked. Pairs picked
in earlier rounds are the other centres that a batch starts from.

Propensities are NaN: what a pick leaves for the others depends on the whole batch.
"""

from __future__ import annotations

import numpy as np

from strategies.farthest_first import Cover, Rows, farthest_first
from strategies.kmeans_seeding import draw_by_distance
from strategies.passes import in_turn, passes
from strategies.pool import Pool, Selection, eligible_for, needs
from strategies.within_prompt import Floats, Positions, Vectors, cosines_of_pairs, peer_agreement

HELD_BYTES = 256 << 20


class PairVectors:
    """The rows scale * (vectors[a] - vectors[b]), (n_pairs, d) float32, made when they are read.

    There are often more pairs than responses: all rows at once could fill memory.
    """

    def __init__(
        self, vectors: Vectors, a: Positions, b: Positions, scale: Vectors | None = None
    ) -> None:
        self._vectors, self._a, self._b, self._scale = vectors, a, b, scale

    @property
    def shape(self) -> tuple[int, int]:
        return len(self._a), self._vectors.shape[1]

    def __getitem__(self, at: slice | Positions, /) -> Vectors:
        rows: Vectors = self._vectors[self._a[at]] - self._vectors[self._b[at]]
        if self._scale is not None:
            rows *= self._scale[at, None]
        return rows


def k_center(pool: Pool, n: int, rng: np.random.Generator) -> Selection:
    """n pairs, each the farthest from the pairs picked so far: a core-set of the pool.

    Farthest-first over the differences z (k-center greedy of arXiv 1708.00489, exact), from the
    origin and the pairs picked before. The score is the distance to the nearest of them at the
    moment of picking, from 0 to 2; the first pick of an empty project is the most dissimilar pair.
    Of equal distances, which three responses to a prompt make already, the pair whose responses
    differ more goes first, then the one that stands first in the pool. Nothing is drawn.

    Raises BadBatchSize, PoolTooSmall.
    """
    eligible_for(pool, n)
    order = np.argsort(_cosines(pool), kind="stable")
    eligible = pool.pair_eligible[order]
    chosen, distances = farthest_first(
        _rows(pool, order),
        n,
        centres=np.flatnonzero(~eligible),
        candidates=np.flatnonzero(eligible),
        sign_free=True,
    )
    return Selection.of(order[chosen], scores=distances.astype(np.float64))


@needs("posterior")
def badge(pool: Pool, n: int, rng: np.random.Generator) -> Selection:
    """n pairs drawn so that their gradients are long and point different ways.

    BADGE (arXiv 1906.03671) for pairs: the gradient of the loss at the label that the model itself
    expects is min(p, 1 - p) z, with p = P(a preferred). It is long where the model is unsure and
    the responses differ. Pairs are drawn by k-means++ over these gradients. The score is the
    distance to the nearest centre when the pair was drawn, and the square of it was its chance.

    Two things are ours: gradients have no sign, as pairs have none; and where the published code
    takes the longest gradient first and forgets earlier batches, the draw starts from the origin
    and from the pairs picked before, many of which may still wait for their votes.

    Raises BadBatchSize, PoolTooSmall, MissingSignal.
    """
    eligible_for(pool, n)
    preferred = pool.signal("pair_preferred")
    scale = np.minimum(preferred, 1.0 - preferred).astype(np.float32)
    cover = Cover(_rows(pool, np.arange(pool.n_pairs), scale), sign_free=True)
    cover.add(np.flatnonzero(~pool.pair_eligible))
    cover.take(~pool.pair_eligible)
    chosen, distances = draw_by_distance(cover, n, rng)
    return Selection.of(chosen, scores=distances.astype(np.float64))


def aepo(pool: Pool, n: int, rng: np.random.Generator) -> Selection:
    """n pairs, from each prompt first the two responses that are typical and yet differ.

    AEPO (arXiv 2405.13541) with k = 2 and lambda = 1: of all pairs of a prompt the one with the
    largest f = (m_a + m_b) / 2 - cos(e_a, e_b), where m is a response's mean cosine to the others
    of its prompt. The score is f, from -2 to 2: high = both stand for the others and are apart.
    With two responses to choose the maximum is found by trying all, where the published code
    searches. Prompts come in drawn order; a prompt offers its second best pair when all have had
    their turn. For K = 2 there is nothing to choose, and f is 0.

    Raises BadBatchSize, PoolTooSmall.
    """
    eligible = eligible_for(pool, n)
    score = _representative_and_apart(pool, eligible)
    chosen = in_turn(n, passes(pool, eligible, (-score,)), score, rng)
    return Selection.of(eligible[chosen], scores=score[chosen])


def _representative_and_apart(pool: Pool, eligible: Positions) -> Floats:
    """AEPO's f of the eligible pairs, (n_eligible,)."""
    vectors, prompts = pool.response_vectors, pool.prompt_of_response
    mean = peer_agreement(vectors, prompts)  # of whole prompts: a pool may leave pairs out
    a, b = pool.pair_a[eligible], pool.pair_b[eligible]
    score: Floats = (mean[a] + mean[b]) / 2.0 - cosines_of_pairs(vectors, prompts, a, b)
    return score


def _cosines(pool: Pool) -> Vectors:
    return cosines_of_pairs(
        pool.response_vectors, pool.prompt_of_response, pool.pair_a, pool.pair_b
    )


def _rows(pool: Pool, order: Positions, scale: Vectors | None = None) -> Rows:
    """The pool's pairs as rows, in this order; held in memory where that is little."""
    rows = PairVectors(pool.response_vectors, pool.pair_a[order], pool.pair_b[order], scale)
    n, d = rows.shape
    return rows[slice(n)] if 4 * n * d <= HELD_BYTES else rows
