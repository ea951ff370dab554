"""hybrid, the default: the votes that are expected to put most pairs in the right order.

What a vote can tell of a pair is a normal variable d with mean m and variance v. A vote of Fisher
information c measures it with noise variance 1 / c, and so explains the share q = c v / (1 + c v)
of its variance. The sign of m is wrong with probability Phi(-t), t = |m| / sqrt(v), before the
vote, and with 2 T(t, sqrt((1 - q) / q)) expected after it, T being Owen's function: the sign of d
and that of the mean after the vote are the signs of two normal variables with correlation sqrt(q).
So the vote on x lowers the expected share of wrong pairs

- at x itself by (1 - tie_x) (Phi(-t) - 2 T(t, sqrt((1 - q) / q))), and
- at every other pair y, of which it explains the small share q_xy = cov(d_x, d_y)^2 / (v_y (v_x +
  1 / c_x)), by the same with q_xy. One small q cannot turn a sign that is far from 0, but the
  votes of a whole batch can. Averaged over a normal t with deviation 1 around its present value,
  the reduction is phi(t) (2 / sqrt(2 pi)) (1 - sqrt(1 - q)), phi the normal density: for small q

      phi(t_y) q_xy / sqrt(2 pi).

The worth of a vote is the sum. All that the value of a vote is made of is in it. *Information*: q.
*Whether the vote will be right*: a vote on a pair that people find hard to tell apart has little c
and is often a tie; what is known of the responses and of the models that wrote them is in m.
*Redundancy*: the batch is greedy, and each pick lowers the variances of all pairs by what its vote
is expected to tell. The weights phi(t_y) / v_y of the pairs y are those of the batch's beginning.

Before the first vote all m are 0, and both parts grow with v: the most dissimilar responses are
the most valuable, which is REAL's choice, and among them those that differ in the way in which
many others differ.

The sum over y is a quadratic form. With C the covariance of all rewards and G the graph Laplacian
of the pairs with weights phi(t_y) (1 - tie_y) share_y^2 / (sqrt(2 pi) v_y), it is that of
B = C G C at the contrast of x. C is L L' plus a block O for each prompt, so that neither C nor B is
ever formed: only their blocks within prompts, and the columns of the pairs picked.

Sources: Owen, Ann. Math. Stat. 27 (1956), for T; Frazier, Powell and Dayanik, SIAM J. Control
Optim. 47 (2008), for valuing a measurement by the decision after it (the knowledge gradient);
Cohn, Ghahramani and Jordan, JAIR 4 (1996), for choosing what lowers the error everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from strategies.pool import Pool, Selection, eligible_for, needs
from strategies.within_prompt import Floats, Positions, rows_of_equal_length

EXPLORATION = 0.02  # share of the picks that are drawn uniformly
REMEMBERED = 512  # votes whose columns are kept
BLOCK_ROWS = 256  # of the loadings: what fits the processor's cache
ROOT_2_PI = float(np.sqrt(2.0 * np.pi))


def error_reduction(margin: Floats, variance: Floats, fisher: Floats) -> Floats:
    """By how much one vote is expected to lower the probability of ordering each pair wrongly.

    `margin` and `variance` (n,) of the pairs' differences, `fisher` (n,) Fisher information of the
    vote. From 0 to 0.5.
    """
    from scipy.special import ndtr, owens_t

    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(margin) / np.sqrt(variance)
        left = np.sqrt(1.0 / (fisher * variance))  # (1 - q) / q = 1 / (c v)
        reduction = ndtr(-t) - 2.0 * owens_t(t, left)
    useful = (variance > 0.0) & (fisher > 0.0)
    reduced: Floats = np.where(useful, np.maximum(reduction, 0.0), 0.0)
    return reduced


@needs("posterior")
def hybrid(pool: Pool, n: int, rng: np.random.Generator) -> Selection:
    """n pairs whose votes are expected to put most pairs in the right order; the default.

    Greedy, each pick counting what the votes on those before it will tell; one pick in fifty is
    drawn uniformly from what is left. The score is the worth of the vote at the time of the pick,
    in pairs put right. The propensity is that of the pick given those before it.

    Raises BadBatchSize, PoolTooSmall, MissingSignal.
    """
    left = eligible_for(pool, n)
    ahead = LookAhead(pool, n)
    positions, scores = np.empty(n, dtype=np.int64), np.empty(n)
    propensities = np.empty(n)
    for i in range(n):
        worth = ahead.worth(left)
        best = int(np.argmax(worth))
        at = int(rng.integers(len(left))) if rng.random() < EXPLORATION else best
        positions[i], scores[i] = left[at], worth[at]
        propensities[i] = EXPLORATION / len(left) + (1.0 - EXPLORATION) * (at == best)
        ahead.expect(int(left[at]))
        left = np.delete(left, at)
    return Selection.of(positions, scores=scores, propensities=propensities)


class LookAhead:
    """What one more vote on each pair is worth, once every pair expected here has got its vote.

    `n` is the most votes that will be expected. Memory: a few numbers for every pair, and 2 n for
    every response, of the last 512 votes at most: of a larger batch the earlier votes stay in all
    variances, and are forgotten only where a later vote's own covariances are worked out.
    """

    def __init__(self, pool: Pool, n: int) -> None:
        self._a, self._b = pool.pair_a, pool.pair_b
        self._margin, self._fisher = pool.signal("pair_margin"), pool.signal("pair_fisher")
        self._share = pool.signal("pair_share")
        self._decided = 1.0 - pool.signal("pair_tie")
        self._covariance = _Covariance(pool)
        self._of_rewards = self._covariance.variances()
        own = pool.signal("pair_variance") - self._share**2 * self._of_rewards
        self._own = np.maximum(own, 0.0)
        self._weight = self._weights()
        self._covariance.weigh(self._weight)
        self._ahead = self._covariance.sums_of_squares()
        # Of every vote taken for given C and B at its contrast, by how much its squares lower
        # variances, and B's quadratic form at the contrast.
        kept = min(n, REMEMBERED)
        self._columns, self._aheads = np.empty((2, kept, pool.n_responses))
        self._scales, self._totals = np.empty((2, kept))
        self._n_done = 0

    def worth(self, positions: Positions) -> Floats:
        """The expected number of pairs that one vote on each of these puts right, (m,)."""
        share, of_rewards = self._share[positions] ** 2, self._of_rewards[positions]
        variance = share * of_rewards + self._own[positions]
        fisher = self._fisher[positions]
        here = self._decided[positions] * error_reduction(self._margin[positions], variance, fisher)
        elsewhere = self._ahead[positions] - self._weight[positions] * of_rewards**2
        explained = fisher / (1.0 + fisher * variance)
        worth: Floats = here + share * np.maximum(elsewhere, 0.0) * explained
        return worth

    def expect(self, position: int) -> None:
        """Takes one vote on this pair for given: lowers the variances of all pairs."""
        a, b = int(self._a[position]), int(self._b[position])
        column, ahead = self._at_contrast(a, b)
        share, fisher = float(self._share[position]), float(self._fisher[position])
        noise = (1.0 + fisher * float(self._own[position])) / fisher if fisher > 0.0 else np.inf
        scale = share**2 / (share**2 * float(column[a] - column[b]) + noise)
        total = float(ahead[a] - ahead[b])
        k, h = column[self._a] - column[self._b], ahead[self._a] - ahead[self._b]
        self._of_rewards = np.maximum(self._of_rewards - scale * k**2, 0.0)
        self._ahead = self._ahead - 2.0 * scale * k * h + scale**2 * total * k**2
        if self._n_done == len(self._scales):
            self._n_done = 0
        done = self._n_done
        self._columns[done], self._aheads[done] = column, ahead
        self._scales[done], self._totals[done] = scale, total
        self._n_done += 1

    def _weights(self) -> Floats:
        """phi(t) (1 - tie) share^2 / (sqrt(2 pi) v) of every pair."""
        variance = self._share**2 * self._of_rewards + self._own
        with np.errstate(divide="ignore", invalid="ignore"):
            density = np.exp(-0.5 * self._margin**2 / variance) / ROOT_2_PI
            weight = density * self._decided * self._share**2 / (ROOT_2_PI * variance)
        weights: Floats = np.where(variance > 0.0, weight, 0.0)
        return weights

    def _at_contrast(self, a: int, b: int) -> tuple[Floats, Floats]:
        """C and B at the contrast of a and b, (n_responses,) both, as they stand by now."""
        column, ahead = self._covariance.columns(a, b)
        done = slice(self._n_done)
        columns, aheads, scales = self._columns[done], self._aheads[done], self._scales[done]
        k, h = columns[:, a] - columns[:, b], aheads[:, a] - aheads[:, b]
        column -= (scales * k) @ columns
        ahead -= (scales * h - scales**2 * self._totals[done] * k) @ columns
        ahead -= (scales * k) @ aheads
        return column, ahead


@dataclass(frozen=True, eq=False)
class _Prompts:
    """Prompts with K responses: `rows` (m, K) positions, `own` O and `laplacian` G (m, K, K)."""

    rows: Positions
    own: Floats
    laplacian: Floats


class _Covariance:
    """C = L L' + O over all responses, and B = C G C, with O and G a block for each prompt."""

    def __init__(self, pool: Pool) -> None:
        self._a, self._b = pool.pair_a, pool.pair_b
        self._loadings = pool.signal("reward_loadings")
        residual = pool.signal("residual_loadings")
        self._prompts = []
        for rows in rows_of_equal_length(pool.prompt_of_response):
            root = residual[rows].astype(np.float64)
            empty = np.zeros((*rows.shape, rows.shape[1]))
            self._prompts.append(_Prompts(rows, root @ root.swapaxes(1, 2), empty))
        self._place, self._slot = np.empty((2, pool.n_responses), dtype=np.int64)
        self._group = np.empty(pool.n_responses, dtype=np.int64)
        for number, prompts in enumerate(self._prompts):
            self._group[prompts.rows] = number
            self._place[prompts.rows] = np.arange(len(prompts.rows))[:, None]
            self._slot[prompts.rows] = np.arange(prompts.rows.shape[1])

    def variances(self) -> Floats:
        """The variance of r_a - r_b of every pair, (n_pairs,)."""
        blocks = [self._shared(p.rows) + p.own for p in self._prompts]
        return self._at_contrasts(blocks)

    def weigh(self, weight: Floats) -> None:
        """Makes G the Laplacian of all pairs with these weights (n_pairs,)."""
        for number, prompts in enumerate(self._prompts):
            pairs = np.flatnonzero(self._group[self._a] == number)
            a, b = self._a[pairs], self._b[pairs]
            at, i, j, w = self._place[a], self._slot[a], self._slot[b], weight[pairs]
            for x, y, signed in ((i, i, w), (j, j, w), (i, j, -w), (j, i, -w)):
                np.add.at(prompts.laplacian, (at, x, y), signed)
        self._weighed = np.empty_like(self._loadings)
        for prompts in self._prompts:
            block = self._loadings[prompts.rows]
            self._weighed[prompts.rows] = prompts.laplacian.astype(np.float32) @ block
        self._middle = self._loadings.T @ self._weighed

    def sums_of_squares(self) -> Floats:
        """B's quadratic form at the contrast of every pair, (n_pairs,)."""
        blocks = []
        ahead = self._loadings @ self._middle
        for prompts in self._prompts:
            pulled = prompts.laplacian @ prompts.own
            crossed = self._shared(prompts.rows) @ pulled
            loadings = self._loadings[prompts.rows]
            total = (ahead[prompts.rows] @ loadings.swapaxes(1, 2)).astype(np.float64)
            blocks.append(total + crossed + crossed.swapaxes(1, 2) + prompts.own @ pulled)
        return self._at_contrasts(blocks)

    def columns(self, a: int, b: int) -> tuple[Floats, Floats]:
        """C and B at the contrast of a and b, (n_responses,) both."""
        own = self._prompts[self._group[a]]
        at = self._place[a]
        slots = np.eye(own.rows.shape[1])
        term = own.own[at] @ (slots[self._slot[a]] - slots[self._slot[b]])
        towards = self._loadings[a] - self._loadings[b]
        # L' G C at the contrast, C being L L' + O: no pass over all responses is needed for it.
        weighed = self._middle @ towards + term.astype(np.float32) @ self._weighed[own.rows[at]]
        column, ahead = self._times_loadings(towards, weighed)
        column[own.rows[at]] += term
        for prompts in self._prompts:
            pulled = np.matvec(prompts.laplacian, column[prompts.rows])
            ahead[prompts.rows] += np.matvec(prompts.own, pulled)
        return column, ahead

    def _times_loadings(self, *vectors: Floats) -> tuple[Floats, ...]:
        """L times each of these, (n_responses,): L is read once, block by block."""
        products = np.empty((len(vectors), len(self._loadings)))
        for start in range(0, len(self._loadings), BLOCK_ROWS):
            block = self._loadings[start : start + BLOCK_ROWS]
            for product, vector in zip(products, vectors, strict=True):
                product[start : start + BLOCK_ROWS] = block @ vector
        return tuple(products)

    def _shared(self, rows: Positions) -> Floats:
        """L L' within prompts, (m, K, K)."""
        loadings = self._loadings[rows]
        product: Floats = (loadings @ loadings.swapaxes(1, 2)).astype(np.float64)
        return product

    def _at_contrasts(self, blocks: list[Floats]) -> Floats:
        """The quadratic forms of these blocks, one a group, at all contrasts, (n_pairs,)."""
        found = np.empty(len(self._a))
        group = self._group[self._a]
        for number, block in enumerate(blocks):
            pairs = np.flatnonzero(group == number)
            at = self._place[self._a[pairs]]
            i, j = self._slot[self._a[pairs]], self._slot[self._b[pairs]]
            found[pairs] = block[at, i, i] + block[at, j, j] - block[at, i, j] - block[at, j, i]
        return found
