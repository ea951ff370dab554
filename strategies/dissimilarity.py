"""REAL: choose the pairs by how far apart their responses lie in embedding space.

After "REAL: Response Embedding-based Alignment for LLMs", arXiv 2409.17169, and its public code.
The vectors of the two responses are all it looks at: no prompt, no label, no model to train.

*Within prompt*, for prompts of K > 2 responses, the paper takes one pair of each prompt. Rounds
repeat that, so the batch is filled in **passes**: in its pass p a prompt offers its p-th best
eligible pair. Pairs picked in earlier rounds count as passes done, so a prompt whose best pair is
already labelled waits until every other prompt has had its turn. The paper never ranks prompts
against each other: within a pass their order is drawn, and in the `-ranked` variants, which are
ours, it follows the score.

*Corpus-level*, for prompts of K = 2 responses, there is nothing to choose within a prompt: all
those pairs stand in one ranking, as the paper does for data that comes in pairs.

A pool with both kinds shares n between them by the number of prompts that still have an eligible
pair (largest remainder; an exact half goes to the prompts of K > 2). When the prompts of K = 2 have
no pair left, the others fill the batch. Picks within prompts come first in the selection.

K counts the responses of the prompt in the pool, whether their pairs are eligible or not. Of
equal cosines the pair that stands first in the pool goes first. Propensities are NaN: a pair that
is not next in its prompt could not have been drawn.
"""

from __future__ import annotations

import numpy as np

from strategies.passes import in_turn, passes
from strategies.pool import Pool, Selection, eligible_for
from strategies.within_prompt import Floats, Positions, cosines_of_pairs, two_means


def real_easy(pool: Pool, n: int, rng: np.random.Generator) -> Selection:
    """n pairs, from each prompt its most dissimilar first; prompts in drawn order.

    REAL's own choice (arXiv 2409.17169): argmin over i < j of cos(e_i, e_j). The score is the
    cosine distance 1 - cos, from 0 to 2: high = the responses differ most. For K = 2 the pairs
    with the highest score in the whole corpus.

    Raises BadBatchSize, PoolTooSmall.
    """
    return _by_merit(pool, n, eligible_for(pool, n), _distance(pool), rng)


def real_easy_ranked(pool: Pool, n: int, rng: np.random.Generator) -> Selection:
    """n pairs, from each prompt its most dissimilar first; prompts in order of that distance.

    As `real_easy`, but within a pass the prompts are ranked by the score of the pair they offer.
    This is not in the paper. Nothing is drawn.

    Raises BadBatchSize, PoolTooSmall.
    """
    return _by_merit(pool, n, eligible_for(pool, n), _distance(pool), None)


def real_hard(pool: Pool, n: int, rng: np.random.Generator) -> Selection:
    """n pairs, from each prompt its most similar first; prompts in drawn order.

    The paper's counterpart to `real_easy`: argmax over i < j of cos(e_i, e_j). The score is that
    cosine, from -1 to 1: high = the responses are most alike. For K = 2 the pairs with the highest
    score in the whole corpus.

    Raises BadBatchSize, PoolTooSmall.
    """
    return _by_merit(pool, n, eligible_for(pool, n), _cosine(pool), rng)


def real_hard_ranked(pool: Pool, n: int, rng: np.random.Generator) -> Selection:
    """n pairs, from each prompt its most similar first; prompts in order of that cosine.

    As `real_hard`, but within a pass the prompts are ranked by the score of the pair they offer.
    This is not in the paper. Nothing is drawn.

    Raises BadBatchSize, PoolTooSmall.
    """
    return _by_merit(pool, n, eligible_for(pool, n), _cosine(pool), None)


def real_centroid(pool: Pool, n: int, rng: np.random.Generator) -> Selection:
    """n pairs, from each prompt first the two responses that stand for its two clusters.

    k-means with k = 2 parts the responses of a prompt (arXiv 2409.17169). The paper's pair is, of
    each cluster, the response nearest to its centre; searched inside each cluster, so the two are
    never the same. The score is -(d_a + d_b), the negative sum of the Euclidean distances of both
    responses to the centres of their own clusters: high = both are typical, 0 at best. The paper's
    pair has the highest score of all pairs across the two clusters; the prompt's later passes
    offer the others in that order.

    Pairs inside one cluster come only when no prompt has a pair across left, again in passes by
    score. A prompt of K = 2 has one pair, with score 0, which it offers in the first pass.

    Raises BadBatchSize, PoolTooSmall.
    """
    eligible = eligible_for(pool, n)
    clusters = two_means(pool.response_vectors, pool.prompt_of_response)
    a, b = pool.pair_a[eligible], pool.pair_b[eligible]
    score = 0.0 - (clusters.to_centre[a] + clusters.to_centre[b])
    inside = clusters.second[a] == clusters.second[b]
    draw = rng.permutation(len(eligible))  # the order of the rows often tells who answered
    turn = passes(pool, eligible, (draw, -score, inside))
    turn += inside * (turn.max() + 1)
    chosen = in_turn(n, turn, score, rng)
    return Selection.of(eligible[chosen], scores=score[chosen])


def _cosine(pool: Pool) -> Floats:
    cosines = cosines_of_pairs(
        pool.response_vectors, pool.prompt_of_response, pool.pair_a, pool.pair_b
    )
    clipped: Floats = np.clip(cosines, -1.0, 1.0, dtype=np.float64)
    return clipped


def _distance(pool: Pool) -> Floats:
    return 1.0 - _cosine(pool)


def _by_merit(
    pool: Pool, n: int, eligible: Positions, score: Floats, rng: np.random.Generator | None
) -> Selection:
    """The batch by score (n_pairs,): within prompts where K > 2, corpus-level where K = 2.

    Within a pass prompts stand in drawn order, or by score where there is no generator.
    """
    corpus_level = pool.responses_per_prompt[pool.prompt_of_pair[eligible]] == 2
    within, corpus = eligible[~corpus_level], eligible[corpus_level]
    n_within = _share(n, pool, within, corpus)
    turn = passes(pool, within, (-score[within],))
    chosen = np.concatenate(
        (
            within[in_turn(n_within, turn, score[within], rng)],
            corpus[np.argsort(-score[corpus], kind="stable")[: n - n_within]],
        )
    )
    return Selection.of(chosen, scores=score[chosen])


def _share(n: int, pool: Pool, within: Positions, corpus: Positions) -> int:
    """How many of the n pairs come from prompts of K > 2."""
    n_prompts_within = np.count_nonzero(np.bincount(pool.prompt_of_pair[within]))
    n_prompts = n_prompts_within + len(corpus)  # a prompt of K = 2 has one pair
    share = (2 * n * n_prompts_within + n_prompts) // (2 * n_prompts)
    # Only the corpus can have too few: its prompts have one pair each, the others one or more.
    return int(max(share, n - len(corpus)))
