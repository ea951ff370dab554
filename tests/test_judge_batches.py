"""The Batch API against a server on real sockets: every way a batch may end, and what it costs."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlite_utils import Database

from annotator.errors import JudgeBudget, JudgeNoModel, JudgeUnsupported, StoreBusy, StoreError
from annotator.signals.judges import batches
from annotator.signals.judges.batch_files import Folder, Returned, line_of, read_answers, request_in
from annotator.signals.judges.client import ClientSettings
from annotator.signals.judges.grades import Unparsable
from annotator.signals.judges.ledger import judging_lock
from annotator.signals.judges.pairwise_route import PairwiseRoute
from annotator.signals.judges.prices import Price, most_microusd
from annotator.signals.judges.reference_route import ReferenceRoute, RougeL
from annotator.signals.judges.reply import ChatRequest, Reply
from annotator.signals.judges.routes import Judge
from annotator.signals.judges.rubric import load_pair_rubric, load_rubric
from annotator.signals.judges.rubric_route import RubricRoute
from annotator.signals.judges.runner import run_calls
from annotator.store import open_db
from tests.batched_world import (
    POLL_SECONDS,
    PRICE,
    PURPOSE,
    ask_in_batches,
    assert_all_answered,
    batch_states,
    check,
    counted,
    files_left,
    let_a_day_pass,
    lines_done,
    on_record,
    request,
    sent_lines,
    some_requests,
    some_settings,
    states,
    unknown_costs,
)
from tests.openai_server import BatchPlan, Model, OpenAIServer, faults, serving
from tests.openai_server import Price as ServerPrice

BATCHES, FILES = "/v1/batches", "/v1/files"
# More polls than any test makes: such a batch moves when the test says so.
STILL = BatchPlan(by_poll=False)
MADE_BUT_HTML = replace(faults.html(), works=True)


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with serving() as opened:
        yield opened


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "annotator.db"


@pytest.fixture(autouse=True)
def quick_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SETTLE_SECONDS", 0.05)


def advance(server: OpenAIServer, times: int = 3) -> None:
    for _ in range(times):
        server.advance()


def most_of(requests: list[ChatRequest]) -> int:
    return sum(most_microusd(one, PRICE.for_batch()) for one in requests)


# -- All goes well --------------------------------------------------------------------------------


def test_every_request_is_answered_once_at_half_the_price(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    requests = some_requests(23)
    server.plan_batches([BatchPlan(shuffled=True)])
    report = ask_in_batches(db, database, server, requests)
    assert (report.ok, report.sent, report.batches, report.incomplete) == (23, 23, 1, 0)
    assert_all_answered(db, server, requests)
    assert set(lines_done(server).values()) == {1} and len(lines_done(server)) == 23
    assert server.ledger.chats == []
    assert on_record(db) == server.ledger.billed_microusd > 0
    assert report.cost_usd == server.ledger.billed_microusd / 1e6
    assert report.models == {"judge"} and report.stopped is None
    assert files_left(database) == []


def test_what_is_answered_is_not_asked_again(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    requests = some_requests(5)
    ask_in_batches(db, database, server, requests[:4])
    server.ledger.clear()
    report = ask_in_batches(db, database, server, requests[:4])
    assert report.cached == 4 and server.ledger.arrivals == []
    # Twice in one run: once answered already, once asked for.
    report = ask_in_batches(db, database, server, [*requests, requests[4], requests[0]])
    assert (report.cached, report.ok, report.repeated) == (4, 1, 2)
    assert [len(ids) for ids in sent_lines(server)] == [4, 1]


def test_a_file_has_one_model_and_no_more_lines_or_bytes_than_it_may(
    db: Database, database: Path, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "LINES_A_FILE", 3)
    texts = [f"[[grade 3.1]] {i} " + "x" * (400 * (i == 4)) for i in range(9)]
    requests = [request(text, ("judge", "renamed")[i % 3 == 1]) for i, text in enumerate(texts)]
    size = max(len(line_of(one, one.key("h")).text) for one in requests)
    monkeypatch.setattr(batches, "BYTES_A_FILE", size + 10)
    report = ask_in_batches(db, database, server, requests)
    assert report.ok == 9 and report.models == {"judge", "renamed-2026-01-01"}
    for batch in server.batches.values():
        assert len({line["body"]["model"] for line in batch.lines}) == 1
        assert 1 <= len(batch.lines) <= 3
        assert len(server.files[batch.document["input_file_id"]].content) <= size + 10
    assert_all_answered(db, server, requests)
    assert len(server.batches) > 3  # some were closed for their bytes


def test_batches_are_in_flight_together(
    db: Database, database: Path, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "LINES_A_FILE", 2)
    server.plan_batches([STILL] * 3)
    report = ask_in_batches(db, database, server, some_requests(6), wait=False)
    assert (report.batches, report.in_progress, report.in_batch) == (3, 3, 6)


def test_not_waiting_leaves_the_answers_to_the_next_run(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    requests = some_requests(6)
    server.plan_batches([STILL])
    report = ask_in_batches(db, database, server, requests[:4], wait=False)
    assert (report.in_batch, report.in_progress, report.ok, report.stopped) == (4, 1, 0, None)
    assert on_record(db) == most_of(requests[:4])
    assert files_left(database)
    live = run_calls(
        db, database, requests[:4], ClientSettings(server.url, server.key), some_settings(), check
    )
    assert (live.in_batch, live.sent) == (4, 0)  # the batch's affair
    again = ask_in_batches(db, database, server, requests[:4], wait=False)
    assert (again.in_batch, again.batches) == (4, 0)
    advance(server)
    report = ask_in_batches(db, database, server, requests)
    assert (report.ok, report.batches, report.in_progress) == (6, 1, 0)
    assert_all_answered(db, server, requests)
    assert [len(ids) for ids in sent_lines(server)] == [4, 2]
    assert on_record(db) == server.ledger.billed_microusd


def test_answers_are_taken_in_whatever_is_asked_now(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    """A batch of an earlier run is no request of this one, but its answers are paid for."""
    requests = some_requests(5)
    server.plan_batches([replace(STILL, outcome="expired", finished=3)])
    ask_in_batches(db, database, server, requests, wait=False)
    advance(server)
    report = ask_in_batches(db, database, server, [])
    assert counted(report) == 0
    assert states(db) == {"ok": 3, "pending": 2}
    assert len(server.batches) == 1  # nobody wants the other two now


# -- Batches of several judges (a batch is taken in by its own) ------------------------------------

DEAR = Price(15.0, 7.5, 15.0, 60.0, date(2026, 1, 1), batch=0.5)
ESSAY = "Splendid!"
OTHER = "judge:essays"


def takes_essays(reply: Reply) -> None:
    """The check of a route of another kind, to which a grade is no answer."""
    if reply.choices[0].text != ESSAY:
        raise Unparsable("no essay")


@pytest.fixture
def dear_server() -> Iterator[OpenAIServer]:
    """One with a second model, at a hundred times the price."""
    charged = ServerPrice(DEAR.input, DEAR.cached_input, DEAR.cache_write, DEAR.output)
    with serving(models=[Model("judge"), Model("dear", price=charged)]) as opened:
        yield opened


def test_what_one_judge_has_in_a_batch_no_other_takes_in(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    """Two routes at one host, each with a check that takes nothing of what the other asked for."""
    grades = some_requests(6)
    essays = [request(f"Tell me more of {i}") for i in range(3)]
    essay = replace(STILL, line_faults=(faults.says(ESSAY),) * 3)
    server.plan_batches([replace(STILL, outcome="expired", finished=4), essay])
    ask_in_batches(db, database, server, grades, wait=False)
    advance(server)
    by_other = {"purpose": OTHER, "weigh": takes_essays}
    report = ask_in_batches(db, database, server, essays, wait=False, **by_other)
    assert (report.others, report.ends, report.in_batch, report.in_progress) == (1, [], 3, 1)
    assert report.others_in_words == "1 batch of another judge waits for its own command"
    assert states(db) == {"sent": 9} and len(files_left(database)) == 2
    advance(server)
    report = ask_in_batches(db, database, server, grades)
    assert (report.ok, report.others, report.parse_error) == (6, 1, 0)
    assert batch_states(db) == {"ingested": 2, "created": 1}
    report = ask_in_batches(db, database, server, essays, **by_other)
    assert (report.ok, report.others, report.others_in_words) == (3, 0, None)
    assert states(db) == {"ok": 9}
    assert [len(ids) for ids in sent_lines(server)] == [6, 3, 2]
    assert set(lines_done(server).values()) == {1}
    assert on_record(db) == server.ledger.billed_microusd


def test_calls_in_a_batch_of_another_judge_are_not_asked_again(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    """The same question read in another way: its answer is on its way already."""
    requests = some_requests(5)
    server.plan_batches([STILL])
    ask_in_batches(db, database, server, requests[:3], wait=False)
    advance(server)
    report = ask_in_batches(db, database, server, requests, purpose=OTHER)
    # It waits for its own batch alone.
    assert (report.ok, report.in_batch, report.in_progress, report.others) == (2, 3, 0, 1)
    assert ask_in_batches(db, database, server, requests[:3]).ok == 3
    assert ask_in_batches(db, database, server, requests, purpose=OTHER).cached == 5
    assert set(lines_done(server).values()) == {1} and len(lines_done(server)) == 5


def test_routes_are_of_one_purpose_where_they_read_answers_alike(db: Database) -> None:
    judge = Judge("judge", "host", "integer")
    others = [replace(judge, model="m"), replace(judge, how="logprobs"), replace(judge, host="h")]
    rubric, pairs = load_rubric(), load_pair_rubric()
    stricter = replace(rubric, role=f"{rubric.role} Be strict.")
    purposes = [
        *(RubricRoute(db, one, rubric).purpose for one in [judge, *others]),
        RubricRoute(db, judge, stricter).purpose,
        PairwiseRoute(db, judge, pairs, opponents=4, seed=0).purpose,
        ReferenceRoute(db, judge, "cosine", RougeL).purpose,
    ]
    assert len(set(purposes)) == len(purposes) == 7
    # Which pairs are asked about, and what a reference is held against, changes no answer.
    assert PairwiseRoute(db, judge, pairs, opponents=2, seed=3).purpose in purposes
    assert ReferenceRoute(db, judge, "rouge-l", RougeL).purpose in purposes


@pytest.mark.parametrize("state", ["prepared", "uploaded"])
def test_what_another_judge_has_begun_stays_as_it_is(
    db: Database, database: Path, server: OpenAIServer, state: str
) -> None:
    server.script([faults.error(503)] * 9, path=FILES if state == "prepared" else BATCHES)
    ask_in_batches(db, database, server, some_requests(4), wait=False, retries=0)
    assert batch_states(db) == {state: 1}
    server.clear()
    report = ask_in_batches(db, database, server, [], purpose=OTHER)
    assert (report.others, batch_states(db), len(server.batches)) == (1, {state: 1}, 0)
    assert ask_in_batches(db, database, server, some_requests(4)).ok == 4
    assert_all_answered(db, server, some_requests(4))


def test_two_models_are_each_billed_at_their_own_price(
    db: Database, database: Path, dear_server: OpenAIServer
) -> None:
    server = dear_server
    judges: list[tuple[list[ChatRequest], dict[str, Any]]] = [
        ([request(f"[[grade 2.2]] {i}", "dear") for i in range(3)], {"price": DEAR}),
        (some_requests(4), {"purpose": OTHER}),
    ]
    server.plan_batches([STILL, STILL])
    for requests, how in judges:
        ask_in_batches(db, database, server, requests, wait=False, **how)
    advance(server)
    assert on_record(db) > server.ledger.billed_microusd > 0
    for requests, how in reversed(judges):
        report = ask_in_batches(db, database, server, requests, wait=False, **how)
        assert (report.ok, report.parse_error, report.unknown_cost) == (len(requests), 0, 0)
        assert on_record(db) >= server.ledger.billed_microusd
    assert on_record(db) == server.ledger.billed_microusd
    assert_all_answered(db, server, [*judges[0][0], *judges[1][0]])
    assert set(lines_done(server).values()) == {1} and len(server.batches) == 2


@pytest.mark.parametrize("later", [None, PRICE])
def test_a_batch_is_billed_at_the_price_that_it_was_reserved_at(
    db: Database, database: Path, dear_server: OpenAIServer, later: Price | None
) -> None:
    """The price table has changed meanwhile, or has the model no more."""
    server, requests = dear_server, [request(f"[[grade 2.2]] {i}", "dear") for i in range(3)]
    server.plan_batches([STILL])
    ask_in_batches(db, database, server, requests, wait=False, price=DEAR)
    advance(server)
    report = ask_in_batches(db, database, server, requests, price=later)
    assert report.cost_usd == server.ledger.billed_microusd / 1e6 > 0
    assert on_record(db) == server.ledger.billed_microusd


def test_a_batch_made_without_a_price_has_the_one_that_is_known_now(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    server.plan_batches([STILL])
    ask_in_batches(db, database, server, some_requests(3), wait=False, price=None)
    advance(server)
    assert ask_in_batches(db, database, server, some_requests(3)).ok == 3
    assert on_record(db) == server.ledger.billed_microusd > 0


# -- Ends of every kind (fault 19) ----------------------------------------------------------------


def test_expired_takes_what_is_there_and_sends_the_rest_again(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    requests = some_requests(11)
    server.plan_batches(
        [BatchPlan("expired", finished=4), BatchPlan("expired", finished=2, shuffled=True)]
    )
    report = ask_in_batches(db, database, server, requests)
    assert [len(ids) for ids in sent_lines(server)] == [11, 7, 5]
    assert [(end.status, end.ok, end.requeued) for end in report.ends] == [
        ("expired", 4, 7),
        ("expired", 2, 5),
        ("completed", 5, 0),
    ]
    assert (report.ok, report.sent, report.incomplete) == (11, 23, 0)
    assert_all_answered(db, server, requests)
    assert set(lines_done(server).values()) == {1}
    assert on_record(db) == server.ledger.billed_microusd  # what was not worked on costs nothing


def test_a_batch_without_any_answer_is_not_followed_by_another(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    requests = some_requests(5)
    server.plan_batches([BatchPlan("expired", finished=0)])
    report = ask_in_batches(db, database, server, requests)
    assert (report.unanswered, report.incomplete, report.batches) == (5, 5, 1)
    assert states(db) == {"pending": 5}
    assert on_record(db) == 0
    assert ask_in_batches(db, database, server, requests).ok == 5
    assert_all_answered(db, server, requests)


def test_completed_without_an_output_file(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    server.plan_batches([BatchPlan(failed=-1)])
    requests = some_requests(9)
    report = ask_in_batches(db, database, server, requests)
    assert next(iter(server.batches.values())).document["output_file_id"] is None
    (end,) = report.ends
    assert (end.status, end.api_error, report.api_error) == ("completed", 9, 9)
    assert states(db) == {"api_error": 9}
    assert report.unknown_cost == 9 and on_record(db) == most_of(requests)
    assert ask_in_batches(db, database, server, requests).ok == 9


def test_lines_in_the_error_file_are_sent_again(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    requests = some_requests(8)
    server.plan_batches([BatchPlan(failed=3)])
    report = ask_in_batches(db, database, server, requests)
    assert [len(ids) for ids in sent_lines(server)] == [8, 3]
    assert (report.ok, report.incomplete) == (8, 0)
    first, _ = report.ends
    assert (first.ok, first.api_error, first.requeued) == (5, 3, 0)
    assert_all_answered(db, server, requests)


def test_cancelled_keeps_what_was_done_and_makes_nothing_new(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    requests = some_requests(7)
    server.plan_batches([BatchPlan("cancelled", finished=3)])
    report = ask_in_batches(db, database, server, requests)
    assert (report.ok, report.unanswered, report.batches) == (3, 4, 1)
    assert report.stopped is not None and "cancelled" in report.stopped
    assert states(db) == {"ok": 3, "pending": 4}
    assert on_record(db) == server.ledger.billed_microusd
    assert ask_in_batches(db, database, server, requests).ok == 4
    assert_all_answered(db, server, requests)
    assert set(lines_done(server).values()) == {1}


def test_the_limit_of_enqueued_tokens_ends_the_making_of_batches(
    db: Database, database: Path, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shows when the batch is looked at, as status failed, and not when it is made."""
    monkeypatch.setattr(batches, "LINES_A_FILE", 3)
    requests = some_requests(6)
    # The first batch is done first, and half of it would be sent again.
    server.plan_batches([BatchPlan("expired", finished=1), BatchPlan("failed")])
    report = ask_in_batches(db, database, server, requests)
    assert (report.ok, report.unanswered, report.batches) == (1, 5, 2)
    assert report.stopped is not None and "Enqueued token limit" in report.stopped
    assert "token_limit_exceeded" in report.stopped
    assert states(db) == {"ok": 1, "pending": 5}
    assert on_record(db) == server.ledger.billed_microusd
    assert ask_in_batches(db, database, server, requests).ok == 5
    assert_all_answered(db, server, requests)


