"""Requests for batches, and what our ledger and the server's say of them, for tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from annotator.signals.judges.batches import COMPLETION_HOURS, BatchReport, run_batches
from annotator.signals.judges.client import ClientSettings
from annotator.signals.judges.grades import grade
from annotator.signals.judges.ledger import stored_replies
from annotator.signals.judges.prices import Price
from annotator.signals.judges.reply import ChatRequest, Reply
from annotator.signals.judges.runner import RunSettings
from annotator.store import writing
from tests.openai_server import OpenAIServer

# The server's own price, and the half of it that it asks for a batch's lines.
PRICE = Price(0.15, 0.075, 0.15, 0.60, date(2026, 1, 1), batch=0.5)
POLL_SECONDS = 0.01
PURPOSE = "judge:grades"


def request(text: str, model: str = "judge") -> ChatRequest:
    """A request for one grade; "[[grade 4.3]]" in the text plants it."""
    params = (
        ("logprobs", True),
        ("max_completion_tokens", 8),
        ("temperature", 0),
        ("top_logprobs", 10),
    )
    return ChatRequest(model, (("system", "One integer from 1 to 5."), ("user", text)), params)


def some_requests(n: int) -> list[ChatRequest]:
    """Requests of uneven length, some beyond ASCII."""
    return [
        request(f"[[grade {1.5 + i % 4 * 0.8:.1f}]] № {i} " + "ä" * (i * 37 % 101))
        for i in range(n)
    ]


def check(reply: Reply) -> None:
    """Raises Unparsable or Refused unless the reply is a grade."""
    grade([reply], "logprobs")


def some_settings(**changes: Any) -> RunSettings:
    """Settings under which nothing waits for long."""
    return RunSettings(**{"price": PRICE, "pause": 0.01, "timeout": 20.0, **changes})


def ask_in_batches(
    db: Database,
    database: Path,
    server: OpenAIServer,
    requests: Sequence[ChatRequest],
    *,
    wait: bool = True,
    purpose: str = PURPOSE,
    weigh: Callable[[Reply], None] = check,
    **changes: Any,
) -> BatchReport:
    """One run; the progress it tells is the number of requests that its report counts."""
    told: list[int] = []
    report = run_batches(
        db,
        database,
        iter(requests),
        ClientSettings(server.url, server.key),
        some_settings(**changes),
        weigh,
        told.append,
        purpose=purpose,
        wait=wait,
        poll_seconds=POLL_SECONDS,
    )
    assert sum(told) == counted(report)
    assert_ends_add_up(report)
    return report


def counted(report: BatchReport) -> int:
    """The requests that a report counts, by whatever name."""
    answered = report.ok + report.refused + report.parse_error + report.api_error
    kept_back = report.budget + report.parked + report.unanswered + report.in_batch
    return answered + kept_back + report.cached + report.repeated


def assert_ends_add_up(report: BatchReport) -> None:
    """ok + refused + parse_error + api_error + requeued is the number of each batch's calls."""
    for end in report.ends:
        parts = (end.ok, end.refused, end.parse_error, end.api_error, end.requeued)
        assert sum(parts) == end.n_calls, end


def states(db: Database) -> dict[str, int]:
    """Calls by state."""
    return dict(db.execute("SELECT state, count(*) FROM judge_calls GROUP BY state").fetchall())


def batch_states(db: Database) -> dict[str, int]:
    """Batches by state."""
    return dict(db.execute("SELECT state, count(*) FROM judge_batches GROUP BY state").fetchall())


def let_a_day_pass(db: Database) -> None:
    """Nothing has been heard of any batch for the time that the vendor has for one."""
    then = datetime.now(UTC) - timedelta(hours=COMPLETION_HOURS, seconds=1)
    moment = then.isoformat(timespec="microseconds")
    with writing(db):
        db.execute("UPDATE judge_batches SET updated_at = ?", [moment])


def on_record(db: Database) -> int:
    """Micro-dollars of all attempts, unknown costs at their reservation."""
    row = db.execute(
        "SELECT coalesce(sum(coalesce(cost_microusd, reserved_microusd)), 0) FROM judge_attempts"
    ).fetchone()
    return int(row[0])


def unknown_costs(db: Database) -> int:
    """Attempts whose reservation stands."""
    row = db.execute("SELECT count(*) FROM judge_attempts WHERE cost_microusd IS NULL").fetchone()
    return int(row[0])


def sent_lines(server: OpenAIServer) -> list[list[str]]:
    """The ids in each batch that the server has, in the order of their creation."""
    return [[line["custom_id"] for line in batch.lines] for batch in server.batches.values()]


def files_left(database: Path) -> list[str]:
    """Names of the files that wait beside the database."""
    folder = database.with_name(f"{database.name}.batches")
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def assert_all_answered(
    db: Database, server: OpenAIServer, requests: Sequence[ChatRequest]
) -> None:
    """Every request has its answer, and nothing is left behind."""
    host = server.url.removeprefix("http://")
    replies = list(stored_replies(db, host, requests))
    assert all(reply is not None for reply in replies)
    for one, reply in zip(requests, replies, strict=True):
        assert reply is not None
        planted = one.messages[-1][1].split("]]")[0].removeprefix("[[grade ")
        assert abs(grade([reply], "logprobs").mean - float(planted)) < 0.02
    assert states(db) == {"ok": len(requests)}
    assert set(batch_states(db)) == {"ingested"}


def lines_done(server: OpenAIServer) -> Counter[str]:
    """How often the server has worked on each id."""
    return Counter(line.custom_id for line in server.ledger.batch_lines if line.status == 200)
