"""A picture of the people who label: agreement, skill, left share and more, dots with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotator.report.charts import COLOURS, INK, MARKERS, as_svg, new_figure, save_png
from annotator.report.page import render_page, trusted_markup

if TYPE_CHECKING:
    from annotator.report.charts import Axes, Figure

Document = dict[str, Any]
Rows = Sequence[Sequence[str]]

MOST_DRAWN = 40  # people; of more those with alarms first, then those with most votes
TITLE = "The people who label"
# Key of a person in the document, what is drawn, and where a line stands.
PANELS = (
    ("agreement", "agrees with others", None),
    ("skill", "skill", None),
    ("left", "presses left", 0.5),
    ("gold", "gold right", None),
    ("repeats", "same again", None),
)
CAPTION = (
    "Dots are shares, bars their 95 % intervals. Triangles: an alarm was raised on this figure. "
    "Dotted: one half for the left, where the lot puts it; the mean of all for agreement; the "
    "minimum for skill, gold and repeats."
)


def annotators_page(
    document: Document, sentences: Sequence[str], tables: Mapping[str, Rows]
) -> str:
    """The HTML page of an account: its document drawn, and in words."""
    people = _drawn(document)
    caption = CAPTION
    if len(people) < len(document["people"]):
        caption += f" Drawn: {len(people)} of {len(document['people']):,} people."
    return render_page(
        "annotators.html",
        title=TITLE,
        sentences=sentences,
        picture=trusted_markup(as_svg(_figure(document, people, INK))),
        caption=caption,
        tables=list(tables.values()),
        notes=document["notes"],
    )


def save_annotators_png(document: Document, path: Path) -> None:
    """Writes the same picture as a PNG."""
    people = _drawn(document)
    figure = _figure(document, people, "black")
    if len(people) < len(document["people"]):
        figure.suptitle(f"{len(people)} of {len(document['people']):,} people", fontsize=11)
    save_png(figure, path)


def _drawn(document: Document) -> list[Document]:
    people: list[Document] = sorted(document["people"], key=lambda one: not one["alarms"])
    return people[:MOST_DRAWN]


def _figure(document: Document, people: Sequence[Document], ink: str) -> Figure:
    panels = [
        (key, title, line)
        for key, title, line in PANELS
        if any(_share(one, key)["value"] is not None for one in people) or key == "left"
    ]
    figure = new_figure(2.2 + 2.4 * len(panels), 1.3 + 0.32 * len(people))
    # Subplots one by one rather than shared: the names stand at the first alone.
    for place, (key, title, line) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), place)
        _draw(axes, people, key)
        _line(axes, _line_of(document, key) if line is None else line)
        axes.set_title(title, fontsize=11)
        names = [_name(one) for one in people] if place == 1 else [""] * len(people)
        axes.set_yticks(range(len(people)), names)
        axes.set_ylim(len(people) - 0.5, -0.5)
        axes.set_xlim(-0.04, 1.04)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "50 %", "", "100 %"])
        _ink(axes, ink)
    return figure


def _share(person: Document, key: str) -> Document:
    found: Document = person["agreement"]["share"] if key == "agreement" else person[key]
    return found


def _line_of(document: Document, key: str) -> float | None:
    if key == "agreement":
        value: float | None = document["agreement"]["share"]["value"]
        return value
    return float(document["minimum"])


def _draw(axes: Axes, people: Sequence[Document], key: str) -> None:
    """A dot with its interval for everybody who has a value; a triangle where there is an alarm."""
    for alarmed in (False, True):
        there = [
            (place, _share(one, key))
            for place, one in enumerate(people)
            if _share(one, key)["value"] is not None and _is_alarmed(one, key) == alarmed
        ]
        values = [found["value"] for _, found in there]
        below = [max(0.0, found["value"] - found["low"]) for _, found in there]
        above = [max(0.0, found["high"] - found["value"]) for _, found in there]
        axes.errorbar(
            x=values,
            y=[place for place, _ in there],
            xerr=[below, above],
            color=COLOURS[1] if alarmed else COLOURS[0],
            marker=MARKERS[2] if alarmed else MARKERS[0],
            linestyle="none",
            markersize=6,
            linewidth=1.5,
            capsize=3,
        )


def _is_alarmed(person: Document, key: str) -> bool:
    kinds = ("left", "right") if key == "left" else (key,)
    return any(alarm["kind"] in kinds for alarm in person["alarms"])


def _line(axes: Axes, at: float | None) -> None:
    if at is not None:
        axes.axvline(at, color=COLOURS[6], linewidth=1.2, linestyle=":")


def _name(person: Document) -> str:
    """A name as it is: matplotlib reads what stands between dollar signs as mathematics."""
    name = str(person["name"]).replace("$", r"\$")
    return f"{name if len(name) <= 28 else name[:27] + '…'}  {person['votes']:,}"


def _ink(axes: Axes, ink: str) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines[["bottom"]].set_color(ink)
    axes.tick_params(which="both", colors=ink)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color=ink, alpha=0.12, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.title.set_color(ink)
