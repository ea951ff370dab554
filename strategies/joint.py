"""The joint posterior of reward differences, and greedy batches that count what they repeat.

The reward difference of a pair is d = z . g + rho . h, where z and rho are the differences of its
two responses' rows of `reward_loadings` and `residual_loadings`, g ~ N(0, I) belongs to all prompts
and h ~ N(0, I) to the pair's prompt alone. A vote on pair t that has the expected Fisher
information c counts as a measurement of d_t with noise variance 1 / c. Before anyone has cast it,
it lowers the variance v of every pair x by

    c k(x)^2 / (1 + c v_t),        k(x) the covariance of d_x and d_t,

which is the rank-one rule of D-optimal design (Sherman and Morrison, Ann. Math. Stat. 21, 1950).

Pairs and responses are many, factors few, so the covariance of pairs is never written down. With S
the covariance of h given g, and E[h | g] = const - B g,

    v = z' Sigma z + rho' S rho,        z := z - B' rho,

where Sigma is the covariance of g. Sigma is one matrix (factors, factors); S and B exist for
prompts with a vote in the batch only. A vote changes all three by rank one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from strategies.pool import BadPool, Pool
from strategies.within_prompt import BLOCK_BYTES, Bools, Floats, Positions

SHORTLIST = 1024  # pairs that are kept up to date after every pick, to begin with
FEW_PICKS = 16  # where a shortlist yields fewer, the next one is twice as long

# Positions of pairs (m,) and the variances (m,) of their reward differences, to values (m,).
Value: TypeAlias = Callable[[Positions, Floats], Floats]


class PairCovariance:
    """The posterior covariance of the reward differences of a pool's pairs.

    Raises MissingSignal if the pool has no posterior.
    """

    def __init__(self, pool: Pool) -> None:
        self._shared = pool.signal("reward_loadings")
        self._own = pool.signal("residual_loadings")
        self._a, self._b = pool.pair_a, pool.pair_b
        self._prompt_of_response = pool.prompt_of_response
        self.n_prompts = pool.n_prompts

    @property
    def n_factors(self) -> int:
        """Entries of g."""
        return int(self._shared.shape[1])

    @property
    def n_own_factors(self) -> int:
        """Entries of h."""
        return int(self._own.shape[1])

    def prompts(self, positions: Positions) -> Positions:
        """The prompts of these pairs, (m,)."""
        return self._prompt_of_response[self._a[positions]]

    def loadings(self, positions: Positions) -> tuple[Floats, Floats]:
        """z (m, factors) and rho (m, residual factors) of these pairs."""
        a, b = self._a[positions], self._b[positions]
        z = np.subtract(self._shared[a], self._shared[b], dtype=np.float64)
        rho = np.subtract(self._own[a], self._own[b], dtype=np.float64)
        return z, rho

    def variances(self, positions: Positions) -> Floats:
        """The variance of the reward difference of each of these pairs, (m,)."""
        found = np.empty(len(positions))
        for block in self.blocks(len(positions)):
            z, rho = self.loadings(positions[block])
            found[block] = np.vecdot(z, z) + np.vecdot(rho, rho)
        return found

    def covariances(self, positions: Positions, picks: Positions) -> Floats:
        """The covariance of each of these pairs with each of the picks, (m, n_picks)."""
        z_pick, rho_pick = self.loadings(picks)
        prompt_of_pick = self.prompts(picks)
        found = np.empty((len(positions), len(picks)))
        for block in self.blocks(len(positions)):
            z, rho = self.loadings(positions[block])
            same = self.prompts(positions[block])[:, None] == prompt_of_pick
            found[block] = z @ z_pick.T + same * (rho @ rho_pick.T)
        return found

    def blocks(self, n: int) -> Iterator[slice]:
        """Slices over n pairs, the loadings of each a cacheful."""
        step = max(64, BLOCK_BYTES // (8 * max(1, self.n_factors + self.n_own_factors)))
        return (slice(start, start + step) for start in range(0, n, step))


@dataclass(frozen=True, eq=False)
class Margins:
    """What votes on pairs are about: `share` of the reward difference, and a term of its own.

    Both (n_pairs,); `own_variance` is the variance of that term, which no other pair shares.
    """

    share: Floats
    own_variance: Floats

    @classmethod
    def of(cls, pool: Pool, covariance: PairCovariance) -> Margins:
        """Those of a pool's pairs. Raises MissingSignal if it has no posterior."""
        share = pool.signal("pair_share")
        of_rewards = share**2 * covariance.variances(np.arange(pool.n_pairs))
        return cls(share, np.maximum(pool.signal("pair_variance") - of_rewards, 0.0))

    def variances(self, positions: Positions, of_rewards: Floats) -> Floats:
        """The variances of these pairs' margins, (m,), from those of their reward differences."""
        found: Floats = self.share[positions] ** 2 * of_rewards + self.own_variance[positions]
        return found

    def fisher_of_rewards(self, fisher: Floats) -> Floats:
        """Fisher information about the reward difference, (n_pairs,), from that about the margin.

        The pair's own term adds to the noise of the measurement.
        """
        found: Floats = self.share**2 * fisher / (1.0 + fisher * self.own_variance)
        return found


