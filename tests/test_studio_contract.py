"""One contract for the client, held against the fake server and against a real Label Studio.

What both servers do is tested on both, so that the fake cannot drift. Faults are the fake's alone.
"""

from __future__ import annotations

import json
import secrets
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import httpx
import pytest

from annotator.errors import (
    AnnotatorError,
    ConfigError,
    StudioDenied,
    StudioError,
    StudioFailed,
    StudioNotFound,
    StudioRejected,
    StudioUnreachable,
)
from annotator.studio import client
from annotator.studio.client import ProjectInfo, Studio
from annotator.studio.screen import answer_result, config_xml, read_answer, task_data
from tests.fake_studio import FakeStudio, fake_studio

HOSTILE = (
    "<script>alert(1)</script> <img src=x onerror=alert(2)> ![i](http://127.0.0.1:9/i.png)\r\n"
    "$response_right {{7*7}} \r\t"
    '%s \\u0041 "quotes" \u05d0\u200f 日本語 🇦🇶 \u2028 \x01\x7f &amp; \'; DROP'
)


# The SDK reads the answer to a token refresh in a way that pydantic has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:The `parse_obj` method:DeprecationWarning")


class Server(NamedTuple):
    url: str
    token: str
    personal_token: str
    other_person: int
    annotators: tuple[str, ...]  # their tokens


@pytest.fixture(scope="module", params=["fake", pytest.param("real", marks=pytest.mark.studio)])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    if request.param == "real":
        real = request.getfixturevalue("real_studio")
        annotator = real.annotators[-1]
        made = httpx.post(
            f"{real.url}/api/token/",
            headers={"Authorization": f"Token {annotator.token}"},
            trust_env=False,
        )
        personal_token = made.raise_for_status().json()["token"]
        tokens = tuple(one.token for one in real.annotators)
        yield Server(real.url, real.token, personal_token, annotator.user_id, tokens)
        return
    with fake_studio() as fake:
        tokens = (fake.token_of(2), fake.token_of(3))
        yield Server(fake.url, fake.token, fake.personal_token, 2, tokens)


@pytest.fixture
def studio(server: Server) -> Iterator[Studio]:
    with Studio(server.url, server.token) as opened:
        yield opened


def new_mark() -> str:
    return f"annotator:test:{secrets.token_hex(6)}"


@pytest.fixture
def project(studio: Studio) -> Iterator[ProjectInfo]:
    made = studio.create_project("A contract", new_mark(), config_xml(), 2)
    yield made
    studio.delete_project(made.id)


def tasks(n: int, first: int = 0) -> list[dict[str, Any]]:
    messages = [{"role": "user", "content": "Which one?"}]
    return [task_data(f"key-{i}", messages, f"left {i}", "right") for i in range(first, first + n)]


