"""What stands where: asks each room for its counts and says what comes next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from annotator.candidates.catalog import count_candidates
from annotator.labels.votes import vote_counts
from annotator.rounds.further import further_progress
from annotator.rounds.picks import (
    arm_counts,
    arm_progress,
    control_votes,
    pairs_taken,
    round_counts,
    votes_per_pair,
)
from annotator.signals.embeddings import vector_counts
from annotator.signals.judges.ledger import MICROUSD, spending
from annotator.signals.scores import judge_counts, method_in_words
from annotator.studio.outbox import conflicts, task_counts, untold_raises
from annotator.studio.projects import StudioProject, living_projects

if TYPE_CHECKING:
    from sqlite_utils import Database

# No saving is stated before this many control votes exist.
CONTROL_VOTES_NEEDED = 30


def project_status(db: Database) -> dict[str, Any]:
    """Counts of every stage, what can be said of the saving, and the next command."""
    report: dict[str, Any] = {
        "candidates": count_candidates(db),
        "vectors": vector_counts(db),
        "judges": [
            {"method": method, "scores": method_in_words(method, None), "responses": n}
            for method, n in judge_counts(db).items()
        ],
        "judging": _judging(db),
        "rounds": len(round_counts(db)),
        "picks": arm_counts(db),
        "arms": arm_progress(db),
        "tasks": task_counts(db),
        "conflicts": conflicts(db),
        "votes": vote_counts(db),
        "votes_per_pair": votes_per_pair(db),
        "further_votes": further_progress(db),
    }
    report["pairs_left"] = report["candidates"]["pairs"] - pairs_taken(db)
    report["labelling"] = [_labelling(project) for project in living_projects(db)]
    report["saving"] = _saving(control_votes(db))
    report["raises_waiting"] = untold_raises(db)
    report["next"] = _next(report)
    return report


def _judging(db: Database) -> dict[str, Any]:
    """What was sent to judges, and what it cost: at most, and how many requests have no price."""
    spent = spending(db)
    return {
        "requests": spent.n_attempts,
        "usd_at_most": (spent.known + spent.reserved) / MICROUSD,
        "requests_unpriced": spent.unpriced,
    }


def _labelling(project: StudioProject) -> dict[str, Any]:
    return {
        "title": project.title,
        "overlap": project.overlap,
        "url": f"{project.server}/projects/{project.studio_id}/data?labeling=1",
    }


def _saving(n_control: int) -> str:
    if n_control < CONTROL_VOTES_NEEDED:
        return f"not shown yet: {n_control} of at least {CONTROL_VOTES_NEEDED} control votes"
    return f"see `annotator budget`; {n_control} control votes to measure it by"


def _next(report: dict[str, Any]) -> str:
    waiting = sum(report["tasks"].get(state, 0) for state in ("pending", "sent", "stored"))
    if not report["candidates"]["pairs"]:
        return "annotator import FILE"
    if waiting or report["raises_waiting"]:
        return "annotator next-batch --resume"
    if report["further_votes"]["open"] or any(arm["open"] for arm in report["arms"].values()):
        return "label in Label Studio, then annotator sync"
    if not report["pairs_left"]:
        return "every pair has been chosen; import more: annotator import FILE"
    return "annotator next-batch"
