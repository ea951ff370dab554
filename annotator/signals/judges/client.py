"""The only importer of openai: one request out, one reply or one of our errors back.

The package's own retries are off: it repeats what cannot succeed, and every request that leaves
has to be on record first. What it does not bound is bounded here: the time of a whole request,
however slowly the answer drips, and the size of an answer, however small it was when compressed.
A redirect is not followed, so the key goes to one host only.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import httpx2
import openai

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
from annotator.signals.judges.reply import Malformed, reply_from_json

if TYPE_CHECKING:
    from types import TracebackType

    from annotator.signals.judges.reply import ChatRequest, Reply, Usage

CLIENT_VERSION: Final = openai.__version__
OPENAI_URL: Final = "https://api.openai.com/v1"

ANSWER_BYTES = 8 * 2**20  # of one answer, decompressed; an honest one has some kilobytes
FILE_BYTES = 2**30  # of a batch's results
RAW_CHARS = 64_000  # of an answer that cannot be read, kept to be looked at
FILE_SECONDS = 900.0
CONNECT_SECONDS = 10.0
POOLS = 8
BATCHES_PAGE = 100
BATCHES_LISTED = 1_000  # the newest; the one that is looked for was made minutes ago
SHORTEST_SECRET = 12  # characters
_LONGEST_DETAIL = 300

# Makes the package hand over an answer unread, as its own with_streaming_response does.
_UNREAD: Any = {"headers": {"X-Stainless-Raw-Response": "stream"}}

# What servers refuse by name. Short names only in quotes: "n" stands in many a message.
_PARAMETERS = (
    "logprobs",
    "top_logprobs",
    "temperature",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    "response_format",
    "json_schema",
    "seed",
    "reasoning_effort",
)
_TOO_LONG = re.compile(
    r"context[ _]length|context[ _]window|maximum context|too many tokens"
    r"|(?:prompt|input|request) is too long|exceed\w* (?:the )?(?:available )?context",
    re.IGNORECASE,
)
_FILTERED = re.compile(
    r"content[ _](?:filter|management|policy)|responsible ?ai|safety system", re.IGNORECASE
)
# Not "exceeded your current quota": some say that of requests per minute.
_NO_MONEY = re.compile(
    r"insufficient[ _](?:quota|balance|funds|credits?)|billing_(?:hard_limit|not_active)",
    re.IGNORECASE,
)
_Params = tuple[tuple[str, object], ...]
_NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


@dataclass(frozen=True)
class ClientSettings:
    """Where the judge is, and the key for it and for no other host."""

    base_url: str | None = None  # None: OpenAI itself
    api_key: str | None = field(default=None, repr=False)  # None: the server wants none


@dataclass(frozen=True)
class _Answer:
    """A whole answer, its body within bounds."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _NotOk(Exception):
    """An answer that is no 200: it leaves the package from inside, before it is read again."""

    def __init__(self, answer: _Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class _TooLarge(Exception):
    """An answer went over its limit; the rest was not read."""


@dataclass
class _Pool:
    """Connections that are shared, and how many requests use them."""

    client: openai.AsyncOpenAI
    in_use: int = 0

    def load(self) -> int:
        return self.in_use


class ChatClient:
    """A judge's server, spoken to with one key; an async context manager.

    `timeout` is in seconds and holds for a whole request; `connections` is how many are open at
    once at most. Raises ConfigError when the address or the key cannot be one. Requests raise
    JudgeError, and nothing else of this kind.
    """

    def __init__(
        self, base_url: str | None, api_key: str | None, *, timeout: float, connections: int
    ) -> None:
        url = _checked_url(base_url or OPENAI_URL)
        self.host: str = host_of(url)
        self._key = _checked_key(api_key)
        self._timeout = timeout
        # A pool looks at all its idle connections for every request: eight small ones are a
        # quarter less work than a large one.
        n_pools = min(POOLS, max(1, connections // POOLS))
        trusted = httpx2.create_ssl_context()
        each = -(-connections // n_pools)
        self._pools = [_Pool(self._client(url, trusted, each)) for _ in range(n_pools)]
        self._openai = self._pools[0].client

    def _client(self, url: str, trusted: ssl.SSLContext, connections: int) -> openai.AsyncOpenAI:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=connections)
        client = openai.AsyncOpenAI(
            base_url=url,
            # The package would look for a key in the environment, meant for another host.
            api_key=self._key or "none",
            max_retries=0,
            timeout=openai.Timeout(
                self._timeout, connect=min(self._timeout, CONNECT_SECONDS), pool=None
            ),
            http_client=openai.DefaultAsyncHttpxClient(
                limits=limits,
                verify=trusted,
                follow_redirects=False,
                event_hooks={"response": [_leave_unless_ok]},
            ),
        )
        if self.host != host_of(os.environ.get("OPENAI_BASE_URL") or OPENAI_URL):
            # The package sends what the environment says of an account to any host there is.
            client.organization = client.project = None
            client._custom_headers = {}
        return client

    def __repr__(self) -> str:
        return f"ChatClient({self.host!r})"

    async def __aenter__(self) -> ChatClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pool in self._pools:
            await pool.client.close()

    async def ask(self, request: ChatRequest) -> Reply:
        """The reply to one request, sent once."""
        # ASCII: a lone surrogate, which UTF-8 cannot hold, goes out as it came.
        content = json.dumps(request.body()).encode("ascii")
        body = await self._within(self._timeout, self._chat(content), request.params)
        return self._read_reply(body)

    async def _chat(self, content: bytes) -> bytes:
        pool = min(self._pools, key=_Pool.load)
        pool.in_use += 1
        try:
            return await _answered(pool.client, content)
        finally:
            pool.in_use -= 1

    def _read_reply(self, body: bytes) -> Reply:
        text = self._redacted(body.decode("utf-8", errors="replace"))
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            raise _malformed("the answer is no JSON", text) from None
        try:
            return reply_from_json(document)
        except (Malformed, RecursionError) as error:
            problem = str(error) if isinstance(error, Malformed) else "nested too deeply"
            raise _malformed(problem, text, _usage_in(document)) from None

    # Files and batches

    def read(self, status: int, body: Any, params: tuple[tuple[str, object], ...]) -> Reply:
        """The reply in a batch's line; raises what `ask` would have raised for that answer."""
        text = body if isinstance(body, str) else json.dumps(body)
        content = text.encode("utf-8", errors="replace")
        if status == 200:
            return self._read_reply(content)
        raise self._refusal(_Answer(status, {}, content), params)

    async def upload(self, content: bytes, name: str) -> str:
        """The id of a new file for the Batch API."""
        opened = self._openai.files.with_streaming_response.create(
            file=(name, content), purpose="batch"
        )
        return _word(await self._document(opened, FILE_SECONDS), "id")

    async def create_batch(self, file_id: str, metadata: Mapping[str, str]) -> dict[str, Any]:
        """A new batch of chat completions; the document has its id and status."""
        opened = self._openai.batches.with_streaming_response.create(
            input_file_id=file_id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata=dict(metadata),
        )
        return await self._document(opened, self._timeout)

    async def list_batches(self) -> list[dict[str, Any]]:
        """The newest batches of this account, newest first, a thousand at most."""
        found: list[dict[str, Any]] = []
        while len(found) < BATCHES_LISTED:
            after = found[-1]["id"] if found else openai.omit
            opened = self._openai.batches.with_streaming_response.list(
                limit=BATCHES_PAGE, after=after
            )
            page = await self._document(opened, self._timeout)
            batches = page.get("data")
            if not isinstance(batches, list) or not all(isinstance(b, dict) for b in batches):
                raise _malformed("a list of batches has no data", json.dumps(page))
            found += batches
            if not page.get("has_more") or not batches:
                break
        return found

    async def batch(self, batch_id: str) -> dict[str, Any]:
        """A batch as it is now; raises JudgeNoModel, status 404, where the server has none."""
        opened = self._openai.batches.with_streaming_response.retrieve(batch_id)
        return await self._document(opened, self._timeout)

    async def cancel(self, batch_id: str) -> dict[str, Any]:
        """Asks for the end of a batch; what is finished by then can still be had."""
        opened = self._openai.batches.with_streaming_response.cancel(batch_id)
        return await self._document(opened, self._timeout)

    async def file_content(self, file_id: str) -> bytes:
        """A file's bytes; raises JudgeNoModel, status 404, where the server has none."""
        opened = self._openai.files.with_streaming_response.content(file_id)
        return await self._within(FILE_SECONDS, _opened_body(opened, FILE_BYTES))

    async def _document(
        self, opened: AbstractAsyncContextManager[Any], seconds: float
    ) -> dict[str, Any]:
        body = await self._within(seconds, _opened_body(opened, ANSWER_BYTES))
        text = self._redacted(body.decode("utf-8", errors="replace"))
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            raise _malformed("the answer is no JSON", text) from None
        if not isinstance(document, dict):
            raise _malformed("the answer is no JSON object", text)
        return document

    # The border: what the package and the wire throw leaves as ours

    async def _within(self, seconds: float, sending: Any, params: _Params = ()) -> bytes:
        """What `sending` gives, within so many seconds in all."""
        try:
            async with asyncio.timeout(seconds):
                body: bytes = await sending
                return body
        except TimeoutError:
            problem: JudgeError = self._timed_out(seconds)
        except _NotOk as refusal:
            problem = self._refusal(refusal.answer, params)
        except _TooLarge as large:
            problem = _malformed(f"the answer is over {large}", "")
        except (openai.OpenAIError, httpx2.HTTPError, httpx2.StreamError, OSError) as error:
            problem = self._broken(error, seconds, params)
        # Raised out here, so that no request with its headers hangs on the error.
        raise problem

    def _timed_out(self, seconds: float) -> JudgeError:
        return JudgeUnreachable(
            f"{self.host} gave no whole answer within {seconds:g} s",
            expected="an answer within the configured time",
            todo="raise [judge] timeout if the model is merely slow",
            maybe_billed=True,
        )

    def _broken(self, error: Exception, seconds: float, params: _Params) -> JudgeError:
        cause = error.__cause__ or error
        if isinstance(cause, _NotOk):  # some releases of the package wrap whatever passes
            return self._refusal(cause.answer, params)
        never_sent = isinstance(cause, _NEVER_SENT)
        if isinstance(cause, httpx2.TimeoutException) and not never_sent:
            return self._timed_out(seconds)
        detail = self._clean(str(cause)) or type(cause).__name__
        return JudgeUnreachable(
            f"{self.host} {'cannot be reached' if never_sent else 'broke off'}: {detail}",
            expected="a judge's server that answers",
            todo="check [judge] base_url, or OPENAI_BASE_URL, and that the server runs",
            maybe_billed=not never_sent,
        )

    def _refusal(self, answer: _Answer, params: _Params) -> JudgeError:
        if answer.status < 300:
            return self._no_answer(answer)
        detail = _Detail.of(answer)
        said = self._clean(detail.message) or "no reason given"
        named = _named_refusal(answer.status, detail, params)
        if named is not None:
            kind, todo, billed = named
            error = kind(
                f"{self.host} answered {answer.status}: {said}",
                todo=todo,
                status=answer.status,
                maybe_billed=billed,
            )
            if isinstance(error, JudgeUnsupported):
                error.parameter = names_parameter(detail, params)
            return error
        return JudgeBusy(
            f"{self.host} answered {answer.status}: {said}",
            retry_after=retry_after(answer.headers),
            status=answer.status,
            maybe_billed=answer.status != 429,
        )

    def _no_answer(self, answer: _Answer) -> JudgeMalformed:
        """Of 201, 202 and the like: the server has taken the request, and may charge for it."""
        text = self._redacted(answer.body.decode("utf-8", errors="replace"))
        try:
            usage = _usage_in(json.loads(text))
        except (ValueError, RecursionError):
            usage = None
        return _malformed(f"{self.host} answered {answer.status}, which is not 200", text, usage)

    def _clean(self, text: str) -> str:
        """A server's words for a message: one line, short, without the key."""
        line = " ".join(self._redacted(text).split())
        line = line.encode("utf-8", errors="replace").decode()
        return line if len(line) <= _LONGEST_DETAIL else line[: _LONGEST_DETAIL - 1] + "…"

    def _redacted(self, text: str) -> str:
        """The text without the key. A short one, as local servers take any, is no secret, and
        may be a word of the answer.
        """
        if self._key and len(self._key) >= SHORTEST_SECRET:
            return text.replace(self._key, "[the API key]")
        return text


async def _answered(client: openai.AsyncOpenAI, content: bytes) -> bytes:
    response = await client.post(
        "/chat/completions", content=content, cast_to=httpx2.Response, options=_UNREAD
    )
    try:
        return await _bounded(response, ANSWER_BYTES)
    finally:
        await response.aclose()


async def _leave_unless_ok(response: httpx2.Response) -> None:
    """A hook of the HTTP client: the package would read a refusal's body whatever its size."""
    if response.status_code == 200:
        return
    try:
        body = await _bounded(response, ANSWER_BYTES)
    except (_TooLarge, httpx2.HTTPError):
        body = b""  # the status says enough
    raise _NotOk(_Answer(response.status_code, response.headers, body))


async def _bounded(response: httpx2.Response, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_bytes():
        size += len(part)
        if size > limit:
            raise _TooLarge(f"{limit // 2**20} MiB")
        parts.append(part)
    return b"".join(parts)


async def _opened_body(opened: AbstractAsyncContextManager[Any], limit: int) -> bytes:
    async with opened as response:
        return await _bounded(response.http_response, limit)


@dataclass(frozen=True)
class _Detail:
    """What a refusal says of itself; every part may be empty."""

    message: str
    code: str
    param: str

    @classmethod
    def of(cls, answer: _Answer) -> _Detail:
        text = answer.body.decode("utf-8", errors="replace")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            return cls(re.sub(r"<[^>]*>", " ", text), "", "")
        inner = document.get("error", document) if isinstance(document, dict) else document
        if not isinstance(inner, dict):
            return cls(str(inner), "", "")
        message = inner.get("message") or inner.get("detail") or inner
        code = " ".join(str(inner.get(name) or "") for name in ("code", "type", "innererror"))
        return cls(str(message), code, str(inner.get("param") or ""))


_Refusal = tuple[type[JudgeError], str, bool]  # class, what to do, whether it may be billed


def _named_refusal(status: int, detail: _Detail, params: _Params) -> _Refusal | None:
    """What a refusal means; None where the same request may work later."""
    said = f"{detail.message} {detail.code}"
    if status == 402 or (status in (403, 429) and _NO_MONEY.search(said)):
        return JudgeQuota, "top up the account or raise its limit, then run this again", False
    if status in (408, 409, 425, 429) or status >= 500:
        return None
    if status == 401:
        return JudgeDenied, "check OPENAI_API_KEY", False
    if "model_not_found" in detail.code:
        return JudgeNoModel, "check [judge] model", False
    if status in (400, 403, 413, 422):
        return _refusal_of_request(status, detail, params)
    if status < 400:
        return JudgeNoModel, "the address redirects, which is not followed; use its target", False
    return JudgeNoModel, "check [judge] model and base_url, which mostly ends in /v1", False


def _refusal_of_request(status: int, detail: _Detail, params: _Params) -> _Refusal:
    said = f"{detail.message} {detail.code}"
    if status == 413 or _TOO_LONG.search(said):
        return JudgeRefused, "", False
    if _FILTERED.search(said):
        return JudgeRefused, "", True  # some charge for reading what they then decline
    if names_parameter(detail, params):
        return JudgeUnsupported, "run this again: the server is probed anew", False
    if status == 403:
        return JudgeDenied, "check what OPENAI_API_KEY is allowed to do", False
    return JudgeRejected, "", False


def names_parameter(detail: _Detail, params: _Params) -> str | None:
    """The parameter that a refusal names in its field `param` or in its text; None if none."""
    ours = {name for name, _ in params}
    if not ours:
        return None
    field_name = detail.param.split(".")[0].split("[")[0]
    if field_name in ours:
        return field_name
    for name in sorted(ours | set(_PARAMETERS), key=len, reverse=True):
        bare = rf"\b{re.escape(name)}\b" if len(name) > 3 else rf"['\"`]{re.escape(name)}['\"`]"
        if re.search(bare, detail.message, re.IGNORECASE):
            return name
    return None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer asks to wait: in milliseconds, in seconds or as a date.

    None where it does not, or says something that is neither.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        if 0 <= seconds < 1e9:
            return seconds
    try:
        due = parsedate_to_datetime(headers["retry-after"])
        return max(0.0, due.timestamp() - time.time())
    except (KeyError, ValueError, TypeError, OverflowError):
        return None


def host_of(url: str) -> str:
    """host:port/path of a base URL: what a key and a probe's findings belong to."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.hostname}{port}{parts.path.rstrip('/')}"


def _checked_url(url: str) -> str:
    wrong = ConfigError(
        "the judge's address is not one",
        expected="http:// or https://, a host, mostly /v1; no user name and no query",
        todo="correct [judge] base_url or OPENAI_BASE_URL",
    )
    try:
        parts = urlsplit(url.strip())
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        raise wrong from None
    # The address is not shown: what stands before an @ is a secret.
    if not good or parts.username or parts.password or parts.query or parts.fragment:
        raise wrong
    return url.strip().rstrip("/")


def _checked_key(key: str | None) -> str | None:
    if key is None or not key.strip():
        return None
    if not re.fullmatch(r"[\x21-\x7e]+", key.strip()):
        raise ConfigError(
            "the API key holds white space or signs that no key has",
            expected="one word of ASCII",
            todo="copy OPENAI_API_KEY again",
        )
    return key.strip()


def _malformed(problem: str, text: str, usage: Usage | None = None) -> JudgeMalformed:
    return JudgeMalformed(problem, raw=text[:RAW_CHARS], usage=usage)


def _usage_in(document: Any) -> Usage | None:
    """What a document that is no chat completion says of tokens, since they are billed."""
    if not isinstance(document, dict):
        return None
    choice = {"message": {"content": ""}}
    return reply_from_json({"choices": [choice], "usage": document.get("usage")}).usage


def _word(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not value:
        raise _malformed(f"the answer has no {name}", json.dumps(dict(document)))
    return value
