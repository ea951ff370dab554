"""One request to a judge's server: the reply, or an error of ours that says what it means."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import TypeVar

import pytest

from annotator.errors import (
    ConfigError,
    JudgeBusy,
    JudgeDenied,
    JudgeError,
    JudgeMalformed,
    JudgeNoModel,
    JudgeQuota,
    JudgeRefused,
    JudgeRejected,
    JudgeUnreachable,
    JudgeUnsupported,
)
from annotator.signals.judges.client import ChatClient, ClientSettings, host_of, retry_after
from annotator.signals.judges.reply import ChatRequest, Reply, Usage
from tests.judged_world import asking
from tests.openai_server import Fault, OpenAIServer, faults, serving

Result = TypeVar("Result")
ROOT = Path(__file__).resolve().parents[1]
CANARY = "sk-CANARY-0123456789"


def talk(
    url: str,
    action: Callable[[ChatClient], Awaitable[Result]],
    *,
    key: str | None = "sk-any",
    timeout: float = 10.0,
) -> Result:
    async def run() -> Result:
        async with ChatClient(url, key, timeout=timeout, connections=4) as client:
            return await action(client)

    return asyncio.run(run())


def ask(url: str, request: ChatRequest | None = None, **more: object) -> Reply:
    return talk(url, lambda client: client.ask(request or asking(0)), **more)  # type: ignore[arg-type]


def refused(server: OpenAIServer, fault: Fault, **more: object) -> JudgeError:
    server.script([fault])
    with pytest.raises(JudgeError) as caught:
        ask(server.url, **more)  # type: ignore[arg-type]
    return caught.value


def test_a_reply_comes_back_and_the_request_went_out_as_it_is() -> None:
    request = asking(3, seed=7)
    with serving() as server:
        reply = ask(server.url, request)
        (arrival,) = server.ledger.chats
    assert arrival.body == request.body()
    assert reply.choices[0].text == "4"
    assert reply.choices[0].tokens is not None
    assert reply.model == "judge"
    assert reply.usage is not None
    assert reply.usage.prompt == arrival.usage.prompt


def test_a_lone_surrogate_does_not_stop_a_request() -> None:
    with serving() as server:
        assert ask(server.url, asking(2, said="\ud800")).choices[0].text == "3"


KINDS: list[tuple[Fault, type[JudgeError], bool]] = [
    (faults.busy(retry_after=7), JudgeBusy, False),
    (faults.quota(), JudgeQuota, False),
    (faults.wrong_key(), JudgeDenied, False),
    (faults.forbidden(), JudgeNoModel, False),
    (faults.forbidden_logprobs(), JudgeUnsupported, False),
    (faults.no_model(), JudgeNoModel, False),
    (faults.unsupported("temperature"), JudgeUnsupported, False),
    (faults.too_long(), JudgeRefused, False),
    (faults.filtered_prompt(), JudgeRefused, True),
    (faults.invalid("Something else is wrong."), JudgeRejected, False),
    (faults.error(500), JudgeBusy, True),
    (faults.error(503), JudgeBusy, True),
    (faults.error(408), JudgeBusy, True),
    (faults.error(409), JudgeBusy, True),
    (faults.error(402), JudgeQuota, False),
    (faults.error(405), JudgeNoModel, False),
    (faults.error(403), JudgeDenied, False),
    (faults.html(), JudgeMalformed, True),
    (faults.html(502), JudgeBusy, True),
    (faults.bad_json(), JudgeMalformed, True),
    (faults.choices_null(), JudgeMalformed, True),
    (faults.choices_empty(), JudgeMalformed, True),
    (faults.message_missing(), JudgeMalformed, True),
    (faults.cut(50), JudgeUnreachable, True),
    (faults.reset(), JudgeUnreachable, True),
    (faults.reset(after=20), JudgeUnreachable, True),
]


@pytest.mark.parametrize(
    ("fault", "kind", "maybe_billed"), KINDS, ids=lambda value: getattr(value, "name", None)
)
def test_each_failure_has_its_name(
    fault: Fault, kind: type[JudgeError], maybe_billed: bool
) -> None:
    with serving() as server:
        error = refused(server, fault)
        assert type(error) is kind
        assert error.maybe_billed is maybe_billed
        assert server.host in str(error) or kind is JudgeMalformed
        # Sent once: repeating is for those who keep the books.
        assert server.ledger.count() == 1


@pytest.mark.parametrize(
    ("message", "param", "kind", "named"),
    [
        ("Unsupported value: 'n' does not support 2", "n", JudgeUnsupported, "n"),
        ("Logprobs is not enabled for this model", None, JudgeUnsupported, "logprobs"),
        ("top_logprobs must be at most 5", None, JudgeUnsupported, "top_logprobs"),
        (
            "'max_completion_tokens' is too large: 9. This model's maximum context length is 8 "
            "tokens and your request has 7 input tokens.",
            "max_completion_tokens",
            JudgeRefused,
            None,
        ),
        ("An invalid character in the n-th message", None, JudgeRejected, None),
        ("Invalid 'messages[0].content'", "messages[0].content", JudgeRejected, None),
    ],
)
def test_a_refusal_that_names_a_parameter(
    message: str, param: str | None, kind: type[JudgeError], named: str | None
) -> None:
    with serving() as server:
        error = refused(server, faults.invalid(message, param), request=asking(0, n=2))
    assert type(error) is kind
    assert getattr(error, "parameter", None) == named


def test_the_rate_of_a_free_account_is_no_lack_of_money() -> None:
    """OpenAI's text about the rate points to its page on billing; others call the rate a quota."""
    texts = (
        "Rate limit reached. Add a payment method at the documentation",
        "You exceeded your current quota, please check your plan and billing details.",
    )
    with serving() as server:
        for text in texts:
            body = json.dumps({"error": {"message": text, "code": 429}}).encode()
            assert type(refused(server, replace(faults.busy(), body=body))) is JudgeBusy


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "1"}, 1.0),
        ({"retry-after": "300"}, 300.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"}, 0.0),
        ({"retry-after": "Sun, 99 Nov 1994 08:49:37 GMT"}, None),
    ],
)
def test_how_long_the_server_asks_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_a_date_to_wait_for_is_that_many_seconds_away() -> None:
    told = retry_after({"retry-after": formatdate(time.time() + 300, usegmt=True)})
    assert told is not None
    assert 290 < told <= 300


