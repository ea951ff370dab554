#!/usr/bin/env python3
"""How long the preference model takes to fit, and to take in one more vote.

Every case runs in a process of its own. Beside the seconds stands their ratio to one matrix product
X'X of the same size in the same process: X has a row for every degree of freedom of the labelled
responses and a column for every feature. Seconds depend on the machine and on what else it does;
the ratios less so. Memory is what a refit has allocated at most, beside the features' vectors.
Prints JSON.

    OPENBLAS_NUM_THREADS=1 python scripts/bench_posterior.py
    python scripts/bench_posterior.py --only hh-like --repeat 3
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import scipy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from annotator.preference.features import COVARIATES, ResponseFeatures, response_features
from annotator.preference.posterior import Posterior, fit_posterior
from annotator.preference.tuning import default_setting, tuned
from annotator.preference.votes import Votes, tally
from scripts.measuring import fastest

# Prompts, responses of each, votes.
CASES = {
    "hh-like": (10_000, 2, 10_000),
    "four responses": (10_000, 4, 10_000),
    "many responses": (32, 33, 10_000),
    "hh-like, 100,000 votes": (100_000, 2, 100_000),
    "many responses, 100,000 votes": (320, 33, 100_000),
}
BATCH = 100  # votes that come between two fits
SINGLE_VOTES = 20


def main() -> None:
    options = parse()
    if options.case:
        print(json.dumps(run(*CASES[options.case], options.dimensions, options.repeat)))
        return
    report: dict[str, Any] = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "processors": os.cpu_count(),
        "openblas_threads": os.environ.get("OPENBLAS_NUM_THREADS", "not set"),
        "load_at_start": round(os.getloadavg()[0], 2),
        "dimensions": options.dimensions,
    }
    for name in options.only:
        report[name] = in_own_process(name, options)
    report["load_at_end"] = round(os.getloadavg()[0], 2)
    print(json.dumps(report, indent=2))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--dimensions", type=int, default=384, help="of the embeddings")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    return parser.parse_args()


def in_own_process(name: str, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--case", name, "--repeat", str(options.repeat)]
    command += ["--dimensions", str(options.dimensions)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def run(prompts: int, responses: int, n_votes: int, dimensions: int, repeat: int) -> dict[str, Any]:
    """All figures of one case."""
    features, votes = world(prompts, responses, n_votes, dimensions)
    setting = default_setting(tally(votes))

    def fitted(cast: Votes, start: Posterior | None = None) -> Posterior:
        return fit_posterior(features, tally(cast), setting.prior, setting.model, start)

    early = fitted(Votes(*(column[:-BATCH] for column in (votes.a, votes.b, votes.grade))))
    tracemalloc.start()
    posterior = fitted(votes)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    layout_rows = len(np.unique(np.concatenate((votes.a, votes.b)))) - len(
        np.unique(features.prompt_of_response[votes.a])
    )
    x = np.random.default_rng(0).standard_normal((layout_rows, len(posterior.weights)))
    # A copy, since numpy would compute only half of x.T @ x.
    product, cold, warm = fastest(
        [lambda: x.T.copy() @ x, lambda: fitted(votes), lambda: fitted(votes, early)], repeat
    )
    one_more, asked = single_votes(posterior, votes)
    tuning, rewards = fastest(
        [lambda: tuned(features, tally(votes), setting), lambda: all_rewards(posterior)], 1
    )
    seconds = {
        "product": product,
        "cold_refit": cold,
        f"refit_after_{BATCH}_votes": warm,
        "one_more_vote": one_more,
        "one_difference_after_it": asked,
        "tuning": tuning,
        "rewards_of_all_responses": rewards,
    }
    return {
        "prompts": prompts,
        "responses_per_prompt": responses,
        "votes": n_votes,
        "features": len(posterior.weights),
        "rows": layout_rows,
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "ratio_to_product": {name: round(value / product, 2) for name, value in seconds.items()},
        "megabytes_of_product": round(x.nbytes / 1e6),
        "peak_megabytes_of_refit": round(peak / 1e6),
    }


def world(
    prompts: int, responses: int, n_votes: int, dimensions: int
) -> tuple[ResponseFeatures, Votes]:
    """Random unit vectors, rewards linear in them and something of each response's own."""
    rng = np.random.default_rng(0)
    prompt_of_response = np.repeat(np.arange(prompts), responses)
    features = response_features(
        unit_vectors(rng, prompts * responses, dimensions),
        unit_vectors(rng, prompts, dimensions),
        prompt_of_response,
        rng.standard_normal((prompts * responses, len(COVARIATES)), dtype=np.float32),
    )
    reward = features.vectors @ rng.standard_normal(dimensions)
    reward += 0.5 * rng.standard_normal(len(reward))
    prompt = rng.permutation(np.arange(n_votes) % prompts)
    slot_a = rng.integers(0, responses, n_votes)
    slot_b = (slot_a + rng.integers(1, responses, n_votes)) % responses
    a, b = prompt * responses + slot_a, prompt * responses + slot_b
    grade = np.sign(reward[a] - reward[b] + rng.logistic(size=n_votes)).astype(np.int64)
    grade[rng.random(n_votes) < 0.1] = 0
    return features, Votes(a, b, grade)


def unit_vectors(rng: np.random.Generator, n: int, dimensions: int) -> np.ndarray:
    vectors = rng.standard_normal((n, dimensions), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def single_votes(posterior: Posterior, votes: Votes) -> tuple[float, float]:
    """Median seconds of one more vote, and of asking about one pair after it."""
    rng, voting, asking = np.random.default_rng(1), [], []
    for at in rng.integers(0, len(votes), SINGLE_VOTES):
        prompt = posterior.features.prompt_of_response[votes.a[at]]
        its = np.flatnonzero(posterior.features.prompt_of_response == prompt)
        a, b = rng.choice(its, 2, replace=False).tolist()
        start = time.perf_counter()
        posterior = posterior.with_vote(a, b, 1)
        voted = time.perf_counter()
        posterior.differences(np.array([a]), np.array([b]))
        voting.append(voted - start)
        asking.append(time.perf_counter() - voted)
    return float(np.median(voting)), float(np.median(asking))


def all_rewards(posterior: Posterior) -> None:
    Posterior(posterior.features, posterior.approximation).rewards()


if __name__ == "__main__":
    main()
