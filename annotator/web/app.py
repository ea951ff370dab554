"""The dashboard as an ASGI application: routes, headers, and who is let in.

Pages come out of memory (`Live`) or from a few rows of a read-only connection. Nothing here
writes to the database, reaches Label Studio or waits for either.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

from annotator.errors import AnnotatorError, StoreBusy
from annotator.report.page import render_template, trusted_markup
from annotator.store import open_readonly
from annotator.store.database import store_errors
from annotator.web.auth import (
    COOKIE,
    DASHBOARD_VARIABLE,
    SESSION_SECONDS,
    Sessions,
    SlowDown,
    host_name,
    is_forwarded,
    same_secret,
)
from annotator.web.live import PULSE, Live, Part
from annotator.web.lookup import pair_document, prompt_document

if TYPE_CHECKING:
    import asyncio

    from sqlite_utils import Database
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from annotator.web.webhook import Webhook

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
# The report's sections by their titles there, and the pulse behind the first.
HEADINGS = {
    "standing": "Where we stand",
    PULSE: "Now",
    "saving": "Budget saved",
    "burn": "Budget spent",
    "map": "Data map",
    "agreement": "People and agreement",
    "suspects": "Suspect labels",
    "judge": "Judge",
    "rounds": "Rounds",
}
# A page gives up on a database that is locked rather than keep a reader waiting.
PAGE_BUSY_SECONDS = 2.0
HEARTBEAT_SECONDS = 15.0
LOGIN_BYTES = 4_096
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
OPEN_PATHS = frozenset({"/healthz", "/webhook", "/login"})
THROUGH_A_PROXY = (
    "this came through a proxy, and without a token whoever reaches the proxy could look: set "
    f"{DASHBOARD_VARIABLE} and start `annotator serve` again\n"
)


@dataclass(frozen=True)
class Access:
    """Who is let in: whoever has `login_token`, or, where it is None, whoever asks this server by
    one of its `names` and not through a proxy."""

    login_token: str | None = None
    names: frozenset[str] = LOOPBACK_NAMES
    sessions: Sessions = field(default_factory=Sessions)
    slow_down: SlowDown = field(default_factory=SlowDown)

    def refusal(self, request: Request) -> Response | None:
        """The answer to a request that is not let in, None for one that is."""
        path = _path(request)
        if self.login_token is None:
            return self._refusal_without_token(request, path)
        if path in OPEN_PATHS or path.startswith("/static/"):
            return None
        if self.sessions.is_open(request.cookies.get(COOKIE)):
            return None
        if request.method in ("GET", "HEAD") and not path.startswith(("/events", "/fragments")):
            return RedirectResponse("/login", status_code=303)
        return PlainTextResponse("log in first\n", status_code=401)

    def _refusal_without_token(self, request: Request, path: str) -> Response | None:
        # The webhook has a token of its own.
        if path != "/webhook" and is_forwarded(request.headers):
            return PlainTextResponse(THROUGH_A_PROXY, status_code=403)
        if host_name(request.headers.get("Host", "")) in self.names:
            return None
        return PlainTextResponse("this server goes by other names\n", status_code=421)


def _path(request: Request) -> str:
    """The path that routes are found by. That of `request.url` may come out of the Host header."""
    path: str = request.scope["path"]
    return path


def make_app(
    database_path: Path,
    live: Live,
    *,
    project: str = "annotator",
    access: Access | None = None,
    webhook: Webhook | None = None,
) -> ASGIApp:
    """The application that shows `live` and looks prompts and pairs up in `database_path`.

    The file need not exist. Without a `webhook` there is no such address.
    """
    pages = _Pages(database_path, live, project, access or Access())
    routes = [
        Route("/", pages.dashboard),
        Route("/prompt/{prompt_id}", pages.prompt),
        Route("/pair/{pair}", pages.pair),
        Route("/events", pages.events),
        Route("/fragments", pages.fragments),
        Route("/fragments/{name}", pages.fragment),
        Route("/static/{name}", _static),
        Route("/healthz", _healthz),
        Route("/login", pages.login, methods=["GET", "POST"]),
        Route("/logout", pages.logout, methods=["POST"]),
    ]
    if webhook is not None:
        routes.append(Route("/webhook", webhook.__call__, methods=["POST"]))
    handlers: dict[Any, Any] = {
        HTTPException: pages.http_problem,
        AnnotatorError: pages.our_problem,
        Exception: pages.unexpected,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    return _guarded(app, pages.access)


def _guarded(app: ASGIApp, access: Access) -> ASGIApp:
    """The application behind its door, every answer with the headers that hold browsers to it."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        refusal = access.refusal(Request(scope))
        await (refusal or app)(scope, receive, send_with_headers)

    return guarded


