"""Running the server: in a thread of the test, or as a process of its own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.openai_server.server import OpenAIServer

_ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def serving(*, port: int = 0, **options: Any) -> Iterator[OpenAIServer]:
    """A server in a thread of its own, until the block ends; see the package for the options.

    Raises the first exception of a brain when the block ends without one of its own.
    """
    server = OpenAIServer(**options)
    ready, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            loop.run_until_complete(serve(server, port, stop, ready.set))
        except BaseException as failure:
            failures.append(failure)
        finally:
            loop.close()
            ready.set()

    thread = threading.Thread(target=run, name="openai-server", daemon=True)
    thread.start()
    ready.wait()
    if failures:
        raise failures[0]
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(timeout=10)
        assert not thread.is_alive(), "the server did not stop"
    if server.problems:
        raise server.problems[0]


async def serve(server: OpenAIServer, port: int, stop: asyncio.Event, ready: Any) -> None:
    """Listens until `stop` is set, then hangs up on everyone."""
    listening = await server.start(port)
    ready()
    await stop.wait()
    listening.close()
    server.hang_up()
    # The transports close in the next turn of the loop.
    await asyncio.sleep(0)
    await asyncio.sleep(0)


@dataclass(frozen=True)
class RemoteServer:
    """A server in another process, steered over HTTP."""

    url: str
    process: subprocess.Popen[str]
    key: str = "sk-any"

    @property
    def host(self) -> str:
        """Host and port."""
        return self.url.split("/")[2]

    def ledger(self, *, bodies: bool = True) -> dict[str, Any]:
        """The ledger as JSON; without bodies it is much smaller."""
        return dict(self._call("GET", f"/ledger?bodies={int(bodies)}"))

    def clear_ledger(self) -> None:
        """Forgets what arrived so far."""
        self._call("POST", "/ledger/clear", {})

    def script(self, faults: Sequence[Mapping[str, Any] | None], **more: Any) -> None:
        """Faults in their JSON form; `when` (a text), `path`, `always`, `share`."""
        self._call("POST", "/script", {"faults": list(faults), **more})

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        self._call("POST", "/clear", {})

    def hold(self) -> None:
        """Chat answers wait, worked for and billed, until `release`."""
        self._call("POST", "/hold", {})

    def release(self) -> None:
        """Sends what was held, and holds no more."""
        self._call("POST", "/release", {})

    @property
    def held(self) -> int:
        """Answers that wait for `release`."""
        return int(self._call("GET", "/health")["held"])

    def plan_batches(self, plans: Sequence[Mapping[str, Any]]) -> None:
        """How the next batches go, each a BatchPlan's fields."""
        self._call("POST", "/plan", {"plans": list(plans)})

    def advance(self, batch_id: str | None = None) -> dict[str, str]:
        """One state further for one batch, or for all."""
        return dict(self._call("POST", "/advance", {"batch": batch_id}))

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"http://{self.host}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


@contextmanager
def serving_apart(**options: Any) -> Iterator[RemoteServer]:
    """The server as a child process; options are those of `python -m tests.openai_server`."""
    command = [sys.executable, "-m", "tests.openai_server"]
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        command += [option] if value is True else [f"{option}={value}"]
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url.startswith("http"):
            process.kill()
            raise RuntimeError(f"the server did not start; exit status {process.wait()}")
        try:
            yield RemoteServer(url, process, str(options.get("key", "sk-any")))
        finally:
            process.terminate()
