"""Owner of judge_calls and judge_attempts: what was asked, what came of it, what it cost.

A call is a request under its key; an attempt is one time that it was sent. States of a call:

    pending      wanted; nothing is out. With due_at: not to be sent before then
    sent         an attempt is on record, and the request may be out
    ok           answered; the reply is kept as it came
    refused      declined by the server or the model; final
    parse_error  answered with something that is no answer; the reply is kept as it came
    api_error    not answered
    budget       not sent, since it would have passed the cap on spending

Only `ok` is a result, and only `ok` and `refused` are final. An attempt is on disk, with the most
it can cost, before a socket is touched, so what is on record is never below what was sent or what
it cost. Whatever is found open when a run starts belongs to a process that died: the request may
have been answered and billed, so its reservation stands, and the call is pending again.

An attempt that was sent while no price was known has neither cost nor reservation. Once there is
a price its tokens are priced; until then no cap can be kept.

One process judges a project at a time (`judging_lock`); this room's batches take the same lock.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotator.errors import JudgeBudget
from annotator.signals.judges.prices import cost_microusd
from annotator.signals.judges.reply import Usage, reply_from_json
from annotator.store import hold_lock, now, writing

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlite_utils import Database

    from annotator.signals.judges.prices import Price
    from annotator.signals.judges.reply import ChatRequest, Reply

STATES = ("pending", "sent", "ok", "refused", "parse_error", "api_error", "budget")
NOT_SENT = "not sent"  # status of an attempt that was called back before it left
KEYS_A_QUERY = 500
MICROUSD = 1_000_000  # in a dollar
_MOST = 2**53  # no honest count of tokens or micro-dollars is larger; SQLite ends at 2**63

_SPENT = "SELECT coalesce(sum(coalesce(cost_microusd, reserved_microusd)), 0) FROM judge_attempts"

_UNPRICED = "cost_microusd IS NULL AND reserved_microusd IS NULL"

# A call that lies in a batch which is not taken in yet is the batch's affair.
_IN_BATCH = """EXISTS (SELECT 1 FROM judge_batch_calls m JOIN judge_batches b ON b.id = m.batch_id
    WHERE m.call_id = judge_calls.id AND b.state <> 'ingested')"""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a call stands: its state, when it is due at the earliest, whether a batch has it."""

    state: str
    due_at: str | None
    in_batch: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """A request that is about to be sent, and the most it can cost; None: no price is known."""

    key: str
    model: str
    reserve: int | None


@dataclass(frozen=True, slots=True)
class Ticket:
    """An attempt on record: its request may be sent, once."""

    call_id: int
    attempt_id: int
    reserved: int | None


class Held(Enum):
    """What keeps a request from being sent."""

    BY_CAP = "it would pass the cap on spending"
    BY_ANOTHER = "it is sent or settled already"


@dataclass(frozen=True, slots=True)
class Closing:
    """How an attempt ended, and the state it leaves its call in.

    `cost` in micro-dollars; None: not known, so the reservation stands. A `reply` of None leaves
    an earlier one in its place.
    """

    ticket: Ticket
    state: str
    status: str
    cost: int | None
    seconds: float | None = None
    usage: Usage | None = None
    reply: str | None = None
    error: str | None = None
    due_at: str | None = None