class _Pages:
    """The handlers, and what they share."""

    def __init__(self, database_path: Path, live: Live, project: str, access: Access) -> None:
        self._database_path = database_path
        self._live = live
        self._project = project
        self.access = access

    # Pages

    async def dashboard(self, request: Request) -> Response:
        parts = self._live.parts()
        shown = [trusted_markup(_part_html(name, parts.get(name))) for name in self._names(parts)]
        headings = {name: _heading(name) for name in self._names(parts)}
        return self._page("dashboard.html", self._project, parts=shown, headings=headings)

    def _names(self, parts: dict[str, Part]) -> list[str]:
        return [*HEADINGS, *(name for name in parts if name not in HEADINGS)]

    async def prompt(self, request: Request) -> Response:
        prompt_id = _id(request.path_params["prompt_id"])
        found = await run_in_threadpool(self._read, lambda db: prompt_document(db, prompt_id))
        return self._page("prompt.html", f"Prompt {prompt_id}", found=_there(found))

    async def pair(self, request: Request) -> Response:
        first, _, second = request.path_params["pair"].partition("-")
        a_id, b_id = _id(first), _id(second)
        found = await run_in_threadpool(self._read, lambda db: pair_document(db, a_id, b_id))
        return self._page("pair.html", f"Pair {a_id} – {b_id}", found=_there(found))

    def _read(self, look_up: Callable[[Database], Any]) -> Any:
        if not self._database_path.exists():
            return None
        with store_errors(self._database_path):
            db = open_readonly(self._database_path, busy_seconds=PAGE_BUSY_SECONDS)
            try:
                return look_up(db)
            finally:
                db.close()

    def _page(self, template: str, title: str, status: int = 200, **context: object) -> Response:
        html = render_template(
            "annotator.web",
            template,
            title=f"{title} · annotator",
            project=self._project,
            logged_in=self.access.login_token is not None and template != "login.html",
            **context,
        )
        return HTMLResponse(html.encode(errors="replace"), status_code=status)

    # Live parts

    async def fragments(self, request: Request) -> Response:
        return JSONResponse(self._live.versions())

    async def fragment(self, request: Request) -> Response:
        name = request.path_params["name"]
        part = self._live.parts().get(name)
        if part is None:
            raise HTTPException(404)
        return HTMLResponse(_part_html(name, part).encode(errors="replace"))

    async def events(self, request: Request) -> Response:
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        return StreamingResponse(self._event_stream(), media_type="text/event-stream")

    async def _event_stream(self) -> AsyncIterator[str]:
        with self._live.watching() as told:
            if told is None:  # too many watch already: this one asks instead
                yield "retry: 60000\n\n"
                return
            yield "retry: 2000\n\n"
            while not self._live.closing.is_set():
                told.clear()
                yield f"event: parts\ndata: {json.dumps(self._live.versions())}\n\n"
                while not await _told_within(told, HEARTBEAT_SECONDS):
                    yield ": still here\n\n"

    # Logging in and out

    async def login(self, request: Request) -> Response:
        if self.access.login_token is None:
            return RedirectResponse("/", status_code=303)
        if request.method != "POST":
            return self._page("login.html", "Log in", problem=None)
        address = request.client.host if request.client else ""
        given = await _form_value(request, "token")
        # Looked at before any wait: a stranger behind the same proxy shall not lock out the lead.
        right = same_secret(given.strip(), self.access.login_token)
        wait = self.access.slow_down.seconds_left(address)
        if wait > 0 and not right:
            words = f"Too many tries. Try again in {max(wait, 1):.0f} s."
            refused = self._page("login.html", "Log in", status=429, problem=words)
            refused.headers["Retry-After"] = str(int(wait) + 1)
            return refused
        if not right:
            self.access.slow_down.failed(address)
            words = "That is not the token of this dashboard."
            return self._page("login.html", "Log in", status=403, problem=words)
        self.access.slow_down.succeeded(address)
        answer = RedirectResponse("/", status_code=303)
        answer.set_cookie(
            COOKIE,
            self.access.sessions.open(),
            max_age=int(SESSION_SECONDS),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    async def logout(self, request: Request) -> Response:
        self.access.sessions.close(request.cookies.get(COOKIE))
        answer = RedirectResponse("/login", status_code=303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer

    # What goes wrong

    async def http_problem(self, request: Request, error: HTTPException) -> Response:
        if _path(request) == "/webhook":
            return PlainTextResponse(f"{error.detail}\n", error.status_code, error.headers)
        lines = {
            404: "There is no such page, prompt or pair.",
            405: "This address does not take such requests.",
        }
        answer = self._page(
            "problem.html",
            error.detail,
            status=error.status_code,
            heading=error.detail,
            lines=[lines.get(error.status_code, "")],
        )
        answer.headers.update(error.headers or {})
        return answer

    async def our_problem(self, request: Request, error: AnnotatorError) -> Response:
        answer = self._page(
            "problem.html",
            "Not available now",
            status=503,
            heading="Not available now",
            lines=str(error).split("\n"),
        )
        answer.headers["Retry-After"] = "5" if isinstance(error, StoreBusy) else "60"
        return answer

    async def unexpected(self, request: Request, error: Exception) -> Response:
        lines = ["The server's log has the details."]
        heading = "Something went wrong"
        return self._page("problem.html", heading, status=500, heading=heading, lines=lines)


def _heading(name: str) -> str:
    return HEADINGS.get(name, name.replace("-", " ").capitalize())


def _part_html(name: str, part: Part | None) -> str:
    return render_template(
        "annotator.web",
        "part.html",
        name=name,
        heading=_heading(name),
        version=part.version if part else "",
        made_at=part.made_at if part else "",
        html=trusted_markup(part.html) if part else "",
        waiting=part is None,
    )


def _id(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise HTTPException(404)
    return int(text)


def _there(found: Any) -> Any:
    if found is None:
        raise HTTPException(404)
    return found


async def _told_within(told: asyncio.Event, seconds: float) -> bool:
    import asyncio

    with suppress(TimeoutError):
        await asyncio.wait_for(told.wait(), seconds)
    return told.is_set()


async def _form_value(request: Request, name: str) -> str:
    """One field of a short form; empty where there is none."""
    body = b""
    with suppress(ClientDisconnect):
        async for piece in request.stream():
            body += piece
            if len(body) > LOGIN_BYTES:
                raise HTTPException(413, headers={"Connection": "close"})
    return parse_qs(body.decode(errors="replace")).get(name, [""])[0]


# Static files, read once

_TYPES = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in STATIC:
        raise HTTPException(404)
    return Response(STATIC[name], media_type=_TYPES[name.rpartition(".")[2]])


def _static_files() -> dict[str, bytes]:
    ours = files("annotator.web") / "static"
    found = {name: (ours / name).read_bytes() for name in ("live.js", "dashboard.css")}
    report = files("annotator.report") / "templates" / "report.css"
    return found | {"report.css": report.read_bytes() if report.is_file() else b""}


STATIC = _static_files()


async def _healthz(request: Request) -> Response:
    return JSONResponse({"status": "ok"})
