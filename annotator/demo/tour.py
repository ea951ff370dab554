"""The demo as a story: a project, the sample, a local server, rounds."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from annotator.candidates.catalog import source_scores
from annotator.candidates.ingest import import_files
from annotator.config import FILE_NAME, SCHEMA_NAME, Settings, load_settings, schema_text, template
from annotator.demo.robots import SCORE_NAME, answer_all
from annotator.labels.overlap import OverlapRange
from annotator.rounds.batch import BatchRequest, choose_and_record, push_waiting
from annotator.rounds.picks import round_counts
from annotator.rounds.sync import sync
from annotator.signals.embeddings import ensure_embedded
from annotator.store import open_db
from annotator.studio.client import Studio
from annotator.studio.local import LocalStudio, RunningStudio
from annotator.studio.projects import projects_on

if TYPE_CHECKING:
    from sqlite_utils import Database

BATCH = 20
PLAYED_ROUNDS = 2
ROBOTS = ("robot-1", "robot-2")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Tour:
    """Where the demo stands when it hands over: to whom, where, and what is waiting."""

    folder: Path
    running: RunningStudio
    rounds: int
    votes_simulated: int
    waiting: int
    label_at: str


def run_tour(folder: Path, *, play: bool, say: Say) -> Tour:
    """Runs the demo in `folder` as far as it has not been run yet; `say` is told each step.

    With `play`, simulated annotators answer two rounds and the third is left for a person;
    without, the first is. Run again, it chooses nothing that is not needed.
    """
    settings = _project(folder, say)
    path = folder / settings.project.database
    db = open_db(path, create=True)
    try:
        _candidates(db, say)
        encoder_id = _vectors(db, path, settings, say)
        running = LocalStudio().up(progress=say)
        simulated = 0
        while play and len(round_counts(db)) < PLAYED_ROUNDS:
            _round(db, path, encoder_id, settings, running, say)
            simulated += _play(db, running, say)
        if len(round_counts(db)) < (PLAYED_ROUNDS + 1 if play else 1):
            _round(db, path, encoder_id, settings, running, say)
        return _hand_over(db, folder, running, simulated)
    finally:
        db.close()


def _project(folder: Path, say: Say) -> Settings:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / FILE_NAME).exists():
        (folder / FILE_NAME).write_text(template("Demo"), encoding="utf-8")
        (folder / SCHEMA_NAME).write_text(schema_text(), encoding="utf-8")
        say(f"project in {folder}")
    return load_settings(folder)


def _candidates(db: Database, say: Say) -> None:
    with as_file(files("annotator.demo") / "candidates.jsonl") as sample:
        report = import_files(db, [sample], dataset="demo")
    say(
        f"import: {report.prompts_added} prompts and {report.responses_added} responses new, "
        f"{report.responses_known} responses known"
    )


def _vectors(db: Database, path: Path, settings: Settings, say: Say) -> int:
    report = ensure_embedded(db, path, settings.encoder.name, settings.encoder.precision)
    say(f"embed: {report.added} of {report.total} texts new ({settings.encoder.name})")
    return report.encoder_id


def _round(
    db: Database,
    path: Path,
    encoder_id: int,
    settings: Settings,
    running: RunningStudio,
    say: Say,
) -> None:
    defaults = settings.round
    least = OverlapRange.parse(str(defaults.overlap)).least
    request = BatchRequest(BATCH, defaults.strategy, defaults.control, least)
    batch = choose_and_record(db, path, encoder_id, request, dry_run=False)
    with Studio(running.url, running.token) as studio:
        pushed = push_waiting(
            db,
            studio,
            settings.project.name,
            grace_seconds=settings.studio.grace_seconds,
        )
    say(
        f"round {batch.round_id}: {batch.head.n_acquired} pairs by {batch.head.strategy}, "
        f"{batch.head.n_control} at random; {pushed.stored} tasks sent"
    )


def _play(db: Database, running: RunningStudio, say: Say) -> int:
    import numpy as np

    local = LocalStudio(running.home)
    local.add_people(list(ROBOTS))
    tokens = {person.name: person.token for person in local.people()}
    with ExitStack() as stack:
        robots = [stack.enter_context(Studio(running.url, tokens[name])) for name in ROBOTS]
        n = answer_all(robots, _open_tasks(db), np.random.default_rng(len(round_counts(db))))
        report = sync(db, stack.enter_context(Studio(running.url, running.token)))
    say(f"  {n} answers SIMULATED by {' and '.join(ROBOTS)}, {report.counts.votes} votes synced")
    return n


def _open_tasks(db: Database) -> list[tuple[int, float, float]]:
    """(task id on the server, quality left, quality right) of tasks without an answer."""
    quality = source_scores(db, SCORE_NAME)
    rows = db.execute(
        """SELECT t.studio_id, p.a_id, p.b_id, p.side_order FROM tasks t
        JOIN picks p ON p.id = t.pick_id LEFT JOIN current_votes v ON v.pick_id = p.id
        WHERE v.id IS NULL AND t.studio_id IS NOT NULL ORDER BY p.round_id, p.place"""
    )
    return [
        (task, *((quality[a], quality[b]) if side == "ab" else (quality[b], quality[a])))
        for task, a, b, side in rows
    ]


def _hand_over(db: Database, folder: Path, running: RunningStudio, simulated: int) -> Tour:
    project = projects_on(db, running.url)[-1]
    return Tour(
        folder=folder,
        running=running,
        rounds=len(round_counts(db)),
        votes_simulated=simulated,
        waiting=len(_open_tasks(db)),
        label_at=f"{running.url}/projects/{project.studio_id}/data?labeling=1",
    )
