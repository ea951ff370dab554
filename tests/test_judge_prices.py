"""Prices: look-up, exact cost, and a bound that no answer can pass."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotator.errors import ConfigError
from annotator.signals.judges.prices import (
    Price,
    about_tokens,
    cost_microusd,
    most_microusd,
    price_of,
    read_prices,
)
from annotator.signals.judges.reply import ChatRequest, Usage

PRICE = Price(input=2.5, cached_input=1.25, cache_write=3.125, output=10.0, as_of=date(2026, 1, 2))


def _request(text: str = "Hello", **params: object) -> ChatRequest:
    return ChatRequest("m", (("user", text),), tuple(params.items()))


def test_a_cost_by_hand() -> None:
    usage = Usage(prompt=1000, completion=10, cached=600, cache_write=200, reasoning=4)
    assert cost_microusd(usage, PRICE) == 200 * 2.5 + 600 * 1.25 + 200 * 3.125 + 10 * 10


amounts = st.decimals(0, 200, places=4).map(float)
prices = st.builds(Price, amounts, amounts, amounts, amounts, st.just(date(2026, 1, 1)))
counts = st.integers(0, 10**7)


@given(prices, counts, counts, st.floats(0, 1), st.floats(0, 1))
def test_the_cost_is_the_exact_sum_rounded_up(
    price: Price, prompt: int, completion: int, cached_share: float, written_share: float
) -> None:
    cached = int(prompt * cached_share)
    written = int((prompt - cached) * written_share)
    parts = [
        (prompt - cached - written, price.input),
        (cached, price.cached_input),
        (written, price.cache_write),
        (completion, price.output),
    ]
    exact = sum(Fraction(tokens) * Fraction(str(dollars)) for tokens, dollars in parts)
    assert cost_microusd(Usage(prompt, completion, cached, written), price) == math.ceil(exact)


def test_a_tenth_of_a_micro_dollar_is_one() -> None:
    cheap = Price(0.1, 0.1, 0.1, 0.1, date(2026, 1, 1))
    assert cost_microusd(Usage(1, 0), cheap) == 1
    # Ten times .1 is 1.0 in decimal; summed as binary floats it would be rounded up to 2.
    assert cost_microusd(Usage(3, 7), cheap) == 1
    assert cost_microusd(Usage(0, 0), cheap) == 0


def test_parts_that_pass_the_prompt_never_lower_the_cost() -> None:
    assert cost_microusd(Usage(prompt=5, completion=0, cached=10), PRICE) == math.ceil(10 * 1.25)


@given(st.text(max_size=300), st.integers(1, 200), st.integers(1, 8), st.data())
def test_no_usage_of_a_byte_level_tokeniser_passes_the_bound(
    text: str, limit: int, n: int, data: st.DataObject
) -> None:
    """The worst tokeniser makes a token of every byte, and may write or read all of it in cache."""
    request = _request(text, max_completion_tokens=limit, n=n)
    prompt = len(text.encode()) + len(b"user") + 40
    cached = data.draw(st.integers(0, prompt))
    usage = Usage(prompt, limit * n, cached, prompt - cached)
    assert cost_microusd(usage, PRICE) <= most_microusd(request, PRICE)


def test_the_bound_by_hand() -> None:
    request = _request("é", max_completion_tokens=8)
    params = len('["max_completion_tokens", 8]')
    prompt = 4 + 2 + params + 16 + 256
    assert most_microusd(request, PRICE) == math.ceil(prompt * 3.125 + 8 * 10)


def test_the_bound_grows_with_samples_length_messages_and_schema() -> None:
    plain = most_microusd(_request(max_completion_tokens=8), PRICE)
    assert most_microusd(_request(max_completion_tokens=8, n=5), PRICE) >= plain + 4 * 8 * 10
    assert most_microusd(_request("Hello" * 9, max_completion_tokens=8), PRICE) > plain
    request = replace(
        _request(max_completion_tokens=8), messages=(("system", "s"), ("user", "Hello"))
    )
    assert most_microusd(request, PRICE) > plain
    schema = {"type": "json_schema", "json_schema": {"schema": {"x": "y" * 500}}}
    longer = most_microusd(_request(max_completion_tokens=8, response_format=schema), PRICE)
    assert longer >= plain + 500 * 3.125
    both = most_microusd(_request(max_completion_tokens=8, max_tokens=80), PRICE)
    assert both >= plain + 72 * 10


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"max_completion_tokens": None},
        {"max_tokens": 0},
        {"max_tokens": 8, "n": "two"},
        {"max_tokens": True},
    ],
)
def test_without_a_limit_there_is_no_bound(params: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no highest price"):
        most_microusd(_request(**params), PRICE)


def test_an_estimate_is_a_quarter_of_the_bytes() -> None:
    assert about_tokens(_request("x" * 396)) == 100
    assert about_tokens(_request("")) == 1
    assert about_tokens(_request("\ud800" * 4)) == 4  # lone surrogates have a length too


# -- The table ------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "prices.toml"
    path.write_text(
        """
        [models."my-judge"]
        input = 1
        output = 2.5
        as_of = 2026-02-03
        [models."gpt-4o-mini"]
        input = 9
        cached_input = 8
        cache_write = 7
        output = 6
        as_of = 2026-02-03
        """,
        encoding="utf-8",
    )
    return path


def test_the_users_table_goes_first(table: Path) -> None:
    day = date(2026, 2, 3)
    assert price_of("gpt-4o-mini", table) == Price(9, 8, 7, 6, day)
    assert price_of("gpt-4o-mini-2024-07-18", table) == Price(9, 8, 7, 6, day)
    assert price_of("my-judge", table) == Price(1, 1, 1, 2.5, day)
    assert price_of("gpt-4.1", table) == price_of("gpt-4.1", None) is not None


def test_snapshots_have_their_own_price_or_that_of_the_name() -> None:
    assert price_of("gpt-4o-2024-08-06", None) == price_of("gpt-4o", None)
    own = price_of("gpt-4o-2024-05-13", None)
    assert own is not None and own.input == 5.0
    assert own.cached_input == own.cache_write == own.input


@pytest.mark.parametrize("name", ["", "gpt-4", "gpt-4o-audio", "gpt-4o-2024", "GPT-4o", "llama3"])
def test_what_is_not_listed_is_unknown(name: str) -> None:
    assert price_of(name, None) is None


def test_the_shipped_table_is_dated_and_plausible() -> None:
    import annotator.signals.judges.prices as module

    shipped = read_prices(Path(module.__file__).with_name("prices.toml"))
    assert len(shipped) >= 12
    for name, price in shipped.items():
        assert date(2025, 1, 1) < price.as_of < date(2027, 1, 1), name
        assert 0 < price.cached_input <= price.input < price.output < 100, name


@pytest.mark.parametrize(
    "entry",
    [
        "input = 1\nas_of = 2026-01-01",
        "output = 1\nas_of = 2026-01-01",
        "input = 1\noutput = 2",
        'input = 1\noutput = 2\nas_of = "today"',
        "input = 1\noutput = 2\nas_of = 2026-01-01T10:00:00",
        "input = -1\noutput = 2\nas_of = 2026-01-01",
        "input = nan\noutput = 2\nas_of = 2026-01-01",
        "input = inf\noutput = 2\nas_of = 2026-01-01",
        "input = true\noutput = 2\nas_of = 2026-01-01",
        'input = "1"\noutput = 2\nas_of = 2026-01-01',
        "input = 1\noutput = 2\noutptu = 3\nas_of = 2026-01-01",
    ],
)
def test_a_price_that_is_none_is_refused(tmp_path: Path, entry: str) -> None:
    path = tmp_path / "p.toml"
    path.write_text(f'[models."m"]\n{entry}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="no usable price of 'm'"):
        price_of("other", path)


def test_a_table_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    with pytest.raises(ConfigError, match="cannot be read"):
        price_of("m", path)
    for content, says in ((b"[models", "no TOML"), (b"x = 1", "no models"), (b"\xff", "cannot be")):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=says):
            price_of("m", path)
