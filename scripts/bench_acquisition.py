#!/usr/bin/env python3
"""How long choosing takes, against one read of the vectors or against others, in the same run.

Seconds depend on the machine and on what else it does; the ratios less so. In the first two
sections each figure is the fastest of several repetitions, and the things compared take turns;
farthest-first runs for minutes and is timed once. Prints JSON.

    python scripts/bench_acquisition.py --only within-prompt strategies --prompts 20000
    python scripts/bench_acquisition.py --only farthest-first --peers-python VENV/bin/python

VENV holds small-text, scikit-activeml and apricot-select; without it they are left out.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.measuring import fastest, forget_peak_memory, peak_memory
from strategies import STRATEGIES
from strategies.farthest_first import farthest_first
from strategies.pool import Pool, check_selection
from strategies.within_prompt import cosines_of_pairs
from tests.signalled_pool import with_all_signals

SECTIONS = ("within-prompt", "strategies", "farthest-first")
WHOLE_LOOP_ROWS = 200_000  # beyond, the plain loop runs for some steps and is extrapolated
PLAIN_STEPS = 100
COVER_ROWS = 50_000


def main() -> None:
    options = parse()
    report: dict[str, Any] = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "processors": os.cpu_count(),
        "openblas_threads": os.environ.get("OPENBLAS_NUM_THREADS", "not set"),
        "load_at_start": round(os.getloadavg()[0], 2),
    }
    if {"within-prompt", "strategies"} & set(options.only):
        report |= of_prompts(options)
    if "farthest-first" in options.only:
        report["farthest_first"] = [
            compare_farthest_first(*size, options.dimensions, options.peers_python, options.limit)
            for size in options.sizes
        ]
    report["load_at_end"] = round(os.getloadavg()[0], 2)
    print(json.dumps(report, indent=2))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--prompts", type=int, default=200_000)
    parser.add_argument("--responses", type=int, default=4, help="responses of each prompt")
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--n", type=int, default=1000, help="pairs in the batch")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=rows_and_picks,
        default=[(20_000, 1000), (100_000, 1000), (1_000_000, 10_000)],
        metavar="ROWS:PICKS",
        help="of farthest-first",
    )
    parser.add_argument("--peers-python", help="interpreter of an environment with the peers")
    parser.add_argument("--limit", type=float, default=60, help="seconds for a peer to finish")
    return parser.parse_args()


def rows_and_picks(text: str) -> tuple[int, int]:
    rows, picks = text.split(":")
    return int(rows), int(picks)


def of_prompts(options: argparse.Namespace) -> dict[str, Any]:
    """The sections on pools of prompts, all on one pool."""
    pool = pool_of(options.prompts, options.responses, options.dimensions)
    report: dict[str, Any] = {
        "prompts": options.prompts,
        "responses_per_prompt": options.responses,
        "dimensions": options.dimensions,
        "megabytes_of_vectors": round(pool.response_vectors.nbytes / 1e6),
    }
    if "within-prompt" in options.only:
        report["within_prompt_distances"] = within_prompt_distances(pool, options.repeat)
    if "strategies" in options.only:
        pool = with_all_signals(pool, np.random.default_rng(1))
        report["strategies"] = whole_strategies(pool, options.n, options.repeat)
    return report


def pool_of(prompts: int, responses: int, dimensions: int) -> Pool:
    """Random unit vectors: the time does not depend on what they are."""
    vectors = np.random.default_rng(0).standard_normal(
        (prompts * responses, dimensions), dtype=np.float32
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Pool.of_responses(vectors, np.repeat(np.arange(prompts), responses))


def within_prompt_distances(pool: Pool, repeat: int) -> dict[str, float]:
    """The cosines of all pairs within prompts, against the sum of all components."""

    def distances() -> None:
        cosines_of_pairs(pool.response_vectors, pool.prompt_of_response, pool.pair_a, pool.pair_b)

    read, chosen = fastest([pool.response_vectors.sum, distances], repeat)
    return {
        "pairs": pool.n_pairs,
        "read_seconds": round(read, 4),
        "seconds": round(chosen, 4),
        "ratio": round(chosen / read, 2),
    }


def whole_strategies(pool: Pool, n: int, repeat: int) -> dict[str, dict[str, float]]:
    """One call of each strategy, from the pool to a checked selection."""

    def call(name: str) -> Callable[[], None]:
        def chosen() -> None:
            selection = STRATEGIES[name](pool, n, np.random.default_rng(0))
            check_selection(pool, selection, n)

        return chosen

    read, *times = fastest([pool.response_vectors.sum, *map(call, STRATEGIES)], repeat)
    return {
        name: {"n": n, "seconds": round(seconds, 4), "ratio": round(seconds / read, 2)}
        for name, seconds in zip(STRATEGIES, times, strict=True)
    }


def compare_farthest_first(
    rows: int, picks: int, dimensions: int, peers_python: str | None, limit: float
) -> dict[str, Any]:
    """Ours, the plain loop and the peers on the same unit vectors, a mixture of 200 Gaussians.

    `cover` is the largest 1 - cosine from a row to its nearest pick, small = better; of many rows
    it is that of some drawn ones.
    """
    vectors = mixture(rows, dimensions)
    before = forget_peak_memory()
    start = time.perf_counter()
    chosen, _ = farthest_first(vectors, picks)
    seconds = time.perf_counter() - start
    grown = peak_memory() - before
    plain = plain_loop(vectors, picks, chosen)
    random = np.random.default_rng(0).choice(rows, picks, replace=False)
    return {
        "rows": rows,
        "picks": picks,
        "megabytes_of_vectors": round(vectors.nbytes / 1e6),
        "ours": {
            "seconds": round(seconds, 2),
            "peak_megabytes_on_top": round(grown / 1e6),
            "cover": cover(vectors, chosen),
        },
        "plain_loop": plain,
        "times_faster": round(plain["seconds"] / seconds, 2),
        "cover_of_rows": rows if rows <= WHOLE_LOOP_ROWS else COVER_ROWS,
        "random": {"cover": cover(vectors, random)},
        "peers": compare_peers(vectors, picks, peers_python, limit),
    }


def mixture(rows: int, dimensions: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((200, dimensions), dtype=np.float32)
    vectors = rng.standard_normal((rows, dimensions), dtype=np.float32)
    for block in range(0, rows, 10_000):
        part = vectors[block : block + 10_000]
        part += centres[rng.integers(200, size=len(part))]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def plain_loop(vectors: np.ndarray, picks: int, ours: np.ndarray) -> dict[str, Any]:
    """One pass over all rows for every pick, as fast as numpy goes; stops if a pick differs."""
    steps = picks if len(vectors) <= WHOLE_LOOP_ROWS else min(picks, PLAIN_STEPS)
    norms = np.vecdot(vectors, vectors)
    nearest = np.full(len(vectors), np.inf, dtype=np.float32)
    best = 0
    start = time.perf_counter()
    for step in range(steps):
        if best != ours[step]:
            raise SystemExit(f"pick {step} is {ours[step]}, and {best} of the plain loop")
        squared = norms + norms[best]
        squared -= 2 * np.vecdot(vectors, vectors[best])
        np.minimum(nearest, np.maximum(squared, 0, out=squared), out=nearest)
        nearest[best] = -np.inf
        best = int(np.argmax(nearest))
    seconds = (time.perf_counter() - start) * picks / steps
    return {
        "seconds": round(seconds, 2),
        "extrapolated_from_steps": None if steps == picks else steps,
        "same_picks_checked": steps,
    }


def cover(vectors: np.ndarray, picks: np.ndarray) -> float:
    centres = vectors[picks]
    if len(vectors) > WHOLE_LOOP_ROWS:
        vectors = vectors[np.random.default_rng(1).choice(len(vectors), COVER_ROWS, replace=False)]
    nearest = np.empty(len(vectors), dtype=np.float32)
    for block in range(0, len(vectors), 2000):
        nearest[block : block + 2000] = (vectors[block : block + 2000] @ centres.T).max(axis=1)
    return round(float(1 - nearest.min()), 4)


# small-text is given float64, in which it does not draw NaN from arccos, and a labelled row that
# stands last, since it takes positions among the unlabelled for rows.
PEERS = {
    "small-text greedy_coreset": """
