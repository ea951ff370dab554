"""What a source that may stand for people says of pairs: a side, and how sure it is of it.

Sources are the preference model (`posterior`) and judges, named by the method of their scores.
What is said of a pair never depends on a vote on that pair: of the posterior it is what remains
when the pair's own votes are taken out, and judges know of no votes. On other control pairs' votes
the posterior does depend.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotator.errors import RoundError
from annotator.signals.scores import told_method

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sqlite_utils import Database

    from strategies.within_prompt import Bools, Floats, Positions

    Ids = NDArray[np.int64]

POSTERIOR = "posterior"
Depends = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Opinions:
    """What a source says of n pairs, (n,) each.

    - `side`: 1 where it takes a, -1 where b, 0 where neither.
    - `confidence`: the higher, the surer; of any scale. NaN where it takes no side.
    - `probability` that a person's vote is for the side, as the source says; NaN where it says
      none, as a difference of scores does not.
    """

    side: Positions
    confidence: Floats
    probability: Floats

    def take(self, rows: Positions | Bools | slice) -> Opinions:
        """The same of these pairs."""
        return Opinions(self.side[rows], self.confidence[rows], self.probability[rows])


def opinions_of(
    db: Database, database_path: Path, encoder_id: int, source: str, a_ids: Ids, b_ids: Ids
) -> Opinions:
    """What the source says of these pairs of responses, (n,) ids each.

    Raises RoundError where there is no posterior, or the judge says nothing of any of them.
    """
    if source == POSTERIOR:
        return _of_posterior(db, database_path, encoder_id, a_ids, b_ids)
    found = _of_judge(db, source, a_ids, b_ids)
    if len(a_ids) and not found.side.any():
        raise RoundError(
            f"{source} takes a side on none of {len(a_ids):,} pairs",
            expected="scores of their responses that differ",
            todo="run `annotator judge`, or name another source",
        )
    return found


def _of_posterior(
    db: Database, database_path: Path, encoder_id: int, a_ids: Ids, b_ids: Ids
) -> Opinions:
    import numpy as np

    from annotator.preference.laplace import places_of
    from annotator.rounds.believe import LIMIT_RESPONSES, believe

    belief = believe(db, database_path, encoder_id, also=np.concatenate((a_ids, b_ids)))
    if belief is None:
        raise RoundError(
            "nobody has voted yet",
            expected="votes, from which the posterior is learned",
            todo="label a batch and run `annotator sync`",
        )
    if belief.posterior is None:
        raise RoundError(
            "these pairs are too many for the preference model",
            expected=f"at most {LIMIT_RESPONSES:,} responses in the pool",
            todo="route by a judge: --source judge",
        )
    a, b = (places_of(ids, belief.response_ids) for ids in (a_ids, b_ids))
    known = np.flatnonzero((a >= 0) & (b >= 0))
    mean, variance = belief.posterior.before_votes(a[known], b[known])
    grades = belief.posterior.model.expected(mean, variance).grades
    middle = grades.shape[1] // 2
    for_b, for_a = grades[:, :middle].sum(axis=1), grades[:, middle + 1 :].sum(axis=1)
    side = np.zeros(len(a), dtype=np.int64)
    side[known] = np.sign(mean).astype(np.int64)
    sure = np.full(len(a), np.nan)
    sure[known] = np.where(mean == 0, np.nan, np.maximum(for_a, for_b))
    return Opinions(side, sure, sure)


def _of_judge(db: Database, method: str, a_ids: Ids, b_ids: Ids) -> Opinions:
    """By its judgements of pairs where it gave any, else by the difference of its scores."""
    import numpy as np

    judged = _judged(db, method)
    if not judged:
        gap = _gaps(db, method, a_ids, b_ids)
        side = np.sign(np.nan_to_num(gap)).astype(np.int64)
        confidence = np.where(side == 0, np.nan, np.abs(gap))
        return Opinions(side, confidence, np.full(len(gap), np.nan))
    pairs = zip(np.minimum(a_ids, b_ids).tolist(), np.maximum(a_ids, b_ids).tolist(), strict=True)
    p_low = np.array([judged.get(pair, np.nan) for pair in pairs], dtype=np.float64)
    p_a = np.where(a_ids < b_ids, p_low, 1.0 - p_low)
    side = np.sign(np.nan_to_num(p_a - 0.5)).astype(np.int64)
    sure = np.where(side == 0, np.nan, np.maximum(p_a, 1.0 - p_a))
    return Opinions(side, sure, sure)


def _judged(db: Database, method: str) -> dict[tuple[int, int], float]:
    """The pair's responses, the lower id first -> P(that one is better)."""
    query = "SELECT a_id, b_id, p_a FROM judgements WHERE method = ?"
    return {(a, b): p_a for a, b, p_a in db.execute(query, [method])}


