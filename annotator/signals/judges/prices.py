"""What a call costs, and the most it can cost before it is sent, in whole micro-dollars.

A price of one dollar for a million tokens is one micro-dollar for a token, so no unit is converted.
Amounts are computed in decimal and rounded up once: the ledger is never below the bill.

Prices change. Those in prices.toml were noted on the day each of them names; a file of the user's
own goes before them. A model's name does not say who serves it: a local server that lends itself
a known name is free, and its users say so in a file of their own.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from annotator.errors import ConfigError
from annotator.signals.judges.reply import ChatRequest, Usage

# A chat template adds a few tokens for each turn, and some models' templates begin with a system
# text of their own; the longest known to us has fewer than a hundred tokens.
MESSAGE_TOKENS = 16
TEMPLATE_TOKENS = 256
COMPLETION_LIMITS = ("max_completion_tokens", "max_tokens")  # the second for older servers
BYTES_OF_A_TOKEN = 4  # English text, by and large

_SNAPSHOT = re.compile(r"-\d{4}-\d{2}-\d{2}$")
_PARTS = ("input", "cached_input", "cache_write", "output")


@dataclass(frozen=True)
class Price:
    """US dollars for a million tokens, as noted on a day."""

    input: float
    cached_input: float
    cache_write: float
    output: float  # reasoning is output
    as_of: date
    batch: float = 1.0  # share of all four that is asked for the same through the Batch API

    def for_batch(self) -> Price:
        """The price of the same through the Batch API."""
        parts = {part: getattr(self, part) * self.batch for part in _PARTS}
        return replace(self, **parts, batch=1.0)


def price_of(model: str, table: Path | None) -> Price | None:
    """The price of `model`, from the file `table` or else from those shipped; None if unknown.

    A dated snapshot, NAME-YYYY-MM-DD, without an entry of its own has the price of NAME. Raises
    ConfigError if the file cannot be read or holds a price that is none.
    """
    own = read_prices(table) if table else {}
    for prices in (own, _shipped()):
        for name in (model, _SNAPSHOT.sub("", model)):
            if name in prices:
                return prices[name]
    return None


def read_prices(table: Path) -> dict[str, Price]:
    """Every price in a TOML file with one [models."NAME"] for each. Raises ConfigError."""
    try:
        return _prices(table.read_text(encoding="utf-8"), str(table))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the price table {table} cannot be read: {error}",
            expected="the file that prices names under [judge]",
        ) from None


def cost_microusd(usage: Usage, price: Price) -> int:
    """What a call with that usage costs, in micro-dollars, rounded up.

    Cached and written tokens are parts of the prompt; a server that tells of more of them than
    the prompt has is charged for all it tells of.
    """
    plain = max(usage.prompt - usage.cached - usage.cache_write, 0)
    return math.ceil(
        plain * _decimal(price.input)
        + usage.cached * _decimal(price.cached_input)
        + usage.cache_write * _decimal(price.cache_write)
        + usage.completion * _decimal(price.output)
    )


def most_microusd(request: ChatRequest, price: Price) -> int:
    """An upper bound of what the request can cost, in micro-dollars, before it is sent.

    Prompt tokens are at most the UTF-8 bytes of the messages and the parameters, plus an allowance
    for the chat template: each token of a byte-level BPE vocabulary, and of SentencePiece with
    byte fallback, stands for one byte at least. (A tokeniser that expands its text first, by
    NFKC, could pass this; chat models' do not.) Each is charged at the dearest of the three
    prices of input. Completion tokens are at most n * max_completion_tokens, reasoning included.

    Raises ValueError if the request sets no bound to its completion.
    """
    params = dict(request.params)
    limits = [_count(params[name]) for name in COMPLETION_LIMITS if name in params]
    n = _count(params.get("n", 1))
    if not limits or 0 in [n, *limits]:
        raise ValueError("a request without max_completion_tokens has no highest price")
    prompt = _bytes(request) + MESSAGE_TOKENS * len(request.messages) + TEMPLATE_TOKENS
    dearest = max(price.input, price.cached_input, price.cache_write)
    return math.ceil(prompt * _decimal(dearest) + max(limits) * n * _decimal(price.output))


def about_tokens(request: ChatRequest) -> int:
    """An estimate of the prompt's tokens, a quarter of its bytes: for a forecast, not a bound."""
    return math.ceil(_bytes(request) / BYTES_OF_A_TOKEN)


def _bytes(request: ChatRequest) -> int:
    texts = [part for message in request.messages for part in message]
    # A schema is shown to the model, so parameters count too.
    texts += [json.dumps([name, value]) for name, value in request.params]
    return sum(len(text.encode("utf-8", errors="surrogatepass")) for text in texts)


def _count(value: object) -> int:
    """A whole number from 1, else 0."""
    return max(value, 0) if isinstance(value, int) and not isinstance(value, bool) else 0


def _decimal(price: float) -> Decimal:
    return Decimal(repr(price))


@cache
def _shipped() -> dict[str, Price]:
    source = files("annotator.signals.judges") / "prices.toml"
    return _prices(source.read_text(encoding="utf-8"), "prices.toml")


def _prices(text: str, source: str) -> dict[str, Price]:
    try:
        models = tomllib.loads(text).get("models")
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the price table {source} is no TOML file: {error}") from None
    if not isinstance(models, dict):
        raise ConfigError(
            f"the price table {source} has no models", expected='[models."NAME"] for each'
        )
    return {name: _price(name, entry, source) for name, entry in models.items()}


def _price(name: str, entry: Any, source: str) -> Price:
    entries = entry if isinstance(entry, Mapping) else {}
    # Without a price of their own, cached and written tokens cost what input costs.
    full = entries.get("input")
    amounts = {part: entries.get(part, None if part == "output" else full) for part in _PARTS}
    as_of = entries.get("as_of")
    # A discount that the table does not name is not counted on.
    batch = entries.get("batch", 1.0)
    if wrong := _wrong_with(entries, {**amounts, "batch": batch}, as_of):
        raise ConfigError(
            f"the price table {source} has no usable price of {name!r}: {'; '.join(wrong)}",
            expected="input and output in US dollars for a million tokens, cached_input and "
            "cache_write where they differ from input, as_of = YYYY-MM-DD; batch, the share of "
            "them that is asked in batches, where there is a discount",
        )
    assert type(as_of) is date  # or it would have been wrong
    parts = {part: float(amount) for part, amount in amounts.items()}
    return Price(**parts, as_of=as_of, batch=float(batch))


def _wrong_with(entries: Mapping[str, Any], amounts: Mapping[str, Any], as_of: Any) -> list[str]:
    """What keeps an entry from being a price, each in a few words."""
    wrong = [f"{name} is no entry" for name in sorted(set(entries) - {*amounts, "as_of"})]
    wrong += [f"{part} is missing" for part in ("input", "output") if part not in entries]
    wrong += [
        f"{part} = {amount!r} is no amount"
        for part, amount in amounts.items()
        if part in entries and not _is_amount(amount)
    ]
    if type(as_of) is not date:
        wrong.append("as_of is missing" if as_of is None else f"as_of = {as_of!r} is no date")
    return wrong


def _is_amount(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value >= 0