from small_text.query_strategies.coresets import greedy_coreset
x, n = x.astype(np.float64), len(x)
def choose(): return greedy_coreset(
    x, np.arange(n - 1), np.array([n - 1]), k, distance_metric="cosine", normalized=True)""",
    "scikit-activeml CoreSet": """
from skactiveml.pool import CoreSet
y = np.full(len(x), np.nan)
def choose(): return CoreSet(random_state=0).query(x, y, batch_size=k)""",
    "apricot-select FacilityLocation, lazy": """
from apricot import FacilityLocationSelection
def choose(): return FacilityLocationSelection(k, metric="cosine", optimizer="lazy").fit(x).ranking
""",
}
PEER_SCRIPT = """
import json, resource, sys, time, warnings
warnings.simplefilter("ignore")
resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))  # n x n matrices must not fill memory
import numpy as np
x, k = np.load(sys.argv[1]), int(sys.argv[2])
{prepare}
start = time.perf_counter()
picks = [int(i) for i in choose()]
print(json.dumps({{"seconds": time.perf_counter() - start, "picks": picks}}))
"""


def compare_peers(
    vectors: np.ndarray, picks: int, python: str | None, limit: float
) -> dict[str, Any]:
    if python is None:
        return {"skipped": "no --peers-python given"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        np.save(path, vectors)
        return {
            name: run_peer(PEER_SCRIPT.format(prepare=code), path, vectors, picks, python, limit)
            for name, code in PEERS.items()
        }


def run_peer(
    script: str, path: Path, vectors: np.ndarray, picks: int, python: str, limit: float
) -> dict[str, Any]:
    """Seconds and cover of one peer in a process of its own, or why there are none."""
    command = [python, "-c", script, str(path), str(picks)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"stopped_after_seconds": limit}
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        return {"skipped": reason[:200]}
    found = json.loads(done.stdout.splitlines()[-1])
    return {
        "seconds": round(found["seconds"], 2),
        "cover": cover(vectors, np.array(found["picks"])),
    }


if __name__ == "__main__":
    main()
