"""The account of what was asked and what it cost."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlite_utils import Database

from annotator.errors import JudgeBudget, StoreBusy, StoreError
from annotator.signals.judges.ledger import (
    Claim,
    Closing,
    Held,
    Ledger,
    Ticket,
    believable,
    failures,
    judging_lock,
    spending,
    stored_replies,
    whole_microusd,
)
from annotator.signals.judges.reply import ChatRequest, Usage
from annotator.store import open_db, writing
from tests.judged_world import PRICE, asking, states, statuses

HOST = "h/v1"


def claimed(ledger: Ledger, *keys: str, reserve: int | None = 10) -> list[Ticket]:
    tickets = ledger.write([], [Claim(key, "m", reserve) for key in keys])
    assert all(isinstance(ticket, Ticket) for ticket in tickets)
    return tickets  # type: ignore[return-value]


def end(ticket: Ticket, state: str = "ok", cost: int | None = 4, **more: Any) -> Closing:
    return Closing(ticket, state, state, cost, **more)


def test_an_attempt_is_on_disk_before_its_ticket_is_given(db: Database, tmp_path: Path) -> None:
    (ticket,) = claimed(Ledger(db, HOST), "a")
    other = open_db(tmp_path / "annotator.db")
    assert other.execute("SELECT id, state, attempts FROM judge_calls").fetchall() == [
        (ticket.call_id, "sent", 1)
    ]
    assert other.execute(
        "SELECT id, call_id, status, reserved_microusd, cost_microusd FROM judge_attempts"
    ).fetchall() == [(ticket.attempt_id, ticket.call_id, "open", 10, None)]
    other.close()


def test_what_an_attempt_leaves(db: Database) -> None:
    ledger = Ledger(db, HOST)
    a, b = claimed(ledger, "a", "b")
    usage = Usage(100, 20, cached=30, cache_write=5, reasoning=7)
    ledger.write(
        [
            end(a, usage=usage, reply='{"x": 1}', seconds=0.5),
            end(b, "api_error", None, error="cut off"),
        ],
        [],
    )
    assert states(db) == {"ok": 1, "api_error": 1}
    assert db.execute("SELECT reply, error FROM judge_calls ORDER BY id").fetchall() == [
        ('{"x": 1}', None),
        (None, "cut off"),
    ]
    assert db.execute(
        """SELECT status, cost_microusd, prompt_tokens, cached_tokens, cache_write_tokens,
        completion_tokens, reasoning_tokens, seconds FROM judge_attempts ORDER BY id"""
    ).fetchall() == [
        ("ok", 4, 100, 30, 5, 20, 7, 0.5),
        ("api_error", None, None, None, None, None, None, None),
    ]
    found = spending(db)
    assert (found.n_attempts, found.known, found.reserved, found.unpriced) == (2, 4, 10, 0)
    assert (found.prompt_tokens, found.completion_tokens) == (100, 20)
    assert spending(db, "elsewhere").n_attempts == 0
    (failure,) = failures(db, HOST)
    assert (failure.model, failure.state, failure.n_calls) == ("m", "api_error", 1)


def test_a_failure_is_sent_again_and_keeps_the_text_that_could_not_be_read(db: Database) -> None:
    ledger = Ledger(db, HOST)
    (first,) = claimed(ledger, "a")
    ledger.write([end(first, "parse_error", reply="four", error="no grade")], [])
    (second,) = claimed(ledger, "a")
    assert second.call_id == first.call_id
    ledger.write([end(second, "api_error", None, error="500")], [])
    assert db.execute("SELECT state, attempts, reply, error FROM judge_calls").fetchall() == [
        ("api_error", 2, "four", "500")
    ]


@pytest.mark.parametrize("state", ["ok", "refused"])
def test_what_is_settled_or_out_is_not_sent(db: Database, state: str) -> None:
    ledger = Ledger(db, HOST)
    claimed_now = claimed(ledger, "a")
    assert ledger.write([], [Claim("a", "m", 10)]) == [Held.BY_ANOTHER]
    ledger.write([end(claimed_now[0], state)], [])
    assert ledger.write([], [Claim("a", "m", 10)]) == [Held.BY_ANOTHER]
    assert spending(db).n_attempts == 1


def test_the_cap_counts_reservations_until_the_cost_is_known(db: Database) -> None:
    ledger = Ledger(db, HOST, cap=25)
    a, b = claimed(ledger, "a", "b")
    assert ledger.write([], [Claim("c", "m", 10)]) == [Held.BY_CAP]
    # An unknown cost stays reserved, a known one gives the rest back, in the same transaction.
    assert ledger.write([end(a, "api_error", None)], [Claim("c", "m", 10)]) == [Held.BY_CAP]
    (c,) = ledger.write([end(b, cost=4)], [Claim("c", "m", 10)])
    assert isinstance(c, Ticket)
    assert ledger.spent == 24
    # A refused call leaves nothing behind.
    assert ledger.write([], [Claim("d", "m", 2)]) == [Held.BY_CAP]
    assert ledger.standings(["d"]) == {}


def test_the_cap_counts_earlier_runs_and_whoever_else_writes(db: Database, tmp_path: Path) -> None:
    ledger = Ledger(db, HOST, cap=25)
    claimed(ledger, "a")
    other = open_db(tmp_path / "annotator.db")
    claimed(Ledger(other, "elsewhere/v1"), "b")
    assert ledger.write([], [Claim("c", "m", 10)]) == [Held.BY_CAP]
    assert ledger.spent == 20
    other.close()


def test_a_transaction_that_fails_counts_for_nothing(db: Database) -> None:
    ledger = Ledger(db, HOST, cap=25)
    a, b = claimed(ledger, "a", "b")
    with pytest.raises(StoreError, match="CHECK"):
        ledger.write([end(a, cost=1), end(b, "not a state")], [])
    assert states(db) == {"sent": 2}
    assert ledger.spent == 20
    assert ledger.write([], [Claim("c", "m", 10)]) == [Held.BY_CAP]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_nothing_ever_passes_the_cap(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Against an account kept by hand: a list of what is reserved and what has cost."""
    db = open_db(tmp_path_factory.mktemp("cap") / "a.db", create=True)
    cap = data.draw(st.integers(0, 60))
    ledger = Ledger(db, HOST, cap=cap)
    open_tickets: list[Ticket] = []
    account: dict[int, int] = {}
    for step in range(data.draw(st.integers(1, 12))):
        ending = [open_tickets.pop() for _ in range(data.draw(st.integers(0, len(open_tickets))))]
        closings = []
        for ticket in ending:
            assert ticket.reserved is not None
            cost = data.draw(st.none() | st.integers(0, ticket.reserved))
            closings.append(end(ticket, "ok" if cost is not None else "api_error", cost))
            account[ticket.attempt_id] = ticket.reserved if cost is None else cost
        reserves = data.draw(st.lists(st.integers(0, 25), max_size=4))
        claims = [Claim(f"{step}-{i}", "m", reserve) for i, reserve in enumerate(reserves)]
        for claim, answer in zip(claims, ledger.write(closings, claims), strict=True):
            fits = sum(account.values()) + (claim.reserve or 0) <= cap
            assert isinstance(answer, Ticket) is fits
            if isinstance(answer, Ticket):
                open_tickets.append(answer)
                account[answer.attempt_id] = answer.reserved or 0
        assert sum(account.values()) <= cap
        assert Ledger(db, HOST).spent == ledger.spent == sum(account.values())
    db.close()


