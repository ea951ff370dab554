"""What the server charges: four prices, whole micro-dollars, rounded up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

HALF = 2
"""What a batch line's price is divided by."""


class Billed(NamedTuple):
    """Tokens as billed: cached and cache_write are parts of prompt, reasoning of completion."""

    prompt: int = 0
    cached: int = 0
    cache_write: int = 0
    completion: int = 0
    reasoning: int = 0


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens, which is micro-dollars per token."""

    input: float = 0.15
    cached_input: float = 0.075
    cache_write: float = 0.15
    output: float = 0.60

    def microusd(self, billed: Billed, divisor: int = 1) -> int:
        """The charge in millionths of a dollar, rounded up; exact for prices of six decimals."""
        fresh = billed.prompt - billed.cached - billed.cache_write
        # Whole pico-dollars: floats would round a charge such as 3.0000000000000004 up to 4.
        pico = (
            fresh * round(self.input * 1e6)
            + billed.cached * round(self.cached_input * 1e6)
            + billed.cache_write * round(self.cache_write * 1e6)
            + billed.completion * round(self.output * 1e6)
        )
        return -(-pico // (divisor * 1_000_000))
