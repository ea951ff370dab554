"""What a belief about rewards is worth, prompt by prompt, held against all votes of the set.

Every measure is a sum and a count for each prompt, so that a bootstrap over prompts is a weighted
ratio and fits nothing again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from annotator.simulate.world import World
from strategies.within_prompt import Bools, Floats, Positions, rows_of_equal_length

BINS = 10  # of the reliability curve, over confidences from 0.5 to 1
SMALLEST = 1e-12


def sums(groups: Positions, values: npt.ArrayLike, n: int) -> Floats:
    """The sum of the values of each of n groups, (n,)."""
    weights = np.asarray(values, dtype=np.float64)
    return np.bincount(groups, weights, minlength=n).astype(np.float64)


class Belief(Protocol):
    """What a learner believes after some votes: `annotator.preference.posterior.Posterior`."""

    @property
    def reward_mean(self) -> Floats:
        """Expected reward of each response, (n_responses,)."""

    def preferred(self, a: Positions, b: Positions) -> Floats:
        """For each pair of positions the probability that a vote which is no tie prefers a."""


class Measure(Protocol):
    """What a belief is held against."""

    @property
    def counted(self) -> Floats:
        """How many things of each prompt can be right, (n_prompts,)."""

    def right(self, preferred: Floats) -> Floats:
        """Of each prompt how many of them are, (n_prompts,), by P(a is preferred) of each pair."""


@dataclass(frozen=True, eq=False)
class Targets:
    """What people say, of the prompts that are measured.

    - `pairs` (m,) the pairs with a majority, positions in the pool; `majority` (m,) 1 where most
      votes that take a side prefer a, -1 where b. Pairs without a majority are in no measure.
    - `low`, `high`, `above` (r,) of the pairs of responses that people's scores can compare:
      positions, and the sign of the score of `low` less that of `high`; `rank_prompts` (n_prompts,)
      whether the prompt has a rank correlation at all.
    """

    n_prompts: int
    prompt_of_response: Positions
    pair_a: Positions
    pair_b: Positions
    pairs: Positions
    majority: Positions
    low: Positions
    high: Positions
    above: Positions
    rank_prompts: Bools

    @property
    def counted(self) -> Floats:
        """How many of `pairs` each prompt has, (n_prompts,)."""
        return self._sum(self.pair_a[self.pairs], np.ones(len(self.pairs)))

    def _sum(self, responses: Positions, values: npt.ArrayLike) -> Floats:
        return sums(self.prompt_of_response[responses], values, self.n_prompts)

    def right(self, preferred: Floats) -> Floats:
        """Of each prompt how many of `pairs` a belief orders as most people do, (n_prompts,).

        `preferred` (n_pairs,) the probability that a is preferred; one half counts half.
        """
        agrees = np.sign(preferred[self.pairs] - 0.5) * self.majority
        return self._sum(self.pair_a[self.pairs], 0.5 + 0.5 * agrees)

    def right_by_votes_alone(self, net_votes: Positions) -> Floats:
        """The same when every pair goes by its own votes and nothing else.

        `net_votes` (n_pairs,) votes for a less votes for b; 0, asked or not, counts half.
        """
        agrees = np.sign(net_votes[self.pairs]) * self.majority
        return self._sum(self.pair_a[self.pairs], 0.5 + 0.5 * agrees)

    def rank_correlation(self, reward: Floats) -> Floats:
        """Kendall's tau-b of these rewards with people's scores, (n_prompts,); NaN where undefined.

        Kendall, Biometrika 33 (1945). Rewards that are all equal say nothing: 0.
        """
        sign = np.sign(reward[self.low] - reward[self.high])
        agreement = self._sum(self.low, sign * self.above)
        untied = self._sum(self.low, np.abs(sign)) * self._sum(self.low, np.abs(self.above))
        tau = agreement / np.sqrt(np.maximum(untied, 1.0))
        return np.where(self.rank_prompts, tau, np.nan)


@dataclass(frozen=True, eq=False)
class ReservedVotes:
    """Votes that nobody was shown.

    `pair` (m,) positions in the pool, `prompt` (m,), `side` (m,) 1 where the vote is for a, -1 for
    b. Those that take no side are left out. A belief gains nothing here from a pair that was asked
    but what its vote truly told: another annotator's noise is drawn anew.
    """

    n_prompts: int
    prompt: Positions
    pair: Positions
    side: Positions

    @classmethod
    def of(cls, world: World, reserved: Bools) -> ReservedVotes:
        """Those of these votes (n_votes,) that take a side."""
        votes = np.flatnonzero(reserved & (world.vote_grade != 0))
        pair = world.vote_pair[votes]
        side = np.sign(world.vote_grade[votes])
        return cls(world.pool.n_prompts, world.pool.prompt_of_pair[pair], pair, side)

    @property
    def counted(self) -> Floats:
        """How many each prompt has, (n_prompts,)."""
        return sums(self.prompt, np.ones(len(self.pair)), self.n_prompts)

    def right(self, preferred: Floats) -> Floats:
        """Of each prompt how many a belief foretells, (n_prompts,); one half counts half."""
        agrees = np.sign(preferred[self.pair] - 0.5) * self.side
        return sums(self.prompt, 0.5 + 0.5 * agrees, self.n_prompts)


def targets_of(world: World, measured: Bools) -> Targets:
    """What people say, of the prompts where `measured` (n_prompts,) is True."""
    pool = world.pool
    pair_measured = measured[pool.prompt_of_pair]
    net = net_votes(world)
    pairs = np.flatnonzero((net != 0) & pair_measured)
    low, high, above = _ranked(world, measured)
    n_compared = sums(pool.prompt_of_response[low], np.abs(above), pool.n_prompts)
    return Targets(
        n_prompts=pool.n_prompts,
        prompt_of_response=pool.prompt_of_response,
        pair_a=pool.pair_a,
        pair_b=pool.pair_b,
        pairs=pairs,
        majority=np.sign(net[pairs]),
        low=low,
        high=high,
        above=above,
        rank_prompts=n_compared > 0,
    )


def net_votes(world: World, votes: Positions | None = None) -> Positions:
    """Votes for a less votes for b of each pair, (n_pairs,), of all votes or of these."""
    pair, grade = world.vote_pair, world.vote_grade
    if votes is not None:
        pair, grade = pair[votes], grade[votes]
    return np.rint(sums(pair, grade, world.pool.n_pairs)).astype(np.int64)


def human_scores(world: World) -> tuple[Floats, Positions]:
    """People's score of each response from all votes, and which responses it compares.

    The scores s of a prompt minimise the sum over votes of (s_a - s_b - grade)^2: HodgeRank (Jiang
    et al., Mathematical Programming 127, 2011); where every pair has the same number of votes it is
    the mean grade of a response, Borda's count. Responses that no chain of votes joins cannot be
    compared: the second array (n_responses,) numbers the components. Scores of different components
    have no common origin.
    """
    pool = world.pool
    n_votes = np.bincount(world.vote_pair, minlength=pool.n_pairs).astype(np.float64)
    net = net_votes(world).astype(np.float64)
    component = _components(pool.n_responses, pool.pair_a, pool.pair_b)
    scores, slot = np.zeros(pool.n_responses), np.zeros(pool.n_responses, dtype=np.int64)
    row = np.full(pool.n_responses, -1)
    for rows in rows_of_equal_length(component):
        slot[rows], row[rows] = np.arange(rows.shape[1]), np.arange(len(rows))[:, None]
        inside = np.flatnonzero(row[pool.pair_a] >= 0)
        a, b = pool.pair_a[inside], pool.pair_b[inside]
        scores[rows] = _least_squares(
            rows.shape, row[a], slot[a], slot[b], n_votes[inside], net[inside]
        )
        row[rows] = -1
    return scores, component


def _components(n_responses: int, a: Positions, b: Positions) -> Positions:
    """The number of each response's component in the graph of these pairs, (n_responses,)."""
    lowest = np.arange(n_responses)
    while True:
        both = np.minimum(lowest[a], lowest[b])
        before = lowest.copy()
        np.minimum.at(lowest, a, both)
        np.minimum.at(lowest, b, both)
        if np.array_equal(lowest, before):
            component: Positions = np.unique(lowest, return_inverse=True)[1]
            return component


