"""The loop that asks: as many requests at once as the server bears, each on record before it goes.

For each request: is its answer on record already? Else a place in the throttle, an attempt in the
ledger, the socket, what the answer is worth, the ledger again. Writing is done by one thread with
a connection of its own, which takes all that is waiting into one transaction.

What comes of an attempt:

    answered, and `check` takes it             ok
    declined, or too long                      refused: final
    no chat completion                         parse_error: again, up to `retries` times
    not what was asked                         parse_error: the same; at temperature 0, once
    5xx, 408, 409, cut off, no answer in time  api_error: again, up to `retries` times
    429                                        again after the time the server asks for; once a call
                                               has waited `park_over` seconds it is put off to then
    key, money, model or parameter is refused  the run ends, nothing more is sent

An attempt whose answer is lost may have been answered and billed, so it keeps its reservation.
At temperature 0 the same question gets the same answer, but for a server's rounding: where it
cannot be used it is asked for once more, and once in each later run. When many calls in a row
fail, whatever the reason, the run ends rather than pay for the rest.
"""

from __future__ import annotations

import asyncio
import random
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from annotator.errors import JudgeBudget, JudgeError, JudgeUnsupported
from annotator.signals.judges.books import Books, unsent
from annotator.signals.judges.capabilities import forget_findings, known_findings
from annotator.signals.judges.client import ChatClient, ClientSettings
from annotator.signals.judges.ledger import (
    MICROUSD,
    Claim,
    Closing,
    Held,
    Ledger,
    Ticket,
    judging_lock,
    whole_microusd,
)
from annotator.signals.judges.outcomes import Outcome, of_error, of_reply
from annotator.signals.judges.prices import Price, most_microusd
from annotator.signals.judges.throttle import Throttle
from annotator.store import now, open_db

if TYPE_CHECKING:
    from sqlite_utils import Database

    from annotator.signals.judges.ledger import Standing
    from annotator.signals.judges.reply import ChatRequest, Reply

LOOKED_UP = 64  # requests whose keys are looked up together
MODEL_NAMES = 20  # kept of those that the server answers with
LONGEST_PAUSE = 8.0  # seconds between attempts where the server names none


@dataclass(frozen=True)
class RunSettings:
    """How a run behaves. Seconds, US dollars, and requests at once.

    `retries` is how often a call is sent again after a failure or an answer that cannot be used
    (once at most after such an answer at temperature 0); `park_over` how long one call waits for
    a server that is busy; `pause` the first wait where the server names none, doubled each
    time. `max_cost` bounds all that this database's calls have ever cost. `give_up_after` failed
    calls in a row end the run.
    """

    concurrency: int = 32
    timeout: float = 60.0
    retries: int = 5
    park_over: float = 120.0
    pause: float = 0.5
    max_cost: float | None = None
    price: Price | None = None
    retry_errors: bool = True
    give_up_after: int = 20
    lock_seconds: float = 5.0


@dataclass
class RunReport:
    """What became of each request, and what was sent and spent in this run.

    Every request is counted once: in `ok`, `refused`, `parse_error`, `api_error`, `budget`,
    `parked` (to be sent later), `cached` (answered in an earlier run), `repeated` (asked for
    twice in this run), `in_batch` (a batch has it), or, when the run was stopped, not at all.
    `sent` counts requests; `unknown_cost` those of them of whose cost nothing is known but the
    reservation. `cost_usd` is the sum of the others, None where no price is known.
    """

    ok: int = 0
    refused: int = 0
    parse_error: int = 0
    api_error: int = 0
    budget: int = 0
    parked: int = 0
    cached: int = 0
    repeated: int = 0
    in_batch: int = 0
    sent: int = 0
    cost_usd: float | None = None
    unknown_cost: int = 0
    stopped: str | None = None
    problem: JudgeError | None = None
    interrupted: bool = False
    models: set[str] = field(default_factory=set)  # names that the server answered with
    probed_as: set[str] = field(default_factory=set)  # and those from when it was probed
    seconds: float = 0.0

    @property
    def incomplete(self) -> int:
        """Requests without an answer, of those that were reached."""
        return self.refused + self.parse_error + self.api_error + self.budget + self.parked


