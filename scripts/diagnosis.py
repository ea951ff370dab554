#!/usr/bin/env python3
"""Planted errors, found or not: docs/diagnosis/*.json and docs/diagnosis.md.

Of each labelled set one label a pair is taken, the majority of its votes, ties left out. A tenth of
these labels is flipped, and every method of `annotator diagnose` ranks them all, and cleanlab does,
which is no part of annotator (pip install cleanlab scikit-learn). The page is made of the stored
JSON and of nothing else; docs/diagnosis/reading.md, which says what it means, stands before it.

    python scripts/diagnosis.py llmbar.jsonl.gz --scores 'llm:*' --scored-only --seeds 10
    python scripts/diagnosis.py --page-only
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from scipy.stats import rankdata
from scipy.stats import t as student

from annotator import __version__
from annotator.config import DEFAULT_ENCODER
from annotator.diagnose.account import ODDS
from annotator.diagnose.labels_of import Labelled, labels_of_data
from annotator.diagnose.methods import (
    CONFIDENCE,
    MAP_METHODS,
    METHODS,
    SURPRISE,
    VARIABILITY,
    Labels,
    confidence,
    foretell,
    map_suspicion,
    members_of,
    variability,
)
from annotator.diagnose.prepared import prepared_set

ROOT = Path(__file__).resolve().parents[1]
STORED = ROOT / "docs" / "diagnosis"
PAGE = ROOT / "docs" / "diagnosis.md"
FLIPPED = 0.1
AT = (0.05, 0.1)  # shares of the labels, at which precision is taken
FOLDS = 5
GROUPED, PLAIN = "cleanlab", "cleanlab, folds across prompts"
RIVALS = ("map-cosine", "map-cosine-prompt", GROUPED, PLAIN)
MEASURES = ("auc", "precision at 5 %", "precision at 10 %")

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
    parser.add_argument("--scores", help="judges' scores in the files")
    parser.add_argument(
        "--scored-only", action="store_true", help="only pairs with both responses scored"
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--encoder", default=DEFAULT_ENCODER)
    parser.add_argument("--cache", type=Path, default=default_cache())
    options = parser.parse_args()
    if not options.files and not options.page_only:
        parser.error("give labelled sets, or --page-only")
    return options


def default_cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "annotator" / "diagnose"


# Planting and finding.


def run_set(path: Path, options: argparse.Namespace) -> None:
    """All seeds of one set, stored when they are done."""
    with prepared_set([path], options.cache, encoder=options.encoder) as prepared:
        labelled = labels_of_data(prepared.db, prepared.path, prepared.encoder_id, options.scores)
    labels = one_label_a_pair(labelled.labels)
    if options.scored_only:
        known = ~np.isnan(labelled.score)
        labels = of_pairs(labels, known[labels.a] & known[labels.b])
    runs = []
    for seed in range(options.seeds):
        started = time.perf_counter()
        runs.append(planted(labelled, labels, seed))
        auc = {name: round(found["auc"], 3) for name, found in runs[-1]["methods"].items()}
        print(path.name, seed, f"{time.perf_counter() - started:.0f} s", auc, flush=True)
    prompts = labelled.features.prompt_of_response[labels.a]
    document = {
        "dataset": path.name.split(".")[0],
        "scores": options.scores,
        "scored_only": options.scored_only,
        "labels": len(labels),
        "prompts": len(np.unique(prompts)),
        "flipped": FLIPPED,
        "seeds": options.seeds,
        "encoder": options.encoder,
        "annotator": __version__,
        "runs": runs,
    }
    STORED.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    (STORED / file_name(document)).write_text(text + "\n", encoding="utf-8")


def file_name(document: Document) -> str:
    told = ".judged" if document["scores"] else ""
    only = ".scored-only" if document["scored_only"] else ""
    return f"{document['dataset']}{told}{only}.{document['seeds']}-seeds.json"


def one_label_a_pair(labels: Labels) -> Labels:
    """The majority of each pair's labels that take a side; pairs without one left out."""
    lead = np.bincount(labels.pair, labels.side, labels.n_pairs)
    kept = np.flatnonzero(lead)
    return Labels(
        a=labels.a[kept],
        b=labels.b[kept],
        pair=np.arange(len(kept)),
        grade=np.sign(lead[kept]).astype(np.int64),
        annotator=np.zeros(len(kept), dtype=np.int64),
        left_is_a=np.ones(len(kept), dtype=np.bool_),
    )


def of_pairs(labels: Labels, kept: np.ndarray) -> Labels:
    """The same of these pairs alone, where each has one label."""
    return replace(
        labels,
        a=labels.a[kept],
        b=labels.b[kept],
        pair=np.arange(int(kept.sum())),
        grade=labels.grade[kept],
        annotator=labels.annotator[kept],
        left_is_a=labels.left_is_a[kept],
    )


