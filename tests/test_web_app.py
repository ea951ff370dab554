"""The dashboard's pages over real HTTP: what they show, what they refuse, what they never do."""

from __future__ import annotations

import html
import json
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlite_utils import Database
from starlette.datastructures import URL
from starlette.requests import Request

from annotator.cli import main as command_line
from annotator.config import template
from annotator.errors import ServeError
from annotator.labels.votes import Vote, known_annotations, record_annotators, record_votes
from annotator.rounds.batch import BatchRequest
from annotator.store import hold_lock, open_db, writing
from annotator.web import auth
from annotator.web.app import HEADERS, HEADINGS, Access, make_app
from annotator.web.auth import Sessions, SlowDown, host_name, is_loopback, same_secret, token_from
from annotator.web.live import PULSE, Live, moment
from annotator.web.pulse import change_key, pulse
from annotator.web.refill import PAUSE_AFTER_BATCH, Refill
from annotator.web.watch import Watch
from annotator.web.webhook import HEADER, Webhook
from tests.small_world import add_prompt, add_prompts, add_round
from tests.web_server import eventually, served, serving

HOSTILE = (
    "<script>alert(1)</script>\"'><img src=x onerror=alert(2)></pre></textarea></style>"
    "<svg onload=alert(3)>{{7*7}}{% raw %}&lt;&amp; javascript:alert(4) \u202egnp.exe\u0000 "
    "]]>--><!--"
)
TOKEN = "correct-horse-battery-staple-42"