@dataclass(eq=False)
class _Prompt:
    """Of a prompt with votes in the batch: S (own, own) and B (own, factors)."""

    spread: Floats
    follows: Floats


@dataclass(frozen=True, eq=False)
class _Vote:
    """What one expected vote does: to a pair with z and rho, k = z . `along` + rho . `own`.

    `z` (factors,) of the pair itself, `own` is S rho, for pairs of `prompt` alone; `noise` is the
    variance of the measurement given g, `scale` the c / (1 + c v) by which k^2 lowers a variance.
    """

    prompt: int
    z: Floats
    along: Floats
    own: Floats
    noise: float
    scale: float


class ExpectedVotes:
    """The variances that remain once every pair voted on here has got its vote.

    Memory: two matrices (factors, factors), and (residual factors, factors) for each prompt with a
    vote.
    """

    def __init__(self, covariance: PairCovariance) -> None:
        self.covariance = covariance
        # Sigma = _base - _steps' _steps, the identity standing for a base that is None: as long as
        # there are few votes, products with a few rows are cheaper than those with a full matrix.
        self._base: Floats | None = None
        self._steps = np.empty((max(1, covariance.n_factors), covariance.n_factors))
        self._n_steps = 0
        self._n_in_base = 0
        self._slot = np.full(covariance.n_prompts, -1)
        self._prompts: list[_Prompt] = []

    @property
    def n_votes(self) -> int:
        """Votes that change anything."""
        return self._n_in_base + self._n_steps

    def variances(self, positions: Positions) -> Floats:
        """The variance of the reward difference of each of these pairs, (m,)."""
        found = np.empty(len(positions))
        for block in self.covariance.blocks(len(positions)):
            z, _, own = self.conditioned(positions[block])
            steps = self._steps[: self._n_steps]
            shared = np.vecdot(z if self._base is None else z @ self._base, z)
            along = z @ steps.T
            found[block] = np.maximum(shared - np.vecdot(along, along) + own, 0.0)
        return found

    def lowered(self, positions: Positions, variances: Floats, since: Positions) -> Floats:
        """The variances now of pairs that had these after the first `since` votes, each (m,).

        The same as `variances`, but mostly only the later votes are looked at.
        """
        found = np.empty(len(positions))
        anew = since < self._n_in_base
        anew |= self._slot[self.covariance.prompts(positions)] >= 0
        found[anew] = self.variances(positions[anew])
        rest = np.flatnonzero(~anew)
        rest = rest[np.argsort(since[rest], kind="stable")]
        for block in self.covariance.blocks(len(rest)):
            at = rest[block]
            first = since[at[0]]
            z, _ = self.covariance.loadings(positions[at])
            along = z @ self._steps[first - self._n_in_base : self._n_steps].T
            along[np.arange(first, self.n_votes) < since[at, None]] = 0.0
            found[at] = np.maximum(variances[at] - np.vecdot(along, along), 0.0)
        return found

    def conditioned(self, positions: Positions) -> tuple[Floats, Floats, Floats]:
        """z - B' rho (m, factors), rho (m, residual factors) and rho' S rho (m,) of these pairs."""
        z, rho = self.covariance.loadings(positions)
        own = np.vecdot(rho, rho)
        for at, prompt in self._voted_on(self.covariance.prompts(positions)):
            z[at] -= rho[at] @ prompt.follows
            own[at] = np.vecdot(rho[at] @ prompt.spread, rho[at])
        return z, rho, own

    def expect(self, position: int, fisher: float) -> tuple[float, _Vote | None]:
        """The variance that this pair has now, and what one vote on it changes; takes it to heart.

        Without Fisher information a vote changes nothing: None.
        """
        one = np.array([position])
        z, rho, own = (array[0] for array in self.conditioned(one))
        along = self._times_sigma(z)
        variance = max(float(z @ along) + float(own), 0.0)
        if fisher == 0.0:
            return variance, None
        prompt = int(self.covariance.prompts(one)[0])
        state = self._prompts[self._slot[prompt]] if self._slot[prompt] >= 0 else None
        vote = _Vote(
            prompt=prompt,
            z=z,
            along=along,
            own=rho if state is None else state.spread @ rho,
            noise=1.0 / fisher + float(own),
            scale=fisher / (1.0 + fisher * variance),
        )
        self._count(vote)
        return variance, vote

    def _count(self, vote: _Vote) -> None:
        if self.covariance.n_own_factors:
            state = self._prompt(vote.prompt)
            state.follows += np.outer(vote.own / vote.noise, vote.z)
            state.spread -= np.outer(vote.own / vote.noise, vote.own)
        self._steps[self._n_steps] = vote.along * np.sqrt(vote.scale)
        self._n_steps += 1
        if self._n_steps == len(self._steps):
            base = np.eye(self.covariance.n_factors) if self._base is None else self._base
            self._base = base - self._steps.T @ self._steps
            self._n_in_base += self._n_steps
            self._n_steps = 0

    def _times_sigma(self, z: Floats) -> Floats:
        steps = self._steps[: self._n_steps]
        product: Floats = (z if self._base is None else self._base @ z) - (steps @ z) @ steps
        return product

    def _prompt(self, prompt: int) -> _Prompt:
        if self._slot[prompt] < 0:
            k = self.covariance.n_own_factors
            self._slot[prompt] = len(self._prompts)
            self._prompts.append(_Prompt(np.eye(k), np.zeros((k, self.covariance.n_factors))))
        return self._prompts[int(self._slot[prompt])]

    def _voted_on(self, prompts: Positions) -> Iterator[tuple[Positions, _Prompt]]:
        """The places in `prompts` (m,) of each prompt that has a vote, and what is kept of it."""
        slots = self._slot[prompts]
        hit = np.flatnonzero(slots >= 0)
        hit = hit[np.argsort(slots[hit], kind="stable")]
        for at in np.split(hit, np.flatnonzero(np.diff(slots[hit])) + 1):
            if len(at):
                yield at, self._prompts[slots[at[0]]]


