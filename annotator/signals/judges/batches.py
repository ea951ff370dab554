"""Asking through the Batch API: half the price where the vendor says so, and up to a day to wait.

Requests are gathered into files, one model each, and every step of a batch is on disk before the
next (batch_ledger.py), so the same command goes on from wherever it was stopped or killed:

    prepared   upload the file; once more does no harm
    uploaded   look for a batch with our metadata, and make one only if there is none
    created    ask how far it is, until it has ended in whatever way
    ended      fetch the output file and the error file, whichever there are
    ingested   what has no answer goes into another batch, as long as each brings some

A run goes on with the batches of its own purpose alone, and closes each at the price that it was
reserved at. Those of another judge, rubric or route wait for their own command.

A line is worth what the same answer would be worth live (outcomes.py). A line that was never worked
on cost nothing; where an answer may be lost, its reservation stands. For every batch, ok + refused
+ parse_error + api_error + requeued is the number of its calls.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from annotator.errors import (
    JudgeBusy,
    JudgeError,
    JudgeMalformed,
    JudgeNoModel,
    JudgeRefused,
    JudgeRejected,
    JudgeUnreachable,
    JudgeUnsupported,
)
from annotator.signals.judges.batch_files import (
    Answer,
    Folder,
    Line,
    Returned,
    line_of,
    read_answers,
    request_in,
)
from annotator.signals.judges.batch_ledger import Batch, BatchLedger
from annotator.signals.judges.client import ChatClient, ClientSettings
from annotator.signals.judges.ledger import (
    MICROUSD,
    Claim,
    Held,
    Ledger,
    Ticket,
    judging_lock,
    whole_microusd,
)
from annotator.signals.judges.outcomes import Outcome, of_error, of_reply
from annotator.signals.judges.runner import (
    LONGEST_PAUSE,
    MODEL_NAMES,
    RunReport,
    RunSettings,
    cap_reached,
    check_cap,
    note_changes,
    on_signals,
    overcharge,
    reserve_of,
)

if TYPE_CHECKING:
    from sqlite_utils import Database

    from annotator.signals.judges.ledger import Standing
    from annotator.signals.judges.reply import ChatRequest, Reply

Result = TypeVar("Result")
Document = dict[str, Any]
_Wanted = tuple[Line, Claim]

# The vendor takes 50,000 lines and 200 MB. Files pass through memory, and those of answers with
# log-probs are several times as large as those of what was asked.
LINES_A_FILE = 10_000
BYTES_A_FILE = 50_000_000
LOOKED_UP = 500  # requests whose keys are looked up together
SLOWEST = 10  # times poll_seconds: the longest pause between two looks
# A request whose sender died may still be on its way through the server.
SETTLE_SECONDS = 5.0
METADATA_KEY = "annotator_key"
# The time that the vendor has for a batch. Until then one that it does not know may be under way,
# and out of sight: another key, of another account, sees none of it.
COMPLETION_HOURS = 24

TERMINAL = frozenset({"completed", "failed", "expired", "cancelled"})
ANSWERED = frozenset({"ok", "refused", "parse_error"})
LATER = (JudgeBusy, JudgeUnreachable)  # the same request may work in a while
GONE = (JudgeNoModel, JudgeRejected, JudgeRefused, JudgeUnsupported)  # of a file: it never will
_LONGEST_WORDS = 300


@dataclass(frozen=True)
class BatchEnd:
    """What one batch came to. `requeued` of its calls had no answer, and are pending again.

    The other lines are those that are no call's first answer: under an id that is not the batch's,
    under one that had its answer already, or unreadable.
    """

    name: str
    status: str
    n_calls: int
    ok: int
    refused: int
    parse_error: int
    api_error: int
    requeued: int
    unknown_lines: int = 0
    repeated_lines: int = 0
    unreadable_lines: int = 0
    problem: str | None = None

    @property
    def is_plain(self) -> bool:
        """Whether every call was answered, and nothing else came."""
        return self.status == "completed" and self.words.endswith(f": {self.n_calls} ok")

    @property
    def words(self) -> str:
        """One line for people, with all counts but those that are zero."""
        counts = (
            (self.ok, "ok"),
            (self.refused, "refused"),
            (self.parse_error, "unreadable as a grade"),
            (self.api_error, "failed"),
            (self.requeued, "without an answer"),
            (self.unknown_lines, "lines under ids that were not sent"),
            (self.repeated_lines, "repeated lines"),
            (self.unreadable_lines, "unreadable lines"),
        )
        told = ", ".join(f"{n} {what}" for n, what in counts if n)
        why = f" ({self.problem})" if self.problem else ""
        return f"{self.name} {self.status}{why}: {told}"


@dataclass
class BatchReport(RunReport):
    """A run's report, and what became of its batches.

    `in_batch` requests lie in batches that are not taken in: in the `in_progress` of this purpose,
    or in the `others`, which a run of another purpose made and which this one leaves alone.
    `unanswered` requests came back without an answer and were not sent again: the next run does
    that. `batches` were created in this run, `ends` were taken in.
    """

    batches: int = 0
    in_progress: int = 0
    others: int = 0
    unanswered: int = 0
    ends: list[BatchEnd] = field(default_factory=list)

    @property
    def incomplete(self) -> int:
        """Requests without an answer, but for those that lie in a batch."""
        return super().incomplete + self.unanswered

    @property
    def others_in_words(self) -> str | None:
        """What is to be said of the batches that this run has left alone; None without any."""
        if not self.others:
            return None
        if self.others == 1:
            return "1 batch of another judge waits for its own command"
        return f"{self.others:,} batches of another judge wait for their own command"


def run_batches(
    db: Database,
    database_path: Path,
    requests: Iterable[ChatRequest],
    client_settings: ClientSettings,
    settings: RunSettings,
    check: Callable[[Reply], None],
    progress: Callable[[int], object] = lambda n: None,
    on_wait: Callable[[], object] = lambda: None,
    *,
    purpose: str,
    wait: bool = True,
    poll_seconds: float = 30.0,
) -> BatchReport:
    """Asks for every reply that is not on record yet, in batches, and records what comes.

    As `runner.run_calls`, at `settings.price.for_batch()`. With `wait` it returns when every batch
    has ended; it looks every `poll_seconds`, less and less often while nothing changes. Without, it
    makes the batches, looks at each once, and reports what is in progress; the next run takes that
    in. SIGINT and SIGTERM end the waiting; the batches go on at the server.

    `purpose` names what determines `check`. Open batches that were made for another purpose are
    left as they are, and so are the calls in them.

    Raises as `run_calls` does, StoreError where a file cannot be written.
    """
    check_cap(settings)
    started = time.monotonic()
    with judging_lock(database_path, wait_seconds=settings.lock_seconds, on_wait=on_wait):
        run = _Run(db, settings, check, progress, iter(requests), purpose, wait, poll_seconds)
        asyncio.run(run.everything(database_path, client_settings))
        note_changes(db, run.host, run.asked_models, run.report)
    run.report.seconds = time.monotonic() - started
    return run.report


class _Draft:
    """Lines of one model that will be a file."""

    def __init__(self) -> None:
        self.wanted: list[_Wanted] = []
        self._size = 0

    def takes(self, line: Line) -> bool:
        """Whether the file has room for it; one line always has."""
        size = self._size + len(line.text)
        return not self.wanted or (len(self.wanted) < LINES_A_FILE and size <= BYTES_A_FILE)

    def add(self, wanted: _Wanted) -> None:
        self.wanted.append(wanted)
        self._size += len(wanted[0].text)


class _Run:
    """One run: the batches that are open, the lines that wait for one, and why it stopped."""

    def __init__(
        self,
        db: Database,
        settings: RunSettings,
        check: Callable[[Reply], None],
        progress: Callable[[int], object],
        requests: Iterator[ChatRequest],
        purpose: str,
        wait: bool,
        poll_seconds: float,
    ) -> None:
        self.report = BatchReport()
        self.asked_models: set[str] = set()
        self.host = ""
        self._db = db
        self._settings = settings
        self._price = settings.price.for_batch() if settings.price else None
        self._check = check
        self._progress = progress
        self._requests = requests
        self._purpose = purpose
        self._wait = wait
        self._poll_seconds = poll_seconds
        self._open: list[Batch] = []
        self._others: list[Batch] = []  # of another purpose
        self._asked: set[str] = set()  # keys that this run wants an answer to
        self._waiting: deque[_Wanted] = deque()
        self._drafts: dict[str, _Draft] = {}  # by model
        self._left_as: dict[str, str] = {}  # what calls that are to be sent again count as, if not
        self._tries: Counter[str] = Counter()
        self._spent = 0  # micro-dollars, known ones
        self._capped = False
        self._no_more = False  # batches are made
        self._failure: JudgeError | None = None  # of the last round
        self._failed_rounds = 0

    async def everything(self, database_path: Path, where: ClientSettings) -> None:
        """Opens what the run needs, runs, and closes it."""
        async with ChatClient(
            where.base_url, where.api_key, timeout=self._settings.timeout, connections=1
        ) as self._client:
            self.host = self._client.host
            cap = whole_microusd(self._settings.max_cost)
            self._ledger = Ledger(self._db, self.host, cap=cap)
            self._ledger.recover()
            self._folder = Folder(database_path)
            self._book = BatchLedger(
                self._db,
                self._ledger,
                self.host,
                self._folder,
                purpose=self._purpose,
                price=self._settings.price,
            )
            self._book.sweep()
            self._open, self._others = self._book.open()
            await self._until_done_or_stopped()
        self._finish()

    async def _until_done_or_stopped(self) -> None:
        work = asyncio.create_task(self._work_through())

        def signalled() -> None:
            self.report.interrupted = True
            self._stop("interrupted; the same command goes on from here")
            work.cancel()

        with on_signals(signalled):
            try:
                await work
            except JudgeError as error:
                self._stop(str(error), error)
            except asyncio.CancelledError:
                # Every step is on disk, so it may be left anywhere.
                if not self.report.interrupted:
                    raise

    async def _work_through(self) -> None:
        await self._send_leftovers()
        await self._make_batches()
        pause = self._poll_seconds
        while True:
            moved = await self._look_at_all()
            await self._make_batches()
            if not self._wait or not self._open:
                break
            pause = self._poll_seconds if moved else min(2 * pause, SLOWEST * self._poll_seconds)
            await asyncio.sleep(pause)
        if self._failure is not None:
            raise self._failure

    async def _send_leftovers(self) -> None:
        """Makes the batches that an earlier run has only prepared."""
        try:
            for batch in self._open:
                with suppress(_OutOfSight):  # it is met again when all are looked at
                    await self._send(batch)
        except LATER as error:
            self._failure = error
        self._forget_ingested()

    def _stop(self, why: str, problem: JudgeError | None = None) -> None:
        """No more batches are made; what is out is waited for."""
        if self.report.stopped is None:
            self.report.stopped, self.report.problem = why, problem
        self._no_more = True

    # What is next

    async def _make_batches(self) -> None:
        """Makes batches of all that waits, as far as the cap lets it."""
        self._capped = False
        while not (self._no_more or self._capped or self._failure):
            batch = self._prepare_next()
            if batch is None:
                return
            self._open.append(batch)
            try:
                await self._send(batch)
            except LATER as error:
                self._failure = error
            self._forget_ingested()

    def _prepare_next(self) -> Batch | None:
        """The next batch, on record and on disk; None if nothing waits, or the cap is reached."""
        while not self._capped and (wanted := self._next_file()):
            batch, tickets = self._book.prepare(
                [line for line, _ in wanted], [claim for _, claim in wanted]
            )
            by_cap = [one for one, it in zip(wanted, tickets, strict=True) if it is Held.BY_CAP]
            self._waiting.extendleft(reversed(by_cap))
            self._capped = bool(by_cap)
            self._count("repeated", sum(ticket is Held.BY_ANOTHER for ticket in tickets))
            if batch is not None:
                return batch
        return None

    def _next_file(self) -> list[_Wanted]:
        """As many lines of one model as go into a file; none if nothing waits."""
        while (wanted := self._next_wanted()) is not None:
            model = wanted[0].model
            draft = self._drafts.setdefault(model, _Draft())
            if draft.takes(wanted[0]):
                draft.add(wanted)
                continue
            self._drafts[model] = _Draft()
            self._drafts[model].add(wanted)
            return draft.wanted
        return self._drafts.popitem()[1].wanted if self._drafts else []

    def _next_wanted(self) -> _Wanted | None:
        while not self._waiting and self._look_further():
            pass
        return self._waiting.popleft() if self._waiting else None

    def _look_further(self) -> bool:
        """Takes in more requests; False if there are none."""
        chunk = list(islice(self._requests, LOOKED_UP))
        keyed: dict[str, ChatRequest] = {}
        for request in chunk:
            key = request.key(self.host)
            if key in keyed or key in self._asked:
                self._count("repeated")
            else:
                keyed[key] = request
        standings = self._ledger.standings(list(keyed))
        for key, request in keyed.items():
            self._sort(key, request, standings.get(key))
        return bool(chunk)

    def _sort(self, key: str, request: ChatRequest, standing: Standing | None) -> None:
        """Counts a request whose answer is there or is not wanted; the others wait for a batch."""
        kind = self._kind(standing) if standing else None
        if kind is not None:
            self._count(kind)
            return
        self._asked.add(key)
        self.asked_models.add(request.model)
        if standing is None or not standing.in_batch:
            self._waiting.append(self._wanted(line_of(request, key), request))

    def _kind(self, standing: Standing) -> str | None:
        if standing.in_batch:
            return None
        if standing.state in ("parse_error", "api_error") and not self._settings.retry_errors:
            return standing.state
        return {"ok": "cached", "refused": "refused"}.get(standing.state)

    def _wanted(self, line: Line, request: ChatRequest) -> _Wanted:
        reserve = reserve_of(request, self._price, self._settings)
        return line, Claim(line.key, line.model, reserve)

    # One batch

    async def _look_at_all(self) -> bool:
        """Brings every batch as far as it will go now; whether anything has changed."""
        self._failure = None
        unseen: list[Batch] = []
        before = [(batch.state, batch.status) for batch in self._open]
        batches = list(self._open)
        for batch in batches:
            try:
                await self._forward(batch)
            except _OutOfSight:
                unseen.append(batch)
            except (*LATER, JudgeMalformed) as error:
                self._failure = error
                if isinstance(error, JudgeUnreachable):
                    break
        self._forget_ingested()
        self._failed_rounds = self._failed_rounds + 1 if self._failure else 0
        if self._failure and self._failed_rounds >= self._settings.give_up_after:
            raise self._failure
        if unseen:
            raise _not_known(unseen)
        return before != [(batch.state, batch.status) for batch in batches]

    def _forget_ingested(self) -> None:
        self._open = [batch for batch in self._open if batch.state != "ingested"]

    async def _forward(self, batch: Batch) -> None:
        if batch.state in ("prepared", "uploaded"):
            await self._send(batch)
        if batch.state in ("created", "ended"):
            await self._look(batch)

    async def _send(self, batch: Batch) -> None:
        if batch.state == "prepared":
            await self._upload(batch)
        if batch.state == "uploaded":
            await self._create(batch)

    async def _upload(self, batch: Batch) -> None:
        content = self._folder.read(batch.id, batch.sha)
        if content is None:
            self._abandon(batch, "its file is gone, or is not as it was written", billed=False)
            return
        try:
            file_id = await self._persist(
                partial(self._client.upload, content, f"{batch.sha}.jsonl")
            )
        except LATER:
            raise
        except JudgeError as error:
            self._refused(batch, error, billed=False)
            return
        self._book.uploaded(batch, file_id)

    async def _create(self, batch: Batch) -> None:
        document = await self._find(batch) if batch.tried else None
        if document is None:
            document = await self._new_batch(batch)
        if document is not None:
            self._book.created(batch, document["id"], _status(document))
            self.report.batches += 1
            self.report.sent += len(self._book.tickets(batch))

    async def _new_batch(self, batch: Batch) -> Document | None:
        """Has the server make it; None where it refuses."""
        assert batch.file_id is not None
        tried_before, batch.tried = batch.tried, True
        create = partial(self._client.create_batch, batch.file_id, {METADATA_KEY: batch.sha})
        try:
            return _checked(await self._persist(create, twice=False))
        except JudgeError as error:
            # The answer may be lost, and the batch there.
            found = await self._find(batch) if error.maybe_billed else None
            if found is None and isinstance(error, LATER):
                raise
            if found is None:
                if tried_before and isinstance(error, JudgeNoModel | JudgeRejected):
                    _let_it_have_its_time(batch)
                self._refused(batch, error, billed=error.maybe_billed or tried_before)
            return found

    async def _find(self, batch: Batch) -> Document | None:
        """The batch that the server has made of our file, looked for twice."""
        for pause in (0.0, SETTLE_SECONDS):
            await asyncio.sleep(pause)
            for document in await self._persist(self._client.list_batches):
                if _is_of(batch, document):
                    return _checked(document)
        return None

    async def _look(self, batch: Batch) -> None:
        document = await self._document(batch)
        if document is None:
            _let_it_have_its_time(batch)
            self._abandon(batch, "the server does not know it any more", billed=True)
            return
        status = _status(document)
        if batch.state == "created" and status in TERMINAL:
            self._book.ended(batch, status)
        elif status != batch.status:
            self._book.seen(batch, status)
        if batch.state == "ended":
            await self._take_in(batch, document)

    async def _document(self, batch: Batch) -> Document | None:
        """The batch as the server has it; None where it has none under this id."""
        assert batch.batch_id is not None
        try:
            return _checked(await self._persist(partial(self._client.batch, batch.batch_id)))
        except JudgeNoModel:
            # A wrong address knows no batch either, but then it has no list of them.
            listed = await self._persist(self._client.list_batches)
            return next((one for one in listed if one.get("id") == batch.batch_id), None)

    async def _persist(
        self, call: Callable[[], Awaitable[Result]], *, twice: bool = True
    ) -> Result:
        """What `call` gives, tried again after failures that may pass.

        Without `twice` only after those that surely left nothing behind.
        """
        for attempt in range(self._settings.retries):
            try:
                return await call()
            except LATER as error:
                if error.maybe_billed and not twice:
                    raise
                asked = error.retry_after if isinstance(error, JudgeBusy) else None
                if asked is not None and asked > self._settings.park_over:
                    raise
                pause = min(LONGEST_PAUSE, self._settings.pause * float(2 ** min(attempt, 10)))
                await asyncio.sleep(max(pause, asked or 0.0))
        return await call()

    # What it has brought

    async def _take_in(self, batch: Batch, document: Document) -> None:
        """Records every answer, and makes ready to be sent again what has none."""
        tickets = self._book.tickets(batch)
        returned = await self._returned(batch, document, tickets)
        nothing = _no_answer(batch, returned)
        outcomes = {key: returned.answers.get(key, nothing) for key in tickets}
        # The file is gone once its answers are on record.
        lines = self._folder.lines(batch.sha, self._to_send_again(outcomes))
        problem = _words(document)
        self._record(batch, tickets, outcomes, returned, problem)
        self._settle(outcomes, lines)
        if batch.status in ("failed", "cancelled"):
            self._stop(f"{batch.name} {_ENDED_AS[batch.status]}{f': {problem}' if problem else ''}")
        self._draw_conclusions(outcomes.values())

    async def _returned(
        self, batch: Batch, document: Document, tickets: Mapping[str, Ticket]
    ) -> Returned[Outcome]:
        returned = Returned[Outcome]()
        params = self._params(batch, tickets)
        for name in ("output_file_id", "error_file_id"):
            file_id = document.get(name)
            if not isinstance(file_id, str) or not file_id:
                continue
            try:
                content = await self._persist(partial(self._client.file_content, file_id))
            except GONE:
                returned.lost = True
                continue
            # Each is weighed at once, since the log-probs of all of them would fill the memory.
            for number, answer in enumerate(read_answers(content)):
                returned.take(answer, tickets, partial(self._outcome, params=params))
                if number % LOOKED_UP == 0:
                    await asyncio.sleep(0)  # to hear an interrupt
        return returned

    def _params(
        self, batch: Batch, tickets: Mapping[str, Ticket]
    ) -> tuple[tuple[str, object], ...]:
        """The parameters of the batch's requests, which one of them stands for."""
        lines = self._folder.lines(batch.sha, set(islice(tickets, 1)))
        return next((request_in(line).params for line in lines.values()), ())

    def _outcome(self, answer: Answer, params: tuple[tuple[str, object], ...]) -> Outcome:
        if answer.was_not_done:
            return Outcome("pending", "not done", False, error=answer.message, again=True)
        if answer.status is None:
            return Outcome("api_error", "no response", True, error=answer.message, again=True)
        try:
            reply = self._client.read(answer.status, answer.body, params)
        except JudgeError as error:
            return of_error(error)
        if reply.model and len(self.report.models) < MODEL_NAMES:
            self.report.models.add(reply.model)
        return of_reply(reply, self._check)

    def _to_send_again(self, outcomes: Mapping[str, Outcome]) -> set[str]:
        """Keys of calls that another batch of this run is to have.

        Only after a batch that brought something: else batch after batch might bring nothing.
        """
        if not any(outcome.state in ANSWERED for outcome in outcomes.values()):
            return set()
        return {
            key
            for key, outcome in outcomes.items()
            if outcome.again and key in self._asked and self._has_tries_left(key, outcome)
        }

    def _has_tries_left(self, key: str, outcome: Outcome) -> bool:
        return outcome.state == "pending" or self._tries[key] < self._settings.retries

    def _record(
        self,
        batch: Batch,
        tickets: Mapping[str, Ticket],
        outcomes: Mapping[str, Outcome],
        returned: Returned[Outcome],
        problem: str | None,
    ) -> None:
        price = batch.price or self._settings.price
        price = price.for_batch() if price else None
        closings = [outcome.closing(tickets[key], price, None) for key, outcome in outcomes.items()]
        self._book.ingest(batch, closings, problem)
        states = Counter(outcome.state for outcome in outcomes.values())
        self.report.ends.append(
            BatchEnd(
                batch.name,
                str(batch.status),
                len(outcomes),
                states["ok"],
                states["refused"],
                states["parse_error"],
                states["api_error"],
                states["pending"],
                returned.unknown,
                returned.repeated,
                returned.unreadable,
                problem,
            )
        )
        for closing in closings:
            if closing.cost is None:
                self.report.unknown_cost += 1
            else:
                self._spent += closing.cost
                self._check_reserve(closing.cost, closing.ticket.reserved)

    def _check_reserve(self, cost: int, reserved: int | None) -> None:
        if self._settings.max_cost is None or reserved is None or cost <= reserved:
            return
        problem = overcharge(cost, reserved)
        self._stop(str(problem), problem)

    def _settle(self, outcomes: Mapping[str, Outcome], lines: Mapping[str, Line]) -> None:
        """Counts the calls that are done with; those with a line here wait for another batch."""
        for key, outcome in outcomes.items():
            if key not in self._asked:
                continue
            kind = "unanswered" if outcome.state == "pending" else outcome.state
            if key not in lines:
                self._count(kind)
                continue
            self._tries[key] += outcome.state != "pending"
            self._left_as[key] = kind
            self._waiting.append(self._wanted(lines[key], request_in(lines[key])))

    def _draw_conclusions(self, outcomes: Iterable[Outcome]) -> None:
        """What answers mean for the run beyond their own calls."""
        for outcome in outcomes:
            if outcome.stop is not None:
                self._stop(str(outcome.stop), outcome.stop)
            if outcome.bug is not None:
                raise outcome.bug

    def _refused(self, batch: Batch, error: JudgeError, *, billed: bool) -> None:
        """The server takes no such batch, so neither will it take the next."""
        self._abandon(batch, error.found, billed=billed)
        self._stop(str(error), error)

    def _abandon(self, batch: Batch, problem: str, *, billed: bool) -> None:
        """Gives up a batch that nothing will come from; `billed`: the server may have worked."""
        tickets = self._book.tickets(batch)
        nothing = Outcome("pending", "abandoned", billed, error=problem, again=True)
        outcomes = dict.fromkeys(tickets, nothing)
        batch.status = "abandoned"
        self._record(batch, tickets, outcomes, Returned[Outcome](), problem)
        self._settle(outcomes, {})

    # The end

    def _finish(self) -> None:
        """Counts what is left, and records what the cap has kept back."""
        if self._capped and not self._no_more:
            self._put_off_the_rest()
        for wanted in (*self._waiting, *(one for d in self._drafts.values() for one in d.wanted)):
            kind = self._left_as.get(wanted[0].key)
            if kind is not None:
                self._count(kind)
        self.report.in_progress, self.report.others = len(self._open), len(self._others)
        out = (*self._open, *self._others)
        keys = (key for batch in out for key in self._book.keys(batch))
        self._count("in_batch", sum(key in self._asked for key in keys))
        if self._settings.price is not None or self._spent:
            self.report.cost_usd = self._spent / MICROUSD

    def _put_off_the_rest(self) -> None:
        for draft in self._drafts.values():
            self._waiting.extend(draft.wanted)
        self._drafts.clear()
        while self._waiting or self._look_further():
            self._ledger.put_off([(line.key, line.model) for line, _ in self._waiting])
            self._count("budget", len(self._waiting))
            self._waiting.clear()
        problem = cap_reached(self._settings)
        self._stop(problem.found, problem)

    def _count(self, kind: str, n: int = 1) -> None:
        if n:
            setattr(self.report, kind, getattr(self.report, kind) + n)
            self._progress(n)


