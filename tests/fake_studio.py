"""A small Label Studio on loopback, for tests that need it to fail at a chosen moment.

It remembers projects, tasks, annotations and views, and answers the requests of
`annotator.studio.client` the way release 1.23.2 does; `test_studio_contract.py` holds it against
the real server. `Faults` says what goes wrong. By hand: `python -m tests.fake_studio`.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import struct
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

LEGACY_TOKEN = "fa4e" * 10
FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"
HTML_404 = (
    "<!doctype html>\n<html><head><title>Not found</title></head>" + " " * 170_000 + "</html>"
)
OF_ANNOTATION = (
    "id",
    "result",
    "completed_by",
    "updated_by",
    "was_cancelled",
    "ground_truth",
    "created_at",
    "updated_at",
    "lead_time",
    "parent_prediction",
    "parent_annotation",
)


@dataclass
class Faults:
    """What goes wrong, from now on; a number counts down, once for each time."""

    fail_after_storing: int = 0
    """Imports that are stored and then answered with 500."""
    cut_before_storing: int = 0
    """Imports whose connection is reset before anything is stored."""
    cut_after_storing: int = 0
    """Imports that are stored, and whose connection is then reset."""
    store_delay: float = 0.0
    """Seconds between an import's arrival and its storing, whether or not anyone still waits."""
    latency: float = 0.0
    """Seconds before every answer."""
    asynchronous_imports: bool = False
    """Answer imports with a job, as other editions do."""
    asynchronous_failure: str = ""
    """What goes wrong with such a job."""
    tells_no_ids: bool = False
    """Leave the ids out of import answers."""
    longest_url: int = 65_536
    """Longer addresses get a 414."""
    largest_page: int = 1_000_000
    """Tasks in a list, however many are asked for."""
    failing_reads: int = 0
    """Reads answered with 500."""
    html_reads: int = 0
    """Reads answered with 200 and a page, as by a log-in page before the server."""
    redirect_to: str = ""
    """Where every request is sent."""
    access_tokens_expire: bool = False
    """Access tokens are refused after one use, although they look valid."""
    between_pages: Callable[[], None] | None = None
    """Called once, after the next page of a task list was made."""
    failing_changes: int = 0
    """Changes of a task answered with 500, nothing done."""
    cut_after_changing: int = 0
    """Changes of a task that are made, and whose connection is then reset."""
    loopback_webhooks: bool = False
    """Take webhooks to this machine, as the real server does where it is told to and else not."""
    webhook_seconds: float = 1.0
    """How long it waits for an answer to a webhook before it forgets the call."""
    loses_webhooks: bool = False
    """Call no webhook, and say nothing of it."""


class Refused(Exception):
    def __init__(self, status: int, detail: str = "", errors: Any = None, html: bool = False):
        super().__init__(detail)
        self.status, self.detail, self.errors, self.html = status, detail, errors, html


class Cut(Exception):
    """The connection ends here, without an answer."""


@dataclass
class FakeStudio:
    """The server's memory. `url` and `token` are what a client needs."""

    faults: Faults = field(default_factory=Faults)
    projects: dict[int, dict[str, Any]] = field(default_factory=dict)
    tasks: dict[int, dict[str, Any]] = field(default_factory=dict)
    annotations: dict[int, dict[str, Any]] = field(default_factory=dict)
    views: dict[int, dict[str, Any]] = field(default_factory=dict)
    jobs: dict[int, dict[str, Any]] = field(default_factory=dict)
    webhooks: dict[int, dict[str, Any]] = field(default_factory=dict)
    happened: list[tuple[str, int]] = field(default_factory=list)
    """(action, project) of which webhooks are still to be told."""
    requests: list[str] = field(default_factory=list)
    users: list[dict[str, Any]] = field(default_factory=list)
    spent_tokens: set[str] = field(default_factory=set)
    token: str = LEGACY_TOKEN
    url: str = ""

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self._last_id = 0
        self._now = datetime.now(UTC)
        for name in ("admin", "anna", "ben"):
            self.add_user(f"{name}@example.com")

    def add_user(self, email: str) -> int:
        user_id = len(self.users) + 1
        self.users.append(
            {"id": user_id, "email": email, "first_name": "", "last_name": "", "username": ""}
        )
        return user_id

    def new_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def tick(self) -> str:
        """The server's time; it never stands still."""
        self._now = max(self._now + timedelta(microseconds=1), datetime.now(UTC))
        return self._now.strftime(FORMAT)

    @property
    def personal_token(self) -> str:
        return _jwt("refresh", seconds=10**9)

    def token_of(self, user_id: int) -> str:
        """The legacy token of that person; the first one's is `token`."""
        return self.token if user_id == 1 else f"{user_id:04d}" * 10

    def count(self, start: str) -> int:
        """How many requests began with these letters, such as "POST /api/projects"."""
        return sum(request.startswith(start) for request in self.requests)


