"""`next_batch`: choose pairs, record why, send them."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotator.candidates.catalog import response_keys, shown_responses
from annotator.candidates.identity import pair_key
from annotator.rounds.choose import Choice, choose_batch, control_size
from annotator.rounds.duplicates import NEAR_DUPLICATES
from annotator.rounds.picks import (
    Pick,
    Round,
    number_or_none,
    record_round,
    times_sent,
)
from annotator.rounds.pool import CandidatePool, build_pool
from annotator.rounds.servers import recognise_server
from annotator.rounds.signalled import SignalledStrategy
from annotator.store import hold_lock, writing
from annotator.studio.outbox import (
    PushReport,
    finish_elsewhere,
    push,
    queue_tasks,
    server_lock,
    unsent_picks,
)
from annotator.studio.projects import ensure_project
from annotator.studio.screen import task_data

if TYPE_CHECKING:
    from sqlite_utils import Database

    from annotator.studio.client import Studio


@dataclass(frozen=True)
class BatchRequest:
    """What the engineer asked for. `seed` None: drawn anew."""

    n: int
    strategy: str
    control: float
    overlap: int
    seed: int | None = None
    near_duplicates: float = NEAR_DUPLICATES


@dataclass(frozen=True)
class Batch:
    """A chosen batch. `round_id` is None for a dry run, which records nothing."""

    round_id: int | None
    head: Round
    picks: list[Pick]

    @property
    def n_votes(self) -> int:
        """Votes that the batch asks of people."""
        return len(self.picks) * self.head.overlap


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
    return Batch(round_id, batch.head, batch.picks)


def _task_key(db: Database, pick: Pick) -> str:
    """The pair's key; from the second time on that a pair is sent, with the ordinal behind it."""
    before = times_sent(db, pick.pair_key)
    return pick.pair_key if not before else f"{pick.pair_key}.{before + 1}"


def _choose(db: Database, database_path: Path, encoder_id: int, request: BatchRequest) -> Batch:
    from strategies import strategy_named

    strategy = strategy_named(request.strategy)
    seed = secrets.randbits(53) if request.seed is None else request.seed
    n_control = control_size(request.n, request.control)
    candidates = build_pool(db, database_path, encoder_id, near_duplicates=request.near_duplicates)
    signalled = SignalledStrategy(strategy, db, database_path, candidates)
    choice = choose_batch(candidates.pool, signalled, request.n, n_control, seed)
    head = Round(
        strategy=request.strategy,
        seed=seed,
        n_acquired=request.n - n_control,
        n_control=n_control,
        overlap=request.overlap,
        encoder_id=encoder_id,
        pool=candidates.snapshot() | signalled.learned,
    )
    return Batch(None, head, _as_picks(db, candidates, choice, request.strategy))


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
    """Sends every task that is not known to be on the server, of this round and of earlier ones.

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
