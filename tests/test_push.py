"""What reaches Label Studio, and what becomes of it when a push fails half-way."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlite_utils import Database

from annotator.doctor import broken_invariants
from annotator.errors import StudioError, StudioFailed, StudioNotFound, StudioUnreachable
from annotator.rounds.batch import push_waiting
from annotator.rounds.servers import forget_project
from annotator.rounds.sync import sync
from annotator.status import project_status
from annotator.store import open_db, writing
from annotator.studio import outbox, projects
from annotator.studio.client import ProjectInfo, Studio
from annotator.studio.outbox import ask_for_votes, untold_raises
from annotator.studio.projects import projects_on
from annotator.studio.screen import answer_result, config_xml
from tests import fake_studio as fake_module
from tests.fake_studio import FakeStudio, fake_studio
from tests.pushed_world import (
    BOTH_SERVERS,
    Server,
    add_rounds,
    all_pairs,
    be_impatient,
    only_project,
    push,
    remove_projects,
    server_named,
    studio_ids,
    task_keys,
    task_states,
    tasks_there,
)
from tests.small_world import add_prompt, add_round


@pytest.fixture(scope="module", params=BOTH_SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with server_named(request.param, request) as named:
        yield named


@pytest.fixture
def studio(server: Server, db: Database) -> Iterator[Studio]:
    with Studio(server.url, server.token) as opened:
        yield opened
        remove_projects(db, opened)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    be_impatient(monkeypatch)


def data_there(server: Server, db: Database, studio: Studio) -> list[dict[str, Any]]:
    return [task["data"] for task in tasks_there(server, only_project(db, studio))]


def copy_by_hand(server: Server, db: Database, studio: Studio, place: int) -> int:
    """The id of a second task with the same key, as somebody's upload would make it."""
    project = only_project(db, studio)
    key = task_keys(db)[place]
    data = next(one for one in data_there(server, db, studio) if one["task_key"] == key)
    ids = studio.import_tasks(project.studio_id, [data])
    assert ids is not None
    return ids[0]


