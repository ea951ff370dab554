"""The server itself: who may ask what, which fault strikes, and what is written down."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from tests.openai_server import brains, faults
from tests.openai_server.answers import fraction
from tests.openai_server.batches import Batch, BatchPlan, BatchService, StoredFile
from tests.openai_server.chat import Chat, Refusal
from tests.openai_server.faults import Fault, Script, When, fault_from_json
from tests.openai_server.ledger import CHAT, Arrival, Ledger
from tests.openai_server.models import MODELS, Model
from tests.openai_server.prices import Price
from tests.openai_server.uploads import parse_upload
from tests.openai_server.wire import Connection, Gate, Outgoing, Request

__all__ = ["CHAT", "OpenAIServer"]

Latency = float | Callable[[Any], float]


class OpenAIServer:
    """The vendor's memory, the fault script and the ledger; `serving` runs it."""

    def __init__(
        self,
        *,
        price: Price = Price(),  # noqa: B008  (frozen)
        latency: Latency = 0.0,
        brain: brains.Brain | None = None,
        models: Iterable[Model] | Mapping[str, Model] = MODELS,
        key: str | None = None,
        at_most: int | None = None,
        plan: BatchPlan = BatchPlan(),  # noqa: B008  (frozen)
    ):
        if not isinstance(models, Mapping):
            models = {model.name: model for model in models}
        self.key = key or "sk-any"
        self.ledger = Ledger()
        self.problems: list[Exception] = []
        self.host = ""
        self._wanted_key, self._latency, self._at_most = key, latency, at_most
        self._script = Script()
        self._chat = Chat(models, brain or brains.everyday(), price)
        self._service = BatchService(self._chat, self.ledger.add_lines, plan)
        self._in_flight = 0
        self._connections: set[Connection] = set()
        self._gate = Gate()
        self._loop: asyncio.AbstractEventLoop | None = None
        # Requests are handled by the loop's thread, test calls come from another.
        self._lock = threading.RLock()

    @property
    def url(self) -> str:
        """The base URL for a client."""
        return f"http://{self.host}/v1"

    @property
    def left(self) -> int:
        """Scripted faults that no request has met yet."""
        return self._script.left

    @property
    def batches(self) -> dict[str, Batch]:
        """Batches by id."""
        return self._service.batches

    @property
    def files(self) -> dict[str, StoredFile]:
        """Files by id."""
        return self._service.files

    def script(
        self, script: Iterable[Fault | None], *, when: When = None, path: str = CHAT
    ) -> None:
        """The next matching requests take these faults, in order; None lets one pass."""
        self._script.queue(script, when, path)

    def always(
        self, fault: Fault, *, when: When = None, path: str = CHAT, share: float = 1.0
    ) -> None:
        """Every matching request takes this fault, or a fixed share of them, until `clear`."""
        self._script.always(fault, when, path, share)

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        self._script.clear()

    def hold(self) -> None:
        """Chat answers wait from now on, worked for and billed, until `release`."""
        self._gate.shut = True

    def release(self) -> None:
        """Sends what was held, and holds no more."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._gate.open)

    @property
    def held(self) -> int:
        """Answers that wait for `release`, those for clients that left included."""
        return len(self._gate.waiting)

    def plan_batches(self, plans: Iterable[BatchPlan]) -> None:
        """How the next batches go, in the order of their creation."""
        with self._lock:
            self._service.plans.extend(plans)

    def advance(self, batch_id: str | None = None) -> dict[str, str]:
        """One state further for one batch, or for all; gives the states."""
        with self._lock:
            ids = [batch_id] if batch_id else [k for k, b in self.batches.items() if not b.vanished]
            return {key: self._service.advance(key) for key in ids}

    async def start(self, port: int = 0) -> asyncio.Server:
        """Listens on 127.0.0.1 in the running loop."""
        self._loop = loop = asyncio.get_running_loop()
        listening = await loop.create_server(
            lambda: Connection(self.respond, self._ended, self._connections, self._gate),
            "127.0.0.1",
            port,
            backlog=1024,
        )
        self.host = "{}:{}".format(*listening.sockets[0].getsockname()[:2])
        return listening

    def hang_up(self) -> None:
        """Ends every connection now, those that wait for an answer too."""
        for connection in list(self._connections):
            connection.transport.abort()

    def respond(self, request: Request) -> Outgoing:
        """The answer to one request; called in the loop's thread."""
        with self._lock:
            if not request.path.startswith("/v1/"):
                return self._administer(request)
            arrival, body = self._arrived(request)
            fault = self._script.fault_for(request.method, request.path, body, arrival.number)
            outgoing = self._answer(request, body, fault, arrival)
            arrival.fault = None if fault.name == "none" else fault.name
            return outgoing

    def _ended(self) -> None:
        self._in_flight -= 1

    def _arrived(self, request: Request) -> tuple[Arrival, Any]:
        self._in_flight += 1
        headers = {k: v for k, v in request.headers.items() if k != "authorization"}
        arrival = Arrival(
            0, request.method, request.path, time.monotonic(), self._in_flight, headers
        )
        if request.headers.get("content-type", "").startswith("application/json"):
            try:
                arrival.body = json.loads(request.body)
            except ValueError:
                arrival.body = None
        elif request.body:
            arrival.body = len(request.body)
        if isinstance(arrival.body, dict):
            arrival.model = arrival.body.get("model")
        self.ledger.add(arrival)
        return arrival, arrival.body

    def _answer(self, request: Request, body: Any, fault: Fault, arrival: Arrival) -> Outgoing:
        content, content_type = b"", "application/json"
        try:
            self._admit(request)
            if fault.works:
                content, content_type = self._work(request, body, fault, arrival)
        except Refusal as refusal:
            return _instead(refusal.fault, arrival, fault)
        except Exception as problem:
            self.problems.append(problem)
            return _instead(faults.error(500), arrival)
        if fault.status is not None:
            return _instead(fault, arrival)
        delay = self._latency(body) if callable(self._latency) else self._latency
        held = request.path == CHAT
        return Outgoing(200, content, content_type, delay, fault, arrival, can_be_held=held)

    def _admit(self, request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self._wanted_key is not None and given != self._wanted_key:
            raise Refusal(faults.wrong_key())
        if self._at_most is not None and self._in_flight > self._at_most:
            raise Refusal(faults.busy(retry_after_ms=100))

    def _work(
        self, request: Request, body: Any, fault: Fault, arrival: Arrival
    ) -> tuple[bytes, str]:
        if (request.method, request.path) != ("POST", CHAT):
            return self._elsewhere(request, body)
        if body is None:
            raise Refusal(faults.invalid("We could not parse the JSON body of your request."))
        document, arrival.usage, arrival.microusd = self._chat.complete(body, fault)
        if fault.change is not None:
            document = fault.change(document)
        content = _json(document)
        return fault.reply(content) if fault.reply else content, "application/json"

    def _elsewhere(self, request: Request, body: Any) -> tuple[bytes, str]:
        match (request.method, request.path.removeprefix("/v1/").split("/")):
            case ("GET", ["models"]):
                data = [{"id": name, "object": "model"} for name in self._chat.models]
                return _json({"object": "list", "data": data}), "application/json"
            case (_, ["files", *rest]):
                return self._files(request, rest)
            case (_, ["batches", *rest]):
                return _json(self._batches(request, rest, body)), "application/json"
        raise Refusal(_unknown_url(request))

    def _files(self, request: Request, rest: list[str]) -> tuple[bytes, str]:
        match (request.method, rest):
            case ("POST", []):
                upload = parse_upload(request.headers.get("content-type", ""), request.body)
                return _json(self._service.store(*upload)), "application/json"
            case ("GET", []):
                data = [file.document for file in self.files.values()]
                return _json(
                    {"object": "list", "data": data, "has_more": False}
                ), "application/json"
            case ("GET", [file_id]):
                return _json(self._service.file(file_id).document), "application/json"
            case ("GET", [file_id, "content"]):
                return self._service.file(file_id).content, "application/octet-stream"
            case ("DELETE", [file_id]):
                self._service.file(file_id)
                del self.files[file_id]
                gone = {"id": file_id, "object": "file", "deleted": True}
                return _json(gone), "application/json"
        raise Refusal(_unknown_url(request))

    def _batches(self, request: Request, rest: list[str], body: Any) -> Any:
        match (request.method, rest):
            case ("POST", []):
                return self._service.create(body)
            case ("GET", []):
                limit = int(request.query.get("limit", 20))
                return self._service.listed(request.query.get("after"), limit)
            case ("GET", [batch_id]):
                return self._service.poll(batch_id)
            case ("POST", [batch_id, "cancel"]):
                return self._service.cancel(batch_id)
        raise Refusal(_unknown_url(request))

    def _administer(self, request: Request) -> Outgoing:
        try:
            body = json.loads(request.body or b"{}")
            return Outgoing(200, _json(self._administered(request, body)))
        except (KeyError, TypeError, ValueError, Refusal) as problem:
            return Outgoing(400, _json({"error": f"{type(problem).__name__}: {problem}"}))

    def _administered(self, request: Request, body: Mapping[str, Any]) -> Any:
        match (request.method, request.path):
            case ("GET", "/health"):
                return {"url": self.url, "left": self.left, "held": self.held}
            case ("GET", "/ledger"):
                return self.ledger.document(request.query.get("bodies") != "0")
            case ("POST", "/ledger/clear"):
                self.ledger.clear()
            case ("POST", "/clear"):
                self.clear()
            case ("POST", "/hold"):
                self.hold()
            case ("POST", "/release"):
                self.release()
            case ("POST", "/script"):
                self._script_from_json(body)
            case ("POST", "/advance"):
                return self.advance(body.get("batch"))
            case ("POST", "/plan"):
                self.plan_batches([_plan_from_json(plan) for plan in body["plans"]])
            case _:
                raise KeyError(f"{request.method} {request.path}")
        return {"left": self.left}

    def _script_from_json(self, body: Mapping[str, Any]) -> None:
        wanted = [fault_from_json(fault) for fault in body["faults"]]
        when, path = body.get("when"), body.get("path", CHAT)
        if not body.get("always"):
            self.script(wanted, when=when, path=path)
            return
        for fault in wanted:
            self.always(fault or faults.none(), when=when, path=path, share=body.get("share", 1.0))


def _instead(answer: Fault, arrival: Arrival, scripted: Fault | None = None) -> Outgoing:
    # No work, no latency. A scripted fault of the wire strikes a refusal too.
    on_the_wire = replace(scripted or answer, headers=answer.headers, retry_date=answer.retry_date)
    status = answer.status or 400
    return Outgoing(status, answer.body, answer.content_type, 0.0, on_the_wire, arrival)


def _plan_from_json(document: Mapping[str, Any]) -> BatchPlan:
    plan = BatchPlan(**{**document, "line_faults": ()})
    line_faults = [fault_from_json(fault) for fault in document.get("line_faults", ())]
    return replace(plan, line_faults=tuple(line_faults))


def _json(document: Any) -> bytes:
    return json.dumps(document).encode()


def _unknown_url(request: Request) -> Fault:
    message = f"Invalid URL ({request.method} {request.path})"
    body = _json(faults.error_body(message, "invalid_request_error"))
    return Fault("unknown_url", False, 404, body)


def exponential(mean: float, seed: int = 0) -> Callable[[Any], float]:
    """A latency that varies: the same body always waits as long, `mean` seconds on average."""
    return lambda body: -mean * math.log(1 - fraction(seed, json.dumps(body, sort_keys=True)))
