"""What can go wrong with one request, and the script that says with which.

A fault is a change of one exchange: another answer instead of the work, another document after the
work, or bytes that do not arrive. `works` says whether the server does (and bills) the work.
"""

from __future__ import annotations

import gzip
import json
import random
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from time import time
from typing import Any

from tests.openai_server.answers import Answer, Distribution
from tests.openai_server.ledger import is_at

Document = dict[str, Any]
When = Callable[[Any], bool] | str | None


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong; made by the functions of this module."""

    name: str
    works: bool = True
    status: int | None = None
    """Of an answer instead of the usual one; `body` goes with it."""
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    retry_date: float | None = None
    """Seconds from the moment of the answer, sent as an HTTP date."""
    answer: Answer | None = None
    """Said instead of what the brain says."""
    mass: float | None = None
    change: Callable[[Document], Any] | None = None
    """From the finished document to the one that is sent."""
    reply: Callable[[bytes], bytes] | None = None
    """From the finished bytes to those that are sent."""
    delay: float = 0.0
    cut_after: int | None = None
    """Body bytes that arrive before the connection ends."""
    resets: bool = False
    """The connection ends with RST; with `cut_after` None not even a status line is sent."""
    bytes_per_second: float | None = None
    silent: bool = False

    def all_headers(self) -> tuple[tuple[str, str], ...]:
        """The extra headers, with the date filled in."""
        if self.retry_date is None:
            return self.headers
        return (*self.headers, ("retry-after", formatdate(time() + self.retry_date, usegmt=True)))


def error_body(
    message: str, kind: str, code: str | None = None, param: str | None = None
) -> Document:
    """The vendor's error document."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _refusal(
    name: str, status: int, message: str, kind: str, code: str | None = None, **more: Any
) -> Fault:
    document = error_body(message, kind, code, more.pop("param", None))
    return Fault(name, more.pop("works", False), status, json.dumps(document).encode(), **more)


def none() -> Fault:
    """Nothing goes wrong: lets one request pass in a script."""
    return Fault("none")


def busy(
    retry_after: float | str | None = None,
    retry_after_ms: float | str | None = None,
    retry_date: float | None = None,
) -> Fault:
    """429 about the rate; the wait as seconds, milliseconds, any text, or a date from now."""
    given = (("retry-after", retry_after), ("retry-after-ms", retry_after_ms))
    headers = tuple((name, str(value)) for name, value in given if value is not None)
    return _refusal(
        "busy",
        429,
        "Rate limit reached for requests per minute.",
        "requests",
        "rate_limit_exceeded",
        headers=headers,
        retry_date=retry_date,
    )


def quota() -> Fault:
    """429 because the money is spent."""
    message = "You exceeded your current quota, please check your plan and billing details."
    return _refusal("quota", 429, message, "insufficient_quota", "insufficient_quota")


def wrong_key() -> Fault:
    """401."""
    message = "Incorrect API key provided."
    return _refusal("wrong_key", 401, message, "invalid_request_error", "invalid_api_key")


def forbidden() -> Fault:
    """403 about the project, not about a parameter."""
    message = "Your project does not have access to this model."
    return _refusal("forbidden", 403, message, "invalid_request_error", "model_not_found")


def forbidden_logprobs() -> Fault:
    """403 as o4-mini sends it: about a parameter, which neither `param` nor `code` names."""
    message = "You are not allowed to request logprobs from this model"
    return _refusal("forbidden_logprobs", 403, message, "invalid_request_error")


def no_model(name: str = "it") -> Fault:
    """404 about the model."""
    message = f"The model `{name}` does not exist or you do not have access to it."
    return _refusal("no_model", 404, message, "invalid_request_error", "model_not_found")


def unsupported(param: str, status: int = 400) -> Fault:
    """400 that names a parameter."""
    message = f"Unsupported parameter: '{param}' is not supported with this model."
    kind, code = "invalid_request_error", "unsupported_parameter"
    return _refusal("unsupported", status, message, kind, code, param=param)


