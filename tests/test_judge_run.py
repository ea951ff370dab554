"""Runs of the judge against a server that goes wrong: nothing lost, nothing invented, no overspend.

The numbers in the names of sections are rows of the project's table of faults.
"""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlite_utils import Database

from annotator.errors import (
    JudgeBudget,
    JudgeDenied,
    JudgeNoModel,
    JudgeQuota,
    JudgeUnsupported,
    StoreBusy,
    StoreError,
)
from annotator.signals.judges.capabilities import Findings, known_findings, record_findings
from annotator.signals.judges.grades import grade
from annotator.signals.judges.ledger import (
    NOT_SENT,
    Ledger,
    judging_lock,
    spending,
    stored_replies,
)
from annotator.signals.judges.reply import ChatRequest, Reply
from annotator.signals.judges.runner import RunReport, run_calls
from annotator.signals.judges.throttle import SUCCESSES, Throttle
from annotator.store import open_db
from tests.judged_world import (
    QUICK,
    SERVER_PRICE,
    asking,
    assert_books_agree,
    by_logprobs,
    judge,
    states,
    statuses,
    where,
)
from tests.openai_server import Fault, OpenAIServer, faults, serving


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with serving(price=SERVER_PRICE) as started:
        yield started


def calls(n: int, **more: Any) -> list[ChatRequest]:
    return [asking(i, **more) for i in range(n)]


def grades_of(db: Database, server: OpenAIServer, requests: list[ChatRequest]) -> list[float]:
    """The mean that is read back for each request; NaN where there is none."""
    replies = stored_replies(db, f"{server.host}/v1", requests)
    return [grade([reply], "logprobs").mean if reply else math.nan for reply in replies]


def assert_all_graded(db: Database, server: OpenAIServer, requests: list[ChatRequest]) -> None:
    """Each has its own planted grade, not its neighbour's."""
    planted = [1 + int(request.messages[1][1].split()[1]) % 5 for request in requests]
    assert grades_of(db, server, requests) == pytest.approx(planted, abs=1e-6)


def total(report: RunReport) -> int:
    """Requests counted, in whatever way."""
    known = report.ok + report.cached + report.repeated + report.in_batch
    return known + report.incomplete


# A run


def test_each_request_is_sent_once_and_its_own_answer_is_kept(
    db: Database, server: OpenAIServer
) -> None:
    requests = calls(100)
    report = judge(db, server, iter(requests))
    assert (report.ok, report.sent, report.stopped) == (100, 100, None)
    assert report.models == {"judge"}
    assert_all_graded(db, server, requests)
    assert server.ledger.count() == 100
    assert server.ledger.repeated() == 0
    assert_books_agree(db, server)


def test_the_bill_is_the_servers_to_the_micro_dollar(db: Database, server: OpenAIServer) -> None:
    report = judge(db, server, calls(40))
    assert report.unknown_cost == 0
    assert report.cost_usd == pytest.approx(server.ledger.billed_microusd / 1e6, abs=1e-12)
    found = spending(db)
    assert found.known == server.ledger.billed_microusd
    assert found.prompt_tokens == server.ledger.billed.prompt
    assert found.completion_tokens == server.ledger.billed.completion


def test_what_is_on_record_is_not_asked_again(db: Database, server: OpenAIServer) -> None:
    judge(db, server, calls(30))
    server.ledger.clear()
    report = judge(db, server, calls(40))
    assert (report.cached, report.ok, report.sent) == (30, 10, 10)
    assert server.ledger.count() == 10


def test_another_host_or_parameter_is_another_call(db: Database, server: OpenAIServer) -> None:
    judge(db, server, calls(3))
    assert judge(db, server, calls(3, seed=1)).sent == 3
    with serving() as other:
        assert judge(db, other, calls(3)).sent == 3


def test_a_request_that_comes_twice_is_sent_once(db: Database, server: OpenAIServer) -> None:
    requests = [asking(i % 10) for i in range(200)]
    random.Random(1).shuffle(requests)
    report = judge(db, server, requests)
    assert (report.ok, report.sent) == (10, 10)
    # Whether the first has its answer by then or not.
    assert (report.repeated, report.cached) == (190, 0)
    assert server.ledger.count() == 10
    again = judge(db, server, requests)
    assert (again.repeated, again.cached, again.sent) == (190, 10, 0)


