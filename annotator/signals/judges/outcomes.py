"""What came of one attempt: the state it leaves its call in, and what it cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from annotator.errors import (
    JudgeBudget,
    JudgeBusy,
    JudgeDenied,
    JudgeError,
    JudgeMalformed,
    JudgeNoModel,
    JudgeQuota,
    JudgeRefused,
    JudgeUnreachable,
    JudgeUnsupported,
)
from annotator.signals.judges.grades import Refused
from annotator.signals.judges.ledger import Closing, Ticket, believable
from annotator.signals.judges.prices import Price, cost_microusd

if TYPE_CHECKING:
    from annotator.signals.judges.reply import Reply, Usage

STOPS_THE_RUN = (JudgeDenied, JudgeQuota, JudgeNoModel, JudgeUnsupported, JudgeBudget)


@dataclass(frozen=True)
class Outcome:
    """What an attempt leaves: its call's state, and whether and when to try again."""

    state: str
    status: str
    billed: bool  # False: surely not
    usage: Usage | None = None
    reply: str | None = None
    error: str | None = None
    again: bool = False
    busy: bool = False
    wait: float | None = None  # seconds that the server asked for
    stop: JudgeError | None = None
    bug: Exception | None = None  # of ours: recorded, then raised
    well_formed: bool = False  # a chat completion, whatever it says

    def cost(self, price: Price | None) -> int | None:
        """Micro-dollars; None where the server did not say, or no price is known."""
        if not self.billed:
            return 0
        if self.usage is None or price is None:
            return None
        return cost_microusd(self.usage, price)

    def closing(self, ticket: Ticket, price: Price | None, seconds: float | None) -> Closing:
        """The end of the attempt as the ledger takes it."""
        return Closing(
            ticket,
            self.state,
            self.status,
            self.cost(price),
            None if seconds is None else round(seconds, 4),
            self.usage,
            self.reply,
            self.error,
        )


def of_reply(reply: Reply, check: Callable[[Reply], None]) -> Outcome:
    """What an answer is worth: `check` raises Refused, or another ValueError, if nothing."""

    def outcome(state: str, error: str | None = None, again: bool = False) -> Outcome:
        usage = believable(reply.usage)
        return Outcome(state, state, True, usage, reply.raw, error, again, well_formed=True)

    try:
        check(reply)
    except Refused as refusal:
        return outcome("refused", str(refusal))
    except ValueError as problem:
        return outcome("parse_error", str(problem), again=True)
    except Exception as bug:
        # The answer is paid for: it is kept before anything else.
        return replace(outcome("parse_error", repr(bug)), bug=bug)
    return outcome("ok")


def of_error(error: JudgeError) -> Outcome:
    """What an attempt without an answer means."""
    name = str(error.status) if error.status else "no answer"
    billed, said = error.maybe_billed, error.found
    if isinstance(error, STOPS_THE_RUN):
        # It is not this call's fault: the next run sends it.
        return Outcome("pending", name, billed, error=said, stop=error)
    if isinstance(error, JudgeRefused):
        return Outcome("refused", name, billed, error=said)
    if isinstance(error, JudgeMalformed):
        usage = believable(error.usage)
        return Outcome("parse_error", "parse_error", True, usage, error.raw, said, again=True)
    if isinstance(error, JudgeBusy):
        busy, wait = error.status == 429, error.retry_after
        return Outcome("api_error", name, billed, error=said, again=True, busy=busy, wait=wait)
    again = isinstance(error, JudgeUnreachable)
    return Outcome("api_error", name, billed, error=said, again=again)
