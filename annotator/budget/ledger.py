"""Owner of the table spend: what the project has cost, in votes, in people's time and in money.

Votes and skips are those that count now, so an edited answer costs once; they belong to the round
and the arm of the pick that they are on, further votes of later rounds included. A skip costs time
and no vote. Money of people and of judges is added only where both are in one currency, or where
the settings say what a dollar is worth.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from annotator.budget.counts import Counts, Work, current_counts, votes_waiting
from annotator.errors import BudgetError
from annotator.signals.judges.ledger import MICROUSD, NOT_SENT, spending
from annotator.store import now, writing

if TYPE_CHECKING:
    from sqlite_utils import Database

    from annotator.config import BudgetSettings

Document = dict[str, Any]

ARMS = ("acquired", "control", "gold", "repeat")
LABELLED = ("acquired", "control")  # arms that ask about a pair to learn of the pair
HOUR = 3600.0
DIGITS = 6  # so that parts add up, and 0.1 + 0.2 is 0.3


@dataclass(frozen=True)
class Price:
    """What one person is paid for a vote and for an hour; None: nothing is known."""

    vote: float | None
    hour: float | None

    @property
    def known(self) -> bool:
        return self.vote is not None or self.hour is not None

    def of(self, work: Work) -> float:
        """What that work costs, as far as it has a price."""
        return work.votes * (self.vote or 0.0) + work.seconds / HOUR * (self.hour or 0.0)

    def unpriced(self, work: Work) -> int:
        """Votes of which not everything has a price: without a rate, or paid by a time not told."""
        if not self.known:
            return work.votes
        return 0 if self.hour is None else work.votes - work.timed

    def words(self, currency: str) -> str:
        """As '0.12 EUR a vote and 20.00 EUR an hour'."""
        parts = [(self.vote, "a vote"), (self.hour, "an hour")]
        return " and ".join(
            f"{rate:,.{_decimals(rate)}f} {currency} {unit}"
            for rate, unit in parts
            if rate is not None
        )


def _decimals(rate: float) -> int:
    """Two, or as many as a rate such as 0.125 needs."""
    return next(n for n in (2, 3, 4, 5, 6) if n == 6 or math.isclose(round(rate, n), rate))


class Prices:
    """Who is paid what: a rate of their own by name, or else everybody's."""

    def __init__(self, settings: BudgetSettings, names: Mapping[int, str]) -> None:
        self._settings, self._names = settings, names
        self._usual = Price(settings.rate_vote, settings.rate_hour)

    def of(self, annotator_id: int) -> Price:
        """One person's; a rate of their own replaces both usual ones."""
        own = self._settings.rates.get(self._names.get(annotator_id, ""))
        return self._usual if own is None else Price(own.vote, own.hour)

    def words(self) -> str | None:
        """All rates in words; None where there are none."""
        currency = self._settings.currency
        own = {name: Price(rate.vote, rate.hour) for name, rate in self._settings.rates.items()}
        said = [self._usual.words(currency)] if self._usual.known else []
        said += [
            f"{name}: {price.words(currency) or 'no rate'}" for name, price in sorted(own.items())
        ]
        return "; ".join(said) or None

    def unknown_names(self) -> list[str]:
        """Names with a rate that nobody has who ever voted."""
        return sorted(set(self._settings.rates) - set(self._names.values()))


def add_spend(db: Database, amount: float, note: str) -> None:
    """Appends what was spent otherwise, in the project's currency; a correction is negative.

    Raises BudgetError for an amount that is 0 or no number, or without a note.
    """
    if not math.isfinite(amount) or amount == 0.0:
        raise BudgetError(
            f"an amount of {amount:g}",
            expected="money that was spent, or below 0 a correction",
            todo="such as --add 250 --note 'workshop on the guideline'",
        )
    if not note.strip():
        raise BudgetError(
            "an amount without a note",
            expected="what it was for",
            todo=f"such as --add {amount:g} --note 'workshop on the guideline'",
        )
    with writing(db):
        db.execute(
            "INSERT INTO spend (amount, note, spent_at) VALUES (?, ?, ?)",
            [amount, note.strip(), now()],
        )


def ledger(db: Database, settings: BudgetSettings) -> Document:
    """Everything that was spent, as one document: see `annotator budget --json`."""
    counts = current_counts(db)
    names = dict(db.execute("SELECT id, name FROM annotators").fetchall())
    prices = Prices(settings, names)
    books = _Books(counts, prices)
    rounds = _rounds(db, books)
    judge, other = _judge(db), other_spend(db)
    people = _people(books, prices, settings)
    total = _total(people, judge, other, settings)
    whole = books.whole.work
    return {
        "votes": whole.votes,
        "skips": whole.skips,
        "seconds": whole.seconds,
        "votes_timed": whole.timed,
        "pairs": sum(n for (_, arm), n in counts.voted.items() if arm in LABELLED),
        "people": people,
        "judge": judge,
        "other": other,
        "total": total,
        "cap": _cap(db, counts, whole, people, total, settings),
        "arms": books.arms(),
        "rounds": rounds,
        "annotators": _annotators(books, names),
        "burn": _burn(counts, prices, rounds, people, total, other, settings),
    }


