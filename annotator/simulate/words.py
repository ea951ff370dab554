"""The document of a simulation in words: a table, and one plain sentence for each strategy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from annotator.simulate.savings import COSTS, NEITHER, SAVES

Document = dict[str, Any]

VOTES_ALONE = "votes alone"
WORTH_KNOWING = 0.15  # a saving that a lead would want to know of
SAVED_COLUMNS = ("at equal quality", "votes", "random", "saved", "95 %")
MEASURES = {
    "pair-accuracy": "share of all pairs with a human majority that the model orders right",
    "heldout-accuracy": "share of pairs with a human majority ordered right, prompts never shown",
    "reserved-accuracy": "share of votes set aside beforehand, ties left out, that it foretells",
    "rank-correlation": "mean over prompts of Kendall's tau-b with people's scores",
}


def lines(document: Document) -> list[str]:
    """The report for a terminal."""
    head = (
        f"{document['dataset']}: {document['votes']:,} votes on {document['pairs']:,} pairs of "
        f"{document['prompts']:,} prompts; {document['seeds']} seed"
        f"{'s' if document['seeds'] != 1 else ''}, control share {percent(document['control'])} %"
    )
    return [
        head,
        f"{document['metric']}: {MEASURES[document['metric']]}",
        "",
        *aligned(quality_rows(document)),
        "",
        *aligned(saved_rows(document)),
        "",
        *aligned(calibration_rows(document)),
        *_section([*_legend(document), *document["notes"]]),
        "",
        *sentences(document),
    ]


def _legend(document: Document) -> list[str]:
    if not document["people_today"]:
        return []
    return [f"{VOTES_ALONE}: what people do today, random pairs and their votes as they are."]


def _section(notes: Sequence[str]) -> list[str]:
    return ["", *notes] if notes else []


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def quality_rows(document: Document) -> list[list[str]]:
    """Quality at each budget with half the width of its interval; people today as the last row."""
    budgets = document["budgets"]
    rows = [["votes", *(f"{budget:,}" for budget in budgets)]]
    curves = dict(document["strategies"])
    if today := document["people_today"]:
        at = [today["budgets"].index(budget) for budget in budgets]
        ends = ("mean", "low", "high")
        curves[VOTES_ALONE] = {end: [today[end][i] for i in at] for end in ends}
    for name, values in curves.items():
        cells = zip(values["mean"], values["low"], values["high"], strict=True)
        rows.append([name, *(f"{mean:.3f} ±{(high - low) / 2:.3f}" for mean, low, high in cells)])
    return rows


def saved_rows(document: Document) -> list[list[str]]:
    """Votes at equal quality, what they save, and the difference at the largest budget."""
    largest = f"{document['budgets'][-1]:,}"
    rows = [[*SAVED_COLUMNS, f"gain at {largest}", "verdict"]]
    for name, saved in document["saved"].items():
        gap = document["difference"][name]
        rows.append(
            [
                name,
                votes_cell(saved, document["budgets"]),
                f"{saved['reference_budget']:,}",
                saved_cell(saved),
                interval_cell(saved),
                f"{gap['mean'][-1]:+.3f} [{gap['low'][-1]:+.3f}, {gap['high'][-1]:+.3f}]",
                verdict_cell(document, saved),
            ]
        )
    return rows


def verdict_cell(document: Document, saved: Document) -> str:
    """The verdict, where there can be one."""
    return str(saved["verdict"]) if document["conclusive"] else "no verdict"


def votes_cell(saved: Document, budgets: Sequence[int]) -> str:
    """The votes that a strategy needs."""
    if saved["votes"] is None:
        return f"> {budgets[-1]:,}"
    return f"{'≤ ' if saved['at_least'] else ''}{saved['votes']:,}"


def saved_cell(saved: Document) -> str:
    """The share of votes saved; negative: it costs."""
    if saved["fraction"] is None:
        return "not reached"
    return f"{'≥ ' if saved['at_least'] else ''}{percent(saved['fraction'])} %"


def interval_cell(saved: Document) -> str:
    """The interval of the saving; an end beyond the budgets is left open."""
    low, high = saved["low"], saved["high"]
    if low is None and high is None:
        return "not reached"
    upper = f"{'≥ ' if saved['high_at_least'] else ''}{percent(high)}"
    return f"up to {upper}" if low is None else f"{percent(low)} to {upper}"


def calibration_rows(document: Document) -> list[list[str]]:
    """Brier score and log loss, on votes not seen, at the largest budget."""
    rows = [["on votes not seen", "Brier", "log loss"]]
    for name, values in document["calibration"].items():
        cells = (values["brier"][-1], values["log_loss"][-1])
        rows.append([name, *("none left" if cell is None else f"{cell:.3f}" for cell in cells)])
    return rows


def sentences(document: Document) -> list[str]:
    """What it all means: a sentence for each strategy.

    Before them what random choice with the learner, and the strategies that save on that, save on
    people today.
    """
    today = document["saved_on_people_today"] or {}
    better = [name for name, saved in document["saved"].items() if saved["verdict"] == SAVES]
    said = [_today_sentence(name, document) for name in today if name in ("random", *better)]
    return [
        *filter(None, said),
        *(saved_sentence(name, document) for name in document["saved"]),
    ]


def saved_sentence(name: str, document: Document) -> str:
    """What a strategy saves on random choice with the same learner."""
    saved, where = document["saved"][name], f"On {document['dataset']}"
    random = f"{saved['reference_budget']:,}"
    if saved["verdict"] == SAVES:
        bound = "at least " if saved["at_least"] else ""
        return (
            f"{where} `{name}` needs {bound and 'at most '}{saved['votes']:,} votes where random "
            f"choice needs {random}: {bound}{percent(saved['fraction'])} % saved "
            f"(95 % interval {interval_cell(saved)} %)."
        )
    if saved["verdict"] == COSTS:
        return f"{where} `{name}` costs votes: {_cost(saved, document)}."
    if not document["conclusive"]:
        return f"{where} no verdict can be given on `{name}`{_open(saved, document)}."
    return (
        f"{where} there is no measurable difference between `{name}` and random choice"
        f"{_open(saved, document)}.{_next_step(saved)}"
    )


def _next_step(saved: Document) -> str:
    """What would tell more, where the interval leaves much open."""
    if saved["verdict"] != NEITHER or saved["high"] is None or saved["high"] < WORTH_KNOWING:
        return ""
    return " Too few to tell: more prompts, more seeds or smaller budgets would narrow it."


def _cost(saved: Document, document: Document) -> str:
    if saved["votes"] is not None:
        return (
            f"it needs {saved['votes']:,} where random choice needs "
            f"{saved['reference_budget']:,}{_interval_of_cost(saved)}"
        )
    overtaken = saved["overtaken"]
    return (
        f"what it reaches with {document['budgets'][-1]:,}, random choice reaches with "
        f"{overtaken:,}"
    )


def _interval_of_cost(saved: Document) -> str:
    more = percent(-saved["fraction"])
    if saved["low"] is None or saved["high"] is None:
        return f", {more} % more"
    return (
        f", {more} % more (95 % interval {percent(-saved['high'])} to {percent(-saved['low'])} %)"
    )


def _open(saved: Document, document: Document) -> str:
    low, high = saved["low"], saved["high"]
    if low is None and high is None:
        return ""
    beyond = (
        f"; {percent(high)} % is all that a smallest budget of {document['budgets'][0]:,} can show"
        if saved["high_at_least"]
        else ""
    )
    if low is None:
        most = "up to" if beyond else "at most"
        return f" (saved: {most} {percent(high)} %, and it may cost votes; 95 % interval{beyond})"
    return f" (saved: {percent(low)} to {percent(high)} %, 95 % interval{beyond})"


def _today_sentence(name: str, document: Document) -> str:
    saved = document["saved_on_people_today"][name]
    if saved["verdict"] != SAVES or saved["votes"] is None:
        return ""
    bound = "at least " if saved["at_least"] else ""
    return (
        f"Against what people do today (random pairs, votes used as they are, no model, so that an "
        f"unasked pair is a coin toss) `{name}` saves {bound}{percent(saved['fraction'])} %: "
        f"{saved['votes']:,} votes for {saved['reference_budget']:,}."
    )


def percent(share: float) -> str:
    """A share as a whole number of per cent, with a minus sign."""
    return f"{round(100 * share)}".replace("-", "−")


def tables(document: Document) -> dict[str, Any]:
    """What the page says beside its pictures."""
    return {
        "measure": MEASURES[document["metric"]],
        "quality": quality_rows(document),
        "saved": saved_rows(document),
        "calibration": calibration_rows(document),
        "sentences": sentences(document),
    }