def test_no_more_are_out_than_configured_and_requests_are_taken_as_needed(db: Database) -> None:
    taken = []

    def endless() -> Iterator[ChatRequest]:
        for i in range(100_000):
            taken.append(i)
            yield asking(i)

    with serving(latency=0.02) as server:
        server.script([faults.none()] * 30 + [faults.quota()])
        judge(db, server, endless(), concurrency=4)
        assert server.ledger.most_in_flight == 4
    assert len(taken) < 300


def test_a_broken_source_of_requests_loses_no_answer(db: Database, server: OpenAIServer) -> None:
    def breaking() -> Iterator[ChatRequest]:
        yield from calls(100)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        judge(db, server, breaking())
    done = states(db).get("ok", 0)
    assert done == server.ledger.count() >= 1
    assert_books_agree(db, server)


def test_a_broken_check_keeps_the_answer_that_was_paid_for(
    db: Database, server: OpenAIServer
) -> None:
    def broken(reply: Reply) -> None:
        raise KeyError("ours")

    with pytest.raises(KeyError):
        judge(db, server, calls(50), check=broken)
    assert set(states(db)) <= {"parse_error", "pending"}
    assert server.ledger.count() <= QUICK.concurrency
    rows = db.execute("SELECT reply FROM judge_calls WHERE state = 'parse_error'").fetchall()
    assert all(json.loads(raw)["choices"] for (raw,) in rows)
    assert judge(db, server, calls(50)).ok == 50


# 12: 429


@pytest.mark.parametrize(
    ("fault", "at_least"),
    [
        (faults.busy(retry_after=1), 1.0),
        (faults.busy(retry_after_ms=600), 0.6),
        (faults.busy(retry_date=2), 1.0),  # dates have whole seconds
        (faults.busy(retry_after="garbage"), 0.0),
        (faults.busy(), 0.0),
        (faults.error(503), 0.0),
    ],
    ids=["seconds", "milliseconds", "date", "garbage", "absent", "503"],
)
def test_a_busy_server_is_left_alone_for_as_long_as_it_says(
    db: Database, server: OpenAIServer, fault: Fault, at_least: float
) -> None:
    server.script([fault], when="Response 3 ")
    requests = calls(12)
    report = judge(db, server, requests)
    assert (report.ok, report.sent) == (12, 13)
    assert_all_graded(db, server, requests)
    first, second = [a for a in server.ledger.chats if "Response 3 " in json.dumps(a.body)]
    assert second.arrived_at - (first.answered_at or 0) >= at_least
    assert_books_agree(db, server)


@pytest.mark.parametrize(
    "fault", [faults.busy(retry_after=300), faults.busy(retry_date=300)], ids=["seconds", "date"]
)
def test_what_has_to_wait_for_long_is_put_off_and_the_run_goes_on(
    db: Database, server: OpenAIServer, fault: Fault
) -> None:
    server.script([fault], when="Response 3 ")
    report = judge(db, server, calls(30))
    assert (report.ok, report.parked, report.sent) == (29, 1, 30)
    assert report.seconds < 30
    state, due_at = db.execute(
        "SELECT state, due_at FROM judge_calls WHERE state <> 'ok'"
    ).fetchone()
    away = (datetime.fromisoformat(due_at) - datetime.now(UTC)).total_seconds()
    assert state == "pending"
    assert 240 < away < 340
    # Before its time it is not sent, at its time it is.
    assert judge(db, server, calls(30)).parked == 1
    assert server.ledger.count() == 30
    db.execute("UPDATE judge_calls SET due_at = '2020-01-01T00:00:00.000000+00:00' WHERE due_at")
    assert judge(db, server, calls(30)).ok == 1
    assert_all_graded(db, server, calls(30))


def test_a_429_does_not_use_up_the_attempts(db: Database, server: OpenAIServer) -> None:
    server.script([faults.busy(retry_after_ms=5)] * 9, when="Response 0 ")
    report = judge(db, server, calls(1), retries=0)
    assert (report.ok, report.sent) == (1, 10)


