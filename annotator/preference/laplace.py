"""Laplace's approximation of the preference model.

The reward of response y to prompt x is r = w . phi(x, y) + u: weights w ~ N(0, I) that all prompts
share, over features with their prior deviations multiplied in, and a term of its own
u ~ N(0, own) for every response. A vote on a pair sees d = r_a - r_b + e: the pair's own term
e ~ N(0, pair) is what no order of the responses explains, people who find a better than b, b than
c and c than a. Votes follow annotator.preference.vote_model.

Given w the prompts are independent, and given r the pairs are. Every step eliminates e pair by pair
and u prompt by prompt, and what is left is one system in w: the cost is in the labelled responses
and the number of features, not in the pool. With W a pair's Fisher information at the current d and
s the slope of its log likelihood, let

    weight = W / (1 + pair W),       pull = (W d + s) / (1 + pair W),

L the Laplacian of one prompt's pairs with these weights, b its pulls summed into the responses, and
A = I + own L. Then

    (I + sum phi' L A^-1 phi) w = sum phi' A^-1 b,      r = A^-1 (phi w + own b).

Where the rewards have a prior mean o besides phi w, the same holds of r - o with b - L o for b.
Fisher information in place of the second derivative keeps every step defined where annotators lapse
and the likelihood is not log-concave.

Building and factoring that system is nearly all the work. On the way to the mode it is solved by
conjugate gradients instead, with a factor from an earlier step as preconditioner; at the mode it is
built once more, because its factor is the covariance of w.

Sources: Bradley and Terry, Biometrika 39 (1952); Laplace's approximation and its evidence,
Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), equations 3.12 to 3.32;
inexact Newton steps, Nocedal and Wright, Numerical Optimization (2006), section 7.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import LinAlgError, cholesky, solve_triangular
from scipy.linalg.blas import dsyrk

from annotator.errors import PreferenceError
from annotator.preference.layout import Block, Layout, helmert
from strategies.within_prompt import Bools, Floats, Positions

MAX_STEPS = 100
TOLERANCE = 1e-7  # nats that a further step would gain
SMALLEST_STEP = 1e-4
JITTER = 1e-12
MAX_PASSES = 12  # of conjugate gradients, before building the system anew is cheaper
FORCING = 0.03  # what conjugate gradients leave of the residual, in the factor's norm


@dataclass(eq=False)
class State:
    """Where the search stands.

    `w` (f,); `reward` (n_labelled,) = phi w + prior.own `own`, each prompt's with mean 0; the
    pairs' own terms are prior.pair `pair`, (n_pairs,).
    """

    w: Floats
    own: Floats
    reward: Floats
    pair: Floats

    def moved(self, by: State, share: float) -> State:
        """The state that share of `by` away."""
        return State(
            self.w + share * by.w,
            self.own + share * by.own,
            self.reward + share * by.reward,
            self.pair + share * by.pair,
        )


def difference(layout: Layout, state: State) -> Floats:
    """d of each pair with a vote, its own term included, (n_pairs,)."""
    found: Floats = state.reward[layout.a] - state.reward[layout.b]
    found += layout.prior.pair * state.pair
    return found


def squared_norm(layout: Layout, state: State) -> float:
    """w' w + u' u / own + e' e / pair: -2 log prior, but for its constant."""
    norm = state.w @ state.w
    norm += layout.prior.own * (state.own @ state.own)
    norm += layout.prior.pair * (state.pair @ state.pair)
    return float(norm)


def objective(layout: Layout, state: State) -> float:
    """Log likelihood plus log prior, but for the prior's constant."""
    of_row = difference(layout, state)[layout.pair_of_row]
    log = layout.model.likelihood(of_row, layout.lapse).log
    return float(np.vdot(layout.counts, log)) - 0.5 * squared_norm(layout, state)


def prior_mean(layout: Layout) -> State:
    """The state before any vote."""
    n = len(layout.labelled)
    state = State(np.zeros(layout.n_features), np.zeros(n), np.zeros(n), np.zeros(layout.n_pairs))
    for block in layout.blocks:
        block.outwards(block.offset, state.reward)
    return state


