"""What the dashboard shows now: rendered parts in memory, and who is told when one changes.

A request never computes a part: it gets the newest one that the background has made, with the
time at which it was made. So an answer takes as long with a million responses as with ten.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

# The part that is made at once after every change; the others are the report's.
PULSE = "pulse"
WATCHERS = 64


@dataclass(frozen=True)
class Part:
    """One part of the page: its markup, a hash of it, and when it was made (ISO 8601, UTC)."""

    html: str
    version: str
    made_at: str


@dataclass(frozen=True)
class Notice:
    """Something that a person should know, and since when (ISO 8601, UTC)."""

    text: str
    since: str


def moment() -> str:
    """Now, as ISO 8601 in UTC, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class Live:
    """The parts of the page in the order of their first appearance, and notices by topic.

    Any thread may call any method.
    """

    def __init__(self) -> None:
        # Re-entrant: a signal may arrive, and close, while its own thread holds it.
        self._lock = threading.RLock()
        self._parts: dict[str, Part] = {}
        self._notices: dict[str, Notice] = {}
        self._watchers: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
        self.closing = threading.Event()
        self.unsettled = threading.Event()  # a notice came or went: the pulse is to be made anew

    def put(self, parts: Mapping[str, str], as_of: str | None = None) -> None:
        """Takes in new markup, by the name of the part, and tells everybody who watches.

        `as_of` is when the database was read for it; None: just now.
        """
        made_at = as_of or moment()
        with self._lock:
            for name, html in parts.items():
                version = hashlib.sha256(html.encode(errors="replace")).hexdigest()[:16]
                self._parts[name] = Part(html, version, made_at)
        self._tell()

    def parts(self) -> dict[str, Part]:
        """All parts as they are now."""
        with self._lock:
            return dict(self._parts)

    def versions(self) -> dict[str, list[str]]:
        """Part -> [version, made_at]."""
        return {name: [part.version, part.made_at] for name, part in self.parts().items()}

    def notice(self, topic: str, text: str | None) -> None:
        """Says something of that topic in the place of what was said of it; None: no more."""
        with self._lock:
            before = self._notices.get(topic)
            if (before.text if before else None) == text:
                return
            if text is None:
                del self._notices[topic]
            else:
                self._notices[topic] = Notice(text, moment())
        self.unsettled.set()

    def notices(self) -> dict[str, Notice]:
        """What is to be said, by topic."""
        with self._lock:
            return dict(self._notices)

    @property
    def is_watched(self) -> bool:
        """Whether a browser is connected."""
        with self._lock:
            return bool(self._watchers)

    @contextmanager
    def watching(self) -> Iterator[asyncio.Event | None]:
        """An event that is set after every change, for use in the running loop; None where too
        many watch already."""
        told = asyncio.Event()
        with self._lock:
            if len(self._watchers) >= WATCHERS:
                told_or_none = None
            else:
                self._watchers[told] = asyncio.get_running_loop()
                told_or_none = told
        try:
            yield told_or_none
        finally:
            with self._lock:
                self._watchers.pop(told, None)

    def close(self) -> None:
        """Ends every event stream."""
        self.closing.set()
        self._tell()

    def _tell(self) -> None:
        with self._lock:
            watchers = list(self._watchers.items())
        for told, loop in watchers:
            with suppress(RuntimeError):  # a loop that has ended meanwhile
                loop.call_soon_threadsafe(told.set)
