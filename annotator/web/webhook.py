"""`POST /webhook`: Label Studio says that something happened; what it says is not read.

Its calls carry no signature and are never sent again, so they decide nothing: a call with the
right token makes a sync come sooner, and that is all it can do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response

from annotator.web.auth import same_secret

HEADER = "X-Annotator-Token"
# What a sync can see: answers and tasks. TASKS_CREATED is our own push.
ACTIONS = (
    "ANNOTATION_CREATED",
    "ANNOTATIONS_CREATED",
    "ANNOTATION_UPDATED",
    "ANNOTATIONS_DELETED",
    "TASKS_DELETED",
)
LONGEST_BODY = 1_000_000
BODY_SECONDS = 10.0


class Webhook:
    """Takes the calls that carry `token` and tells `on_call` of each; keeps nothing of them."""

    def __init__(self, token: str, on_call: Callable[[], object]) -> None:
        self._token = token
        self._on_call = on_call

    async def __call__(self, request: Request) -> Response:
        """202 for a call that counts; 401, 413 or 408 for one that does not."""
        if not same_secret(request.headers.get(HEADER, ""), self._token):
            return _refusal(401, "the token is missing or wrong")
        if _told_length(request) > LONGEST_BODY:
            return _refusal(413, f"a call has at most {LONGEST_BODY:,} bytes")
        try:
            async with asyncio.timeout(BODY_SECONDS):
                fits = await _passed_by(request)
        except TimeoutError:
            return _refusal(408, f"the call did not end within {BODY_SECONDS:.0f} s")
        except ClientDisconnect:
            return _refusal(400, "the call was cut off")
        if not fits:
            return _refusal(413, f"a call has at most {LONGEST_BODY:,} bytes")
        self._on_call()
        return PlainTextResponse("a sync is queued\n", status_code=202)


def _refusal(status: int, words: str) -> Response:
    # The rest of the body is not read, so nothing else can come over this connection.
    return PlainTextResponse(f"{words}\n", status_code=status, headers={"Connection": "close"})


def _told_length(request: Request) -> int:
    told = request.headers.get("Content-Length", "")
    return int(told) if told.isascii() and told.isdigit() and len(told) < 20 else 0


async def _passed_by(request: Request) -> bool:
    """Whether the whole body is short enough; reads it, keeps none of it, stops where it is not."""
    n_bytes = 0
    async for piece in request.stream():
        n_bytes += len(piece)
        if n_bytes > LONGEST_BODY:
            return False
    return True
