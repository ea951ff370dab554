"""Sends the next batch when few tasks are left to answer, if the engineer asked for that.

It runs the very command that a person would run, with the settings of annotator.toml, in a
process of its own: choosing may fit a model and embed texts, and must not hold up votes.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from annotator.config import load_settings
from annotator.errors import AnnotatorError, ServeError, StoreBusy
from annotator.rounds.open_tasks import open_tasks
from annotator.store import hold_lock, open_readonly
from annotator.studio.outbox import unsent_picks
from annotator.web.live import Live

if TYPE_CHECKING:
    from sqlite_utils import Database

    from annotator.config import BudgetSettings

PAUSE_AFTER_BATCH = 10.0
FIRST_RETRY, LONGEST_RETRY = 30.0, 900.0
LONGEST_RUN = 4 * 3600.0
LONGEST_WORDS = 600

log = logging.getLogger(__name__)


class Refill:
    """Runs `annotator next-batch` for the project in `folder` while fewer than `below` tasks wait.

    Not once the cap under [budget] is reached, or cannot be told to be kept. Of several servers of
    the database one at a time does so, and none while a batch is being chosen. A batch that is
    chosen and not sent yet is sent, and no other is chosen beside it. A person's `next-batch` that
    begins after that look may still make a second one. After a failure it waits, longer each time.
    """

    def __init__(self, folder: Path, database_path: Path, live: Live, below: int) -> None:
        self._folder = folder
        self._path = database_path
        self._live = live
        self._below = below
        self._wanted = threading.Event()
        self._stopping = threading.Event()
        self._retry = FIRST_RETRY
        self._held_back = False
        self._running: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run, name="refill", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def check(self) -> None:
        """Asks for a look at how many tasks wait."""
        self._wanted.set()

    def stop(self, seconds: float = 15.0) -> None:
        """Ends it; a batch that is under way is interrupted, and a later run resumes it."""
        self._stopping.set()
        self._wanted.set()
        if running := self._running:
            running.send_signal(signal.SIGINT)
        self._thread.join(seconds)
        if running := self._running:
            running.kill()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wanted.wait()
            self._wanted.clear()
            if not self._stopping.is_set():
                self._stopping.wait(self._look())

    def _look(self) -> float:
        """Sends a batch where it is time; the seconds until the next look is allowed."""
        try:
            with hold_lock(self._lock_path(), "sending a batch", wait_seconds=0):
                look = self._what_there_is()
                if look.n_open >= self._below:
                    self._recovered()
                    return 0.0
                if look.why_not and not look.n_unsent:
                    return self._hold_back(look.why_not)
                told = self._send(resume=True) if look.n_unsent else self._send()
        except StoreBusy:
            self._wanted.set()
            return PAUSE_AFTER_BATCH  # another process of this project is at it
        except (AnnotatorError, sqlite3.Error, OSError) as error:
            if self._stopping.is_set():
                return 0.0
            return self._failed(error.found if isinstance(error, AnnotatorError) else str(error))
        except Exception as error:
            log.exception("the next batch could not be sent")
            return self._failed(f"{type(error).__name__}: {error}")
        self._recovered()
        if told is not None:
            self._live.notice("next-batch", told)
        self._wanted.set()
        return PAUSE_AFTER_BATCH

    def _recovered(self) -> None:
        if self._retry != FIRST_RETRY or self._held_back:
            self._retry, self._held_back = FIRST_RETRY, False
            self._live.notice("next-batch", None)

    def _hold_back(self, why: str) -> float:
        self._retry, self._held_back = FIRST_RETRY, True
        self._live.notice(
            "next-batch",
            f"Fewer than {self._below:,} tasks are open, and no batch is sent by itself: {why}.",
        )
        return 0.0

    def _lock_path(self) -> Path:
        return self._path.with_name(f"{self._path.name}.refill.lock")

    def _what_there_is(self) -> _Look:
        """Raises StoreBusy while `next-batch` chooses: what it chooses is not recorded yet."""
        choosing = self._path.with_name(f"{self._path.name}.choose.lock")
        with hold_lock(choosing, "choosing a batch", wait_seconds=0):
            db = open_readonly(self._path)
            try:
                n_open = open_tasks(db)
                if n_open >= self._below:
                    return _Look(n_open)
                n_unsent = sum(len(picks) for picks in unsent_picks(db).values())
                return _Look(n_open, n_unsent, cap_reached(db, load_settings(self._folder).budget))
            finally:
                db.close()

    def _failed(self, words: str) -> float:
        pause, self._retry = self._retry, min(2 * self._retry, LONGEST_RETRY)
        self._live.notice(
            "next-batch",
            f"Fewer than {self._below:,} tasks are open, and the next batch could not be sent: "
            f"{words} It is tried again.",
        )
        self._wanted.set()
        return pause

    def _send(self, *, resume: bool = False) -> str | None:
        """What was sent, in words, None where that was nothing; raises ServeError with what the
        command said. With `resume` only what is chosen already."""
        # -P and PYTHONPATH: this process's packages, and nothing that lies in the current folder.
        command = [sys.executable, "-P", "-m", "annotator", "next-batch", "--json"]
        command += ["--resume"] * resume
        self._running = subprocess.Popen(
            [*command, "--project", str(self._folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=os.environ | {"PYTHONPATH": os.pathsep.join(one for one in sys.path if one)},
            start_new_session=True,
        )
        try:
            out, said = self._running.communicate(timeout=LONGEST_RUN)
            code = self._running.returncode
        except subprocess.TimeoutExpired as error:
            self._running.kill()
            self._running.communicate()
            raise ServeError(f"it took longer than {LONGEST_RUN / 3600:.0f} hours.") from error
        finally:
            self._running = None
        if code not in (0, 3):
            raise ServeError(_last_words(said) or f"it ended with {code}.")
        return _batch_in_words(out)


@dataclass(frozen=True)
class _Look:
    """Tasks that wait for an answer, picks that are not sent, and why no new batch may be."""

    n_open: int
    n_unsent: int = 0
    why_not: str | None = None


def cap_reached(db: Database, settings: BudgetSettings) -> str | None:
    """Which cap leaves nothing for a new batch, in words; None where there is something left.

    Votes that are asked for count as spent. A cap in money whose sum is not known counts as
    reached.
    """
    from annotator.budget.ledger import ledger

    if settings.cap_votes is None and settings.cap_cost is None:
        return None
    books = ledger(db, settings)
    cap = books["cap"]
    spent, reserved = cap["votes_spent"], cap["votes_reserved"]
    if cap["votes"] is not None and spent + reserved >= cap["votes"]:
        return (
            f"{spent:,} spent and {reserved:,} reserved of {cap['votes']:,} votes "
            "(cap_votes under [budget])"
        )
    if cap["cost"] is None:
        return None
    cost, currency = cap["cost_spent"], cap["currency"]
    if cost is None:
        return f"cap_cost under [budget] is set, and {books['total']['why_not']}"
    if cost + (cap["cost_reserved"] or 0.0) >= cap["cost"]:
        return (
            f"{cost:,.2f} spent and {cap['cost_reserved'] or 0.0:,.2f} reserved of "
            f"{cap['cost']:,.2f} {currency} (cap_cost under [budget])"
        )
    return None


def _last_words(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    start = max((i for i, line in enumerate(lines) if line.startswith("error:")), default=0)
    words = "; ".join(lines[start:]).removeprefix("error: ")
    return words if len(words) <= LONGEST_WORDS else "…" + words[-LONGEST_WORDS:]


def _batch_in_words(out: str) -> str | None:
    try:
        told = json.loads(out)
        stored = told["pushed"]["stored"]
        number = told.get("round")
    except (ValueError, KeyError, TypeError):
        return "The next batch was sent."
    if number is None and not stored:
        return None  # somebody else has sent it meanwhile
    if number is None:
        return f"{stored:,} tasks of an earlier batch were sent."
    return f"Round {number} was sent: {stored:,} tasks."
