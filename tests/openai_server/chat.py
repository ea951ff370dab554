"""One chat completion: what the request may ask, what is said, what it costs."""

from __future__ import annotations

import json
import math
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

from tests.openai_server import faults
from tests.openai_server.answers import Token, pieces, tokens_of, with_mass
from tests.openai_server.brains import Brain, text_of
from tests.openai_server.faults import Document, Fault
from tests.openai_server.models import Model
from tests.openai_server.prices import Billed, Price

CACHE_FROM, CACHE_STEP = 1024, 128
PER_MESSAGE, PER_PROMPT = 4, 3


class Refusal(Exception):
    """The request is refused; `fault` is the answer."""

    def __init__(self, fault: Fault):
        super().__init__(fault.name)
        self.fault = fault


class Completion(NamedTuple):
    """A finished answer with its bill."""

    document: Document
    billed: Billed
    microusd: int


@dataclass
class Chat:
    """The service behind /v1/chat/completions; batches ask it too."""

    models: Mapping[str, Model]
    brain: Brain
    price: Price
    _earlier: Counter[str] = field(default_factory=Counter)
    _cached: set[tuple[str, bytes]] = field(default_factory=set)

    def complete(self, body: Any, fault: Fault, divisor: int = 1) -> Completion:
        """The answer to one request body; Refusal where the vendor would say 4xx."""
        model = self._model(body)
        check_request(body, model)
        prompt = self._prompt_tokens(body["messages"], model)
        key = _digest(body)
        earlier = self._earlier[key]
        self._earlier[key] += 1
        source = f"{key} {'seeded' if body.get('seed') is not None else earlier}"
        choices, completion = self._choices(body, model, fault, source)
        billed = prompt._replace(
            completion=completion, reasoning=min(completion, model.reasoning * len(choices))
        )
        price = model.price or self.price
        document: Document = {
            "id": f"chatcmpl-{key}{earlier:04d}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model.returned_as or model.name,
            "choices": choices,
            "system_fingerprint": "fp_local",
        }
        if model.usage:
            document["usage"] = _usage(billed, model.usage_details)
        return Completion(document, billed, price.microusd(billed, divisor))

    def _model(self, body: Any) -> Model:
        if not isinstance(body, Mapping):
            raise Refusal(faults.invalid("The body must be a JSON object."))
        name = body.get("model")
        if not isinstance(name, str):
            raise Refusal(faults.invalid("you must provide a model parameter"))
        if name not in self.models:
            raise Refusal(faults.no_model(name))
        if self.models[name].no_quota:
            raise Refusal(faults.quota())
        return self.models[name]

    def _prompt_tokens(self, messages: Sequence[Mapping[str, Any]], model: Model) -> Billed:
        texts = [text_of(message).encode("utf-8", "surrogatepass") for message in messages]
        size = sum(math.ceil(len(text) / model.bytes_per_token) for text in texts)
        tokens = size + PER_MESSAGE * len(texts) + PER_PROMPT
        if tokens > model.context:
            raise Refusal(faults.too_long(model.context))
        cached = self._prefix_tokens(b"\0".join(texts), tokens, model)
        whole = tokens // CACHE_STEP * CACHE_STEP
        written = whole - cached if model.cache_writes and whole >= CACHE_FROM else 0
        return Billed(prompt=tokens, cached=cached, cache_write=max(0, written))

    def _prefix_tokens(self, text: bytes, tokens: int, model: Model) -> int:
        # Exact prefixes of 1,024 tokens or more, in steps of 128, are kept for ever.
        cached, digest = 0, blake2b(digest_size=12)
        step = int(CACHE_STEP * model.bytes_per_token)
        for reached in range(CACHE_STEP, tokens + 1, CACHE_STEP):
            place = (reached // CACHE_STEP - 1) * step
            digest.update(text[place : place + step])
            key = (model.name, digest.digest())
            if reached < CACHE_FROM:
                continue
            if key in self._cached:
                cached = reached
            self._cached.add(key)
        return cached

    def _choices(
        self, body: Any, model: Model, fault: Fault, source: str
    ) -> tuple[list[Document], int]:
        answer = fault.answer
        if answer is None:
            answer = self.brain(body["messages"], body)
        row = pieces(answer, None if model.ignores_json else body.get("response_format"))
        mass = fault.mass if fault.mass is not None else model.mass
        if mass is not None:
            row = with_mass(row, mass)
        temperature = body.get("temperature")
        top = (body.get("top_logprobs") or 0) if body.get("logprobs") else 0
        choices, completion = [], 0
        for index in range(1 if model.ignores_n else body.get("n") or 1):
            tokens = tokens_of(
                row,
                1.0 if temperature is None else float(temperature),
                (source, index),
                top,
                joined=model.space_joined,
                in_bytes=model.byte_tokens,
            )
            choice, used = _choice(index, tokens, body, model)
            choices.append(choice)
            completion += used
        return choices, completion


def _digest(body: Mapping[str, Any]) -> str:
    return blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=8).hexdigest()


def _choice(
    index: int, tokens: list[Token], body: Mapping[str, Any], model: Model
) -> tuple[Document, int]:
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or math.inf
    room = max(0, limit - model.reasoning)
    finish = "stop" if len(tokens) <= room else "length"
    if finish == "length":
        tokens = tokens[: int(room)]
    logprobs = None
    if body.get("logprobs") and not model.null_logprobs:
        logprobs = {"content": [_token(token) for token in tokens], "refusal": None}
    choice = {
        "index": index,
        "message": {
            "role": "assistant",
            "content": b"".join(token.raw for token in tokens).decode("utf-8", "replace"),
            "refusal": None,
            "annotations": [],
        },
        "logprobs": logprobs,
        "finish_reason": finish,
    }
    return choice, int(min(limit, len(tokens) + model.reasoning))


