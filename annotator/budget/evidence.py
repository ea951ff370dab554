"""What quality, advice and votes spared are measured on: a project's votes, models and pairs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from annotator.candidates.gold import GOLD_ONLY_RESPONSES
from annotator.labels.agreement import first_votes
from annotator.labels.votes import ARMS, CountedVotes, counted_votes, first_seen
from annotator.preference.laplace import places_of
from annotator.preference.posterior import Posterior, fit_posterior
from annotator.preference.votes import Votes, tally
from annotator.rounds.believe import LIMIT_RESPONSES, Belief, believe
from annotator.store import integer_columns
from strategies.within_prompt import Bools, Floats, Positions

if TYPE_CHECKING:
    from sqlite_utils import Database

SAMPLED_PAIRS = 4_000  # of the pool, that stand for all of it
SEED = 0


@dataclass(frozen=True, eq=False)
class Rounds:
    """Every round, in order, (n_rounds,) each.

    `n_left` pairs that could be chosen when it was; `n_taken` pairs of candidates chosen before;
    `n_acquired` and `n_control` that it chose; `least` votes a pair, and `most`, the same where it
    asks a fixed number; `routed` where strategies were not offered pairs left to a machine.
    """

    ids: Positions
    n_left: Positions
    n_taken: Positions
    n_acquired: Positions
    n_control: Positions
    least: Positions
    most: Positions
    routed: Bools


@dataclass(frozen=True, eq=False)
class Picks:
    """Pairs chosen by a strategy or by lot, in the order in which they were, (n,) each.

    `place` of the round; `draw` the pick's turn in its arm; `chance` NaN where it was not drawn.
    """

    ids: Positions
    place: Positions
    a_ids: Positions
    b_ids: Positions
    prompt: Positions
    control: Bools
    draw: Positions
    chance: Floats


class Evidence:
    """What a project holds that tells of its models; each part is computed when it is asked for.

    `belief` after all votes; None before the first. Its posterior is None where the model cannot
    see the responses.
    """

    def __init__(self, db: Database, database_path: Path) -> None:
        self.db, self.database_path = db, database_path
        self.rng = np.random.default_rng(SEED)
        self.picks = _picks(db)
        self.rounds = _rounds(db, n_pairs_of(db))
        votes = counted_votes(db)
        self.cast = votes.take(np.isin(votes.pick_ids, self.picks.ids))
        self.pool_a_ids, self.pool_b_ids = sampled_pairs(db, SAMPLED_PAIRS, self.rng)
        self.routed = routed_pairs(db)

    @cached_property
    def belief(self) -> Belief | None:
        also = np.concatenate((self.pool_a_ids, self.pool_b_ids))
        return believe(self.db, self.database_path, encoder_of(self.db), also)

    @cached_property
    def posterior(self) -> Posterior | None:
        """What the belief is of responses; without fitting anything where it would be None."""
        if not len(self.cast) or not self._seen():
            return None
        return None if self.belief is None else self.belief.posterior

    def _seen(self) -> bool:
        """Whether there are vectors, and not more responses than the model is fitted to."""
        encoder_id = encoder_of(self.db)
        if encoder_id is None:
            return False
        ids = np.concatenate((self.cast.a_ids, self.cast.b_ids, self.pool_a_ids, self.pool_b_ids))
        n = self.db.execute(
            f"""SELECT count(*) FROM (SELECT 1 FROM responses WHERE prompt_id IN (
              SELECT prompt_id FROM responses WHERE id IN (SELECT value FROM json_each(?)))
            LIMIT {LIMIT_RESPONSES + 1})""",  # noqa: S608
            [json.dumps(np.unique(ids).tolist())],
        ).fetchone()[0]
        query = "SELECT EXISTS (SELECT 1 FROM embeddings WHERE encoder_id = ?)"
        return n <= LIMIT_RESPONSES and bool(self.db.execute(query, [encoder_id]).fetchone()[0])

    @cached_property
    def pick_of_vote(self) -> Positions:
        """Which pick each vote is on, (n_votes,)."""
        place: Positions = np.searchsorted(self.picks.ids, self.cast.pick_ids)
        return place

    @cached_property
    def early(self) -> Bools:
        """Which votes are among the first that their round asks of each pair, (n_votes,).

        Later ones were asked for because the first ones differed or left doubt.
        """
        return first_votes(self.pick_of_vote, self.rounds.least[self.picks.place])

    def places(self, a_ids: Positions, b_ids: Positions) -> tuple[Positions, Positions]:
        """Positions of responses among those that the posterior knows, -1 where it does not."""
        assert self.belief is not None
        known = self.belief.response_ids
        return places_of(a_ids, known), places_of(b_ids, known)

    @cached_property
    def pool(self) -> tuple[Positions, Positions]:
        """Pairs that stand for the pool, as positions: those of them that the posterior knows."""
        a, b = self.places(self.pool_a_ids, self.pool_b_ids)
        known = (a >= 0) & (b >= 0)
        return a[known], b[known]

    @cached_property
    def unasked(self) -> Bools:
        """Which of `pool` nobody was ever asked about."""
        a, b = self.pool
        asked = _codes(*self.places(self.picks.a_ids, self.picks.b_ids))
        return ~np.isin(_codes(a, b), asked)

    @cached_property
    def lessons(self) -> Votes:
        """The votes as the preference model learns them; a and b are -1 where it cannot."""
        assert self.belief is not None
        a, b = self.places(self.cast.a_ids, self.cast.b_ids)
        who = np.searchsorted(self.belief.annotator_ids, self.cast.annotator_ids)
        lapse = self.belief.crowd.people.lapse[who]
        unknown = (a < 0) | (b < 0)
        # Two different positions are asked for even of votes that nobody learns from.
        return Votes(np.where(unknown, -1, a), np.where(unknown, -2, b), self.cast.grade, lapse)

    @cached_property
    def turn(self) -> Positions:
        """Of each vote that teaches the model, from 0, in the order in which votes were cast.

        An edit makes a vote a newer row, but no later one. Of others the turn of the one before.
        """
        order = np.argsort(first_seen(self.db, self.cast), kind="stable")
        turn = np.empty(len(order), dtype=np.int64)
        turn[order] = np.cumsum(self.lessons.a[order] >= 0) - 1
        return turn

    def taught_by(self, some: Bools) -> Posterior:
        """The posterior after these votes alone (n_votes,), with the settings found by all."""
        whole = self.posterior
        assert whole is not None
        some = some & (self.lessons.a >= 0)
        votes = self.lessons
        assert votes.lapse is not None
        chosen = Votes(votes.a[some], votes.b[some], votes.grade[some], votes.lapse[some])
        return fit_posterior(whole.features, tally(chosen), whole.prior, whole.model)


def encoder_of(db: Database) -> int | None:
    """The encoder of the newest round that has one."""
    row = db.execute(
        "SELECT encoder_id FROM rounds WHERE encoder_id IS NOT NULL ORDER BY id DESC LIMIT 1"
    ).fetchone()
    return None if row is None else int(row[0])


def n_pairs_of(db: Database) -> int:
    """Pairs of candidates."""
    query = f"""SELECT coalesce(sum(k * (k - 1) / 2), 0) FROM (SELECT count(*) AS k
        FROM responses WHERE id NOT IN ({GOLD_ONLY_RESPONSES}) GROUP BY prompt_id)"""  # noqa: S608
    return int(db.execute(query).fetchone()[0])


def n_newer_pairs(db: Database, round_id: int) -> int:
    """Pairs of candidates that were not there when that round was chosen; 0 where nobody knows.

    Candidates are only ever added, with growing ids.
    """
    query = f"""WITH candidates AS (
          SELECT prompt_id, row_number() OVER (ORDER BY id) AS place FROM responses
          WHERE id NOT IN ({GOLD_ONLY_RESPONSES})
        ), known AS (
          SELECT json_extract(pool, '$.n_responses') AS n FROM rounds WHERE id = ?
        ), sizes AS (
          SELECT count(*) AS k, coalesce(sum(place <= (SELECT n FROM known)), count(*)) AS before
          FROM candidates GROUP BY prompt_id
        ) SELECT coalesce(sum(k * (k - 1) / 2 - before * (before - 1) / 2), 0)
        FROM sizes"""  # noqa: S608
    return int(db.execute(query, [round_id]).fetchone()[0])


def sampled_pairs(db: Database, most: int, rng: np.random.Generator) -> tuple[Positions, Positions]:
    """Response ids of pairs of candidates with different texts: all, or a uniform sample of `most`.

    As long as no candidate is added the same generator gives the same pairs.
    """
    sizes = integer_columns(
        db,
        f"""SELECT prompt_id, count(*) FROM responses WHERE id NOT IN ({GOLD_ONLY_RESPONSES})
        GROUP BY prompt_id HAVING count(*) > 1 ORDER BY prompt_id""",  # noqa: S608
        2,
    )
    prompt_ids, k = sizes
    ends = np.cumsum(k * (k - 1) // 2)
    total = int(ends[-1]) if len(ends) else 0
    chosen = np.arange(total) if total <= most else np.sort(rng.choice(total, most, replace=False))
    of = np.searchsorted(ends, chosen, side="right")
    start = ends[of] - k[of] * (k[of] - 1) // 2
    first, second = _nth_pair(chosen - start, k[of])
    ids, texts, begin = _responses_of(db, prompt_ids[np.unique(of)])
    base = begin[np.searchsorted(np.unique(of), of)]
    a, b = base + first, base + second
    differ = texts[a] != texts[b]
    return ids[a][differ], ids[b][differ]


def _nth_pair(n: Positions, k: Positions) -> tuple[Positions, Positions]:
    """The n-th of the pairs (0, 1), (0, 2), ..., (k - 2, k - 1), element by element."""
    # Counted from the end, the row of a pair is the root of a triangular number.
    back = k * (k - 1) // 2 - 1 - n
    row = ((np.sqrt(8.0 * back + 1.0) - 1.0) // 2.0).astype(np.int64)
    row += ((row + 1) * (row + 2) // 2 <= back).astype(np.int64)
    row -= (row * (row + 1) // 2 > back).astype(np.int64)
    return k - 2 - row, k - 1 - (back - row * (row + 1) // 2)


def _responses_of(db: Database, prompt_ids: Positions) -> tuple[Positions, Positions, Positions]:
    """Ids of the candidates of these prompts, numbers of their texts, where each prompt begins."""
    rows = db.execute(
        f"""SELECT prompt_id, id, text_hash FROM responses
        WHERE prompt_id IN (SELECT value FROM json_each(?)) AND id NOT IN ({GOLD_ONLY_RESPONSES})
        ORDER BY prompt_id, id""",  # noqa: S608
        [json.dumps(prompt_ids.tolist())],
    ).fetchall()
    prompts = np.array([row[0] for row in rows], dtype=np.int64)
    ids = np.array([row[1] for row in rows], dtype=np.int64)
    _, texts = np.unique(np.array([row[2] for row in rows], dtype=np.str_), return_inverse=True)
    return ids, texts.ravel(), np.searchsorted(prompts, prompt_ids)


def _codes(a: Positions, b: Positions) -> Positions:
    """One number for each pair, whichever of the two stands first."""
    found: Positions = (np.minimum(a, b) << 32) | np.maximum(a, b)
    return found


def _picks(db: Database) -> Picks:
    columns = integer_columns(
        db,
        """SELECT p.id, p.round_id, p.a_id, p.b_id, r.prompt_id, p.arm = 'control', p.draw
        FROM picks p JOIN responses r ON r.id = p.a_id
        WHERE p.arm IN ('acquired', 'control') ORDER BY p.id""",
        7,
    )
    ids, round_ids, a_ids, b_ids, prompt, control, draw = columns
    known = [row[0] for row in db.execute("SELECT id FROM rounds ORDER BY id")]
    place = np.searchsorted(np.array(known, dtype=np.int64), round_ids)
    chance = np.full(len(ids), np.nan)
    drawn = db.execute(
        """SELECT id, propensity FROM picks WHERE arm IN ('acquired', 'control')
        AND propensity IS NOT NULL ORDER BY id"""
    ).fetchall()
    if drawn:
        at = np.searchsorted(ids, np.array([row[0] for row in drawn], dtype=np.int64))
        chance[at] = [row[1] for row in drawn]
    return Picks(ids, place, a_ids, b_ids, prompt, control == 1, draw, chance)


def _rounds(db: Database, n_pairs: int) -> Rounds:
    rows = db.execute(
        """SELECT id, pool, n_acquired, n_control, overlap, coalesce(overlap_most, overlap)
        FROM rounds ORDER BY id"""
    ).fetchall()
    table = np.zeros((len(rows), 8), dtype=np.int64)
    taken = 0
    for at, (round_id, pool, n_acquired, n_control, fewest, highest) in enumerate(rows):
        seen, n_chosen = json.loads(pool), n_acquired + n_control
        n_left = seen.get("n_eligible", max(n_pairs - taken, n_chosen))
        asked = (n_acquired, n_control, fewest, max(fewest, highest))
        table[at] = (round_id, n_left, taken, *asked, seen.get("n_routed", 0) > 0)
        taken += n_chosen
    ids, left, taken_before, acquired, control, least, most, routed = table.T
    return Rounds(ids, left, taken_before, acquired, control, least, most, routed == 1)


def routed_pairs(db: Database) -> tuple[Positions, Positions]:
    """Response ids of the pairs that certificates in force leave to a machine, each once."""
    a_ids, b_ids = integer_columns(
        db,
        """SELECT DISTINCT a_id, b_id FROM routed WHERE certificate_id IN
        (SELECT id FROM certificates WHERE void_at IS NULL)""",
        2,
    )
    return a_ids, b_ids


def leads(grade: Positions, pair: Positions, n_pairs: int) -> tuple[Positions, Positions]:
    """Of each pair the number of votes, and votes for a less votes for b, (n_pairs,)."""
    n_votes = np.bincount(pair, minlength=n_pairs)
    lead = np.bincount(pair, weights=np.sign(grade), minlength=n_pairs)
    return n_votes, lead.astype(np.int64)


def control_votes_of(votes: CountedVotes) -> int:
    """Votes on pairs of the control arm."""
    return int(np.count_nonzero(votes.arm == ARMS.index("control")))
