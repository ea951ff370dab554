"""The story of a simulation: prepare the set, replay what has not been replayed, compare.

Everything that is finished is on disk, so the same command goes on where a killed one stopped, and
another metric of the same replays costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from annotator.progress import progress_bar
from annotator.simulate import SimulationError
from annotator.simulate.replay import (
    NOTHING,
    PROMPTS,
    VOTES,
    MakeLearner,
    Plan,
    Run,
    ballots_of,
    parted,
    real_learner,
    replay,
)
from annotator.simulate.runs import RunStore
from annotator.simulate.workers import run_all
from annotator.simulate.world import World
from strategies import strategy_named
from strategies.pool import signals_needed

RANDOM = "random"
PAIR_ACCURACY, RANK_CORRELATION = "pair-accuracy", "rank-correlation"
HELDOUT_ACCURACY, RESERVED_ACCURACY = "heldout-accuracy", "reserved-accuracy"
METRICS = (PAIR_ACCURACY, HELDOUT_ACCURACY, RESERVED_ACCURACY, RANK_CORRELATION)
SET_ASIDE = {HELDOUT_ACCURACY: PROMPTS, RESERVED_ACCURACY: VOTES}  # the others: nothing
LARGEST_BUDGET = 3_200  # unless asked for another: a minute or two for each replay
LARGEST_BATCH = 100  # as next-batch has it, unless asked for another

Runs = dict[str, list[Run]]  # by strategy, in the order of the seeds


@dataclass(frozen=True)
class Request:
    """What was asked for.

    `budgets` empty: those of `usual_budgets`. `batch` None: half of the first budget, at most 100.
    """

    strategies: tuple[str, ...]
    budgets: tuple[int, ...]
    seeds: int
    metric: str = METRICS[0]
    control: float = 0.15
    batch: int | None = None
    target: float | None = None
    jobs: int = 1


@dataclass(frozen=True, eq=False)
class Simulation:
    """All runs of a request, and what the caller should know besides.

    `request` is what was done: `random` first, budgets that the set can pay.
    """

    world: World
    request: Request
    plan: Plan
    runs: Runs
    notes: list[str] = field(default_factory=list)


def simulate(
    world: World,
    request: Request,
    cache: Path,
    *,
    make_learner: MakeLearner = real_learner,
) -> Simulation:
    """Every strategy replayed with every seed, as far as `cache` does not hold the runs already.

    Shows a progress bar; after Ctrl-C or a kill the finished runs are there. Raises
    SimulationError, or UnknownStrategy.
    """
    request, notes = _payable(world, checked(request))
    plan = Plan(
        budgets=request.budgets,
        batch=request.batch or max(1, min(LARGEST_BATCH, request.budgets[0] // 2)),
        control=request.control,
        set_aside=SET_ASIDE.get(request.metric, NOTHING),
    )
    store = RunStore(
        cache / "runs",
        world.fingerprint(),
        plan,
        make_learner.__qualname__,
        scores={name: world.fingerprint_of_scores(name) for name in world.scores},
        judge=world.judge,
    )
    wanted = [(name, seed) for seed in range(request.seeds) for name in request.strategies]
    missing = [run for run in wanted if store.load(*run) is None]
    with progress_bar(len(wanted), "simulate", "runs") as progress:
        progress(len(wanted) - len(missing))
        run_all(_Replay(world, store, make_learner), missing, request.jobs, progress)
    runs = {
        name: [_finished(store, name, seed) for seed in range(request.seeds)]
        for name in request.strategies
    }
    return Simulation(world, request, plan, runs, notes)


def checked(request: Request) -> Request:
    """The same with every strategy once, `random` first, before any set is read.

    Raises UnknownStrategy; SimulationError if a strategy cannot be replayed, or for the metric.
    """
    if request.metric not in METRICS:
        raise SimulationError(
            f"there is no metric {request.metric!r}", expected=f"one of {', '.join(METRICS)}"
        )
    names = tuple(dict.fromkeys((RANDOM, *request.strategies)))
    for name in names:
        _require_scores_matter(name)
    return replace(request, strategies=names)


def scores_named(request: Request) -> tuple[str, ...]:
    """The names of scores that the strategies go by, each once."""
    return tuple(dict.fromkeys(filter(None, (parted(name)[1] for name in request.strategies))))


def _require_scores_matter(strategy: str) -> None:
    name, scores = parted(strategy)
    chosen_by = signals_needed(strategy_named(name))
    if scores is not None and not (scores and "scores" in chosen_by):
        raise SimulationError(
            f"{strategy!r} names scores for a strategy that goes by none"
            if scores
            else f"{strategy!r} names no scores after the @",
            expected="a strategy that chooses by the data map, @ and who scored",
            todo="such as datamap-high-variance@llm:NAME, or leave the @ out",
        )


def _payable(world: World, request: Request) -> tuple[Request, list[str]]:
    """The same with budgets ascending and up to the votes there are, and what to say of it."""
    n_votes = votes_to_draw(world, request)
    n_pairs = _pairs_to_ask(world, request)
    budgets = sorted(set(request.budgets or usual_budgets(n_pairs)))
    if budgets[0] < 1 or request.seeds < 1:
        raise SimulationError(
            f"budgets {budgets} and {request.seeds} seeds",
            expected="at least one budget of one vote or more, and one seed or more",
        )
    kept = tuple(budget for budget in budgets if budget <= n_votes)
    if not kept:
        raise SimulationError(
            f"the smallest budget is {budgets[0]:,} votes, and the set has {n_votes:,} to draw",
            expected="budgets up to the votes there are",
            todo=f"give smaller ones, such as --budgets {_suggested(n_votes)}",
        )
    notes = []
    if world.n_refused:
        notes.append(f"{world.n_refused:,} rows of the files were refused by `import`.")
    if dropped := budgets[len(kept) :]:
        said = ", ".join(f"{budget:,}" for budget in dropped)
        notes.append(f"Left out: budgets of {said}; the set has {n_votes:,} votes to draw.")
    if kept[-1] > n_pairs:
        notes.append(
            f"Budgets beyond the {n_pairs:,} pairs: each pair is asked once before any is asked "
            "again, so there all strategies have asked the same."
        )
    if request.seeds == 1:
        notes.append(
            "One seed: the intervals hold the luck of the prompts, not that of the draw; "
            "10 seeds show both."
        )
    return replace(request, budgets=kept), notes


def usual_budgets(n_pairs: int) -> tuple[int, ...]:
    """Budgets that double, up to half of the pairs and 3,200 votes: four, where there is room.

    With all pairs asked all strategies are the same, so that budgets near their number tell little.
    """
    largest = min(LARGEST_BUDGET, max(1, n_pairs // 2))
    return tuple(sorted({max(1, largest // part) for part in (8, 4, 2, 1)}))


def _pairs_to_ask(world: World, request: Request) -> int:
    """How many pairs every seed has to ask."""
    set_aside = SET_ASIDE.get(request.metric)
    if set_aside is None:
        return world.pool.n_pairs
    return min(ballots_of(world, set_aside, seed).pool().n_pairs for seed in range(request.seeds))


def _suggested(n_votes: int) -> str:
    return ",".join(str(max(1, n_votes // part)) for part in (8, 4, 2))


def votes_to_draw(world: World, request: Request) -> int:
    """How many votes every seed has to draw."""
    set_aside = SET_ASIDE.get(request.metric)
    if set_aside is None:
        return world.n_votes
    return min(ballots_of(world, set_aside, seed).n_votes for seed in range(request.seeds))


def _finished(store: RunStore, strategy: str, seed: int) -> Run:
    run = store.load(strategy, seed)
    if run is None:
        raise SimulationError(
            f"the finished run of {strategy}, seed {seed}, cannot be read back",
            expected=f"a readable file in {store.folder}",
            todo="check the disk, then run the same command again",
        )
    return run


@dataclass(frozen=True, eq=False)
class _Replay:
    """What a process needs to replay a strategy with a seed, and keep the run."""

    world: World
    store: RunStore
    make_learner: MakeLearner

    def __call__(self, strategy: str, seed: int) -> None:
        run = replay(self.world, self.store.plan, strategy, seed, self.make_learner)
        self.store.save(strategy, seed, run)
