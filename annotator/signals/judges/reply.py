"""A chat completion as plain data: what is asked, what came back, what it cost in tokens.

Nothing here knows a client. The same reader serves live answers, lines of a batch file and
answers read back from the ledger, so a stored call can be parsed again at any time.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


class Malformed(ValueError):
    """The document is no chat completion; the message says what is wrong with it."""


@dataclass(frozen=True)
class Token:
    """One token of the answer, with the alternatives that the server told of."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...]  # (text, logprob); may be empty


@dataclass(frozen=True)
class Choice:
    """One answer of the model."""

    text: str | None
    refusal: str | None
    finish_reason: str | None
    tokens: tuple[Token, ...] | None  # None: the server sent no log-probs


@dataclass(frozen=True)
class Usage:
    """Tokens as billed. Cached and written ones are part of prompt, reasoning of completion."""

    prompt: int
    completion: int
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0


@dataclass(frozen=True)
class Reply:
    """One chat completion: at least one choice, and the JSON that it was read from."""

    choices: tuple[Choice, ...]
    usage: Usage | None  # None: the server told of none that can be read
    model: str  # the name that the server returned, "" if none
    raw: str


@dataclass(frozen=True)
class ChatRequest:
    """Everything that determines an answer, and nothing else: no key, time limit or price."""

    model: str
    messages: tuple[tuple[str, str], ...]  # (role, content)
    params: tuple[tuple[str, object], ...]  # (name, JSON value), by name
    sample: int = 0  # tells apart samples that are sent as requests of their own

    def __post_init__(self) -> None:
        names = [name for name, _ in self.params]
        if len(set(names)) < len(names) or {"model", "messages"} & set(names):
            raise ValueError(f"a parameter is given twice: {names}")
        object.__setattr__(self, "params", tuple(sorted(self.params, key=lambda p: p[0])))

    def body(self) -> dict[str, Any]:
        """The JSON object that goes over the wire."""
        messages = [{"role": role, "content": content} for role, content in self.messages]
        return {"model": self.model, "messages": messages, **dict(self.params)}

    def key(self, host: str) -> str:
        """SHA-256, in hex, of the canonical JSON of this request to that host.

        Raises ValueError or TypeError if a parameter is not a JSON value.
        """
        whole = {"host": host, "body": self.body(), "sample": self.sample}
        text = json.dumps(whole, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode("ascii")).hexdigest()


def reply_from_json(document: Mapping[str, Any], raw: str | None = None) -> Reply:
    """The reply in a chat completion's JSON, live or from a batch.

    `raw` is the text of the document where the caller has it, to spare writing it out again.

    A token's text is decoded from its bytes where the server sends them, so the texts of all
    tokens join to the answer even where a token ends inside a character. A usage that cannot be
    read becomes None, an unknown bill. Raises Malformed for all else that is missing or wrong.
    """
    if not isinstance(document, Mapping):
        raise Malformed(f"not a JSON object but {_kind(document)}")
    choices = document.get("choices")
    if not isinstance(choices, list) or not choices:
        error = f"; it says {str(document['error'])[:300]}" if document.get("error") else ""
        raise Malformed(f"choices is {'empty' if choices == [] else _kind(choices)}{error}")
    model = document.get("model")
    return Reply(
        choices=tuple(_choice(choice) for choice in choices),
        usage=_usage(document.get("usage")),
        model=model if isinstance(model, str) else "",
        # ASCII, since SQLite takes no lone surrogates.
        raw=raw or json.dumps(document, separators=(",", ":"), default=dict),
    )


def _choice(document: Any) -> Choice:
    choice = _object(document, "a choice")
    message = _object(choice.get("message"), "a choice's message")
    return Choice(
        text=_text(message, "content"),
        refusal=_text(message, "refusal"),
        finish_reason=_text(choice, "finish_reason"),
        tokens=_tokens(choice.get("logprobs")),
    )


def _tokens(logprobs: Any) -> tuple[Token, ...] | None:
    if logprobs is None:
        return None
    content = _object(logprobs, "logprobs").get("content")
    if content is None or content == []:
        return None
    if not isinstance(content, list):
        raise Malformed(f"logprobs.content is {_kind(content)}")
    entries = [_object(entry, "a token") for entry in content]
    texts = _joined_texts(entries)
    return tuple(
        Token(text, _logprob(entry), tuple(_alternatives(entry)))
        for text, entry in zip(texts, entries, strict=True)
    )


def _joined_texts(entries: list[Mapping[str, Any]]) -> list[str]:
    """The tokens' texts; a character that spans tokens stands in the one that completes it."""
    sent = [_bytes(entry) for entry in entries]
    if any(data is None for data in sent):
        return [_token_text(entry) for entry in entries]
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return [decoder.decode(data or b"") for data in sent]


def _alternatives(entry: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    top = entry.get("top_logprobs")
    if top is None:
        return
    if not isinstance(top, list):
        raise Malformed(f"top_logprobs is {_kind(top)}")
    for alternative in top:
        one = _object(alternative, "an alternative token")
        text = _token_text(one)
        # There are twenty of these to a token: ASCII is its own bytes, but for OpenAI's escapes.
        if not text.isascii() or text.startswith("bytes:"):
            data = _bytes(one)
            text = text if data is None else data.decode("utf-8", errors="replace")
        yield text, _logprob(one)


def _bytes(entry: Mapping[str, Any]) -> bytes | None:
    data = entry.get("bytes")
    if data is None:
        return None
    try:
        return bytes(data) if isinstance(data, list) else None
    except (TypeError, ValueError):
        return None


def _token_text(entry: Mapping[str, Any]) -> str:
    text = entry.get("token")
    if not isinstance(text, str):
        raise Malformed(f"a token's text is {_kind(text)}")
    return text


def _logprob(entry: Mapping[str, Any]) -> float:
    value = entry.get("logprob")
    if type(value) is float and value <= 0:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise Malformed(f"a token's logprob is {_kind(value)}")
    return float(value)


def _usage(document: Any) -> Usage | None:
    if not isinstance(document, Mapping):
        return None
    prompt, completion = _count(document, "prompt_tokens"), _count(document, "completion_tokens")
    if prompt is None or completion is None:
        return None
    # Some servers count reasoning in the total and not in the completion, and bill it as such.
    total = _count(document, "total_tokens") or 0
    return Usage(
        prompt=prompt,
        completion=max(completion, total - prompt),
        cached=_count(document.get("prompt_tokens_details"), "cached_tokens") or 0,
        cache_write=_count(document.get("prompt_tokens_details"), "cache_write_tokens") or 0,
        reasoning=_count(document.get("completion_tokens_details"), "reasoning_tokens") or 0,
    )


def _count(document: Any, name: str) -> int | None:
    value = document.get(name) if isinstance(document, Mapping) else None
    good = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if good else None


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if type(value) is dict:
        return value
    if not isinstance(value, Mapping):
        raise Malformed(f"{what} is {_kind(value)}")
    return value


def _text(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    if value is not None and not isinstance(value, str):
        raise Malformed(f"{name} is {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    return "missing or null" if value is None else f"a {type(value).__name__}"