@dataclass(slots=True)
class _Entry:
    """Work, and what people are paid for it; `known` if any of it has a rate."""

    work: Work = field(default_factory=Work)
    paid: float = 0.0
    unpriced: int = 0
    known: bool = False

    def add(self, work: Work, price: Price) -> None:
        self.work.add(work)
        self.paid += price.of(work)
        self.unpriced += price.unpriced(work)
        self.known = self.known or price.known

    @property
    def amount(self) -> float | None:
        return round(self.paid, DIGITS) if self.known else None

    def document(self) -> Document:
        return {
            "votes": self.work.votes,
            "skips": self.work.skips,
            "seconds": self.work.seconds,
            "amount": self.amount,
        }


class _Books:
    """The cells summed up in every way that is asked for: each cell is in one entry of each."""

    def __init__(self, counts: Counts, prices: Prices) -> None:
        self._voted = counts.voted
        self.whole = _Entry()
        self.people: dict[int, _Entry] = defaultdict(_Entry)
        self._arms: dict[tuple[int | None, str], _Entry] = defaultdict(_Entry)
        self.rounds: dict[int, _Entry] = defaultdict(_Entry)
        price_of = {who: prices.of(who) for who in {cell[2] for cell in counts.cells}}
        for (round_id, arm, who), work in counts.cells.items():
            of_all = (
                self.whole,
                self.people[who],
                self._arms[None, arm],
                self._arms[round_id, arm],
                self.rounds[round_id],
            )
            for entry in of_all:
                entry.add(work, price_of[who])

    def arms(self, round_id: int | None = None) -> list[Document]:
        """The arms with an answer, in one round or in all."""
        return [
            {
                "arm": arm,
                "pairs": self._pairs(arm, round_id),
                **self._arms[round_id, arm].document(),
            }
            for arm in ARMS
            if (round_id, arm) in self._arms
        ]

    def _pairs(self, arm: str, round_id: int | None) -> int:
        if round_id is not None:
            return self._voted[round_id, arm]
        return sum(n for (_, of_arm), n in self._voted.items() if of_arm == arm)


def _rounds(db: Database, books: _Books) -> list[Document]:
    """Every round, what judging until it cost included; arms without an answer are left out."""
    rows = db.execute("SELECT id, started_at, strategy FROM rounds ORDER BY id").fetchall()
    judged = _judged_until(db, [made_at for _, made_at, _ in rows])
    return [
        {
            "round": round_id,
            "made_at": made_at,
            "strategy": strategy,
            "arms": books.arms(round_id),
            **books.rounds[round_id].document(),
            "judge_usd": usd,
        }
        for (round_id, made_at, strategy), usd in zip(rows, judged, strict=True)
    ]


def _judged_until(db: Database, moments: list[str]) -> list[float | None]:
    """Dollars that judges cost, at most, before each of these moments and after the one before.

    None throughout where no judge was ever asked. Attempts stand in the order of time.
    """
    if not db.execute("SELECT 1 FROM judge_attempts LIMIT 1").fetchone():
        return [None] * len(moments)
    found: list[float | None] = []
    first = 0
    for moment in moments:
        last = _attempts_before(db, moment)
        spent = db.execute(
            """SELECT coalesce(sum(coalesce(cost_microusd, reserved_microusd)), 0)
            FROM judge_attempts WHERE status <> ? AND id > ? AND id <= ?""",
            [NOT_SENT, first, last],
        ).fetchone()[0]
        found.append(spent / MICROUSD)
        first = max(first, last)
    return found


def _attempts_before(db: Database, moment: str) -> int:
    """The id of the last attempt sent before that moment, 0 without one."""
    last = db.execute("SELECT max(id) FROM judge_attempts").fetchone()[0]
    query = "SELECT sent_at FROM judge_attempts WHERE id >= ? ORDER BY id LIMIT 1"
    return bisect_left(
        range(last), True, key=lambda i: str(db.execute(query, [i + 1]).fetchone()[0]) >= moment
    )


def _judge(db: Database) -> Document:
    spent = spending(db)
    return {
        "usd_at_most": (spent.known + spent.reserved) / MICROUSD,
        "requests": spent.n_attempts,
        "unpriced": spent.unpriced,
    }


def other_spend(db: Database) -> Document:
    """What was recorded by add_spend: the sum, and each entry."""
    rows = db.execute("SELECT amount, note, spent_at FROM spend ORDER BY id").fetchall()
    return {
        "amount": round(math.fsum(amount for amount, _, _ in rows), DIGITS),
        "entries": [{"amount": amount, "note": note, "at": at} for amount, note, at in rows],
    }


