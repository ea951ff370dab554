"""Whatever is sent to the webhook, or never arrives there, the database ends the same.

Real HTTP: `annotator serve` in a process of its own beside the fake Label Studio. What it ends
with is held against one plain `sync` of the same server into a copy of the database.
"""

from __future__ import annotations

import html
import json
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from annotator.config import template
from annotator.doctor import broken_invariants
from annotator.errors import ServeError
from annotator.rounds.open_tasks import open_tasks
from annotator.rounds.sync import sync
from annotator.store import open_db, writing
from annotator.studio.client import Studio
from annotator.studio.screen import answer_result
from annotator.web.live import Live
from annotator.web.refill import Refill
from annotator.web.webhook import ACTIONS, HEADER
from tests.fake_studio import FakeStudio, fake_studio
from tests.pushed_world import add_rounds, push, studio_ids
from tests.ready_project import copy_project, make_project
from tests.web_server import Serve, eventually, serving, start_serve

TOKEN = "a-token-of-a-webhook-in-tests-0123456789"
MEGABYTE = 10**6


@dataclass
class World:
    """A project whose round of twelve is on a fake server, and a copy from before any answer."""

    folder: Path
    before: Path
    fake: FakeStudio

    @property
    def environment(self) -> dict[str, str]:
        return {
            "LABEL_STUDIO_URL": self.fake.url,
            "LABEL_STUDIO_API_KEY": self.fake.token,
            "ANNOTATOR_WEBHOOK_TOKEN": TOKEN,
        }

    def serving(self, *options: str) -> Any:
        return serving(self.folder, *options, **self.environment)

    def passes(self) -> int:
        """How many syncs there were: each asks the server for its clock, once."""
        return self.fake.count("GET /api/version")

    def state(self, database: Path) -> list[tuple[Any, ...]]:
        """The newest state of every annotation that is there, and what counts.

        One that was made and taken back leaves rows only where somebody looked in between.
        """
        db = open_db(database)
        try:
            newest = """SELECT annotation_id, studio_task_id, pick_id, a.name, status, grade,
                  updated_at, v.raw FROM votes v LEFT JOIN annotators a ON a.id = v.annotator_id
                WHERE v.id IN (SELECT max(id) FROM votes GROUP BY project_id, annotation_id)
                  AND status <> 'deleted'
                ORDER BY annotation_id"""
            counts = """SELECT pick_id, annotator_id, annotation_id, status, grade
                FROM current_votes ORDER BY pick_id, annotator_id"""
            return db.execute(newest).fetchall() + db.execute(counts).fetchall()
        finally:
            db.close()

    def expected(self) -> list[tuple[Any, ...]]:
        """What one plain sync of the server as it is now brings into the copy."""
        path = self.before.with_name("expected.db")
        shutil.copy(self.before, path)
        db = open_db(path)
        try:
            with Studio(self.fake.url, self.fake.token) as studio:
                sync(db, studio)
        finally:
            db.close()
        return self.state(path)

    def ends_as_expected(self) -> None:
        """The database comes to what a plain sync gives, is whole, and stays so."""
        expected = self.expected()
        assert expected
        eventually(lambda: self.state(self.folder / "annotator.db") == expected, 120)
        db = open_db(self.folder / "annotator.db")
        try:
            assert broken_invariants(db) == []
        finally:
            db.close()


@contextmanager
def pushed_world(folder: Path) -> Iterator[World]:
    project = folder / "project"
    project.mkdir()
    (project / "annotator.toml").write_text(template("hooked"), encoding="utf-8")
    with fake_studio() as fake:
        db = open_db(project / "annotator.db", create=True)
        add_rounds(db, 12, overlap=2)
        with Studio(fake.url, fake.token) as studio:
            push(db, studio)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.close()
        before = folder / "before.db"
        shutil.copy(project / "annotator.db", before)
        yield World(project, before, fake)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with pushed_world(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def hooked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Serve]]:
    """A server that looks at Label Studio when it is called, else once an hour."""
    with (
        pushed_world(tmp_path_factory.mktemp("hooked")) as made,
        serving(made.folder, "--poll", "3600", **made.environment) as serve,
    ):
        yield made, serve