def planted(labelled: Labelled, clean: Labels, seed: int) -> Document:
    """What every method makes of the labels with a tenth of them flipped."""
    rng = np.random.default_rng(seed)
    n = len(clean)
    wrong = np.zeros(n, dtype=np.bool_)
    wrong[rng.permutation(n)[: round(FLIPPED * n)]] = True
    labels = clean.relabelled(np.where(wrong, -clean.grade, clean.grade))
    foretold = foretell(labelled.features, labels)
    members = members_of(foretold, labels, rng)
    prompts = labelled.features.prompt_of_response
    found = {
        SURPRISE: foretold.surprise(labels),
        CONFIDENCE: -confidence(members),
        VARIABILITY: variability(members),
        **{name: map_suspicion(name, labels, labelled.score, prompts) for name in MAP_METHODS},
    }
    flagged = {SURPRISE: found[SURPRISE] >= np.log(ODDS)}
    for name in (GROUPED, PLAIN):
        found[name], flagged[name] = cleanlab(labelled, labels, name, rng)
    return {
        "seed": seed,
        "methods": {name: measures(suspicion, wrong) for name, suspicion in found.items()},
        "flagged": {
            name: [int(chosen.sum()), int(wrong[chosen].sum())] for name, chosen in flagged.items()
        },
        "foretold": float(np.mean(foretold.rest.log_odds(labels) < 0.0)),
    }


