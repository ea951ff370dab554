"""What people said on the server, and what the database makes of it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import httpx
import pytest
from sqlite_utils import Database

from annotator.doctor import broken_invariants
from annotator.labels.votes import rejected_answers
from annotator.rounds import sync as sync_module
from annotator.rounds.sync import SyncReport, sync
from annotator.status import project_status
from annotator.store import open_db
from annotator.studio.client import ChangedTask, Studio
from annotator.studio.projects import projects_on
from annotator.studio.screen import answer_result
from tests import fake_studio as fake_module
from tests.fake_studio import FORMAT, FakeStudio, fake_studio
from tests.pushed_world import (
    BOTH_SERVERS,
    Server,
    add_rounds,
    be_impatient,
    only_project,
    push,
    remove_projects,
    server_named,
    studio_ids,
)
from tests.small_world import add_round

OVERLAP = timedelta(seconds=sync_module.OVERLAP_SECONDS)
# A server that is busy holds a change back this long between stamping and committing it.
LATE = timedelta(seconds=15)


@pytest.fixture(scope="module", params=BOTH_SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with server_named(request.param, request) as named:
        yield named


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    be_impatient(monkeypatch)


@pytest.fixture
def studio(server: Server, db: Database) -> Iterator[Studio]:
    """A server that has a round of six."""
    with Studio(server.url, server.token) as opened:
        add_rounds(db, 6)
        push(db, opened)
        yield opened
        assert broken_invariants(db) == []
        remove_projects(db, opened)


def counted(report: SyncReport) -> dict[str, int]:
    """The counts that are not nought."""
    return {name: n for name, n in vars(report.counts).items() if n}


def current(db: Database) -> list[tuple[int, str, str | None]]:
    """(place, status, grade) of everything that counts."""
    query = """SELECT p.place, v.status, v.grade FROM current_votes v
        JOIN picks p ON p.id = v.pick_id ORDER BY p.place, v.annotator_id"""
    return list(db.execute(query))


def n_rows(db: Database) -> int:
    return int(db.execute("SELECT count(*) FROM votes").fetchone()[0])


class TestVotes:
    def test_new_ones_in_the_pairs_frame(
        self, server: Server, db: Database, studio: Studio
    ) -> None:
        ids, person = studio_ids(db), server.people[0]
        said = ["left_much_better", "left_better", "tie", "both_bad", "right_better"]
        for task_id, grade in zip(ids, said, strict=False):
            studio.submit(task_id, answer_result(grade), completed_by=person, lead_seconds=7.5)
        studio.submit(ids[5], [], completed_by=person, cancelled=True)
        assert counted(sync(db, studio)) == {"votes": 5, "skips": 1}
        # Every second pair is shown the other way round.
        assert current(db) == [
            (0, "vote", "a_much_better"),
            (1, "vote", "b_better"),
            (2, "vote", "tie"),
            (3, "vote", "both_bad"),
            (4, "vote", "b_better"),
            (5, "skip", None),
        ]
        assert db.execute("SELECT DISTINCT seconds FROM votes WHERE grade NOT NULL").fetchall() == [
            (7.5,)
        ]
        assert counted(sync(db, studio)) == {}
        assert n_rows(db) == 6

    def test_confidence_and_reasons(self, server: Server, db: Database, studio: Studio) -> None:
        result = answer_result("tie", confidence="low", rationale="Both say the same.\nSo what?")
        studio.submit(studio_ids(db)[0], result, completed_by=server.people[0])
        sync(db, studio)
        assert db.execute("SELECT confidence, rationale FROM votes").fetchall() == [
            ("low", "Both say the same.\nSo what?")
        ]

    def test_edited_is_a_new_row_and_the_newest_counts(
        self, server: Server, db: Database, studio: Studio
    ) -> None:
        made = studio.submit(
            studio_ids(db)[2], answer_result("left_better"), completed_by=server.people[0]
        )
        sync(db, studio)
        studio.edit_annotation(made, answer_result("right_much_better"))
        assert counted(sync(db, studio)) == {"edits": 1}
        assert current(db) == [(2, "vote", "b_much_better")]
        assert n_rows(db) == 2
        studio.edit_annotation(made, [], cancelled=True)
        assert counted(sync(db, studio)) == {"edits": 1}
        assert current(db) == [(2, "skip", None)]
        assert counted(sync(db, studio)) == {}

    def test_deleted_counts_no_more(self, server: Server, db: Database, studio: Studio) -> None:
        """Of one task the only annotation, of another one of two."""
        ids = studio_ids(db)
        first, second = server.people
        only = studio.submit(ids[0], answer_result("tie"), completed_by=first)
        one = studio.submit(ids[2], answer_result("left_better"), completed_by=first)
        studio.submit(ids[2], answer_result("right_better"), completed_by=second)
        assert counted(sync(db, studio)) == {"votes": 3}
        for annotation in (only, one):
            studio.delete_annotation(annotation)
        assert counted(sync(db, studio)) == {"deletions": 2}
        assert current(db) == [(2, "vote", "b_better")]
        assert n_rows(db) == 5
        assert counted(sync(db, studio)) == {}

    def test_two_annotators_on_one_pair(self, server: Server, db: Database, studio: Studio) -> None:
        for person, grade in zip(server.people, ("left_better", "both_bad"), strict=True):
            studio.submit(studio_ids(db)[4], answer_result(grade), completed_by=person)
        assert counted(sync(db, studio)) == {"votes": 2}
        assert current(db) == [(4, "vote", "a_better"), (4, "vote", "both_bad")]
        votes = project_status(db)["votes"]
        assert (votes["votes"], votes["pairs_voted"], votes["annotators"]) == (2, 1, 2)

    def test_the_same_person_twice_counts_once(
        self, server: Server, db: Database, studio: Studio
    ) -> None:
        task_id, person = studio_ids(db)[0], server.people[0]
        studio.submit(task_id, answer_result("left_better"), completed_by=person)
        later = studio.submit(task_id, answer_result("tie"), completed_by=person)
        assert counted(sync(db, studio)) == {"votes": 2}
        assert current(db) == [(0, "vote", "tie")]
        studio.delete_annotation(later)
        sync(db, studio)
        assert current(db) == [(0, "vote", "a_better")]

    def test_of_two_projects(self, server: Server, db: Database, studio: Studio) -> None:
        pairs = db.execute(
            """SELECT a.id, b.id FROM responses a JOIN responses b
            ON a.prompt_id = b.prompt_id AND a.response_key < b.response_key
            WHERE (a.id, b.id) NOT IN (SELECT a_id, b_id FROM picks)"""
        ).fetchall()
        add_round(db, pairs[:3], overlap=2)
        push(db, studio)
        for task_id in (studio_ids(db)[0], studio_ids(db)[7]):
            studio.submit(task_id, answer_result("tie"), completed_by=server.people[0])
        assert counted(sync(db, studio)) == {"votes": 2}
        cursors = db.execute("SELECT cursor FROM projects").fetchall()
        assert len(cursors) == 2
        assert all(cursor for (cursor,) in cursors)


def upload(server: Server, db: Database, studio: Studio, data: dict[str, Any]) -> int:
    """The id of a task that did not come from us."""
    project = only_project(db, studio)
    texts = {"messages": [{"role": "User", "content": "?"}], "response_left": "l"}
    response = httpx.post(
        f"{server.url}/api/projects/{project.studio_id}/import",
        params={"return_task_ids": "true"},
        json=[{"data": texts | {"response_right": "r"} | data}],
        headers={"Authorization": f"Token {server.token}"},
        trust_env=False,
    )
    (task_id,) = response.raise_for_status().json()["task_ids"]
    return int(task_id)


GOOD = answer_result("tie")[0]
BROKEN = {
    "empty": [],
    "unknown choice": [GOOD | {"value": {"choices": ["left_best"]}}],
    "two choices": [GOOD | {"value": {"choices": ["tie", "both_bad"]}}],
    "no choice": [GOOD | {"value": {"choices": []}}],
    "two preferences": [GOOD, GOOD],
    "unknown control": [GOOD | {"from_name": "verdict"}],
    "other text": [GOOD | {"to_name": "right"}],
    "other type": [GOOD | {"type": "rating"}],
    "no value": [GOOD | {"value": {}}],
    "unknown beside known": [GOOD, GOOD | {"from_name": "more"}],
}


class TestRejected:
    @pytest.mark.parametrize("data", [{}, {"task_key": "unheard of"}, {"task_key": None}])
    def test_tasks_that_are_not_ours(
        self, server: Server, db: Database, studio: Studio, data: dict[str, Any]
    ) -> None:
        task_id = upload(server, db, studio, data)
        studio.submit(task_id, answer_result("tie"), completed_by=server.people[0])
        assert counted(sync(db, studio)) == {"rejected": 1}
        assert current(db) == []
        (listed,) = rejected_answers(db)
        assert (listed["studio_task_id"], listed["reason"]) == (
            task_id,
            "the task is not one of ours",
        )
        assert counted(sync(db, studio)) == {}

    def test_every_broken_answer_is_listed_and_none_counts(
        self, server: Server, db: Database, studio: Studio
    ) -> None:
        task_id = studio_ids(db)[3]
        made = {
            studio.submit(task_id, result, completed_by=server.people[0]): name
            for name, result in BROKEN.items()
        }
        good = studio.submit(task_id, answer_result("tie"), completed_by=server.people[1])
        assert counted(sync(db, studio)) == {"votes": 1, "rejected": len(BROKEN)}
        assert current(db) == [(3, "vote", "tie")]
        listed = rejected_answers(db)
        assert {row["annotation_id"] for row in listed} == set(made)
        assert good not in made
        assert all(row["reason"] and row["raw"] for row in listed)
        assert project_status(db)["votes"]["rejected"] == len(BROKEN)
        assert counted(sync(db, studio)) == {}

    def test_mended_counts_again(self, server: Server, db: Database, studio: Studio) -> None:
        made = studio.submit(studio_ids(db)[0], [], completed_by=server.people[0])
        sync(db, studio)
        assert len(rejected_answers(db)) == 1
        studio.edit_annotation(made, answer_result("left_better"))
        assert counted(sync(db, studio)) == {"edits": 1}
        assert current(db) == [(0, "vote", "a_better")]
        assert rejected_answers(db) == []

    def test_broken_by_an_edit_counts_no_more(
        self, server: Server, db: Database, studio: Studio
    ) -> None:
        made = studio.submit(studio_ids(db)[0], answer_result("tie"), completed_by=server.people[0])
        sync(db, studio)
        studio.edit_annotation(made, [])
        assert counted(sync(db, studio)) == {"rejected": 1}
        assert current(db) == []


class TestCursor:
    def test_it_stays_behind_the_servers_clock(
        self, server: Server, db: Database, studio: Studio
    ) -> None:
        before = studio.server_time()
        studio.submit(studio_ids(db)[0], answer_result("tie"), completed_by=server.people[0])
        sync(db, studio)
        after = studio.server_time()
        cursor = only_project(db, studio).cursor
        assert cursor is not None
        assert before is not None
        assert after is not None
        assert before - OVERLAP <= datetime.fromisoformat(cursor) <= after - OVERLAP

    def test_killed_between_two_transactions(
        self, server: Server, db: Database, studio: Studio, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sync_module, "TASKS_PER_TRANSACTION", 2)
        for task_id in studio_ids(db):
            studio.submit(task_id, answer_result("tie"), completed_by=server.people[0])

        def die(_: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            sync(db, studio, on_tasks=die)
        assert n_rows(db) == 2
        assert broken_invariants(db) == []
        assert counted(sync(db, studio)) == {"votes": 4}
        assert n_rows(db) == 6
        assert [place for place, _, _ in current(db)] == [0, 1, 2, 3, 4, 5]


@pytest.fixture
def fake() -> Iterator[FakeStudio]:
    with fake_studio() as server:
        yield server


@pytest.fixture
def faked(fake: FakeStudio, db: Database) -> Iterator[Studio]:
    with Studio(fake.url, fake.token) as opened:
        add_rounds(db, 6)
        push(db, opened)
        yield opened
        assert broken_invariants(db) == []


def backdate(fake: FakeStudio, annotation_id: int, moment: datetime) -> None:
    """As if the change had been stamped then and committed only now."""
    annotation = fake.annotations[annotation_id]
    stamp = moment.strftime(FORMAT)
    annotation["updated_at"] = fake.tasks[annotation["task"]]["updated_at"] = stamp


class TestLateChanges:
    def test_one_that_is_committed_late_still_comes_in(
        self, db: Database, fake: FakeStudio, faked: Studio
    ) -> None:
        """Its stamp lies before a change that was already seen."""
        ids = studio_ids(db)
        faked.submit(ids[0], answer_result("tie"))
        assert counted(sync(db, faked)) == {"votes": 1}
        late = faked.submit(ids[1], answer_result("both_bad"))
        backdate(fake, late, datetime.now(UTC) - LATE)
        assert counted(sync(db, faked)) == {"votes": 1}
        assert current(db) == [(0, "vote", "tie"), (1, "vote", "both_bad")]

    @pytest.mark.parametrize("days", [-3, 3])
    def test_only_the_servers_clock_matters(
        self,
        db: Database,
        fake: FakeStudio,
        faked: Studio,
        monkeypatch: pytest.MonkeyPatch,
        days: int,
    ) -> None:
        shift = timedelta(days=days)
        tick = FakeStudio.tick

        def shifted(self: FakeStudio) -> str:
            return (datetime.strptime(tick(self), FORMAT) + shift).strftime(FORMAT)

        def date(self: object, timestamp: float | None = None) -> str:
            moment = datetime.now(UTC) + shift
            return moment.strftime("%a, %d %b %Y %H:%M:%S GMT")

        monkeypatch.setattr(FakeStudio, "tick", shifted)
        monkeypatch.setattr(fake_module._Handler, "date_time_string", date)
        for task in fake.tasks.values():
            task["updated_at"] = fake.tick()
        ids = studio_ids(db)
        faked.submit(ids[0], answer_result("tie"))
        assert counted(sync(db, faked)) == {"votes": 1}
        cursor = only_project(db, faked).cursor
        assert cursor is not None
        behind = datetime.now(UTC) + shift - datetime.fromisoformat(cursor)
        assert OVERLAP <= behind < OVERLAP + timedelta(minutes=5)
        late = faked.submit(ids[1], answer_result("both_bad"))
        backdate(fake, late, datetime.now(UTC) + shift - LATE)
        assert counted(sync(db, faked)) == {"votes": 1}

    def test_a_server_that_tells_no_time(
        self, db: Database, fake: FakeStudio, faked: Studio, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            fake_module._Handler, "send_response", BaseHTTPRequestHandler.send_response_only
        )
        assert faked.server_time() is None
        ids = studio_ids(db)
        newest = fake.annotations[faked.submit(ids[0], answer_result("tie"))]["updated_at"]
        assert counted(sync(db, faked)) == {"votes": 1}
        cursor = only_project(db, faked).cursor
        assert cursor is not None
        assert datetime.fromisoformat(cursor) <= (
            datetime.strptime(newest, FORMAT).replace(tzinfo=UTC) - OVERLAP
        )
        late = faked.submit(ids[1], answer_result("both_bad"))
        backdate(fake, late, datetime.now(UTC) - LATE)
        assert counted(sync(db, faked)) == {"votes": 1}
        assert counted(sync(db, faked)) == {}

    def test_many_changes_in_one_microsecond_and_a_kill_among_them(
        self, db: Database, fake: FakeStudio, faked: Studio, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sync_module, "TASKS_PER_TRANSACTION", 2)
        long_ago = datetime.now(UTC) - timedelta(days=1)
        for task_id in studio_ids(db):
            backdate(fake, faked.submit(task_id, answer_result("tie")), long_ago)

        def die(_: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            sync(db, faked, on_tasks=die)
        sync(db, faked)
        assert [place for place, _, _ in current(db)] == [0, 1, 2, 3, 4, 5]
        assert n_rows(db) == 6

    def test_an_annotation_of_nobody(self, db: Database, fake: FakeStudio, faked: Studio) -> None:
        made = faked.submit(studio_ids(db)[0], answer_result("tie"))
        fake.annotations[made]["completed_by"] = None
        assert counted(sync(db, faked)) == {"rejected": 1}
        (listed,) = rejected_answers(db)
        assert listed["reason"] == "nobody is named as its annotator"
        fake.annotations[made]["completed_by"] = 2
        fake.tasks[studio_ids(db)[0]]["updated_at"] = fake.tick()
        assert counted(sync(db, faked)) == {"edits": 1}
        assert current(db) == [(0, "vote", "tie")]
        assert rejected_answers(db) == []

    def test_an_account_that_is_removed_leaves_its_votes(
        self, db: Database, fake: FakeStudio, faked: Studio
    ) -> None:
        task_id = studio_ids(db)[0]
        made = faked.submit(task_id, answer_result("tie"), completed_by=2)
        sync(db, faked)
        fake.annotations[made]["completed_by"] = None
        faked.submit(task_id, answer_result("left_better"), completed_by=3)
        assert counted(sync(db, faked)) == {"votes": 1}
        assert current(db) == [(0, "vote", "tie"), (0, "vote", "a_better")]

    def test_a_server_known_under_another_address(
        self, db: Database, fake: FakeStudio, faked: Studio
    ) -> None:
        for task_id in studio_ids(db)[:4]:
            faked.submit(task_id, answer_result("tie"), completed_by=2)
        sync(db, faked)
        with Studio(fake.url.replace("127.0.0.1", "localhost"), fake.token) as renamed:
            assert counted(sync(db, renamed)) == {}
            faked.submit(studio_ids(db)[5], answer_result("both_bad"), completed_by=2)
            assert counted(sync(db, renamed)) == {"votes": 1}
            assert len(projects_on(db, renamed.url)) == 1
            assert push(db, renamed).stored == 0
        assert db.execute("SELECT count(*) FROM annotators").fetchone() == (1,)
        assert db.execute("SELECT count(*) FROM projects").fetchone() == (1,)
        assert len(current(db)) == 5

    def test_a_project_that_is_gone_does_not_stop_the_others(
        self, db: Database, fake: FakeStudio, faked: Studio
    ) -> None:
        pairs = db.execute(
            """SELECT a.id, b.id FROM responses a JOIN responses b
            ON a.prompt_id = b.prompt_id AND a.response_key < b.response_key
            WHERE (a.id, b.id) NOT IN (SELECT a_id, b_id FROM picks)"""
        ).fetchall()
        add_round(db, pairs[:2], overlap=2)
        push(db, faked)
        first, second = projects_on(db, faked.url)
        faked.submit(studio_ids(db)[-1], answer_result("tie"), completed_by=2)
        faked.delete_project(first.studio_id)
        report = sync(db, faked)
        assert counted(report) == {"votes": 1}
        assert [str(first.studio_id) in error.found for error in report.missing] == [True]
        assert second.overlap == 2

    def test_a_late_copy_is_removed_by_the_next_sync(
        self, db: Database, fake: FakeStudio, faked: Studio
    ) -> None:
        project = projects_on(db, faked.url)[0]
        ids = studio_ids(db)
        data = dict(fake.tasks[ids[0]]["data"])
        faked.import_tasks(project.studio_id, [data])
        sync(db, faked)
        assert sorted(task for task in faked.all_task_keys(project.studio_id)) == sorted(ids)

    def test_tasks_that_are_not_ours_are_listed_once_and_then_expected(
        self, db: Database, faked: Studio, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        project = projects_on(db, faked.url)[0]
        foreign = {"task_key": "foreign", "messages": [], "response_left": "", "response_right": ""}
        faked.import_tasks(project.studio_id, [foreign])
        sync(db, faked)

        def no_listing(*_: object) -> dict[int, str]:
            raise AssertionError("everything was listed again")

        monkeypatch.setattr(faked, "all_task_keys", no_listing)
        sync(db, faked)

    def test_a_change_from_before_the_overlap_is_found_by_the_count(
        self, db: Database, fake: FakeStudio, faked: Studio
    ) -> None:
        task_id = studio_ids(db)[0]
        old = fake.tasks[task_id]["updated_at"]
        sync(db, faked)
        with db.conn:
            db.execute("UPDATE projects SET cursor = '2999-01-01T00:00:00.000000Z'")
        faked.submit(task_id, answer_result("tie"), completed_by=2)
        fake.tasks[task_id]["updated_at"] = old
        assert counted(sync(db, faked)) == {"votes": 1}

    def test_back_to_an_earlier_state(self, db: Database, fake: FakeStudio, faked: Studio) -> None:
        """The task's key is lost and put back; the annotation was never touched."""
        task = fake.tasks[studio_ids(db)[0]]
        faked.submit(task["id"], answer_result("tie"))
        for key in (task["data"]["task_key"], "lost", task["data"]["task_key"]):
            task["data"]["task_key"] = key
            task["updated_at"] = fake.tick()
            sync(db, faked)
        assert current(db) == [(0, "vote", "tie")]

    def test_a_deletion_while_pages_are_read(
        self, db: Database, fake: FakeStudio, faked: Studio, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The same pass sees the task twice, or the next one sees it."""
        monkeypatch.setattr("annotator.studio.client.FIRST_PAGE", 2)
        monkeypatch.setattr("annotator.studio.client.LARGEST_PAGE", 2)
        made = [faked.submit(task_id, answer_result("tie")) for task_id in studio_ids(db)]
        with Studio(fake.url, fake.token) as other:
            fake.faults.between_pages = lambda: other.delete_annotation(made[0])
            sync(db, faked)
        sync(db, faked)
        assert [place for place, _, _ in current(db)] == [1, 2, 3, 4, 5]


CHILD = """
import sys
from pathlib import Path

from annotator.rounds import sync as module
from annotator.store import open_db
from annotator.studio.client import Studio

module.TASKS_PER_TRANSACTION = 3
path, url, token = sys.argv[1:]
db = open_db(Path(path))
with Studio(url, token) as studio:
    studio.whoami()
    print("ready", flush=True)
    sys.stdin.readline()
    print(module.sync(db, studio).counts.total, flush=True)
"""


class TestAtTheSameTime:
    def test_two_processes(
        self, db: Database, fake: FakeStudio, faked: Studio, tmp_path: Path
    ) -> None:
        fake.faults.latency = 0.02
        made = [
            faked.submit(task_id, answer_result("tie"), completed_by=person)
            for task_id in studio_ids(db)
            for person in (1, 2, 3)
        ]
        command = [sys.executable, "-c", CHILD, str(tmp_path / "annotator.db"), fake.url]
        children = [
            Popen([*command, fake.token], stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True)
            for _ in range(2)
        ]
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        spoken = [child.communicate("go\n", timeout=60) for child in children]
        assert [child.returncode for child in children] == [0, 0], spoken
        assert sum(int(said) for said, _ in spoken) == len(made)
        rows = db.execute("SELECT annotation_id FROM votes ORDER BY annotation_id").fetchall()
        assert [row[0] for row in rows] == sorted(made)

    def test_what_was_read_earlier_is_not_written_later(
        self,
        db: Database,
        fake: FakeStudio,
        faked: Studio,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """One pass reads, an annotation changes, another pass starts before the first writes."""
        made = faked.submit(studio_ids(db)[0], answer_result("left_better"))
        changed_tasks = Studio.changed_tasks

        def other_pass() -> None:
            own = open_db(tmp_path / "annotator.db")
            with Studio(fake.url, fake.token) as studio:
                sync(own, studio)
            own.close()

        other = threading.Thread(target=other_pass)

        def overtaken(
            self: Studio, project_id: int, since: str | None = None
        ) -> Iterator[ChangedTask]:
            monkeypatch.setattr(Studio, "changed_tasks", changed_tasks)
            tasks = list(changed_tasks(self, project_id, since))
            faked.edit_annotation(made, answer_result("right_better"))
            other.start()
            other.join(1.0)
            return iter(tasks)

        monkeypatch.setattr(Studio, "changed_tasks", overtaken)
        sync(db, faked)
        other.join(30.0)
        assert not other.is_alive()
        assert current(db) == [(0, "vote", "b_better")]
