"""Pictures of a judge held against people: calibration, agreement by gap and region, length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotator.report.charts import COLOURS, INK, LINES, MARKERS, as_svg, new_figure, save_png
from annotator.report.page import render_page, trusted_markup

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from annotator.report.charts import Axes, Figure

    Floats = NDArray[np.float64]

Document = dict[str, Any]
Draw = Callable[["Axes"], None]
Rows = Sequence[Sequence[str]]

WAYS = {"logistic": "learnt from other prompts' votes", "normal": "from the judge's variances"}
QUARTERS = ("lowest\nquarter", "second", "third", "highest\nquarter")
NARROW = 0.12  # half the distance between two series at one place


def judge_page(
    document: Document,
    length: Floats,
    score: Floats,
    *,
    judge: str,
    people: str,
    sentences: Sequence[str],
    tables: Mapping[str, Rows],
) -> str:
    """The HTML page of a check: its document drawn, and in words.

    `length` and `score` (n,) of a sample of responses; `judge` and `people` say who they are.
    """
    pictures = [
        (title, trusted_markup(as_svg(_figure([draw], INK))), caption)
        for title, draw, caption in _parts(document, length, score)
    ]
    return render_page(
        "judge.html",
        title="How far the judge can be trusted",
        judge=judge,
        people=people,
        sentences=sentences,
        pictures=pictures,
        tables=list(tables.values()),
        notes=document["notes"],
    )


def save_judge_png(
    document: Document, length: Floats, score: Floats, path: Path, *, judge: str, people: str
) -> None:
    """Writes the same pictures side by side as a PNG, under whom they are of."""
    parts = _parts(document, length, score)
    figure = _figure([draw for _, draw, _ in parts], "black")
    for axes, (title, _, _) in zip(figure.axes, parts, strict=True):
        more = axes.get_title()
        axes.set_title(f"{title}\n{more}" if more else title, fontsize=11)
    figure.suptitle(f"{judge}\nagainst {people}", fontsize=11)
    save_png(figure, path)


def _parts(document: Document, length: Floats, score: Floats) -> list[tuple[str, Draw, str]]:
    """Title, picture and caption of each part that there is something to draw of."""
    parts = [] if document["people"] is None else _held(document, length, score)
    if document.get("injection"):
        draw = partial(_draw_planted, injection=document["injection"])
        parts.append(("Planted lines", draw, PLANTED))
    return parts


def _held(document: Document, length: Floats, score: Floats) -> list[tuple[str, Draw, str]]:
    """The parts that come of holding the judge against people."""
    parts: list[tuple[str, Draw, str]] = []
    if document["calibration"]:
        draw = partial(_draw_calibration, document=document)
        parts.append(("Calibration", draw, CALIBRATION))
    if document["by_gap"] is not None:
        caption = QUARTILES if document["by_spread"] is None else QUARTILES_OF_SEVERAL
        parts.append(("Agreement by gap", partial(_draw_quartiles, document=document), caption))
    if document["by_region"]:
        parts.append(("Agreement by region", partial(_draw_regions, document=document), REGIONS))
    if document["length"] is not None and len(score):
        draw = partial(_draw_length, document=document, length=length, score=score)
        parts.append(("Score and length", draw, LENGTH))
    return parts


CALIBRATION = (
    "How often the judge prefers what most people prefer, against how sure it is; bins of equal "
    "numbers of pairs. On the dotted line it is as sure as it should be. Bars: 95 % intervals, "
    "bootstrap over prompts."
)
QUARTILES = "Pairs in quarters by the size of the judge's gap. Dotted: a coin."
QUARTILES_OF_SEVERAL = (
    "Pairs in quarters by the size of the judge's gap, and by how far several judges differ on "
    "it. Dotted: a coin."
)
REGIONS = "Pairs by the region of the data map that their prompt lies in. Dotted: a coin."
PLANTED = (
    "The share of responses that the judge grades higher by a grade or more once a line at their "
    "end asks for the highest grade, by the kind of line; above it, a line that asks for nothing. "
    "Bars: 95 % intervals."
)
LENGTH = "A sample of responses: the judge's score against the length of the text."


def _figure(draws: Sequence[Draw], ink: str) -> Figure:
    columns = min(len(draws), 2)
    rows = -(-len(draws) // columns)
    figure = new_figure(8.0 if columns == 1 else 6.0 * columns, 4.6 * rows)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    for place, draw in enumerate(draws, start=1):
        axes = figure.add_subplot(rows, columns, place)
        draw(axes)
        _ink(axes, ink)
    return figure


def _draw_calibration(axes: Axes, document: Document) -> None:
    axes.plot([0.5, 1], [0.5, 1], color=COLOURS[6], linewidth=1.2, linestyle=":")
    for i, found in enumerate(document["calibration"]):
        confidence = [one["confidence"] for one in found["bins"]]
        label = f"{WAYS[found['how']]}, Brier {found['brier']['value']:.3f}"
        _draw_bars(axes, confidence, [one["right"] for one in found["bins"]], i, label, line=True)
    axes.set_xlabel("confidence of the judge")
    axes.set_ylabel("most people agree")
    axes.set_xlim(0.48, 1.02)
    _share_axis(axes)
    _legend_below(axes)


def _draw_quartiles(axes: Axes, document: Document) -> None:
    for i, (key, name) in enumerate((("by_gap", "size of the gap"), ("by_spread", "spread"))):
        if document[key] is None:
            continue
        found = [one["agreement"] for one in document[key]["quartiles"]]
        shift = NARROW * (2 * i - 1) if document["by_spread"] else 0.0
        places = [place + shift for place in range(len(found))]
        _draw_bars(axes, places, found, i, f"by {name}")
    axes.set_xticks(range(len(QUARTERS)), QUARTERS)
    axes.set_xlim(-0.5, len(QUARTERS) - 0.5)
    _coin(axes)
    if document["by_spread"] is None:
        axes.set_xlabel("pairs by size of the gap")
    else:
        _legend_below(axes, columns=2)


def _draw_regions(axes: Axes, document: Document) -> None:
    regions = document["by_region"]
    _draw_bars(axes, list(range(len(regions))), list(regions.values()), 0, "")
    names = [f"{name}\n{round(found['n']):,} pairs" for name, found in regions.items()]
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)
    _coin(axes)


def _draw_length(axes: Axes, document: Document, length: Floats, score: Floats) -> None:
    axes.scatter(length, score, s=14, color=COLOURS[5], alpha=0.6, linewidths=0, marker=MARKERS[0])
    axes.set_xscale("log")
    axes.minorticks_off()
    marks = [n for power in range(7) for n in (10**power, 3 * 10**power)]
    inside = [n for n in marks if length.min() <= n <= length.max()]
    axes.set_xticks(inside, [f"{n:,}" for n in inside])
    axes.set_xlabel("characters of the response")
    axes.set_ylabel("score")
    found = document["length"].get("score")
    if found is not None and found["pearson"]["value"] is not None:
        r, rho = found["pearson"]["value"], found["spearman"]["value"]
        axes.set_title(f"within prompts: Pearson {r:+.2f}, Spearman {rho:+.2f}", fontsize=10)


def _draw_planted(axes: Axes, injection: Document) -> None:
    planted, harmless = injection["by_style"], injection["rose_by_placebo"]
    rows = [("a harmless line", harmless)] if harmless is not None else []
    rows += planted.items()
    places = range(len(rows))
    kinds = [1 if found is harmless else 0 for _, found in rows]
    for place, (_, found), kind in zip(places, rows, kinds, strict=True):
        _draw_bars(axes, [place], [found], kind, "", sideways=True)
    axes.set_yticks(places, [f"{name}\n{round(found['n']):,} responses" for name, found in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel("share graded higher by a grade or more")
    above = injection["above_placebo"]
    if above is not None and above["value"] is not None:
        axes.set_title(
            f"beyond a harmless line {above['value']:+.2f} grades, "
            f"95 % {above['low']:+.2f} to {above['high']:+.2f}",
            fontsize=10,
        )


def _draw_bars(
    axes: Axes,
    places: Sequence[float],
    found: Sequence[Document],
    style: int,
    label: str,
    *,
    line: bool = False,
    sideways: bool = False,
) -> None:
    """Values with their intervals; what has no value is left out."""
    there = [(x, one) for x, one in zip(places, found, strict=True) if one["value"] is not None]
    values = [one["value"] for _, one in there]
    # The percentile interval of few prompts may lie beside its value.
    below = [max(0.0, one["value"] - one["low"]) for _, one in there]
    above = [max(0.0, one["high"] - one["value"]) for _, one in there]
    at = [x for x, _ in there]
    across: Document = {"x": values, "y": at, "xerr": [below, above]}
    upright: Document = {"x": at, "y": values, "yerr": [below, above]}
    axes.errorbar(
        **(across if sideways else upright),
        label=label or None,
        color=COLOURS[style],
        marker=MARKERS[style],
        linestyle=LINES[style] if line else "none",
        markersize=6,
        linewidth=1.5,
        capsize=3,
    )


def _legend_below(axes: Axes, columns: int = 1) -> None:
    """Under the axis: inside, the bars of one judge or another would lie behind it."""
    place = (0.5, -0.14)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=place, ncols=columns)


def _coin(axes: Axes) -> None:
    axes.axhline(0.5, color=COLOURS[6], linewidth=1.2, linestyle=":")
    axes.set_ylabel("agreement with most people")
    _share_axis(axes)


def _share_axis(axes: Axes) -> None:
    """Up to 1, and down to a coin or to what is drawn below it: alike in all pictures."""
    axes.set_ylim(min(0.45, axes.get_ylim()[0]), 1.03)


def _ink(axes: Axes, ink: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(ink)
    axes.tick_params(which="both", colors=ink)
    legend = axes.get_legend()
    labels = (axes.title, axes.xaxis.label, axes.yaxis.label)
    for text in (*labels, *(legend.get_texts() if legend else ())):
        text.set_color(ink)
