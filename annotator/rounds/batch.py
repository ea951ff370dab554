"""`next_batch`: choose pairs, record why, send them."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotator.candidates.catalog import response_keys, shown_responses
from annotator.candidates.identity import pair_key, showing_key
from annotator.errors import RoundError
from annotator.rounds.checks import draw_checks, mixed_in
from annotator.rounds.choose import Choice, choose_batch, control_size
from annotator.rounds.duplicates import NEAR_DUPLICATES
from annotator.rounds.further import FurtherVotes, further_votes
from annotator.rounds.picks import (
    ExtraVote,
    Pick,
    Round,
    number_or_none,
    record_extra_votes,
    record_round,
    times_sent,
)
from annotator.rounds.pool import CandidatePool, build_pool
from annotator.rounds.servers import recognise_server
from annotator.rounds.signalled import SignalledStrategy
from annotator.rounds.worth import WorthOfVotes
from annotator.store import hold_lock, writing
from annotator.studio.outbox import (
    PushReport,
    ask_for_votes,
    finish_elsewhere,
    push,
    queue_tasks,
    server_lock,
    tell_raises,
    unsent_picks,
)
from annotator.studio.projects import ensure_project
from annotator.studio.screen import task_data

if TYPE_CHECKING:
    from sqlite_utils import Database

    from annotator.labels.overlap import Overlap
    from annotator.studio.client import Studio


@dataclass(frozen=True)
class BatchRequest:
    """What the engineer asked for.

    `n` places, each for a new pair or a further vote on an earlier one. `overlap` people are asked
    about a new pair; up to `overlap_most` (None: as many) about a pair in all, as `overlap_policy`
    says (None: the default of annotator.labels.overlap). `seed` None: drawn anew. `gold` and
    `repeats` are shares of n that come on top.
    """

    n: int
    strategy: str
    control: float
    overlap: int
    seed: int | None = None
    near_duplicates: float = NEAR_DUPLICATES
    overlap_most: int | None = None
    overlap_policy: str | None = None
    gold: float = 0.0
    repeats: float = 0.0

    def asked_overlap(self) -> Overlap:
        """Policy and range; raises OverlapError where they make no sense."""
        from annotator.labels.overlap import DEFAULT_POLICY, Overlap, OverlapRange

        asked = OverlapRange(self.overlap, self.overlap_most or self.overlap)
        return Overlap(self.overlap_policy or DEFAULT_POLICY, asked)


@dataclass(frozen=True)
class Batch:
    """A chosen batch. `round_id` is None for a dry run, which records nothing.

    `picks` are its tasks, `extra` the further votes on tasks of earlier rounds; `notes` say where
    it is less than was asked for.
    """

    round_id: int | None
    head: Round
    picks: list[Pick]
    extra: list[ExtraVote] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def n_further(self) -> int:
        """Further votes on pairs of earlier rounds."""
        return sum(extra.n_more for extra in self.extra)

    @property
    def n_votes(self) -> int:
        """Votes that the batch asks of people."""
        return len(self.picks) * self.head.overlap + self.n_further


def choose_and_record(
    db: Database, database_path: Path, encoder_id: int, request: BatchRequest, *, dry_run: bool
) -> Batch:
    """The next batch, recorded with its tasks in one transaction unless it is a dry run.

    One process chooses at a time, so that batches chosen at once are disjoint; the unique index
    on picked pairs holds even where the lock does not reach.
    """
    if dry_run:
        return _choose(db, database_path, encoder_id, request)
    lock = database_path.with_name(f"{database_path.name}.choose.lock")
    with hold_lock(lock, "choosing a batch"):
        batch = _choose(db, database_path, encoder_id, request)
        with writing(db):
            keys = [_task_key(db, pick) for pick in batch.picks]
            round_id, pick_ids = record_round(db, batch.head, batch.picks)
            queue_tasks(db, list(zip(pick_ids, keys, strict=True)))
            record_extra_votes(db, round_id, batch.extra)
            ask_for_votes(db, {extra.pick_id: extra.overlap for extra in batch.extra})
    return replace(batch, round_id=round_id)


def _task_key(db: Database, pick: Pick) -> str:
    """The pair's key; a later time that it is shown, another one that looks no different."""
    return showing_key(pick.pair_key, times_sent(db, pick.pair_key) + 1)


def _choose(db: Database, database_path: Path, encoder_id: int, request: BatchRequest) -> Batch:
    from strategies import strategy_named

    strategy = strategy_named(request.strategy)
    overlap = request.asked_overlap()
    seed = secrets.randbits(53) if request.seed is None else request.seed
    candidates = build_pool(db, database_path, encoder_id, near_duplicates=request.near_duplicates)
    signalled = SignalledStrategy(strategy, db, database_path, candidates)
    worth = WorthOfVotes(db, database_path, candidates)
    further = further_votes(db, overlap, worth.of_further_votes)
    picks, extra = _new_and_further(db, candidates, signalled, request, seed, further, worth)
    n_control = sum(pick.arm == "control" for pick in picks)
    checks = draw_checks(db, request.n, gold=request.gold, repeats=request.repeats, seed=seed)
    head = Round(
        strategy=request.strategy,
        seed=seed,
        n_acquired=len(picks) - n_control,
        n_control=n_control,
        overlap=overlap.range.least,
        encoder_id=encoder_id,
        pool=candidates.snapshot() | signalled.learned,
        n_gold=checks.n_gold,
        n_repeat=checks.n_repeat,
        overlap_most=overlap.range.most,
        overlap_policy="fixed" if overlap.range.is_fixed else overlap.policy,
    )
    empty = request.n - len(picks) - len(extra)
    notes = further.notes + checks.notes + _left_to_machines(candidates, empty)
    return Batch(None, head, mixed_in(picks, checks, seed), extra, notes)


