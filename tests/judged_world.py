"""What the judge's tests share: requests whose grades are planted, prices, runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from annotator.signals.judges.client import ClientSettings
from annotator.signals.judges.grades import grade
from annotator.signals.judges.prices import Price
from annotator.signals.judges.reply import ChatRequest, Reply
from annotator.signals.judges.runner import RunReport, RunSettings, run_calls
from tests.openai_server import OpenAIServer
from tests.openai_server import Price as ServerPrice

PRICE = Price(0.15, 0.075, 0.15, 0.60, date(2026, 1, 1))
SERVER_PRICE = ServerPrice(0.15, 0.075, 0.15, 0.60)
PARAMS: dict[str, Any] = {
    "logprobs": True,
    "max_completion_tokens": 8,
    "temperature": 0,
    "top_logprobs": 10,
}
# Waits of milliseconds, so that a test with ten failures does not take a minute.
QUICK = RunSettings(concurrency=8, timeout=5.0, pause=0.01, price=PRICE)


def asking(i: int, model: str = "judge", said: str = "", **params: Any) -> ChatRequest:
    """A request to grade response i, whose planted grade is 1 + i % 5."""
    text = f"Response {i} {said} [[grade {1 + i % 5}]]"
    messages = (("system", "Grade the response from 1 to 5."), ("user", text))
    return ChatRequest(model, messages, tuple((PARAMS | params).items()))


def by_logprobs(reply: Reply) -> None:
    """An answer is a grade from log-probs."""
    grade([reply], "logprobs")


def where(server: OpenAIServer) -> ClientSettings:
    """The server, and a key that it accepts."""
    return ClientSettings(server.url, server.key or "sk-any")


def judge(
    db: Database,
    server: OpenAIServer,
    requests: Iterable[ChatRequest],
    settings: RunSettings = QUICK,
    check: Callable[[Reply], None] = by_logprobs,
    **changes: Any,
) -> RunReport:
    """One run; `changes` are settings that differ."""
    path = Path(db.execute("PRAGMA database_list").fetchone()[2])
    return run_calls(db, path, requests, where(server), replace(settings, **changes), check)


def states(db: Database) -> dict[str, int]:
    """How many calls are in each state."""
    query = "SELECT state, count(*) FROM judge_calls GROUP BY state"
    return dict(db.execute(query).fetchall())


def statuses(db: Database) -> dict[str, int]:
    """How many attempts ended in each way."""
    query = "SELECT status, count(*) FROM judge_attempts GROUP BY status"
    return dict(db.execute(query).fetchall())


def assert_books_agree(db: Database, server: OpenAIServer) -> None:
    """No request is missing from our ledger, and no cent; nothing is left open."""
    known, reserved, attempts = db.execute(
        """SELECT sum(coalesce(cost_microusd, 0)),
        sum(CASE WHEN cost_microusd IS NULL THEN reserved_microusd ELSE 0 END), count(*)
        FROM judge_attempts"""
    ).fetchone()
    assert attempts >= server.ledger.count()
    assert known <= server.ledger.billed_microusd <= known + reserved
    assert not db.execute("SELECT 1 FROM judge_attempts WHERE status = 'open'").fetchall()
    assert not db.execute("SELECT 1 FROM judge_calls WHERE state = 'sent'").fetchall()
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