@dataclass(frozen=True, eq=False)
class GreedyPicks:
    """The picks of a greedy batch, in the order in which they were made.

    - `positions` (n,) of the pairs.
    - `values` (n,) what each was worth when it was picked.
    - `propensities` (n,) the probability of that pick given the picks before it.
    - `drawn` (n,) True where the pick was drawn and did not come from its value.
    """

    positions: Positions
    values: Floats
    propensities: Floats
    drawn: Bools


def greedy_with_redundancy(
    covariance: PairCovariance,
    candidates: Positions,
    n: int,
    *,
    fisher: Floats,
    value: Value,
    epsilon: float = 0.0,
    rng: np.random.Generator | None = None,
    shortlist: int = SHORTLIST,
) -> GreedyPicks:
    """n of the candidates, each the most valuable given the votes expected on those before it.

    `candidates` (m,) positions of pairs, n <= m; `fisher` (n_pairs,) expected Fisher information of
    one vote on each pair about its reward difference; `value` gives the worth of pairs from the
    variances that their reward differences have by then. It must never fall as a variance grows:
    then values only fall as picks are made, and the picks are exactly those of the plain loop that
    computes every value anew before each pick. Of equal values the one that stands first in
    `candidates` is taken.

    With probability `epsilon` a pick is instead drawn uniformly from the N candidates left; that
    needs `rng`. The propensity of any pick is epsilon / N, and 1 - epsilon more where it is the
    most valuable, drawn or not. `shortlist`, pairs kept up to date after every pick to begin with,
    changes the speed and nothing else.

    Raises BadPool if `fisher` is negative or anything is not finite, ValueError without `rng`.
    """
    if epsilon > 0.0 and rng is None:
        raise ValueError("picks can be drawn with a generator only: give rng, or epsilon = 0")
    search = _Search(covariance, candidates, fisher, value, shortlist)
    picked = np.empty(n, dtype=np.int64)
    values, propensities = np.empty(n), np.empty(n)
    drawn = np.zeros(n, dtype=np.bool_)
    for i in range(n):
        best = picked[i] = search.best()
        if rng is not None and rng.random() < epsilon:
            picked[i], drawn[i] = search.draw(rng), True
        share = epsilon / (len(candidates) - i)
        propensities[i] = share + (1.0 - epsilon) * (picked[i] == best)
        values[i] = search.take(int(picked[i]))
    return GreedyPicks(candidates[picked], values, propensities, drawn)