def test_a_server_that_takes_few_at_once_loses_none(db: Database) -> None:
    with serving(latency=0.01, at_most=3) as server:
        report = judge(db, server, calls(200), concurrency=32, retries=0)
        assert report.ok == 200
        assert_books_agree(db, server)


def test_a_server_that_is_busy_for_good_is_given_up(db: Database, server: OpenAIServer) -> None:
    server.always(faults.busy(retry_after=300))
    report = judge(db, server, calls(500))
    assert report.stopped is not None
    assert report.parked >= QUICK.give_up_after
    assert server.ledger.count() < 60
    assert states(db) == {"pending": report.sent}


def test_half_as_many_after_a_429_and_one_more_after_fifty_successes() -> None:
    throttle = Throttle(64)
    before = time.monotonic() - 1.0
    throttle.busy(time.monotonic())
    throttle.busy(before)  # went out before that cut: it says nothing new
    assert throttle.limit == 32
    for _ in range(SUCCESSES):
        throttle.success()
    assert throttle.limit == 33
    for _ in range(20):
        throttle.busy(time.monotonic())
    assert throttle.limit == 1
    for _ in range(200 * SUCCESSES):
        throttle.success()
    assert throttle.limit == 64


# 13: the run ends at once


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (faults.quota(), JudgeQuota),
        (faults.wrong_key(), JudgeDenied),
        (faults.no_model(), JudgeNoModel),
        (faults.unsupported("top_logprobs"), JudgeUnsupported),
    ],
    ids=["quota", "key", "model", "parameter"],
)
def test_nothing_more_is_sent_when_it_cannot_succeed(
    db: Database, server: OpenAIServer, fault: Fault, problem: type[Exception]
) -> None:
    server.script([None] * 20)
    server.always(fault)
    report = judge(db, server, calls(2000))
    assert isinstance(report.problem, problem)
    assert report.stopped == str(report.problem)
    refusals = server.ledger.count(fault=fault.name)
    assert 1 <= refusals <= QUICK.concurrency
    # The calls are not at fault: they wait, and no cent is held against them.
    left = statuses(db).get(NOT_SENT, 0)  # on record, and called back in time
    assert states(db) == {"ok": 20, "pending": refusals + left}
    assert spending(db).n_attempts == 20 + refusals
    assert spending(db).known == server.ledger.billed_microusd
    assert spending(db).reserved == 0
    server.clear()
    assert judge(db, server, calls(60)).ok == 40
    assert_all_graded(db, server, calls(60))


