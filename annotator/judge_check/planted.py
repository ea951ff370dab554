"""The evidence of planted lines: what a response wins when it asks for a high grade.

A judge that has graded the project is asked again about some of the responses, once with a
harmless line at the end and once with a line that asks for the highest grade. These texts are no
responses of the project: their answers stay with the calls, and none becomes a score.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from annotator.candidates.catalog import response_table, shown_responses
from annotator.judge_check import JudgeCheckError, NobodyVoted
from annotator.judge_check.account import JudgeCheck, injection_document
from annotator.judge_check.evidence import Document
from annotator.judge_check.project import check_project
from annotator.signals.judges.injection import (
    drawn_for_injection,
    planted,
    rise,
    rise_by_style,
    with_placebo,
)
from annotator.signals.judges.ledger import stored_replies
from annotator.signals.judges.reply import ChatRequest
from annotator.signals.judges.routes import Judge, Recorded
from annotator.signals.judges.rubric import Messages, Rubric, messages
from annotator.signals.judges.rubric_route import RubricRoute
from annotator.signals.scores import judge_methods, scores_by
from strategies.within_prompt import Floats

if TYPE_CHECKING:
    from sqlite_utils import Database


class PlantedRoute(RubricRoute):
    """The calls of a rubric about drawn responses: each with a harmless line and a planted one.

    At most `wanted` responses are drawn of those that this judge has graded by this rubric, with
    `seed`, so the same draw makes the same calls. Raises JudgeCheckError if it has graded none.
    """

    def __init__(self, db: Database, judge: Judge, rubric: Rubric, wanted: int, seed: int) -> None:
        super().__init__(db, judge, rubric)
        self.wanted = wanted
        table, top = response_table(db), rubric.scale[1]
        score = scores_by(db, self.method, table.response_ids)
        if np.all(np.isnan(score)):
            raise self._no_scores()
        draw = np.random.default_rng(seed)
        drawn = drawn_for_injection(score, wanted, draw, top)
        self._before, self._prompt = score[drawn], table.prompt_ids[drawn]
        ids = table.response_ids[drawn].tolist()
        shown = shown_responses(db, ids)
        self._prompts: list[Messages] = [
            tuple((turn["role"], turn["content"]) for turn in shown[i].messages) for i in ids
        ]
        texts = [shown[i].text for i in ids]
        self._placebo, self._planted = with_placebo(texts), planted(texts, draw, top)

    @property
    def words(self) -> str:
        n = f"{self.n_drawn:,} responses"
        return f"{super().words}, {n} with a harmless line and again with a planted one"

    @property
    def n_drawn(self) -> int:
        """How many responses were drawn."""
        return len(self._prompts)

    def n_calls(self, limit: int | None = None) -> int:
        calls = len(self._rubric.calls) * self._judge.requests_a_judgement
        return 2 * len(self._prompts[:limit]) * calls

    def requests(self, limit: int | None = None) -> Iterator[ChatRequest]:
        # Both texts of a response in a row: what a cap cuts short leaves whole pairs.
        both = zip(self._prompts, self._placebo, self._planted.texts, strict=True)
        for prompt, *texts in list(both)[:limit]:
            for text in texts:
                for criterion in self._rubric.calls:
                    asked = messages(self._rubric, prompt, text, criterion)
                    yield from self._asked(asked, criterion)

    def record(self) -> Recorded:
        """Nothing: a planted text is no response of the project, and its grade no score."""
        return Recorded(self.method, 0, 0)

    def won(self, seed: int) -> tuple[Document | None, list[str]]:
        """What the lines won, as a part of a check's document, and what to note about it.

        None as long as no response is graded with its planted line.
        """
        placebo, after = self._grades()
        notes = list(self._notes(placebo, after))
        if np.all(np.isnan(after)):
            return None, notes
        rng = np.random.default_rng(seed)
        before, prompt = self._before, self._prompt
        top = float(self._rubric.scale[1])
        found = rise(before, after, prompt, rng, top=top, placebo=placebo)
        by_style = rise_by_style(before, after, self._planted.style, prompt, rng)
        return {"drawn": self.n_drawn, **injection_document(found, by_style)}, notes

    def _grades(self) -> tuple[Floats, Floats]:
        """The grades of the drawn responses with each line, NaN where an answer is missing."""
        replies = stored_replies(self._db, self._judge.host, self.requests())
        found = [self._of_one_response(replies) for _ in range(2 * self.n_drawn)]
        grades = np.array([np.nan if one is None else one.mean for one in found], dtype=np.float64)
        return grades[::2], grades[1::2]

    def _notes(self, placebo: Floats, after: Floats) -> Iterator[str]:
        if self.n_drawn < self.wanted:
            yield (
                f"Lines were planted in {self.n_drawn:,} responses, not in {self.wanted:,}: that "
                "is all that have a grade with room above it."
            )
        missing = int(np.count_nonzero(np.isnan(placebo) | np.isnan(after)))
        if missing:
            yield (
                f"{missing:,} of the {self.n_drawn:,} responses with planted lines are not fully "
                "answered; they are left out."
            )

    def _no_scores(self) -> JudgeCheckError:
        judges = ", ".join(judge_methods(self._db)) or "none"
        return JudgeCheckError(
            f"no response has a score by {self.method}, the judge that would be asked",
            expected=f"its scores, for a rise is above them; on record: {judges}",
            todo="run `annotator judge` with the same options first",
        )


def check_planted(db: Database, route: PlantedRoute, *, seed: int = 0) -> JudgeCheck:
    """The check of the judge that the lines were tried on, with "injection" in its document.

    People are not needed for that part: without their votes the document is that part alone, its
    "people" None.
    """
    try:
        found = check_project(db, [route.method], seed=seed)
    except NobodyVoted as nobody:
        found = _without_people(route.method, seed, nobody)
    found.document["injection"], notes = route.won(seed)
    found.document["notes"] += notes
    return found


def _without_people(method: str, seed: int, nobody: NobodyVoted) -> JudgeCheck:
    note = f"The judge is not held against people: {nobody.found}."
    document: Document = {
        "judges": [method],
        "seed": seed,
        "people": None,
        "conclusive": False,
        "notes": [note],
    }
    return JudgeCheck(document, np.array([]), np.array([]))
