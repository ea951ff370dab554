"""Files and batches: the vendor's state machine, with every way a batch may end.

validating -> in_progress -> finalizing -> completed, one step for each poll or `advance`. The lines
are worked on (and billed) on the way into finalizing. A `BatchPlan` says how it ends.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from tests.openai_server import faults
from tests.openai_server.chat import Chat, Refusal
from tests.openai_server.faults import Document, Fault
from tests.openai_server.ledger import CHAT, NOTHING, BatchLine
from tests.openai_server.prices import HALF, Billed

MOST_LINES, MOST_BYTES = 50_000, 200_000_000
TERMINAL = frozenset({"completed", "failed", "expired", "cancelled"})


@dataclass(frozen=True)
class BatchPlan:
    """How one batch goes; the default is that all goes well."""

    outcome: str = "completed"
    """completed, expired, failed (by validation) or cancelled (by someone else)."""
    finished: int | None = None
    """Lines done before expiry or cancelling; None: half of them."""
    failed: int = 0
    """Last finished lines that end in the error file; -1: all, and there is no output file."""
    duplicates: int = 0
    """First output lines that stand there twice."""
    unknown: int = 0
    """Output lines with ids that nobody sent."""
    shuffled: bool = False
    by_poll: bool = True
    vanishes: bool = False
    """The id is a 404 once the batch is in progress."""
    failed_code: str = "token_limit_exceeded"
    """What `errors` says where the outcome is failed."""
    line_faults: Sequence[Fault | None] = ()
    """What is wrong with each line's answer, in the order of the input."""

    def __post_init__(self) -> None:
        if self.outcome not in TERMINAL:
            raise ValueError(f"outcome {self.outcome!r} is none of {sorted(TERMINAL)}")

    def done_of(self, lines: int) -> int:
        """How many lines are worked on."""
        if self.outcome == "completed":
            return lines
        return lines // 2 if self.finished is None else min(self.finished, lines)


@dataclass
class StoredFile:
    """An uploaded or produced file."""

    document: Document
    content: bytes


@dataclass
class Batch:
    """One batch with its plan and input lines."""

    document: Document
    plan: BatchPlan
    lines: list[Document]
    problems: list[Document]
    vanished: bool = False

    @property
    def status(self) -> str:
        """The state that the vendor would name."""
        return str(self.document["status"])


class _Done(NamedTuple):
    custom_id: str
    document: Document
    ok: bool
    billed: Billed
    microusd: int


