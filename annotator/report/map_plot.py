"""The data map to look at: a PNG, or one HTML file whose points lead to the prompts' texts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from html import escape
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotator.report.charts import (
    COLOURS,
    INK,
    MARKERS,
    as_svg,
    inked_axes,
    new_figure,
    save_png,
    square_root_x,
)
from annotator.report.page import render_page, trusted_markup

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from annotator.report.charts import Axes, Figure

PNG_POINTS = 4_000
PAGE_POINTS = 1_500
PAGE_BYTES = 3_500_000  # of texts, as they stand in the file; its other parts need under 1 MB
TEXT_CHARS = (3_000, 1_200, 500, 200)
TITLE_CHARS = 120

REGION_NAMES = {
    "high-mean-low-variance": "high mean, low variance",
    "high-variance": "high variance",
    "low-mean": "low mean",
}


@dataclass(frozen=True, eq=False)
class MapPicture:
    """What is drawn: the points, and what must be said of them.

    `prompt_ids`, `mean`, `variance` and `region`, positions in `counts`, are arrays (n,) of the
    prompts that have a place and are drawn.
    """

    prompt_ids: NDArray[np.int64]
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    region: NDArray[np.int64]
    counts: dict[str, int]  # region -> prompts, drawn or not
    where: dict[str, str]  # region -> where it lies, in words
    n_off_map: int
    variance_cut: float
    mean_cut: float
    scores: str  # what scored the responses, in words
    seed: int

    @property
    def n_on_map(self) -> int:
        return sum(self.counts.values())

    @property
    def shown(self) -> str:
        """How many of the prompts on the map are drawn, in words."""
        n = len(self.prompt_ids)
        if n == self.n_on_map:
            return f"all {n:,} prompts"
        return f"{n:,} of {self.n_on_map:,} prompts, drawn at random (seed {self.seed})"

    def only(self, positions: NDArray[np.int64]) -> MapPicture:
        """The same map with only these of its points drawn."""
        return replace(
            self,
            prompt_ids=self.prompt_ids[positions],
            mean=self.mean[positions],
            variance=self.variance[positions],
            region=self.region[positions],
        )

    def sample(self, n: int) -> MapPicture:
        """The same map with at most n points, in drawn order: any first part is a sample too."""
        import numpy as np

        return self.only(np.random.default_rng(self.seed).permutation(len(self.prompt_ids))[:n])


@dataclass(frozen=True)
class ShownResponse:
    """A response as the page shows it; `score` None: it has none."""

    score: float | None
    model: str | None
    text: str


@dataclass(frozen=True)
class ShownPrompt:
    """A prompt as the page shows it: its turns as (role, text), and its responses."""

    prompt_id: int
    turns: list[tuple[str, str]]
    responses: list[ShownResponse]


def save_map_png(picture: MapPicture, path: Path) -> int:
    """Writes the map as a PNG of at most PNG_POINTS points; how many it has."""
    drawn = picture.sample(PNG_POINTS)
    save_png(_figure(drawn, links=False), path)
    return len(drawn.prompt_ids)


@dataclass(frozen=True)
class MapPage:
    """The HTML of a map, and how many prompts it shows."""

    html: str
    n_points: int


def map_page(picture: MapPicture, prompts: Iterable[ShownPrompt]) -> MapPage:
    """The map as one HTML file: each point is a link to its prompt's texts further down.

    `prompts` gives the prompts of the picture's points, in their order. As many are taken as the
    page holds; the others are not drawn, which the page says. Long texts are cut, and each says
    by how much.
    """
    import numpy as np

    taken, n_chars = fitting_prompts(prompts)
    drawn = picture.only(np.arange(len(taken)))
    titles = {f"#p{p.prompt_id}": _title(p, drawn, i) for i, p in enumerate(taken)}
    figure = _figure(drawn, links=True)
    html = render_page(
        "map.html",
        title="Data map",
        picture=drawn,
        svg=trusted_markup(as_svg(figure, titles)),
        regions=_region_rows(drawn),
        articles=_in_reading_order(drawn, taken),
        n_chars=n_chars,
    )
    return MapPage(html, len(taken))


def fitting_prompts(
    prompts: Iterable[ShownPrompt], n_bytes: int = PAGE_BYTES
) -> tuple[list[ShownPrompt], int]:
    """The prompts that fit into n_bytes of escaped text, and the length to which texts are cut.

    That length is the first of TEXT_CHARS at which all fit. Where none is short enough, the last
    ones are left out; the first is always taken.
    """
    whole = list(islice(prompts, PAGE_POINTS))
    taken: list[ShownPrompt] = []
    for n_chars in TEXT_CHARS:
        taken = _first_that_fit((_cut_prompt(prompt, n_chars) for prompt in whole), n_bytes)
        if len(taken) == len(whole):
            break
    return taken, n_chars


def _first_that_fit(prompts: Iterable[ShownPrompt], n_bytes: int) -> list[ShownPrompt]:
    taken: list[ShownPrompt] = []
    for prompt in prompts:
        n_bytes -= _size(prompt)
        if n_bytes < 0 and taken:
            break
        taken.append(prompt)
    return taken


def _cut_prompt(prompt: ShownPrompt, n_chars: int) -> ShownPrompt:
    return replace(
        prompt,
        turns=[(role, _cut(text, n_chars)) for role, text in prompt.turns],
        responses=[replace(r, text=_cut(r.text, n_chars)) for r in prompt.responses],
    )


def _cut(text: str, n_chars: int) -> str:
    more = len(text) - n_chars
    return text if more <= 0 else f"{text[:n_chars]} … ({more:,} more characters)"


def _size(prompt: ShownPrompt) -> int:
    texts = [text for _, text in prompt.turns] + [r.text for r in prompt.responses]
    return sum(100 + len(escape(text).encode()) for text in texts)


def _title(prompt: ShownPrompt, drawn: MapPicture, i: int) -> str:
    text = " ".join(prompt.turns[-1][1].split()) if prompt.turns else ""
    start = text if len(text) <= TITLE_CHARS else f"{text[: TITLE_CHARS - 1]}…"
    return f"{start}\nmean {drawn.mean[i]:.3g}, variance {drawn.variance[i]:.3g}"


def _region_rows(picture: MapPicture) -> list[dict[str, object]]:
    """The regions with their counts and where they lie."""
    return [
        {"name": REGION_NAMES[region], "count": count, "where": picture.where[region]}
        for region, count in picture.counts.items()
    ]


def _in_reading_order(drawn: MapPicture, taken: list[ShownPrompt]) -> list[dict[str, object]]:
    """What the page says of each prompt: by region, and there by falling mean."""
    import numpy as np

    names = list(REGION_NAMES.values())
    return [
        {
            "prompt": taken[i],
            "region": names[drawn.region[i]],
            "mean": f"{drawn.mean[i]:.3g}",
            "variance": f"{drawn.variance[i]:.3g}",
        }
        for i in np.lexsort((-drawn.mean, drawn.region)).tolist()
    ]


def _figure(picture: MapPicture, *, links: bool) -> Figure:
    figure = new_figure()
    axes = inked_axes(
        figure,
        "variance of the scores of a prompt's responses (square-root scale)",
        "mean of the scores of a prompt's responses",
    )
    # Most prompts have a small variance: a plain scale would press two of the regions into a strip.
    square_root_x(axes, float(picture.variance.min()), float(picture.variance.max()))
    heading = f"Data map: {picture.scores}\n{picture.shown}"
    axes.set_title(heading, loc="left", fontsize=10, color=INK)
    for code, (region, count) in enumerate(picture.counts.items()):
        _draw_region(axes, picture, code, f"{REGION_NAMES[region]} ({count:,})", links=links)
    _draw_cuts(axes, picture)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, labelcolor=INK)
    return figure


def _draw_region(axes: Axes, picture: MapPicture, code: int, label: str, *, links: bool) -> None:
    here = picture.region == code
    points = axes.scatter(
        picture.variance[here],
        picture.mean[here],
        s=28 if len(here) <= 500 else 12,
        color=COLOURS[code],
        marker=MARKERS[code],
        alpha=0.9 if len(here) <= 500 else 0.7,
        linewidths=0,
        label=label,
    )
    if links:
        points.set_urls([f"#p{prompt_id}" for prompt_id in picture.prompt_ids[here].tolist()])


def _draw_cuts(axes: Axes, picture: MapPicture) -> None:
    """The first cut from top to bottom, the second only through what the first left over."""
    import numpy as np

    line: dict[str, Any] = {"color": INK, "linewidth": 1.0, "linestyle": "--", "alpha": 0.6}
    axes.axvline(picture.variance_cut, **line)
    if not np.isnan(picture.mean_cut):
        axes.hlines(picture.mean_cut, axes.get_xlim()[0], picture.variance_cut, **line)
