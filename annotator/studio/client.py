"""The border to Label Studio: plain data in and out, one family of errors.

Nothing else imports label_studio_sdk. From the SDK we take what is tiresome to do well: both kinds
of token, the refresh of access tokens, retries. Its typed methods are left alone, because they
parse every task into models, page until a 404, and put session cookies into their errors; all
requests go through the SDK's own HTTP client instead, in `_attempt`.

What an error tells a caller who has just written something:

- StudioRejected, StudioDenied, StudioNotFound: nothing was stored.
- StudioUnreachable, StudioFailed: it may have been stored, or still be on its way.

Reads are repeated by this module, and the one write that says the same however often it is sent:
`set_task_overlap`. No other write ever is.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar
from urllib.parse import urlsplit

from annotator.errors import (
    ConfigError,
    StudioDenied,
    StudioError,
    StudioFailed,
    StudioNotFound,
    StudioRejected,
    StudioUnreachable,
)
from annotator.studio.screen import TASK_KEY

if TYPE_CHECKING:
    import httpx
    from label_studio_sdk import LabelStudio

TokenKind = Literal["personal", "legacy"]
Read = TypeVar("Read")

CONNECT_SECONDS = 10.0
READ_SECONDS = 120.0
# A write waits behind others for the server's database; waits of a minute and a half were seen.
WRITE_SECONDS = 600.0
READ_RETRIES = 2

IMPORT_TASKS = 10_000
IMPORT_BYTES = 64 * 2**20
# The server itself breaks above 250 MiB, with an error that says nothing of size.
TASK_BYTES = 200 * 2**20
IMPORT_POLL_SECONDS = 1.0
IMPORT_WAIT_SECONDS = 600.0

FIRST_PAGE = 500
LARGEST_PAGE = 1_000
PAGE_BYTES = 16 * 2**20
PROJECTS_PAGE = 100

KEYS_A_PAGE = 1_000
# Longer than most proxies take (8 kB), shorter than the server's own limit (64 kB); a refused
# address is asked for again as a saved view.
QUERY_CHARS = 16_000
SHORT_QUERY_CHARS = 2_000
TOO_LONG = frozenset({400, 413, 414, 431})

TITLE_CHARS = 50
_LONGEST_DETAIL = 300
_JWT = re.compile(r"eyJ[\w-]{8,}\.[\w-]+\.[\w-]*")
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class ServerInfo:
    """Which Label Studio answers, and which kind of token we hold for it."""

    version: str
    edition: str
    token_kind: TokenKind


@dataclass(frozen=True)
class Person:
    """Someone who may log in. `name` falls back to the address."""

    id: int
    email: str
    name: str


@dataclass(frozen=True)
class ProjectInfo:
    """A project as the server has it. `overlap` is how many people are asked about each task.

    `n_annotations` leaves skips out; `n_skips` counts those.
    """

    id: int
    title: str
    description: str
    n_tasks: int
    n_annotations: int
    n_skips: int
    overlap: int
    config_xml: str


@dataclass(frozen=True)
class TaskRef:
    """A task on the server. `n_annotations` counts answers and skips."""

    id: int
    n_annotations: int


@dataclass(frozen=True)
class OpenTask:
    """The task that the server would show us next."""

    id: int
    key: str | None
    data: dict[str, Any]


@dataclass(frozen=True)
class ChangedTask:
    """A task with all its annotations. `key` is None for a task that is not ours.

    An annotation is the server's own JSON: id, result, completed_by (the annotator's id),
    was_cancelled, ground_truth, lead_time in seconds, created_at, updated_at, and where it came
    from. `updated_at` is the server's, in UTC, with a trailing Z.
    """

    id: int
    key: str | None
    updated_at: str
    annotations: list[dict[str, Any]]


@dataclass(frozen=True)
class Webhook:
    """An address that the server calls when something happens in a project."""

    id: int
    url: str
    headers: dict[str, str] = field(repr=False)
    actions: frozenset[str]
    is_active: bool


class Studio:
    """A Label Studio server, spoken to with one token.

    `token` is a personal access token or a legacy one. Nothing is sent before the first call.
    `httpx_client` takes the place of our own client; its time limits are overruled. Raises
    ConfigError when the address or the token cannot be one.
    """

    def __init__(self, url: str, token: str, *, httpx_client: httpx.Client | None = None) -> None:
        self.url = _checked_url(url)
        self._token = _checked_token(token)
        self._token_is_personal = self._token.count(".") == 2
        self._http = httpx_client
        self._owns_http = httpx_client is None
        self._sdk: LabelStudio | None = None
        self._long_queries_refused = False

    def __repr__(self) -> str:
        return f"Studio({self.url!r})"

    def __enter__(self) -> Studio:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections, unless they belong to a client that was handed in."""
        if self._owns_http and self._http is not None:
            self._http.close()
            self._http = self._sdk = None

    # The server and its people

    def server(self) -> ServerInfo:
        """The server's version and edition; it needs no valid token."""
        found = self._ask("GET", "api/version", read=dict)
        return ServerInfo(
            version=str(found.get("release", "unknown")),
            edition=str(found.get("edition", "unknown")),
            token_kind="personal" if self._token_is_personal else "legacy",
        )

    def server_time(self) -> datetime | None:
        """The server's clock when it answered, in whole seconds; None where it tells none."""
        response = self._send("GET", "api/version")
        self._read(response, "GET api/version", _nothing)
        try:
            told = parsedate_to_datetime(response.headers.get("date", ""))
        except ValueError:
            return None
        return told if told.tzinfo else told.replace(tzinfo=UTC)

    def whoami(self) -> Person:
        """The person whose token this is; raises StudioDenied when it is nobody's."""
        return self._ask("GET", "api/current-user/whoami", read=_person)

    def people(self) -> list[Person]:
        """Everyone in the organisation."""
        return self._ask("GET", "api/users/", read=_people)

    # Projects

    def find_project(self, mark: str) -> ProjectInfo | None:
        """The project whose description holds the mark; the oldest where several do."""
        ids = [found for found, description in self._descriptions() if mark in description.split()]
        return self.project(min(ids)) if ids else None

    def _descriptions(self) -> Iterator[tuple[int, str]]:
        params = {"include": "id,description", "page_size": PROJECTS_PAGE}
        seen, page = 0, 1
        while True:
            total, found = self._ask(
                "GET", "api/projects/", params=params | {"page": page}, read=_project_page
            )
            yield from found
            seen, page = seen + len(found), page + 1
            if seen >= total or not found:
                return

    def create_project(
        self, title: str, mark: str, config_xml: str, overlap: int, *, instructions: str = ""
    ) -> ProjectInfo:
        """A new project that shows tasks in the order of import and shows no predictions.

        `mark` goes into the description, so that `find_project` finds the project again when
        the answer to this call is lost. A skipped task goes to somebody else. A title is cut
        after 50 characters, the server's limit. `instructions` are shown before the first task.
        """
        if not mark or mark.split() != [mark]:
            raise ValueError(f"a mark is one word, not {mark!r}")
        settings = {
            "title": title[:TITLE_CHARS].strip(),
            "description": f"Pairs to compare, sent by annotator. Please keep this mark: {mark}",
            "label_config": config_xml,
            "maximum_annotations": overlap,
            "sampling": "Sequential sampling",
            "skip_queue": "REQUEUE_FOR_OTHERS",
            "show_skip_button": True,
            "enable_empty_annotation": False,
            # A prediction would fill in the answer before anyone has read the texts.
            "show_collab_predictions": False,
            "expert_instruction": instructions,
            "show_instruction": bool(instructions),
        }
        made = self._ask("POST", "api/projects/", body=settings, read=_project)
        # Some releases take the overlap only from a later change.
        return made if made.overlap == overlap else self.set_overlap(made.id, overlap)

    def set_overlap(self, project_id: int, overlap: int) -> ProjectInfo:
        """Changes how many people are asked about each task."""
        body = {"maximum_annotations": overlap}
        return self._ask("PATCH", f"api/projects/{project_id}/", body=body, read=_project)

    def project(self, project_id: int) -> ProjectInfo:
        """One project with its counts; raises StudioNotFound when there is none."""
        return self._ask("GET", f"api/projects/{project_id}/", read=_project)

    def delete_project(self, project_id: int) -> None:
        """Deletes a project with its tasks and annotations."""
        self._ask("DELETE", f"api/projects/{project_id}/", read=_nothing)

    # Tasks

    def import_tasks(self, project_id: int, data: Sequence[dict[str, Any]]) -> list[int] | None:
        """The ids of new tasks, in the order of `data`; None where the server gives none.

        Large imports are cut into several calls, at most IMPORT_TASKS tasks and IMPORT_BYTES
        each; each call stores all of its tasks or none, so that earlier calls stay stored when
        a later one fails. The server does not de-duplicate, and
        imports at the same time stall one another: hold a lock. Other editions import in the
        background: we wait up to ten minutes, and the tasks' keys tell what has arrived.
        """
        ids: list[int] = []
        complete = True
        for body in _import_bodies(data):
            found = self._import(project_id, body)
            complete = complete and found is not None
            ids += found or []
        return ids if complete and len(ids) == len(data) else None

    def _import(self, project_id: int, body: bytes) -> list[int] | None:
        answer = self._ask(
            "POST",
            f"api/projects/{project_id}/import",
            params={"return_task_ids": "true"},
            body=body,
            read=_import_state,
        )
        deadline = time.monotonic() + IMPORT_WAIT_SECONDS
        while answer.job is not None and not answer.over and time.monotonic() < deadline:
            time.sleep(IMPORT_POLL_SECONDS)
            path = f"api/projects/{project_id}/imports/{answer.job}/"
            answer = self._ask("GET", path, read=_import_state)
        if answer.problem is not None:
            raise StudioRejected(
                f"the import into project {project_id} failed: {self._clean(answer.problem)}",
                todo="correct the tasks that the server names",
            )
        return answer.ids

    def tasks_by_key(self, project_id: int, keys: Collection[str]) -> dict[str, list[TaskRef]]:
        """The tasks that carry each key, lowest id first; a key without a task is left out."""
        wanted = dict.fromkeys(keys)
        if len(wanted) > KEYS_A_PAGE and self.project(project_id).n_tasks <= 2 * len(wanted):
            tasks: Iterable[_ListedTask] = self._listing(project_id, [])
        else:
            tasks = self._look_up(project_id, list(wanted))
        found: dict[str, list[TaskRef]] = {}
        for task in tasks:
            if task.key is not None and task.key in wanted:
                found.setdefault(task.key, []).append(TaskRef(task.id, task.n_annotations))
        return found

    def _look_up(self, project_id: int, keys: list[str]) -> Iterator[_ListedTask]:
        for page in _pages_of_keys(keys):
            of_page = _filter(f"data.{TASK_KEY}", "in_list", "List", page)
            yield from self._listing(project_id, [of_page])

    def all_task_keys(self, project_id: int) -> dict[int, str]:
        """The key of every task that has one, by the task's id, in the order of ids."""
        tasks = self._listing(project_id, [])
        return {task.id: task.key for task in tasks if task.key is not None}

    def _listing(self, project_id: int, filters: list[dict[str, Any]]) -> Iterator[_ListedTask]:
        """Each task once. Pages go by id, not by number, so that deletions shift nothing."""
        after: list[dict[str, Any]] = []
        size = FIRST_PAGE
        while True:
            params = {"project": project_id, "page_size": size} | _WITHOUT_ANNOTATIONS
            page = self._task_page(params, filters + after, "id", _listed_task)
            yield from page.tasks
            if page.is_last:
                return
            after = [_filter("id", "greater", "Number", page.tasks[-1].id)]
            size = page.next_size()

    def changed_tasks(self, project_id: int, since: str | None = None) -> Iterator[ChangedTask]:
        """Tasks whose `updated_at` is later than `since`, oldest change first.

        `since` is an `updated_at` that an earlier call gave, or None for every task. Creating,
        editing, skipping and deleting annotations all count as changes; drafts and the deletion
        of a task do not. One request where FIRST_PAGE tasks are enough. A task that changes
        while the pages are read comes again, later, with its new state.
        """
        seen: set[tuple[int, str]] = set()
        after = None if since is None else datetime.fromisoformat(since)
        size = FIRST_PAGE
        while True:
            params = {"project": project_id, "page_size": size} | _WITH_ANNOTATIONS
            page = self._task_page(params, _changed_after(after), "updated_at", _changed_task)
            fresh = [task for task in page.tasks if (task.id, task.updated_at) not in seen]
            yield from fresh
            if page.is_last:
                return
            # Pages go by time, not by number: a task that changes meanwhile moves to the end and
            # would push another one over the edge of a numbered page, unseen. Tasks changed in
            # the same microsecond may lie on both sides of the edge, so the next page starts
            # just before it, and grows when it brings nothing new.
            if not fresh and len(page.tasks) < size:
                raise StudioFailed(
                    f"Label Studio at {self.url} lists at most {len(page.tasks)} tasks at once, "
                    "and more than that were changed in the same moment",
                    todo="raise TASK_API_PAGE_SIZE_MAX in the server's settings",
                )
            seen.update((task.id, task.updated_at) for task in fresh)
            after = datetime.fromisoformat(page.tasks[-1].updated_at) - _MICROSECOND
            size = page.next_size() if fresh else 2 * len(page.tasks)

    def delete_tasks(self, project_id: int, ids: Collection[int]) -> None:
        """Deletes these tasks of the project with their annotations; ids that are gone are fine."""
        if ids:
            self._ask(
                "POST",
                "api/dm/actions/",
                params={"id": "delete_tasks", "project": project_id},
                body={"selectedItems": {"all": False, "included": list(ids)}},
                read=_nothing,
            )

    def set_task_overlap(self, task_id: int, overlap: int) -> None:
        """Asks `overlap` people about this task, whatever its project says.

        The server then offers it to people who have not answered it, until so many have; those who
        have are never asked again. A skip takes nobody's place. Saying it twice changes nothing.
        Raises StudioNotFound when there is no such task.
        """
        # The flag is what the label stream goes by first, and no change of the overlap takes it
        # back; a task that enough people have answered stays closed whatever it says.
        body = {"overlap": overlap, "is_labeled": False}
        path = f"api/tasks/{task_id}/"
        response = self._send("PATCH", path, body=body, repeatable=True)
        self._read(response, f"PATCH {path}", _nothing)

    def next_task(self, project_id: int) -> OpenTask | None:
        """The task that the server would give us to label next; None when all are done."""
        response = self._send("GET", f"api/projects/{project_id}/next")
        if response.status_code == 404 and "There are no tasks" in _detail(response):
            return None
        return self._read(response, "GET next task", _open_task)

    # Annotations

    def submit(
        self,
        task_id: int,
        result: list[dict[str, Any]],
        *,
        completed_by: int | None = None,
        cancelled: bool = False,
        lead_seconds: float | None = None,
    ) -> int:
        """The id of a new annotation. `completed_by` needs an administrator's token."""
        body: dict[str, Any] = {"result": result, "was_cancelled": cancelled}
        if completed_by is not None:
            body["completed_by"] = completed_by
        if lead_seconds is not None:
            body["lead_time"] = lead_seconds
        return self._ask("POST", f"api/tasks/{task_id}/annotations/", body=body, read=_new_id)

    def edit_annotation(
        self, annotation_id: int, result: list[dict[str, Any]], *, cancelled: bool = False
    ) -> None:
        """Replaces what an annotation says; who made it stays."""
        body = {"result": result, "was_cancelled": cancelled}
        self._ask("PATCH", f"api/annotations/{annotation_id}/", body=body, read=_nothing)

    def delete_annotation(self, annotation_id: int) -> None:
        """Deletes one annotation."""
        self._ask("DELETE", f"api/annotations/{annotation_id}/", read=_nothing)

    # Webhooks

    def webhooks(self, project_id: int) -> list[Webhook]:
        """The webhooks of one project, lowest id first."""
        params = {"project": project_id}
        return self._ask("GET", "api/webhooks/", params=params, read=_webhooks)

    def create_webhook(
        self, project_id: int, url: str, headers: dict[str, str], actions: Sequence[str]
    ) -> int:
        """The id of a new webhook that names these actions of the project and tells no more.

        The server sends each call once, within a second, and forgets it. Raises StudioDenied where
        it does not call such an address, as by default none on this machine or in a private
        network. Whoever may see the project can read the headers.
        """
        body = {
            "project": project_id,
            "url": url,
            "headers": headers,
            "actions": list(actions),
            "send_payload": False,
            "send_for_all_actions": False,
            "is_active": True,
        }
        return self._ask("POST", "api/webhooks/", body=body, read=_new_id)

    def delete_webhook(self, webhook_id: int) -> None:
        """Deletes one webhook; one that is gone is fine."""
        with suppress(StudioNotFound):
            self._ask("DELETE", f"api/webhooks/{webhook_id}/", read=_nothing)

    # Lists of tasks

    def _task_page(
        self,
        params: dict[str, Any],
        filters: list[dict[str, Any]],
        ordering: str,
        read: Callable[[dict[str, Any]], Read],
    ) -> _Page[Read]:
        query: dict[str, Any] = {"ordering": [f"tasks:{ordering}"]}
        if filters:
            query["filters"] = {"conjunction": "and", "items": filters}
        response = self._ask_for_page(params, query)

        def page(answer: dict[str, Any]) -> _Page[Read]:
            tasks = [read(task) for task in answer["tasks"]]
            return _Page(tasks, total=int(answer["total"]), n_bytes=len(response.content))

        return self._read(response, "GET api/tasks/", page)

    def _ask_for_page(self, params: dict[str, Any], query: dict[str, Any]) -> httpx.Response:
        text = json.dumps(query, separators=(",", ":"))
        if len(text) <= SHORT_QUERY_CHARS:
            return self._send("GET", "api/tasks/", params=params | {"query": text})
        if not self._long_queries_refused:
            response = self._send("GET", "api/tasks/", params=params | {"query": text})
            if response.status_code not in TOO_LONG:
                return response
            self._long_queries_refused = True
        return self._page_through_view(params, query)

    def _page_through_view(self, params: dict[str, Any], query: dict[str, Any]) -> httpx.Response:
        body = {"project": params["project"], "data": {"title": "annotator look-up"} | query}
        view = self._ask("POST", "api/dm/views/", body=body, read=_new_id)
        try:
            return self._send("GET", "api/tasks/", params=params | {"view": view})
        finally:
            # A view that stays behind is a tab too many in the data manager, no more.
            with suppress(StudioError):
                self._ask("DELETE", f"api/dm/views/{view}/", read=_nothing)

    # Requests

    def _ask(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, Any] | None = None,
        body: Any = None,
        read: Callable[[Any], Read],
    ) -> Read:
        response = self._send(method, path, params=params, body=body)
        return self._read(response, f"{method} {path}", read)

    def _send(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, Any] | None = None,
        body: Any = None,
        repeatable: bool = False,
    ) -> httpx.Response:
        content = body if body is None or isinstance(body, bytes) else _encoded(body)
        retries = READ_RETRIES if method == "GET" or repeatable else 0
        response = self._attempt(method, path, params, content, retries)
        if response.status_code == 401 and self._token_is_personal:
            # An access token that ran out on the way, or a clock that disagrees with the
            # server's: nothing was done, and a new client asks for a new access token.
            self._sdk = None
            response = self._attempt(method, path, params, content, retries)
        return response

    def _attempt(
        self,
        method: str,
        path: str,
        params: dict[str, Any] | None,
        content: bytes | None,
        retries: int,
    ) -> httpx.Response:
        import httpx
        from label_studio_sdk.core.api_error import ApiError

        seconds = READ_SECONDS if method == "GET" else WRITE_SECONDS
        # The SDK hands the limit to httpx as it is, although it declares a number.
        options: Any = {
            "timeout": httpx.Timeout(seconds, connect=CONNECT_SECONDS),
            "max_retries": retries,
        }
        try:
            return self._connected()._client_wrapper.httpx_client.request(
                path,
                method=method,
                params=params,
                content=content,
                headers={"Content-Type": "application/json"} if content is not None else None,
                request_options=options,
            )
        except ApiError as error:
            failure = self._failure(error.status_code or 401, "token refresh", _text(error.body))
        except httpx.TimeoutException:
            failure = self._silent(f"no answer within {seconds:.0f} s")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            failure = self._silent(self._clean(str(error)) or type(error).__name__)
        except ValueError:
            failure = self._no_json("token refresh", "something else")
        # Raised here and not above, so that it does not drag along the SDK's error, which prints
        # headers, or httpx's, which holds the request with the token.
        raise failure

    def _connected(self) -> LabelStudio:
        if self._sdk is None:
            import httpx
            from label_studio_sdk import LabelStudio

            if self._http is None:
                timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
                # A proxy out of the environment cannot reach a server on this machine.
                self._http = httpx.Client(timeout=timeout, trust_env=not _is_loopback(self.url))
            # With the slash, since the refresh would cut off the last part of the address.
            self._sdk = LabelStudio(  # type: ignore[no-untyped-call]
                base_url=f"{self.url}/", api_key=self._token, httpx_client=self._http
            )
        return self._sdk

    # Answers

    def _read(self, response: httpx.Response, what: str, read: Callable[[Any], Read]) -> Read:
        """What `read` makes of the answer's JSON; raises what the answer's status stands for."""
        status = response.status_code
        if 300 <= status < 400:
            raise self._redirected(what, response.headers.get("location", "nowhere"))
        if status >= 400:
            raise self._failure(status, what, _detail(response))
        try:
            answer = response.json() if response.content else None
        except ValueError:
            found = self._clean(response.headers.get("content-type", "text of no stated type"))
        else:
            try:
                return read(answer)
            except (AttributeError, LookupError, TypeError, ValueError):
                found = "JSON that is not Label Studio's"
        raise self._no_json(what, found)

    def _redirected(self, what: str, where: str) -> StudioFailed:
        return StudioFailed(
            f"{self.url} answers {what} with a redirect to {self._clean(where)}",
            expected="an answer of Label Studio",
            todo="set LABEL_STUDIO_URL to the address that it redirects to",
        )

    def _failure(self, status: int, what: str, detail: str) -> StudioError:
        answer = f"Label Studio at {self.url} answers {status} to {what}"
        kind, todo = _ERRORS.get(status, (None, ""))
        if kind is None:
            kind = StudioRejected if status in range(400, 500) else StudioFailed
            todo = "look into the server's log" if kind is StudioFailed else ""
        return kind(f"{answer}: {self._clean(detail)}" if detail else answer, todo=todo)

    def _silent(self, reason: str) -> StudioUnreachable:
        return StudioUnreachable(
            f"Label Studio at {self.url} gives no answer: {reason}",
            todo="start it (`annotator studio up` starts a local one) or check LABEL_STUDIO_URL",
        )

    def _no_json(self, what: str, found: str) -> StudioFailed:
        return StudioFailed(
            f"Label Studio at {self.url} answers {what} with {found}",
            expected="JSON of Label Studio",
            todo="check that LABEL_STUDIO_URL is the root of the server, with no proxy or "
            "log-in page before it",
        )

    def _clean(self, text: str) -> str:
        """The text, cut, without any token that the server or a library may have repeated."""
        return _cut(_JWT.sub("[token]", text.replace(self._token, "[token]")))