def _least_squares(
    shape: tuple[int, ...], row: Positions, a: Positions, b: Positions, n: Floats, net: Floats
) -> Floats:
    """Scores (m, K) that sum to 0, of m components from their pairs: n votes each, `net` for a."""
    m, k = shape
    laplacian, pull = np.zeros((m, k, k)), np.zeros((m, k))
    for i, j in ((a, b), (b, a)):
        np.add.at(laplacian, (row, i, i), n)
        np.add.at(laplacian, (row, i, j), -n)
    np.add.at(pull, (row, a), net)
    np.add.at(pull, (row, b), -net)
    return np.linalg.solve(laplacian + 1.0 / k, pull[..., None])[..., 0].astype(np.float64)


def _ranked(world: World, measured: Bools) -> tuple[Positions, Positions, Positions]:
    """Pairs of responses that people's scores compare, of prompts where that is 3 or more.

    Of a prompt in several components the largest is taken.
    """
    scores, component = human_scores(world)
    prompts = world.pool.prompt_of_response
    size = np.bincount(component)[component]
    first = np.lexsort((component, -size, prompts))
    _, at = np.unique(prompts[first], return_index=True)
    largest = np.zeros(int(component.max()) + 1, dtype=np.bool_)
    largest[component[first[at]]] = True
    taken = np.flatnonzero(largest[component] & (size >= 3) & measured[prompts])
    lows, highs = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for rows in rows_of_equal_length(prompts[taken]):
        a, b = np.triu_indices(rows.shape[1], 1)
        lows.append(taken[rows[:, a]].ravel())
        highs.append(taken[rows[:, b]].ravel())
    low, high = np.concatenate(lows), np.concatenate(highs)
    gap = scores[low] - scores[high]
    # Scores are solutions of linear equations: equal ones differ by rounding.
    above = np.where(np.abs(gap) < 1e-9, 0, np.sign(gap)).astype(np.int64)
    return low, high, above