def invalid(message: str, param: str | None = None, code: str | None = None) -> Fault:
    """400 about the request's form."""
    return _refusal("invalid", 400, message, "invalid_request_error", code, param=param)


def too_long(limit: int = 128_000) -> Fault:
    """400 about the context's length."""
    message = f"This model's maximum context length is {limit} tokens."
    kind, code = "invalid_request_error", "context_length_exceeded"
    return _refusal("too_long", 400, message, kind, code, param="messages")


def filtered_prompt() -> Fault:
    """400 of a content filter, as Azure sends it."""
    message = "The response was filtered due to the prompt triggering a content management policy."
    return _refusal("filtered_prompt", 400, message, "invalid_request_error", "content_filter")


def error(status: int = 500, works: bool = False) -> Fault:
    """500, 503 or another, before or after the work."""
    message = "The server had an error while processing your request."
    return _refusal("error", status, message, "server_error", works=works)


def html(status: int = 200) -> Fault:
    """A page, as a log-in or a proxy before the server sends it."""
    page = b"<!doctype html><html><head><title>Sign in</title></head><body>Sign in</body></html>"
    return Fault("html", False, status, page, "text/html; charset=utf-8")


def gzip_bomb(mebibytes: int = 64) -> Fault:
    """A small JSON answer that becomes this large when it is unpacked."""
    headers = (("content-encoding", "gzip"),)
    return Fault("gzip_bomb", False, 200, _bomb(mebibytes), headers=headers)


@lru_cache(maxsize=4)
def _bomb(mebibytes: int) -> bytes:
    filler = b" " * (mebibytes << 20)
    return gzip.compress(b'{"choices": [' + filler + b"]}", compresslevel=1)


def cut(after: int = 50) -> Fault:
    """The connection ends after so many bytes of the body."""
    return Fault("cut", cut_after=after)


def reset(after: int | None = None, works: bool = True) -> Fault:
    """The connection is reset: before the answer, or after so many bytes of its body."""
    return Fault("reset", works, cut_after=after, resets=True)


def drip(bytes_per_second: float = 1.0) -> Fault:
    """The body comes one byte at a time."""
    return Fault("drip", bytes_per_second=bytes_per_second)


def black_hole(works: bool = False) -> Fault:
    """No answer, ever; the connection stays open until the server stops."""
    return Fault("black_hole", works, silent=True)


def late(seconds: float) -> Fault:
    """The work is done at once, the answer comes after so many seconds."""
    return Fault("late", delay=seconds)