@dataclass(frozen=True)
class _ListedTask:
    id: int
    key: str | None
    n_annotations: int


@dataclass(frozen=True)
class _Page(Generic[Read]):
    """Some tasks of a list; `total` counts the list from here on, these included."""

    tasks: list[Read]
    total: int
    n_bytes: int

    @property
    def is_last(self) -> bool:
        return len(self.tasks) >= self.total or not self.tasks

    def next_size(self) -> int:
        """How many tasks to ask for next, so that long texts make no page of hundreds of MB."""
        fitting = PAGE_BYTES * len(self.tasks) // max(self.n_bytes, 1)
        return max(1, min(LARGEST_PAGE, fitting))


@dataclass(frozen=True)
class _ImportState:
    """An import: its tasks' ids if they were told, and its job where it runs in the background."""

    ids: list[int] | None
    job: int | None
    over: bool
    problem: str | None


# Only the fields that are used, which halves the server's work. The server applies the list to the
# annotations inside a task too, so it names theirs as well; "2 minutes ago" is left out.
# Without the last setting a response such as "s3://..." would come back as another address.
_ANNOTATION_FIELDS = (
    "result,completed_by,updated_by,was_cancelled,ground_truth,created_at,lead_time,"
    "parent_prediction,parent_annotation"
)
_WITHOUT_ANNOTATIONS = {
    "fields": "task_only",
    "include": "id,data,total_annotations,cancelled_annotations",
    "resolve_uri": "false",
}
_WITH_ANNOTATIONS = {
    "fields": "all",
    "include": f"id,data,updated_at,annotations,{_ANNOTATION_FIELDS}",
    "resolve_uri": "false",
}