def carried_over(layout: Layout, earlier: Approximation) -> State:
    """The mean of an earlier approximation, with the same features, where these votes have it."""
    state, before, known = prior_mean(layout), earlier.state, earlier.system.layout
    state.w = before.w
    place = places_of(known.labelled, layout.labelled)
    state.own[place[place >= 0]] = before.own[place >= 0]
    n = 1 + max(layout.labelled.max(initial=0), known.labelled.max(initial=0))
    pair = places_of(known.codes(n), layout.codes(n))
    state.pair[pair[pair >= 0]] = before.pair[pair >= 0]
    return _with_rewards(layout, state)


def places_of(these: Positions, among: Positions) -> Positions:
    """Where these stand among those, -1 where they do not."""
    order = np.argsort(among, kind="stable")
    place = np.searchsorted(among, these, sorter=order)
    found = np.full(len(these), -1)
    inside = np.flatnonzero(place < len(among))
    hit = inside[among[order[place[inside]]] == these[inside]]
    found[hit] = order[place[hit]]
    return found


def _with_rewards(layout: Layout, state: State) -> State:
    for block in layout.blocks:
        own = layout.prior.own * (state.own[block.rows] @ helmert(block.k))
        block.outwards(block.offset + block.contrasts @ state.w + own, state.reward)
    return state


@dataclass(frozen=True, eq=False)
class Sites:
    """What the votes on each pair say of its d, as a normal likelihood.

    `fisher` (n_pairs,) its precision W, `aim` (n_pairs,) precision times mean, W d + s. `damped` is
    1 + pair W.
    """

    fisher: Floats
    aim: Floats
    damped: Floats

    @classmethod
    def at(cls, layout: Layout, state: State) -> Sites:
        """The sites that touch the likelihood at this state."""
        d = difference(layout, state)
        likelihood = layout.model.likelihood(d[layout.pair_of_row], layout.lapse)
        fisher = layout.by_pair(layout.counts.sum(axis=1) * likelihood.fisher)
        aim = fisher * d + layout.by_pair(np.vecdot(layout.counts, likelihood.score))
        return cls(fisher, aim, 1.0 + layout.prior.pair * fisher)

    @property
    def weight(self) -> Floats:
        """Precision about r_a - r_b."""
        return self.fisher / self.damped

    @property
    def pull(self) -> Floats:
        """Precision times mean about r_a - r_b."""
        return self.aim / self.damped


@dataclass(frozen=True, eq=False)
class BlockStep:
    """What the sites of a block say of its prompts' rewards given w, in Helmert's basis.

    `shrink` A^-1 and `laplacian` L (m, K - 1, K - 1), `pull` b - L o (m, K - 1), `log_det` (m,)
    log det A.
    """

    shrink: Floats
    laplacian: Floats
    pull: Floats
    log_det: Floats

    @classmethod
    def of(cls, layout: Layout, block: Block, sites: Sites) -> BlockStep:
        """The step of one block."""
        laplacian = block.laplacian(sites.weight)
        inflated = np.eye(block.k - 1) + layout.prior.own * laplacian
        pull = block.summed(sites.pull) - np.matvec(laplacian, block.offset)
        shrink: Floats = np.linalg.inv(inflated).astype(np.float64, copy=False)
        log_det: Floats = np.linalg.slogdet(inflated)[1]
        return cls(shrink, laplacian, pull, log_det)

    @cached_property
    def information(self) -> Floats:
        """What the prompts' votes say of phi w: L A^-1, (m, K - 1, K - 1)."""
        product = self.laplacian @ self.shrink
        found: Floats = 0.5 * (product + product.swapaxes(1, 2))
        return found

    @cached_property
    def target(self) -> Floats:
        """A^-1 b, (m, K - 1)."""
        found: Floats = np.matvec(self.shrink, self.pull)
        return found

    def select(self, kept: Bools | Positions) -> BlockStep:
        """The step of these prompts alone."""
        arrays = (self.shrink, self.laplacian, self.pull, self.log_det)
        return BlockStep(*(array[kept] for array in arrays))

    def joined(self, other: BlockStep) -> BlockStep:
        """The step of both blocks' prompts, of equal K."""
        mine = (self.shrink, self.laplacian, self.pull, self.log_det)
        others = (other.shrink, other.laplacian, other.pull, other.log_det)
        return BlockStep(*map(np.concatenate, zip(mine, others, strict=True)))

    def rewards(self, own: float, of_weights: Floats) -> tuple[Floats, Floats]:
        """r - o and u / own from phi w, all (m, K - 1)."""
        reward = np.matvec(self.shrink, of_weights + own * self.pull)
        return reward, self.pull - np.matvec(self.laplacian, reward)


