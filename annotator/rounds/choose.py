"""A batch out of a pool: control arm first, then the strategy, then order and sides.

Arrays in, arrays out; all randomness comes from one seed.

Order and sides are drawn together, in permuted blocks. Label Studio hands tasks out in the order of
their ids, so what one person sees is a run of the batch, and in every run of tasks about half have
`a` on the left: whoever always presses left then says nothing about the pairs, and can be told from
somebody who does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from strategies.pool import Pool, Selection, Strategy
    from strategies.within_prompt import Bools, Positions

BLOCK = 4  # tasks in a row, two of which have a on the left
RIGHT, LEFT, EITHER = 0, 1, -1  # where a response shall stand


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


def choose_batch(
    pool: Pool,
    strategy: Strategy,
    n: int,
    n_control: int,
    seed: int,
    give_up: Callable[[Positions], int] = lambda chosen: 0,
    routed: Bools | None = None,
) -> Choice:
    """n distinct eligible pairs, `n_control` of them drawn uniformly from the whole pool.

    The control arm is drawn before the strategy sees the pool, so that it is a uniform sample
    of everything eligible and not of what the strategy left over. Pairs that are `routed`
    (n_pairs,), left to a machine, are not offered to the strategy. `give_up` says of what the
    strategy chose, in the order in which it did, how many of the last are let go again. Raises
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
    if routed is not None:
        pool = pool.without(np.flatnonzero(routed))
    if n > n_control:
        acquired = strategy(pool, n - n_control, acquired_rng)
        check_selection(pool, acquired, n - n_control)
        acquired = _without_last(acquired, give_up(acquired.positions))
        parts.append(_of_whole_pool(acquired, n_control, n_eligible))
    return _mixed(parts, n_control, order_rng)


def _of_whole_pool(acquired: Selection, n_control: int, n_eligible: int) -> Selection:
    """The same picks, with propensities of the whole round.

    The strategy's own are given that a pair was not drawn for the control arm, which had the
    chance n_control / n_eligible.
    """
    spared = (n_eligible - n_control) / n_eligible
    return replace(acquired, propensities=acquired.propensities * spared)


def _without_last(acquired: Selection, n: int) -> Selection:
    """All but the last n of what was acquired.

    How many give way depends on what was drawn, so nobody knows any more with what chance the
    others stayed: they have no propensity.
    """
    import numpy as np

    if not n:
        return acquired
    kept = len(acquired.positions) - n
    return replace(
        acquired,
        positions=acquired.positions[:kept],
        scores=acquired.scores[:kept],
        propensities=np.full(kept, np.nan),
    )


def _mixed(parts: list[Selection], n_control: int, rng: np.random.Generator) -> Choice:
    import numpy as np

    positions = np.concatenate([part.positions for part in parts])
    control = np.arange(len(positions)) < n_control
    draws = np.concatenate([np.arange(len(part.positions)) for part in parts])
    order, left_is_a = arranged(control.astype(np.int64), np.full(len(control), EITHER), rng)
    return Choice(
        positions=positions[order],
        control=control[order],
        draws=draws[order],
        scores=np.concatenate([part.scores for part in parts])[order],
        propensities=np.concatenate([part.propensities for part in parts])[order],
        left_is_a=left_is_a,
    )


def arranged(
    arm: Positions, wanted: Positions, rng: np.random.Generator
) -> tuple[Positions, Bools]:
    """A random order of n picks (n,), and whether `a` stands on the left of each in that order.

    `arm` (n,) numbers the arms, `wanted` (n,) is LEFT or RIGHT for a pick whose side is settled,
    else EITHER. Half of all picks have `a` on the left, an odd one by lot; so has every block of
    BLOCK tasks in a row, and every arm, up to one pick or, where settled sides are to be made up
    for, two. Where too many sides are settled for that, it holds as far as it can. The place of a
    pick and its side are independent of its arm.
    """
    import numpy as np

    left = wanted == LEFT
    free = np.flatnonzero(wanted == EITHER)
    n_left = (len(arm) + int(rng.integers(2))) // 2
    missing = int(np.clip(n_left - np.count_nonzero(left), 0, len(free)))
    _, arm_of_free, sizes = np.unique(arm[free], return_inverse=True, return_counts=True)
    mixed = rng.permutation(len(free))
    mixed = mixed[np.argsort(arm_of_free[mixed], kind="stable")]  # by arm, at random within
    rank = np.arange(len(free)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    left[free[mixed]] = rank < np.repeat(_shares(sizes, missing, rng), sizes)

    side_of_place = _in_blocks(len(arm), int(np.count_nonzero(left)), rng)
    order = np.empty(len(arm), dtype=np.int64)
    for side in (True, False):
        order[side_of_place == side] = rng.permutation(np.flatnonzero(left == side))
    return order, side_of_place


def _shares(sizes: Positions, n_left: int, rng: np.random.Generator) -> Positions:
    """How many of each arm stand on the left, n_left in all, each as near to half as can be."""
    import numpy as np

    share = sizes // 2
    step = 1 if n_left >= share.sum() else -1
    while share.sum() != n_left:
        uneven = np.abs(2 * (share + step) - sizes).astype(np.float64)
        uneven[(share + step < 0) | (share + step > sizes)] = np.inf
        best = np.flatnonzero(uneven == uneven.min())
        # By lot which arm gets its odd one on the left: the side must not depend on the arm. What
        # makes an even arm uneven, a large one bears best.
        odd = uneven.min() == 1
        share[rng.choice(best) if odd else best[np.argmax(sizes[best])]] += step
    return share


def _in_blocks(n: int, n_left: int, rng: np.random.Generator) -> Bools:
    """Sides of n places in a row, n_left of them left (True): two in each block of four.

    What goes beyond that falls to the short block at the end, then to blocks by lot.
    """
    import numpy as np

    sizes = np.full(-(-n // BLOCK), BLOCK)
    sizes[len(sizes) - 1 :] -= -n % BLOCK
    share = sizes // 2
    step = 1 if n_left >= share.sum() else -1
    while (missing := abs(n_left - int(share.sum()))) > 0:
        room = np.flatnonzero(np.where(step > 0, sizes - share, share) > 0)
        room = room[np.lexsort((rng.random(len(room)), sizes[room] % 2 == 0))]
        share[room[:missing]] += step
    rank = rng.random((len(sizes), BLOCK))
    rank[np.arange(BLOCK) >= sizes[:, None]] = np.inf
    sides: Bools = rank.argsort(axis=1).argsort(axis=1) < share[:, None]
    return sides.ravel()[:n]
