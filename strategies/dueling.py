"""Duels within a prompt, as ActiveUltraFeedback holds them: the likely best against a worse one.

After "ActiveUltraFeedback", arXiv 2603.09692, and its public code. There an ensemble of reward
heads gives every response a mean reward and bounds U, L = mean + and - WIDTH * sd; here the
posterior does. Three rules choose one pair of each prompt:

- `drts`: the best under one draw of the rewards against the worst under another;
- `delta-ucb`: argmax over i != j of U_i - L_j;
- `infomax`: argmax over i != j of sigma(U_i - L_j) - sigma(L_i - U_j).

Only differences between responses to one prompt mean anything, and votes never tell where the
rewards of a prompt begin. Means and deviations are therefore those of a reward less the mean reward
of its prompt's responses: what all responses of a prompt share makes none of them less certain.
With K = 2 U_i - L_j is then just the upper bound of the difference.

For the same reason prompts are not ranked against each other: the batch is filled in passes, as
`strategies.passes` describes. In pass p a prompt offers its p-th best eligible pair, pairs
picked before count as passes done, and within a pass prompts stand in drawn order. Propensities are
NaN: a pair that is not next in its prompt could not have been drawn.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from strategies.passes import in_turn, passes
from strategies.pool import Pool, Selection, eligible_for, needs
from strategies.within_prompt import BLOCK_BYTES, Floats, Positions, rows_of_equal_length

WIDTH = 1.0  # `beta` of the public code, 1.0 in its configuration; its sweep also tries 2.0
REDRAWS = 30  # `max_iterations` of the public code


@needs("posterior")
def drts(pool: Pool, n: int, rng: np.random.Generator) -> Selection:
    """n pairs, of each prompt the best response of one draw against the worst of another.

    Double reverse Thompson sampling (arXiv 2603.09692). For each prompt two sets of rewards are
    drawn from the joint posterior, the second one again as long as its worst is the best of the
    first, up to REDRAWS times. The score of a pair is the larger reward of one of its responses in
    the first draw less that of the other in the second, which is highest for that best and that
    worst. Where they are not eligible, and in later passes, the pair with the next highest score
    follows. The published code adds uniform noise, and takes a worst by lot after REDRAWS draws.

    Raises BadBatchSize, PoolTooSmall, MissingSignal.
    """
    eligible = eligible_for(pool, n)
    seed = int(rng.integers(2**63))  # first: what is drawn after it depends on n
    slots, turn = _slots(pool, eligible, n, rng)
    offered = eligible[np.isin(pool.prompt_of_pair[eligible], slots)]
    gap = _drawn_gaps(pool, offered, seed)
    ranked = passes(pool, offered, (-gap,))
    # The pair that a prompt offers in the pass of its slot.
    key = pool.prompt_of_pair[offered] * (pool.n_pairs + 1) + ranked
    by_key = np.argsort(key)
    chosen = by_key[np.searchsorted(key[by_key], slots * (pool.n_pairs + 1) + turn)]
    return Selection.of(offered[chosen], scores=gap[chosen])


@needs("posterior")
def delta_ucb(pool: Pool, n: int, rng: np.random.Generator) -> Selection:
    """n pairs, of each prompt the one that could differ most first.

    DeltaUCB (arXiv 2603.09692): argmax over i != j of U_i - L_j. The score of a pair is the larger
    of its two, |difference of the means| + WIDTH times the sum of the deviations, at least 0: high
    = far apart or uncertain. Equal scores of a prompt stand in drawn order.

    Raises BadBatchSize, PoolTooSmall, MissingSignal.
    """
    eligible = eligible_for(pool, n)
    margin, reach = _margin_and_reach(pool, eligible)
    return _offered(pool, n, eligible, np.abs(margin) + reach, rng)


@needs("posterior")
def infomax(pool: Pool, n: int, rng: np.random.Generator) -> Selection:
    """n pairs, of each prompt the one whose preference is least known first.

    InfoMax (arXiv 2603.09692): argmax over i != j of sigma(U_i - L_j) - sigma(L_i - U_j), the width
    of the interval for the probability that i is preferred. The score of a pair is that width,
    from 0 to 1, the same for both orders. Equal scores of a prompt stand in drawn order.

    Raises BadBatchSize, PoolTooSmall, MissingSignal.
    """
    eligible = eligible_for(pool, n)
    margin, reach = _margin_and_reach(pool, eligible)
    upper, lower = 0.5 * (np.abs(margin) + reach), 0.5 * (np.abs(margin) - reach)
    return _offered(pool, n, eligible, 0.5 * (np.tanh(upper) - np.tanh(lower)), rng)


def reward_bounds(pool: Pool) -> tuple[Floats, Floats]:
    """L and U of every response, each (n_responses,), from the mean of its prompt's rewards.

    Raises MissingSignal if the pool has no posterior.
    """
    mean, shared = pool.signal("reward_mean"), pool.signal("reward_loadings")
    own = pool.signal("residual_loadings")
    centre, deviation = np.empty(pool.n_responses), np.empty(pool.n_responses)
    for rows in _few_prompts(pool.prompt_of_response, shared.shape[1] + own.shape[1]):
        centre[rows] = mean[rows] - mean[rows].mean(axis=1, keepdims=True)
        variance = np.zeros(rows.shape)
        for loadings in (shared, own):
            block = loadings[rows].astype(np.float64)
            block -= block.mean(axis=1, keepdims=True)
            variance += np.vecdot(block, block)
        deviation[rows] = np.sqrt(variance)
    return centre - WIDTH * deviation, centre + WIDTH * deviation


def _margin_and_reach(pool: Pool, pairs: Positions) -> tuple[Floats, Floats]:
    """Mean of a less mean of b, and WIDTH times the sum of their deviations, of these pairs."""
    lower, upper = reward_bounds(pool)
    centre, half = 0.5 * (upper + lower), 0.5 * (upper - lower)
    a, b = pool.pair_a[pairs], pool.pair_b[pairs]
    return centre[a] - centre[b], half[a] + half[b]


def _offered(
    pool: Pool, n: int, eligible: Positions, score: Floats, rng: np.random.Generator
) -> Selection:
    """n pairs in passes by the scores (n_eligible,)."""
    turn = passes(pool, eligible, (rng.permutation(len(eligible)), -score))
    chosen = in_turn(n, turn, score, rng)
    return Selection.of(eligible[chosen], scores=score[chosen])


def _slots(
    pool: Pool, eligible: Positions, n: int, rng: np.random.Generator
) -> tuple[Positions, Positions]:
    """The prompts that have the n first turns, and in which pass each of these is, (n,)."""
    anyhow = np.zeros(len(eligible))
    turn = passes(pool, eligible, (anyhow,))
    chosen = in_turn(n, turn, anyhow, rng)
    return pool.prompt_of_pair[eligible[chosen]], turn[chosen]


def _drawn_gaps(pool: Pool, pairs: Positions, seed: int) -> Floats:
    """The score of these pairs under two draws for each of their prompts, (m,).

    Every prompt has a stream of its own, so its draws do not depend on who else has a turn.
    """
    prompt_of_pair = pool.prompt_of_pair[pairs]
    responses = np.flatnonzero(np.isin(pool.prompt_of_response, prompt_of_pair))
    first, second = np.empty(pool.n_responses), np.empty(pool.n_responses)
    for rows in rows_of_equal_length(pool.prompt_of_response[responses]):
        for row in responses[rows]:
            rng = np.random.default_rng([seed, int(pool.prompt_of_response[row[0]])])
            first[row], second[row] = _two_draws(pool, row, rng)
    a, b = pool.pair_a[pairs], pool.pair_b[pairs]
    return np.maximum(first[a] - second[b], first[b] - second[a])


def _two_draws(pool: Pool, row: Positions, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Two draws (K,) of the rewards of one prompt's responses, less the mean of each draw.

    The second is drawn again while its worst is the best of the first, REDRAWS times at most.
    """
    mean = pool.signal("reward_mean")[row]
    loadings = np.concatenate(
        (pool.signal("reward_loadings")[row], pool.signal("residual_loadings")[row]),
        axis=1,
        dtype=np.float64,
    )

    def draw() -> Floats:
        reward = mean + loadings @ rng.standard_normal(loadings.shape[1])
        centred: Floats = reward - reward.mean()
        return centred

    first, second = draw(), draw()
    for _ in range(REDRAWS):
        if np.argmin(second) != np.argmax(first):
            break
        second = draw()
    return first, second


def _few_prompts(prompts: Positions, n_factors: int) -> Iterator[Positions]:
    """As rows_of_equal_length, in arrays whose responses' loadings are a cacheful."""
    for rows in rows_of_equal_length(prompts):
        step = max(1, BLOCK_BYTES // (8 * rows.shape[1] * max(1, n_factors)))
        yield from (rows[start : start + step] for start in range(0, len(rows), step))
