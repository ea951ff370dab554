"""Farthest-first choice, exact, by matrix products instead of one pass over the rows per pick.

Farthest-first (Gonzalez 1985; k-center greedy, the core-set rule of arXiv 1708.00489) takes again
and again the row that lies farthest from its nearest centre, and makes it a centre. Its largest
remaining distance is at most twice the best that any choice of so many centres could reach. The
plain loop reads all rows for every pick, so the memory's bandwidth sets its pace. Here:

1. The rows with the largest distances are the *pool*; the largest distance outside it is the
   *bound*.
2. Picks are made inside the pool and update the pool alone. Distances only fall, so a row of the
   pool that exceeds the bound is the pick that the plain loop would make.
3. Where none does, all rows take in all the new centres by one matrix product, and a new pool is
   made.

**Same picks, same order, although a matrix product rounds differently.** The distance of a row to a
centre is *defined* by one kernel, `_squared`: float32 dot products by np.vecdot, which depend on
the two rows and not on where they stand. The plain loop with that kernel is the reference. Matrix
products only sort rows into pools: they differ from the kernel by at most `Cover.slack`, an a
priori bound that holds for every order of summation. Rows enter the pool with an allowance of
twice the slack, the bound is raised by it, and inside the pool every distance comes from the
kernel: `Cover.exact` asks it for those centres that could be nearest as far as the products can
tell. Of equal distances the lowest position wins.

Memory: two float32 a row, the centres, the pool and blocks of products; the rows are read in
blocks and may be a memmap.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from strategies.within_prompt import Bools, Positions, Vectors

POOL_ROWS = 2048
PRODUCT_BYTES = 4 << 20
UNIT_ROUNDOFF = 2.0**-24


class Rows(Protocol):
    """float32 rows (n, d) that are read by slices and by positions: an array, a memmap, or what
    computes its rows when they are asked for.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, at: slice | Positions, /) -> Vectors: ...


