"""Owner of judge_batches and judge_batch_calls: how far each batch is. States:

    prepared   its file is on disk, its calls are on record as sent, their reservations made
    uploaded   the server has the file, under file_id; the batch may be there, or not
    created    the server has the batch, under batch_id
    ended      it is completed, failed, expired or cancelled; what there is can be fetched
    ingested   every answer is in the ledger, and each call without one is pending again

Each step is committed before the next begins, so a process may die between any two of them. Calls
belong to their batch until it is ingested; nobody else sends or closes them.

A batch keeps its purpose, which says how its answers are read, and the price that its reservations
were made at. Only a run of the same purpose goes on with it: another would find fault with answers
to a question that it has not asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING

from annotator.signals.judges.ledger import Claim, Closing, Held, Ledger, Ticket
from annotator.signals.judges.prices import Price
from annotator.store import now, writing

if TYPE_CHECKING:
    from sqlite_utils import Database

    from annotator.signals.judges.batch_files import Folder, Line


@dataclass
class Batch:
    """A batch as it stands in the database."""

    id: int
    sha: str  # of its file and its number; stands in the batch's metadata on the server
    state: str
    file_id: str | None = None
    batch_id: str | None = None
    status: str | None = None  # the server's word
    purpose: str = ""
    price: Price | None = None  # that of a call sent live
    moved_at: str = ""  # when it came into its state, or the server's word changed
    # Whether a request to create it may have reached the server.
    tried: bool = False

    @property
    def name(self) -> str:
        """What to call it, for people."""
        return self.batch_id or f"batch {self.id}"

    @property
    def still_for(self) -> float:
        """Seconds since it has moved."""
        moved = datetime.fromisoformat(now()) - datetime.fromisoformat(self.moved_at)
        return moved.total_seconds()


class BatchLedger:
    """The batches at one host, written by the one process that holds the judging lock."""

    def __init__(
        self,
        db: Database,
        ledger: Ledger,
        host: str,
        folder: Folder,
        *,
        purpose: str,
        price: Price | None,
    ) -> None:
        self._db = db
        self._ledger = ledger
        self._host = host
        self._folder = folder
        self._purpose = purpose
        self._price = price

    def open(self) -> tuple[list[Batch], list[Batch]]:
        """The batches that are not ingested, oldest first: of our purpose, and of others."""
        rows = self._db.execute(
            """SELECT id, content_sha, state, file_id, batch_id, status, purpose, price, updated_at
            FROM judge_batches WHERE host = ? AND state <> 'ingested' ORDER BY id""",
            [self._host],
        )
        ours: list[Batch] = []
        others: list[Batch] = []
        for number, sha, state, file_id, batch_id, status, purpose, price, moved_at in rows:
            told = (number, sha, state, file_id, batch_id, status)
            tried = state != "prepared"
            batch = Batch(*told, purpose, _price_in(price), moved_at, tried=tried)
            (ours if purpose == self._purpose else others).append(batch)
        return ours, others

    def sweep(self) -> None:
        """Removes files that no open batch, at whatever host, has any more."""
        rows = self._db.execute("SELECT content_sha FROM judge_batches WHERE state <> 'ingested'")
        self._folder.sweep(row[0] for row in rows)

    def prepare(
        self, lines: Sequence[Line], claims: Sequence[Claim]
    ) -> tuple[Batch | None, list[Ticket | Held]]:
        """A batch of those lines whose claim is granted; None if none is. One transaction.

        The file is written inside it: what is committed has its file. Raises StoreError where the
        disk refuses, and then nothing has changed.
        """
        made: list[Batch] = []

        def record(tickets: Sequence[Ticket | Held]) -> None:
            granted = [
                (line, ticket)
                for line, ticket in zip(lines, tickets, strict=True)
                if isinstance(ticket, Ticket)
            ]
            if granted:
                made.append(self._insert([line for line, _ in granted]))
                self._join(made[0], [ticket for _, ticket in granted])

        try:
            tickets = self._ledger.write([], claims, beside=record)
        except BaseException:
            for batch in made:
                self._folder.remove(batch.sha)
            raise
        return (made[0] if made else None), tickets

    def _insert(self, lines: Sequence[Line]) -> Batch:
        number = self._db.execute("SELECT coalesce(max(id), 0) + 1 FROM judge_batches").fetchone()
        batch = Batch(int(number[0]), "", "prepared", purpose=self._purpose, price=self._price)
        batch.sha = self._folder.write(batch.id, lines)
        batch.moved_at = now()
        self._db.execute(
            """INSERT INTO judge_batches
            (id, content_sha, host, purpose, price, state, made_at, updated_at)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?)""",
            [
                batch.id,
                batch.sha,
                self._host,
                batch.purpose,
                _price_text(batch.price),
                batch.state,
                batch.moved_at,
                batch.moved_at,
            ],
        )
        return batch

    def _join(self, batch: Batch, tickets: Iterable[Ticket]) -> None:
        self._db.conn.executemany(
            "INSERT INTO judge_batch_calls (batch_id, call_id) VALUES (?, ?)",
            [(batch.id, ticket.call_id) for ticket in tickets],
        )

    def uploaded(self, batch: Batch, file_id: str) -> None:
        """The server has its file."""
        batch.file_id = file_id
        self._enter(batch, "uploaded")

    def created(self, batch: Batch, batch_id: str, status: str) -> None:
        """The server has the batch."""
        batch.batch_id, batch.status = batch_id, status
        self._enter(batch, "created")

    def seen(self, batch: Batch, status: str) -> None:
        """The server says how far it is."""
        batch.status = status
        self._enter(batch, batch.state)

    def ended(self, batch: Batch, status: str) -> None:
        """There is no more to wait for."""
        batch.status = status
        self._enter(batch, "ended")

    def _enter(self, batch: Batch, state: str) -> None:
        moment = now()
        with writing(self._db) as db:
            db.execute(
                """UPDATE judge_batches SET state = ?, file_id = ?, batch_id = ?, status = ?,
                updated_at = ? WHERE id = ?""",
                [state, batch.file_id, batch.batch_id, batch.status, moment, batch.id],
            )
        batch.state, batch.moved_at = state, moment

    def keys(self, batch: Batch) -> list[str]:
        """The keys of its calls."""
        rows = self._db.execute(
            """SELECT c.call_key FROM judge_batch_calls m JOIN judge_calls c ON c.id = m.call_id
            WHERE m.batch_id = ?""",
            [batch.id],
        )
        return [row[0] for row in rows]

    def tickets(self, batch: Batch) -> dict[str, Ticket]:
        """The attempts that wait for its answers, by the keys of their calls."""
        rows = self._db.execute(
            """SELECT c.call_key, c.id, a.id, a.reserved_microusd FROM judge_batch_calls m
            JOIN judge_calls c ON c.id = m.call_id
            JOIN judge_attempts a ON a.call_id = c.id AND a.status = 'open'
            WHERE m.batch_id = ? ORDER BY a.id""",
            [batch.id],
        )
        return {key: Ticket(call, attempt, reserved) for key, call, attempt, reserved in rows}

    def ingest(self, batch: Batch, closings: Sequence[Closing], problem: str | None) -> None:
        """Closes every attempt of the batch, and the batch, in one transaction."""

        def record(tickets: Sequence[Ticket | Held]) -> None:
            self._db.execute(
                """UPDATE judge_batches SET state = 'ingested', status = ?, problem = ?,
                updated_at = ? WHERE id = ?""",
                [batch.status, problem, now(), batch.id],
            )

        self._ledger.write(closings, [], beside=record)
        batch.state = "ingested"
        self._folder.remove(batch.sha)


def _price_text(price: Price | None) -> str | None:
    if price is None:
        return None
    return json.dumps(asdict(price) | {"as_of": price.as_of.isoformat()})


def _price_in(text: str | None) -> Price | None:
    if text is None:
        return None
    parts = json.loads(text)
    return Price(**parts | {"as_of": date.fromisoformat(parts["as_of"])})