class Tags(HTMLParser):
    """Which tags and attributes a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def get(url: str, **options: Any) -> httpx.Response:
    return httpx.get(url, trust_env=False, timeout=10, **options)


@pytest.fixture
def world(db: Database) -> list[tuple[int, int]]:
    """A round of three pairs; the first has hostile texts and answers, the third has no answer."""
    first = add_prompt(
        db, [{"role": "user", "content": f"prompt {HOSTILE}"}], [f"a {HOSTILE}", f"b {HOSTILE}"]
    )
    others = add_prompts(db, [3])
    pairs = [(first[0], first[1]), (others[0][0], others[0][1]), (others[0][0], others[0][2])]
    picks = add_round(db, pairs)
    with writing(db):
        db.execute("UPDATE responses SET model = ? WHERE id = ?", [f"model {HOSTILE}", first[0]])
        db.execute("UPDATE prompts SET dataset = ?", [f"set {HOSTILE}"])
        db.execute(
            """INSERT INTO projects (server, mark, studio_id, title, screen, overlap, created_at)
            VALUES ('http://127.0.0.1:9', 'm', 1, 't', 's', 1, '')"""
        )
        for response_id in first:
            db.execute(
                "INSERT INTO scores VALUES (?, ?, 0.25, NULL, NULL)", [f"m {HOSTILE}", response_id]
            )
        record_annotators(db, "http://127.0.0.1:9", {1: f"anna {HOSTILE}", 2: "ben"})
    answers = [
        vote(1, picks[0], 1, "a_much_better", at="1", rationale=f"why {HOSTILE}", seconds=12.0),
        vote(2, picks[0], 2, "tie", at="2"),
        vote(3, picks[1], 2, None, at="3"),
    ]
    record(db, answers)
    record(db, [vote(1, picks[0], 1, "b_better", at="4", rationale="changed my mind")])
    return pairs


def vote(annotation: int, pick: int, who: int, grade: str | None, *, at: str, **more: Any) -> Vote:
    status = "vote" if grade else "skip"
    return Vote(annotation, 10 + pick, status, at, {}, pick, who, grade, **more)


def record(db: Database, votes: list[Vote]) -> None:
    with writing(db):
        known = known_annotations(db, 1, [one.studio_task_id for one in votes])
        record_votes(db, 1, votes, known)


@pytest.fixture
def live() -> Live:
    return Live()


@pytest.fixture
def url(db: Database, tmp_path: Path, live: Live) -> Iterator[str]:
    with served(make_app(tmp_path / "annotator.db", live, project="A lead's"), live) as address:
        yield address


class TestPages:
    def test_parts_in_their_order_and_those_to_come(self, url: str, live: Live) -> None:
        live.put({"map": "<p>a map</p>", PULSE: "<p>now</p>"})
        text = get(url).text
        assert [text.index(f'id="part-{name}"') for name in HEADINGS] == sorted(
            text.index(f'id="part-{name}"') for name in HEADINGS
        )
        assert "<p>a map</p>" in text
        assert text.count("Being computed") == len(HEADINGS) - 2
        assert "A lead&#39;s" in text

    def test_a_part_that_is_new_to_us_is_shown_too(self, url: str, live: Live) -> None:
        live.put({"novelty": "<p>hello</p>"})
        assert 'id="part-novelty"' in get(url).text

    def test_one_part_with_its_version_and_age(self, url: str, live: Live) -> None:
        live.put({"saving": "<p>34 %</p>"})
        found = get(f"{url}/fragments/saving").text
        version, made_at = get(f"{url}/fragments").json()["saving"]
        assert f'data-version="{version}"' in found
        assert f'datetime="{made_at}"' in found
        assert "<p>34 %</p>" in found
        live.put({"saving": "<p>35 %</p>"})
        assert get(f"{url}/fragments").json()["saving"][0] != version

    def test_a_pair_with_every_answer_in_its_newest_state(
        self, url: str, world: list[tuple[int, int]]
    ) -> None:
        a_id, b_id = world[0]
        text = html.unescape(get(f"{url}/pair/{a_id}-{b_id}").text)
        assert "B better" in text
        assert "changed my mind" in text
        assert "A much better" not in text  # it was edited since
        assert "0.250" in text
        assert text.count("chosen by the strategy") == 1
        turned_round = html.unescape(get(f"{url}/pair/{b_id}-{a_id}").text)
        assert turned_round.partition("<main")[2] == text.partition("<main")[2]

    def test_answers_that_do_not_count_are_told_apart(
        self, db: Database, url: str, world: list[tuple[int, int]]
    ) -> None:
        pick = db.execute("SELECT min(id) FROM picks").fetchone()[0]
        record(db, [vote(9, pick, 2, "a_better", at="9")])  # ben again: the newer one counts
        text = get(f"{url}/pair/{world[0][0]}-{world[0][1]}").text
        rows = re.findall(r"<tr><td>ben.*?</tr>", text, re.DOTALL)
        assert ["does not count" in row for row in rows] == [True, False]
        counted = db.execute(
            "SELECT count(*) FROM current_votes WHERE pick_id = ?", [pick]
        ).fetchone()[0]
        assert counted == text.count("</td></tr>") - text.count("does not count") - 1

    def test_a_prompt_with_its_responses_and_pairs(
        self, db: Database, url: str, world: list[tuple[int, int]]
    ) -> None:
        prompt_id = db.execute("SELECT max(id) FROM prompts").fetchone()[0]
        text = get(f"{url}/prompt/{prompt_id}").text
        assert "3 responses" in text
        for a_id, b_id in world[1:]:
            assert f'href="/pair/{a_id}-{b_id}"' in text

    def test_a_long_text_is_cut_and_says_so(self, db: Database, url: str) -> None:
        ids = add_prompt(db, [{"role": "user", "content": "q"}], ["x" * 2_000_000, "y"])
        answer = get(f"{url}/pair/{ids[0]}-{ids[1]}")
        assert len(answer.content) < 60_000
        assert "1,980,000 more characters" in answer.text

    @pytest.mark.parametrize(
        "path",
        ["/nothing", "/prompt/0", "/prompt/1e3", "/prompt/-1", f"/prompt/{'9' * 18}",
         f"/prompt/{'9' * 40}", "/pair/1", "/pair/1-", "/pair/1-1", "/pair/x-y", "/pair/1-2-3",
         "/fragments/none", "/static/none.js", "/static/../app.py", "/static/%2e%2e%2fapp.py",
         "/prompt/١", "/webhook/", "/templates/base.html"],
    )  # fmt: skip
    def test_what_is_not_there(self, url: str, world: object, path: str) -> None:
        answer = get(url + path)
        assert answer.status_code == 404
        assert "<h1>Not Found</h1>" in answer.text

    def test_two_responses_of_two_prompts_are_no_pair(
        self, url: str, world: list[tuple[int, int]]
    ) -> None:
        assert get(f"{url}/pair/{world[0][0]}-{world[1][0]}").status_code == 404

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
    def test_pages_are_for_reading(self, url: str, method: str) -> None:
        answer = httpx.request(method, f"{url}/", trust_env=False)
        assert answer.status_code == 405
        assert "GET" in answer.headers["Allow"]

    @pytest.mark.parametrize("path", ["/", "/healthz", "/fragments", "/static/live.js", "/events"])
    def test_heads(self, url: str, path: str) -> None:
        answer = httpx.head(url + path, trust_env=False, timeout=10)
        assert answer.status_code == 200
        assert answer.content == b""

    def test_without_a_webhook_there_is_no_such_address(self, url: str) -> None:
        assert httpx.post(f"{url}/webhook", trust_env=False).status_code == 404


def test_sections_have_the_titles_of_the_report() -> None:
    from annotator.report.project_report import TITLES

    assert {name: title for name, title in HEADINGS.items() if name != PULSE} == TITLES
    assert [name for name in HEADINGS if name != PULSE] == list(TITLES)


class TestHostileTexts:
    def test_on_every_page_they_are_text(
        self, db: Database, url: str, live: Live, world: list[tuple[int, int]]
    ) -> None:
        live.notice("sync", f"Label Studio says {HOSTILE}")
        from annotator.web.pulse import render_pulse

        live.put({PULSE: render_pulse(pulse(db), live.notices())})
        prompt_id = db.execute("SELECT min(id) FROM prompts").fetchone()[0]
        for path in ("/", "/fragments/pulse", f"/prompt/{prompt_id}",
                     f"/pair/{world[0][0]}-{world[0][1]}"):  # fmt: skip
            text = get(url + path).text
            assert "alert(1)" in text, path  # it is shown
            seen = Tags(text)
            assert not {"img", "svg", "textarea", "style", "iframe"} & set(seen.tags), path
            assert seen.tags.count("script") == (1 if path == "/" else 0), path
            assert not [name for name, _ in seen.attributes if name.startswith("on")], path
            links = [value or "" for name, value in seen.attributes if name in ("href", "src")]
            assert all(re.match(r"(/|#|data:,$)", link) for link in links), path
            assert "49" not in re.sub(r"\d{4}-\d\d-\d\dT[^<\"]*", "", text).split("{7*7}")[0][-3:]
            assert "{{7*7}}" in text, path
            assert "\u202e" not in text and "⟦U+202E⟧" in text, path
            assert "\0" not in text, path

    def test_in_the_address_they_are_nothing(self, url: str) -> None:
        answer = get(f"{url}/prompt/%3Cscript%3Ealert(1)%3C/script%3E")
        assert answer.status_code == 404
        assert "alert" not in answer.text

    def test_what_sqlite_holds_and_no_page_can(self, db: Database, url: str) -> None:
        ids = add_prompt(db, [{"role": "user", "content": "q"}], ["x", "y"])
        with writing(db):
            db.execute("UPDATE responses SET text = CAST(x'ff41' AS TEXT) WHERE id = ?", [ids[0]])
        answer = get(f"{url}/pair/{ids[0]}-{ids[1]}")
        assert answer.status_code == 503
        assert "Could not decode to UTF-8" in answer.text


class TestHeaders:
    @pytest.mark.parametrize(
        "path",
        ["/", "/nothing", "/healthz", "/fragments", "/static/live.js", "/static/dashboard.css",
         "/static/report.css", "/events", "/prompt/1", "/login"],
    )  # fmt: skip
    def test_on_every_answer(self, url: str, path: str) -> None:
        with httpx.stream("GET", url + path, trust_env=False, timeout=10) as answer:
            for name, value in HEADERS.items():
                assert answer.headers[name] == value
            assert "server" not in answer.headers

    def test_the_policy_allows_no_inline_script_and_no_other_site(self, url: str) -> None:
        policy = get(url).headers["Content-Security-Policy"]
        rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
        assert rules["default-src"] == rules["base-uri"] == rules["frame-ancestors"] == "'none'"
        assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
        assert "unsafe" not in policy and "*" not in policy and "http" not in policy

    def test_pages_keep_to_it(self, url: str, world: list[tuple[int, int]]) -> None:
        for path in ("/", f"/pair/{world[0][0]}-{world[0][1]}", "/nothing"):
            text = get(url + path).text
            seen = Tags(text)
            assert "style" not in seen.tags, path
            assert not [name for name, _ in seen.attributes if name == "style"], path
            assert re.findall(r"<script(.*?)>(.*?)</script>", text, re.DOTALL) in (
                [(' src="/static/live.js" defer', "")],
                [],
            )

    @pytest.mark.parametrize(
        ("path", "kind"),
        [("/static/live.js", "text/javascript"), ("/static/dashboard.css", "text/css"),
         ("/static/report.css", "text/css"), ("/", "text/html"), ("/fragments", "application/json"),
         ("/events", "text/event-stream")],
    )  # fmt: skip
    def test_types(self, url: str, path: str, kind: str) -> None:
        with httpx.stream("GET", url + path, trust_env=False, timeout=10) as answer:
            assert answer.headers["Content-Type"].startswith(kind)


class TestWhoIsLetIn:
    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8765", "LOCALHOST", "[::1]:1"])
    def test_this_machines_names(self, url: str, host: str) -> None:
        assert get(url, headers={"Host": host}).status_code == 200

    @pytest.mark.parametrize(
        "host", ["evil.example", "127.0.0.1.evil.example:8765", "localhost.evil.example", "[::2]"]
    )
    @pytest.mark.parametrize("path", ["/", "/events", "/fragments", "/prompt/1", "/healthz"])
    def test_a_name_that_points_here_by_somebody_elses_doing(
        self, url: str, host: str, path: str
    ) -> None:
        answer = get(url + path, headers={"Host": host})
        assert answer.status_code == 421
        assert "<" not in answer.text

    def test_no_host_at_all(self, url: str) -> None:
        port = int(url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
            raw.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert raw.recv(100).startswith(b"HTTP/1.1 421 ")

    @pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For", "x-forwarded-proto"])
    @pytest.mark.parametrize("path", ["/", "/events", "/fragments", "/prompt/1", "/static/live.js"])
    def test_without_a_token_nobody_comes_through_a_proxy(
        self, url: str, header: str, path: str
    ) -> None:
        answer = get(url + path, headers={header: "for=127.0.0.1"})
        assert answer.status_code == 403
        assert auth.DASHBOARD_VARIABLE in answer.text

    def test_the_webhook_may_come_through_one(
        self, db: Database, tmp_path: Path, live: Live
    ) -> None:
        calls: list[int] = []
        webhook = Webhook(TOKEN, lambda: calls.append(1))
        headers = {"X-Forwarded-For": "10.0.0.1", HEADER: TOKEN}
        app = make_app(tmp_path / "annotator.db", live, webhook=webhook)
        with served(app, live) as address:
            sent = httpx.post(f"{address}/webhook", headers=headers, trust_env=False, timeout=10)
        assert (sent.status_code, calls) == (202, [1])


@pytest.fixture
def locked(db: Database, tmp_path: Path, live: Live) -> Iterator[str]:
    """A dashboard that asks for a token."""
    app = make_app(tmp_path / "annotator.db", live, access=Access(login_token=TOKEN))
    live.put({PULSE: "<p>a secret</p>"})
    with served(app, live) as address:
        yield address


def log_in(client: httpx.Client, token: str) -> httpx.Response:
    return client.post("/login", data={"token": token})


class TestLogin:
    @pytest.fixture
    def client(self, locked: str) -> Iterator[httpx.Client]:
        with httpx.Client(base_url=locked, trust_env=False, timeout=10) as opened:
            yield opened

    def test_nothing_is_shown_before(self, client: httpx.Client) -> None:
        for path in ("/", "/prompt/1", "/pair/1-2", "/nothing"):
            answer = client.get(path)
            assert (answer.status_code, answer.headers["Location"]) == (303, "/login")
            assert "secret" not in answer.text
        for path in ("/events", "/fragments", "/fragments/pulse"):
            assert client.get(path).status_code == 401
        assert client.post("/logout").status_code == 401
        assert client.get("/static/live.js").status_code == 200
        assert client.get("/healthz").json() == {"status": "ok"}

    @pytest.mark.parametrize("host", ["x/static/", "x/login?", "x/healthz#", "127.0.0.1/static/"])
    @pytest.mark.parametrize("path", ["/", "/fragments", "/fragments/pulse", "/prompt/1"])
    def test_no_host_header_is_a_way_in(
        self, locked: str, host: str, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # As starlette before 1.0 takes an address together, in which the Host may hold the path.
        old = property(lambda self: URL(f"http://{self.headers['host']}{self.scope['path']}"))
        monkeypatch.setattr(Request, "url", old)
        port = int(locked.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
            raw.sendall(
                f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
            )
            answer = b"".join(iter(lambda: raw.recv(4096), b""))
        assert answer.startswith((b"HTTP/1.1 303 ", b"HTTP/1.1 401 ", b"HTTP/1.1 400 "))
        assert b"secret" not in answer

    @pytest.mark.parametrize("path", ["/login/x", "/loginx", "/webhook/x", "/healthzx", "/static"])
    def test_only_these_very_addresses_are_open(self, client: httpx.Client, path: str) -> None:
        assert client.get(path).status_code == 303

    def test_behind_a_proxy_too(self, client: httpx.Client) -> None:
        client.headers["X-Forwarded-For"] = "10.0.0.1"
        assert client.get("/").status_code == 303
        assert log_in(client, TOKEN).status_code == 303
        assert client.get("/").status_code == 200

    def test_another_name_is_fine_with_the_token(self, client: httpx.Client) -> None:
        assert client.get("/login", headers={"Host": "lab.example"}).status_code == 200

    def test_in_and_out(self, client: httpx.Client) -> None:
        answer = log_in(client, TOKEN)
        assert (answer.status_code, answer.headers["Location"]) == (303, "/")
        cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert "Path=/" in cookie
        assert TOKEN not in cookie
        assert "a secret" in client.get("/").text
        with client.stream("GET", "/events") as events:
            assert events.status_code == 200
        session = client.cookies[auth.COOKIE]
        client.post("/logout")
        client.cookies.set(auth.COOKIE, session)
        assert client.get("/").status_code == 303

    @pytest.mark.parametrize(
        "token", ["", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "é" * 31, "x" * 4000]
    )
    def test_not_the_token(self, client: httpx.Client, token: str) -> None:
        answer = log_in(client, token)
        assert answer.status_code == 403
        assert "Set-Cookie" not in answer.headers
        assert "not the token" in answer.text

    def test_an_address_that_failed_has_to_wait(
        self, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(auth, "FIRST_WAIT", 60.0)
        assert log_in(client, "wrong").status_code == 403
        refused = log_in(client, "wrong too")
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert "Set-Cookie" not in refused.headers

    def test_strangers_do_not_lock_out_the_right_token(
        self, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(auth, "FIRST_WAIT", 60.0)
        assert log_in(client, "wrong").status_code == 403
        assert log_in(client, "wrong").status_code == 429
        assert log_in(client, TOKEN).status_code == 303
        assert log_in(client, "wrong").status_code == 403  # it starts anew

    def test_a_forged_session(self, client: httpx.Client) -> None:
        log_in(client, TOKEN)
        real = client.cookies[auth.COOKIE]
        for forged in (real[:-1], real + "a", TOKEN, "", "x" * 3000):
            client.cookies.set(auth.COOKIE, forged)
            assert client.get("/").status_code == 303

    def test_a_form_of_any_length_is_not_read(self, client: httpx.Client) -> None:
        answer = client.post("/login", data={"token": "x" * 1_000_000})
        assert answer.status_code == 413

    def test_a_form_without_a_token(self, client: httpx.Client) -> None:
        assert client.post("/login", content=b"\xff\xfe&&&===").status_code == 403


class TestTokens:
    def test_sessions_end(self) -> None:
        clock = [0.0]
        sessions = Sessions(lambda: clock[0])
        mine = sessions.open()
        assert sessions.is_open(mine)
        assert not sessions.is_open(None)
        clock[0] = auth.SESSION_SECONDS - 1
        assert sessions.is_open(mine)
        clock[0] = auth.SESSION_SECONDS + 1
        assert not sessions.is_open(mine)

    def test_no_number_of_them_fills_the_memory(self) -> None:
        sessions = Sessions()
        first = sessions.open()
        for _ in range(auth.SESSIONS):
            last = sessions.open()
        assert not sessions.is_open(first)
        assert sessions.is_open(last)

    def test_waits_double_up_to_a_minute_and_end_with_a_success(self) -> None:
        clock = [0.0]
        slow = SlowDown(lambda: clock[0])
        waits = []
        for _ in range(10):
            slow.failed("10.0.0.1")
            waits.append(slow.seconds_left("10.0.0.1"))
        assert waits == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]
        assert slow.seconds_left("10.0.0.2") == 0
        clock[0] = 61.0
        assert slow.seconds_left("10.0.0.1") == 0
        slow.succeeded("10.0.0.1")
        slow.failed("10.0.0.1")
        assert slow.seconds_left("10.0.0.1") == 0.5

    @pytest.mark.parametrize("token", ["tooshort", "y" * 21, "x" * 30 + " y", "é" * 30])
    def test_a_token_that_will_not_do(self, token: str) -> None:
        with pytest.raises(ServeError) as caught:
            token_from({"V": token}, "V")
        assert token not in str(caught.value)

    def test_tokens_from_the_environment(self) -> None:
        assert token_from({}, "V") is None
        assert token_from({"V": " "}, "V") is None
        assert token_from({"V": f" {TOKEN}\n"}, "V") == TOKEN
        assert len(set(auth.new_token() for _ in range(50))) == 50
        assert same_secret("é", "é")
        assert not same_secret("\ud800", "?")

    def test_names_and_addresses(self) -> None:
        assert [host_name(h) for h in ("A.b:1", "[::1]:80", "x", "")] == ["a.b", "::1", "x", ""]
        assert [h for h in ("127.0.0.9", "::1", "localhost", "0.0.0.0", "::", "10.0.0.1", "me")
                if is_loopback(h)] == ["127.0.0.9", "::1", "localhost"]  # fmt: skip


class TestEvents:
    def test_tell_of_every_change(self, url: str, live: Live) -> None:
        with httpx.stream("GET", f"{url}/events", trust_env=False, timeout=10) as answer:
            lines = answer.iter_lines()
            assert next_versions(lines) == {}
            live.put({"saving": "<p>1</p>"})
            first = next_versions(lines)["saving"]
            live.put({"saving": "<p>2</p>", "map": "m"})
            second = next_versions(lines)
            assert second["saving"][0] != first[0]
            assert set(second) == {"saving", "map"}
        eventually(lambda: not live.is_watched)

    def test_too_many_are_sent_away(
        self, url: str, live: Live, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("annotator.web.live.WATCHERS", 1)
        with httpx.stream("GET", f"{url}/events", trust_env=False, timeout=10) as first:
            lines = first.iter_lines()
            next_versions(lines)
            assert get(f"{url}/events").text == "retry: 60000\n\n"

    def test_end_with_the_server(self, url: str, live: Live) -> None:
        with httpx.stream("GET", f"{url}/events", trust_env=False, timeout=10) as answer:
            lines = answer.iter_lines()
            next_versions(lines)
            live.close()
            assert [line for line in lines if line] == []


def next_versions(lines: Iterator[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads(
        next(line for line in lines if line.startswith("data: ")).removeprefix("data: ")
    )
    return found


class TestWatch:
    @pytest.fixture
    def views(self) -> list[str]:
        return []

    @pytest.fixture
    def watch(self, db: Database, tmp_path: Path, live: Live, views: list[str]) -> Iterator[Watch]:
        def view() -> list[tuple[dict[str, str], str]]:
            views.append("made")
            return [({"saving": f"<p>{len(views)}</p>"}, moment())]

        watch = Watch(tmp_path / "annotator.db", live, view)
        watch.start()
        yield watch
        watch.stop()

    def test_a_vote_is_seen_and_the_rest_made_anew(
        self, db: Database, live: Live, watch: Watch, views: list[str]
    ) -> None:
        eventually(lambda: "saving" in live.parts())
        assert "No answer has come in yet" in live.parts()[PULSE].html
        picks = add_round(db, [tuple(add_prompts(db, [2])[0])])
        with writing(db):
            db.execute(
                """INSERT INTO projects (server, mark, studio_id, title, screen, overlap,
                created_at) VALUES ('x', 'm', 1, 't', 's', 1, '')"""
            )
            record_annotators(db, "x", {1: "anna"})
        record(db, [vote(1, picks[0], 1, "a_better", at="1")])
        eventually(lambda: "anna" in live.parts()[PULSE].html)
        made = len(views)
        eventually(lambda: len(views) >= min(made, 2))

    def test_what_the_making_itself_writes_calls_for_no_other(
        self, db: Database, live: Live, watch: Watch, views: list[str]
    ) -> None:
        eventually(lambda: len(views) == 1)
        for i in range(5):
            with writing(db):
                db.execute("INSERT INTO snapshots VALUES (?, '', '', '')", [str(i)])
                db.execute(
                    "INSERT INTO consensus_builds (last_vote_id, n_votes, n_pairs, settings, "
                    "built_at) VALUES (0, 0, 0, '', '')"
                )
            time.sleep(0.4)
        assert len(views) == 1

    def test_a_database_that_comes_goes_and_comes_again(self, tmp_path: Path, live: Live) -> None:
        path = tmp_path / "later" / "annotator.db"
        path.parent.mkdir()
        watch = Watch(path, live, list)
        watch.start()
        try:
            eventually(lambda: PULSE in live.parts())
            assert "There is no database yet" in live.parts()[PULSE].html
            open_db(path, create=True).close()
            eventually(lambda: "No answer has come in yet" in live.parts()[PULSE].html)
            shutil.rmtree(path.parent)
            eventually(lambda: "There is no database yet" in live.parts()[PULSE].html)
            path.parent.mkdir()
            path.write_bytes(b"")
            eventually(lambda: "no such table" in live.parts()[PULSE].html)
            path.write_bytes(b"this is no database at all, is it?" * 100)
            eventually(lambda: "no such table" not in live.parts()[PULSE].html)
            assert "damaged" in live.parts()[PULSE].html
        finally:
            watch.stop()

    def test_a_making_that_fails_is_said_and_tried_again(
        self, db: Database, tmp_path: Path, live: Live, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("annotator.web.watch.FIRST_RETRY", 0.2)
        tries: list[int] = []

        def view() -> list[tuple[dict[str, str], str]]:
            tries.append(1)
            if len(tries) < 3:
                raise ServeError("no memory <b>left</b>", todo="buy some")
            return [({"saving": "<p>there</p>"}, moment())]

        watch = Watch(tmp_path / "annotator.db", live, view)
        watch.start()
        try:
            eventually(lambda: "no memory &lt;b&gt;" in live.parts().get(PULSE, NOTHING).html)
            eventually(lambda: "saving" in live.parts())
            eventually(lambda: "no memory" not in live.parts()[PULSE].html)
            assert len(tries) == 3
        finally:
            watch.stop()

    def test_the_key_says_what_a_page_shows(self, db: Database, world: object) -> None:
        before = change_key(db)
        assert change_key(db) == before
        with writing(db):
            db.execute("INSERT INTO spend (amount, note, spent_at) VALUES (1, '', '')")
        after = change_key(db)
        assert after != before
        with writing(db):
            db.execute("UPDATE tasks SET state = 'swept' WHERE id = 1")
        assert change_key(db) not in (before, after)

    def test_counts_are_those_of_what_counts(self, db: Database, world: object) -> None:
        found = pulse(db)
        of_view = dict(
            db.execute("SELECT status, count(*) FROM current_votes GROUP BY status").fetchall()
        )
        assert (found["votes"], found["skips"]) == (of_view["vote"], of_view["skip"]) == (2, 1)
        assert (found["answered"], found["people"]) == (1, 2)
        assert [one["said"] for one in found["last"]] == [
            "B better", "skipped", "tie", "A much better",
        ]  # fmt: skip


NOTHING = type("Nothing", (), {"html": ""})()


class TestALockedDatabase:
    def test_a_page_says_so_and_the_dashboard_stays(
        self, db: Database, tmp_path: Path, live: Live, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("annotator.web.app.PAGE_BUSY_SECONDS", 0.2)
        ids = add_prompts(db, [2])[0]
        path = f"{url}/pair/{ids[0]}-{ids[1]}"
        assert get(path).status_code == 200
        db.close()
        # Exclusive, as a file that another program recovers or copies: readers are locked out.
        other = sqlite3.connect(tmp_path / "annotator.db", isolation_level=None)
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        other.execute("UPDATE meta SET value = value")
        try:
            refused = get(path)
            assert refused.status_code == 503
            assert refused.headers["Retry-After"]
            assert "Not available now" in refused.text
            assert get(url).status_code == 200
        finally:
            other.execute("ROLLBACK")
            other.close()
        assert get(path).status_code == 200

    def test_beside_a_writer_pages_go_on(self, db: Database, url: str) -> None:
        ids = add_prompts(db, [2])[0]
        with writing(db):
            db.execute("UPDATE meta SET value = value")
            assert get(f"{url}/pair/{ids[0]}-{ids[1]}").status_code == 200

    def test_pages_cannot_write(self, db: Database, tmp_path: Path, world: object) -> None:
        from annotator.store import open_readonly

        reading = open_readonly(tmp_path / "annotator.db")
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reading.execute("DELETE FROM votes")
        reading.close()


class TestRefill:
    """When a batch is sent by itself and when not; three votes are asked, one is there."""

    @pytest.fixture
    def refill(
        self, db: Database, tmp_path: Path, live: Live, monkeypatch: pytest.MonkeyPatch
    ) -> Refill:
        (tmp_path / "annotator.toml").write_text(template("a project"), encoding="utf-8")
        picks = add_round(db, [tuple(pair) for pair in add_prompts(db, [2, 2, 2])])
        with writing(db):
            db.execute("DELETE FROM tasks")
            for pick in picks:
                db.execute(
                    "INSERT INTO tasks (pick_id, task_key, state) VALUES (?, ?, 'swept')",
                    [pick, str(pick)],
                )
            db.execute(
                """INSERT INTO projects (server, mark, studio_id, title, screen, overlap,
                created_at) VALUES ('x', 'm', 1, 't', 's', 1, '')"""
            )
            record_annotators(db, "x", {1: "anna"})
        record(db, [vote(1, picks[0], 1, "a_better", at="2026-01-05T10:00:00Z", seconds=3600.0)])
        made = Refill(tmp_path, tmp_path / "annotator.db", live, below=50)

        def send(*, resume: bool = False) -> str:
            return "the rest was sent" if resume else "a new one was sent"

        monkeypatch.setattr(made, "_send", send)
        return made

    def told(self, live: Live) -> str:
        return live.notices()["next-batch"].text

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"CAP_VOTES": "4"}, "a new one was sent"),
            ({"CAP_VOTES": "3"}, "1 spent and 2 reserved of 3 votes (cap_votes"),
            ({"CAP_VOTES": "1"}, "no batch is sent by itself"),
            ({"CAP_COST": "1.6", "RATE_VOTE": "0.5"}, "a new one was sent"),
            ({"CAP_COST": "1.5", "RATE_VOTE": "0.5"}, "0.50 spent and 1.00 reserved of 1.50 USD"),
            ({"CAP_COST": "0.4", "RATE_HOUR": "0.5"}, "(cap_cost"),
            ({"CAP_COST": "100"}, "people have no rate"),
        ],
    )
    def test_none_is_sent_past_the_cap(
        self,
        refill: Refill,
        live: Live,
        settings: dict[str, str],
        said: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for name, value in settings.items():
            monkeypatch.setenv(f"ANNOTATOR_BUDGET_{name}", value)
        refill._look()
        assert said in self.told(live)
        assert ("a new one" in said) == ("a new one" in self.told(live))
        for name in settings:
            monkeypatch.delenv(f"ANNOTATOR_BUDGET_{name}")
        refill._look()
        assert self.told(live) == "a new one was sent"

    def test_with_enough_tasks_nothing_is_said_of_the_cap(
        self, refill: Refill, live: Live, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ANNOTATOR_BUDGET_CAP_VOTES", "1")
        refill._look()
        monkeypatch.setattr(refill, "_below", 2)
        refill._look()
        assert not live.notices()

    def test_a_batch_that_is_chosen_already_is_sent_and_no_other(
        self, refill: Refill, db: Database, live: Live, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Its votes count as reserved, so the cap is reached by that very batch.
        monkeypatch.setenv("ANNOTATOR_BUDGET_CAP_VOTES", "3")
        with writing(db):
            db.execute("UPDATE tasks SET state = 'pending' WHERE pick_id = 2")
        refill._look()
        assert self.told(live) == "the rest was sent"

    def test_beside_a_batch_being_chosen_it_waits(
        self, refill: Refill, tmp_path: Path, live: Live
    ) -> None:
        with hold_lock(tmp_path / "annotator.db.choose.lock", "choosing a batch"):
            assert refill._look() == PAUSE_AFTER_BATCH
            assert not live.notices()
        refill._look()
        assert self.told(live) == "a new one was sent"


def test_the_lock_that_refill_looks_at_is_that_of_choosing(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from annotator.rounds import batch

    taken: list[Path] = []

    def hold(path: Path, *_: object, **__: object) -> None:
        taken.append(path)
        raise ServeError("enough")

    monkeypatch.setattr(batch, "hold_lock", hold)
    with pytest.raises(ServeError):
        batch.choose_and_record(
            db, tmp_path / "annotator.db", 1, BatchRequest(1, "random", 0.1, 1), dry_run=False
        )
    assert taken == [tmp_path / "annotator.db.choose.lock"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "project"
    made.mkdir()
    (made / "annotator.toml").write_text(template("a project"), encoding="utf-8")
    return made


class TestServe:
    """The command, in a process of its own."""

    def test_without_a_database_and_then_with_one(self, folder: Path) -> None:
        with serving(folder, ANNOTATOR_STUDIO_HOME=str(folder / "no-studio")) as serve:
            eventually(lambda: "There is no database yet" in serve.get().text)
            assert serve.get("/prompt/1").status_code == 404
            open_db(folder / "annotator.db", create=True).close()
            eventually(lambda: "No answer has come in yet" in serve.get().text)
            eventually(lambda: "standing" in serve.get("/fragments").json())
            # Said by the first try to sync, whenever that has come to its end.
            eventually(lambda: "no other one is named" in html.unescape(serve.get().text))
            assert serve.end() == 0
        assert (folder / "serve.log").read_text() == "stopped\n"

    @pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_a_signal_ends_it_while_somebody_watches(self, folder: Path, sig: int) -> None:
        with (
            serving(folder) as serve,
            httpx.stream("GET", f"{serve.url}/events", trust_env=False, timeout=10) as events,
        ):
            lines = events.iter_lines()
            next_versions(lines)
            assert serve.end(sig) == 0
            assert list(lines)[-1:] in ([], [""])
        assert "Traceback" not in (folder / "serve.log").read_text()

    def test_a_second_one_on_its_port_is_told(self, folder: Path) -> None:
        with serving(folder) as serve:
            port = serve.url.rpartition(":")[2]
            done = subprocess.run(
                [sys.executable, "-m", "annotator", "serve", "--port", port, "--project", folder],
                capture_output=True,
                text=True,
                timeout=60,
            )
        assert done.returncode == 1
        assert f"port {port} of 127.0.0.1 cannot be had" in done.stderr
        assert "--port" in done.stderr
        assert "Traceback" not in done.stderr

    def test_away_from_loopback_a_token_is_made_and_told_once(self, folder: Path) -> None:
        with serving(folder, "--host", "0.0.0.0") as serve:
            token = serve.said.split()[-1]
            assert len(token) == 43
            assert serve.get().status_code == 303
            with httpx.Client(base_url=serve.url, trust_env=False, timeout=10) as client:
                assert log_in(client, token).status_code == 303
                page = client.get("/")
                assert page.status_code == 200
                assert token not in page.text
                assert "Log out" in page.text
        assert token not in (folder / "serve.log").read_text()
        for path in folder.rglob("*"):
            assert path.is_dir() or token.encode() not in path.read_bytes()

    def test_a_given_token_counts_on_loopback_too(self, folder: Path) -> None:
        with serving(folder, ANNOTATOR_DASHBOARD_TOKEN=TOKEN) as serve:
            assert TOKEN not in serve.said
            assert serve.get().status_code == 303
            with httpx.Client(base_url=serve.url, trust_env=False, timeout=10) as client:
                log_in(client, TOKEN)
                assert client.get("/").status_code == 200

    @pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
    def test_a_host_that_is_not_ours(self, folder: Path, host: str) -> None:
        from click.testing import CliRunner

        done = CliRunner().invoke(
            command_line, ["serve", "--host", host, "--port", "0", "--project", str(folder)]
        )
        assert done.exit_code == 1
        assert host in done.output

    def test_threads_and_processes_are_gone_afterwards(self, folder: Path) -> None:
        open_db(folder / "annotator.db", create=True).close()
        with serving(folder) as serve:
            eventually(lambda: "standing" in serve.get("/fragments").json())
            children = _children(serve.process.pid)
            assert children
            assert serve.end() == 0
        eventually(lambda: not [pid for pid in children if Path(f"/proc/{pid}").exists()])


def _children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            if int(stat.rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.name))
    return found


def test_no_thread_is_left_behind() -> None:
    names = {thread.name for thread in threading.enumerate()}
    assert not names & {"pulse", "view", "sync", "refill"}
