"""A process that judges in batches is killed, and nothing is made, paid or kept twice (fault 3).

A child with everything imported forks for each run, so that a kill costs no start of Python.
"""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

from annotator.store import open_db
from tests.batched_world import (
    assert_all_answered,
    files_left,
    lines_done,
    on_record,
    sent_lines,
    some_requests,
)
from tests.openai_server import BatchPlan, OpenAIServer, serving

ROOT = Path(__file__).resolve().parents[1]
LINES_A_FILE = 6

# Every line in: DATABASE URL N_REQUESTS STEP DELAY. A run ends itself by SIGKILL at its step, one
# after each thing that leaves a trace, or is killed after the delay. Out: its exit status.
CHILD = f"""
import os, signal, sys, time
from functools import wraps
from pathlib import Path

from annotator.signals.judges import batches
from annotator.signals.judges.batch_files import Folder
from annotator.signals.judges.batch_ledger import BatchLedger
from annotator.signals.judges.client import ChatClient
from annotator.signals.judges.ledger import Ledger
from annotator.store import open_db
from tests.batched_world import POLL_SECONDS, PURPOSE, check, some_requests, some_settings

batches.SETTLE_SECONDS = 0.1
batches.LINES_A_FILE = {LINES_A_FILE}
steps = 0


def step():
    global steps
    steps += 1
    if steps == last_step:
        os.kill(os.getpid(), signal.SIGKILL)


def watch(owner, name):
    method = getattr(owner, name)

    @wraps(method)
    def at_once(*arguments, **more):
        result = method(*arguments, **more)
        step()
        return result

    @wraps(method)
    async def in_time(*arguments, **more):
        result = await method(*arguments, **more)
        step()
        return result

    setattr(owner, name, in_time if owner is ChatClient else at_once)


for owner, names in (
    (Folder, "write remove"),
    (Ledger, "write"),
    (BatchLedger, "uploaded created ended"),
    (ChatClient, "upload create_batch file_content"),
):
    for name in names.split():
        watch(owner, name)


def run(database, url, n_requests):
    db = open_db(Path(database))
    report = batches.run_batches(
        db,
        Path(database),
        some_requests(int(n_requests)),
        batches.ClientSettings(url, "sk-any"),
        some_settings(),
        check,
        purpose=PURPOSE,
        poll_seconds=POLL_SECONDS,
    )
    assert report.incomplete == report.in_batch == 0, report
    assert report.problem is None, report


for line in sys.stdin:
    database, url, n_requests, last_step, delay = line.split()
    last_step, delay = int(last_step), float(delay)
    child = os.fork()
    if child == 0:
        run(database, url, n_requests)
        os._exit(0)
    if delay:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Runs:
    """Runs of the command's inner part, each in a process of its own."""

    def __init__(self, child: Popen[str]) -> None:
        self._child = child

    def run(
        self, database: Path, server: OpenAIServer, n: int, *, step: int = 0, delay: float = 0
    ) -> int:
        """Its exit status; killed at that step, or after so many seconds, unless it is faster."""
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.write(f"{database} {server.url} {n} {step} {delay}\n")
        self._child.stdin.flush()
        status = self._child.stdout.readline()
        assert status, "the child has died"
        return int(status)


@contextmanager
def forking() -> Iterator[Runs]:
    command = [sys.executable, "-c", CHILD]
    with Popen(command, cwd=ROOT, stdin=PIPE, stdout=PIPE, text=True) as child:
        try:
            yield Runs(child)
        finally:
            child.kill()


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    with forking() as opened:
        yield opened


# Batches end half done, with lines twice and lines of nobody; what is left is sent again.
PLANS = (
    BatchPlan("expired", finished=3, shuffled=True),
    BatchPlan(duplicates=1, unknown=1),
    BatchPlan("expired", finished=1),
)


def new_project(folder: Path) -> Path:
    folder.mkdir()
    open_db(folder / "annotator.db", create=True).close()
    return folder / "annotator.db"


def assert_nothing_twice(database: Path, server: OpenAIServer, n: int) -> None:
    """Each file became one batch, each call was worked on once, and each cent is on record."""
    db = open_db(database)
    assert_all_answered(db, server, some_requests(n))
    keys = [batch.document["metadata"]["annotator_key"] for batch in server.batches.values()]
    assert len(set(keys)) == len(keys)
    contents = [frozenset(ids) for ids in sent_lines(server)]
    assert len(set(contents)) == len(contents)
    assert len(lines_done(server)) == n and set(lines_done(server).values()) == {1}
    assert on_record(db) == server.ledger.billed_microusd > 0
    assert files_left(database) == []
    (dangling,) = db.execute("SELECT count(*) FROM judge_attempts WHERE status = 'open'").fetchone()
    assert dangling == 0
    db.close()


@pytest.mark.parametrize(
    ("n", "files"),
    [(5, [5, 2]), pytest.param(9, [6, 3, 3, 2], marks=[pytest.mark.soak])],
)
def test_killed_at_every_step(runs: Runs, tmp_path: Path, n: int, files: list[int]) -> None:
    """After each write, each request that changes the server, and each fetched file."""
    for step in count(1):
        database = new_project(tmp_path / str(step))
        with serving() as server:
            server.plan_batches(PLANS)
            status = runs.run(database, server, n, step=step)
            if status == 0:
                break
            assert status == -signal.SIGKILL
            assert runs.run(database, server, n) == 0
            assert_nothing_twice(database, server, n)
    assert_nothing_twice(database, server, n)
    assert [len(ids) for ids in sent_lines(server)] == files
    # Ten for each batch, one more where there is an error file.
    assert step > 10 * len(files)


@pytest.mark.parametrize(
    "n_kills",
    [30, pytest.param(600, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])],
)
def test_killed_at_any_moment(runs: Runs, tmp_path: Path, n_kills: int) -> None:
    """Again and again, each run from where the last one died, until one is left alone."""
    rng = random.Random(3)
    killed, n, longest = 0, 9, 0.5
    for attempt in count(1):
        if killed >= n_kills:
            break
        # Named by the attempt: one that no kill reached in time leaves the count as it was.
        database = new_project(tmp_path / str(attempt))
        with serving(latency=0.004) as server:
            server.plan_batches(PLANS)
            while runs.run(database, server, n, delay=longest * rng.random()) != 0:
                killed += 1
            assert_nothing_twice(database, server, n)