def test_duplicate_unknown_and_shuffled_lines(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    requests = some_requests(10)
    plan = BatchPlan(duplicates=4, unknown=3, failed=2, shuffled=True)
    server.plan_batches([plan])
    report = ask_in_batches(db, database, server, requests)
    first = report.ends[0]
    assert (first.ok, first.repeated_lines, first.unknown_lines) == (8, 4, 3)
    assert first.words.endswith(
        "completed: 8 ok, 2 failed, 3 lines under ids that were not sent, 4 repeated lines"
    )
    assert report.ok == 10
    assert_all_answered(db, server, requests)
    assert db.execute("SELECT count(*) FROM judge_calls").fetchone() == (10,)


def test_the_first_of_two_answers_stays() -> None:
    returned: Returned[object] = Returned()
    line = '{"custom_id": "k", "response": {"status_code": 200, "body": %d}, "error": null}\n'
    rubbish = "\n".join(
        ["[1]", "{}", '{"custom_id": 3}', '{"custom_', '{"custom_id": "other"}', ""]
    )
    for answer in read_answers((line % 1 + line % 2 + rubbish).encode()):
        returned.take(answer, {"k"}, lambda one: one.body)
    assert returned.answers == {"k": 1}
    assert (returned.repeated, returned.unknown, returned.unreadable) == (1, 1, 4)
    assert returned.may_lack_answers


def test_a_batch_out_of_sight_is_left_until_its_time_is_over(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    requests = some_requests(6)
    server.plan_batches([BatchPlan(vanishes=True)])
    for _ in range(2):
        report = ask_in_batches(db, database, server, requests)
        assert isinstance(report.problem, JudgeNoModel)
        assert "may be under way" in report.problem.found and "24 hours" in report.problem.todo
        assert (report.in_batch, report.in_progress, report.ends) == (6, 1, [])
    assert len(server.batches) == 1 and on_record(db) == most_of(requests)
    let_a_day_pass(db)
    report = ask_in_batches(db, database, server, requests)
    (end,) = report.ends
    assert (end.requeued, report.unanswered, report.unknown_cost) == (6, 6, 6)
    assert end.problem is not None and "does not know" in end.problem
    assert states(db) == {"pending": 6}
    assert on_record(db) == most_of(requests)
    assert ask_in_batches(db, database, server, requests).ok == 6
    assert on_record(db) == most_of(requests) + server.ledger.billed_microusd
    assert_all_answered(db, server, requests)


def test_another_account_sees_no_batch_and_gives_none_up(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    requests = some_requests(7)
    server.plan_batches([STILL])
    ask_in_batches(db, database, server, requests[:4], wait=False)
    (ours,) = server.batches.values()
    ours.vanished = True
    report = ask_in_batches(db, database, server, requests, wait=False)
    assert isinstance(report.problem, JudgeNoModel) and ours.document["id"] in str(report.problem)
    # What else was asked for is a batch at the other account.
    assert (len(server.batches), report.in_batch, report.in_progress) == (2, 7, 2)
    ours.vanished = False
    advance(server)
    assert ask_in_batches(db, database, server, requests).ok == 7
    assert_all_answered(db, server, requests)
    assert set(lines_done(server).values()) == {1}
    assert on_record(db) == server.ledger.billed_microusd


def test_a_batch_that_may_be_made_is_left_where_its_file_is_not_known(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    """The answer to its creation was lost, and then the account was changed."""
    requests = some_requests(4)
    server.plan_batches([STILL])
    server.script([faults.reset()] + [faults.error(503)] * 40, path=BATCHES)
    ask_in_batches(db, database, server, requests, wait=False, retries=1)
    assert batch_states(db) == {"uploaded": 1}
    server.clear()
    (batch,) = server.batches.values()
    file_id = batch.document["input_file_id"]
    batch.vanished, file = True, server.files.pop(file_id)
    report = ask_in_batches(db, database, server, requests, wait=False)
    assert isinstance(report.problem, JudgeNoModel) and report.in_batch == 4
    assert on_record(db) == most_of(requests)
    batch.vanished, server.files[file_id] = False, file
    advance(server)
    assert ask_in_batches(db, database, server, requests).ok == 4
    assert len(server.batches) == 1 and set(lines_done(server).values()) == {1}


def test_a_404_alone_does_not_make_a_batch_vanish(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    """A proxy may answer that for a while, or the address be wrong."""
    requests = some_requests(4)
    server.plan_batches([STILL])
    ask_in_batches(db, database, server, requests, wait=False)
    (batch_id,) = server.batches
    server.script([faults.no_model(), faults.no_model()], path=f"{BATCHES}/{batch_id}")
    report = ask_in_batches(db, database, server, requests, wait=False)
    assert (report.in_batch, report.ends) == (4, [])
    server.script([faults.no_model()], path=BATCHES)
    report = ask_in_batches(db, database, server, requests, wait=False)
    assert isinstance(report.problem, JudgeNoModel)
    assert (report.in_batch, batch_states(db)) == (4, {"created": 1})


def test_an_output_file_that_is_gone_leaves_the_cost_unknown(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    requests = some_requests(7)
    server.plan_batches([replace(STILL, failed=2)])
    ask_in_batches(db, database, server, requests, wait=False)
    advance(server)
    (batch,) = server.batches.values()
    del server.files[batch.document["output_file_id"]]
    report = ask_in_batches(db, database, server, requests)
    (end,) = report.ends
    assert (end.api_error, end.requeued, report.unknown_cost) == (2, 5, 7)
    assert on_record(db) == most_of(requests) >= server.ledger.billed_microusd > 0
    assert ask_in_batches(db, database, server, requests).ok == 7


def test_a_file_that_cannot_be_read_in_part_leaves_the_cost_unknown(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    requests = some_requests(6)
    server.plan_batches([replace(STILL, outcome="expired", finished=4)])
    ask_in_batches(db, database, server, requests, wait=False)
    advance(server)
    (batch,) = server.batches.values()
    output = server.files[batch.document["output_file_id"]]
    lines = output.content.splitlines(keepends=True)
    output.content = b"".join(lines[:2]) + lines[2][:40] + b"\n" + lines[3]
    report = ask_in_batches(db, database, server, requests, wait=False)
    (end,) = report.ends
    # Two say in the error file that nobody worked on them; one may have been worked on.
    assert (end.ok, end.unreadable_lines, end.requeued) == (3, 1, 3)
    assert unknown_costs(db) - most_waiting(db) == 1
    assert on_record(db) >= server.ledger.billed_microusd


def most_waiting(db: Database) -> int:
    """Attempts of the batches that are still open."""
    row = db.execute("SELECT count(*) FROM judge_attempts WHERE status = 'open'").fetchone()
    return int(row[0])


LINES: list[tuple[faults.Fault, str, bool, bool]] = [
    # fault of the line, state of the call, whether its cost is known, whether the run says stop
    (faults.choices_null(), "parse_error", True, False),
    (faults.message_missing(), "parse_error", True, False),
    (faults.grades("11"), "parse_error", True, False),
    (faults.says("Splendid!"), "parse_error", True, False),
    (faults.without_logprobs(), "parse_error", True, False),
    (faults.refusal(), "refused", True, False),
    (faults.content_filter(), "refused", True, False),
    (faults.too_long(), "refused", True, False),
    (faults.filtered_prompt(), "refused", False, False),
    (faults.error(500), "api_error", False, False),
    (faults.error(503), "api_error", False, False),
    (faults.busy(), "api_error", True, False),
    (faults.invalid("No such thing."), "api_error", True, False),
    (faults.without_usage(), "ok", False, False),
    (faults.quota(), "pending", True, True),
    (faults.wrong_key(), "pending", True, True),
    (faults.no_model(), "pending", True, True),
    (faults.unsupported("logprobs"), "pending", True, True),
]


@pytest.mark.parametrize("fault,state,known,stops", LINES, ids=[one[0].name for one in LINES])
def test_a_line_is_worth_what_the_same_answer_is_live(
    db: Database,
    database: Path,
    server: OpenAIServer,
    fault: faults.Fault,
    state: str,
    known: bool,
    stops: bool,
) -> None:
    requests = some_requests(5)
    server.plan_batches([BatchPlan(line_faults=(None, fault))])
    report = ask_in_batches(db, database, server, requests, retries=0)
    assert (report.stopped is not None) == stops
    key = requests[1].key(server.url.removeprefix("http://"))
    row = db.execute(
        """SELECT c.state, a.cost_microusd IS NOT NULL FROM judge_calls c
        JOIN judge_attempts a ON a.call_id = c.id WHERE call_key = ?""",
        [key],
    ).fetchone()
    assert row == (state, known)
    assert sum(states(db).values()) == 5 and states(db)["ok"] == 4 + (state == "ok")
    assert on_record(db) >= server.ledger.billed_microusd


@pytest.mark.parametrize("fault", [faults.error(500), faults.grades("11"), faults.busy()])
def test_failed_lines_are_sent_again_within_the_same_run(
    db: Database, database: Path, server: OpenAIServer, fault: faults.Fault
) -> None:
    requests = some_requests(5)
    server.plan_batches([BatchPlan(line_faults=(None, fault, None, fault))])
    report = ask_in_batches(db, database, server, requests)
    assert [len(ids) for ids in sent_lines(server)] == [5, 2]
    assert report.ok == 5
    assert_all_answered(db, server, requests)


def test_what_never_parses_is_asked_as_often_as_configured(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    requests = some_requests(3)
    hopeless = (faults.grades("11"),)
    server.plan_batches(
        [BatchPlan(line_faults=(None, *hopeless)), *[BatchPlan(line_faults=hopeless)] * 9]
    )
    report = ask_in_batches(db, database, server, requests, retries=3)
    assert [len(ids) for ids in sent_lines(server)] == [3, 1, 1, 1]
    assert (report.ok, report.parse_error) == (2, 1)
    assert states(db) == {"ok": 2, "parse_error": 1}
    assert on_record(db) == server.ledger.billed_microusd
    (raw,) = db.execute("SELECT reply FROM judge_calls WHERE state = 'parse_error'").fetchone()
    assert '"11"' in raw  # to be looked at
    assert ask_in_batches(db, database, server, requests, retry_errors=False).parse_error == 1
    assert len(server.batches) == 4


def test_a_bug_in_reading_an_answer_is_raised_after_all_answers_are_kept(
    db: Database, database: Path, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = some_requests(4)

    def broken(reply: Any) -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        batches.run_batches(
            db,
            database,
            requests,
            ClientSettings(server.url, server.key),
            some_settings(),
            broken,
            purpose=PURPOSE,
            poll_seconds=POLL_SECONDS,
        )
    assert states(db) == {"parse_error": 4} and batch_states(db) == {"ingested": 1}
    assert on_record(db) == server.ledger.billed_microusd


def test_a_refused_parameter_has_the_server_probed_anew(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    report = ask_in_batches(
        db, database, server, [request(f"[[grade 2]] {i}", "no-logprobs") for i in range(3)]
    )
    assert isinstance(report.problem, JudgeUnsupported)
    assert (report.unanswered, on_record(db)) == (3, 0)


# -- Created once (fault 3) -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [faults.reset(), faults.error(500, works=True), faults.cut(20), MADE_BUT_HTML],
    ids=lambda f: f.name,
)
def test_a_lost_answer_to_create_makes_no_second_batch(
    db: Database, database: Path, server: OpenAIServer, fault: faults.Fault
) -> None:
    requests = some_requests(6)
    server.script([fault], path=BATCHES)
    report = ask_in_batches(db, database, server, requests)
    assert server.left == 0
    assert len(server.batches) == 1
    assert (report.ok, report.batches) == (6, 1)
    assert_all_answered(db, server, requests)


def test_a_batch_that_was_not_made_is_made_once(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    requests = some_requests(6)
    server.script([faults.error(503)], path=BATCHES)
    assert ask_in_batches(db, database, server, requests).ok == 6
    assert len(server.batches) == 1


def test_a_busy_server_is_asked_again(db: Database, database: Path, server: OpenAIServer) -> None:
    requests = some_requests(6)
    server.script([faults.busy(retry_after_ms=20), faults.busy()], path=BATCHES)
    server.script([faults.error(500), faults.reset()], path=FILES)
    assert ask_in_batches(db, database, server, requests).ok == 6
    assert len(server.batches) == 1 and server.left == 0


def test_a_create_that_arrives_late_is_waited_for(
    db: Database, database: Path, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sender is dead, the server has not stored it yet when it is first looked for."""
    requests = some_requests(4)
    server.script([faults.reset()] + [faults.error(503)] * 40, path=BATCHES)
    ask_in_batches(db, database, server, requests, wait=False, retries=1)
    assert batch_states(db) == {"uploaded": 1}
    server.clear()
    (hidden,) = server.batches.values()
    hidden.vanished = True
    monkeypatch.setattr(batches, "SETTLE_SECONDS", 1.0)
    threading.Timer(0.4, setattr, (hidden, "vanished", False)).start()
    assert ask_in_batches(db, database, server, requests).ok == 4
    assert len(server.batches) == 1


def test_the_batch_of_a_copied_project_is_not_taken_for_ours(
    db: Database, database: Path, server: OpenAIServer, tmp_path: Path
) -> None:
    """Two copies of a project have files of the same hash; each batch belongs to one file."""
    requests = some_requests(4)
    server.plan_batches([STILL])
    ask_in_batches(db, database, server, requests, wait=False)
    (tmp_path / "copy").mkdir()
    copy = open_db(tmp_path / "copy" / "annotator.db", create=True)
    server.script([faults.error(503)] * 3, path=BATCHES)
    ask_in_batches(copy, tmp_path / "copy" / "annotator.db", server, requests, retries=1)
    copy.close()
    metadata = [batch.document["metadata"] for batch in server.batches.values()]
    assert len(metadata) == 2 and metadata[0] == metadata[1]


def test_the_same_calls_again_are_another_batch(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    requests = some_requests(4)
    server.plan_batches([BatchPlan("failed")] * 3)
    for _ in range(3):
        assert ask_in_batches(db, database, server, requests).unanswered == 4
    assert ask_in_batches(db, database, server, requests).ok == 4
    metadata = [batch.document["metadata"]["annotator_key"] for batch in server.batches.values()]
    shas = [row[0] for row in db.execute("SELECT content_sha FROM judge_batches ORDER BY id")]
    assert metadata == shas and len(set(shas)) == 4


# -- The server refuses, or is away ---------------------------------------------------------------


@pytest.mark.parametrize("path", [FILES, BATCHES])
@pytest.mark.parametrize(
    "fault", [faults.no_model(), faults.wrong_key(), faults.quota(), faults.html()]
)
def test_without_a_batch_api_the_calls_are_free_to_be_sent_live(
    db: Database, database: Path, server: OpenAIServer, path: str, fault: faults.Fault
) -> None:
    requests = some_requests(5)
    # Creating is the first request at its path; the list that follows html is in order.
    server.script([fault], path=path)
    report = ask_in_batches(db, database, server, requests)
    assert report.problem is not None and report.stopped is not None
    assert (report.unanswered, report.in_progress, report.batches) == (5, 0, 0)
    assert states(db) == {"pending": 5} and files_left(database) == []
    assert on_record(db) == (most_of(requests) if (fault.name, path) == ("html", BATCHES) else 0)
    live = run_calls(
        db, database, requests, ClientSettings(server.url, server.key), some_settings(), check
    )
    assert live.ok == 5


def test_a_server_that_is_away_loses_nothing(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    requests = some_requests(5)
    server.always(faults.reset(works=False), path=FILES)
    report = ask_in_batches(db, database, server, requests, retries=1, give_up_after=3)
    assert report.problem is not None and report.in_batch == 5
    assert batch_states(db) == {"prepared": 1}
    server.clear()
    assert ask_in_batches(db, database, server, requests).ok == 5
    assert_all_answered(db, server, requests)


def test_a_failing_look_is_no_end(db: Database, database: Path, server: OpenAIServer) -> None:
    requests = some_requests(5)
    server.plan_batches([STILL])
    ask_in_batches(db, database, server, requests, wait=False)
    (batch_id,) = server.batches
    bad = [faults.error(500), faults.html(), faults.reset(), faults.busy()]
    server.script(bad, path=f"{BATCHES}/{batch_id}")
    threading.Timer(0.2, advance, (server,)).start()
    assert ask_in_batches(db, database, server, requests, retries=0).ok == 5
    assert server.left == 0


@pytest.mark.parametrize("at", ["prepared", "created"])
def test_a_deleted_file_costs_no_answer(
    db: Database, database: Path, server: OpenAIServer, at: str
) -> None:
    requests = some_requests(6)
    if at == "prepared":
        server.script([faults.error(503)] * 2, path=FILES)
    else:
        server.plan_batches([replace(STILL, outcome="expired", finished=4)])
    ask_in_batches(db, database, server, requests, wait=False, retries=0)
    assert batch_states(db) == {at: 1}
    (name,) = files_left(database)
    (database.with_name("annotator.db.batches") / name).unlink()
    server.clear()
    advance(server)
    first = ask_in_batches(db, database, server, requests)
    assert (first.ok, first.unanswered) == ((4, 2) if at == "created" else (6, 0))
    assert on_record(db) == server.ledger.billed_microusd
    assert ask_in_batches(db, database, server, requests).incomplete == 0
    assert_all_answered(db, server, requests)


def test_a_damaged_file_is_not_uploaded(db: Database, database: Path, server: OpenAIServer) -> None:
    server.script([faults.error(503)] * 2, path=FILES)
    ask_in_batches(db, database, server, some_requests(6), wait=False, retries=0)
    (name,) = files_left(database)
    path = database.with_name("annotator.db.batches") / name
    path.write_bytes(path.read_bytes().replace(b"integer", b"INTEGER"))
    server.clear()
    report = ask_in_batches(db, database, server, some_requests(6))
    assert (report.ok, [end.requeued for end in report.ends]) == (6, [6, 0])
    assert not any(b"INTEGER" in file.content for file in server.files.values())


# -- Money ----------------------------------------------------------------------------------------


def test_the_cap_is_never_passed_and_room_that_comes_free_is_used(
    db: Database, database: Path, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = some_requests(40)
    most = max(most_of([one]) for one in requests)
    cap = most * 12
    seen: list[int] = []
    prepare = batches.BatchLedger.prepare

    def watched(self: Any, *arguments: Any) -> Any:
        result = prepare(self, *arguments)
        seen.append(on_record(db))
        return result

    monkeypatch.setattr(batches.BatchLedger, "prepare", watched)
    report = ask_in_batches(db, database, server, requests, max_cost=cap / 1e6)
    assert max(seen) <= cap
    assert on_record(db) == server.ledger.billed_microusd <= cap
    # Answers cost less than their reservations, so more than twelve were sent, one batch's
    # answers making room for the next.
    assert report.batches > 1 and report.ok > 20
    assert report.ok + report.budget == 40
    assert states(db).get("budget", 0) == report.budget
    if report.budget:
        assert isinstance(report.problem, JudgeBudget)


def test_without_waiting_what_the_cap_keeps_back_is_on_record(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    requests = some_requests(12)
    cap = most_of(requests[:5])
    server.plan_batches([STILL])
    report = ask_in_batches(db, database, server, requests, wait=False, max_cost=cap / 1e6)
    assert report.in_batch >= 5 and report.in_batch + report.budget == 12
    assert isinstance(report.problem, JudgeBudget)
    assert on_record(db) <= cap
    assert states(db) == {"sent": report.in_batch, "budget": report.budget}
    advance(server)
    assert ask_in_batches(db, database, server, requests, max_cost=1.0).ok == 12


def test_a_cap_too_small_for_anything_sends_nothing(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    report = ask_in_batches(db, database, server, some_requests(4), max_cost=1e-6)
    assert (report.budget, report.batches) == (4, 0)
    assert server.ledger.arrivals == [] and files_left(database) == []


def test_a_cap_without_a_price_is_refused(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    with pytest.raises(JudgeBudget, match="no price"):
        ask_in_batches(db, database, server, some_requests(2), max_cost=1.0, price=None)
    assert server.ledger.arrivals == []


def test_without_a_price_the_cost_is_unknown(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    report = ask_in_batches(db, database, server, some_requests(3), price=None)
    assert (report.ok, report.cost_usd, report.unknown_cost) == (3, None, 3)


# -- Stopping, waiting, disk ----------------------------------------------------------------------


def test_an_interrupt_ends_the_waiting_and_the_next_run_goes_on(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    requests = some_requests(5)
    server.plan_batches([STILL])
    before = signal.getsignal(signal.SIGINT)  # a job in the background may ignore it
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    started = time.monotonic()
    report = batches.run_batches(
        db,
        database,
        requests,
        ClientSettings(server.url, server.key),
        some_settings(),
        check,
        purpose=PURPOSE,
        poll_seconds=300,
    )
    assert time.monotonic() - started < 60
    assert report.interrupted and (report.in_batch, report.in_progress) == (5, 1)
    assert signal.getsignal(signal.SIGINT) is before
    advance(server)
    assert ask_in_batches(db, database, server, requests).ok == 5
    assert len(server.batches) == 1


def test_looks_become_rarer_while_nothing_changes(
    db: Database, database: Path, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    sleep = batches.asyncio.sleep

    async def counting(seconds: float) -> None:
        if seconds >= 30:
            pauses.append(seconds)
            if len(pauses) in (8, 9, 11):
                server.advance()
        await sleep(0 if seconds >= 30 else seconds)

    monkeypatch.setattr(batches.asyncio, "sleep", counting)
    server.plan_batches([STILL])
    report = batches.run_batches(
        db,
        database,
        some_requests(2),
        ClientSettings(server.url, server.key),
        some_settings(),
        check,
        purpose=PURPOSE,
    )
    assert report.ok == 2
    # The first look finds what creating told; the states change before looks 9, 10 and 12.
    assert pauses == [60, 120, 240, 300, 300, 300, 300, 300, 30, 30, 60]
    assert all(later <= 2 * earlier for earlier, later in pairwise(pauses))


def test_one_process_judges_at_a_time(db: Database, database: Path, server: OpenAIServer) -> None:
    with judging_lock(database, wait_seconds=1), pytest.raises(StoreBusy):
        ask_in_batches(db, database, server, some_requests(2), lock_seconds=0.1)
    assert server.ledger.arrivals == []


@contextmanager
def no_file_over(n_bytes: int) -> Iterator[None]:
    """The kernel refuses to write further than that in any file, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_nothing_half(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    requests = [request(f"[[grade 2]] {i} " + "x" * 100_000) for i in range(30)]
    with no_file_over(2_000_000), pytest.raises(StoreError, match="cannot write the file"):
        ask_in_batches(db, database, server, requests)
    assert files_left(database) == []
    for table in ("judge_calls", "judge_attempts", "judge_batches", "judge_batch_calls"):
        assert db[table].count == 0, table
    assert server.ledger.arrivals == []
    assert ask_in_batches(db, database, server, requests).ok == 30


def test_files_that_nobody_knows_are_swept_away(
    db: Database, database: Path, server: OpenAIServer
) -> None:
    server.plan_batches([STILL])
    ask_in_batches(db, database, server, some_requests(3), wait=False)
    (kept,) = files_left(database)
    folder = database.with_name("annotator.db.batches")
    for name in ("0" * 64 + ".jsonl", "0" * 64 + ".part", "mine.txt"):
        (folder / name).write_text("x")
    ask_in_batches(db, database, server, [], wait=False)
    assert files_left(database) == sorted([kept, "mine.txt"])


def test_a_line_holds_the_whole_request(tmp_path: Path) -> None:
    one = replace(request("ä \ud800 \u2028 '\"\n"), sample=3)
    line = line_of(one, "k" * 64)
    assert line.text.count(b"\n") == 1
    again = request_in(line)
    assert (again.model, again.messages, again.params) == (one.model, one.messages, one.params)
    folder = Folder(tmp_path / "db")
    name = folder.write(7, [line])
    assert folder.read(7, name) == line.text and folder.read(8, name) is None
    assert folder.lines(name, {line.key}) == {line.key: line}
