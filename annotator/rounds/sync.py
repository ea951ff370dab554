"""`sync`: take in what people said since last time.

Polling by the server's `updated_at` is the truth; nothing else is relied on. A cursor says up to
which moment of the server's clock everything was seen. It stays OVERLAP_SECONDS behind the
beginning of the pass, because a change is stamped before it is committed and may show up late.
Rows that are already there are not written again, so a pass that was killed, or made twice,
changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotator.errors import StudioError, StudioNotFound
from annotator.labels.votes import (
    Known,
    Vote,
    VoteCounts,
    alive_annotations,
    annotator_ids,
    known_annotations,
    record_annotators,
    record_votes,
)
from annotator.rounds.servers import recognise_server
from annotator.store import hold_lock, writing
from annotator.studio.outbox import PushReport, expected_count, picks_by_task_key, sweep
from annotator.studio.projects import StudioProject, advance_cursor, check_present, projects_on
from annotator.studio.screen import BrokenAnswer, read_answer, to_pair_frame

if TYPE_CHECKING:
    from sqlite_utils import Database

    from annotator.studio.client import ChangedTask, Studio

# Longer than the 94 s for which an import was seen to keep the server's database locked.
OVERLAP_SECONDS = 120.0
TASKS_PER_TRANSACTION = 500
NOBODY = "nobody is named as its annotator"


@dataclass
class SyncReport:
    """What one pass brought in, and what could not be used."""

    counts: VoteCounts = field(default_factory=VoteCounts)
    tasks_changed: int = 0
    tasks_gone: int = 0
    conflicts: list[str] = field(default_factory=list)
    missing: list[StudioNotFound] = field(default_factory=list)


def sync(
    db: Database, studio: Studio, *, on_tasks: Callable[[int], object] = lambda n: None
) -> SyncReport:
    """New, edited, skipped and deleted annotations of all our projects on this server.

    One process at a time: what was read earlier must not be written later, or an old state of
    an annotation would pass for its newest. A project that is gone from the server does not
    stop the others: it is named in the report.
    """
    report = SyncReport()
    with hold_lock(_lock_path(db), "a sync"):
        recognise_server(db, studio)
        for project in projects_on(db, studio.url):
            try:
                _sync_project(db, studio, project, report, on_tasks)
            except StudioNotFound as error:
                report.missing.append(error)
    return report


def _lock_path(db: Database) -> Path:
    path = Path(db.execute("PRAGMA database_list").fetchone()[2])
    return path.with_name(f"{path.name}.sync.lock")


def _sync_project(
    db: Database,
    studio: Studio,
    project: StudioProject,
    report: SyncReport,
    on_tasks: Callable[[int], object],
) -> None:
    there = check_present(studio, project)
    if there.n_tasks != expected_count(db, project):
        _look_for_lost_tasks(db, studio, project, report)
    _read_changes(db, studio, project, project.cursor, report, on_tasks)
    # What was there before the pass must be here after it. If not, a change was committed so
    # late that the cursor had passed its stamp: everything is read once more.
    if alive_annotations(db, project.id) < there.n_annotations + there.n_skips:
        _read_changes(db, studio, project, None, report, on_tasks)


def _look_for_lost_tasks(
    db: Database, studio: Studio, project: StudioProject, report: SyncReport
) -> None:
    """A deleted task, or a late copy of one, does not show among the changed ones."""
    swept = PushReport()
    sweep(db, studio, project, swept, thorough=True)
    report.tasks_gone += swept.gone
    report.conflicts += swept.conflicts


def _read_changes(
    db: Database,
    studio: Studio,
    project: StudioProject,
    since: str | None,
    report: SyncReport,
    on_tasks: Callable[[int], object],
) -> None:
    seen_by = _seen_by(studio)
    chunk: list[ChangedTask] = []
    for task in studio.changed_tasks(project.studio_id, since):
        chunk.append(task)
        if len(chunk) == TASKS_PER_TRANSACTION:
            _take_in(db, studio, project, chunk, _cursor(chunk, seen_by), report)
            on_tasks(len(chunk))
            chunk = []
    _take_in(db, studio, project, chunk, seen_by or _cursor(chunk, None), report)
    on_tasks(len(chunk))


def _seen_by(studio: Studio) -> str | None:
    """The moment by the server's clock before which nothing can show up any more, once this
    pass is through; None where the server does not tell the time."""
    server_time = studio.server_time()
    return None if server_time is None else _stamp(server_time - timedelta(seconds=OVERLAP_SECONDS))


def _cursor(tasks: list[ChangedTask], seen_by: str | None) -> str | None:
    """How far the pass has come with these tasks, which are in the order of their changes."""
    if not tasks:
        return None
    # Just before the last one: others of the same microsecond may still be to come.
    last = datetime.fromisoformat(tasks[-1].updated_at) - timedelta(microseconds=1)
    if seen_by is None:
        return _stamp(last - timedelta(seconds=OVERLAP_SECONDS))
    return _stamp(min(last, datetime.fromisoformat(seen_by)))


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _take_in(
    db: Database,
    studio: Studio,
    project: StudioProject,
    tasks: list[ChangedTask],
    cursor: str | None,
    report: SyncReport,
) -> None:
    """One transaction: the votes of these tasks and the cursor that says they were taken in."""
    _meet_annotators(db, studio, tasks)
    picks = picks_by_task_key(db, [task.key for task in tasks if task.key])
    people = annotator_ids(db, studio.url)
    with writing(db):
        known = known_annotations(db, project.id, [task.id for task in tasks])
        votes = [
            _keep_annotator(_read(annotation, task, picks, people), known)
            for task in tasks
            for annotation in task.annotations
        ]
        new = record_votes(db, project.id, votes + _deleted(known, votes), known)
        if cursor is not None:
            advance_cursor(db, project.id, cursor)
    report.tasks_changed += len(tasks)
    for name in ("votes", "edits", "skips", "deletions", "rejected"):
        setattr(report.counts, name, getattr(report.counts, name) + getattr(new, name))


def _meet_annotators(db: Database, studio: Studio, tasks: Iterable[ChangedTask]) -> None:
    met = annotator_ids(db, studio.url)
    seen = {_person(annotation) for task in tasks for annotation in task.annotations}
    strangers = {person for person in seen if person is not None} - set(met)
    if not strangers:
        return
    names = {person.id: person.email or person.name for person in studio.people()}
    with writing(db):
        record_annotators(
            db, studio.url, {person: names.get(person, f"user {person}") for person in strangers}
        )


def _person(annotation: dict[str, Any]) -> int | None:
    person = annotation.get("completed_by")
    if isinstance(person, dict):
        person = person.get("id")
    return person if isinstance(person, int) and not isinstance(person, bool) else None


def _read(
    annotation: dict[str, Any],
    task: ChangedTask,
    picks: dict[str, tuple[int, str]],
    people: dict[int, int],
) -> Vote:
    """One annotation as a vote, a skip, or a rejected answer with its reason."""
    base: dict[str, Any] = {
        "annotation_id": _whole_number(annotation.get("id")),
        "studio_task_id": task.id,
        "updated_at": str(annotation.get("updated_at") or task.updated_at),
        "raw": annotation,
        "annotator_id": people.get(_person(annotation) or -1),
    }
    pick = picks.get(task.key or "")
    if pick is None:
        return Vote(**base, status="rejected", reason="the task is not one of ours")
    base["pick_id"] = pick[0]
    if base["annotator_id"] is None:
        return Vote(**base, status="rejected", reason=NOBODY)
    try:
        answer = read_answer(annotation)
    except BrokenAnswer as broken:
        return Vote(**base, status="rejected", reason=broken.found)
    if answer.skipped or answer.grade is None:
        return Vote(**base, status="skip", seconds=answer.lead_seconds)
    return Vote(
        **base,
        status="vote",
        grade=to_pair_frame(answer.grade, pick[1]),
        confidence=answer.confidence,
        rationale=answer.rationale or None,
        seconds=answer.lead_seconds,
        prefilled=answer.origin_prediction,
    )


def _keep_annotator(vote: Vote, known: dict[int, Known]) -> Vote:
    """The vote; or, when only its annotator's account was removed since, nothing new."""
    old = known.get(vote.annotation_id)
    if vote.reason == NOBODY and old and old.annotator_id and old.updated_at == vote.updated_at:
        return replace(vote, status=old.status)
    return vote


def _whole_number(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise StudioError(
        f"Label Studio sent an annotation with the id {value!r}",
        expected="a whole number",
        todo="run `annotator doctor`; nothing of this pass was stored",
    )


def _deleted(known: dict[int, Known], votes: list[Vote]) -> list[Vote]:
    """Annotations that we have and the server no longer lists for a changed task."""
    there = {vote.annotation_id for vote in votes}
    return [
        Vote(
            annotation_id=old.annotation_id,
            studio_task_id=old.studio_task_id,
            status="deleted",
            updated_at=old.updated_at,
            raw={},
            pick_id=old.pick_id,
            annotator_id=old.annotator_id,
        )
        for old in known.values()
        if old.annotation_id not in there and old.status != "deleted"
    ]
