#!/usr/bin/env python
"""The whole job on sets of real votes: import, embed, two rounds, answers, sync, export.

    scripts/run_main_job.py SETS_FOLDER [--prompts 2000] [--pairs 100] > main-job.json

Runs the installed command as a person would, against a Label Studio that it starts itself, and
answers the tasks through the server's own API with votes that real people gave on those pairs
(one vote of the set for each task; a task whose pair nobody voted on stays open). Prints JSON:
the seconds of each step, the counts, and how many of the votes that came back through `sync`
differ from those that were replayed, which must be none.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

from annotator.studio.client import Studio
from annotator.studio.local import LocalStudio, RunningStudio
from annotator.studio.screen import answer_result, to_screen_frame

ANNOTATOR = [sys.executable, "-m", "annotator"]
GRADE_OF_LABEL = {"a": "a_better", "b": "b_better", "tie": "tie", "both_bad": "both_bad"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", type=Path, help="folder with mt_bench_human and hh_rlhf_test")
    parser.add_argument("--prompts", type=int, default=2000, help="of hh_rlhf_test")
    parser.add_argument("--pairs", type=int, default=100, help="in each of the two rounds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        running = LocalStudio(home / "studio").up()
        try:
            jobs = {
                "mt_bench_human": options.sets / "mt_bench_human.jsonl.gz",
                "hh_rlhf_test": _first_lines(
                    options.sets / "hh_rlhf_test.jsonl.gz", home, options.prompts
                ),
            }
            report = {
                name: run_job(home / name, path, running, options.pairs)
                for name, path in jobs.items()
            }
        finally:
            LocalStudio(home / "studio").down()
    print(json.dumps(report, indent=2))


def _first_lines(path: Path, home: Path, n: int) -> Path:
    cut = home / f"{path.name.removesuffix('.gz')}"
    with gzip.open(path, "rt", encoding="utf-8") as source, cut.open("w", encoding="utf-8") as out:
        out.writelines(islice(source, n))
    return cut


def run_job(folder: Path, data: Path, running: RunningStudio, pairs: int) -> dict[str, Any]:
    """One set through all steps; seconds of each and what came out."""
    seconds: dict[str, float] = {}
    out: dict[str, Any] = {}

    def step(name: str, *arguments: str) -> None:
        started = time.perf_counter()
        done = subprocess.run(
            [*ANNOTATOR, *arguments, "--project", str(folder)],
            env=os.environ
            | {
                "LABEL_STUDIO_URL": running.url,
                "LABEL_STUDIO_API_KEY": running.token,
                "HF_HUB_OFFLINE": "1",
            },
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        # 3: finished, but rows were refused and are counted in the report.
        assert done.returncode in (0, 3), f"annotator {' '.join(arguments)}: {done.returncode}"
        seconds[name] = round(time.perf_counter() - started, 2)
        out[name] = json.loads(done.stdout)

    subprocess.run([*ANNOTATOR, "init", str(folder)], check=True, stdout=subprocess.DEVNULL)
    step("import", "import", str(data), "--json")
    step("embed", "embed", "--json")
    replayed: dict[int, str] = {}
    for turn in (1, 2):
        step(f"round {turn}", "next-batch", "-n", str(pairs), "--seed", str(turn), "--json")
        started = time.perf_counter()
        replayed |= replay(folder / "annotator.db", running, seed=turn)
        seconds[f"answer {turn}"] = round(time.perf_counter() - started, 2)
        step(f"sync {turn}", "sync", "--json")
    export = folder / "votes.jsonl"
    step("export", "export", "--format", "votes", "--out", str(export), "--json")
    step("export trl", "export", "--format", "trl", "--out", str(folder / "t.parquet"), "--json")
    return {"seconds": seconds, "counts": _counts(folder, out, replayed, export)}


def replay(database: Path, running: RunningStudio, seed: int) -> dict[int, str]:
    """Answers the open tasks with real votes; pick id -> grade in the pair's frame."""
    draw = random.Random(seed)
    people = [Studio(running.url, p.token) for p in running.people if p.role == "annotator"]
    given: dict[int, str] = {}
    for turn, (pick, task, side_order, labels) in enumerate(_open_tasks(database)):
        grade = GRADE_OF_LABEL[draw.choice(labels.split(","))]
        people[turn % len(people)].submit(task, answer_result(to_screen_frame(grade, side_order)))
        given[pick] = grade
    return given


def _open_tasks(database: Path) -> list[Any]:
    with sqlite3.connect(database) as db:
        return db.execute(
            """SELECT p.id, t.studio_id, p.side_order, group_concat(s.label)
            FROM tasks t JOIN picks p ON p.id = t.pick_id
            JOIN source_labels s ON s.a_id = p.a_id AND s.b_id = p.b_id AND s.kind = 'human'
            LEFT JOIN current_votes v ON v.pick_id = p.id WHERE v.id IS NULL
            GROUP BY p.id ORDER BY p.id"""
        ).fetchall()


def _counts(
    folder: Path, out: dict[str, Any], replayed: dict[int, str], export: Path
) -> dict[str, Any]:
    with sqlite3.connect(folder / "annotator.db") as db:
        synced = dict(db.execute("SELECT pick_id, grade FROM current_votes WHERE status = 'vote'"))
        one = {
            name: db.execute(query).fetchone()[0]
            for name, query in {
                "prompts": "SELECT count(*) FROM prompts",
                "responses": "SELECT count(*) FROM responses",
                "source_labels": "SELECT count(*) FROM source_labels",
                "texts_embedded": "SELECT count(*) FROM embeddings",
                "texts_chunked": "SELECT count(*) FROM embeddings WHERE n_chunks > 1",
                "pairs_picked": "SELECT count(*) FROM picks",
                "tasks_swept": "SELECT count(*) FROM tasks WHERE state = 'swept'",
            }.items()
        }
    return {
        **one,
        "rows_rejected": out["import"]["total"]["rejected"],
        "pairs_answered": len(replayed),
        "pairs_nobody_voted_on": one["pairs_picked"] - len(replayed),
        "votes_synced": len(synced),
        "votes_that_differ": len(dict(synced.items() ^ replayed.items())),
        "rows_exported": len(export.read_text(encoding="utf-8").splitlines()),
        "rows_trl": out["export trl"]["rows"],
        "left_out_of_trl": out["export trl"]["left_out"],
    }


if __name__ == "__main__":
    main()