def test_what_a_dead_process_left_open_keeps_its_reservation(db: Database) -> None:
    ledger = Ledger(db, HOST)
    a, _, _ = claimed(ledger, "a", "b", "c")
    ledger.write([end(a)], [])
    again = Ledger(db, HOST)
    assert again.recover() == 2
    assert again.recover() == 0
    assert states(db) == {"ok": 1, "pending": 2}
    assert statuses(db) == {"ok": 1, "unknown": 2}
    assert again.spent == 24


def test_what_was_sent_without_a_price_is_priced_by_its_tokens(db: Database) -> None:
    ledger = Ledger(db, HOST)
    a, b, c, d = claimed(ledger, "a", "b", "c", "d", reserve=None)
    (reserved,) = claimed(ledger, "e")
    usage = Usage(1000, 100, cached=400, cache_write=200)
    ledger.write(
        [
            end(a, cost=None, usage=usage),
            end(b, cost=None),  # no tokens either
            end(c, cost=None, usage=Usage(0, 0)),  # as older versions recorded it
            end(d, cost=0, usage=usage),  # surely not billed
            end(reserved, cost=None, usage=usage),
        ],
        [],
    )
    assert (ledger.spent, spending(db).unpriced) == (10, 3)
    assert ledger.price_unpriced("another", PRICE) == 0
    assert ledger.price_unpriced("m", PRICE) == 1
    # 400 at 0.15, 400 at 0.075, 200 at 0.15 and 100 at 0.60 dollars a million.
    assert (ledger.spent, spending(db).known, spending(db).unpriced) == (190, 180, 2)
    assert ledger.price_unpriced("m", PRICE) == 0


def test_a_cap_is_refused_over_requests_of_whose_cost_nothing_is_known(db: Database) -> None:
    free = Ledger(db, HOST)
    a, b = claimed(free, "a", "b", reserve=None)
    free.write([end(a, cost=None, usage=Usage(1000, 100))], [])
    capped = Ledger(db, "elsewhere/v1", cap=1000)
    with pytest.raises(JudgeBudget, match=r"2 earlier requests .*\(2 to m\)") as caught:
        capped.recover()
    assert caught.value.todo == "leave --max-cost out"  # one of them has no tokens
    free.write([end(b, cost=None, usage=Usage(10, 1))], [])
    with pytest.raises(JudgeBudget, match="2 earlier requests") as caught:
        capped.recover()
    assert "add m to a price table" in caught.value.todo
    assert free.recover() == 0  # without a cap nothing is refused
    free.price_unpriced("m", PRICE)
    assert capped.recover() == 0
    assert capped.spent == 210 + 3  # 2.1 is rounded up


