"""What a probe finds out of a model, from one answer, and what follows from it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlite_utils import Database

from annotator.errors import JudgeBudget, JudgeDenied, JudgeQuota, JudgeUnsupported
from annotator.signals.judges.capabilities import (
    Findings,
    choose_how,
    ensure_findings,
    forget_findings,
    known_findings,
    probe,
    record_findings,
)
from annotator.signals.judges.client import CLIENT_VERSION, ChatClient
from annotator.signals.judges.ledger import spending
from annotator.signals.judges.runner import RunSettings
from tests.judged_world import PRICE, SERVER_PRICE, assert_books_agree, states, statuses, where
from tests.openai_server import Fault, OpenAIServer, faults, serving

SETTINGS = RunSettings(price=PRICE, timeout=10.0)


def probed(server: OpenAIServer, model: str = "judge") -> Findings:
    async def run() -> Findings:
        async with ChatClient(server.url, "sk-any", timeout=10, connections=1) as client:
            return await probe(client, model)

    return asyncio.run(run())


def test_one_request_shows_what_can_be_seen_and_guesses_nothing_else() -> None:
    with serving() as server:
        found = probed(server)
        assert server.ledger.count() == 1
        host = f"{server.host}/v1"
    assert found.mass is not None
    assert found.mass >= 0.9
    assert found == Findings(
        host,
        "judge",
        logprobs=True,
        mass=found.mass,
        top_logprobs=20,
        n=True,
        json_schema=True,
        seed=None,
        temperature=None,
        usage=True,
        batch=None,
        model_returned="judge",
        client_version=CLIENT_VERSION,
        probed_at=found.probed_at,
    )
    assert abs((datetime.fromisoformat(found.probed_at) - datetime.now(UTC)).total_seconds()) < 60


@pytest.mark.parametrize(
    ("model", "shown", "n_requests"),
    [
        ("no-logprobs", {"logprobs": False, "n": True, "json_schema": True}, 2),
        ("forbidden-logprobs", {"logprobs": False, "n": True}, 2),
        ("null-logprobs", {"logprobs": False, "top_logprobs": None, "n": True}, 1),
        ("no-n", {"n": False, "logprobs": True}, 2),
        ("ignores-n", {"n": False, "logprobs": True}, 1),
        ("no-json-schema", {"json_schema": False, "logprobs": True}, 2),
        ("no-json", {"json_schema": False, "logprobs": True}, 2),
        ("ignores-json", {"json_schema": False, "logprobs": True}, 1),
        ("no-usage", {"usage": False}, 1),
        ("weak", {"logprobs": True, "mass": None}, 1),
        ("prose", {"logprobs": True, "mass": None}, 1),
        ("space-joined", {"logprobs": True, "json_schema": True}, 1),
        ("byte-tokens", {"logprobs": True}, 1),
        ("renamed", {"model_returned": "renamed-2026-01-01"}, 1),
        ("local", {"logprobs": False, "n": False, "usage": True}, 1),
    ],
)
def test_each_model_is_seen_as_it_is(model: str, shown: dict[str, object], n_requests: int) -> None:
    with serving() as server:
        found = probed(server, model)
        assert {name: getattr(found, name) for name in shown} == shown
        assert server.ledger.count() == n_requests
        # What is refused is not billed: the answer is all that is paid for.
        assert sum(arrival.microusd > 0 for arrival in server.ledger.chats) == 1


@pytest.mark.parametrize(
    ("refused", "shown"),
    [
        ("temperature", {"temperature": False, "seed": None}),
        ("top_p", {"temperature": False}),
        ("seed", {"seed": False, "temperature": None}),
        ("top_logprobs", {"logprobs": True, "top_logprobs": 5}),
        ("max_completion_tokens", {"limit": "max_tokens"}),
    ],
)
def test_what_is_refused_by_name_is_left_out(refused: str, shown: dict[str, object]) -> None:
    with serving() as server:
        server.script([faults.unsupported(refused)])
        found = probed(server)
        assert {name: getattr(found, name) for name in shown} == shown
        first, second = server.ledger.chats
        given = first.body.get(refused), second.body.get(refused)
        assert given[0] is not None
        assert given[1] == (5 if refused == "top_logprobs" else None)


def test_a_reasoning_model_shows_no_schema_and_no_log_probs() -> None:
    with serving() as server:
        found = probed(server, "reasoner")
    assert (found.logprobs, found.json_schema) == (False, None)


def test_what_cannot_be_left_out_is_raised() -> None:
    with serving() as server:
        server.always(faults.unsupported("max_completion_tokens"))
        with pytest.raises(JudgeUnsupported):
            probed(server)
        assert server.ledger.count() == 2


@pytest.mark.parametrize(
    ("fault", "error"), [(faults.wrong_key(), JudgeDenied), (faults.quota(), JudgeQuota)]
)
def test_the_wrong_world_is_no_finding(
    db: Database, tmp_path: Path, fault: Fault, error: type[Exception]
) -> None:
    with serving() as server:
        server.script([fault])
        with pytest.raises(error):
            ensure_findings(db, tmp_path / "annotator.db", where(server), "judge", SETTINGS)
        assert known_findings(db, f"{server.host}/v1", "judge") is None
        assert states(db) == {"pending": 1}


def test_findings_are_kept_for_a_host_and_a_model(db: Database, tmp_path: Path) -> None:
    path = tmp_path / "annotator.db"
    with serving(price=SERVER_PRICE) as server, serving() as other:
        first = ensure_findings(db, path, where(server), "judge", SETTINGS)
        assert ensure_findings(db, path, where(server), "judge", SETTINGS) == first
        assert server.ledger.count() == 1
        assert known_findings(db, f"{server.host}/v1", "judge") == first
        assert ensure_findings(db, path, where(server), "local", SETTINGS).logprobs is False
        ensure_findings(db, path, where(other), "judge", SETTINGS)
        assert (server.ledger.count(), other.ledger.count()) == (2, 1)
        # Asked for anew it is sent anew, though an answer to the same request is on record.
        ensure_findings(db, path, where(server), "judge", SETTINGS, again=True)
        assert server.ledger.count() == 3
        forget_findings(db, f"{server.host}/v1", "judge")
        ensure_findings(db, path, where(server), "judge", SETTINGS)
        assert server.ledger.count() == 4
    assert statuses(db) == {"ok": 5}


def test_a_probe_is_in_the_books_and_within_the_cap(db: Database, tmp_path: Path) -> None:
    path = tmp_path / "annotator.db"
    with serving(price=SERVER_PRICE) as server:
        with pytest.raises(JudgeBudget):
            small = replace(SETTINGS, max_cost=1e-6)
            ensure_findings(db, path, where(server), "judge", small)
        assert server.ledger.arrivals == []
        ensure_findings(db, path, where(server), "no-logprobs", replace(SETTINGS, max_cost=1.0))
        assert statuses(db) == {"400": 1, "ok": 1}
        assert spending(db).known == server.ledger.billed_microusd > 0
        assert_books_agree(db, server)


def test_findings_of_a_later_release_can_be_read(db: Database) -> None:
    record_findings(db, Findings("h", "m", logprobs=True))
    db.execute("UPDATE judge_servers SET findings = json_set(findings, '$.telepathy', 1)")
    assert known_findings(db, "h", "m") == Findings("h", "m", logprobs=True)


GOOD = Findings("h/v1", "m", logprobs=True, mass=0.99)


@pytest.mark.parametrize(
    ("findings", "wanted", "how"),
    [
        (GOOD, "logprobs", "logprobs"),
        (GOOD, "samples", "samples"),
        (GOOD, "none", "integer"),
        (replace(GOOD, logprobs=False, mass=None), "samples", "samples"),
        (replace(GOOD, logprobs=False, mass=None), "none", "integer"),
    ],
)
def test_grades_are_read_as_configured(findings: Findings, wanted: str, how: str) -> None:
    assert choose_how(findings, wanted) == how


@pytest.mark.parametrize(
    ("logprobs", "note", "said"),
    [(False, None, "sends no log-probs"), (None, None, "sends no"), (True, "weak mass", "weak")],
)
def test_without_log_probs_nothing_else_is_taken_in_their_place(
    logprobs: bool | None, note: str | None, said: str
) -> None:
    findings = replace(GOOD, logprobs=logprobs, mass=None, note=note)
    with pytest.raises(JudgeUnsupported, match=said) as caught:
        choose_how(findings, "logprobs")
    assert '"samples"' in caught.value.todo
    assert '"none"' in caught.value.todo
    assert "m at h/v1" in caught.value.found


def test_an_unknown_wish_is_an_error() -> None:
    with pytest.raises(ValueError, match="auto"):
        choose_how(GOOD, "auto")
