"""Processes that push are killed, or push all at once, and every pair still arrives once."""

from __future__ import annotations

import random
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import httpx
import pytest
from sqlite_utils import Database

from annotator.doctor import broken_invariants
from annotator.store import writing
from annotator.studio.client import Studio
from annotator.studio.outbox import ask_for_votes, untold_raises
from tests import fake_studio as fake_module
from tests.fake_studio import FakeStudio, fake_studio
from tests.pushed_world import (
    BOTH_SERVERS,
    Server,
    all_pairs,
    only_project,
    push,
    remove_projects,
    server_named,
    task_keys,
    task_states,
)
from tests.small_world import add_round

# Says "sending" just before each import, and "telling" before each change of a task's overlap, so
# that a kill can be aimed at what comes after it.
CHILD = """
import sys
import time
from pathlib import Path

from annotator.rounds.batch import push_waiting
from annotator.store import open_db
from annotator.studio import outbox
from annotator.studio.client import Studio

path, url, token, grace_seconds = sys.argv[1:]
outbox.TASKS_PER_IMPORT = 5
outbox.SETTLE_POLL_SECONDS = 0.2
import_tasks = Studio.import_tasks


def announced(self, project_id, data):
    print("sending", flush=True)
    return import_tasks(self, project_id, data)


tell = Studio.set_task_overlap


def announced_too(self, task_id, overlap):
    print("telling", flush=True)
    time.sleep(0.05)
    tell(self, task_id, overlap)


Studio.import_tasks = announced
Studio.set_task_overlap = announced_too
db = open_db(Path(path))
with Studio(url, token) as studio:
    push_waiting(db, studio, "A test's pairs", grace_seconds=float(grace_seconds))
"""


