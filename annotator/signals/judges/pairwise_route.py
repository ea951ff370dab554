"""The route `pairwise`: a judge compares two responses, always in both orders.

Where the orders name different winners, the pair has no winner: its probability is one half, and
the difference is variance. A response's score says how it stands among the responses of its
prompt, with mean 0 in every prompt: it does not tell good prompts from bad ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from annotator.candidates.catalog import response_table
from annotator.signals.judges.grades import Refused, Unparsable
from annotator.signals.judges.judgements import Judgement, record_judgements
from annotator.signals.judges.ledger import stored_replies
from annotator.signals.judges.pairwise import (
    PairJudgement,
    first_wins,
    judge_pair,
    pairs_to_judge,
    pairwise_scores,
)
from annotator.signals.judges.reply import ChatRequest, Reply
from annotator.signals.judges.routes import (
    GRADE_TOKENS,
    Judge,
    PromptTexts,
    Recorded,
    method_of,
    prompts_with_responses,
    sizes_of_prompts,
)
from annotator.signals.judges.rubric import PairRubric, pair_messages
from annotator.signals.scores import Ids, record_judged
from annotator.store import writing
from strategies.within_prompt import Floats

if TYPE_CHECKING:
    from sqlite_utils import Database


class PairwiseRoute:
    """Pairs of each prompt's responses; the score is each one's place among them.

    All pairs of up to five responses; of more, each response meets `opponents` others, drawn with
    `seed`.
    """

    def __init__(
        self, db: Database, judge: Judge, rubric: PairRubric, *, opponents: int, seed: int
    ) -> None:
        self._db, self._judge, self._rubric = db, judge, rubric
        self._opponents, self._seed = opponents, seed
        what = f"{rubric.id}-v{rubric.version}"
        self.method = method_of("pairwise", judge, what, [rubric.digest, opponents, seed])
        # Which pairs are drawn changes no answer.
        self.purpose = method_of("pairwise", judge, what, [rubric.digest])

    @property
    def words(self) -> str:
        return f"pairs in both orders, rubric {self._rubric.id} v{self._rubric.version}"

    def n_calls(self, limit: int | None = None) -> int:
        sizes, counts = np.unique(
            sizes_of_prompts(self._db, self._whole(limit)), return_counts=True
        )
        # How many pairs a prompt has does not depend on the draw.
        rng = np.random.default_rng(0)
        n_pairs: int = sum(
            count * len(pairs_to_judge(size, self._opponents, rng))
            for size, count in zip(sizes.tolist(), counts.tolist(), strict=True)
        )
        return 2 * n_pairs * self._judge.requests_a_judgement

    def requests(self, limit: int | None = None) -> Iterator[ChatRequest]:
        for prompt in prompts_with_responses(self._db, self._whole(limit)):
            for a, b in self._pairs(prompt):
                for first, second in ((a, b), (b, a)):
                    shown = (prompt.responses[first], prompt.responses[second])
                    asked = pair_messages(self._rubric, prompt.messages, *shown)
                    yield from self._judge.requests(asked, GRADE_TOKENS)

    def _whole(self, limit: int | None) -> int | None:
        """`limit`, raised to the end of its last prompt: a part of one has other pairs."""
        if limit is None:
            return None
        ends = np.cumsum(sizes_of_prompts(self._db))
        place = int(np.searchsorted(ends, limit))
        return int(ends[place]) if place < len(ends) else None

    def _pairs(self, prompt: PromptTexts) -> list[tuple[int, int]]:
        # Drawn from the prompt's own text, so that no other prompt changes its pairs.
        own = sha256(repr(prompt.messages).encode("utf-8", "surrogatepass")).digest()[:8]
        rng = np.random.default_rng([self._seed, int.from_bytes(own)])
        return [(a, b) for a, b in pairs_to_judge(len(prompt.responses), self._opponents, rng)]

    def check(self, reply: Reply) -> None:
        self._judge.all_samples(reply)
        first_wins([reply], self._judge.how)

    def record(self) -> Recorded:
        judgements = list(self._judgements())
        table = response_table(self._db)
        score, variance = _scores(table.response_ids, table.prompt_ids, judgements)
        with writing(self._db):
            record_judgements(self._db, self.method, judgements)
            record_judged(self._db, self.method, table.response_ids, score, variance)
        n_scored = int(np.count_nonzero(~np.isnan(score)))
        return Recorded(
            self.method,
            n_scored,
            len(score) - n_scored,
            n_judged=len(judgements),
            n_flipped=sum(judgement.flipped for judgement in judgements),
        )

    def _judgements(self) -> Iterator[Judgement]:
        """Every pair that was answered in both orders."""
        replies = stored_replies(self._db, self._judge.host, self.requests())
        for prompt in prompts_with_responses(self._db):
            for a, b in self._pairs(prompt):
                found = self._of_one_pair(replies)
                if found is None:
                    continue
                a_id, b_id = prompt.response_ids[a], prompt.response_ids[b]
                p_a = found.p if a_id < b_id else 1 - found.p
                ids = (min(a_id, b_id), max(a_id, b_id))
                yield Judgement(*ids, p_a, found.variance, found.flipped)

    def _of_one_pair(self, replies: Iterator[Reply | None]) -> PairJudgement | None:
        each = self._judge.requests_a_judgement
        answers = list(islice(replies, 2 * each))
        read = [answer for answer in answers if answer is not None]
        if len(read) < len(answers):
            return None
        try:
            return judge_pair(read[:each], read[each:], self._judge.how)
        except (Unparsable, Refused):
            return None


def _scores(
    response_ids: Ids, prompt_ids: Ids, judgements: list[Judgement]
) -> tuple[Floats, Floats]:
    """Score and variance of each response, in the order of `response_ids`."""
    _, prompts = np.unique(prompt_ids, return_inverse=True)
    order = np.argsort(response_ids)
    ends = np.array([(j.a_id, j.b_id) for j in judgements], dtype=np.int64).reshape(-1, 2)
    a, b = order[np.searchsorted(response_ids[order], ends)].T
    p = np.array([j.p_a for j in judgements], dtype=np.float64)
    unknown = np.nan
    v_swap = np.array(
        [unknown if j.variance is None else 4 * j.variance for j in judgements], dtype=np.float64
    )
    return pairwise_scores(prompts, a, b, p, v_swap)