_ERRORS: dict[int, tuple[type[StudioError], str]] = {
    408: (StudioFailed, "try again later"),
    429: (StudioFailed, "try again later; the server takes no more requests for now"),
    401: (
        StudioDenied,
        "set LABEL_STUDIO_API_KEY to a token from Account & Settings in Label Studio; a personal "
        "access token always works, a legacy token only where the organisation allows it",
    ),
    403: (StudioDenied, "ask the server's administrator for access"),
    404: (StudioNotFound, "check the id, and that LABEL_STUDIO_URL is the root of the server"),
}


def _checked_url(url: str) -> str:
    stripped = url.strip().rstrip("/")
    try:
        parts = urlsplit(stripped)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        usable = False
    # A user name in the address would be sent in the place of the token.
    if not usable or not set("@?#").isdisjoint(stripped):
        shown = repr(stripped) if set("@?#").isdisjoint(stripped) else "(which may hold a secret)"
        raise ConfigError(
            f"the address of Label Studio {shown} cannot be used",
            expected="something like http://localhost:8080, with no user name and no query",
            todo="set LABEL_STUDIO_URL to it; the token belongs into LABEL_STUDIO_API_KEY",
        )
    return stripped


def _checked_token(token: str) -> str:
    stripped = token.strip()
    if not stripped or not all("!" <= letter <= "~" for letter in stripped):
        raise ConfigError(
            "the API key of Label Studio is empty"
            if not stripped
            else "the API key of Label Studio holds a blank or a letter that no key has",
            expected="the key, exactly as Label Studio shows it",
            todo="set LABEL_STUDIO_API_KEY",
        )
    return stripped


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _nothing(_: object) -> None:
    return None


