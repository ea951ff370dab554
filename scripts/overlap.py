#!/usr/bin/env python3
"""Overlap policies on labelled sets and synthetic worlds: docs/overlap/*.json and docs/overlap.md.

The figures of the page are made of the stored JSON and of nothing else; docs/overlap/reading.md,
which says what they mean, stands before them. Replays that are in the cache are not run again, so
the script may be stopped and started.

    python scripts/overlap.py ukpconvarg1.jsonl.gz --truth gold --seeds 10 --jobs 2
    python scripts/overlap.py ukpconvarg1.jsonl.gz pandalm_test.jsonl.gz --truth votes --jobs 2
    python scripts/overlap.py --synthetic --jobs 2
    python scripts/overlap.py --page-only
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from annotator import __version__
from annotator.config import DEFAULT_ENCODER
from annotator.labels.overlap import Overlap
from annotator.simulate.overlap import TRUTHS, OverlapPlan
from annotator.simulate.overlap_account import overlap_account
from annotator.simulate.overlap_simulation import OverlapRequest, simulate_overlap
from annotator.simulate.overlap_words import TRUTHS as TRUTH_WORDS
from annotator.simulate.overlap_words import (
    against_rows,
    overlap_lines,
    overlap_sentences,
    quality_rows,
)
from annotator.simulate.world import World, load_world
from tests.crowd_world import crowd_world

ROOT = Path(__file__).resolve().parents[1]
STORED = ROOT / "docs" / "overlap"
PAGE = ROOT / "docs" / "overlap.md"
OVERLAPS = (
    "fixed:1,fixed:2,fixed:3,fixed:4,fixed:5,until-agree:2-3,until-agree:2-5,"
    "expected-gain:1-5,expected-gain:1-5@panel"
)

# Worlds that differ in what a model could know before a vote, and in who votes: the same code, and
# nothing set for any of them.
SYNTHETIC: dict[str, dict[str, Any]] = {
    "crowd-plain": {},
    "crowd-nothing-to-learn": {"explained": 0.0, "own": 0.0, "pair": 1.8},
    "crowd-careless": {"skill": (4.0, 3.0)},
    "crowd-many-people": {"n_annotators": 400},
    "crowd-two-responses": {"responses": (2,), "n_prompts": 400},
    "crowd-close-calls": {"explained": 0.6, "own": 0.4, "pair": 0.2, "tie": 1.0},
}

Document = dict[str, Any]


def main() -> None:
    options = parse()
    if not options.page_only:
        for path in options.files:
            world = load_world([path], options.cache, encoder=options.encoder)
            run_world(world, options, {"encoder": options.encoder})
        for name, setting in SYNTHETIC.items() if options.synthetic else ():
            world = crowd_world(**{"n_prompts": 60, "name": name, **setting}).world
            run_world(world, options, {"setting": setting})
    PAGE.write_text(page(stored()), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="labelled sets, each by itself")
    parser.add_argument(
        "--synthetic", action="store_true", help="worlds with a known truth as well"
    )
    parser.add_argument("--page-only", action="store_true", help="make the page of what is stored")
    parser.add_argument("--overlap", default=OVERLAPS)
    parser.add_argument("--truth", choices=TRUTHS)
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument(
        "--growth", type=float, default=OverlapPlan.growth, help="of the votes, a batch's share"
    )
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--encoder", default=DEFAULT_ENCODER)
    parser.add_argument("--cache", type=Path, default=default_cache())
    options = parser.parse_args()
    if not (options.files or options.page_only or options.synthetic):
        parser.error("give labelled sets, --synthetic, or --page-only")
    return options


def default_cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "annotator" / "simulate"


def run_world(world: World, options: argparse.Namespace, source: Document) -> None:
    """One set by every policy, stored as soon as it is there."""
    overlaps = tuple(Overlap.parse(spec) for spec in options.overlap.split(","))
    request = OverlapRequest(
        overlaps, options.seeds, options.pairs, options.truth, options.jobs, options.growth
    )
    document = overlap_account(simulate_overlap(world, request, options.cache))
    document |= {"annotator": __version__, **source}
    STORED.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    (STORED / file_name(document)).write_text(text + "\n", encoding="utf-8")
    print("\n".join(overlap_lines(document)), flush=True)


def file_name(document: Document) -> str:
    """What a document is stored under: all that tells it from the others."""
    pairs, seeds = document["pairs"], document["seeds"]
    return f"{document['dataset']}.{document['truth']}.{pairs}-pairs.{seeds}-seeds.json"


# The page.


def stored() -> list[Document]:
    """What docs/overlap holds: labelled sets by name, then synthetic worlds."""
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in STORED.glob("*.json")]
    return sorted(
        documents,
        key=lambda d: ("setting" in d, d["dataset"], d["truth"], -d["pairs"], -d["seeds"]),
    )


def page(documents: list[Document]) -> str:
    lines = [
        "# How many votes a pair",
        "",
        "Generated by `scripts/overlap.py --page-only` from `docs/overlap/*.json`; not edited by "
        "hand. A fixed set of pairs, all of which need a consensus. Each vote is a real vote of a "
        "real annotator, drawn without replacement, in an order that the seed alone decides; in "
        "synthetic worlds the truth is known exactly. *Accuracy*: share of the pairs whose truth "
        "takes a side with the consensus on it, an even one counting half. The same votes are read "
        "in two ways: *majority* counts them, as people do today; *model* is the joint fit of "
        "annotators, pairs and responses; *panel*, for a policy that aims at it, is what its most "
        "people would say, votes cast counting as they are. Intervals are 95 %, by bootstrap over "
        "prompts and seeds. "
        "*Votes for it*: the votes that the policy, read by its aim, needs for the accuracy of "
        "the fixed number, as a share of its votes; *difference*: its accuracy less that of the "
        "fixed number, with the share of votes under *at*.",
        "",
    ]
    reading = STORED / "reading.md"
    if reading.exists():
        lines += [reading.read_text(encoding="utf-8").strip(), ""]
    if documents:
        lines += ["## In short", "", *table(summary(documents)), ""]
    for document in documents:
        lines += section(document)
    return "\n".join(lines).rstrip() + "\n"


def summary(documents: list[Document]) -> list[list[str]]:
    """Every comparison of a curve that has a goal, a row each."""
    rows = [
        ["set", "truth", "policy", "against", "votes for it", "at", "difference", "goal", "verdict"]
    ]
    for document in documents:
        head = against_rows(document)[0]
        for row in against_rows(document)[1:]:
            cells = dict(zip(head, row, strict=True))
            policy, against = cells[head[0]].split(", ")
            if not policy.startswith("expected-gain") or not cells["goal"]:
                continue
            rows.append(
                [
                    f"[{document['dataset']}](#{anchor(title(document))})",
                    TRUTH_WORDS[document["truth"]],
                    policy,
                    against,
                    f"{cells['votes for it']} [{cells['95 %']}]",
                    *(cells[name] for name in ("at", "difference", "goal", "verdict")),
                ]
            )
    return rows


def section(document: Document) -> list[str]:
    return [
        f"## {title(document)}",
        "",
        f"{document['pairs']:,} pairs of {document['prompts']:,} prompts, "
        f"{document['pairs_with_side']:,} of them with a truth that takes a side; "
        f"{document['annotators']:,} annotators; {document['seeds']} seeds; truth: "
        f"{TRUTH_WORDS[document['truth']]}; `expected-gain` asks in batches of "
        f"{100 * document['growth']:.0f} % of the votes so far; annotator {document['annotator']}."
        f"{made_with(document)}",
        "",
        *table(quality_rows(document)),
        "",
        *table(against_rows(document)),
        "",
        *(line for note in document["notes"] for line in (note, "")),
        *(line for sentence in overlap_sentences(document) for line in (sentence, "")),
    ]


def made_with(document: Document) -> str:
    """What a synthetic world was made with, where that is not the usual."""
    if "setting" not in document:
        return ""
    setting = ", ".join(f"{name} {value}" for name, value in document["setting"].items())
    return f" Made by tests/crowd_world.py with {setting or 'its defaults'}."


def title(document: Document) -> str:
    truth = TRUTH_WORDS[document["truth"]]
    return f"{document['dataset']}, {truth}, {document['pairs']:,} pairs, {document['seeds']} seeds"


def anchor(heading: str) -> str:
    """The anchor that readers of Markdown give a heading."""
    kept = "".join(c for c in heading.lower() if c.isalnum() or c in " -_")
    return kept.replace(" ", "-")


def table(rows: list[list[str]]) -> list[str]:
    first, *others = ["| " + " | ".join(row) + " |" for row in rows]
    return [first, "|" + "---|" * len(rows[0]), *others]


if __name__ == "__main__":
    main()