@dataclass(eq=False)
class _Shortlist:
    """The most valuable candidates, kept up to date: arrays of length m, `places` ascending.

    No candidate outside is worth more than `bound`, and one that is worth as much stands at
    `bound_place` or after it.
    """

    places: Positions
    positions: Positions
    prompts: Positions
    z: Floats
    rho: Floats
    variances: Floats
    values: Floats
    bound: float
    bound_place: int

    def leader(self) -> int | None:
        """The place of the most valuable candidate of all; None if it may stand outside."""
        at = int(np.argmax(self.values))
        best, place = self.values[at], int(self.places[at])
        return place if (-best, place) < (-self.bound, self.bound_place) else None

    def follow(self, vote: _Vote) -> None:
        """Lower the variances by this vote."""
        k = self.z @ vote.along
        same = np.flatnonzero(self.prompts == vote.prompt)
        own = self.rho[same] @ vote.own
        k[same] += own
        self.z[same] -= np.outer(own / vote.noise, vote.z)
        self.variances = np.maximum(self.variances - vote.scale * k**2, 0.0)


class _Search:
    """The most valuable candidate, found without looking at all of them before every pick.

    Every candidate has a bound: its value when it was last looked at, which can only have fallen
    since (lazy evaluation, Minoux 1978). Those with the highest bounds make a shortlist that is
    updated after every pick. While its best is worth more than any bound outside, it is the best of
    all. Only then are others looked at, those with the highest bounds first and as many as it
    takes.
    """

    def __init__(
        self,
        covariance: PairCovariance,
        candidates: Positions,
        fisher: Floats,
        value: Value,
        shortlist: int,
    ) -> None:
        self._votes = ExpectedVotes(covariance)
        self._candidates, self._fisher, self._value = candidates, fisher, value
        self._size, self._largest = shortlist, 8 * shortlist
        self._picks_from_short = 0
        self._taken = np.zeros(len(candidates), dtype=np.bool_)
        self._variances = covariance.variances(candidates)
        self._bounds = value(candidates, self._variances).astype(np.float64)
        self._looked_at = np.zeros(len(candidates), dtype=np.int64)  # after how many votes
        self._short: _Shortlist | None = None
        _check(candidates, fisher[candidates], self._bounds)

    def best(self) -> int:
        """The place among the candidates of the most valuable one left."""
        leader = self._short.leader() if self._short else None
        if leader is None:
            self._short = self._new_shortlist()
            leader = self._short.leader()
        assert leader is not None, "the new shortlist begins with the best of all"
        return leader

    def draw(self, rng: np.random.Generator) -> int:
        """The place of a candidate drawn uniformly from those left."""
        while self._taken[place := int(rng.integers(len(self._candidates)))]:
            pass
        return place

    def take(self, place: int) -> float:
        """Picks this candidate; its value."""
        position = self._candidates[place]
        variance, vote = self._votes.expect(int(position), float(self._fisher[position]))
        worth = self._value(np.array([position]), np.array([variance]))
        self._taken[place] = True
        self._bounds[place] = -np.inf
        self._picks_from_short += 1
        if self._short:
            self._update(self._short, vote, place)
        return float(worth[0])

    def _update(self, short: _Shortlist, vote: _Vote | None, taken: int) -> None:
        if vote:
            short.follow(vote)
            fresh = self._value(short.positions, short.variances)
            short.values = np.minimum(short.values, fresh)
        short.values[short.places == taken] = -np.inf

    def _new_shortlist(self) -> _Shortlist:
        if self._short:
            self._variances[self._short.places] = self._short.variances
            self._bounds[self._short.places] = self._short.values
            self._looked_at[self._short.places] = self._votes.n_votes
            if self._picks_from_short < FEW_PICKS:
                self._size = min(2 * self._size, self._largest)
            self._picks_from_short = 0
        self._look_until_best_is_known()
        places, bound, bound_place = _highest(self._bounds, self._size)
        self._look_at(places)
        positions = self._candidates[places]
        z, rho, _ = self._votes.conditioned(positions)
        return _Shortlist(
            places=places,
            positions=positions,
            prompts=self._votes.covariance.prompts(positions),
            z=z,
            rho=rho,
            variances=self._variances[places],
            values=self._bounds[places],
            bound=bound,
            bound_place=bound_place,
        )

    def _look_until_best_is_known(self) -> None:
        size = self._size
        while True:
            places, bound, bound_place = _highest(self._bounds, size)
            self._look_at(places)
            at = int(np.argmax(self._bounds[places]))
            if (-self._bounds[places[at]], places[at]) < (-bound, bound_place):
                return
            size *= 2

    def _look_at(self, places: Positions) -> None:
        """Makes the bounds of these candidates their values."""
        now = self._votes.n_votes
        stale = places[(self._looked_at[places] < now) & ~self._taken[places]]
        positions = self._candidates[stale]
        self._variances[stale] = self._votes.lowered(
            positions, self._variances[stale], self._looked_at[stale]
        )
        values = self._value(positions, self._variances[stale])
        # Rounding must not lift a value: what was passed over would have been passed over wrongly.
        self._bounds[stale] = np.minimum(self._bounds[stale], values)
        self._looked_at[stale] = now


def _highest(values: Floats, size: int) -> tuple[Positions, float, int]:
    """Places of the `size` highest values, ascending; the highest of the rest and its place.

    Of equal values the first are taken. Where there is no rest it is -inf, at the end.
    """
    if size >= len(values):
        return np.arange(len(values)), -np.inf, len(values)
    edge = np.partition(values, len(values) - size)[len(values) - size]
    above, level = np.flatnonzero(values > edge), np.flatnonzero(values == edge)
    n_level = size - len(above)
    places = np.sort(np.concatenate((above, level[:n_level])))
    if n_level < len(level):
        return places, float(edge), int(level[n_level])
    below = np.where(values < edge, values, -np.inf)
    rest = int(np.argmax(below))
    return places, float(below[rest]), rest


def _check(candidates: Positions, fisher: Floats, values: Floats) -> None:
    for name, column, wrong in (
        ("fisher", fisher, ~((fisher >= 0) & np.isfinite(fisher))),
        ("value", values, ~np.isfinite(values)),
    ):
        if wrong.any():
            at = int(np.argmax(wrong))
            raise BadPool(
                f"the {name} of pair {candidates[at]} is {column[at]}",
                expected="finite numbers, and Fisher information of at least 0",
                todo="fit the preference model again",
            )
