"""A Label Studio of one's own on this machine: up, down, status, people.

    studio = LocalStudio()
    running = studio.up()          # installs and starts what is missing, in this order:
                                   # environment, data and accounts, process, answer
    running.url, running.token     # all that the rest of annotator needs
    studio.down()

Everything lies in one folder, readable by its owner alone: `data/` (the server's), `environment/`
(the server's Python), `credentials.json`, `server.json` (the port to take again), `server.log`.
The server listens on loopback only and makes no outside connection.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from annotator.errors import LocalStudioError
from annotator.store.locks import hold_lock
from annotator.studio import local_http
from annotator.studio.local_command import init_command, server_environ, start_command
from annotator.studio.local_environment import (
    INSTALL_WAIT_SECONDS,
    LABEL_STUDIO_VERSION,
    elapsed,
    ensure,
    installed_version,
    last_lines,
)
from annotator.studio.local_people import (
    ANNOTATOR,
    FIRST_PEOPLE,
    Person,
    load,
    new_person,
    save,
    settle,
    write_private,
)
from annotator.studio.local_process import (
    HOST,
    ServerProcess,
    find_server,
    free_port,
    is_alive,
    listening_port,
    memory_bytes,
    run_to_end,
    spawn,
    stop,
)

PREFERRED_PORT = 8642

_DATABASE = "label_studio.sqlite3"

Progress = Callable[[str], None]


def silent(message: str) -> None:
    """A listener to progress that says nothing."""


def default_home() -> Path:
    """$ANNOTATOR_STUDIO_HOME, or annotator/studio in the user's data folder."""
    if home := os.environ.get("ANNOTATOR_STUDIO_HOME"):
        return Path(home).expanduser()
    data = os.environ.get("XDG_DATA_HOME")
    base = Path(data) if data else Path.home() / ".local" / "share"
    return base / "annotator" / "studio"


def default_environment(home: Path) -> Path:
    """$ANNOTATOR_STUDIO_ENV, or `environment` in `home`."""
    given = os.environ.get("ANNOTATOR_STUDIO_ENV")
    return Path(given).expanduser() if given else home / "environment"


@dataclass(frozen=True)
class RunningStudio:
    """A server that answers, and everyone who can log in to it, admin first.

    `token` is the admin's. `started` is true when this very call started the server, and
    `new_people` is true when it drew passwords that nobody has seen yet.
    """

    url: str
    token: str = field(repr=False)
    people: tuple[Person, ...]
    version: str
    pid: int
    home: Path
    started: bool = False
    new_people: bool = False


@dataclass(frozen=True)
class StudioStatus:
    """What there is of the local server; holds no secret.

    `state` is "running", "silent" (a process that does not answer: it is still starting, or it
    hangs), or "stopped". Of the rest, what does not apply is None. Sizes are in bytes;
    `data_bytes` counts the data folder.
    """

    state: str
    url: str | None
    version: str | None
    pid: int | None
    memory_bytes: int | None
    home: Path
    data: Path
    data_bytes: int
    people: tuple[Person, ...]

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON types."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return fields | {
            "home": str(self.home),
            "data": str(self.data),
            "people": [public(person) for person in self.people],
        }


def public(person: Person) -> dict[str, Any]:
    """What may be shown of a person: role, name and email."""
    return {"role": person.role, "name": person.name, "email": person.email}