@pytest.fixture(params=BOTH_SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with server_named(request.param, request) as named:
        yield named


@pytest.fixture
def studio(server: Server, db: Database) -> Iterator[Studio]:
    with Studio(server.url, server.token) as opened:
        yield opened
        remove_projects(db, opened)


def start_push(database: Path, server: Server | FakeStudio, grace_seconds: float) -> Popen[str]:
    command = [sys.executable, "-c", CHILD, str(database), server.url, server.token]
    return Popen([*command, str(grace_seconds)], stdout=PIPE, stderr=PIPE, text=True)


def kill_in_the_middle(child: Popen[str], delay: float) -> int:
    """Its exit status, after a kill that long after its first request was about to go out."""
    assert child.stdout is not None
    readable, _, _ = select.select([child.stdout], [], [], 60.0)
    assert readable, "the child neither sends nor ends"
    child.stdout.readline()
    time.sleep(delay)
    child.kill()
    child.communicate()
    return child.returncode


def kill_over_and_over(
    db: Database,
    database: Path,
    server: Server | FakeStudio,
    pairs: list[tuple[int, int]],
    n_kills: int,
    longest_delay: float,
    grace_seconds: float,
) -> int:
    """How many of the kills left tasks of which nobody knew whether they had arrived.

    Before each there is enough to send for eight requests; a child that was faster than its
    kill does not count.
    """
    rng = random.Random(20)
    waiting = iter(pairs)
    killed = unanswered = 0
    while killed < n_kills:
        states = task_states(db)
        missing = 40 - states.get("pending", 0) - states.get("sent", 0)
        if missing > 0:
            add_round(db, [next(waiting) for _ in range(missing)])
        # Spread over the range one by one, since chance alone leaves gaps.
        delay = longest_delay * (killed + rng.random()) / n_kills
        child = start_push(database, server, grace_seconds)
        if kill_in_the_middle(child, delay) == 0:
            longest_delay /= 2
            continue
        assert child.returncode == -signal.SIGKILL
        killed += 1
        unanswered += bool(task_states(db).get("sent"))
        assert broken_invariants(db) == []
    return unanswered


def assert_each_arrived_once(db: Database, studio: Studio) -> None:
    project = only_project(db, studio)
    there = studio.all_task_keys(project.studio_id)
    assert Counter(there.values()) == Counter(task_keys(db))
    assert studio.project(project.studio_id).n_tasks == len(there)
    ids = dict(db.execute("SELECT studio_id, task_key FROM tasks").fetchall())
    assert ids == there
    assert task_states(db) == {"swept": len(there)}
    assert broken_invariants(db) == []


SOAK = [pytest.mark.soak, pytest.mark.timeout(3600)]


@pytest.mark.studio
@pytest.mark.parametrize(
    ("n_kills", "sizes"), [(20, [2, 25, 3, 30, 2]), pytest.param(60, [60, 2, 60], marks=SOAK)]
)
def test_kills_against_the_real_server(
    db: Database,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    n_kills: int,
    sizes: list[int],
) -> None:
    real = request.getfixturevalue("real_studio")
    pairs = all_pairs(db, sizes)
    with Studio(real.url, real.token) as studio:
        try:
            unanswered = kill_over_and_over(
                db, tmp_path / "annotator.db", real, pairs, n_kills, 0.3, grace_seconds=3.0
            )
            assert unanswered >= n_kills // 4
            push(db, studio, grace_seconds=3.0)
            assert_each_arrived_once(db, studio)
        finally:
            remove_projects(db, studio)


def test_kills_while_the_server_stores_slowly(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request of a dead process is stored after its successor has begun to look."""
    stored: Counter[str] = Counter()
    store = fake_module._store

    def counting(fake: FakeStudio, call: fake_module.Call) -> dict[str, Any]:
        stored.update(row["data"]["task_key"] for row in call.body)
        return store(fake, call)

    monkeypatch.setattr(fake_module, "_store", counting)
    pairs = all_pairs(db, [2, 3, 12, 2, 12, 7])
    with fake_studio() as fake, Studio(fake.url, fake.token) as studio:
        fake.faults.store_delay = 1.0
        unanswered = kill_over_and_over(
            db, tmp_path / "annotator.db", fake, pairs, 8, 0.9, grace_seconds=2.5
        )
        assert unanswered == 8
        fake.faults.store_delay = 0.0
        push(db, studio, grace_seconds=2.5)
        assert_each_arrived_once(db, studio)
        # Not even for a moment were there two.
        assert stored == Counter(task_keys(db))


@pytest.mark.parametrize("n_kills", [4, pytest.param(40, marks=SOAK)])
def test_kills_while_the_server_is_told_of_further_votes(
    db: Database, server: Server, studio: Studio, tmp_path: Path, n_kills: int
) -> None:
    """About half of the tasks are there, the others come with the first push that is killed."""
    pairs = all_pairs(db, [7, 2, 8])
    add_round(db, pairs[:25])
    push(db, studio)
    add_round(db, pairs[25:45])
    left: list[int] = []
    for n_kill in range(n_kills):
        with writing(db):
            ask_for_votes(db, dict.fromkeys(range(1, 46, 2), 2 + n_kill))
        child = start_push(tmp_path / "annotator.db", server, grace_seconds=3.0)
        kill_while_it_tells(child, 1 + 22 * n_kill // n_kills)
        left.append(untold_raises(db))
        assert broken_invariants(db) == []
    # The first one kept all to itself, the last one's confirmations are kept.
    assert left[0] == 23 > left[-1] > 0
    push(db, studio, grace_seconds=3.0)
    assert_each_arrived_once(db, studio)
    wanted = dict(db.execute("SELECT studio_id, coalesce(overlap, 1) FROM tasks").fetchall())
    assert {task_id: overlap_there(server, task_id) for task_id in wanted} == wanted
    assert untold_raises(db) == 0


def kill_while_it_tells(child: Popen[str], n: int) -> None:
    """Kills it when it is about to tell the server of the n-th task."""
    assert child.stdout is not None
    for line in child.stdout:
        n -= line == "telling\n"
        if not n:
            break
    assert not n, child.communicate()
    child.kill()
    child.communicate()
    assert child.returncode == -signal.SIGKILL


def overlap_there(server: Server, task_id: int) -> int:
    """How many people the server asks about the task."""
    response = httpx.get(
        f"{server.url}/api/tasks/{task_id}/",
        headers={"Authorization": f"Token {server.token}"},
        trust_env=False,
    )
    return int(response.raise_for_status().json()["overlap"])


def test_four_at_once(db: Database, server: Server, studio: Studio, tmp_path: Path) -> None:
    pairs = all_pairs(db, [7, 2, 3])
    add_round(db, pairs[:11])
    add_round(db, pairs[11:])
    database = tmp_path / "annotator.db"
    children = [start_push(database, server, grace_seconds=5.0) for _ in range(4)]
    spoken = [child.communicate(timeout=120) for child in children]
    assert [child.returncode for child in children] == [0, 0, 0, 0], spoken
    # 25 pairs in fives: a child that found nothing to send said nothing.
    assert sum(said.count("sending") for said, _ in spoken) == 5
    assert_each_arrived_once(db, studio)
    assert db.execute("SELECT DISTINCT attempts FROM tasks").fetchall() == [(1,)]
