"""HTTP/1.1 on asyncio, as much of it as a client of JSON needs, and ways to break it.

One `Connection` per socket, kept alive, one request at a time. The server decides what is
answered (an `Outgoing`); this module decides how its bytes go out, whole, cut, dripping or never.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import cast
from urllib.parse import parse_qsl, urlsplit

from tests.openai_server.faults import NONE, Fault
from tests.openai_server.ledger import Arrival

_REASONS = {status.value: status.phrase for status in HTTPStatus}


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass
class Outgoing:
    """An answer to be sent, and what goes wrong with its bytes."""

    status: int
    body: bytes
    content_type: str = "application/json"
    delay: float = 0.0
    fault: Fault = NONE
    arrival: Arrival | None = None
    can_be_held: bool = False


@dataclass
class Gate:
    """Holds finished answers back while it is shut; used by the loop's thread alone."""

    shut: bool = False
    waiting: list[Callable[[], None]] = field(default_factory=list)

    def open(self) -> None:
        """Lets everything out."""
        self.shut = False
        waiting, self.waiting = self.waiting, []
        for send in waiting:
            send()


def parse_head(head: bytes) -> Request:
    """The request line and headers; ValueError for what is no HTTP/1.1."""
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if "?" not in target:
        return Request(method, target, {}, headers, b"")
    parts = urlsplit(target)
    return Request(method, parts.path, dict(parse_qsl(parts.query)), headers, b"")


class Connection(asyncio.Protocol):
    """One socket. `respond` makes the answer; `ended` hears of requests that are over."""

    def __init__(
        self,
        respond: Callable[[Request], Outgoing],
        ended: Callable[[], None],
        connections: set[Connection],
        gate: Gate,
    ):
        self._respond, self._ended, self._connections = respond, ended, connections
        self._gate = gate
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._head: Request | None = None
        self._missing = 0
        self._current: Outgoing | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.discard(self)
        self._finish()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._current is None:
            self._next_request()

    def _next_request(self) -> None:
        if self._head is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            try:
                self._head = parse_head(bytes(self._buffer[:end]))
                self._missing = int(self._head.headers.get("content-length", 0))
            except ValueError:
                self.transport.abort()
                return
            del self._buffer[: end + 4]
        if len(self._buffer) < self._missing:
            return
        body = bytes(self._buffer[: self._missing])
        del self._buffer[: self._missing]
        head, self._head = self._head, None
        self._start(Request(head.method, head.path, head.query, head.headers, body))

    def _start(self, request: Request) -> None:
        self._current = outgoing = self._respond(request)
        delay = outgoing.delay + outgoing.fault.delay
        if outgoing.fault.silent:
            return
        if delay > 0:
            self._timer = self._loop.call_later(delay, self._send, outgoing)
        else:
            self._send(outgoing)

    def _send(self, outgoing: Outgoing) -> None:
        if outgoing is not self._current:
            return
        if outgoing.can_be_held and self._gate.shut:
            self._gate.waiting.append(partial(self._send, outgoing))
            return
        fault, arrival = outgoing.fault, outgoing.arrival
        if fault.resets and fault.cut_after is None:
            self._reset()
            return
        if arrival is not None:
            arrival.status = outgoing.status
        head = _head(outgoing)
        if fault.bytes_per_second is not None:
            self.transport.write(head)
            self._drip(outgoing, 0)
        elif fault.cut_after is not None:
            self.transport.write(head + outgoing.body[: fault.cut_after])
            self._cut(fault)
        else:
            self._answered(outgoing)
            self.transport.write(head + outgoing.body)
            self._done()

    def _drip(self, outgoing: Outgoing, sent: int) -> None:
        if sent >= len(outgoing.body):
            self._done()
            return
        if sent + 1 == len(outgoing.body):
            self._answered(outgoing)
        self.transport.write(outgoing.body[sent : sent + 1])
        pause = 1 / (outgoing.fault.bytes_per_second or 1.0)
        self._timer = self._loop.call_later(pause, self._drip, outgoing, sent + 1)

    def _cut(self, fault: Fault) -> None:
        if not fault.resets:
            self.transport.close()
            return
        # The bytes before a reset have to leave the client's buffer first, or it drops them.
        self._timer = self._loop.call_later(0.05, self._reset)

    def _reset(self) -> None:
        raw: socket.socket = self.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _answered(self, outgoing: Outgoing) -> None:
        # Written down before the client can know, so that a test that saw the answer sees this.
        if outgoing.arrival is not None:
            outgoing.arrival.answered = True
            outgoing.arrival.answered_at = time.monotonic()

    def _done(self) -> None:
        self._finish()
        if self._buffer:
            self._next_request()

    def _finish(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._current is not None:
            if self._current.arrival is not None:
                self._ended()
            self._current = None


def _head(outgoing: Outgoing) -> bytes:
    lines = [
        f"HTTP/1.1 {outgoing.status} {_REASONS.get(outgoing.status, 'Unknown')}",
        f"content-type: {outgoing.content_type}",
        f"content-length: {len(outgoing.body)}",
    ]
    if outgoing.arrival is not None:
        lines.append(f"x-request-id: req_{outgoing.arrival.number}")
    lines += [f"{name}: {value}" for name, value in outgoing.fault.all_headers()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