_ENDED_AS = {"failed": "was refused by the server", "cancelled": "was cancelled by someone"}


def _no_answer(batch: Batch, returned: Returned[Outcome]) -> Outcome:
    """Of a call that is in no file: not worked on, unless a file is incomplete or missing."""
    return Outcome(
        "pending",
        str(batch.status),
        billed=batch.status == "completed" or returned.may_lack_answers,
        error=f"{batch.name} has ended without an answer",
        again=True,
    )


class _OutOfSight(Exception):
    """The server does not know a batch, or its file, that may be under way all the same."""


def _let_it_have_its_time(batch: Batch) -> None:
    if batch.still_for < COMPLETION_HOURS * 3600:
        raise _OutOfSight


def _not_known(unseen: Sequence[Batch]) -> JudgeError:
    """The reason for a run's end where the server does not know batches that may be under way."""
    names = ", ".join(batch.name for batch in unseen[:3])
    more = f" and {len(unseen) - 3:,} more" if len(unseen) > 3 else ""
    return JudgeNoModel(
        f"the server knows nothing of {names}{more}, which may be under way still",
        expected="the key, and the account, that the batches were made with",
        todo="set that key, and run the same command again; if the batches are lost, wait: after "
        f"{COMPLETION_HOURS} hours without news they are given up, and their calls sent again",
        status=404,
    )


