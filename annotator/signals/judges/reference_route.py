"""The route `reference`: a strong model answers each prompt once; responses are held against that.

As the Alignment Data Map has it in its published code (arXiv 2505.23114): no rubric and no grade,
but the cosine of a sentence encoder between the model's answer and each response; ROUGE-L is the
other likeness it knows. So a score says how like the strong model's answer a response is. A
difference: the published prompt begins with a principle of helpfulness, ours is the prompt alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from annotator.candidates.catalog import response_table
from annotator.signals.embeddings import response_vectors
from annotator.signals.judges.grades import answered_choices
from annotator.signals.judges.ledger import stored_replies
from annotator.signals.judges.reply import ChatRequest, Reply
from annotator.signals.judges.rouge import rouge_l
from annotator.signals.judges.routes import (
    Judge,
    PromptTexts,
    Recorded,
    method_of,
    prompts_with_responses,
    sizes_of_prompts,
)
from annotator.signals.judges.rubric import reference_messages
from annotator.signals.scores import record_judged
from annotator.store import writing
from strategies.within_prompt import Floats

if TYPE_CHECKING:
    from sqlite_utils import Database

    from annotator.signals.chunking import Vectors

ANSWER_TOKENS = 1024  # as published
PROMPTS_AT_ONCE = 128


class Similarity(Protocol):
    """How like its reference a response is."""

    name: str
    identity: list[str]  # what determines it, beside the texts
    encoder_id: int | None  # whose vectors it is computed from

    def __call__(self, references: Sequence[str], prompts: Sequence[PromptTexts]) -> Floats:
        """The likeness of every response to its prompt's reference, prompt after prompt."""


class Cosine:
    """The cosine between the vectors of reference and response; see signals.embeddings.

    `encode` gives the unit vectors (n, d) of n texts by the encoder that is `encoder_id`.
    """

    name = "cosine"

    def __init__(
        self,
        db: Database,
        database_path: Path,
        encoder_id: int,
        encode: Callable[[Sequence[str]], Vectors],
    ) -> None:
        self._db, self._path, self._encode = db, database_path, encode
        self.encoder_id: int | None = encoder_id
        query = "SELECT name, fingerprint, chunking FROM encoders WHERE id = ?"
        self.identity = list(map(str, db.execute(query, [encoder_id]).fetchone()))

    def __call__(self, references: Sequence[str], prompts: Sequence[PromptTexts]) -> Floats:
        """As Similarity. Raises EncoderError if a response has no vector."""
        assert self.encoder_id is not None
        ids = np.array([i for prompt in prompts for i in prompt.response_ids], dtype=np.int64)
        responses = response_vectors(self._db, self._path, self.encoder_id, ids)
        own = np.repeat(self._encode(references), [len(p.response_ids) for p in prompts], axis=0)
        cosines: Floats = np.einsum(
            "ij,ij->i", own.astype(np.float64), responses.astype(np.float64)
        )
        return cosines


class RougeL:
    """The F1 of ROUGE-L between reference and response."""

    name = "rouge-l"
    encoder_id: int | None = None

    def __init__(self) -> None:
        self.identity: list[str] = []

    def __call__(self, references: Sequence[str], prompts: Sequence[PromptTexts]) -> Floats:
        """As Similarity; NaN where a text has no word in ROUGE's sense."""
        return np.array(
            [
                rouge_l(reference, response)
                for reference, prompt in zip(references, prompts, strict=True)
                for response in prompt.responses
            ]
        )


class ReferenceRoute:
    """One answer to every prompt; each response's score is its likeness to that answer.

    `similarity` makes what compares, and is called once there are answers to compare with.
    """

    def __init__(
        self, db: Database, judge: Judge, likeness: str, similarity: Callable[[], Similarity]
    ) -> None:
        self._db, self._judge = db, judge
        self._likeness, self._make_similarity = likeness, similarity
        # What the answers are compared by later changes none of them.
        self.purpose = method_of("reference", judge, "answers", [ANSWER_TOKENS])

    @property
    def words(self) -> str:
        return f"reference answers, {self._likeness}"

    def n_calls(self, limit: int | None = None) -> int:
        return len(sizes_of_prompts(self._db, limit))

    def requests(self, limit: int | None = None) -> Iterator[ChatRequest]:
        for prompt in prompts_with_responses(self._db, limit):
            yield from self._judge.requests(reference_messages(prompt.messages), ANSWER_TOKENS)

    def check(self, reply: Reply) -> None:
        answered_choices([reply], all_of_them=False)

    def record(self) -> Recorded:
        similarity = self._make_similarity()
        determined_by = [ANSWER_TOKENS, *similarity.identity]
        method = method_of(
            "reference", self._judge, similarity.name, determined_by, reads_a_grade=False
        )
        ids = response_table(self._db).response_ids
        score = np.full(len(ids), np.nan)
        n_cut = start = 0
        for prompts, replies in self._answered():
            stop = start + sum(len(prompt.response_ids) for prompt in prompts)
            score[start:stop] = _likeness(similarity, prompts, replies)
            n_cut += sum(r is not None and r.choices[0].finish_reason == "length" for r in replies)
            start = stop
        unknown = np.full(len(ids), np.nan)
        with writing(self._db):
            record_judged(self._db, method, ids, score, unknown, encoder_id=similarity.encoder_id)
        n_scored = int(np.count_nonzero(~np.isnan(score)))
        return Recorded(method, n_scored, len(ids) - n_scored, n_cut=n_cut)

    def _answered(self) -> Iterator[tuple[list[PromptTexts], list[Reply | None]]]:
        """Prompts with the stored replies to them, some hundred at a time."""
        waiting = prompts_with_responses(self._db)
        replies = stored_replies(self._db, self._judge.host, self.requests())
        while prompts := list(islice(waiting, PROMPTS_AT_ONCE)):
            yield prompts, list(islice(replies, len(prompts)))


def _likeness(
    similarity: Similarity, prompts: list[PromptTexts], replies: list[Reply | None]
) -> Floats:
    """Of every response to its reference, NaN where there is none."""
    there = [reply is not None for reply in replies]
    of_response = np.repeat(there, [len(prompt.response_ids) for prompt in prompts])
    score = np.full(len(of_response), np.nan)
    if any(there):
        references = [reply.choices[0].text or "" for reply in replies if reply is not None]
        answered = [prompt for prompt, known in zip(prompts, there, strict=True) if known]
        score[of_response] = similarity(references, answered)
    return score
