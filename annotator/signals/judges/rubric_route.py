"""The route `rubric`: a judge grades each response by itself, by the criteria of a rubric."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from annotator.candidates.catalog import response_table
from annotator.signals.judges.grades import Grade, Refused, Unparsable, grade
from annotator.signals.judges.ledger import stored_replies
from annotator.signals.judges.reply import ChatRequest, Reply
from annotator.signals.judges.routes import (
    GRADE_TOKENS,
    Judge,
    Recorded,
    method_of,
    prompts_with_responses,
)
from annotator.signals.judges.rubric import Rubric, combined, messages, response_format
from annotator.signals.scores import record_judged
from annotator.store import writing

if TYPE_CHECKING:
    from sqlite_utils import Database

FIELD_TOKENS = 24  # a criterion's name and its grade in a JSON object


class RubricRoute:
    """Every response by every criterion; the score is the mean of those the rubric combines."""

    def __init__(self, db: Database, judge: Judge, rubric: Rubric) -> None:
        self._db, self._judge, self._rubric = db, judge, rubric
        what = f"{rubric.id}-v{rubric.version}"
        by_schema = rubric.one_call and judge.json_schema
        self.method = method_of("rubric", judge, what, [rubric.digest, by_schema])
        self.purpose = self.method

    @property
    def words(self) -> str:
        return f"rubric {self._rubric.id} v{self._rubric.version}"

    def n_calls(self, limit: int | None = None) -> int:
        n_responses = len(response_table(self._db).response_ids[:limit])
        return n_responses * len(self._rubric.calls) * self._judge.requests_a_judgement

    def requests(self, limit: int | None = None) -> Iterator[ChatRequest]:
        for prompt in prompts_with_responses(self._db, limit):
            for response in prompt.responses:
                for criterion in self._rubric.calls:
                    asked = messages(self._rubric, prompt.messages, response, criterion)
                    yield from self._asked(asked, criterion)

    def _asked(
        self, asked: tuple[tuple[str, str], ...], criterion: str | None
    ) -> list[ChatRequest]:
        if criterion is not None:
            return self._judge.requests(asked, GRADE_TOKENS)
        tokens = GRADE_TOKENS + FIELD_TOKENS * len(self._rubric.criteria)
        schema = response_format(self._rubric) if self._judge.json_schema else None
        return self._judge.requests(asked, tokens, schema)

    def check(self, reply: Reply) -> None:
        self._judge.all_samples(reply)
        for field in self._fields:
            grade([reply], self._judge.how, self._rubric.scale, field)

    @property
    def _fields(self) -> list[str | None]:
        """The keys that one answer holds a grade under; None: it is the grade itself."""
        return [one.name for one in self._rubric.criteria] if self._rubric.one_call else [None]

    def record(self) -> Recorded:
        ids = response_table(self._db).response_ids
        score, variance = np.full(len(ids), np.nan), np.full(len(ids), np.nan)
        replies = stored_replies(self._db, self._judge.host, self.requests())
        for place in range(len(ids)):
            found = self._of_one_response(replies)
            if found is not None:
                score[place] = found.mean
                variance[place] = np.nan if found.variance is None else found.variance
        with writing(self._db):
            record_judged(self._db, self.method, ids, score, variance)
        n_scored = int(np.count_nonzero(~np.isnan(score)))
        return Recorded(self.method, n_scored, len(ids) - n_scored)

    def _of_one_response(self, replies: Iterator[Reply | None]) -> Grade | None:
        """The grade in the next replies; None where one that it needs is missing."""
        grades: dict[str, Grade] = {}
        for criterion in self._rubric.calls:
            answers = list(islice(replies, self._judge.requests_a_judgement))
            read = [answer for answer in answers if answer is not None]
            if len(read) == len(answers):
                grades |= self._graded(read, criterion)
        return combined(self._rubric, grades) if grades.keys() >= {*self._rubric.combine} else None

    def _graded(self, replies: list[Reply], criterion: str | None) -> dict[str, Grade]:
        """Criterion -> its grade in the replies to one judgement; nothing if one is unreadable."""
        try:
            return {
                criterion or field or "": grade(replies, self._judge.how, self._rubric.scale, field)
                for field in self._fields
            }
        except (Unparsable, Refused):
            return {}