def test_what_is_on_record_when_the_run_ends_is_called_back(
    db: Database, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit of one request lasts until another has been told that the money is gone."""
    write = Ledger.write
    late_key = asking(2).key(f"{server.host}/v1")

    def slow_write(self: Ledger, closings: Any, claims: Any, **more: Any) -> Any:
        if any(claim.key == late_key for claim in claims):
            until(lambda: server.ledger.count(status=429) == 1)
            time.sleep(1.0)
        return write(self, closings, claims, **more)

    monkeypatch.setattr(Ledger, "write", slow_write)
    server.script([replace(faults.quota(), delay=1.0)], when="Response 1 ")
    report = judge(db, server, calls(50), concurrency=2)
    assert isinstance(report.problem, JudgeQuota)
    assert (report.sent, server.ledger.count()) == (2, 2)
    assert statuses(db) == {"ok": 1, "429": 1, NOT_SENT: 1}
    assert spending(db).n_attempts == 2
    assert states(db) == {"ok": 1, "pending": 2}


def test_a_refused_parameter_has_the_server_probed_anew(db: Database, server: OpenAIServer) -> None:
    record_findings(db, Findings(f"{server.host}/v1", "judge", model_returned="judge"))
    judge(db, server, calls(5))
    assert known_findings(db, f"{server.host}/v1", "judge")
    server.script([faults.unsupported("logprobs")])
    judge(db, server, calls(10))
    assert known_findings(db, f"{server.host}/v1", "judge") is None


def test_another_model_behind_the_name_is_probed_anew_and_told(
    db: Database, server: OpenAIServer
) -> None:
    record_findings(db, Findings(f"{server.host}/v1", "renamed", model_returned="renamed-2025"))
    report = judge(db, server, calls(5, model="renamed"))
    assert report.ok == 5
    assert report.models == {"renamed-2026-01-01"}
    assert report.probed_as == {"renamed-2025"}
    assert known_findings(db, f"{server.host}/v1", "renamed") is None


def test_a_server_that_is_gone_is_given_up(db: Database) -> None:
    with serving() as server:
        pass
    report = judge(db, server, calls(500), retries=1)
    assert report.stopped is not None
    assert "in a row" in report.stopped
    assert QUICK.give_up_after <= report.api_error <= QUICK.give_up_after + QUICK.concurrency
    # Surely not billed: a cap would not be used up by it.
    assert spending(db).reserved == 0


# 14, 15, 16: no answer, or half of one


def test_an_answer_that_comes_too_late_is_on_record_as_maybe_billed(
    db: Database, server: OpenAIServer
) -> None:
    server.script([faults.late(20.0)], when="Response 2 ")
    report = judge(db, server, calls(6), timeout=0.5)
    assert (report.ok, report.sent, report.unknown_cost) == (6, 7, 1)
    assert server.ledger.repeated() == 1
    # Two charges at the server; one known cost and one reservation with us; one result.
    known, reserved = spending(db).known, spending(db).reserved
    assert known < server.ledger.billed_microusd <= known + reserved
    assert statuses(db) == {"ok": 6, "no answer": 1}
    assert_all_graded(db, server, calls(6))


def test_a_black_hole_costs_no_more_than_the_configured_time(
    db: Database, server: OpenAIServer
) -> None:
    server.always(faults.black_hole())
    started = time.monotonic()
    report = judge(db, server, calls(8), timeout=0.3, retries=1)
    assert time.monotonic() - started < 10
    assert (report.api_error, report.sent) == (8, 16)


@pytest.mark.parametrize(
    "fault",
    [
        faults.cut(50),
        faults.reset(),
        faults.reset(after=30),
        faults.drip(20.0),
        faults.error(500),
        faults.error(500, works=True),
        faults.html(502),
        faults.gzip_bomb(64),
    ],
    ids=lambda fault: fault.name,
)
def test_what_breaks_off_is_sent_again(db: Database, server: OpenAIServer, fault: Fault) -> None:
    server.script([fault] * 3, when="Response 1 ")
    requests = calls(5)
    report = judge(db, server, requests, timeout=1.0)
    assert (report.ok, report.sent) == (5, 8)
    assert_all_graded(db, server, requests)
    assert_books_agree(db, server)


def test_what_breaks_off_each_time_stays_visible_and_is_no_result(
    db: Database, server: OpenAIServer
) -> None:
    server.always(faults.cut(50), when="Response 1 ")
    report = judge(db, server, calls(5), retries=2)
    assert (report.ok, report.api_error, report.sent) == (4, 1, 7)
    assert states(db) == {"ok": 4, "api_error": 1}
    assert math.isnan(grades_of(db, server, calls(5))[1])
    server.clear()
    assert judge(db, server, calls(5), retry_errors=False).api_error == 1
    again = judge(db, server, calls(5))
    assert (again.ok, again.cached) == (1, 4)
    assert_all_graded(db, server, calls(5))


def test_a_request_that_fails_and_comes_again_in_the_same_run_has_had_its_chance(
    db: Database, server: OpenAIServer
) -> None:
    server.always(faults.cut(50), when="Response 0 ")
    # Far enough apart for the first to have failed for good by then.
    requests = [asking(0), *calls(300)[1:], asking(0)]
    report = judge(db, server, requests, retries=1)
    assert (report.ok, report.api_error, report.repeated) == (299, 1, 1)
    assert report.sent == 301


# 17: answers that are none

MALFORMED = [
    faults.html(),
    faults.bad_json(),
    faults.choices_null(),
    faults.choices_empty(),
    faults.message_missing(),
]
UNUSABLE = [
    faults.content_empty(),
    faults.content_null(),
    faults.grades("11"),
    faults.grades("0"),
    faults.says("4/5"),
    faults.says("I would rather not say."),
    faults.without_logprobs(),
    faults.weak_mass(0.5),
]
ODD = [*MALFORMED, *UNUSABLE]


@pytest.mark.parametrize("fault", ODD, ids=lambda fault: fault.name)
def test_an_answer_that_cannot_be_read_is_retried_then_left_visible(
    db: Database, server: OpenAIServer, fault: Fault
) -> None:
    server.always(fault, when="Response 3 ")
    report = judge(db, server, calls(8, temperature=1), retries=2)
    assert (report.ok, report.parse_error, report.sent) == (7, 1, 10)
    state, raw, error = db.execute(
        "SELECT state, reply, error FROM judge_calls WHERE state <> 'ok'"
    ).fetchone()
    assert state == "parse_error"
    assert raw
    assert error
    found = grades_of(db, server, calls(8, temperature=1))
    assert [math.isnan(mean) for mean in found] == [i == 3 for i in range(8)]
    assert_books_agree(db, server)


@pytest.mark.parametrize("retries", [0, 1, 4])
@pytest.mark.parametrize("fault", UNUSABLE, ids=lambda fault: fault.name)
def test_an_answer_that_comes_alike_each_time_is_not_bought_again_and_again(
    db: Database, server: OpenAIServer, fault: Fault, retries: int
) -> None:
    server.always(fault, when="Response 3 ")
    report = judge(db, server, calls(8), retries=retries)
    assert (report.ok, report.parse_error, report.sent) == (7, 1, 8 + min(retries, 1))
    again = judge(db, server, calls(8), retries=retries)
    assert (again.cached, again.parse_error, again.sent) == (7, 1, 1)
    assert judge(db, server, calls(8), retry_errors=False).sent == 0
    server.clear()
    assert judge(db, server, calls(8)).ok == 1
    assert_books_agree(db, server)


@pytest.mark.parametrize("fault", MALFORMED, ids=lambda fault: fault.name)
def test_what_is_no_completion_is_the_servers_affair_at_any_temperature(
    db: Database, server: OpenAIServer, fault: Fault
) -> None:
    server.always(fault, when="Response 3 ")
    for _ in range(2):
        assert judge(db, server, calls(8), retries=3).parse_error == 1
    assert server.ledger.count() == 7 + 2 * 4


@pytest.mark.parametrize("fault", ODD, ids=lambda fault: fault.name)
def test_an_answer_that_can_be_read_the_second_time_is_taken(
    db: Database, server: OpenAIServer, fault: Fault
) -> None:
    server.script([fault], when="Response 3 ")
    assert judge(db, server, calls(8)).ok == 8
    assert_all_graded(db, server, calls(8))


@pytest.mark.parametrize(
    "fault",
    [faults.refusal(), faults.content_filter(), faults.too_long(), faults.filtered_prompt()],
    ids=lambda fault: fault.name,
)
def test_a_refusal_is_final_and_no_grade(db: Database, server: OpenAIServer, fault: Fault) -> None:
    server.always(fault, when="Response 3 ")
    report = judge(db, server, calls(8))
    assert (report.ok, report.refused, report.sent) == (7, 1, 8)
    server.clear()
    again = judge(db, server, calls(8))
    assert (again.cached, again.refused, again.sent) == (7, 1, 0)
    assert math.isnan(grades_of(db, server, calls(8))[3])


def test_eighteen_answers_of_twenty_are_not_twenty(db: Database, server: OpenAIServer) -> None:
    def all_twenty(reply: Reply) -> None:
        if len(reply.choices) < 20:
            raise ValueError(f"{len(reply.choices)} answers of 20")

    twenty = [asking(0, n=20, temperature=1)]
    server.script([faults.fewer_choices(by=2)])
    report = judge(db, server, twenty, check=all_twenty)
    assert (report.ok, report.sent) == (1, 2)
    (reply,) = stored_replies(db, f"{server.host}/v1", twenty)
    assert reply is not None
    assert len(reply.choices) == 20


def test_a_model_that_never_answers_as_asked_is_not_paid_for_everything(
    db: Database, server: OpenAIServer
) -> None:
    report = judge(db, server, calls(2000, model="prose"), retries=1)
    assert report.stopped is not None
    assert report.ok == 0
    assert server.ledger.count() <= 2 * (QUICK.give_up_after + 2 * QUICK.concurrency)


MISHAPS = [*ODD, faults.refusal(), faults.cut(50), faults.reset(), faults.error(500), faults.busy()]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(script=st.lists(st.none() | st.sampled_from(MISHAPS), max_size=60), n=st.integers(1, 40))
def test_whatever_happens_every_request_is_accounted_for(
    script: list[Fault | None], n: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    db = open_db(tmp_path_factory.mktemp("run") / "annotator.db", create=True)
    with serving(price=SERVER_PRICE) as server:
        server.script(script)
        report = judge(db, server, calls(n), retries=2)
        assert total(report) == n
        assert report.sent == server.ledger.count()
        assert sum(states(db).values()) == n
        assert report.repeated == 0
        assert set(states(db)) <= {"ok", "refused", "parse_error", "api_error"}
        assert_books_agree(db, server)
        server.clear()
        again = judge(db, server, calls(n))
        assert again.ok + again.cached + again.refused == n
        means = grades_of(db, server, calls(n))
        known = [(mean, 1 + i % 5) for i, mean in enumerate(means) if not math.isnan(mean)]
        assert len(known) == n - again.refused
        assert all(mean == pytest.approx(planted, abs=1e-6) for mean, planted in known)
    db.close()


# 18: log-probs


def test_log_probs_that_stop_coming_are_no_bare_grade(db: Database, server: OpenAIServer) -> None:
    """The server forgets them in the middle of a run: those calls fail, none means less."""
    server.always(faults.without_logprobs(), share=0.3)
    report = judge(db, server, calls(60), retries=0)
    assert report.parse_error > 0
    assert report.ok + report.parse_error == 60
    errors = db.execute("SELECT DISTINCT error FROM judge_calls WHERE state = 'parse_error'")
    assert all("no log-probs" in error for (error,) in errors)


# 20: money


@pytest.mark.parametrize("concurrency", [1, 32])
def test_the_cap_is_never_passed(db: Database, concurrency: int) -> None:
    with serving(latency=0.01, price=SERVER_PRICE) as server:
        one = spending_of_one(server)
        cap = 60.5 * one / 1e6
        report = judge(db, server, calls(400), concurrency=concurrency, max_cost=cap)
        assert isinstance(report.problem, JudgeBudget)
        assert server.ledger.billed_microusd <= cap * 1e6
        # Reservations are given back as answers come: the cap is used, not only kept.
        assert report.ok >= 40
        assert report.ok + report.budget == 400
        assert states(db) == {"ok": report.ok, "budget": report.budget}
        assert_books_agree(db, server)
        more = judge(db, server, calls(400), concurrency=concurrency, max_cost=1.0)
        assert (more.ok, more.cached) == (report.budget, report.ok)
        assert_all_graded(db, server, calls(400))


def spending_of_one(server: OpenAIServer) -> int:
    """Micro-dollars that one call is billed, measured in a database of its own."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        other = open_db(Path(folder) / "other.db", create=True)
        judge(other, server, calls(1))
        other.close()
    billed = server.ledger.billed_microusd
    server.ledger.clear()
    return billed


def test_the_cap_holds_where_answers_are_lost_and_sent_again(db: Database) -> None:
    with serving(latency=0.005, price=SERVER_PRICE) as server:
        server.always(faults.cut(50), share=0.3)
        report = judge(db, server, calls(300), concurrency=32, max_cost=0.005)
        assert report.budget > 0
        assert server.ledger.billed_microusd <= 5000
        assert_books_agree(db, server)


def test_a_cap_without_a_price_is_refused_before_anything_is_sent(
    db: Database, server: OpenAIServer
) -> None:
    with pytest.raises(JudgeBudget, match="no price"):
        judge(db, server, calls(3), price=None, max_cost=1.0)
    unbounded = [ChatRequest("judge", asking(i).messages, (("logprobs", True),)) for i in range(3)]
    with pytest.raises(JudgeBudget, match="max_completion_tokens"):
        judge(db, server, unbounded, max_cost=1.0)
    assert server.ledger.arrivals == []


def test_a_server_that_bills_more_than_is_possible_ends_a_run_with_a_cap(db: Database) -> None:
    """It ignores the limit on its answer; what is out is the most that can be lost."""

    def doubled(document: dict[str, Any]) -> dict[str, Any]:
        document["usage"]["completion_tokens"] = 5000
        return document

    with serving(latency=0.02) as server:
        server.always(Fault("over the limit", change=doubled))
        report = judge(db, server, calls(200), max_cost=1.0)
        assert isinstance(report.problem, JudgeBudget)
        assert server.ledger.count() <= 2 * QUICK.concurrency


def test_an_unknown_cost_stays_unknown(db: Database, server: OpenAIServer) -> None:
    report = judge(db, server, calls(4, model="no-usage"))
    assert (report.ok, report.unknown_cost, report.cost_usd) == (4, 4, 0.0)
    assert db.execute("SELECT DISTINCT cost_microusd FROM judge_attempts").fetchall() == [(None,)]
    no_price = judge(db, server, [asking(i) for i in range(10, 14)], price=None)
    assert (no_price.ok, no_price.unknown_cost, no_price.cost_usd) == (4, 4, None)
    assert spending(db).unpriced == 4


@pytest.mark.parametrize(("prompt", "completion"), [(10**30, 1), (0, 0), (0, 1)])
def test_a_usage_that_cannot_be_true_is_unknown(
    db: Database, server: OpenAIServer, prompt: int, completion: int
) -> None:
    def absurd(document: dict[str, Any]) -> dict[str, Any]:
        document["usage"] = {"prompt_tokens": prompt, "completion_tokens": completion}
        return document

    server.script([Fault("absurd", change=absurd)])
    report = judge(db, server, calls(1))
    assert (report.ok, report.unknown_cost) == (1, 1)
    (most,) = db.execute("SELECT reserved_microusd FROM judge_attempts").fetchone()
    assert spending(db).known == 0
    assert spending(db).reserved == most > 0


def test_the_cap_counts_what_was_sent_while_no_price_was_known(db: Database) -> None:
    with serving(price=SERVER_PRICE) as server:
        judge(db, server, calls(20), price=None)
        billed = server.ledger.billed_microusd
        report = judge(db, server, calls(40), max_cost=(billed - 1) / 1e6)
        assert isinstance(report.problem, JudgeBudget)
        assert (report.cached, report.budget, report.sent) == (20, 20, 0)
        assert (spending(db).known, spending(db).unpriced) == (billed, 0)
        # With room for some more, some more are sent, and the cap holds for all together.
        cap = 4 * billed / 1e6
        more = judge(db, server, calls(400), max_cost=cap)
        assert more.ok > 0
        assert more.budget > 0
        assert server.ledger.billed_microusd <= cap * 1e6


def test_a_cap_is_refused_where_nothing_is_known_of_earlier_cost(
    db: Database, server: OpenAIServer
) -> None:
    judge(db, server, calls(2), price=None)
    judge(db, server, calls(3, model="no-usage"), price=None)
    sent = server.ledger.count()
    with pytest.raises(JudgeBudget, match=r"3 earlier requests .*\(3 to no-usage\)") as caught:
        judge(db, server, calls(9), max_cost=100.0)
    assert "leave --max-cost out" in caught.value.todo
    assert server.ledger.count() == sent
    assert judge(db, server, calls(9)).ok == 7


# 1, 27: stopping

_JUDGING = """
import sys
from pathlib import Path
from dataclasses import replace
from annotator.signals.judges.client import ClientSettings
from annotator.signals.judges.runner import run_calls
from annotator.store import open_db
from tests.judged_world import QUICK, asking, by_logprobs

path, url, n = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
db = open_db(path)
print("judging", flush=True)
report = run_calls(db, path, (asking(i) for i in range(n)), ClientSettings(url, "sk-any"),
                   replace(QUICK, timeout=20.0), by_logprobs)
print(report.ok, report.sent, report.interrupted, flush=True)
sys.exit(130 if report.interrupted else 0)
"""


def start_judging(path: Path, url: str, n: int) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", _JUDGING, str(path), url, str(n)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[1],
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "judging\n"
    return child


def until(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_lets_what_is_out_come_in(
    db: Database, tmp_path: Path, number: signal.Signals
) -> None:
    with serving(latency=0.5) as server:
        child = start_judging(tmp_path / "annotator.db", server.url, 500)
        until(lambda: server.ledger.count() >= 20)
        child.send_signal(number)
        said, errors = child.communicate(timeout=60)
        assert child.returncode == 130, errors
        n = server.ledger.count()
        assert said.split() == [str(n), str(n), "True"]
        assert n <= 40
        assert states(db).pop("pending", 0) == statuses(db).get(NOT_SENT, 0)
        assert states(db)["ok"] == n
        assert_books_agree(db, server)


def test_a_second_signal_stops_at_once(db: Database, tmp_path: Path) -> None:
    with serving() as server:
        server.always(faults.black_hole(works=True))
        child = start_judging(tmp_path / "annotator.db", server.url, 500)
        until(lambda: server.ledger.count() >= 8)
        started = time.monotonic()
        child.send_signal(signal.SIGINT)
        time.sleep(0.3)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
        assert time.monotonic() - started < 10
        assert child.returncode == 130, errors
        assert states(db) == {"pending": 8}
        assert statuses(db) == {"interrupted": 8}
        assert_books_agree(db, server)


def test_two_processes_judge_one_after_the_other(db: Database, tmp_path: Path) -> None:
    with serving(latency=0.05) as server:
        children = [start_judging(tmp_path / "annotator.db", server.url, 60) for _ in range(2)]
        spoken = [child.communicate(timeout=120) for child in children]
        assert [child.returncode for child in children] == [0, 0], spoken
        assert sorted(said.split()[0] for said, _ in spoken) == ["0", "60"]
        assert server.ledger.count() == 60


def test_a_second_process_is_told_why_it_has_to_wait(
    db: Database, server: OpenAIServer, tmp_path: Path
) -> None:
    told: list[str] = []
    path = tmp_path / "annotator.db"
    with judging_lock(path, wait_seconds=0), pytest.raises(StoreBusy, match="judging this project"):
        run_calls(
            db,
            path,
            calls(3),
            where(server),
            QUICK.__class__(lock_seconds=0.2),
            by_logprobs,
            on_wait=lambda: told.append("waiting"),
        )
    assert told == ["waiting"]
    assert server.ledger.arrivals == []


def test_it_runs_in_a_thread_too(db: Database, server: OpenAIServer, tmp_path: Path) -> None:
    """Where signals cannot be caught."""
    reports: list[RunReport] = []

    def run() -> None:
        own = open_db(tmp_path / "annotator.db")
        reports.append(judge(own, server, calls(5)))
        own.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert reports[0].ok == 5


# The database fails


def _failing_at(n: int, write: Any) -> Any:
    count = iter(range(1, 10_000))

    def failing(self: Ledger, closings: Any, claims: Any) -> Any:
        if next(count) == n:
            raise StoreError("the disk refused a write")
        return write(self, closings, claims)

    return failing


def test_a_database_that_fails_ends_the_run_and_keeps_what_was_acknowledged(
    db: Database, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The N-th transaction fails, for every N until a run passes without failure."""
    write = Ledger.write
    n_failures = 0
    for failing in range(1, 200):
        monkeypatch.setattr(Ledger, "write", _failing_at(failing, write))
        before = states(db).get("ok", 0)
        try:
            judge(db, server, calls(24), concurrency=4)
        except StoreError:
            n_failures += 1
            assert states(db).get("ok", 0) >= before
            continue
        break
    monkeypatch.setattr(Ledger, "write", write)
    assert n_failures >= 2
    assert states(db) == {"ok": 24}
    assert_all_graded(db, server, calls(24))
    assert_books_agree(db, server)
    # Each failure can cost what was out, and no more.
    assert server.ledger.repeated() <= 4 * n_failures


# 29: the key


def test_the_key_is_nowhere_after_everything_has_gone_wrong(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    canary = "sk-CANARY-9876543210"
    caplog.set_level("DEBUG")
    db = open_db(tmp_path / "annotator.db", create=True)
    told = []
    with serving(key=canary) as server:
        for fault in [*MISHAPS, faults.wrong_key(), faults.quota(), faults.black_hole()]:
            echo = Fault("echo", False, 400, f'{{"error": "wrong: {canary}"}}'.encode())
            server.clear()
            server.script([fault, echo, faults.says(f"4 {canary}")])
            report = judge(db, server, calls(4), timeout=0.5, retries=1)
            told.append(repr(report) + str(report.problem))
    db.close()
    out, err = capfd.readouterr()
    for text in [*told, out, err, caplog.text]:
        assert canary not in text
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name.endswith(".db") for path in files)
    for path in files:
        assert canary.encode() not in path.read_bytes(), path
