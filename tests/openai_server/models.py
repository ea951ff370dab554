"""Models that differ in what they refuse, so that a probe of capabilities has something to find."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tests.openai_server.prices import Price


@dataclass(frozen=True)
class Model:
    """What one model can do; the defaults can do everything."""

    name: str
    refuses: frozenset[str] = frozenset()
    """Parameters that get a 400: logprobs, temperature, n, json_schema, response_format, ..."""
    forbids_logprobs: bool = False
    """A 403 that names no parameter, as o4-mini sends."""
    null_logprobs: bool = False
    ignores_n: bool = False
    ignores_json: bool = False
    usage: bool = True
    usage_details: bool = True
    cache_writes: bool = False
    """Tokens that enter the prompt cache are billed by their own price."""
    reasoning: int = 0
    """Hidden tokens before every answer; they count against max_completion_tokens."""
    mass: float | None = None
    """Share of the grade's labels in every distribution; None: as the brain says."""
    space_joined: bool = False
    """The blank before a JSON value is part of the value's token."""
    byte_tokens: bool = False
    """A character beyond ASCII is two tokens, neither of which is text by itself."""
    returned_as: str | None = None
    no_quota: bool = False
    context: int = 128_000
    bytes_per_token: float = 4.0
    price: Price | None = None


def _by_name(*models: Model) -> Mapping[str, Model]:
    return MappingProxyType({model.name: model for model in models})


MODELS = _by_name(
    Model("judge"),
    Model("no-logprobs", refuses=frozenset({"logprobs", "top_logprobs"})),
    Model("forbidden-logprobs", forbids_logprobs=True),
    Model("null-logprobs", null_logprobs=True),
    Model("no-temperature", refuses=frozenset({"temperature"})),
    Model("no-n", refuses=frozenset({"n"})),
    Model("ignores-n", ignores_n=True),
    Model("no-json-schema", refuses=frozenset({"json_schema"})),
    Model("no-json", refuses=frozenset({"response_format"})),
    Model("ignores-json", ignores_json=True),
    Model("no-max-tokens", refuses=frozenset({"max_tokens"})),
    Model("no-usage", usage=False),
    Model(
        "reasoner",
        refuses=frozenset({"logprobs", "top_logprobs", "temperature", "max_tokens"}),
        reasoning=64,
    ),
    Model("weak", mass=0.6),
    Model("prose", mass=0.0),
    Model("space-joined", space_joined=True),
    Model("byte-tokens", byte_tokens=True),
    Model("renamed", returned_as="renamed-2026-01-01"),
    Model("broke", no_quota=True),
    Model("local", ignores_n=True, null_logprobs=True, usage_details=False),
)
"""One model for each thing that a server may not do."""