@dataclass
class BatchService:
    """The service behind /v1/files and /v1/batches; `record` hears of lines that were billed."""

    chat: Chat
    record: Callable[[Iterable[BatchLine]], None]
    usual: BatchPlan
    plans: list[BatchPlan] = field(default_factory=list)
    files: dict[str, StoredFile] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)
    _last_id: int = 0

    def store(self, content: bytes, name: str, purpose: str) -> Document:
        """Keeps a file and gives its document."""
        document: Document = {
            "id": self._id("file"),
            "object": "file",
            "bytes": len(content),
            "created_at": int(time.time()),
            "filename": name,
            "purpose": purpose,
            "status": "processed",
            "status_details": None,
        }
        self.files[document["id"]] = StoredFile(document, content)
        return document

    def file(self, file_id: str) -> StoredFile:
        """A file by its id; Refusal with a 404."""
        if file_id not in self.files:
            raise Refusal(_not_found(f"No such File object: {file_id}"))
        return self.files[file_id]

    def create(self, body: Any) -> Document:
        """Makes a batch in state validating; Refusal for a request that is wrong in itself."""
        _check_create(body)
        content = self.file(body["input_file_id"]).content
        lines, problems = read_lines(content, body["endpoint"])
        now = int(time.time())
        document: Document = {
            "id": self._id("batch"),
            "object": "batch",
            "endpoint": body["endpoint"],
            "errors": None,
            "input_file_id": body["input_file_id"],
            "completion_window": body["completion_window"],
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": now,
            "expires_at": now + 86_400,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "metadata": body.get("metadata"),
        }
        plan = self.plans.pop(0) if self.plans else self.usual
        self.batches[document["id"]] = Batch(document, plan, lines, problems)
        return document

    def poll(self, batch_id: str) -> Document:
        """A batch by its id, one state further where its plan says so; Refusal with a 404."""
        batch = self._batch(batch_id)
        if batch.plan.by_poll:
            self.advance(batch_id)
        return self._batch(batch_id).document

    def listed(self, after: str | None, limit: int) -> Document:
        """A page of batches, newest first."""
        ids = [key for key, batch in reversed(self.batches.items()) if not batch.vanished]
        start = ids.index(after) + 1 if after in ids else 0
        page = [self.batches[key].document for key in ids[start : start + limit]]
        return {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(ids) > start + limit,
        }

    def cancel(self, batch_id: str) -> Document:
        """Asks a batch to stop; it is cancelled by the next step."""
        batch = self._batch(batch_id)
        if batch.status in TERMINAL:
            message = f"Cannot cancel a batch with status '{batch.status}'."
            raise Refusal(faults.invalid(message))
        self._enter(batch, "cancelling")
        return batch.document

    def advance(self, batch_id: str) -> str:
        """One state further; gives the state."""
        batch = self._batch(batch_id)
        step = {
            "validating": self._validated,
            "in_progress": self._worked,
            "finalizing": self._completed,
            "cancelling": self._cancelled,
        }.get(batch.status)
        if step is not None:
            step(batch)
        return batch.status

    def _validated(self, batch: Batch) -> None:
        if batch.plan.outcome == "failed" and not batch.problems:
            message = "Enqueued token limit reached for this model in your organization."
            batch.problems.append(_problem(batch.plan.failed_code, message, None))
        if batch.problems:
            batch.document["errors"] = {"object": "list", "data": batch.problems}
            self._enter(batch, "failed")
            return
        batch.document["request_counts"]["total"] = len(batch.lines)
        batch.vanished = batch.plan.vanishes
        self._enter(batch, "in_progress")

    def _worked(self, batch: Batch) -> None:
        self._work(batch)
        ends = {"completed": "finalizing"}
        self._enter(batch, ends.get(batch.plan.outcome, batch.plan.outcome))

    def _completed(self, batch: Batch) -> None:
        self._enter(batch, "completed")

    def _cancelled(self, batch: Batch) -> None:
        if "in_progress_at" in batch.document and "usage" not in batch.document:
            self._work(batch)
        self._enter(batch, "cancelled")

    def _enter(self, batch: Batch, status: str) -> None:
        batch.document["status"] = status
        batch.document[f"{status}_at"] = int(time.time())

    def _work(self, batch: Batch) -> None:
        plan, total = batch.plan, len(batch.lines)
        if batch.status == "cancelling":
            plan = replace(plan, outcome="cancelled")
        count = plan.done_of(total)
        done = list(self._answered(batch, plan, count))
        good = [line for line in done if line.ok]
        bad = [line for line in done if not line.ok]
        self.record(
            BatchLine(
                batch.document["id"],
                line.custom_id,
                line.document["response"]["status_code"],
                line.billed,
                line.microusd,
            )
            for line in done
        )
        output = list(_disordered([line.document for line in good], plan))
        errors = [line.document for line in bad]
        errors += [_not_done(line, plan.outcome) for line in batch.lines[count:]]
        batch.document["request_counts"].update(completed=len(good), failed=total - len(good))
        batch.document["usage"] = _usage(done)
        for name, rows in (("output", output), ("error", errors)):
            if rows:
                text = "".join(json.dumps(row) + "\n" for row in rows).encode()
                file = self.store(text, f"{batch.document['id']}_{name}.jsonl", "batch_output")
                batch.document[f"{name}_file_id"] = file["id"]

    def _answered(self, batch: Batch, plan: BatchPlan, count: int) -> Iterator[_Done]:
        first_failed = 0 if plan.failed < 0 else count - plan.failed
        for place, line in enumerate(batch.lines[:count]):
            fault = plan.line_faults[place] if place < len(plan.line_faults) else None
            if place >= first_failed:
                fault = faults.error(500)
            yield self._one(line, fault or faults.none())

    def _one(self, line: Document, fault: Fault) -> _Done:
        billed, microusd = NOTHING, 0
        try:
            if fault.status is not None:
                raise Refusal(fault)
            document, billed, microusd = self.chat.complete(line["body"], fault, HALF)
            status, body = 200, fault.change(document) if fault.change else document
        except Refusal as refusal:
            status, body = refusal.fault.status or 400, _json_or_text(refusal.fault.body)
        row = {
            "id": self._id("batch_req"),
            "custom_id": line["custom_id"],
            "response": {"status_code": status, "request_id": self._id("req"), "body": body},
            "error": None,
        }
        return _Done(line["custom_id"], row, status == 200, billed, microusd)

    def _batch(self, batch_id: str) -> Batch:
        batch = self.batches.get(batch_id)
        if batch is None or batch.vanished:
            raise Refusal(_not_found(f"No batch found with id '{batch_id}'."))
        return batch

    def _id(self, kind: str) -> str:
        self._last_id += 1
        return f"{kind}_{self._last_id:08d}" if kind != "file" else f"file-{self._last_id:08d}"


