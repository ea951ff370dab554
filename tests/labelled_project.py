"""A project with made-up vectors, whose people's votes come from known rewards; rounds are live."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from sqlite_utils import Database

from annotator.config import template
from annotator.labels.votes import Vote, record_annotators, record_votes
from annotator.rounds.batch import BatchRequest, choose_and_record
from annotator.signals.embeddings import embed_missing
from annotator.store import open_db, writing
from tests.fake_encoder import FakeEncoder
from tests.small_world import add_prompts

START = datetime(2026, 5, 4, 9, tzinfo=UTC)
NAMES = {21: "anna", 22: "ben", 23: "cleo"}
STEEP, TIE = 4.0, 0.4  # of the logistic votes


class LabelledProject:
    """`folder` with annotator.toml and a database; `reward` of each response by its id."""

    def __init__(self, folder: Path, sizes: list[int], seed: int = 0, config: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "annotator.toml").write_text(template("Everyday questions") + config, "utf-8")
        self.folder, self.path = folder, folder / "annotator.db"
        self.db: Database = open_db(self.path, create=True)
        self.db.execute("PRAGMA synchronous=OFF")
        self.rng = np.random.default_rng(seed)
        self.responses = add_prompts(self.db, sizes)
        encoder = FakeEncoder()
        self.encoder_id = embed_missing(self.db, encoder, self.path).encoder_id
        towards = self.rng.standard_normal(encoder.dimension)
        rows = self.db.execute("SELECT id, text FROM responses").fetchall()
        self.reward = {
            i: float(encoder.vector(text) @ towards + 0.3 * self.rng.standard_normal())
            for i, text in rows
        }
        with writing(self.db):
            self.db.execute(
                """INSERT INTO projects (id, server, mark, studio_id, title, screen, overlap,
                created_at) VALUES (1, 'http://s', 'm', 1, 't', 's', 1, '')"""
            )
            record_annotators(self.db, "http://s", NAMES)
        self.n_votes = 0

    def close(self) -> None:
        self.db.close()

    def pairs(self) -> list[tuple[int, int]]:
        """All pairs of candidates."""
        return [(a, b) for ids in self.responses for i, a in enumerate(ids) for b in ids[i + 1 :]]

    def probabilities(self, a: int, b: int) -> tuple[float, float]:
        """That somebody votes for a, and for b."""
        difference = STEEP * (self.reward[a] - self.reward[b])
        return tuple(1 / (1 + math.exp(TIE - d)) for d in (difference, -difference))  # type: ignore[return-value]

    def next_batch(
        self, n: int, strategy: str = "hybrid", overlap: int = 1, most: int | None = None
    ) -> int:
        """A round; its id. Its tasks are on the server."""
        request = BatchRequest(
            n=n, strategy=strategy, control=0.25, overlap=overlap, overlap_most=most,
            overlap_policy=None if most is None else "until-agree", seed=7 + n,
        )  # fmt: skip
        batch = choose_and_record(self.db, self.path, self.encoder_id, request, dry_run=False)
        with writing(self.db):
            self.db.execute(
                """UPDATE tasks SET state = 'swept', project_id = 1, studio_id = pick_id,
                overlap_told = overlap"""
            )
        assert batch.round_id is not None
        return batch.round_id

    def answer(self, leave_open: int = 0) -> None:
        """Everybody who is to answer does, but for the last tasks."""
        rows = self.db.execute(
            """SELECT p.id, p.a_id, p.b_id, coalesce(t.overlap, r.overlap),
              (SELECT count(*) FROM votes v WHERE v.pick_id = p.id)
            FROM picks p JOIN tasks t ON t.pick_id = p.id JOIN rounds r ON r.id = p.round_id
            ORDER BY p.round_id, p.place"""
        ).fetchall()
        waiting = [row for row in rows if row[4] < row[3]]
        for pick, a, b, wanted, there in waiting[: len(waiting) - leave_open]:
            for turn in range(there, wanted):
                self.vote(pick, a, b, 1 + (pick + turn) % len(NAMES))

    def vote(self, pick: int, a: int, b: int, who: int) -> None:
        """One vote by the rewards."""
        self.n_votes += 1
        for_a, for_b = self.probabilities(a, b)
        draw = float(self.rng.random())
        grade = "a_better" if draw < for_a else "b_better" if draw < for_a + for_b else "tie"
        at = (START + timedelta(minutes=self.n_votes)).isoformat()
        seconds = float(self.rng.gamma(5, 5))
        vote = Vote(self.n_votes, pick, "vote", at, {}, pick, who, grade, seconds=seconds)
        with writing(self.db):
            record_votes(self.db, 1, [vote], {})