def _gaps(db: Database, method: str, a_ids: Ids, b_ids: Ids) -> Floats:
    """Score of a less that of b; NaN where one is missing, 0 where they differ by rounding."""
    import numpy as np

    from annotator.signals.judges.trust import TIE
    from annotator.signals.scores import scores_by

    gap: Floats = scores_by(db, method, a_ids) - scores_by(db, method, b_ids)
    known = np.abs(gap[~np.isnan(gap)])
    gap[np.abs(gap) <= TIE * known.max(initial=0.0)] = 0.0
    return gap


def depends_on(db: Database, source: str, encoder_id: int) -> Depends:
    """All that a promise about the source stands on: another value of any of it is another source.

    The name of a judge's method holds model, host, rubric and the way answers are read.
    """
    from annotator.preference.learner import VERSION as LEARNER
    from annotator.rounds.believe import VERSION as BELIEF

    query = "SELECT name, fingerprint, chunking FROM encoders WHERE id = ?"
    row = db.execute(query, [encoder_id]).fetchone()
    depends: Depends = {
        "source": source,
        "encoder": None if row is None else list(row),
        "told": told_method(db),
    }
    if source == POSTERIOR:
        depends["model"] = f"learner {LEARNER}, belief {BELIEF}"
    return depends


def recorded_by(db: Database, source: str, up_to: int | None = None) -> list[float]:
    """What tells whether scores were recorded anew: newest response, number and sum of scores.

    Of responses up to the id `up_to`; those that are imported and scored later change nothing.
    Empty for the posterior, which moves with every vote and is taken as it was.
    """
    from annotator.signals.scores import FROM_DATA

    if source == POSTERIOR:
        return []
    if up_to is None:
        up_to = int(db.execute("SELECT coalesce(max(id), 0) FROM responses").fetchone()[0])
    table, column, value = "scores", "method", "score"
    if source.startswith(FROM_DATA):
        table, column, value = "source_scores", "name", "value"
    name = source.removeprefix(FROM_DATA)
    query = f"SELECT count(*), total({value}) FROM {table} WHERE {column} = ? AND response_id <= ?"  # noqa: S608
    scored = db.execute(query, [name, up_to]).fetchone()
    query = "SELECT count(*), total(p_a) FROM judgements WHERE method = ? AND b_id <= ?"
    return [up_to, *scored, *db.execute(query, [source, up_to]).fetchone()]


def changes(db: Database, depends: Depends, encoder_id: int | None) -> list[str]:
    """In words, what a promise stood on that is another now; `encoder_id` None: not looked at."""
    if not depends:
        return []
    source = str(depends["source"])
    now = depends_on(db, source, encoder_id or 0)
    words = {"encoder": "encoder", "told": "judge that the project goes by", "model": "model"}
    found = [
        f"the {words[name]} is {_in_words(now.get(name))}, and was {_in_words(depends[name])}"
        for name in words
        if name in depends
        and now.get(name) != depends[name]
        and not (name == "encoder" and encoder_id is None)
    ]
    recorded = depends.get("recorded")
    if recorded and recorded_by(db, source, int(recorded[0])) != recorded:
        found.append(f"{source} was recorded anew")
    return found


def _in_words(value: object) -> str:
    if isinstance(value, list):  # an encoder: name, fingerprint, chunking
        return f"{value[0]} ({str(value[1])[:12]}, {value[2]})"
    return "none" if value is None else str(value)
