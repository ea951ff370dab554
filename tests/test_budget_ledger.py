"""What was spent: against a plain count of the view current_votes, and by hand."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlite_utils import Database

from annotator.budget import counts
from annotator.budget.counts import count_all, current_counts, votes_waiting
from annotator.budget.ledger import add_spend, ledger
from annotator.config import BudgetSettings, Rate
from annotator.errors import BudgetError
from annotator.labels.votes import Vote, known_annotations, record_annotators, record_votes
from annotator.rounds.picks import ExtraVote, record_extra_votes
from annotator.signals.judges.ledger import Claim, Closing, Ledger, Ticket
from annotator.store import open_db, writing
from annotator.studio.outbox import ask_for_votes
from tests.small_world import add_prompts, add_round

START = datetime(2026, 4, 1, 9, tzinfo=UTC)
NAMES = {11: "anna", 12: "ben", 13: "cleo", 14: "dora"}  # annotators 1 to 4
SIZES = [4, 7, 3, 6, 2, 5]  # 6 + 21 + 3 + 15 + 1 + 10 pairs
GRADES = ("a_much_better", "a_better", "tie", "b_better", "both_bad")


class Office:
    """Rounds of uneven sizes, and people who vote, skip, edit and delete as it comes."""

    def __init__(self, db: Database, seed: int = 0) -> None:
        self.db, self.rng = db, np.random.default_rng(seed)
        ids = add_prompts(db, SIZES)
        self.pairs = [(a, b) for some in ids for i, a in enumerate(some) for b in some[i + 1 :]]
        with writing(db):
            db.execute(
                """INSERT INTO projects (id, server, mark, studio_id, title, screen, overlap,
                created_at) VALUES (1, 'http://s', 'm', 1, 't', 's', 1, '')"""
            )
            record_annotators(db, "http://s", NAMES)
        self.picks: list[int] = []
        self.pick_of: dict[int, int] = {}  # annotation -> pick
        self.author: dict[int, int] = {}
        self.clock = START

    def add_round(self, n: int, overlap: int = 1) -> list[int]:
        """A round of the next n pairs."""
        first = len(self.picks)
        new = add_round(self.db, self.pairs[first : first + n], overlap=overlap)
        with writing(self.db):
            self.db.execute("UPDATE tasks SET state = 'swept', project_id = 1")
        self.picks += new
        return new

    def say(
        self,
        pick: int,
        who: int,
        status: str = "vote",
        *,
        seconds: float | None = 20.0,
        annotation: int | None = None,
        later: float = 60.0,
    ) -> int:
        """One state of an annotation, a new one unless it is named; its number."""
        self.clock += timedelta(seconds=later)
        number = annotation or len(self.pick_of) + 1
        self.pick_of[number], self.author[number] = pick, who
        grade = str(self.rng.choice(GRADES)) if status == "vote" else None
        vote = Vote(
            number, pick, status, self.clock.isoformat(), {}, pick, who, grade, seconds=seconds
        )
        with writing(self.db):
            record_votes(self.db, 1, [vote], known_annotations(self.db, 1, [pick]))
        return number

    def something_happens(self) -> None:
        """A vote, a skip, an edit, a deletion, a rejection; sometimes a further vote or a round."""
        rng = self.rng
        what = rng.choice(["vote", "skip", "edit", "deleted", "rejected", "further", "round"],
                          p=[0.5, 0.1, 0.15, 0.08, 0.05, 0.07, 0.05])  # fmt: skip
        seconds = None if rng.random() < 0.1 else float(rng.gamma(3, 7))
        later = float(rng.exponential(4000))
        pick, who = int(rng.choice(self.picks)), int(rng.integers(1, 5))
        if what == "round":
            self.add_round(int(rng.integers(1, 5)), overlap=int(rng.integers(1, 4)))
        elif what == "further":
            self.ask_further(pick)
        elif what in ("edit", "deleted", "rejected") and self.pick_of:
            number = int(rng.choice(list(self.pick_of)))
            status = str(rng.choice(["vote", "skip"])) if what == "edit" else str(what)
            self.say(self.pick_of[number], self.author[number], status, seconds=seconds,
                     annotation=number, later=later)  # fmt: skip
        else:
            self.say(pick, who, "skip" if what == "skip" else "vote", seconds=seconds, later=later)

    def ask_further(self, pick: int) -> None:
        """One more vote than anybody asked for."""
        row = self.db.execute(
            """SELECT coalesce(t.overlap, r.overlap), p.a_id, p.b_id, (SELECT max(id) FROM rounds)
            FROM picks p JOIN tasks t ON t.pick_id = p.id JOIN rounds r ON r.id = p.round_id
            WHERE p.id = ?""",
            [pick],
        ).fetchone()
        overlap, a, b, round_id = row
        with writing(self.db):
            extra = ExtraVote(pick, a, b, overlap, 1, overlap + 1, None, "test")
            record_extra_votes(self.db, round_id, [extra])
            ask_for_votes(self.db, {pick: overlap + 1})


@pytest.fixture
def office(db: Database) -> Office:
    db.execute("PRAGMA synchronous=OFF")
    return Office(db)


def plain_count(db: Database) -> dict[str, Any]:
    """The same figures out of the view, row by row."""
    rows = db.execute(
        """SELECT p.round_id, p.arm, v.annotator_id, v.status, v.seconds, v.pick_id, v.updated_at
        FROM current_votes v JOIN picks p ON p.id = v.pick_id"""
    ).fetchall()
    cells: dict[Any, list[float]] = defaultdict(lambda: [0, 0, 0, 0])
    voted = set()
    for round_id, arm, who, status, seconds, pick, _ in rows:
        cell = cells[round_id, arm, who]
        cell[0] += status == "vote"
        cell[1] += status == "skip"
        cell[2] += round(1000 * (seconds or 0.0))
        cell[3] += status == "vote" and seconds is not None
        if status == "vote":
            voted.add((round_id, arm, pick))
    answered = dict(
        db.execute(
            """WITH newest AS (SELECT pick_id, annotator_id, status, row_number() OVER
                (PARTITION BY project_id, annotation_id ORDER BY id DESC) AS age FROM votes)
            SELECT pick_id, count(DISTINCT annotator_id) FROM newest
            WHERE age = 1 AND status NOT IN ('skip', 'deleted') GROUP BY pick_id"""
        ).fetchall()
    )
    wanted = db.execute(
        """SELECT p.id, coalesce(t.overlap, r.overlap) FROM picks p JOIN tasks t ON t.pick_id = p.id
        JOIN rounds r ON r.id = p.round_id"""
    ).fetchall()
    missing = {pick: n - answered.get(pick, 0) for pick, n in wanted}
    return {
        "cells": {cell: work for cell, work in cells.items() if any(work)},
        "voted": Counter((round_id, arm) for round_id, arm, _ in voted),
        "open": {pick: n for pick, n in missing.items() if n > 0},
        "times": Counter(
            int(datetime.fromisoformat(at).timestamp()) for *_, status, _, _, at in rows
            if status == "vote"
        ),
    }  # fmt: skip


def assert_counted(db: Database, found: counts.Counts) -> None:
    """The counts are those of the view."""
    plain = plain_count(db)
    assert {cell: work.row() for cell, work in found.cells.items()} == plain["cells"]
    assert found.voted == plain["voted"]
    assert found.open_ == plain["open"]
    by_slot: Counter[int] = Counter()
    for (slot, _), work in found.slots.items():
        by_slot[slot] += work.votes
    assert +by_slot == sum(
        (Counter({at // found.width: n}) for at, n in plain["times"].items()), Counter()
    )


@pytest.mark.parametrize("seed", range(4))
def test_whatever_people_do_the_counts_are_those_of_the_current_votes(
    db: Database, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts, "MOST_POINTS", 12)  # so that slots of time are widened on the way
    db.execute("PRAGMA synchronous=OFF")
    office = Office(db, seed)
    office.add_round(7, overlap=2)
    for step in range(60):
        for _ in range(int(office.rng.integers(1, 4))):
            office.something_happens()
        if step % 3 == 0:
            assert_counted(db, current_counts(db))
    brought_up = current_counts(db)
    assert_counted(db, brought_up)
    afresh = count_all(db)
    assert brought_up.cells == afresh.cells
    assert brought_up.slots == afresh.slots


def test_of_one_persons_two_answers_the_servers_clock_decides(office: Office) -> None:
    (pick,) = office.add_round(1)
    office.say(pick, 1, seconds=10.0)
    current_counts(office.db)
    office.say(pick, 1, seconds=99.0, later=-600.0)  # came later, was given earlier
    for found in (current_counts(office.db), count_all(office.db)):
        assert_counted(office.db, found)
        assert [work.seconds for work in found.cells.values()] == [10.0]


def test_only_what_changed_is_counted_again(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = office.add_round(8)
    for pick in first:
        office.say(pick, 1)
    current_counts(office.db)
    looked_at: list[Any] = []
    real = counts._newest_rows

    def watched(db: Database, last: int, picks: str | None = None) -> Any:
        looked_at.append(None if picks is None else json.loads(picks))
        return real(db, last, picks)

    monkeypatch.setattr(counts, "_newest_rows", watched)
    current_counts(office.db)
    assert looked_at == []
    office.say(first[3], 2)
    assert_counted(office.db, current_counts(office.db))
    assert looked_at == [[first[3]], [first[3]]]


def test_a_backup_that_was_put_back_is_counted_afresh(office: Office, tmp_path: Path) -> None:
    for pick in office.add_round(5):
        office.say(pick, 1)
    known = current_counts(office.db).document()
    office.say(office.picks[0], 2)
    current_counts(office.db)
    with writing(office.db):
        office.db.execute("DELETE FROM votes WHERE id = (SELECT max(id) FROM votes)")
    assert current_counts(office.db).document()["cells"] == known["cells"]


EUR = BudgetSettings(currency="EUR", rate_vote=0.12)


def test_parts_add_up_whatever_happens(office: Office) -> None:
    office.add_round(9, overlap=2)
    for _ in range(250):
        office.something_happens()
    add_spend(office.db, 250.0, "workshop")
    add_spend(office.db, -49.5, "one of them was free")
    settings = BudgetSettings(
        currency="EUR", rate_vote=0.1, rate_hour=18.0, rates={"ben": Rate(hour=40.0)}
    )
    books = ledger(office.db, settings)
    assert books["votes"] > 40
    assert books["skips"] > 3
    for name in ("votes", "skips", "seconds", "amount"):
        whole = books["people"]["amount"] if name == "amount" else books[name]
        arms = [arm for one in books["rounds"] for arm in one["arms"]]
        for parts in (books["arms"], books["rounds"], books["annotators"], arms):
            assert sum(part[name] or 0.0 for part in parts) == pytest.approx(whole, abs=1e-4)
    for one in books["rounds"]:
        assert sum(arm["votes"] for arm in one["arms"]) == one["votes"]
    assert books["other"]["amount"] == pytest.approx(200.5)
    assert books["total"]["amount"] == pytest.approx(books["people"]["amount"] + 200.5)
    assert books["burn"][-1]["votes"] == books["votes"]
    assert books["burn"][-1]["amount"] == pytest.approx(books["total"]["amount"], abs=1e-3)
    votes = [point["votes"] for point in books["burn"]]
    assert votes == sorted(votes)
    assert len(books["burn"]) <= 500
    json.dumps(books, allow_nan=False)


def test_rates_by_hand(office: Office) -> None:
    """Anna 3 votes in 90 s, ben 2 in 100 s and a skip of 1 h, cleo 1 vote of unknown length."""
    picks = office.add_round(3, overlap=3)
    for pick in picks:
        office.say(pick, 1, seconds=30.0)
    for pick in picks[:2]:
        office.say(pick, 2, seconds=50.0)
    office.say(picks[2], 2, "skip", seconds=3600.0)
    office.say(picks[0], 3, seconds=None)

    def paid(**settings: Any) -> tuple[dict[str, Any], dict[str, float | None]]:
        books = ledger(office.db, BudgetSettings(currency="EUR", **settings))
        return books["people"], {one["name"]: one["amount"] for one in books["annotators"]}

    people, each = paid(rate_vote=0.5)
    assert each == {"anna": 1.5, "ben": 1.0, "cleo": 0.5}
    assert (people["amount"], people["votes_unpriced"]) == (3.0, 0)
    people, each = paid(rate_hour=36.0)
    assert each == {"anna": pytest.approx(0.9), "ben": pytest.approx(37.0), "cleo": 0.0}
    assert people["votes_unpriced"] == 1  # cleo's, of which nobody knows how long it took
    people, each = paid(rate_vote=0.5, rates={"ben": Rate(hour=36.0), "zoe": Rate(vote=1.0)})
    assert each == {"anna": 1.5, "ben": pytest.approx(37.0), "cleo": 0.5}
    assert people["names_unknown"] == ["zoe"]
    assert people["how"] == "0.50 EUR a vote; ben: 36.00 EUR an hour; zoe: 1.00 EUR a vote"
    people, each = paid(rates={"anna": Rate(vote=0.125)})
    assert each == {"anna": 0.375, "ben": None, "cleo": None}
    assert (people["amount"], people["votes_unpriced"]) == (0.375, 3)
    people, _ = paid()
    assert (people["amount"], people["how"], people["votes_unpriced"]) == (None, None, 6)


def test_an_edit_costs_once_and_a_deletion_nothing(office: Office) -> None:
    a, b = office.add_round(2)
    first = office.say(a, 1, seconds=10.0)
    office.say(a, 1, seconds=25.0, annotation=first)
    second = office.say(b, 1)
    office.say(b, 1, "deleted", annotation=second)
    books = ledger(office.db, EUR)
    assert (books["votes"], books["seconds"], books["people"]["amount"]) == (1, 25.0, 0.12)


def judged(db: Database, cost: int | None, reserve: int | None = 50_000) -> None:
    """One request to a judge, answered at that cost in micro-dollars."""
    books = Ledger(db, "h/v1")
    n = db["judge_calls"].count
    (ticket,) = books.write([], [Claim(f"k{n}", "m", reserve)])
    assert isinstance(ticket, Ticket)
    books.write([Closing(ticket, "ok", "ok", cost)], [])


def test_judges_are_put_to_the_round_that_follows(office: Office) -> None:
    judged(office.db, 1_000_000)
    judged(office.db, 500_000)
    office.add_round(2)
    office.add_round(2)
    judged(office.db, None)  # its reservation stands
    for pick in office.add_round(2):
        office.say(pick, 1)
    judged(office.db, 250_000)
    books = ledger(office.db, BudgetSettings(rate_vote=1.0))
    assert [one["judge_usd"] for one in books["rounds"]] == [1.5, 0.0, 0.05]
    assert books["judge"] == {"usd_at_most": 1.8, "requests": 4, "unpriced": 0}
    assert books["total"]["amount"] == pytest.approx(3.8)
    assert books["burn"][-1]["amount"] == pytest.approx(3.8)


def test_dollars_and_euros_are_added_only_by_a_rate_that_was_given(office: Office) -> None:
    judged(office.db, 2_000_000)
    for pick in office.add_round(10):
        office.say(pick, 1)
    total = ledger(office.db, EUR)["total"]
    assert total["amount"] is None
    assert "set usd" in total["why_not"]
    assert all(point["amount"] is None for point in ledger(office.db, EUR)["burn"])
    total = ledger(office.db, EUR.model_copy(update={"usd": 0.5}))["total"]
    assert (total["amount"], total["currency"], total["usd"]) == (pytest.approx(2.2), "EUR", 0.5)
    total = ledger(office.db, BudgetSettings(rate_vote=0.12))["total"]
    assert (total["amount"], total["usd"]) == (pytest.approx(3.2), None)
    total = ledger(office.db, BudgetSettings())["total"]
    assert total["amount"] is None
    assert "rate_vote" in total["why_not"]


def test_a_request_without_a_price_makes_it_at_least(office: Office) -> None:
    judged(office.db, None, reserve=None)
    books = ledger(office.db, BudgetSettings(rate_vote=1.0))
    assert books["judge"]["unpriced"] == 1
    assert books["total"]["at_least"]


def test_votes_asked_for_are_reserved_unless_their_task_is_gone(office: Office) -> None:
    picks = office.add_round(5, overlap=2)
    office.say(picks[0], 1)
    office.say(picks[0], 2)
    office.say(picks[1], 1)
    office.say(picks[2], 1, "skip")  # somebody else is asked instead
    settings = EUR.model_copy(update={"cap_votes": 20, "cap_cost": 9.0})
    cap = ledger(office.db, settings)["cap"]
    assert (cap["votes_spent"], cap["votes_reserved"]) == (3, 7)
    assert (cap["cost_spent"], cap["cost_reserved"]) == (0.36, pytest.approx(0.84))
    with writing(office.db):
        office.db.execute("UPDATE tasks SET state = 'gone' WHERE pick_id = ?", [picks[4]])
    assert ledger(office.db, settings)["cap"]["votes_reserved"] == 5
    office.ask_further(picks[0])
    assert ledger(office.db, settings)["cap"]["votes_reserved"] == 6
    assert ledger(office.db, EUR)["cap"] is None


def test_who_may_only_read_gets_the_same(office: Office, tmp_path: Path) -> None:
    from annotator.store import open_readonly

    picks = office.add_round(6)
    for pick in picks[:3]:
        office.say(pick, 1)
    reader = open_readonly(tmp_path / "annotator.db")
    assert ledger(reader, EUR) == ledger(office.db, EUR)
    office.say(picks[3], 2)
    assert ledger(reader, EUR)["votes"] == 4
    assert ledger(reader, EUR) == ledger(office.db, EUR)
    reader.close()


@pytest.mark.parametrize(
    ("amount", "note", "said"),
    [(0.0, "x", "amount of 0"), (float("nan"), "x", "amount of nan"), (3.0, " ", "without a note")],
)  # fmt: skip
def test_spending_that_makes_no_sense_is_refused(
    db: Database, amount: float, note: str, said: str
) -> None:
    with pytest.raises(BudgetError, match=said):
        add_spend(db, amount, note)
    assert db["spend"].count == 0


def test_nothing_yet(db: Database) -> None:
    books = ledger(db, EUR)
    assert (books["votes"], books["people"]["amount"], books["total"]["amount"]) == (0, 0.0, 0.0)
    assert books["burn"] == books["rounds"] == books["arms"] == books["annotators"] == []
    assert votes_waiting(db, current_counts(db)) == 0


def test_two_people_of_one_name_are_two(office: Office, tmp_path: Path) -> None:
    with writing(office.db):
        record_annotators(office.db, "http://other", {11: "anna"})
    (pick,) = office.add_round(1, overlap=2)
    office.say(pick, 1)
    office.say(pick, 5)
    other = open_db(tmp_path / "annotator.db")
    books = ledger(other, EUR)
    other.close()
    assert [one["name"] for one in books["annotators"]] == ["anna", "anna"]
    assert [one["votes"] for one in books["annotators"]] == [1, 1]
