"""The pictures of a project's page: savings curve, what was spent, data map, the judge's doubt.

Each comes as <svg> text, the first two also in a narrow form for a phone. What is told by colour is
told by shape or line as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from annotator.report.charts import (
    COLOURS,
    INK,
    LINES,
    MARKERS,
    inked_axes,
    new_figure,
    square_root_x,
    time_x,
    whole_numbers,
)
from annotator.report.page import trusted_markup
from annotator.report.page_svg import Spot, page_svg

if TYPE_CHECKING:
    from annotator.report.charts import Axes, Figure

Document = dict[str, Any]

WIDE, NARROW = (6.8, 3.5), (3.9, 3.1)  # inches
BAND = 0.18  # opacity
OURS, UNIFORM, LIMIT = 0, 1, 6  # of COLOURS
FEW_POINTS = 2
CURVES = {"ours": ("chosen by the strategy", OURS), "uniform": ("drawn at random", UNIFORM)}


def saving_charts(saving: Document) -> dict[str, str] | None:
    """Quality against votes, ours and a uniform choice, with bands; None without curves."""
    curve = saving.get("curve")
    if not curve or not any(curve.values()):
        return None

    def draw(size: tuple[float, float], name: str) -> str:
        figure = new_figure(*size)
        axes = inked_axes(figure, "votes", "\n".join(wrap(str(saving["quality_name"]), 26)))
        for place, (key, (label, colour)) in enumerate(CURVES.items()):
            _draw_curve(axes, curve[key], label, colour, place)
        whole_numbers(axes, "x")
        _legend_above(figure)
        return _svg(figure, name, "Savings curve", _saving_words(saving, curve))

    return {form: draw(size, f"savings-{form}") for form, size in FORMS.items()}


FORMS = {"wide": WIDE, "narrow": NARROW}


def _draw_curve(axes: Axes, points: Sequence[Document], label: str, colour: int, i: int) -> None:
    """A line with its band; the marker and the dashes differ as the colours do."""
    if not points:
        return
    if len(points) <= FEW_POINTS:
        _draw_few(axes, points, label, colour, i)
        return
    axes.plot(
        [point["votes"] for point in points],
        [point["quality"] for point in points],
        color=COLOURS[colour],
        linestyle=LINES[i],
        marker=MARKERS[i],
        markersize=4 if len(points) < 40 else 0,
        linewidth=1.8,
        label=label,
    )
    banded = [p for p in points if p.get("low") is not None and p.get("high") is not None]
    axes.fill_between(
        [point["votes"] for point in banded],
        [point["low"] for point in banded],
        [point["high"] for point in banded],
        color=COLOURS[colour],
        alpha=BAND,
        linewidth=0,
    )


def _draw_few(axes: Axes, points: Sequence[Document], label: str, colour: int, i: int) -> None:
    """Points with their bars alone: a straight line between two of them is no learning curve."""
    shown = [point for point in points if point["votes"] > 0] or list(points)
    quality = [point["quality"] for point in shown]
    ends = [
        [abs(point["quality"] - _or(point.get(end), point["quality"])) for point in shown]
        for end in ("low", "high")
    ]
    axes.errorbar(
        [point["votes"] for point in shown],
        quality,
        yerr=ends,
        color=COLOURS[colour],
        marker=MARKERS[i],
        linestyle="none",
        markersize=6,
        linewidth=1.5,
        capsize=4,
        label=label,
    )


def _or(value: float | None, other: float) -> float:
    return other if value is None else value


def _saving_words(saving: Document, curve: Mapping[str, Sequence[Document]]) -> str:
    ends = [
        f"{label}: {points[-1]['quality']:.3g} after {points[-1]['votes']:,.0f} votes"
        for (label, _), points in zip(CURVES.values(), (curve[k] for k in CURVES), strict=True)
        if points
    ]
    return f"Line chart of {saving['quality_name']} against votes. {'; '.join(ends)}."


def burn_charts(ledger: Document) -> dict[str, str] | None:
    """Votes, and money where votes have a price, over time, with the caps; None before two."""
    burn = ledger["burn"]
    if len(burn) < 2:
        return None
    priced = _is_priced(ledger)

    cap = ledger["cap"] or {}
    parts = [("votes", "votes", cap.get("votes"))]
    if priced:
        parts.append(("amount", ledger["people"]["currency"] or "money", cap.get("cost")))

    def draw(form: str, size: tuple[float, float]) -> str:
        figure = new_figure(*size)
        _draw_burn(figure, burn, parts, upright=form == "narrow")
        return _svg(figure, f"burn-{form}", "Votes and money over time", _burn_words(ledger))

    sizes = {"wide": (6.8, 3.1), "narrow": (3.9, 4.8 if priced else 2.8)}
    return {form: draw(form, size) for form, size in sizes.items()}


def _is_priced(ledger: Document) -> bool:
    """Whether there is anything to draw of money: a sum that is known and not always nothing."""
    amounts = [point.get("amount") for point in ledger["burn"]]
    return all(amount is not None for amount in amounts) and bool(amounts[-1])


def _draw_burn(
    figure: Figure,
    burn: Sequence[Document],
    parts: Sequence[tuple[str, str, float | None]],
    *,
    upright: bool,
) -> None:
    times = [datetime.fromisoformat(point["at"]) for point in burn]
    shape = (len(parts), 1) if upright else (1, len(parts))
    for place, (key, label, cap) in enumerate(parts):
        axes = figure.add_subplot(*shape, place + 1)
        values = [point[key] for point in burn]
        axes.step(times, values, where="post", color=COLOURS[OURS], linewidth=1.8)  # type: ignore[arg-type]
        axes.fill_between(
            times,  # type: ignore[arg-type]
            values,
            step="post",
            color=COLOURS[OURS],
            alpha=BAND,
            linewidth=0,
        )
        time_x(axes, times)
        whole_numbers(axes, "y")
        axes.set_ylim(0, 1.12 * max(values[-1], cap or 0, 1e-9))
        axes.set_ylabel(label.replace("$", r"\$"))
        if cap:
            _draw_cap(axes, cap)
        _ink(axes)


def _draw_cap(axes: Axes, cap: float) -> None:
    axes.axhline(cap, color=COLOURS[UNIFORM], linewidth=1.6, linestyle="--")
    axes.text(
        0.01,
        cap,
        f"cap {cap:,.0f}",
        transform=axes.get_yaxis_transform(),
        va="bottom",
        fontsize=9,
        color=INK,
    )


def _burn_words(ledger: Document) -> str:
    burn, cap = ledger["burn"], ledger["cap"] or {}
    words = f"From {burn[0]['at'][:10]} to {burn[-1]['at'][:10]}: {burn[-1]['votes']:,} votes"
    if cap.get("votes"):
        words += f" of at most {cap['votes']:,}"
    return words + "."


def map_chart(found: Document, regions: Mapping[str, str], href: Mapping[int, str]) -> str:
    """The data map: a point for each prompt drawn, a link where `href` has its prompt.

    `found` as project_view gives it; `regions` are their names in words.
    """
    figure = new_figure(5.4, 4.0)
    axes = inked_axes(
        figure,
        "variance of the scores of a prompt's responses",
        "mean of their scores",
    )
    points = found["points"]
    square_root_x(axes, min(p["variance"] for p in points), max(p["variance"] for p in points))
    for code, region in enumerate(regions):
        of_it = [point for point in points if point["region"] == region]
        drawn = axes.scatter(
            [point["variance"] for point in of_it],
            [point["mean"] for point in of_it],
            s=30 if len(points) <= 300 else 11,
            color=COLOURS[code],
            marker=MARKERS[code],
            alpha=0.85,
            linewidths=0,
            clip_on=False,
        )
        drawn.set_urls([_url(point) for point in of_it])
    _draw_cuts(axes, found)
    spots = {_url(p): Spot(_point_words(p, regions), href.get(p["id"])) for p in points}
    words = (
        f"Scatter plot of {len(points):,} prompts, each a mark by its region: "
        + ", ".join(f"{regions[name]} {n:,}" for name, n in found["counts"].items())
        + "."
    )
    return trusted_markup(page_svg(figure, "map", "Data map", words, spots))


def _url(point: Document) -> str:
    return f"point:{point['id']}"


def _point_words(point: Document, regions: Mapping[str, str]) -> str:
    figures = f"mean {point['mean']:.3g}, variance {point['variance']:.3g}"
    return f"{point['start']}\n{regions[point['region']]}: {figures}"


def _draw_cuts(axes: Axes, found: Document) -> None:
    line: Document = {"color": INK, "linewidth": 1.0, "linestyle": "--", "alpha": 0.5}
    if found["variance_cut"] is None:
        return
    axes.axvline(found["variance_cut"], **line)
    if found["mean_cut"] is not None:
        axes.hlines(found["mean_cut"], axes.get_xlim()[0], found["variance_cut"], **line)


def calibration_chart(check: Document) -> str | None:
    """How often people side with the judge against how sure it is; None where nothing is known."""
    curves = [one for one in check["calibration"] if one["bins"]]
    if not curves:
        return None
    figure = new_figure(4.4, 3.3)
    axes = inked_axes(figure, "confidence of the judge", "people agree")
    axes.plot([0.5, 1], [0.5, 1], color=COLOURS[LIMIT], linewidth=1.2, linestyle=":")
    for i, curve in enumerate(curves):
        _draw_bins(axes, curve["bins"], HOW[curve["how"]], i)
    axes.set_xlim(0.48, 1.02)
    axes.set_ylim(min(0.35, axes.get_ylim()[0]), 1.03)
    if len(curves) > 1:
        _legend_above(figure)
    words = (
        "On the dotted line the judge is as sure as it should be. Bars are 95 % intervals. "
        + "; ".join(
            f"confidence {one['confidence']:.2f}: {one['right']['value']:.2f}"
            for one in curves[0]["bins"]
            if one["right"]["value"] is not None
        )
    )
    return _svg(figure, "calibration", "Calibration of the judge", words)


HOW = {"logistic": "learnt from votes", "normal": "judge's own variance"}


def _draw_bins(axes: Axes, bins: Sequence[Document], label: str, i: int) -> None:
    there = [one for one in bins if one["right"]["value"] is not None]
    right = [one["right"] for one in there]
    axes.errorbar(
        [one["confidence"] for one in there],
        [one["value"] for one in right],
        yerr=[
            [max(0.0, one["value"] - one["low"]) for one in right],
            [max(0.0, one["high"] - one["value"]) for one in right],
        ],
        color=COLOURS[i],
        marker=MARKERS[i],
        linestyle=LINES[i],
        label=label,
        markersize=5,
        linewidth=1.5,
        capsize=3,
    )


def _svg(figure: Figure, name: str, title: str, words: str) -> str:
    return trusted_markup(page_svg(figure, name, title, words))


def _legend_above(figure: Figure) -> None:
    figure.legend(loc="outside upper left", ncols=2, frameon=False, labelcolor=INK, fontsize=9)


def _ink(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(INK)
    axes.tick_params(which="both", colors=INK)
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.yaxis.label.set_color(INK)
