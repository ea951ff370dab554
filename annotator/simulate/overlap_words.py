"""The document of a comparison of overlap policies in words: two tables, and plain sentences."""

from __future__ import annotations

from typing import Any

from annotator.labels.overlap import PANEL
from annotator.simulate.overlap import GOLD, MAJORITY, MODEL
from annotator.simulate.overlap_account import MISSED, OPEN, REACHED
from annotator.simulate.words import aligned, percent

Document = dict[str, Any]

CURVE_ROWS = 9  # of a curve's points in the table
TRUTHS = {GOLD: "gold labels", "votes": "majority of votes set aside"}
QUALITY_HEAD = (
    "policy", "votes a pair", "accuracy, majority", "accuracy, model", "accuracy, panel",
    "log loss, majority", "log loss, model",
)  # fmt: skip
AGAINST_HEAD = (
    "against", "its accuracy", "votes for it", "95 %", "at", "difference", "goal", "verdict",
)  # fmt: skip


def overlap_lines(document: Document) -> list[str]:
    """The report for a terminal."""
    pairs, seeds = document["pairs"], document["seeds"]
    head = (
        f"{document['dataset']}: {pairs:,} pairs of {document['prompts']:,} prompts, "
        f"{document['pairs_with_side']:,} of them with a truth that takes a side; "
        f"{document['annotators']:,} annotators; {seeds} seed{'' if seeds == 1 else 's'}"
    )
    notes = document["notes"]
    against = against_rows(document)
    return [
        head,
        f"truth: {TRUTHS[document['truth']]}",
        "",
        *aligned(quality_rows(document)),
        *(["", *aligned(against)] if len(against) > 1 else []),
        *(["", *notes] if notes else []),
        "",
        *overlap_sentences(document),
    ]


def quality_rows(document: Document) -> list[list[str]]:
    """Votes, accuracy and log loss of every policy; of a curve some points.

    What a panel would say is no probability of the truth, so it has no log loss.
    """
    rows = [list(QUALITY_HEAD)]
    for name, of in document["policies"].items():
        for i in _shown(len(of["votes"]["mean"])):
            rows.append(
                [
                    name,
                    f"{of['votes']['mean'][i]:.2f}",
                    *(
                        _with_half_width(of["accuracy"].get(reading), i)
                        for reading in (MAJORITY, MODEL, PANEL)
                    ),
                    *(f"{of['log_loss'][reading]['mean'][i]:.3f}" for reading in (MAJORITY, MODEL)),
                ]
            )
    return rows


def against_rows(document: Document) -> list[list[str]]:
    """Every policy that is not fixed against the fixed ones of `_main`, in either reading."""
    rows = [list(AGAINST_HEAD)]
    for one in _main(document):
        gap = one["difference"]
        rows.append(
            [
                f"{one['policy']}, {one['reference']} by {one['reading']}",
                f"{one['target']:.3f}",
                share_cell(one["votes_share"]["mean"]),
                share_interval(one),
                f"{percent(one['at_share'])} %",
                f"{gap['mean']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]",
                goal_cell(one),
                one["verdict"] or "",
            ]
        )
    return rows


def share_cell(share: float | None) -> str:
    """A share of a fixed policy's votes."""
    return "not reached" if share is None else f"{percent(share)} %"


def share_interval(one: Document) -> str:
    """The interval of the share of votes; an end beyond all votes there are is left open."""
    low, high = one["votes_share"]["low"], one["votes_share"]["high"]
    if low is None:
        return "not reached"
    return f"{percent(low)} or more" if high is None else f"{percent(low)} to {percent(high)}"


def goal_cell(one: Document) -> str:
    """What the difference should be with which share of the votes."""
    if one["margin"] is None:
        return ""
    bound = "≥ 0" if one["margin"] == 0 else f"≥ −{one['margin']:g}"
    return f"{bound} at {percent(one['share'])} %"


def overlap_sentences(document: Document) -> list[str]:
    """What it all means: of curves a sentence for each comparison; of others where there is no
    curve."""
    curves = {name for name, of in document["policies"].items() if len(of["votes"]["mean"]) > 1}
    main = _main(document)
    said = [one for one in main if one["policy"] in curves] or main
    return [_sentence(one, document) for one in said] or [_plain_sentence(document)]


def _main(document: Document) -> list[Document]:
    """The comparisons that have a goal; where none has, all."""
    comparisons: list[Document] = document["comparisons"]
    return [one for one in comparisons if one["margin"] is not None] or comparisons


def _sentence(one: Document, document: Document) -> str:
    share, gap = one["votes_share"], one["difference"]
    who = f"On {document['dataset']} `{one['policy']}`, read by the {one['read_by']},"
    reference = f"`{one['reference']}` read by {_reading(one)}"
    if share["mean"] is None:
        needs = f"does not reach the accuracy of {reference}, {one['target']:.3f}"
    else:
        needs = (
            f"needs {percent(share['mean'])} % of the votes of {reference} for the same accuracy, "
            f"{one['target']:.3f} (95 % interval {share_interval(one)} %)"
        )
    with_share = (
        f"with {percent(one['at_share'])} % of them it is {abs(100 * gap['mean']):.1f} points "
        f"{'above' if gap['mean'] >= 0 else 'below'} ({_points(gap['low'])} to "
        f"{_points(gap['high'])})"
    )
    return f"{who} {needs}; {with_share}{_verdict(one)}."


def _points(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def _verdict(one: Document) -> str:
    if one["margin"] is None or one["verdict"] is None:
        return ""
    goal = f"the goal, {goal_cell(one)} of the votes, is"
    said = {REACHED: "reached", MISSED: "missed", OPEN: "not shown: the interval holds both"}
    return f": {goal} {said[one['verdict']]}"


def _reading(one: Document) -> str:
    if one["reading"] == MAJORITY:
        return "majority"
    return "the same model" if one["read_by"] == MODEL else "the model"


def _plain_sentence(document: Document) -> str:
    name, of = next(iter(document["policies"].items()))
    return (
        f"On {document['dataset']} `{name}` spends {of['votes']['mean'][-1]:.2f} votes a pair and "
        f"is right on {100 * of['accuracy'][MODEL]['mean'][-1]:.1f} % of the pairs by the model, "
        f"{100 * of['accuracy'][MAJORITY]['mean'][-1]:.1f} % by majority."
    )


def _shown(n_points: int) -> list[int]:
    """Some of the points of a curve, its ends among them."""
    if n_points <= CURVE_ROWS:
        return list(range(n_points))
    return [round(i * (n_points - 1) / (CURVE_ROWS - 1)) for i in range(CURVE_ROWS)]


def _with_half_width(values: Document | None, i: int) -> str:
    if values is None:
        return ""
    half = (values["high"][i] - values["low"][i]) / 2
    return f"{values['mean'][i]:.3f} ±{half:.3f}"


def overlap_tables(document: Document) -> dict[str, Any]:
    """What the page says beside its picture."""
    return {
        "truth": TRUTHS[document["truth"]],
        "quality": quality_rows(document),
        "against": against_rows(document),
        "sentences": overlap_sentences(document),
    }