@dataclass(frozen=True, eq=False)
class Calibration:
    """How well probabilities foretell votes, of votes that take a side.

    `brier`, `log_loss`, `votes` (n_prompts,) sums and their count; `bins` (BINS, 3) by confidence
    from 0.5 to 1: votes, sum of confidences, votes that went that way.
    """

    brier: Floats
    log_loss: Floats
    votes: Floats
    bins: Floats


def calibration(world: World, preferred: Floats, unseen: Bools, measured: Bools) -> Calibration:
    """Probabilities that a is preferred, (n_pairs,), against votes that the learner has not seen.

    `unseen` (n_votes,) which votes these are; of them those on measured prompts that are no ties
    count. Where all votes have been seen everything is 0.
    """
    pool = world.pool
    prompt_of_vote = pool.prompt_of_pair[world.vote_pair]
    votes = np.flatnonzero(unseen & (world.vote_grade != 0) & measured[prompt_of_vote])
    pair, prompt = world.vote_pair[votes], prompt_of_vote[votes]
    for_a = preferred[pair]
    given = np.clip(np.where(world.vote_grade[votes] > 0, for_a, 1.0 - for_a), SMALLEST, 1.0)
    n = pool.n_prompts
    return Calibration(
        brier=sums(prompt, (1.0 - given) ** 2, n),
        log_loss=sums(prompt, -np.log(given), n),
        votes=sums(prompt, np.ones(len(votes)), n),
        bins=_reliability(np.maximum(for_a, 1.0 - for_a), 0.5 + 0.5 * np.sign(given - 0.5)),
    )


def _reliability(confidence: Floats, right: Floats) -> Floats:
    which = np.clip(((confidence - 0.5) * 2 * BINS).astype(np.int64), 0, BINS - 1)
    columns = (np.ones(len(which)), confidence, right)
    return np.stack([sums(which, column, BINS) for column in columns], axis=1)
