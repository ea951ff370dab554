"""k-means++ seeding: rows drawn with chances in proportion to their squared distances, exactly.

Each draw changes the chances of all rows after it, so the plain way reads all rows for every draw.
Squared distances only fall, though: the chances as they stood some draws ago are too high at worst,
and a row drawn by them is kept with the share of its chance that is left, which is rejection
sampling with the right result (after Cohen-Addad et al., "Fast and Accurate k-means++ via Rejection
Sampling", NeurIPS 2020, who find their upper bounds otherwise). The rows take in the new centres by
one matrix product when too many draws have been rejected.
"""

from __future__ import annotations

import numpy as np

from strategies.farthest_first import Cover
from strategies.within_prompt import Floats, Positions, Vectors

REJECTED_A_PASS = 32


def draw_by_distance(cover: Cover, n: int, rng: np.random.Generator) -> tuple[Positions, Vectors]:
    """n candidates of the cover in drawn order, and each one's distance when it was drawn, (n,).

    Each is drawn with probability D^2 over the sum of D^2, D the distance to the nearest centre or
    earlier pick (Arthur and Vassilvitskii 2007, section 2.2). When all that is left lies on
    centres, the rest is drawn uniformly. What is drawn first does not depend on n.

    Raises ValueError if there are fewer than n candidates.
    """
    open_ = np.flatnonzero(cover.squared > -np.inf)
    if n > len(open_):
        raise ValueError(f"{n} rows were asked for, and {len(open_)} are candidates")
    picks: list[int] = []
    squared: list[float] = []
    new: list[int] = []
    while len(picks) < n:
        cover.add(np.array(new, dtype=np.int64))
        chances = _chances(cover)
        if not chances.any():
            left = rng.permutation(np.flatnonzero(cover.squared > -np.inf))[: n - len(picks)]
            picks += left.tolist()
            squared += [0.0] * len(left)
            break
        new, found = _one_pass(cover, chances, n - len(picks), rng)
        picks += new
        squared += found
    return np.array(picks, dtype=np.int64), np.sqrt(np.array(squared, dtype=np.float32))


def _one_pass(
    cover: Cover, chances: Floats, n: int, rng: np.random.Generator
) -> tuple[list[int], list[float]]:
    """Up to n draws; the cover has them taken."""
    upto = np.cumsum(chances)
    picks: list[int] = []
    squared: list[float] = []
    rejected = 0
    while len(picks) < n and rejected < REJECTED_A_PASS:
        at = int(np.searchsorted(upto, rng.random() * upto[-1], side="right"))
        at = min(at, len(upto) - 1)  # a product may round up to the total
        left = _left(cover, at, float(chances[at]), picks)
        if rng.random() * chances[at] < left:
            picks.append(at)
            squared.append(left)
        else:
            rejected += 1
    cover.take(np.array(picks, dtype=np.int64))
    return picks, squared


def _left(cover: Cover, at: int, before: float, since: list[int]) -> float:
    """The squared distance of a row whose distance was `before` these centres."""
    if not since:
        return before
    here = np.array([at])
    centres = np.array(since, dtype=np.int64)
    found = cover.to_centre(cover.read(centres), cover.norms[centres], here)
    return min(before, float(found.min()))


def _chances(cover: Cover) -> Floats:
    """D^2 of every candidate, 0 of all others, (n_rows,).

    What a matrix product cannot tell from 0 is asked of the kernel: copies of a pick have no
    chance, and not that of a rounding error.
    """
    chances = np.maximum(cover.squared, 0.0).astype(np.float64)
    doubtful = np.flatnonzero((chances <= cover.slack) & (cover.squared > -np.inf))
    if cover.sign_free:  # nearest to the origin, which no product was needed for
        doubtful = doubtful[cover.squared[doubtful] < cover.norms[doubtful]]
    chances[doubtful] = cover.exact(doubtful)
    return chances
