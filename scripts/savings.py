#!/usr/bin/env python3
"""Every strategy on every labelled set by every metric: docs/savings/*.json and docs/savings.md.

The figures of the page are made of the stored JSON and of nothing else; docs/savings/reading.md,
which says what they mean, stands before them. Replays that are in the cache are not run
again, so the script may be stopped and started.

    python scripts/savings.py ukpconvarg1.jsonl.gz pandalm_test.jsonl.gz --seeds 10 --jobs 2
    python scripts/savings.py --page-only
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from annotator import __version__
from annotator.config import DEFAULT_ENCODER
from annotator.simulate import SimulationError
from annotator.simulate.account import account
from annotator.simulate.simulation import METRICS, Request, simulate
from annotator.simulate.words import (
    MEASURES,
    interval_cell,
    saved_cell,
    sentences,
    verdict_cell,
    votes_cell,
)
from annotator.simulate.world import load_world
from strategies import STRATEGIES

ROOT = Path(__file__).resolve().parents[1]
STORED = ROOT / "docs" / "savings"
PAGE = ROOT / "docs" / "savings.md"
SMALLEST, LARGEST = 100, 6_400  # budgets double between these, up to half of the pairs

Document = dict[str, Any]


def main() -> None:
    options = parse()
    if not options.page_only:
        for path in options.files:
            run_set(path, options)
    PAGE.write_text(page(stored()), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="labelled sets, each by itself")
    parser.add_argument("--page-only", action="store_true", help="make the page of what is stored")
    parser.add_argument("--strategies", help="names with commas; default: all of ours")
    parser.add_argument("--metrics", default=",".join(METRICS))
    parser.add_argument("--budgets", help="numbers with commas; default: doubling from 100")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--scores", help="judges' scores in the files that the learner is told")
    parser.add_argument("--encoder", default=DEFAULT_ENCODER)
    parser.add_argument("--cache", type=Path, default=default_cache())
    options = parser.parse_args()
    if not options.files and not options.page_only:
        parser.error("give labelled sets, or --page-only")
    return options


def default_cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "annotator" / "simulate"


def run_set(path: Path, options: argparse.Namespace) -> None:
    """All metrics of one set, each stored as soon as it is there."""
    world = load_world([path], options.cache, encoder=options.encoder, judge=options.scores)
    names = options.strategies.split(",") if options.strategies else list(STRATEGIES)
    for metric in options.metrics.split(","):
        request = Request(tuple(names), (), options.seeds, metric, jobs=options.jobs)
        budgets = options.budgets and tuple(int(n) for n in options.budgets.split(","))
        request = replace(request, budgets=budgets or ladder(world.pool.n_pairs))
        try:
            document = account(simulate(world, request, options.cache))
        except SimulationError as error:
            print(f"{world.dataset}, {metric}: {error.found}", file=sys.stderr)
            continue
        document |= {"annotator": __version__, "encoder": options.encoder}
        STORED.mkdir(parents=True, exist_ok=True)
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
        (STORED / file_name(document)).write_text(text + "\n", encoding="utf-8")
        print("\n".join(sentences(document)), flush=True)


def file_name(document: Document) -> str:
    """What a document is stored under: all that tells it from the others."""
    told = ".judged" if document.get("judge") else ""
    largest, seeds = document["budgets"][-1], document["seeds"]
    return f"{document['dataset']}{told}.{document['metric']}.{largest}-votes.{seeds}-seeds.json"


def ladder(n_pairs: int) -> tuple[int, ...]:
    """Budgets that double, up to half of the pairs: beyond, what is left is what nobody wanted.

    Every pair is asked once before any is asked again, so with all pairs asked all strategies are
    the same.
    """
    budgets, budget = [], SMALLEST
    while budget <= min(LARGEST, n_pairs / 2):
        budgets.append(budget)
        budget *= 2
    return tuple(budgets) or (max(1, n_pairs // 4), max(2, n_pairs // 2))


# The page.


def stored() -> list[Document]:
    """What docs/savings holds, by set, then by metric."""
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in STORED.glob("*.json")]
    return sorted(
        documents, key=lambda d: (name_of_set(d), METRICS.index(d["metric"]), -d["seeds"])
    )


def name_of_set(document: Document) -> str:
    """The set, and whose scores of its responses the learner was told."""
    told = document.get("judge")
    return f"{document['dataset']} told {told}" if told else str(document["dataset"])


def page(documents: list[Document]) -> str:
    lines = [
        "# What the strategies save",
        "",
        "Generated by `scripts/savings.py --page-only` from `docs/savings/*.json`; not edited by "
        "hand. Each figure replays real votes of real annotators: a vote is drawn without "
        "replacement, control votes are charged, the learner is the same for all strategies. "
        "Quality is given as mean over seeds; *saved* compares votes at equal quality, what "
        "`random` reaches at its largest budget, with a 95 % interval by bootstrap over prompts "
        "and seeds. Nothing is extrapolated: *not reached* means that the strategy does not get "
        "there within the budgets, ≤ and ≥ that smaller budgets than were tried would show more. "
        "*Brier* and *log loss*: how well probabilities foretell votes that the model had not "
        "seen, at the largest budget; lower is better.",
        "",
    ]
    reading = STORED / "reading.md"
    if reading.exists():
        lines += [reading.read_text(encoding="utf-8").strip(), ""]
    lines += coverage(documents)
    for document in documents:
        lines += section(document)
    return "\n".join(lines).rstrip() + "\n"


def coverage(documents: list[Document]) -> list[str]:
    """What was measured and what was not: strategies and seeds by set and metric, with links."""
    metrics = [m for m in METRICS if any(d["metric"] == m for d in documents)]
    rows = [["set", *metrics]]
    for dataset in dict.fromkeys(name_of_set(document) for document in documents):
        cells = []
        for metric in metrics:
            of = [d for d in documents if (name_of_set(d), d["metric"]) == (dataset, metric)]
            cells.append(", ".join(covered(d) for d in of) or "not measured")
        rows.append([dataset, *cells])
    return ["## What was measured", "", *table(rows), ""]


def covered(document: Document) -> str:
    n, seeds = len(document["strategies"]), document["seeds"]
    votes = f"{document['budgets'][-1]:,} votes"
    return f"[{n} strategies, {votes}, {seeds} seeds](#{anchor(title(document))})"


def title(document: Document) -> str:
    votes = f"{document['budgets'][-1]:,} votes"
    return f"{name_of_set(document)}, {document['metric']}, {votes}, {document['seeds']} seeds"


def anchor(heading: str) -> str:
    """The anchor that readers of Markdown give a heading."""
    kept = "".join(c for c in heading.lower() if c.isalnum() or c in " -_")
    return kept.replace(" ", "-")


def section(document: Document) -> list[str]:
    lines = [
        f"## {title(document)}",
        "",
        f"{MEASURES[document['metric']].capitalize()}. {document['votes']:,} votes on "
        f"{document['pairs']:,} pairs of {document['prompts']:,} prompts, {document['seeds']} "
        f"seeds, encoder {document['encoder']}, annotator {document['annotator']}.",
        "",
        *table([head(document), *(row(name, document) for name in document["strategies"])]),
        "",
    ]
    if today := sentences_on_people_today(document):
        lines += [*today, ""]
    return [*lines, *(line for note in document["notes"] for line in (note, ""))]


def head(document: Document) -> list[str]:
    largest = f"{document['budgets'][-1]:,}"
    budgets = [f"{budget:,}" for budget in document["budgets"]]
    return [
        "strategy", *budgets, f"gain at {largest}", "votes", "saved", "95 %", "verdict",
        "Brier", "log loss",
    ]  # fmt: skip


def row(name: str, document: Document) -> list[str]:
    cells = [f"{mean:.3f}" for mean in document["strategies"][name]["mean"]]
    calibration = document["calibration"][name]
    cells = [f"`{name}`", *cells]
    if name in document["saved"]:
        saved, gap = document["saved"][name], document["difference"][name]
        gain = f"{gap['mean'][-1]:+.3f} [{gap['low'][-1]:+.3f}, {gap['high'][-1]:+.3f}]"
        votes = votes_cell(saved, document["budgets"])
        cells += [gain, votes, saved_cell(saved), interval_cell(saved)]
        cells.append(verdict_cell(document, saved))
    else:
        cells += [""] * 5
    last = (calibration["brier"][-1], calibration["log_loss"][-1])
    return [*cells, *("" if value is None else f"{value:.3f}" for value in last)]


def table(rows: list[list[str]]) -> list[str]:
    first, *others = ["| " + " | ".join(row) + " |" for row in rows]
    return [first, "|" + "---|" * len(rows[0]), *others]


def sentences_on_people_today(document: Document) -> list[str]:
    """The one about random pairs and the learner: what the model alone saves."""
    return [
        line for line in sentences(document) if "people do today" in line and "`random`" in line
    ]


if __name__ == "__main__":
    main()
