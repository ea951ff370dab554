"""A project of the shipped sample that simulated people have labelled, with no server anywhere.

Rounds are chosen by the live code; only Label Studio is left out: answers are recorded as `sync`
records them. For tests, and for the pictures of the documentation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from sqlite_utils import Database

from annotator.candidates.catalog import source_scores
from annotator.candidates.ingest import import_files
from annotator.config import load_settings, template
from annotator.demo.robots import SCORE_NAME, simulated_grade
from annotator.labels.votes import Vote, record_annotators, record_votes
from annotator.rounds.batch import BatchRequest, choose_and_record
from annotator.signals.datamap import build_map
from annotator.signals.embeddings import ensure_embedded
from annotator.store import open_db, writing

SERVER = "http://simulated.example"
MARK = "played: no server has this project"  # a real one is recognised by its mark
FIRST_DAY = datetime(2026, 3, 2, 9, tzinfo=UTC)


@dataclass(frozen=True)
class Habit:
    """Somebody who answers: how often by a coin, and how many seconds it takes them."""

    name: str
    careless: float
    seconds: float


PEOPLE = (Habit("anna", 0.03, 19.0), Habit("ben", 0.10, 14.0), Habit("cleo", 0.25, 8.0))


def play(
    folder: Path,
    *,
    rounds: int = 5,
    batch: int = 60,
    overlap: int = 1,
    leave_open: int = 12,
    people: Sequence[Habit] = PEOPLE,
    budget: Mapping[str, object] | None = None,
    seed: int = 0,
    strategy: str = "hybrid",
) -> Path:
    """A project in `folder` with that many rounds, all but `leave_open` pairs answered; it.

    `budget` are settings of that section of annotator.toml.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "annotator.toml").write_text(_configured(budget or {}), encoding="utf-8")
    settings = load_settings(folder)
    path = folder / settings.project.database
    db = open_db(path, create=True)
    try:
        with as_file(files("annotator.demo") / "candidates.jsonl") as sample:
            import_files(db, [sample], dataset="demo")
        encoder_id = ensure_embedded(db, path, settings.encoder.name).encoder_id
        build_map(db, path, encoder_id)
        rng = np.random.default_rng(seed)
        _meet(db, people)
        for number in range(rounds):
            request = BatchRequest(batch, strategy, 0.2, overlap, seed=seed + number, repeats=0.05)
            choose_and_record(db, path, encoder_id, request, dry_run=False)
            last = number == rounds - 1
            answer(db, people, rng, day=4 * number, leave_open=leave_open if last else 0)
    finally:
        db.close()
    return folder


def _configured(budget: Mapping[str, object]) -> str:
    """The file that `init` writes, with these settings of the budget."""
    text = template("Everyday questions")
    for name, value in budget.items():
        said = json.dumps(value)
        text, n = re.subn(rf"(?m)^(# )?{name} =.*$", f"{name} = {said}", text)
        assert n == 1, name
    return text


def _meet(db: Database, people: Sequence[Habit]) -> None:
    with writing(db):
        db.execute(
            """INSERT INTO projects (id, server, mark, studio_id, title, screen, overlap,
            created_at) VALUES (1, ?, ?, 1, 'Everyday questions', 's', 1, ?)""",
            [SERVER, MARK, FIRST_DAY.isoformat()],
        )
        record_annotators(db, SERVER, {i: one.name for i, one in enumerate(people, start=1)})


def answer(
    db: Database,
    people: Sequence[Habit],
    rng: np.random.Generator,
    *,
    day: int = 0,
    leave_open: int = 0,
) -> int:
    """Answers what is open, in turn and in the order of the batch; how many votes there were."""
    quality = source_scores(db, SCORE_NAME)
    rows = db.execute(
        """SELECT p.id, p.a_id, p.b_id, p.side_order, r.overlap, r.started_at FROM picks p
        JOIN rounds r ON r.id = p.round_id
        WHERE p.id NOT IN (SELECT pick_id FROM votes) ORDER BY p.round_id, p.place"""
    ).fetchall()
    start = FIRST_DAY + timedelta(days=day)
    votes = []
    known = int(db.execute("SELECT count(*) FROM votes").fetchone()[0])
    for place, (pick_id, a, b, side, overlap, _) in enumerate(rows[: len(rows) - leave_open]):
        for turn in range(overlap):
            who = (place + turn) % len(people)
            at = start + timedelta(minutes=7 * len(votes))
            grade = _grade(people[who], quality[a], quality[b], side, rng)
            seconds = float(rng.lognormal(np.log(people[who].seconds), 0.4))
            number = known + len(votes) + 1
            votes.append(
                Vote(
                    annotation_id=number,
                    studio_task_id=pick_id,
                    status="vote",
                    updated_at=at.isoformat(),
                    raw={},
                    pick_id=pick_id,
                    annotator_id=who + 1,
                    grade=grade,
                    seconds=seconds,
                )
            )
    with writing(db):
        record_votes(db, 1, votes, {})
        db.execute("UPDATE tasks SET state = 'stored', project_id = 1, studio_id = pick_id")
    return len(votes)


def _grade(one: Habit, a: float, b: float, side: str, rng: np.random.Generator) -> str:
    """What they say, in the pair's frame."""
    left, right = (a, b) if side == "ab" else (b, a)
    if rng.random() < one.careless:
        left, right = rng.random(2)
    said = simulated_grade(left, right, rng)
    names = {"left": side[0], "right": side[1]}
    head, _, tail = said.partition("_")
    return f"{names[head]}_{tail}" if head in names else said
