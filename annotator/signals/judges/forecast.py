"""What a run will ask and cost, worked out before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from annotator.signals.judges.ledger import KEYS_A_QUERY, MICROUSD, Ledger, spending
from annotator.signals.judges.prices import (
    COMPLETION_LIMITS,
    Price,
    about_tokens,
    most_microusd,
)

if TYPE_CHECKING:
    from sqlite_utils import Database

    from annotator.signals.judges.ledger import Standing
    from annotator.signals.judges.reply import ChatRequest


@dataclass(frozen=True)
class Forecast:
    """Requests and tokens of a run in which no call has to be sent twice; US dollars.

    `about_tokens_in` is an estimate, `most_tokens_out` a bound. `about_cost` is the price of that
    estimate alone, without the answers; `most_cost` a bound of both for each call sent once: what
    fails is sent again, and may be charged again. Both are None where no price is known.
    `n_unpriced` counts requests that were sent before, of whose cost nothing is known.
    """

    n_calls: int
    n_answered: int  # before
    n_refused: int  # before; they are not asked again
    n_in_batch: int  # of which the answers are not back; they are not asked again
    n_to_ask: int
    about_tokens_in: int
    most_tokens_out: int
    about_cost: float | None
    most_cost: float | None
    n_unpriced: int


def forecast(
    db: Database, host: str, requests: Iterable[ChatRequest], price: Price | None
) -> Forecast:
    """What sending `requests` to that host would take, by what the ledger knows already."""
    ledger = Ledger(db, host)
    seen: set[bytes] = set()
    n_answered = n_refused = n_in_batch = n_to_ask = tokens_in = tokens_out = most = 0
    waiting = iter(requests)
    while block := list(islice(waiting, KEYS_A_QUERY)):
        keyed = {request.key(host): request for request in block}
        new = {key: one for key, one in keyed.items() if bytes.fromhex(key) not in seen}
        seen.update(map(bytes.fromhex, new))
        standings = ledger.standings(list(new))
        kinds = {key: _kind(standing) for key, standing in standings.items()}
        n_answered += sum(kind == "ok" for kind in kinds.values())
        n_refused += sum(kind == "refused" for kind in kinds.values())
        n_in_batch += sum(kind == "in_batch" for kind in kinds.values())
        asked = [one for key, one in new.items() if kinds.get(key) is None]
        n_to_ask += len(asked)
        tokens_in += sum(map(about_tokens, asked))
        tokens_out += sum(map(_most_out, asked))
        most += sum(most_microusd(one, price) for one in asked) if price else 0
    return Forecast(
        n_calls=len(seen),
        n_answered=n_answered,
        n_refused=n_refused,
        n_in_batch=n_in_batch,
        n_to_ask=n_to_ask,
        about_tokens_in=tokens_in,
        most_tokens_out=tokens_out,
        about_cost=tokens_in * price.input / MICROUSD if price else None,
        most_cost=most / MICROUSD if price else None,
        n_unpriced=spending(db).unpriced,
    )


def _kind(standing: Standing) -> str | None:
    """Why a call on record is not to be asked; None: it is."""
    if standing.state in ("ok", "refused"):
        return standing.state
    return "in_batch" if standing.in_batch else None


def _most_out(request: ChatRequest) -> int:
    params = dict(request.params)
    limit = max(int(str(params[name])) for name in COMPLETION_LIMITS if name in params)
    return limit * int(str(params.get("n", 1)))