def _token(token: Token) -> Document:
    top = [_one_token(text, logprob) for text, logprob in token.top]
    chosen = _one_token(token.text, token.logprob)
    if token.part is not None:
        chosen["bytes"] = list(token.part)
    return {**chosen, "top_logprobs": top}


def _one_token(text: str, logprob: float) -> Document:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8"))}


def _usage(billed: Billed, details: bool) -> Document:
    usage: Document = {
        "prompt_tokens": billed.prompt,
        "completion_tokens": billed.completion,
        "total_tokens": billed.prompt + billed.completion,
    }
    if details:
        written = {"cache_write_tokens": billed.cache_write} if billed.cache_write else {}
        usage["prompt_tokens_details"] = {
            "cached_tokens": billed.cached,
            "audio_tokens": 0,
            **written,
        }
        usage["completion_tokens_details"] = {
            "reasoning_tokens": billed.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        }
    return usage


def check_request(body: Mapping[str, Any], model: Model) -> None:
    """Refuses what this model cannot do, and what no model takes."""
    _check_capabilities(body, model)
    _check_messages(body)
    _check_numbers(body)
    _check_logprobs(body)
    _check_format(body)


_DEFAULTS = frozenset({("n", 1), ("temperature", 1)})


def _check_capabilities(body: Mapping[str, Any], model: Model) -> None:
    if model.forbids_logprobs and body.get("logprobs"):
        raise Refusal(faults.forbidden_logprobs())
    for name in sorted(model.refuses & set(body)):
        # A default that is spelled out is no request for anything; 0 is none of these.
        value = body[name]
        spelled_out = value is None or value is False
        spelled_out = spelled_out or any((name, value) == default for default in _DEFAULTS)
        if not spelled_out:
            raise Refusal(faults.unsupported(name))
    kind = (body.get("response_format") or {}).get("type")
    if kind in model.refuses:
        message = f"Invalid parameter: 'response_format' of type '{kind}' is not supported"
        raise Refusal(faults.invalid(message + " with this model.", "response_format"))


def _check_messages(body: Mapping[str, Any]) -> None:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refusal(faults.invalid("'messages' must be a list that is not empty.", "messages"))
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or "role" not in message:
            raise Refusal(faults.invalid("Missing 'role'.", f"messages[{place}]"))
    if body.get("stream"):
        raise Refusal(faults.unsupported("stream"))


_NUMBERS: Mapping[str, tuple[Any, float, float]] = {
    "n": (int, 1, 128),
    "top_logprobs": (int, 0, 20),
    "temperature": ((int, float), 0, 2),
    "top_p": ((int, float), 0, 1),
    "max_completion_tokens": (int, 1, math.inf),
    "max_tokens": (int, 1, math.inf),
    "seed": (int, -(2**63), 2**63),
}


def _check_numbers(body: Mapping[str, Any]) -> None:
    for name, (kind, low, high) in _NUMBERS.items():
        value = body.get(name)
        if value is None:
            continue
        if not isinstance(value, kind) or isinstance(value, bool) or not low <= value <= high:
            raise Refusal(faults.invalid(f"Invalid value for '{name}': {value!r}.", name))
    if body.get("max_tokens") is not None and body.get("max_completion_tokens") is not None:
        raise Refusal(faults.invalid("Setting both token limits is not supported.", "max_tokens"))


def _check_logprobs(body: Mapping[str, Any]) -> None:
    if body.get("top_logprobs") is not None and not body.get("logprobs"):
        message = "'top_logprobs' is only allowed when 'logprobs' is true."
        raise Refusal(faults.invalid(message, "top_logprobs"))


def _check_format(body: Mapping[str, Any]) -> None:
    wanted = body.get("response_format") or {"type": "text"}
    kind = wanted.get("type")
    if kind not in ("text", "json_object", "json_schema"):
        raise Refusal(faults.invalid(f"Invalid value: {kind!r}.", "response_format.type"))
    if kind == "json_object":
        texts = " ".join(text_of(message) for message in body["messages"])
        if "json" not in texts.lower():
            message = "'messages' must contain the word 'json' in some form."
            raise Refusal(faults.invalid(message, "messages"))
    if kind == "json_schema":
        _check_schema(wanted.get("json_schema") or {})


def _check_schema(wanted: Mapping[str, Any]) -> None:
    where = "response_format.json_schema"
    if not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", str(wanted.get("name", ""))):
        raise Refusal(faults.invalid("Missing or invalid name.", f"{where}.name"))
    schema = wanted.get("schema")
    if not isinstance(schema, dict) or schema.get("type") != "object":
        message = "Invalid schema: schema must be a JSON Schema of 'type: \"object\"'."
        raise Refusal(faults.invalid(message, f"{where}.schema"))
    if not wanted.get("strict"):
        return
    if schema.get("additionalProperties") is not False:
        message = "Invalid schema: 'additionalProperties' is required to be supplied and false."
        raise Refusal(faults.invalid(message, f"{where}.schema"))
    if set(schema.get("required", ())) != set(schema.get("properties", {})):
        message = "Invalid schema: 'required' must include every key in properties."
        raise Refusal(faults.invalid(message, f"{where}.schema"))
