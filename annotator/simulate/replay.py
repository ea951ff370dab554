"""One strategy, one seed: a labelled set answered vote by vote, as the live loop would ask.

A vote is one real vote of one real annotator, drawn without replacement. Every vote is charged,
whichever arm asked for it: the control arm is drawn as `next-batch` draws it, and its votes teach
the learner too. Strategies differ in the pairs they ask for and in nothing else: the learner, the
sizes of the batches, and the order in which a pair's votes come are the same for all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from annotator.preference.acquisition import with_posterior
from annotator.preference.reward_head import with_reward_head
from annotator.preference.votes import Votes
from annotator.rounds.choose import choose_batch, control_size
from annotator.simulate import SimulationError
from annotator.simulate.metrics import (
    Belief,
    Measure,
    ReservedVotes,
    Targets,
    calibration,
    net_votes,
    targets_of,
)
from annotator.simulate.world import World
from strategies import strategy_named
from strategies.pool import Pool, Strategy, signals_needed
from strategies.within_prompt import Bools, Floats, Positions, peer_agreement

SHARE = 0.2  # of the prompts, or of the votes, that is set aside
NOTHING, PROMPTS, VOTES = "nothing", "prompts", "votes"


class Learner(Protocol):
    """What turns votes into a belief: `annotator.preference.learner.Learner`."""

    def learn(self, votes: Votes) -> Belief:
        """The belief after these votes."""


MakeLearner = Callable[[World], Learner]


@dataclass(frozen=True)
class Plan:
    """What every strategy of a comparison goes through.

    `budgets`, ascending: votes charged at which the learner is measured. `batch`: pairs in a batch;
    the last before a budget may be smaller. `control`: the share of each batch
    that is drawn uniformly. `set_aside`: what the seed draws before anything is asked, which no
    strategy is ever shown and which alone is measured: PROMPTS a fifth of the prompts, VOTES a
    fifth of the votes. With NOTHING everything is shown, and measured.
    """

    budgets: tuple[int, ...]
    batch: int
    control: float
    set_aside: str = NOTHING

    def batch_size(self, n_charged: int) -> int:
        """Pairs in the next batch: never across a budget."""
        to_budget = next(budget for budget in self.budgets if budget > n_charged) - n_charged
        return min(self.batch, to_budget)


@dataclass(frozen=True, eq=False)
class Run:
    """What one replay measured: sums over each prompt, at each budget.

    `right` (n_budgets, n_prompts) of `counted` (n_prompts,) how many are right: pairs with a
    majority that the learner orders as most people do, or, where votes were set aside, those of
    them that it foretells; `tau` (n_budgets, n_prompts) Kendall's tau-b, NaN where undefined;
    `brier`, `log_loss`, `unseen` (n_budgets, n_prompts) sums over votes not asked (where votes were
    set aside: over these), and their number; `bins` (n_budgets, BINS, 3) as in metrics.Calibration;
    `seconds` (n_budgets,) since the start.
    """

    right: Floats
    counted: Floats
    tau: Floats
    brier: Floats
    log_loss: Floats
    unseen: Floats
    bins: Floats
    seconds: Floats


def real_learner(world: World) -> Learner:
    """The preference model that `next-batch` learns with."""
    from annotator.preference.learner import Learner as PreferenceLearner

    return PreferenceLearner(world.features)


def replay(
    world: World,
    plan: Plan,
    strategy: str,
    seed: int,
    make_learner: MakeLearner = real_learner,
) -> Run:
    """One strategy replayed with one seed, up to the last budget; NAME@SCORES as in `parted`.

    Two learners: one that strategies which go by the posterior are guided by, told the votes before
    every batch, and one that is measured, told them at each budget and at no other time. What is
    measured has then been tuned equally often for every strategy.

    Raises SimulationError if the set has fewer votes than the last budget, UnknownStrategy.
    """
    name, scores = parted(strategy)
    scores = scores or world.judge
    choose = strategy_named(name)
    ballots, measured = _prepared(world, plan, seed)
    ballots.require(plan.budgets[-1])
    asking = _Asking(
        _with_scores(ballots.pool(), choose, world.scores[scores] if scores else None),
        choose,
        plan,
        seed,
    )
    guided = signals_needed(choose) & {"posterior", "policy"}
    guide = make_learner(world) if guided else None
    judged, rows, started = make_learner(world), [], time.monotonic()
    for budget in plan.budgets:
        while ballots.n_taken < budget:
            asking.next_batch(ballots, guide)
        belief = judged.learn(ballots.votes())
        seconds = time.monotonic() - started
        rows.append(measured.of(world, belief, ballots) | {"seconds": seconds})
    return Run(
        counted=measured.measure.counted,
        **{name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]},
    )


def cast_in_order(
    world: World,
    plan: Plan,
    strategy: str,
    seed: int,
    make_learner: MakeLearner = real_learner,
) -> tuple[Positions, Bools]:
    """The votes that a live loop would get, up to the last budget, in the order of the rounds.

    Positions among the world's votes (n_votes,), each batch in a random order, and which of them
    the control arm asked for. Raises as `replay` does.
    """
    choose = strategy_named(strategy)
    ballots = ballots_of(world, plan.set_aside, seed)
    ballots.require(plan.budgets[-1])
    asking = _Asking(_with_scores(ballots.pool(), choose, None), choose, plan, seed)
    guided = signals_needed(choose) & {"posterior", "policy"}
    guide = make_learner(world) if guided else None
    rng = np.random.default_rng([seed, 4])
    cast = np.empty(0, dtype=np.int64)
    while ballots.n_taken < plan.budgets[-1]:
        asking.next_batch(ballots, guide)
        cast = np.concatenate((cast, rng.permutation(np.setdiff1d(ballots.drawn(), cast))))
    drawn = ballots.drawn()
    of_control: Bools = np.isin(cast, drawn[ballots.drawn_for_control()])
    return cast, of_control


@dataclass(frozen=True, eq=False)
class _Measured:
    """What is measured of a belief: `measure` for quality, `prompts` (n_prompts,) whose votes tell
    of calibration, `votes` (n_votes,) those it goes by, None for all that were not asked."""

    measure: Measure
    targets: Targets
    prompts: Bools
    votes: Bools | None

    def of(self, world: World, belief: Belief, ballots: Ballots) -> dict[str, Any]:
        """The sums of a Run at one budget."""
        preferred = belief.preferred(world.pool.pair_a, world.pool.pair_b)
        unseen = ballots.not_drawn() if self.votes is None else self.votes
        calibrated = calibration(world, preferred, unseen, self.prompts)
        return {
            "right": self.measure.right(preferred),
            "tau": self.targets.rank_correlation(belief.reward_mean),
            "brier": calibrated.brier,
            "log_loss": calibrated.log_loss,
            "unseen": calibrated.votes,
            "bins": calibrated.bins,
        }


def _prepared(world: World, plan: Plan, seed: int) -> tuple[Ballots, _Measured]:
    """The votes that may be drawn, and what a belief in them is held against."""
    ballots = ballots_of(world, plan.set_aside, seed)
    everything = np.ones(world.pool.n_prompts, dtype=np.bool_)
    if plan.set_aside == VOTES:
        apart = reserved_votes(world, seed)
        measure = ReservedVotes.of(world, apart)
        return ballots, _Measured(measure, targets_of(world, everything), everything, apart)
    shown = held_out_prompts(world, seed) if plan.set_aside == PROMPTS else everything
    targets = targets_of(world, shown)
    return ballots, _Measured(targets, targets, shown, None)


def ballots_of(world: World, set_aside: str, seed: int) -> Ballots:
    """The votes that a replay with this seed may draw: all but those set aside."""
    if set_aside == PROMPTS:
        held_out = held_out_prompts(world, seed)
        return Ballots(world, seed, held_out[world.pool.prompt_of_pair[world.vote_pair]])
    return Ballots(world, seed, reserved_votes(world, seed) if set_aside == VOTES else None)


class _Asking:
    """Batch after batch, each chosen as `next-batch` chooses it."""

    def __init__(self, pool: Pool, choose: Strategy, plan: Plan, seed: int) -> None:
        self._pool, self._choose, self._plan, self._seed = pool, choose, plan, seed
        self._turn = 0

    def next_batch(self, ballots: Ballots, guide: Learner | None) -> None:
        """Chooses a batch and draws its votes; with `guide` by what that believes by now."""
        eligible = ballots.eligible()
        offered = self._pool.without(np.flatnonzero(~eligible))
        if guide is not None:
            offered = self._guided(offered, ballots, guide)
        n = min(self._plan.batch_size(ballots.n_taken), int(eligible.sum()))
        n_control = control_size(n, self._plan.control)
        seed = _batch_seed(self._seed, self._turn)
        choice = choose_batch(offered, self._choose, n, n_control, seed)
        ballots.take(choice.positions, choice.control)
        self._turn += 1

    def _guided(self, pool: Pool, ballots: Ballots, guide: Learner) -> Pool:
        """The pool with what the guide believes by now, as `next-batch` gives it to a strategy."""
        votes = ballots.votes()
        posterior: Any = guide.learn(votes)  # strategies that go by it need the real learner's
        pool = with_posterior(pool, posterior, ballots.taken_of_pair)
        if "policy" in signals_needed(self._choose):
            pool = with_reward_head(pool, posterior, votes, ballots.drawn_for_control())
        return pool


def votes_alone(world: World, budgets: tuple[int, ...], seed: int) -> Floats:
    """What people do today: random pairs, their votes used as they are, (n_budgets, n_prompts).

    Of each prompt how many pairs with a majority are ordered right, an unasked or tied one counted
    half. Every pair is asked once before any is asked again. No learner is involved.
    """
    everything = np.ones(world.pool.n_prompts, dtype=np.bool_)
    targets, ballots = targets_of(world, everything), Ballots(world, seed)
    order = ballots.random_order(np.random.default_rng([seed, 2]))
    return np.array(
        [targets.right_by_votes_alone(net_votes(world, order[:budget])) for budget in budgets]
    )


def held_out_prompts(world: World, seed: int) -> Bools:
    """Which prompts are never shown, (n_prompts,): a fifth of those with a vote, at least one.

    Raises SimulationError if there is only one prompt.
    """
    voted = np.unique(world.pool.prompt_of_pair)
    if len(voted) < 2:
        raise SimulationError(
            "all votes are on one prompt",
            expected="two prompts or more, to hold some out",
            todo="use --metric pair-accuracy",
        )
    rng = np.random.default_rng([seed, 1])
    drawn = rng.permutation(voted)[: max(1, round(SHARE * len(voted)))]
    held_out = np.zeros(world.pool.n_prompts, dtype=np.bool_)
    held_out[drawn] = True
    return held_out


def reserved_votes(world: World, seed: int) -> Bools:
    """Which votes are never drawn, (n_votes,): a fifth of all, at least one.

    An even sample of what people say of the pairs of the set, whatever a strategy then asks.
    """
    rng = np.random.default_rng([seed, 3])
    reserved = np.zeros(world.n_votes, dtype=np.bool_)
    reserved[rng.permutation(world.n_votes)[: max(1, round(SHARE * world.n_votes))]] = True
    return reserved


class Ballots:
    """The votes of a set as a pile for each pair, in an order that the seed alone decides.

    Those `set_aside` (n_votes,) are never drawn; a pair with no other votes is not shown.
    """

    def __init__(self, world: World, seed: int, set_aside: Bools | None = None) -> None:
        self._world = world
        n_pairs = world.pool.n_pairs
        if set_aside is None:
            set_aside = np.zeros(world.n_votes, dtype=np.bool_)
        on_pair: Positions = np.bincount(world.vote_pair, minlength=n_pairs)
        self._in_pile: Positions = np.bincount(world.vote_pair[~set_aside], minlength=n_pairs)
        # What is shown, as positions in the world's pool.
        self._pairs: Positions = np.flatnonzero(self._in_pile)
        self._bottom = np.cumsum(on_pair) - on_pair
        draw = np.random.default_rng([seed, 0]).random(world.n_votes)
        # Pair by pair; what is set aside lies below its pile.
        self._order: Positions = np.lexsort((draw, set_aside, world.vote_pair))
        # How deep each of these votes lies in its pile, and which are in it at all.
        self._depth = np.arange(world.n_votes) - np.repeat(self._bottom, on_pair)
        self._of_order = world.vote_pair[self._order]
        self._n_taken = np.zeros(n_pairs, dtype=np.int64)
        self._for_control = np.zeros(world.n_votes, dtype=np.bool_)

    @property
    def n_taken(self) -> int:
        """Votes charged so far."""
        return int(self._n_taken.sum())

    @property
    def n_votes(self) -> int:
        """All votes on the pairs that are shown."""
        return int(self._in_pile[self._pairs].sum())

    def require(self, n: int) -> None:
        """Nothing, if there are n votes. Raises SimulationError otherwise."""
        if n > self.n_votes:
            raise SimulationError(
                f"a budget of {n:,} votes, and the set has {self.n_votes:,} to draw",
                expected="budgets up to the votes there are",
                todo="give smaller budgets",
            )

    def pool(self) -> Pool:
        """The pairs that are shown, and no others."""
        pool = self._world.pool
        return Pool(
            response_vectors=pool.response_vectors,
            prompt_of_response=pool.prompt_of_response,
            pair_a=pool.pair_a[self._pairs],
            pair_b=pool.pair_b[self._pairs],
            pair_eligible=np.ones(len(self._pairs), dtype=np.bool_),
        )

    def eligible(self) -> Bools:
        """Which of `pool`'s pairs may be asked now: each once, then those with a vote left.

        As in the loop, where a pair that was picked is not chosen again.
        """
        unasked: Bools = self.taken_of_pair == 0
        if unasked.any():
            return unasked
        left: Bools = self._in_pile[self._pairs] > self.taken_of_pair
        return left

    @property
    def taken_of_pair(self) -> Positions:
        """Votes drawn of each of `pool`'s pairs."""
        return self._n_taken[self._pairs]

    def take(self, positions: Positions, control: Bools) -> None:
        """Draws one vote of each of these distinct pairs of `pool`, `control` for which arm."""
        pairs = self._pairs[positions]
        self._for_control[self._order[self._bottom[pairs] + self._n_taken[pairs]]] = control
        self._n_taken[pairs] += 1

    def drawn(self) -> Positions:
        """Positions of the votes drawn so far among the world's, pair by pair."""
        drawn: Positions = self._order[self._depth < self._n_taken[self._of_order]]
        return drawn

    def not_drawn(self) -> Bools:
        """Which of the world's votes are not drawn by now, (n_votes,)."""
        unseen = np.ones(self._world.n_votes, dtype=np.bool_)
        unseen[self.drawn()] = False
        return unseen

    def drawn_for_control(self) -> Bools:
        """Of the votes drawn so far, in the order of `votes`, those of the control arm."""
        control: Bools = self._for_control[self.drawn()]
        return control

    def votes(self) -> Votes:
        """The votes drawn so far, for a learner."""
        drawn = self.drawn()
        pool, pair = self._world.pool, self._world.vote_pair[drawn]
        return Votes(pool.pair_a[pair], pool.pair_b[pair], self._world.vote_grade[drawn])

    def random_order(self, rng: np.random.Generator) -> Positions:
        """All votes in a random order in which every pair comes once before any comes twice."""
        order: Positions = np.lexsort((rng.random(len(self._order)), self._depth > 0))
        return self._order[order]


def parted(strategy: str) -> tuple[str, str | None]:
    """`NAME@SCORES` as a strategy's name and that of the scores its data map is made of.

    None where it is made of peer agreement.
    """
    name, at, scores = strategy.partition("@")
    return name, scores if at else None


def _with_scores(pool: Pool, strategy: Strategy, scores: Floats | None) -> Pool:
    if "scores" not in signals_needed(strategy):
        return pool
    if scores is None:
        scores = peer_agreement(pool.response_vectors, pool.prompt_of_response)
    return pool.with_signals(response_score=np.asarray(scores, dtype=np.float64))


def _batch_seed(seed: int, turn: int) -> int:
    """The same for all strategies: their control arms are drawn alike."""
    return int(np.random.SeedSequence([seed, turn]).generate_state(1, np.uint64)[0] >> 11)
