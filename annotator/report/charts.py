"""The only place that knows matplotlib: figures as PNG files or as SVG to stand in a page.

Colours are the eight of Okabe and Ito, which people with any colour vision can tell apart; every
series differs in its marker or line style as well. Figures for pages have a transparent ground and
strokes in `currentColor`, so that they follow the page into the dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    import numpy as np

    # Under these names for the modules that draw: they import nothing of matplotlib themselves.
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure as Figure
    from numpy.typing import NDArray

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6b6b6b", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":")
INK = "#123456"  # replaced by currentColor in SVG; no series has it


def new_figure(width: float = 8.0, height: float = 5.0) -> Figure:
    """An empty figure, inches, that no window system knows of."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def inked_axes(figure: Figure, x_label: str, y_label: str) -> Axes:
    """The figure's one pair of axes, open above and to the right, everything in INK."""
    axes = figure.subplots()
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.tick_params(color=INK, labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.grid(color=INK, alpha=0.12, linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def square_root_x(axes: Axes, smallest: float, largest: float) -> None:
    """An x axis from `smallest` >= 0 to `largest` whose distances are those of the square roots.

    The marks stand at even distances and say the values themselves.
    """
    import numpy as np
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    low, high = smallest**0.5, largest**0.5
    high = high if high > low else low + 1.0
    low = max(0.0, low - 0.1 * (high - low))
    margin = 0.03 * (high - low)
    axes.set_xscale("function", functions=(_signed_root, _signed_square))
    marks = np.asarray(MaxNLocator(7).tick_values(low, high))
    inside = marks[(marks >= 0.0) & (marks <= high + margin)]
    axes.xaxis.set_major_locator(FixedLocator((inside**2).tolist()))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.3g}"))
    left = low - margin
    axes.set_xlim(left * abs(left), (high + margin) ** 2)


def time_x(axes: Axes, times: list[datetime]) -> None:
    """An x axis of dates, with few marks: as long as there are two different times or more."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=2, maxticks=5)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    formatter = ConciseDateFormatter(locator, show_offset=False)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(formatter)
    if len(set(times)) > 1:
        axes.set_xlim(min(times), max(times))  # type: ignore[arg-type]


def whole_numbers(axes: Axes, which: str) -> None:
    """Marks at whole numbers with commas on the axis `which`, x or y."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(MaxNLocator(5, integer=True))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _signed_root(x: NDArray[np.float64]) -> NDArray[np.float64]:
    import numpy as np

    rooted: NDArray[np.float64] = np.sign(x) * np.sqrt(np.abs(x))
    return rooted


def _signed_square(x: NDArray[np.float64]) -> NDArray[np.float64]:
    import numpy as np

    squared: NDArray[np.float64] = x * np.abs(x)
    return squared


def save_png(figure: Figure, path: Path) -> None:
    """Writes the figure as a PNG on white ground, 150 dots an inch."""
    figure.savefig(path, format="png", dpi=150, facecolor="white")


def as_svg(figure: Figure, titles: Mapping[str, str] | None = None) -> str:
    """The figure as an <svg> element: text stays text, ink follows the page's colour.

    `titles` are what a pointer that rests on a link shows, by the link's target (`set_urls`).
    """
    return _titled(svg_element(figure, "annotator").replace(INK, "currentColor"), titles or {})


def svg_element(figure: Figure, salt: str) -> str:
    """The figure as an <svg> element as it is drawn. `salt` makes its ids differ from others'."""
    import matplotlib

    written = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    svg = written.getvalue()
    return svg[svg.index("<svg") :]


def _titled(svg: str, titles: Mapping[str, str]) -> str:
    """Links with their titles, and those to a place in the same page without a tab of their own."""

    def with_title(link: re.Match[str]) -> str:
        title = titles.get(link.group(1), "")
        return f'<a xlink:href="{link.group(1)}"><title>{escape(title)}</title>'

    return re.sub(r'<a xlink:href="(#[^"]*)"[^>]*>', with_title, svg)
