"""Keeps the parts of the page up with the database: the pulse at once, the rest as it can.

Two threads. One looks every moment whether the database changed, by a counter of SQLite's, and
makes the pulse anew. The other asks for the parts that take long, one making after another, and
leaves a pause as long as the making took, so that a big project keeps half of a core free.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotator.errors import AnnotatorError, StoreError
from annotator.store import open_readonly
from annotator.web.live import PULSE, Live
from annotator.web.pulse import Key, change_key, pulse, render_pulse

if TYPE_CHECKING:
    from sqlite_utils import Database

LOOK_SECONDS = 0.3
LOOK_BUSY_SECONDS = 0.5
FIRST_RETRY, LONGEST_RETRY = 5.0, 300.0

# Makes the parts that take long: some at a time, (part -> markup, when the database was read).
View = Callable[[], Iterable[tuple[Mapping[str, str], str]]]
log = logging.getLogger(__name__)


class Watch:
    """Follows the database at `database_path`; `view` makes the parts that take long."""

    def __init__(self, database_path: Path, live: Live, view: View) -> None:
        self._path = database_path
        self._live = live
        self._view = view
        self._reader = _Reader(database_path)
        self._wanted = threading.Event()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._look_until_stopped, name="pulse", daemon=True),
            threading.Thread(target=self._make_until_stopped, name="view", daemon=True),
        ]

    def start(self) -> None:
        """Starts both threads."""
        for thread in self._threads:
            thread.start()

    def stop(self, seconds: float = 5.0) -> None:
        """Ends them; a making that is under way is not waited for longer than that."""
        self._stopping.set()
        self._wanted.set()
        self._live.unsettled.set()
        for thread in self._threads:
            thread.join(seconds)

    # The pulse

    def _look_until_stopped(self) -> None:
        known: Key | None = None
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                known = self._look(known)
            except Exception:
                log.exception("the pulse could not be made")
            # A count over many votes takes a while: looking never takes more than a third.
            pause = max(LOOK_SECONDS, 2 * (time.monotonic() - started))
            self._live.unsettled.wait(pause)

    def _look(self, known: Key | None) -> Key | None:
        """The change key now; where it is another one than `known`, everything is made anew."""
        unsettled = self._live.unsettled.is_set()
        self._live.unsettled.clear()
        try:
            found = self._reader.read()
        except (AnnotatorError, sqlite3.Error) as error:
            self._reader.close()
            self._live.notice("database", _in_words(error))
            self._show(None)
            return None
        self._live.notice("database", None)
        if found is None and not unsettled and known is not None:
            return known
        db, key = found or (self._reader.db, known)
        if key != known:
            self._wanted.set()
        if key != known or unsettled:
            assert db is not None
            self._show(pulse(db))
        return key

    def _show(self, found: dict[str, Any] | None) -> None:
        html = render_pulse(found, self._live.notices())
        shown = self._live.parts().get(PULSE)
        if shown is None or shown.html != html:
            self._live.put({PULSE: html})

    # The parts that take long

    def _make_until_stopped(self) -> None:
        retry = FIRST_RETRY
        while not self._stopping.is_set():
            self._wanted.wait()
            if self._stopping.is_set():
                return
            self._wanted.clear()
            started = time.monotonic()
            try:
                for parts, as_of in self._view():
                    self._live.put(parts, as_of)
            except Exception as error:
                self._say_failed(error, retry)
                self._stopping.wait(retry)
                retry = min(2 * retry, LONGEST_RETRY)
                self._wanted.set()
                continue
            retry = FIRST_RETRY
            self._live.notice("view", None)
            self._stopping.wait(time.monotonic() - started)

    def _say_failed(self, error: Exception, retry: float) -> None:
        if self._stopping.is_set():
            return
        if not isinstance(error, (AnnotatorError, sqlite3.Error)):
            log.error("the parts of the dashboard could not be made", exc_info=error)
        self._live.notice(
            "view",
            f"The parts below could not be computed: {_in_words(error)} "
            "What they show may be old; it is tried again.",
        )


def _in_words(error: Exception) -> str:
    """One line for people."""
    if isinstance(error, AnnotatorError):
        return f"{error.found}." + (f" To do: {error.todo}." if error.todo else "")
    return f"{type(error).__name__}: {error}."


class _Reader:
    """A read-only connection that is opened again when the file is another one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: tuple[int, int] | None = None
        self._data_version = -1
        self.db: Database | None = None

    def read(self) -> tuple[Database, Key] | None:
        """The connection and the change key; None where nobody has written since last time."""
        file = _identity(self._path)
        if file is None:
            raise StoreError(
                "There is no database yet",
                todo="run `annotator init` and `annotator import FILE`; this page will notice",
            )
        if file != self._file:
            self.close()
        if self.db is None:
            # Made in the pulse's thread and used nowhere else.
            self.db = open_readonly(self._path, busy_seconds=LOOK_BUSY_SECONDS)
            self._file = file
        # SQLite counts the commits of other connections.
        data_version = int(self.db.execute("PRAGMA data_version").fetchone()[0])
        if data_version == self._data_version:
            return None
        key = change_key(self.db)
        self._data_version = data_version
        return self.db, key

    def close(self) -> None:
        if self.db is not None:
            self.db.close()
        self.db, self._file, self._data_version = None, None, -1


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
