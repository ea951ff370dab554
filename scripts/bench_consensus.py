#!/usr/bin/env python3
"""How long it takes to find consensus, skill and left bias from a crowd's votes, and what they are
worth.

Every case runs in a process of its own: pairs with normal differences, annotators of known skill
and habit who vote unevenly often, no pair twice by the same person. Beside seconds and memory stand
the share of pairs oriented rightly and that of people whose 95 % interval of skill holds the truth.
Prints JSON.

    OPENBLAS_NUM_THREADS=1 python scripts/bench_consensus.py
    python scripts/bench_consensus.py --only small --repeat 3
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from annotator.labels.crowd import Crowd, CrowdVotes, PairPrior, fit_crowd
from annotator.preference.vote_model import VoteModel
from scripts.measuring import fastest, forget_peak_memory, peak_memory

# Pairs, annotators, votes, and whether a prior of the pairs is given.
CASES = {
    "small": (1_000, 10, 3_000, False),
    "30,000 votes": (10_000, 30, 30_000, False),
    "a million votes, nothing known": (300_000, 200, 1_000_000, False),
    "a million votes after a preference model": (300_000, 200, 1_000_000, True),
}
DEVIATION = 2.0
MODEL = VoteModel(0.4, 1.6, 0.0)
ASKED = 10_000


def main() -> None:
    options = parse()
    if options.case:
        print(json.dumps(run(*CASES[options.case], options.repeat)))
        return
    report: dict[str, Any] = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "processors": os.cpu_count(),
        "openblas_threads": os.environ.get("OPENBLAS_NUM_THREADS", "not set"),
        "load_at_start": round(os.getloadavg()[0], 2),
    }
    for name in options.only:
        command = [sys.executable, __file__, "--case", name, "--repeat", str(options.repeat)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        report[name] = json.loads(done.stdout)
    report["load_at_end"] = round(os.getloadavg()[0], 2)
    print(json.dumps(report, indent=2))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    return parser.parse_args()


def run(n_pairs: int, n_annotators: int, n_votes: int, known: bool, repeat: int) -> dict[str, Any]:
    """All figures of one case."""
    rng = np.random.default_rng(0)
    mean = rng.normal(0.0, DEVIATION / np.sqrt(2.0), n_pairs)
    difference = mean + rng.normal(0.0, DEVIATION / np.sqrt(2.0), n_pairs)
    skill, votes = voted(rng, difference, n_annotators, n_votes)
    prior = PairPrior(mean, np.full(n_pairs, DEVIATION**2 / 2.0)) if known else None
    before, started = forget_peak_memory(), time.process_time()
    crowd = fit_crowd(votes, prior=prior)
    processor, peak = time.process_time() - started, peak_memory()
    pairs = rng.choice(n_pairs, min(ASKED, n_pairs), replace=False)
    seconds, one, three = fastest(
        [
            lambda: fit_crowd(votes, prior=prior),
            lambda: crowd.gain(pairs),
            lambda: crowd.gain(pairs, ahead=3),
        ],
        repeat,
    )
    return {
        "votes": len(votes),
        "pairs": n_pairs,
        "annotators": n_annotators,
        "seconds": round(seconds, 2),
        "processor_seconds": round(processor, 2),
        "peak_mb": round(peak / 1e6),
        "mb_before": round(before / 1e6),
        f"seconds_of_gain_of_{len(pairs)}_pairs": round(one, 3),
        f"seconds_of_gain_of_{len(pairs)}_pairs_3_ahead": round(three, 3),
        **worth(crowd, difference, skill),
    }


def worth(crowd: Crowd, difference: np.ndarray, skill: np.ndarray) -> dict[str, Any]:
    people, seen = crowd.people, crowd.n_votes > 0
    inside = (people.skill_low <= skill) & (skill <= people.skill_high)
    right = (crowd.preferred > 0.5) == (difference > 0.0)
    return {
        "deviation": round(float(np.sqrt(crowd.prior.variance[0])), 3),
        "tie": round(crowd.model.tie, 3),
        "much": None if crowd.model.much is None else round(crowd.model.much, 3),
        "pairs_right": round(float(right[seen].mean()), 4),
        "pairs_right_expected": round(float(1.0 - crowd.error[seen].mean()), 4),
        "skill_error": round(float(np.abs(people.skill - skill)[people.shown].mean()), 4),
        "skill_within_interval": round(float(inside[people.shown].mean()), 3),
        "people_shown": int(people.shown.sum()),
    }


def voted(
    rng: np.random.Generator, difference: np.ndarray, n_annotators: int, n_votes: int
) -> tuple[np.ndarray, CrowdVotes]:
    """Skills, and about that many votes."""
    often = rng.gamma(1.0, 1.0, n_annotators)
    pair = rng.integers(0, len(difference), n_votes)
    annotator = rng.choice(n_annotators, n_votes, p=often / often.sum())
    once = np.unique(pair * n_annotators + annotator)
    pair, annotator = once // n_annotators, once % n_annotators
    skill, habit = rng.beta(4.0, 1.0, n_annotators), rng.dirichlet([2, 1, 2], n_annotators)
    left_is_a = rng.random(len(pair)) < 0.5
    half = MODEL.n_grades // 2
    looked = drawn(rng, MODEL.grades(difference)[pair]) - half
    pressed = (1 - drawn(rng, habit[annotator])) * rng.integers(1, half + 1, len(pair))
    grade = np.where(
        rng.random(len(pair)) < skill[annotator], looked, np.where(left_is_a, pressed, -pressed)
    )
    order = rng.permutation(len(pair))
    columns = (pair[order], grade[order], annotator[order], left_is_a[order])
    return skill, CrowdVotes(*columns, len(difference), n_annotators)


def drawn(rng: np.random.Generator, probability: np.ndarray) -> np.ndarray:
    """One column of each row."""
    below = probability.cumsum(axis=1)
    return (rng.random((len(below), 1)) * below[:, -1:] > below).sum(axis=1)


if __name__ == "__main__":
    main()