def test_an_answer_that_is_none_is_kept_with_what_it_cost() -> None:
    with serving() as server:
        error = refused(server, faults.choices_null())
        assert isinstance(error, JudgeMalformed)
        billed = server.ledger.billed
        assert error.usage == Usage(billed.prompt, billed.completion)
        assert json.loads(error.raw)["choices"] is None
        page = refused(server, faults.html())
        assert isinstance(page, JudgeMalformed)
        assert "Sign in" in page.raw
        assert page.usage is None


@pytest.mark.parametrize("fault", [faults.black_hole(), faults.drip(20.0), faults.late(30.0)])
def test_no_answer_takes_longer_than_configured(fault: Fault) -> None:
    """A drip of 20 bytes a second never lets a limit on each read run out."""
    with serving() as server:
        started = time.monotonic()
        error = refused(server, fault, timeout=0.5)
        assert time.monotonic() - started < 3.0
    assert type(error) is JudgeUnreachable
    assert error.maybe_billed
    assert "0.5 s" in str(error)


def test_a_server_that_is_not_there_cannot_have_billed() -> None:
    with serving() as server:
        url = server.url
    with pytest.raises(JudgeUnreachable, match="cannot be reached") as caught:
        ask(url)
    assert not caught.value.maybe_billed


_BOMBED = """
import asyncio, json, sys
from annotator.errors import JudgeError
from annotator.signals.judges.client import ChatClient
from scripts.measuring import forget_peak_memory, peak_memory
from tests.judged_world import asking

async def main():
    async with ChatClient(sys.argv[1], "sk-any", timeout=30, connections=1) as client:
        before = forget_peak_memory()
        errors = []
        for _ in range(2):
            try:
                await client.ask(asking(0))
            except JudgeError as error:
                errors.append(type(error).__name__)
        print(json.dumps([errors, peak_memory() - before]))

asyncio.run(main())
"""


def test_a_small_answer_that_unpacks_to_a_gigabyte_is_not_unpacked() -> None:
    bomb = faults.gzip_bomb(1024)
    with serving() as server:
        server.script([bomb, replace(bomb, status=500)])
        done = subprocess.run(
            [sys.executable, "-c", _BOMBED, server.url],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
    errors, grown = json.loads(done.stdout)
    assert errors == ["JudgeMalformed", "JudgeBusy"]
    assert grown < 80e6


# The key


def test_a_redirect_is_not_followed_with_the_key() -> None:
    with serving() as other, serving() as server:
        target = (("location", f"{other.url}/chat/completions"),)
        error = refused(server, Fault("redirect", False, 307, b"", headers=target))
        assert other.ledger.arrivals == []
    assert type(error) is JudgeNoModel
    assert "redirect" in str(error)


@pytest.mark.parametrize("status", [201, 202, 204, 299])
def test_a_success_that_is_not_200_is_no_redirect_and_may_be_billed(status: int) -> None:
    body = b"" if status == 204 else b'{"usage": {"prompt_tokens": 9, "completion_tokens": 2}}'
    with serving() as server:
        error = refused(server, Fault("taken", False, status, body))
    assert isinstance(error, JudgeMalformed)
    assert error.maybe_billed
    assert f"answered {status}" in str(error) and "redirect" not in str(error)
    assert error.usage == (Usage(9, 2) if body else None)


def test_a_key_in_the_environment_is_for_another_host(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, CANARY)
    with serving(key=CANARY) as server:
        with pytest.raises(JudgeDenied):
            ask(server.url, key=None)
        assert ask(server.url, key=CANARY)


def test_an_account_in_the_environment_is_told_to_its_host_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-canary")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-canary")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Account: header-canary")
    with serving() as server:
        ask(server.url)
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/")
        ask(server.url)
        foreign, own = (repr(arrival.headers) for arrival in server.ledger.chats)
    for canary in ("org-canary", "proj-canary", "header-canary"):
        assert canary not in foreign
        assert canary in own


