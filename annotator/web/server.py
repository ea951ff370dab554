"""Runs the dashboard: its socket, its background, and an end that leaves nothing behind."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import uvicorn

from annotator.errors import ServeError
from annotator.web.app import LOOPBACK_NAMES, Access, make_app
from annotator.web.auth import (
    DASHBOARD_VARIABLE,
    WEBHOOK_VARIABLE,
    is_loopback,
    new_token,
    token_from,
)
from annotator.web.live import Live
from annotator.web.making import ViewMaker
from annotator.web.refill import Refill
from annotator.web.sync_loop import Hook, SyncLoop
from annotator.web.watch import Watch
from annotator.web.webhook import Webhook

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from annotator.config import Settings
    from annotator.studio.client import Studio

WILDCARDS = ("0.0.0.0", "::")  # noqa: S104  named, not bound
KEEP_ALIVE_SECONDS = 15
GRACE_SECONDS = 3
CONNECTIONS = 512


@dataclass(frozen=True)
class ServeRequest:
    """What the engineer asked for.

    `webhook_url` None: worked out from the address; `poll_seconds` None: as often as is sensible;
    `send_when_below` None: batches are sent by people.
    """

    host: str
    port: int
    webhook: bool = True
    webhook_url: str | None = None
    poll_seconds: float | None = None
    send_when_below: int | None = None


@dataclass(frozen=True)
class Serving:
    """A dashboard that can be reached: where, and with which token if one was made for it."""

    url: str
    new_token: str | None
    needs_login: bool


def serve_project(
    folder: Path,
    settings: Settings,
    request: ServeRequest,
    connect: Callable[[], Studio],
    on_ready: Callable[[Serving], object],
) -> None:
    """Serves until SIGINT, SIGTERM or SIGHUP; raises ServeError when the address is taken.

    `on_ready` is told once requests are answered.
    """
    login_token, made = _login_token(request.host)
    webhook_token = token_from(os.environ, WEBHOOK_VARIABLE) or new_token()
    listening = _listen(request.host, request.port)
    port = int(listening.getsockname()[1])
    database_path = folder / settings.project.database
    live = Live()
    background = _Background(folder, database_path, live, request.send_when_below)
    loop = SyncLoop(
        database_path,
        live,
        connect,
        poll_seconds=request.poll_seconds,
        hook=_hook(request, settings, port, webhook_token),
        on_synced=background.check_refill,
    )
    app = make_app(
        database_path,
        live,
        project=settings.project.name,
        access=Access(login_token, LOOPBACK_NAMES | {request.host.lower()}),
        webhook=Webhook(webhook_token, loop.call) if request.webhook else None,
    )
    serving = Serving(_address(request.host, port), made, login_token is not None)
    background.start()
    loop.start()
    try:
        app_server(app, live, lambda: on_ready(serving)).answer(listening)
    finally:
        live.close()
        loop.stop()
        background.stop()


def app_server(app: ASGIApp, live: Live, on_ready: Callable[[], object]) -> Server:
    """A server for the application; nothing is listened on before its `answer`."""
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        # What a client says of itself in X-Forwarded-For decides nothing here.
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        limit_concurrency=CONNECTIONS,
    )
    return Server(config, live, on_ready)


class Server(uvicorn.Server):
    """Uvicorn, which ends event streams at a signal and, once it is done, returns.

    By itself it waits for streams that never end, and raises the signal again when it is done,
    which would cut off the cleaning up.
    """

    def __init__(self, config: uvicorn.Config, live: Live, on_ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._live = live
        self._on_ready = on_ready

    def answer(self, listening: socket.socket) -> None:
        """Answers requests on a bound socket until a signal, or `end` from another thread."""
        with listening:
            asyncio.run(self.serve(sockets=[listening]))

    def end(self) -> None:
        """Ends event streams and, after the requests under way, the server."""
        self._live.close()
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._live.close()
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {one: signal.signal(one, self.handle_exit) for one in wanted}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)


class _Background:
    """The threads that keep the pages new, and the one that sends batches if it is wanted."""

    def __init__(self, folder: Path, database_path: Path, live: Live, below: int | None) -> None:
        self._maker = ViewMaker(folder)
        self._watch = Watch(database_path, live, self._maker)
        self._refill = Refill(folder, database_path, live, below) if below else None

    def start(self) -> None:
        self._watch.start()
        if self._refill:
            self._refill.start()

    def check_refill(self) -> None:
        if self._refill:
            self._refill.check()

    def stop(self) -> None:
        if self._refill:
            self._refill.stop()
        self._maker.close()
        self._watch.stop()


def _login_token(host: str) -> tuple[str | None, str | None]:
    """The token that browsers must give, and the same once more where it was made just now.

    None on loopback, unless the environment names one.
    """
    given = token_from(os.environ, DASHBOARD_VARIABLE)
    if given or is_loopback(host):
        return given, None
    made = new_token()
    return made, made


def _listen(host: str, port: int) -> socket.socket:
    """A socket bound to that address; raises ServeError that says what is in the way."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ServeError(
            f"the host {host!r} cannot be listened on: {error.strerror or error}",
            expected="an address of this machine, such as 127.0.0.1",
        ) from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise ServeError(
            f"port {port} of {host} cannot be had: {error.strerror or error}",
            expected="a port that no other program has, perhaps another `annotator serve`",
            todo="stop that one, or take another port with --port (0: any that is free)",
        ) from error
    return listening


def _address(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def _hook(request: ServeRequest, settings: Settings, port: int, token: str) -> Hook | None:
    """Where Label Studio shall call; None where nobody wants it or no address is known."""
    if not request.webhook:
        return None
    if request.webhook_url:
        return Hook(request.webhook_url, token)
    if request.host in WILDCARDS:
        studio = urlsplit(settings.studio.url or "http://127.0.0.1").hostname or ""
        if not is_loopback(studio):
            return None
    return Hook(f"{_address(request.host, port)}/webhook", token)
