"""Owner of the table tasks: every pick reaches Label Studio once, whatever is killed when.

    pending  recorded with its pick, never sent, or proved not to have arrived
    sent     about to be sent, or sent and unanswered: committed before the request
    stored   the server gave it an id
    swept    after the push exactly one task on the server had its key
    conflict several tasks have its key and more than one was answered: a person decides
    gone     was stored and has since been deleted on the server

The server knows no idempotency key, so three things together make a push repeatable: the key in
the task's data, a grace period before anything that may still be on its way is sent again, and
a count after each push. Looking the key up is not enough by itself, since the first request may
be running while we look.

A task that shall get more votes than its project asks for is told so in place. `overlap` is what is
wanted, `overlap_told` what the server has confirmed; where they differ it is told, as often as it
takes: saying it again changes nothing there.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotator.errors import StudioError, StudioFailed, StudioNotFound, StudioUnreachable
from annotator.store import hold_lock, now, writing
from annotator.studio.projects import (
    StudioProject,
    check_present,
    living_projects,
    projects_on,
    record_foreign,
)

if TYPE_CHECKING:
    from sqlite_utils import Database

    from annotator.studio.client import Studio, TaskRef

TASKS_PER_IMPORT = 10_000
# Far under the 64 MiB at which the client would cut a request in two, even where every
# character takes several bytes.
CHARS_PER_IMPORT = 8_000_000
SETTLE_POLL_SECONDS = 2.0

# Each raise is a request of its own, 0.1 to 0.2 s of the server's processor. Four at once took 0.57
# to 0.79 of the time of one after the other (Label Studio 1.23.2, two cores).
RAISES_AT_ONCE = 4
RAISES_PER_COMMIT = 8

# (task_key, payload) of the rows asked for; the caller knows texts and sides, we do not.
Payloads = Callable[[list[int]], dict[int, dict[str, Any]]]


@dataclass
class PushReport:
    """What a push did: tasks stored now, found to be there already, duplicates removed, raised to
    more votes."""

    stored: int = 0
    found: int = 0
    removed: int = 0
    conflicts: list[str] = field(default_factory=list)
    gone: int = 0
    raised: int = 0
    seconds: float = 0.0

    def add(self, other: PushReport) -> None:
        """Takes in what another push did."""
        self.stored += other.stored
        self.found += other.found
        self.removed += other.removed
        self.conflicts += other.conflicts
        self.gone += other.gone
        self.raised += other.raised
        self.seconds += other.seconds


@contextmanager
def server_lock(url: str) -> Iterator[None]:
    """One push at a time per server and user, since parallel imports stall Label Studio.

    What keeps a task from being sent twice is not this lock but the claim in `_claim`.
    """
    name = hashlib.sha256(url.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"annotator-push-{os.getuid()}-{name}.lock"
    with hold_lock(path, f"a push to {url}", wait_seconds=3600):
        yield


def queue_tasks(db: Database, task_keys: list[tuple[int, str]]) -> None:
    """Records (pick id, task key) as pending, in the transaction that records the picks."""
    db.conn.executemany("INSERT INTO tasks (pick_id, task_key) VALUES (?, ?)", task_keys)


def ask_for_votes(db: Database, overlaps: dict[int, int]) -> None:
    """Records that these picks, by id, shall get so many votes; in the caller's transaction.

    The server is told by the next push. What was asked once is never taken back.
    """
    db.conn.executemany(
        "UPDATE tasks SET overlap = ? WHERE pick_id = ? AND coalesce(overlap, 0) < ?",
        [(overlap, pick_id, overlap) for pick_id, overlap in overlaps.items()],
    )


def untold_raises(db: Database, server: str | None = None) -> int:
    """How many tasks shall get more votes than their server knows of; of all servers or of one."""
    on = _placeholders(projects_on(db, server) if server else living_projects(db))
    query = f"SELECT count(*) FROM tasks t WHERE {_UNTOLD} AND t.project_id IN {on}"  # noqa: S608
    return int(db.execute(query).fetchone()[0])


# A task that is on its way, or may have to be sent again, is told once it has arrived.
_UNTOLD = "t.overlap IS NOT t.overlap_told AND t.state IN ('stored', 'swept', 'conflict')"


def _placeholders(of: list[StudioProject]) -> str:
    return f"({', '.join(str(project.id) for project in of)})"


def unsent_picks(db: Database) -> dict[int, list[int]]:
    """Overlap -> ids of picks whose push is not over: not sent, not answered or not swept."""
    rows = db.execute(
        """SELECT r.overlap, t.pick_id FROM tasks t JOIN picks p ON p.id = t.pick_id
        JOIN rounds r ON r.id = p.round_id WHERE t.state IN ('pending', 'sent', 'stored')
        ORDER BY p.round_id, p.place"""
    )
    waiting: dict[int, list[int]] = {}
    for overlap, pick_id in rows:
        waiting.setdefault(overlap, []).append(pick_id)
    return waiting


def push(
    db: Database,
    studio: Studio,
    project: StudioProject,
    pick_ids: list[int],
    payloads: Payloads,
    *,
    grace_seconds: float,
    on_stored: Callable[[int], object] = lambda n: None,
    on_wait: Callable[[float], object] = lambda seconds: None,
) -> PushReport:
    """Brings the tasks of `pick_ids` to the server, in that order; the caller holds the lock.

    Raises StudioError when the server fails; everything up to there is recorded, and the next
    call goes on from it.
    """
    started = time.monotonic()
    report = PushReport()
    resent = _settle(db, studio, project, grace_seconds, report, on_wait)
    for chunk in _chunks(db, _pending(db, pick_ids)):
        _send(db, studio, project, chunk, payloads, report)
        on_stored(len(chunk))
    sweep(db, studio, project, report, thorough=resent)
    report.seconds = time.monotonic() - started
    return report


def tell_raises(
    db: Database,
    studio: Studio,
    *,
    on_told: Callable[[int], object] = lambda n: None,
) -> PushReport:
    """Tells the server of every task that shall get more votes than it knows of.

    The caller holds the server's lock. Raises StudioError when the server fails; what it confirmed
    until then is recorded. A task that was deleted there is marked gone.
    """
    started = time.monotonic()
    report = PushReport()
    for project in projects_on(db, studio.url):
        raises = _raises(db, project)
        if raises:
            # After a wipe other people's tasks have these ids.
            check_present(studio, project)
        for start in range(0, len(raises), RAISES_PER_COMMIT):
            _tell(db, studio, raises[start : start + RAISES_PER_COMMIT], report, on_told)
    report.seconds = time.monotonic() - started
    return report


def _raises(db: Database, project: StudioProject) -> list[tuple[str, int, int]]:
    """(key, the server's id, votes wanted) of what the server is to be told of this project."""
    query = f"""SELECT t.task_key, t.studio_id, t.overlap FROM tasks t
        WHERE {_UNTOLD} AND t.project_id = ? ORDER BY t.id"""  # noqa: S608
    return list(db.execute(query, [project.id]))


def _tell(
    db: Database,
    studio: Studio,
    raises: list[tuple[str, int, int]],
    report: PushReport,
    on_told: Callable[[int], object],
) -> None:
    def tell(one: tuple[str, int, int]) -> StudioError | None:
        try:
            studio.set_task_overlap(one[1], one[2])
        except StudioError as error:
            return error
        return None

    with ThreadPoolExecutor(RAISES_AT_ONCE) as several:
        outcomes = list(several.map(tell, raises))
    told = [one for one, error in zip(raises, outcomes, strict=True) if error is None]
    gone = [
        key
        for (key, *_), error in zip(raises, outcomes, strict=True)
        if isinstance(error, StudioNotFound)
    ]
    _mark_told(db, told)
    report.raised += len(told)
    report.gone += _mark_gone(db, gone)
    on_told(len(told) + len(gone))
    for error in outcomes:
        if error is not None and not isinstance(error, StudioNotFound):
            raise error


def _mark_told(db: Database, told: list[tuple[str, int, int]]) -> None:
    with writing(db):
        db.conn.executemany(
            "UPDATE tasks SET overlap_told = ? WHERE task_key = ? AND studio_id = ?",
            [(overlap, key, studio_id) for key, studio_id, overlap in told],
        )


def finish_elsewhere(
    db: Database,
    studio: Studio,
    current: StudioProject,
    grace_seconds: float,
    on_wait: Callable[[float], object],
) -> PushReport:
    """Settles and sweeps what an interrupted push left in other projects of this server.

    Such a project belongs to an earlier version of the screen, or to another overlap; what did
    not arrive there is pending again and goes to the current one.
    """
    report = PushReport()
    for project in projects_on(db, studio.url):
        if project.id != current.id and _unfinished(db, project):
            resent = _settle(db, studio, project, grace_seconds, report, on_wait)
            sweep(db, studio, project, report, thorough=resent)
    return report


def _unfinished(db: Database, project: StudioProject) -> bool:
    query = "SELECT 1 FROM tasks WHERE project_id = ? AND state IN ('sent', 'stored') LIMIT 1"
    return db.execute(query, [project.id]).fetchone() is not None


def _chunks(db: Database, picks: list[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """The picks in parts that are one request each, so that `sent_at` is when that one began."""
    sizes = _text_sizes(db, [pick_id for pick_id, _ in picks])
    chunk: list[tuple[int, str]] = []
    size = 0
    for pick in picks:
        if chunk and (len(chunk) == TASKS_PER_IMPORT or size + sizes[pick[0]] > CHARS_PER_IMPORT):
            yield chunk
            chunk, size = [], 0
        chunk.append(pick)
        size += sizes[pick[0]]
    if chunk:
        yield chunk


def _text_sizes(db: Database, pick_ids: list[int]) -> dict[int, int]:
    """Characters of the texts that each task will hold."""
    query = """SELECT p.id, length(a.text) + length(b.text) + length(q.messages) FROM picks p
        JOIN responses a ON a.id = p.a_id JOIN responses b ON b.id = p.b_id
        JOIN prompts q ON q.id = a.prompt_id
        WHERE p.id IN (SELECT value FROM json_each(?))"""
    return dict(db.execute(query, [json.dumps(pick_ids)]).fetchall())


def _pending(db: Database, pick_ids: list[int]) -> list[tuple[int, str]]:
    """(pick id, key) of those still to be sent, in the order of `pick_ids`."""
    keys = dict(db.execute("SELECT pick_id, task_key FROM tasks WHERE state = 'pending'"))
    return [(pick_id, keys[pick_id]) for pick_id in pick_ids if pick_id in keys]


def _send(
    db: Database,
    studio: Studio,
    project: StudioProject,
    chunk: list[tuple[int, str]],
    payloads: Payloads,
    report: PushReport,
) -> None:
    data = payloads([pick_id for pick_id, _ in chunk])
    claimed = _claim(db, project, [pick_id for pick_id, _ in chunk])
    chunk = [pick for pick in chunk if pick[0] in claimed]
    try:
        ids = studio.import_tasks(project.studio_id, [data[pick_id] for pick_id, _ in chunk])
    except (StudioUnreachable, StudioFailed):
        # It may still be running there: the grace period counts from now.
        _stamp(db, [pick_id for pick_id, _ in chunk])
        raise
    if ids is None:  # an edition that imports later: the key is all there is to go by
        ids_by_key = _wait_for_keys(studio, project, [key for _, key in chunk])
    else:
        ids_by_key = dict(zip((key for _, key in chunk), ids, strict=True))
    _mark_stored(db, ids_by_key)
    report.stored += len(ids_by_key)


def _claim(db: Database, project: StudioProject, pick_ids: list[int]) -> set[int]:
    """Marks tasks as sent before they are; only those that nobody else has claimed."""
    with writing(db):
        rows = db.execute(
            """UPDATE tasks SET state = 'sent', sent_at = ?, attempts = attempts + 1,
            project_id = ? WHERE state = 'pending'
            AND pick_id IN (SELECT value FROM json_each(?)) RETURNING pick_id""",
            [now(), project.id, json.dumps(pick_ids)],
        ).fetchall()
    return {pick_id for (pick_id,) in rows}


def _stamp(db: Database, pick_ids: list[int]) -> None:
    with writing(db):
        db.execute(
            """UPDATE tasks SET sent_at = ? WHERE state = 'sent'
            AND pick_id IN (SELECT value FROM json_each(?))""",
            [now(), json.dumps(pick_ids)],
        )


def _wait_for_keys(studio: Studio, project: StudioProject, keys: list[str]) -> dict[str, int]:
    """Task ids by key as an asynchronous import brings them in; those that came within an hour."""
    deadline = time.monotonic() + 3600
    found: dict[str, int] = {}
    while len(found) < len(keys) and time.monotonic() < deadline:
        missing = [key for key in keys if key not in found]
        found |= _lowest_ids(studio.tasks_by_key(project.studio_id, missing))
        if len(found) < len(keys):
            time.sleep(SETTLE_POLL_SECONDS)
    return found


def _lowest_ids(tasks: dict[str, list[TaskRef]]) -> dict[str, int]:
    return {key: min(ref.id for ref in refs) for key, refs in tasks.items() if refs}


def _mark_stored(db: Database, ids_by_key: dict[str, int]) -> None:
    with writing(db):
        db.conn.executemany(
            """UPDATE tasks SET state = 'stored', studio_id = ? WHERE task_key = ?
            AND state IN ('pending', 'sent')""",
            [(studio_id, key) for key, studio_id in ids_by_key.items()],
        )


def _settle(
    db: Database,
    studio: Studio,
    project: StudioProject,
    grace_seconds: float,
    report: PushReport,
    on_wait: Callable[[float], object],
) -> bool:
    """Finds out what became of tasks whose push was never answered; whether there were any.

    Found on the server: stored. Not found once the grace period is over: pending again.
    """
    looked = False
    started = time.monotonic()
    while True:
        unanswered = _unanswered(db, project)
        if not unanswered:
            return looked
        looked = True
        # The age is taken before looking: what was not there when the grace period had already
        # passed is not going to arrive.
        age = _age_of_youngest(unanswered.values(), time.monotonic() - started)
        found = _lowest_ids(studio.tasks_by_key(project.studio_id, list(unanswered)))
        _mark_stored(db, found)
        report.found += len(found)
        if len(found) == len(unanswered):
            return looked
        if age >= grace_seconds:
            _send_again(db, [key for key in unanswered if key not in found])
            return looked
        on_wait(grace_seconds - age)
        time.sleep(min(SETTLE_POLL_SECONDS, max(grace_seconds - age, 0.05)))


def _unanswered(db: Database, project: StudioProject) -> dict[str, str]:
    query = "SELECT task_key, sent_at FROM tasks WHERE state = 'sent' AND project_id = ?"
    return dict(db.execute(query, [project.id]))


def _age_of_youngest(sent: Iterable[str], waited: float) -> float:
    """Seconds since the last of these was sent; a clock that went back counts from our start."""
    youngest = max(datetime.fromisoformat(text) for text in sent)
    return max((datetime.now(UTC) - youngest).total_seconds(), waited)


def _send_again(db: Database, keys: list[str]) -> None:
    with writing(db):
        db.conn.executemany(
            "UPDATE tasks SET state = 'pending' WHERE task_key = ? AND state = 'sent'",
            [(key,) for key in keys],
        )


def sweep(
    db: Database,
    studio: Studio,
    project: StudioProject,
    report: PushReport,
    *,
    thorough: bool = False,
) -> None:
    """Makes sure that each key has exactly one task on the server.

    When the server counts as many tasks as it gave us ids, and nothing had to be sent again,
    there is nothing to look for: that is one small request. Otherwise, where a conflict was
    open, or when it shall be `thorough`, all keys are listed; of duplicates the lowest id stays,
    the others are deleted if nobody answered them.
    """
    n_there = check_present(studio, project).n_tasks
    if thorough or conflicts(db) or n_there != expected_count(db, project):
        _sweep_by_listing(db, studio, project, report)
    with writing(db):
        db.execute(
            "UPDATE tasks SET state = 'swept' WHERE state = 'stored' AND project_id = ?",
            [project.id],
        )


def expected_count(db: Database, project: StudioProject) -> int:
    """How many tasks the project should have: ours, and those not ours at the last listing."""
    query = """SELECT count(*) + (SELECT n_foreign FROM projects WHERE id = ?1) FROM tasks
        WHERE project_id = ?1 AND state IN ('stored', 'swept', 'conflict')"""
    return int(db.execute(query, [project.id]).fetchone()[0])


def _sweep_by_listing(
    db: Database, studio: Studio, project: StudioProject, report: PushReport
) -> None:
    ours = dict(
        db.execute(
            """SELECT task_key, studio_id FROM tasks
            WHERE project_id = ? AND state IN ('stored', 'swept', 'conflict')""",
            [project.id],
        )
    )
    there: dict[str, list[int]] = {}
    for studio_id, key in studio.all_task_keys(project.studio_id).items():
        if key in ours:
            there.setdefault(key, []).append(studio_id)
    doubled = [key for key, ids in there.items() if len(ids) > 1]
    if doubled:
        _resolve(db, studio, project, doubled, report)
    _record_single(db, {key: ids[0] for key, ids in there.items() if len(ids) == 1})
    report.gone += _mark_gone(db, [key for key in ours if key not in there])
    n_there = check_present(studio, project).n_tasks
    with writing(db):
        record_foreign(db, project.id, n_there - len(there))


def _record_single(db: Database, ids_by_key: dict[str, int]) -> None:
    """The only task with a key is the pair's, even where a person deleted the one we knew."""
    with writing(db):
        db.conn.executemany(
            """UPDATE tasks SET studio_id = ?1, state = 'stored', problem = NULL,
            overlap_told = iif(studio_id = ?1, overlap_told, NULL)
            WHERE task_key = ?2 AND (studio_id <> ?1 OR state = 'conflict')""",
            [(studio_id, key) for key, studio_id in ids_by_key.items()],
        )


def _resolve(
    db: Database, studio: Studio, project: StudioProject, keys: list[str], report: PushReport
) -> None:
    for key, refs in studio.tasks_by_key(project.studio_id, keys).items():
        # An answered task is kept before an unanswered one, then the one that came first.
        keep, *others = sorted(refs, key=lambda ref: (ref.n_annotations == 0, ref.id))
        answered = [ref for ref in others if ref.n_annotations]
        unanswered = [ref.id for ref in others if not ref.n_annotations]
        studio.delete_tasks(project.studio_id, unanswered)
        report.removed += len(unanswered)
        _record_resolution(db, key, keep.id, [ref.id for ref in answered])
        if answered:
            report.conflicts.append(key)


def _record_resolution(db: Database, key: str, keep: int, answered: list[int]) -> None:
    problem = f"also answered as tasks {answered}" if answered else None
    with writing(db):
        db.execute(
            """UPDATE tasks SET studio_id = ?1, state = ?2, problem = ?3,
            overlap_told = iif(studio_id = ?1, overlap_told, NULL) WHERE task_key = ?4""",
            [keep, "conflict" if answered else "stored", problem, key],
        )


def _mark_gone(db: Database, keys: list[str]) -> int:
    with writing(db):
        db.conn.executemany(
            """UPDATE tasks SET state = 'gone', problem = 'deleted on the server'
            WHERE task_key = ?""",
            [(key,) for key in keys],
        )
    return len(keys)


def task_counts(db: Database) -> dict[str, int]:
    """How many tasks are in each state."""
    return dict(db.execute("SELECT state, count(*) FROM tasks GROUP BY state").fetchall())


def picks_by_task_key(db: Database, keys: list[str]) -> dict[str, tuple[int, str]]:
    """Task key -> (pick id, side order), for the keys that are ours."""
    query = """SELECT t.task_key, p.id, p.side_order FROM tasks t
        JOIN picks p ON p.id = t.pick_id
        WHERE t.task_key IN (SELECT value FROM json_each(?))"""
    return {key: (pick, side) for key, pick, side in db.execute(query, [json.dumps(keys)])}


def conflicts(db: Database) -> list[tuple[str, str]]:
    """(task key, what is wrong) of tasks that exist twice with answers on both."""
    query = "SELECT task_key, problem FROM tasks WHERE state = 'conflict' ORDER BY id"
    return [(key, problem) for key, problem in db.execute(query)]


def give_up_project(db: Database, project: StudioProject) -> int:
    """Marks every task of a deleted project as gone, in the caller's transaction; how many."""
    return db.execute(
        """UPDATE tasks SET state = 'gone', problem = 'its project was deleted on the server'
        WHERE project_id = ? AND state NOT IN ('pending', 'gone')""",
        [project.id],
    ).rowcount
