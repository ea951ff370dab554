"""A picture of the budget: quality against votes, ours and uniform, and spending over time."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotator.errors import AnnotatorError
from annotator.report.charts import COLOURS, LINES, MARKERS, new_figure, save_png, time_x

if TYPE_CHECKING:
    from annotator.report.charts import Axes

Document = dict[str, Any]

CURVES = {"ours": "chosen by the strategy", "uniform": "drawn at random"}
BAND = 0.18  # opacity
POINTS_MARKED = 40


def save_budget_png(document: Document, path: Path) -> None:
    """Writes savings curve and burn side by side, whichever of them there is.

    Raises AnnotatorError before the first votes, when there is neither.
    """
    curve, burn = document["saving"].get("curve"), document["ledger"]["burn"]
    draws = [_draw_curves] * bool(curve) + [_draw_burn] * (len(burn) > 1)
    if not draws:
        raise AnnotatorError(
            "there is nothing to draw: nobody has voted yet",
            expected="votes of people",
            todo="label a batch, then run `annotator sync`",
        )
    figure = new_figure(7.0 * len(draws), 4.5)
    for place, draw in enumerate(draws):
        draw(figure.add_subplot(1, len(draws), place + 1), document)
    save_png(figure, path)


def _draw_curves(axes: Axes, document: Document) -> None:
    saving = document["saving"]
    for i, (name, label) in enumerate(CURVES.items()):
        points = [point for point in saving["curve"][name] if point["quality"] is not None]
        votes = [point["votes"] for point in points]
        axes.plot(
            votes,
            [point["quality"] for point in points],
            color=COLOURS[i],
            linestyle=LINES[i],
            marker=MARKERS[i] if len(points) < POINTS_MARKED else "",
            label=label,
        )
        banded = [point for point in points if point["low"] is not None]
        axes.fill_between(
            [point["votes"] for point in banded],
            [point["low"] for point in banded],
            [point["high"] for point in banded],
            color=COLOURS[i],
            alpha=BAND,
            linewidth=0,
        )
    axes.set_xlabel("votes")
    axes.set_ylabel(saving["quality_name"])
    axes.legend(frameon=False)


def _draw_burn(axes: Axes, document: Document) -> None:
    """Money over time where it is known, else votes; the cap as a line."""
    ledger = document["ledger"]
    burn, cap = ledger["burn"], ledger["cap"] or {}
    priced = bool(burn[-1]["amount"])
    key, unit, most = (
        ("amount", ledger["people"]["currency"], cap.get("cost"))
        if priced
        else ("votes", "votes", cap.get("votes"))
    )
    times = [datetime.fromisoformat(point["at"]) for point in burn]
    axes.step(times, [point[key] for point in burn], where="post", color=COLOURS[0])  # type: ignore[arg-type]
    if most:
        axes.axhline(most, color=COLOURS[1], linestyle="--", label=f"cap {most:,.0f} {unit}")
        axes.legend(frameon=False, loc="lower right")
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"{unit} spent" if priced else "votes")
    time_x(axes, times)