def _new_and_further(
    db: Database,
    candidates: CandidatePool,
    strategy: SignalledStrategy,
    request: BatchRequest,
    seed: int,
    further: FurtherVotes,
    worth: WorthOfVotes,
) -> tuple[list[Pick], list[ExtraVote]]:
    """The places of a round: new pairs, and further votes on earlier ones.

    The control arm is as large as ever. Votes that cannot wait come next, then what the strategy
    chooses, the last of which give way to further votes that are worth more. Where no pair is left
    to choose, further votes are all there is. Raises RoundError where there are none either.
    """
    if not candidates.pool.n_eligible and len(further):
        return [], (further.first + further.by_gain)[: request.n]
    if not candidates.pool.n_eligible and not request.asked_overlap().range.is_fixed:
        raise _nothing_left(further)
    n_control = control_size(request.n, request.control)
    first = further.first[: request.n - n_control]
    places = n_new = request.n - len(first)
    if candidates.routed.any():
        n_new = min(n_new, _most_new(candidates, n_control))
    elif n_new > candidates.pool.n_eligible >= n_new - len(further.by_gain):
        n_new = candidates.pool.n_eligible  # further votes fill the rest
    n_control = min(n_control, n_new)
    if not n_new:
        return [], first + further.by_gain[:places]
    choice = choose_batch(
        candidates.pool,
        strategy,
        n_new,
        n_control,
        seed,
        give_up=lambda chosen: worth.places_for(further.by_gain, chosen),
        routed=candidates.routed,
    )
    picks = _as_picks(db, candidates, choice, request.strategy)
    return picks, first + further.by_gain[: places - len(picks)]


def _most_new(candidates: CandidatePool, n_control: int) -> int:
    """New pairs that a batch can have where some are routed, `n_control` of them drawn.

    The control arm is drawn from all pairs, so it may take none that is routed: only pairs that
    need a person are sure to be enough for the rest.
    """
    return max(candidates.n_left_to_strategies, min(n_control, candidates.pool.n_eligible))


def _left_to_machines(candidates: CandidatePool, empty: int) -> list[str]:
    """What to say of places that stay empty since the pairs for them are routed."""
    if not candidates.routed.any() or empty <= 0:
        return []
    return [
        f"{empty:,} places stay empty: certificates leave {int(candidates.routed.sum()):,} "
        "pairs to a machine, and the strategy has no others; `annotator route` lists them"
    ]


def _nothing_left(further: FurtherVotes) -> RoundError:
    return RoundError(
        "every pair has been chosen, and the policy wants no further vote on any",
        expected="a pair that was not asked about, or one that a further vote may settle",
        todo="; ".join(["import more candidates", *further.notes]),
    )


def _as_picks(db: Database, candidates: CandidatePool, choice: Choice, strategy: str) -> list[Pick]:
    pool = candidates.pool
    a_ids = candidates.response_ids[pool.pair_a[choice.positions]].tolist()
    b_ids = candidates.response_ids[pool.pair_b[choice.positions]].tolist()
    keys = response_keys(db, a_ids + b_ids)
    return [
        Pick(
            place=place,
            pair_key=pair_key(keys[a_id], keys[b_id]),
            a_id=a_id,
            b_id=b_id,
            arm="control" if choice.control[place] else "acquired",
            draw=int(choice.draws[place]),
            side_order="ab" if choice.left_is_a[place] else "ba",
            strategy="random" if choice.control[place] else strategy,
            score=number_or_none(choice.scores[place]),
            propensity=number_or_none(choice.propensities[place]),
        )
        for place, (a_id, b_id) in enumerate(zip(a_ids, b_ids, strict=True))
    ]


def push_waiting(
    db: Database,
    studio: Studio,
    name: str,
    *,
    grace_seconds: float,
    on_stored: Callable[[int], object] = lambda n: None,
    on_wait: Callable[[float], object] = lambda seconds: None,
) -> PushReport:
    """Sends every task that is not known to be on the server, of this round and of earlier ones,
    and tells it which of those there shall get further votes.

    Raises StudioError; what was sent until then is recorded and is not sent again.
    """
    total = PushReport()
    recognise_server(db, studio)
    with server_lock(studio.url):
        for overlap, pick_ids in sorted(unsent_picks(db).items()):
            project = ensure_project(db, studio, name, overlap)
            total.add(finish_elsewhere(db, studio, project, grace_seconds, on_wait))
            report = push(
                db,
                studio,
                project,
                pick_ids,
                lambda ids: task_payloads(db, ids),
                grace_seconds=grace_seconds,
                on_stored=on_stored,
                on_wait=on_wait,
            )
            total.add(report)
        total.add(tell_raises(db, studio, on_told=on_stored))
    return total


def task_payloads(db: Database, pick_ids: list[int]) -> dict[int, dict[str, Any]]:
    """Pick id -> the data of its task: key, messages, left and right text, and nothing else.

    No arm, score, model or strategy: whoever can open the task in Label Studio stays blind.
    """
    import json

    rows = db.execute(
        """SELECT p.id, t.task_key, p.a_id, p.b_id, p.side_order FROM picks p
        JOIN tasks t ON t.pick_id = p.id
        WHERE p.id IN (SELECT value FROM json_each(?))""",
        [json.dumps(pick_ids)],
    ).fetchall()
    shown = shown_responses(db, [i for row in rows for i in (row[2], row[3])])
    payloads = {}
    for pick_id, task_key, a_id, b_id, side_order in rows:
        left, right = (a_id, b_id) if side_order == "ab" else (b_id, a_id)
        payloads[pick_id] = task_data(
            task_key, shown[left].messages, shown[left].text, shown[right].text
        )
    return payloads
