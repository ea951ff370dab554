"""Rounds on their way to a server, for tests of pushing and syncing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import Any, NamedTuple

import httpx
import pytest
from sqlite_utils import Database

from annotator.rounds.batch import push_waiting
from annotator.studio.client import Studio
from annotator.studio.outbox import PushReport
from annotator.studio.projects import StudioProject, projects_on
from tests.fake_studio import fake_studio
from tests.small_world import add_prompts, add_round

BOTH_SERVERS = ["fake", pytest.param("real", marks=pytest.mark.studio)]
# Pairs of these prompts: 1, 3, 6, 3, 1, 10.
UNEVEN = (2, 3, 4, 3, 2, 5)


class Server(NamedTuple):
    """Where to push to, and who answers there; the token is an administrator's."""

    url: str
    token: str
    people: tuple[int, ...]


@contextmanager
def server_named(name: str, request: pytest.FixtureRequest) -> Iterator[Server]:
    """The fake server or the session's real one."""
    if name == "real":
        real = request.getfixturevalue("real_studio")
        yield Server(real.url, real.token, tuple(one.user_id for one in real.annotators))
        return
    with fake_studio() as fake:
        yield Server(fake.url, fake.token, (2, 3))


def all_pairs(db: Database, sizes: Sequence[int] = UNEVEN) -> list[tuple[int, int]]:
    """Every pair of new prompts with that many responses each, the lower key first."""
    return [pair for ids in add_prompts(db, list(sizes)) for pair in combinations(ids, 2)]


def add_rounds(db: Database, *sizes: int, overlap: int = 1) -> None:
    """Rounds of these sizes, none with a pair of another; to be called once."""
    pairs = all_pairs(db)
    for size in sizes:
        add_round(db, pairs[:size], overlap=overlap)
        pairs = pairs[size:]


def push(db: Database, studio: Studio, grace_seconds: float = 0.3) -> PushReport:
    """Pushes what waits, into a project of the test's own."""
    return push_waiting(db, studio, "A test's pairs", grace_seconds=grace_seconds)


def only_project(db: Database, studio: Studio) -> StudioProject:
    """The one project of this database."""
    (project,) = projects_on(db, studio.url)
    return project


def remove_projects(db: Database, studio: Studio) -> None:
    """Clears the server of what this database made there."""
    for project in projects_on(db, studio.url):
        found = studio.find_project(project.mark)
        if found is not None:
            studio.delete_project(found.id)


def tasks_there(server: Server, project: StudioProject) -> list[dict[str, Any]]:
    """Tasks as the server has them, with their whole data, in the order of ids."""
    response = httpx.get(
        f"{server.url}/api/tasks/",
        params={
            "project": project.studio_id,
            "page_size": 1000,
            "fields": "task_only",
            "include": "id,data",
            "query": '{"ordering":["tasks:id"]}',
        },
        headers={"Authorization": f"Token {server.token}"},
        trust_env=False,
    )
    tasks: list[dict[str, Any]] = response.raise_for_status().json()["tasks"]
    return tasks


def task_keys(db: Database) -> list[str]:
    """The key of every task in the order of rounds and places."""
    query = """SELECT t.task_key FROM tasks t JOIN picks p ON p.id = t.pick_id
        ORDER BY p.round_id, p.place"""
    return [key for (key,) in db.execute(query)]


def task_states(db: Database) -> dict[str, int]:
    """How many tasks are in each state."""
    return dict(db.execute("SELECT state, count(*) FROM tasks GROUP BY state").fetchall())


def studio_ids(db: Database) -> list[int]:
    """The server's id of every task in the order of rounds and places."""
    query = """SELECT t.studio_id FROM tasks t JOIN picks p ON p.id = t.pick_id
        ORDER BY p.round_id, p.place"""
    return [studio_id for (studio_id,) in db.execute(query)]


def be_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries and polls without the waiting."""
    monkeypatch.setattr("label_studio_sdk.core.http_client.INITIAL_RETRY_DELAY_SECONDS", 0.01)
    monkeypatch.setattr("annotator.studio.client.IMPORT_POLL_SECONDS", 0.01)
    monkeypatch.setattr("annotator.studio.outbox.SETTLE_POLL_SECONDS", 0.05)