def answer(world: World, rest: float = 0.0) -> None:
    """Two people answer, change their minds, skip, and take answers back."""
    db = open_db(world.before)
    tasks = studio_ids(db)
    db.close()
    said = ["left_better", "tie", "right_much_better", "both_bad"]
    with Studio(world.fake.url, world.fake.token) as studio:
        for n, task in enumerate(tasks[:10]):
            first = studio.submit(task, answer_result(said[n % 4]), completed_by=2, lead_seconds=n)
            if n % 3 == 0:
                studio.submit(task, [], completed_by=3, cancelled=True)
            if n % 4 == 1:
                studio.edit_annotation(first, answer_result("left_much_better"))
            if n % 5 == 2:
                studio.delete_annotation(first)
            time.sleep(rest)


def call(serve: Serve, token: str | None = TOKEN, **options: Any) -> httpx.Response:
    headers = options.pop("headers", {}) | ({} if token is None else {HEADER: token})
    body = options.pop("content", b'{"action": "ANNOTATION_CREATED"}')
    return httpx.post(
        f"{serve.url}/webhook", headers=headers, content=body, timeout=30, trust_env=False
    )


def quiet(world: World) -> int:
    """Waits until the first sync is over and no other follows at once; how many there were."""
    eventually(lambda: world.passes() >= 1)
    seen = -1
    while seen != (now := world.passes()):
        seen = now
        time.sleep(1.5)
    return seen


class TestDelivery:
    def test_registered_called_and_taken_back(self, world: World) -> None:
        world.fake.faults.loopback_webhooks = True
        world.fake.faults.webhook_seconds = 60.0
        with world.serving("--poll", "3600") as serve:
            eventually(lambda: world.fake.webhooks)
            (hook,) = world.fake.webhooks.values()
            assert hook["url"] == f"{serve.url}/webhook"
            assert hook["headers"] == {HEADER: TOKEN}
            assert tuple(hook["actions"]) == ACTIONS
            assert not hook["send_payload"] and not hook["send_for_all_actions"]
            answer(world, rest=0.1)
            world.ends_as_expected()
            assert serve.end() == 0
        assert world.fake.webhooks == {}

    def test_never_delivered(self, world: World) -> None:
        world.fake.faults.loopback_webhooks = world.fake.faults.loses_webhooks = True
        with world.serving("--poll", "1") as serve:
            eventually(lambda: world.fake.webhooks)
            answer(world, rest=0.2)
            world.ends_as_expected()
            eventually(lambda: "does not call it" in serve.get().text)

    def test_refused_on_this_machine_it_says_so_and_polls(self, world: World) -> None:
        with world.serving() as serve:
            eventually(lambda: "calls no address like this one" in serve.get().text)
            answer(world)
            world.ends_as_expected()
        assert world.fake.webhooks == {}

    def test_no_webhook_is_wanted(self, world: World) -> None:
        world.fake.faults.loopback_webhooks = True
        with world.serving("--no-webhook") as serve:
            answer(world)
            world.ends_as_expected()
            assert call(serve).status_code == 404
            assert world.fake.webhooks == {}

    def test_the_server_is_away_for_a_while(self, world: World) -> None:
        world.fake.faults.failing_reads = 10**6
        with world.serving("--poll", "1") as serve:
            eventually(lambda: "No votes come in" in serve.get().text)
            answer(world)
            world.fake.faults.failing_reads = 0
            world.ends_as_expected()
            eventually(lambda: "No votes come in" not in serve.get().text)