def cleanlab(
    labelled: Labelled, labels: Labels, how: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """What cleanlab makes of cross-validated probabilities, as its users would have it.

    Logistic regression on the differences of the very features that the preference model has. Each
    pair is turned at random, so that both classes are there; without an intercept the model says
    the same of a pair and of its mirror image, and C = 2 is C = 1 on pairs and images. Returns the
    suspicion, and which labels it calls issues.
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, KFold, cross_val_predict

    features = labelled.features
    of_a, of_b = (np.hstack(list(features.rows(end).values())) for end in (labels.a, labels.b))
    turned = np.where(rng.random(len(labels)) < 0.5, -1, 1)
    x = (of_a - of_b) * turned[:, None]
    y = (labels.side * turned > 0).astype(np.int64)
    folds = (
        GroupKFold(FOLDS)
        if how == GROUPED
        else KFold(FOLDS, shuffle=True, random_state=int(rng.integers(2**31)))
    )
    probability = cross_val_predict(
        LogisticRegression(C=2.0, fit_intercept=False, max_iter=1000),
        x,
        y,
        groups=features.prompt_of_response[labels.a] if how == GROUPED else None,
        cv=folds,
        method="predict_proba",
    )
    quality = get_label_quality_scores(y, probability)
    return -quality, find_label_issues(y, probability, n_jobs=1)


def measures(suspicion: np.ndarray, wrong: np.ndarray) -> dict[str, float]:
    """Area under the ROC curve, and precision among the most suspect; equal ones in any order.

    Where a method cannot say, the label stands in the middle.
    """
    known = ~np.isnan(suspicion)
    middle = np.median(suspicion[known]) if known.any() else 0.0
    filled = np.where(known, suspicion, middle)
    n, n_wrong = len(wrong), int(wrong.sum())
    ranks = rankdata(filled)
    auc = (ranks[wrong].sum() - n_wrong * (n_wrong + 1) / 2) / (n_wrong * (n - n_wrong))
    found = {"auc": float(auc)}
    for share, name in zip(AT, MEASURES[1:], strict=True):
        found[name] = precision(filled, wrong, round(share * n))
    return found


def precision(suspicion: np.ndarray, wrong: np.ndarray, k: int) -> float:
    """The expected share of wrong ones among the k most suspect, ties broken at random."""
    cut = np.sort(suspicion)[-k]
    above, at = suspicion > cut, suspicion == cut
    return float((wrong[above].sum() + (k - above.sum()) * wrong[at].mean()) / k)


# The page.


def stored() -> list[Document]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(STORED.glob("*.json"))]


def page(documents: list[Document]) -> str:
    lines = [
        "# Planted errors, found or not",
        "",
        "Generated by `scripts/diagnosis.py --page-only` from `docs/diagnosis/*.json`; not edited "
        "by hand. One label a pair, the majority of its votes; "
        f"{100 * FLIPPED:.0f} % of the labels are flipped, others each time, and every method "
        "ranks all labels by how suspect they are. "
        "Figures are means over these draws with 95 % intervals (Student's t) of the mean: they "
        "hold for the set as it is and say nothing of other sets. *AUC*: the chance that a flipped "
        "label ranks above one that was not, 0.5 for a coin. *Precision at 5 %*: the share of "
        "flipped ones among the most suspect twentieth, 0.1 for a coin, at best 1; at 10 % alike. "
        "Labels that were wrong to begin with count as right ones, so no figure is too high for "
        "their sake. `map-cosine` is the published data-map correlation with the label as a "
        "one-hot annotation, `map-cosine-prompt` the same of a prompt's labels together. cleanlab "
        "is no part of annotator: version 2.9.0, label quality by self-confidence, from "
        "probabilities of a logistic regression on the same features in five folds, prompts kept "
        "whole or not.",
        "",
    ]
    reading = STORED / "reading.md"
    if reading.exists():
        lines += [reading.read_text(encoding="utf-8").strip(), ""]
    lines += ["## In short", "", *summary(documents), ""]
    for document in documents:
        lines += section(document)
    return "\n".join(lines).rstrip() + "\n"


def summary(documents: list[Document]) -> list[str]:
    """The default against the published cosine and cleanlab, set by set."""
    head = ["set", f"`{SURPRISE}`", *(f"less `{name}`" for name in RIVALS), "so"]
    rows = [head]
    for document in documents:
        cells = [title(document), interval(series(document, SURPRISE, "auc"))]
        cells += [signed(gap(document, name, "auc")) for name in RIVALS]
        rows.append([*cells, verdict(document)])
    words = "AUC, and by how much it is above that of the others; *so* is about all three measures."
    return [words, "", *table(rows)]


def verdict(document: Document) -> str:
    """What the figures allow to be said of the default."""
    if not any(above_chance(document, name) for name in names(document)):
        return "nothing beats chance here"
    if not above_chance(document, SURPRISE):
        return f"`{SURPRISE}` does not beat chance"
    said = []
    for measure in MEASURES:
        behind = [f"`{name}`" for name in RIVALS if bounds(gap(document, name, measure))[0] <= 0.0]
        if behind:
            said.append(f"by {measure} not shown to be above {', '.join(behind)}")
    if len(said) == len(MEASURES):
        return "; ".join(said)
    return "; ".join([f"above all four{' otherwise' if said else ' by every measure'}", *said])


def above_chance(document: Document, name: str) -> bool:
    return bool(bounds(series(document, name, "auc"))[0] > 0.5)


def section(document: Document) -> list[str]:
    rows = [["method", *MEASURES]]
    for name in names(document):
        cells = [interval(series(document, name, measure)) for measure in MEASURES]
        note = "" if above_chance(document, name) else " (not above chance)"
        rows.append([f"`{name}`", cells[0] + note, *cells[1:]])
    share = np.mean([run["foretold"] for run in document["runs"]])
    return [
        f"## {title(document)}",
        "",
        f"{document['labels']:,} labels on pairs of {document['prompts']:,} prompts, "
        f"{round(FLIPPED * document['labels']):,} of them flipped; {document['seeds']} draws; "
        f"encoder {document['encoder']}, annotator {document['annotator']}. Everything else "
        f"foretells {100 * share:.1f} % of the labels, flipped ones among them.",
        "",
        *table(rows),
        "",
        *flagged(document),
        "",
    ]


def flagged(document: Document) -> list[str]:
    """How many labels are called wrong outright, and how many of these were flipped."""
    rows = [["called wrong by", "labels", "of these flipped", "of all flipped"]]
    n_wrong = round(FLIPPED * document["labels"])
    for name, rule in ((SURPRISE, f", odds of {ODDS:g} to 1"), (GROUPED, ""), (PLAIN, "")):
        counts = np.array([run["flagged"][name] for run in document["runs"]], dtype=float)
        called, right = counts.mean(axis=0)
        share = f"{100 * right / called:.1f} %" if called else "none called"
        rows.append([f"`{name}`{rule}", f"{called:,.0f}", share, f"{100 * right / n_wrong:.1f} %"])
    return table(rows)


def names(document: Document) -> list[str]:
    return [*METHODS, GROUPED, PLAIN] if document["runs"] else []


def title(document: Document) -> str:
    if not document["scores"]:
        return str(document["dataset"])
    where = ", pairs with scores" if document["scored_only"] else ""
    return f"{document['dataset']} told {document['scores']}{where}"


def series(document: Document, name: str, measure: str) -> np.ndarray:
    return np.array([run["methods"][name][measure] for run in document["runs"]])


def gap(document: Document, rival: str, measure: str) -> np.ndarray:
    return series(document, SURPRISE, measure) - series(document, rival, measure)


def bounds(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean."""
    if len(values) < 2:
        return float("-inf"), float("inf")
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def interval(values: np.ndarray) -> str:
    low, high = bounds(values)
    return f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"


def signed(values: np.ndarray) -> str:
    low, high = bounds(values)
    return f"{values.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def table(rows: list[list[str]]) -> list[str]:
    first, *others = ["| " + " | ".join(row) + " |" for row in rows]
    return [first, "|" + "---|" * len(rows[0]), *others]


if __name__ == "__main__":
    main()