def _people(books: _Books, prices: Prices, settings: BudgetSettings) -> Document:
    how = prices.words()
    nobody_yet = how is not None and not books.people
    return {
        "amount": 0.0 if nobody_yet else books.whole.amount,
        "currency": settings.currency,
        "how": how,
        "votes_unpriced": books.whole.unpriced,
        "names_unknown": prices.unknown_names(),
    }


def _total(
    people: Document, judge: Document, other: Document, settings: BudgetSettings
) -> Document:
    """People, judges and all else in one sum, where that can be said."""
    rate = _usd(settings)
    why = None
    if people["amount"] is None:
        why = "people have no rate: set rate_vote or rate_hour under [budget]"
    elif rate is None and judge["usd_at_most"]:
        why = (
            f"people cost {settings.currency} and judges US dollars: set usd under [budget], "
            f"what a dollar is worth in {settings.currency}"
        )
    amount = None
    if why is None:
        amount = people["amount"] + other["amount"] + judge["usd_at_most"] * (rate or 0.0)
        amount = round(amount, DIGITS)
    return {
        "amount": amount,
        "currency": None if amount is None else settings.currency,
        "usd": rate if judge["usd_at_most"] and settings.currency != "USD" else None,
        "at_least": bool(people["votes_unpriced"] or judge["unpriced"]),
        "why_not": why,
    }


def _usd(settings: BudgetSettings) -> float | None:
    """What a dollar is worth in the project's currency, None where nobody knows."""
    return 1.0 if settings.currency == "USD" else settings.usd


def _cap(
    db: Database,
    counts: Counts,
    whole: Work,
    people: Document,
    total: Document,
    settings: BudgetSettings,
) -> Document | None:
    """What may be spent, and what of it is gone; None without a cap.

    Votes that were asked for and have not come are reserved; their cost is that of the votes so
    far, on average.
    """
    if settings.cap_votes is None and settings.cap_cost is None:
        return None
    waiting = votes_waiting(db, counts)
    reserved = None
    if people["amount"] is not None:
        reserved = round(people["amount"] / whole.votes * waiting, DIGITS) if whole.votes else 0.0
    return {
        "votes": settings.cap_votes,
        "cost": settings.cap_cost,
        "currency": settings.currency,
        "votes_spent": whole.votes,
        "votes_reserved": waiting,
        "cost_spent": total["amount"],
        "cost_reserved": None if total["amount"] is None else reserved,
    }


def _annotators(books: _Books, names: Mapping[int, str]) -> list[Document]:
    """Everybody who answered, most votes first."""
    rows = [
        {"id": who, "name": names.get(who, f"annotator {who}"), **entry.document()}
        for who, entry in books.people.items()
    ]
    return sorted(rows, key=lambda row: (-int(row["votes"]), int(row["id"])))


def _burn(
    counts: Counts,
    prices: Prices,
    rounds: list[Document],
    people: Document,
    total: Document,
    other: Document,
    settings: BudgetSettings,
) -> list[Document]:
    """Votes and money over time, cumulative; the last point is all of it.

    A judge's cost is put to the round that it came before.
    """
    events = sorted(_events(counts, prices, rounds, other, _usd(settings)))
    priced = total["amount"] is not None
    points: list[Document] = []
    votes, amount = 0, 0.0
    for at, n, money in _thinned(events):
        votes, amount = votes + n, amount + money
        points.append(
            {"at": _iso(at), "votes": votes, "amount": round(amount, DIGITS) if priced else None}
        )
    if points and priced and not math.isclose(points[-1]["amount"], total["amount"], abs_tol=1e-4):
        points[-1]["amount"] = total["amount"]  # what judges did since the last round
    return points


def _events(
    counts: Counts,
    prices: Prices,
    rounds: list[Document],
    other: Document,
    usd: float | None,
) -> Iterator[tuple[float, int, float]]:
    """When, how many votes and how much money, in no order."""
    by_slot: dict[int, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    for (slot, who), work in counts.slots.items():
        n, money = by_slot[slot]
        by_slot[slot] = n + work.votes, money + prices.of(who).of(work)
    for slot, (n, money) in by_slot.items():
        yield float((slot + 1) * counts.width), n, money
    for entry in other["entries"]:
        if (at := _moment(entry["at"])) is not None:
            yield at, 0, entry["amount"]
    for one in rounds:
        if one["judge_usd"] and usd is not None and (at := _moment(one["made_at"])) is not None:
            yield at, 0, one["judge_usd"] * usd


def _thinned(events: list[tuple[float, int, float]]) -> Iterator[tuple[float, int, float]]:
    """At most 500 of them, neighbours added up."""
    step = max(1, math.ceil(len(events) / 500))
    for start in range(0, len(events), step):
        some = events[start : start + step]
        yield some[-1][0], sum(n for _, n, _ in some), math.fsum(money for _, _, money in some)


def _moment(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()