class TestArrival:
    def test_everything_once_in_the_order_of_places(
        self, server: Server, db: Database, studio: Studio, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(outbox, "TASKS_PER_IMPORT", 3)
        add_rounds(db, 8)
        report = push(db, studio)
        assert (report.stored, report.found, report.removed, report.gone) == (8, 0, 0, 0)
        there = tasks_there(server, only_project(db, studio))
        assert [task["data"]["task_key"] for task in there] == task_keys(db)
        assert [task["id"] for task in there] == studio_ids(db)
        assert task_states(db) == {"swept": 8}
        assert broken_invariants(db) == []

    def test_the_places_decide_and_not_the_order_of_rows(
        self, server: Server, db: Database, studio: Studio
    ) -> None:
        add_rounds(db, 5)
        db.execute("UPDATE picks SET place = 100 - place")
        push(db, studio)
        keys = [data["task_key"] for data in data_there(server, db, studio)]
        assert keys == task_keys(db)
        by_row = db.execute("SELECT task_key FROM tasks ORDER BY id").fetchall()
        assert keys == [key for (key,) in reversed(by_row)]

    def test_the_annotator_stays_blind(self, server: Server, db: Database, studio: Studio) -> None:
        add_rounds(db, 6)
        push(db, studio)
        for data in data_there(server, db, studio):
            assert set(data) == {"task_key", "messages", "response_left", "response_right"}
            shown = str([data["messages"], data["response_left"], data["response_right"]])
            assert not any(word in shown for word in ("model of", "real-easy", "control"))

    def test_each_response_on_its_side(self, server: Server, db: Database, studio: Studio) -> None:
        texts = ["the first answer", "the second answer", "the third answer"]
        ids = add_prompt(db, [{"role": "user", "content": "which?"}], texts)
        add_round(db, [(ids[0], ids[1]), (ids[0], ids[2]), (ids[1], ids[2])])
        push(db, studio)
        text = dict(db.execute("SELECT id, text FROM responses").fetchall())
        # add_round turns every second pair round.
        assert [
            (data["response_left"], data["response_right"])
            for data in data_there(server, db, studio)
        ] == [
            (text[ids[0]], text[ids[1]]),
            (text[ids[2]], text[ids[0]]),
            (text[ids[1]], text[ids[2]]),
        ]
        messages = [data["messages"] for data in data_there(server, db, studio)]
        assert messages == [[{"role": "User", "content": "which?"}]] * 3

    def test_a_second_push_sends_nothing(
        self, server: Server, db: Database, studio: Studio
    ) -> None:
        add_rounds(db, 4)
        push(db, studio)
        before = tasks_there(server, only_project(db, studio))
        report = push(db, studio)
        assert (report.stored, report.found) == (0, 0)
        assert tasks_there(server, only_project(db, studio)) == before
        attempts = db.execute("SELECT DISTINCT attempts FROM tasks").fetchall()
        assert attempts == [(1,)]

    def test_a_second_round_joins_the_first(
        self, server: Server, db: Database, studio: Studio
    ) -> None:
        pairs = all_pairs(db)
        add_round(db, pairs[:3])
        push(db, studio)
        add_round(db, pairs[3:8])
        assert push(db, studio).stored == 5
        keys = [data["task_key"] for data in data_there(server, db, studio)]
        assert keys == task_keys(db)
        assert task_states(db) == {"swept": 8}

    def test_another_overlap_is_another_project(self, db: Database, studio: Studio) -> None:
        pairs = all_pairs(db)
        add_round(db, pairs[:3], overlap=2)
        add_round(db, pairs[3:5])
        add_round(db, pairs[5:9], overlap=2)
        assert push(db, studio).stored == 9
        made = {project.overlap: project.studio_id for project in projects_on(db, studio.url)}
        assert set(made) == {1, 2}
        assert [studio.project(made[overlap]).overlap for overlap in (1, 2)] == [1, 2]
        keys = task_keys(db)
        assert list(studio.all_task_keys(made[1]).values()) == keys[3:5]
        assert list(studio.all_task_keys(made[2]).values()) == keys[:3] + keys[5:]
        assert task_states(db) == {"swept": 9}


class TestProject:
    def test_made_without_our_learning_of_it(
        self, db: Database, studio: Studio, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        create = Studio.create_project
        made: list[int] = []

        def answer_is_lost(self: Studio, **settings: Any) -> ProjectInfo:
            made.append(create(self, **settings).id)
            raise StudioUnreachable("the connection was lost")

        add_rounds(db, 3)
        with monkeypatch.context() as patched:
            patched.setattr(Studio, "create_project", answer_is_lost)
            with pytest.raises(StudioUnreachable):
                push(db, studio)
        assert projects_on(db, studio.url) == []
        assert task_states(db) == {"pending": 3}
        push(db, studio)
        assert [only_project(db, studio).studio_id] == made
        assert task_states(db) == {"swept": 3}

    def test_deleted_on_the_server(self, db: Database, studio: Studio) -> None:
        pairs = all_pairs(db)
        add_round(db, pairs[:3])
        push(db, studio)
        studio.delete_project(only_project(db, studio).studio_id)
        add_round(db, pairs[3:5])
        with pytest.raises(StudioNotFound, match="is gone") as caught:
            push(db, studio)
        assert "restore the server's data" in caught.value.todo
        (missing,) = sync(db, studio).missing
        assert "is gone" in missing.found
        assert task_states(db) == {"swept": 3, "pending": 2}
        lost = only_project(db, studio).studio_id
        assert f"--forget {lost}" in missing.todo
        assert forget_project(db, studio, lost) == 3
        push(db, studio)
        assert task_states(db) == {"gone": 3, "swept": 2}
        assert sync(db, studio).missing == []
        assert broken_invariants(db) == []

    def test_another_project_that_took_its_id_after_a_wipe(
        self, db: Database, studio: Studio
    ) -> None:
        pairs = all_pairs(db)
        add_round(db, pairs[:3])
        push(db, studio)
        other = studio.create_project("Somebody's", "annotator:somebody", config_xml(), 1)
        try:
            db.execute("UPDATE projects SET studio_id = ?", [other.id])
            add_round(db, pairs[3:5])
            with pytest.raises(StudioNotFound, match="is gone"):
                push(db, studio)
            assert studio.all_task_keys(other.id) == {}
        finally:
            studio.delete_project(other.id)


class TestSweep:
    def test_copies_that_nobody_answered_are_removed(
        self, server: Server, db: Database, studio: Studio
    ) -> None:
        pairs = all_pairs(db)
        add_round(db, pairs[:4])
        push(db, studio)
        kept = studio_ids(db)
        for place in (1, 1, 3):
            copy_by_hand(server, db, studio, place)
        add_round(db, pairs[4:6])
        report = push(db, studio)
        assert report.removed == 3
        assert [task["id"] for task in tasks_there(server, only_project(db, studio))] == [
            *kept,
            *studio_ids(db)[4:],
        ]
        assert task_states(db) == {"swept": 6}

    def test_the_answered_copy_stays(self, server: Server, db: Database, studio: Studio) -> None:
        pairs = all_pairs(db)
        add_round(db, pairs[:3])
        push(db, studio)
        copy = copy_by_hand(server, db, studio, 1)
        studio.submit(copy, answer_result("left_better"), completed_by=server.people[0])
        add_round(db, pairs[3:4])
        assert push(db, studio).removed == 1
        assert studio_ids(db)[1] == copy
        assert sorted(studio.all_task_keys(only_project(db, studio).studio_id)) == sorted(
            studio_ids(db)
        )
        assert sync(db, studio).counts.votes == 1
        assert broken_invariants(db) == []

    def test_two_answered_copies_are_a_persons_matter(
        self, server: Server, db: Database, studio: Studio
    ) -> None:
        pairs = all_pairs(db)
        add_round(db, pairs[:3])
        push(db, studio)
        first, copy = studio_ids(db)[2], copy_by_hand(server, db, studio, 2)
        for person, task_id in zip(server.people, (first, copy), strict=True):
            studio.submit(task_id, answer_result("tie"), completed_by=person)
        add_round(db, pairs[3:4])
        report = push(db, studio)
        key = task_keys(db)[2]
        assert (report.conflicts, report.removed) == ([key], 0)
        assert task_states(db) == {"swept": 3, "conflict": 1}
        assert project_status(db)["conflicts"] == [(key, f"also answered as tasks [{copy}]")]
        # Both people answered the same pair, and both answers are kept.
        assert sync(db, studio).counts.votes == 2
        # The person has decided.
        studio.delete_tasks(only_project(db, studio).studio_id, [first])
        add_round(db, pairs[4:5])
        push(db, studio)
        assert task_states(db) == {"swept": 5}
        assert studio_ids(db)[2] == copy
        assert project_status(db)["conflicts"] == []
        assert broken_invariants(db) == []

    def test_a_task_that_was_deleted_is_gone_and_its_votes_stay(
        self, server: Server, db: Database, studio: Studio
    ) -> None:
        pairs = all_pairs(db)
        add_round(db, pairs[:4])
        push(db, studio)
        task_id = studio_ids(db)[1]
        studio.submit(task_id, answer_result("right_better"), completed_by=server.people[0])
        sync(db, studio)
        studio.delete_tasks(only_project(db, studio).studio_id, [task_id])
        add_round(db, pairs[4:5])
        assert push(db, studio).gone == 1
        assert task_states(db) == {"swept": 4, "gone": 1}
        assert project_status(db)["votes"]["votes"] == 1
        report = push(db, studio)
        assert (report.stored, report.gone) == (0, 0)
        assert broken_invariants(db) == []

    def test_killed_between_storing_and_sweeping(
        self, server: Server, db: Database, studio: Studio, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*_: object) -> int:
            raise StudioFailed("no answer")

        add_rounds(db, 4)
        with monkeypatch.context() as patched:
            patched.setattr(outbox, "check_present", fails)
            with pytest.raises(StudioFailed):
                push(db, studio)
        assert task_states(db) == {"stored": 4}
        copy_by_hand(server, db, studio, 0)
        assert push(db, studio).removed == 1
        assert task_states(db) == {"swept": 4}


def ask(db: Database, **overlaps: int) -> None:
    """Asks for so many votes on the pick at that place, as in `place_3=2`."""
    picks = dict(db.execute("SELECT place, id FROM picks").fetchall())
    with writing(db):
        ask_for_votes(
            db, {picks[int(name.removeprefix("place_"))]: n for name, n in overlaps.items()}
        )


def told(db: Database) -> list[tuple[int | None, int | None]]:
    """(votes wanted, votes told) of every task in the order of places."""
    query = """SELECT t.overlap, t.overlap_told FROM tasks t JOIN picks p ON p.id = t.pick_id
        ORDER BY p.round_id, p.place"""
    return list(db.execute(query))


def still_open(server: Server, db: Database, studio: Studio) -> list[str]:
    """Keys of the tasks that somebody who has answered none of them would be offered."""
    project = only_project(db, studio)
    keys = []
    while (task := studio.next_task(project.studio_id)) is not None:
        assert task.key is not None
        keys.append(task.key)
        studio.submit(task.id, answer_result("tie"))
    return keys


class TestRaises:
    @pytest.fixture
    def answered(self, server: Server, db: Database, studio: Studio) -> list[str]:
        """Keys of five tasks that one person has answered."""
        add_rounds(db, 5)
        push(db, studio)
        for task_id in studio_ids(db):
            studio.submit(task_id, answer_result("tie"), completed_by=server.people[0])
        return task_keys(db)

    def test_told_once_and_the_task_is_open_again(
        self, server: Server, db: Database, studio: Studio, answered: list[str]
    ) -> None:
        ask(db, place_1=2, place_4=3)
        assert untold_raises(db) == untold_raises(db, studio.url) == 2
        assert untold_raises(db, "http://elsewhere") == 0
        assert project_status(db)["next"] == "annotator next-batch --resume"
        ids = studio_ids(db)
        report = push(db, studio)
        assert (report.raised, report.stored, report.gone) == (2, 0, 0)
        assert told(db) == [(None, None), (2, 2), (None, None), (None, None), (3, 3)]
        assert (untold_raises(db), push(db, studio).raised) == (0, 0)
        # The same tasks, and the sync takes note of the change and of nothing in it.
        assert studio_ids(db) == ids
        assert sync(db, studio).counts.votes == 5
        assert still_open(server, db, studio) == [answered[1], answered[4]]
        assert sync(db, studio).counts.votes == 2
        assert task_states(db) == {"swept": 5}
        assert broken_invariants(db) == []

    def test_what_was_asked_is_never_taken_back(self, db: Database, studio: Studio) -> None:
        add_rounds(db, 2)
        ask(db, place_0=4)
        ask(db, place_0=3)
        push(db, studio)
        ask(db, place_0=2)
        assert told(db) == [(4, 4), (None, None)]

    def test_a_task_that_has_not_arrived_is_told_when_it_has(
        self, db: Database, studio: Studio
    ) -> None:
        add_rounds(db, 2)
        ask(db, place_1=3)
        assert untold_raises(db) == 0
        report = push(db, studio)
        assert (report.stored, report.raised) == (2, 1)
        assert told(db) == [(None, None), (3, 3)]

    def test_told_together_with_a_new_round(
        self, server: Server, db: Database, studio: Studio
    ) -> None:
        pairs = all_pairs(db)
        add_round(db, pairs[:2])
        push(db, studio)
        for task_id in studio_ids(db):
            studio.submit(task_id, answer_result("tie"), completed_by=server.people[0])
        add_round(db, pairs[2:4])
        db.execute("UPDATE tasks SET overlap = 2 WHERE id = 1")
        seen: list[int] = []
        report = push_waiting(db, studio, "A", grace_seconds=0.3, on_stored=seen.append)
        assert (report.stored, report.raised, sum(seen)) == (2, 1, 3)
        keys = task_keys(db)
        assert still_open(server, db, studio) == [keys[0], *keys[2:]]

    def test_a_task_that_was_deleted_is_gone_and_the_others_are_told(
        self, server: Server, db: Database, studio: Studio, answered: list[str]
    ) -> None:
        project = only_project(db, studio)
        studio.delete_tasks(project.studio_id, [studio_ids(db)[1]])
        ask(db, place_0=2, place_1=2, place_3=2)
        report = push(db, studio)
        assert (report.raised, report.gone) == (2, 1)
        assert task_states(db) == {"swept": 4, "gone": 1}
        assert (untold_raises(db), push(db, studio).gone) == (0, 0)
        assert outbox.expected_count(db, project) == studio.project(project.studio_id).n_tasks
        assert still_open(server, db, studio) == [answered[0], answered[3]]
        assert broken_invariants(db) == []

    def test_a_copy_that_takes_the_tasks_place_is_told_too(
        self, server: Server, db: Database, studio: Studio
    ) -> None:
        """The sweep may keep another task than the one that was told."""
        pairs = all_pairs(db)
        add_round(db, pairs[:3])
        push(db, studio)
        ask(db, place_1=2)
        push(db, studio)
        copy = copy_by_hand(server, db, studio, 1)
        studio.submit(copy, answer_result("left_better"), completed_by=server.people[0])
        add_round(db, pairs[3:4])
        report = push(db, studio)
        assert (report.removed, report.raised) == (1, 1)
        assert studio_ids(db)[1] == copy
        assert task_keys(db)[1] in still_open(server, db, studio)

    def test_after_a_wipe_nobody_elses_task_is_touched(
        self, server: Server, db: Database, studio: Studio, answered: list[str]
    ) -> None:
        other = studio.create_project("Somebody's", "annotator:somebody", config_xml(), 1)
        try:
            db.execute("UPDATE projects SET studio_id = ?", [other.id])
            ask(db, place_1=2)
            with pytest.raises(StudioNotFound, match="is gone"):
                push(db, studio)
            assert told(db)[1] == (2, None)
        finally:
            studio.delete_project(other.id)

    def test_killed_after_the_server_was_told(
        self,
        server: Server,
        db: Database,
        studio: Studio,
        answered: list[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """It is told again, after the vote that it asked for has come."""

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        ask(db, place_2=2)
        with monkeypatch.context() as patched:
            patched.setattr(outbox, "_mark_told", killed)
            with pytest.raises(KeyboardInterrupt):
                push(db, studio)
        assert told(db)[2] == (2, None)
        task_id = studio_ids(db)[2]
        studio.submit(task_id, answer_result("tie"), completed_by=server.people[1])
        assert push(db, studio).raised == 1
        assert still_open(server, db, studio) == []


@pytest.fixture
def fake() -> Iterator[FakeStudio]:
    with fake_studio() as server:
        yield server


@pytest.fixture
def faked(fake: FakeStudio) -> Iterator[Studio]:
    with Studio(fake.url, fake.token) as opened:
        yield opened


@pytest.fixture
def ever_stored(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the fake server has stored each key, whatever was deleted since."""
    stored: Counter[str] = Counter()
    store = fake_module._store

    def counting(studio: FakeStudio, call: fake_module.Call) -> dict[str, Any]:
        answer = store(studio, call)
        stored.update(row["data"]["task_key"] for row in call.body)
        return answer

    monkeypatch.setattr(fake_module, "_store", counting)
    return stored


def push_until_done(db: Database, studio: Studio, grace_seconds: float) -> list[type]:
    """The errors on the way."""
    failures: list[type] = []
    for _ in range(6):
        try:
            push(db, studio, grace_seconds)
        except StudioError as error:
            failures.append(type(error))
            assert broken_invariants(db) == []
        else:
            return failures
    raise AssertionError(f"never done: {failures}")


GRACE = 1.0


class TestFaults:
    @pytest.mark.parametrize(
        ("fault", "times", "n_failures"),
        [
            ("fail_after_storing", 1, 1),
            ("fail_after_storing", 2, 2),
            ("cut_before_storing", 1, 1),
            ("cut_before_storing", 2, 2),
            ("cut_after_storing", 2, 2),
            ("asynchronous_imports", True, 0),
            ("tells_no_ids", True, 0),
        ],
    )
    def test_each_key_is_stored_once(
        self,
        db: Database,
        fake: FakeStudio,
        faked: Studio,
        ever_stored: Counter[str],
        monkeypatch: pytest.MonkeyPatch,
        fault: str,
        times: int,
        n_failures: int,
    ) -> None:
        monkeypatch.setattr(outbox, "TASKS_PER_IMPORT", 3)
        add_rounds(db, 4, 4)
        setattr(fake.faults, fault, times)
        assert len(push_until_done(db, faked, GRACE)) == n_failures
        assert ever_stored == Counter(task_keys(db))
        assert sorted(faked.all_task_keys(only_project(db, faked).studio_id).values()) == sorted(
            task_keys(db)
        )
        assert task_states(db) == {"swept": 8}
        assert broken_invariants(db) == []

    def test_ids_told_neither_now_nor_later(
        self, db: Database, fake: FakeStudio, faked: Studio, ever_stored: Counter[str]
    ) -> None:
        fake.faults.asynchronous_imports = fake.faults.tells_no_ids = True
        add_rounds(db, 5)
        push(db, faked)
        assert ever_stored == Counter(task_keys(db))
        assert studio_ids(db) == list(faked.all_task_keys(only_project(db, faked).studio_id))
        assert task_states(db) == {"swept": 5}

    def test_a_server_that_stores_after_we_gave_up(
        self,
        db: Database,
        fake: FakeStudio,
        faked: Studio,
        ever_stored: Counter[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The look-up finds nothing at first, since the first request is still running."""
        fake.faults.store_delay = 0.6
        add_rounds(db, 5)
        with monkeypatch.context() as patched:
            patched.setattr("annotator.studio.client.WRITE_SECONDS", 0.1)
            with pytest.raises(StudioUnreachable):
                push(db, faked)
        assert ever_stored == {}
        assert task_states(db) == {"sent": 5}
        report = push(db, faked, 5.0)
        assert (report.found, report.stored) == (5, 0)
        assert ever_stored == Counter(task_keys(db))
        assert task_states(db) == {"swept": 5}

    def test_a_server_that_stores_after_the_grace_period_is_swept(
        self,
        db: Database,
        fake: FakeStudio,
        faked: Studio,
        ever_stored: Counter[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A grace period chosen too short makes copies; the next push removes them."""
        pairs = all_pairs(db)
        add_round(db, pairs[:5])
        fake.faults.store_delay = 1.0
        with monkeypatch.context() as patched:
            patched.setattr("annotator.studio.client.WRITE_SECONDS", 0.1)
            with pytest.raises(StudioUnreachable):
                push(db, faked)
        fake.faults.store_delay = 0.0
        push(db, faked, 0.01)
        while ever_stored.total() < 10:
            time.sleep(0.02)
        add_round(db, pairs[5:6])
        assert push(db, faked).removed == 5
        there = faked.all_task_keys(only_project(db, faked).studio_id)
        assert sorted(there) == sorted(studio_ids(db))
        assert sorted(there.values()) == sorted(task_keys(db))

    def test_nothing_is_sent_again_before_the_grace_period_is_over(
        self, db: Database, fake: FakeStudio, faked: Studio
    ) -> None:
        add_rounds(db, 2)
        fake.faults.cut_before_storing = 1
        with pytest.raises(StudioUnreachable):
            push(db, faked, GRACE)
        first = sent_at(db)
        push(db, faked, GRACE)
        assert sent_at(db) - first >= timedelta(seconds=GRACE)
        assert db.execute("SELECT DISTINCT attempts FROM tasks").fetchall() == [(2,)]

    @pytest.mark.parametrize("arrived", [True, False])
    def test_a_clock_that_went_back(
        self, db: Database, fake: FakeStudio, faked: Studio, arrived: bool
    ) -> None:
        add_rounds(db, 2)
        setattr(fake.faults, "cut_after_storing" if arrived else "cut_before_storing", 1)
        with pytest.raises(StudioUnreachable):
            push(db, faked)
        future = (datetime.now(UTC) + timedelta(days=3)).isoformat(timespec="microseconds")
        db.execute("UPDATE tasks SET sent_at = ?", [future])
        report = push(db, faked, 0.3)
        assert (report.found, report.stored) == ((2, 0) if arrived else (0, 2))
        assert task_states(db) == {"swept": 2}

    def test_a_server_that_is_down(self, db: Database, tmp_path: Path) -> None:
        add_rounds(db, 5)
        with fake_studio() as stopped:
            port = int(stopped.url.rpartition(":")[2])
            with Studio(stopped.url, stopped.token) as studio:
                projects.ensure_project(db, studio, "Before", 1)
        with Studio(stopped.url, stopped.token) as studio, pytest.raises(StudioUnreachable):
            push(db, studio)
        assert task_states(db) == {"pending": 5}
        with fake_studio(port) as again, Studio(again.url, again.token) as studio:
            again.projects, again._last_id = stopped.projects, stopped._last_id
            push(db, studio)
            assert list(again.tasks) == studio_ids(db)
        assert task_states(db) == {"swept": 5}

    def test_a_server_that_dies_between_two_imports(
        self, db: Database, fake: FakeStudio, faked: Studio, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(outbox, "TASKS_PER_IMPORT", 2)
        add_rounds(db, 5)

        def die(_: int) -> None:
            fake.faults.cut_before_storing = 9

        with pytest.raises(StudioUnreachable):
            outbox_push(db, faked, die)
        assert task_states(db) == {"stored": 2, "sent": 2, "pending": 1}
        assert broken_invariants(db) == []
        fake.faults.cut_before_storing = 0
        report = push(db, faked)
        assert report.stored == 3
        assert [task["data"]["task_key"] for task in fake.tasks.values()] == task_keys(db)
        assert task_states(db) == {"swept": 5}

    def test_a_server_that_fails_among_the_raises(
        self, db: Database, fake: FakeStudio, faked: Studio
    ) -> None:
        """What was confirmed is recorded, the rest is told by the next push."""
        pairs = all_pairs(db, [8])
        add_round(db, pairs)
        push(db, faked)
        with writing(db):
            ask_for_votes(db, {pick_id: 2 for pick_id in range(1, 29)})

        def die(_: int) -> None:
            fake.faults.failing_changes = 999

        with pytest.raises(StudioFailed):
            outbox_push(db, faked, die)
        assert untold_raises(db) == 20
        assert sum(task["overlap"] == 2 for task in fake.tasks.values()) == 8
        # That it is dead is found out after a few requests, not after all of them.
        assert fake.count("PATCH /api/tasks/") == 8 + 8 * 3
        fake.faults.failing_changes = 0
        assert push(db, faked).raised == 20
        assert {task["overlap"] for task in fake.tasks.values()} == {2}
        assert broken_invariants(db) == []

    def test_a_connection_that_is_cut_after_the_server_took_note(
        self, db: Database, fake: FakeStudio, faked: Studio
    ) -> None:
        add_rounds(db, 3)
        push(db, faked)
        ask(db, place_1=2)
        fake.faults.cut_after_changing = 1
        with pytest.raises(StudioUnreachable):
            push(db, faked)
        assert told(db)[1] == (2, None)
        assert [task["overlap"] for task in fake.tasks.values()] == [1, 2, 1]
        assert push(db, faked).raised == 1
        assert told(db)[1] == (2, 2)

    def test_a_copy_of_the_database_finds_the_same_project(
        self, db: Database, fake: FakeStudio, faked: Studio, tmp_path: Path
    ) -> None:
        """A backup from before the push, restored afterwards, sends nothing twice."""
        add_rounds(db, 3)
        db.execute("VACUUM INTO ?", [str(tmp_path / "backup.db")])
        push(db, faked)
        restored = open_db(tmp_path / "backup.db")
        try:
            push(restored, faked)
            assert len(faked.all_task_keys(only_project(db, faked).studio_id)) == 3
            assert task_states(restored) == {"swept": 3}
        finally:
            restored.close()


def outbox_push(db: Database, studio: Studio, on_stored: Any) -> None:
    push_waiting(db, studio, "A test's pairs", grace_seconds=0.3, on_stored=on_stored)


def sent_at(db: Database) -> datetime:
    (moment,) = db.execute("SELECT max(sent_at) FROM tasks").fetchone()
    return datetime.fromisoformat(moment)
