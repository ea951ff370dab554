"""Owner of judge_servers: what a model behind an address can do, found out by asking it once.

One request asks for everything that a judge could use: log-probs, two choices, an answer in a
JSON schema, a seed, a temperature. What comes back shows what is there. A parameter that is
refused by name is left out, and the rest is asked again; a refusal is not billed. No list of
models is kept anywhere: they are out of date the day they are written.

What one answer cannot show stays unknown (None): whether a seed is heeded, or a temperature,
whether there is a Batch API. Nothing here chooses another method than the one that is configured:
`choose_how` says yes, or raises with what to configure.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from annotator.errors import JudgeBudget, JudgeError, JudgeUnsupported
from annotator.signals.judges.client import CLIENT_VERSION, ChatClient, ClientSettings
from annotator.signals.judges.grades import Refused, Unparsable, grade
from annotator.signals.judges.ledger import Claim, Ledger, Ticket, judging_lock, whole_microusd
from annotator.signals.judges.outcomes import of_error, of_reply
from annotator.signals.judges.prices import most_microusd
from annotator.signals.judges.reply import ChatRequest, Choice, Reply
from annotator.store import now, writing

if TYPE_CHECKING:
    from pathlib import Path

    from sqlite_utils import Database

    from annotator.signals.judges.runner import RunSettings

Ask = Callable[[ChatRequest], Awaitable[Reply]]

UNCERTAINTIES = ("logprobs", "samples", "none")
MOST_TOP_LOGPROBS = 20  # the API's own limit; some servers' is FEWER
FEWER_TOP_LOGPROBS = 5
_FIELD = "grade"
_MESSAGES = (
    ("system", "You grade answers on a scale from 1, useless, to 5, excellent."),
    (
        "user",
        "Question: What is the capital of France?\nAnswer: Paris.\n\n"
        "Grade the answer with one integer from 1 to 5, and write nothing else.",
    ),
)
_SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "grading",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {_FIELD: {"type": "integer"}},
            "required": [_FIELD],
            "additionalProperties": False,
        },
    },
}
_EVERYTHING: dict[str, Any] = {
    "logprobs": True,
    "top_logprobs": MOST_TOP_LOGPROBS,
    "n": 2,
    "response_format": _SCHEMA,
    "seed": 1,
    "temperature": 0,
    "top_p": 1,
    "max_completion_tokens": 64,
}


@dataclass(frozen=True)
class Findings:
    """What a probe showed: True, it is there; False, it is not; None, one answer cannot show it.

    `mass` is the probability that the log-probs put on the grades of the scale, None where they
    cannot be read, and then `note` says why. `top_logprobs` is how many alternatives may be asked
    for. `temperature` speaks of top_p too. `limit` is the name under which the server takes the
    limit of an answer's tokens.
    """

    host: str
    model: str
    logprobs: bool | None = None
    mass: float | None = None
    top_logprobs: int | None = None
    n: bool | None = None
    json_schema: bool | None = None
    seed: bool | None = None
    temperature: bool | None = None
    usage: bool | None = None
    batch: bool | None = None
    limit: str = "max_completion_tokens"
    note: str | None = None
    model_returned: str = ""
    client_version: str = CLIENT_VERSION
    probed_at: str = ""


def choose_how(findings: Findings, wanted: str) -> str:
    """How grades are read (`grades.grade`), as configured: "logprobs", "samples" or "integer".

    `wanted` is one of UNCERTAINTIES. Raises JudgeUnsupported, with what to configure, where the
    server does not give what is wanted: a score's meaning never changes by itself.
    """
    if wanted not in UNCERTAINTIES:
        raise ValueError(f"uncertainty is one of {', '.join(UNCERTAINTIES)}, not {wanted!r}")
    if wanted == "none":
        return "integer"
    if wanted == "samples" or (findings.logprobs and findings.mass is not None):
        return wanted
    place = f"{findings.model} at {findings.host}"
    other = (
        '[judge] uncertainty = "samples" (several answers for each grade), or "none" (the grade '
        "as written, no variance)"
    )
    if findings.logprobs:
        raise JudgeUnsupported(
            f"{place} sends log-probs from which no grade can be read: {findings.note}",
            expected="an integer from 1 to 5, with nine tenths of the probability on such ones",
            todo=f"use a model that answers with the integer alone, or set {other}",
        )
    raise JudgeUnsupported(
        f"{place} sends no log-probs", expected="top_logprobs at the grade", todo=f"set {other}"
    )


# On record


def known_findings(db: Database, host: str, model: str) -> Findings | None:
    """What the last probe found, None before the first."""
    row = db.execute(
        "SELECT findings FROM judge_servers WHERE host = ? AND model = ?", [host, model]
    ).fetchone()
    if row is None:
        return None
    known = {one.name for one in fields(Findings)}
    return Findings(**{name: value for name, value in json.loads(row[0]).items() if name in known})


def record_findings(db: Database, findings: Findings) -> None:
    """Keeps them in the place of earlier ones."""
    document = json.dumps(asdict(findings))
    with writing(db):
        db.execute(
            """INSERT INTO judge_servers (host, model, findings, model_returned, client_version,
            probed_at) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (host, model) DO UPDATE SET
            findings = excluded.findings, model_returned = excluded.model_returned,
            client_version = excluded.client_version, probed_at = excluded.probed_at""",
            [
                findings.host,
                findings.model,
                document,
                findings.model_returned,
                findings.client_version,
                findings.probed_at,
            ],
        )


def forget_findings(db: Database, host: str, model: str) -> None:
    """Has the next run probe again."""
    with writing(db):
        db.execute("DELETE FROM judge_servers WHERE host = ? AND model = ?", [host, model])


def ensure_findings(
    db: Database,
    database_path: Path,
    where: ClientSettings,
    model: str,
    settings: RunSettings,
    *,
    again: bool = False,
) -> Findings:
    """What is known of the model at that address; it is probed first if nothing is, or `again`.

    The probe is a call like any other: on record before it goes, and within the cap. Raises
    JudgeError where the server cannot be asked, or refuses what cannot be left out.
    """
    with judging_lock(database_path, wait_seconds=settings.lock_seconds):
        return asyncio.run(_ensured(db, where, model, settings, again))


async def _ensured(
    db: Database, where: ClientSettings, model: str, settings: RunSettings, again: bool
) -> Findings:
    async with ChatClient(
        where.base_url, where.api_key, timeout=settings.timeout, connections=1
    ) as client:
        findings = known_findings(db, client.host, model)
        if findings is not None and not again:
            return findings
        ledger = Ledger(db, client.host, cap=whole_microusd(settings.max_cost))
        if settings.price is not None:
            ledger.price_unpriced(model, settings.price)
        ledger.recover()
        record = _OnRecord(client, ledger, settings)
        findings = await probe(client, model, record.ask)
        record_findings(db, findings)
        return findings


class _OnRecord:
    """Asking with every request in the ledger."""

    def __init__(self, client: ChatClient, ledger: Ledger, settings: RunSettings) -> None:
        self._client = client
        self._ledger = ledger
        self._settings = settings

    async def ask(self, request: ChatRequest) -> Reply:
        ticket = self._ticket(request)
        started = time.monotonic()
        try:
            reply = await self._client.ask(request)
        except JudgeError as error:
            self._close(ticket, of_error(error), started)
            raise
        self._close(ticket, of_reply(reply, lambda reply: None), started)
        return reply

    def _ticket(self, request: ChatRequest) -> Ticket:
        """Of a call of its own: an earlier probe's answer does not count."""
        price = self._settings.price
        reserve = most_microusd(request, price) if price else None
        while True:
            key = request.key(self._client.host)
            if key not in self._ledger.standings([key]):
                break
            request = replace(request, sample=request.sample + 1)
        (ticket,) = self._ledger.write([], [Claim(key, request.model, reserve)])
        if not isinstance(ticket, Ticket):
            raise JudgeBudget(
                "the request that finds out what the server can do could pass the cap",
                todo="raise --max-cost",
            )
        return ticket

    def _close(self, ticket: Ticket, outcome: Any, started: float) -> None:
        seconds = time.monotonic() - started
        self._ledger.write([outcome.closing(ticket, self._settings.price, seconds)], [])


