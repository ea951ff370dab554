"""A project with a judge and people whose agreement with it is known, for tests of routing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sqlite_utils import Database

from annotator.labels.votes import Vote, record_annotators, record_votes
from annotator.rounds.batch import Batch, BatchRequest, choose_and_record
from annotator.signals.embeddings import embed_missing
from annotator.signals.scores import record_judged
from annotator.store import writing
from tests.fake_encoder import FakeEncoder
from tests.small_world import add_prompts

JUDGE = "judge:rubric:m@h:helpful-v1-logprobs:12345678"
UNEVEN = (2, 4, 3, 6, 2, 5)
SURE = 0.6  # a difference of scores beyond which people mostly agree


class RoutedWorld:
    """Candidates with made-up vectors and a judge's scores; people agree with it as one says.

    `sizes` responses to each prompt. `score` of each response is drawn, so no two are alike.
    """

    def __init__(self, db: Database, path: Path, sizes: list[int], seed: int = 0) -> None:
        self.db, self.path = db, path
        self.rng = np.random.default_rng(seed)
        add_prompts(db, sizes)
        self.encoder_id = embed_missing(db, FakeEncoder(), path).encoder_id
        with writing(db):
            db.execute(
                """INSERT INTO projects (id, server, mark, studio_id, title, screen, overlap,
                created_at) VALUES (1, 'http://s', 'm', 1, 't', 's', 1, '')"""
            )
            record_annotators(db, "http://s", {7: "ada", 8: "bo"})
        self.n_votes = 0
        self.judge(JUDGE)

    def judge(self, method: str) -> None:
        """Scores of all responses by that judge."""
        ids = np.array([i for (i,) in self.db.execute("SELECT id FROM responses ORDER BY id")])
        score = self.rng.normal(size=len(ids))
        self._record(method, ids, score, beside=False)
        self.score = dict(zip(ids.tolist(), score.tolist(), strict=True))

    def judge_new(self) -> None:
        """Scores by JUDGE of the responses that have none."""
        query = """SELECT id FROM responses WHERE id NOT IN (
            SELECT response_id FROM scores WHERE method = ?) ORDER BY id"""
        ids = np.array([i for (i,) in self.db.execute(query, [JUDGE])])
        score = self.rng.normal(size=len(ids))
        self._record(JUDGE, ids, score, beside=True)
        self.score |= dict(zip(ids.tolist(), score.tolist(), strict=True))

    def _record(self, method: str, ids: np.ndarray, score: np.ndarray, *, beside: bool) -> None:
        with writing(self.db):
            record_judged(self.db, method, ids, score, np.full(len(ids), np.nan), beside=beside)

    def choose(
        self, n: int, strategy: str = "random", control: float = 0.5, **more: object
    ) -> Batch:
        request = {"n": n, "strategy": strategy, "control": control, "overlap": 1, "seed": 5}
        asked = BatchRequest(**(request | more))  # type: ignore[arg-type]
        return choose_and_record(self.db, self.path, self.encoder_id, asked, dry_run=False)

    def unanswered(self, arm: str = "control") -> list[tuple[int, int, int]]:
        """(pick, a_id, b_id) in the order of picks."""
        query = """SELECT id, a_id, b_id FROM picks p WHERE arm = ? AND NOT EXISTS (
            SELECT 1 FROM votes v WHERE v.pick_id = p.id) ORDER BY id"""
        return list(self.db.execute(query, [arm]).fetchall())

    def answer(self, said: dict[int, str], who: int = 1) -> None:
        """Pick -> grade; one person's answers, in the order of the picks."""
        votes = []
        for pick_id, grade in said.items():
            self.n_votes += 1
            at = f"2026-01-01T10:{self.n_votes // 60:02d}:{self.n_votes % 60:02d}Z"
            votes.append(
                Vote(self.n_votes, self.n_votes, "vote", at, {}, pick_id, who, grade=grade)
            )
        with writing(self.db):
            record_votes(self.db, 1, votes, {})

    def side(self, a_id: int, b_id: int) -> str:
        """The response that the judge prefers."""
        return "a" if self.score[a_id] > self.score[b_id] else "b"

    def agree(self, share: float, arm: str = "control", unsure: float = 0.6) -> None:
        """People answer that arm's open picks, and so many agree with the judge.

        `share` where it is sure, its scores being further apart than SURE, else `unsure`; exactly,
        the others being spread evenly.
        """
        said, seen = {}, {True: 0, False: 0}
        for pick_id, a_id, b_id in self.unanswered(arm):
            sure = abs(self.score[a_id] - self.score[b_id]) > SURE
            seen[sure] += 1
            target = share if sure else unsure
            with_it = int(seen[sure] * target) > int((seen[sure] - 1) * target)
            side = self.side(a_id, b_id)
            said[pick_id] = f"{side if with_it else 'ab'.replace(side, '')}_better"
        self.answer(said)