def test_a_prompt_of_no_tokens_is_not_believed() -> None:
    assert believable(Usage(0, 0)) is believable(Usage(0, 5)) is None
    assert believable(Usage(1, 0)) == Usage(1, 0)


def test_what_a_batch_has_is_left_to_it(db: Database) -> None:
    ledger = Ledger(db, HOST)
    (a,) = claimed(ledger, "a")
    claimed(ledger, "b")
    with writing(db):
        db.execute(
            """INSERT INTO judge_batches (id, content_sha, host, state, made_at, updated_at)
            VALUES (1, 's', ?, 'created', '', '')""",
            [HOST],
        )
        db.execute("INSERT INTO judge_batch_calls VALUES (1, ?)", [a.call_id])
    assert ledger.recover() == 1
    found = ledger.standings(["a", "b"])
    assert (found["a"].state, found["a"].in_batch) == ("sent", True)
    assert (found["b"].state, found["b"].in_batch) == ("pending", False)
    assert statuses(db) == {"open": 1, "unknown": 1}
    with writing(db):
        db.execute("UPDATE judge_batches SET state = 'ingested'")
    assert ledger.recover() == 1


def test_calls_put_off_are_pending_work_and_results_stay(db: Database) -> None:
    ledger = Ledger(db, HOST)
    (a,) = claimed(ledger, "a")
    ledger.write([end(a, reply="{}")], [])
    ledger.put_off([("a", "m"), ("b", "m")])
    assert states(db) == {"ok": 1, "budget": 1}
    assert isinstance(ledger.write([], [Claim("b", "m", 1)])[0], Ticket)


def reply(text: str) -> str:
    return f'{{"choices": [{{"message": {{"content": "{text}"}}}}], "model": "m"}}'


def test_replies_are_read_back_in_order_from_a_generator(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("annotator.signals.judges.ledger.KEYS_A_QUERY", 3)
    requests = [asking(i) for i in range(8)]
    ledger = Ledger(db, HOST)
    for i in (0, 3, 7):
        (ticket,) = claimed(ledger, requests[i].key(HOST))
        ledger.write([end(ticket, reply=reply(str(i)))], [])
    (failed,) = claimed(ledger, requests[5].key(HOST))
    ledger.write([end(failed, "parse_error", reply=reply("5"))], [])

    def shuffled() -> Iterator[ChatRequest]:
        order = list(range(8))
        random.Random(3).shuffle(order)
        yield from (requests[i] for i in order)

    order = list(range(8))
    random.Random(3).shuffle(order)
    read = [found and found.choices[0].text for found in stored_replies(db, HOST, shuffled())]
    assert read == [str(i) if i in (0, 3, 7) else None for i in order]
    assert list(stored_replies(db, "elsewhere/v1", requests)) == [None] * 8


def test_text_that_sqlite_cannot_hold_is_kept_as_far_as_it_goes(db: Database) -> None:
    (ticket,) = claimed(Ledger(db, HOST), "a")
    Ledger(db, HOST).write([end(ticket, "parse_error", reply="a\ud800b", error="\udfff")], [])
    assert db.execute("SELECT reply, error FROM judge_calls").fetchall() == [("a?b", "?")]


@pytest.mark.parametrize(("dollars", "whole"), [(None, None), (0.1, 100_000), (1e-6, 1), (9e-7, 0)])
def test_a_cap_is_rounded_down(dollars: float | None, whole: int | None) -> None:
    assert whole_microusd(dollars) == whole


def test_two_cannot_judge_a_project_at_once(tmp_path: Path) -> None:
    path = tmp_path / "annotator.db"
    waited: list[str] = []
    with (
        judging_lock(path, wait_seconds=0.1),
        pytest.raises(StoreBusy, match="judging this project"),
        judging_lock(path, wait_seconds=0.2, on_wait=lambda: waited.append("x")),
    ):
        pass
    assert waited == ["x"]


def _claim_all(path: str, start: Any, out: Any) -> None:
    db = open_db(Path(path))
    ledger = Ledger(db, HOST, cap=500)
    start.wait()
    got = []
    for i in range(100):
        answer = ledger.write([], [Claim(f"k{i}", "m", 10)])[0]
        if isinstance(answer, Ticket):
            got.append(i)
    db.close()
    out.put(got)


def test_four_that_hold_no_lock_still_send_nothing_twice_and_keep_the_cap(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    open_db(path, create=True).close()
    context = multiprocessing.get_context("spawn")
    start, out = context.Barrier(4), context.Queue()
    workers = [context.Process(target=_claim_all, args=(str(path), start, out)) for _ in range(4)]
    for worker in workers:
        worker.start()
    got = [i for _ in workers for i in out.get(timeout=120)]
    for worker in workers:
        worker.join()
    assert sorted(got) == list(range(50))  # 50 at 10 each is the cap
