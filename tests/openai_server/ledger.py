"""Every request that arrived, and what it was billed: the truth a test compares with."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from tests.openai_server.prices import Billed

CHAT = "/v1/chat/completions"
NOTHING = Billed()


def is_at(pattern: str, method: str, path: str) -> bool:
    """Whether a request matches "/v1/batches", "POST /v1/batches" or "GET /v1/files/*/content"."""
    return fnmatchcase(f"{method} {path}", pattern if " " in pattern else f"* {pattern}")


@dataclass
class Arrival:
    """One request; times are of time.monotonic(), which processes of one machine share."""

    number: int
    method: str
    path: str
    arrived_at: float
    in_flight: int
    """Requests being answered at that moment, this one included."""
    headers: dict[str, str]
    """Without the authorization."""
    model: str | None = None
    body: Any = None
    """The parsed JSON; the size in bytes of an upload; None without a body."""
    status: int | None = None
    """None as long as no status line was sent."""
    answered_at: float | None = None
    answered: bool = False
    """The whole answer went out to a client that was still there."""
    fault: str | None = None
    usage: Billed = NOTHING
    microusd: int = 0

    def document(self, bodies: bool) -> dict[str, Any]:
        """The record as JSON."""
        shown = {**self.__dict__, "usage": self.usage._asdict()}
        if not bodies:
            del shown["body"]
        return shown


@dataclass(frozen=True)
class BatchLine:
    """One line of a batch that was worked on."""

    batch_id: str
    custom_id: str
    status: int
    usage: Billed
    microusd: int

    def document(self) -> dict[str, Any]:
        """The record as JSON."""
        return {**self.__dict__, "usage": self.usage._asdict()}


@dataclass
class Ledger:
    """The requests in order of arrival; safe to read while the server runs."""

    _arrivals: list[Arrival] = field(default_factory=list)
    _lines: list[BatchLine] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _last_number: int = 0

    def add(self, arrival: Arrival) -> None:
        """Writes a request down; its number is given here."""
        with self._lock:
            self._last_number += 1
            arrival.number = self._last_number
            self._arrivals.append(arrival)

    def add_lines(self, lines: Iterable[BatchLine]) -> None:
        """Writes down what a batch did."""
        with self._lock:
            self._lines.extend(lines)

    def clear(self) -> None:
        """Forgets what arrived so far; numbers go on."""
        with self._lock:
            self._arrivals.clear()
            self._lines.clear()

    @property
    def arrivals(self) -> list[Arrival]:
        """All requests."""
        with self._lock:
            return list(self._arrivals)

    @property
    def batch_lines(self) -> list[BatchLine]:
        """All lines of batches that were worked on."""
        with self._lock:
            return list(self._lines)

    @property
    def chats(self) -> list[Arrival]:
        """The requests for a chat completion."""
        return [arrival for arrival in self.arrivals if arrival.path == CHAT]

    def count(self, path: str = CHAT, status: int | None = None, fault: str | None = None) -> int:
        """Requests at `path`, a pattern as in `is_at`; with this status and fault, where given."""
        return sum(
            is_at(path, arrival.method, arrival.path)
            and status in (None, arrival.status)
            and fault in (None, arrival.fault)
            for arrival in self.arrivals
        )

    def repeated(self) -> int:
        """Chat requests beyond the first of each body."""
        bodies = Counter(json.dumps(arrival.body, sort_keys=True) for arrival in self.chats)
        return sum(bodies.values()) - len(bodies)

    @property
    def most_in_flight(self) -> int:
        """The largest number of requests that were being answered at once."""
        return max((arrival.in_flight for arrival in self.arrivals), default=0)

    @property
    def billed_microusd(self) -> int:
        """Everything charged so far, batches included."""
        return sum(record.microusd for record in self._charged())

    @property
    def billed(self) -> Billed:
        """The tokens behind the charge."""
        usages = (record.usage for record in self._charged())
        return Billed(*map(sum, zip(NOTHING, *usages, strict=True)))

    def _charged(self) -> list[Arrival | BatchLine]:
        return [*self.arrivals, *self.batch_lines]

    def document(self, bodies: bool = True) -> dict[str, Any]:
        """The whole ledger as JSON."""
        return {
            "arrivals": [arrival.document(bodies) for arrival in self.arrivals],
            "batch_lines": [line.document() for line in self.batch_lines],
            "billed": self.billed._asdict(),
            "billed_microusd": self.billed_microusd,
            "most_in_flight": self.most_in_flight,
            "repeated": self.repeated(),
        }