def _is_of(batch: Batch, document: Document) -> bool:
    """Whether that is the batch made of our file.

    The file's id says so for certain, since a copy of this project has the same metadata; a
    server that does not tell it is believed by the metadata.
    """
    file_id = document.get("input_file_id")
    if isinstance(file_id, str) and file_id:
        return file_id == batch.file_id
    metadata = document.get("metadata")
    return isinstance(metadata, dict) and metadata.get(METADATA_KEY) == batch.sha


def _checked(document: Document) -> Document:
    """The document of a batch; raises JudgeMalformed where it has no id or status."""
    for name in ("id", "status"):
        if not isinstance(document.get(name), str) or not document[name]:
            raise JudgeMalformed(f"a batch without {name}", raw=str(document)[:_LONGEST_WORDS])
    return document


def _status(document: Document) -> str:
    return _storable(document["status"])


def _words(document: Document) -> str | None:
    """What the server says is wrong with a batch as a whole; None if nothing."""
    errors = document.get("errors")
    data = errors.get("data") if isinstance(errors, dict) else None
    first = data[0] if isinstance(data, list) and data else None
    if not isinstance(first, dict):
        return None
    return _storable(f"{first.get('message') or ''} ({first.get('code') or 'no code'})")


def _storable(text: str) -> str:
    """One short line, without the lone surrogates that JSON can bring."""
    line = " ".join(text.split()).encode("utf-8", errors="replace").decode()
    return line[:_LONGEST_WORDS]