class Cover:
    """How far every row is from its nearest centre, while centres are added.

    `squared` (n,) float32 are squared Euclidean distances, within `slack` of what `exact` gives;
    -inf for a row that was taken, inf where there is no centre yet. With `sign_free` a row x and
    its opposite -x are one thing, so the distance is min(|x - c|, |x + c|); and the origin, the
    one point that is its own opposite, is a centre from the start.
    """

    def __init__(self, rows: Rows, *, sign_free: bool = False) -> None:
        n, d = rows.shape
        self._rows = rows
        self.sign_free = sign_free
        self.norms = np.empty(n, dtype=np.float32)
        for block in _blocks(n, max(1, PRODUCT_BYTES // (4 * max(1, d)))):
            x = self.read(block)
            self.norms[block] = np.vecdot(x, x)
        self.squared = self._uncovered(self.norms).copy()
        self.slack = _slack(d, float(self.norms.max(initial=0.0)))
        self._centres: Vectors = np.empty((0, d), dtype=np.float32)
        self._centre_norms: Vectors = np.empty(0, dtype=np.float32)

    def read(self, at: slice | Positions) -> Vectors:
        """These rows, each in one stretch of memory: np.vecdot sums strided ones otherwise."""
        return np.ascontiguousarray(self._rows[at], dtype=np.float32)

    def take(self, taken: Positions | Bools) -> None:
        """These rows are no candidates any more."""
        self.squared[taken] = -np.inf

    def add(self, centres: Positions) -> None:
        """Every row takes in these rows as centres."""
        new, norms = self.read(centres), self.norms[centres]
        self._centres = np.concatenate((self._centres, new))
        self._centre_norms = np.concatenate((self._centre_norms, norms))
        for some in _blocks(len(centres), 256):
            step = max(256, PRODUCT_BYTES // (4 * len(new[some])))
            for block in _blocks(len(self.squared), step):
                found = self._products(self.read(block), new[some], norms[some]).min(axis=0)
                found += self.norms[block]
                np.minimum(self.squared[block], found, out=self.squared[block])

    def exact(self, at: Positions) -> Vectors:
        """The squared distances of these rows as the kernel gives them, (m,) float32, >= 0."""
        squared = self._uncovered(self.norms[at]).copy()
        step = max(1, PRODUCT_BYTES // (4 * max(1, len(self._centres))))
        for block in _blocks(len(at) if len(self._centres) else 0, step):
            self._settle(self.read(at[block]), self.norms[at[block]], squared[block])
        return squared

    def to_centre(self, x: Vectors, norms: Vectors, centre: Positions) -> Vectors:
        """The kernel's squared distances of rows x (m, d) to one row, given by position (1,)."""
        return self._squared(x, norms, self.read(centre), self.norms[centre])

    def _settle(self, x: Vectors, norms: Vectors, squared: Vectors) -> None:
        """Lower `squared` (m,) to the kernel's distances, asking it for possible nearest alone."""
        near = self._products(x, self._centres, self._centre_norms)
        centre, row = np.nonzero(near <= near.min(axis=0) + np.float32(2.0 * self.slack))
        for some in _blocks(len(row), max(1, PRODUCT_BYTES // (4 * x.shape[1]))):
            r, c = row[some], centre[some]
            found = self._squared(x[r], norms[r], self._centres[c], self._centre_norms[c])
            np.minimum.at(squared, r, found)

    def _products(self, x: Vectors, centres: Vectors, centre_norms: Vectors) -> Vectors:
        """Squared distances less the rows' own squared norms, (n_centres, m), by one product."""
        products = (np.float32(2.0) * centres) @ x.T
        if self.sign_free:
            np.abs(products, out=products)
        return np.subtract(centre_norms[:, None], products, out=products)

    def _squared(
        self, x: Vectors, norms: Vectors, centres: Vectors, centre_norms: Vectors
    ) -> Vectors:
        """The kernel: what a squared distance is. Zero between equal rows, never below."""
        products = np.vecdot(x, centres)
        if self.sign_free:
            products = np.abs(products)
        squared: Vectors = (norms + centre_norms) - np.float32(2.0) * products
        return np.maximum(squared, np.float32(0.0))

    def _uncovered(self, norms: Vectors) -> Vectors:
        return norms if self.sign_free else np.full_like(norms, np.inf)


def farthest_first(
    rows: Rows,
    n: int,
    *,
    centres: npt.ArrayLike = (),
    candidates: Positions | None = None,
    sign_free: bool = False,
    pool_rows: int = POOL_ROWS,
) -> tuple[Positions, Vectors]:
    """n candidates in the order of the farthest-first traversal, and each one's distance, (n,).

    `rows` (n_rows, d) float32; `centres` are positions that are covered already and are not
    chosen; `candidates` are the positions that may be chosen, by default all others. A distance is
    that to the nearest centre or earlier pick at the moment of picking, so they never rise; what
    is left unpicked is no farther than the last. Where no centre is given the candidate of the
    lowest position comes first, at distance inf; with `sign_free` (see Cover) the origin is a
    centre. Of equal distances the lowest position wins, so nothing is drawn. `pool_rows` sets the
    pace and not the result.

    Raises ValueError if there are fewer than n candidates.
    """
    given = np.asarray(centres, dtype=np.int64)
    cover = Cover(rows, sign_free=sign_free)
    if candidates is not None:
        barred = np.ones(rows.shape[0], dtype=np.bool_)
        barred[candidates] = False
        cover.take(barred)
    cover.take(given)
    open_ = np.flatnonzero(cover.squared >= 0.0)
    if n > len(open_):
        raise ValueError(f"{n} rows were asked for, and {len(open_)} are candidates")
    picks: Positions = np.empty(0, dtype=np.int64)
    squared: Vectors = np.empty(0, dtype=np.float32)
    if len(given):
        cover.add(given)
    elif not sign_free and n:
        picks, squared = open_[:1], np.full(1, np.inf, dtype=np.float32)
        cover.add(picks)
        cover.take(picks)
    new = picks[:0]
    while len(picks) < n:
        cover.add(new)
        new, found = _one_pass(cover, n - len(picks), pool_rows)
        picks, squared = np.concatenate((picks, new)), np.concatenate((squared, found))
    return picks, np.sqrt(squared)


def _one_pass(cover: Cover, n: int, pool_rows: int) -> tuple[Positions, Vectors]:
    """Up to n next picks, at least one, and their squared distances; the cover has them taken."""
    pool, squared, bound = _pool(cover, pool_rows)
    if squared.max() == 0.0:  # and so is all that is left: equal rows, in order of position
        rest = np.flatnonzero(cover.squared > -np.inf)[:n]
        return rest, np.zeros(len(rest), dtype=np.float32)
    x, norms = cover.read(pool), cover.norms[pool]
    picked: list[int] = []
    found: list[float] = []
    while len(picked) < min(n, len(pool)):
        best = int(np.argmax(squared))
        if picked and squared[best] <= bound:
            break
        picked.append(best)
        found.append(float(squared[best]))
        np.minimum(squared, cover.to_centre(x, norms, pool[best : best + 1]), out=squared)
        squared[best] = -np.inf
    cover.take(pool[picked])
    return pool[picked], np.array(found, dtype=np.float32)


def _pool(cover: Cover, pool_rows: int) -> tuple[Positions, Vectors, float]:
    """Candidates in ascending position, their exact squared distances, and the bound.

    The pool's best, the lowest position among equals, is the best of all candidates; no candidate
    outside exceeds the bound.
    """
    near = cover.squared
    if np.count_nonzero(near > -np.inf) <= 2 * pool_rows:  # a pass over all costs as little
        pool = np.flatnonzero(near > -np.inf)
        return pool, cover.exact(pool), -np.inf
    pool = np.argpartition(near, len(near) - pool_rows)[-pool_rows:]
    bound, top = float(near[pool].min()), float(near.max())
    if bound < top - 2.0 * cover.slack:
        pool.sort()
        return pool, cover.exact(pool), bound + cover.slack
    # More rows could be the farthest than the pool has room for: the kernel says which are.
    rivals = np.flatnonzero(near >= top - 2.0 * cover.slack)
    squared = cover.exact(rivals)
    order = np.argsort(-squared, kind="stable")
    inside = np.sort(order[:pool_rows])
    outside = squared[order[pool_rows:]].max(initial=-np.inf)
    return rivals[inside], squared[inside], max(float(outside), top - cover.slack)


def _slack(d: int, largest_norm: float) -> float:
    """By how much a squared distance may differ between a matrix product and the kernel.

    Either dot product errs by at most d u |x| |c| (1 + d u), in whatever order it is summed
    (Higham 2002, section 3.1); the distance has it twice. Some roundings of sums come on top.
    """
    return 4.04 * (d + 32) * UNIT_ROUNDOFF * largest_norm


def _blocks(n: int, step: int) -> Iterator[slice]:
    return (slice(start, start + step) for start in range(0, n, step))
