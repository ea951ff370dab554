"""Batches filled in passes: in its pass p every prompt offers its p-th best eligible pair.

Pairs picked in earlier rounds count as passes done, so a prompt whose best pair is already
labelled waits until every other prompt has had its turn.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from strategies.pool import Pool
from strategies.within_prompt import Bools, Floats, Positions, rows_of_equal_length

Ranking: TypeAlias = Floats | Positions | Bools


def passes(pool: Pool, eligible: Positions, keys: tuple[Ranking, ...]) -> Positions:
    """The pass in which each eligible pair is its prompt's offer, (n_eligible,), from 0.

    Its rank among the prompt's eligible pairs by the keys, each (n_eligible,), lowest first and the
    last key foremost as in np.lexsort, plus the number of the prompt's pairs picked before.
    """
    prompt_of_pair = pool.prompt_of_pair
    prompt = prompt_of_pair[eligible]
    picked = np.bincount(prompt_of_pair[~pool.pair_eligible], minlength=pool.n_prompts)
    turn: Positions = picked[prompt]
    # Sorting the rows of a matrix is several times faster than one long sort by prompt and score.
    for rows in rows_of_equal_length(prompt):
        ranked = np.lexsort([key[rows] for key in keys], axis=1)
        turn[np.take_along_axis(rows, ranked, axis=1)] += np.arange(rows.shape[1])
    return turn


def in_turn(n: int, turn: Positions, score: Floats, rng: np.random.Generator | None) -> Positions:
    """The n offers of the earliest passes; within a pass in drawn order, without rng by score."""
    pass_of_last = np.searchsorted(np.cumsum(np.bincount(turn)), n)
    offered = np.flatnonzero(turn <= pass_of_last)
    order = -score[offered] if rng is None else rng.permutation(len(offered))
    first: Positions = offered[np.lexsort((order, turn[offered]))[:n]]
    return first