def small_pages(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(client, "FIRST_PAGE", size)
    monkeypatch.setattr(client, "LARGEST_PAGE", size)


class TestServer:
    def test_what_it_is(self, studio: Studio) -> None:
        found = studio.server()
        assert found.version.split(".")[0] == "1"
        assert found.edition == "Community"
        assert found.token_kind == "legacy"

    def test_its_clock(self, studio: Studio) -> None:
        # The contract's servers run on this machine.
        told = studio.server_time()
        assert told is not None
        assert abs(datetime.now(UTC) - told) < timedelta(minutes=1)

    def test_who_is_there(self, studio: Studio, server: Server) -> None:
        me = studio.whoami()
        people = {person.id: person for person in studio.people()}
        assert people[me.id] == me
        assert "@" in me.email
        assert me.name
        assert server.other_person in people

    def test_a_personal_token_works_as_well(self, server: Server) -> None:
        with Studio(server.url, server.personal_token) as studio:
            assert studio.whoami().id
            assert studio.server().token_kind == "personal"

    @pytest.mark.parametrize("token", ["0" * 40, "e" * 9])
    def test_a_bad_token_is_denied(self, server: Server, token: str) -> None:
        with Studio(server.url, token) as studio, pytest.raises(StudioDenied) as caught:
            studio.whoami()
        assert "LABEL_STUDIO_API_KEY" in caught.value.todo

    def test_a_bad_personal_token_is_denied(self, server: Server) -> None:
        head, claims, _ = server.personal_token.split(".")
        with (
            Studio(server.url, f"{head}.{claims}.Zm9yZ2Vk") as studio,
            pytest.raises(StudioDenied),
        ):
            studio.whoami()


class TestProjects:
    def test_made_and_found_again(self, studio: Studio) -> None:
        mark = new_mark()
        assert studio.find_project(mark) is None
        made = studio.create_project("A title " * 20, mark, config_xml(), 3)
        try:
            assert made.overlap == 3
            assert made.n_tasks == made.n_annotations == made.n_skips == 0
            assert made.config_xml == config_xml()
            assert made.title == ("A title " * 7)[:50].strip()
            assert studio.find_project(mark) == made == studio.project(made.id)
            assert studio.find_project(mark[:-1]) is None
            assert studio.set_overlap(made.id, 1).overlap == 1
        finally:
            studio.delete_project(made.id)
        assert studio.find_project(mark) is None

    def test_the_oldest_of_two_with_one_mark(self, studio: Studio) -> None:
        mark = new_mark()
        made = [studio.create_project("Twice", mark, config_xml(), 1).id for _ in range(2)]
        try:
            found = studio.find_project(mark)
            assert found is not None
            assert found.id == min(made)
        finally:
            for project_id in made:
                studio.delete_project(project_id)

    def test_found_beyond_the_first_page(
        self, studio: Studio, project: ProjectInfo, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client, "PROJECTS_PAGE", 1)
        newer = studio.create_project("Newer", new_mark(), config_xml(), 1)
        try:
            mark = project.description.split()[-1]
            found = studio.find_project(mark)
            assert found is not None
            assert found.id == project.id
        finally:
            studio.delete_project(newer.id)

    def test_a_wrong_title_is_rejected_with_the_servers_words(self, studio: Studio) -> None:
        with pytest.raises(StudioRejected, match=r"title: .*at least 3 characters"):
            studio.create_project("ab", new_mark(), config_xml(), 1)

    def test_a_mark_is_one_word(self, studio: Studio) -> None:
        with pytest.raises(ValueError, match="one word"):
            studio.create_project("Title", "two words", config_xml(), 1)

    def test_an_unknown_project_is_not_found(self, studio: Studio) -> None:
        unknown = 987_654
        for ask in (
            lambda: studio.project(unknown),
            lambda: studio.import_tasks(unknown, tasks(1)),
            lambda: studio.all_task_keys(unknown),
            lambda: studio.tasks_by_key(unknown, ["key"]),
            lambda: list(studio.changed_tasks(unknown)),
            lambda: studio.next_task(unknown),
            lambda: studio.set_overlap(unknown, 2),
            lambda: studio.delete_project(unknown),
        ):
            with pytest.raises(StudioNotFound) as caught:
                ask()
            assert len(str(caught.value)) < 600


class TestImport:
    def test_ids_come_in_the_order_of_the_data(
        self, studio: Studio, project: ProjectInfo, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client, "IMPORT_TASKS", 3)
        ids = studio.import_tasks(project.id, tasks(8))
        assert ids is not None
        assert studio.all_task_keys(project.id) == {
            task_id: f"key-{i}" for i, task_id in enumerate(ids)
        }
        assert studio.project(project.id).n_tasks == 8

    def test_nothing_to_import(self, studio: Studio, project: ProjectInfo) -> None:
        assert studio.import_tasks(project.id, []) == []

    def test_one_bad_item_stores_nothing(self, studio: Studio, project: ProjectInfo) -> None:
        bad = tasks(5)
        del bad[3]["response_right"]
        with pytest.raises(StudioRejected, match='item 3: "response_right"'):
            studio.import_tasks(project.id, bad)
        assert studio.all_task_keys(project.id) == {}

    def test_texts_come_back_byte_for_byte(self, studio: Studio, project: ProjectInfo) -> None:
        texts = [HOSTILE, "x" * 500_000, "", "  \n\t ", "https://example.com/a", "s3://bucket/a"]
        data = [
            task_data(f"k{i}", [{"role": "user", "content": text}], text, text[::-1])
            for i, text in enumerate(texts)
        ]
        assert studio.import_tasks(project.id, data)
        for sent in data:
            task = studio.next_task(project.id)
            assert task is not None
            assert task.key == sent["task_key"]
            assert task.data == sent
            studio.submit(task.id, answer_result("tie"))
        assert studio.next_task(project.id) is None

    def test_large_tasks_are_sent_in_several_bodies(
        self, studio: Studio, project: ProjectInfo, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client, "IMPORT_BYTES", 1_000)
        data = tasks(20)
        data[7]["response_left"] = "x" * 5_000
        bodies = list(client._import_bodies(data))
        assert max(map(len, bodies)) < 6_000
        assert sorted(map(len, bodies))[-2] < 1_100
        assert [row["data"] for body in bodies for row in json.loads(body)] == data
        ids = studio.import_tasks(project.id, data)
        assert ids is not None
        assert list(studio.all_task_keys(project.id)) == ids

    def test_a_task_that_the_server_cannot_take_is_refused_here(
        self, studio: Studio, project: ProjectInfo, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client, "TASK_BYTES", 1_000)
        data = tasks(3)
        data[1]["response_left"] = "x" * 2_000
        with pytest.raises(StudioRejected, match="key-1"):
            studio.import_tasks(project.id, data)


class TestLookUp:
    def test_duplicates_are_visible(self, studio: Studio, project: ProjectInfo) -> None:
        first = studio.import_tasks(project.id, tasks(3))
        second = studio.import_tasks(project.id, tasks(2))
        assert first is not None
        assert second is not None
        studio.submit(second[0], answer_result("tie"))
        studio.submit(second[0], [], cancelled=True)
        found = studio.tasks_by_key(project.id, ["key-0", "key-2", "nowhere", "key-0"])
        assert found.keys() == {"key-0", "key-2"}
        assert [(ref.id, ref.n_annotations) for ref in found["key-0"]] == [
            (first[0], 0),
            (second[0], 2),
        ]
        assert [ref.id for ref in found["key-2"]] == [first[2]]

    def test_no_keys_no_tasks(self, studio: Studio, project: ProjectInfo) -> None:
        studio.import_tasks(project.id, tasks(1))
        assert studio.tasks_by_key(project.id, []) == {}

    @pytest.mark.parametrize("size", [1, 2, 7])
    def test_several_pages(
        self, studio: Studio, project: ProjectInfo, monkeypatch: pytest.MonkeyPatch, size: int
    ) -> None:
        small_pages(monkeypatch, size)
        ids = studio.import_tasks(project.id, tasks(7))
        assert ids is not None
        assert list(studio.all_task_keys(project.id)) == ids
        found = studio.tasks_by_key(project.id, [f"key-{i}" for i in range(7)])
        assert [found[f"key-{i}"][0].id for i in range(7)] == ids

    def test_long_texts_make_smaller_pages(
        self, studio: Studio, project: ProjectInfo, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client, "FIRST_PAGE", 4)
        monkeypatch.setattr(client, "PAGE_BYTES", 1)
        ids = studio.import_tasks(project.id, tasks(7))
        assert list(studio.all_task_keys(project.id)) == ids

    @pytest.mark.parametrize("key_chars", [30, 1_000])
    def test_more_keys_than_one_address_holds(
        self,
        studio: Studio,
        project: ProjectInfo,
        monkeypatch: pytest.MonkeyPatch,
        key_chars: int,
    ) -> None:
        data = tasks(40)
        for number, task in enumerate(data):
            task["task_key"] = f"{number:0{key_chars}d}"
        ids = studio.import_tasks(project.id, data)
        assert ids is not None
        keys = [task["task_key"] for task in data]
        for limit in (client.KEYS_A_PAGE, 7):  # asked by key, and listed whole
            monkeypatch.setattr(client, "KEYS_A_PAGE", limit)
            found = studio.tasks_by_key(project.id, keys)
            assert [found[key][0].id for key in keys] == ids

    def test_a_saved_view_serves_where_addresses_must_be_short(
        self, studio: Studio, project: ProjectInfo, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ids = studio.import_tasks(project.id, tasks(9))
        assert ids is not None
        monkeypatch.setattr(client, "SHORT_QUERY_CHARS", 0)
        monkeypatch.setattr(client, "TOO_LONG", {200})
        small_pages(monkeypatch, 4)
        assert list(studio.all_task_keys(project.id)) == ids
        found = studio.tasks_by_key(project.id, ["key-3", "key-8"])
        assert [refs[0].id for refs in found.values()] == [ids[3], ids[8]]

    def test_tasks_that_are_not_ours_have_no_key(
        self, studio: Studio, project: ProjectInfo
    ) -> None:
        foreign = tasks(2)
        del foreign[0]["task_key"]
        foreign[1]["task_key"] = 7
        studio.import_tasks(project.id, foreign)
        assert studio.all_task_keys(project.id) == {}
        assert [task.key for task in studio.changed_tasks(project.id)] == [None, None]


class TestDeletion:
    def test_only_the_named_ones(self, studio: Studio, project: ProjectInfo) -> None:
        ids = studio.import_tasks(project.id, tasks(4))
        assert ids is not None
        studio.submit(ids[1], answer_result("tie"))
        studio.delete_tasks(project.id, [ids[1], ids[2]])
        studio.delete_tasks(project.id, [ids[1]])
        studio.delete_tasks(project.id, [])
        assert list(studio.all_task_keys(project.id)) == [ids[0], ids[3]]

    def test_all_of_them(self, studio: Studio, project: ProjectInfo) -> None:
        ids = studio.import_tasks(project.id, tasks(2))
        assert ids is not None
        studio.delete_tasks(project.id, ids)
        assert studio.project(project.id).n_tasks == 0

    def test_another_projects_tasks_are_left_alone(
        self, studio: Studio, project: ProjectInfo
    ) -> None:
        other = studio.create_project("Another", new_mark(), config_xml(), 1)
        try:
            ids = studio.import_tasks(other.id, tasks(2))
            assert ids is not None
            studio.import_tasks(project.id, tasks(1))
            studio.delete_tasks(project.id, ids)
            assert list(studio.all_task_keys(other.id)) == ids
        finally:
            studio.delete_project(other.id)


class TestOverlapOfATask:
    """One pair of two, in a project that asks one person about each task; admin, anna and ben."""

    @pytest.fixture
    def three(self, server: Server, studio: Studio) -> Iterator[tuple[Studio, Studio, Studio]]:
        anna, ben = (Studio(server.url, token) for token in server.annotators)
        with anna, ben:
            yield studio, anna, ben

    @pytest.fixture
    def one_each(self, studio: Studio) -> Iterator[ProjectInfo]:
        made = studio.create_project("One vote a pair", new_mark(), config_xml(), 1)
        yield made
        studio.delete_project(made.id)

    def imported(self, studio: Studio, project: ProjectInfo, n: int) -> list[int]:
        ids = studio.import_tasks(project.id, tasks(n))
        assert ids is not None
        return ids

    def offered(self, person: Studio, project: ProjectInfo) -> str | None:
        # Whom a task is offered to holds a place of it for a day: ask those first who get none.
        task = person.next_task(project.id)
        return task.key if task else None

    def test_offered_to_a_third_person_and_to_neither_of_the_first_two(
        self, three: tuple[Studio, Studio, Studio], one_each: ProjectInfo
    ) -> None:
        admin, anna, ben = three
        first, second = self.imported(admin, one_each, 2)
        anna.submit(first, answer_result("tie"))
        anna.submit(second, answer_result("tie"))
        assert [self.offered(one, one_each) for one in three] == [None, None, None]
        admin.set_task_overlap(second, 2)
        assert self.offered(anna, one_each) is None
        assert self.offered(ben, one_each) == "key-1"
        ben.submit(second, answer_result("left_better"))
        assert [self.offered(one, one_each) for one in three] == [None, None, None]
        admin.set_task_overlap(second, 3)
        assert [self.offered(one, one_each) for one in (anna, ben, admin)] == [None, None, "key-1"]
        admin.submit(second, answer_result("tie"))
        assert [self.offered(one, one_each) for one in three] == [None, None, None]

    def test_saying_it_again_changes_nothing(
        self, three: tuple[Studio, Studio, Studio], one_each: ProjectInfo
    ) -> None:
        admin, anna, ben = three
        (task_id,) = self.imported(admin, one_each, 1)
        anna.submit(task_id, answer_result("tie"))
        for _ in range(3):
            admin.set_task_overlap(task_id, 2)
        ben.submit(task_id, answer_result("tie"))
        # As after a push that was killed before it noted that the server knows.
        admin.set_task_overlap(task_id, 2)
        assert [self.offered(one, one_each) for one in three] == [None, None, None]
        found = admin.project(one_each.id)
        assert (found.n_tasks, found.n_annotations) == (1, 2)

    def test_a_skip_takes_no_place(
        self, three: tuple[Studio, Studio, Studio], one_each: ProjectInfo
    ) -> None:
        admin, anna, ben = three
        (task_id,) = self.imported(admin, one_each, 1)
        anna.submit(task_id, answer_result("tie"))
        admin.set_task_overlap(task_id, 2)
        ben.submit(task_id, [], cancelled=True)
        assert [self.offered(one, one_each) for one in (anna, ben, admin)] == [None, None, "key-0"]
        admin.submit(task_id, answer_result("tie"))
        assert [self.offered(one, one_each) for one in three] == [None, None, None]

    def test_a_vote_that_is_deleted_gives_its_place_back(
        self, three: tuple[Studio, Studio, Studio], one_each: ProjectInfo
    ) -> None:
        admin, anna, ben = three
        (task_id,) = self.imported(admin, one_each, 1)
        anna.submit(task_id, answer_result("tie"))
        admin.set_task_overlap(task_id, 2)
        made = ben.submit(task_id, answer_result("tie"))
        ben.delete_annotation(made)
        assert [self.offered(one, one_each) for one in (anna, ben)] == [None, "key-0"]

    def test_more_than_its_project_asks_for(
        self, three: tuple[Studio, Studio, Studio], project: ProjectInfo
    ) -> None:
        """A project that asks two people: the rest of its tasks stay as they are."""
        admin, anna, ben = three
        ids = self.imported(admin, project, 2)
        for task_id in ids:
            anna.submit(task_id, answer_result("tie"))
            ben.submit(task_id, answer_result("tie"))
        admin.set_task_overlap(ids[0], 3)
        assert [self.offered(one, project) for one in (anna, ben, admin)] == [None, None, "key-0"]
        admin.submit(ids[0], answer_result("tie"))
        assert self.offered(admin, project) is None

    def test_seen_by_the_next_pass_and_nothing_else(
        self, studio: Studio, one_each: ProjectInfo
    ) -> None:
        ids = self.imported(studio, one_each, 2)
        cursor = newest(studio, one_each)
        studio.set_task_overlap(ids[0], 2)
        changed = studio.changed_tasks(one_each.id, cursor)
        assert [(task.id, task.annotations) for task in changed] == [(ids[0], [])]
        assert list(studio.all_task_keys(one_each.id)) == ids

    def test_a_task_that_is_gone(self, studio: Studio, one_each: ProjectInfo) -> None:
        (task_id,) = self.imported(studio, one_each, 1)
        studio.delete_tasks(one_each.id, [task_id])
        with pytest.raises(StudioNotFound):
            studio.set_task_overlap(task_id, 2)

    def test_the_project_is_changed_and_forgets_its_tasks(
        self, three: tuple[Studio, Studio, Studio], one_each: ProjectInfo
    ) -> None:
        """A trap: whoever changes the overlap in the settings undoes what tasks were told."""
        admin, anna, ben = three
        (task_id,) = self.imported(admin, one_each, 1)
        admin.set_task_overlap(task_id, 3)
        admin.set_overlap(one_each.id, 2)
        anna.submit(task_id, answer_result("tie"))
        ben.submit(task_id, answer_result("tie"))
        assert self.offered(admin, one_each) is None


class TestWebhooks:
    """The real server of the tests runs with its protection against forged requests, as most do."""

    ACTIONS = ("ANNOTATION_CREATED", "ANNOTATIONS_DELETED")

    def test_made_listed_and_deleted(self, studio: Studio, project: ProjectInfo) -> None:
        url = f"http:{'//'}1.1.1.1:8765/webhook"  # public, and never called: nobody answers
        headers = {"X-Token": "abc"}
        first = studio.create_webhook(project.id, url, headers, self.ACTIONS)
        second = studio.create_webhook(project.id, url, headers, self.ACTIONS)
        found = studio.webhooks(project.id)
        assert [one.id for one in found] == [first, second]  # the same address, twice
        assert found[0].url == url
        assert found[0].headers == headers
        assert found[0].actions == set(self.ACTIONS)
        assert found[0].is_active
        assert "abc" not in repr(found[0])
        studio.delete_webhook(first)
        studio.delete_webhook(first)
        assert [one.id for one in studio.webhooks(project.id)] == [second]

    def test_of_this_project_alone(self, studio: Studio, project: ProjectInfo) -> None:
        other = studio.create_project("Another", new_mark(), config_xml(), 1)
        try:
            studio.create_webhook(other.id, f"http:{'//'}1.1.1.1/", {}, self.ACTIONS)
            assert studio.webhooks(project.id) == []
        finally:
            studio.delete_project(other.id)

    def test_an_address_on_this_machine_is_refused(
        self, studio: Studio, project: ProjectInfo
    ) -> None:
        with pytest.raises(StudioDenied, match="reserved network address"):
            studio.create_webhook(project.id, "http://127.0.0.1:8765/webhook", {}, self.ACTIONS)
        assert studio.webhooks(project.id) == []


class TestAnnotations:
    def test_what_was_said_comes_back(
        self, studio: Studio, server: Server, project: ProjectInfo
    ) -> None:
        ids = studio.import_tasks(project.id, tasks(3))
        assert ids is not None
        result = answer_result("left_better", confidence="high", rationale=HOSTILE)
        made = studio.submit(ids[1], result, completed_by=server.other_person, lead_seconds=3.25)
        [changed] = [task for task in studio.changed_tasks(project.id) if task.annotations]
        assert (changed.id, changed.key) == (ids[1], "key-1")
        [annotation] = changed.annotations
        assert annotation["id"] == made
        assert annotation["completed_by"] == server.other_person
        assert annotation["result"] == result
        assert annotation["ground_truth"] is False
        assert annotation.keys() >= {"created_at", "updated_at", "updated_by"}
        answer = read_answer(annotation)
        assert (answer.grade, answer.confidence) == ("left_better", "high")
        assert (answer.rationale, answer.lead_seconds) == (HOSTILE, 3.25)

    def test_every_kind_of_change_is_seen_once(self, studio: Studio, project: ProjectInfo) -> None:
        ids = studio.import_tasks(project.id, tasks(5))
        assert ids is not None
        cursor = newest(studio, project)
        assert list(studio.changed_tasks(project.id, cursor)) == []
        states: list[Any] = []

        def look() -> None:
            nonlocal cursor
            changed = list(studio.changed_tasks(project.id, cursor))
            cursor = changed[-1].updated_at
            states.append([(task.id, said(task.annotations)) for task in changed])

        made = studio.submit(ids[2], answer_result("tie"))
        look()
        studio.edit_annotation(made, answer_result("both_bad"))
        look()
        studio.submit(ids[4], [], cancelled=True)
        look()
        studio.delete_annotation(made)
        look()
        assert states == [
            [(ids[2], ["tie"])],
            [(ids[2], ["both_bad"])],
            [(ids[4], [None])],
            [(ids[2], [])],
        ]
        found = studio.project(project.id)
        assert (found.n_tasks, found.n_annotations, found.n_skips) == (5, 0, 1)

    def test_an_edit_to_a_skip(self, studio: Studio, project: ProjectInfo) -> None:
        ids = studio.import_tasks(project.id, tasks(1))
        assert ids is not None
        made = studio.submit(ids[0], answer_result("tie"))
        studio.edit_annotation(made, [], cancelled=True)
        [task] = studio.changed_tasks(project.id)
        assert said(task.annotations) == [None]

    @pytest.mark.parametrize("size", [1, 2, 3, 50])
    def test_changes_over_several_pages(
        self, studio: Studio, project: ProjectInfo, monkeypatch: pytest.MonkeyPatch, size: int
    ) -> None:
        small_pages(monkeypatch, size)
        ids = studio.import_tasks(project.id, tasks(6))
        assert ids is not None
        cursor = newest(studio, project)
        order = [ids[i] for i in (3, 0, 5, 1)]
        for task_id in order:
            studio.submit(task_id, answer_result("tie"))
        changed = list(studio.changed_tasks(project.id, cursor))
        assert [task.id for task in changed] == order
        times = [datetime.fromisoformat(task.updated_at) for task in changed]
        assert times == sorted(times)
        assert [task.id for task in studio.changed_tasks(project.id)] == [ids[2], ids[4], *order]

    def test_a_cursor_without_microseconds(self, studio: Studio, project: ProjectInfo) -> None:
        ids = studio.import_tasks(project.id, tasks(2))
        changed = studio.changed_tasks(project.id, "2020-02-02T02:02:02Z")
        assert [task.id for task in changed] == ids

    def test_unknown_things_are_not_found(self, studio: Studio) -> None:
        unknown = 98_765_432
        for ask in (
            lambda: studio.submit(unknown, answer_result("tie")),
            lambda: studio.edit_annotation(unknown, answer_result("tie")),
            lambda: studio.delete_annotation(unknown),
        ):
            with pytest.raises(StudioNotFound):
                ask()

    def test_an_unknown_annotator_is_rejected(self, studio: Studio, project: ProjectInfo) -> None:
        ids = studio.import_tasks(project.id, tasks(1))
        assert ids is not None
        with pytest.raises(StudioRejected):
            studio.submit(ids[0], answer_result("tie"), completed_by=98_765_432)


def newest(studio: Studio, project: ProjectInfo) -> str:
    return max(task.updated_at for task in studio.changed_tasks(project.id))


def said(annotations: list[dict[str, Any]]) -> list[str | None]:
    return [read_answer(annotation).grade for annotation in annotations]


# From here on: what only the fake can be made to do.


@pytest.fixture
def fake() -> Iterator[FakeStudio]:
    with fake_studio() as started:
        yield started


@pytest.fixture
def faked(fake: FakeStudio) -> Iterator[Studio]:
    with Studio(fake.url, fake.token) as opened:
        yield opened


@pytest.fixture
def there(faked: Studio) -> int:
    return faked.create_project("Faults", new_mark(), config_xml(), 1).id


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries and limits without the waiting."""
    monkeypatch.setattr("label_studio_sdk.core.http_client.INITIAL_RETRY_DELAY_SECONDS", 0.01)
    monkeypatch.setattr(client, "IMPORT_POLL_SECONDS", 0.01)
    monkeypatch.setattr(client, "READ_SECONDS", 1.0)
    monkeypatch.setattr(client, "WRITE_SECONDS", 1.0)


@pytest.mark.usefixtures("impatient")
class TestFaults:
    def test_an_import_that_failed_after_storing_is_not_repeated(
        self, fake: FakeStudio, faked: Studio, there: int
    ) -> None:
        fake.faults.fail_after_storing = 9
        with pytest.raises(StudioFailed, match="told to fail"):
            faked.import_tasks(there, tasks(3))
        assert fake.count(f"POST /api/projects/{there}/import") == 1
        assert len(faked.all_task_keys(there)) == 3

    @pytest.mark.parametrize(("fault", "stored"), [("before", 0), ("after", 3)])
    def test_a_cut_connection_is_not_tried_again(
        self, fake: FakeStudio, faked: Studio, there: int, fault: str, stored: int
    ) -> None:
        setattr(fake.faults, f"cut_{fault}_storing", 9)
        with pytest.raises(StudioUnreachable):
            faked.import_tasks(there, tasks(3))
        assert fake.count(f"POST /api/projects/{there}/import") == 1
        assert len(faked.all_task_keys(there)) == stored

    def test_a_server_that_stores_after_we_gave_up(
        self, fake: FakeStudio, faked: Studio, there: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client, "WRITE_SECONDS", 0.05)
        fake.faults.store_delay = 0.4
        with pytest.raises(StudioUnreachable, match="no answer within"):
            faked.import_tasks(there, tasks(3))
        assert faked.all_task_keys(there) == {}
        while not fake.tasks:
            pass_time()
        assert len(faked.all_task_keys(there)) == 3

    def test_reads_are_tried_again(self, fake: FakeStudio, faked: Studio) -> None:
        fake.faults.failing_reads = 2
        assert faked.whoami().id == 1
        fake.faults.failing_reads = 3
        with pytest.raises(StudioFailed):
            faked.whoami()

    def test_the_overlap_of_a_task_is_told_again(
        self, fake: FakeStudio, faked: Studio, there: int
    ) -> None:
        """The one write that is repeated: it says the same each time."""
        (task_id,) = faked.import_tasks(there, tasks(1)) or []
        fake.faults.failing_changes = 2
        faked.set_task_overlap(task_id, 4)
        assert fake.tasks[task_id]["overlap"] == 4
        fake.faults.failing_changes = 3
        with pytest.raises(StudioFailed, match="told to fail"):
            faked.set_task_overlap(task_id, 5)
        fake.faults.cut_after_changing = 1
        with pytest.raises(StudioUnreachable):
            faked.set_task_overlap(task_id, 6)
        assert fake.tasks[task_id]["overlap"] == 6

    def test_later_calls_of_an_import_that_fails_leave_the_earlier_ones(
        self, fake: FakeStudio, faked: Studio, there: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client, "IMPORT_TASKS", 2)
        bad = tasks(5)
        del bad[3]["messages"]
        with pytest.raises(StudioRejected):
            faked.import_tasks(there, bad)
        assert sorted(faked.all_task_keys(there).values()) == ["key-0", "key-1"]

    def test_a_background_import_is_waited_for(
        self, fake: FakeStudio, faked: Studio, there: int
    ) -> None:
        fake.faults.asynchronous_imports = True
        ids = faked.import_tasks(there, tasks(3))
        assert ids == list(faked.all_task_keys(there))

    def test_a_background_import_that_tells_no_ids(
        self, fake: FakeStudio, faked: Studio, there: int
    ) -> None:
        fake.faults.asynchronous_imports = fake.faults.tells_no_ids = True
        assert faked.import_tasks(there, tasks(3)) is None
        assert len(faked.tasks_by_key(there, ["key-0", "key-1", "key-2"])) == 3

    def test_a_background_import_that_takes_too_long(
        self, fake: FakeStudio, faked: Studio, there: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client, "IMPORT_WAIT_SECONDS", 0.0)
        fake.faults.asynchronous_imports = True
        assert faked.import_tasks(there, tasks(3)) is None

    def test_a_background_import_that_fails(
        self, fake: FakeStudio, faked: Studio, there: int
    ) -> None:
        fake.faults.asynchronous_imports = True
        fake.faults.asynchronous_failure = "row 2 has no text"
        with pytest.raises(StudioRejected, match="row 2 has no text"):
            faked.import_tasks(there, tasks(3))

    def test_an_import_that_tells_no_ids(self, fake: FakeStudio, faked: Studio, there: int) -> None:
        fake.faults.tells_no_ids = True
        assert faked.import_tasks(there, tasks(3)) is None

    def test_a_proxy_that_takes_short_addresses_only(
        self, fake: FakeStudio, faked: Studio, there: int
    ) -> None:
        fake.faults.longest_url = 4_000
        ids = faked.import_tasks(there, tasks(600))
        assert ids is not None
        for _ in range(2):
            found = faked.tasks_by_key(there, [f"key-{i}" for i in range(600)])
            assert [refs[0].id for refs in found.values()] == ids
        assert sum(len(path) > 4_000 for path in fake.requests) == 1
        assert fake.views == {}

    def test_a_page_instead_of_json(self, fake: FakeStudio, faked: Studio) -> None:
        fake.faults.html_reads = 1
        with pytest.raises(StudioFailed, match="text/html") as caught:
            faked.whoami()
        assert "root of the server" in caught.value.todo

    def test_a_redirect_is_named_and_not_followed(self, fake: FakeStudio, faked: Studio) -> None:
        fake.faults.redirect_to = "https://studio.example.com/login"
        with pytest.raises(StudioFailed, match=r"studio\.example\.com/login"):
            faked.create_project("Title", new_mark(), config_xml(), 1)

    def test_nobody_listens(self) -> None:
        with fake_studio() as stopped:
            url = stopped.url
        with Studio(url, "0" * 40) as studio, pytest.raises(StudioUnreachable) as caught:
            studio.whoami()
        assert "annotator studio up" in caught.value.todo

    def test_json_of_another_service(self) -> None:
        """Every method says so, rather than fail on a missing field."""
        answers = iter(range(99))

        def serve(request: httpx.Request) -> httpx.Response:
            shapes: list[Any] = [[], {}, "text", 7, None, [1], {"tasks": [1], "total": 1}]
            return httpx.Response(200, json=shapes[next(answers) % len(shapes)])

        http = httpx.Client(transport=httpx.MockTransport(serve))
        studio = Studio("http://example.com", "0" * 40, httpx_client=http)
        for ask in (
            lambda: studio.whoami(),
            lambda: studio.people(),
            lambda: studio.find_project("x"),
            lambda: studio.project(1),
            lambda: studio.import_tasks(1, tasks(1)),
            lambda: studio.all_task_keys(1),
            lambda: list(studio.changed_tasks(1)),
            lambda: studio.next_task(1),
            lambda: studio.submit(1, []),
        ):
            for _ in range(7):
                try:
                    ask()
                except StudioFailed as error:
                    assert "Label Studio" in str(error)

    def test_access_tokens_that_run_out_are_renewed(self, fake: FakeStudio) -> None:
        fake.faults.access_tokens_expire = True
        with Studio(fake.url, fake.personal_token) as studio:
            project = studio.create_project("Renewed", new_mark(), config_xml(), 1)
            ids = studio.import_tasks(project.id, tasks(2))
            assert list(studio.all_task_keys(project.id)) == ids
        assert len(fake.projects) == 1

    def test_a_server_below_a_path(self, fake: FakeStudio) -> None:
        """A personal token is refreshed below that path too."""
        asked: list[str] = []

        def serve(request: httpx.Request) -> httpx.Response:
            asked.append(request.url.path)
            inner = request.url.copy_with(raw_path=request.url.raw_path.removeprefix(b"/label"))
            headers = {name: value for name, value in request.headers.items() if name != "host"}
            return httpx.request(
                request.method, inner, content=request.content, headers=headers, trust_env=False
            )

        http = httpx.Client(transport=httpx.MockTransport(serve))
        studio = Studio(f"{fake.url}/label/", fake.personal_token, httpx_client=http)
        assert studio.whoami().id == 1
        assert asked == ["/label/api/token/refresh/", "/label/api/current-user/whoami"]


@pytest.mark.parametrize("date", [None, "yesterday", ""])
def test_a_server_without_a_clock(date: str | None) -> None:
    def serve(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={}, headers={} if date is None else {"date": date})

    http = httpx.Client(transport=httpx.MockTransport(serve))
    assert Studio("http://example.com", "0" * 40, httpx_client=http).server_time() is None


class TestPagesThatShift:
    """Others keep working while we read."""

    def test_a_change_between_two_pages_hides_no_other(
        self, fake: FakeStudio, faked: Studio, there: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        small_pages(monkeypatch, 2)
        ids = faked.import_tasks(there, tasks(6))
        assert ids is not None
        with Studio(fake.url, fake.token) as annotator:
            fake.faults.between_pages = lambda: discard(
                annotator.submit(ids[0], answer_result("tie"))
            )
            changed = [(task.id, said(task.annotations)) for task in faked.changed_tasks(there)]
        assert changed == [(task_id, []) for task_id in ids] + [(ids[0], ["tie"])]

    def test_a_deletion_between_two_pages_hides_no_other(
        self, fake: FakeStudio, faked: Studio, there: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        small_pages(monkeypatch, 2)
        ids = faked.import_tasks(there, tasks(6))
        assert ids is not None
        with Studio(fake.url, fake.token) as other:
            fake.faults.between_pages = lambda: other.delete_tasks(there, ids[:1])
            assert list(faked.all_task_keys(there)) == ids

    def test_many_changes_in_the_same_microsecond(
        self, fake: FakeStudio, faked: Studio, there: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client, "FIRST_PAGE", 2)
        monkeypatch.setattr(client, "LARGEST_PAGE", 2)
        ids = faked.import_tasks(there, tasks(11))
        assert ids is not None
        for task_id in ids[3:10]:
            fake.tasks[task_id]["updated_at"] = fake.tasks[ids[3]]["updated_at"]
        assert sorted(task.id for task in faked.changed_tasks(there)) == ids

    def test_a_server_with_small_pages_of_its_own(
        self, fake: FakeStudio, faked: Studio, there: int
    ) -> None:
        fake.faults.largest_page = 2
        ids = faked.import_tasks(there, tasks(7))
        assert ids is not None
        assert [task.id for task in faked.changed_tasks(there)] == ids
        assert list(faked.all_task_keys(there)) == ids
        for task_id in ids[2:6]:
            fake.tasks[task_id]["updated_at"] = fake.tasks[ids[2]]["updated_at"]
        with pytest.raises(StudioFailed, match="same moment"):
            list(faked.changed_tasks(there))

    def test_what_fits_takes_one_request(self, fake: FakeStudio, faked: Studio, there: int) -> None:
        ids = faked.import_tasks(there, tasks(200))
        assert ids is not None
        before = fake.count("GET /api/tasks/")
        assert len(list(faked.changed_tasks(there))) == 200
        assert len(faked.all_task_keys(there)) == 200
        assert fake.count("GET /api/tasks/") == before + 2


def discard(_: object) -> None:
    return None


def pass_time() -> None:
    import time

    time.sleep(0.02)


CANARY = "canary" * 6


class TestSecrets:
    """Neither token nor cookie is in anything that may be printed, logged or kept."""

    @pytest.mark.usefixtures("impatient")
    @pytest.mark.parametrize(
        "answer",
        [
            httpx.Response(401, json={"detail": f"Invalid token {CANARY}."}),
            httpx.Response(400, json={"validation_errors": {"title": [CANARY]}}),
            httpx.Response(404, text=f"<html>{CANARY}</html>" * 9_000),
            httpx.Response(500, text=CANARY),
            httpx.Response(200, text=CANARY, headers={"content-type": CANARY}),
            httpx.Response(302, headers={"location": f"http://example.com/?next={CANARY}"}),
            httpx.ConnectError(f"cannot connect with {CANARY}"),
            httpx.ReadTimeout(CANARY),
            httpx.LocalProtocolError(f"Illegal header value b'Token {CANARY}'"),
            httpx.InvalidURL(CANARY),
        ],
    )
    def test_a_server_that_repeats_them(self, answer: httpx.Response | Exception) -> None:
        def serve(request: httpx.Request) -> httpx.Response:
            assert request.headers["authorization"] == f"Token {CANARY}"
            if isinstance(answer, Exception):
                raise answer
            answer.headers["set-cookie"] = f"sessionid={CANARY}"
            return answer

        http = httpx.Client(transport=httpx.MockTransport(serve))
        studio = Studio("http://example.com", CANARY, httpx_client=http)
        for ask in (
            studio.whoami,
            lambda: studio.create_project("Title", "mark", config_xml(), 1),
            lambda: studio.import_tasks(1, tasks(1)),
        ):
            with pytest.raises(StudioError) as caught:
                ask()
            assert CANARY not in everything_in(caught.value)
            assert len(str(caught.value)) < 900
        assert CANARY not in repr(studio)

    @pytest.mark.usefixtures("impatient")
    def test_a_personal_token(self, fake: FakeStudio) -> None:
        head, claims, _ = fake.personal_token.split(".")
        token = f"{head}.{claims}.canary"
        with Studio(fake.url, token) as studio, pytest.raises(StudioDenied) as caught:
            studio.whoami()
        assert "canary" not in everything_in(caught.value)
        assert claims not in everything_in(caught.value)

    @pytest.mark.parametrize("token", ["", "  ", "two words", "käse", f"{CANARY}\n{CANARY}"])
    def test_a_token_that_cannot_be_one(self, token: str) -> None:
        with pytest.raises(ConfigError) as caught:
            Studio("http://example.com", token)
        assert CANARY not in everything_in(caught.value)

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "example.com",
            "ftp://example.com",
            "http://",
            "http://[1",
            "http://example.com:port",
            f"http://user:{CANARY}@example.com",
            f"ftp://user:{CANARY}@example.com",
            f"http://example.com/?token={CANARY}",
        ],
    )
    def test_an_address_that_cannot_be_one(self, url: str) -> None:
        with pytest.raises(ConfigError) as caught:
            Studio(url, "0" * 40)
        assert CANARY not in everything_in(caught.value)

    def test_a_blank_around_them_is_forgiven(self, fake: FakeStudio) -> None:
        with Studio(f" {fake.url}/ ", f" {fake.token}\n") as studio:
            assert studio.whoami().id == 1
            assert studio.url == fake.url


def everything_in(error: AnnotatorError) -> str:
    """Text, repr, attributes and traceback of an error and of all that it drags along."""
    parts: list[str] = []
    pending: list[BaseException | None] = [error]
    while pending:
        one = pending.pop()
        if one is not None:
            parts += [str(one), repr(one), repr(vars(one)), *traceback.format_exception(one)]
            pending += [one.__cause__, one.__context__]
    return "\n".join(parts)