def _new_id(found: dict[str, Any]) -> int:
    return int(found["id"])


def _person(found: dict[str, Any]) -> Person:
    email = found.get("email") or ""
    full_name = f"{found.get('first_name') or ''} {found.get('last_name') or ''}".strip()
    return Person(_new_id(found), email=email, name=full_name or found.get("username") or email)


def _people(found: list[dict[str, Any]]) -> list[Person]:
    return [_person(one) for one in found]


def _project_page(found: dict[str, Any]) -> tuple[int, list[tuple[int, str]]]:
    rows = [(_new_id(one), one.get("description") or "") for one in found["results"]]
    return int(found["count"]), rows


def _project(found: dict[str, Any]) -> ProjectInfo:
    return ProjectInfo(
        id=_new_id(found),
        title=found.get("title") or "",
        description=found.get("description") or "",
        n_tasks=found.get("task_number") or 0,
        n_annotations=found.get("total_annotations_number") or 0,
        n_skips=found.get("skipped_annotations_number") or 0,
        overlap=found.get("maximum_annotations") or 1,
        config_xml=found.get("label_config") or "",
    )


def _import_state(found: dict[str, Any]) -> _ImportState:
    status = found.get("status")
    job = found.get("import", found.get("id"))
    return _ImportState(
        ids=[int(task_id) for task_id in found.get("task_ids") or []] or None,
        job=None if job is None else int(job),
        over=status in ("completed", "failed"),
        problem=str(found.get("error") or "no reason given") if status == "failed" else None,
    )