def run_calls(
    db: Database,
    database_path: Path,
    requests: Iterable[ChatRequest],
    client_settings: ClientSettings,
    settings: RunSettings,
    check: Callable[[Reply], None],
    progress: Callable[[int], object] = lambda n: None,
    on_wait: Callable[[], object] = lambda: None,
) -> RunReport:
    """Asks for every reply that is not on record yet, and records what comes.

    `requests` are taken as they are needed, in the calling thread; they go to one model, whose
    price is that of the settings. Earlier requests to it that had no price get it now. `check`
    raises Refused, or another ValueError, where a reply is no answer to what was asked. `progress`
    is told how many requests more are done with; `on_wait` once, if another process judges this
    project.

    The first SIGINT or SIGTERM lets what is out come in and sends nothing more, the second stops
    at once; the report says `interrupted`. Raises JudgeBudget at the start where a cap cannot be
    kept, StoreBusy where another process judges this project, StoreError where the database
    fails, and whatever `requests` raises, after all that is out has come in.
    """
    check_cap(settings)
    started = time.monotonic()
    with judging_lock(database_path, wait_seconds=settings.lock_seconds, on_wait=on_wait):
        run = _Run(settings, check, progress, iter(requests))
        asyncio.run(run.everything(database_path, client_settings))
        note_changes(db, run.host, run.asked_models, run.report)
    run.report.seconds = time.monotonic() - started
    return run.report


def check_cap(settings: RunSettings) -> None:
    """Raises JudgeBudget where there is a cap, and no price to hold against it."""
    if settings.max_cost is not None and settings.price is None:
        raise JudgeBudget(
            "there is a cap on spending, and no price is known for this model",
            expected="a price to hold against the cap",
            todo="add the model to a price table, [judge] prices, or leave --max-cost out",
        )


def note_changes(db: Database, host: str, models: set[str], report: RunReport) -> None:
    """Lets the next run probe again where this one met another server than was probed.

    The report is told under which names the server was probed.
    """
    for model in models:
        findings = known_findings(db, host, model)
        if findings is None:
            continue
        report.probed_as |= {findings.model_returned} - {""}
        renamed = report.models - {findings.model_returned}
        if renamed or isinstance(report.problem, JudgeUnsupported):
            forget_findings(db, host, model)


def reserve_of(request: ChatRequest, price: Price | None, settings: RunSettings) -> int | None:
    """The most that a request can cost, in micro-dollars; None where no price is known.

    Raises JudgeBudget where there is a cap, and the request has no highest price.
    """
    if price is None:
        return None
    try:
        return most_microusd(request, price)
    except ValueError as error:
        if settings.max_cost is None:
            return None
        raise JudgeBudget(
            f"there is a cap on spending, and {error}",
            expected="requests that say how long an answer may be",
            todo="set max_completion_tokens, or leave --max-cost out",
        ) from None


def cap_reached(settings: RunSettings) -> JudgeBudget:
    """The reason for a run's end at its cap."""
    return JudgeBudget(
        f"the next request could pass the cap of ${settings.max_cost:g}",
        todo="raise --max-cost, and the same command goes on from here",
    )


def overcharge(cost: int, reserved: int) -> JudgeBudget:
    """The reason for a run's end where a request cost more than it could, in micro-dollars."""
    return JudgeBudget(
        f"the server billed {cost / MICROUSD:.6f} dollars for a request that could cost "
        f"{reserved / MICROUSD:.6f} at most",
        expected="a server that keeps to max_completion_tokens, and counts tokens as we do",
        todo="leave --max-cost out, or use a server that does",
    )


