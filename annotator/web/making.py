"""Makes the report's parts in a process of its own.

Fitting the preference model to many votes holds Python's lock for long enough to make every page
and, worse, the webhook wait. A second process has a lock of its own, gives its memory back when it
ends, and may be killed at any moment. It stays for a while after each making, since its imports
take longer than a small project's parts.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotator.errors import AnnotatorError, ServeError
from annotator.web.live import moment

if TYPE_CHECKING:
    from sqlite_utils import Database

Document = dict[str, Any]

# Parts of the view that are gathered and shown together: what is quick, then what is asked first.
STAGES = (("pulse", "rounds"), ("budget",), ("map", "people", "judge"), ("suspects",))
IDLE_SECONDS = 60.0
POLITENESS = 5  # added to the process's nice value: pages and annotators come first


class ViewMaker:
    """Calling it makes the parts of the project in `folder`, and gives some at a time: part ->
    markup, and when the database was read for them.

    Starts the process when it is needed. Raises ServeError, with what the process said, where it
    fails. For use in one thread; `close` may be called from another.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: Any = None
        self._connection: Connection | None = None
        self._before: Document | None = None  # the newest view, whole: the process forgets it

    def __call__(self) -> Iterator[tuple[Mapping[str, str], str]]:
        if self._process is None or not self._process.is_alive():
            self._start()
        try:
            for made in self._asked():
                if made.problem is not None:
                    raise ServeError(made.problem, todo=made.todo)
                self._before = made.view
                yield made.parts, made.as_of
        except (EOFError, OSError) as error:
            self.close()
            raise ServeError(
                "the process that computes them ended",
                todo="see whether the machine ran out of memory",
            ) from error

    def _asked(self) -> Iterator[Made]:
        connection = self._connection
        assert connection is not None
        connection.send(self._before)
        while True:
            made: Made = connection.recv()
            yield made
            if made.is_last:
                return

    def _start(self) -> None:
        self.close()
        # Spawned, not forked: other threads of this process hold locks and connections.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_make_when_asked, args=(self._folder, theirs), name="annotator-view", daemon=True
        )
        self._process.start()
        theirs.close()

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if process is not None:
            process.kill()
            process.join(5)
        if connection is not None:
            with suppress(OSError):
                connection.close()


@dataclass(frozen=True)
class Made:
    """What the process sends: some parts, and the view that they were made of, or a problem."""

    parts: dict[str, str]
    view: Document | None
    as_of: str
    is_last: bool
    problem: str | None = None
    todo: str = ""


def _make_when_asked(folder: Path, connection: Connection) -> None:
    # Ctrl-C at the terminal reaches the whole group; the parent says when it is over.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["ANNOTATOR_QUIET"] = "1"  # progress bars would run through what the server says
    with suppress(OSError):
        os.nice(POLITENESS)
    with suppress(EOFError, OSError):
        while connection.poll(IDLE_SECONDS):
            before = connection.recv()
            for made in _all_made(folder, before):
                connection.send(made)


def _all_made(folder: Path, before: Document | None) -> Iterator[Made]:
    as_of = moment()
    try:
        yield from _made(folder, before, as_of)
    except AnnotatorError as error:
        yield Made({}, None, as_of, True, error.found, error.todo)
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        words = f"{type(error).__name__}: {error}"
        yield Made({}, None, as_of, True, words, "see the output of `annotator serve`")


def _made(folder: Path, before: Document | None, as_of: str) -> Iterator[Made]:
    from annotator.config import load_settings
    from annotator.report.project_report import sections
    from annotator.report.project_view import project_view
    from annotator.store import open_db

    settings = load_settings(folder)
    path = folder / settings.project.database
    db = open_db(path)
    view = before
    sent: dict[str, str] = {}
    try:
        for stage in STAGES:
            if "people" in stage:
                _believe(db, path)
            view = project_view(db, path, settings, stage, view)
            is_last = stage is STAGES[-1]
            made = sections(view)
            new = {name: html for name, html in made.items() if is_last or sent.get(name) != html}
            sent = made
            yield Made(new, view, as_of, is_last)
    finally:
        db.close()


def _believe(db: Database, path: Path) -> None:
    """The newest consensus, whose skills a part shows; where there is none, the part says so."""
    from annotator.rounds.believe import current_consensus

    with suppress(AnnotatorError):
        current_consensus(db, path)
