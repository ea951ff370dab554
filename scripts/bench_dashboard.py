#!/usr/bin/env python3
"""How fast the dashboard's pages answer beside a large project, and how big the report gets.

The project is made up and written straight into a database: prompts with four responses each,
random unit vectors in place of an encoder's, a data map, rounds of pairs and one vote on each by
people of different skill. `annotator serve` runs in a process of its own, and every page is asked
for over real HTTP: first while the parts that take long are being made, then when they are there.
Prints JSON: medians and the slowest of --repeat requests in milliseconds, what the server holds in
memory, seconds until a new vote is shown, seconds of the making, and bytes of the report.

    OPENBLAS_NUM_THREADS=1 python scripts/bench_dashboard.py
    python scripts/bench_dashboard.py --prompts 2500 --votes 2000 --repeat 5
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from annotator.candidates.identity import (
    canonical_messages,
    pair_key,
    prompt_key,
    prompt_text,
    response_key,
    text_hash,
)
from annotator.config import template
from annotator.labels.votes import record_annotators
from annotator.signals.datamap import ensure_map
from annotator.signals.embeddings import embed_missing
from annotator.store import open_db, writing
from scripts.bench_next_batch import RandomEncoder

SEED = 7
K = 4
ROUND = 1_000
CONTROL = 0.15
PEOPLE = 40
TOKEN = "a-token-that-only-this-benchmark-knows"
GRADES = ("a_much_better", "a_better", "tie", "b_better", "b_much_better")
WORDS = np.array(["so", "it", "goes", "when", "an", "answer", "is", "long", "enough", "to", "read"])


def main() -> None:
    options = parse()
    with contextlib.ExitStack() as stack:
        if options.folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            folder = options.folder
        made = make_project(folder, options)
        report = {
            "python": platform.python_version(),
            "processors": os.cpu_count(),
            "openblas_threads": os.environ.get("OPENBLAS_NUM_THREADS", "not set"),
            "load_at_start": round(os.getloadavg()[0], 2),
            "responses": K * options.prompts,
            "votes": options.votes,
            "seconds_to_make_the_project": made,
            "megabytes_of_database": round((folder / "annotator.db").stat().st_size / 1e6),
            "pages": measure_pages(folder, options),
        }
        if not options.no_report:
            report["report"] = measure_report(folder)
    print(json.dumps(report, indent=2))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=250_000, help=f"of {K} responses each")
    parser.add_argument("--votes", type=int, default=200_000)
    parser.add_argument("--dimensions", type=int, default=64, help="of a vector")
    parser.add_argument("--repeat", type=int, default=30, help="requests of each page")
    parser.add_argument("--patience", type=float, default=1_800, help="seconds for long parts")
    parser.add_argument("--folder", type=Path, help="keep the project here and use it again")
    parser.add_argument("--no-report", action="store_true", help="leave `annotator report` out")
    return parser.parse_args()


# The project


def make_project(folder: Path, options: argparse.Namespace) -> float | None:
    """Seconds that it took; None where it was there."""
    path = folder / "annotator.db"
    if path.exists():
        return None
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "annotator.toml").write_text(template("a large one"), encoding="utf-8")
    db = open_db(path, create=True)
    db.execute("PRAGMA synchronous=OFF")
    rng = np.random.default_rng(SEED)
    add_candidates(db, options.prompts, rng)
    encoder_id = embed_missing(db, RandomEncoder(options.dimensions), path).encoder_id
    ensure_map(db, path, encoder_id)
    add_rounds(db, options.prompts, options.votes, encoder_id, rng)
    add_votes(db, options.votes, rng)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    return round(time.monotonic() - started, 1)


def add_candidates(db: Any, n_prompts: int, rng: np.random.Generator) -> None:
    with writing(db):
        db.execute(
            "INSERT INTO imports VALUES (1, 'bench', 'bench', 'native', '', '', 'candidates')"
        )
        for first in range(0, n_prompts, 10_000):
            rows = [prompt_rows(i, rng) for i in range(first, min(first + 10_000, n_prompts))]
            db.conn.executemany(
                """INSERT INTO prompts (id, prompt_key, messages, text_hash, dataset, external_id,
                import_id) VALUES (?, ?, ?, ?, 'bench', ?, 1)""",
                [prompt for prompt, _ in rows],
            )
            db.conn.executemany(
                """INSERT INTO responses (id, response_key, prompt_id, text, text_hash, model,
                import_id) VALUES (?, ?, ?, ?, ?, ?, 1)""",
                [response for _, responses in rows for response in responses],
            )


def prompt_rows(i: int, rng: np.random.Generator) -> tuple[tuple[Any, ...], list[tuple[Any, ...]]]:
    messages = [{"role": "user", "content": f"Question {i}: {said(rng, 20)}?"}]
    key = prompt_key(messages)
    text = text_hash(prompt_text(messages))
    prompt = (i + 1, key, canonical_messages(messages), text, f"q{i}")
    texts = [f"Answer {j} to question {i}: {said(rng, 60)}." for j in range(K)]
    keyed = sorted((response_key(key, text), text, j) for j, text in enumerate(texts))
    return prompt, [
        (K * i + place + 1, rkey, i + 1, text, text_hash(text), f"model-{j}")
        for place, (rkey, text, j) in enumerate(keyed)
    ]


def said(rng: np.random.Generator, n: int) -> str:
    return " ".join(WORDS[rng.integers(len(WORDS), size=n)])


def add_rounds(
    db: Any, n_prompts: int, n_picks: int, encoder_id: int, rng: np.random.Generator
) -> None:
    """Rounds of a thousand pairs, no pair twice, a share of each drawn for the control arm."""
    all_pairs = [(a, b) for a in range(K) for b in range(a + 1, K)]
    chosen = rng.choice(n_prompts * len(all_pairs), size=n_picks, replace=False)
    keys = dict(db.execute("SELECT id, response_key FROM responses").fetchall())
    control = rng.random(n_picks) < CONTROL
    with writing(db):
        for number, first in enumerate(range(0, n_picks, ROUND), start=1):
            at = range(first, min(first + ROUND, n_picks))
            n_control = int(control[at.start : at.stop].sum())
            db.execute(
                """INSERT INTO rounds (id, started_at, strategy, seed, n_acquired, n_control,
                overlap, encoder_id, pool, version) VALUES (?, ?, 'hybrid', 1, ?, ?, 1, ?, '{}',
                'bench')""",
                [number, f"2026-{1 + number % 12:02d}-01T00:00:00+00:00", len(at) - n_control,
                 n_control, encoder_id],
            )  # fmt: skip
            db.conn.executemany(_PICK, [
                pick_row(i, number, chosen[i], all_pairs, keys, bool(control[i])) for i in at
            ])  # fmt: skip
        db.execute(
            """INSERT INTO projects (id, server, mark, studio_id, title, screen, overlap,
            created_at) VALUES (1, 'http://127.0.0.1:9', 'm', 1, 't', 's', 1, '')"""
        )
        db.conn.executemany(
            """INSERT INTO tasks (pick_id, project_id, task_key, state, attempts, studio_id)
            VALUES (?, 1, ?, 'swept', 1, ?)""",
            ((i, f"task-{i}", i) for i in range(1, n_picks + 1)),
        )


_PICK = """INSERT INTO picks (id, round_id, place, pair_key, a_id, b_id, arm, draw, side_order,
    strategy, score, propensity) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0.5, ?)"""


def pick_row(
    i: int, number: int, code: int, pairs: list[tuple[int, int]], keys: dict[int, str], drawn: bool
) -> tuple[Any, ...]:
    prompt, place = divmod(int(code), len(pairs))
    a, b = (K * prompt + side + 1 for side in pairs[place])
    arm, strategy = ("control", "random") if drawn else ("acquired", "hybrid")
    propensity = 0.001 if drawn else None
    side = "ab" if i % 2 else "ba"
    key = pair_key(keys[a], keys[b])
    return i + 1, number, i % ROUND, key, a, b, arm, i % ROUND, side, strategy, propensity


def add_votes(db: Any, n_votes: int, rng: np.random.Generator) -> None:
    """One vote on each pick: by a hidden quality of the responses, and the noise of its person."""
    quality = rng.normal(size=1 + db.execute("SELECT max(id) FROM responses").fetchone()[0])
    noise = rng.uniform(0.5, 2.0, size=PEOPLE)
    people = rng.integers(PEOPLE, size=n_votes)
    rows = db.execute("SELECT id, a_id, b_id FROM picks ORDER BY id LIMIT ?", [n_votes]).fetchall()
    picks, a_ids, b_ids = np.array(rows).T
    margin = quality[a_ids] - quality[b_ids] + rng.logistic(size=n_votes) * noise[people]
    grades = np.digitize(-margin, [-2.5, -0.3, 0.3, 2.5])
    seconds = rng.lognormal(3.0, 0.6, size=n_votes)
    with writing(db):
        record_annotators(
            db, "http://127.0.0.1:9", {i + 1: f"person-{i}@example.com" for i in range(PEOPLE)}
        )
        db.conn.executemany(
            _VOTE,
            (
                (i + 1, pick, pick, int(people[i]) + 1, GRADES[grades[i]], float(seconds[i]), at(i),
                 at(i))
                for i, pick in enumerate(picks.tolist())
            ),
        )  # fmt: skip


_VOTE = """INSERT INTO votes (project_id, annotation_id, studio_task_id, pick_id, annotator_id,
    status, grade, seconds, updated_at, seen_at, raw)
    VALUES (1, ?, ?, ?, ?, 'vote', ?, ?, ?, ?, '{"result": []}')"""


def at(i: int) -> str:
    """A moment for the i-th vote: one every ten seconds."""
    minutes, second = divmod(10 * i, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (
        f"2026-{1 + days // 28 % 12:02d}-{1 + days % 28:02d}T{hour:02d}:{minute:02d}:{second:02d}Z"
    )


# Pages


def measure_pages(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    with serving(folder) as (process, url):
        client = httpx.Client(base_url=url, trust_env=False, timeout=60)
        started = time.monotonic()
        first_page = timed(client, "/")
        pulse = wait_for(lambda: "pulse" in client.get("/fragments").json(), 60)
        paths = page_paths(folder)
        meanwhile = {path: of_many(client, path, options.repeat) for path in paths}
        webhook = of_many(client, "/webhook", options.repeat, post=True)
        shown = seconds_to_show_a_vote(folder, client)
        parts = wait_for_parts(client, started, options.patience)
        afterwards = {path: of_many(client, path, options.repeat) for path in paths}
        client.close()
        return {
            "first_page_ms": first_page,
            "seconds_to_first_counts": pulse,
            "while_parts_are_made_ms": meanwhile,
            "webhook_while_parts_are_made_ms": webhook,
            "seconds_until_a_new_vote_is_shown": shown,
            "seconds_until_each_part": parts,
            "when_all_is_there_ms": afterwards,
            "bytes_of_dashboard": len(httpx.get(url, trust_env=False).content),
            "server_megabytes": memory(process.pid),
            "slowest_median_ms": max(one["median"] for one in afterwards.values()),
        }


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    environment = os.environ | {
        "ANNOTATOR_STUDIO_HOME": str(folder / "no-studio"),
        "ANNOTATOR_WEBHOOK_TOKEN": TOKEN,
        "LABEL_STUDIO_URL": "",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "annotator", "serve", "--port", "0", "--project", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().split()[2]
    finally:
        process.terminate()
        process.wait(60)


def page_paths(folder: Path) -> list[str]:
    db = open_db(folder / "annotator.db")
    last, middle = (
        db.execute("SELECT a_id, b_id FROM picks ORDER BY id LIMIT 1 OFFSET ?", [n]).fetchone()
        for n in (0, db.execute("SELECT count(*) / 2 FROM picks").fetchone()[0])
    )
    prompt = db.execute("SELECT max(id) FROM prompts").fetchone()[0]
    db.close()
    return ["/", "/fragments", "/fragments/pulse", "/fragments/standing", "/fragments/map",
            f"/pair/{last[0]}-{last[1]}", f"/pair/{middle[0]}-{middle[1]}", f"/prompt/{prompt}",
            "/prompt/1", "/healthz", "/static/live.js"]  # fmt: skip


def of_many(client: httpx.Client, path: str, n: int, *, post: bool = False) -> dict[str, float]:
    times = [timed(client, path, post=post) for _ in range(n)]
    return {"median": round(float(np.median(times)), 1), "slowest": round(max(times), 1)}


def timed(client: httpx.Client, path: str, *, post: bool = False) -> float:
    started = time.perf_counter()
    headers = {"X-Annotator-Token": TOKEN}
    answer = client.post(path, headers=headers) if post else client.get(path)
    took = 1_000 * (time.perf_counter() - started)
    assert answer.status_code in (200, 202, 404), (path, answer.status_code)
    return round(took, 1)


def wait_for(holds: Any, patience: float) -> float | None:
    """Seconds until it held; None where it never did."""
    started = time.monotonic()
    while not holds():
        if time.monotonic() - started > patience:
            return None
        time.sleep(0.05)
    return round(time.monotonic() - started, 2)


def seconds_to_show_a_vote(folder: Path, client: httpx.Client) -> float | None:
    db = open_db(folder / "annotator.db")
    number = 1 + db.execute("SELECT max(id) FROM votes").fetchone()[0]
    seen_at = f"2027-01-01T00:00:00.{number:09d}Z"  # no other vote's, in a folder used again too
    with writing(db):
        db.execute(_VOTE, [number, 1, 1, PEOPLE, "tie", 9.0, seen_at, seen_at])
    db.close()
    return wait_for(lambda: seen_at in client.get("/fragments/pulse").text, 60)


def wait_for_parts(client: httpx.Client, started: float, patience: float) -> dict[str, float]:
    """Part -> seconds from the server's start until it was there for the first time as a whole."""
    found: dict[str, float] = {}
    while len(found) < 8 and time.monotonic() - started < patience:
        for name in client.get("/fragments").json():
            if name in found or name == "pulse":
                continue
            if "Not computed yet" not in client.get(f"/fragments/{name}").text:
                found[name] = round(time.monotonic() - started, 1)
        time.sleep(0.5)
    return found


def memory(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) // 1_000


# The report


def measure_report(folder: Path) -> dict[str, Any]:
    out = folder / "report.html"
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "annotator", "report", "--out", str(out), "--project", str(folder)],
        capture_output=True,
        text=True,
    )
    return {
        "exit_status": done.returncode,
        "seconds": round(time.monotonic() - started, 1),
        "megabytes": round(out.stat().st_size / 1e6, 2) if out.exists() else None,
        "said": done.stderr[-400:] or None,
    }


if __name__ == "__main__":
    main()