@contextmanager
def judging_lock(
    database_path: Path, *, wait_seconds: float, on_wait: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Lets one process at a time judge a project; raises StoreBusy when another goes on."""
    path = database_path.with_name(f"{database_path.name}.judge.lock")
    with hold_lock(path, "judging this project", wait_seconds=wait_seconds, on_wait=on_wait):
        yield


class Ledger:
    """The calls to one host, written by one thread, which holds the judging lock.

    `cap` in micro-dollars bounds what all attempts in this database have cost together, those
    of earlier runs and unknown costs at their reservation included; None: no bound.
    """

    def __init__(self, db: Database, host: str, *, cap: int | None = None) -> None:
        self._db = db
        self._host = host
        self._cap = cap
        self._spent = 0
        self._version = -1

    @property
    def spent(self) -> int:
        """Micro-dollars of all attempts so far, unknown costs at their reservation."""
        self._look_again()
        return self._spent

    def price_unpriced(self, model: str, price: Price) -> int:
        """Gives requests to a model that were sent without a price their cost, by their tokens.

        Returns how many that were. What was asked in a batch is charged without its discount.
        """
        with writing(self._db) as db:
            rows = db.execute(
                f"""SELECT id, prompt_tokens, completion_tokens, cached_tokens,
                cache_write_tokens FROM judge_attempts a WHERE {_UNPRICED} AND prompt_tokens > 0
                AND (SELECT model FROM judge_calls WHERE id = a.call_id) = ?""",  # noqa: S608
                [model],
            ).fetchall()
            costs = [(cost_microusd(Usage(*tokens), price), row_id) for row_id, *tokens in rows]
            db.conn.executemany("UPDATE judge_attempts SET cost_microusd = ? WHERE id = ?", costs)
        self._version = -1
        return len(costs)

    def recover(self) -> int:
        """Closes what a dead process left open; the number of calls that are pending again.

        Raises JudgeBudget where there is a cap, and requests were sent of whose cost nothing is
        known.
        """
        n_pending = self._close_left_open()
        if self._cap is not None:
            self._check_all_priced()
        return n_pending

    def _check_all_priced(self) -> None:
        rows = self._db.execute(
            f"""SELECT model, count(*), coalesce(sum(prompt_tokens > 0), 0) FROM judge_attempts a
            JOIN judge_calls c ON c.id = a.call_id WHERE {_UNPRICED}
            GROUP BY model ORDER BY model"""  # noqa: S608
        ).fetchall()
        if not rows:
            return
        n_unpriced = sum(n for _, n, _ in rows)
        of_whom = ", ".join(f"{n:,} to {model}" for model, n, _ in rows)
        countable = " and ".join(model for model, n, counted in rows if n == counted)
        raise JudgeBudget(
            f"there is a cap on spending, and of the cost of {n_unpriced:,} earlier requests "
            f"nothing is known ({of_whom}): no price was known when they were sent",
            expected="a cost, or the most it can be, of all that was ever sent",
            todo="leave --max-cost out"
            + (
                f"; or add {countable} to a price table, [judge] prices, and judge with it once: "
                "that prices the tokens on record"
                if countable
                else ""
            ),
        )

    def _close_left_open(self) -> int:
        with writing(self._db) as db:
            db.execute(
                f"""UPDATE judge_attempts SET status = 'unknown' WHERE status = 'open'
                AND call_id IN (SELECT id FROM judge_calls WHERE NOT {_IN_BATCH})"""  # noqa: S608
            )
            return db.execute(
                f"""UPDATE judge_calls SET state = 'pending', updated_at = ?
                WHERE state = 'sent' AND NOT {_IN_BATCH}""",  # noqa: S608
                [now()],
            ).rowcount

    def standings(self, keys: Sequence[str]) -> dict[str, Standing]:
        """How the calls with these keys stand; a key that is not on record is left out."""
        rows = self._db.execute(
            f"""SELECT call_key, state, due_at, {_IN_BATCH} FROM judge_calls
            WHERE call_key IN (SELECT value FROM json_each(?))""",  # noqa: S608
            [json.dumps(keys)],
        )
        return {key: Standing(state, due, bool(batch)) for key, state, due, batch in rows}

    def write(
        self,
        closings: Sequence[Closing],
        claims: Sequence[Claim],
        beside: Callable[[Sequence[Ticket | Held]], object] = lambda tickets: None,
    ) -> list[Ticket | Held]:
        """Records ends first, then what is about to be sent, in one transaction.

        For each claim a ticket, or what it is held by. Nothing may be sent before this returns.
        `beside` is called last, inside the transaction: what it writes is kept with the rest.
        """
        with writing(self._db):
            self._look_again()
            version, self._version = self._version, -1  # added up anew unless this is committed
            moment = now()
            for closing in closings:
                self._close(closing, moment)
            tickets = [self._open(claim, moment) for claim in claims]
            beside(tickets)
        self._version = version
        return tickets

    def _look_again(self) -> None:
        """Adds up what was spent if any other connection has written since."""
        # It changes when another connection writes, and only then.
        version = int(self._db.execute("PRAGMA data_version").fetchone()[0])
        if version != self._version:
            self._spent = int(self._db.execute(_SPENT).fetchone()[0])
            self._version = version

    def _open(self, claim: Claim, moment: str) -> Ticket | Held:
        reserve = claim.reserve or 0
        if self._cap is not None and self._spent + reserve > self._cap:
            return Held.BY_CAP
        row = self._db.execute(
            """INSERT INTO judge_calls (call_key, host, model, state, attempts, updated_at)
            VALUES (?, ?, ?, 'sent', 1, ?) ON CONFLICT (call_key) DO UPDATE
            SET state = 'sent', attempts = attempts + 1, due_at = NULL,
              updated_at = excluded.updated_at
            WHERE state NOT IN ('sent', 'ok', 'refused') RETURNING id""",
            [claim.key, self._host, claim.model, moment],
        ).fetchone()
        if row is None:
            return Held.BY_ANOTHER
        attempt = self._db.execute(
            """INSERT INTO judge_attempts (call_id, sent_at, status, reserved_microusd)
            VALUES (?, ?, 'open', ?) RETURNING id""",
            [row[0], moment, claim.reserve],
        ).fetchone()
        self._spent += reserve
        return Ticket(row[0], attempt[0], claim.reserve)

    def _close(self, closing: Closing, moment: str) -> None:
        usage, ticket = closing.usage, closing.ticket
        tokens = (
            (usage.prompt, usage.cached, usage.cache_write, usage.completion, usage.reasoning)
            if usage
            else (None,) * 5
        )
        self._db.execute(
            """UPDATE judge_attempts SET status = ?, cost_microusd = ?, seconds = ?,
            prompt_tokens = ?, cached_tokens = ?, cache_write_tokens = ?, completion_tokens = ?,
            reasoning_tokens = ? WHERE id = ?""",
            [closing.status, closing.cost, closing.seconds, *tokens, ticket.attempt_id],
        )
        self._db.execute(
            """UPDATE judge_calls SET state = ?, due_at = ?, reply = coalesce(?, reply),
            error = ?, updated_at = ? WHERE id = ?""",
            [
                closing.state,
                closing.due_at,
                _storable(closing.reply),
                _storable(closing.error),
                moment,
                ticket.call_id,
            ],
        )
        if closing.cost is not None:
            self._spent += closing.cost - (ticket.reserved or 0)

    def put_off(self, calls: Iterable[tuple[str, str]]) -> None:
        """Records (key, model) of calls that the cap keeps from being sent."""
        moment = now()
        with writing(self._db) as db:
            db.conn.executemany(
                """INSERT INTO judge_calls (call_key, host, model, state, updated_at)
                VALUES (?, ?, ?, 'budget', ?) ON CONFLICT (call_key) DO UPDATE
                SET state = 'budget', updated_at = excluded.updated_at
                WHERE state NOT IN ('sent', 'ok', 'refused')""",
                [(key, self._host, model, moment) for key, model in calls],
            )


def stored_replies(
    db: Database, host: str, requests: Iterable[ChatRequest]
) -> Iterator[Reply | None]:
    """The reply to each request in turn, read again from what is kept; None: not answered."""
    waiting = iter(requests)
    while keys := [request.key(host) for request in islice(waiting, KEYS_A_QUERY)]:
        rows = db.execute(
            """SELECT call_key, reply FROM judge_calls WHERE state = 'ok'
            AND call_key IN (SELECT value FROM json_each(?))""",
            [json.dumps(keys)],
        )
        raw = dict(rows.fetchall())
        for key in keys:
            yield reply_from_json(json.loads(raw[key])) if key in raw else None


@dataclass(frozen=True)
class Failure:
    """Calls to one model that ended alike: how many, and the reason of one of them."""

    model: str
    state: str
    n_calls: int
    error: str


def failures(db: Database, host: str) -> list[Failure]:
    """What stands unanswered at that host, by model and state."""
    rows = db.execute(
        """SELECT model, state, count(*), max(coalesce(error, '')) FROM judge_calls
        WHERE host = ? AND state <> 'ok' GROUP BY model, state ORDER BY model, state""",
        [host],
    )
    return [Failure(*row) for row in rows]


@dataclass(frozen=True)
class Spending:
    """What judging has cost so far, in micro-dollars and tokens.

    `known` is what servers billed by their own count of tokens; `reserved` is the most that
    attempts of unknown cost can have cost, `unpriced` the number of those for which no price
    was known. `n_attempts` counts requests sent.
    """

    n_attempts: int
    known: int
    reserved: int
    unpriced: int
    prompt_tokens: int
    completion_tokens: int


def spending(db: Database, host: str | None = None) -> Spending:
    """What was spent at that host, or everywhere."""
    row: tuple[Any, ...] = db.execute(
        f"""SELECT count(*), coalesce(sum(cost_microusd), 0),
        coalesce(sum(CASE WHEN cost_microusd IS NULL THEN reserved_microusd END), 0),
        coalesce(sum({_UNPRICED}), 0),
        coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0)
        FROM judge_attempts a WHERE status <> ?2
        AND (?1 IS NULL OR (SELECT host FROM judge_calls WHERE id = a.call_id) = ?1)""",  # noqa: S608
        [host, NOT_SENT],
    ).fetchone()
    return Spending(*row)


def whole_microusd(dollars: float | None) -> int | None:
    """A cap in micro-dollars, rounded down: it is never passed."""
    return None if dollars is None else math.floor(Decimal(repr(dollars)) * MICROUSD)


def believable(usage: Usage | None) -> Usage | None:
    """The usage, unless a count in it cannot be true.

    What was asked is never nothing: a prompt of no tokens means that the server does not count.
    """
    if usage is None or usage.prompt == 0 or max(usage.prompt, usage.completion) > _MOST:
        return None
    parts = (usage.cached, usage.cache_write, usage.reasoning)
    return None if max(parts) > _MOST else usage


def _storable(text: str | None) -> str | None:
    """SQLite takes no lone surrogates, which JSON can bring."""
    return text if text is None else text.encode("utf-8", errors="replace").decode()
