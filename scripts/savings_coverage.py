#!/usr/bin/env python3
"""How often the saving's interval holds the truth: docs/savings-coverage/*.json and the page.

Projects are replayed from the first round to the last through the code of the live loop, and the
saving of each is measured by the code of `annotator budget`. What is true comes from the replays
themselves: the learners of both arms are held against every vote there is, which no project can
do, and their mean curves over all replays cross where they cross. Replays that are in the cache are
not run again, so the script may be stopped and started.

    python scripts/savings_coverage.py --synthetic --replays 200 --jobs 2
    python scripts/savings_coverage.py ukpconvarg1.jsonl.gz --replays 200 --jobs 2
    python scripts/savings_coverage.py --page-only
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from scipy.stats import beta

from annotator import __version__
from annotator.budget.savings import CastVotes, Saving, first_above, saving
from annotator.config import DEFAULT_ENCODER
from annotator.preference.posterior import Posterior, fit_posterior
from annotator.preference.tuning import default_setting, tuned
from annotator.preference.votes import Votes, tally
from annotator.progress import progress_bar
from annotator.simulate.replay import Plan, cast_in_order
from annotator.simulate.world import World, load_world
from tests.crowd_world import crowd_world

ROOT = Path(__file__).resolve().parents[1]
STORED = ROOT / "docs" / "savings-coverage"
PAGE = ROOT / "docs" / "savings-coverage.md"
Document = dict[str, Any]

BATCH, CONTROL = 40, 0.25
BATCH_OF_FILE = 80  # a round of a labelled set takes long
SMALLEST = 1e-12
# What a replay goes through: another state of these files is another figure.
MEASURING = (
    "annotator/budget/savings.py",
    "annotator/preference/learner.py",
    "annotator/preference/posterior.py",
    "annotator/preference/tuning.py",
    "annotator/simulate/replay.py",
    "strategies/hybrid.py",
)


@dataclass(frozen=True)
class Project:
    """One kind of project: a world, who chooses, and how many votes are cast in it."""

    name: str
    told: str
    strategy: str
    votes: int
    setting: dict[str, Any] | None = None  # of a synthetic world
    saves_nothing: bool = False  # by the way it was made, not by what was measured
    learnable: bool = True


_CLEAR = {"explained": 3.0, "own": 0.5, "pair": 0.05, "tie": 0.3, "skill": (20.0, 1.0)}
_COPIES = {"explained": 4.0, "own": 0.05, "pair": 0.05, "tie": 0.2, "skill": (40.0, 1.0)}
SYNTHETIC = (
    Project("noisy", "much noise, little to learn", "hybrid", 800, {}),
    Project("clear", "careful people, much to learn", "hybrid", 800, _CLEAR | {"dimension": 24}),
    Project(
        "copies",
        "of half of the prompts the responses are nearly copies",
        "d-optimal",
        800,
        _COPIES | {"dimension": 16, "copies": 0.5},
    ),
    Project(
        "clear, random",
        "the same as clear; the strategy is a uniform choice too",
        "random",
        800,
        _CLEAR | {"dimension": 24},
        saves_nothing=True,
    ),
    Project(
        "nothing to learn",
        "every pair is a matter of its own",
        "hybrid",
        800,
        {"explained": 0.0, "own": 0.0, "pair": 1.8},
        saves_nothing=True,
        learnable=False,
    ),
)


def of_file(path: Path, votes: int) -> tuple[Project, ...]:
    """A labelled set, as chosen by default and by chance."""
    name = path.name.partition(".")[0]
    return (
        Project(name, "real votes", "hybrid", votes),
        Project(f"{name}, random", "real votes", "random", votes, saves_nothing=True),
    )


def main() -> None:
    options = parse()
    projects = list(SYNTHETIC) if options.synthetic else []
    paths = {}
    for path in options.files:
        found = of_file(path, options.votes)
        projects += found
        paths |= {project.name: path for project in found}
    for project in projects:
        if options.only and project.name not in options.only:
            continue
        run(project, paths.get(project.name), options)
    PAGE.write_text(page(stored()), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="labelled sets, each by itself")
    parser.add_argument("--synthetic", action="store_true", help="worlds with a known answer too")
    parser.add_argument("--only", action="append", help="this kind of project; may be repeated")
    parser.add_argument("--page-only", action="store_true", help="make the page of what is stored")
    parser.add_argument("--replays", type=int, default=200)
    parser.add_argument("--votes", type=int, default=800, help="cast in each replay of a file")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=default_cache())
    options = parser.parse_args()
    if not (options.files or options.page_only or options.synthetic):
        parser.error("give labelled sets, --synthetic, or --page-only")
    return options


def default_cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "annotator" / "simulate"


# Replays.


def run(project: Project, path: Path | None, options: argparse.Namespace) -> None:
    """All replays of one kind of project, and its document."""
    folder = options.cache / "coverage" / code_key(project)
    folder.mkdir(parents=True, exist_ok=True)
    missing = [n for n in range(options.replays) if not (folder / f"{n}.json").exists()]
    with (
        ProcessPoolExecutor(options.jobs) as pool,
        progress_bar(len(missing), project.name, "replays") as advance,
    ):
        jobs = [pool.submit(replay_one, project, path, options.cache, n, folder) for n in missing]
        for job in jobs:
            job.result()
            advance(1)
    rows = [json.loads((folder / f"{n}.json").read_text()) for n in range(options.replays)]
    document = account(project, rows)
    STORED.mkdir(parents=True, exist_ok=True)
    name = project.name.replace(", ", "-").replace(" ", "-")
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    (STORED / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(" | ".join(row(document)), flush=True)


def code_key(project: Project) -> str:
    """Names the replays of a kind of project by it and by the code that measures."""
    digest = hashlib.sha256(repr((project, batch_of(project), CONTROL)).encode())
    for path in MEASURING:
        digest.update((ROOT / path).read_bytes())
    return digest.hexdigest()[:24]


def batch_of(project: Project) -> int:
    """Pairs in a batch."""
    return BATCH_OF_FILE if project.setting is None else BATCH


@cache
def world_of_project(name: str, path: Path | None, folder: Path) -> World:
    """Its world, once in each process."""
    if path is not None:
        return load_world([path], folder, encoder=DEFAULT_ENCODER)
    project = next(project for project in SYNTHETIC if project.name == name)
    return crowd_world(1, n_prompts=250, votes_a_pair=2, **(project.setting or {})).world


def replay_one(project: Project, path: Path | None, cache_: Path, seed: int, folder: Path) -> None:
    """One project from its first round to its last, measured; kept as JSON."""
    world = world_of_project(project.name, path, cache_)
    order, control = cast_in_order(
        world, Plan((project.votes,), batch_of(project), CONTROL), project.strategy, seed
    )
    cast = CastVotes(votes_of(world, order), control, np.arange(1, len(order) + 1))
    found = saving(world.features, cast, np.random.default_rng([seed, 5]))
    document = as_row(found) | {"truth": true_scores(world, cast, found).tolist()}
    part = folder / f"{seed}.{os.getpid()}.part"
    part.write_text(json.dumps(document, allow_nan=False), encoding="utf-8")
    part.replace(folder / f"{seed}.json")


def votes_of(world: World, order: np.ndarray) -> Votes:
    pair = world.vote_pair[order]
    return Votes(world.pool.pair_a[pair], world.pool.pair_b[pair], world.vote_grade[order])


def as_row(found: Saving) -> Document:
    share = found.share
    return {
        "n_uniform": found.n_uniform,
        "share": [share.value, share.low, share.high],
        "right": [found.right.value, found.right.low, found.right.high],
        "evidence": found.evidence,
        "shown": found.shown,
        "learned": found.learned,
        "looks": [list(look) for look in found.looks],
        "at": found.at.tolist(),
    }


def true_scores(world: World, cast: CastVotes, found: Saving) -> np.ndarray:
    """Log score and share foretold of both arms' learners by every vote there is.

    (1 + n_points, 2): the control arm's learner, then the project's at each point.
    """
    counted = tally(cast.votes)
    setting = tuned(world.features, counted, default_setting(counted))
    lessons = [cast.control, *(cast.number <= n for n in found.at)]
    learners = (
        fit_posterior(world.features, tally(cast.take(one).votes), setting.prior, setting.model)
        for one in lessons
    )
    return np.array([by_all_votes(world, learner) for learner in learners])


def by_all_votes(world: World, posterior: Posterior) -> tuple[float, float]:
    pool, sided = world.pool, world.vote_grade != 0
    mean, variance = posterior.before_votes(pool.pair_a, pool.pair_b)
    preferred = posterior.model.expected(mean, variance).preferred[world.vote_pair[sided]]
    of_vote = np.where(world.vote_grade[sided] > 0, preferred, 1.0 - preferred)
    right = np.where(of_vote == 0.5, 0.5, of_vote > 0.5)
    return float(np.log(np.maximum(of_vote, SMALLEST)).mean()), float(right.mean())


# What they say together.


def account(project: Project, rows: list[Document]) -> Document:
    """The truth, and how the intervals stand to it."""
    n_uniform, at = rows[0]["n_uniform"], np.array(rows[0]["at"], dtype=np.float64)
    truth = np.array([one["truth"] for one in rows])
    true_share, error = crossing_of_means(truth[:, 1:, 0] - truth[:, :1, 0], at, n_uniform)
    if project.saves_nothing:
        true_share, error = 0.0, 0.0
    low, high = np.array([one["share"][1:] for one in rows], dtype=np.float64).T
    low, high = np.nan_to_num(low, nan=-np.inf), np.nan_to_num(high, nan=np.inf)
    equal = 1 + int(np.searchsorted(at, n_uniform))
    right = truth[:, equal, 1].mean() - truth[:, 0, 1].mean()
    return {
        "project": project.name,
        "told": project.told,
        "strategy": project.strategy,
        "replays": len(rows),
        "votes": project.votes,
        "control_votes": n_uniform,
        "batch": batch_of(project),
        "learnable": project.learnable,
        "saves_nothing": project.saves_nothing,
        "truth": {"share": true_share, "error": error},
        "covered": _share((low <= true_share) & (true_share <= high)),
        "interval_below": _share(high < true_share),
        "interval_above": _share(low > true_share),
        "open_low": float(np.isinf(low).mean()),
        "open_high": float(np.isinf(high).mean()),
        "median_width": _finite(float(np.median(high - low))),
        **_claims(rows),
        "learned": _share([one["learned"] for one in rows]),
        "right": {
            "truth": float(right),
            "covered": _share([one["right"][1] <= right <= one["right"][2] for one in rows]),
        },
        "annotator": __version__,
    }


def _claims(rows: list[Document]) -> Document:
    """How often a saving is claimed; None where the looks were not taken."""
    if any(one["looks"] is None for one in rows):
        return {"claimed": None, "claimed_anywhere": None}
    return {
        "claimed": _share([one["shown"] for one in rows]),
        "claimed_anywhere": _share([any(passed for _, passed in one["looks"]) for one in rows]),
    }


def crossing_of_means(ahead: np.ndarray, at: np.ndarray, n_uniform: int) -> tuple[float, float]:
    """1 - m / n where the mean curve crosses 0, and its standard error by bootstrap."""
    rng = np.random.default_rng(0)
    draws = [rng.integers(len(ahead), size=len(ahead)) for _ in range(200)]
    found = [
        1.0 - first_above(at, np.maximum.accumulate(ahead[rows].mean(axis=0))) / n_uniform
        for rows in (np.arange(len(ahead)), *draws)
    ]
    # Where the curves do not cross within the points, as far as they go.
    found = np.maximum(found, 1.0 - at[-1] / n_uniform).tolist()
    return found[0], float(np.std(found[1:]))


def _share(hits: Any) -> Document:
    """A share with its exact 95 % interval (Clopper and Pearson 1934)."""
    n, k = len(hits), int(np.sum(hits))
    low = float(beta.ppf(0.025, k, n - k + 1)) if k else 0.0
    high = float(beta.ppf(0.975, k + 1, n - k)) if k < n else 1.0
    return {"value": k / n, "low": low, "high": high}


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


# The page.


def stored() -> list[Document]:
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in STORED.glob("*.json")]
    order = [project.name for project in SYNTHETIC]
    return sorted(
        documents,
        key=lambda d: (
            order.index(d["project"]) if d["project"] in order else len(order),
            d["project"],
        ),
    )


def page(documents: list[Document]) -> str:
    lines = [
        "# How far the saving can be believed",
        "",
        "Generated by `scripts/savings_coverage.py --page-only` from `docs/savings-coverage/*.json`"
        "; not edited by hand. Each row is one kind of project, replayed from the first round to "
        "the last by the code that chooses in the live loop, and measured by the code that "
        f"`annotator budget` measures with. Batches of {BATCH} pairs ({BATCH_OF_FILE} of a "
        "labelled set), one vote each, "
        f"{CONTROL:.0%} of them drawn uniformly. "
        "*True saving*: where the mean curves of both arms cross when every vote there is is "
        "foretold, with twice its standard error; 0 where the strategy is a uniform choice itself. "
        "*Covered*: how often the 95 % interval holds it; asked for: 93 to 97 %. *Below*, *above*: "
        "the interval misses it on that side. *Open*: an end of the interval that the votes do not "
        "close. *Claimed*: how often a saving is claimed at the end of the project, and how often "
        "the test passed at any of the looks on the way, at 60 and 120 control votes; asked for "
        "where nothing is saved: 5 % at most. Shares with exact 95 % intervals.",
        "",
    ]
    reading = STORED / "reading.md"
    if reading.exists():
        lines += [reading.read_text(encoding="utf-8").strip(), ""]
    if documents:
        head = [
            "project", "strategy", "replays", "votes (control)", "true saving", "covered", "below",
            "above", "open low, high", "width", "claimed", "at any look",
        ]  # fmt: skip
        lines += [*table([head, *map(row, documents)]), ""]
        lines += ["## The same number of votes", ""]
        lines += [
            "The share of the control arm's votes that the project foretells with as many votes as "
            "the control arm has, less the share that the control arm foretells itself. Its "
            "interval is that of the votes foretold; the luck of those that taught is left out.",
            "",
        ]
        lines += [*table([["project", "true difference", "covered"], *map(right_row, documents)])]
        lines += ["", "## The projects", ""]
        lines += [f"- **{d['project']}**: {d['told']}." for d in documents]
    return "\n".join(lines).rstrip() + "\n"


def row(document: Document) -> list[str]:
    truth = document["truth"]
    known = document["learnable"]
    true = f"{truth['share']:.1%}" + (f" ± {2 * truth['error']:.1%}" if truth["error"] else "")
    width = document["median_width"]
    return [
        document["project"],
        document["strategy"],
        str(document["replays"]),
        f"{document['votes']:,} ({document['control_votes']:,})",
        true if known else "any: both curves are flat",
        percent(document["covered"]) if known else "",
        f"{document['interval_below']['value']:.1%}" if known else "",
        f"{document['interval_above']['value']:.1%}" if known else "",
        f"{document['open_low']:.0%}, {document['open_high']:.0%}",
        "open" if width is None else f"{width:.0%}",
        *(
            percent(document[name]) if document[name] else "not measured"
            for name in ("claimed", "claimed_anywhere")
        ),
    ]


def right_row(document: Document) -> list[str]:
    right = document["right"]
    return [document["project"], f"{right['truth']:+.2%}", percent(right["covered"])]


def percent(share: Document) -> str:
    return f"{share['value']:.1%} ({share['low']:.1%} to {share['high']:.1%})"


def table(rows: list[list[str]]) -> Iterator[str]:
    head, *body = rows
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for cells in body:
        yield "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