class TestForgedAndReplayed:
    @pytest.mark.parametrize(
        "token",
        [None, "", "wrong", TOKEN[:-1], TOKEN + "0", TOKEN.upper(), f"Bearer {TOKEN}", "x" * 9_000],
        ids=["missing", "empty", "wrong", "short", "long", "capitals", "bearer", "huge"],
    )
    def test_without_the_token_nothing_is_queued(
        self, hooked: tuple[World, Serve], token: str | None
    ) -> None:
        world, serve = hooked
        before = quiet(world)
        for _ in range(20):
            assert call(serve, token).status_code == 401
        time.sleep(2.5)
        assert world.passes() == before

    def test_in_the_address_or_the_body_it_does_not_count(
        self, hooked: tuple[World, Serve]
    ) -> None:
        world, serve = hooked
        before = quiet(world)
        body = json.dumps({"token": TOKEN, HEADER: TOKEN}).encode()
        assert call(serve, None, content=body).status_code == 401
        address = f"{serve.url}/webhook?{HEADER}={TOKEN}&token={TOKEN}"
        assert httpx.post(address, trust_env=False).status_code == 401
        time.sleep(2.5)
        assert world.passes() == before

    def test_only_posts(self, hooked: tuple[World, Serve]) -> None:
        _, serve = hooked
        for method in ("GET", "PUT", "DELETE", "HEAD"):
            answered = httpx.request(
                method, f"{serve.url}/webhook", headers={HEADER: TOKEN}, trust_env=False
            )
            assert answered.status_code == 405

    def test_a_thousand_times_over(self, hooked: tuple[World, Serve]) -> None:
        world, serve = hooked
        answer(world)
        before = quiet(world)
        started = time.monotonic()
        with httpx.Client(trust_env=False, timeout=30) as client, ThreadPoolExecutor(8) as pool:
            posts = pool.map(
                lambda _: client.post(f"{serve.url}/webhook", headers={HEADER: TOKEN}),
                range(1_000),
            )
            statuses = [one.status_code for one in posts]
        took = time.monotonic() - started
        assert statuses == [202] * 1_000
        world.ends_as_expected()
        # At most one a second while they come, one that was under way and one after the last.
        assert 1 <= quiet(world) - before <= took + 3

    def test_each_is_answered_while_a_sync_hangs(self, hooked: tuple[World, Serve]) -> None:
        world, serve = hooked
        before = quiet(world)
        world.fake.faults.latency = 20.0
        try:
            assert call(serve).status_code == 202
            eventually(lambda: world.passes() > before)
            asked = len(world.fake.requests)
            assert [call(serve).status_code for _ in range(30)] == [202] * 30
            assert len(world.fake.requests) == asked  # it still waits for its first answer
        finally:
            world.fake.faults.latency = 0.0

    def test_in_any_order_and_about_things_that_never_were(
        self, hooked: tuple[World, Serve]
    ) -> None:
        world, serve = hooked
        answer(world)
        payloads: list[bytes] = [
            b'{"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 1}]}',
            b'{"action": "ANNOTATION_UPDATED", "annotation": {"id": 99999, "result": []}}',
            b'{"action": "ANNOTATION_CREATED", "annotation": {"id": 1, "was_cancelled": true}}',
            b'{"action": "TASKS_DELETED", "tasks": [{"id": 1}]}',
            b'{"action": "PROJECT_DELETED"}',
            b"",
            b"not json",
            b"\xff\xfe\x00" * 1_000,
            b"[" * 100_000,
        ]
        for body in [*payloads, *reversed(payloads)]:
            assert call(serve, content=body).status_code == 202
        world.ends_as_expected()