def read_lines(content: bytes, endpoint: str) -> tuple[list[Document], list[Document]]:
    """The lines of an input file, and what is wrong with them."""
    lines: list[Document] = []
    problems: list[Document] = []
    for number, text in enumerate(content.splitlines(), 1):
        try:
            line = json.loads(text)
        except ValueError:
            problems.append(_problem("invalid_json_line", "This line is not valid JSON.", number))
            continue
        wrong = _wrong_with(line, endpoint)
        if wrong:
            problems.append(_problem(wrong, f"The line is refused: {wrong}.", number))
        else:
            lines.append(line)
    problems += _wrong_with_all(lines, len(content))
    return lines, problems


def _wrong_with(line: Any, endpoint: str) -> str | None:
    if not isinstance(line, dict):
        return "invalid_request"
    for name in ("custom_id", "method", "url", "body"):
        if name not in line:
            return "missing_required_parameter"
    if not isinstance(line["custom_id"], str) or not isinstance(line["body"], dict):
        return "invalid_type"
    if line["method"] != "POST":
        return "invalid_method"
    return None if line["url"] == endpoint else "invalid_url"


def _wrong_with_all(lines: Sequence[Mapping[str, Any]], size: int) -> Iterator[Document]:
    if not lines:
        yield _problem("empty_file", "The input file is empty.", None)
    if len(lines) > MOST_LINES:
        yield _problem("too_many_tasks", f"More than {MOST_LINES} requests.", None)
    if size > MOST_BYTES:
        yield _problem("file_too_large", f"More than {MOST_BYTES} bytes.", None)
    ids = Counter(line["custom_id"] for line in lines)
    for custom_id, count in ids.items():
        if count > 1:
            message = f"The custom_id '{custom_id}' is duplicated."
            yield _problem("duplicate_custom_id", message, None)
    if len({str(line["body"].get("model")) for line in lines}) > 1:
        yield _problem("mismatched_model", "All requests must name the same model.", None)


def _problem(code: str, message: str, line: int | None) -> Document:
    return {"code": code, "message": message, "param": None, "line": line}


def _not_found(message: str) -> Fault:
    body = json.dumps(faults.error_body(message, "invalid_request_error")).encode()
    return Fault("not_found", False, 404, body)


def _check_create(body: Any) -> None:
    if not isinstance(body, dict):
        raise Refusal(faults.invalid("The body must be a JSON object."))
    for name in ("input_file_id", "endpoint", "completion_window"):
        if not isinstance(body.get(name), str):
            raise Refusal(faults.invalid(f"Missing required parameter: '{name}'.", name))
    if body["completion_window"] != "24h":
        raise Refusal(faults.invalid("Only '24h' is possible.", "completion_window"))
    if body["endpoint"] != CHAT:
        raise Refusal(faults.invalid("This endpoint is not offered here.", "endpoint"))
    metadata = body.get("metadata") or {}
    long = [k for k, v in metadata.items() if len(k) > 64 or len(str(v)) > 512]
    if len(metadata) > 16 or long:
        raise Refusal(faults.invalid("Metadata is too large.", "metadata"))


def _not_done(line: Mapping[str, Any], outcome: str) -> Document:
    why = {
        "expired": (
            "batch_expired",
            "This request could not be executed before the batch expired.",
        ),
        "cancelled": ("batch_cancelled", "This request was cancelled with its batch."),
    }
    code, message = why[outcome]
    return {
        "id": f"batch_req_{line['custom_id']}",
        "custom_id": line["custom_id"],
        "response": None,
        "error": {"code": code, "message": message},
    }


def _disordered(rows: list[Document], plan: BatchPlan) -> Iterator[Document]:
    rows = [*rows, *rows[: plan.duplicates]]
    if rows:
        rows += [{**rows[0], "custom_id": f"nobody-sent-{i}"} for i in range(plan.unknown)]
    if plan.shuffled:
        random.Random(len(rows)).shuffle(rows)
    yield from rows


def _usage(done: Sequence[_Done]) -> Document:
    billed = Billed(*map(sum, zip(NOTHING, *(line.billed for line in done), strict=True)))
    return {
        "input_tokens": billed.prompt,
        "input_tokens_details": {"cached_tokens": billed.cached},
        "output_tokens": billed.completion,
        "output_tokens_details": {"reasoning_tokens": billed.reasoning},
        "total_tokens": billed.prompt + billed.completion,
    }


def _json_or_text(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace")