def _key(task: dict[str, Any]) -> str | None:
    key = task["data"].get(TASK_KEY)
    return key if isinstance(key, str) else None


def _listed_task(task: dict[str, Any]) -> _ListedTask:
    n_annotations = task["total_annotations"] + task["cancelled_annotations"]
    return _ListedTask(_new_id(task), _key(task), int(n_annotations))


def _changed_task(task: dict[str, Any]) -> ChangedTask:
    return ChangedTask(
        _new_id(task), _key(task), str(task["updated_at"]), list(task["annotations"])
    )


def _open_task(task: dict[str, Any]) -> OpenTask:
    return OpenTask(_new_id(task), _key(task), dict(task["data"]))


def _webhooks(found: list[dict[str, Any]]) -> list[Webhook]:
    return sorted((_webhook(one) for one in found), key=lambda webhook: webhook.id)


def _webhook(found: dict[str, Any]) -> Webhook:
    return Webhook(
        id=_new_id(found),
        url=str(found["url"]),
        headers={str(name): str(value) for name, value in (found.get("headers") or {}).items()},
        actions=frozenset(found.get("actions") or []),
        is_active=bool(found.get("is_active")),
    )


def _changed_after(moment: datetime | None) -> list[dict[str, Any]]:
    if moment is None:
        return []
    # The server reads this form and no other; it leaves out zero microseconds when it writes.
    text = moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return [_filter("updated_at", "greater", "Datetime", text)]


