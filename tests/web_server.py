"""The dashboard over real HTTP: an application in a thread, or `annotator serve` in a process."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from annotator.web.live import Live
from annotator.web.server import app_server

WAIT_SECONDS = 30.0


def eventually(
    holds: Callable[[], Any],
    seconds: float = WAIT_SECONDS,
    *,
    told: Callable[[], object] = lambda: "",
) -> Any:
    """What `holds` gives as soon as it is true; fails, and says what is `told`, if it never is."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"it never came to be {told()}"
        time.sleep(0.05)
    return found


@contextmanager
def served(app: Any, live: Live) -> Iterator[str]:
    """The application on a free port of loopback; its address."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    port = listening.getsockname()[1]
    ready = threading.Event()
    server = app_server(app, live, ready.set)
    thread = threading.Thread(target=server.answer, args=(listening,), daemon=True)
    thread.start()
    assert ready.wait(WAIT_SECONDS)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.end()
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive()


@dataclass
class Serve:
    """A running `annotator serve`."""

    process: subprocess.Popen[str]
    url: str
    said: str

    def get(self, path: str = "/", **options: Any) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", trust_env=False, timeout=WAIT_SECONDS, **options)

    def notices(self) -> list[str]:
        """What the page says that a person should know."""
        return re.findall(r'class="notice"[^>]*>(.*?)</p>', self.get("/fragments/pulse").text)

    def end(self, sig: int = signal.SIGTERM) -> int:
        self.process.send_signal(sig)
        return self.process.wait(WAIT_SECONDS)


def start_serve(folder: Path, *options: str, **environment: str) -> Serve:
    """`annotator serve` for the project in `folder`, once it answers."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    log = (folder / "serve.log").open("a")
    process = subprocess.Popen(
        [sys.executable, "-m", "annotator", "serve", "--port", "0", "--project", folder, *options],
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=clean | {"HF_HUB_OFFLINE": "1"} | environment,
    )
    log.close()
    try:
        first = _line(process)
        assert first.startswith("Dashboard at "), (folder / "serve.log").read_text()
        said = first + (_line(process) if "--host" in options else "")
    except BaseException:
        process.kill()
        process.wait()
        raise
    return Serve(process, first.split()[2], said)


@contextmanager
def serving(folder: Path, *options: str, **environment: str) -> Iterator[Serve]:
    """The same, ended afterwards."""
    running = start_serve(folder, *options, **environment)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.end()
        assert running.process.stdout is not None
        running.process.stdout.close()


def _line(process: subprocess.Popen[str]) -> str:
    """The next line that it says."""
    found: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(
        target=lambda out: found.append(out.readline()), args=[process.stdout]
    )
    reader.daemon = True
    reader.start()
    reader.join(60)
    assert found, "annotator serve says nothing"
    return found[0]
