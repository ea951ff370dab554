"""Overlap policies compared: every one replayed with every seed, as far as that was not done.

Finished replays are on disk under a hash of all that determines them, so the same command goes on
where a killed one stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from annotator.labels.overlap import EXPECTED_GAIN, FIXED, Overlap
from annotator.progress import progress_bar
from annotator.simulate import SimulationError
from annotator.simulate.overlap import (
    GOLD,
    SET_ASIDE,
    MakeConsult,
    OverlapPlan,
    OverlapRun,
    joint_fit,
    panel_of,
    replay_overlap,
)
from annotator.simulate.runs import code_fingerprint, load_arrays, named_after, save_arrays
from annotator.simulate.workers import run_all
from annotator.simulate.world import NO_TRUTH, World

# What a replay runs through. A change of any of it makes old runs another thing.
SOURCES = (
    "strategies/within_prompt.py",
    "annotator/preference",
    "annotator/labels/crowd.py",
    "annotator/labels/crowd_fit.py",
    "annotator/labels/crowd_votes.py",
    "annotator/labels/joint_fit.py",
    "annotator/labels/overlap.py",
    "annotator/labels/pair_belief.py",
    "annotator/labels/panel.py",
    "annotator/labels/people.py",
    "annotator/labels/skill_posterior.py",
    "annotator/labels/ties.py",
    "annotator/rounds/features.py",
    "annotator/simulate/overlap.py",
    "annotator/simulate/world.py",
)

Runs = dict[str, list[OverlapRun]]  # by policy and range, in the order of the seeds


@dataclass(frozen=True)
class OverlapRequest:
    """What was asked for. `truth` None: gold labels where there are any, else votes set aside;
    `growth` as in OverlapPlan."""

    overlaps: tuple[Overlap, ...]
    seeds: int
    n_pairs: int | None = None
    truth: str | None = None
    jobs: int = 1
    growth: float = OverlapPlan.growth


@dataclass(frozen=True, eq=False)
class OverlapSimulation:
    """All runs of a request, and what the caller should know besides."""

    world: World
    request: OverlapRequest
    plan: OverlapPlan
    runs: Runs
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class OverlapStore:
    """The finished runs of one world under one plan; `code` is the hash of what they run through,
    `consult` names what makes the consensus."""

    folder: Path
    world: tuple[str, str]
    plan: OverlapPlan
    consult: str
    code: str = field(default_factory=lambda: code_fingerprint(SOURCES))

    def load(self, overlap: Overlap, seed: int) -> OverlapRun | None:
        """That run, or None if it is not finished."""
        return load_arrays(OverlapRun, self._path(overlap, seed))

    def save(self, overlap: Overlap, seed: int, run: OverlapRun) -> None:
        """Keeps a finished run; whole or not at all."""
        save_arrays(run, self._path(overlap, seed))

    def _path(self, overlap: Overlap, seed: int) -> Path:
        determined_by = {
            "world": self.world,
            "plan": asdict(self.plan),
            "consult": self.consult,
            "overlap": str(overlap),
            "seed": seed,
            "code": self.code,
            "numpy": np.__version__,
        }
        return named_after(determined_by, self.folder)


def simulate_overlap(
    world: World,
    request: OverlapRequest,
    cache: Path,
    *,
    make_consult: MakeConsult = joint_fit,
) -> OverlapSimulation:
    """Every policy replayed with every seed, as far as `cache` does not hold the runs already.

    Shows a progress bar; after Ctrl-C or a kill the finished runs are there. Raises
    SimulationError where the set has no such truth.
    """
    plan = OverlapPlan(request.n_pairs, request.truth or usual_truth(world), request.growth)
    panel_of(world, plan, seed=0)  # what is wrong with the set is said before anything is replayed
    store = OverlapStore(
        cache / "overlap",
        (world.fingerprint(), world.fingerprint_of_people()),
        plan,
        make_consult.__qualname__,
    )
    wanted = [(overlap, seed) for seed in range(request.seeds) for overlap in request.overlaps]
    # The curves take longest: first, so that no process is left alone with one in the end.
    wanted.sort(key=lambda run: run[0].policy != EXPECTED_GAIN)
    missing = [run for run in wanted if store.load(*run) is None]
    with progress_bar(len(wanted), "overlap", "runs") as progress:
        progress(len(wanted) - len(missing))
        run_all(_Replay(world, store, make_consult), missing, request.jobs, progress)
    runs = {
        str(overlap): [_finished(store, overlap, seed) for seed in range(request.seeds)]
        for overlap in request.overlaps
    }
    return OverlapSimulation(world, request, plan, runs, _notes(world, request, plan))


def usual_truth(world: World) -> str:
    """GOLD where any pair has a gold label that takes a side, else SET_ASIDE."""
    return GOLD if np.any(np.abs(world.truth) == 1) else SET_ASIDE


@dataclass(frozen=True, eq=False)
class _Replay:
    """What a process needs to replay a policy with a seed, and keep the run."""

    world: World
    store: OverlapStore
    make_consult: MakeConsult

    def __call__(self, overlap: Overlap, seed: int) -> None:
        run = replay_overlap(self.world, self.store.plan, overlap, seed, self.make_consult)
        self.store.save(overlap, seed, run)


def _finished(store: OverlapStore, overlap: Overlap, seed: int) -> OverlapRun:
    run = store.load(overlap, seed)
    if run is None:
        raise SimulationError(
            f"the finished run of {overlap}, seed {seed}, cannot be read back",
            expected=f"a readable file in {store.folder}",
            todo="check the disk, then run the same command again",
        )
    return run


def _notes(world: World, request: OverlapRequest, plan: OverlapPlan) -> list[str]:
    notes = []
    if world.n_refused:
        notes.append(f"{world.n_refused:,} rows of the files were refused by `import`.")
    if plan.truth == SET_ASIDE:
        notes.append(
            "The truth is the majority of votes that are set aside, anew with every seed: about a "
            "third of each pair's, at least one. It errs as votes do, so no policy reaches 1."
        )
    elif left_out := int(np.count_nonzero(world.truth == NO_TRUTH)):
        notes.append(f"Left out: {left_out:,} pairs with votes but without a gold label.")
    if short := _too_few_votes(world, request.overlaps, plan):
        notes.append(short)
    if request.seeds == 1:
        notes.append(
            "One seed: the intervals hold the luck of the prompts, not that of the draw; "
            "10 seeds show both."
        )
    return notes


def _too_few_votes(world: World, overlaps: Sequence[Overlap], plan: OverlapPlan) -> str:
    there = panel_of(world, plan, seed=0).n_there
    most = max((overlap.range.most for overlap in overlaps), default=0)
    short = float(np.mean(there < most))
    if short < 0.005:
        return ""
    return (
        f"{100 * short:.0f} % of the pairs have fewer than {most} votes to draw; there every "
        "policy stops at the last, and is charged no more."
    )


def references(overlaps: Sequence[Overlap]) -> list[Overlap]:
    """Those of a fixed number of votes, fewest first."""
    fixed = [overlap for overlap in overlaps if overlap.policy == FIXED]
    return sorted(fixed, key=lambda overlap: overlap.range.least)