class TestSize:
    def test_fifty_megabytes(self, hooked: tuple[World, Serve]) -> None:
        world, serve = hooked
        before = quiet(world)
        assert status_of(serve, told_length(50 * MEGABYTE)) == 413
        assert status_of(serve, told_length(50 * MEGABYTE, token="wrong")) == 401
        self.nothing_happened(world, serve, before)

    def test_a_length_that_is_too_much_is_refused_before_anything_comes(
        self, hooked: tuple[World, Serve]
    ) -> None:
        _, serve = hooked
        with raw(serve) as connection:
            connection.sendall(head(f"Content-Length: {50 * MEGABYTE}"))
            assert connection.recv(1_000).startswith(b"HTTP/1.1 413 ")

    def test_fifty_megabytes_in_chunks(self, hooked: tuple[World, Serve]) -> None:
        world, serve = hooked
        before = quiet(world)
        held = memory_kib(serve)
        assert status_of(serve, in_chunks(50 * MEGABYTE)) == 413
        assert status_of(serve, in_chunks(50 * MEGABYTE, token="wrong")) == 401
        assert memory_kib(serve) - held < 20_000
        self.nothing_happened(world, serve, before)

    def test_a_length_that_is_not_the_length(self, hooked: tuple[World, Serve]) -> None:
        world, serve = hooked
        before = quiet(world)
        for told in ("-1", "1e3", "0x10", "9" * 30, "5, 6", "٣"):
            piece = head(f"Content-Length: {told}")
            assert status_of(serve, iter([piece, b"x" * 100])) in (400, 413)
        # Told more than is sent: cut off by the client, and no call.
        with raw(serve) as connection:
            connection.sendall(head("Content-Length: 1000") + b"x" * 10)
        self.nothing_happened(world, serve, before)

    def test_told_less_than_is_sent(self, hooked: tuple[World, Serve]) -> None:
        """The rest is another request by HTTP's rules, and one that nobody understands."""
        _, serve = hooked
        with raw(serve) as connection:
            connection.sendall(head("Content-Length: 2") + b"{}" + b"z" * 5_000)
            first = connection.recv(65_536)
        assert first.startswith(b"HTTP/1.1 202 ")
        assert call(serve).status_code == 202

    def test_both_ways_to_tell_a_length_at_once(self, hooked: tuple[World, Serve]) -> None:
        _, serve = hooked
        both = head("Content-Length: 5\r\nTransfer-Encoding: chunked")
        assert status_of(serve, iter([both, b"0\r\n\r\n"])) in (202, 400)
        assert call(serve).status_code == 202

    def test_exactly_the_limit(self, hooked: tuple[World, Serve]) -> None:
        _, serve = hooked
        assert call(serve, content=b"x" * MEGABYTE).status_code == 202
        assert call(serve, content=b"x" * (MEGABYTE + 1)).status_code == 413

    def test_a_body_that_drips(self, hooked: tuple[World, Serve]) -> None:
        _, serve = hooked
        with raw(serve) as connection:
            connection.sendall(head("Content-Length: 1000"))
            for _ in range(40):  # ten seconds and a little
                try:
                    connection.sendall(b"x")
                except OSError:
                    break
                time.sleep(0.3)
            assert connection.recv(1_000).startswith(b"HTTP/1.1 408 ")

    def nothing_happened(self, world: World, serve: Serve, before: int) -> None:
        time.sleep(2.5)
        assert world.passes() == before
        assert serve.get("/healthz").status_code == 200
        assert call(serve).status_code == 202


def head(length: str, token: str = TOKEN) -> bytes:
    return (
        f"POST /webhook HTTP/1.1\r\nHost: 127.0.0.1\r\n{HEADER}: {token}\r\n{length}\r\n\r\n"
    ).encode()


