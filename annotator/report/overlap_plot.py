"""Pictures of a comparison of overlap policies: accuracy and log loss against votes a pair."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotator.report.charts import COLOURS, INK, LINES, MARKERS, as_svg, new_figure, save_png
from annotator.report.page import render_page, trusted_markup

if TYPE_CHECKING:
    from annotator.report.charts import Axes, Figure

Document = dict[str, Any]

BAND = 0.15  # opacity
MAJORITY, MODEL = "majority", "model"
AXES = {"accuracy": "consensus on the right side", "log_loss": "log loss of the consensus"}


def overlap_page(
    document: Document,
    *,
    truth: str,
    quality: Sequence[Sequence[str]],
    against: Sequence[Sequence[str]],
    sentences: Sequence[str],
) -> str:
    """The HTML page of a comparison: its document drawn, and its tables, rows of cells."""
    return render_page(
        "overlap.html",
        title=f"Overlap policies on {document['dataset']}",
        document=document,
        truth=truth,
        quality=quality,
        against=against,
        sentences=sentences,
        accuracy=trusted_markup(as_svg(_figure(document, ["accuracy"], INK))),
        log_loss=trusted_markup(as_svg(_figure(document, ["log_loss"], INK))),
    )


def save_overlap_picture(document: Document, path: Path) -> None:
    """Writes accuracy and log loss side by side as a PNG."""
    save_png(_figure(document, list(AXES), "black"), path)


def _figure(document: Document, measures: Sequence[str], ink: str) -> Figure:
    figure = new_figure(8.0 if len(measures) == 1 else 6.0 * len(measures), 5.0)
    for place, measure in enumerate(measures, start=1):
        axes = figure.add_subplot(1, len(measures), place)
        _draw(axes, document, measure)
        _ink(axes, ink)
    return figure


def _draw(axes: Axes, document: Document, measure: str) -> None:
    """Of both readings the fixed policies as a line; of the others curves with bands, or points."""
    fixed = {name: of for name, of in document["policies"].items() if name.startswith("fixed:")}
    others = {name: of for name, of in document["policies"].items() if name not in fixed}
    for i, reading in enumerate((MAJORITY, MODEL)):
        if fixed:
            _draw_line(
                axes, _joined(list(fixed.values()), measure, reading), f"fixed, {reading}", i
            )
    for i, (name, reading) in enumerate(_read(others, measure), start=2):
        of = others[name]
        curve = {"votes": of["votes"]["mean"], **of[measure][reading]}
        _draw_line(axes, curve, f"{name}, {reading}", i)
    axes.set_xlabel("votes a pair")
    axes.set_ylabel(AXES[measure])
    axes.legend(frameon=False)


def _read(others: Document, measure: str) -> list[tuple[str, str]]:
    """Of every policy the readings to draw: of points all, of a curve the one that it aims at.

    A curve asks where the model is in doubt, so that its votes alone are no consensus.
    """
    found = []
    for name, of in others.items():
        readings = list(of[measure])
        is_curve = len(of["votes"]["mean"]) > 1
        found += [(name, one) for one in (readings[-1:] if is_curve else readings)]
    return found


def _joined(fixed: Sequence[Document], measure: str, reading: str) -> Document:
    """The single points of the fixed policies as one line, fewest votes first."""
    ordered = sorted(fixed, key=lambda of: of["votes"]["mean"][0])
    return {
        "votes": [of["votes"]["mean"][0] for of in ordered],
        **{
            end: [of[measure][reading][end][0] for of in ordered] for end in ("mean", "low", "high")
        },
    }


def _draw_line(axes: Axes, curve: Document, label: str, i: int) -> None:
    """A line with markers and its band; a single point gets a bar for its interval."""
    colour = COLOURS[i % len(COLOURS)]
    style: dict[str, Any] = {
        "color": colour,
        "marker": MARKERS[i % len(MARKERS)],
        "markersize": 5,
        "linewidth": 1.5,
        "label": label,
    }
    if len(curve["votes"]) == 1:
        spread = [
            [curve["mean"][0] - curve["low"][0]],
            [curve["high"][0] - curve["mean"][0]],
        ]
        axes.errorbar(curve["votes"], curve["mean"], yerr=spread, **style, linestyle="none")
        return
    line = LINES[(i + i // len(COLOURS)) % len(LINES)]
    axes.plot(curve["votes"], curve["mean"], **style, linestyle=line)
    axes.fill_between(
        curve["votes"], curve["low"], curve["high"], color=colour, alpha=BAND, linewidth=0
    )


def _ink(axes: Axes, ink: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(ink)
    axes.tick_params(colors=ink)
    legend = axes.get_legend()
    for text in (axes.xaxis.label, axes.yaxis.label, *(legend.get_texts() if legend else ())):
        text.set_color(ink)
