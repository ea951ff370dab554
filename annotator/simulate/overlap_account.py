"""What a comparison of overlap policies came to, as one JSON document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from annotator.labels.overlap import Overlap
from annotator.simulate.account import DIGITS, PROMPTS_NEEDED, SEEDS_NEEDED
from annotator.simulate.overlap import MAJORITY, MODEL, OverlapRun, readings_of
from annotator.simulate.overlap_simulation import OverlapSimulation, references
from annotator.simulate.savings import (
    REPLICATES,
    ROUNDING,
    Curve,
    Weights,
    curve,
    percentiles,
    weights,
)
from strategies.within_prompt import Floats

Document = dict[str, Any]

# Of fixed:k the share of its votes that has to do, and how much less accurate that may be.
GOALS = {3: (0.60, 0.0), 5: (0.45, 0.01)}
REACHED, MISSED, OPEN = "reached", "missed", "not shown"


@dataclass(frozen=True, eq=False)
class _Measured:
    """A policy in every replicate, what was observed first.

    `votes` (replicates + 1, n_points) a pair; `accuracy` and `log_loss` by reading, of that shape.
    """

    votes: Floats
    accuracy: dict[str, Floats]
    log_loss: dict[str, Floats]


def overlap_account(
    done: OverlapSimulation, *, replicates: int = REPLICATES, seed: int = 0
) -> Document:
    """The document that `simulate --overlap --json` writes.

    Per policy the votes a pair, accuracy and log loss of both readings, with 95 % intervals, at
    every point. For every policy that is not fixed, against every fixed one: the votes that it
    needs for the same accuracy as a share of theirs, and the difference in accuracy at the share
    that GOALS names, or at what it spends. It is read by its aim, the fixed policy by majority and
    by the model. Where GOALS has nothing of a fixed policy the difference is at equal votes.
    """
    first = next(iter(done.runs.values()))
    counted = np.stack([run.counted for run in first])
    drawn = weights(counted, np.random.default_rng(seed), replicates)
    measured = {
        str(overlap): _measured(done.runs[str(overlap)], readings_of(overlap), drawn)
        for overlap in done.request.overlaps
    }
    why_not = _too_few(done, counted)
    return {
        "kind": "overlap",
        "dataset": done.world.dataset,
        "truth": done.plan.truth,
        "growth": done.plan.growth,
        "seeds": done.request.seeds,
        "pairs": round(float(np.mean([run.pairs.sum() for run in first]))),
        "pairs_with_side": round(float(counted.sum(axis=1).mean())),
        "pairs_there": done.world.pool.n_pairs,
        "prompts": int(np.count_nonzero(counted.any(axis=0))),
        "votes": done.world.n_votes,
        "annotators": len(np.unique(done.world.vote_annotator)),
        "conclusive": not why_not,
        "policies": {name: _values(done.runs[name], of) for name, of in measured.items()},
        "comparisons": _comparisons(done, measured, conclusive=not why_not),
        "notes": [*done.notes, *why_not],
    }


def _measured(runs: list[OverlapRun], readings: tuple[str, ...], drawn: Weights) -> _Measured:
    n_points = min(len(run.votes) for run in runs)  # seeds may differ by the last, smallest batch
    points = np.arange(n_points)
    pairs = np.stack([run.pairs for run in runs])[:, None]
    counted = np.stack([run.counted for run in runs])[:, None]

    def ratio(name: str, of: Floats, reading: int | None = None) -> Floats:
        parts = [getattr(run, name)[:n_points] for run in runs]
        sums = np.stack([part if reading is None else part[:, reading] for part in parts])
        return curve(points, sums, of, drawn).values

    return _Measured(
        ratio("votes", pairs),
        {name: ratio("right", counted, i) for i, name in enumerate(readings)},
        {name: ratio("log_loss", counted, i) for i, name in enumerate(readings)},
    )


def _too_few(done: OverlapSimulation, counted: Floats) -> list[str]:
    """Why the intervals allow no verdict, if they do not; as in a simulation of strategies."""
    n_prompts = int(np.count_nonzero(counted.any(axis=0)))
    few = []
    if done.request.seeds < SEEDS_NEEDED:
        few.append(f"{done.request.seeds} seed{'' if done.request.seeds == 1 else 's'}")
    if n_prompts < PROMPTS_NEEDED:
        few.append(f"{n_prompts} prompt{'' if n_prompts == 1 else 's'}")
    if not few:
        return []
    return [
        f"Intervals from {' and '.join(few)} are too narrow for a verdict, so none is given: it "
        f"takes {SEEDS_NEEDED} seeds and {PROMPTS_NEEDED} prompts."
    ]


def _values(runs: list[OverlapRun], of: _Measured) -> Document:
    seconds = float(np.mean([run.seconds[-1] for run in runs]))
    return {
        "votes": _interval(of.votes),
        "accuracy": {name: _interval(of.accuracy[name]) for name in of.accuracy},
        "log_loss": {name: _interval(of.log_loss[name]) for name in (MAJORITY, MODEL)},
        "seconds": round(seconds, 2),
    }


def _comparisons(
    done: OverlapSimulation, measured: dict[str, _Measured], *, conclusive: bool
) -> list[Document]:
    fixed = references(done.request.overlaps)
    others = [overlap for overlap in done.request.overlaps if overlap not in fixed]
    return [
        _comparison(overlap, reference, reading, measured, conclusive)
        for overlap in others
        for reference in fixed
        for reading in (MAJORITY, MODEL)
    ]


def _comparison(
    overlap: Overlap,
    reference: Overlap,
    reading: str,
    measured: dict[str, _Measured],
    conclusive: bool,
) -> Document:
    """The policy, read by its aim, against a fixed number of votes in that reading."""
    mine, theirs = measured[str(overlap)], measured[str(reference)]
    target, cost = theirs.accuracy[reading][:, 0], theirs.votes[:, 0]
    own = mine.accuracy[readings_of(overlap)[-1]]
    accuracy = Curve(np.arange(mine.votes.shape[1]), own).monotone().values
    needed = votes_for(mine.votes, accuracy, target) / cost
    share, margin = GOALS.get(reference.range.least, (1.0, None))
    at = np.clip(share * cost, mine.votes[:, 0], mine.votes[:, -1])
    difference = accuracy_at(mine.votes, own, at) - target
    low, high = _ends(difference)
    within = bool(at[0] <= share * cost[0] + ROUNDING)  # or the policy spends more from the start
    return {
        "policy": str(overlap),
        "read_by": readings_of(overlap)[-1],
        "reference": str(reference),
        "reading": reading,
        "target": _rounded(target[0]),
        "votes_share": _share(needed),
        "at_share": _rounded(at[0] / cost[0]),
        "accuracy": _rounded(difference[0] + target[0]),
        "difference": {"mean": _rounded(difference[0]), "low": low, "high": high},
        "share": share,
        "margin": margin,
        "verdict": _verdict(difference, margin, within) if conclusive else None,
    }


def _verdict(difference: Floats, margin: float | None, within: bool) -> str | None:
    """REACHED if the whole interval is no more than the margin below, MISSED if all of it is.

    MISSED as well where the policy spends more votes than the goal allows; None without a goal.
    """
    if margin is None:
        return None
    if not within:
        return MISSED
    low, high = (float(end[0]) for end in percentiles(difference[1:, None]))
    if low >= -margin - ROUNDING:
        return REACHED
    return MISSED if high < -margin else OPEN


def votes_for(votes: Floats, accuracy: Floats, target: Floats) -> Floats:
    """Votes a pair at which curves that never fall first have their target, (replicates + 1,).

    `votes` and `accuracy` (replicates + 1, n_points), linear in between. The fewest votes where it
    is there from the start; infinity where it never is.
    """
    reached = accuracy >= target[:, None] - ROUNDING
    after = np.argmax(reached, axis=1)
    before, row = np.maximum(after - 1, 0), np.arange(len(votes))
    rise = accuracy[row, after] - accuracy[row, before]
    share = (target - accuracy[row, before]) / np.where(rise > 0, rise, 1.0)
    between = votes[row, before] + share * (votes[row, after] - votes[row, before])
    found = np.where(after == 0, votes[:, 0], between)
    return np.where(reached.any(axis=1), found, np.inf)


def accuracy_at(votes: Floats, accuracy: Floats, at: Floats) -> Floats:
    """The accuracy of each curve at that many votes a pair, (replicates + 1,); the ends go on."""
    found = [np.interp(*row) for row in zip(at, votes, accuracy, strict=True)]
    return np.array(found, dtype=np.float64)


def _share(needed: Floats) -> Document:
    """The share of the votes needed; None where the accuracy is never reached."""
    low, high = _ends(needed)
    return {"mean": _rounded(needed[0]), "low": low, "high": high}


def _interval(values: Floats) -> Document:
    low, high = percentiles(values[1:])
    return {
        "mean": [_rounded(value) for value in values[0]],
        "low": [_rounded(value) for value in low],
        "high": [_rounded(value) for value in high],
    }


def _ends(values: Floats) -> tuple[float | None, float | None]:
    low, high = percentiles(values[1:, None])
    return _rounded(low[0]), _rounded(high[0])


def _rounded(value: float) -> float | None:
    return round(float(value), DIGITS) if np.isfinite(value) else None