def told_length(n_bytes: int, token: str = TOKEN) -> Iterator[bytes]:
    yield head(f"Content-Length: {n_bytes}", token)
    for _ in range(n_bytes // MEGABYTE):
        yield b"x" * MEGABYTE


def in_chunks(n_bytes: int, token: str = TOKEN) -> Iterator[bytes]:
    yield head("Transfer-Encoding: chunked", token)
    for _ in range(n_bytes // 100_000):
        yield b"186a0\r\n" + b"x" * 100_000 + b"\r\n"
    yield b"0\r\n\r\n"


def raw(serve: Serve) -> socket.socket:
    port = int(serve.url.rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def status_of(serve: Serve, pieces: Iterator[bytes]) -> int:
    """The status of a request that is sent bit by bit, and read as soon as there is an answer."""
    with raw(serve) as connection:
        found = b""
        done = threading.Event()

        def read() -> None:
            nonlocal found
            try:
                found = connection.recv(1_000)
            except OSError:
                pass
            finally:
                done.set()

        reader = threading.Thread(target=read)
        reader.start()
        try:
            for piece in pieces:
                if done.is_set():
                    break
                connection.sendall(piece)
        except OSError:
            pass  # the server has closed: what it said before counts
        reader.join(30)
    assert found.startswith(b"HTTP/1.1 "), found
    return int(found.split()[1])


def memory_kib(serve: Serve) -> int:
    status = Path(f"/proc/{serve.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


class TestKilled:
    def test_amid_syncs_and_started_again(self, world: World) -> None:
        world.fake.faults.loopback_webhooks = True
        port = free_port()
        answering = threading.Thread(target=answer, args=(world, 0.15))
        answering.start()
        for moment in (0.2, 0.7, 1.1, 0.4):
            world.fake.faults.latency = 0.1
            serve = start_serve(world.folder, "--port", port, "--poll", "1", **world.environment)
            passes = world.passes()
            eventually(lambda passes=passes: world.passes() > passes)
            time.sleep(moment)
            serve.process.kill()
            serve.process.wait()
            assert serve.process.stdout is not None
            serve.process.stdout.close()
        answering.join()
        world.fake.faults.latency = 0.0
        with world.serving("--port", port, "--poll", "1"):
            world.ends_as_expected()
            # Those of the killed ones are still there, and no second one beside them.
            assert [hook["url"] for hook in world.fake.webhooks.values()] == [
                f"http://127.0.0.1:{port}/webhook"
            ]
        assert world.fake.webhooks == {}

    def test_another_token_takes_the_place_of_the_old_one(self, world: World) -> None:
        world.fake.faults.loopback_webhooks = True
        port = free_port()
        for token in ("first-token-of-the-webhook-42", "second-token-of-the-webhook-42"):
            environment = world.environment | {"ANNOTATOR_WEBHOOK_TOKEN": token}
            serve = start_serve(world.folder, "--port", port, **environment)
            eventually(
                lambda token=token: [hook["headers"][HEADER] for hook in
                                     world.fake.webhooks.values()] == [token]
            )  # fmt: skip
            serve.process.kill()
            serve.process.wait()
            assert serve.process.stdout is not None
            serve.process.stdout.close()

    def test_without_a_given_token_one_is_drawn_and_stays_out_of_every_file(
        self, world: World
    ) -> None:
        world.fake.faults.loopback_webhooks = True
        environment = world.environment | {"ANNOTATOR_WEBHOOK_TOKEN": ""}
        with serving(world.folder, **environment) as serve:
            eventually(lambda: world.fake.webhooks)
            (hook,) = world.fake.webhooks.values()
            token = hook["headers"][HEADER]
            assert len(token) == 43
            assert call(serve, token).status_code == 202
            assert token not in serve.get().text
            answer(world)
            world.ends_as_expected()
        for path in world.folder.rglob("*"):
            assert path.is_dir() or token.encode() not in path.read_bytes()


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("ready") / "project")


def of_five(fake: FakeStudio) -> dict[str, str]:
    """Rounds of five pairs on that server."""
    return {
        "LABEL_STUDIO_URL": fake.url,
        "LABEL_STUDIO_API_KEY": fake.token,
        "ANNOTATOR_ROUND_SIZE": "5",
        "ANNOTATOR_ROUND_STRATEGY": "random",
    }


class TestRefill:
    def test_open_tasks_are_those_that_want_an_answer(self, world: World) -> None:
        db = open_db(world.folder / "annotator.db")
        try:
            assert open_tasks(db) == 12
            with Studio(world.fake.url, world.fake.token) as studio:
                ids = studio_ids(db)
                first = studio.submit(ids[0], answer_result("tie"), completed_by=2)
                sync(db, studio)
                assert open_tasks(db) == 12  # two people are asked
                studio.submit(ids[0], answer_result("tie"), completed_by=3)
                studio.submit(ids[1], [], completed_by=3, cancelled=True)
                sync(db, studio)
                assert open_tasks(db) == 11
                studio.delete_annotation(first)
                sync(db, studio)
                assert open_tasks(db) == 12
            with writing(db):
                db.execute("UPDATE tasks SET state = 'gone' WHERE id = 3")
                db.execute("UPDATE tasks SET state = 'pending' WHERE id = 4")
            assert open_tasks(db) == 10
        finally:
            db.close()

    def test_sends_the_next_batch_when_few_are_left(self, ready: Path, tmp_path: Path) -> None:
        folder = copy_project(ready, tmp_path / "project")
        with fake_studio() as fake:
            environment = of_five(fake)
            options = ("--poll", "1", "--send-when-below", "3")
            with serving(folder, *options, **environment) as serve:
                eventually(lambda: len(fake.tasks) == 5, 120, told=serve.notices)
                eventually(lambda: "Round 1 was sent: 5 tasks" in serve.get().text)
                with Studio(fake.url, fake.token) as studio:
                    for task in sorted(fake.tasks)[:2]:
                        studio.submit(task, answer_result("tie"), completed_by=2)
                    time.sleep(4)
                    assert len(fake.tasks) == 5  # three are left
                    studio.submit(sorted(fake.tasks)[2], answer_result("tie"), completed_by=2)
                eventually(lambda: len(fake.tasks) == 10, 120, told=serve.notices)
                time.sleep(2)
                assert len(fake.tasks) == 10

    def test_what_goes_wrong_is_on_the_page(self, tmp_path: Path, world: World) -> None:
        world.fake.faults.latency = 0.0
        options = ("--poll", "1", "--send-when-below", "50")
        environment = world.environment | {"ANNOTATOR_ROUND_STRATEGY": "no-such-strategy"}
        with serving(world.folder, *options, **environment) as serve:
            eventually(lambda: "could not be sent" in serve.get().text)
            text = html.unescape(serve.get().text)
            assert "no-such-strategy" in text
            answer(world)
            world.ends_as_expected()  # votes come in all the same

    def test_failures_are_tried_again_with_longer_and_longer_pauses(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        live = Live()
        refill = Refill(world.folder, world.folder / "annotator.db", live, below=50)
        sent: list[str] = []

        def fail() -> str:
            raise ServeError("no room.")

        monkeypatch.setattr(refill, "_send", fail)
        assert [refill._look() for _ in range(7)] == [30, 60, 120, 240, 480, 900, 900]
        assert "no room" in live.notices()["next-batch"].text
        monkeypatch.setattr(refill, "_send", lambda: sent.append("x") or "Round 2 was sent.")
        assert refill._look() == 10.0
        assert live.notices()["next-batch"].text == "Round 2 was sent."
        assert sent == ["x"]
        monkeypatch.setattr(refill, "_below", 12)
        assert refill._look() == 0.0
        assert sent == ["x"]

    def test_two_servers_of_one_project_do_not_both_send(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = world.folder / "annotator.db"
        one, two = (Refill(world.folder, path, Live(), below=50) for _ in range(2))
        started, go_on = threading.Event(), threading.Event()

        def slowly() -> str:
            started.set()
            assert go_on.wait(20)
            return "sent"

        monkeypatch.setattr(one, "_send", slowly)
        monkeypatch.setattr(two, "_send", lambda: pytest.fail("the other one is sending"))
        thread = threading.Thread(target=one._look)
        thread.start()
        assert started.wait(20)
        assert two._look() == 10.0
        go_on.set()
        thread.join()

    def test_the_end_of_the_server_interrupts_it(self, ready: Path, tmp_path: Path) -> None:
        folder = copy_project(ready, tmp_path / "project")
        with fake_studio() as fake:
            fake.faults.store_delay = 60.0
            environment = of_five(fake)
            options = ("--poll", "1", "--send-when-below", "3")
            with serving(folder, *options, **environment) as serve:
                eventually(lambda: fake.count("POST /api/projects/") >= 2, 90)
                assert serve.end(signal.SIGTERM) == 0  # the import itself takes a minute
            db = open_db(folder / "annotator.db")
            try:
                assert db.execute("SELECT count(*) FROM picks").fetchone()[0] == 5
                assert broken_invariants(db) == []
            finally:
                db.close()