@dataclass(frozen=True, eq=False)
class System:
    """The linear system in w that is left of one step; `steps` of the layout's blocks."""

    layout: Layout
    sites: Sites
    steps: Sequence[BlockStep]

    @classmethod
    def at(cls, layout: Layout, state: State) -> System:
        """The system of the Newton step from this state."""
        sites = Sites.at(layout, state)
        return cls(layout, sites, [BlockStep.of(layout, block, sites) for block in layout.blocks])

    def target(self) -> Floats:
        """The right-hand side, (f,)."""
        total = np.zeros(self.layout.n_features)
        for block, step in zip(self.layout.blocks, self.steps, strict=True):
            total += step.target.ravel() @ block.flat
        return total

    def times(self, v: Floats) -> Floats:
        """The matrix times v (f,)."""
        total = v.copy()
        for block, step in zip(self.layout.blocks, self.steps, strict=True):
            seen = np.matvec(step.information, (block.flat @ v).reshape(block.offset.shape))
            total += seen.ravel() @ block.flat
        return total

    def matrix(self) -> Floats:
        """The matrix, (f, f) in Fortran's order, of which only the lower half is right."""
        matrix = np.asfortranarray(np.eye(self.layout.n_features))
        for block, step in zip(self.layout.blocks, self.steps, strict=True):
            rows = _root(step.information) @ block.contrasts
            rows = rows.reshape(block.n_rows, -1)
            matrix = dsyrk(1.0, rows.T, beta=1.0, c=matrix, lower=1, overwrite_c=1)
        return matrix

    def state(self, w: Floats) -> State:
        """The state with these weights in which all own terms are best."""
        layout = self.layout
        state = prior_mean(layout)
        state.w = w
        for block, step in zip(layout.blocks, self.steps, strict=True):
            reward, own = step.rewards(layout.prior.own, block.contrasts @ w)
            block.outwards(reward + block.offset, state.reward)
            block.outwards(own, state.own)
        between = state.reward[layout.a] - state.reward[layout.b]
        state.pair = (self.sites.aim - self.sites.fisher * between) / self.sites.damped
        return state

    def log_det(self, factor: Floats) -> float:
        """log det of I + prior covariance x information, `factor` being that of the matrix."""
        total = 2.0 * float(np.log(np.diag(factor)).sum())
        total += float(np.log(self.sites.damped).sum())
        return total + sum(float(step.log_det.sum()) for step in self.steps)


def _root(information: Floats) -> Floats:
    """R (m, K - 1, K - 1) with R' R the information, which may be singular."""
    if information.shape[1] == 1:
        root: Floats = np.sqrt(np.maximum(information, 0.0))
        return root
    jitter = JITTER * np.trace(information, axis1=1, axis2=2) + np.finfo(float).tiny
    lifted = information + jitter[:, None, None] * np.eye(information.shape[1])
    found: Floats = np.linalg.cholesky(lifted).swapaxes(1, 2)
    return found


def factored(matrix: Floats) -> Floats:
    """The lower Cholesky factor. Raises PreferenceError where there is none."""
    try:
        found: Floats = cholesky(matrix, lower=True, check_finite=False)
    except LinAlgError:
        raise _no_likelihood() from None
    return found


