"""Checks: gold pairs and repeats, mixed in blind among the pairs that a round asks about.

A gold pair's answer is known; a repeat is a pair that somebody has voted on, with the sides
swapped. The first says how often people are right, the second how often one says the same twice.
Both come on top of the batch and are charged like every other vote. Nothing that an annotator can
see tells them from the rest: their tasks hold the same fields, keys of the same form, and stand at
random places.

`batch._choose` mixes them in, between choosing and recording::

    checks = draw_checks(db, request.n, gold=request.gold, repeats=request.repeats, seed=seed)
    picks = mixed_in(_as_picks(db, candidates, choice, request.strategy), checks, seed)
    head = Round(..., n_gold=checks.n_gold, n_repeat=checks.n_repeat)
    return Batch(None, head, picks, notes=checks.notes)
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from annotator.candidates.catalog import response_keys
from annotator.candidates.gold import gold_pairs
from annotator.candidates.identity import pair_key
from annotator.labels.votes import ARMS, counted_votes
from annotator.rounds.choose import EITHER, LEFT, RIGHT, arranged
from annotator.rounds.picks import Pick

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sqlite_utils import Database

    from annotator.labels.votes import CountedVotes
    from strategies.within_prompt import Floats

RECENT_VOTES = 200  # by which it is told who votes these days
# Streams of the batch's seed; `choose` has those below.
GOLD_STREAM, REPEAT_STREAM, ORDER_STREAM = 3, 4, 5


@dataclass(frozen=True)
class Checks:
    """The checks of one batch, not yet at their places; `notes` say where there are fewer than
    asked for."""

    gold: list[Pick] = field(default_factory=list)
    repeats: list[Pick] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def n_gold(self) -> int:
        return len(self.gold)

    @property
    def n_repeat(self) -> int:
        return len(self.repeats)


def draw_checks(db: Database, n: int, *, gold: float, repeats: float, seed: int) -> Checks:
    """Gold pairs and repeats for a batch of n, as shares of n that come on top of it.

    A share that is no whole number of pairs is rounded by lot, so that many small batches hold as
    many as a large one. No pair is in both, and none is one that the batch may choose.
    """
    import numpy as np

    gold_rng, repeat_rng = (
        np.random.default_rng([seed, stream]) for stream in (GOLD_STREAM, REPEAT_STREAM)
    )
    notes: list[str] = []
    return Checks(
        _gold_picks(db, rounded_by_lot(n * gold, gold_rng), gold_rng, notes),
        _repeat_picks(db, rounded_by_lot(n * repeats, repeat_rng), repeat_rng, notes),
        notes,
    )


def rounded_by_lot(expected: float, rng: np.random.Generator) -> int:
    """`expected` rounded down or up, such that its mean is kept."""
    whole, part = divmod(round(expected, 9), 1)  # 0.29 * 100 is a little less than 29
    return int(whole) + int(rng.random() < part)


def mixed_in(picks: list[Pick], checks: Checks, seed: int) -> list[Pick]:
    """The whole batch: order and sides of `choose.arranged`, drawn anew over all of it.

    Repeats keep their side, which is the other one than the first time. Without checks the batch is
    left as it is.
    """
    import numpy as np

    if not checks.n_gold + checks.n_repeat:
        return picks
    every = [*picks, *checks.gold, *checks.repeats]
    arm = np.array([ARMS.index(pick.arm) for pick in every])
    order, left_is_a = arranged(
        arm, np.array([_settled(p) for p in every]), np.random.default_rng([seed, ORDER_STREAM])
    )
    return [
        replace(every[position], place=place, side_order="ab" if left else "ba")
        for place, (position, left) in enumerate(
            zip(order.tolist(), left_is_a.tolist(), strict=True)
        )
    ]


def _settled(pick: Pick) -> int:
    if pick.arm != "repeat":
        return EITHER
    return LEFT if pick.side_order == "ab" else RIGHT


# Gold


def _gold_picks(db: Database, n: int, rng: np.random.Generator, notes: list[str]) -> list[Pick]:
    """n of the gold pairs that were shown least often, drawn uniformly among equals."""
    import numpy as np

    pairs = gold_pairs(db)
    if not (n and pairs):
        return []
    shown = _times_shown(db)
    times = np.array([shown.get(pair, 0) for pair in pairs])
    drawn = rng.permutation(len(pairs))
    drawn = drawn[np.argsort(times[drawn], kind="stable")][:n]
    if len(drawn) < n:
        notes.append(f"gold: {len(drawn):,} of {n:,} pairs; there are no more, so import some")
    elif times[drawn].max():
        notes.append("gold: every pair was shown before, so import some that are new")
    chosen = [pairs[i] for i in drawn.tolist()]
    keys = response_keys(db, [i for pair in chosen for i in pair])
    return [
        Pick(
            place=place,
            pair_key=pair_key(keys[a_id], keys[b_id]),
            a_id=a_id,
            b_id=b_id,
            arm="gold",
            draw=place,
            side_order="ab",  # for now: `mixed_in` draws it
            strategy="least-shown",
            score=None,
            propensity=None,
        )
        for place, (a_id, b_id) in enumerate(chosen)
    ]


def _times_shown(db: Database) -> dict[tuple[int, int], int]:
    """Gold pair -> how often it was in a round, in whatever arm; only those that were."""
    query = """SELECT g.a_id, g.b_id, count(*) FROM gold g CROSS JOIN picks p
        ON p.a_id = g.a_id AND p.b_id = g.b_id GROUP BY g.a_id, g.b_id"""
    return {(a_id, b_id): times for a_id, b_id, times in db.execute(query)}


# Repeats


def _repeat_picks(db: Database, n: int, rng: np.random.Generator, notes: list[str]) -> list[Pick]:
    """n pairs that were voted on, to be shown with sides swapped; fewer where no more qualify.

    Nobody can be sent a task in Label Studio's Community edition: whoever comes gets it. So pairs
    are drawn by the share that their voters have of the recent votes, the chance that one of them
    gets the task. A weighted draw comes near the best pairs' chance, and people who vote less are
    checked as well. Pairs that nobody has voted on since the last round began to come in go first,
    as others may still be remembered.
    """
    import numpy as np

    if not n:
        return []
    votes = counted_votes(db)
    rested = ~_of_last_round(db, votes)
    asked = np.isin(votes.pick_ids, _repeatable(db))
    pick_ids, pick = np.unique(votes.pick_ids[asked], return_inverse=True)
    weight = np.bincount(pick, share_of_recent(votes.annotator_ids)[asked], len(pick_ids))
    recently = np.bincount(pick, ~rested[asked], len(pick_ids)) > 0
    with np.errstate(divide="ignore"):
        # The order in which exponential clocks of these rates ring is a weighted draw.
        rings = rng.exponential(size=len(pick_ids)) / weight
    drawn = np.lexsort((rings, recently))
    drawn = drawn[weight[drawn] > 0][:n]
    if len(drawn) < n:
        why = "no other pair was voted on by somebody who still votes, and not repeated yet"
        notes.append(f"repeats: {len(drawn):,} of {n:,}; {why if len(votes) else 'no votes yet'}")
    return _swapped(db, pick_ids[drawn], weight[drawn])


def share_of_recent(annotator_ids: NDArray[np.int64]) -> Floats:
    """For each vote its annotator's share of the last RECENT_VOTES, (n_votes,).

    `annotator_ids` (n_votes,) in the order in which votes came.
    """
    import numpy as np

    _, person = np.unique(annotator_ids, return_inverse=True)
    recent = np.bincount(person[-RECENT_VOTES:], minlength=len(annotator_ids))
    share: Floats = recent[person] / max(1, min(RECENT_VOTES, len(person)))
    return share


def _of_last_round(db: Database, votes: CountedVotes) -> NDArray[np.bool_]:
    """Which votes came since the last round began to be answered, (n_votes,)."""
    import numpy as np

    query = "SELECT id FROM picks WHERE round_id = (SELECT max(round_id) FROM picks)"
    of_it = np.isin(votes.pick_ids, [pick_id for (pick_id,) in db.execute(query)])
    since: NDArray[np.bool_] = np.maximum.accumulate(of_it)
    return since


def _repeatable(db: Database) -> list[int]:
    """Ids of the acquired picks whose pair is not gold and was not repeated yet.

    Not those of the control arm: a repeat that somebody else answers is one more vote on its pair.
    """
    query = """SELECT p.id FROM picks p WHERE p.arm = 'acquired'
        AND NOT EXISTS (SELECT 1 FROM picks q WHERE q.pair_key = p.pair_key AND q.arm = 'repeat')
        AND NOT EXISTS (SELECT 1 FROM gold g WHERE g.a_id = p.a_id AND g.b_id = p.b_id)"""
    return [pick_id for (pick_id,) in db.execute(query)]


def _swapped(db: Database, pick_ids: NDArray[np.int64], weight: Floats) -> list[Pick]:
    """The repeats of these picks."""
    query = """SELECT p.pair_key, p.a_id, p.b_id, p.side_order FROM json_each(?) want
        CROSS JOIN picks p ON p.id = want.value ORDER BY want.key"""
    rows = db.execute(query, [json.dumps(pick_ids.tolist())]).fetchall()
    return [
        Pick(
            place=place,
            pair_key=key,
            a_id=a_id,
            b_id=b_id,
            arm="repeat",
            draw=place,
            side_order="ba" if side_order == "ab" else "ab",
            strategy="recent-voters",
            score=float(weight[place]),
            propensity=None,
        )
        for place, (key, a_id, b_id, side_order) in enumerate(rows)
    ]
