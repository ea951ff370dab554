"""What a simulation came to, as one JSON document."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from annotator.simulate import SimulationError
from annotator.simulate.metrics import BINS, targets_of
from annotator.simulate.replay import Run, votes_alone
from annotator.simulate.savings import (
    LEVEL,
    REPLICATES,
    ROUNDING,
    Curve,
    Saving,
    Weights,
    curve,
    percentiles,
    saving,
    target_of,
    weights,
)
from annotator.simulate.simulation import (
    PAIR_ACCURACY,
    RANDOM,
    RANK_CORRELATION,
    SET_ASIDE,
    Simulation,
)
from strategies.within_prompt import Floats, Positions

Document = dict[str, Any]

DIGITS = 4
PEOPLE_STEPS = 8  # budgets for people today between the largest one and all votes there are
SEEDS_NEEDED, PROMPTS_NEEDED = 5, 10  # for a verdict
MANY = 3  # strategies; with more, a verdict by chance is likely enough to be said


def account(done: Simulation, *, replicates: int = REPLICATES, seed: int = 0) -> Document:
    """The document that `simulate --json` writes.

    Per strategy the mean and the 95 % interval at each budget; against `random` the difference at
    each budget, paired, and the votes saved at equal quality; against people today (random pairs,
    their votes as they are, no model) the same where the metric is pair-accuracy; calibration on
    votes that the model had not seen. Raises SimulationError if `target` is not reached by random.
    """
    budgets = np.array(done.request.budgets, dtype=np.int64)
    measured = {name: _sums_and_counts(done, runs) for name, runs in done.runs.items()}
    _require_something(done, measured[RANDOM][1])
    drawn = weights(measured[RANDOM][1][:, 0], np.random.default_rng(seed), replicates)
    curves = {name: curve(budgets, *parts, drawn) for name, parts in measured.items()}
    target = target_of(curves[RANDOM], done.request.target)
    if curves[RANDOM].monotone().mean[-1] < target[0] - ROUNDING:
        raise _out_of_reach(float(target[0]), curves[RANDOM])
    others = {name: c for name, c in curves.items() if name != RANDOM}
    why_not = [
        *_too_few(done, measured[RANDOM][1]),
        *_no_rise(done, curves[RANDOM], done.request.target is None),
    ]
    conclusive = not why_not
    saved = {
        name: saving(c, curves[RANDOM], target, conclusive=conclusive) for name, c in others.items()
    }
    today = _people_today(done, budgets, drawn)
    document: Document = {
        "dataset": done.world.dataset,
        "metric": done.request.metric,
        "budgets": budgets.tolist(),
        "seeds": done.request.seeds,
        "votes": done.world.n_votes,
        "pairs": done.world.pool.n_pairs,
        "pairs_with_majority": _measured_pairs(done),
        "prompts": len(np.unique(done.world.pool.prompt_of_pair)),
        "control": done.plan.control,
        "judge": done.world.judge,
        "conclusive": conclusive,
        "batch": done.plan.batch,
        "strategies": {name: _curve_values(c) for name, c in curves.items()},
        "difference": {name: _difference(c, curves[RANDOM]) for name, c in others.items()},
        "saved": {name: _saved_values(s) for name, s in saved.items()},
        "people_today": today and {"budgets": today.budgets.tolist(), **_curve_values(today)},
        "saved_on_people_today": today
        and {
            name: _saved_values(saving(c, today, target, conclusive=conclusive))
            for name, c in curves.items()
        },
        "calibration": {name: _calibration(runs) for name, runs in done.runs.items()},
        "seconds": {name: _seconds(runs) for name, runs in done.runs.items()},
        "notes": [*done.notes, *_notes(done, conclusive), *why_not],
    }
    return document


def _out_of_reach(target: float, reference: Curve) -> SimulationError:
    return SimulationError(
        f"random reaches {reference.mean[-1]:.4f} with {reference.budgets[-1]:,} votes",
        expected=f"at least the target, {target:.4f}: a saving is never extrapolated",
        todo="give a lower target or larger budgets; the runs are kept",
    )


def _notes(done: Simulation, conclusive: bool) -> list[str]:
    notes = [
        f"The score {name} counts as a judge's because it was named: if people gave it, what is "
        "saved is not."
        for name in done.world.taken_for_judges
    ]
    n_verdicts = len(done.runs) - 1
    if conclusive and n_verdicts > MANY:
        notes.append(
            f"{n_verdicts} verdicts at {100 * LEVEL:.0f} %: of so many, one in "
            f"{round(1 / (1 - LEVEL))} may be chance."
        )
    if done.request.metric not in SET_ASIDE and _median_votes(done) <= 1:
        notes.append(
            "Most pairs have a single vote, so a pair that was asked counts as known, whatever "
            "noise was in its vote; reserved-accuracy goes by votes that nobody was shown."
        )
    return notes


def _median_votes(done: Simulation) -> float:
    return float(np.median(np.bincount(done.world.vote_pair, minlength=done.world.pool.n_pairs)))


def _too_few(done: Simulation, counts: Floats) -> list[str]:
    """Why the intervals allow no verdict, if they do not: measured in worlds without a difference,
    they called one in every fifth to second of so small simulations."""
    n_prompts = int(np.count_nonzero(counts.any(axis=(0, 1))))
    few = []
    if done.request.seeds < SEEDS_NEEDED:
        few.append(f"{done.request.seeds} seeds")
    if n_prompts < PROMPTS_NEEDED:
        few.append(f"{n_prompts} prompts")
    if not few:
        return []
    return [
        f"Intervals from {' and '.join(few)} are too narrow for a verdict, so none is given: it "
        f"takes {SEEDS_NEEDED} seeds and {PROMPTS_NEEDED} prompts."
    ]


def _no_rise(done: Simulation, reference: Curve, by_default: bool) -> list[str]:
    """Why votes at equal quality say nothing, if more votes do not help the reference either."""
    budgets = reference.budgets.tolist()
    rise = reference.values[1:, [-1]] - reference.values[1:, [0]]
    if not by_default or len(budgets) == 1 or percentiles(rise)[0][0] > 0:
        return []
    return [
        f"Random choice itself gets no measurably better between {budgets[0]:,} and "
        f"{budgets[-1]:,} votes, so "
        "votes at equal quality say nothing here and no verdict is given: compare the qualities."
    ]


def _measured_pairs(done: Simulation) -> int:
    """Pairs with a human majority in the whole set."""
    everything = np.ones(done.world.pool.n_prompts, dtype=np.bool_)
    return len(targets_of(done.world, everything).pairs)


def _require_something(done: Simulation, counts: Floats) -> None:
    if counts.any():
        return
    if done.request.metric == RANK_CORRELATION:
        found, expected = "people compare 3 responses of no prompt", "prompts with 3 or more"
    else:
        found, expected = "no measured pair has a human majority", "votes that take a side"
    raise SimulationError(
        f"{found}: {done.request.metric} is not defined on {done.world.dataset}",
        expected=expected,
        todo="use another metric, or more seeds",
    )


def _sums_and_counts(done: Simulation, runs: list[Run]) -> tuple[Floats, Floats]:
    """Sums and counts of the metric, (n_seeds, n_budgets, n_prompts) both."""
    if done.request.metric == RANK_CORRELATION:
        tau = np.stack([run.tau for run in runs])
        return np.nan_to_num(tau), np.isfinite(tau).astype(np.float64)
    right = np.stack([run.right for run in runs])
    counts = np.stack([run.counted for run in runs])[:, None]
    return right, np.broadcast_to(counts, right.shape)


def _people_today(done: Simulation, budgets: Positions, drawn: Weights) -> Curve | None:
    """Accuracy of the votes alone, up to all votes there are; None for another metric."""
    if done.request.metric != PAIR_ACCURACY:
        return None
    beyond = np.geomspace(budgets[-1], done.world.n_votes, PEOPLE_STEPS + 1)
    every = np.unique(np.concatenate((budgets, np.rint(beyond).astype(np.int64))))
    right = np.stack(
        [votes_alone(done.world, tuple(every.tolist()), s) for s in range(done.request.seeds)]
    )
    counts = np.stack([run.counted for run in done.runs[RANDOM]])[:, None]
    return curve(every, right, counts, drawn)


def _curve_values(c: Curve) -> Document:
    low, high = c.interval()
    return {"mean": _rounded(c.mean), "low": _rounded(low), "high": _rounded(high)}


def _difference(c: Curve, reference: Curve) -> Document:
    gap = c.values - reference.values
    low, high = percentiles(gap[1:])
    return {"mean": _rounded(gap[0]), "low": _rounded(low), "high": _rounded(high)}


def _saved_values(s: Saving) -> Document:
    values = {
        key: round(value, DIGITS) if isinstance(value, float) else value
        for key, value in asdict(s).items()
    }
    for key in ("reference_votes", "votes", "overtaken"):
        if values[key] is not None:
            values[key] = round(values[key])
    return {"reference_budget" if key == "reference_votes" else key: v for key, v in values.items()}


def _calibration(runs: list[Run]) -> Document:
    """Brier score and log loss at each budget; the reliability curve at the largest one."""
    unseen = np.sum([run.unseen.sum(axis=1) for run in runs], axis=0)
    brier = np.sum([run.brier.sum(axis=1) for run in runs], axis=0)
    log_loss = np.sum([run.log_loss.sum(axis=1) for run in runs], axis=0)
    return {
        "brier": _ratios(brier, unseen),
        "log_loss": _ratios(log_loss, unseen),
        "reliability": _reliability(np.sum([run.bins[-1] for run in runs], axis=0)),
    }


def _reliability(bins: Floats) -> list[Document]:
    edges = np.linspace(0.5, 1.0, BINS + 1).round(2).tolist()
    return [
        {
            "from": edges[i],
            "to": edges[i + 1],
            "votes": int(n),
            "confidence": round(float(confidence / n), DIGITS),
            "right": round(float(right / n), DIGITS),
        }
        for i, (n, confidence, right) in enumerate(bins)
        if n
    ]


def _ratios(sums: Floats, counts: Floats) -> list[float | None]:
    return [round(float(s / n), DIGITS) if n else None for s, n in zip(sums, counts, strict=True)]


def _seconds(runs: list[Run]) -> float:
    return round(float(np.mean([run.seconds[-1] for run in runs])), 2)


def _rounded(values: Floats) -> list[float]:
    return [round(float(value), DIGITS) for value in values]