class _Run:
    """One run: what it is to do, how far it is, and why it stopped."""

    def __init__(
        self,
        settings: RunSettings,
        check: Callable[[Reply], None],
        progress: Callable[[int], object],
        requests: Iterator[ChatRequest],
    ) -> None:
        self.report = RunReport()
        self.asked_models: set[str] = set()
        self.host = ""
        self._settings = settings
        self._check = check
        self._progress = progress
        self._requests = requests
        self._ready: deque[tuple[str, ChatRequest]] = deque()
        self._exhausted = False
        self._seen: set[bytes] = set()  # keys that this run has met
        self._unusable: set[str] = set()  # keys to which an earlier run got no usable answer
        self._failures_in_a_row = 0
        self._spent = 0  # micro-dollars, known ones
        self._capped = False
        self._hold_until = 0.0
        self._bug: BaseException | None = None
        self._workers: list[asyncio.Task[None]] = []

    async def everything(self, database_path: Path, where: ClientSettings) -> None:
        """Opens what the run needs, runs, and closes it."""
        self._stopping = asyncio.Event()
        self._feeding = asyncio.Lock()
        self._throttle = Throttle(self._settings.concurrency)
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "judge-ledger") as thread:
            own = await loop.run_in_executor(thread, open_db, database_path)
            try:
                async with self._client_for(where) as self._client:
                    self.host = self._client.host
                    ledger = Ledger(own, self.host, cap=whole_microusd(self._settings.max_cost))
                    first = self._first()
                    await loop.run_in_executor(thread, self._begin, ledger, first)
                    self._books = Books(thread, ledger)
                    await self._work_through()
            finally:
                await loop.run_in_executor(thread, own.close)
        if self._settings.price is not None:
            self.report.cost_usd = self._spent / MICROUSD
        if self._bug is not None:
            raise self._bug

    def _first(self) -> ChatRequest | None:
        """The first request, which is put back."""
        first = next(self._requests, None)
        if first is not None:
            self._requests = chain([first], self._requests)
        return first

    def _begin(self, ledger: Ledger, first: ChatRequest | None) -> None:
        if first is not None and self._settings.price is not None:
            ledger.price_unpriced(first.model, self._settings.price)
        ledger.recover()

    def _client_for(self, where: ClientSettings) -> ChatClient:
        return ChatClient(
            where.base_url,
            where.api_key,
            timeout=self._settings.timeout,
            connections=self._settings.concurrency,
        )

    async def _work_through(self) -> None:
        keeping = asyncio.create_task(self._keep_books())
        self._workers = [
            asyncio.create_task(self._work()) for _ in range(self._settings.concurrency)
        ]
        with on_signals(self._signalled):
            await asyncio.gather(*self._workers, return_exceptions=True)
            self._books.finish()
            await keeping

    async def _keep_books(self) -> None:
        try:
            await self._books.keep()
        except Exception as error:
            # What cannot be recorded must not be sent, and what is out cannot be kept.
            self._fail(error)
            self._cancel()

    async def _work(self) -> None:
        try:
            while (taken := await self._take()) is not None:
                await self._settle(*taken)
        except Exception as error:
            self._fail(error)

    # Why it ends

    def _signalled(self) -> None:
        if self.report.interrupted:
            self._cancel()
        self.report.interrupted = True
        self._stop("interrupted; the same command goes on from here")

    def _cancel(self) -> None:
        for worker in self._workers:
            worker.cancel()

    def _stop(self, why: str, problem: JudgeError | None = None) -> None:
        if self.report.stopped is None:
            self.report.stopped, self.report.problem = why, problem
        self._stopping.set()

    def _fail(self, bug: BaseException) -> None:
        self._bug = self._bug or bug
        self._stop(str(bug))

    # What is next

    async def _take(self) -> tuple[str, ChatRequest] | None:
        """The next request that has to be sent, with its key; None when there is no more to do."""
        async with self._feeding:
            while not self._stopping.is_set():
                if self._capped:
                    await self._put_off_ready()
                if self._ready:
                    return self._ready.popleft()
                if self._exhausted:
                    return None
                await self._look_further()
        return None

    async def _look_further(self) -> None:
        """Takes in more requests, and keeps those whose answer is not on record."""
        chunk = list(islice(self._requests, LOOKED_UP))
        self._exhausted = len(chunk) < LOOKED_UP
        keyed: dict[str, ChatRequest] = {}
        for request in chunk:
            key = request.key(self.host)
            digest = bytes.fromhex(key)
            if digest in self._seen:
                self._count("repeated")
            else:
                self._seen.add(digest)
                keyed[key] = request
        standings = await self._books.look_up(list(keyed))
        for key, request in keyed.items():
            self._sort(key, request, standings.get(key))

    def _sort(self, key: str, request: ChatRequest, standing: Standing | None) -> None:
        """Counts a request that is not to be sent; makes the others ready."""
        kind = self._kind(standing) if standing else None
        if kind is not None:
            self._count(kind)
            return
        if standing is not None and standing.state == "parse_error":
            self._unusable.add(key)
        self.asked_models.add(request.model)
        self._ready.append((key, request))

    def _kind(self, standing: Standing) -> str | None:
        """What a call on record counts as; None: it is to be sent."""
        if standing.in_batch:
            return "in_batch"
        if standing.state == "sent":
            return "repeated"
        if standing.state in ("parse_error", "api_error") and not self._settings.retry_errors:
            return standing.state
        if standing.state == "pending" and standing.due_at and standing.due_at > now():
            return "parked"
        return {"ok": "cached", "refused": "refused"}.get(standing.state)

    async def _put_off_ready(self) -> None:
        calls = [(key, request.model) for key, request in self._ready]
        self._ready.clear()
        await self._books.put_off(calls)
        self._count("budget", len(calls))

    # One call

    async def _settle(self, key: str, request: ChatRequest) -> None:
        """Sends a request until there is an answer, or no use in going on."""
        repeats = None
        if _answers_alike(request):
            repeats = 0 if key in self._unusable else 1
        patience = _Patience(self._settings, repeats)
        while (sent := await self._send(key, request)) is not None:
            outcome, closing = sent
            pause = patience.before_next(outcome)
            parked = pause is not None and patience.is_over
            if parked:
                due_at = _later(pause or 0.0)
                closing = replace(closing, state="pending", due_at=due_at)
            self._books.close(closing)
            self._draw_conclusions(outcome, closing, pause, parked)
            if pause is None or parked:
                self._done_with("parked" if parked else closing.state, closing.error)
                return
            if await self._rest(pause):
                return

    async def _send(self, key: str, request: ChatRequest) -> tuple[Outcome, Closing] | None:
        """What came of one attempt; None where it was not made."""
        await self._throttle.enter()
        try:
            while (wait := self._hold_until - time.monotonic()) > 0:
                if await self._rest(wait):
                    return None
            ticket = await self._admitted(key, request)
            return await self._exchange(request, ticket) if ticket else None
        finally:
            self._throttle.leave()

    async def _admitted(self, key: str, request: ChatRequest) -> Ticket | None:
        if self._stopping.is_set():
            return None
        reserve = reserve_of(request, self._settings.price, self._settings)
        answer = await self._books.claim(Claim(key, request.model, reserve))
        if answer is Held.BY_CAP:
            await self._over_cap(key, request)
        elif answer is Held.BY_ANOTHER:
            self._done_with("repeated", None)
        elif self._stopping.is_set():
            self._books.close(unsent(answer))
        else:
            return answer
        return None

    async def _over_cap(self, key: str, request: ChatRequest) -> None:
        if not self._capped:
            self._capped = True
            problem = cap_reached(self._settings)
            self.report.stopped, self.report.problem = problem.found, problem
        await self._books.put_off([(key, request.model)])
        self._done_with("budget", None)

    async def _exchange(self, request: ChatRequest, ticket: Ticket) -> tuple[Outcome, Closing]:
        self.report.sent += 1
        started = time.monotonic()
        try:
            reply = await self._client.ask(request)
            outcome = of_reply(reply, self._check)
            self._note_model(reply.model)
        except JudgeError as error:
            outcome = of_error(error)
        except asyncio.CancelledError:
            self.report.unknown_cost += 1
            self._books.close(Closing(ticket, "pending", "interrupted", cost=None))
            raise
        except Exception as bug:
            outcome = Outcome("api_error", type(bug).__name__, True, error=str(bug), bug=bug)
        if outcome.busy:
            self._throttle.busy(started)
        elif outcome.state == "ok":
            self._throttle.success()
        seconds = time.monotonic() - started
        return outcome, outcome.closing(ticket, self._settings.price, seconds)

    def _note_model(self, name: str) -> None:
        if name and len(self.report.models) < MODEL_NAMES:
            self.report.models.add(name)

    def _draw_conclusions(
        self, outcome: Outcome, closing: Closing, pause: float | None, parked: bool
    ) -> None:
        """What an attempt means for the run beyond its own call."""
        if closing.cost is None:
            self.report.unknown_cost += 1
        else:
            self._spent += closing.cost
            self._check_reserve(closing.cost, closing.ticket.reserved)
        if outcome.busy and outcome.wait is not None and pause is not None and not parked:
            self._hold_until = max(self._hold_until, time.monotonic() + pause)
        if outcome.stop is not None:
            self._stop(str(outcome.stop), outcome.stop)
        if outcome.bug is not None:
            self._fail(outcome.bug)

    def _check_reserve(self, cost: int, reserved: int | None) -> None:
        if self._settings.max_cost is None or reserved is None or cost <= reserved:
            return
        problem = overcharge(cost, reserved)
        self._stop(str(problem), problem)

    def _done_with(self, kind: str, error: str | None) -> None:
        """Counts a call; ends the run when too many in a row have failed."""
        if kind == "ok":
            self._failures_in_a_row = 0
        elif kind in ("parse_error", "api_error", "parked"):
            self._failures_in_a_row += 1
        self._count(kind)
        if self._failures_in_a_row >= self._settings.give_up_after:
            self._stop(
                f"{self._failures_in_a_row} calls in a row have failed, the last one with: {error}"
            )

    def _count(self, kind: str, n: int = 1) -> None:
        if kind != "pending":  # not answered, since the run ends: not counted
            setattr(self.report, kind, getattr(self.report, kind) + n)
            self._progress(n)

    async def _rest(self, seconds: float) -> bool:
        """Waits, unless the run ends meanwhile; whether it does."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return self._stopping.is_set()
        return True


class _Patience:
    """How often, and how long, one call is tried.

    `repeats` is how often at most after an answer that is not what was asked; None: as often as
    after anything else.
    """

    def __init__(self, settings: RunSettings, repeats: int | None) -> None:
        self._repeats_left = settings.retries if repeats is None else repeats
        self._settings = settings
        self._attempts = 0
        self._tries_left = settings.retries
        self._waited = 0.0

    @property
    def is_over(self) -> bool:
        """It has waited for longer than a call may, the coming wait included."""
        return self._waited > self._settings.park_over

    def before_next(self, outcome: Outcome) -> float | None:
        """Seconds to wait before the next attempt; None: there is none."""
        self._attempts += 1
        if not outcome.again:
            return None
        if outcome.well_formed:
            self._repeats_left -= 1
        if not outcome.busy:
            self._tries_left -= 1
            if min(self._tries_left, self._repeats_left) < 0:
                return None
        pause = min(LONGEST_PAUSE, self._settings.pause * float(2 ** min(self._attempts - 1, 10)))
        # Never earlier than asked for, and not everyone at the same moment.
        asked = (outcome.wait or 0.0) * random.uniform(1.0, 1.1)
        pause = max(pause * random.uniform(0.5, 1.0), asked)
        if outcome.busy or outcome.wait is not None:
            self._waited += pause
        return pause


@contextmanager
def on_signals(call: Callable[[], None]) -> Iterator[None]:
    """Has SIGINT and SIGTERM call a function, where they can: in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        for number in (signal.SIGINT, signal.SIGTERM):
            before = signal.getsignal(number)
            loop.add_signal_handler(number, call)
            stack.callback(signal.signal, number, before)
            stack.callback(loop.remove_signal_handler, number)
        yield


def _answers_alike(request: ChatRequest) -> bool:
    """Whether the same answer comes each time, as far as the request can say."""
    return dict(request.params).get("temperature") == 0


def _later(seconds: float) -> str:
    moment = datetime.fromisoformat(now()) + timedelta(seconds=seconds)
    return moment.isoformat(timespec="microseconds")