def _filter(field: str, operator: str, kind: str, value: Any) -> dict[str, Any]:
    return {
        "filter": f"filter:tasks:{field}",
        "operator": operator,
        "type": kind,
        "value": value,
    }


def _pages_of_keys(keys: list[str]) -> Iterator[list[str]]:
    """The keys in order, each page short enough for one address."""
    page: list[str] = []
    chars = 0
    for key in keys:
        cost = len(key) + len("%22%22%2C")
        if page and (chars + cost > QUERY_CHARS or len(page) == KEYS_A_PAGE):
            yield page
            page, chars = [], 0
        page.append(key)
        chars += cost
    if page:
        yield page


def _import_bodies(data: Sequence[dict[str, Any]]) -> Iterator[bytes]:
    """Bodies of import calls, in the order of `data`."""
    body: list[bytes] = []
    n_bytes = 0
    for task in data:
        item = _encoded({"data": task})
        if len(item) > TASK_BYTES:
            raise StudioRejected(
                f"a task of {len(item) / 2**20:.0f} MiB (key {task.get(TASK_KEY)!r})",
                expected=f"at most {TASK_BYTES / 2**20:.0f} MiB, which is what the server takes",
                todo="leave out pairs with such long texts",
            )
        if body and (n_bytes + len(item) > IMPORT_BYTES or len(body) == IMPORT_TASKS):
            yield b"[" + b",".join(body) + b"]"
            body, n_bytes = [], 0
        body.append(item)
        n_bytes += len(item) + 1
    if body:
        yield b"[" + b",".join(body) + b"]"


def _encoded(body: Any) -> bytes:
    text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode()


def _detail(response: httpx.Response) -> str:
    """What the server says is wrong, on one line; empty where it answers with a page."""
    if "json" not in response.headers.get("content-type", ""):
        return ""
    try:
        return _text(response.json())
    except ValueError:
        return ""


def _text(body: object) -> str:
    if not isinstance(body, dict):
        return str(body or "")
    said = [str(body.get("detail") or ""), *_problems(body.get("validation_errors"))]
    return "; ".join(part for part in said if part)


def _problems(errors: object) -> Iterator[str]:
    """The texts in `validation_errors`, which has {} in the place of each row that is fine."""
    if isinstance(errors, dict):
        for field, inner in errors.items():
            name = "" if field == "non_field_errors" else f"{field}: "
            yield from (f"{name}{problem}" for problem in _problems(inner))
    elif isinstance(errors, list):
        for inner in errors:
            yield from _problems(inner)
    elif errors:
        yield str(errors)


def _cut(text: object) -> str:
    line = " ".join(str(text or "").split())
    return line if len(line) <= _LONGEST_DETAIL else line[:_LONGEST_DETAIL] + " …"
