"""The control: pairs drawn with equal probability, against which every strategy is measured."""

from __future__ import annotations

import numpy as np

from strategies.pool import Pool, Selection, eligible_for


def random(pool: Pool, n: int, rng: np.random.Generator) -> Selection:
    """n pairs drawn uniformly, without replacement, from the N eligible ones.

    Every set of n pairs is equally likely, so each pair's propensity is n / N: estimates from
    these pairs are estimates of the whole pool. Nothing ranks them; their scores are NaN.

    Raises BadBatchSize if n < 1, PoolTooSmall if n > N.
    """
    eligible = eligible_for(pool, n)
    drawn = rng.choice(eligible, size=n, replace=False)
    return Selection.of(drawn, propensities=np.full(n, n / len(eligible)))