def _jwt(kind: str, seconds: float) -> str:
    def part(content: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()

    expires = int(time.time() + seconds)
    claims = {"token_type": kind, "exp": expires, "user_id": "1", "jti": str(time.time_ns())}
    return ".".join([part({"alg": "HS256", "typ": "JWT"}), part(claims), "c2lnbmVk"])


# Projects


def _project(studio: FakeStudio, project_id: int) -> dict[str, Any]:
    if project_id not in studio.projects:
        raise Refused(404, "No Project matches the given query.")
    tasks = [task["id"] for task in studio.tasks.values() if task["project"] == project_id]
    made = [one for one in studio.annotations.values() if one["task"] in set(tasks)]
    return studio.projects[project_id] | {
        "task_number": len(tasks),
        "total_annotations_number": sum(not one["was_cancelled"] for one in made),
        "skipped_annotations_number": sum(one["was_cancelled"] for one in made),
    }


def create_project(studio: FakeStudio, call: Call) -> Any:
    title = call.body.get("title", "")
    if title and not 3 <= len(title) <= 50:
        words = "at least 3" if len(title) < 3 else "no more than 50"
        problem = {"title": [f"Ensure this field has {words} characters."]}
        raise Refused(400, "Validation error", problem)
    project_id = studio.new_id()
    defaults = {"description": "", "label_config": "<View></View>", "maximum_annotations": 1}
    studio.projects[project_id] = defaults | call.body | {"id": project_id}
    return studio.projects[project_id] | {"task_number": None}


def list_projects(studio: FakeStudio, call: Call) -> Any:
    size = min(int(call.query.get("page_size", 30)), 100)
    newest_first = sorted(studio.projects.values(), key=lambda project: -project["id"])
    page = _page_of(newest_first, int(call.query.get("page", 1)), size)
    rows = [{"id": one["id"], "description": one["description"]} for one in page]
    return {"count": len(newest_first), "next": None, "previous": None, "results": rows}


def get_project(studio: FakeStudio, call: Call) -> Any:
    return _project(studio, call.ids[0])


def change_project(studio: FakeStudio, call: Call) -> Any:
    before = _project(studio, call.ids[0])["maximum_annotations"]
    studio.projects[call.ids[0]] |= call.body
    after = studio.projects[call.ids[0]]["maximum_annotations"]
    of_project = [task for task in studio.tasks.values() if task["project"] == call.ids[0]]
    # What the tasks' own overlaps said before is lost.
    for task in of_project if after != before else []:
        task["overlap"] = after
        task["is_labeled"] = _is_answered(studio, task)
    return _project(studio, call.ids[0])


def delete_project(studio: FakeStudio, call: Call) -> Any:
    _project(studio, call.ids[0])
    del studio.projects[call.ids[0]]
    for task in [one for one in studio.tasks.values() if one["project"] == call.ids[0]]:
        _delete_task(studio, task["id"])


# Imports


def import_tasks(studio: FakeStudio, call: Call) -> Any:
    if call.ids[0] not in studio.projects:
        raise Refused(404, html=True)
    if studio.faults.asynchronous_imports:
        job = studio.new_id()
        studio.jobs[job] = {"id": job, "status": "created", "call": call}
        return {"import": job}
    return _store(studio, call)


def import_job(studio: FakeStudio, call: Call) -> Any:
    """The second look at a job finds it over."""
    job = studio.jobs[call.ids[1]]
    if job["status"] == "created":
        job["status"] = "in_progress"
    elif job["status"] == "in_progress" and studio.faults.asynchronous_failure:
        job |= {"status": "failed", "error": studio.faults.asynchronous_failure}
    elif job["status"] == "in_progress":
        job |= _store(studio, job["call"]) | {"status": "completed"}
    return {name: value for name, value in job.items() if name != "call"}


def _store(studio: FakeStudio, call: Call) -> dict[str, Any]:
    rows = [row.get("data", row) for row in call.body]
    _check_rows(studio.projects[call.ids[0]]["label_config"], rows)
    ids = [studio.new_id() for _ in rows]
    for task_id, row in zip(ids, rows, strict=True):
        moment = studio.tick()
        studio.tasks[task_id] = {
            "id": task_id,
            "project": call.ids[0],
            "data": row,
            "overlap": studio.projects[call.ids[0]]["maximum_annotations"],
            "is_labeled": False,
            "created_at": moment,
            "updated_at": moment,
        }
    answer = {"task_count": len(ids), "annotation_count": 0, "prediction_count": 0}
    told = call.query.get("return_task_ids") == "true" and not studio.faults.tells_no_ids
    return answer | ({"task_ids": ids} if told else {})


def _check_rows(config: str, rows: list[dict[str, Any]]) -> None:
    wanted = {
        tag.attrib["value"][1:]
        for tag in ET.fromstring(config).iter()
        if tag.attrib.get("value", "").startswith("$")
    }
    problems: list[Any] = []
    for number, row in enumerate(rows):
        missing = sorted(wanted - row.keys())
        words = f'Error at item {number}: "{missing[0]}" key is expected' if missing else {}
        problems.append(words)
    if any(problems):
        raise Refused(400, "Validation error", {"non_field_errors": problems})
    if not rows:
        errors = {"non_field_errors": ["load_tasks: No tasks added"]}
        raise Refused(400, "Validation error", errors)


# Lists of tasks


def list_tasks(studio: FakeStudio, call: Call) -> Any:
    project_id = int(call.query["project"])
    _project(studio, project_id)
    query = json.loads(call.query.get("query", "{}"))
    if "view" in call.query:
        query = studio.views[int(call.query["view"])]["data"]
    found = [task for task in studio.tasks.values() if task["project"] == project_id]
    for one in query.get("filters", {}).get("items", []):
        found = [task for task in found if _passes(task, one)]
    order = query.get("ordering", ["tasks:id"])[0].removeprefix("tasks:")
    found.sort(key=lambda task: task[order])
    size = min(int(call.query.get("page_size", 100)), studio.faults.largest_page)
    page = _page_of(found, int(call.query.get("page", 1)), size)
    tasks = [_listed(studio, task, call.query) for task in page]
    return {"tasks": tasks, "total": len(found), "total_annotations": 0, "total_predictions": 0}


def _passes(task: dict[str, Any], one: dict[str, Any]) -> bool:
    name = one["filter"].removeprefix("filter:tasks:")
    found = task["data"].get(name[5:]) if name.startswith("data.") else task[name]
    value = one["value"]
    if one["operator"] == "in_list":
        return found in value
    if one["operator"] == "greater" and one["type"] == "Datetime":
        return datetime.strptime(found, FORMAT) > datetime.strptime(value, FORMAT)
    if one["operator"] == "greater" and one["type"] == "Number":
        return float(found) > float(value)
    raise Refused(500, f"the fake server knows no filter {one}")


def _listed(studio: FakeStudio, task: dict[str, Any], query: dict[str, str]) -> dict[str, Any]:
    own = _annotations_of(studio, task)
    skips = sum(one["was_cancelled"] for one in own)
    row = task | {"total_annotations": len(own) - skips, "cancelled_annotations": skips}
    included = query.get("include", "").split(",") if "include" in query else None
    if query.get("fields") == "all":
        row["annotations"] = [_only(one, included) for one in own]
    return _only(row, included)


def _only(row: dict[str, Any], included: list[str] | None) -> dict[str, Any]:
    return {name: value for name, value in row.items() if included is None or name in included}


def _page_of(rows: list[Any], page: int, size: int) -> list[Any]:
    if page > 1 and (page - 1) * size >= len(rows):
        raise Refused(404, "Invalid page.")
    return rows[(page - 1) * size : page * size]


def create_view(studio: FakeStudio, call: Call) -> Any:
    view = studio.new_id()
    studio.views[view] = {"id": view} | call.body
    return studio.views[view]


def delete_view(studio: FakeStudio, call: Call) -> Any:
    del studio.views[call.ids[0]]


def act(studio: FakeStudio, call: Call) -> Any:
    chosen = call.body["selectedItems"]
    if call.query["id"] != "delete_tasks" or chosen["all"]:
        raise Refused(500, "the fake server deletes named tasks, no more")
    for task_id in chosen["included"]:
        task = studio.tasks.get(task_id)
        if task and task["project"] == int(call.query["project"]):
            _delete_task(studio, task_id)
    return {"processed_items": len(chosen["included"])}


def _delete_task(studio: FakeStudio, task_id: int) -> None:
    del studio.tasks[task_id]
    for one in [one for one in studio.annotations.values() if one["task"] == task_id]:
        del studio.annotations[one["id"]]


def next_task(studio: FakeStudio, call: Call) -> Any:
    _project(studio, call.ids[0])
    open_ = [
        task
        for task in studio.tasks.values()
        if task["project"] == call.ids[0] and not task["is_labeled"]
    ]
    for task in sorted(open_, key=lambda task: task["id"]):
        mine = any(one["completed_by"] == call.user for one in _annotations_of(studio, task))
        # The flag may have been taken back although enough people have answered.
        if not mine and not _is_answered(studio, task):
            return task
    raise Refused(404, f"There are no tasks for {studio.users[call.user - 1]['email']}")


def get_task(studio: FakeStudio, call: Call) -> Any:
    if call.ids[0] not in studio.tasks:
        raise Refused(404, "No Task matches the given query.")
    return studio.tasks[call.ids[0]]


def change_task(studio: FakeStudio, call: Call) -> Any:
    task = get_task(studio, call)
    if not isinstance(call.body.get("overlap", 1), int):
        raise Refused(400, "Validation error", {"overlap": ["A valid integer is required."]})
    task |= call.body | {"updated_at": studio.tick()}
    return task


def _annotations_of(studio: FakeStudio, task: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in studio.annotations.values() if one["task"] == task["id"]]


def _is_answered(studio: FakeStudio, task: dict[str, Any]) -> bool:
    """Whether as many people have answered the task as it asks; a skip is no answer."""
    own = _annotations_of(studio, task)
    return len({one["completed_by"] for one in own if not one["was_cancelled"]}) >= task["overlap"]


# Annotations


def submit(studio: FakeStudio, call: Call) -> Any:
    task = studio.tasks.get(call.ids[0])
    if task is None:
        raise Refused(404, "No Task matches the given query.")
    body = {"completed_by": call.user, "was_cancelled": False, "lead_time": None} | call.body
    if not 1 <= body["completed_by"] <= len(studio.users):
        problem = f'Invalid pk "{body["completed_by"]}" - object does not exist.'
        raise Refused(400, "Validation error", {"completed_by": [problem]})
    made = dict.fromkeys(OF_ANNOTATION) | {"ground_truth": False} | body
    moment = task["updated_at"] = studio.tick()
    made |= {"id": studio.new_id(), "task": task["id"], "created_at": moment, "updated_at": moment}
    studio.annotations[made["id"]] = made
    task["is_labeled"] = _is_answered(studio, task)
    studio.happened.append(("ANNOTATION_CREATED", task["project"]))
    return made


def change_annotation(studio: FakeStudio, call: Call) -> Any:
    found = _annotation(studio, call)
    moment = studio.tick()
    found |= call.body | {"updated_at": moment, "updated_by": call.user}
    _changed(studio, found["task"], moment)
    studio.happened.append(("ANNOTATION_UPDATED", studio.tasks[found["task"]]["project"]))
    return found


def delete_annotation(studio: FakeStudio, call: Call) -> Any:
    found = _annotation(studio, call)
    del studio.annotations[found["id"]]
    _changed(studio, found["task"], studio.tick())
    studio.happened.append(("ANNOTATIONS_DELETED", studio.tasks[found["task"]]["project"]))


def _changed(studio: FakeStudio, task_id: int, moment: str) -> None:
    task = studio.tasks[task_id]
    task |= {"updated_at": moment, "is_labeled": _is_answered(studio, task)}


def _annotation(studio: FakeStudio, call: Call) -> dict[str, Any]:
    if call.ids[0] not in studio.annotations:
        raise Refused(404, "No Annotation matches the given query.")
    return studio.annotations[call.ids[0]]


# Webhooks


def list_webhooks(studio: FakeStudio, call: Call) -> Any:
    project = call.query.get("project")
    return [one for one in studio.webhooks.values() if project in (None, str(one["project"]))]


def create_webhook(studio: FakeStudio, call: Call) -> Any:
    is_here = urlsplit(call.body["url"]).hostname in ("127.0.0.1", "localhost", "::1")
    if is_here and not studio.faults.loopback_webhooks:
        raise Refused(403, "URL resolves to a reserved network address (block: 127.0.0.0/8)")
    if call.body["project"] not in studio.projects:
        raise Refused(404, "Project not found.")
    defaults = {"send_payload": True, "send_for_all_actions": True, "headers": {}, "actions": []}
    made = defaults | {"is_active": True} | call.body | {"id": studio.new_id()}
    studio.webhooks[made["id"]] = made
    return made


def delete_webhook(studio: FakeStudio, call: Call) -> Any:
    if call.ids[0] not in studio.webhooks:
        raise Refused(404, "No Webhook matches the given query.")
    del studio.webhooks[call.ids[0]]


def call_webhooks(studio: FakeStudio) -> None:
    """Tells of what happened, inside the request that did it: once each, answered or not."""
    with studio.lock:
        happened, studio.happened = studio.happened, []
        hooks = [] if studio.faults.loses_webhooks else list(studio.webhooks.values())
    for action, project in happened:
        for hook in hooks:
            wanted = hook["send_for_all_actions"] or action in hook["actions"]
            if hook["project"] == project and hook["is_active"] and wanted:
                with suppress(httpx.HTTPError):
                    httpx.post(
                        hook["url"],
                        headers=hook["headers"],
                        json={"action": action},
                        timeout=studio.faults.webhook_seconds,
                        trust_env=False,
                    )


# The server and its people


def version(studio: FakeStudio, call: Call) -> Any:
    return {"release": "1.23.2", "edition": "Community"}


def whoami(studio: FakeStudio, call: Call) -> Any:
    return studio.users[call.user - 1] | {"active_organization": 1}


def list_users(studio: FakeStudio, call: Call) -> Any:
    return studio.users


def refresh(studio: FakeStudio, call: Call) -> Any:
    if call.body.get("refresh", "").count(".") != 2 or "c2lnbmVk" not in call.body["refresh"]:
        raise Refused(401, "Token is invalid or expired")
    return {"access": _jwt("access", seconds=300)}


Handle = Callable[[FakeStudio, "Call"], Any]
ROUTES: list[tuple[str, str, Handle]] = [
    ("GET", r"/api/version", version),
    ("POST", r"/api/token/refresh/", refresh),
    ("GET", r"/api/current-user/whoami", whoami),
    ("GET", r"/api/users/", list_users),
    ("GET", r"/api/projects/", list_projects),
    ("POST", r"/api/projects/", create_project),
    ("GET", r"/api/projects/(\d+)/", get_project),
    ("PATCH", r"/api/projects/(\d+)/", change_project),
    ("DELETE", r"/api/projects/(\d+)/", delete_project),
    ("POST", r"/api/projects/(\d+)/import", import_tasks),
    ("GET", r"/api/projects/(\d+)/imports/(\d+)/", import_job),
    ("GET", r"/api/projects/(\d+)/next", next_task),
    ("GET", r"/api/tasks/", list_tasks),
    ("GET", r"/api/tasks/(\d+)/", get_task),
    ("PATCH", r"/api/tasks/(\d+)/", change_task),
    ("POST", r"/api/dm/views/", create_view),
    ("DELETE", r"/api/dm/views/(\d+)/", delete_view),
    ("POST", r"/api/dm/actions/", act),
    ("POST", r"/api/tasks/(\d+)/annotations/", submit),
    ("PATCH", r"/api/annotations/(\d+)/", change_annotation),
    ("DELETE", r"/api/annotations/(\d+)/", delete_annotation),
    ("GET", r"/api/webhooks/", list_webhooks),
    ("POST", r"/api/webhooks/", create_webhook),
    ("DELETE", r"/api/webhooks/(\d+)/", delete_webhook),
]
OPEN = {"/api/version", "/api/token/refresh/"}


@dataclass(frozen=True)
class Call:
    """One request, taken apart."""

    path: str
    ids: list[int]
    query: dict[str, str]
    body: Any
    user: int


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body in one packet: sent apart, the second waits 40 ms for an acknowledgement.
    wbufsize = -1
    studio: FakeStudio

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        studio = self.studio
        length = int(self.headers.get("Content-Length") or 0)
        content = self.rfile.read(length)
        studio.requests.append(f"{self.command} {self.path}")
        time.sleep(studio.faults.latency)
        try:
            answer = self._answer(content)
        except Refused as refused:
            self._refuse(refused)
        except Cut:
            self._cut()
        else:
            self._send(*answer)

    do_GET = do_POST = do_PATCH = do_DELETE = _serve

    def _answer(self, content: bytes) -> tuple[int, bytes, str]:
        """Status, body and type; the type is the new address of a redirect."""
        faults = self.studio.faults
        if faults.redirect_to:
            return 302, b"", faults.redirect_to
        parts = urlsplit(self.path)
        if len(self.path) > faults.longest_url:
            raise Refused(414, html=True)
        user = self._user(parts.path)
        if self.command == "GET" and _used_up(faults, "failing_reads"):
            raise Refused(500, "the fake server was told to fail")
        if self.command == "GET" and _used_up(faults, "html_reads"):
            return 200, b"<html>Please log in</html>", "text/html"
        body = json.loads(content) if content else None
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        with self._trouble(parts.path):
            answer = self._dispatch(parts.path, query, body, user)
        if answer is None:
            return 204, b"", ""
        created = self.command == "POST" and parts.path not in OPEN
        return 201 if created else 200, json.dumps(answer).encode(), ""

    @contextmanager
    def _trouble(self, path: str) -> Iterator[None]:
        """What happens before and after something is stored or listed."""
        faults = self.studio.faults
        importing = path.endswith("/import")
        changing = self.command == "PATCH" and path.startswith("/api/tasks/")
        if changing and _used_up(faults, "failing_changes"):
            raise Refused(500, "the fake server was told to fail")
        if importing and _used_up(faults, "cut_before_storing"):
            raise Cut
        if importing:
            time.sleep(faults.store_delay)
        yield
        if path == "/api/tasks/" and faults.between_pages:
            hook, faults.between_pages = faults.between_pages, None
            hook()
        if importing and _used_up(faults, "cut_after_storing"):
            raise Cut
        if changing and _used_up(faults, "cut_after_changing"):
            raise Cut
        if importing and _used_up(faults, "fail_after_storing"):
            raise Refused(500, "the fake server was told to fail")

    def _dispatch(self, path: str, query: dict[str, str], body: Any, user: int) -> Any:
        for method, pattern, handle in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and method == self.command:
                call = Call(path, [int(one) for one in found.groups()], query, body, user)
                with self.studio.lock:
                    answer = handle(self.studio, call)
                call_webhooks(self.studio)
                return answer
        raise Refused(404, html=True)

    def _user(self, path: str) -> int:
        """Whose token the request carries; personal ones are the first person's."""
        if path in OPEN:
            return 1
        kind, _, token = (self.headers.get("Authorization") or "").partition(" ")
        fresh = kind == "Bearer" and token.count(".") == 2 and token not in self.studio.spent_tokens
        if self.studio.faults.access_tokens_expire:
            self.studio.spent_tokens.add(token)
        if fresh:
            return 1
        for user in self.studio.users if kind == "Token" else []:
            if token == self.studio.token_of(user["id"]):
                return int(user["id"])
        raise Refused(401, "Invalid token.")

    def _cut(self) -> None:
        # A reset, as from a process that was killed; an orderly end would look like an answer.
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        self.connection.close()

    def _refuse(self, refused: Refused) -> None:
        if refused.html:
            self._send(refused.status, HTML_404.encode(), "text/html; charset=utf-8")
            return
        body = {"status_code": refused.status, "version": "1.23.2", "detail": refused.detail}
        if refused.errors is not None:
            body["validation_errors"] = refused.errors
        self._send(refused.status, json.dumps(body).encode(), "")

    def _send(self, status: int, content: bytes, what: str) -> None:
        try:
            self.send_response(status)
            if status == 302:
                self.send_header("Location", what)
            elif content:
                self.send_header("Content-Type", what or "application/json")
            self.send_header("Set-Cookie", "sessionid=canary-cookie; HttpOnly")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True


_COUNTING = threading.Lock()


def _used_up(faults: Faults, name: str) -> bool:
    with _COUNTING:
        left = getattr(faults, name)
        setattr(faults, name, max(left - 1, 0))
    return bool(left > 0)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A burst of clients in a fault test must not be refused by a short queue.
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed in the middle of a request is no error of ours."""


@contextmanager
def fake_studio(port: int = 0) -> Iterator[FakeStudio]:
    """A running fake server on loopback; it forgets everything at the end."""
    studio = FakeStudio()
    handler = type("Handler", (_Handler,), {"studio": studio})
    server = _Server(("127.0.0.1", port), handler)
    studio.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield studio
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def main() -> None:
    with fake_studio() as studio:
        print(f"LABEL_STUDIO_URL={studio.url} LABEL_STUDIO_API_KEY={studio.token}", flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
