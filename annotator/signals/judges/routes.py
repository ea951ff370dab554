"""A route: what a judge is asked about the candidates, and what its answers make of their scores.

Each route gives its requests one after the other, read from the database in blocks, so that a
million responses are never in memory as texts. Later it makes the same requests again, reads the
answer to each back by its key, and records what they come to in one transaction. A response whose
answer is missing has no score; a score of 0 is a score.

A route's method, under which its scores are kept, is different whenever anything that determines
a score is: the judge and its host, what it reads, how it is asked, and how answers are read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from annotator.candidates.catalog import response_table, shown_responses
from annotator.signals.judges.grades import Unparsable
from annotator.signals.judges.reply import ChatRequest, Reply
from annotator.signals.scores import BY_JUDGE, Ids

if TYPE_CHECKING:
    from sqlite_utils import Database

    from annotator.signals.judges.capabilities import Findings
    from annotator.signals.judges.rubric import Messages

BLOCK_RESPONSES = 512
HASH_CHARS = 8
# Part of every method's name: another way of reading the answers is another method.
READING = "reading-1"
# A grade is one token, but some tokenisers begin an answer with tokens of their own.
GRADE_TOKENS = 8


@dataclass(frozen=True)
class Judge:
    """Whom a route asks, and how: what determines every request beside its texts.

    `how` is one of grades.HOWS. A parameter that the server was found to refuse is not sent.
    """

    model: str
    host: str
    how: str
    samples: int = 1
    seed: int | None = 0  # None: the server takes none
    temperature: bool = True
    n: bool = True  # several answers to one request
    top_logprobs: int = 20
    limit: str = "max_completion_tokens"  # what the server calls the bound of an answer
    thinking: int = 0  # tokens of a reasoning model, beside the answer's own
    json_schema: bool = True

    @classmethod
    def found(
        cls, findings: Findings, how: str, *, samples: int = 1, seed: int = 0, thinking: int = 0
    ) -> Judge:
        """The judge as a probe found it."""
        return cls(
            model=findings.model,
            host=findings.host,
            how=how,
            samples=samples if how == "samples" else 1,
            # None: the server did not refuse it, and one answer cannot show more.
            seed=None if findings.seed is False else seed,
            temperature=findings.temperature is not False,
            n=findings.n is True,
            top_logprobs=findings.top_logprobs or 0,
            limit=findings.limit,
            thinking=thinking,
            json_schema=findings.json_schema is True,
        )

    def requests(
        self,
        messages: Messages,
        tokens: int,
        response_format: dict[str, object] | None = None,
    ) -> list[ChatRequest]:
        """What is sent for one judgement: one request, or one for each sample without `n`.

        `tokens` bounds the answer.
        """
        params: dict[str, object] = {self.limit: tokens + self.thinking}
        if self.temperature:
            # Samples are draws from the judge's own distribution, whatever a server's default is.
            whole = {"temperature": 1.0, "top_p": 1.0}
            params |= whole if self.how == "samples" else {"temperature": 0.0}
        if self.how == "logprobs":
            params |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        if response_format is not None:
            params["response_format"] = response_format
        if self.how == "samples" and self.n:
            params["n"] = self.samples
        return [
            ChatRequest(self.model, messages, tuple((params | self._seed(i)).items()), sample=i)
            for i in range(self.requests_a_judgement)
        ]

    @property
    def requests_a_judgement(self) -> int:
        """How many requests one judgement takes."""
        return self.samples if self.how == "samples" and not self.n else 1

    @property
    def reading(self) -> str:
        """`how` as methods name it: logprobs, integer, or samples with their number."""
        return f"samples-{self.samples}" if self.how == "samples" else self.how

    def _seed(self, sample: int) -> dict[str, object]:
        # With one seed for all, samples of their own would be the same sample.
        return {} if self.seed is None else {"seed": self.seed + sample}

    def all_samples(self, reply: Reply) -> None:
        """Raises Unparsable if the reply has fewer answers than were asked for in one request."""
        wanted = self.samples if self.how == "samples" and self.n else 1
        if len(reply.choices) < wanted:
            raise Unparsable(f"{len(reply.choices)} answers of {wanted}")


@dataclass(frozen=True)
class Recorded:
    """What was recorded of a route's answers."""

    method: str
    n_scored: int  # responses
    n_unscored: int
    n_judged: int = 0  # pairs
    n_flipped: int = 0  # of them, where the winner changed with the order
    n_cut: int = 0  # reference answers that ended at their limit


