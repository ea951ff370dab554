"""Pictures of a simulation: quality against votes, gain over random, reliability."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotator.report.charts import COLOURS, INK, LINES, MARKERS, as_svg, new_figure, save_png
from annotator.report.page import render_page, trusted_markup

if TYPE_CHECKING:
    from annotator.report.charts import Axes, Figure

Document = dict[str, Any]

AXES = {
    "pair-accuracy": "pairs ordered right",
    "heldout-accuracy": "pairs ordered right, prompts never shown",
    "reserved-accuracy": "votes foretold, of those set aside",
    "rank-correlation": "Kendall's tau-b with people",
}
RANDOM = "random"
BAND = 0.15  # opacity
MIN_VOTES = 20  # of a point of the reliability curve; fewer say nothing


def savings_page(
    document: Document,
    *,
    measure: str,
    quality: Sequence[Sequence[str]],
    saved: Sequence[Sequence[str]],
    calibration: Sequence[Sequence[str]],
    sentences: Sequence[str],
) -> str:
    """The HTML page of a simulation: its document drawn, and its tables, rows of cells."""
    return render_page(
        "simulation.html",
        title=f"Simulation of {document['dataset']}",
        document=document,
        measure=measure,
        quality=quality,
        saved=saved,
        calibration=calibration,
        sentences=sentences,
        curves=trusted_markup(as_svg(_figure(document, [_draw_curves], INK))),
        gains=trusted_markup(as_svg(_figure(document, [_draw_gains], INK))),
        min_votes=MIN_VOTES,
        reliability=trusted_markup(as_svg(_figure(document, [_draw_reliability], INK))),
    )


def save_picture(document: Document, path: Path) -> None:
    """Writes curves, gains and reliability side by side as a PNG."""
    save_png(_figure(document, [_draw_curves, _draw_gains, _draw_reliability], "black"), path)


def _figure(document: Document, draws: Sequence[Any], ink: str) -> Figure:
    figure = new_figure(8.0 if len(draws) == 1 else 6.0 * len(draws), 5.0)
    for place, draw in enumerate(draws, start=1):
        axes = figure.add_subplot(1, len(draws), place)
        draw(axes, document)
        _ink(axes, ink)
    return figure


def _draw_curves(axes: Axes, document: Document) -> None:
    """A line and a band for each strategy; votes on a logarithmic scale."""
    _draw_bands(axes, document, document["strategies"])
    axes.set_ylabel(AXES[document["metric"]])
    for saved in list(document["saved"].values())[:1]:  # the target is the same for all
        axes.axhline(saved["target"], color=COLOURS[6], linewidth=0.8, linestyle=":")


def _draw_gains(axes: Axes, document: Document) -> None:
    """How far each strategy is above random with the same votes; the bands are paired."""
    _draw_bands(axes, document, document["difference"])
    axes.axhline(0.0, color=COLOURS[6], linewidth=0.8, linestyle=":")
    axes.set_ylabel(f"gain over {RANDOM}")


def _draw_bands(axes: Axes, document: Document, curves: Document) -> None:
    budgets, styles = document["budgets"], _styles(document)
    for name, curve in curves.items():
        axes.plot(budgets, curve["mean"], label=name, **styles[name])
        axes.fill_between(
            budgets,
            curve["low"],
            curve["high"],
            color=styles[name]["color"],
            alpha=BAND,
            linewidth=0,
        )
    axes.set_xscale("log")
    axes.set_xticks(budgets, [f"{budget:,}" for budget in budgets])
    axes.minorticks_off()
    axes.set_xlabel("votes charged")
    if curves:
        axes.legend(frameon=False)


def _draw_reliability(axes: Axes, document: Document) -> None:
    """Share of votes that went the way the model said, against its confidence."""
    axes.plot([0.5, 1], [0.5, 1], color=COLOURS[6], linewidth=0.8, linestyle=":")
    styles = _styles(document)
    for name, of in document["calibration"].items():
        bins = [entry for entry in of["reliability"] if entry["votes"] >= MIN_VOTES]
        confidence, right = [b["confidence"] for b in bins], [b["right"] for b in bins]
        axes.plot(confidence, right, label=name, **styles[name])
    axes.set_xlabel("confidence of the model")
    axes.set_ylabel("votes not seen that agree")
    axes.set_xlim(0.5, 1)
    axes.legend(frameon=False)


def _styles(document: Document) -> dict[str, dict[str, Any]]:
    """Strategy -> colour, marker and line; no two strategies have all three the same."""
    return {
        name: {
            "color": COLOURS[i % len(COLOURS)],
            "marker": MARKERS[i % len(MARKERS)],
            "linestyle": LINES[(i + i // len(COLOURS)) % len(LINES)],
            "markersize": 5,
            "linewidth": 1.5,
        }
        for i, name in enumerate(document["strategies"])
    }


def _ink(axes: Axes, ink: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(ink)
    axes.tick_params(colors=ink)
    legend = axes.get_legend()
    for text in (axes.xaxis.label, axes.yaxis.label, *(legend.get_texts() if legend else ())):
        text.set_color(ink)