def bad_json() -> Fault:
    """200 with the first half of the JSON, as a whole body."""
    return Fault("bad_json", reply=lambda body: body[: len(body) // 2])


def _changed(name: str, change: Callable[[Document], Any]) -> Fault:
    return Fault(name, change=change)


def _each_choice(name: str, **values: Any) -> Fault:
    def change(document: Document) -> Document:
        for choice in document["choices"]:
            for key, value in values.items():
                (choice["message"] if key in choice["message"] else choice)[key] = value
        return document

    return Fault(name, change=change)


def choices_null() -> Fault:
    """200 with `choices: null`."""
    return _changed("choices_null", lambda document: {**document, "choices": None})


def choices_empty() -> Fault:
    """200 with `choices: []`."""
    return _changed("choices_empty", lambda document: {**document, "choices": []})


def message_missing() -> Fault:
    """200 with choices that have no message."""

    def change(document: Document) -> Document:
        for choice in document["choices"]:
            del choice["message"]
        return document

    return _changed("message_missing", change)


def content_empty() -> Fault:
    """200 with an empty message."""
    return _each_choice("content_empty", content="", logprobs=None)


def content_null() -> Fault:
    """200 with a message whose content is null."""
    return _each_choice("content_null", content=None, logprobs=None)


def refusal() -> Fault:
    """200 with the model's refusal in the place made for it."""
    said = "I'm sorry, I can't help with that."
    return _each_choice("refusal", content=None, refusal=said, logprobs=None)


def content_filter() -> Fault:
    """200 with an answer that a filter took away."""
    return _each_choice("content_filter", content="", finish_reason="content_filter", logprobs=None)


def fewer_choices(by: int = 2) -> Fault:
    """200 with fewer choices than asked for: 18 of 20."""

    def change(document: Document) -> Document:
        return {**document, "choices": document["choices"][:-by]}

    return _changed("fewer_choices", change)


def without_usage() -> Fault:
    """200 that does not say what it cost."""
    return _changed(
        "without_usage", lambda document: {k: v for k, v in document.items() if k != "usage"}
    )


def without_logprobs() -> Fault:
    """200 that leaves out the log-probs that were asked for."""
    return _each_choice("without_logprobs", logprobs=None)


def weak_mass(mass: float = 0.5) -> Fault:
    """The grade's labels have only this share of the distribution."""
    return Fault("weak_mass", mass=mass)


def grades(label: str) -> Fault:
    """The label in the place of the grade, in a JSON answer too: "11", "four"."""
    return Fault("grades", answer=Distribution.certain(label))


def says(text: str) -> Fault:
    """The message, word for word: "4/5", prose."""
    return Fault("says", answer=text)


FAULTS: Mapping[str, Callable[..., Fault]] = {
    make.__name__: make
    for make in (
        *(none, busy, quota, wrong_key, forbidden, forbidden_logprobs, no_model, unsupported),
        *(invalid, too_long, filtered_prompt, error, html, gzip_bomb),
        *(cut, reset, drip, black_hole, late),
        *(bad_json, choices_null, choices_empty, message_missing, content_empty, content_null),
        *(refusal, content_filter, fewer_choices, without_usage, without_logprobs, weak_mass),
        *(grades, says),
    )
}


def fault_from_json(document: Mapping[str, Any] | None) -> Fault | None:
    """{"fault": "busy", "retry_after": 1} as a Fault; KeyError for an unknown name."""
    if document is None:
        return None
    arguments = dict(document)
    return FAULTS[arguments.pop("fault")](**arguments)


@dataclass
class _Rule:
    path: str
    when: When
    waiting: list[Fault]
    always: Fault | None = None
    share: float = 1.0

    def matches(self, method: str, path: str, body: Any, number: int) -> bool:
        if not (self.waiting or self.always) or not is_at(self.path, method, path):
            return False
        if self.share < 1 and random.Random(number).random() >= self.share:
            return False
        if self.when is None:
            return True
        if callable(self.when):
            return bool(self.when(body))
        return self.when in json.dumps(body, ensure_ascii=False)


@dataclass
class Script:
    """The faults that wait; the first rule that matches a request decides."""

    _rules: list[_Rule] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def queue(self, faults: Iterable[Fault | None], when: When, path: str) -> None:
        """Faults for the next matching requests, one each."""
        with self._lock:
            self._rules.append(_Rule(path, when, [fault or none() for fault in faults]))

    def always(self, fault: Fault, when: When, path: str, share: float) -> None:
        """A fault for every matching request."""
        with self._lock:
            self._rules.append(_Rule(path, when, [], fault, share))

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        with self._lock:
            self._rules.clear()

    @property
    def left(self) -> int:
        """Queued faults that no request has met yet."""
        with self._lock:
            return sum(len(rule.waiting) for rule in self._rules)

    def fault_for(self, method: str, path: str, body: Any, number: int) -> Fault:
        """What goes wrong with this request; Fault "none" for nothing."""
        if not self._rules:
            return NONE
        with self._lock:
            for rule in self._rules:
                if rule.matches(method, path, body, number):
                    return rule.waiting.pop(0) if rule.waiting else rule.always or NONE
        return NONE


NONE = none()
