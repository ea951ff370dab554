"""Takes in votes as soon as Label Studio calls, and all the time anyway.

Polling is the truth and a webhook a hint: whatever is called, not called, called twice or in
another order, the next pass brings the database to what the server has.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from annotator.errors import AnnotatorError, StudioDenied, StudioError, StudioUnreachable
from annotator.rounds.sync import sync
from annotator.store import open_db
from annotator.studio.projects import projects_on
from annotator.web.live import Live
from annotator.web.webhook import ACTIONS, HEADER

if TYPE_CHECKING:
    from sqlite_utils import Database

    from annotator.rounds.sync import SyncReport
    from annotator.studio.client import Studio

SHORTEST_PAUSE = 1.0
PAUSE_AFTER_FAILURE = 5.0
CALLED_EVERY = 30.0
UNCALLED_EVERY = 2.0
QUIET_EVERY = 15.0
QUIET_AFTER = 300.0
LONGEST_RETRY = 60.0
HOOK_CHECK_SECONDS = 600.0
TELL_SECONDS = 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hook:
    """Where Label Studio shall call, and the token that it shall bring."""

    url: str
    token: str


class SyncLoop:
    """Syncs until it is stopped.

    `connect` gives a client of Label Studio; `poll_seconds` None: as often as is sensible; `hook`
    None: no webhook is registered; `on_synced` is told after every pass that brought news,
    and once a minute anyway.
    """

    def __init__(
        self,
        database_path: Path,
        live: Live,
        connect: Callable[[], Studio],
        *,
        poll_seconds: float | None = None,
        hook: Hook | None = None,
        on_synced: Callable[[], object] = lambda: None,
    ) -> None:
        self._path = database_path
        self._live = live
        self._connect = connect
        self._poll_seconds = poll_seconds
        self._hooks = _Hooks(hook, live)
        self._on_synced = on_synced
        self._wanted = threading.Event()
        self._stopping = threading.Event()
        self._db: Database | None = None
        self._studio: Studio | None = None
        self._failures = 0
        self._last_news = time.monotonic()
        self._tell_at = 0.0
        self._thread = threading.Thread(target=self._run, name="sync", daemon=True)

    def start(self) -> None:
        """Starts the thread; its first pass begins at once."""
        self._thread.start()

    def call(self) -> None:
        """Somebody with the token says that there is something new."""
        self._hooks.was_called()
        self._wanted.set()

    def stop(self, seconds: float = 10.0) -> None:
        """Ends the thread and takes the webhooks back, as far as the server answers in time."""
        self._stopping.set()
        self._wanted.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stopping.is_set():
            called = self._wanted.is_set()
            # From here on a call asks for the next pass: this one may have read past its news.
            self._wanted.clear()
            self._try_pass(called)
            self._pause()
        if self._studio is not None:
            self._hooks.remove_all(self._studio)
        self._close()

    def _pause(self) -> None:
        """A little while in any case, then until somebody calls or the next look is due."""
        shortest = PAUSE_AFTER_FAILURE if self._failures else SHORTEST_PAUSE
        shortest = min(shortest, self._interval())
        if not self._stopping.wait(shortest):
            self._wanted.wait(max(self._interval() - shortest, 0))

    def _interval(self) -> float:
        if self._failures:
            return min(UNCALLED_EVERY * 2.0 ** min(self._failures, 10), LONGEST_RETRY)
        if self._poll_seconds is not None:
            return self._poll_seconds
        if self._hooks.work:
            return CALLED_EVERY
        is_quiet = time.monotonic() - self._last_news > QUIET_AFTER
        return QUIET_EVERY if is_quiet and not self._live.is_watched else UNCALLED_EVERY

    def _try_pass(self, called: bool) -> None:
        try:
            self._pass(called)
        except (AnnotatorError, sqlite3.Error) as error:
            self._failed(error)
        except Exception as error:
            log.exception("a sync failed")
            self._failed(error)
        else:
            self._failures = 0
            self._live.notice("sync", None)

    def _pass(self, called: bool) -> None:
        if self._db is None:
            self._db = open_db(self._path)
        if self._studio is None:
            self._studio = self._connect()
        report = sync(self._db, self._studio)
        self._say_incomplete(report)
        # First of all: what is committed is no news to a later pass, if this one fails below.
        if report.counts.total or report.tasks_gone or time.monotonic() >= self._tell_at:
            self._tell_at = time.monotonic() + TELL_SECONDS
            self._on_synced()
        if report.counts.total:
            self._last_news = time.monotonic()
            if not called:
                self._hooks.should_have_been_called()
        self._hooks.register(self._studio, self._db)

    def _say_incomplete(self, report: SyncReport) -> None:
        missing = report.missing[0] if report.missing else None
        words = f"Label Studio: {missing.found}. To do: {missing.todo}." if missing else None
        self._live.notice("project", words)

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        self._tell_at = 0.0  # a part of the news may have been committed
        self._close()
        if isinstance(error, AnnotatorError):
            words = f"{error.found}." + (f" To do: {error.todo}." if error.todo else "")
        else:
            words = f"{type(error).__name__}: {error}."
        self._live.notice("sync", f"No votes come in: {words} It is tried again.")

    def _close(self) -> None:
        """The next pass connects anew: the server, its key or the file may be another one."""
        if self._studio is not None:
            self._studio.close()
        if self._db is not None:
            with suppress(sqlite3.Error):
                self._db.close()
        self._studio = self._db = None


class _Hooks:
    """The webhooks of our projects on the server, one each."""

    def __init__(self, hook: Hook | None, live: Live) -> None:
        self._hook = hook
        self._live = live
        self._registered: dict[int, int] = {}  # project there -> webhook there
        self._check_at = 0.0
        self._refused = False
        self._silent = False

    @property
    def work(self) -> bool:
        """Whether the server may be expected to call."""
        return bool(self._registered) and not self._refused and not self._silent

    def was_called(self) -> None:
        """A call came in."""
        if self._silent:
            self._silent = False
            self._live.notice("webhook", None)

    def should_have_been_called(self) -> None:
        """There was something new, and nobody had called."""
        if self._registered and not self._refused and not self._silent:
            self._silent = True
            self._say("has a webhook but does not call it")

    def register(self, studio: Studio, db: Database) -> None:
        """Sees to it that each project has one webhook with our address and token.

        Looks again after ten minutes, since anybody may have removed one, and at once where a
        project is new.
        """
        if self._hook is None:
            return
        ids = [project.studio_id for project in projects_on(db, studio.url)]
        due = time.monotonic() >= self._check_at
        if not due and (self._refused or set(ids) <= set(self._registered)):
            return
        self._check_at = time.monotonic() + HOOK_CHECK_SECONDS
        try:
            self._registered = {i: _one_webhook(studio, i, self._hook) for i in ids}
        except StudioUnreachable:
            self._check_at = 0.0
            raise
        except StudioDenied:
            # What is refused is the address: the key was good enough for the sync before.
            self._refused = True
            self._say("calls no address like this one, which protects it from forged requests")
        except StudioError as error:
            self._refused = True
            self._say(f"takes no webhook ({error.found})")
        else:
            if self._refused:
                self._live.notice("webhook", None)
            self._refused = False

    def remove_all(self, studio: Studio) -> None:
        """Takes back what was registered; where the server is away, it stays and calls nobody."""
        with suppress(StudioError):
            for webhook_id in self._registered.values():
                studio.delete_webhook(webhook_id)

    def _say(self, what: str) -> None:
        self._live.notice(
            "webhook",
            f"Label Studio {what}; it is asked for news every few seconds instead. A local one "
            "calls after `annotator studio up --loopback-webhooks`.",
        )


def _one_webhook(studio: Studio, project_id: int, hook: Hook) -> int:
    """The id of the project's webhook with this address and token; others of the address go."""
    headers = {HEADER: hook.token}
    kept: int | None = None
    for found in studio.webhooks(project_id):
        if found.url != hook.url:
            continue
        is_right = found.headers == headers and found.actions == set(ACTIONS) and found.is_active
        if is_right and kept is None:
            kept = found.id
        else:
            studio.delete_webhook(found.id)
    if kept is None:
        kept = studio.create_webhook(project_id, hook.url, headers, ACTIONS)
    return kept