@pytest.mark.parametrize(
    "fault",
    [
        faults.invalid(f"Incorrect key {CANARY}, see {CANARY}"),
        Fault("echo", False, 401, f"no such key: {CANARY}".encode(), "text/plain"),
        Fault("echo", False, 200, f"no such key: {CANARY}".encode(), "text/plain"),
        faults.cut(10),
        faults.black_hole(),
    ],
    ids=["json", "text", "answer", "cut", "silent"],
)
def test_no_error_tells_the_key(fault: Fault) -> None:
    with serving(key=CANARY) as server:
        error = refused(server, fault, key=CANARY, timeout=0.5)
    told = "".join(traceback.format_exception(error)) + repr(vars(error)) + repr(error)
    assert CANARY not in told
    seen: BaseException | None = error
    while seen is not None:
        # None of the client's own, with requests and their headers.
        assert not type(seen).__module__.startswith(("openai", "httpx", "httpcore"))
        seen = seen.__cause__ or seen.__context__


def test_a_reply_that_holds_the_key_is_kept_without_it() -> None:
    with serving(key=CANARY) as server:
        server.script([faults.says(f"4 {CANARY}")])
        reply = ask(server.url, key=CANARY)
    assert CANARY not in repr(reply)


def test_what_is_shown_of_a_client_and_its_settings() -> None:
    async def shown() -> str:
        async with ChatClient("http://h:1/v1", CANARY, timeout=1, connections=1) as client:
            return repr(client)

    assert asyncio.run(shown()) == "ChatClient('h:1/v1')"
    assert CANARY not in repr(ClientSettings("http://h:1/v1", CANARY))


@pytest.mark.parametrize(
    "url",
    [
        "ftp://h/v1",
        "h/v1",
        "http://",
        f"http://me:{CANARY}@h/v1",
        f"http://{CANARY}@h/v1",
        f"http://h/v1?key={CANARY}",
        "http://h:x/v1",
        "http://[::1/v1",
    ],
)
def test_an_address_that_is_none_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ChatClient(url, None, timeout=1, connections=1)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("key", [f"{CANARY} x", f"{CANARY}\nx", f"{CANARY}é"])
def test_a_key_that_is_none_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ChatClient("http://h/v1", key, timeout=1, connections=1)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_findings_and_keys_belong_to_a_host_with_port_and_path() -> None:
    assert host_of("https://API.openai.com/v1/") == "api.openai.com/v1"
    assert host_of("http://localhost:11434/v1") == "localhost:11434/v1"
    assert host_of("http://localhost:11434") == "localhost:11434"


# Files and batches


def _lines(n: int) -> bytes:
    lines = (
        {
            "custom_id": f"call-{i}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": asking(i).body(),
        }
        for i in range(n)
    )
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def test_a_batch_from_its_file_to_its_results() -> None:
    async def whole(client: ChatClient) -> list[str]:
        file_id = await client.upload(_lines(3), "calls.jsonl")
        made = await client.create_batch(file_id, {"annotator_key": "abc"})
        listed = await client.list_batches()
        assert [one["metadata"] for one in listed] == [{"annotator_key": "abc"}]
        found = await client.batch(made["id"])
        while found["status"] != "completed":
            found = await client.batch(made["id"])
        content = await client.file_content(found["output_file_id"])
        return [json.loads(line)["custom_id"] for line in content.splitlines()]

    with serving() as server:
        assert sorted(talk(server.url, whole)) == ["call-0", "call-1", "call-2"]


def test_a_batch_can_be_cancelled_and_one_that_is_not_there_is_a_404() -> None:
    async def cancelled(client: ChatClient) -> str:
        made = await client.create_batch(await client.upload(_lines(1), "c.jsonl"), {"k": "v"})
        return str((await client.cancel(made["id"]))["status"])

    with serving() as server:
        assert talk(server.url, cancelled).startswith("cancel")
        for action in (
            lambda client: client.batch("batch-none"),
            lambda client: client.file_content("file-none"),
        ):
            with pytest.raises(JudgeNoModel) as caught:
                talk(server.url, action)
            assert caught.value.status == 404


def test_all_batches_are_listed_whatever_the_size_of_a_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("annotator.signals.judges.client.BATCHES_PAGE", 2)

    async def five(client: ChatClient) -> set[str]:
        file_id = await client.upload(_lines(1), "c.jsonl")
        for i in range(5):
            await client.create_batch(file_id, {"annotator_key": str(i)})
        return {one["metadata"]["annotator_key"] for one in await client.list_batches()}

    with serving() as server:
        assert talk(server.url, five) == {"0", "1", "2", "3", "4"}


@pytest.mark.parametrize("key", ["k", "null", "o", "x1"])
def test_a_word_of_the_answer_may_be_the_key(key: str) -> None:
    """Local servers take any key, and people make up short ones."""
    with serving() as server:
        assert ask(server.url, key=key).choices == ask(server.url, key="sk-any").choices
