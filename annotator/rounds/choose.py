"""A batch out of a pool: control arm first, then the strategy, then sides and order.

Arrays in, arrays out; all randomness comes from one seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from strategies.pool import Pool, Selection, Strategy


@dataclass(frozen=True)
class Choice:
    """A batch as arrays of length n, in the order in which annotators see it."""

    positions: NDArray[np.int64]  # into the pool's pairs
    control: NDArray[np.bool_]  # True: drawn uniformly
    draws: NDArray[np.int64]  # order in which its arm picked it, from 0
    scores: NDArray[np.float64]  # NaN where nothing ranked it
    propensities: NDArray[np.float64]  # NaN where it was not drawn
    left_is_a: NDArray[np.bool_]


def control_size(n: int, share: float) -> int:
    """Pairs of the control arm in a batch of n: the rounded share, at least one if it is > 0."""
    return min(n, max(1, round(n * share))) if share > 0 else 0


def choose_batch(pool: Pool, strategy: Strategy, n: int, n_control: int, seed: int) -> Choice:
    """n distinct eligible pairs, `n_control` of them drawn uniformly from the whole pool.

    The control arm is drawn before the strategy sees the pool, so that it is a uniform sample
    of everything eligible and not of what the strategy left over. Raises
    strategies.PoolTooSmall when fewer than n pairs are eligible, StrategyViolation when the
    strategy breaks its contract.
    """
    import numpy as np

    from strategies.baseline import random
    from strategies.pool import check_selection, eligible_for

    # Separate streams: another strategy leaves the control draw as it was.
    control_rng, acquired_rng, order_rng = (np.random.default_rng([seed, i]) for i in range(3))
    n_eligible = len(eligible_for(pool, n))
    parts = []
    if n_control:
        parts.append(random(pool, n_control, control_rng))
        pool = pool.without(parts[0].positions)
    if n > n_control:
        acquired = strategy(pool, n - n_control, acquired_rng)
        check_selection(pool, acquired, n - n_control)
        parts.append(_of_whole_pool(acquired, n_control, n_eligible))
    return _mixed(parts, n_control, order_rng)


def _of_whole_pool(acquired: Selection, n_control: int, n_eligible: int) -> Selection:
    """The same picks, with propensities of the whole round.

    The strategy's own are given that a pair was not drawn for the control arm, which had the
    chance n_control / n_eligible.
    """
    from dataclasses import replace

    spared = (n_eligible - n_control) / n_eligible
    return replace(acquired, propensities=acquired.propensities * spared)


def _mixed(parts: list[Selection], n_control: int, rng: np.random.Generator) -> Choice:
    import numpy as np

    positions = np.concatenate([part.positions for part in parts])
    control = np.arange(len(positions)) < n_control
    draws = np.concatenate([np.arange(len(part.positions)) for part in parts])
    sides = np.concatenate([balanced_sides(len(part.positions), rng) for part in parts])
    order = rng.permutation(len(positions))
    return Choice(
        positions=positions[order],
        control=control[order],
        draws=draws[order],
        scores=np.concatenate([part.scores for part in parts])[order],
        propensities=np.concatenate([part.propensities for part in parts])[order],
        left_is_a=sides[order],
    )


def balanced_sides(n: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """For n pairs whether `a` stands on the left: half of them, an odd one by lot."""
    import numpy as np

    sides = np.arange(n) % 2 == rng.integers(2)
    return rng.permutation(sides)
