"""The ledger beside an event loop: one thread writes, and what waits shares a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from annotator.signals.judges.ledger import NOT_SENT, Claim, Closing, Held, Ledger, Ticket

if TYPE_CHECKING:
    from annotator.signals.judges.ledger import Standing

Result = TypeVar("Result")

# A transaction costs as much processor time as a tenth of a request: a few share one, and what
# that delays them by is nothing beside an answer's time.
GATHER_SECONDS = 0.005
_Answer = asyncio.Future[Ticket | Held]


class Books:
    """The ledger beside the event loop: what waits while one commit runs shares the next."""

    def __init__(self, thread: ThreadPoolExecutor, ledger: Ledger) -> None:
        self._thread = thread
        self._ledger = ledger
        self._closings: list[Closing] = []
        self._claims: list[tuple[Claim, _Answer]] = []
        self._held: list[tuple[Claim, _Answer]] = []  # by the cap, until something ends
        self._work = asyncio.Event()
        self._ending = False
        self._open = 0  # attempts on record that have not ended

    async def look_up(self, keys: list[str]) -> dict[str, Standing]:
        """How the calls with these keys stand; a key that is not on record is left out."""
        return await self._in_thread(lambda: self._ledger.standings(keys))

    async def put_off(self, calls: list[tuple[str, str]]) -> None:
        """Records (key, model) of calls that the cap keeps from being sent."""
        await self._in_thread(lambda: self._ledger.put_off(calls))

    async def claim(self, claim: Claim) -> Ticket | Held:
        """A ticket once the attempt is on disk, or what the call is held by.

        Where the cap leaves no room it waits for what is out to end, for less than was reserved.
        """
        answer: _Answer = asyncio.get_running_loop().create_future()
        self._claims.append((claim, answer))
        self._work.set()
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled():
                self._hand_back(answer.result())
            raise

    def close(self, closing: Closing) -> None:
        """Has the end of an attempt written; `finish` returns when it is."""
        self._closings.append(closing)
        self._work.set()

    def finish(self) -> None:
        """Ends `keep` after a last write."""
        self._ending = True
        self._work.set()

    async def keep(self) -> None:
        """Writes whatever there is until `finish`. Raises StoreError, to all that wait as well."""
        while self._closings or self._claims or not self._ending:
            await self._work.wait()
            if not self._ending:
                await asyncio.sleep(GATHER_SECONDS)
            self._work.clear()
            await self._write()

    async def _write(self) -> None:
        """One transaction of all that waits."""
        closings, self._closings = self._closings, []
        waiting, self._claims = self._claims, []
        if closings:
            waiting, self._held = self._held + waiting, []
        claims = [claim for claim, _ in waiting]
        try:
            tickets = await self._in_thread(lambda: self._ledger.write(closings, claims))
        except BaseException:
            for _, answer in [*waiting, *self._held, *self._claims]:
                answer.cancel()
            raise
        self._open += sum(isinstance(ticket, Ticket) for ticket in tickets) - len(closings)
        for (claim, answer), ticket in zip(waiting, tickets, strict=True):
            self._answer(claim, answer, ticket)

    def _answer(self, claim: Claim, answer: _Answer, ticket: Ticket | Held) -> None:
        if answer.done():  # nobody waits any more
            self._hand_back(ticket)
        elif ticket is Held.BY_CAP and (self._open or self._closings):
            self._held.append((claim, answer))
        else:
            answer.set_result(ticket)

    def _hand_back(self, ticket: Ticket | Held) -> None:
        if isinstance(ticket, Ticket):
            self.close(unsent(ticket))

    async def _in_thread(self, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def unsent(ticket: Ticket) -> Closing:
    """The end of an attempt that was on record and never left."""
    return Closing(ticket, "pending", NOT_SENT, cost=0)