# The probe


async def probe(client: ChatClient, model: str, ask: Ask | None = None) -> Findings:
    """What the model at that address can do, from one answer.

    `ask` sends a request in the client's place. A parameter that is refused by name is left out
    of the next request, so one that was refused costs one request more. Raises JudgeError where
    there is no answer, or where what is refused cannot be left out.
    """
    params, known = dict(_EVERYTHING), Findings(client.host, model)
    while True:
        request = ChatRequest(model, _MESSAGES, tuple(sorted(params.items())))
        try:
            reply = await (ask or client.ask)(request)
        except JudgeUnsupported as refusal:
            params, known = _without(refusal, params, known)
        else:
            return _seen(reply, params, known)


def _without(
    refusal: JudgeUnsupported, params: dict[str, Any], known: Findings
) -> tuple[dict[str, Any], Findings]:
    """What is left to ask for, and what the refusal has shown; raises it if that is nothing."""
    name = refusal.parameter or ""
    name = {"json_schema": "response_format"}.get(name, name)
    if name == "top_logprobs" and params.get(name) == MOST_TOP_LOGPROBS:
        return {**params, name: FEWER_TOP_LOGPROBS}, known
    if name == "max_completion_tokens" and name in params:
        limit = {"max_tokens": params[name]}
        return _left(params, name) | limit, replace(known, limit="max_tokens")
    if name in ("logprobs", "top_logprobs") and "logprobs" in params:
        return _left(params, "logprobs", "top_logprobs"), replace(known, logprobs=False)
    if name == "response_format" and name in params:
        return _left(params, name), replace(known, json_schema=False)
    if name in ("temperature", "top_p") and name in params:
        return _left(params, "temperature", "top_p"), replace(known, temperature=False)
    if name in ("n", "seed") and name in params:
        shown: dict[str, Any] = {name: False}
        return _left(params, name), replace(known, **shown)
    raise refusal


def _left(params: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in params.items() if name not in names}


def _seen(reply: Reply, params: dict[str, Any], known: Findings) -> Findings:
    """What an answer shows, beyond what refusals have."""
    choice = reply.choices[0]
    in_schema = _in_schema(choice) if "response_format" in params else False
    known = replace(
        known,
        n=len(reply.choices) > 1 if "n" in params else False,
        json_schema=in_schema,
        usage=reply.usage is not None,
        model_returned=reply.model,
        probed_at=now(),
    )
    if "logprobs" not in params:
        return known
    known = replace(known, logprobs=choice.tokens is not None, top_logprobs=params["top_logprobs"])
    if not known.logprobs:
        return replace(known, top_logprobs=None)
    try:
        one = replace(reply, choices=(choice,))
        read = grade([one], "logprobs", field=_FIELD if in_schema else None)
    except (Unparsable, Refused) as problem:
        return replace(known, note=str(problem))
    return replace(known, mass=read.mass)


def _in_schema(choice: Choice) -> bool | None:
    """Whether the answer keeps to the schema; None where there is no whole answer to see."""
    if not choice.text or choice.finish_reason == "length":
        return None
    try:
        document = json.loads(choice.text)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and set(document) == {_FIELD}
