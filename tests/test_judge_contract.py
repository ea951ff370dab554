"""What is relied on of a judge's server: of the local double, and of a real one where it is given.

A real server joins by its address: ANNOTATOR_JUDGE_URL, ANNOTATOR_JUDGE_MODEL, and OPENAI_API_KEY
where it wants a key. A run makes some ten short requests.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pytest
from sqlite_utils import Database

from annotator.errors import JudgeDenied, JudgeError, JudgeNoModel, JudgeRefused, JudgeUnsupported
from annotator.signals.judges.capabilities import Findings, choose_how, probe
from annotator.signals.judges.client import ChatClient, ClientSettings
from annotator.signals.judges.grades import grade
from annotator.signals.judges.ledger import stored_replies
from annotator.signals.judges.reply import ChatRequest, Reply, reply_from_json
from annotator.signals.judges.rubric import load_rubric, messages
from annotator.signals.judges.runner import RunSettings, run_calls
from tests.openai_server import serving

Result = TypeVar("Result")

# Read when this file is, since no test sees the environment of the person who runs it.
REAL = {
    name: os.environ.get(name)
    for name in ("ANNOTATOR_JUDGE_URL", "ANNOTATOR_JUDGE_MODEL", "OPENAI_API_KEY")
}


@dataclass(frozen=True)
class Judge:
    """A server and a model at it."""

    where: ClientSettings
    model: str

    def talk(self, action: Callable[[ChatClient], Awaitable[Result]]) -> Result:
        async def run() -> Result:
            async with ChatClient(
                self.where.base_url, self.where.api_key, timeout=120, connections=4
            ) as client:
                return await action(client)

        return asyncio.run(run())

    def ask(self, request: ChatRequest) -> Reply:
        return self.talk(lambda client: client.ask(request))


@pytest.fixture(scope="module", params=["double", "real"])
def judge(request: pytest.FixtureRequest) -> Iterator[Judge]:
    if request.param == "double":
        with serving(key="sk-right") as server:
            yield Judge(ClientSettings(server.url, "sk-right"), "judge")
        return
    if not REAL["ANNOTATOR_JUDGE_URL"] or not REAL["ANNOTATOR_JUDGE_MODEL"]:
        pytest.skip("ANNOTATOR_JUDGE_URL and ANNOTATOR_JUDGE_MODEL name no real server")
    where = ClientSettings(REAL["ANNOTATOR_JUDGE_URL"], REAL["OPENAI_API_KEY"])
    yield Judge(where, REAL["ANNOTATOR_JUDGE_MODEL"])


@pytest.fixture(scope="module")
def findings(judge: Judge) -> Findings:
    return judge.talk(lambda client: probe(client, judge.model))


def rubric_request(judge: Judge, findings: Findings, response: str, **more: object) -> ChatRequest:
    rubric = load_rubric()
    asked = messages(rubric, (("user", "What is 2 + 2?"),), response, rubric.calls[0])
    params: dict[str, object] = {findings.limit: 512 if not findings.logprobs else 16}
    if findings.temperature is not False:
        params["temperature"] = 0
    if findings.logprobs:
        params |= {"logprobs": True, "top_logprobs": min(findings.top_logprobs or 5, 10)}
    return ChatRequest(judge.model, asked, tuple((params | more).items()))


def test_a_probe_ends_with_findings(judge: Judge, findings: Findings) -> None:
    assert findings.model == judge.model
    assert findings.logprobs is not None
    assert findings.n is not None
    assert findings.usage is not None
    assert findings.model_returned


def test_a_grade_can_be_read_as_the_probe_says(judge: Judge, findings: Findings) -> None:
    try:
        how = choose_how(findings, "logprobs")
    except JudgeUnsupported:
        how = "integer"
    reply = judge.ask(rubric_request(judge, findings, "4 [[grade 4]]"))
    found = grade([reply], how)
    assert 1 <= found.mean <= 5
    assert (found.variance is None) is (how == "integer")


def test_a_reply_is_the_same_when_it_is_read_back(judge: Judge, findings: Findings) -> None:
    reply = judge.ask(rubric_request(judge, findings, "5"))
    assert reply_from_json(json.loads(reply.raw)) == reply


def test_tokens_are_counted(judge: Judge, findings: Findings) -> None:
    if not findings.usage:
        pytest.skip("this server does not count")
    short = judge.ask(rubric_request(judge, findings, "4")).usage
    long = judge.ask(rubric_request(judge, findings, "4. " + "It is four. " * 200)).usage
    assert short is not None
    assert long is not None
    assert long.prompt > short.prompt + 200
    assert short.completion >= 1


def test_samples_are_as_many_as_asked_for(judge: Judge, findings: Findings) -> None:
    if not findings.n:
        pytest.skip("this server gives one answer a request")
    request = rubric_request(judge, findings, "4", n=3, temperature=1)
    reply = judge.ask(request)
    assert len(reply.choices) == 3
    assert 1 <= grade([reply], "samples").mean <= 5


def test_no_such_model(judge: Judge, findings: Findings) -> None:
    request = replace(rubric_request(judge, findings, "4"), model="no-such-model-there-is")
    with pytest.raises(JudgeError) as caught:
        judge.ask(request)
    assert isinstance(caught.value, JudgeNoModel | JudgeDenied)


def test_a_wrong_key(judge: Judge, findings: Findings) -> None:
    if judge.where.api_key is None:
        pytest.skip("this server wants no key")
    other = replace(judge, where=ClientSettings(judge.where.base_url, "sk-wrong"))
    with pytest.raises(JudgeDenied):
        other.ask(rubric_request(judge, findings, "4"))


def test_a_text_that_is_too_long_is_refused_for_itself(judge: Judge, findings: Findings) -> None:
    with pytest.raises(JudgeError) as caught:
        judge.ask(rubric_request(judge, findings, "four " * 600_000))
    assert isinstance(caught.value, JudgeRefused)


def test_a_run_and_what_it_leaves(
    judge: Judge, findings: Findings, db: Database, tmp_path: Path
) -> None:
    def answered(reply: Reply) -> None:
        grade([reply], "logprobs" if findings.logprobs else "integer")

    requests = [rubric_request(judge, findings, f"{i} [[grade {i}]]") for i in range(1, 5)]
    path = tmp_path / "annotator.db"
    settings = RunSettings(concurrency=2, timeout=120)
    report = run_calls(db, path, requests, judge.where, settings, answered)
    assert (report.ok, report.stopped) == (4, None)
    with_host = judge.talk(_host)
    assert all(stored_replies(db, with_host, requests))
    again = run_calls(db, path, requests, judge.where, settings, answered)
    assert (again.cached, again.sent) == (4, 0)
    assert not math.isnan(again.seconds)


async def _host(client: ChatClient) -> str:
    return client.host
