"""Processes that judge are killed, and every call ends with its one answer, paid for and known."""

from __future__ import annotations

import random
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from sqlite_utils import Database

from annotator.signals.judges.grades import grade
from annotator.signals.judges.ledger import spending, stored_replies
from tests.judged_world import QUICK, SERVER_PRICE, asking, assert_books_agree, judge, states
from tests.openai_server import OpenAIServer, faults, serving

# Says "sending" at the first request, so that a kill can be aimed at what comes after it.
CHILD = """
import sys
from pathlib import Path

from annotator.signals.judges.client import ChatClient, ClientSettings
from annotator.signals.judges.runner import run_calls
from annotator.store import open_db
from tests.judged_world import QUICK, asking, by_logprobs

path, url, first, last = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
ask = ChatClient.ask
said = []


async def announced(self, request):
    if not said:
        said.append(True)
        print("sending", flush=True)
    return await ask(self, request)


ChatClient.ask = announced
requests = (asking(i) for i in range(first, last))
run_calls(open_db(path), path, requests, ClientSettings(url, "sk-any"), QUICK, by_logprobs)
"""

CALLS_A_RUN = 60


def start(database: Path, server: OpenAIServer, last: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(database), server.url, "0", str(last)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[1],
    )


def kill_after(child: subprocess.Popen[str], delay: float) -> int:
    """Its exit status, after a kill that long after its first request was about to go out."""
    assert child.stdout is not None
    readable, _, _ = select.select([child.stdout], [], [], 60.0)
    assert readable, "the child neither sends nor ends"
    child.stdout.readline()
    time.sleep(delay)
    child.kill()
    _, errors = child.communicate()
    assert child.returncode in (0, -signal.SIGKILL), errors
    return child.returncode


def open_attempts(db: Database) -> int:
    """What a dead process left on record without an end."""
    query = "SELECT count(*) FROM judge_attempts WHERE status = 'open'"
    return int(db.execute(query).fetchone()[0])


def kill_over_and_over(
    db: Database, database: Path, server: OpenAIServer, n_kills: int
) -> tuple[int, int]:
    """How many calls were wanted in all, and how many attempts the kills left open.

    Each process has CALLS_A_RUN calls more to make than the last one. One that was faster than
    its kill does not count.
    """
    rng = random.Random(4)
    killed = left_open = wanted = 0
    longest_delay = 0.6
    while killed < n_kills:
        wanted = states(db).get("ok", 0) + CALLS_A_RUN
        # Spread over the range one by one, since chance alone leaves gaps.
        delay = longest_delay * (killed + rng.random()) / n_kills
        if kill_after(start(database, server, wanted), delay) == 0:
            longest_delay *= 0.7
            continue
        killed += 1
        n_open = open_attempts(db)
        assert n_open <= QUICK.concurrency
        left_open += n_open
        # Whatever the server has been asked is on record already.
        assert spending(db).n_attempts >= server.ledger.count()
        assert spending(db).known + spending(db).reserved >= server.ledger.billed_microusd
    return wanted, left_open


@pytest.mark.parametrize(
    "n_kills",
    [6, pytest.param(50, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])],
)
def test_a_killed_run_repeats_at_most_what_was_in_flight(
    db: Database, tmp_path: Path, n_kills: int
) -> None:
    with serving(latency=0.03, price=SERVER_PRICE) as server:
        # Some fail by themselves too, so that a kill can meet a call between two attempts.
        server.always(faults.error(500), share=0.05)
        wanted, left_open = kill_over_and_over(db, tmp_path / "annotator.db", server, n_kills)
        server.clear()
        failed_by_itself = server.ledger.count(fault="error")
        requests = [asking(i) for i in range(wanted)]
        report = judge(db, server, requests)
        assert report.ok + report.cached == wanted
        assert left_open > 0
        assert server.ledger.repeated() <= left_open + failed_by_itself

        # Each call is there once, with its own answer, and so is each cent.
        assert states(db) == {"ok": wanted}
        planted = Counter(1 + i % 5 for i in range(wanted))
        replies = stored_replies(db, f"{server.host}/v1", requests)
        read = Counter(round(grade([reply], "logprobs").mean) for reply in replies if reply)
        assert read == planted
        assert_books_agree(db, server)
        # And nothing more is asked by whoever comes next.
        n_asked = server.ledger.count()
        assert judge(db, server, requests).cached == wanted
        assert server.ledger.count() == n_asked
