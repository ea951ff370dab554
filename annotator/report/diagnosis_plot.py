"""A diagnosis to look at: confidence against variability, each label a point that can be opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from annotator.report.charts import (
    COLOURS,
    INK,
    MARKERS,
    as_svg,
    inked_axes,
    new_figure,
    save_png,
)
from annotator.report.map_plot import PAGE_BYTES, ShownPrompt, fitting_prompts
from annotator.report.page import render_page, trusted_markup

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from annotator.report.charts import Figure

PNG_POINTS = 4_000
PAGE_POINTS = 1_000
FIRST_OF_CLASS = 100  # drawn whatever the sample: what one looks for


@dataclass(frozen=True, eq=False)
class DiagnosisPicture:
    """What is drawn: arrays (n,) of labels, the first ones of each class, then others at random.

    A picture of fewer points has the first of these. `place` of each among all labels; `kind`
    positions in `counts`, class -> labels, drawn or not.
    `heading` what they are labels of; `sentence` whether anything could be told.
    """

    place: NDArray[np.int64]
    confidence: NDArray[np.float64]
    variability: NDArray[np.float64]
    kind: NDArray[np.int64]
    counts: dict[str, int]
    heading: str
    sentence: str

    @property
    def shown(self) -> str:
        """How many of the labels are drawn, in words."""
        n, of = len(self.place), sum(self.counts.values())
        if n == of:
            return f"all {n:,} labels"
        return f"{n:,} of {of:,} labels: the first {FIRST_OF_CLASS} of each class, others at random"

    def first(self, n: int) -> DiagnosisPicture:
        """The same with the first n labels alone."""
        return replace(
            self,
            place=self.place[:n],
            confidence=self.confidence[:n],
            variability=self.variability[:n],
            kind=self.kind[:n],
        )


@dataclass(frozen=True)
class ShownLabel:
    """A label as the page shows it. `texts` are its prompt and both responses, a first."""

    verdict: str
    reason: str
    kind: str
    texts: ShownPrompt


def save_diagnosis_png(picture: DiagnosisPicture, path: Path) -> int:
    """Writes a PNG of at most PNG_POINTS points; how many it has."""
    drawn = picture.first(PNG_POINTS)
    save_png(_figure(drawn, links=False), path)
    return len(drawn.place)


def diagnosis_page(picture: DiagnosisPicture, labels: Sequence[ShownLabel]) -> tuple[str, int]:
    """One HTML file whose points lead to the labels' texts, and how many labels it shows.

    `labels` are those of the picture, in its order. As many are taken as the page holds; long texts
    are cut, which is said.
    """
    taken, n_chars = fitting_prompts([label.texts for label in labels[:PAGE_POINTS]], PAGE_BYTES)
    drawn = picture.first(len(taken))
    shown = [
        replace(label, texts=texts)
        for label, texts in zip(labels[: len(taken)], taken, strict=True)
    ]
    titles = {
        f"#p{label.texts.prompt_id}": f"{label.kind}: {label.verdict}\n{label.reason}"
        for label in shown
    }
    html = render_page(
        "diagnosis.html",
        title="Diagnosis of labels",
        picture=drawn,
        svg=trusted_markup(as_svg(_figure(drawn, links=True), titles)),
        labels=shown,
        n_chars=n_chars,
    )
    return html, len(taken)


def _figure(picture: DiagnosisPicture, *, links: bool) -> Figure:
    figure = new_figure()
    axes = inked_axes(
        figure,
        "variability: standard deviation of P(label) between refits",
        "confidence: mean P(label) by refits without the label",
    )
    axes.set_title(f"{picture.heading}\n{picture.shown}", loc="left", fontsize=10, color=INK)
    axes.set_ylim(-0.02, 1.02)
    colours = (COLOURS[1], COLOURS[3], COLOURS[2], COLOURS[6])
    for code, (name, count) in enumerate(picture.counts.items()):
        here = picture.kind == code
        points = axes.scatter(
            picture.variability[here],
            picture.confidence[here],
            s=24 if len(here) <= 500 else 12,
            color=colours[code],
            marker=MARKERS[code],
            alpha=0.8,
            linewidths=0,
            label=f"{name} ({count:,})",
        )
        if links:
            points.set_urls([f"#p{place}" for place in picture.place[here].tolist()])
    figure.legend(loc="outside lower center", ncols=2, frameon=False, labelcolor=INK)
    return figure
