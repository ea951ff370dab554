#!/usr/bin/env python3
"""How long choosing takes, against one read of the vectors in the same run.

Seconds depend on the machine and on what else it does; the ratios less so. Each figure is the
fastest of several repetitions, and the things compared take turns. Prints JSON.

    python scripts/bench_acquisition.py --prompts 20000
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from strategies import STRATEGIES
from strategies.pool import Pool, check_selection
from strategies.within_prompt import cosines_of_pairs


def main() -> None:
    options = parse()
    pool = pool_of(options.prompts, options.responses, options.dimensions)
    report = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "prompts": options.prompts,
        "responses_per_prompt": options.responses,
        "dimensions": options.dimensions,
        "megabytes_of_vectors": round(pool.response_vectors.nbytes / 1e6),
        "within_prompt_distances": within_prompt_distances(pool, options.repeat),
        "strategies": whole_strategies(pool, options.n, options.repeat),
    }
    print(json.dumps(report, indent=2))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=200_000)
    parser.add_argument("--responses", type=int, default=4, help="responses of each prompt")
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--n", type=int, default=1000, help="pairs in the batch")
    parser.add_argument("--repeat", type=int, default=5)
    return parser.parse_args()


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


def fastest(calls: list[Callable[[], object]], repeat: int) -> list[float]:
    """Seconds of the fastest run of each call; they take turns, so that load falls on all alike."""
    best = [float("inf")] * len(calls)
    for _ in range(repeat):
        for i, call in enumerate(calls):
            start = time.perf_counter()
            call()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


if __name__ == "__main__":
    main()