class Route(Protocol):
    """A way from candidates to scores by asking a model."""

    @property
    def words(self) -> str:
        """What is asked, for people."""

    @property
    def purpose(self) -> str:
        """Names the judge and what `check` takes: routes of one purpose read answers alike."""

    def requests(self, limit: int | None = None) -> Iterator[ChatRequest]:
        """What to ask about the first `limit` responses, or about all; the same every time."""

    def n_calls(self, limit: int | None = None) -> int:
        """How many requests those are."""

    def check(self, reply: Reply) -> None:
        """Raises Unparsable or Refused if the reply is no answer on this route."""

    def record(self) -> Recorded:
        """Reads all answers back and records scores, in one transaction."""


@dataclass(frozen=True)
class PromptTexts:
    """A prompt and its responses, in the order of their keys."""

    messages: tuple[tuple[str, str], ...]  # (role, content)
    response_ids: tuple[int, ...]
    responses: tuple[str, ...]


def prompts_with_responses(db: Database, limit: int | None = None) -> Iterator[PromptTexts]:
    """Every prompt that has a response, in order; with `limit`, the first so many responses."""
    table = response_table(db)
    ids, prompts = table.response_ids[:limit], table.prompt_ids[:limit]
    starts = np.flatnonzero(np.diff(prompts, prepend=-1)).tolist()
    ends = [*starts[1:], len(ids)] if starts else []
    for first, last in _blocks(starts, ends):
        shown = shown_responses(db, ids[starts[first] : ends[last]].tolist())
        for i in range(first, last + 1):
            of_prompt = ids[starts[i] : ends[i]].tolist()
            yield PromptTexts(
                messages=tuple((m["role"], m["content"]) for m in shown[of_prompt[0]].messages),
                response_ids=tuple(of_prompt),
                responses=tuple(shown[response_id].text for response_id in of_prompt),
            )


def _blocks(starts: list[int], ends: list[int]) -> Iterator[tuple[int, int]]:
    """First and last prompt of blocks of about BLOCK_RESPONSES responses, prompts kept whole."""
    first = 0
    for i, end in enumerate(ends):
        if end - starts[first] >= BLOCK_RESPONSES or i == len(ends) - 1:
            yield first, i
            first = i + 1


def sizes_of_prompts(db: Database, limit: int | None = None) -> Ids:
    """How many responses each prompt has, in the order of prompts_with_responses."""
    prompts = response_table(db).prompt_ids[:limit]
    _, sizes = np.unique(prompts, return_counts=True)
    return np.asarray(sizes, dtype=np.int64)


def method_of(
    route: str, judge: Judge, what: str, determined_by: object, *, reads_a_grade: bool = True
) -> str:
    """judge:ROUTE:MODEL@HOST:WHAT-READING:HASH, such as ...:helpful-v1-samples-8:0a1b2c3d.

    READING is how a grade or a verdict is read from an answer, and is left out where a text is
    what was asked for. `determined_by` is JSON, all that the name leaves out.
    """
    asked = judge.requests((("user", "?"),), 1)
    whole = [
        READING,
        judge.how,
        judge.samples,
        [request.body() for request in asked],
        determined_by,
    ]
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()[:HASH_CHARS]
    reading = f"-{judge.reading}" if reads_a_grade else ""
    return f"{BY_JUDGE}{route}:{judge.model}@{judge.host}:{what}{reading}:{digest}"
