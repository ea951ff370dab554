#!/usr/bin/env python
"""Push and pull against a real Label Studio, beside the raw HTTP calls they cannot be faster than.

    scripts/bench_studio.py [--tasks 10000] [--changed 128] [--repeats 3] > bench-studio.json

Push: our whole path (outbox rows, payloads, import, ids stored, sweep) for N pairs in a fresh
project, against one raw import call of the same N tasks in another fresh project. Pull: one
`sync` (people, votes, cursor) of the changed annotations among those N tasks, against the raw
call with the same `updated_at` filter, read to the end. Each repeat runs ours and the raw call in
turn, so that the machine's mood hits both; the ratio is taken within a repeat.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from sqlite_utils import Database

from annotator.candidates.identity import (
    canonical_messages,
    pair_key,
    prompt_key,
    response_key,
    text_hash,
)
from annotator.rounds import sync as sync_module
from annotator.rounds.batch import push_waiting, task_payloads
from annotator.rounds.picks import Pick, Round, record_round
from annotator.rounds.sync import sync
from annotator.store import open_db, writing
from annotator.studio.client import Studio
from annotator.studio.local import LocalStudio
from annotator.studio.outbox import queue_tasks
from annotator.studio.projects import projects_on
from annotator.studio.screen import answer_result, config_xml

WORDS = "the pair shows two answers of about one hundred words so that a task has a usual size "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--changed", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    sync_module.OVERLAP_SECONDS = 5.0
    with tempfile.TemporaryDirectory() as scratch:
        local = LocalStudio(Path(scratch) / "studio")
        running = local.up()
        try:
            with Studio(running.url, running.token) as studio:
                report = measure(Path(scratch), studio, running.token, options)
        finally:
            local.down()
    print(json.dumps(report, indent=2))


def measure(
    scratch: Path, studio: Studio, token: str, options: argparse.Namespace
) -> dict[str, Any]:
    raw = httpx.Client(
        base_url=studio.url, headers={"Authorization": f"Token {token}"}, timeout=600
    )
    pushes, pulls = [], []
    for repeat in range(options.repeats):
        db, picks = _database(scratch / f"{repeat}.db", options.tasks, repeat)
        tasks = [{"data": data} for data in task_payloads(db, picks).values()]
        pushes.append(
            _in_turn(
                repeat,
                partial(_push, db, studio),
                partial(_raw_push, raw, studio, tasks),
            )
        )
        sync(db, studio)
        _change(db, studio, options.changed)
        project = projects_on(db, studio.url)[0]
        pulls.append(
            _in_turn(
                repeat,
                partial(_pull, db, studio, options.changed),
                partial(_raw_pull, raw, project.studio_id, project.cursor or "", options.changed),
            )
        )
        db.close()
    return {
        "label_studio": studio.server().version,
        "tasks": options.tasks,
        "changed": options.changed,
        "body_mb": round(len(json.dumps(tasks)) / 1e6, 1),
        "push": _summary(pushes),
        "pull": _summary(pulls),
    }


def _in_turn(
    repeat: int, ours: Callable[[], float], raw: Callable[[], float]
) -> tuple[float, float]:
    """(ours, raw) seconds, the order changing from repeat to repeat."""
    if repeat % 2:
        seconds_raw = raw()
        return ours(), seconds_raw
    return ours(), raw()


def _summary(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    ratios = [ours / raw for ours, raw in pairs]
    return {
        "seconds": [round(ours, 3) for ours, _ in pairs],
        "raw_seconds": [round(raw, 3) for _, raw in pairs],
        "ratios": [round(ratio, 3) for ratio in ratios],
        "median_ratio": round(statistics.median(ratios), 3),
    }


def _database(path: Path, n: int, repeat: int) -> tuple[Database, list[int]]:
    """A database with one round of n pairs that wait to be sent."""
    db = open_db(path, create=True)
    picks = []
    with writing(db):
        db.execute("INSERT INTO imports VALUES (1, 'bench', 'bench', 'native', '', NULL)")
        for i in range(n):
            picks.append(_pair(db, f"question {i} of repeat {repeat}: {WORDS * 2}", i))
        _, ids = record_round(db, Round("random", 0, n, 0, 1, None, {}), picks)
        queue_tasks(db, [(i, pick.pair_key) for i, pick in zip(ids, picks, strict=True)])
    return db, ids


def _pair(db: Database, question: str, place: int) -> Pick:
    messages = [{"role": "user", "content": question}]
    key = prompt_key(messages)  # type: ignore[arg-type]
    prompt_id = db.execute(
        """INSERT INTO prompts (prompt_key, messages, text_hash, dataset, import_id)
        VALUES (?, ?, ?, 'bench', 1)""",
        [key, canonical_messages(messages), text_hash(question)],  # type: ignore[arg-type]
    ).lastrowid
    texts = [f"answer {j} to {question} {WORDS * 5}" for j in range(2)]
    (a_key, a), (b_key, b) = sorted((response_key(key, text), text) for text in texts)
    ids = [
        db.execute(
            """INSERT INTO responses (response_key, prompt_id, text, text_hash, import_id)
            VALUES (?, ?, ?, ?, 1)""",
            [response, prompt_id, text, text_hash(text)],
        ).lastrowid
        for response, text in ((a_key, a), (b_key, b))
    ]
    return Pick(place, pair_key(a_key, b_key), ids[0], ids[1], "acquired", place,
                "ab" if place % 2 else "ba", "random", None, None)  # fmt: skip


def _push(db: Database, studio: Studio) -> float:
    started = time.perf_counter()
    push_waiting(db, studio, "bench", grace_seconds=60)
    return time.perf_counter() - started


def _raw_push(raw: httpx.Client, studio: Studio, tasks: list[dict[str, Any]]) -> float:
    project = studio.create_project("raw", f"raw:{time.time_ns()}", config_xml(), 1)
    started = time.perf_counter()
    answer = raw.post(f"/api/projects/{project.id}/import?return_task_ids=true", json=tasks)
    answer.raise_for_status()
    seconds = time.perf_counter() - started
    assert len(answer.json()["task_ids"]) == len(tasks)
    studio.delete_project(project.id)
    return seconds


def _change(db: Database, studio: Studio, n: int) -> None:
    """Answers n tasks, spread over the whole project."""
    # The steady state: the import lies further back than a sync looks. Both ours and the raw call
    # read from the same cursor, so a shorter look back only makes this wait shorter.
    time.sleep(sync_module.OVERLAP_SECONDS + 2)
    sync(db, studio)
    rows = db.execute("SELECT studio_id FROM tasks ORDER BY id").fetchall()
    for (task_id,) in rows[:: len(rows) // n][:n]:
        studio.submit(task_id, answer_result("left_better"), lead_seconds=3.0)


def _pull(db: Database, studio: Studio, n: int) -> float:
    started = time.perf_counter()
    report = sync(db, studio)
    seconds = time.perf_counter() - started
    assert report.counts.votes == n, report
    return seconds


def _raw_pull(raw: httpx.Client, studio_id: int, since: str, n: int) -> float:
    """One call with the filter that ours uses."""
    condition = {
        "filter": "filter:tasks:updated_at",
        "operator": "greater",
        "type": "Datetime",
        "value": since,
    }
    query = {
        "filters": {"conjunction": "and", "items": [condition]},
        "ordering": ["tasks:updated_at"],
    }
    params = {"project": studio_id, "fields": "all", "page_size": 500, "query": json.dumps(query)}
    started = time.perf_counter()
    answer = raw.get("/api/tasks/", params=params).raise_for_status()
    found = answer.json()
    seconds = time.perf_counter() - started
    assert found["total"] == n, found["total"]
    return seconds


if __name__ == "__main__":
    main()