def solve(factor: Floats, target: Floats) -> Floats:
    """The solution of (factor factor') x = target."""
    half = solve_triangular(factor, target, lower=True, check_finite=False)
    found: Floats = solve_triangular(factor, half, lower=True, trans="T", check_finite=False)
    return found


@dataclass(frozen=True, eq=False)
class Approximation:
    """The normal distribution that stands for the posterior.

    `matrix` (f, f) is the precision of w, its lower half right, `factor` its Cholesky factor,
    `target` (f,) precision times mean and `w` the mean. The system's sites and steps say the rest:
    annotator.preference.posterior reads rewards off them.
    """

    system: System
    matrix: Floats
    factor: Floats
    target: Floats
    w: Floats

    @classmethod
    def of(cls, system: System, matrix: Floats, target: Floats) -> Approximation:
        """The approximation in which w has this precision, and precision times mean."""
        factor = factored(matrix)
        return cls(system, matrix, factor, target, solve(factor, target))

    @cached_property
    def state(self) -> State:
        """The mean."""
        return self.system.state(self.w)

    @cached_property
    def evidence(self) -> float:
        """The log marginal likelihood of the votes, nats (Rasmussen and Williams, eq. 3.32)."""
        log_det = self.system.log_det(self.factor)
        return objective(self.system.layout, self.state) - 0.5 * log_det


def find_mode(
    layout: Layout, earlier: Approximation | None = None, tolerance: float = TOLERANCE
) -> Approximation:
    """Laplace's approximation at the posterior mode.

    The search begins where an earlier approximation on the same features ended, and ends where one
    more step would gain less than `tolerance` nats; that step is taken too. Steps that would lower
    the objective are halved. Raises PreferenceError if the objective is not finite.
    """
    factor = None if earlier is None else earlier.factor
    state = prior_mean(layout) if earlier is None else carried_over(layout, earlier)
    value = objective(layout, state)
    for _ in range(MAX_STEPS):
        system = System.at(layout, state)
        reached, factor = _solved(system, state.w, factor)
        step = system.state(reached).moved(state, -1.0)
        if 0.5 * _squared_length(system, step) < tolerance:
            break
        state, gain = _search(layout, state, step, value)
        value += gain
        if gain == 0.0:
            break
    if not np.isfinite(value):
        raise _no_likelihood()
    return Approximation.of(system, system.matrix(), system.target())


def _solved(system: System, w: Floats, factor: Floats | None) -> tuple[Floats, Floats]:
    """About the solution of the system, and the factor that it was found with."""
    if factor is not None:
        found = _conjugate_gradients(system, w, factor)
        if found is not None:
            return found, factor
    factor = factored(system.matrix())
    return solve(factor, system.target()), factor


def _conjugate_gradients(system: System, x: Floats, factor: Floats) -> Floats | None:
    """The solution but for a small part of the residual; None if that takes too many passes."""
    residual = system.target() - system.times(x)
    direction = preconditioned = solve(factor, residual)
    length = first = float(residual @ preconditioned)
    for _ in range(MAX_PASSES):
        if not length > FORCING**2 * first:
            return x
        image = system.times(direction)
        share = length / float(direction @ image)
        x, residual = x + share * direction, residual - share * image
        preconditioned = solve(factor, residual)
        length, before = float(residual @ preconditioned), length
        direction = preconditioned + (length / before) * direction
    return None


def _squared_length(system: System, step: State) -> float:
    """The step's squared length in the approximation's own deviations."""
    seen = difference(system.layout, step)
    return squared_norm(system.layout, step) + float(system.sites.fisher @ seen**2)


def _search(layout: Layout, state: State, step: State, value: float) -> tuple[State, float]:
    """The state along the step that is no worse than `state`, and what it gains."""
    share = 1.0
    while share > SMALLEST_STEP:
        reached = state.moved(step, share)
        gain = objective(layout, reached) - value
        if gain >= 0.0:
            return reached, gain
        share /= 2.0
    return state, 0.0


def _no_likelihood() -> PreferenceError:
    return PreferenceError(
        "the preference model has no finite likelihood",
        expected="finite features and prior variances",
        todo="check the embeddings with `annotator doctor`",
    )
