"""How many requests are out at once: as many as the server bears."""

from __future__ import annotations

import asyncio
import time
from collections import deque

SUCCESSES = 50  # until one more request at once is tried


class Throttle:
    """Places for requests: half as many after a 429, one more after a run of successes."""

    def __init__(self, most: int) -> None:
        self.limit = self._most = most
        self.in_use = 0
        self._successes = 0
        self._cut_at = float("-inf")
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Takes a place, as soon as there is one."""
        while self.in_use >= self.limit:
            place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            try:
                await place
            except asyncio.CancelledError:
                self._call_next()
                raise
        self.in_use += 1

    def leave(self) -> None:
        """Gives a place back."""
        self.in_use -= 1
        self._call_next()

    def _call_next(self) -> None:
        room = self.limit - self.in_use
        while room > 0 and self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                room -= 1

    def busy(self, sent_at: float) -> None:
        """A 429. Those that went out before the last cut say nothing new."""
        self._successes = 0
        if sent_at >= self._cut_at:
            self.limit = max(1, self.limit // 2)
            self._cut_at = time.monotonic()

    def success(self) -> None:
        """An answer."""
        self._successes += 1
        if self._successes >= SUCCESSES and self.limit < self._most:
            self._successes = 0
            self.limit += 1
            self._call_next()