class LocalStudio:
    """The local server whose files lie in `home` and whose Python is in `environment`.

    With `loopback_webhooks`, a server started here may call webhooks on this machine, which Label
    Studio refuses by default. `start_seconds` is how long a start may take before it is given up.
    Any number of processes may call any method at once.
    """

    def __init__(
        self,
        home: Path | None = None,
        environment: Path | None = None,
        *,
        loopback_webhooks: bool = False,
        start_seconds: float = 300.0,
    ) -> None:
        # Resolved, since the path on the server's command line is how it is found again.
        self.home = (home or default_home()).resolve()
        self.environment = (environment or default_environment(self.home)).absolute()
        self.loopback_webhooks = loopback_webhooks
        self.start_seconds = start_seconds
        self.data = self.home / "data"
        self.credentials = self.home / "credentials.json"
        self.log = self.home / "server.log"
        self._record = self.home / "server.json"

    def up(self, port: int | None = None, progress: Progress = silent) -> RunningStudio:
        """The running server; installs, starts and fills it with people where that is missing.

        A server that already runs is returned as it is, whatever its port. Without `port`, the
        last one is taken again, else 8642, else any that is free. Raises LocalStudioError with
        the end of the log when the server dies or takes too long.
        """
        with _disk_errors_named(self.home):
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            ensure(self.environment, progress)
        with self._locked(progress) as lock:
            known = self.people()
            people = known or self._draw_people()
            found = find_server(self.data)
            try:
                if not found:
                    self._make_data(people, lock, progress)
                process = found or self._start(people[0], port, progress)
                url, version = self._wait(process, progress)
                people = self._admit(url, people, lock, progress)
            except BaseException:
                if not found:
                    self._stop()
                raise
            self._remember(process, url, version)
        return RunningStudio(
            url, people[0].token, people, version, process.pid, self.home,
            started=not found, new_people=not known,
        )  # fmt: skip

    def down(self, progress: Progress = silent) -> bool:
        """Stops the server; False when none was running. The data stay."""
        if not self.home.is_dir():
            return False
        with self._locked(progress):
            return self._stop(progress)

    def running(self) -> RunningStudio | None:
        """The server if it runs and answers, else None. Starts and changes nothing."""
        process = find_server(self.data)
        people = self.people()
        answer = self._answer(process) if process else None
        if process is None or answer is None or not people:
            return None
        url, version = answer
        return RunningStudio(url, people[0].token, people, version, process.pid, self.home)

    def status(self) -> StudioStatus:
        """What there is of the server now."""
        process = find_server(self.data)
        url, version = (self._answer(process) if process else None) or (None, None)
        return StudioStatus(
            state="stopped" if process is None else "running" if url else "silent",
            url=url,
            version=version or installed_version(self.environment),
            pid=process.pid if process else None,
            memory_bytes=memory_bytes(process) if process else None,
            home=self.home,
            data=self.data,
            data_bytes=_size(self.data),
            people=self.people(),
        )

    def people(self) -> tuple[Person, ...]:
        """Everyone who can log in, admin first; nobody before the first `up`. No user ids."""
        return load(self.credentials)

    def add_people(self, names: list[str], progress: Progress = silent) -> tuple[Person, ...]:
        """The annotators made: one for each of `names` that was not there yet.

        The server need not run, but must have been up once. Raises LocalStudioError when it was
        not, or when a name cannot be part of an address.
        """
        wanted = [new_person(ANNOTATOR, name) for name in names]
        if not (self.data / _DATABASE).exists():
            raise LocalStudioError(
                f"there is no local Label Studio in {self.home} yet",
                expected="one that was up before",
                todo="run `annotator studio up` first",
            )
        with self._locked(progress) as lock:
            people = self.people() or self._draw_people()
            known = {person.email for person in people}
            added = tuple({p.email: p for p in wanted if p.email not in known}.values())
            if not added:
                return ()
            progress(f"adding {', '.join(person.name for person in added)}")
            save(self.credentials, people + added)
            return self._settle(added, self.data, lock)

    @contextmanager
    def _locked(self, progress: Progress) -> Iterator[int]:
        message = "another `annotator studio` command is at work; waiting"
        with (
            _disk_errors_named(self.home),
            hold_lock(
                self.home / "lock",
                "`annotator studio`",
                wait_seconds=2 * self.start_seconds + INSTALL_WAIT_SECONDS,
                on_wait=lambda: progress(message),
            ) as lock,
        ):
            yield lock

    def _draw_people(self) -> tuple[Person, ...]:
        people = tuple(new_person(role, name) for role, name in FIRST_PEOPLE)
        save(self.credentials, people)
        return people

    def _make_data(self, people: tuple[Person, ...], lock: int, progress: Progress) -> None:
        """Makes the server's data folder with its database and everyone's account, if it is not
        there; whole or not at all.

        Label Studio killed amid its first migrations never starts again on what is left, so they
        run in a folder that takes its final name only when they are done.
        """
        if (self.data / _DATABASE).exists():
            return
        scratch, log = self.home / "data.new", self.home / "first-start.log"
        if scratch.exists():
            shutil.rmtree(scratch)
        log.unlink(missing_ok=True)
        progress("making the database and the accounts (once, about a minute)")
        code = run_to_end(
            init_command(self.environment, scratch), self._environ(scratch, people[0]),
            log, lock, elapsed(progress, "  still at it"), limit_seconds=self.start_seconds,
        )  # fmt: skip
        if code != 0:
            raise self._not_up(f"Label Studio could not make its database (ended with {code})", log)
        self._settle(people, scratch, lock)
        os.sync()
        scratch.replace(self.data)

    def _start(self, admin: Person, port: int | None, progress: Progress) -> ServerProcess:
        wanted = [port] if port else [*self._last_port(), PREFERRED_PORT]
        chosen = free_port(wanted, strict=port is not None)
        progress(f"starting Label Studio {LABEL_STUDIO_VERSION} on port {chosen}")
        if self.log.exists():
            self.log.replace(self.log.with_name("server.log.1"))
        command = start_command(self.environment, self.data, chosen)
        return spawn(command, self._environ(self.data, admin), self.home, self.log)

    def _stop(self, progress: Progress = silent) -> bool:
        stopped = False
        while process := find_server(self.data):
            progress(f"stopping Label Studio (process {process.pid})")
            stop(process)
            stopped = True
        return stopped

    def _wait(self, process: ServerProcess, progress: Progress) -> tuple[str, str]:
        """Address and version, once that very process answers on a port of its own."""
        tick = elapsed(progress, "  waiting for its answer")
        started = told = time.monotonic()
        while (answer := self._answer(process)) is None:
            now = time.monotonic()
            if not is_alive(process):
                raise self._not_up("Label Studio ended while it was starting", self.log)
            if now - started > self.start_seconds:
                seconds = f"{self.start_seconds:.0f} s"
                raise self._not_up(f"Label Studio does not answer after {seconds}", self.log)
            if now - told >= 5:
                told = now
                tick()
            time.sleep(0.2)
        return answer

    def _answer(self, process: ServerProcess) -> tuple[str, str] | None:
        port = listening_port(process)
        if port is None:
            return None
        url = f"http://{HOST}:{port}"
        version = local_http.release(url)
        return (url, version) if version else None

    def _not_up(self, found: str, log: Path) -> LocalStudioError:
        return LocalStudioError(
            f"{found}; the end of its log:\n{last_lines(log, 15)}",
            expected="a server that comes up and stays up",
            todo=f"read {log}; then `annotator studio down`, and `annotator studio up` again",
        )

    def _admit(
        self, url: str, people: tuple[Person, ...], lock: int, progress: Progress
    ) -> tuple[Person, ...]:
        """The people with their user ids; mends the accounts whose token the server refuses."""
        admitted = _ask(url, people)
        if not (refused := _without_id(admitted)):
            return admitted
        progress("mending the accounts")
        self._settle(refused, self.data, lock)
        admitted = _ask(url, people)
        if refused := _without_id(admitted):
            names = ", ".join(person.email for person in refused)
            raise LocalStudioError(
                f"Label Studio at {url} does not accept the token of {names}",
                expected=f"the accounts in {self.credentials}",
                todo="run `annotator studio down`, then `annotator studio up`",
            )
        return admitted

    def _environ(self, data: Path, admin: Person | None = None) -> dict[str, str]:
        return server_environ(data, admin, loopback_webhooks=self.loopback_webhooks)

    def _settle(self, people: tuple[Person, ...], data: Path, lock: int) -> tuple[Person, ...]:
        log = self.home / "accounts.log"
        return settle(people, self.environment, self._environ(data), log, lock)

    def _last_port(self) -> list[int]:
        try:
            port = json.loads(self._record.read_text(encoding="utf-8"))["port"]
        except (OSError, ValueError, TypeError, KeyError):
            return []
        return [port] if isinstance(port, int) and 0 < port < 65536 else []

    def _remember(self, process: ServerProcess, url: str, version: str) -> None:
        """For the next start (the port), and for whoever looks into the folder (the rest)."""
        record = {
            "url": url,
            "port": int(url.rpartition(":")[2]),
            "version": version,
            "pid": process.pid,
            "start_ticks": process.start_ticks,
            "seen": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_private(self._record, json.dumps(record, indent=2) + "\n")


@contextmanager
def _disk_errors_named(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LocalStudioError(
            f"{error.filename or home}: {error.strerror or error}",
            expected="a folder that can be written, on a disk with room",
            todo="make room, or name another folder in ANNOTATOR_STUDIO_HOME",
        ) from error


def _ask(url: str, people: tuple[Person, ...]) -> tuple[Person, ...]:
    return tuple(
        replace(person, user_id=local_http.user_id(url, person.token, person.email))
        for person in people
    )


def _without_id(people: tuple[Person, ...]) -> tuple[Person, ...]:
    return tuple(person for person in people if person.user_id is None)


def _size(folder: Path) -> int:
    """Bytes of all files under `folder`; files that vanish meanwhile count nothing."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(root) / name).lstat().st_size
            except OSError:
                continue
    return total
