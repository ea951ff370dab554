"""A diagnosis in words: lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from annotator.candidates.catalog import Shown
from annotator.candidates.identity import prompt_text
from annotator.diagnose.account import CLASSES, CONTESTED, LIKELY_WRONG, LOW_IMPACT
from annotator.diagnose.methods import SURPRISE

WIDTH = 88
EXPLAINED = {
    LIKELY_WRONG: "a lone label against a confident rest",
    CONTESTED: "people split, or are expected to: a difference of opinion is no error",
    LOW_IMPACT: "everything else had foretold it",
}

Document = dict[str, Any]
Texts = Mapping[int, Shown]


def lines(document: Document, texts: Texts) -> Iterator[str]:
    """The report for a terminal; `texts` by the id of each response that is listed."""
    yield (
        f"labels  {document['labels']:,} {document['source']} on {document['pairs']:,} pairs of "
        f"{document['prompts']:,} prompts"
    )
    yield f"method  {document['method']}; scores: {document['scores']}"
    yield from (f"note    {note}" for note in document["notes"])
    yield ""
    yield sentence(document)
    if document["method"] != SURPRISE:
        yield from _section(f"most suspect by {document['method']}", "", document["ranked"], texts)
    for name in CLASSES[:3]:
        yield from _section(_heading(document, name), EXPLAINED[name], document[name], texts)


def sentence(document: Document) -> str:
    """Whether anything here tells good labels from bad ones."""
    found = document["foretold"]
    share = (
        f"{_percent(found['share'])} of the {found['labels']:,} labels that take a side "
        f"(95 % interval {_percent(found['low'])} to {_percent(found['high'])})"
    )
    if found["works"]:
        return f"Everything else foretells {share}; half would be chance."
    return (
        f"Everything else foretells {share}: not shown to be better than chance. No order of these "
        "labels is worth acting on, and none is called likely wrong."
    )


def _heading(document: Document, name: str) -> str:
    n = document["classes"][name]
    labels = f"{n:,} label{'' if n == 1 else 's'}"
    if name != CONTESTED:
        return f"{name}: {labels}"
    pairs = document["contested_pairs"]
    return f"{name}: {labels} on {pairs:,} pair{'' if pairs == 1 else 's'}"


def _section(heading: str, explained: str, rows: list[Document], texts: Texts) -> Iterator[str]:
    yield ""
    yield heading + (f" ({explained})" if explained else "")
    for place, row in enumerate(rows, start=1):
        yield ""
        yield f"{place:>3}  {verdict(row)}"
        yield f"     why     {row['reason']}"
        yield f"     prompt  {start_of(prompt_text(texts[row['a_id']].messages))}"
        for name in ("a", "b"):
            mark = "*" if row["label"] == name else " "
            yield f"   {mark} {name}       {start_of(texts[row[f'{name}_id']].text)}"


def verdict(row: Document) -> str:
    """Who said what, and how the pair's votes stand."""
    who = row["annotator"] or "the label"
    said = "calls it a tie" if row["label"] == "tie" else f"prefers {row['label']}"
    votes = row["votes"]
    if sum(votes.values()) == 1:
        return f"{who} {said}"
    ties = f", {votes['tie']} tied" if votes["tie"] else ""
    return f"{who} {said}; votes {votes['a']} for a, {votes['b']} for b{ties}"


def start_of(text: str, width: int = WIDTH) -> str:
    """The beginning of a text, on one line."""
    flat = " ".join(text.split())
    return flat if len(flat) <= width else f"{flat[: width - 1]}…"


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.1f} %"
