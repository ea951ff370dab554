#!/usr/bin/env python3
"""How long `next-batch` takes to choose from a large project, and how much memory at most.

The project is made up: prompts with short texts, random unit vectors in place of an encoder's, and
some rounds of random picks with votes, so that the preference model has something to learn from.
It is kept in --folder and used again. The choice is that of `annotator next-batch --dry-run`, in a
process of its own; beside it stands one pass over the same vectors, read from the same file. Both
are told by the clock and by processor time, which says more on a machine that others use as well.
`cold` is the first choice after an import, which has to work out where the vectors lie. Of the
peak, mapped pages of the vector file are counted as well. Prints JSON, medians of --repeat runs.

    OPENBLAS_NUM_THREADS=1 python scripts/bench_next_batch.py --prompts 250000

With more threads than free processors the small matrices of the preference model wait for one
another: set the number to what the machine has to spare.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from annotator.candidates.ingest import import_files
from annotator.labels.votes import Vote, record_annotators, record_votes
from annotator.rounds.batch import BatchRequest, choose_and_record
from annotator.signals.embeddings import embed_missing, response_vectors
from annotator.signals.encoder import Encoded
from annotator.store import open_db, writing
from scripts.measuring import forget_peak_memory, peak_memory

SEED = 7


class RandomEncoder:
    """Unit vectors that have nothing to do with the texts."""

    name, fingerprint, chunking = "random", "random", "none"

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._rng = np.random.default_rng(SEED)

    def encode(self, texts: list[str]) -> Encoded:
        vectors = self._rng.standard_normal((len(texts), self.dimension), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return Encoded(vectors, np.ones(len(texts), dtype=np.int64))


def main() -> None:
    options = parse()
    if options.measure:
        print(json.dumps(measure(options.folder, options.measure, options.n)))
        return
    with tempfile.TemporaryDirectory() as folder:
        place = options.folder or Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        seconds = make_project(place, options)
        report = {
            "python": platform.python_version(),
            "processors": os.cpu_count(),
            "openblas_threads": os.environ.get("OPENBLAS_NUM_THREADS", "not set"),
            "load_at_start": round(os.getloadavg()[0], 2),
            "prompts": options.prompts,
            "responses_per_prompt": options.responses,
            "votes": options.votes,
            "pairs_in_batch": options.n,
            "seconds_to_make_the_project": seconds,
            "strategies": {name: repeated(place, name, options) for name in options.only},
        }
    print(json.dumps(report, indent=2))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where the project is made and kept")
    parser.add_argument("--prompts", type=int, default=250_000)
    parser.add_argument("--responses", type=int, default=4)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--votes", type=int, default=2_000)
    parser.add_argument("-n", type=int, default=100, help="pairs in the batch")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=["random", "real-easy", "hybrid"])
    parser.add_argument("--measure", metavar="STRATEGY", help=argparse.SUPPRESS)
    return parser.parse_args()


def make_project(folder: Path, options: argparse.Namespace) -> float | None:
    """Seconds that it took; None if it was there."""
    path = folder / "annotator.db"
    if path.exists():
        return None
    started = time.monotonic()
    candidates = folder / "candidates.jsonl"
    with candidates.open("w", encoding="utf-8") as file:
        for i in range(options.prompts):
            texts = [
                {
                    "text": f"Answer {j} to question {i}: " + "so it goes. " * (1 + j),
                    "model": f"m{j}",
                }
                for j in range(options.responses)
            ]
            row = {"id": f"q{i}", "prompt": f"Question {i}: what goes?", "responses": texts}
            file.write(json.dumps(row) + "\n")
    db = open_db(path, create=True)
    import_files(db, [candidates])
    encoder_id = embed_missing(db, RandomEncoder(options.dimensions), path).encoder_id
    request = BatchRequest(options.votes, "random", control=0.15, overlap=1, seed=SEED)
    choose_and_record(db, path, encoder_id, request, dry_run=False)
    answer(db)
    db.close()
    return round(time.monotonic() - started, 1)


def answer(db: Any) -> None:
    """One vote on every pick, drawn."""
    rng = np.random.default_rng(SEED)
    grades = ["a_better", "tie", "b_better"]
    picks = [pick for (pick,) in db.execute("SELECT id FROM picks")]
    votes = [
        Vote(i, i, "vote", "2026-01-01T00:00:00Z", {}, i, 1, grade=grades[rng.integers(3)])
        for i in picks
    ]
    with writing(db):
        db.execute(
            """INSERT INTO projects (id, server, mark, studio_id, title, screen, overlap,
            created_at) VALUES (1, 'http://made-up', 'm', 1, 't', 's', 1, '')"""
        )
        record_annotators(db, "http://made-up", {1: "made-up"})
        record_votes(db, 1, votes, {})


def repeated(folder: Path, strategy: str, options: argparse.Namespace) -> dict[str, Any]:
    """Medians of several runs, and the first again after what is remembered was deleted."""
    for remembered in folder.glob("annotator.db.vectors/*/responses.rows"):
        remembered.unlink()
    cold = in_own_process(folder, strategy, options)
    runs = [in_own_process(folder, strategy, options) for _ in range(options.repeat)]
    medians = {name: round(float(np.median([run[name] for run in runs])), 3) for name in cold}
    return {**medians, "cold": {name: cold[name] for name in cold if "times" in name}}


def in_own_process(folder: Path, strategy: str, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--folder", str(folder), "--measure", strategy]
    done = subprocess.run(
        [*command, "-n", str(options.n)], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(folder: Path, strategy: str, n: int) -> dict[str, Any]:
    path = folder / "annotator.db"
    db = open_db(path)
    encoder_id = int(db.execute("SELECT id FROM encoders").fetchone()[0])
    before = forget_peak_memory()
    request = BatchRequest(n, strategy, control=0.15, overlap=1, seed=SEED + 1)
    started = clocks()
    batch = choose_and_record(db, path, encoder_id, request, dry_run=True)
    (seconds, busy), peak = clocks() - started, peak_memory()
    vectors = response_vectors(db, path, encoder_id)
    started = clocks()
    float(vectors.sum(dtype=np.float64))
    one_pass, busy_in_pass = clocks() - started
    return {
        "seconds": round(seconds, 2),
        "one_pass_seconds": round(one_pass, 3),
        "times_one_pass": round(seconds / one_pass, 1),
        "processor_seconds": round(busy, 2),
        "processor_times_one_pass": round(busy / busy_in_pass, 1),
        "megabytes_of_vectors": round(vectors.nbytes / 1e6),
        "peak_megabytes": round((peak - before) / 1e6),
        "peak_over_vectors": round((peak - before) / vectors.nbytes, 2),
        "pairs": len(batch.picks),
    }


def clocks() -> np.ndarray:
    """Seconds by the clock, and of this process' processor time."""
    return np.array([time.monotonic(), time.process_time()])


if __name__ == "__main__":
    main()
